"""Diffusion weighting by the standard's attributes (PS3.3 C.8.13.5.9). Knows no vendor."""

from __future__ import annotations

from ichor.series.dialects.lps import vector
from ichor.series.dialects.weighting import Stated
from ichor.series.values import Values

B_VALUE, DIRECTIONALITY, ORIENTATION = 0x00189087, 0x00189075, 0x00189089
DIFFUSION_SEQUENCE, DIRECTION_SEQUENCE, MATRIX_SEQUENCE = 0x00189117, 0x00189076, 0x00189601
_MATRIX = (0x00189602, 0x00189603, 0x00189604, 0x00189605, 0x00189606, 0x00189607)

WANTED = frozenset(
    {B_VALUE, DIRECTIONALITY, ORIENTATION, DIFFUSION_SEQUENCE, DIRECTION_SEQUENCE, MATRIX_SEQUENCE, *_MATRIX}
)


def standard_weighting(values: Values) -> Stated | None:
    """What an MR Diffusion Sequence says, or the same attributes outside of one, as classic images carry them."""
    for item in values.items(DIFFUSION_SEQUENCE)[:1]:
        return _stated(item)
    return _stated(values)


def _stated(values: Values) -> Stated | None:
    b_value = values.number(B_VALUE)
    if b_value is None:
        return None
    directions = values.items(DIRECTION_SEQUENCE)
    orientation = (directions[0] if directions else values).numbers(ORIENTATION, "d", 3)
    matrix = None
    for item in values.items(MATRIX_SEQUENCE)[:1]:
        numbers = [item.number(tag) for tag in _MATRIX]
        known = tuple(n for n in numbers if n is not None)
        matrix = known if len(known) == len(_MATRIX) else None
    return Stated(
        source="(0018,9087)",
        b_value=b_value,
        direction_lps=vector(orientation),
        isotropic=(values.text(DIRECTIONALITY) or "").upper() == "ISOTROPIC",
        b_matrix=matrix,
    )
