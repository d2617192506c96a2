"""How well a judge of expansion judges, and whether it looks at the haematoma. Pure functions on arrays; judges nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from engines import statistics
from engines.statistics import Interval, bootstrap

Mask = npt.NDArray[np.bool_]

THRESHOLD = 0.5
NEAR_MM = 5.0


@dataclass(frozen=True, slots=True)
class AttentionShare:
    """Of one haematoma: the share of its attention map that lies on it or near it, and that of a uniform map.

    Attributes
    ----------
    inside : 0..1. uniform : the same of a map that is 1 all over the crops.
    """

    inside: float
    uniform: float

    @property
    def ratio(self) -> float:
        """How many times a uniform map's share; 0 where nothing of the haematoma lies in the crops."""
        return self.inside / self.uniform if self.uniform > 0 else 0.0


def attention_share(
    attention_zyx: npt.NDArray[np.float32], truth_zyx: Mask, *, crops_zyx: Mask, spacing_yx_mm: tuple[float, float]
) -> AttentionShare | None:
    """The share of the attention within `NEAR_MM` of the haematoma, in the plane of each slice; None of an empty map.

    A pixel is near when its centre lies at most so far from the centre of a pixel of the haematoma on the same slice;
    on a slice without one, nothing is.

    Parameters
    ----------
    attention_zyx : at least 0, 0 outside the crops.
    truth_zyx : the true haematoma.
    crops_zyx : what the judge saw.
    spacing_yx_mm : (between rows, between columns).
    """
    total = float(attention_zyx.sum(dtype=np.float64))
    if total <= 0:
        return None
    seen = np.flatnonzero(crops_zyx.any(axis=(1, 2)))
    inside, uniform = 0.0, 0
    for k in seen:
        if truth_zyx[k].any():
            near = ndimage.distance_transform_edt(~truth_zyx[k], sampling=spacing_yx_mm) <= NEAR_MM
            inside += float(attention_zyx[k][near].sum(dtype=np.float64))
            uniform += int(np.count_nonzero(near & crops_zyx[k]))
    return AttentionShare(inside=inside / total, uniform=uniform / int(np.count_nonzero(crops_zyx)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What was said of one haematoma and what came of it.

    Attributes
    ----------
    law : the probability that the outcome was drawn with, where there is one.
    attention : None where the map is empty.
    """

    key: str
    patient: str
    said: float
    came: bool
    law: float | None
    attention: AttentionShare | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFigures:
    """Medians over the haematomas that have a map; `empty` have none and count in neither."""

    maps: int
    empty: int
    inside: Interval
    uniform: Interval
    ratio: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpansionFigures:
    """A set of judged haematomas. `law_auc` and `below_law` (its AUC minus the judge's): where all have a law."""

    haematomas: int
    expanded: int
    auc: Interval
    law_auc: Interval | None
    below_law: Interval | None
    brier: Interval
    intercept: Interval
    slope: Interval
    at_half: Mapping[str, Interval]
    calibration: Sequence[statistics.CalibrationBin]
    attention: AttentionFigures


def expansion_figures(judged: Sequence[Judged]) -> ExpansionFigures:
    """Figures of a set, intervals by patient."""
    said = np.array([one.said for one in judged])
    came = np.array([float(one.came) for one in judged])
    patients = [one.patient for one in judged]
    law = None if any(one.law is None for one in judged) else np.array([float(one.law or 0.0) for one in judged])

    def below(scores: Any, truth: Any, outcomes: Any) -> float:
        return statistics.auc(truth, outcomes) - statistics.auc(scores, outcomes)

    def at(name: str) -> Any:
        return lambda scores, outcomes: statistics.at_threshold(scores, outcomes, threshold=THRESHOLD)[name]

    names = ("sensitivity", "specificity", "ppv", "npv", "accuracy")
    return ExpansionFigures(
        haematomas=len(judged),
        expanded=int(came.sum()),
        auc=bootstrap(statistics.auc, said, came, patients=patients),
        law_auc=None if law is None else bootstrap(statistics.auc, law, came, patients=patients),
        below_law=None if law is None else bootstrap(below, said, law, came, patients=patients),
        brier=bootstrap(statistics.brier, said, came, patients=patients),
        intercept=bootstrap(lambda *drawn: statistics.calibration_line(*drawn)[0], said, came, patients=patients),
        slope=bootstrap(lambda *drawn: statistics.calibration_line(*drawn)[1], said, came, patients=patients),
        at_half={name: bootstrap(at(name), said, came, patients=patients) for name in names},
        calibration=statistics.calibration(said, came, patients=patients),
        attention=_attention_figures(judged),
    )


def _attention_figures(judged: Sequence[Judged]) -> AttentionFigures:
    seen = [(one.attention, one.patient) for one in judged if one.attention is not None]
    patients = [patient for _, patient in seen]
    return AttentionFigures(
        maps=len(seen),
        empty=len(judged) - len(seen),
        inside=bootstrap(statistics.median, [share.inside for share, _ in seen], patients=patients),
        uniform=bootstrap(statistics.median, [share.uniform for share, _ in seen], patients=patients),
        ratio=bootstrap(statistics.median, [share.ratio for share, _ in seen], patients=patients),
    )
