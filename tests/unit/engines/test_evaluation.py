from __future__ import annotations

import numpy as np
import pytest

from engines.evaluation import CaseFigures, LesionFigure, case_figures, dice, iou, segmentation_figures


def test_dice_and_iou_of_half_overlapping_masks() -> None:
    a, b = np.zeros((2, 4, 4), bool), np.zeros((2, 4, 4), bool)
    a[0, :2], b[0, 1:3] = True, True
    assert dice(a, b) == 0.5
    assert iou(a, b) == pytest.approx(1 / 3)
    assert dice(a, np.zeros_like(a)) == iou(a, np.zeros_like(a)) == 0
    assert dice(np.zeros_like(a), np.zeros_like(a)) is iou(np.zeros_like(a), np.zeros_like(a)) is None


def test_a_lesion_is_found_when_any_predicted_voxel_lies_in_it_and_other_regions_are_made_up() -> None:
    labels = np.zeros((3, 5, 5), np.uint8)
    labels[0, 0, :4], labels[2, 4, :2] = 1, 2
    predicted = np.zeros(labels.shape, bool)
    predicted[0, 0, 3:] = True
    predicted[2, 0, :3] = True
    figures = case_figures(predicted, labels, voxel_ml=np.array([0.5, 1.0, 2.0]), key="a")
    assert [(one.volume_ml, one.found) for one in figures.lesions] == [(2.0, True), (4.0, False)]
    assert (figures.true_ml, figures.predicted_ml, figures.reported_ml) == (6.0, 7.0, 7.0)
    assert figures.dice == pytest.approx(2 / 11)
    assert figures.false_ml == (6.0,)
    assert figures.patient == "a"


def case(key: str, true_ml: float, reported_ml: float, *, dice: float | None = None, patient: str = "") -> CaseFigures:
    return CaseFigures(
        key=key,
        patient=patient or key,
        dice=dice,
        iou=None if dice is None else dice / (2 - dice),
        true_ml=true_ml,
        predicted_ml=reported_ml,
        reported_ml=reported_ml,
        lesions=(LesionFigure(true_ml, reported_ml > 0),) if true_ml else (),
        false_ml=(reported_ml,) if reported_ml and not true_ml else (),
    )


def test_figures_of_a_set_tell_large_small_and_clean_heads_apart() -> None:
    cases = [
        case("a", 20.0, 21.5, dice=0.96),
        case("b", 20.0, 23.0, dice=0.9),
        case("c", 4.0, 4.9, dice=0.94),
        case("d", 1.0, 0.0, dice=0.0),
        case("e", 0.0, 0.0),
        case("f", 0.0, 2.0),
    ]
    figures = segmentation_figures(cases)
    assert (figures.cases, figures.measured_cases, figures.clean_cases, figures.clean_called) == (6, 3, 2, 1)
    assert figures.median_dice.value == 0.94
    assert figures.least_dice == 0.9
    assert figures.bias_ml.value == pytest.approx(1.8)
    spread = np.std([1.5, 3.0, 0.9], ddof=1)
    assert figures.upper_limit_ml.value == pytest.approx(1.8 + 1.96 * spread)
    assert figures.lower_limit_ml.value == pytest.approx(1.8 - 1.96 * spread)
    assert figures.within_share.value == pytest.approx(2 / 3)  # b is 15 % and 3 mL off
    assert (figures.found_share.value, figures.small_found_share.value) == (1.0, 0.0)
    assert figures.false_regions["1-3"] == 1
    assert sum(figures.false_regions.values()) == 1


def test_a_set_without_haematomas_has_no_dice_rather_than_a_wrong_one() -> None:
    figures = segmentation_figures([case("a", 0.0, 0.0)])
    assert figures.median_dice.n == 0
    assert np.isnan(figures.median_dice.value)
