from __future__ import annotations

import numpy as np
import pytest

from engines.evaluation import bootstrap_mean, case_figures, dice, median_dice, volume_bias_ml


def test_dice_of_half_overlapping_masks() -> None:
    a, b = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    a[0, :2], b[0, 1:3] = True, True
    assert dice(a, b) == 0.5
    assert dice(a, np.zeros_like(a)) == 0
    assert dice(np.zeros_like(a), np.zeros_like(a)) is None


def test_a_lesion_is_found_when_any_predicted_voxel_lies_in_it() -> None:
    labels = np.zeros((3, 5, 5), np.uint8)
    labels[0, 0, :4], labels[2, 4, :2] = 1, 2
    predicted = np.zeros(labels.shape, bool)
    predicted[0, 0, 3:] = True
    figures = case_figures(predicted, labels, voxel_ml=np.array([0.5, 1.0, 2.0]))
    assert [(one.volume_ml, one.found) for one in figures.lesions] == [(2.0, True), (4.0, False)]
    assert (figures.true_ml, figures.predicted_ml) == (6.0, 1.0)
    assert figures.dice == pytest.approx(2 / 8)


def test_intervals_enclose_the_estimate_and_are_the_same_each_time() -> None:
    values = np.random.default_rng(0).normal(3, 1, 50).tolist()
    interval = bootstrap_mean(values)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 50**0.5, rel=0.3)
    assert bootstrap_mean(values) == interval
    with pytest.raises(ValueError, match="nothing"):
        bootstrap_mean([])


def test_bias_counts_every_case_and_median_dice_those_that_have_one() -> None:
    empty, full = np.zeros((1, 2, 2), np.uint8), np.ones((1, 2, 2), np.uint8)
    ml = np.array([1.0])
    cases = [
        case_figures(full > 0, full, voxel_ml=ml),
        case_figures(empty > 0, full, voxel_ml=ml),
        case_figures(empty > 0, empty, voxel_ml=ml),
        case_figures(full > 0, empty, voxel_ml=ml),
    ]
    assert volume_bias_ml(cases).value == 0
    assert median_dice(cases).value == 0
