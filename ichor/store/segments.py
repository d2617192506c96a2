"""The form of the spool on disk: names of segments, locations in them, footers of objects. Writes nothing.

A segment is an append-only file ``<study>/<series>/<writer>-<n>.seg`` of objects, one behind the other: a Part 10 file
(PS3.10), then a footer, by which its objects are found from the end when nothing else knows of them. Where several
receivers share a store, ``<writer>.<receiver>-<n>.seg`` (`ichor.store.shared`). A location says segment, offset and
length of the Part 10 file: ``<study>/<series>/<writer>-<n>.seg@<offset>+<length>``. Older data folders have a file per object, ``<study>/<series>/<sop>.<16 hex>.dcm``: their location is their path.
"""

from __future__ import annotations

import functools
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from ichor.uids import is_valid_uid

_FOOTER = struct.Struct("<8sQI")  # magic, length of the Part 10 file, crc32 of its location
_MAGIC = b"\xffICHOR\r\n"
FOOTER_SIZE = _FOOTER.size

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,120}\.seg")
_OLD_NAME = re.compile(r"([0-9.]{1,64})\.[0-9a-f]{16}\.dcm")
_RANGE = re.compile(r"([0-9]{1,18})\+([0-9]{1,18})")
_CHUNK = 1 << 20


class Location(NamedTuple):
    """Where a Part 10 file lies; ``length`` None: all of an old file."""

    segment: str
    offset: int
    length: int | None


@functools.lru_cache(maxsize=1024)
def parse(location: str) -> Location:
    """KeyError when it is no location; what it gives is safe to be a path below the root."""
    segment, at, place = location.partition("@")
    named = _RANGE.fullmatch(place)
    old = not at
    if (not old and named is None) or not is_segment(segment) or segment.endswith(".dcm") != old:
        raise KeyError(location)
    return Location(segment, 0, None) if named is None else Location(segment, int(named[1]), int(named[2]))


def is_segment(segment: str) -> bool:
    """True for a path that a segment, or an old file of one object, may have."""
    parts = segment.split("/")
    if len(parts) != 3 or not (is_valid_uid(parts[0]) and is_valid_uid(parts[1])):
        return False
    old = _OLD_NAME.fullmatch(parts[2])
    return is_valid_uid(old[1]) if old else _NAME.fullmatch(parts[2]) is not None


def segment_of(location: str) -> str:
    """The segment (or the old file) that a location lies in."""
    return location.partition("@")[0]


def end_of(location: str, length: int) -> int:
    """Where in its segment an object ends, its footer included. ``length``: of the Part 10 file."""
    offset = parse(location).offset
    return length if "@" not in location else offset + length + FOOTER_SIZE


def writer_of(segment: str) -> str:
    """The writer id that a segment is named by; empty for an old file."""
    return _author(segment).partition(".")[0]


def receiver_of(segment: str) -> str:
    """The receiver whose journal answers for a segment; empty where a store is one receiver's own."""
    return _author(segment).partition(".")[2]


def _author(segment: str) -> str:
    name = segment.rpartition("/")[2]
    return name.rpartition("-")[0] if name.endswith(".seg") else ""


def location_of(segment: str, offset: int, length: int) -> str:
    return f"{segment}@{offset}+{length}"


def footer(location: str, length: int) -> bytes:
    """What follows the Part 10 file of ``length`` bytes. Its checksum holds at this location only.

    So the same bytes in somebody's pixel data, or copied from elsewhere, are no footer.
    """
    return _FOOTER.pack(_MAGIC, length, zlib.crc32(location.encode("ascii")))


def objects(descriptor: int, segment: str) -> Iterator[tuple[int, int]]:
    """(offset, length) of the whole objects of a segment, from the last to the first; what is torn is left out.

    Takes time in proportion to the size of what is torn, and no memory.
    """
    end = os.fstat(descriptor).st_size
    while end > FOOTER_SIZE:
        found = _object_before(descriptor, segment, end)
        if found is None:
            end = _last_end(descriptor, segment, end)
        else:
            yield found
            end = found[0]


def _object_before(descriptor: int, segment: str, end: int) -> tuple[int, int] | None:
    """The object whose footer ends at ``end``."""
    raw = os.pread(descriptor, FOOTER_SIZE, end - FOOTER_SIZE) if end >= FOOTER_SIZE else b""
    if len(raw) < FOOTER_SIZE:
        return None
    _, length, _ = _FOOTER.unpack(raw)
    offset = end - FOOTER_SIZE - length
    return (offset, length) if offset >= 0 and raw == footer(location_of(segment, offset, length), length) else None


def _last_end(descriptor: int, segment: str, before: int) -> int:
    """The highest end of a whole object below ``before``; 0 when there is none."""
    high = before
    while high > 0:
        low = max(0, high - _CHUNK)
        # Magics that begin in low..high; the last of them may go on behind it.
        data = os.pread(descriptor, high - low + len(_MAGIC) - 1, low)
        at = data.rfind(_MAGIC)
        while at >= 0:
            end = low + at + FOOTER_SIZE
            if end < before and _object_before(descriptor, segment, end) is not None:
                return end
            at = data.rfind(_MAGIC, 0, at + len(_MAGIC) - 1)
        high = low
    return 0


class Part(io.RawIOBase):
    """A part of an open file as a seekable file of its own. Owns the descriptor; one thread at a time."""

    # pydicom asks a buffered reader for it, and would open what it names for values that are read later.
    name = ""

    def __init__(self, descriptor: int, *, start: int, length: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._start = start
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)[: max(0, self._length - self._at)]
        count = os.preadv(self._descriptor, [view], self._start + self._at) if view else 0
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if at < 0:
            raise ValueError("negative position")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
