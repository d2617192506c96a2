"""The three crops from which expansion is judged, cut from a CT and its haematoma mask. Imports no torch, judges nothing.

doi:10.1038/s41746-025-02213-w: the slice of the largest haematoma area and its two neighbours, each cropped to the
haematoma's rectangle, at 224 x 224 (the window 40/80 HU is part of the network); fewer than three contiguous slices cannot be judged. *Ours*:
one rectangle for all three, made square so that shapes keep their form, with 5 mm of the surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.resampling import Axis, resample_hu

F32 = npt.NDArray[np.float32]

SIZE = 224
MARGIN_MM = 5.0
LEAST_SLICES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CropPlace:
    """Where three crops lie.

    Attributes
    ----------
    slices : Max-1, Max, Max+1, as `crop_place` finds them.
    centre_yx, side : in mm from the centre of a slice's first pixel.
    """

    slices: tuple[int, ...]
    centre_yx: tuple[float, float]
    side: float

    def axes(self) -> tuple[Axis, Axis]:
        """The crop's pixels, in mm."""
        step = self.side / SIZE
        y, x = (Axis(round(c - self.side / 2 + step / 2, 3), step, SIZE) for c in self.centre_yx)
        return y, x


def crop_place(
    mask_zyx: npt.NDArray[np.bool_] | npt.NDArray[np.uint8], *, spacing_yx_mm: tuple[float, float]
) -> CropPlace | None:
    """Where to crop for a haematoma mask; None when it has fewer than three contiguous slices around its largest area.

    Where the largest area is at an end of the haematoma, the neighbour within it is the middle one.
    """
    areas = np.count_nonzero(mask_zyx, axis=(1, 2))
    largest = int(areas.argmax())
    low = high = largest
    while low > 0 and areas[low - 1]:
        low -= 1
    while high < len(areas) - 1 and areas[high + 1]:
        high += 1
    if not areas[largest] or high - low + 1 < LEAST_SLICES:
        return None
    middle = min(max(largest, low + 1), high - 1)
    seen: npt.NDArray[np.bool_] = np.any(mask_zyx[middle - 1 : middle + 2], axis=0)
    ends = [
        np.flatnonzero(np.any(seen, axis=axis))[[0, -1]] * mm for axis, mm in zip((1, 0), spacing_yx_mm, strict=True)
    ]
    side = max(float(last - first) + mm for (first, last), mm in zip(ends, spacing_yx_mm, strict=True)) + 2 * MARGIN_MM
    cy, cx = (float(first + last) / 2 for first, last in ends)
    return CropPlace(slices=(middle - 1, middle, middle + 1), centre_yx=(cy, cx), side=side)


def cut(hu_zyx: npt.NDArray[np.int16] | F32, place: CropPlace, *, spacing_yx_mm: tuple[float, float]) -> F32:
    """HU as float32 (slices, 1, 224, 224); beyond the image it is air."""
    own = tuple(Axis(0.0, mm, n) for mm, n in zip(spacing_yx_mm, hu_zyx.shape[1:], strict=True))
    return np.stack([resample_hu(hu_zyx[k], (own[0], own[1]), place.axes()) for k in place.slices])[:, None]
