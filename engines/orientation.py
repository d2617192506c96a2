"""Turns of a stored axial volume to the way networks have learned heads, and back. Resamples nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ichor.arrays import Float64Array, Volume
from ichor.errors import Unreadable
from ichor.reasons import Reason

LEAST_AXIAL = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Upright:
    """Slices headwards, rows to the back, columns to the patient's left: what to turn of a volume to get there.

    Attributes
    ----------
    transpose : rows and columns change places, before anything is flipped.
    flips : of slices, rows and columns.
    """

    transpose: bool
    flips: tuple[bool, bool, bool]

    @classmethod
    def of(cls, volume: Volume) -> Upright:
        """From the direction cosines.

        Raises
        ------
        Unreadable
            ``NOT_AXIAL``.
        """
        normal = volume.normal_lps
        if abs(normal[2]) < LEAST_AXIAL:
            raise Unreadable(Reason.NOT_AXIAL)
        down, right = volume.column_lps, volume.row_lps
        transpose = bool(abs(right[0]) < abs(down[0]))
        if transpose:
            down, right = right, down
        return cls(transpose=transpose, flips=(bool(normal[2] < 0), bool(down[1] < 0), bool(right[0] < 0)))

    def turn(self, array_zyx: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array on the volume's grid, as a view, upright."""
        turned = array_zyx.transpose(0, 2, 1) if self.transpose else array_zyx
        return turned[self._order]

    def back(self, array_zyx: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Inverse of `turn`."""
        turned = array_zyx[self._order]
        return turned.transpose(0, 2, 1) if self.transpose else turned

    def spacing(self, pixel_spacing: tuple[float, float]) -> tuple[float, float]:
        """(between rows, between columns) upright."""
        return pixel_spacing[::-1] if self.transpose else pixel_spacing

    def slice_index(self, upright: int, count: int) -> int:
        """Index in the volume of a slice of the upright array."""
        return count - 1 - upright if self.flips[0] else upright

    def offsets_yx(self, volume: Volume) -> Float64Array:
        """(slices, 2) where the first pixel of each upright slice lies in its plane, mm, from that of the first one."""
        along = (volume.column_lps, volume.row_lps)
        extent = (np.array(volume.array_zyx.shape[1:]) - 1) * np.array(volume.pixel_spacing)
        if self.transpose:
            along, extent = along[::-1], extent[::-1]
        offsets = np.stack([volume.origins_lps @ direction for direction in along], axis=1)
        offsets = np.where(self.flips[1:], -(offsets + extent), offsets)[self._order[0]]
        first: Float64Array = offsets - offsets[0]
        return first

    def positions(self, volume: Volume) -> Float64Array:
        """(slices,) distances of the upright slices along their normal, mm, from the first one, ascending."""
        positions = volume.slice_positions
        found: Float64Array = positions[-1] - positions[::-1] if self.flips[0] else positions - positions[0]
        return found

    @property
    def _order(self) -> tuple[slice, slice, slice]:
        z, y, x = (slice(None, None, -1) if flip else slice(None) for flip in self.flips)
        return z, y, x
