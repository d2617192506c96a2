"""The plane between left and right: of turned, mirrored, cut and otherwise stored heads, and of what is hardly a head."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from unit.pipelines.heads import FEET_FIRST, HEAD_FIRST, PRONE, TILTED, TRANSPOSED, UNEVEN, Layout, head

from ichor.arrays import Float64Array, Volume
from phantoms.acquisition import Grid
from phantoms.head import HeadModel, sample
from pipelines.brain import Intracranial, intracranial_space
from pipelines.midline import MARGIN_MM, TURNS, Midline, midlines

# Feet first and prone on its side, as their scanners store them.
FEET_FIRST_PRONE = Layout(row=(1.0, 0.0, 0.0), column=(0.0, -1.0, 0.0))
ON_THE_RIGHT_SIDE = Layout(row=(0.0, 1.0, 0.0), column=(-1.0, 0.0, 0.0), rows=96, columns=112)
FEET_FIRST_ON_THE_RIGHT_SIDE = Layout(row=(0.0, -1.0, 0.0), column=(-1.0, 0.0, 0.0), rows=96, columns=112)
LAYOUTS = {
    "HFS": HEAD_FIRST, "HFP": PRONE, "FFS": FEET_FIRST, "FFP": FEET_FIRST_PRONE, "HFDL": TRANSPOSED,
    "HFDR": ON_THE_RIGHT_SIDE, "FFDR": FEET_FIRST_ON_THE_RIGHT_SIDE, "tilted": TILTED, "uneven": UNEVEN,
}  # fmt: skip


def planes(volume: Volume) -> tuple[Midline, ...]:
    return midlines(volume, intracranial_space(volume))


def the(volume: Volume) -> Midline:
    (plane,) = planes(volume)
    return plane


@cache
def asymmetric() -> tuple[Volume, Float64Array]:
    """A synthetic head of real anatomy turned by some 32 degrees, and points at the left of its middle (2, 3)."""
    model = HeadModel.draw(39_003, bleed=None)
    angle = np.deg2rad(30.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    model = replace(model, scanner=replace(model.scanner, pose=turn @ model.scanner.pose))
    grid = Grid(rows=130, columns=120, pixel_mm=2.0, z_mm=tuple(np.arange(-70.0, 95, 5)), thickness_mm=(5.0,) * 33)
    volume = Volume(
        array=sample(model, grid).hu_zyx, origins_lps=grid.origins(), row_lps=grid.row_direction,
        column_lps=grid.column_direction, pixel_spacing=(2.0, 2.0), slice_thickness=5.0, frame_of_reference_uid=None,
        unit="HU", sources=(),
    )  # fmt: skip
    own = np.array([[15.0, -60.0, 10.0], [15.0, 70.0, 10.0]])
    return volume, own @ model.scanner.pose.T + np.asarray(model.scanner.shift_mm)


@pytest.mark.parametrize("turn", [-44.0, -40.0, 40.0])
def test_an_ellipsoid_is_split_along_and_never_across(turn: float) -> None:
    plane = the(head(turn_deg=turn))
    assert np.rad2deg(np.arctan(plane.turn)) == pytest.approx(-turn, abs=2.0)
    assert plane.lean == pytest.approx(0.0, abs=0.03)


def test_a_turned_head_of_real_anatomy_has_its_own_left() -> None:
    volume, left = asymmetric()
    assert left[0, 0] > 30 + left[1, 0] or left[1, 0] > 30 + left[0, 0], "x alone would not tell"
    assert the(volume).left_of(left) == pytest.approx([15.0, 15.0], abs=MARGIN_MM)


def test_what_is_left_lies_right_in_the_mirror() -> None:
    volume, left = asymmetric()
    # The picture reversed, at the same places.
    mirrored = replace(volume, array=np.ascontiguousarray(volume.array[:, :, ::-1]))
    width = (volume.array.shape[2] - 1) * volume.pixel_spacing[1]
    there = left.copy()
    there[:, 0] = 2 * volume.origins_lps[0, 0] + width - left[:, 0]
    assert the(mirrored).left_of(there) == pytest.approx(-the(volume).left_of(left), abs=1.5)
    assert np.all(the(mirrored).left_of(there) < -MARGIN_MM)


@pytest.mark.parametrize("turn", [0.0, 25.0])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_plane_does_not_depend_on_how_the_head_is_stored(name: str, turn: float) -> None:
    points = np.array([[40.0, 0.0, 0.0], [0.0, -60.0, 20.0], [0.0, 60.0, -20.0], [-30.0, 20.0, 40.0]])
    stored = the(head(LAYOUTS[name], turn_deg=turn)).left_of(points)
    assert stored == pytest.approx(the(head(turn_deg=turn)).left_of(points), abs=2.0)


@pytest.mark.parametrize("stored", ["rows", "columns", "slices"])
def test_a_stored_order_changes_no_side_of_a_head_of_real_anatomy(stored: str) -> None:
    volume, left = asymmetric()
    assert the(reversed_along(volume, stored)).left_of(left) == pytest.approx(the(volume).left_of(left), abs=1.0)


def reversed_along(volume: Volume, axis: str) -> Volume:
    """The same head in the same place, stored the other way round; slices go on along the normal."""
    array, origins, row, column = volume.array, volume.origins_lps, volume.row_lps, volume.column_lps
    dy, dx = volume.pixel_spacing
    if axis in ("rows", "slices"):
        origins, column = origins + (array.shape[1] - 1) * dy * column, -column
        array = array[:, ::-1]
    if axis in ("columns", "slices"):
        origins, row = origins + (array.shape[2] - 1) * dx * row, -row
        array = array[:, :, ::-1]
    if axis != "slices":
        array, origins = array[::-1], origins[::-1]
    return replace(volume, array=np.ascontiguousarray(array), origins_lps=origins, row_lps=row, column_lps=column)


def test_of_a_round_skull_every_turn_is_possible() -> None:
    volume = head()
    wide = replace(volume, pixel_spacing=(2.0, 2.5), origins_lps=volume.origins_lps * (1.25, 1, 1))
    assert sorted(one.turn for one in planes(wide)) == sorted(TURNS)


def test_half_a_head_has_no_plane() -> None:
    """What bone still encloses is hardly like its mirror image by any plane."""
    volume = head()
    space = intracranial_space(volume)
    columns = space.blocks_zyx.shape[2]
    kept = np.arange(columns) < 0.55 * columns
    half = Intracranial(
        blocks_zyx=space.blocks_zyx & kept, bone_zyx=space.bone_zyx & kept, block=space.block, volume_ml=600.0
    )
    assert midlines(volume, half) == ()
