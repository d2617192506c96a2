"""The reading side of the receipts log: follows the files of all writers, deletes what is done. Writes nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ichor.errors import CannotStart
from ichor.store import disk
from ichor.store.receipt_bell import Sleep
from ichor.store.receipt_codec import decode, salt_of
from ichor.store.receipt_followed import Followed
from ichor.store.receipt_records import Lane, Receipt, Record, Stored
from ichor.store.receipt_tail import NAME, Tail, count, is_begun, is_held

_LOG = logging.getLogger(__name__)
_LONGEST_SLEEP = 0.1  # seconds; a writer that cannot wake us is heard all the same
_DRAFT_AGE = 60.0  # seconds


class ReceiptReader:
    """Reads the records of all writers, each once. One thread of one process at a time.

    What it has read is not yet done: that is what ``cursors``, kept with what was made of the records, say.

    A record that carries an object is not read from a file that is not settled and that nobody held when it was opened:
    its writer may have died with the machine, and the spool may lack the object until `ichor.store.restore` was there.
    A writer that dies later leaves its objects in the system's memory, where they can be read.

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
        self._queues: dict[Lane, dict[str, list[Followed]]] = {lane: {} for lane in Lane}
        self._known: dict[str, Followed] = {}
        self._open: dict[str, Followed] = {}
        self._dead: set[str] = set()
        self._ahead: dict[Lane, dict[str, deque[tuple[float, Receipt]]]] = {
            lane: {} for lane in Lane
        }  # never empty ones
        self._listed: int | None = None
        self._sleep = Sleep(folder)

    def read(self, lane: Lane, *, limit: int) -> list[Receipt]:
        """The next records, at most ``limit``; [] when there is nothing new now.

        Records of one writer come in its order, those of several by their times: the end of one association must not
        be told before what another process had stored until then. Whatever is raised loses nothing: what was read
        before is handed out first, and what could not be read comes again.

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
        ahead = self._ahead[lane]
        for writer in self._queues[lane]:
            problem = self._fill(lane, writer, limit) or problem
        while len(found) < limit:
            first = min(ahead, key=lambda writer: ahead[writer][0][0], default=None)
            if first is None:
                break
            found.append(ahead[first].popleft()[1])
            if not ahead[first]:
                del ahead[first]
                if len(found) < limit:
                    problem = self._fill(lane, first, limit) or problem
        if problem is not None and not found:
            raise problem
        return found

    def _fill(self, lane: Lane, writer: str, limit: int) -> CannotStart | OSError | None:
        """Read on where nothing is held of this writer; what could not be read."""
        if writer in self._ahead[lane]:
            return None
        found: list[Receipt] = []
        problem: CannotStart | OSError | None = None
        queue = self._queues[lane][writer]
        for log, after in zip(queue, [*queue[1:], None], strict=True):
            try:
                if not log.done:
                    log.read(found, limit, after=after)
            except (CannotStart, OSError) as error:
                problem = error
            if len(found) >= limit or not (log.done or log.passed):
                break  # what its writer appended later comes later
        if found:
            now = time.time()  # a clock that was ahead makes nobody wait for ever
            self._ahead[lane][writer] = deque((min(_time_of(one.record), now), one) for one in found)
        return problem

    def waiting(self) -> frozenset[str]:
        """Files of which something is not read before it was written back into the spool."""
        return frozenset(log.name for log in self._known.values() if log.waits)

    def pass_by(self) -> None:
        """What is `waiting` now cannot be written back: what its writers appended later waits for it no longer."""
        for log in self._known.values():
            log.passed = log.waits

    def backlog(self) -> dict[Lane, int]:
        """Bytes of records that are not read yet; walks them, so not for every day's step."""
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
        if self._lives(writer) or any(writer in ahead for ahead in self._ahead.values()):
            return False
        return all(log.done for log in self._known.values() if log.writer == writer)

    def forget(self, cursors: Mapping[str, int]) -> list[str]:
        """Delete files to which nothing more will come and that ``cursors`` cover to the end; their names.

        One that carries objects which may not be on the medium in the spool stays until `ichor.store.restore` was there.
        """
        gone = []
        for log in list(self._known.values()):
            if log.done and cursors.get(log.name, 0) >= log.last_end and log.may_go():
                (self._folder / log.name).unlink(missing_ok=True)
                gone.append(log.name)
        if gone:
            # Else a file might be back after a power cut when its cursor is not.
            disk.sync_directory(self._folder)
            for name in gone:
                self._drop(name)
        self._sweep()
        return gone

    def wait(self, seconds: float, *, lanes: Sequence[Lane] = tuple(Lane)) -> None:
        """Sleep until something may be new in one of ``lanes``, at most ``seconds``; may return early for no reason."""
        self._sleep.wait(min(seconds, _LONGEST_SLEEP), unless=lambda: self._has_more(lanes))

    def _has_more(self, lanes: Sequence[Lane]) -> bool:
        self._look()
        if any(self._ahead[lane] for lane in lanes):
            return True
        return any(log.has_more() for lane in lanes for queue in self._queues[lane].values() for log in queue)

    def close(self) -> None:
        for log in self._known.values():
            log.close()
        self._sleep.close()

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

    def _newest(self, writer: str) -> list[Followed]:
        return [queues[writer][-1] for queues in self._queues.values() if writer in queues]

    def _look(self) -> None:
        """List the folder if it may have changed."""
        now = time.time_ns()
        changed = self._folder.stat().st_mtime_ns
        if changed != self._listed:
            self._list()
            # A timestamp has a granularity of some milliseconds: more may come at the same one, behind this look.
            self._listed = changed if now - changed >= 1_000_000_000 else None

    def _list(self) -> None:
        fresh = []
        for name in os.listdir(self._folder):
            match = None if name in self._known else NAME.fullmatch(name)
            if match:
                fresh.append(Followed(self._folder, name, match, start=self._cursors.get(name, 0), opened=self._open))
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
                if time.time() - path.stat().st_mtime > _DRAFT_AGE and not is_held(path):
                    path.unlink()


