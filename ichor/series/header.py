"""Walks the top level of a stored object's header: chosen values as raw bytes, and where the pixel data lie.

Not a DICOM library: no value is interpreted here beyond lengths, and nothing nested is kept but the raw bytes of a
sequence that was asked for (`ichor.series.values` reads those). Bounded: every value that is kept has a largest
length, every jump stays in the file, sequences of undefined length are walked with a counter instead of recursion.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, NamedTuple

from ichor.series.elements import (
    BIG_LONG,
    LITTLE_LONG,
    LONG_VRS,
    MAX_ELEMENTS,
    SHORT_VRS,
    SQ,
    UN,
    UNDEFINED,
    HeaderError,
    Window,
    check_vr,
    element_head,
    end_of_fragments,
    end_of_undefined,
    head_of,
    swapped,
)

PIXEL_DATA = 0x7FE00010
FLOAT_PIXELS = frozenset({0x7FE00008, 0x7FE00009})
MAX_VALUE = 1 << 16  # a kept value is longer only in a header made to hurt, but for what `Selection` allows

_MAX_KEPT = 96 << 20
_MAX_INFLATED, _MAX_RATIO, _ANY_RATIO = 64 << 20, 256, 4 << 20
_PIECE_INFLATED = 1 << 18
_MOST_OF_META = 64
_NONE: frozenset[int] = frozenset()


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


@dataclass(slots=True, kw_only=True)
class Course:
    """What a walk is given to step over, by the first 8 bytes of each run, and what it tells to be learnt from.

    ``start``: where the data set begins. ``head``: the first bytes of the file, empty where the walk went on beyond
    them. ``missed``: a run that was expected was not there.
    """

    runs: Mapping[bytes, Run] = field(default_factory=dict)
    start: int = 0
    head: bytes = b""
    missed: bool = False


@dataclass(slots=True)
class Header:
    """What one walk found; ``vrs`` has the code of the value representation of each kept value, 0 where none is given.

    ``pixel_offset`` is that of the first byte of the value of Pixel Data, None without Pixel Data; ``pixel_length`` is
    what the header says, for encapsulated pixels up to and with the delimiter. ``cut``: the file ends inside the header
    or inside the fragments of encapsulated pixels.
    """

    little_endian: bool
    explicit: bool
    size: int
    values: dict[int, bytes] = field(default_factory=dict)
    vrs: dict[int, int] = field(default_factory=dict)
    pixel_tag: int | None = None
    pixel_offset: int | None = None
    pixel_length: int = 0
    encapsulated: bool = False
    cut: bool = False


def walk_header(
    file: BinaryIO, *, transfer_syntax_uid: str, selection: Selection, course: Course | None = None
) -> Header:
    """Read the top level up to Pixel Data, keep the values that ``selection`` names.

    Of a sequence the raw bytes of its items are kept, with delimiters where its length is undefined.

    Parameters
    ----------
    file
        A Part 10 file or a bare data set, seekable.
    transfer_syntax_uid
        Of the data set; deflated data sets are not read here.
    course
        Elements that are likely to come, of walks with the same ``selection`` (`ichor.series.likeness`).

    Raises
    ------
    HeaderError
        When an element cannot be right. A file that only ends too early gives a `Header` with ``cut`` instead, so
        that what was read before is not lost.
    """
    window = Window(file)
    position = data_set_start(window)
    little = transfer_syntax_uid != "1.2.840.10008.1.2.2"
    # Senders get explicit and implicit wrong; the first element does not.
    implicit = position + 6 <= window.size and not window.take(position + 4, 2).isalpha()
    header = Header(little_endian=little, explicit=not implicit, size=window.size)
    course = course or Course()
    if implicit is not (transfer_syntax_uid == "1.2.840.10008.1.2"):
        # Runs of the same series under the encoding that was announced mean other elements.
        course = Course()
    course.start = position
    try:
        _walk(window, position, header=header, selection=selection, course=course)
    except HeaderError as error:
        if not error.cut:
            raise
        header.cut = True
    if window.base == 0:
        course.head = window.data
    return header


def _walk(window: Window, position: int, *, header: Header, selection: Selection, course: Course) -> None:
    # Every step that this loop does not make is time saved: it runs 300 times per object.
    size, little, explicit = window.size, header.little_endian, header.explicit
    tags, private = selection.tags, selection.private
    short_vrs = SHORT_VRS if explicit else _NONE
    head, long_ = head_of(little_endian=little), LITTLE_LONG if little else BIG_LONG
    window.need(position, min(8, size - position))
    data, base = window.data, window.base
    at, end, keep = position - base, len(data), _Keeper(window, header=header, selection=selection)
    values, vrs, runs = header.values, header.vrs, course.runs
    for _ in range(MAX_ELEMENTS):
        if runs:
            run = runs.get(data[at : at + 8])
            if run is not None:
                if data.startswith(run.content, at):
                    at += run.length
                    values.update(run.values)
                    vrs.update(run.vrs)
                    continue
                course.missed = True
        try:
            word, vr, length = head(data, at)
            if vr in short_vrs:
                start = at + 8
            elif not explicit:
                length, vr, start = long_(data, at + 4)[0], 0, at + 8
            elif vr in LONG_VRS:
                length, start = long_(data, at + 8)[0], at + 12
            else:
                check_vr(vr)
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
            end = end_of_fragments(self._window, position, little_endian=header.little_endian)
            header.pixel_length, header.encapsulated = end - position, True


class InflatesTooFar(HeaderError):
    """The data set is longer than `inflated` makes one: a few hundred kilobytes can hold a quarter of a gigabyte."""


def inflated(file: BinaryIO) -> BinaryIO:
    """The bare data set of a deflated file (PS3.5 annex A.5), of at most 64 MiB.

    A ratio is looked at beyond 4 MiB only: empty images may well deflate to a thousandth.

    Raises
    ------
    InflatesTooFar
        When it is longer than that, or than 256 times what was read of the file.
    HeaderError
        When it does not inflate; ``cut``: when the file ends before the stream does.
    """
    file.seek(data_set_start(Window(file)))
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    data_set = BytesIO()
    read = 0
    try:
        while not stream.eof:
            deflated = stream.unconsumed_tail
            if not deflated:
                deflated = file.read(_PIECE_INFLATED)
                read += len(deflated)
            piece = stream.decompress(deflated, _PIECE_INFLATED)
            if not (piece or deflated):
                raise HeaderError("inflates to no end", cut=True)
            data_set.write(piece)
            if data_set.tell() > min(_MAX_INFLATED, max(_MAX_RATIO * read, _ANY_RATIO)):
                raise InflatesTooFar("inflates too far")
    except zlib.error as error:
        raise HeaderError("does not inflate") from error
    data_set.seek(0)
    return data_set


def data_set_start(window: Window, meta: dict[int, bytes] | None = None) -> int:
    """Behind preamble and file meta information (PS3.10 section 7.1), 0 for a bare data set.

    ``meta``, where it is given, is filled with the values of the file meta information by tag, each cut at 64 bytes.

    Raises
    ------
    HeaderError
        When that information cannot be right; ``cut``: when ``window`` ends inside it.
    """
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
        if meta is not None:
            meta[swapped(word)] = window.data[start : start + min(length, _MOST_OF_META)]
        position = window.base + start + length
    return position


def _meta_head(window: Window, position: int) -> tuple[int, int, int, int]:
    try:
        return element_head(window.data, position - window.base, explicit=True, little_endian=True)
    except struct.error as error:
        raise HeaderError("ends inside an element", cut=True) from error
