"""Axes beyond space are found from what headers say; what fills no grid is named, a few lost images are holes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.series.series_images import cells_of, direction, image, volumes

from ichor.reasons import Reason
from ichor.series.grid import Grid, Missing, build_grid, missing_texts
from ichor.series.labels import number_codes
from ichor.types import AxisName, Component, Diffusion, Instance, Kind

B0 = Diffusion(b_value=0.0)


def weighted(k: int, b: float = 1000.0) -> Diffusion:
    return Diffusion(b_value=b, direction_lps=direction(k))


def axes_of(grid: Grid) -> list[tuple[str, tuple[Any, ...]]]:
    return [(axis.name.value, axis.values) for axis in grid.axes]


def time_series(times: int = 60, slices: int = 20, **slot: Callable[[int, int], Any]) -> list[Instance]:
    """Volume by volume; ``slot`` gives a field from (volume, slice)."""
    return volumes([{}] * times, slices=slices, per_image=slot)


# --- one axis ---------------------------------------------------------------------------------------------------------


def test_one_image_per_position_has_no_axis_whatever_else_differs() -> None:
    images = [image(k, z=4.0 * k, slot={"acquisition": k, "time": 10.0 * k, "echo_time": 5.0 + k}) for k in range(6)]
    grid = build_grid(images)
    assert (axes_of(grid), grid.shape, grid.findings, grid.gapless) == ([], (6, 64, 64), (), True)


def test_temporal_positions_with_times_that_ascend_are_seconds_after_the_first() -> None:
    grid = build_grid(time_series(temporal_position=lambda v, _: v + 1, time=lambda v, s: 900.0 + 1.8 * v + 0.09 * s))
    assert axes_of(grid) == [("time", tuple(round(1.8 * v, 6) for v in range(60)))]
    assert grid.shape == (60, 20, 64, 64)
    assert grid.gapless


def test_temporal_positions_whose_times_do_not_ascend_stay_temporal_positions() -> None:
    grid = build_grid(time_series(5, 4, temporal_position=lambda v, _: v + 1, time=lambda v, _: 100.0 - v))
    assert axes_of(grid) == [("temporal_position", (1, 2, 3, 4, 5))]


def test_acquisition_numbers_without_times_are_an_axis_of_their_own() -> None:
    assert axes_of(build_grid(time_series(3, 4, acquisition=lambda v, _: 10 * v))) == [("acquisition", (0, 10, 20))]


def test_acquisition_numbers_that_only_repeat_what_the_echo_says_make_no_axis() -> None:
    images = volumes([{"echo_time": 5.0}, {"echo_time": 10.0}], slices=4, per_image={"acquisition": lambda v, _: v})
    assert axes_of(build_grid(images)) == [("echo", (5.0, 10.0))]


def test_times_of_their_own_for_every_slice_are_ranked_slice_by_slice() -> None:
    # Interleaved slices: the last of a volume is later than the first of the next one is not.
    grid = build_grid(time_series(10, 6, time=lambda v, s: 50.0 + 2.0 * v + (s % 2) + 0.2 * s))
    assert axes_of(grid) == [("time", tuple(2.0 * v for v in range(10)))]
    assert [grid.planes[k].slot.time for k in grid.cells[3]] == [50.0 + 6.0 + (s % 2) + 0.2 * s for s in range(6)]


def to_and_fro(times: int, *, slices: int = 6) -> list[Instance]:
    """Slices measured upwards and downwards in turn, numbered as they were measured."""
    images = time_series(times, slices, time=lambda v, s: 50.0 + 2.0 * v + 0.3 * (slices - 1 - s if v % 2 else s))
    by_time = sorted(images, key=lambda i: i.slot.time or 0.0)
    return [replace(i, instance_number=k + 1) for k, i in enumerate(by_time)]


def test_a_table_that_goes_to_and_fro_makes_volumes() -> None:
    images = to_and_fro(9)
    grid = build_grid(images)
    assert axes_of(grid) == [("time", tuple(2.0 * v for v in range(9)))]
    times = np.array([[grid.planes[k].slot.time for k in volume] for volume in grid.cells])
    assert times[3] == pytest.approx([56.0 + 0.3 * (5 - s) for s in range(6)])
    assert (times[:-1].max(axis=1) < times[1:].min(axis=1)).all()


@pytest.mark.parametrize("seed", range(20))
def test_images_lost_to_and_fro_are_never_put_in_a_wrong_volume(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = to_and_fro(9)
    # One of every place, so that all hold as many.
    lost = {6 * int(v) + (5 - s if v % 2 else s) for s, v in enumerate(rng.integers(0, 9, 6))}
    grid = build_grid([i for k, i in enumerate(images) if k not in lost])
    for volume in grid.cells.reshape(-1, 6) if grid.arranged else ():
        times = [grid.planes[k].slot.time or 0.0 for k in volume if k >= 0]
        assert max(times) - min(times) < 1.51


def test_a_series_over_midnight_goes_on() -> None:
    grid = build_grid(time_series(6, 3, time=lambda v, _: (86_390.0 + 5.0 * v) % 86_400.0))
    assert axes_of(grid) == [("time", (0.0, 5.0, 10.0, 15.0, 20.0, 25.0))]


def test_image_types_make_an_axis_where_nothing_else_differs() -> None:
    images = volumes([{"image_type": "WATER"}, {"image_type": "FAT"}], slices=4)
    assert axes_of(build_grid(images)) == [("image_type", ("FAT", "WATER"))]


def test_images_that_lack_a_label_that_others_have_are_told_as_such() -> None:
    images = volumes([{"echo_time": 5.0}, {}], slices=4)
    assert axes_of(build_grid(images)) == [("echo", (5.0, "not stated"))]


def test_echo_times_that_differ_by_rounding_are_one_echo() -> None:
    images = volumes([{}] * 2, slices=4, per_image={"echo_time": lambda v, s: 5.0 * (v + 1) + (s % 2) * 1e-4})
    assert axes_of(build_grid(images)) == [("echo", (5.0, 10.0))]


def test_instance_numbers_tell_volumes_apart_only_where_nothing_else_does_and_are_said_to() -> None:
    grid = build_grid(time_series(3, 5))
    assert axes_of(grid) == [("repetition", (1, 2, 3))]
    assert grid.notes == ("volumes told apart by instance number only",)
    assert [grid.planes[k].instance.instance_number for k in grid.cells[1]] == [6, 7, 8, 9, 10]


def test_instance_numbers_without_a_pattern_arrange_nothing() -> None:
    numbers = iter(np.random.default_rng(3).permutation(15).tolist())
    grid = build_grid([replace(i, instance_number=next(numbers)) for i in time_series(3, 5)])
    assert grid.findings == (Reason.SAME_PLACE,)
    assert grid.axes == ()
    assert grid.cells.size == 0


def test_times_that_only_some_volumes_state_are_no_axis_of_time() -> None:
    grid = build_grid(time_series(2, 4, time=lambda v, _: 36_000.0 if v == 0 else None))
    assert axes_of(grid) == [("repetition", (1, 2))]
    assert grid.notes == ("volumes told apart by instance number only",)


@pytest.mark.parametrize("field", ["time", "echo_time"])
@pytest.mark.parametrize("value", [1.7e308, float("inf"), float("nan")])
def test_a_number_that_no_scanner_states_is_not_stated(field: str, value: float) -> None:
    grid = build_grid(time_series(2, 4, **{field: lambda v, _: value if v else 1.0}))
    expected = ("echo", (1.0, "not stated")) if field == "echo_time" else ("repetition", (1, 2))
    assert axes_of(grid) == [expected]


def test_numbers_of_any_size_have_codes() -> None:
    label = number_codes(np.array([1e300, 2.0, -1e300, np.nan, 2.5]))
    assert label.values[1:3] == (2, 2.5)
    assert label.codes.tolist() == [3, 1, 0, 4, 2]


# --- several axes -----------------------------------------------------------------------------------------------------


def test_components_and_echoes_make_two_axes_in_their_order() -> None:
    labels = [
        {"echo_time": echo, "component": component}
        for echo in (10.0, 5.0)
        for component in (Component.PHASE, Component.MAGNITUDE)
    ]
    grid = build_grid(volumes(labels, slices=4))
    assert axes_of(grid) == [("component", ("magnitude", "phase")), ("echo", (5.0, 10.0))]
    assert grid.shape == (2, 2, 4, 64, 64)
    slot = grid.planes[int(grid.cells[1, 0, 2])].slot
    assert (slot.component, slot.echo_time) == (Component.PHASE, 5.0)


def test_phase_of_one_echo_only_makes_no_grid() -> None:
    labels: list[dict[str, Any]] = [{"echo_time": e, "component": Component.MAGNITUDE} for e in (5.0, 10.0, 15.0)]
    labels.append({"echo_time": 5.0, "component": Component.PHASE})
    grid = build_grid(volumes(labels, slices=4, per_image={"time": lambda v, _: 10.0 * v}))
    assert grid.findings == (Reason.NO_FULL_GRID,)
    assert (grid.axes, grid.cells.size, grid.missing) == ((), 0, ())
    assert len(grid.in_order) == 16


def test_a_combination_of_labels_that_more_than_a_tenth_lack_makes_no_grid() -> None:
    kinds = [
        {"component": component, "echo_time": echo}
        for component in (Component.MAGNITUDE, Component.PHASE)
        for echo in (5.0, 10.0, 15.0, 20.0)
    ]
    assert build_grid(volumes(kinds[:-1], slices=3)).findings == (Reason.NO_FULL_GRID,)
    assert build_grid(volumes(kinds, slices=3)).shape[:2] == (2, 4)


def test_weak_isotropic_weighting_beside_directions_is_left_out() -> None:
    labels = [
        {"diffusion": Diffusion(b_value=0.0)},
        {"diffusion": Diffusion(b_value=1000.0, direction_lps=direction(1))},
        {"diffusion": Diffusion(b_value=300.0, isotropic=True)},
    ]
    grid = build_grid(volumes(labels, slices=3))
    assert (grid.shape[:2], len(grid.left_out)) == ((2, 3), 3)


def test_echoes_repeated_in_time_make_both_axes() -> None:
    labels = [{"echo_time": echo, "temporal_position": t} for t in (1, 2, 3) for echo in (5.0, 10.0)]
    grid = build_grid(volumes(labels, slices=4))
    assert axes_of(grid) == [("echo", (5.0, 10.0)), ("temporal_position", (1, 2, 3))]


def test_phases_of_a_cycle_in_several_acquisitions_make_two_axes_where_no_time_is_stated() -> None:
    labels = [{"temporal_position": t, "acquisition": a} for a in (1, 2) for t in (1, 2, 3)]
    grid = build_grid(volumes(labels, slices=4))
    assert axes_of(grid) == [("temporal_position", (1, 2, 3)), ("acquisition", (1, 2))]


# --- diffusion --------------------------------------------------------------------------------------------------------


def test_repeated_b0_are_volumes_of_one_diffusion_axis_in_order_of_time() -> None:
    labels = [{"diffusion": d} for d in (B0, weighted(1), weighted(2), B0, weighted(3))]
    images = volumes(labels, slices=5, per_image={"time": lambda v, s: 100.0 + 8.0 * v + 0.3 * s})
    grid = build_grid(images)
    assert axes_of(grid) == [("diffusion", (0.0, 1000.0, 1000.0, 0.0, 1000.0))]
    found = [[grid.planes[k].instance.instance_number for k in volume] for volume in grid.cells.tolist()]
    assert found == [[5 * v + s + 1 for s in range(5)] for v in range(5)]


def test_repeats_of_whole_diffusion_sets_stay_on_one_axis() -> None:
    labels = [{"diffusion": d, "temporal_position": t} for t in (1, 2) for d in (B0, weighted(1), weighted(2))]
    grid = build_grid(volumes(labels, slices=4))
    assert axes_of(grid) == [("diffusion", (0.0, 1000.0, 1000.0, 0.0, 1000.0, 1000.0))]


def test_volumes_go_by_temporal_position_then_vendor_order_then_time_then_number() -> None:
    one, two, three = weighted(1), weighted(2), weighted(3)
    labels = [{"diffusion": d} for d in (one, two, three)]
    orders: list[tuple[dict[str, Callable[[int, int], Any]], list[int]]] = [
        ({}, [0, 1, 2]),
        ({"acquisition": lambda v, _: (2, 1, 3)[v]}, [1, 0, 2]),
        ({"acquisition": lambda v, _: v, "time": lambda v, _: (2.0, 3.0, 1.0)[v]}, [2, 0, 1]),
        ({"time": lambda v, _: v, "order": lambda v, _: ((2, 1), (1, 9), (1, 3))[v]}, [2, 1, 0]),
        ({"order": lambda v, _: (v,), "temporal_position": lambda v, _: (3, 1, 2)[v]}, [1, 2, 0]),
    ]
    for per_image, expected in orders:
        grid = build_grid(volumes(labels, slices=4, per_image=per_image))
        found = [grid.planes[int(k)].slot.diffusion for k in grid.cells[:, 0]]
        assert found == [(one, two, three)[v] for v in expected]


def test_directions_that_differ_by_rounding_are_one_volume() -> None:
    def rounded(v: int, s: int) -> Diffusion:
        x, y, z = direction(v)
        return Diffusion(b_value=1000.0, direction_lps=(round(x, 6 - s % 2), y, z))

    grid = build_grid(volumes([{}] * 3, slices=4, per_image={"diffusion": rounded}))
    assert grid.shape[:2] == (3, 4)


def test_trace_images_beside_directional_ones_are_left_out_without_a_finding() -> None:
    labels: list[dict[str, Any]] = [{"diffusion": d} for d in (B0, weighted(1), weighted(2))]
    labels.append({"diffusion": Diffusion(b_value=1000.0, isotropic=True), "kind": Kind.TRACE})
    grid = build_grid(volumes(labels, slices=4))
    assert axes_of(grid) == [("diffusion", (0.0, 1000.0, 1000.0))]
    assert (len(grid.left_out), grid.findings, grid.gapless) == (4, (), True)
    assert len(grid.in_order) == 16


def test_a_series_of_b0_and_trace_is_one_array() -> None:
    labels: list[dict[str, Any]] = [{"diffusion": B0}]
    labels.append({"diffusion": Diffusion(b_value=1000.0, isotropic=True), "kind": Kind.TRACE})
    assert axes_of(build_grid(volumes(labels, slices=4))) == [("diffusion", (0.0, 1000.0))]


def test_a_series_of_nothing_but_adc_is_an_array_of_adc() -> None:
    grid = build_grid(volumes([{"kind": Kind.ADC}], slices=4))
    assert (grid.shape, grid.left_out) == ((4, 64, 64), ())


def test_without_images_the_most_frequent_kind_makes_the_array() -> None:
    maps = volumes([{"kind": Kind.ADC, "image_type": name} for name in ("A", "B")], slices=4)
    trace = replace(image(50, z=0.0, slot={"kind": Kind.TRACE, "diffusion": B0}), instance_number=50)
    grid = build_grid([*maps, trace])
    assert (grid.shape, [p.instance for p in grid.left_out]) == ((2, 4, 64, 64), [trace])
    assert grid.notes == ("no part of the array: 1 of kind trace",)


def test_a_picture_without_a_place_beside_the_images_is_left_out() -> None:
    slices = volumes([{}], slices=4)
    capture = image(99, z=0.0, kind=Kind.SECONDARY_CAPTURE, geometry={"position_lps": None})
    grid = build_grid([*slices, capture])
    assert (grid.shape, grid.findings, [p.instance for p in grid.left_out]) == ((4, 64, 64), (), [capture])


# --- holes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slot",
    [
        {"temporal_position": lambda v, _: v + 1},
        {"time": lambda v, _: 100.0 + 1.8 * v},
        {"time": lambda v, s: 100.0 + 1.8 * v + 0.09 * s},
        {"acquisition": lambda v, _: v + 1},
        {},
    ],
    ids=["temporal position", "time", "time of each slice", "acquisition", "instance number"],
)
@pytest.mark.parametrize("lost", [[(3, 7), (20, 0), (59, 19)], [(0, 4)], [(59, 10)], [(0, 1), (0, 2), (30, 2)]])
def test_lost_images_of_a_time_series_are_named(
    slot: dict[str, Callable[[int, int], Any]], lost: list[tuple[int, int]]
) -> None:
    images = time_series(**slot)
    kept = [i for k, i in enumerate(images) if divmod(k, 20) not in lost]
    grid = build_grid(kept)
    assert grid.shape[:2] == (60, 20)
    assert [(m.indices[0], m.position) for m in grid.missing] == [(v, 3.0 * s) for v, s in sorted(lost)]
    assert not grid.gapless
    whole = build_grid(images)
    for v, s in ((0, 0), (3, 6), (58, 1), (30, 19)):
        here, there = int(grid.cells[v, s]), int(whole.cells[v, s])
        assert grid.planes[here].instance is whole.planes[there].instance


def test_a_last_volume_of_which_a_part_was_sent_is_a_volume_with_holes() -> None:
    images = time_series(time=lambda v, s: 100.0 + 1.8 * v + 0.09 * s)[: 59 * 20 + 5]
    grid = build_grid(images)
    assert grid.shape[:2] == (60, 20)
    assert [m.position for m in grid.missing] == [3.0 * s for s in range(5, 20)]
    assert {m.coordinates for m in grid.missing} == {((AxisName.TIME, 106.2),)}


def test_a_lost_image_of_a_repeated_b0_is_named_by_its_volume() -> None:
    labels = [{"diffusion": d} for d in (B0, weighted(1), weighted(2), B0, weighted(3))]
    images = volumes(labels, slices=5, per_image={"time": lambda v, s: 100.0 + 8.0 * v + 0.3 * s})
    for lost, expected in ((0 * 5 + 2, 0), (3 * 5 + 2, 3)):
        grid = build_grid([i for k, i in enumerate(images) if k != lost])
        assert grid.missing == (
            Missing(stack=0, position=6.0, coordinates=((AxisName.DIFFUSION, 0.0),), indices=(expected,)),
        )


def test_a_slice_position_lost_in_every_volume_is_missing_in_each() -> None:
    images = [i for k, i in enumerate(time_series(4, 7, temporal_position=lambda v, _: v + 1)) if k % 7 != 3]
    grid = build_grid(images)
    assert [(m.position, m.indices) for m in grid.missing] == [(9.0, (v,)) for v in range(4)]


def test_times_of_which_every_slice_lost_another_are_not_put_in_a_wrong_order() -> None:
    lost = {(3 * s + 5, s) for s in range(12)}
    images = time_series(60, 12, time=lambda v, s: 100.0 + 1.8 * v + 0.09 * s)
    grid = build_grid([i for k, i in enumerate(images) if divmod(k, 12) not in lost])
    for volume in grid.cells.tolist():
        numbers = {(n - 1) // 12 for k in volume if k >= 0 if (n := grid.planes[k].instance.instance_number)}
        assert len(numbers) == 1
    assert {(m.indices[0], round(m.position / 3.0)) for m in grid.missing} == (lost if grid.arranged else set())
    assert grid.arranged or grid.findings == (Reason.NO_FULL_GRID,)


def test_missing_slots_in_words() -> None:
    images = time_series(temporal_position=lambda v, _: v + 1)
    grid = build_grid([i for k, i in enumerate(images) if k not in (3 * 20 + 6, 3 * 20 + 7, 9 * 20)])
    assert missing_texts(grid) == (
        "slices at 18.0, 21.0 mm of temporal position 4 of 60",
        "slice at 0.0 mm of temporal position 10 of 60",
    )
    assert missing_texts(grid, most=1) == (
        "slices at 18.0 mm and 1 more of temporal position 4 of 60",
        "1 more slice",
    )
    plain = [image(k, z=5.0 * k) for k in (0, 1, 3, 4)]
    assert missing_texts(build_grid(plain)) == ("slice at 10.0 mm",)


def test_two_ranges_that_share_a_slice_are_two_slices_at_one_place() -> None:
    first = [image(k, z=5.0 * k, slot={"acquisition": 1, "time": 10.0 + k}) for k in range(10)]
    second = [image(100 + k, z=5.0 * (9 + k), slot={"acquisition": 2, "time": 60.0 + k}) for k in range(10)]
    assert build_grid([*first, *second]).findings == (Reason.SAME_PLACE,)


def test_a_slice_sent_again_under_another_uid_is_two_slices_at_one_place() -> None:
    images = time_series(4, 5, temporal_position=lambda v, _: v + 1, time=lambda v, _: 10.0 * v)
    again = replace(images[7], sop_instance_uid="1.2.3.999")
    assert build_grid([*images, again]).findings == (Reason.SAME_PLACE,)


# --- whatever the order of arrival ------------------------------------------------------------------------------------


def _scenes() -> list[list[Instance]]:
    diffusion = [{"diffusion": d} for d in (B0, weighted(1), weighted(2), B0)]
    scenes = [
        time_series(6, 5, time=lambda v, s: 100.0 + 1.8 * v + 0.3 * s),
        volumes(diffusion, slices=5, per_image={"time": lambda v, s: 100.0 + 8.0 * v + 0.3 * s}),
        time_series(3, 5),
        volumes([{"echo_time": e} for e in (5.0, 10.0)], slices=8),
    ]
    return [*scenes, scenes[0][:-4], scenes[1][1:], [i for k, i in enumerate(scenes[3]) if k % 8 != 3]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_grid_does_not_depend_on_the_order_of_arrival(data: st.DataObject) -> None:
    scene = data.draw(st.sampled_from(_scenes()))
    shuffled = data.draw(st.permutations(scene))
    expected, found = build_grid(scene), build_grid(shuffled)
    assert cells_of(found) == cells_of(expected)
    assert (found.axes, found.missing, found.findings) == (expected.axes, expected.missing, expected.findings)
    assert [i.sop_instance_uid for i in found.in_order] == [i.sop_instance_uid for i in expected.in_order]
    assert [s.positions for s in found.stacks] == [s.positions for s in expected.stacks]
