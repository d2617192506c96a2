"""Values of a volume at points of the patient: where they lie on its grid, and what is there. Registers nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichor.arrays import Float32Array, Float64Array, Volume


def index_of(volume: Volume, points_lps: Float64Array) -> Float64Array:
    """Fractional (slice, row, column) indices (m, 3) of points (m, 3); outside of the slices they go on evenly."""
    normal, positions = volume.normal_lps, volume.slice_positions
    count = np.arange(len(positions), dtype=np.float64)
    extents = volume.slice_extents
    along = points_lps @ normal
    z = np.interp(along, positions, count)
    z += np.minimum(along - positions[0], 0) / extents[0] + np.maximum(along - positions[-1], 0) / extents[-1]
    origin = np.stack([np.interp(z, count, volume.origins_lps[:, axis]) for axis in range(3)], axis=1)
    dy, dx = volume.pixel_spacing
    inside = points_lps - origin
    return np.stack([z, inside @ volume.column_lps / dy, inside @ volume.row_lps / dx], axis=1)


def sampled(
    volume: Volume, points_lps: Float64Array, array_zyx: npt.NDArray[Any], *, outside: float
) -> Float32Array:  # fmt: skip
    """Values (m,) of an array on the grid of ``volume`` at points (m, 3), linear between voxels."""
    values: Float32Array = ndimage.map_coordinates(
        array_zyx, index_of(volume, points_lps).T, order=1, cval=outside, output=np.float32
    )
    return values
