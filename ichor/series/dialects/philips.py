"""Diffusion weighting, order and times in Philips' private attributes. Knows no functional groups."""

from __future__ import annotations

from ichor.series.dialects.lps import Vector
from ichor.series.dialects.weighting import Stated
from ichor.series.shells import B0_LIMIT
from ichor.series.values import Values

_IMAGING, _MR, _MR_5 = "Philips Imaging DD 001", "Philips MR Imaging DD 001", "Philips MR Imaging DD 005"
# Philips, DICOM conformance statement of Achieva/Ingenia, private attributes; order as dcm2niix' notes on Philips.
_B_FACTOR, _PHASES, _SLICES, _DYNAMICS = 0x03, 0x17, 0x18, 0x81
_RIGHT_LEFT, _ANTERIOR_POSTERIOR, _FEET_HEAD = 0xB0, 0xB1, 0xB2
_DYNAMIC_BEGIN = 0xA0
_B_NUMBER, _DIRECTION_NUMBER = 0x12, 0x13

WANTED_PRIVATE = frozenset(
    {(0x2001, low) for low in (_B_FACTOR, _PHASES, _SLICES, _DYNAMICS)}
    | {
        (0x2005, low)
        for low in (_RIGHT_LEFT, _ANTERIOR_POSTERIOR, _FEET_HEAD, _DYNAMIC_BEGIN, _B_NUMBER, _DIRECTION_NUMBER)
    }
)


def philips_weighting(values: Values) -> Stated | None:
    """b-factor and direction along patient axes; the zero vector of a weighted image says isotropic."""
    b_value = _number(values, 0x2001, _IMAGING, _B_FACTOR)
    if b_value is None:
        return None
    parts = [_number(values, 0x2005, _MR, low) for low in (_RIGHT_LEFT, _ANTERIOR_POSTERIOR, _FEET_HEAD)]
    x, y, z = parts
    direction: Vector | None = None if x is None or y is None or z is None else (x, y, z)
    isotropic = direction is not None and not any(direction) and b_value > B0_LIMIT
    return Stated(
        source="(2001,1003)",
        b_value=b_value,
        direction_lps=None if isotropic else direction,
        isotropic=isotropic,
    )


def philips_order(values: Values) -> tuple[int, ...]:
    """Numbers of b-value and gradient direction; together they tell volumes of one diffusion scan apart."""
    numbers = (_integer(values, 0x2005, _MR_5, _B_NUMBER), _integer(values, 0x2005, _MR_5, _DIRECTION_NUMBER))
    return tuple(n for n in numbers if n is not None) if None not in numbers else ()


def philips_dynamic_time(values: Values) -> float | None:
    """Begin of the dynamic scan, s, where there are several; Acquisition Time is then that of the whole series."""
    dynamics = _integer(values, 0x2001, _IMAGING, _DYNAMICS)
    return _number(values, 0x2005, _MR, _DYNAMIC_BEGIN) if dynamics is not None and dynamics > 1 else None


def philips_phases(values: Values) -> int:
    """Number of cardiac phases; 1 where nothing says."""
    phases = _number(values, 0x2001, _IMAGING, _PHASES)
    return int(phases) if phases is not None and 1 <= phases < 10_000 else 1


def philips_counts(values: Values) -> tuple[tuple[str, int], ...]:
    """Number of slices. (2005,xx14) and (2005,xx15) are the protocol's limits, no counts of what is sent."""
    slices = _number(values, 0x2001, _IMAGING, _SLICES)
    return (("PhilipsNumberOfSlices", int(slices)),) if slices is not None and 0 < slices < 2**31 else ()


def _number(values: Values, group: int, creator: str, low: int) -> float | None:
    tag = values.private(group, creator, low)
    if tag is None or not values.raw(tag):
        return None
    number = values.number(tag)
    if number is None and len(values.raw(tag)) == 4:
        # Without a VR four bytes are FL or SL; of the two only one can be meant by the document.
        code = "i" if low in (_PHASES, _SLICES) else "f"
        numbers = values.numbers(tag, code, 1)
        number = float(numbers[0]) if numbers else None
    return number


def _integer(values: Values, group: int, creator: str, low: int) -> int | None:
    tag = values.private(group, creator, low)
    return values.integer(tag) if tag is not None else None
