"""From stored values to a quantity: which linear mapping a header states, and its unit. Applies nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ichor.series.values import Values

MAPPINGS = 0x00409096  # Real World Value Mapping Sequence
TRANSFORMATIONS = 0x00289145  # Pixel Value Transformation Sequence
INTERCEPT, SLOPE, RESCALE_TYPE = 0x00281052, 0x00281053, 0x00281054

_FIRST, _LAST, _LUT = 0x00409216, 0x00409211, 0x00409212
_REAL_INTERCEPT, _REAL_SLOPE, _UNITS = 0x00409224, 0x00409225, 0x004008EA
_CODE_VALUE, _CODING_SCHEME = 0x00080100, 0x00080102
# Defined terms of Rescale Type (PS3.3 C.11.1.1.2) in UCUM, as far as they are a unit.
_UNIT_OF_TYPE = {"HU": "[hnsf'U]", "MGML": "mg/mL", "PCT": "%"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """``value = slope * stored + intercept``; ``unit`` is UCUM, None where it is coded otherwise."""

    slope: float
    intercept: float
    unit: str | None


def real_world_mapping(values: Values, *, bits_stored: int, signed: bool) -> Mapping | None:
    """The one linear real-world value mapping at this level that covers every stored value (PS3.3 C.7.6.16.2.11).

    Parameters
    ----------
    values
        A data set, or an item of a functional groups sequence.
    bits_stored, signed
        Of the pixels: they bound the stored values.

    Returns
    -------
    Mapping or None
        None where there is none, or several (which of them is meant nothing says), or a look-up table.
    """
    items = values.items(MAPPINGS)
    if len(items) != 1 or items[0].raw(_LUT):
        return None
    item = items[0]
    slope, intercept = item.numbers(_REAL_SLOPE, "d", 1), item.numbers(_REAL_INTERCEPT, "d", 1)
    first, last = _bound(item, _FIRST, signed=signed), _bound(item, _LAST, signed=signed)
    if slope is None or intercept is None or first is None or last is None:
        return None
    lowest, highest = (-(1 << bits_stored - 1), (1 << bits_stored - 1) - 1) if signed else (0, (1 << bits_stored) - 1)
    if first > lowest or last < highest or not slope[0]:
        return None
    unit = None
    for code in item.items(_UNITS)[:1]:
        if (code.text(_CODING_SCHEME) or "").upper() == "UCUM":
            unit = code.text(_CODE_VALUE, limit=16)
    return Mapping(slope=float(slope[0]), intercept=float(intercept[0]), unit=unit)


def unit_of_rescale(values: Values) -> str | None:
    """UCUM unit of Rescale Type (0028,1054); None where it is absent, unspecified or not a unit."""
    return _UNIT_OF_TYPE.get((values.text(RESCALE_TYPE) or "").upper())


def _bound(item: Values, tag: int, *, signed: bool) -> int | None:
    """A value of VR "US or SS": as the pixels are signed (PS3.3 C.7.6.16.2.11.1)."""
    numbers = item.numbers(tag, "h" if signed else "H", 1)
    return int(numbers[0]) if numbers else None
