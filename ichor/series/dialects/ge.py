"""Diffusion weighting, component and counts in GE's private attributes, and its frame of gradients. Knows no functional groups."""

from __future__ import annotations

from ichor.series.dialects.lps import Vector, axes, from_axes, length, scaled
from ichor.series.dialects.standard import B_VALUE
from ichor.series.dialects.weighting import UNIT, Stated
from ichor.series.values import Values
from ichor.types import Component

_ACQUISITION, _RELATIONS, _PARAMETERS = "GEMS_ACQU_01", "GEMS_RELA_01", "GEMS_PARM_01"
# GE, DICOM conformance statement of Signa, private attributes; meaning as NA-MIC's page "DTI:DICOM for DWI and DTI".
_USER, _DIRECTIONS = (0xBB, 0xBC, 0xBD), 0xE0
_LOCATIONS, _NOMINAL, _IMAGE_TYPE = 0x4F, 0x39, 0x2F
PHASE_ENCODING = 0x00181312

WANTED = frozenset({PHASE_ENCODING})
WANTED_PRIVATE = frozenset(
    {*((0x0019, low) for low in (*_USER, _DIRECTIONS)), (0x0021, _LOCATIONS), (0x0043, _NOMINAL), (0x0043, _IMAGE_TYPE)}
)

_MARK = 1_000_000_000  # newer software adds it to values that stand for themselves (dcm2niix issue 602)
_COMPONENTS = (Component.MAGNITUDE, Component.PHASE, Component.REAL, Component.IMAGINARY)  # by (0043,xx2F)
_PLANES = ("sagittal", "coronal", "axial")  # by the axis that the normal is nearest to
_WHOLE = 0.97  # shorter vectors mean a part of the nominal b-value (dcm2niix issues 163, 245)
_NONE = 0.03


def ge_weighting(values: Values, *, orientation: tuple[float, ...] | None) -> Stated | None:
    """b-value and direction, turned from the frame of frequency, phase and slice into patient coordinates.

    In images without weighting older software leaves the series' b-value beside a zero vector; in scans that have no
    directions at all (User Data 24 is 0) it is the image's. A vector shorter than 1 means that b is smaller by the
    square of its length; such values are rounded to 5 s/mm2, as they were asked for.
    """
    b_tag = values.private(0x0043, _PARAMETERS, _NOMINAL)
    nominal = values.integer(b_tag) if b_tag is not None else None
    if nominal is None or nominal < 0:
        return None
    b_value = float(nominal % _MARK)
    user = [values.private(0x0019, _ACQUISITION, low) for low in _USER]
    # These are DS: what is none is no number of another kind either, even where no VR is given.
    parts = [values.decimal(tag) for tag in user if tag is not None]
    if len(parts) != 3 or parts[0] is None or parts[1] is None or parts[2] is None:
        return Stated(source="(0043,1039)", b_value=b_value)
    logical = (parts[0], parts[1], parts[2])
    norm = length(logical)
    if norm <= _NONE:
        number_tag = values.private(0x0019, _ACQUISITION, _DIRECTIONS)
        directions = values.decimal(number_tag) if number_tag is not None else None
        if values.number(B_VALUE) is not None:
            return Stated(source="(0043,1039)")
        return Stated(source="(0043,1039)", b_value=b_value if directions == 0 else 0.0)
    if norm < _WHOLE:
        b_value = max(5.0, round(b_value * norm * norm / 5) * 5.0) if b_value else 0.0
    if norm >= 1 + _NONE:
        # Too long in whatever frame: `settled` says so.
        return Stated(source="(0043,1039)", b_value=b_value, direction_lps=logical)
    if abs(norm - 1) > UNIT:
        logical = scaled(logical, 1 / norm)
    direction = from_logical(logical, phase_encoding=values.text(PHASE_ENCODING), orientation=orientation)
    return Stated(source="(0043,1039)", b_value=b_value, direction_lps=direction)


def from_logical(
    logical: Vector, *, phase_encoding: str | None, orientation: tuple[float, ...] | None
) -> Vector | None:
    """A direction along frequency, phase and slice in patient coordinates, with the sign that dcm2niix gives it.

    None where In-plane Phase Encoding Direction (0018,1312) or the image's orientation is not known.
    """
    if orientation is None:
        return None
    along_frequency, along_phase, along_slice = logical
    encoding = (phase_encoding or "").upper()
    if encoding.startswith("COL"):
        components = (-along_frequency, -along_phase, along_slice)
    elif encoding == "ROW":
        components = (-along_phase, along_frequency, along_slice)
    else:
        return None
    normal = axes(orientation)[2]
    plane = _PLANES[max(range(3), key=lambda k: abs(normal[k]))]
    return from_axes(_turned(components, plane=plane), orientation)


def _turned(components: Vector, *, plane: str) -> Vector:
    """Components along row, column and normal of an axial plane as those of the ``plane`` they were given in.

    By what dcm2niix makes of all planes, phase encodings and slice orders; it calls other planes than axial ones little
    validated. A sagittal direction is the opposite, which means the same to a diffusion signal.
    """
    along_row, along_column, along_normal = components
    if plane == "sagittal":
        return -along_row, -along_column, -along_normal
    return (along_row, -along_column, along_normal) if plane == "coronal" else components


def ge_component(values: Values) -> Component | None:
    """That of GE's own Image Type (0043,xx2F)."""
    tag = values.private(0x0043, _PARAMETERS, _IMAGE_TYPE)
    numbers = values.numbers(tag, "h", 1) if tag is not None else None
    index = int(numbers[0]) if numbers else -1
    return _COMPONENTS[index] if 0 <= index < len(_COMPONENTS) else None


def ge_counts(values: Values) -> tuple[tuple[str, int], ...]:
    """Locations in acquisition."""
    tag = values.private(0x0021, _RELATIONS, _LOCATIONS)
    numbers = values.numbers(tag, "h", 1) if tag is not None else None
    return (("GELocationsInAcquisition", int(numbers[0])),) if numbers and numbers[0] > 0 else ()
