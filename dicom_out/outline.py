"""The outline of a mask on its largest slice, in the image coordinates of an SCOORD. No DICOM."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.measure import approximate_polygon, find_contours

from ichor.arrays import Float64Array


def outline(mask_zyx: npt.NDArray[np.uint8]) -> tuple[int, Float64Array]:
    """Slice of the largest area and the closed outline of its largest part.

    Parameters
    ----------
    mask_zyx
        (slices, rows, columns), not empty.

    Returns
    -------
    int
        Slice index.
    (n, 2) float64
        (column, row), first point repeated at the end; 0.5, 0.5 is the centre of the first pixel (PS3.3 C.18.6.1.2).
    """
    areas = np.count_nonzero(mask_zyx, axis=(1, 2))
    index = int(np.argmax(areas))
    plane = mask_zyx[index] != 0
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    cut = np.pad(plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    contours: list[Float64Array] = find_contours(cut.astype(np.float64), 0.5)  # type: ignore[no-untyped-call]
    largest = max(contours, key=_area)
    # Less than half a pixel, the most that a pixel mask can say about its own edge.
    kept: Float64Array = approximate_polygon(largest, tolerance=0.3)  # type: ignore[no-untyped-call]
    kept = kept if len(kept) >= 4 else largest
    points: Float64Array = kept[:, ::-1] + np.array([columns[0] - 1, rows[0] - 1]) + 0.5
    return index, points


def _area(contour: Float64Array) -> float:
    y, x = contour[:, 0], contour[:, 1]
    return 0.5 * abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])))
