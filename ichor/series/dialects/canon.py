"""Diffusion weighting that Canon's older software writes into Image Comments. Knows no public attribute of it."""

from __future__ import annotations

import re

from ichor.series.dialects.ge import PHASE_ENCODING, from_logical
from ichor.series.dialects.weighting import Stated
from ichor.series.values import Values

IMAGE_COMMENTS = 0x00204000
WANTED = frozenset({IMAGE_COMMENTS, PHASE_ENCODING})

# dcm2niix' notes on Canon: "b=1500(0.445,0.000,0.895)", along frequency, phase and slice.
_COMMENT = re.compile(r"b=(\d{1,6}(?:\.\d{1,6})?)\((-?\d\.\d{1,6}),(-?\d\.\d{1,6}),(-?\d\.\d{1,6})\)\Z")


def canon_weighting(values: Values, *, orientation: tuple[float, ...] | None) -> Stated | None:
    """What the comment says, where it has that form and nothing else."""
    match = _COMMENT.match((values.text(IMAGE_COMMENTS) or "").strip())
    if match is None:
        return None
    b_value, x, y, z = map(float, match.groups())
    direction = from_logical((x, y, z), phase_encoding=values.text(PHASE_ENCODING), orientation=orientation)
    return Stated(source="(0020,4000)", b_value=b_value, direction_lps=direction)
