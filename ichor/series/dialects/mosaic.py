"""Siemens mosaics: how many tiles an image has and where each lies. Reads no diffusion weighting."""

from __future__ import annotations

import math

from ichor.series.dialects.lps import axes, dot, length, plus, scaled, vector
from ichor.series.dialects.siemens import IMAGES_IN_MOSAIC, MR_CREATOR, MR_GROUP, csa_numbers
from ichor.series.values import Values
from ichor.types import Geometry, Tiling

_MOST_TILES = 4096
_ALONG = 0.99  # cosine of slice normal and row x column


def siemens_tiles(values: Values, geometry: Geometry, *, csa: dict[str, tuple[str, ...]]) -> Tiling | None:
    """The tiles; None where their number, the image's place or their distance is missing, or facts contradict.

    ``ceil(sqrt(number))`` tiles stand in a row and in a column. Image Position (Patient) is that of a plane as large
    as the whole image about the centre of the first tile (nibabel, "Siemens mosaic format"), so the first tile's is
    half the difference of the sizes further on. Slices go along Slice Normal Vector of the CSA header; without that
    header (XA) along row x column.
    """
    count = _count(values, csa)
    row_column, position, spacing = geometry.orientation_lps, geometry.position_lps, geometry.pixel_spacing
    step = geometry.spacing_between_slices
    if count is None or row_column is None or position is None or spacing is None or not step or step < 0:
        return None
    across = math.ceil(math.sqrt(count))
    if geometry.rows % across or geometry.columns % across:
        return None
    rows, columns = geometry.rows // across, geometry.columns // across
    row, column, normal = axes(row_column)
    if "SliceNormalVector" in csa:
        stated = vector(csa_numbers(csa, "SliceNormalVector", 3))
        if stated is None or abs(dot(stated, normal)) < _ALONG * max(length(stated), 1e-6):
            return None
        normal = scaled(normal, math.copysign(1.0, dot(stated, normal)))
    to_first = plus(
        scaled(row, spacing[1] * (geometry.columns - columns) / 2),
        scaled(column, spacing[0] * (geometry.rows - rows) / 2),
    )
    return Tiling(
        count=count, across=across, rows=rows, columns=columns,
        first_position_lps=plus(position, to_first), step_lps=scaled(normal, step),
    )  # fmt: skip


def _count(values: Values, csa: dict[str, tuple[str, ...]]) -> int | None:
    """Number of tiles, by the private attribute and the CSA header; None where neither or where they differ."""
    tag = values.private(MR_GROUP, MR_CREATOR, IMAGES_IN_MOSAIC)
    stated = {values.number(tag) if tag is not None else None}
    stated |= set(csa_numbers(csa, "NumberOfImagesInMosaic", 1) or ())
    stated -= {None, 0.0}
    number = stated.pop() if len(stated) == 1 else None
    return int(number) if number is not None and number == int(number) and 1 <= number <= _MOST_TILES else None
