"""Commands about networks, and the loading of those that serve: joins `engines` with heads from `phantoms`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engines.cases import TrainingCase
from engines.catalogue import MODELS, load_model, load_model_card
from engines.evaluation import CaseFigures, case_figures, median_dice, volume_bias_ml
from engines.segmentation import segment
from ichor.cli.folder import DataFolder
from ichor.errors import NotBuilt
from ichor.pipeline import Engine
from phantoms.head import training_head

log = logging.getLogger(__name__)

_NETWORKS = ("haematoma",)
# Seeds from 20,000 are never trained on (engines.training); these thirty are the acceptance set.
_ACCEPTANCE_SEEDS = range(20_000, 20_030)
_THRESHOLD = 0.5


def load_engines(names: Sequence[str], folder: Path) -> dict[str, Engine]:
    """Load each model, through its acceptance gate, into ``{name: engine}``.

    Raises
    ------
    CannotStart
        A model is missing or not the one that its card describes.
    """
    engines: dict[str, Engine] = {}
    for name in dict.fromkeys(names):
        loaded = load_model(name, folder=folder)
        if loaded.fallback:
            log.warning("model %s is served by the reference runtime: %s", name, loaded.fallback)
        log.info("model %s %s: %s", name, loaded.card.version, loaded.segmenter.description)
        engines[name] = loaded.segmenter
    return engines


def phantom_case(seed: int) -> TrainingCase:
    """A synthetic head as a training case."""
    head = training_head(seed)
    return TrainingCase(
        hu_zyx=head.hu_zyx,
        occupancy_zyx=head.occupancy_zyx,
        intracranial_zyx=head.brain_zyx,
        spacing_mm=head.spacing_mm,
    )


def train(name: str, *, out: Path, seed: int, minutes: float, steps: int | None, heads: int, resume: bool) -> int:
    """Train on synthetic heads; leaves a checkpoint, early looks, the exported model and its card in ``out``."""
    _check(name)
    from engines.delivery import deliver
    from engines.training import TrainingOptions
    from engines.training import train as run

    options = TrainingOptions(seed=seed, minutes=minutes, steps=steps, heads=heads)
    result = run(phantom_case, out, options=options, resume=resume, report=lambda line: print(line, flush=True))
    length = f"--minutes {minutes:g}" if steps is None else f"--steps {steps}"
    path = deliver(
        result.checkpoint,
        out,
        name=f"{name}-phantom",
        version="0.1.0",
        command=f"ichor train {name} --seed {seed} --heads {heads} {length} --out DIR",
        data=f"{heads} synthetic heads (seeds 0 to {heads - 1}), 1.0 mm in plane; no image of a person",
    )
    print(f"{result.steps} steps, {result.minutes:.1f} min; {path} and its card")
    return 0


def evaluate(name: str) -> int:
    """Raw network (threshold 0.5, nothing removed) on thirty heads it was never trained on."""
    _check(name)
    loaded = load_model(f"{name}-phantom", folder=Path("var/ichor/engines"))
    print(f"{loaded.card.name} {loaded.card.version}, {loaded.segmenter.description}. Synthetic heads. RESEARCH")
    print(f"{'seed':>6}{'truth mL':>10}{'found mL':>10}{'Dice':>7}")
    cases: list[CaseFigures] = []
    for seed in _ACCEPTANCE_SEEDS:
        head = training_head(seed)
        offsets = head.slice_positions_mm[:, [1, 0]] - head.slice_positions_mm[0, [1, 0]]
        spacing = (head.spacing_mm[1], head.spacing_mm[2])
        probability = segment(loaded.segmenter.runtime, head.hu_zyx, spacing_yx_mm=spacing, offsets_yx_mm=offsets)
        voxel_ml = head.grid.extents_mm() * spacing[0] * spacing[1] / 1000
        figures = case_figures(probability >= _THRESHOLD, head.mask_zyx, voxel_ml=voxel_ml)
        cases.append(figures)
        dice = "-" if figures.dice is None else f"{figures.dice:.2f}"
        print(f"{seed:>6}{figures.true_ml:>10.1f}{figures.predicted_ml:>10.1f}{dice:>7}", flush=True)
    bleeding = [c for c in cases if c.true_ml >= 3]
    clean = [c for c in cases if c.true_ml == 0]
    lesions = [lesion for c in cases for lesion in c.lesions if lesion.volume_ml >= 3]
    score, bias = median_dice(bleeding), volume_bias_ml(bleeding)
    print(f"median Dice, heads with >= 3 mL (n={len(bleeding)}): {score.value:.3f} [{score.low:.3f}, {score.high:.3f}]")
    print(f"volume bias: {bias.value:+.2f} mL [{bias.low:+.2f}, {bias.high:+.2f}]")
    print(f"bleeds >= 3 mL found: {sum(lesion.found for lesion in lesions)} of {len(lesions)}")
    wrong = sum(c.predicted_ml >= 0.1 for c in clean)
    print(f"heads without a bleed that got >= 0.1 mL: {wrong} of {len(clean)}")
    return 0 if np.isfinite(score.value) else 1


def engine_command(verb: str, folder: DataFolder) -> int:
    """``list`` the models; ``verify`` hashes and gate; ``build`` compiles and gates them ahead of serving."""
    names = sorted(path.stem for path in MODELS.glob("*.json"))
    ok = True
    for name in names:
        card = load_model_card(name)
        line = f"{name}  version {card.version}  sha256 {card.sha256[:16]}"
        if verb == "list":
            print(line)
            continue
        folder.prepare()
        loaded = load_model(name, folder=folder.engines)
        verdict = loaded.fallback or "gate passed"
        ok &= not loaded.fallback
        print(f"{line}  {loaded.segmenter.description}: {verdict}")
    return 0 if ok else 1


def _check(name: str) -> None:
    if name not in _NETWORKS:
        raise NotBuilt(f"network {name!r}: not built in this version of Ichor (built: {', '.join(_NETWORKS)})")
