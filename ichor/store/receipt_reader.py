"""The reading side of the receipts log: follows the files of all writers, deletes what is done. Writes nothing."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import select
import time
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ichor import metrics
from ichor.errors import CannotStart
from ichor.store import disk
from ichor.store.receipt_codec import HEAD_SIZE, Damaged, decode, find, size_at, split
from ichor.store.receipt_records import Lane, Receipt, Stored
from ichor.store.receipt_writer import WAKE

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"([0-9a-f]{16,64})-([0-9]{6,12})\.(stat|routine)\.log")
_CHUNK = 256 << 10
_LONGEST_SLEEP = 0.1  # seconds; a writer that knocked before we waited comes back only now and then
_NO_FIFO_SLEEP = 0.01
_DRAFT_AGE = 60.0  # seconds


class ReceiptReader:
    """Reads the records of all writers, each once. One thread of one process at a time.

    What it has read is not yet done: that is what ``cursors``, kept with what was made of the records, say.

    Parameters
    ----------
    folder
        Made when absent.
    cursors
        File -> offset up to which its records are taken.
    """

    def __init__(self, folder: Path, *, cursors: Mapping[str, int] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._cursors = dict(cursors or {})
        self._queues: dict[Lane, dict[str, list[_Log]]] = {lane: {} for lane in Lane}
        self._known: dict[str, _Log] = {}
        self._dead: set[str] = set()
        self._turn = 0
        self._listed: int | None = None
        self._bell = _Bell(folder / WAKE)

    def read(self, lane: Lane, *, limit: int) -> list[Receipt]:
        """The next records, at most ``limit``; [] when there is nothing new now.

        Records of one writer come in its order; no writer keeps another from being read. Whatever is raised loses
        nothing: what was read before is handed out first, and what could not be read comes again.

        Raises
        ------
        CannotStart
            When a newer version of Ichor wrote the record that is next.
        OSError
            When a file cannot be read now.
        """
        self._look()
        found: list[Receipt] = []
        problem: CannotStart | OSError | None = None
        writers = list(self._queues[lane])
        self._turn += 1
        for index in range(len(writers)):
            queue = self._queues[lane][writers[(self._turn + index) % len(writers)]]
            for log in queue:
                try:
                    if not log.done:
                        log.read(found, limit)
                except (CannotStart, OSError) as error:
                    problem = problem or error
                if len(found) >= limit:
                    return found
                if not log.done:
                    break  # what its writer appended later comes later
        if problem is not None and not found:
            raise problem
        return found

    def backlog(self) -> dict[Lane, int]:
        """Bytes that are not read yet."""
        self._look()
        return {
            lane: sum(log.unread() for queue in queues.values() for log in queue if not log.done)
            for lane, queues in self._queues.items()
        }

    def live_writers(self) -> set[str]:
        self._list()
        return {writer for writer in self._writers() if self._lives(writer)}

    def finished(self, writer: str) -> bool:
        """Dead, and everything that it wrote has been read; True for one that nothing is known of."""
        self._look()
        if self._lives(writer):
            return False
        return all(log.done for log in self._known.values() if log.writer == writer)

    def forget(self, cursors: Mapping[str, int]) -> list[str]:
        """Delete files to which nothing more will come and that ``cursors`` cover to the end; their names."""
        gone = []
        for log in list(self._known.values()):
            if log.done and cursors.get(log.name, 0) >= log.last_end:
                (self._folder / log.name).unlink(missing_ok=True)
                gone.append(log.name)
        if gone:
            # Else a file might be back after a power cut when its cursor is not.
            disk.sync_directory(self._folder)
            for name in gone:
                self._drop(name)
        self._sweep()
        return gone

    def wait(self, seconds: float) -> None:
        """Sleep until something may be new, at most ``seconds``; may return early for no reason."""
        self._bell.wait(min(seconds, _LONGEST_SLEEP))

    def close(self) -> None:
        for log in self._known.values():
            log.close()
        self._bell.close()

    def _writers(self) -> set[str]:
        return {log.writer for log in self._known.values()}

    def _lives(self, writer: str) -> bool:
        """A living writer holds the newest file of each lane; it makes the next one before it lets go."""
        if writer in self._dead:
            return False
        while True:
            newest = self._newest(writer)
            if any(log.held() for log in newest):
                return True
            self._list()
            if self._newest(writer) == newest:
                self._dead.add(writer)
                return False

    def _newest(self, writer: str) -> list[_Log]:
        return [queues[writer][-1] for queues in self._queues.values() if writer in queues]

    def _look(self) -> None:
        """List the folder if it may have changed."""
        changed = self._folder.stat().st_mtime_ns
        # A timestamp has a granularity of some milliseconds: more may have come at the same one.
        if changed != self._listed or time.time_ns() - changed < 1_000_000_000:
            self._list()
            self._listed = changed

    def _list(self) -> None:
        fresh = []
        for name in os.listdir(self._folder):
            match = None if name in self._known else _NAME.fullmatch(name)
            if match:
                fresh.append(_Log(self._folder, name, match, start=self._cursors.get(name, 0)))
        for log in sorted(fresh, key=_order):
            self._known[log.name] = log
            self._dead.discard(log.writer)  # it seemed so, as somebody had removed its files
            queue = self._queues[log.lane].setdefault(log.writer, [])
            queue.append(log)
            queue.sort(key=_order)

    def _drop(self, name: str) -> None:
        log = self._known.pop(name)
        log.close()
        queues = self._queues[log.lane]
        queues[log.writer].remove(log)
        if not queues[log.writer]:
            del queues[log.writer]

    def _sweep(self) -> None:
        """Remove what writers left that died while they made a file."""
        for path in self._folder.glob(".*.log"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _DRAFT_AGE and not _held(path):
                    path.unlink()


class Tail:
    """Walks the whole records of one open file from ``offset`` on; knows no locks and no names.

    ``last_end``: behind the last record that was given; ``lost``: bytes that were skipped, as no record is there.
    """

    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor = descriptor
        self._searched = -1
        self.offset = self.last_end = offset
        self.lost = 0

    def bodies(self, limit: int, *, final: bool) -> list[tuple[int, bytes]]:
        """``(end, body)`` of the next records. ``final``: nothing more comes, so what is not whole now never will be.

        OSError when there is none that can be read now; those before come first.
        """
        found: list[tuple[int, bytes]] = []
        try:
            self._walk(found, limit, final=final)
        except OSError:
            if not found:
                raise
        return found

    def back(self, end: int, body: bytes) -> None:
        """Go back before a record that `bodies` gave last."""
        self.offset = end - len(body) - HEAD_SIZE
        self.last_end = min(self.last_end, self.offset)

    def _walk(self, found: list[tuple[int, bytes]], limit: int, *, final: bool) -> None:
        size = _CHUNK
        while len(found) < limit:
            data = os.pread(self._descriptor, size, self.offset)
            before = self.offset
            try:
                self._split(data, found, limit)
                if self.offset > before:
                    size = _CHUNK
                    continue
                needed = size_at(data, 0)
                if size < max(needed, HEAD_SIZE):
                    size = needed
                    continue
                if not final or not data:
                    break
            except Damaged:
                pass
            if not self._skip(final=final):
                break

    def _split(self, data: bytes, found: list[tuple[int, bytes]], limit: int) -> None:
        base, at = self.offset, 0
        while len(found) < limit:
            one = split(data, at)
            if one is None:
                return
            at, body = one
            self.offset = self.last_end = base + at
            found.append((self.offset, body))

    def _skip(self, *, final: bool) -> bool:
        """Go on with the next whole record behind what is none; False when there is none (yet)."""
        size = os.fstat(self._descriptor).st_size
        if size == self._searched and not final:
            return False
        rest = os.pread(self._descriptor, size - self.offset, self.offset)
        self._searched = size
        start = find(rest, 0)
        if start < 0 and not final:
            return False
        skipped = len(rest) if start < 0 else start
        self.offset += skipped
        self.lost += skipped
        return start >= 0


class _Log:
    """One file as the reader follows it."""

    def __init__(self, folder: Path, name: str, match: re.Match[str], *, start: int) -> None:
        self.name = name
        self.writer = match[1]
        self.number = int(match[2])
        self.lane = Lane(match[3])
        self.done = False  # read to the end, and nothing more will come
        self.last_end = start
        self._path = folder / name
        self._offset = start
        self._tail: Tail | None = None
        self._descriptor = -1

    def read(self, found: list[Receipt], limit: int) -> None:
        """Append its next records to ``found``, up to ``limit`` in all; what is raised comes behind these."""
        tail = self._open()
        if tail is None:
            self.done = True  # somebody removed it
            return
        final = False
        while len(found) < limit:
            lost = tail.lost
            bodies = tail.bodies(limit - len(found), final=final)
            for end, body in bodies:
                try:
                    record = decode(body)
                except CannotStart:
                    tail.back(end, body)
                    raise
                found.append(Receipt(record, self.name, end, self.writer))
                self.last_end = end
            if tail.lost > lost:
                metrics.RECEIPTS_DAMAGED.inc()
                _LOG.error(
                    "the receipts log %s has no record in %d bytes before %d", self.name, tail.lost - lost, tail.offset
                )
            if bodies:
                continue
            if final:
                self.done = True
                self.close()
                return
            # Its writer may have written and let go since we read: look once more.
            final = not self.held()
            if not final:
                return

    def unread(self) -> int:
        return max(0, self.size() - (self._tail.offset if self._tail else self._offset))

    def size(self) -> int:
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def held(self) -> bool:
        """Does its writer hold it still?"""
        return _held(self._path)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._offset = self._tail.offset if self._tail else self._offset
            self._descriptor, self._tail = -1, None

    def _open(self) -> Tail | None:
        if self._tail is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            self._tail = Tail(self._descriptor, self._offset)
        return self._tail


def _order(log: _Log) -> tuple[str, int, str]:
    return log.writer, log.number, log.lane.value


def _held(path: Path) -> bool:
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


class Waiting(NamedTuple):
    """What of the log is not taken: bytes of each lane, and when the oldest of it was written (POSIX seconds)."""

    bytes: dict[Lane, int]
    since: float | None  # None: nothing waits


class Unread:
    """What lies in the receipts log beyond cursors: for questions beside the reader, from any process.

    Its files are opened before the cursors are looked up: so nothing is missed that is taken, and deleted, in between.
    """

    def __init__(self, folder: Path) -> None:
        self._files: list[tuple[str, int]] = []
        try:
            names = sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))
        except FileNotFoundError:
            names = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._files.append((name, os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)))

    def __bool__(self) -> bool:
        return any(os.fstat(descriptor).st_size for _, descriptor in self._files)

    def about(self, uid: str, cursors: Mapping[str, int]) -> Iterator[Stored]:
        """Objects in whose record ``uid`` stands, file by file."""
        return (record for _, _, record in self._objects(uid, cursors))

    def ends_of(self, instances: Container[str], cursors: Mapping[str, int]) -> dict[str, int]:
        """File -> where the last record of one of these SOP Instance UIDs ends; see `passed`. Decodes all there is."""
        return {name: end for name, end, record in self._objects("", cursors) if record.sop_instance_uid in instances}

    def waiting(self, cursors: Mapping[str, int]) -> Waiting:
        """How much of it there is, and since when. Reads the first record of each file."""
        sizes = dict.fromkeys(Lane, 0)
        since = float("inf")
        for name, descriptor in self._files:
            start, status = cursors.get(name, 0), os.fstat(descriptor)
            match = _NAME.fullmatch(name)
            if match is None or status.st_size <= start:
                continue
            sizes[Lane(match[3])] += status.st_size - start
            at = status.st_mtime  # of what is no record, or one of a newer version
            for _, body in Tail(descriptor, start).bodies(1, final=True):
                with contextlib.suppress(CannotStart):
                    record = decode(body)
                    at = record.received_at if isinstance(record, Stored) else record.at
            since = min(since, at)
        return Waiting(sizes, since if any(sizes.values()) else None)

    def passed(self, ends: Mapping[str, int], cursors: Mapping[str, int]) -> bool:
        """Is all that lies before these `ends_of` taken? Decodes nothing."""
        there = {name for name, _ in self._files}
        return all(cursors.get(name, 0) >= end or name not in there for name, end in ends.items())

    def _objects(self, text: str, cursors: Mapping[str, int]) -> Iterator[tuple[str, int, Stored]]:
        """File, end of the record, and the record, where ``text`` stands in it."""
        needle = text.encode()
        for name, descriptor in self._files:
            tail = Tail(descriptor, cursors.get(name, 0))
            while bodies := tail.bodies(1000, final=True):
                for end, body in bodies:
                    record = decode(body) if needle in body else None
                    if isinstance(record, Stored):
                        yield name, end, record

    def close(self) -> None:
        for _, descriptor in self._files:
            os.close(descriptor)
        self._files.clear()


class _Bell:
    """The reader's end of the FIFO that writers ring. Where a filesystem knows none, the reader polls."""

    def __init__(self, path: Path) -> None:
        self._ends: list[int] = []
        try:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(path, 0o600)
            self._ends.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            # A writing end of our own: without one, poll() reports a hang-up for ever after the first writer left.
            self._ends.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            _LOG.warning("no FIFO for the receipts log (%s): polling instead", error.strerror)
            self.close()

    def wait(self, seconds: float) -> None:
        if not self._ends:
            time.sleep(min(seconds, _NO_FIFO_SLEEP))
            return
        poll = select.poll()
        poll.register(self._ends[0], select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000):
            with contextlib.suppress(BlockingIOError):
                os.read(self._ends[0], 65536)

    def close(self) -> None:
        for end in self._ends:
            os.close(end)
        self._ends.clear()
