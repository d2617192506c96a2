from __future__ import annotations

import numpy as np
import pytest

from engines.expansion_evaluation import AttentionShare, Judged, attention_share, expansion_figures

SPACING = (2.0, 0.5)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """One pixel of haematoma in the middle slice of three; crops of 16 x 16 mm on slices 1 to 3 of five."""
    truth, crops = np.zeros((5, 21, 81), bool), np.zeros((5, 21, 81), bool)
    truth[2, 10, 40] = True
    crops[1:4, 6:15, 24:57] = True
    return truth, crops


def test_what_lies_within_5_mm_in_the_plane_counts_whatever_the_pixels_shape() -> None:
    truth, crops = scene()
    attention = np.zeros(truth.shape, np.float32)
    for row, column, near in ((12, 40, True), (13, 40, False), (10, 50, True), (10, 51, False), (12, 46, True)):
        attention[:] = 0
        attention[2, row, column] = 0.3
        share = attention_share(attention, truth, crops_zyx=crops, spacing_yx_mm=SPACING)
        assert share is not None
        assert share.inside == float(near), (row, column)


def test_on_a_slice_without_haematoma_nothing_is_near() -> None:
    truth, crops = scene()
    attention = np.zeros(truth.shape, np.float32)
    attention[2, 10, 40], attention[1, 10, 40] = 1.0, 3.0
    share = attention_share(attention, truth, crops_zyx=crops, spacing_yx_mm=SPACING)
    assert share is not None
    assert share.inside == pytest.approx(0.25)


def test_a_uniform_map_is_exactly_once_as_good_as_a_uniform_map() -> None:
    truth, crops = scene()
    truth[1:4, 8:12, 30:45] = True
    share = attention_share(crops.astype(np.float32), truth, crops_zyx=crops, spacing_yx_mm=SPACING)
    assert share is not None
    assert 0.3 < share.uniform < 1
    assert share.ratio == pytest.approx(1.0)
    on_it = attention_share((truth & crops).astype(np.float32), truth, crops_zyx=crops, spacing_yx_mm=SPACING)
    assert on_it is not None
    assert (on_it.inside, on_it.ratio) == (1.0, pytest.approx(1 / share.uniform))


def test_attention_where_the_true_haematoma_is_not_is_worth_nothing_and_an_empty_map_is_none() -> None:
    truth, crops = scene()
    attention = crops.astype(np.float32)
    share = attention_share(attention, np.zeros_like(truth), crops_zyx=crops, spacing_yx_mm=SPACING)
    assert share is not None
    assert (share.inside, share.uniform, share.ratio) == (0.0, 0.0, 0.0)
    assert attention_share(attention * 0, truth, crops_zyx=crops, spacing_yx_mm=SPACING) is None


def judged(key: str, said: float, came: bool, *, attention: AttentionShare | None = None) -> Judged:
    return Judged(key=key, patient=key, said=said, came=came, law=0.9 if came else 0.1, attention=attention)


def test_medians_are_over_the_maps_that_there_are_and_empty_ones_are_counted() -> None:
    figures = expansion_figures(
        [
            judged("a", 0.9, True, attention=AttentionShare(0.9, 0.5)),
            judged("b", 0.2, False, attention=AttentionShare(0.6, 0.6)),
            judged("c", 0.8, False, attention=AttentionShare(0.8, 0.5)),
            judged("d", 0.7, True),
        ]
    )
    assert (figures.attention.maps, figures.attention.empty) == (3, 1)
    assert figures.attention.inside.value == 0.8
    assert figures.attention.uniform.value == 0.5
    assert figures.attention.ratio.value == pytest.approx(1.6)
    assert figures.attention.inside.low <= 0.8 <= figures.attention.inside.high
    assert (figures.haematomas, figures.expanded) == (4, 2)
    assert figures.auc.value == 0.75
    assert figures.below_law is not None
    assert figures.below_law.value == 0.25


def test_calibration_has_intervals() -> None:
    rng = np.random.default_rng(5)
    said = rng.uniform(0.05, 0.95, 120)
    figures = expansion_figures(
        [
            judged(str(i), float(p), bool(came))
            for i, (p, came) in enumerate(zip(said, rng.random(120) < said, strict=True))
        ]
    )
    assert figures.intercept.low < 0 < figures.intercept.high
    assert 0.3 < figures.slope.low < 1 < figures.slope.high < 3


def test_without_any_map_there_is_no_median_rather_than_a_wrong_one() -> None:
    figures = expansion_figures([judged("a", 0.9, True), judged("b", 0.2, False)])
    assert figures.attention.empty == 2
    assert np.isnan(figures.attention.inside.value)
