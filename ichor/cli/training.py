"""`ichor train`: joins `engines` with heads from `phantoms` or from a user's folder. Defines no network and no schedule."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from engines import user_data
from engines.cases import CasePool, CaseSource, PooledCase, TrainingCase
from engines.user_data import UserCase
from ichor.cli.labelled import inside_skull, phantom_bleed, phantom_case, read_dicom, user_bleed
from ichor.errors import ConfigError, NotBuilt
from phantoms.pool import GENERATOR

NETWORKS = ("haematoma",)
VERSION = "1.0.0"
HEADS, BLEEDS = 320, 4000
HELD_OUT, HELD_OUT_BLEEDS = 8, 200
HELD_OUT_FROM_SEED = 10_000
"""Phantoms of these seeds are looked at while training, never trained on; from 20,000 on nobody looks before acceptance."""


def run(options: argparse.Namespace) -> int:
    """Train; leaves a checkpoint, early looks, the exported model and its card in ``--out``."""
    if options.name not in NETWORKS:
        raise NotBuilt(f"network {options.name!r}: not built in this version of Ichor (built: {', '.join(NETWORKS)})")
    if options.steps is not None and options.minutes is not None:
        raise ConfigError("--steps and --minutes: one of them")
    if options.heads is not None and not 0 < options.heads <= HELD_OUT_FROM_SEED:
        raise ConfigError(f"--heads must be 1..{HELD_OUT_FROM_SEED}, not {options.heads}")
    if options.data is not None and options.heads is not None:
        raise ConfigError("--heads and --data: one of them")
    if options.begin is not None and options.begin.resolve().parent == options.out.resolve():
        raise ConfigError("--from: this training's own checkpoint would take its place; another --out")
    # Hundreds of lines about what they do when a model is written.
    for name in ("onnx_ir", "onnxscript", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return _segmentation(options) if options.stage == "segmentation" else _expansion(options)


def _segmentation(options: argparse.Namespace) -> int:
    from engines.delivery import deliver
    from engines.networks.umamba import DEMO, PAPER, PAPER_NNUNET, UMambaConfig
    from engines.saved_run import intensities_begun_with
    from engines.training import PAPER_PROTOCOL, REFINEMENT, TrainingOptions, train, with_intensities_of

    sizes: dict[tuple[str, str], UMambaConfig] = {
        ("umamba", "demo"): DEMO,
        ("umamba", "paper"): PAPER,
        ("nnunet", "demo"): replace(DEMO, mamba="none"),
        ("nnunet", "paper"): PAPER_NNUNET,
    }
    network = sizes[options.architecture, options.config]
    if options.begin is not None:
        network = intensities_begun_with(options.begin, network)
    notes = _beginning(options, network)
    cases, looked_at, data = _cases(options)
    if options.begin is None:
        network = with_intensities_of(network, cases)
    settings = _settings(options, PAPER_PROTOCOL, refinement=REFINEMENT)
    if not network.packed:
        settings["small_patch_zyx"] = None
    result = train(
        cases,
        looked_at,
        options.out,
        options=TrainingOptions(network=network, **settings),
        resume=options.resume,
        begin=options.begin,
        report=say,
    )
    path = deliver(result.checkpoint, options.out, **_for_card(options, data, notes))
    say(f"{result.steps} steps, {result.minutes:.1f} min; {path} and its card")
    return 0


def _cases(options: argparse.Namespace) -> tuple[list[PooledCase], list[PooledCase], str]:
    """Prepared cases to train on and to look at meanwhile, and what they are, in a sentence."""
    paper = options.config == "paper"
    source: CaseSource
    if options.data is None:
        heads = options.heads or HEADS
        train = [f"{seed:06d}" for seed in range(heads)]
        held_out = [f"{HELD_OUT_FROM_SEED + i:06d}" for i in range(HELD_OUT)]
        source = partial(phantom_case, paper=paper)
        data = f"{heads} synthetic heads (generator {GENERATOR}, seeds 0 to {heads - 1}); no image of a person"
    else:
        found, data = _own(options)
        train, held_out = ([case.key for case in found if case.split == split] for split in ("train", "val"))
        source = partial(_prepared, {case.key: case for case in found}, paper=paper)
    pool = CasePool(pool_folder(options), source)
    pool.fill(train + held_out, processes=options.processes, report=say)
    return [pool.load(key) for key in train], [pool.load(key) for key in held_out[: 4 * HELD_OUT]], data


def _prepared(cases: dict[str, UserCase], key: str, *, paper: bool) -> TrainingCase:
    labelled = user_data.read_case(cases[key], read_dicom=read_dicom)
    grid: dict[str, Any] = {"pixel_mm": 0.5, "slice_mm": 5.0} if paper else {}
    return user_data.training_case(labelled, inside_zyx=inside_skull(labelled.volume), **grid)


def _expansion(options: argparse.Namespace) -> int:
    from engines import expansion_pool
    from engines.cases import make_missing
    from engines.expansion_delivery import deliver_expansion
    from engines.expansion_training import PAPER_PROTOCOL, REFINEMENT, ExpansionOptions, train_expansion
    from engines.networks import vit

    network = vit.PAPER if options.config == "paper" else vit.DEMO
    notes = _beginning(options, network)
    refinement = dict(REFINEMENT)
    source: expansion_pool.BleedSource
    if options.data is None:
        heads = options.heads or BLEEDS
        train = [f"{seed:06d}" for seed in range(heads)]
        held_out = [f"{HELD_OUT_FROM_SEED + i:06d}" for i in range(HELD_OUT_BLEEDS)]
        source = phantom_bleed
        data = f"haematomas of {heads} synthetic heads (generator {GENERATOR}, seeds 0 to {heads - 1}); no image of a person"
    else:
        found, data = _own(options)
        found = [case for case in found if case.expands is not None]
        train, held_out = ([case.key for case in found if case.split == split] for split in ("train", "val"))
        source = partial(user_bleed, {case.key: case for case in found})
        del refinement["density"]  # a phantom's scanner differs in density already; of a user's nobody knows
    folder = pool_folder(options)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {key: folder / f"{key}.npz" for key in (*train, *held_out)}
    make_missing(partial(expansion_pool.make, source), paths, options.processes, say)
    bleeds, looked_at = (
        [bleed for key in keys if (bleed := expansion_pool.read(paths[key])) is not None] for keys in (train, held_out)
    )
    say(f"{len(train) + len(held_out) - len(bleeds) - len(looked_at)} left out: fewer than three slices of haematoma")
    result = train_expansion(
        bleeds,
        looked_at,
        options.out,
        options=ExpansionOptions(network=network, **_settings(options, PAPER_PROTOCOL, refinement=refinement)),
        resume=options.resume,
        begin=options.begin,
        report=say,
    )
    path = deliver_expansion(result.checkpoint, options.out, **_for_card(options, data, notes))
    say(f"{result.steps} steps, {result.minutes:.1f} min; {path} and its card")
    return 0


def _for_card(options: argparse.Namespace, data: str, notes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": model_name(options),
        "version": VERSION,
        "command": command(options),
        "data": data,
        "notes": notes,
    }


def _own(options: argparse.Namespace) -> tuple[Sequence[UserCase], str]:
    found = user_data.find_cases(options.data, needed=("train", "val"))
    counts = user_data.counts(found)
    patients = len({case.patient for case in found if case.split == "train"})
    say(f"{options.data}: " + ", ".join(f"{n} to {split}" for split, n in counts.items()))
    return found, f"{counts['train']} labelled scans of {patients} patients, a user's own"


def pool_folder(options: argparse.Namespace) -> Path:
    """Where prepared cases lie: apart for all that one key would give other contents with."""
    parts = [f"pool-{GENERATOR}"]  # another generator draws other heads for the same seeds
    if options.stage == "expansion":
        parts.append("expansion")
    elif options.config == "paper":
        parts.append("paper")  # other voxels
    folder: Path = options.pool or options.out
    return folder / "-".join(parts)


def _settings(options: argparse.Namespace, paper: dict[str, Any], *, refinement: dict[str, Any]) -> dict[str, Any]:
    """What flags say, over the protocol's values."""
    protocol = options.protocol or ("demo" if options.data is None else "paper")
    settings: dict[str, Any] = dict(paper) if protocol == "paper" else {}
    if options.begin is not None and options.protocol is None:
        settings = dict(refinement)
    if options.steps is not None:
        settings["steps"] = options.steps
    if options.minutes is not None:
        settings |= {"minutes": options.minutes, "steps": None}
        settings.pop("epochs", None)
    for name in ("seed", "precision", "device", "threads"):
        settings[name] = getattr(options, name)
    return settings


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
    if options.begin is not None:
        name = f"checkpoint{'-expansion' if options.stage == 'expansion' else ''}.pt"
        words += ["--from", options.begin.name if options.begin.suffix == ".onnx" else f"FIRST/{name}"]
    return shlex.join([*words, *(("--data", "DIR") if options.data else ()), "--out", "DIR"])


def _beginning(options: argparse.Namespace, network: Any) -> tuple[str, ...]:
    """A note for the card: of what training the weights are that it begins with. Asked before anything long."""
    from engines.saved_run import told_of_beginning

    return () if options.begin is None else (told_of_beginning(options.begin, network),)


def say(line: str) -> None:
    """A line of progress, at once."""
    print(line, flush=True)
