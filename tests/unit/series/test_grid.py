"""Slices on a grid: by projection on the normal, gaps by the rule of docs/contract.md, every finding named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contract.arrivals import make_slice
from hypothesis import given, settings
from hypothesis import strategies as st

from ichor.reasons import Reason
from ichor.series.grid import build_grid, slice_gaps
from ichor.types import Instance


def stack(positions: list[float], thickness: list[float] | float = 5.0, tilt: float = 0.0) -> list[Instance]:
    thick = thickness if isinstance(thickness, list) else [thickness] * len(positions)
    return [
        make_slice(number=n + 1, z=z, thickness=t, tilt=tilt)
        for n, (z, t) in enumerate(zip(positions, thick, strict=True))
    ]


def test_positions_are_projections_on_the_normal_when_the_table_moves_a_tilted_gantry() -> None:
    grid = build_grid(stack([0.0, 5.0, 10.0, 15.0], tilt=20.0))
    expected = np.cos(np.deg2rad(20.0)) * 5.0
    assert np.diff(grid.stacks[0].positions) == pytest.approx([expected] * 3, abs=1e-9)
    assert grid.gapless


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(9)))
def test_order_comes_from_positions_whatever_the_instance_numbers_say(order: list[int]) -> None:
    slices = stack([5.0 * n for n in range(9)])
    lying = [replace(slices[n], instance_number=order[n]) for n in order]
    found = build_grid(lying).in_order
    assert [i.sop_instance_uid for i in found] == [i.sop_instance_uid for i in slices]


def test_a_missing_slice_is_a_gap_at_its_place() -> None:
    grid = build_grid(stack([0.0, 5.0, 10.0, 20.0, 25.0, 30.0]))
    (gap,) = grid.gaps
    assert (gap.before, gap.after, gap.missing) == (10.0, 20.0, (15.0,))
    assert not grid.gapless


def test_two_missing_slices_in_one_hole_have_two_places() -> None:
    (gap,) = build_grid(stack([0.0, 5.0, 10.0, 25.0, 30.0, 35.0])).gaps
    assert gap.missing == (15.0, 20.0)


@pytest.mark.parametrize(
    ("wide", "is_gap"), [(7.4, False), (7.5, False), (7.6, True)]
)  # fmt: skip
def test_the_limit_is_one_and_a_half_medians_of_the_four_nearest(wide: float, is_gap: bool) -> None:
    positions = np.cumsum([0.0, 5, 5, wide, 5, 5, 5]).tolist()
    assert bool(slice_gaps(positions, [5.0] * 7)) is is_gap


def test_only_the_four_nearest_spacings_count() -> None:
    # 4 mm is 4 times the usual spacing of the series and the same as its neighbours'.
    positions = np.cumsum([0.0, 1, 1, 1, 1, 1, 1, 4, 4, 4, 4, 4]).tolist()
    gaps = slice_gaps(positions, [None] * 12)
    assert [g.before for g in gaps] == [6.0]


def test_the_third_and_fourth_nearest_spacing_count() -> None:
    # The two nearest alone, 6 mm each, would allow 9 mm; with 4 mm beyond them the median is 5 mm.
    positions = np.cumsum([0.0, 6, 4, 6, 8, 6, 4, 6]).tolist()
    assert [g.before for g in slice_gaps(positions, [None] * 8)] == [16.0]


def test_spacing_that_grows_with_slice_thickness_is_no_gap() -> None:
    positions = np.cumsum([0.0, 1, 1, 1, 1, 5, 5, 5, 5]).tolist()
    assert slice_gaps(positions, [1.0] * 5 + [5.0] * 4) == ()
    with_hole = np.cumsum([0.0, 1, 1, 1, 1, 5, 5, 10, 5]).tolist()
    (gap,) = slice_gaps(with_hole, [1.0] * 5 + [5.0] * 4)
    assert gap.missing == (19.0,)


def test_a_hole_where_thickness_changes_is_still_a_gap() -> None:
    positions = np.cumsum([0.0, 1, 1, 1, 1, 10, 5, 5, 5]).tolist()
    (gap,) = slice_gaps(positions, [1.0] * 5 + [5.0] * 4)
    assert (gap.before, gap.after) == (4.0, 14.0)


def test_two_slices_at_one_place_are_found_and_make_the_grid_uneven() -> None:
    slices = stack([0.0, 5.0, 5.004, 10.0])
    grid = build_grid(slices)
    assert grid.findings == (Reason.SAME_PLACE,)
    assert not grid.gapless


def test_every_position_twice_is_an_even_grid() -> None:
    slices = stack([0.0, 5.0, 10.0])
    again = [replace(i, sop_instance_uid=f"{i.sop_instance_uid}.9", temporal_position=2) for i in slices]
    grid = build_grid([*slices, *again])
    assert grid.gapless
    assert grid.stacks[0].multiplicity == (2, 2)


@pytest.mark.parametrize("missing", ["position_lps", "orientation_lps", "pixel_spacing"])
def test_missing_geometry_is_named(missing: str) -> None:
    slices = stack([0.0, 5.0, 10.0])
    geometry = slices[1].geometry
    assert geometry is not None
    slices[1] = replace(slices[1], geometry=replace(geometry, **{missing: None}))
    grid = build_grid(slices)
    assert grid.findings == (Reason.NO_GEOMETRY,)
    assert len(grid.in_order) == 3


def test_other_size_orientation_or_frame_is_a_stack_of_its_own() -> None:
    slices = stack([0.0, 5.0, 10.0])
    geometry = slices[2].geometry
    assert geometry is not None
    for change in ({"rows": 32}, {"frame_of_reference_uid": "1.9"}, {"orientation_lps": (0.0, 1, 0, 0, 0, -1)}):
        mixed = [*slices[:2], replace(slices[2], geometry=replace(geometry, **change))]  # type: ignore[arg-type]
        assert Reason.MIXED_GEOMETRY in build_grid(mixed).findings


def test_cosines_that_scatter_by_rounding_stay_one_stack() -> None:
    slices = stack([0.0, 5.0, 10.0])
    geometry = slices[2].geometry
    assert geometry is not None
    slices[2] = replace(slices[2], geometry=replace(geometry, orientation_lps=(0.9999999, 1e-5, 0, 0, 1, 0)))
    assert build_grid(slices).findings == ()
