"""`ichor evaluate`: a model, through its pipeline, on heads it was never trained on. Computes no figure itself."""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines import plots, statistics, user_data
from engines.catalogue import MODELS, load_model
from engines.evaluation import CaseFigures, SegmentationFigures, case_figures, segmentation_figures
from engines.expansion_crops import crop_place, cut
from engines.onnx_runtime import OnnxRuntime
from engines.segmentation import Segmenter
from engines.statistics import Interval, bootstrap
from ichor.arrays import Volume
from ichor.cli.labelled import head_volume, read_dicom
from ichor.cli.training import NETWORKS, say
from ichor.errors import ConfigError, IchorError, NotBuilt, Unreadable
from ichor.types import Stage
from phantoms.head import training_head
from pipelines import haematoma

ACCEPTANCE_FROM_SEED = 20_000
"""Phantoms of these seeds are never trained on and never looked at while training."""
LEAST_HEADS, LEAST_BLEEDS = 60, 200
GOAL_DICE, GOAL_WITHIN, GOAL_CLEAN, GOAL_AUC_BELOW_LAW, GOAL_LAW = 0.93, 0.9, 1 / 20, 0.05, 0.80
THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One scan with its truth: labels on the volume's grid; expansion as drawn or told, the law's probability if there is one."""

    key: str
    patient: str
    volume: Volume
    labels_zyx: npt.NDArray[np.integer]
    expands: bool | None
    law: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was said of one haematoma and what came of it."""

    key: str
    patient: str
    said: float
    came: bool
    law: float | None


def run(options: argparse.Namespace) -> int:
    """Write figures.json, page.txt and plots into ``--out``; on phantoms 1 when a goal is missed, else 0."""
    if options.name not in NETWORKS:
        raise NotBuilt(f"network {options.name!r}: not built in this version of Ichor (built: {', '.join(NETWORKS)})")
    own = options.data is not None
    models, name = _model(options)
    segmenter = load_model(name, folder=options.out / "engines", models=models).segmenter
    judge_path = models / f"{options.name}-expansion-{name.rsplit('-', 1)[1]}.onnx"
    judge = OnnxRuntime(judge_path, threads=2) if judge_path.exists() else None
    options.out.mkdir(parents=True, exist_ok=True)
    cases: list[CaseFigures] = []
    raw: list[CaseFigures] = []
    judged: list[Judged] = []
    unjudged = 0
    refused: dict[str, str] = {}
    for index, one in enumerate(_own(options) if own else _phantoms(options)):
        # Expansion needs more haematomas than overlap does heads: the further ones count for expansion alone.
        extra = not own and index >= options.heads
        if extra and (judge is None or len(judged) >= options.bleeds):
            break
        engine = _Remembering(segmenter)
        try:
            figures, mask = _through_the_pipeline(one, engine)
        except Unreadable as error:
            refused[one.key] = error.reason
            continue
        if not extra:
            cases.append(figures)
            raw.append(_figures(one, engine.probability >= THRESHOLD))
            say(_line(figures))
        if judge is not None and one.expands is not None:
            said = _judge(judge, one.volume, mask)
            if said is None:
                unjudged += 1
            else:
                judged.append(Judged(key=one.key, patient=one.patient, said=said, came=one.expands, law=one.law))
    if not cases:
        raise IchorError(f"no case could be measured ({len(refused)} refused)")
    told = _Evaluation(
        model=f"{name}, {segmenter.description}",
        data=f"{options.data.name}, split {options.split}" if own else f"phantoms of seeds from {ACCEPTANCE_FROM_SEED}",
        pipeline=segmentation_figures(cases),
        network=segmentation_figures(raw),
        expansion=_expansion(judged) if judged else None,
        unjudged=unjudged,
        refused=refused,
    )
    goals = {} if own else _goals(told)
    _write(told, cases, judged, goals, out=options.out)
    if options.card:
        _into_card(
            models / f"{name}.json", {**asdict(told.pipeline), "set": told.data, "network_alone": asdict(told.network)}
        )
        if told.expansion is not None:
            _into_card(judge_path.with_suffix(".json"), {**asdict(told.expansion), "set": told.data})
    return 0 if all(goals.values()) else 1


