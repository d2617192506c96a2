"""Walks the top level of a stored object's header: chosen values as raw bytes, and where the pixel data lie.

Not a DICOM library: no value is interpreted here beyond lengths, and nothing nested is kept but the raw bytes of a
sequence that was asked for. Bounded: every value that is kept has a largest length, every jump stays in the file,
sequences of undefined length are walked with a counter instead of recursion.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Container
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO

PIXEL_DATA = 0x7FE00010
FLOAT_PIXELS = frozenset({0x7FE00008, 0x7FE00009})
UNDEFINED = 0xFFFFFFFF

_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHUNK = 1 << 16
_MAX_VALUE = 1 << 16  # a kept value is longer only in a header made to hurt
_MAX_ELEMENTS = 200_000
_MAX_DEPTH = 64
_MAX_INFLATED = 1 << 28


class HeaderError(Exception):
    """The header does not follow PS3.5; ``cut`` when the file ends before it does."""

    def __init__(self, text: str, *, cut: bool = False) -> None:
        super().__init__(text)
        self.cut = cut


@dataclass(slots=True)
class Header:
    """What one walk found.

    ``pixel_offset`` is that of the first byte of the value of Pixel Data, None without Pixel Data; ``pixel_length`` is
    what the header says, for encapsulated pixels up to and with the delimiter. ``cut``: the file ends inside the header
    or inside the fragments of encapsulated pixels.
    """

    little_endian: bool
    explicit: bool
    size: int
    values: dict[int, bytes] = field(default_factory=dict)
    pixel_tag: int | None = None
    pixel_offset: int | None = None
    pixel_length: int = 0
    encapsulated: bool = False
    cut: bool = False


class _Window:
    """Bytes of a file by absolute position, read in chunks; never more than one kept value at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        self._start = 0
        self._data = b""

    def take(self, position: int, length: int) -> bytes:
        start = position - self._start
        if start < 0 or start + length > len(self._data):
            if position + length > self.size:
                raise HeaderError("ends inside an element", cut=True)
            self._file.seek(position)
            self._start, self._data = position, self._file.read(max(length, _CHUNK))
            if len(self._data) < length:
                raise HeaderError("ends inside an element", cut=True)
            start = 0
        return self._data[start : start + length]


def walk_header(file: BinaryIO, *, transfer_syntax_uid: str, wanted: Container[int]) -> Header:
    """Read the top level up to Pixel Data, keep the values of ``wanted`` tags.

    Parameters
    ----------
    file
        A Part 10 file or a bare data set, seekable.
    transfer_syntax_uid
        Of the data set; deflated data sets are not read here.
    wanted
        Tags as integers, ``0xGGGGEEEE``. Of a sequence the raw bytes of its items are kept when its length is defined
        and small; of an undefined length likewise.

    Raises
    ------
    HeaderError
        When an element cannot be right. A file that only ends too early gives a `Header` with ``cut`` instead, so
        that what was read before is not lost.
    """
    window = _Window(file)
    position = _data_set_start(window)
    little = transfer_syntax_uid != "1.2.840.10008.1.2.2"
    # Senders get explicit and implicit wrong; the first element does not.
    implicit = position + 6 <= window.size and not window.take(position + 4, 2).isalpha()
    header = Header(little_endian=little, explicit=not implicit, size=window.size)
    reader = _Elements(window, explicit=not implicit, little_endian=little)
    try:
        while position < window.size:
            tag, vr, length, value_at = reader.element(position)
            if tag == PIXEL_DATA or tag in FLOAT_PIXELS:
                header.pixel_tag, header.pixel_offset, header.pixel_length = tag, value_at, length
                if length == UNDEFINED:
                    header.pixel_length, header.encapsulated = reader.fragments(value_at) - value_at, True
                break
            if length == UNDEFINED:
                end = reader.skip_undefined(value_at, implicit_inside=vr == b"UN")
            else:
                end = value_at + length
                if end > window.size:
                    raise HeaderError("ends inside an element", cut=True)
            if tag in wanted and end - value_at <= _MAX_VALUE:
                header.values[tag] = window.take(value_at, end - value_at)
            position = end
    except HeaderError as error:
        if not error.cut:
            raise
        header.cut = True
    return header


def inflated(file: BinaryIO) -> BinaryIO:
    """The bare data set of a deflated file (PS3.5 annex A.5), at most 256 MiB of it.

    Raises
    ------
    HeaderError
        When it does not inflate.
    """
    window = _Window(file)
    file.seek(_data_set_start(window))
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return BytesIO(stream.decompress(file.read(_MAX_INFLATED), _MAX_INFLATED))
    except zlib.error as error:
        raise HeaderError("does not inflate") from error


