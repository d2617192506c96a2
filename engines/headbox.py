"""Where the head lies in a slice stack, apart from table and holder. Says nothing about what is inside it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

SOLID_ABOVE_HU = -300
BLOCK = 4
MARGIN = 6


def head_box(hu_zyx: npt.NDArray[np.int16] | npt.NDArray[np.float32]) -> tuple[slice, slice]:
    """Rows and columns that the head covers in any slice, with a margin; everything when nothing solid is there.

    Pixels of about 1 mm. Blocks of 4 x 4 pixels count when nearly all of them is solid: a table is a thin shell.
    """
    slices, rows, columns = hu_zyx.shape
    height, width = rows // BLOCK, columns // BLOCK
    whole = slice(0, rows), slice(0, columns)
    if height < 3 or width < 3:
        return whole
    solid = hu_zyx[:, : height * BLOCK, : width * BLOCK] > SOLID_ABOVE_HU
    blocks = solid.reshape(slices, height, BLOCK, width, BLOCK).mean(axis=(2, 4), dtype=np.float32) > 0.9
    seen = ndimage.binary_opening(blocks.any(axis=0), structure=np.ones((3, 3)))
    labels, count = ndimage.label(seen)
    if count == 0:
        return whole
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    box = ndimage.find_objects(labels)[int(sizes.argmax()) - 1]
    return _widen(box[0], rows), _widen(box[1], columns)


def _widen(span: slice, limit: int) -> slice:
    return slice(max(span.start * BLOCK - MARGIN, 0), min(span.stop * BLOCK + MARGIN, limit))
