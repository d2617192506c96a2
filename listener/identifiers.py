"""Finds the UIDs that name an object near the start of its data set. Not a DICOM parser: values are never decoded.

Bounded in elements, depth and bytes, because what it reads is whatever a sender wrote. The encoding is taken from the
first element rather than from the negotiated transfer syntax, which senders get wrong; only deflation must be told.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from array import array
from typing import NamedTuple

from ichor.series.elements import ITEM, ITEM_END, LONG_VRS, SEQUENCE_END, UN, UNDEFINED
from ichor.store.disk import Bytes

_LETTERS = frozenset(range(ord("A"), ord("Z") + 1))
_SHORT_VRS = frozenset(a | b << 8 for a in _LETTERS for b in _LETTERS) - LONG_VRS
_DELIMITERS = 0xFFFE
_PIXELS = 0x7FE0  # group

# Data sets that are one deflated stream: PS3.5 A.5; A.6 of the JPIP pair.
_DEFLATED = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})

_MOST_ELEMENTS = 50_000
_MOST_DEPTH = 16
_MOST_INFLATED = 4 << 20
_MOST_VALUE = 256

_WANTED = {
    0x00160008: 0,
    0x00180008: 1,
    0x000D0020: 2,
    0x000E0020: 3,
}  # halves of the tag swapped: place in Identifiers


class Identifiers(NamedTuple):
    """UIDs as the data set says them, padding removed, not validated; None where there is none to be read."""

    sop_class: str | None = None
    sop_instance: str | None = None
    study: str | None = None
    series: str | None = None

    @property
    def is_complete(self) -> bool:
        return None not in self[:]


class _CannotGoOn(Exception):
    """The data set ends, or makes no sense, from here on."""


def find_identifiers(data_set: Bytes, transfer_syntax_uid: str) -> Identifiers:
    """What can be read before the data set ends, makes no sense or comes to its pixels."""
    data = _inflated(data_set) if transfer_syntax_uid in _DEFLATED else data_set
    known = _by_layout(data)
    if known is not None:
        return known
    scan = _Scan(data)
    # What was found until then counts; what is wrong with the rest is named when the facts are read.
    with contextlib.suppress(_CannotGoOn, struct.error):
        scan.run()
    found = Identifiers(*scan.found)
    if found.is_complete:
        _remember(data, scan)
    return found


def _inflated(data: Bytes) -> bytes:
    """What a deflated stream says before it ends or is damaged, to the byte: however much of it is here already."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    with contextlib.suppress(zlib.error):
        return stream.decompress(data, _MOST_INFLATED)
    # zlib keeps to itself what came before the damage: up to there again, in ever smaller steps.
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated, position, step = bytearray(), 0, 4096
    while step and position < len(data) and len(inflated) < _MOST_INFLATED:
        before = stream.copy()
        try:
            inflated += stream.decompress(data[position : position + step], _MOST_INFLATED - len(inflated))
            position += step
        except zlib.error:
            stream = before
            step //= 16
    return bytes(inflated)


class _Layout(NamedTuple):
    """All that a scan looked at on its way to four UIDs, their values aside: what is the same there ends the same.

    The images of a series differ in values of the same length. No value is kept.
    """

    last: int  # where the head of the last element stands, and that head
    last_head: bytes
    end: int
    pick: struct.Struct  # every head, tag to length
    heads: tuple[bytes, ...]
    values: tuple[slice, ...]


_layouts: tuple[_Layout, ...] = ()  # the latest first; replaced as a whole, by any thread
_MOST_LAYOUTS = 8
_MOST_HEADS = 500


def _by_layout(data: Bytes) -> Identifiers | None:
    for layout in _layouts:
        last = layout.last
        if data[last : last + 8] == layout.last_head and len(data) >= layout.end:
            if layout.pick.unpack_from(data) != layout.heads:
                continue
            found = Identifiers(*[_text(bytes(data[place])) for place in layout.values])
            if found.is_complete:
                return found
    return None


def _remember(data: Bytes, scan: _Scan) -> None:
    global _layouts
    if len(scan.heads) > _MOST_HEADS:
        return
    form, at = "<", 0
    for head in scan.heads:
        begin = head >> 1
        end = begin + (12 if head & 1 else 8)
        form += f"{begin - at}x{end - begin}s" if begin > at else f"{end - begin}s"
        at = end
    pick, last = struct.Struct(form), scan.heads[-1] >> 1
    end = max(place.stop for place in scan.values)
    layout = _Layout(last, bytes(data[last : last + 8]), end, pick, pick.unpack_from(data), tuple(scan.values))
    _layouts = (layout, *_layouts[: _MOST_LAYOUTS - 1])


def _text(value: bytes) -> str | None:
    return value.decode("ascii", "replace").rstrip("\0 ") or None


