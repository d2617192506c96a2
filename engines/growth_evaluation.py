"""How good growth is between two scans of a head, pair by pair. Pure functions; compares no scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engines.statistics import Interval, bootstrap, lower_limit, mean, median, upper_limit

WITHIN_SHARE, WITHIN_ML = 0.1, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFigures:
    """One head scanned twice. Volumes in mL, all its haematomas together.

    Attributes
    ----------
    told_ml : growth as a reader is told it; None where the two were not compared, and `refusal` says why.
    expands, told_expands : by the rule, from the true and from the measured volumes.
    """

    key: str
    patient: str
    hours: float
    true_before_ml: float
    true_now_ml: float
    told_ml: float | None
    expands: bool
    told_expands: bool | None
    refusal: str | None = None

    @property
    def true_ml(self) -> float:
        """True growth."""
        return self.true_now_ml - self.true_before_ml

    @property
    def within(self) -> bool:
        """Is what is told within 10 % of the true growth, or 1 mL? What is not told is not."""
        return self.told_ml is not None and abs(self.told_ml - self.true_ml) <= max(
            WITHIN_SHARE * abs(self.true_ml), WITHIN_ML
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthFigures:
    """A set of pairs.

    Attributes
    ----------
    compared : pairs of which growth is told; the others count as wrong in both shares.
    expanded : those that grew by the rule.
    within_share : `PairFigures.within`.
    rule_share : pairs in which expansion by the rule is told as it is.
    bias_ml, lower_limit_ml, upper_limit_ml : told minus true growth, mean and 95 % limits of agreement.
    median_error_ml : of its absolute value.
    """

    pairs: int
    compared: int
    expanded: int
    within_share: Interval
    rule_share: Interval
    bias_ml: Interval
    lower_limit_ml: Interval
    upper_limit_ml: Interval
    median_error_ml: Interval


def growth_figures(pairs: Sequence[PairFigures]) -> GrowthFigures:
    """Figures of a set, intervals by patient."""
    patients = [one.patient for one in pairs]
    told = [(one.told_ml - one.true_ml, one.patient) for one in pairs if one.told_ml is not None]
    differences, whose = np.array([difference for difference, _ in told]), [patient for _, patient in told]
    return GrowthFigures(
        pairs=len(pairs),
        compared=len(told),
        expanded=sum(one.expands for one in pairs),
        within_share=bootstrap(mean, [float(one.within) for one in pairs], patients=patients),
        rule_share=bootstrap(mean, [float(one.expands is one.told_expands) for one in pairs], patients=patients),
        bias_ml=bootstrap(mean, differences, patients=whose),
        lower_limit_ml=bootstrap(lower_limit, differences, patients=whose),
        upper_limit_ml=bootstrap(upper_limit, differences, patients=whose),
        median_error_ml=bootstrap(median, np.abs(differences), patients=whose),
    )
