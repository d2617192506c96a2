"""From stored values to a quantity: which linear mapping a header states, and its unit. Applies nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ichor.series.values import Values
from ichor.types import Instance

HOUNSFIELD = "[hnsf'U]"  # UCUM
NO_UNIT = "1"  # UCUM, of what is stated and is no unit that UCUM has
MAPPINGS = 0x00409096  # Real World Value Mapping Sequence
TRANSFORMATIONS = 0x00289145  # Pixel Value Transformation Sequence
INTERCEPT, SLOPE, RESCALE_TYPE = 0x00281052, 0x00281053, 0x00281054

_FIRST, _LAST, _LUT = 0x00409216, 0x00409211, 0x00409212
_REAL_INTERCEPT, _REAL_SLOPE, _UNITS = 0x00409224, 0x00409225, 0x004008EA
_CODE_VALUE, _CODING_SCHEME = 0x00080100, 0x00080102
# Defined terms of Rescale Type (PS3.3 C.11.1.1.2) in UCUM, as far as they are a unit.
_UNIT_OF_TYPE = {"HU": HOUNSFIELD, "MGML": "mg/mL", "PCT": "%"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """``value = slope * stored + intercept``; ``unit`` is UCUM, `NO_UNIT` where it is coded otherwise or not at all."""

    slope: float
    intercept: float
    unit: str


def real_world_mapping(values: Values, *, bits_stored: int, signed: bool, ct: bool) -> Mapping | None:
    """The one linear real-world value mapping at this level that covers every stored value (PS3.3 C.7.6.16.2.11).

    The mapping and Rescale both begin at stored values, neither replaces the other. Of a CT the values are those of
    Rescale, unless the mapping too gives Hounsfield units: everything that reads a CT counts in these.

    Parameters
    ----------
    values
        A data set, or an item of a functional groups sequence.
    bits_stored, signed
        Of the pixels: they bound the stored values.
    ct
        Whether it is an image of a CT.

    Returns
    -------
    Mapping or None
        None where there is none, or several (which of them is meant nothing says), or a look-up table; of a CT, one of
        another unit.
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
    unit = NO_UNIT
    for code in item.items(_UNITS)[:1]:
        if (code.text(_CODING_SCHEME) or "").upper() == "UCUM":
            unit = code.text(_CODE_VALUE, limit=16) or NO_UNIT
    if ct and unit != HOUNSFIELD:
        return None
    return Mapping(slope=float(slope[0]), intercept=float(intercept[0]), unit=unit)


def unit_of_rescale(values: Values, *, ct: bool) -> str | None:
    """UCUM unit of Rescale Type (0028,1054); None where it is absent, or no unit.

    Of a CT a type that is stated and is no unit (US: unspecified) is `NO_UNIT`, as an absent one means Hounsfield units.
    """
    stated = values.text(RESCALE_TYPE)
    return _UNIT_OF_TYPE.get((stated or "").upper(), NO_UNIT if ct and stated else None)


def unit_of(instance: Instance) -> str | None:
    """UCUM unit of the values of an object, None where nothing says.

    A CT without Rescale Type is in Hounsfield units: any other output of Rescale has to be stated (PS3.3 C.8.2.1,
    C.11.1.1.2).
    """
    return instance.unit or (HOUNSFIELD if instance.modality == "CT" else None)


def _bound(item: Values, tag: int, *, signed: bool) -> int | None:
    """A value of VR "US or SS": as the pixels are signed (PS3.3 C.7.6.16.2.11.1)."""
    numbers = item.numbers(tag, "h" if signed else "H", 1)
    return int(numbers[0]) if numbers else None
