"""The encoding of elements and of their nesting (PS3.5 section 7 and annex A.4), in bounded bytes. Keeps no value."""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, TypeAlias

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xE000FFFE, 0xE00DFFFE, 0xE0DDFFFE  # halves swapped, as a little endian word reads
MAX_ELEMENTS = 200_000
_DELIMITERS = (ITEM_END, SEQUENCE_END)
_CHUNK = 1 << 16
_MAX_NESTED = 5_000_000  # in sequences of undefined length: 20,000 frames of 250 elements
_MAX_DEPTH = 64

Head: TypeAlias = Callable[[bytes, int], tuple[int, int, int]]


class HeaderError(Exception):
    """The header does not follow PS3.5; ``cut`` when the file ends before it does."""

    def __init__(self, text: str, *, cut: bool = False) -> None:
        super().__init__(text)
        self.cut = cut


def vr_code(vr: bytes) -> int:
    """Two letters of a value representation as `head_of` gives them."""
    return int.from_bytes(vr, "little")


# PS3.5 table 7.1-1 and 7.1-2.
LONG_VRS = frozenset(map(vr_code, (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT",
                                   b"UV")))  # fmt: skip
SHORT_VRS = frozenset(map(vr_code, (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT",
                                    b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US")))  # fmt: skip
_NONE: frozenset[int] = frozenset()
UN, SQ = vr_code(b"UN"), vr_code(b"SQ")

_LITTLE_HEAD = struct.Struct("<IHH").unpack_from
_BIG_GROUP_ELEMENT = struct.Struct(">HH").unpack_from
_LITTLE_SHORT, _BIG_SHORT = struct.Struct("<H").unpack_from, struct.Struct(">H").unpack_from
LITTLE_LONG, BIG_LONG = struct.Struct("<I").unpack_from, struct.Struct(">I").unpack_from


def _big_head(data: bytes, at: int) -> tuple[int, int, int]:
    group, element = _BIG_GROUP_ELEMENT(data, at)
    return element << 16 | group, _LITTLE_SHORT(data, at + 4)[0], _BIG_SHORT(data, at + 6)[0]


def head_of(*, little_endian: bool) -> Head:
    """Reader of an element's first 8 bytes: (tag with its halves swapped, VR code, short length)."""
    return _LITTLE_HEAD if little_endian else _big_head


def swapped(tag: int) -> int:
    """``0xGGGGEEEE`` as ``0xEEEEGGGG`` and back: what four bytes of a tag are as one little endian word."""
    return (tag & 0xFFFF) << 16 | tag >> 16


class Window:
    """Bytes of a file by absolute position, read in chunks: ``data`` begins at ``base``."""

    __slots__ = ("_file", "base", "data", "size")

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        self.base = 0
        file.seek(0)
        self.data = file.read(_CHUNK)

    @classmethod
    def over(cls, data: bytes) -> Window:
        """All of ``data`` at once."""
        window = cls.__new__(cls)
        window._file, window.size, window.base, window.data = BytesIO(), len(data), 0, data
        return window

    def need(self, position: int, length: int) -> None:
        """Make ``data`` hold ``length`` bytes at ``position``.

        Raises
        ------
        HeaderError
            ``cut``: the file ends before.
        """
        start = position - self.base
        if start >= 0 and start + length <= len(self.data):
            return
        if position + length > self.size:
            raise HeaderError("ends inside an element", cut=True)
        self._file.seek(position)
        self.base, self.data = position, self._file.read(max(length, _CHUNK))
        if len(self.data) < length:
            raise HeaderError("ends inside an element", cut=True)

    def take(self, position: int, length: int) -> bytes:
        """``length`` bytes at ``position``; raises as `need` does. What is longer than a chunk leaves no copy here."""
        if length > _CHUNK and position + length <= self.size and position + length > self.base + len(self.data):
            self._file.seek(position)
            taken = self._file.read(length)
            if len(taken) < length:
                raise HeaderError("ends inside an element", cut=True)
            return taken
        self.need(position, length)
        return self.data[position - self.base : position - self.base + length]


def check_vr(vr: int) -> None:
    """A value representation that is not known here has the short form, as long as it is one at all."""
    if not (0x41 <= vr & 0xFF <= 0x5A and 0x41 <= vr >> 8 <= 0x5A):
        raise HeaderError("no value representation where one must be")


def element_head(data: bytes, at: int, *, explicit: bool, little_endian: bool) -> tuple[int, int, int, int]:
    """(tag with its halves swapped, VR code, length, offset of the value) of the element at ``at``.

    Raises
    ------
    struct.error
        When ``data`` end before it does.
    HeaderError
        When what stands there is no value representation.
    """
    word, vr, length = (_LITTLE_HEAD if little_endian else _big_head)(data, at)
    if not explicit:
        return word, 0, (LITTLE_LONG if little_endian else BIG_LONG)(data, at + 4)[0], at + 8
    if vr in SHORT_VRS:
        return word, vr, length, at + 8
    if vr in LONG_VRS:
        return word, vr, (LITTLE_LONG if little_endian else BIG_LONG)(data, at + 8)[0], at + 12
    check_vr(vr)
    return word, vr, length, at + 8


def end_of_undefined(window: Window, position: int, *, explicit: bool, little_endian: bool, item: bool = False) -> int:
    """End of a sequence (or ``item``) of undefined length whose value starts at ``position``, with its delimiter.

    ``explicit`` and ``little_endian`` say how it is encoded inside; what has the VR UN is Implicit VR Little Endian
    (PS3.5 section 6.2.2, note 2), and so is all that it holds.

    Raises
    ------
    HeaderError
        When it is not built as PS3.5 section 7.5 says, or nested beyond reason.
    """
    # What is open, innermost last: (is an item, explicit, little endian); only undefined lengths are opened.
    opened = [(item, explicit, little_endian)]
    is_item, data, base = item, window.data, window.base
    # Empty where no value representation can stand: between items, and in Implicit VR.
    short_vrs = SHORT_VRS if item and explicit else _NONE
    head, long_ = (_LITTLE_HEAD, LITTLE_LONG) if little_endian else (_big_head, BIG_LONG)
    at = position - base
    if at < 0:
        window.need(position, 8)
        data, base, at = window.data, window.base, 0
    for _ in range(_MAX_NESTED):
        try:
            word, vr, length = head(data, at)
            if vr in short_vrs:
                at += 8 + length
                continue
            # Delimiters and items have no value representation, whatever the encoding (PS3.5 section 7.5).
            delimiter = word in _DELIMITERS
            if not short_vrs or delimiter:
                vr, length, start = 0, long_(data, at + 4)[0], at + 8
            elif vr in LONG_VRS:
                length, start = long_(data, at + 8)[0], at + 12
            else:
                check_vr(vr)
                start = at + 8
        except struct.error:
            position = base + at
            window.need(position, min(12, max(8, window.size - position)))
            if window.data is data:
                raise HeaderError("ends inside an element", cut=True) from None
            data, base, at = window.data, window.base, position - window.base
            continue
        if delimiter:
            if is_item is not (word == ITEM_END):
                raise HeaderError("a delimiter where none may be")
            opened.pop()
            at = start
            if not opened:
                return base + at
            is_item, explicit, little_endian = opened[-1]
            short_vrs = SHORT_VRS if is_item and explicit else _NONE
            head, long_ = (_LITTLE_HEAD, LITTLE_LONG) if little_endian else (_big_head, BIG_LONG)
        elif not is_item and word != ITEM:
            raise HeaderError("a sequence holds something that is no item")
        elif length == UNDEFINED:
            if vr == UN:
                explicit, little_endian, head, long_ = False, True, _LITTLE_HEAD, LITTLE_LONG
            is_item = not is_item
            opened.append((is_item, explicit, little_endian))
            short_vrs = SHORT_VRS if is_item and explicit else _NONE
            if len(opened) > _MAX_DEPTH:
                raise HeaderError("nested too deeply")
            at = start
        else:
            at = start + length
    raise HeaderError("too many nested elements")


def end_of_fragments(window: Window, position: int, *, little_endian: bool) -> int:
    """End of encapsulated pixel data (PS3.5 annex A.4) whose value starts at ``position``."""
    for _ in range(MAX_ELEMENTS):
        window.need(position, 8)
        word, _, length, _ = element_head(
            window.data, position - window.base, explicit=False, little_endian=little_endian
        )
        if word == SEQUENCE_END:
            return position + 8
        if word != ITEM or length == UNDEFINED:
            raise HeaderError("encapsulated pixel data hold something that is no fragment")
        position += 8 + length
    raise HeaderError("too many fragments")