def _model(options: argparse.Namespace) -> tuple[Path, str]:
    folder = options.models or MODELS
    for suffix in ("own", "phantom"):
        if (folder / f"{options.name}-{suffix}.onnx").exists():
            return folder, f"{options.name}-{suffix}"
    raise ConfigError(f"--models {folder}: neither {options.name}-own.onnx nor {options.name}-phantom.onnx")


def _phantoms(options: argparse.Namespace) -> Iterator[Labelled]:
    """The first ``--heads`` as they come, then those with a haematoma; ends, should ever so few be judged."""
    for index in range(options.heads + 5 * options.bleeds):
        head = training_head(ACCEPTANCE_FROM_SEED + index)
        if index >= options.heads and head.expands is None:
            continue
        yield Labelled(
            key=str(head.seed),
            patient=str(head.seed),
            volume=head_volume(head),
            labels_zyx=head.mask_zyx,
            expands=head.expands,
            law=None if head.expands is None else head.expansion_probability,
        )


def _own(options: argparse.Namespace) -> Iterator[Labelled]:
    found = [c for c in user_data.find_cases(options.data) if options.split in (c.split, "all")]
    if not found:
        raise ConfigError(f"--split {options.split}: no case has it")
    for case in found:
        labelled = user_data.read_case(case, read_dicom=read_dicom)
        yield Labelled(
            key=case.name,
            patient=case.patient,
            volume=labelled.volume,
            labels_zyx=labelled.mask_zyx.astype(np.uint8),
            expands=case.expands,
            law=None,
        )


class _Remembering:
    """A segmenter that keeps its last answer, so that the bare network is measured without a second run."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self.name, self.sha256, self.description = segmenter.name, segmenter.sha256, segmenter.description
        self.probability: npt.NDArray[np.float32] = np.zeros((0, 0, 0), np.float32)

    def segment(self, volume: Volume) -> npt.NDArray[np.float32]:
        self.probability = self._segmenter.segment(volume)
        return self.probability


def _untimed(stage: Stage) -> AbstractContextManager[None]:  # noqa: ARG001 - the name is part of Timing
    return nullcontext()


def _through_the_pipeline(one: Labelled, engine: _Remembering) -> tuple[CaseFigures, npt.NDArray[np.bool_]]:
    """Figures of what a site would get: the pipeline's masks and its mesh volume."""
    engines: Mapping[str, Any] = dict.fromkeys(haematoma.PIPELINE.models, engine)
    findings = haematoma.PIPELINE.run({haematoma.ROLE: one.volume}, engines, _untimed)
    mask = np.zeros(one.labels_zyx.shape, bool)
    for group in findings.groups:
        if group.segmentation is not None:
            mask |= group.segmentation.mask_zyx > 0
    (volume_ml,) = (m.value for m in findings.measurements if m.name == "haematoma_volume")
    return _figures(one, mask, reported_ml=volume_ml), mask


def _figures(one: Labelled, mask: npt.NDArray[np.bool_], *, reported_ml: float | None = None) -> CaseFigures:
    dy, dx = one.volume.pixel_spacing
    return case_figures(
        mask, one.labels_zyx, voxel_ml=one.volume.slice_extents * dy * dx / 1000, key=one.key, patient=one.patient,
        reported_ml=reported_ml,
    )  # fmt: skip


