"""The second generator's heads: their truth, their densities, and that each differs from every other."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import second_heads
from scipy import ndimage
from second_heads import bleeds, scanner
from second_heads.brain import Brain
from second_heads.fields import F32, Labyrinth, Points
from second_heads.person import Person

BLEEDING, CLEAN = 5, 6


@lru_cache(maxsize=4)
def on_one_millimetre(seed: int) -> second_heads.Scan:
    return second_heads.scan(seed, pixel_mm=1.0)


def test_occupancy_holds_the_volume_that_bled() -> None:
    scan = on_one_millimetre(BLEEDING)
    held = float(scan.occupancy_zyx.sum(dtype=np.float64)) * float(np.prod(scan.spacing_mm)) / 1000
    assert sum(scan.bleeds_ml) > 3
    assert held == pytest.approx(sum(scan.bleeds_ml), rel=0.02)
    assert scan.occupancy_zyx.min() >= 0
    assert scan.occupancy_zyx.max() <= 1


def test_blood_lies_inside_the_skull() -> None:
    scan = on_one_millimetre(BLEEDING)
    assert scan.intracranial_zyx[scan.occupancy_zyx > 0.5].mean() > 0.99


def test_head_without_a_plan_holds_no_blood() -> None:
    scan = on_one_millimetre(CLEAN)
    assert scan.bleeds_ml == ()
    assert scan.occupancy_zyx.max() == 0


@pytest.mark.parametrize("seed", [BLEEDING, CLEAN])
def test_densities_are_those_of_a_head(seed: int) -> None:
    scan = on_one_millimetre(seed)
    smooth = ndimage.uniform_filter(scan.hu_zyx.astype(np.float32), (1, 3, 3))
    core = ndimage.binary_erosion(scan.intracranial_zyx, np.ones((1, 9, 9)))
    brain = smooth[core & (scan.occupancy_zyx == 0)]
    assert 24 < np.median(brain) < 40
    assert np.percentile(brain, 0.5) < 18  # ventricles and cisterns
    assert scan.hu_zyx.max() > 900  # compact bone
    millilitres = scan.intracranial_zyx.sum() * np.prod(scan.spacing_mm) / 1000
    assert 900 < millilitres < 1900
    assert np.median(scan.hu_zyx[:, :3]) < -900
    blood = smooth[ndimage.binary_erosion(scan.occupancy_zyx > 0.95, np.ones((1, 3, 3)))]
    if blood.size:
        assert 40 < np.median(blood) < 90


def test_same_seed_gives_the_same_head_and_another_seed_another() -> None:
    first, again = on_one_millimetre(CLEAN), second_heads.head(CLEAN)
    assert np.array_equal(first.hu_zyx, again.hu_zyx)
    assert again.spacing_mm == first.spacing_mm
    assert first.hu_zyx.shape != on_one_millimetre(BLEEDING).hu_zyx.shape
    people = {Person.of(np.random.default_rng(seed)) for seed in range(200)}
    assert len(people) == 200


def test_four_in_ten_do_not_bleed_and_none_bleeds_beyond_the_range() -> None:
    drawn = [bleeds.plans(np.random.default_rng(seed), width=65, height=72) for seed in range(1000)]
    assert 0.35 < np.mean([not one for one in drawn]) < 0.45
    assert max(len(one) for one in drawn) == 2
    volumes = np.array([plan.volume_ml for one in drawn for plan in one])
    assert volumes.min() >= 0.3
    assert volumes.max() <= 80
    assert (volumes < 3).mean() > 0.1
    assert (volumes > 30).mean() > 0.1


@lru_cache(maxsize=1)
def folds() -> Labyrinth:
    return Labyrinth(np.random.default_rng(7), wave_mm=20)


def block_of_brain(*, ventricle_from_y: float = 99) -> tuple[Points, F32, Brain]:
    """Points 1 mm apart in a cube of 60 mm around the left putamen, all of it tissue but for one big ventricle."""
    z, y, x = (axis.ravel().astype(np.float32) for axis in np.mgrid[-26:34, -34:26, 12:72])
    fluid = (y > ventricle_from_y).astype(np.float32)
    brain = Brain(
        hu=np.full(x.shape, 30, np.float32), tissue=1 - fluid, ventricle=fluid, below=np.zeros(x.shape, np.bool_)
    )
    return Points(x, y, z), np.full(x.shape, 40, np.float32), brain


@pytest.mark.parametrize("volume_ml", [0.5, 4.0, 30.0])
def test_bleed_has_the_volume_that_was_asked_for(volume_ml: float) -> None:
    p, depth, brain = block_of_brain()
    plan = bleeds.Plan(centre=(42, -4, 4), volume_ml=volume_ml, deep=False)
    shapes = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        one = bleeds.bleed(p, depth, brain, plan, folds(), rng, voxel_mm3=1.0)
        assert one.occupancy.sum(dtype=np.float64) / 1000 == pytest.approx(volume_ml, rel=0.15)
        assert one.hu.min() >= 30
        assert one.hu.max() <= 92
        shapes.append(one.occupancy > 0.5)
    overlap = [(a & b).sum() / (a | b).sum() for n, a in enumerate(shapes) for b in shapes[:n]]
    assert max(overlap) < 0.9


def test_only_deep_bleeds_break_into_the_ventricles_and_not_all_do() -> None:
    p, depth, brain = block_of_brain(ventricle_from_y=12)

    def in_ventricle_ml(deep: bool, seed: int) -> float:
        plan = bleeds.Plan(centre=(42, -4, 4), volume_ml=10, deep=deep)
        rng = np.random.default_rng(seed)
        one = bleeds.bleed(p, depth, brain, plan, folds(), rng, voxel_mm3=1.0)
        return float(one.occupancy[brain.ventricle > 0].sum(dtype=np.float64)) / 1000

    spilled = [in_ventricle_ml(True, seed) > 0.3 for seed in range(8)]
    assert 0 < sum(spilled) < 8
    assert max(in_ventricle_ml(False, seed) for seed in range(4)) < 0.1


def test_filtered_back_projection_gives_back_a_disc() -> None:
    size = 96
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    disc, seen = scanner._disc(size), np.hypot(x - 10, y) < 20
    back = scanner._geometry(size)
    rays = (back.T @ seen[disc].astype(np.float32)).reshape(scanner.ANGLES, size, 1)
    picture = np.zeros((size, size))
    picture[disc] = (back @ scanner._filtered(rays, 1.0).ravel()) * np.pi / scanner.ANGLES
    assert picture[np.hypot(x - 10, y) < 15].mean() == pytest.approx(1, abs=0.03)
    assert abs(picture[(np.hypot(x - 10, y) > 26) & (np.hypot(x, y) < 44)].mean()) < 0.03


def test_bone_leaves_bands_and_photons_leave_noise() -> None:
    thin = np.full((4, 96, 96), -1000, np.float32)
    y, x = np.mgrid[:96, :96] - 47.5
    thin[:, np.hypot(x, y) < 42] = 30
    plain = scanner.Protocol(
        slice_mm=3.0, pixel_mm=2.4, matrix=96, photons=1.0, sigma_mm=0.5, sharp=0.5, hardening=0.4, table="none",
        moved=False,
    )  # fmt: skip
    middle = (np.abs(x) < 6) & (np.abs(y) < 6)

    def spread(photons: float) -> float:
        protocol = replace(plain, photons=photons)
        return float(scanner.scan(thin, protocol, np.random.default_rng(1))[:, middle].std())

    assert spread(1.0) == pytest.approx(2 * spread(4.0), rel=0.1)
    for side in (-24, 24):
        thin[:, np.hypot(x - side, y) < 8] = 1600
    protocol = replace(plain, photons=1e9)
    seen = scanner.scan(thin, protocol, np.random.default_rng(1))
    assert seen[:, middle].mean() < 28  # dark between two bones
