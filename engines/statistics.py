"""Figures over cases with 95 % bootstrap intervals, resampled by patient. Pure functions; draws nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

F64 = npt.NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % bootstrap interval (percentiles); `n` cases. NaN where there was nothing to estimate."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n={self.n})"


def bootstrap(
    statistic: Callable[..., float],
    *columns: Sequence[float] | F64,
    patients: Sequence[str] | None = None,
    seed: int = 0,
) -> Interval:
    """`statistic` of equally long columns, and its interval when whole patients are drawn with replacement.

    Draws in which the statistic does not exist (NaN) are left out: an AUC needs both classes.

    Parameters
    ----------
    patients : one name per case; None: every case is a patient.
    """
    arrays = [np.asarray(column, np.float64) for column in columns]
    n = len(arrays[0])
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    names = np.arange(n) if patients is None else np.unique(np.asarray(patients), return_inverse=True)[1]
    of_patient = [np.flatnonzero(names == name) for name in range(int(names.max()) + 1)]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        pick = np.concatenate([of_patient[i] for i in rng.integers(len(of_patient), size=len(of_patient))])
        found.append(statistic(*(array[pick] for array in arrays)))
    kept = np.asarray(found)[np.isfinite(found)]
    low, high = np.percentile(kept, (2.5, 97.5)) if kept.size else (np.nan, np.nan)
    return Interval(float(statistic(*arrays)), float(low), float(high), n)


def median(values: F64) -> float:
    return float(np.median(values))


def mean(values: F64) -> float:
    return float(np.mean(values))


def lower_limit(differences: F64) -> float:
    """Lower 95 % limit of agreement (Bland and Altman, Lancet 1986, doi:10.1016/S0140-6736(86)90837-8)."""
    return float(differences.mean() - 1.96 * differences.std(ddof=1)) if differences.size > 1 else float("nan")


def upper_limit(differences: F64) -> float:
    """Upper 95 % limit of agreement."""
    return float(differences.mean() + 1.96 * differences.std(ddof=1)) if differences.size > 1 else float("nan")


def auc(scores: F64, outcomes: F64) -> float:
    """Area under the ROC curve by ranks, ties counting half (Hanley and McNeil 1982); NaN with one class only."""
    positive = outcomes > 0.5
    count = int(positive.sum())
    if count in (0, len(outcomes)):
        return float("nan")
    ranks = stats.rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(outcomes) - count)))


def roc(scores: F64, outcomes: F64) -> tuple[F64, F64, F64]:
    """False positive rate, true positive rate and threshold (score >= threshold is positive), from none to all."""
    order = np.argsort(-scores, kind="stable")
    sorted_scores, positive = scores[order], outcomes[order] > 0.5
    last = np.flatnonzero(np.diff(sorted_scores, append=np.nan) != 0)
    true, false = np.cumsum(positive)[last], np.cumsum(~positive)[last]
    fpr = np.concatenate([[0.0], false / max(int((~positive).sum()), 1)])
    tpr = np.concatenate([[0.0], true / max(int(positive.sum()), 1)])
    return fpr, tpr, np.concatenate([[np.inf], sorted_scores[last]])


def brier(scores: F64, outcomes: F64) -> float:
    """Mean squared difference of probability and outcome (Brier 1950)."""
    return float(np.mean((scores - outcomes) ** 2))


def at_threshold(scores: F64, outcomes: F64, *, threshold: float) -> dict[str, float]:
    """Sensitivity, specificity, PPV, NPV and accuracy of score >= threshold; NaN where there is no such case."""
    called, true = scores >= threshold, outcomes > 0.5

    def share(hit: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> float:
        return float((hit & among).sum() / among.sum()) if among.any() else float("nan")

    return {
        "sensitivity": share(called, true),
        "specificity": share(~called, ~true),
        "ppv": share(true, called),
        "npv": share(~true, ~called),
        "accuracy": float((called == true).mean()),
    }


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Cases of similar probability: mean of what was said, share of what came."""

    said: float
    came: Interval


def calibration(
    scores: F64, outcomes: F64, *, bins: int = 8, patients: Sequence[str] | None = None
) -> list[CalibrationBin]:
    """Groups of about equal size by rising probability; equal probabilities stay together. `patients` as for `bootstrap`."""
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    group = np.searchsorted(edges, scores, side="right")
    names = None if patients is None else np.asarray(patients)
    found = []
    for g in np.unique(group):
        of = group == g
        came = bootstrap(mean, outcomes[of], patients=None if names is None else list(names[of]))
        found.append(CalibrationBin(float(scores[of].mean()), came))
    return found


def calibration_line(scores: F64, outcomes: F64) -> tuple[float, float]:
    """Intercept and slope of a logistic regression of the outcome on the logit of the probability (Cox 1958); (0, 1) is right.

    NaN when one class is missing, or where a threshold parts them wholly: then there is no such line.
    """
    positive, negative = scores[outcomes > 0.5], scores[outcomes <= 0.5]
    if not positive.size or not negative.size or scores.min() == scores.max():
        return float("nan"), float("nan")
    if positive.min() >= negative.max() or positive.max() <= negative.min():
        return float("nan"), float("nan")
    p = np.clip(scores, 1e-6, 1 - 1e-6)
    design = np.stack([np.ones_like(p), np.log(p / (1 - p))], axis=1)
    beta = np.zeros(2)
    for _ in range(25):
        fitted = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        curvature = design.T @ (design * (fitted * (1 - fitted))[:, None])
        if np.linalg.cond(curvature) > 1e12:
            return float("nan"), float("nan")
        step = np.linalg.solve(curvature, design.T @ (outcomes - fitted))
        beta = beta + step
        if np.abs(step).max() < 1e-6:
            return float(beta[0]), float(beta[1])
    return float("nan"), float("nan")
