"""What carries numpy arrays inside one worker: volumes in patient coordinates. Apart from `ichor.types`, which imports no numpy.

The processes that receive and relay need the one and not the other: numpy takes 7 MiB of their memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ichor.types import Axis, GradientTable, Instance, ManifestRef

Float64Array: TypeAlias = npt.NDArray[np.float64]
Float32Array: TypeAlias = npt.NDArray[np.float32]
MaskArray: TypeAlias = npt.NDArray[np.uint8]


def mean_affine_lps(
    origins_lps: npt.ArrayLike, row_lps: npt.ArrayLike, column_lps: npt.ArrayLike, *,
    pixel_spacing: tuple[float, float], thickness: float | None,
) -> Float64Array:  # fmt: skip
    """(4, 4): (column, row, slice, 1) to mm for slices at ``origins_lps`` (n, 3), taken at their mean distance.

    ``thickness`` (mm; else 1) stands for the distance where there is one slice.
    """
    origins = np.asarray(origins_lps, dtype=np.float64)
    row, column = np.asarray(row_lps, dtype=np.float64), np.asarray(column_lps, dtype=np.float64)
    dy, dx = pixel_spacing
    last = len(origins) - 1
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * dx, column * dy
    affine[:3, 2] = (origins[-1] - origins[0]) / last if last else np.cross(row, column) * (thickness or 1.0)
    affine[:3, 3] = origins[0]
    return affine


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One scalar array in patient coordinates: a volume, or volumes along further axes.

    ``array[..., k, j, i]`` is slice k (ascending along ``normal_lps``), row j, column i, in ``unit``; what stands
    before are ``axes``, slowest first, none for a plain volume.
    ``origins_lps[k]`` is ImagePositionPatient of slice k (n, 3), mm: exact for tilted and uneven sets.
    """

    array: npt.NDArray[Any]
    origins_lps: Float64Array
    row_lps: Float64Array  # unit vector of growing column index (first triple of ImageOrientationPatient)
    column_lps: Float64Array  # unit vector of growing row index
    pixel_spacing: tuple[float, float]  # (dy between rows, dx between columns), mm
    slice_thickness: float | None
    frame_of_reference_uid: str | None
    unit: str
    sources: tuple[Instance, ...]  # plain volume of single images: one per slice, same order; else each object once
    axes: tuple[Axis, ...] = ()
    gradients: GradientTable | None = None  # where there is a diffusion axis
    manifest: ManifestRef | None = None
    notes: tuple[str, ...] = ()

    @property
    def array_zyx(self) -> npt.NDArray[Any]:
        """The array of a plain volume.

        Raises
        ------
        ValueError
            When there are further axes.
        """
        if self.axes:
            raise ValueError(f"the array has further axes: {', '.join(axis.name for axis in self.axes)}")
        return self.array

    @property
    def affine_lps(self) -> Float64Array:
        """(4, 4): (column, row, slice, 1) to mm; slices at their mean distance, exact for even sets."""
        return mean_affine_lps(
            self.origins_lps, self.row_lps, self.column_lps, pixel_spacing=self.pixel_spacing,
            thickness=self.slice_thickness,
        )  # fmt: skip

    @property
    def normal_lps(self) -> Float64Array:
        normal: Float64Array = np.cross(self.row_lps, self.column_lps)
        return normal

    @property
    def slice_positions(self) -> Float64Array:
        """(n,) distances of the slices along the normal, mm, ascending."""
        positions: Float64Array = self.origins_lps @ self.normal_lps
        return positions

    @property
    def slice_extents(self) -> Float64Array:
        """(n,) extent in mm that each slice stands for: half the way to either neighbour (ends: their one gap)."""
        gaps = np.diff(self.slice_positions)
        if gaps.size == 0:
            return np.array([self.slice_thickness or 0.0])
        padded = np.concatenate([gaps[:1], gaps, gaps[-1:]])
        extents: Float64Array = (padded[:-1] + padded[1:]) / 2
        return extents

    def to_lps(self, indices_zyx: npt.ArrayLike) -> Float64Array:
        """Patient coordinates (m, 3) of (slice, row, column) indices (m, 3); fractional slices interpolate origins."""
        index = np.atleast_2d(np.asarray(indices_zyx, dtype=np.float64))
        grid = np.arange(len(self.origins_lps), dtype=np.float64)
        origin = np.stack([np.interp(index[:, 0], grid, self.origins_lps[:, axis]) for axis in range(3)], axis=1)
        dy, dx = self.pixel_spacing
        return origin + index[:, 1:2] * dy * self.column_lps + index[:, 2:3] * dx * self.row_lps