def _time_of(record: Record) -> float:
    return record.received_at if isinstance(record, Stored) else record.at


def _order(log: Followed) -> tuple[str, int, str]:
    return log.writer, log.number, log.lane.value


class Waiting(NamedTuple):
    """What of the log is not taken: bytes of each lane, and when the oldest of it was written (POSIX seconds)."""

    bytes: dict[Lane, int]
    since: float | None  # None: nothing waits


class Unread:
    """What lies in the receipts log beyond cursors: for questions beside the reader, from any process.

    Its files are opened before the cursors are looked up: so nothing is missed that is taken, and deleted, in between.
    """

    def __init__(self, folder: Path) -> None:
        self._files: list[tuple[str, int, bool]] = []  # name, descriptor, whether nothing more comes
        try:
            names = sorted(name for name in os.listdir(folder) if NAME.fullmatch(name))
        except FileNotFoundError:
            names = []
        try:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    descriptor = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
                    self._files.append((name, descriptor, False))
                    self._files[-1] = (name, descriptor, not is_held(folder / name))
        except OSError:
            self.close()
            raise

    def __bool__(self) -> bool:
        return any(is_begun(descriptor, 0) for _, descriptor, _ in self._files)

    def about(self, uid: str, cursors: Mapping[str, int]) -> Iterator[Stored]:
        """Objects in whose record ``uid`` stands, file by file."""
        return (record for _, _, record in self._objects(uid, cursors))

    def ends_of(self, instances: Container[str], cursors: Mapping[str, int]) -> dict[str, int]:
        """File -> where the last record of one of these SOP Instance UIDs ends; see `passed`. Decodes all there is."""
        return {name: end for name, end, record in self._objects("", cursors) if record.sop_instance_uid in instances}

    def waiting(self, cursors: Mapping[str, int]) -> Waiting:
        """How much of it there is, without what records carry, and since when. Walks the records, decodes few."""
        sizes = dict.fromkeys(Lane, 0)
        since = float("inf")
        for name, descriptor, final in self._files:
            start, status = cursors.get(name, 0), os.fstat(descriptor)
            match = NAME.fullmatch(name)
            if match is None or not is_begun(descriptor, start):
                continue
            salt = salt_of(name)
            _, size = count(descriptor, start, salt)
            sizes[Lane(match[3])] += size or status.st_size - start
            at = status.st_mtime  # of what is no record, or one of a newer version
            for _, body in Tail(descriptor, start, salt=salt).bodies(1, final=final):
                with contextlib.suppress(CannotStart):
                    record = decode(body)
                    at = record.received_at if isinstance(record, Stored) else record.at
            since = min(since, at)
        return Waiting(sizes, since if any(sizes.values()) else None)

    def passed(self, ends: Mapping[str, int], cursors: Mapping[str, int]) -> bool:
        """Is all that lies before these `ends_of` taken? Decodes nothing."""
        there = {name for name, _, _ in self._files}
        return all(cursors.get(name, 0) >= end or name not in there for name, end in ends.items())

    def _objects(self, text: str, cursors: Mapping[str, int]) -> Iterator[tuple[str, int, Stored]]:
        """File, end of the record, and the record, where ``text`` stands in it."""
        needle = text.encode()
        for name, descriptor, final in self._files:
            tail = Tail(descriptor, cursors.get(name, 0), salt=salt_of(name))
            while bodies := tail.bodies(1000, final=final):
                for end, body in bodies:
                    record = decode(body) if needle in body else None
                    if isinstance(record, Stored):
                        yield name, end, record

    def close(self) -> None:
        for _, descriptor, _ in self._files:
            os.close(descriptor)
        self._files.clear()