def find_nested(header: Header, sequence_tag: int, tag: int) -> bytes | None:
    """First value of ``tag`` in an item of a kept sequence; None when it is not there or not readable."""
    raw = header.values.get(sequence_tag)
    if raw is None:
        return None
    reader = _Elements(_Window(BytesIO(raw)), explicit=header.explicit, little_endian=header.little_endian)
    position = 0
    try:
        while position + 8 <= len(raw):
            item, length = reader.item(position)
            if item != _ITEM:
                return None
            position += 8
            end = len(raw) if length == UNDEFINED else position + length
            while position + 8 <= min(end, len(raw)):
                if reader.item(position)[0] == _ITEM_END:
                    position += 8
                    break
                found, vr, size, value_at = reader.element(position)
                if found == tag and size != UNDEFINED:
                    return raw[value_at : value_at + size]
                position = (
                    reader.skip_undefined(value_at, implicit_inside=vr == b"UN")
                    if size == UNDEFINED
                    else value_at + size
                )
            else:
                position = end
    except HeaderError:
        return None
    return None


def _data_set_start(window: _Window) -> int:
    """Behind preamble and file meta information (PS3.10 section 7.1), 0 for a bare data set."""
    if window.size < 132 or window.take(128, 4) != b"DICM":
        return 0
    meta = _Elements(window, explicit=True, little_endian=True)
    position = 132
    while position < window.size:
        if window.take(position, 2) != b"\x02\x00":
            break
        _, _, length, value_at = meta.element(position)
        if length == UNDEFINED:
            raise HeaderError("file meta information of undefined length")
        position = value_at + length
    return position


class _Elements:
    """Element heads in one encoding (PS3.5 section 7.1)."""

    def __init__(self, window: _Window, *, explicit: bool, little_endian: bool) -> None:
        self._window = window
        self._explicit = explicit
        order = "<" if little_endian else ">"
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "I")
        self._left = _MAX_ELEMENTS

    def element(self, position: int, *, implicit: bool = False) -> tuple[int, bytes, int, int]:
        """(tag, VR, length, offset of the value) of the element at ``position``."""
        self._left -= 1
        if self._left < 0:
            raise HeaderError("too many elements")
        head = self._window.take(position, 8)
        group, number = self._tag.unpack_from(head)
        tag = group << 16 | number
        if not self._explicit or implicit:
            return tag, b"", self._long.unpack_from(head, 4)[0], position + 8
        vr = head[4:6]
        if vr in _LONG_VRS:
            return tag, vr, self._long.unpack(self._window.take(position + 8, 4))[0], position + 12
        if not (b"AA" <= vr <= b"ZZ" and vr.isalpha()):
            raise HeaderError("no value representation where one must be")
        return tag, vr, self._short.unpack_from(head, 6)[0], position + 8

    def item(self, position: int) -> tuple[int, int]:
        head = self._window.take(position, 8)
        group, number = self._tag.unpack_from(head)
        return group << 16 | number, self._long.unpack_from(head, 4)[0]

    def fragments(self, position: int) -> int:
        """End of encapsulated pixel data (PS3.5 annex A.4) whose value starts at ``position``."""
        while True:
            self._left -= 1
            tag, length = self.item(position)
            if tag == _SEQUENCE_END:
                return position + 8
            if tag != _ITEM or length == UNDEFINED or self._left < 0:
                raise HeaderError("encapsulated pixel data hold something that is no fragment")
            position += 8 + length

    def skip_undefined(self, position: int, *, implicit_inside: bool) -> int:
        """End of a sequence of undefined length whose value starts at ``position``, its delimiter included.

        ``implicit_inside``: the VR was UN, so its content is Implicit VR (PS3.5 section 6.2.2, note 2).
        """
        # What is open, innermost last: True for an item, False for a sequence; only undefined lengths are opened.
        opened = [False]
        while opened:
            tag, length = self.item(position)
            if tag in (_SEQUENCE_END, _ITEM_END):
                if opened[-1] is not (tag == _ITEM_END):
                    raise HeaderError("a delimiter where none may be")
                opened.pop()
                position += 8
            elif not opened[-1]:
                if tag != _ITEM:
                    raise HeaderError("a sequence holds something that is no item")
                position += 8
                if length == UNDEFINED:
                    opened.append(True)
                else:
                    position += length
            else:
                _, _, length, position = self.element(position, implicit=implicit_inside)
                if length == UNDEFINED:
                    opened.append(False)
                else:
                    position += length
            self._left -= 1
            if self._left < 0 or len(opened) > _MAX_DEPTH:
                raise HeaderError("nested too deeply")
        return position
