"""What goes with a haematoma where its expansion is judged."""

from __future__ import annotations

import numpy as np
import pytest

from ichor.arrays import Volume
from pipelines.regions import with_islands


def volume(*, slices: int, slice_mm: float) -> Volume:
    return Volume(
        array=np.zeros((slices, 64, 64), np.float32),
        origins_lps=np.stack([[0.0, 0.0, slice_mm * k] for k in range(slices)]),
        row_lps=np.array([1.0, 0.0, 0.0]),
        column_lps=np.array([0.0, 1.0, 0.0]),
        pixel_spacing=(1.0, 1.0),
        slice_thickness=slice_mm,
        frame_of_reference_uid=None,
        unit="HU",
        sources=(),
    )


@pytest.mark.parametrize(("gap", "near"), [(4, True), (9, True), (12, False)])
def test_what_lies_near_in_plane_goes_with_it(gap: int, near: bool) -> None:
    head = volume(slices=3, slice_mm=5.0)
    main = np.zeros((3, 64, 64), np.uint8)
    main[:, 20:30, 20:30] = 1
    above = main > 0
    above[1, 24:26, 29 + gap : 31 + gap] = True

    joined = with_islands(main, above, head)

    assert bool(joined[1, 24, 29 + gap]) is near
    assert (joined[main > 0] == 1).all()


@pytest.mark.parametrize(("slices_away", "near"), [(2, True), (3, False)])
def test_distance_between_slices_is_in_mm(slices_away: int, near: bool) -> None:
    head = volume(slices=6, slice_mm=5.0)
    main = np.zeros((6, 64, 64), np.uint8)
    main[:2, 20:30, 20:30] = 1
    above = main > 0
    above[1 + slices_away, 24, 24] = True

    assert bool(with_islands(main, above, head)[1 + slices_away, 24, 24]) is near


def test_a_haematoma_alone_stays_as_it_is() -> None:
    main = np.zeros((3, 64, 64), np.uint8)
    main[:, 60:, 60:] = 1  # at the edge: nothing lies beyond

    assert np.array_equal(with_islands(main, main > 0, volume(slices=3, slice_mm=5.0)), main)
