from __future__ import annotations

import numpy as np
import pytest

from engines.statistics import at_threshold, auc, bootstrap, brier, calibration, calibration_line, mean, roc


def test_intervals_enclose_the_estimate_and_are_the_same_each_time() -> None:
    values = np.random.default_rng(0).normal(3, 1, 50).tolist()
    interval = bootstrap(mean, values)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / 50**0.5, rel=0.3)
    assert bootstrap(mean, values) == interval
    assert np.isnan(bootstrap(mean, []).value)


def test_many_scans_of_one_patient_count_as_one_patient() -> None:
    rng = np.random.default_rng(1)
    of_patient = rng.normal(0, 1, 20)
    values = np.repeat(of_patient, 10).tolist()
    patients = [f"p{i // 10}" for i in range(200)]
    by_patient, by_scan = bootstrap(mean, values, patients=patients), bootstrap(mean, values)
    assert by_patient.value == by_scan.value
    width = [one.high - one.low for one in (by_patient, by_scan)]
    assert width[0] == pytest.approx(width[1] * 10**0.5, rel=0.25)


def test_auc_is_the_chance_that_a_positive_ranks_higher_and_the_area_below_the_curve() -> None:
    rng = np.random.default_rng(2)
    outcomes = (rng.random(120) < 0.3).astype(float)
    scores = np.round(rng.normal(outcomes, 1.0), 1)  # with ties
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[outcomes == 1] for b in scores[outcomes == 0]]
    assert auc(scores, outcomes) == pytest.approx(np.mean(pairs))
    fpr, tpr, thresholds = roc(scores, outcomes)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auc(scores, outcomes))
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    at = at_threshold(scores, outcomes, threshold=float(thresholds[5]))
    assert at["sensitivity"] == pytest.approx(tpr[5])
    assert 1 - at["specificity"] == pytest.approx(fpr[5])
    assert np.isnan(auc(scores, np.ones(120)))


def test_a_bootstrap_of_auc_skips_draws_with_one_class_only() -> None:
    interval = bootstrap(auc, [0.1, 0.2, 0.9], [0, 0, 1])
    assert interval.value == 1
    assert (interval.low, interval.high) == (1, 1)


def test_calibration_shows_exaggeration() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(-1, 1.2, 4000)
    outcomes = (rng.random(4000) < 1 / (1 + np.exp(-logits))).astype(float)
    right, exaggerated = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-2 * logits))
    intercept, slope = calibration_line(right, outcomes)
    assert intercept == pytest.approx(0, abs=0.12)
    assert slope == pytest.approx(1, abs=0.1)
    assert calibration_line(exaggerated, outcomes)[1] == pytest.approx(0.5, abs=0.05)
    assert brier(right, outcomes) < brier(exaggerated, outcomes)
    bins = calibration(right, outcomes)
    assert sum(one.came.n for one in bins) == 4000
    assert all(abs(one.said - one.came.value) < 0.07 for one in bins)
    assert sum(one.came.low <= one.said <= one.came.high for one in bins) >= len(bins) - 1
    twice = calibration(np.repeat(right, 2), np.repeat(outcomes, 2), patients=[str(i // 2) for i in range(8000)])
    assert twice[0].came.high - twice[0].came.low == pytest.approx(bins[0].came.high - bins[0].came.low, rel=0.15)
    assert np.isnan(calibration_line(right, np.zeros(4000))[1])
