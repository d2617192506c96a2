"""Places in synthetic heads of real anatomy, and that nothing is said where it is not certain."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from unit.pipelines.heads import FEET_FIRST, HEAD_FIRST, PRONE, TRANSPOSED, Layout, head

from ichor.arrays import Volume
from phantoms.acquisition import Grid
from phantoms.bleeds import Bleed
from phantoms.head import HeadModel, sample
from pipelines.brain import intracranial_space
from pipelines.location import HeadFrame, Location
from pipelines.midline import midlines


def frame(volume: Volume) -> HeadFrame:
    space = intracranial_space(volume)
    (midline,) = midlines(volume, space)
    return HeadFrame.of(volume, space, midline)


@cache
def located(site: str, seed: int) -> Location:
    """Of the true mask of a bleed of 6 mL."""
    grid = Grid(rows=120, columns=104, pixel_mm=2.0, z_mm=tuple(np.arange(-80.0, 95, 5)), thickness_mm=(5.0,) * 35)
    made = sample(HeadModel.draw(seed, bleed=Bleed((6.0,), sites=(site,))), grid)
    volume = Volume(
        array=made.hu_zyx, origins_lps=grid.origins(), row_lps=grid.row_direction, column_lps=grid.column_direction,
        pixel_spacing=(2.0, 2.0), slice_thickness=5.0, frame_of_reference_uid=None, unit="[hnsf'U]", sources=(),
    )  # fmt: skip
    return frame(volume).locate(made.lesions[0].centre_lps_mm)


@pytest.mark.parametrize("seed", [39_001, 39_002])
@pytest.mark.parametrize(
    ("site", "wrong"),
    [
        ("putamen", {Location.LOBAR, Location.INFRATENTORIAL}),
        ("lobar", {Location.INFRATENTORIAL}),
        ("cerebellum", {Location.LOBAR, Location.DEEP, Location.SUPRATENTORIAL}),
        ("pons", {Location.LOBAR, Location.DEEP, Location.SUPRATENTORIAL}),
    ],
)
def test_no_place_is_said_to_be_another(site: str, wrong: set[Location], seed: int) -> None:
    assert located(site, seed) not in wrong


def test_places_far_from_any_limit_are_told() -> None:
    assert located("putamen", 39_001) is Location.DEEP
    assert located("cerebellum", 39_001) is Location.INFRATENTORIAL


@pytest.mark.parametrize("layout", [PRONE, FEET_FIRST, TRANSPOSED])
def test_a_place_does_not_depend_on_how_the_head_is_stored(layout: Layout) -> None:
    point = (30.0, 0.0, 5.0)
    assert frame(head(layout)).place(point) == pytest.approx(frame(head(HEAD_FIRST)).place(point), abs=0.03)


def test_a_scan_that_ends_below_the_vertex_moves_no_place_by_much() -> None:
    point = (30.0, 0.0, 5.0)
    whole, cut = (frame(head(Layout(z=tuple(np.arange(-65.0, end, 5.0))))).place(point) for end in (90.0, 50.0))
    assert cut[2] == pytest.approx(whole[2], abs=0.08)


def test_between_the_limits_nothing_is_said() -> None:
    whole = frame(head())
    length = whole.back - whole.front
    ahead = whole.front + float(whole.midline.centre[1])
    near_tentorium = (10.0, ahead + 0.6 * length, whole.top - 0.53 * length)
    assert whole.locate(near_tentorium) is Location.UNCERTAIN
    assert Location.UNCERTAIN.infratentorial is None
    between = (10.0, ahead + 0.64 * length, whole.top - 0.4 * length)
    assert whole.locate(between) is Location.SUPRATENTORIAL
    assert Location.SUPRATENTORIAL.infratentorial is False


def test_a_place_turns_with_the_head() -> None:
    angle = np.deg2rad(40.0)
    x, y, z = 28.0, -5.0, 5.0
    turned = (x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle), z)
    assert frame(head(turn_deg=40.0)).place(turned) == pytest.approx(frame(head()).place((x, y, z)), abs=0.03)
