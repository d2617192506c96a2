"""Gradient tables: what volumes agree on, in patient coordinates and in FSL's convention; else a named reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.series.series_images import direction, volumes

from ichor.reasons import Reason
from ichor.series.gradients import fsl_bvecs
from ichor.series.grid import build_grid
from ichor.series.shells import Shell, shells
from ichor.types import Diffusion, GradientTable

B0 = Diffusion(b_value=0.0, source="(0018,9087)")


def weighted(k: int, b: float = 1000.0) -> Diffusion:
    return Diffusion(b_value=b, direction_lps=direction(k), source="(0018,9087) (0018,9089)")


def table_of(*diffusions: Diffusion | None) -> GradientTable | Reason | None:
    return build_grid(volumes([{"diffusion": d} for d in diffusions], slices=3)).gradients


def test_a_table_has_every_volume_in_order_with_its_direction_and_source() -> None:
    assert table_of(B0, weighted(4), weighted(2, 700.0)) == GradientTable(
        b_values=(0.0, 1000.0, 700.0),
        directions_lps=((0.0, 0.0, 0.0), direction(4), direction(2)),
        source="(0018,9087), (0018,9087) (0018,9089)",
    )


def test_a_direction_of_b0_says_nothing() -> None:
    table = table_of(Diffusion(b_value=0.0, direction_lps=(1.0, 0.0, 0.0)), weighted(1))
    assert isinstance(table, GradientTable)
    assert table.directions_lps[0] == (0.0, 0.0, 0.0)


def test_no_diffusion_axis_has_no_table() -> None:
    assert build_grid(volumes([{"echo_time": 5.0}, {"echo_time": 9.0}], slices=3)).gradients is None


def test_trace_images_alone_have_no_table() -> None:
    assert table_of(B0, Diffusion(b_value=1000.0, isotropic=True)) is None


def test_a_weighted_volume_without_direction_beside_others_that_have_one_is_named() -> None:
    assert table_of(B0, weighted(1), Diffusion(b_value=500.0)) is Reason.NO_DIRECTION


def test_a_direction_that_is_no_unit_vector_is_no_direction() -> None:
    assert table_of(B0, Diffusion(b_value=1000.0, direction_lps=(0.5, 0.0, 0.0))) is Reason.NO_DIRECTION


def test_volumes_that_state_no_weighting_are_named() -> None:
    assert table_of(B0, weighted(1), None) is Reason.NO_DIFFUSION


def test_a_contradiction_in_one_image_is_handed_on() -> None:
    told = replace(weighted(3), problem=f"{Reason.DIFFUSION_DIFFERS}: CSA and (0019,100E)")
    assert table_of(B0, weighted(1), told) is Reason.DIFFUSION_DIFFERS


@pytest.mark.parametrize(("turn", "agrees"), [(0.9e-3, True), (1.2e-3, False)])
def test_slices_of_one_volume_must_agree_on_the_direction(turn: float, agrees: bool) -> None:
    # Twenty slices drift by steps that by themselves pass for rounding.
    def drifting(v: int, s: int) -> Diffusion:
        if v == 0:
            return B0
        angle = s * turn / 19
        return Diffusion(b_value=1000.0, direction_lps=(float(np.sin(angle)), float(np.cos(angle)), 0.0))

    found = build_grid(volumes([{}] * 2, slices=20, per_image={"diffusion": drifting})).gradients
    assert isinstance(found, GradientTable) is agrees
    assert agrees or found is Reason.DIFFUSION_DIFFERS


def test_directions_stay_as_long_as_they_are_stated() -> None:
    told = (0.6 * 1.004, 0.8 * 1.004, 0.0)
    table = table_of(B0, Diffusion(b_value=1000.0, direction_lps=told))
    assert isinstance(table, GradientTable)
    assert table.directions_lps[1] == told
    vectors = fsl_bvecs(table, row_lps=(1, 0, 0), column_lps=(0, 1, 0), slice_step_lps=(0, 0, 1))
    assert np.linalg.norm(vectors[:, 1]) == pytest.approx(1.004)


def test_shells_are_within_five_percent_of_the_highest() -> None:
    assert shells((0.0, 1000.0, 951.0, 5.0, 949.0, 300.0)) == (
        Shell(b_value=0.0, volumes=(0, 3)),
        Shell(b_value=300.0, volumes=(5,)),
        Shell(b_value=949.0, volumes=(4,)),
        Shell(b_value=1000.0, volumes=(1, 2)),
    )


TABLE = GradientTable(
    b_values=(0.0, 1000.0, 1000.0), directions_lps=((0.0, 0.0, 0.0), (0.6, 0.8, 0.0), (0.0, 0.6, -0.8)), source=""
)


def test_axial_images_as_stored_have_a_positive_determinant_and_the_first_component_negated() -> None:
    found = fsl_bvecs(TABLE, row_lps=(2.0, 0, 0), column_lps=(0, 2.0, 0), slice_step_lps=(0, 0, 5.0))
    assert found.T.tolist() == [[0.0, 0.0, 0.0], [-0.6, 0.8, 0.0], [0.0, 0.6, -0.8]]


def test_images_with_rows_flipped_have_a_negative_determinant_and_keep_the_first_component() -> None:
    found = fsl_bvecs(TABLE, row_lps=(1.0, 0, 0), column_lps=(0, -1.0, 0), slice_step_lps=(0, 0, 5.0))
    assert found.T.tolist() == [[0.0, 0.0, 0.0], [0.6, -0.8, 0.0], [0.0, -0.6, -0.8]]


def test_slices_of_a_tilted_gantry_give_components_along_the_normal() -> None:
    upright = fsl_bvecs(TABLE, row_lps=(1.0, 0, 0), column_lps=(0, 1.0, 0), slice_step_lps=(0, 0, 5.0))
    tilted = fsl_bvecs(TABLE, row_lps=(1.0, 0, 0), column_lps=(0, 1.0, 0), slice_step_lps=(0, -1.8, 5.0))
    assert np.array_equal(tilted, upright)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_both_ways_of_storing_rows_say_the_same_to_a_reader_of_fsl(seed: int, flip: bool) -> None:
    # A reader undoes FSL's rule: negate the first component where the determinant is positive, then go along the axes.
    axes = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    row, column, step = axes.T
    column = -column if flip else column
    written = fsl_bvecs(TABLE, row_lps=row, column_lps=column, slice_step_lps=3.0 * step)
    affine = np.stack([row, column, step], axis=1)
    read = written.copy()
    if np.linalg.det(affine) > 0:
        read[0] *= -1
    assert pytest.approx(np.asarray(TABLE.directions_lps), abs=1e-12) == (affine @ read).T


def test_the_table_follows_the_volumes_whatever_the_numbers_of_the_images() -> None:
    def time(v: int, _: int) -> float:
        return (30.0, 10.0, 20.0)[v]

    per_image: dict[str, Callable[[int, int], float]] = {"time": time}
    labels = [{"diffusion": d} for d in (weighted(1), B0, weighted(2, 500.0))]
    table = build_grid(volumes(labels, slices=3, per_image=per_image)).gradients
    assert isinstance(table, GradientTable)
    assert table.b_values == (0.0, 500.0, 1000.0)
