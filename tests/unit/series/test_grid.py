"""Slices on a grid: by projection on the normal, gaps by the rule of docs/contract.md, every finding named."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from contract.arrivals import make_slice
from hypothesis import given, settings
from hypothesis import strategies as st

from ichor.reasons import Reason
from ichor.series.grid import build_grid, missing_texts, slice_gaps
from ichor.types import AxisName, Dialect, Diffusion, Frame, Instance, Kind, Slot, Tiling


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


def moved(images: list[Instance], **changes: object) -> list[Instance]:
    """The same images under other UIDs with other geometry."""
    found = []
    for image in images:
        assert image.geometry is not None
        geometry = replace(image.geometry, **changes)  # type: ignore[arg-type]
        found.append(replace(image, sop_instance_uid=f"{image.sop_instance_uid}.7", geometry=geometry))
    return found


def test_two_series_in_one_uid_are_told_by_their_frames_of_reference() -> None:
    slices = stack([0.0, 5.0, 10.0])
    grid = build_grid([*slices, *moved(slices, frame_of_reference_uid="1.9")])
    assert grid.findings == (Reason.MIXED_GEOMETRY,)
    assert [len(s.positions) for s in grid.stacks] == [3, 3]
    assert grid.cells.size == 0


def test_a_lone_slice_across_is_mixed_geometry_and_the_rest_is_the_first_stack() -> None:
    slices = stack([0.0, 5.0, 10.0])
    lone = moved(slices[:1], orientation_lps=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    grid = build_grid([*lone, *slices])
    assert grid.findings == (Reason.MIXED_GEOMETRY,)
    assert [len(s.positions) for s in grid.stacks] == [3, 1]


def test_groups_of_planes_of_one_size_are_stacks_of_one_array() -> None:
    slices = stack([0.0, 5.0, 10.0])
    across = [
        replace(i, geometry=replace(i.geometry, orientation_lps=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0),  # type: ignore[type-var]
                                    position_lps=(10.0 * k, 0.0, 0.0)))
        for k, i in enumerate(moved(slices))
    ]  # fmt: skip
    grid = build_grid([*across, *slices])
    assert [(axis.name, axis.values) for axis in grid.axes] == [(AxisName.STACK, (1, 2))]
    assert grid.shape == (2, 3, 64, 64)
    assert grid.findings == ()
    assert grid.gapless


def test_single_images_that_each_look_another_way_are_no_stacks_of_one_array() -> None:
    first = stack([0.0])
    turned = moved(first, orientation_lps=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    assert build_grid([*first, *turned]).findings == (Reason.MIXED_GEOMETRY,)


def with_stack(images: list[Instance], name: str) -> list[Instance]:
    return [replace(i, slot=Slot(stack=name), sop_instance_uid=f"{i.sop_instance_uid}.{name}") for i in images]


def test_parallel_stacks_are_told_by_their_stack_ids() -> None:
    low, high = stack([0.0, 4.0, 8.0]), stack([50.0, 54.0, 58.0])
    grid = build_grid(with_stack(high, "2") + with_stack(low, "10"))
    assert [(axis.name, axis.values) for axis in grid.axes] == [(AxisName.STACK, ("2", "10"))]
    assert [s.positions for s in grid.stacks] == [(50.0, 54.0, 58.0), (0.0, 4.0, 8.0)]
    assert grid.gapless


def test_slabs_that_continue_each_other_are_one_stack_whatever_their_ids() -> None:
    low, high = stack([0.0, 4.0, 8.0]), stack([12.0, 16.0, 20.0])
    grid = build_grid(with_stack(low, "1") + with_stack(high, "2"))
    assert (grid.shape, grid.axes) == ((6, 64, 64), ())


def test_slabs_with_a_wider_space_between_them_stay_stacks() -> None:
    low, high = stack([0.0, 4.0, 8.0]), stack([14.0, 18.0, 22.0])
    grid = build_grid(with_stack(low, "1") + with_stack(high, "2"))
    assert [(axis.name, axis.values) for axis in grid.axes] == [(AxisName.STACK, ("1", "2"))]


def test_an_image_missing_in_one_of_two_stacks_is_named_with_its_stack() -> None:
    low, high = stack([0.0, 4.0, 8.0, 12.0]), stack([50.0, 54.0, 58.0, 62.0])
    twice = [
        replace(i, sop_instance_uid=f"{i.sop_instance_uid}.{t}", slot=replace(i.slot, temporal_position=t))
        for i in with_stack(low, "1") + with_stack(high, "2")
        for t in (1, 2)
    ]
    grid = build_grid(i for i in twice if not i.sop_instance_uid.endswith("3.2.2"))
    (missing,) = grid.missing
    assert (missing.stack, missing.position, missing.indices) == (1, 58.0, (1, 1))


def test_stacks_side_by_side_are_not_two_slices_at_one_place() -> None:
    left = stack([0.0, 5.0, 10.0])
    right = [
        replace(i, geometry=replace(i.geometry, position_lps=(90.0, -110.0, 5.0 * k)))  # type: ignore[type-var]
        for k, i in enumerate(moved(left))
    ]
    grid = build_grid([*right, *left])
    assert [(axis.name, axis.size) for axis in grid.axes] == [(AxisName.STACK, 2)]
    assert {s.origins_lps[0][0] for s in grid.stacks} == {-110.0, 90.0}


def test_a_stack_knows_its_plane_and_where_its_slices_begin() -> None:
    (found,) = build_grid(stack([0.0, 5.0, 12.0], tilt=20.0)).stacks
    sine, cosine = np.sin(np.deg2rad(20.0)), np.cos(np.deg2rad(20.0))
    assert found.row_lps == (1.0, 0.0, 0.0)
    assert found.column_lps == pytest.approx((0.0, cosine, sine))
    assert found.normal_lps == pytest.approx((0.0, -sine, cosine))
    assert found.origins_lps == ((-110.0, -110.0, 0.0), (-110.0, -110.0, 5.0), (-110.0, -110.0, 12.0))
    assert (found.rows, found.columns, found.pixel_spacing) == (64, 64, (0.5, 0.5))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.lists(st.floats(0.5, 30), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_turned_and_uneven_stacks_are_exact(
    angles: tuple[float, float, float], spacings: list[float], random: Random
) -> None:
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles)):
        a, b = [k for k in range(3) if k != axis]
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    along = np.concatenate([[0.0], np.cumsum(spacings)])
    images = []
    for k, place in enumerate(along):
        made = make_slice(number=k + 1, z=0.0, thickness=None)
        assert made.geometry is not None
        geometry = replace(
            made.geometry,
            position_lps=tuple((turn @ [-100.0, -90.0, place]).tolist()),
            orientation_lps=(*turn[:, 0].tolist(), *turn[:, 1].tolist()),
        )
        images.append(replace(made, geometry=geometry))
    random.shuffle(images)
    grid = build_grid(images)
    assert np.diff(grid.stacks[0].positions) == pytest.approx(spacings, abs=1e-9)
    assert [i.instance_number for i in grid.in_order] == list(range(1, len(along) + 1))


@pytest.mark.parametrize(
    "orientation",
    [
        (0.0,) * 6,
        (1.0, 0, 0, 1.0, 0, 0),
        (1.0, 0, 0, 0.5, 0.866, 0),
        (float("nan"), 0, 0, 0, 1, 0),
        (1e200, 0, 0, 0, 1e200, 0),
    ],
)
def test_directions_that_span_no_plane_give_no_place(orientation: tuple[float, ...]) -> None:
    slices = stack([0.0, 5.0, 10.0])
    geometry = slices[1].geometry
    assert geometry is not None
    slices[1] = replace(slices[1], geometry=replace(geometry, orientation_lps=orientation))  # type: ignore[arg-type]
    assert build_grid(slices).placeless == (slices[1],)


def test_a_slice_a_light_year_away_names_a_bounded_number_of_missing_ones() -> None:
    grid = build_grid(stack([0.0, 5.0, 10.0, 15.0, 20.0, 9.46e18]))
    (gap,) = grid.gaps
    assert (gap.before, len(gap.missing), len(grid.missing)) == (20.0, 10_000, 10_000)
    assert gap.unnamed == pytest.approx(9.46e18 / 5, rel=1e-9)


def test_missing_slices_that_cannot_all_be_named_begin_at_the_usual_spacing_and_the_rest_is_a_number() -> None:
    grid = build_grid(stack([0.0, 5.0, 10.0, 15.0, 20.0, 9e6]))
    (gap,) = grid.gaps
    assert gap.missing[:3] == (25.0, 30.0, 35.0)
    assert gap.missing[-1] == 20.0 + 10_000 * 5.0
    assert (grid.lacking, gap.unnamed) == (1_799_995, 1_789_995)
    assert missing_texts(grid)[-1] == "1789995 more slices"
    holes = build_grid(stack([0.0, 5.0, 10.0, 20.0, 25.0, 30.0, 45.0, 50.0]))
    assert (holes.lacking, len(holes.missing)) == (3, 3)


def test_objects_without_images_have_no_place() -> None:
    slices = stack([0.0, 5.0])
    report = replace(slices[0], sop_instance_uid="1.5", geometry=None, pixels=None)
    grid = build_grid([report, *slices])
    assert (grid.placeless, grid.findings) == ((report,), (Reason.NO_GEOMETRY,))
    assert grid.in_order == (*slices, report)
    assert not build_grid([report]).exists


def test_tiles_of_a_mosaic_and_single_images_make_the_same_grid() -> None:
    weightings = [Diffusion(b_value=0.0), Diffusion(b_value=1000.0, direction_lps=(0.0, 1.0, 0.0))]
    single = [
        replace(make_slice(number=1 + 3 * v + k, z=4.0 * k, acquisition=None), slot=Slot(diffusion=d, time=8.0 * v))
        for v, d in enumerate(weightings)
        for k in range(3)
    ]
    mosaics = []
    for v, d in enumerate(weightings):
        made = make_slice(number=v + 1, z=0.0, acquisition=None)
        assert made.geometry is not None
        whole = replace(made.geometry, rows=128, columns=128)
        tiling = Tiling(
            count=3, across=2, rows=64, columns=64, first_position_lps=(-110.0, -110.0, 0.0), step_lps=(0.0, 0.0, 4.0)
        )
        mosaics.append(replace(made, geometry=whole, tiling=tiling, slot=Slot(diffusion=d, time=8.0 * v)))
    one, other = build_grid(single), build_grid(mosaics)
    assert (one.axes, one.shape) == (other.axes, other.shape)
    assert one.shape == (2, 3, 64, 64)
    assert one.stacks[0].origins_lps == other.stacks[0].origins_lps
    assert [other.planes[k].index for k in other.cells.ravel()] == [0, 1, 2, 0, 1, 2]
    assert [len(m) for m in other.stacks[0].members] == [2, 2, 2]
    assert other.in_order == tuple(mosaics)


def test_frames_of_one_object_make_a_grid() -> None:
    made = make_slice(number=1, z=0.0)
    assert made.geometry is not None
    frames = [
        Frame(
            geometry=replace(made.geometry, position_lps=(0.0, 0.0, 4.0 * k)),
            slot=Slot(echo_time=echo, kind=Kind.IMAGE),
        )
        for k in (2, 0, 1)
        for echo in (10.0, 5.0)
    ]
    trace = Frame(geometry=frames[0].geometry, slot=Slot(kind=Kind.TRACE))
    grid = build_grid([replace(made, frames=(*frames, trace), dialect=Dialect.ENHANCED)])
    assert [[grid.planes[k].index for k in volume] for volume in grid.cells.tolist()] == [[3, 5, 1], [2, 4, 0]]
    assert [plane.index for plane in grid.left_out] == [6]
    assert len(grid.in_order) == 1
    assert grid.stacks[0].multiplicity == (2, 2)
    assert grid.gapless


def test_a_frame_without_a_place_leaves_its_object_without_one() -> None:
    made = make_slice(number=1, z=0.0)
    assert made.geometry is not None
    here = Frame(geometry=made.geometry, slot=Slot())
    nowhere = Frame(geometry=replace(made.geometry, position_lps=None), slot=Slot())
    whole = replace(made, frames=(here, nowhere))
    grid = build_grid([whole])
    assert (grid.placeless, grid.in_order, grid.gapless) == ((whole,), (whole,), False)


def test_memory_and_time_stay_bounded_where_every_image_differs() -> None:
    random = np.random.default_rng(5)
    images = [
        replace(
            i,
            slot=Slot(echo_time=float(random.uniform(1, 100)), time=float(random.uniform(0, 80_000)), acquisition=n),
            geometry=replace(i.geometry, position_lps=(0.0, 0.0, float(n % 3))),  # type: ignore[type-var]
        )
        for n, i in enumerate(make_slice(number=n) for n in range(600))
    ]
    grid = build_grid(images)
    assert grid.findings == (Reason.NO_FULL_GRID,)
    assert grid.cells.size == 0
    assert len(grid.in_order) == 600
