from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engines.growth_evaluation import PairFigures, growth_figures


def pair(
    before: float, now: float, told: float | None, *, key: str = "a", told_expands: bool | None = None
) -> PairFigures:
    return PairFigures(
        key=key, patient=key, hours=6.0, true_before_ml=before, true_now_ml=now, told_ml=told,
        expands=now - before > 6, told_expands=told_expands, refusal="turned" if told is None else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "now", "told", "within"),
    [
        (20.0, 21.0, 1.9, True), (20.0, 21.0, 2.1, False), (20.0, 40.0, 21.9, True), (20.0, 40.0, 22.1, False),
        (40.0, 20.0, -18.1, True), (40.0, 20.0, -17.9, False), (20.0, 20.0, None, False),
    ],
)  # fmt: skip
def test_growth_is_right_within_a_tenth_of_itself_or_a_millilitre(
    before: float, now: float, told: float | None, within: bool
) -> None:
    assert pair(before, now, told).within is within


def test_pairs_that_were_not_compared_count_as_wrong_and_in_no_mean() -> None:
    pairs = [
        pair(20.0, 30.0, 11.0, key="a", told_expands=True),
        pair(20.0, 22.0, 2.5, key="b", told_expands=True),
        pair(20.0, 22.0, 1.0, key="c", told_expands=False),
        pair(20.0, 22.0, None, key="d"),
    ]
    figures = growth_figures(pairs)
    assert (figures.pairs, figures.compared, figures.expanded) == (4, 3, 1)
    assert figures.within_share.value == 0.75
    assert figures.rule_share.value == 0.5  # b is told to expand, d nothing
    assert figures.bias_ml.value == pytest.approx((1.0 + 0.5 - 1.0) / 3)
    assert figures.median_error_ml.value == pytest.approx(1.0)
    none = growth_figures([replace(pairs[3])])
    assert none.within_share.value == 0.0
    assert np.isnan(none.bias_ml.value)
