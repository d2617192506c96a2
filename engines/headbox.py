"""Where head and skull lie in a slice stack, apart from table and holder. Says nothing about what is inside."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

SOLID_ABOVE_HU = -300
BONE_ABOVE_HU = 300
BLOCK = 4
MARGIN = 6


def head_box(hu_zyx: npt.NDArray[np.int16] | npt.NDArray[np.float32]) -> tuple[slice, slice]:
    """Rows and columns that the head covers in any slice, with a margin; everything when nothing solid is there.

    Pixels of about 1 mm. Blocks of 4 x 4 pixels count when nearly all of them is solid: a table is a thin shell.
    """
    box = _largest(hu_zyx, above_hu=SOLID_ABOVE_HU, filled=0.9, opened=True)
    return box or (slice(0, hu_zyx.shape[1]), slice(0, hu_zyx.shape[2]))


def skull_box(hu_zyx: npt.NDArray[np.int16] | npt.NDArray[np.float32]) -> tuple[slice, slice] | None:
    """Rows and columns that the skull covers in any slice, with a margin; None where no bone is seen."""
    return _largest(hu_zyx, above_hu=BONE_ABOVE_HU, filled=0.4, opened=False)


def _largest(
    hu_zyx: npt.NDArray[np.int16] | npt.NDArray[np.float32], *, above_hu: int, filled: float, opened: bool
) -> tuple[slice, slice] | None:
    slices, rows, columns = hu_zyx.shape
    height, width = rows // BLOCK, columns // BLOCK
    if height < 3 or width < 3:
        return None
    dense = hu_zyx[:, : height * BLOCK, : width * BLOCK] > above_hu
    blocks = dense.reshape(slices, height, BLOCK, width, BLOCK).mean(axis=(2, 4), dtype=np.float32) > filled
    seen = blocks.any(axis=0)
    if opened:
        seen = ndimage.binary_opening(seen, structure=np.ones((3, 3)))
    labels, count = ndimage.label(seen)
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    box = ndimage.find_objects(labels)[int(sizes.argmax()) - 1]
    return _widen(box[0], rows), _widen(box[1], columns)


def _widen(span: slice, limit: int) -> slice:
    return slice(max(span.start * BLOCK - MARGIN, 0), min(span.stop * BLOCK + MARGIN, limit))
