"""Finds the UIDs that name an object near the start of its data set. Not a DICOM parser: values are never decoded.

Bounded in elements, depth and bytes, because what it reads is whatever a sender wrote. The encoding is taken from the
first element rather than from the negotiated transfer syntax, which senders get wrong; only deflation must be told.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from dataclasses import dataclass

# PS3.5 7.1.2: the VRs whose explicit length has four bytes.
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = 0x7FE00000

# Data sets that are one deflated stream: PS3.5 A.5; A.6 of the JPIP pair.
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

_MOST_ELEMENTS = 50_000
_MOST_DEPTH = 16
_MOST_INFLATED = 4 << 20

_WANTED = {0x00080016: "sop_class", 0x00080018: "sop_instance", 0x0020000D: "study", 0x0020000E: "series"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identifiers:
    """UIDs as the data set says them, padding removed, not validated; None where there is none to be read."""

    sop_class: str | None = None
    sop_instance: str | None = None
    study: str | None = None
    series: str | None = None


class _CannotGoOn(Exception):
    """The data set ends, or makes no sense, from here on."""


def find_identifiers(data_set: bytes | bytearray | memoryview, transfer_syntax_uid: str) -> Identifiers:
    """What can be read before the data set ends, makes no sense or comes to its pixels."""
    data = memoryview(data_set).cast("B")
    if transfer_syntax_uid in _DEFLATED:
        try:
            data = memoryview(zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _MOST_INFLATED))
        except zlib.error:
            return Identifiers()
    scan = _Scan(data)
    # What was found until then counts; what is wrong with the rest is named when the facts are read.
    with contextlib.suppress(_CannotGoOn, struct.error):
        scan.run()
    return Identifiers(**scan.found)


class _Scan:
    def __init__(self, data: memoryview) -> None:
        self.found: dict[str, str] = {}
        self._data = data
        self._left = _MOST_ELEMENTS
        big = bytes(data[:2]) == b"\x00\x08"
        explicit = bytes(data[4:6]).isalpha() and bytes(data[4:6]).isupper()
        self._explicit = explicit
        order = ">" if big else "<"
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "I")

    def run(self) -> None:
        position = 0
        while position + 8 <= len(self._data) and len(self.found) < len(_WANTED):
            is_unknown = self._is_unknown(position, explicit=self._explicit)
            tag, length, position = self._head(position, explicit=self._explicit)
            if tag >= _PIXELS:
                return
            if length == _UNDEFINED:
                position = self._skip_items(position, explicit=self._explicit and not is_unknown, depth=1)
                continue
            name = _WANTED.get(tag)
            if name is not None and name not in self.found:
                value = bytes(self._data[position : position + min(length, 256)])
                if len(value) == min(length, 256):
                    text = value.decode("ascii", "replace").rstrip("\0 ")
                    if text:
                        self.found[name] = text
            position += length

    def _head(self, position: int, *, explicit: bool) -> tuple[int, int, int]:
        """Tag, length and the place of the value of the element at ``position``."""
        self._left -= 1
        if self._left < 0 or position + 8 > len(self._data):
            raise _CannotGoOn
        group, element = self._tag.unpack_from(self._data, position)
        tag = group << 16 | element
        if explicit and group != 0xFFFE:
            vr = bytes(self._data[position + 4 : position + 6])
            if vr in _LONG_VRS:
                return tag, self._long.unpack_from(self._data, position + 8)[0], position + 12
            if not (vr.isalpha() and vr.isupper()):
                raise _CannotGoOn
            return tag, self._short.unpack_from(self._data, position + 6)[0], position + 8
        return tag, self._long.unpack_from(self._data, position + 4)[0], position + 8

    def _is_unknown(self, position: int, *, explicit: bool) -> bool:
        """True for a UN: what lies in one of undefined length is in Implicit VR (PS3.5 6.2.2)."""
        return explicit and bytes(self._data[position + 4 : position + 6]) == b"UN"

    def _skip_items(self, position: int, *, explicit: bool, depth: int) -> int:
        """The place behind the sequence of undefined length whose value begins at ``position``."""
        if depth > _MOST_DEPTH:
            raise _CannotGoOn
        while True:
            tag, length, position = self._head(position, explicit=explicit)
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM:
                raise _CannotGoOn
            if length != _UNDEFINED:
                position += length
            else:
                position = self._skip_elements(position, explicit=explicit, depth=depth)

    def _skip_elements(self, position: int, *, explicit: bool, depth: int) -> int:
        """The place behind the item of undefined length whose first element is at ``position``."""
        while True:
            is_unknown = self._is_unknown(position, explicit=explicit)
            tag, length, position = self._head(position, explicit=explicit)
            if tag == _ITEM_END:
                return position
            if length == _UNDEFINED:
                position = self._skip_items(position, explicit=explicit and not is_unknown, depth=depth + 1)
            else:
                position += length
