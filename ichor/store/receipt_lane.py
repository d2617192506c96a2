"""The files that one writer writes in one lane, one after the other, one sync for all who wait. Tells no reader.

Reads back only what a failed sync may have cost, to write what nobody waited for into another file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ichor import metrics
from ichor.errors import OutOfResources
from ichor.store import disk
from ichor.store.receipt_codec import Damaged, Salt, head_of, split
from ichor.store.receipt_files import LaneFiles, LogFile, Waiter, refusal
from ichor.store.receipt_records import Carried, Lane
from ichor.store.receipt_tail import settled_mark

_LOG = logging.getLogger(__name__)
ROTATE_AT = 64 << 20  # bytes
# Seconds from the first object that a file carries: then the spool has them, and nobody restores them.
ROTATE_AFTER = 60.0
LOOK_AGAIN = 1.0  # seconds, whether the file that is written still has its name
_TRY_AGAIN = 10.0  # seconds, when no spare could be made
_FULL = (errno.ENOSPC, errno.EDQUOT)  # nothing is lost by these: the same file goes on
_UNSYNCED = "the receipts log could not be synced"


class LaneLog:
    """The files of one lane. Thread-safe; `keep` is for one thread.

    Parameters
    ----------
    writer
        What files are named by.
    wake
        Called when `keep` has something to do at once.
    """

    def __init__(self, folder: Path, writer: str, lane: Lane, *, durable: bool, wake: Callable[[], None]) -> None:
        self._files = LaneFiles(folder, writer, lane, durable=durable)
        self._durable = durable
        self._wake = wake
        self._spare: LogFile | None = None
        self._no_spare_before = float("-inf")
        self._retired: list[LogFile] = []  # nothing more is appended, but they carry what may not be in the spool
        self._homeless: list[bytes] = []  # bodies that nobody waited for, from a file whose sync failed
        self._lost = False
        self._closed = False
        self._look_at = time.monotonic() + LOOK_AGAIN
        self._lock = threading.Lock()
        self._quiet = threading.Condition(self._lock)  # no sync is under way
        self._file = self._files.empty()

    def write(self, body: bytes, carried: Carried | None = None, *, wait: bool) -> tuple[LogFile, int]:
        with self._lock:
            self._look()
            while self._must_turn():
                self._turn()
            file = self._file
            start = file.end
            self._write(file, [head_of(body, file.salt), body], carried=() if carried is None else carried.parts)
            if carried is not None:
                file.settles[carried.settle] = min(carried.losses, file.settles.get(carried.settle, carried.losses))
                if file.carries_since == float("inf"):
                    file.carries_since = time.monotonic()
                    self._wake()
            if wait:
                file.waited.append((start, file.end))
            return file, file.end

    def sync(self, file: LogFile, end: int) -> None:
        """Return when ``file`` is on the medium up to ``end``: by an own sync, or by one of another thread."""
        with self._lock:
            if file.synced >= end:
                return
            if file.failed:
                raise OutOfResources(_UNSYNCED)
            waiter = None
            if file.syncing:
                waiter = Waiter(end)
                file.waiters.append(waiter)
            else:
                file.syncing = True
                mark = file.end
        if waiter is not None:
            waiter.gate.acquire()
            if waiter.refused:
                raise OutOfResources(_UNSYNCED)
            if not waiter.leads:
                return
            mark = waiter.leads
        self._sync(file, mark)

    def sync_all(self) -> None:
        with self._lock:
            if self._lost:
                raise OutOfResources("the receipts log has lost records that were not synced")
            while self._homeless:
                self._turn()
            files = [(file, file.end) for file in (*self._retired, self._file)]
        for file, end in files:
            self.sync(file, end)

    def keep(self, now: float) -> float:
        """What is not done in a sender's way: spares, objects that the spool has to have. When to come again.

        ``now`` and what is returned: monotonic seconds.
        """
        with self._lock:
            if self._closed:
                return float("inf")
            file = self._file
            if file.carries_since + ROTATE_AFTER <= now and not file.left:
                with contextlib.suppress(OutOfResources):  # logged by who meets it next
                    self._turn()
                file = self._file
            carries = bool(self._retired) or file.carries_since < float("inf")
            wanted = carries and self._spare is None and self._no_spare_before <= now
        if wanted and not self._prepare():
            self._no_spare_before = now + _TRY_AGAIN
        self._let_go_retired()
        if carries and self._spare is None:
            return max(now, self._no_spare_before)
        # One that is left goes with the next record, not by the clock.
        return float("inf") if file.left else file.carries_since + ROTATE_AFTER

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            while self._file.syncing:
                self._quiet.wait()
            self._finish(self._file)
            try:
                if self._homeless:
                    self._renew()
                    self._to_medium(self._file)
                    self._file.synced = self._file.end
            except (OutOfResources, OSError) as error:
                metrics.RECEIPTS_DAMAGED.inc()
                _LOG.error("records that nobody waited for are lost: %s", error)
            spare, self._spare = self._spare, None
        self._let_go_retired()
        self._let_go(self._file)
        if spare is not None:
            with contextlib.suppress(OSError):
                self._files.remove(spare)  # the newest last, as who holds it lives

    def _look(self) -> None:
        """Now and then: leave a file that somebody removed; with the lock held."""
        if time.monotonic() < self._look_at or self._closed:
            return
        self._look_at = time.monotonic() + LOOK_AGAIN
        if not self._file.left and not os.fstat(self._file.descriptor).st_nlink:
            metrics.RECEIPTS_DAMAGED.inc()
            _LOG.error("a file of the receipts log was removed while it was written; going on in a fresh one")
            self._file.left = True

    def _to_medium(self, file: LogFile) -> None:
        """What is in a file is on the medium, and can be found there; or OSError."""
        if not self._durable:
            return
        os.fdatasync(file.descriptor)
        if not os.fstat(file.descriptor).st_nlink:
            metrics.RECEIPTS_DAMAGED.inc()
            raise OSError(errno.ENOENT, "its file was removed")

    def _sync(self, file: LogFile, mark: int) -> None:
        # Never two at a time: Linux tells an error of writing back to one fsync(2) of an open file only, so that
        # another one, under way at the same time, may return without error though its data is lost as well.
        try:
            self._to_medium(file)
        except OSError as error:
            with self._lock:
                self._fail(file, error)
                # Now, and not with the next record: that may be long in coming, or never come.
                if self._homeless and not self._file.syncing and not self._closed:
                    with contextlib.suppress(OutOfResources):  # the next one, or `close`, tries again
                        self._finish(self._file)
                        self._renew()
            raise refusal(error) from error
        with self._lock:
            file.synced = mark
            file.waited = [span for span in file.waited if span[0] >= mark]
            woken = [waiter for waiter in file.waiters if waiter.end <= mark]
            file.waiters = [waiter for waiter in file.waiters if waiter.end > mark]
            if file.waiters:
                # One of those who came meanwhile goes on at once, for all of them.
                leader = file.waiters.pop(0)
                leader.leads = file.end
                woken.insert(0, leader)
            else:
                file.syncing = False
                self._quiet.notify_all()
        for waiter in woken:
            waiter.gate.release()

    def _write(self, file: LogFile, parts: list[disk.Bytes], *, carried: Sequence[disk.Bytes] = ()) -> None:
        """Append, or leave no trace; with the lock held."""
        size = sum(map(len, parts))
        try:
            # At the known end, not at the file's position: a part of a record may have been cut off. The record last: a
            # reader who sees it goes on behind what it carries, which must never be cut off then and written over.
            if carried:
                disk.write_all(file.descriptor, carried, at=file.end + size)
            disk.write_all(file.descriptor, parts, at=file.end)
        except OSError as error:
            file.filled = min(file.filled, file.end)
            try:
                os.ftruncate(file.descriptor, file.end)
            except OSError:
                file.left = True
            else:
                file.left = error.errno not in _FULL
            raise refusal(error) from error
        file.end += size + sum(map(len, carried))

    def _must_turn(self) -> bool:
        file = self._file
        return bool(
            file.left or file.end >= ROTATE_AT or (self._spare is not None and file.end >= file.filled)
            or self._homeless or self._closed
        )  # fmt: skip

    def _turn(self) -> None:
        """Go on to another file, or wait for what is under way in this one; with the lock held."""
        if self._closed:
            raise OutOfResources("the receipts log is closed")
        old = self._file
        if not old.settles or old.failed:
            if old.syncing:
                self._quiet.wait()
                return
            self._finish(old)
        old.left = True
        self._renew()

    def _renew(self) -> None:
        """Another file, with what has no home first, in the place of one that is left; with the lock held."""
        old, fresh = self._file, self._spare or self._files.empty()
        self._spare = None
        try:
            while self._homeless:
                self._write(fresh, [head_of(self._homeless[0], fresh.salt), self._homeless[0]])
                del self._homeless[0]
        finally:
            # The new file is locked and has its name before the old one is let go: a writer seems never dead between.
            self._file = fresh
            if old.settles:
                self._retired.append(old)
                self._wake()
            else:
                os.close(old.descriptor)

    def _finish(self, file: LogFile) -> None:
        """Nothing more goes to ``file``, and nobody is syncing it; with the lock held."""
        file.left = True
        if self._durable and not file.failed and file.synced < file.end:
            try:
                self._to_medium(file)
            except OSError as error:
                self._fail(file, error)
                return
            file.synced = file.end
            file.waited.clear()

    def _fail(self, file: LogFile, error: OSError) -> None:
        """A sync failed: cut off what was not synced, keep what nobody waits for; with the lock held."""
        _LOG.error("the receipts log could not be synced: %s", error.strerror)
        file.syncing = False
        file.left = file.failed = True
        kept, at = [], file.synced
        try:
            for start, end in [*file.waited, (file.end, file.end)]:
                kept.append(os.pread(file.descriptor, start - at, at))
                at = end
            self._homeless += _bodies(b"".join(kept), file.salt)
        except (OSError, Damaged) as lost:
            self._lost = True
            _LOG.error("records that nobody waited for are lost: %s", lost)
        file.waited.clear()
        with contextlib.suppress(OSError):
            os.ftruncate(file.descriptor, file.synced)
        file.end = file.synced
        for waiter in file.waiters:
            waiter.refused = True
            waiter.gate.release()
        file.waiters.clear()
        self._quiet.notify_all()

    def _let_go_retired(self) -> None:
        while self._retired:
            self._let_go(self._retired[0])
            with self._lock:
                del self._retired[0]

    def _let_go(self, file: LogFile) -> None:
        """Close a file to which nothing more comes; never raises.

        With a mark if all that it carries is in the spool, on the medium. Without it the file stays until somebody
        wrote that there again (`ichor.store.restore`).
        """
        settled = False
        try:
            self.sync(file, file.end)
            for settle, losses in file.settles.items():
                settle(losses)
            settled = not file.failed
        except OutOfResources as error:
            if file.settles:
                metrics.LOOP_ERRORS.labels("receipts").inc()
                _LOG.error("%s; the receipts log keeps what it carries", error.reason)
        with contextlib.suppress(OSError):
            mark = settled_mark(file.name) if settled and file.settles else b""
            if mark:
                os.pwrite(file.descriptor, mark, file.end)
            if file.filled > file.end:
                os.ftruncate(file.descriptor, file.end + len(mark))
        with contextlib.suppress(OSError):
            os.close(file.descriptor)

    def _prepare(self) -> bool:
        """Make the spare; False when that failed."""
        try:
            spare = self._files.spare()
        except OSError as error:
            _LOG.warning("no file could be prepared for the receipts log (%s); it goes on without", error.strerror)
            return False
        with self._lock:
            # Another one made meanwhile has the later name: this one would be read before it.
            if self._files.is_newest(spare) and not self._closed:
                self._spare = spare
                return True
        with contextlib.suppress(OSError):
            self._files.remove(spare)
        return True


def _bodies(data: bytes, salt: Salt) -> list[bytes]:
    found, at = [], 0
    while (one := split(data, at, salt)) is not None:
        at, body = one
        found.append(body)
    return found
