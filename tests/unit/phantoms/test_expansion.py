"""The law of expansion, and that its signs can be seen on the slices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from phantoms.acquisition import Grid
from phantoms.bleeds import Bleed
from phantoms.expansion import (
    EXPANSION_FRACTION,
    EXPANSION_ML,
    ROOM_ML,
    WEIGHTS,
    Signs,
    ceiling_auc,
    draw_growth,
    draw_signs,
    expansion_probability,
)
from phantoms.head import Head, HeadModel, sample


def bleeding(signs: Signs, *, volume_ml: float = 20.0) -> Head:
    model = HeadModel.draw(31, bleed=Bleed((volume_ml,), ("putamen",), (66.0,), signs=signs))
    z = tuple(float(v) for v in range(-40, 60, 5))
    return sample(model, Grid(220, 220, 1.0, z, (5.0,) * len(z), centre_xy_mm=(0.0, 6.0)), clean=True)


def largest_slice(head: Head) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    k = int(np.argmax(np.count_nonzero(head.mask_zyx, axis=(1, 2))))
    return head.hu_zyx[k], head.mask_zyx[k] > 0


@pytest.fixture(scope="module")
def plain() -> Head:
    return bleeding(Signs())


def spread(head: Head) -> float:
    """Between the darkest and the brightest fiftieth of a haematoma's inner voxels, in HU."""
    blood = ndimage.binary_erosion(head.mask_zyx > 0, np.ones((1, 3, 3)), iterations=3)
    dark, bright = np.percentile(head.hu_zyx[blood], (2, 98))
    return float(bright - dark)


def test_best_reader_reaches_the_ceiling_that_is_told() -> None:
    auc, fraction = ceiling_auc(cases=20_000)
    assert 0.84 < auc < 0.90
    assert 0.2 < fraction < 0.35


def test_every_sign_and_early_onset_and_volume_raise_the_probability() -> None:
    base = expansion_probability(Signs(), 20.0)
    for name in WEIGHTS:
        signs = Signs(onset_hours=2.0) if name == "early" else Signs(**{name: True})
        assert expansion_probability(signs, 20.0) > base
    assert expansion_probability(Signs(), 50.0) > base > expansion_probability(Signs(), 3.0)


def test_small_haematomas_have_no_sign_that_needs_room() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw_signs(rng, 0.9 * ROOM_ML) for _ in range(200)]
    assert not any(s.black_hole or s.blend or s.island or s.swirl for s in drawn)
    assert any(s.irregular for s in drawn)


@pytest.mark.parametrize("volume", [0.5, 3.0, 12.0, 60.0])
def test_growth_is_expansion_exactly_where_it_should_be(volume: float) -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        more = draw_growth(rng, volume, expands=True) - volume
        assert more > EXPANSION_ML or more > EXPANSION_FRACTION * volume
        less = draw_growth(rng, volume, expands=False) - volume
        assert less <= EXPANSION_ML
        assert less <= EXPANSION_FRACTION * volume


def test_irregular_margins_are_longer(plain: Head) -> None:
    def compactness(head: Head) -> float:
        _, mask = largest_slice(head)
        rim = mask & ~ndimage.binary_erosion(mask)
        return float(rim.sum() / np.sqrt(mask.sum()))

    assert compactness(bleeding(Signs(irregular=True))) > 1.12 * compactness(plain)


@pytest.mark.parametrize("name", ["black_hole", "blend", "swirl"])
def test_signs_inside_are_dark_and_a_plain_haematoma_is_even(plain: Head, name: str) -> None:
    assert spread(plain) < 12
    assert spread(bleeding(Signs(**{name: True}))) > 16


def test_islands_are_parts_of_their_own(plain: Head) -> None:
    def parts(head: Head) -> int:
        return int(ndimage.label(head.occupancy_zyx > 0.3)[1])

    assert parts(plain) == 1
    assert parts(bleeding(Signs(island=True))) >= 3


def test_late_blood_is_denser_than_early_blood() -> None:
    models = [
        HeadModel.draw(seed, bleed=Bleed((15.0,), ("putamen",), signs=Signs(onset_hours=hours)))
        for hours in (1.0, 40.0)
        for seed in range(12)
    ]
    density = [one.haematomas[0].hu for one in models]
    assert np.mean(density[12:]) > np.mean(density[:12]) + 4


def test_a_head_tells_its_signs_and_what_the_law_says_of_them() -> None:
    signs = Signs(irregular=True, island=True, onset_hours=2.0)
    head = bleeding(signs)
    assert head.signs == signs.told()
    assert head.expansion_probability == expansion_probability(signs, 20.0)
    assert isinstance(head.expands, bool)
