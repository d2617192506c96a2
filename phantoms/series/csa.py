"""Writes a Siemens CSA image header, format SV10, as found in (0029,1010). Reads none."""

from __future__ import annotations

import struct
from collections.abc import Sequence

# Layout as described in nibabel's "Siemens CSA header" page and checked against files of a Trio and a Prisma.
_SYNGO_TYPES = {"DS": 3, "FD": 4, "FL": 5, "IS": 6, "SL": 7, "US": 10, "CS": 16, "LO": 19, "SH": 22}
_FILLED, _EMPTY = 77, 205
_ITEMS = 6  # scanners reserve six items even for one value


def csa_header(elements: Sequence[tuple[str, str, Sequence[str]]]) -> bytes:
    """``elements``: name, VR and values, as texts; none for an element that is there and empty."""
    out = [b"SV10\4\3\2\1", struct.pack("<2I", len(elements), _FILLED)]
    for name, vr, values in elements:
        # Scanners leave what stood in memory behind the name's end.
        field = (name.encode() + b"\0" + b"left.over\t = \t1\n" * 4)[:64]
        count = max(_ITEMS, len(values)) if values else 0
        out.append(field)
        out.append(struct.pack("<i", len(values)) + vr.encode() + b"\0\0")
        out.append(struct.pack("<3i", _SYNGO_TYPES[vr], count, _FILLED if values else _EMPTY))
        for k in range(count):
            text = values[k].encode() + b"\0" if k < len(values) else b""
            size = len(text)
            out.append(struct.pack("<4i", size, size, _FILLED if text else _EMPTY, size))
            out.append(text.ljust((size + 3) // 4 * 4, b"\0"))
    return b"".join(out) + b"\0\0\0\0"
