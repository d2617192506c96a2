"""Figures that say how good a segmentation is, case by case and over a set. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LesionFigure:
    """One true lesion: volume, and whether any predicted voxel lies in it."""

    volume_ml: float
    found: bool


@dataclass(frozen=True, slots=True)
class CaseFigures:
    """One head. `dice` is None where neither truth nor prediction holds anything."""

    dice: float | None
    true_ml: float
    predicted_ml: float
    lesions: tuple[LesionFigure, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % bootstrap interval (percentiles, resampled by case)."""

    value: float
    low: float
    high: float


def case_figures(predicted: Mask, labels: npt.NDArray[np.integer], *, voxel_ml: npt.NDArray[np.float64]) -> CaseFigures:
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
    return CaseFigures(dice(predicted, truth), _volume(truth, voxel_ml), _volume(predicted, voxel_ml), lesions)


def dice(predicted: Mask, truth: Mask) -> float | None:
    """2 |A and B| / (|A| + |B|); None where both are empty (Dice 1945, doi:10.2307/1932409)."""
    both = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / both if both else None


def volume_bias_ml(cases: Sequence[CaseFigures], *, seed: int = 0) -> Interval:
    """Mean of predicted minus true volume, mL."""
    return bootstrap_mean([case.predicted_ml - case.true_ml for case in cases], seed=seed)


def median_dice(cases: Sequence[CaseFigures], *, seed: int = 0) -> Interval:
    """Median Dice over the cases that have one."""
    return _bootstrap([case.dice for case in cases if case.dice is not None], median=True, seed=seed)


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean with its interval.

    Raises
    ------
    ValueError
        There is no value.
    """
    return _bootstrap(values, median=False, seed=seed)


def _bootstrap(values: Sequence[float], *, median: bool, seed: int, draws: int = 2000) -> Interval:
    array = np.asarray(values, np.float64)
    if array.size == 0:
        raise ValueError("nothing to estimate from")
    of = np.median if median else np.mean
    picks = np.random.default_rng(seed).integers(array.size, size=(draws, array.size))
    spread = of(array[picks], axis=1)
    low, high = np.percentile(spread, (2.5, 97.5))
    return Interval(float(of(array)), float(low), float(high))


def _volume(mask: Mask, voxel_ml: npt.NDArray[np.float64]) -> float:
    return float(mask.sum(axis=(1, 2)) @ voxel_ml)
