"""Writes back into the spool what the receipts log carries of dead writers, and lets go of their files. Tells nobody.

A small object is acknowledged when the log has its bytes (docs/decisions/0018); its segment may lack them after a crash of
the machine, or after a sync of it that failed. A file of the log that nobody holds and that does not end with the mark of
one that is settled is written back: what the journal still has, or has not taken yet. What retention let go of stays
gone. Each object is written and synced, also where the same bytes seem to lie there: after a failed sync the page cache has
what the medium lacks. So it can be done again, and may be cut off anywhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from ichor.errors import CannotStart, IchorError, TransientError
from ichor.store import disk, segments
from ichor.store.journal import JournalReader
from ichor.store.receipt_codec import carried, decode, salt_of
from ichor.store.receipt_records import Stored
from ichor.store.receipt_tail import NAME, Tail, is_settled, settled_mark

_LOG = logging.getLogger(__name__)
_MOST_OPEN = 64  # segments
_PIECE = 1 << 20

_IsRow = Callable[[Stored], bool]  # does the journal have this object, at this place?


def restore_at_start(receipts: Path, spool_root: Path, journal: Path) -> None:
    """`restore` before anybody reads the spool; an error is logged, as the relay tries again before it reads."""
    try:
        restore(receipts, spool_root, journal)
    except (OSError, IchorError) as error:
        _LOG.error("what the receipts log carries is not in the spool yet: %s", error)


def restore(receipts: Path, spool_root: Path, journal: Path) -> int:
    """Write back what the log carries of writers that are dead; how many objects were not there. One thread.

    Next to nothing to do when all was settled. The journal's process may run; nobody else's does who reads the spool.

    Parameters
    ----------
    receipts
        Folder of the receipts log.
    journal
        Where it is absent, or cannot be read, all objects are wanted.

    Raises
    ------
    OSError
        When something cannot be read or written. The next call does the rest.
    TransientError
        While the spool is not there.
    """
    lacked = 0
    with contextlib.ExitStack() as stack:
        unsettled: list[tuple[str, int]] = []
        for name in _names(receipts):
            descriptor = _locked(receipts / name)
            if descriptor >= 0:
                stack.callback(os.close, descriptor)
                unsettled.append((name, descriptor))
        if not unsettled:
            return 0
        reader = _reader(journal)
        if reader is not None:
            stack.callback(reader.close)
        cursors, is_row = reader.cursors() if reader else {}, _is_row(reader)
        if reader is not None and _is_away(spool_root, reader, is_row, unsettled):
            raise TransientError("the spool is not there")
        for name, descriptor in unsettled:
            try:
                lacked += _restore(name, descriptor, spool_root, cursors.get(name, 0), is_row)
            except CannotStart as error:
                _LOG.error("%s; what it carries waits there for a version that can", error)
    if lacked:
        _LOG.warning("%d objects that the spool lacked are written back from the receipts log", lacked)
    return lacked


def _names(receipts: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(receipts) if NAME.fullmatch(name))
    except FileNotFoundError:
        return []


def _locked(path: Path) -> int:
    """Opened and locked, when nobody else holds it and it is not settled; -1 otherwise."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_settled(descriptor, path.name):
            return descriptor
    os.close(descriptor)
    return -1


def _reader(journal: Path) -> JournalReader | None:
    try:
        reader = JournalReader(journal)
        reader.cursors()
    except (CannotStart, OSError, sqlite3.Error):
        return None
    return reader


def _is_row(reader: JournalReader | None) -> _IsRow:
    if reader is None:
        return lambda _: True

    @functools.lru_cache(maxsize=8)
    def places(study: str) -> frozenset[str]:
        return frozenset(row.stored.location for row in reader.by_study(study))

    return lambda stored: stored.location in places(stored.study_instance_uid)


def _is_away(spool_root: Path, reader: JournalReader, is_row: _IsRow, files: list[tuple[str, int]]) -> bool:
    """Is the spool empty, and the journal has more than the log carries? Then its volume is not mounted."""
    with contextlib.suppress(FileNotFoundError):
        if any(os.scandir(spool_root)):
            return False
    tails = (Tail(descriptor, 0, salt=salt_of(name), verify=True) for name, descriptor in files)
    return reader.count() > sum(is_row(stored) for tail in tails for stored, _, _, _ in _carried(tail))


def _carried(tail: Tail) -> Iterator[tuple[Stored, int, int, int]]:
    """Objects that a file carries whole: record, where it ends, and offset and length of the object."""
    while bodies := tail.bodies(10, final=True):
        for end, body in bodies:
            if (load := carried(body)) is not None:
                stored = decode(body)
                assert isinstance(stored, Stored)
                yield stored, end, end - load[0], load[0]


def _restore(name: str, descriptor: int, root: Path, cursor: int, is_row: _IsRow) -> int:
    lacked = 0
    tail, places = Tail(descriptor, 0, salt=salt_of(name), verify=True), _Segments(root)
    try:
        for stored, end, at, length in _carried(tail):
            if end > cursor or is_row(stored):
                lacked += places.write(stored.location, descriptor, at, length)
        places.sync()
    finally:
        places.close()
    # What stands behind is not whole, and nobody will write there any more.
    mark = settled_mark(name)
    os.pwrite(descriptor, mark, tail.last_end)
    os.ftruncate(descriptor, tail.last_end + len(mark))
    return lacked


class _Segments:
    """Segments that are written back to, at most `_MOST_OPEN` open."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, int] = {}

    def write(self, location: str, source: int, at: int, length: int) -> bool:
        """Copy an object to its place, and its footer; False when it was there."""
        segment, offset, _ = segments.parse(location)
        target = self._descriptor(segment)
        differs = False
        for done in range(0, length, _PIECE):
            data = os.pread(source, min(_PIECE, length - done), at + done)
            differs |= _differs(target, data, offset + done)
            disk.write_all(target, [data], at=offset + done)
        footer = segments.footer(location, length)
        differs |= _differs(target, footer, offset + length)
        disk.write_all(target, [footer], at=offset + length)
        return differs

    def sync(self) -> None:
        """What was written is on the medium, with the entries that lead there."""
        for segment, descriptor in self._open.items():
            disk.sync(descriptor)
            folder = (self._root / segment).parent
            for directory in (folder, folder.parent, self._root):
                disk.sync_directory(directory)
        if self._open:
            with contextlib.suppress(PermissionError):  # above a mount point, which others made
                disk.sync_directory(self._root.parent)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def _descriptor(self, segment: str) -> int:
        if segment not in self._open:
            if len(self._open) >= _MOST_OPEN:
                self.sync()
                self.close()
            path = self._root / segment
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open[segment] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        return self._open[segment]


def _differs(descriptor: int, data: bytes, at: int) -> bool:
    try:
        return os.pread(descriptor, len(data), at) != data
    except OSError:
        return True
