"""`ichor train`: joins `engines` with heads from `phantoms` or from a user's folder. Defines no network and no schedule."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from functools import partial
from typing import Any

from engines.cases import CasePool, CaseSource, TrainingCase
from ichor.errors import ConfigError, NotBuilt
from phantoms.head import training_head

NETWORKS = ("haematoma",)
VERSION = "1.0.0"
HELD_OUT_FROM_SEED = 10_000
HELD_OUT = 8
"""Phantoms of these seeds are looked at while training, never trained on; from 20,000 on nobody looks before acceptance."""


def run(options: argparse.Namespace) -> int:
    """Train; leaves a checkpoint, early looks, the exported model and its card in ``--out``."""
    if options.name not in NETWORKS:
        raise NotBuilt(f"network {options.name!r}: not built in this version of Ichor (built: {', '.join(NETWORKS)})")
    if options.steps is not None and options.minutes is not None:
        raise ConfigError("--steps and --minutes: one of them")
    return _segmentation(options)


def _segmentation(options: argparse.Namespace) -> int:
    from engines.delivery import deliver
    from engines.networks.umamba import DEMO, PAPER, PAPER_NNUNET, UMambaConfig
    from engines.training import PAPER_PROTOCOL, TrainingOptions, train, with_intensities_of

    sizes: dict[tuple[str, str], UMambaConfig] = {
        ("umamba", "demo"): DEMO,
        ("umamba", "paper"): PAPER,
        ("nnunet", "demo"): replace(DEMO, mamba="none"),
        ("nnunet", "paper"): PAPER_NNUNET,
    }
    network = sizes[options.architecture, options.config]
    heads = options.heads or 320
    if not 0 < heads <= HELD_OUT_FROM_SEED:
        raise ConfigError(f"--heads must be 1..{HELD_OUT_FROM_SEED}, not {heads}")
    seeds = [f"{seed:06d}" for seed in range(heads)]
    held_out = [f"{HELD_OUT_FROM_SEED + i:06d}" for i in range(HELD_OUT)]
    source: CaseSource = partial(phantom_case, fine=options.config == "paper")
    data = f"{heads} synthetic heads (seeds 0 to {heads - 1}); no image of a person"
    pool = CasePool(options.pool or options.out / "pool", source)
    pool.fill(seeds + held_out, processes=options.processes, report=say)
    cases, looked_at = [pool.load(key) for key in seeds], [pool.load(key) for key in held_out]

    protocol = options.protocol or "demo"
    settings: dict[str, Any] = dict(PAPER_PROTOCOL) if protocol == "paper" else {}
    if options.steps is not None or options.minutes is not None:
        settings["steps"] = options.steps
    if options.minutes is not None:
        settings["minutes"] = options.minutes
    if not network.packed:
        settings["small_patch_zyx"] = None
    result = train(
        cases,
        looked_at,
        options.out,
        options=TrainingOptions(
            seed=options.seed, network=with_intensities_of(network, cases), precision=options.precision,
            device=options.device, threads=options.threads, **settings,
        ),
        resume=options.resume,
        report=say,
    )  # fmt: skip
    path = deliver(
        result.checkpoint,
        options.out,
        name=model_name(options),
        version=VERSION,
        command=command(options),
        data=data,
    )
    say(f"{result.steps} steps, {result.minutes:.1f} min; {path} and its card")
    return 0


def phantom_case(key: str, *, fine: bool = False) -> TrainingCase:
    """The synthetic head of a seed as a training case; `fine` resamples to 0.5 x 0.5 x 5 mm."""
    head = training_head(int(key))
    case = TrainingCase(
        hu_zyx=head.hu_zyx,
        occupancy_zyx=head.occupancy_zyx,
        intracranial_zyx=head.brain_zyx,
        spacing_mm=head.spacing_mm,
    )
    if not fine:
        return case
    from engines.user_data import to_paper_voxels

    return to_paper_voxels(case, slice_positions_mm=head.grid.z_mm)


def model_name(options: argparse.Namespace) -> str:
    """What the model is called: stage, architecture where it is not the usual one, and what it has seen."""
    parts = [options.name]
    if options.stage == "expansion":
        parts.append("expansion")
    elif options.architecture != "umamba":
        parts.append(options.architecture)
    return "-".join([*parts, "phantom" if options.data is None else "own"])


def command(options: argparse.Namespace) -> str:
    """The command that repeats a training, without folders of this machine."""
    words = ["ichor", "train", options.name, "--stage", options.stage]
    for flag in ("architecture", "config", "protocol", "seed", "minutes", "steps", "heads", "precision"):
        value = getattr(options, flag)
        if value is not None:
            words += [f"--{flag}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join([*words, *(("--data", "DIR") if options.data else ()), "--out", "DIR"])


def say(line: str) -> None:
    """A line of progress, at once."""
    print(line, flush=True)