def _judge(judge: OnnxRuntime, volume: Volume, mask: npt.NDArray[np.bool_]) -> float | None:
    place = crop_place(mask, spacing_yx_mm=volume.pixel_spacing)
    if place is None:
        return None
    crops = cut(volume.array_zyx, place, spacing_yx_mm=volume.pixel_spacing)
    logits = judge.run({"hu": crops})["logits"].astype(np.float64)
    return float((1 / (1 + np.exp(-logits))).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class _ExpansionFigures:
    haematomas: int
    expanded: int
    auc: Interval
    law_auc: Interval | None
    below_law: Interval | None
    brier: Interval
    intercept: float
    slope: float
    at_half: Mapping[str, Interval]
    calibration: Sequence[statistics.CalibrationBin]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluation:
    model: str
    data: str
    pipeline: SegmentationFigures
    network: SegmentationFigures
    expansion: _ExpansionFigures | None
    unjudged: int  # haematomas of known outcome that were not found, or in fewer than three slices
    refused: Mapping[str, str]


def _expansion(judged: Sequence[Judged]) -> _ExpansionFigures:
    said = np.array([one.said for one in judged])
    came = np.array([float(one.came) for one in judged])
    patients = [one.patient for one in judged]
    law = None if any(one.law is None for one in judged) else np.array([float(one.law or 0.0) for one in judged])

    def below(scores: Any, truth: Any, outcomes: Any) -> float:
        return statistics.auc(truth, outcomes) - statistics.auc(scores, outcomes)

    def at(name: str) -> Any:
        return lambda scores, outcomes: statistics.at_threshold(scores, outcomes, threshold=THRESHOLD)[name]

    intercept, slope = statistics.calibration_line(said, came)
    names = ("sensitivity", "specificity", "ppv", "npv", "accuracy")
    return _ExpansionFigures(
        haematomas=len(judged),
        expanded=int(came.sum()),
        auc=bootstrap(statistics.auc, said, came, patients=patients),
        law_auc=None if law is None else bootstrap(statistics.auc, law, came, patients=patients),
        below_law=None if law is None else bootstrap(below, said, law, came, patients=patients),
        brier=bootstrap(statistics.brier, said, came, patients=patients),
        intercept=intercept,
        slope=slope,
        at_half={name: bootstrap(at(name), said, came, patients=patients) for name in names},
        calibration=statistics.calibration(said, came),
    )


def _goals(told: _Evaluation) -> dict[str, bool]:
    """The acceptance on phantoms: each goal and whether it is met."""
    figures, expansion = told.pipeline, told.expansion
    law = None if expansion is None or expansion.law_auc is None else expansion.law_auc.value
    below = None if expansion is None or expansion.below_law is None else expansion.below_law.value
    return {
        f"at least {LEAST_HEADS} heads": figures.cases >= LEAST_HEADS,
        f"median Dice of >= 3 mL at least {GOAL_DICE}": figures.median_dice.value >= GOAL_DICE,
        f"volume within 10 % or 1 mL for {GOAL_WITHIN:.0%}": figures.within_share.value >= GOAL_WITHIN,
        "a haematoma in at most 1 of 20 heads without": figures.clean_called <= GOAL_CLEAN * figures.clean_cases,
        f"at least {LEAST_BLEEDS} haematomas judged": expansion is not None and expansion.haematomas >= LEAST_BLEEDS,
        f"AUC of the law at least {GOAL_LAW}": law is not None and law >= GOAL_LAW,
        f"AUC of expansion at most {GOAL_AUC_BELOW_LAW} below the law's": below is not None
        and below <= GOAL_AUC_BELOW_LAW,
    }


def _write(
    told: _Evaluation, cases: Sequence[CaseFigures], judged: Sequence[Judged], goals: Mapping[str, bool], *, out: Path
) -> None:
    figures = {
        **asdict(told),
        "goals": dict(goals),
        "cases": [asdict(case) for case in cases],
        "judged": [asdict(one) for one in judged],
    }
    (out / "figures.json").write_text(json.dumps(_finite(figures), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page = _page(told, goals)
    (out / "page.txt").write_text(page, encoding="utf-8")
    print(page, end="")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        _draw(told, cases, judged, out=out)
    except ImportError:
        say("no plots: they need the extra `train` (matplotlib)")


def _into_card(path: Path, figures: Mapping[str, Any]) -> None:
    card = json.loads(path.read_text(encoding="utf-8"))
    card["figures"] = _finite(dict(figures))
    path.write_text(json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _draw(told: _Evaluation, cases: Sequence[CaseFigures], judged: Sequence[Judged], *, out: Path) -> None:
    large = [case for case in cases if case.true_ml >= 3]
    if large:
        plots.bland_altman(
            [case.true_ml for case in large],
            [case.reported_ml for case in large],
            bias=told.pipeline.bias_ml,
            limits=(told.pipeline.lower_limit_ml, told.pipeline.upper_limit_ml),
            path=out / "volumes.png",
        )
    if told.expansion is not None:
        fpr, tpr, _ = statistics.roc(
            np.array([one.said for one in judged]), np.array([float(one.came) for one in judged])
        )
        plots.roc_curve(fpr, tpr, auc=told.expansion.auc, path=out / "expansion_roc.png")
        plots.calibration_curve(told.expansion.calibration, path=out / "expansion_calibration.png")


def _page(told: _Evaluation, goals: Mapping[str, bool]) -> str:
    lines = [f"{told.model}. RESEARCH, not for diagnosis", f"Data: {told.data}"]
    lines.append("Values with 95 % intervals (bootstrap, 2,000 draws of patients)")
    for title, figures in (
        ("Through the pipeline (what a site gets; mesh volume)", told.pipeline),
        ("Network alone (threshold 0.5, nothing removed; voxel volume)", told.network),
    ):
        lines += ["", f"{title}: {figures.cases} heads of {figures.patients} patients"]
        rows: list[tuple[str, object]] = [
            ("median Dice, heads with >= 3 mL", figures.median_dice),
            ("least Dice", f"{figures.least_dice:.3f}"),
            ("median IoU", figures.median_iou),
            ("median Dice, heads with less", figures.median_dice_small),
            ("volume bias, mL", figures.bias_ml),
            ("lower 95 % limit of agreement, mL", figures.lower_limit_ml),
            ("upper 95 % limit of agreement, mL", figures.upper_limit_ml),
            ("volume within 10 % or 1 mL", figures.within_share),
            ("lesions >= 3 mL found", figures.found_share),
            ("smaller lesions found", figures.small_found_share),
            ("heads without a haematoma that got one", f"{figures.clean_called} of {figures.clean_cases}"),
            ("made-up regions by mL", ", ".join(f"{size}: {n}" for size, n in figures.false_regions.items())),
        ]
        lines += [f"  {name:<42}{value}" for name, value in rows]
    if told.expansion is not None:
        one = told.expansion
        lines += [
            "",
            f"Expansion: {one.haematomas} haematomas, {one.expanded} expanded; {told.unjudged} more not judged",
        ]
        lines += [f"  {'AUC':<42}{one.auc}"]
        if one.law_auc is not None:
            lines += [f"  {'AUC of the law that drew them':<42}{one.law_auc}", f"  {'below it':<42}{one.below_law}"]
        lines += [f"  {'Brier score':<42}{one.brier}"]
        lines += [f"  {'calibration intercept, slope':<42}{one.intercept:.2f}, {one.slope:.2f}"]
        lines += [f"  {name + ' at 0.5':<42}{value}" for name, value in one.at_half.items()]
    if told.refused:
        lines += ["", f"Not measured: {len(told.refused)}"]
        lines += [f"  {key}: {reason}" for key, reason in list(told.refused.items())[:20]]
    if goals:
        lines += ["", "Goals", *(f"  {'met   ' if met else 'MISSED'} {goal}" for goal, met in goals.items())]
    return "\n".join(lines) + "\n"


def _line(figures: CaseFigures) -> str:
    dice = "-" if figures.dice is None else f"{figures.dice:.3f}"
    return f"{figures.key}: true {figures.true_ml:.1f} mL, reported {figures.reported_ml:.1f} mL, Dice {dice}"


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
