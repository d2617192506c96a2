"""What `ichor evaluate` leaves: page, figures.json, plots, figures in the models' cards; and the goals. Measures nothing."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines import plots, statistics
from engines.evaluation import MEASURED_FROM_ML, CaseFigures, SegmentationFigures
from engines.expansion_evaluation import ExpansionFigures, Judged
from engines.growth_evaluation import GrowthFigures, PairFigures
from ichor.cli.training import say

LEAST_HEADS, LEAST_BLEEDS, LEAST_PAIRS = 60, 200, 20
GOAL_DICE, GOAL_WITHIN, GOAL_CLEAN, GOAL_AUC_BELOW_LAW, GOAL_LAW = 0.93, 0.9, 1 / 20, 0.05, 0.80
GOAL_ATTENTION, GOAL_TIMES_UNIFORM, GOAL_GROWTH, GOAL_REFUSED, GOAL_EMPTY = 0.70, 1.2, 0.9, 1 / 6, 1 / 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Figures of a model, or of two, on a set.

    Attributes
    ----------
    judge : that of expansion, or that there is none.
    unjudged : haematomas of known outcome that were not found, or in fewer than three slices.
    heads_refused : how many could not be measured beside those that overlap and volumes are of; they are in no figure.
    scans_refused : the same with the further ones that were to be judged for expansion.
    refused : these scans, and pairs, and why.
    """

    model: str
    judge: str
    data: str
    pipeline: SegmentationFigures
    network: SegmentationFigures
    expansion: ExpansionFigures | None
    unjudged: int
    heads_refused: int
    scans_refused: int
    growth: GrowthFigures | None
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the figures were made of, one by one."""

    cases: Sequence[CaseFigures]
    judged: Sequence[Judged]
    pairs: Sequence[PairFigures]


def goals_of(told: Evaluation) -> dict[str, bool]:
    """The acceptance on phantoms: each goal and whether it is met."""
    figures, expansion = told.pipeline, told.expansion
    law = None if expansion is None or expansion.law_auc is None else expansion.law_auc.value
    below = None if expansion is None or expansion.below_law is None else expansion.below_law.value
    attention = None if expansion is None else expansion.attention
    growth = told.growth
    return {
        f"at least {LEAST_HEADS} heads": figures.cases >= LEAST_HEADS,
        "at most 1 of 6 heads refused": told.heads_refused <= GOAL_REFUSED * (figures.cases + told.heads_refused),
        f"median Dice of >= 3 mL at least {GOAL_DICE}": figures.median_dice.value >= GOAL_DICE,
        f"volume within 10 % or 1 mL for {GOAL_WITHIN:.0%}": figures.within_share.value >= GOAL_WITHIN,
        "a haematoma in at most 1 of 20 heads without": figures.clean_called <= GOAL_CLEAN * figures.clean_cases,
        f"at least {LEAST_BLEEDS} haematomas judged": expansion is not None and expansion.haematomas >= LEAST_BLEEDS,
        f"AUC of the law at least {GOAL_LAW}": law is not None and law >= GOAL_LAW,
        f"AUC of expansion at most {GOAL_AUC_BELOW_LAW} below the law's": below is not None
        and below <= GOAL_AUC_BELOW_LAW,
        f"median share of attention on the haematoma at least {GOAL_ATTENTION}": attention is not None
        and attention.inside.value >= GOAL_ATTENTION,
        f"median of that over a uniform map's at least {GOAL_TIMES_UNIFORM}": attention is not None
        and attention.ratio.value >= GOAL_TIMES_UNIFORM,
        # Medians are of those that have a map: hardly any may be without.
        "at most 1 of 10 attention maps empty": attention is not None
        and attention.empty <= GOAL_EMPTY * (attention.maps + attention.empty),
        f"at least {LEAST_PAIRS} pairs": growth is not None and growth.pairs >= LEAST_PAIRS,
        f"growth within 10 % or 1 mL for {GOAL_GROWTH:.0%}": growth is not None
        and growth.within_share.value >= GOAL_GROWTH,
    }


def write(told: Evaluation, one_by_one: Measured, *, goals: Mapping[str, bool], out: Path) -> None:
    """Write page.txt, figures.json and plots into `out`; print the page."""
    figures = {
        **asdict(told),
        "goals": dict(goals),
        "cases": [asdict(case) for case in one_by_one.cases],
        "judged": [asdict(one) for one in one_by_one.judged],
        "pairs": [asdict(one) for one in one_by_one.pairs],
    }
    (out / "figures.json").write_text(json.dumps(_finite(figures), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page = _page(told, goals)
    (out / "page.txt").write_text(page, encoding="utf-8")
    print(page, end="")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        _draw(told, one_by_one, out=out)
    except ImportError:
        say("no plots: they need the extra `train` (matplotlib)")


def into_card(path: Path, figures: Mapping[str, Any]) -> None:
    card = json.loads(path.read_text(encoding="utf-8"))
    card["figures"] = _finite(dict(figures))
    path.write_text(json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _draw(told: Evaluation, one_by_one: Measured, *, out: Path) -> None:
    large = [case for case in one_by_one.cases if case.true_ml >= MEASURED_FROM_ML]
    if large:
        plots.bland_altman(
            [case.true_ml for case in large],
            [case.reported_ml for case in large],
            bias=told.pipeline.bias_ml,
            limits=(told.pipeline.lower_limit_ml, told.pipeline.upper_limit_ml),
            title=f"Volumes, {len(large)} heads",
            path=out / "volumes.png",
        )
    pairs = [(one.true_ml, one.told_ml) for one in one_by_one.pairs if one.told_ml is not None]
    if told.growth is not None and pairs:
        plots.bland_altman(
            [true for true, _ in pairs],
            [reported for _, reported in pairs],
            bias=told.growth.bias_ml,
            limits=(told.growth.lower_limit_ml, told.growth.upper_limit_ml),
            title=f"Growth, {len(pairs)} pairs",
            path=out / "growth.png",
        )
    if told.expansion is not None:
        judged = one_by_one.judged
        fpr, tpr, _ = statistics.roc(
            np.array([one.said for one in judged]), np.array([float(one.came) for one in judged])
        )
        plots.roc_curve(fpr, tpr, auc=told.expansion.auc, path=out / "expansion_roc.png")
        plots.calibration_curve(told.expansion.calibration, path=out / "expansion_calibration.png")
        shares = [one.attention for one in judged if one.attention is not None]
        plots.attention_shares(
            [share.inside for share in shares],
            [share.uniform for share in shares],
            goals=(GOAL_ATTENTION, GOAL_TIMES_UNIFORM),
            path=out / "expansion_attention.png",
        )


def _page(told: Evaluation, goals: Mapping[str, bool]) -> str:
    lines = [f"{told.model}. RESEARCH, not for diagnosis", f"Expansion: {told.judge}", f"Data: {told.data}"]
    lines.append("Values with 95 % intervals (bootstrap, 2,000 draws of patients)")
    beside = f" + {told.heads_refused} refused" if told.heads_refused else ""
    for title, figures in (
        ("Through the pipeline (what a site gets; mesh volume)", told.pipeline),
        ("Network alone (threshold 0.5, nothing removed; voxel volume)", told.network),
    ):
        lines += ["", f"{title}: {figures.cases} heads of {figures.patients} patients{beside}"]
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
        lines += [
            f"  {name:<42}{value}{beside if isinstance(value, statistics.Interval) else ''}" for name, value in rows
        ]
    lines += _of_expansion(told) + _of_growth(told)
    if told.refused:
        lines += ["", f"Not measured: {len(told.refused)}"]
        lines += [f"  {key}: {reason}" for key, reason in list(told.refused.items())[:20]]
    if goals:
        lines += ["", "Goals", *(f"  {'met   ' if met else 'MISSED'} {goal}" for goal, met in goals.items())]
    return "\n".join(lines) + "\n"


def _of_expansion(told: Evaluation) -> list[str]:
    one = told.expansion
    if one is None:
        return []
    rows: list[tuple[str, object]] = [("AUC", one.auc)]
    if one.law_auc is not None:
        rows += [("AUC of the law that drew them", one.law_auc), ("below it", one.below_law)]
    rows += [
        ("Brier score", one.brier),
        ("calibration intercept (right: 0)", one.intercept),
        ("calibration slope (right: 1)", one.slope),
        *((f"{name} at 0.5", value) for name, value in one.at_half.items()),
        ("median share of attention on it (+ 5 mm)", one.attention.inside),
        ("the same of a uniform map", one.attention.uniform),
        ("median of the one over the other", one.attention.ratio),
        ("maps that are empty, not counted", f"{one.attention.empty} of {one.haematomas}"),
    ]
    left_out = f"{told.unjudged} more not judged, {told.scans_refused} scans refused"
    title = f"Expansion: {one.haematomas} haematomas, {one.expanded} expanded; {left_out}"
    return ["", title, *(f"  {name:<42}{value}" for name, value in rows)]


def _of_growth(told: Evaluation) -> list[str]:
    one = told.growth
    if one is None:
        return []
    rows: list[tuple[str, object]] = [
        ("growth within 10 % or 1 mL", one.within_share),
        ("growth bias, mL", one.bias_ml),
        ("lower 95 % limit of agreement, mL", one.lower_limit_ml),
        ("upper 95 % limit of agreement, mL", one.upper_limit_ml),
        ("median absolute error, mL", one.median_error_ml),
        ("expansion by the rule told rightly", one.rule_share),
    ]
    title = f"Growth: {one.pairs} heads scanned twice, {one.expanded} expanded; {one.pairs - one.compared} not compared"
    return ["", title, *(f"  {name:<42}{value}" for name, value in rows)]


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
