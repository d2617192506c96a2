"""Two scans of one head are laid on each other by their skulls; two heads, or halves of one, are refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from unit.pipelines.heads import HEAD_FIRST, head

from ichor.arrays import Volume
from phantoms.acquisition import Scanner, draw_scanner
from phantoms.ct_study import study_grid
from phantoms.head import HeadModel, sample
from pipelines.registration import Registration, register
from pipelines.sampling import index_of, sampled

SEED = 30_100


def scan(model: HeadModel, *, slices: int, tilt: float = 0.0, gaps: str = "even") -> Volume:
    grid = study_grid(model, slices=slices, tilt=tilt, gaps=gaps, matrix=128)
    return Volume(
        array=sample(model, grid).hu_zyx, origins_lps=grid.origins(), row_lps=grid.row_direction,
        column_lps=grid.column_direction, pixel_spacing=(grid.pixel_mm, grid.pixel_mm),
        slice_thickness=grid.thickness_mm[0], frame_of_reference_uid=None, unit="[hnsf'U]", sources=(),
    )  # fmt: skip


@cache
def first(seed: int = SEED) -> tuple[HeadModel, Volume]:
    model = HeadModel.draw(seed)
    return model, scan(model, slices=32)


@cache
def moved(seed: int, *, slices: int, tilt: float = 0.0, gaps: str = "even") -> tuple[HeadModel, Volume]:
    """The same head hours later: another pose, noise, thickness."""
    model = replace(first()[0], scanner=draw_scanner(np.random.default_rng(seed)), scan=seed)
    return model, scan(model, slices=slices, tilt=tilt, gaps=gaps)


def errors(found: Registration, fixed: Scanner, moving: Scanner) -> tuple[float, float]:
    """Mean distance in mm on a sphere of 70 mm, and the angle in degrees, between the motion found and the true one."""
    directions = np.random.default_rng(0).normal(size=(200, 3))
    inside = 70 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    there: npt.NDArray[np.float64] = inside @ fixed.pose.T + fixed.shift_mm
    wanted = inside @ moving.pose.T + moving.shift_mm
    turn = found.matrix_lps[:3, :3].T @ moving.pose @ fixed.pose.T
    angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    return float(np.linalg.norm(found.apply(there) - wanted, axis=1).mean()), float(angle)


@pytest.mark.parametrize(
    ("seed", "slices", "tilt", "gaps"), [(1, 32, 0.0, "even"), (2, 24, 15.0, "even"), (3, 24, 0.0, "uneven")]
)
def test_a_known_motion_is_found_to_a_millimetre_and_a_degree(seed: int, slices: int, tilt: float, gaps: str) -> None:
    model, before = first()
    later, now = moved(seed, slices=slices, tilt=tilt, gaps=gaps)
    found = register(now, before)
    millimetres, degrees = errors(found, later.scanner, model.scanner)
    assert millimetres <= 1.0
    assert degrees <= 1.0
    assert found.refusal is None
    assert found.overlap > 0.85


def test_the_same_scans_give_the_same_answer() -> None:
    _, before = first()
    _, now = moved(1, slices=32)
    assert np.array_equal(register(now, before).matrix_lps, register(now, before).matrix_lps)


def test_another_head_is_refused() -> None:
    _, before = first()
    _, other = first(SEED + 1)
    found = register(other, before)
    assert found.overlap < 0.78
    assert found.refusal is not None
    assert "skulls do not meet" in found.refusal


def test_a_part_of_the_head_that_both_scans_show_is_enough() -> None:
    model, before = first()
    later, now = moved(1, slices=32)
    part = replace(now, array=now.array[7:25], origins_lps=now.origins_lps[7:25])
    found = register(part, before)
    assert found.refusal is None
    assert errors(found, later.scanner, model.scanner)[0] <= 1.0


@pytest.mark.parametrize("which", ["no skull", "air", "endless"])
def test_what_cannot_be_registered_is_refused(which: str) -> None:
    _, before = first()
    other = {
        "no skull": replace(before, array=np.minimum(before.array, 90)),
        "air": replace(before, array=np.full_like(before.array, -1000)),
        "endless": replace(before, origins_lps=before.origins_lps * np.array([1.0, 1.0, 1e6])),
    }[which]
    assert register(before, other).refusal is not None


def test_points_and_indices_are_inverse_in_tilted_and_uneven_scans() -> None:
    for volume in (
        scan(first()[0], slices=20, tilt=18.0),
        scan(first()[0], slices=20, gaps="uneven"),
        head(HEAD_FIRST),
    ):
        size = np.asarray(volume.array_zyx.shape)
        index = np.random.default_rng(1).uniform(0, size - 1, (100, 3))
        assert np.allclose(index_of(volume, volume.to_lps(index)), index)


def test_values_are_read_where_they_lie_and_nothing_beyond() -> None:
    volume = head(HEAD_FIRST, noise=0.0)
    points = volume.to_lps([[5, 50, 40], [10, 60, 48], [0, 50, 40], [5, 50, 4000]])
    points[2] -= 15 * volume.normal_lps
    values = sampled(volume, points, volume.array_zyx, outside=-7.0)
    assert list(values[:2]) == [volume.array_zyx[5, 50, 40], volume.array_zyx[10, 60, 48]]
    assert list(values[2:]) == [-7.0, -7.0]


def test_the_inverse_goes_back() -> None:
    _, before = first()
    found = register(moved(1, slices=32)[1], before)
    points = np.random.default_rng(2).uniform(-80, 80, (20, 3))
    assert np.allclose(found.inverse().apply(found.apply(points)), points)
