"""One file of the receipts log: its name, its records as they are walked, its mark, who holds it. Writes nothing.

What is no whole record is skipped as damage; what records carry is skipped, too, and looked at when asked for.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

from ichor.store.receipt_codec import (
    HEAD_SIZE,
    SETTLED,
    Damaged,
    Salt,
    carried,
    find,
    head_of,
    is_blank,
    salt_of,
    size_at,
    split,
)  # fmt: skip

NAME = re.compile(r"([0-9a-f]{16,64})-([0-9]{6,12})\.(stat|routine)\.log")
_CHUNK = 256 << 10
_ONE = 4 << 10  # bytes that are read at once where records carry objects: these are skipped
_SEARCH = 1 << 20
_SEARCH_AFTER = 5.0  # seconds between two searches behind zeros that a living writer may still fill


class Tail:
    """Walks the whole records of one open file from ``offset`` on; knows no locks and no names.

    ``last_end``: behind the last record that was given, and what it carries; ``given``: bytes of records so far;
    ``lost``: bytes that were skipped, as no record is there.

    Parameters
    ----------
    verify
        A record of which what it carries is not whole counts as damage; ``broken``: where such ones begin.
    """

    def __init__(self, descriptor: int, offset: int, *, salt: Salt, verify: bool = False) -> None:
        self._descriptor = descriptor
        self._verify = verify
        self._chunk = _CHUNK
        self.broken: list[int] = []
        self.salt = salt
        self.offset = self.last_end = offset
        self.given = self.lost = 0
        self._searched_at = time.monotonic()
        self._searched = 0  # when the file was changed last that was searched, ns

    def bodies(self, limit: int, *, final: bool) -> list[tuple[int, bytes]]:
        """``(end, body)`` of the next records, ``end`` being behind what they carry.

        ``final``: nothing more comes, so what is not whole now never will be. OSError when there is none that can be
        read now; those before come first.
        """
        found: list[tuple[int, bytes]] = []
        try:
            self._walk(found, limit, final=final)
        except OSError:
            if not found:
                raise
        return found

    def back(self, bodies: Sequence[tuple[int, bytes]]) -> None:
        """Go back before these, the last that `bodies` gave."""
        end, body = bodies[0]
        load = carried(body)
        self.given -= sum(HEAD_SIZE + len(one) for _, one in bodies)
        self.offset = end - len(body) - HEAD_SIZE - (load[0] if load else 0)
        self.last_end = min(self.last_end, self.offset)

    def is_record(self, at: int) -> bool:
        """Does a whole record begin there?"""
        try:
            size = size_at(os.pread(self._descriptor, HEAD_SIZE, at), 0, self.salt)
            return size > 0 and split(os.pread(self._descriptor, size, at), 0, self.salt) is not None
        except Damaged:
            return False

    def _walk(self, found: list[tuple[int, bytes]], limit: int, *, final: bool) -> None:
        size = self._chunk
        while len(found) < limit:
            data = os.pread(self._descriptor, size, self.offset)
            if is_blank(data, 0) and not (data and (final or self._may_be_damage())):
                break
            before = self.offset
            try:
                self._split(data, found, limit)
                if self.offset > before:
                    size = self._chunk
                    continue
                needed = size_at(data, 0, self.salt)
                if size < needed:
                    size = needed
                    continue
            except Damaged:
                if self.offset > before and self.offset not in self.broken[-1:]:  # after whole ones: again from here
                    size = self._chunk
                    continue
            if not self._skip(final=final):
                break

    def _may_be_damage(self) -> bool:
        """Is it time to look behind zeros? Else they are what was not written yet: each look reads the rest of the file."""
        changed = os.fstat(self._descriptor).st_mtime_ns
        if changed == self._searched or time.monotonic() - self._searched_at < _SEARCH_AFTER:
            return False
        self._searched, self._searched_at = changed, time.monotonic()
        return True

    def _split(self, data: bytes, found: list[tuple[int, bytes]], limit: int) -> None:
        base, at = self.offset, 0
        while len(found) < limit:
            one = split(data, at, self.salt)
            if one is None:
                return
            end, body = one
            load = carried(body)
            self._chunk = _ONE if load else _CHUNK
            if load:
                if self._verify and not _is_whole(self._descriptor, base + end, *load):
                    self.broken.append(base + at)
                    raise Damaged("what a record carries is not whole")
                end += load[0]
            self.given += HEAD_SIZE + len(body)
            at = end
            self.offset = base + at
            if body != SETTLED:
                self.last_end = self.offset
                found.append((self.offset, body))

    def _skip(self, *, final: bool) -> bool:
        """Go on with the next whole record behind what is none; False when there is none (yet)."""
        blank = is_blank(os.pread(self._descriptor, HEAD_SIZE, self.offset), 0)
        at = self.offset + (self.offset in self.broken[-1:])
        start = self._search(at)
        if start > at and not final:
            # Records that were written while the search passed them lie between. By now they are whole: a file is
            # written in order. So this search finds the first of them, and there is no damage where that one is next.
            start = self._search(at)
        if start < 0 and not final:
            return False
        end = start if start >= 0 else os.fstat(self._descriptor).st_size
        if start >= 0 or not blank:
            self.lost += end - self.offset
        self.offset = end
        return start >= 0

    def _search(self, at: int) -> int:
        while True:
            data = os.pread(self._descriptor, _SEARCH, at)
            start = find(data, 0, self.salt)
            while start >= 0:
                if self.is_record(at + start):
                    return at + start
                start = find(data, start + 1, self.salt)
            if len(data) < _SEARCH:
                return -1
            at += len(data) - HEAD_SIZE


def count(descriptor: int, at: int, salt: Salt) -> tuple[int, int]:
    """``(end, bytes)``: of the records that follow each other from ``at`` on, without what they carry. Checks heads only."""
    counted, file_end = 0, os.fstat(descriptor).st_size
    while True:
        data, start = os.pread(descriptor, _ONE, at), 0
        try:
            while (size := size_at(data, start, salt)) and start + size <= len(data):
                load = carried(data[start + HEAD_SIZE : start + size])
                counted += size
                start += size + (load[0] if load else 0)
        except Damaged:
            return at + start, counted
        if not start:
            if not size or at + size > file_end:
                return at, counted
            counted += size  # longer than what was read: no such record carries anything
            start = size
        at += start


def is_begun(descriptor: int, at: int) -> bool:
    """Was something written at ``at``?"""
    return not is_blank(os.pread(descriptor, HEAD_SIZE, at), 0)


def is_settled(descriptor: int, name: str) -> bool:
    """Does the file end with `SETTLED`?"""
    mark = settled_mark(name)
    return os.pread(descriptor, len(mark), max(0, os.fstat(descriptor).st_size - len(mark))) == mark


def settled_mark(name: str) -> bytes:
    """`SETTLED` as the file of this name has it."""
    return head_of(SETTLED, salt_of(name)) + SETTLED


def carries(descriptor: int, name: str) -> bool:
    """Does any record of the file carry an object?"""
    tail = Tail(descriptor, 0, salt=salt_of(name))
    while bodies := tail.bodies(1000, final=True):
        if any(carried(body) for _, body in bodies):
            return True
    return False


def is_held(path: Path) -> bool:
    """Does somebody hold the lock of this file? Not when it is absent."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_whole(descriptor: int, at: int, length: int, checksum: int) -> bool:
    total = 0
    while length > 0:
        data = os.pread(descriptor, min(length, _SEARCH), at)
        if not data:
            return False
        total = zlib.crc32(data, total)
        at, length = at + len(data), length - len(data)
    return total == checksum
