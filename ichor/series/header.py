"""Walks the top level of a stored object's header: chosen values as raw bytes, and where the pixel data lie.

Not a DICOM library: no value is interpreted here beyond lengths, and nothing nested is kept but the raw bytes of a
sequence that was asked for (`ichor.series.values` reads those). Bounded: every value that is kept has a largest
length, every jump stays in the file, sequences of undefined length are walked with a counter instead of recursion.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, NamedTuple, TypeAlias

PIXEL_DATA = 0x7FE00010
FLOAT_PIXELS = frozenset({0x7FE00008, 0x7FE00009})
UNDEFINED = 0xFFFFFFFF
MAX_VALUE = 1 << 16  # a kept value is longer only in a header made to hurt, but for what `Selection` allows

ITEM, ITEM_END, SEQUENCE_END = 0xE000FFFE, 0xE00DFFFE, 0xE0DDFFFE  # halves swapped, as a little endian word reads
_DELIMITERS = (ITEM_END, SEQUENCE_END)
_CHUNK = 1 << 16
_MAX_ELEMENTS = 200_000
_MAX_NESTED = 5_000_000  # in sequences of undefined length: 20,000 frames of 250 elements
_MAX_DEPTH = 64
_MAX_KEPT = 96 << 20
_MAX_INFLATED = 1 << 28

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


class Selection:
    """What a walk keeps: ``tags`` (``0xGGGGEEEE``), and private elements by (group, low byte) in whatever block.

    With a private element the Private Creators of its group are kept. ``limits`` names tags whose value may be longer
    than 64 KiB; ``private_limits`` likewise by (group, low byte).
    """

    __slots__ = ("limits", "private", "private_limits", "tags")

    def __init__(
        self,
        tags: Iterable[int],
        *,
        private: Iterable[tuple[int, int]] = (),
        limits: Mapping[int, int] | None = None,
        private_limits: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        private = frozenset(private)
        creators = (group << 16 | block for group, _ in private for block in range(0x10, 0x100))
        self.tags = {swapped(tag): tag for tag in (*tags, *creators, PIXEL_DATA, *FLOAT_PIXELS)}
        self.private = frozenset(low << 16 | group for group, low in private)
        self.limits = dict(limits or {})
        self.private_limits = {low << 16 | group: limit for (group, low), limit in (private_limits or {}).items()}

    def limit(self, tag: int) -> int:
        """Largest length in bytes of a kept value of ``tag``."""
        return self.limits.get(tag) or self.private_limits.get(swapped(tag) & 0x00FFFFFF, MAX_VALUE)


class Run(NamedTuple):
    """Whole elements that stand side by side, with what a walk keeps of them (`ichor.series.likeness`)."""

    content: bytes
    length: int
    values: Mapping[int, bytes]
    vrs: Mapping[int, int]


@dataclass(slots=True)
class Header:
    """What one walk found; ``vrs`` has the code of the value representation of each kept value, 0 where none is given.

    ``pixel_offset`` is that of the first byte of the value of Pixel Data, None without Pixel Data; ``pixel_length`` is
    what the header says, for encapsulated pixels up to and with the delimiter. ``cut``: the file ends inside the header
    or inside the fragments of encapsulated pixels. ``start``: where the data set begins. ``missed``: a run that was
    expected was not there. ``head``: the first bytes of the file, empty where the walk went on beyond them.
    """

    little_endian: bool
    explicit: bool
    size: int
    announced_explicit: bool = True
    values: dict[int, bytes] = field(default_factory=dict)
    vrs: dict[int, int] = field(default_factory=dict)
    pixel_tag: int | None = None
    pixel_offset: int | None = None
    pixel_length: int = 0
    encapsulated: bool = False
    cut: bool = False
    start: int = 0
    missed: bool = False
    head: bytes = b""

    @property
    def as_announced(self) -> bool:
        """Whether it is explicit or implicit as its transfer syntax says."""
        return self.explicit == self.announced_explicit


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


def walk_header(
    file: BinaryIO, *, transfer_syntax_uid: str, selection: Selection, runs: Mapping[bytes, Run] | None = None
) -> Header:
    """Read the top level up to Pixel Data, keep the values that ``selection`` names.

    Of a sequence the raw bytes of its items are kept, with delimiters where its length is undefined.

    Parameters
    ----------
    file
        A Part 10 file or a bare data set, seekable.
    transfer_syntax_uid
        Of the data set; deflated data sets are not read here.
    runs
        Elements that are likely to come, by the first 8 bytes of each run, of a walk with the same ``selection``.

    Raises
    ------
    HeaderError
        When an element cannot be right. A file that only ends too early gives a `Header` with ``cut`` instead, so
        that what was read before is not lost.
    """
    window = Window(file)
    position = _data_set_start(window)
    little = transfer_syntax_uid != "1.2.840.10008.1.2.2"
    # Senders get explicit and implicit wrong; the first element does not.
    implicit = position + 6 <= window.size and not window.take(position + 4, 2).isalpha()
    header = Header(
        little_endian=little, explicit=not implicit, size=window.size, start=position,
        announced_explicit=transfer_syntax_uid != "1.2.840.10008.1.2",
    )  # fmt: skip
    expected = runs if runs and header.as_announced else {}
    try:
        _walk(window, position, header=header, selection=selection, runs=expected)
    except HeaderError as error:
        if not error.cut:
            raise
        header.cut = True
    if window.base == 0:
        header.head = window.data
    return header


def _walk(window: Window, position: int, *, header: Header, selection: Selection, runs: Mapping[bytes, Run]) -> None:
    # Every step that this loop does not make is time saved: it runs 300 times per object.
    size, little, explicit = window.size, header.little_endian, header.explicit
    tags, private = selection.tags, selection.private
    short_vrs = SHORT_VRS if explicit else _NONE
    head, long_ = (_LITTLE_HEAD, LITTLE_LONG) if little else (_big_head, BIG_LONG)
    window.need(position, min(8, size - position))
    data, base = window.data, window.base
    at, end, keep = position - base, len(data), _Keeper(window, header=header, selection=selection)
    values, vrs = header.values, header.vrs
    for _ in range(_MAX_ELEMENTS):
        if runs:
            run = runs.get(data[at : at + 8])
            if run is not None:
                if data.startswith(run.content, at):
                    at += run.length
                    values.update(run.values)
                    vrs.update(run.vrs)
                    continue
                header.missed = True
        try:
            word, vr, length = head(data, at)
            if vr in short_vrs:
                start = at + 8
            elif not explicit:
                length, vr, start = long_(data, at + 4)[0], 0, at + 8
            elif vr in LONG_VRS:
                length, start = long_(data, at + 8)[0], at + 12
            else:
                _check_vr(vr)
                start = at + 8
        except struct.error:
            position = base + at
            if position == size:
                return
            window.need(position, min(12, max(8, size - position)))
            if window.data is data:
                raise HeaderError("ends inside an element", cut=True) from None
            data, base, end, at = window.data, window.base, len(window.data), position - window.base
            continue
        if word in tags:
            tag = tags[word]
            if tag >= 0x7FE00008:
                keep.pixels(tag, base + start, length)
                return
        elif word & 1 and word & 0x00FFFFFF in private and word >= 0x10000000:
            tag = swapped(word)
        elif length != UNDEFINED:
            at = start + length
            continue
        else:
            tag = 0
        at = start + length
        if at <= end and length <= MAX_VALUE:
            values[tag] = data[start:at]
            vrs[tag] = vr
            continue
        position = keep.unusual(tag, vr, base + start, length)
        data, base, end = window.data, window.base, len(window.data)
        at = position - base
        if at < 0:
            window.need(position, min(8, size - position))
            data, base, end, at = window.data, window.base, len(window.data), position - window.base
    raise HeaderError("too many elements")


class _Keeper:
    """What a walk seldom meets: long values, undefined lengths, pixels."""

    def __init__(self, window: Window, *, header: Header, selection: Selection) -> None:
        self._window, self._header, self._selection = window, header, selection
        self._kept = 0

    def unusual(self, tag: int, vr: int, position: int, length: int) -> int:
        """End of a value that is long, or of undefined length; it is kept when ``tag`` is not 0 and allows it."""
        header, window = self._header, self._window
        if length == UNDEFINED:
            end = end_of_undefined(
                window, position, explicit=header.explicit and vr != UN, little_endian=header.little_endian or vr == UN
            )
            length, vr = end - position, vr or SQ
        elif position + length > window.size:
            raise HeaderError("ends inside an element", cut=True)
        if tag and length <= self._selection.limit(tag) and self._kept + length <= _MAX_KEPT:
            header.values[tag], header.vrs[tag] = window.take(position, length), vr
            self._kept += length
        return position + length

    def pixels(self, tag: int, position: int, length: int) -> None:
        header = self._header
        header.pixel_tag, header.pixel_offset, header.pixel_length = tag, position, length
        if length == UNDEFINED:
            end = _end_of_fragments(self._window, position, little_endian=header.little_endian)
            header.pixel_length, header.encapsulated = end - position, True


def _check_vr(vr: int) -> None:
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
    _check_vr(vr)
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
                _check_vr(vr)
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


def inflated(file: BinaryIO) -> BinaryIO:
    """The bare data set of a deflated file (PS3.5 annex A.5), at most 256 MiB of it.

    Raises
    ------
    HeaderError
        When it does not inflate.
    """
    window = Window(file)
    file.seek(_data_set_start(window))
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return BytesIO(stream.decompress(file.read(_MAX_INFLATED), _MAX_INFLATED))
    except zlib.error as error:
        raise HeaderError("does not inflate") from error


def _data_set_start(window: Window) -> int:
    """Behind preamble and file meta information (PS3.10 section 7.1), 0 for a bare data set."""
    if window.size < 132 or window.take(128, 4) != b"DICM":
        return 0
    position, size = 132, window.size
    while position < size:
        try:
            word, _, length, start = element_head(
                window.data, position - window.base, explicit=True, little_endian=True
            )
        except (struct.error, HeaderError):
            if window.take(position, 2) != b"\x02\x00":
                return position
            window.need(position, min(12, size - position))
            word, _, length, start = _meta_head(window, position)
        if word & 0xFFFF != 2:
            return position
        if length == UNDEFINED:
            raise HeaderError("file meta information of undefined length")
        position = window.base + start + length
    return position


def _meta_head(window: Window, position: int) -> tuple[int, int, int, int]:
    try:
        return element_head(window.data, position - window.base, explicit=True, little_endian=True)
    except struct.error as error:
        raise HeaderError("ends inside an element", cut=True) from error


def _end_of_fragments(window: Window, position: int, *, little_endian: bool) -> int:
    """End of encapsulated pixel data (PS3.5 annex A.4) whose value starts at ``position``."""
    for _ in range(_MAX_ELEMENTS):
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
