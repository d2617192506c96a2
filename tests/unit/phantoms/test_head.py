"""Behaviour of the synthetic heads. Nothing about files."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from phantoms.expansion import Signs
from phantoms.head import Bleed, Grid, Head, HeadModel, make_head, sample, training_grid


def grid(
    pixel_mm: float = 2.0, step: float = 5.0, *, size: int = 112, tilt: float = 0.0, z0: float = -60.0, z1: float = 80.0
) -> Grid:
    z = tuple(float(v) for v in np.arange(z0, z1, step))
    return Grid(size, size, pixel_mm, z, (step,) * len(z), tilt_deg=tilt)


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return HeadModel.draw(11, bleed=Bleed((20.0,), ("putamen",), (65.0,), signs=Signs()))


@pytest.fixture(scope="module")
def head(model: HeadModel) -> Head:
    return sample(model, grid())


def test_same_seed_gives_the_same_head_and_another_seed_another() -> None:
    small = grid(4.0, 12.0, size=56)
    first, again, other = (make_head(s, grid=small) for s in (3, 3, 4))
    assert np.array_equal(first.hu_zyx, again.hu_zyx)
    assert np.array_equal(first.mask_zyx, again.mask_zyx)
    assert not np.array_equal(first.hu_zyx, other.hu_zyx)


def test_volume_is_that_of_the_mask_and_the_wanted_one(head: Head) -> None:
    (lesion,) = head.lesions
    voxels = np.count_nonzero(head.mask_zyx == lesion.label)
    assert lesion.volume_ml == pytest.approx(voxels * 2.0 * 2.0 * 5.0 / 1000, rel=1e-9)
    assert lesion.volume_ml == pytest.approx(20.0, rel=0.08)


@pytest.mark.parametrize("other", [grid(1.2, 3.0, size=180), grid(2.0, 4.0, tilt=18.0), grid(2.4, 7.0, size=90)])
def test_same_head_on_another_grid_has_the_same_bleed(model: HeadModel, head: Head, other: Grid) -> None:
    (here,), (there,) = head.lesions, sample(model, other, clean=True).lesions
    assert there.volume_ml == pytest.approx(here.volume_ml, rel=0.07)
    assert np.allclose(there.centre_lps_mm, here.centre_lps_mm, atol=0.8)


def test_bleed_lies_in_the_brain_and_is_as_dense_as_asked(head: Head) -> None:
    blood = head.mask_zyx > 0
    assert head.brain_zyx[blood].mean() > 0.99
    core = ndimage.binary_erosion(blood, iterations=2)
    assert core.sum() > 50
    assert 57 < np.median(head.hu_zyx[core]) < 70
    brain_without = head.brain_zyx & ~blood
    assert 15 < np.median(head.hu_zyx[brain_without]) < 45


def test_head_is_the_same_person_with_and_without_a_bleed(head: Head) -> None:
    without = make_head(11, bleed=None, grid=grid())
    assert without.lesions == ()
    assert not without.mask_zyx.any()
    skull = (head.hu_zyx > 400) & (without.hu_zyx > 400)
    assert skull.sum() > 0.97 * (head.hu_zyx > 400).sum()


def test_cavity_has_an_adult_volume(head: Head) -> None:
    litres = head.brain_zyx.sum() * 2.0 * 2.0 * 5.0 / 1e6
    assert 1.0 < litres < 2.0


def test_columns_grow_to_the_left_rows_to_the_back_slices_headwards() -> None:
    left = sample(
        HeadModel.draw(5, bleed=Bleed((15.0,), ("cerebellum",))), grid(3.0, 6.0, size=76, z0=-80.0), clean=True
    )
    (lesion,) = left.lesions
    x, y, z = lesion.centre_lps_mm
    k, r, c = (np.argwhere(left.mask_zyx)).mean(axis=0)
    assert np.allclose(left.affine_lps @ [c, r, k, 1], [x, y, z, 1], atol=1e-3)
    assert y > 20
    assert z < 0
    assert (c > 37.5) == (x > 0)
    # Nose, sinuses and throat lie in front: the air within the head has smaller row numbers than the head.
    tissue = left.hu_zyx[3] > -300
    air = ndimage.binary_fill_holes(tissue) & ~tissue
    assert air.sum() > 20
    assert np.nonzero(air)[0].mean() < np.nonzero(tissue)[0].mean() - 5


def test_uneven_slices_keep_their_own_extent(model: HeadModel, head: Head) -> None:
    z = tuple(float(v) for v in (*np.arange(-60, 0, 2.5), *np.arange(2.5, 80, 5)))
    thickness = tuple(2.5 if v < 0 else 5.0 for v in z)
    uneven = Grid(112, 112, 2.0, z, thickness)
    assert uneven.extents_mm()[0] == 2.5
    assert uneven.extents_mm()[-1] == 5.0
    (there,) = sample(model, uneven, clean=True).lesions
    assert there.volume_ml == pytest.approx(head.lesions[0].volume_ml, rel=0.05)


def test_two_bleeds_get_two_labels_and_their_volumes() -> None:
    two = make_head(8, bleed=Bleed((12.0, 6.0), ("putamen", "cerebellum")), grid=grid(2.0, 4.0, z0=-80.0), clean=True)
    assert [v.label for v in two.lesions] == [1, 2]
    assert two.lesions[0].volume_ml == pytest.approx(12.0, rel=0.12)
    assert two.lesions[1].volume_ml == pytest.approx(6.0, rel=0.15)


def test_about_four_in_ten_random_heads_have_no_bleed() -> None:
    without = sum(not HeadModel.draw(seed).haematomas for seed in range(500, 524))
    assert 4 <= without <= 16


def test_training_grids_differ_and_stay_within_48_slices() -> None:
    grids = [training_grid(seed) for seed in range(200)]
    assert all(1 < len(g.z_mm) <= 48 and (g.rows, g.columns, g.pixel_mm) == (240, 208, 1.0) for g in grids)
    assert {1.0, 5.0, 8.5} <= {g.thickness_mm[-1] for g in grids}
    assert any(g.tilt_deg for g in grids)
    assert any(len(set(g.thickness_mm)) > 1 for g in grids)


@pytest.mark.parametrize(
    "bad",
    [{"volumes_ml": (0.0,)}, {"volumes_ml": (5.0,), "sites": ("foot",)}, {"volumes_ml": (5.0,), "hu": (60.0, 60.0)}],
)
def test_impossible_bleeds_are_refused(bad: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="volume"):
        Bleed(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seed", "volumes_ml", "mean_hu", "cavity_voxels"),
    [(13, [24.19], 46.63, 7661), (30, [], 44.2, 8699), (7, [1.34, 18.82], 42.2, 9752)],
)
def test_a_seed_means_the_head_that_networks_were_trained_on(
    seed: int, volumes_ml: list[float], mean_hu: float, cavity_voxels: int
) -> None:
    z = tuple(float(v) for v in range(-60, 84, 12))
    head = make_head(seed, grid=Grid(56, 56, 4.0, z, (5.0,) * len(z)), clean=True)
    assert [v.volume_ml for v in head.lesions] == pytest.approx(volumes_ml, rel=0.02)
    assert head.hu_zyx[head.brain_zyx].mean() == pytest.approx(mean_hu, abs=0.2)
    assert np.count_nonzero(head.brain_zyx) == pytest.approx(cavity_voxels, rel=0.005)


def test_brain_is_closed_in_bone_on_every_slice_of_the_vault() -> None:
    for seed in (40, 41, 42):
        head = make_head(seed, bleed=None, grid=grid(1.0, 10.0, size=230, z0=0.0, z1=60.0), clean=True)
        for plane, brain in zip(head.hu_zyx, head.brain_zyx, strict=True):
            assert ndimage.binary_fill_holes(plane > 250)[brain].all()


def test_ventricles_may_hold_blood_which_the_truth_counts() -> None:
    z = tuple(float(v) for v in range(-30, 45, 5))
    where = Grid(112, 112, 2.0, z, (5.0,) * len(z))
    dry, wet = (
        make_head(12, bleed=Bleed((20.0,), ("thalamus",), (65.0,), signs=Signs(), ventricular=chance), grid=where)
        for chance in (0.0, 1.0)
    )
    extra = (wet.mask_zyx > 0) & (dry.mask_zyx == 0)
    assert wet.lesions[0].volume_ml > dry.lesions[0].volume_ml + 1
    assert np.median(wet.hu_zyx[extra]) > np.median(dry.hu_zyx[extra]) + 15
