"""Writes back into the spool what the receipts log carries of dead writers, and lets go of their files. Tells nobody.

A small object is acknowledged when the log has its bytes (docs/decisions/0018); its segment may lack them after a crash of
the machine, or after a sync of it that failed. A file of the log that no writer holds and that does not end with the mark
of one that is settled is written back: what the journal still has, or has not taken yet. What retention let go of stays
gone. Each object is written and synced, also where the same bytes seem to lie there: after a failed sync the page cache has
what the medium lacks. So it can be done again, and may be cut off anywhere.

The log knows more than the spool here; where the spool knows more than log and journal, that is `ichor.store.recovery`'s.
Segments that were let go are written to again, by nobody else and never behind an acknowledged object.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from ichor import metrics
from ichor.errors import CannotStart, IchorError, TransientError
from ichor.store import disk, segments
from ichor.store.journal import JournalReader
from ichor.store.pool import folders_of
from ichor.store.receipt_codec import HEAD_SIZE, carried, decode, salt_of
from ichor.store.receipt_records import Stored
from ichor.store.receipt_tail import NAME, Tail, is_settled, settled_mark
from ichor.store.segments import segment_of, writer_of

_LOG = logging.getLogger(__name__)
_MOST_OPEN = 64  # segments
_PIECE = 1 << 20
_MOST_ASKED = 20_000  # objects whose segments show whether the spool is there

_ERRORS = (OSError, IchorError, sqlite3.Error)

_IsRow = Callable[[Stored], bool]  # does the journal have this object, at this place?


def restore_at_start(receipts: Path, spool_root: Path, journal: Path) -> None:
    """`restore` before anybody reads the spool; an error is logged, as the relay tries again before it reads."""
    try:
        restore(receipts, spool_root, journal)
    except IchorError as error:
        _LOG.error("what the receipts log carries is not in the spool yet: %s", error)


def restore(receipts: Path, spool_root: Path, journal: Path) -> int:
    """Write back what the log carries of writers that are dead; how many objects were not there.

    Next to nothing to do when all was settled. One at a time: for who holds ``run/relay.lock``. A file that cannot be
    written back keeps no other waiting, and is never marked. One in which no record carries an object, and something is
    not understood, is left as it is.

    Parameters
    ----------
    receipts
        Folder of the receipts log.
    journal
        Where it is absent, or cannot be read, all objects are wanted.

    Raises
    ------
    TransientError
        While the spool is not there; or when something could not be read or written, after all was tried. The next
        call does the rest.
    """
    lacked = 0
    failed: list[str] = []
    try:
        unsettled = _unsettled(receipts, failed)
        if unsettled:
            lacked = _restore_all(unsettled, spool_root, journal, failed)
    except _ERRORS as error:
        failed.append(_reason(error))
    if lacked:
        metrics.OBJECTS_WRITTEN_BACK.inc(lacked)
        _LOG.warning("%d objects that the spool lacked are written back from the receipts log", lacked)
    if failed:
        raise TransientError(f"{failed[0]}{f', and {len(failed) - 1} more files' if failed[1:] else ''}")
    return lacked


def _unsettled(receipts: Path, failed: list[str]) -> list[Path]:
    """Files that no living writer holds and that have no mark."""
    found = []
    for name in sorted(os.listdir(receipts)) if receipts.is_dir() else ():
        if not NAME.fullmatch(name):
            continue
        try:
            with _opened(receipts / name) as descriptor:
                if not is_settled(descriptor, name):
                    found.append(receipts / name)
        except (FileNotFoundError, BlockingIOError):
            continue
        except OSError as error:
            failed.append(f"{name}: {_reason(error)}")
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A file of the log, one at a time: there may be more than a process may open. BlockingIOError when its writer lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # Shared: readers who ask whether a writer lives hold it so for a moment. Only a writer's own refuses it.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def _restore_all(files: list[Path], spool_root: Path, journal: Path, failed: list[str]) -> int:
    lacked = 0
    with contextlib.ExitStack() as stack:
        reader = _reader(journal)
        if reader is not None:
            stack.callback(reader.close)
        cursors, is_row = reader.cursors() if reader else {}, _is_row(reader)
        if reader is not None and _is_away(spool_root, reader, files):
            raise TransientError("the spool is not there")
        for path in files:
            try:
                with _opened(path) as descriptor:
                    lacked += _restore(path.name, descriptor, spool_root, cursors.get(path.name, 0), is_row)
            except _ERRORS as error:
                failed.append(f"{path.name}: {_reason(error)}")
    return lacked


def _reason(error: Exception) -> str:
    """Without a path, in which there are UIDs."""
    if isinstance(error, OSError):
        return error.strerror or "input/output error"
    return "the journal cannot be read" if isinstance(error, sqlite3.Error) else str(error)


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


def _is_away(spool_root: Path, reader: JournalReader, files: list[Path]) -> bool:
    """Is every segment missing that the journal knows from before the crash and that no crash takes? It is not mounted then.

    Not whether it is empty: receivers that started since store below a bare mount point, too. Names of writers sort by
    their start.
    """
    first = min(path.name.partition("-")[0] for path in files)
    places = [place for place in reader.locations(limit=_MOST_ASKED) if writer_of(segment_of(place)) <= first]
    if _is_any_there(spool_root, places):
        return False
    carried: set[str] = set()
    for path in files:
        with _opened(path) as descriptor:
            carried.update(
                stored.location for stored, _, _, _ in _carried(Tail(descriptor, 0, salt=salt_of(path.name)))
            )
    places = [place for place in places if place not in carried]
    return bool(places) and not _is_any_there(spool_root, places)


def _is_any_there(spool_root: Path, places: list[str]) -> bool:
    return any((spool_root / name).exists() for name in dict.fromkeys(map(segment_of, places)))


def _carried(tail: Tail) -> Iterator[tuple[Stored, int, int, int]]:
    """Objects that a file carries whole: record, where it ends, and offset and length of the object."""
    while bodies := tail.bodies(10, final=True):
        for end, body in bodies:
            if (load := carried(body)) is not None:
                stored = decode(body)
                assert isinstance(stored, Stored)
                yield stored, end, end - load[0], load[0]


def _restore(name: str, descriptor: int, root: Path, cursor: int, is_row: _IsRow) -> int:
    lacked, carries = 0, False
    tail, places = Tail(descriptor, 0, salt=salt_of(name), verify=True), _Segments(root)
    try:
        for stored, end, at, length in _carried(tail):
            carries = True
            if end > cursor or is_row(stored):
                lacked += places.write(stored.location, descriptor, at, length)
        places.sync()
    finally:
        places.close()
    # Cut off is what was under way, and zeros; nothing that is not understood.
    known = max(tail.broken, default=-1) >= tail.last_end or _is_blank(descriptor, tail.last_end)
    if carries or tail.broken or known:  # else it would be walked each time, up to the end of its zeros
        for at in tail.broken:  # never acknowledged: nobody is to read its record and look for the object in vain
            os.pwrite(descriptor, bytes(HEAD_SIZE), at)
        end, mark = tail.last_end if known else os.fstat(descriptor).st_size, settled_mark(name)
        os.pwrite(descriptor, mark, end)
        os.ftruncate(descriptor, end + len(mark))
    return lacked


def _is_blank(descriptor: int, at: int) -> bool:
    while data := os.pread(descriptor, _PIECE, at):
        if data.count(0) < len(data):
            return False
        at += len(data)
    return True


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
            if not os.fstat(descriptor).st_nlink:  # retention removed it between its opening and its lock
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            for directory in folders_of(self._root, segment):
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
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
            self._open[segment] = descriptor
            # Retention leaves it alone then. Of a writer that lives, and left a file of its log without a mark, it
            # cannot be had, nor is it needed.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self._open[segment]


def _differs(descriptor: int, data: bytes, at: int) -> bool:
    try:
        return os.pread(descriptor, len(data), at) != data
    except OSError:
        return True
