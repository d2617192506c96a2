"""Where an image lies, by the attributes of the image plane module (PS3.3 C.7.6.2), wherever they stand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ichor.series.values import Values
from ichor.types import Geometry

_THICKNESS, _SPACING_BETWEEN, _TILT = 0x00180050, 0x00180088, 0x00181120
_POSITION, _ORIENTATION, _FRAME_OF_REFERENCE = 0x00200032, 0x00200037, 0x00200052
ROWS, COLUMNS, _PIXEL_SPACING = 0x00280010, 0x00280011, 0x00280030
WANTED = frozenset(
    {
        _THICKNESS, _SPACING_BETWEEN, _TILT, _POSITION, _ORIENTATION, _FRAME_OF_REFERENCE, ROWS, COLUMNS,
        _PIXEL_SPACING,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Pixel spacing (between rows, between columns), thickness and distance of slices, mm."""

    pixel_spacing: tuple[float, float] | None
    slice_thickness: float | None
    spacing_between_slices: float | None


def read_geometry(values: Values) -> Geometry | None:
    """Of a single image, and what stands beside it; None for what has no rows and columns."""
    rows, columns = values.unsigned(ROWS), values.unsigned(COLUMNS)
    if not rows or not columns:
        return None
    measures = read_measures(values)
    return Geometry(
        rows=rows,
        columns=columns,
        position_lps=read_position(values),
        orientation_lps=read_orientation(values),
        pixel_spacing=measures.pixel_spacing,
        slice_thickness=measures.slice_thickness,
        spacing_between_slices=measures.spacing_between_slices,
        frame_of_reference_uid=values.text(_FRAME_OF_REFERENCE),
        gantry_tilt=values.decimal(_TILT),
    )


def read_position(values: Values) -> tuple[float, float, float] | None:
    """Image Position (Patient), mm."""
    position = values.decimals(_POSITION, 3)
    return (position[0], position[1], position[2]) if position else None


def read_orientation(values: Values) -> tuple[float, float, float, float, float, float] | None:
    """Image Orientation (Patient) as stored, where it is two unit vectors at a right angle within 1e-3."""
    numbers = values.decimals(_ORIENTATION, 6)
    if numbers is None:
        return None
    a, b = numbers[:3], numbers[3:]
    lengths_fit = all(abs(math.hypot(*vector) - 1) < 1e-3 for vector in (a, b))
    if not lengths_fit or abs(sum(x * y for x, y in zip(a, b, strict=True))) > 1e-3:
        return None
    return a[0], a[1], a[2], b[0], b[1], b[2]


def read_measures(values: Values) -> Measures:
    """Those of an image, or of an item of a Pixel Measures Sequence."""
    spacing = values.decimals(_PIXEL_SPACING, 2)
    thickness = values.decimal(_THICKNESS)
    return Measures(
        pixel_spacing=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        slice_thickness=thickness if thickness is not None and thickness > 0 else None,
        spacing_between_slices=values.decimal(_SPACING_BETWEEN),
    )