_LITTLE, _BIG = struct.Struct("<IHH"), struct.Struct(">HHHH")
_LITTLE_LONG, _BIG_LONG = struct.Struct("<I"), struct.Struct(">I")


class _Scan:
    def __init__(self, data: Bytes) -> None:
        self.found: list[str | None] = [None, None, None, None]
        self.values = [slice(0)] * 4
        self.heads = array("Q")  # twice where each began that was looked at, in order; one more: it has 12 bytes, not 8
        self._data = data
        self._left = _MOST_ELEMENTS
        start = bytes(data[:6])
        self._is_big = start[:2] == b"\x00\x08"
        self._explicit = start[4:].isalpha() and start[4:].isupper()
        self._long = (_BIG_LONG if self._is_big else _LITTLE_LONG).unpack_from

    def run(self) -> None:
        if self._explicit and not self._is_big:
            self._run_explicit_little(0)
        else:
            self._run(0)

    def _run_explicit_little(self, position: int) -> None:
        """`_run` for the usual encoding."""
        data, unpack, short, long = self._data, _LITTLE.unpack_from, _SHORT_VRS, LONG_VRS
        left, last, note = self._left, len(self._data) - 8, self.heads.append
        while position <= last and left:
            left -= 1
            tag, vr, length = unpack(data, position)
            if tag & 0xFFFF >= _PIXELS:
                return
            if vr in short:
                note(position << 1)
                position += 8
            elif vr in long:
                (length,) = self._long(data, position + 8)
                note(position << 1 | 1)
                position += 12
                if length == UNDEFINED:
                    self._left = left
                    position = self._skip_items(position, explicit=vr != UN, depth=1)
                    left = self._left
                    continue
            else:
                return
            if tag in _WANTED and self._is_last(tag, position, length):
                return
            position += length

    def _run(self, position: int) -> None:
        explicit = self._explicit
        while position + 8 <= len(self._data):
            tag, vr, length, position = self._head(position, explicit=explicit)
            if tag & 0xFFFF >= _PIXELS:
                return
            if length == UNDEFINED:
                position = self._skip_items(position, explicit=explicit and vr != UN, depth=1)
                continue
            if tag in _WANTED and self._is_last(tag, position, length):
                return
            position += length

    def _is_last(self, tag: int, position: int, length: int) -> bool:
        """Note a UID; True when that was all."""
        place = _WANTED[tag]
        length = min(length, _MOST_VALUE)
        value = bytes(self._data[position : position + length])
        if self.found[place] is None and len(value) == length:
            self.found[place] = _text(value)
            self.values[place] = slice(position, position + length)
        return None not in self.found

    def _head(self, position: int, *, explicit: bool) -> tuple[int, int, int, int]:
        """Tag, VR (0 where there is none), length and the place of the value of the element at ``position``."""
        tag, vr, length, value = self._read_head(position, explicit=explicit)
        self.heads.append(position << 1 | (value - position == 12))
        return tag, vr, length, value

    def _read_head(self, position: int, *, explicit: bool) -> tuple[int, int, int, int]:
        self._left -= 1
        if self._left < 0 or position + 8 > len(self._data):
            raise _CannotGoOn
        if self._is_big:
            group, element, vr, length = _BIG.unpack_from(self._data, position)
            tag = element << 16 | group
            vr = vr >> 8 | (vr & 0xFF) << 8
        else:
            tag, vr, length = _LITTLE.unpack_from(self._data, position)
        if not explicit or tag & 0xFFFF == _DELIMITERS:
            return tag, 0, self._long(self._data, position + 4)[0], position + 8
        if vr in LONG_VRS:
            return tag, vr, self._long(self._data, position + 8)[0], position + 12
        if vr not in _SHORT_VRS:
            raise _CannotGoOn
        return tag, vr, length, position + 8

    def _skip_items(self, position: int, *, explicit: bool, depth: int) -> int:
        """The place behind the sequence of undefined length whose value begins at ``position``."""
        if depth > _MOST_DEPTH:
            raise _CannotGoOn
        while True:
            tag, _, length, position = self._head(position, explicit=explicit)
            if tag == SEQUENCE_END:
                return position
            if tag != ITEM:
                raise _CannotGoOn
            if length != UNDEFINED:
                position += length
            else:
                position = self._skip_elements(position, explicit=explicit, depth=depth)

    def _skip_elements(self, position: int, *, explicit: bool, depth: int) -> int:
        """The place behind the item of undefined length whose first element is at ``position``."""
        while True:
            tag, vr, length, position = self._head(position, explicit=explicit)
            if tag == ITEM_END:
                return position
            if length == UNDEFINED:
                position = self._skip_items(position, explicit=explicit and vr != UN, depth=depth + 1)
            else:
                position += length
