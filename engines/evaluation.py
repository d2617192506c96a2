"""How good a segmentation is, case by case: overlap, volumes, lesions found and made up. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from engines.statistics import Interval, bootstrap, lower_limit, mean, median, upper_limit

Mask = npt.NDArray[np.bool_]

MEASURED_FROM_ML = 3.0
FALSE_SIZES_ML = (0.1, 0.3, 1.0, 3.0, 10.0, float("inf"))


@dataclass(frozen=True, slots=True)
class LesionFigure:
    """One true lesion: volume, and whether any predicted voxel lies in it."""

    volume_ml: float
    found: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFigures:
    """One head. `dice` and `iou` are None where neither truth nor prediction holds anything.

    Attributes
    ----------
    reported_ml : the volume a reader is told, where that is not the sum of voxels.
    false_ml : sizes of the predicted regions that touch no true lesion.
    """

    key: str
    patient: str
    dice: float | None
    iou: float | None
    true_ml: float
    predicted_ml: float
    reported_ml: float
    lesions: tuple[LesionFigure, ...]
    false_ml: tuple[float, ...]


def case_figures(
    predicted: Mask,
    labels: npt.NDArray[np.integer],
    *,
    voxel_ml: npt.NDArray[np.float64],
    key: str = "",
    patient: str = "",
    reported_ml: float | None = None,
) -> CaseFigures:
    """Figures of one head.

    Parameters
    ----------
    predicted : (z, y, x).
    labels : (z, y, x), 0 where there is no haematoma, else the lesion's number.
    voxel_ml : (z,), volume of one voxel of each slice in mL.
    """
    truth = labels > 0
    lesions = tuple(
        LesionFigure(_volume(labels == label, voxel_ml), bool((predicted & (labels == label)).any()))
        for label in np.unique(labels[truth]).tolist()
    )
    regions, count = ndimage.label(predicted, structure=np.ones((3, 3, 3)))
    touching = set(np.unique(regions[truth]).tolist())
    false = tuple(_volume(regions == n, voxel_ml) for n in range(1, count + 1) if n not in touching)
    predicted_ml = _volume(predicted, voxel_ml)
    return CaseFigures(
        key=key,
        patient=patient or key,
        dice=dice(predicted, truth),
        iou=iou(predicted, truth),
        true_ml=_volume(truth, voxel_ml),
        predicted_ml=predicted_ml,
        reported_ml=predicted_ml if reported_ml is None else reported_ml,
        lesions=lesions,
        false_ml=tuple(sorted(false, reverse=True)),
    )


def dice(predicted: Mask, truth: Mask) -> float | None:
    """2 |A and B| / (|A| + |B|); None where both are empty (Dice 1945, doi:10.2307/1932409)."""
    both = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / both if both else None


def iou(predicted: Mask, truth: Mask) -> float | None:
    """|A and B| / |A or B|; None where both are empty (Jaccard 1901)."""
    either = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / either if either else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationFigures:
    """A set of cases. Overlap and volumes over those with at least 3 mL of true haematoma; volumes are those reported.

    Attributes
    ----------
    bias_ml, lower_limit_ml, upper_limit_ml : reported minus true volume, mean and 95 % limits of agreement.
    within_share : share of volumes within 10 % or 1 mL.
    found_share, small_found_share : lesions of at least 3 mL, and smaller ones.
    clean_cases, clean_called : cases without a haematoma, and those of them in which one is reported.
    false_regions : number of made-up regions by size in mL ("0.1-0.3": 2), over all cases.
    """

    cases: int
    patients: int
    measured_cases: int
    median_dice: Interval
    least_dice: float
    median_iou: Interval
    median_dice_small: Interval
    bias_ml: Interval
    lower_limit_ml: Interval
    upper_limit_ml: Interval
    within_share: Interval
    found_share: Interval
    small_found_share: Interval
    clean_cases: int
    clean_called: int
    false_regions: dict[str, int]


def segmentation_figures(cases: Sequence[CaseFigures], *, seed: int = 0) -> SegmentationFigures:
    """Figures of a set, intervals by patient."""
    large = [case for case in cases if case.true_ml >= MEASURED_FROM_ML]
    small = [case for case in cases if 0 < case.true_ml < MEASURED_FROM_ML]
    clean = [case for case in cases if case.true_ml == 0]

    def over(chosen: Sequence[CaseFigures], statistic: Any, values: Sequence[float]) -> Interval:
        return bootstrap(statistic, values, patients=[case.patient for case in chosen], seed=seed)

    differences = [case.reported_ml - case.true_ml for case in large]
    lesions = [(lesion, case.patient) for case in cases for lesion in case.lesions]

    def found(wanted: Sequence[tuple[LesionFigure, str]]) -> Interval:
        return bootstrap(mean, [float(one.found) for one, _ in wanted], patients=[who for _, who in wanted], seed=seed)

    return SegmentationFigures(
        cases=len(cases),
        patients=len({case.patient for case in cases}),
        measured_cases=len(large),
        median_dice=over(large, median, [case.dice or 0.0 for case in large]),
        least_dice=min((case.dice or 0.0 for case in large), default=float("nan")),
        median_iou=over(large, median, [case.iou or 0.0 for case in large]),
        median_dice_small=over(small, median, [case.dice or 0.0 for case in small]),
        bias_ml=over(large, mean, differences),
        lower_limit_ml=over(large, lower_limit, differences),
        upper_limit_ml=over(large, upper_limit, differences),
        within_share=over(
            large,
            mean,
            [float(abs(d) <= max(0.1 * case.true_ml, 1.0)) for d, case in zip(differences, large, strict=True)],
        ),
        found_share=found([pair for pair in lesions if pair[0].volume_ml >= MEASURED_FROM_ML]),
        small_found_share=found([pair for pair in lesions if pair[0].volume_ml < MEASURED_FROM_ML]),
        clean_cases=len(clean),
        clean_called=sum(case.reported_ml > 0 for case in clean),
        false_regions={
            f"{low:g}-{high:g}" if np.isfinite(high) else f"{low:g} and more": sum(
                low <= ml < high for case in cases for ml in case.false_ml
            )
            for low, high in pairwise(FALSE_SIZES_ML)
        },
    )


def _volume(mask: Mask, voxel_ml: npt.NDArray[np.float64]) -> float:
    return float(mask.sum(axis=(1, 2)) @ voxel_ml)
