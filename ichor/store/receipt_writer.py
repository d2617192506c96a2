"""The writing side of the receipts log: one file per lane at a time, one sync for all who wait. Reads nothing back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import threading
import time
from pathlib import Path

from ichor import metrics
from ichor.errors import OutOfResources
from ichor.store import disk
from ichor.store.receipt_codec import encode
from ichor.store.receipt_records import Lane, Record

_LOG = logging.getLogger(__name__)
_ROTATE_AT = 64 << 20  # bytes
_KNOCK_AGAIN = 0.05  # seconds, when nobody waited
_LOOK_AGAIN = 1.0  # seconds, whether the file that is written still has its name
_FULL = (errno.ENOSPC, errno.EDQUOT)  # nothing is lost by these: the same file goes on

WAKE = "wake"
_UNSYNCED = "the receipts log could not be synced"


class ReceiptWriter:
    """One process's side of the receipts log. Any thread; at most one sync at a time per lane serves all who wait.

    Holds a lock (flock) on one file per lane as long as it lives: by that others know that more may come. After a
    failed sync a file is never written again, as a later sync that succeeds says nothing about what was lost.

    Parameters
    ----------
    folder
        Made when absent.
    durable
        False: written, but never synced (``listener.durability = "none"``).

    Raises
    ------
    OutOfResources
        When its files cannot be made.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.name = f"{time.time_ns():016x}{secrets.token_hex(4)}"  # names sort by start
        self._durable = durable
        self._bell = _Bell(folder / WAKE)
        self._lanes: dict[Lane, _Log] = {}
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                if durable:
                    disk.sync_directory(folder.parent)
        except OSError as error:
            raise _refusal(error) from error
        try:
            for lane in Lane:
                self._lanes[lane] = _Log(folder, f"{self.name}-%06d.{lane.value}.log", durable=durable)
        except BaseException:
            self.close()
            raise

    def append(self, lane: Lane, record: Record, *, wait: bool = True) -> None:
        """Append ``record``; on the medium when it returns, unless ``wait`` is False or the writer is not durable.

        Records of one lane are read in the order in which they were appended.

        Raises
        ------
        OutOfResources
            It could not be made durable: it must not be acknowledged. Nobody will read it, unless it was read before.
        """
        try:
            data = encode(record)
        except ValueError as error:
            raise OutOfResources(f"the receipts log cannot hold a record: {error}") from None
        log = self._lanes[lane]
        wait = wait and self._durable
        file, end = log.write(data, wait=wait)
        self._bell.ring()
        if wait:
            log.sync(file, end)

    def sync(self) -> None:
        """Everything appended so far is on the medium when it returns.

        Raises
        ------
        OutOfResources
            When that cannot be said.
        """
        if self._durable:
            for log in self._lanes.values():
                log.sync_all()

    def close(self) -> None:
        """Sync what was appended without waiting and let go. Safe to call twice; later appends are refused."""
        for log in self._lanes.values():
            log.close()
        self._bell.close()


class _File:
    """One file. ``end``: of the last whole record; ``synced``: everything before is on the medium."""

    __slots__ = ("descriptor", "end", "failed", "left", "synced", "syncing", "waited", "waiters")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.end = self.synced = 0
        self.syncing = False
        self.left = False  # nothing more is appended
        self.failed = False  # a sync failed: who waits for more than ``synced`` is refused
        self.waited: list[tuple[int, int]] = []  # records behind ``synced`` that somebody waits for
        self.waiters: list[_Waiter] = []  # threads that came while another one was syncing


class _Waiter:
    """A thread that waits for a sync up to ``end``; ``leads``: up to where it has to sync itself, 0 when it need not."""

    __slots__ = ("end", "gate", "leads", "refused")

    def __init__(self, end: int) -> None:
        self.end = end
        self.leads = 0
        self.refused = False
        self.gate = threading.Lock()
        self.gate.acquire()


class _Log:
    """The files of one lane, one after the other."""

    def __init__(self, folder: Path, pattern: str, *, durable: bool) -> None:
        self._folder = folder
        self._pattern = pattern
        self._durable = durable
        self._number = 0
        self._carried = b""  # records that nobody waited for, from a file whose sync failed
        self._lost = False
        self._closed = False
        self._look_at = time.monotonic() + _LOOK_AGAIN
        self._lock = threading.Lock()
        self._quiet = threading.Condition(self._lock)  # no sync is under way
        self._file = self._create()

    def write(self, data: bytes, *, wait: bool) -> tuple[_File, int]:
        with self._lock:
            self._look()
            while self._file.left or self._file.end >= _ROTATE_AT or self._carried or self._closed:
                self._next()
            file = self._file
            start = file.end
            self._write(file, data)
            if wait:
                file.waited.append((start, file.end))
            return file, file.end

    def sync(self, file: _File, end: int) -> None:
        """Return when ``file`` is on the medium up to ``end``: by an own sync, or by one of another thread."""
        with self._lock:
            if file.synced >= end:
                return
            if file.failed:
                raise OutOfResources(_UNSYNCED)
            waiter = None
            if file.syncing:
                waiter = _Waiter(end)
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
            while self._carried:
                self._next()
            file = self._file
            end = file.end
        self.sync(file, end)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            while self._file.syncing:
                self._quiet.wait()
            self._finish(self._file)
            try:
                if self._carried:
                    self._renew()
                    self._settle(self._file)
            except (OutOfResources, OSError) as error:
                metrics.RECEIPTS_DAMAGED.inc()
                _LOG.error("records that nobody waited for are lost: %s", error)
            os.close(self._file.descriptor)

    def _look(self) -> None:
        """Now and then: leave a file that somebody removed; with the lock held."""
        if time.monotonic() < self._look_at or self._closed:
            return
        self._look_at = time.monotonic() + _LOOK_AGAIN
        if not self._file.left and not os.fstat(self._file.descriptor).st_nlink:
            metrics.RECEIPTS_DAMAGED.inc()
            _LOG.error("a file of the receipts log was removed while it was written; going on in a fresh one")
            self._file.left = True

    def _settle(self, file: _File) -> None:
        """What is in a file is on the medium, and can be found there; or OSError."""
        if not self._durable:
            return
        os.fdatasync(file.descriptor)
        if not os.fstat(file.descriptor).st_nlink:
            metrics.RECEIPTS_DAMAGED.inc()
            raise OSError(errno.ENOENT, "its file was removed")

    def _sync(self, file: _File, mark: int) -> None:
        # Never two at a time: Linux tells an error of writing back to one fsync(2) of an open file only, so that
        # another one, under way at the same time, may return without error though its data is lost as well.
        try:
            self._settle(file)
        except OSError as error:
            with self._lock:
                self._fail(file, error)
                # Now, and not with the next record: that may be long in coming, or never come.
                if self._carried and self._file is file and not self._closed:
                    with contextlib.suppress(OutOfResources):  # the next one, or `close`, tries again
                        self._renew()
            raise _refusal(error) from error
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

    def _write(self, file: _File, data: bytes) -> None:
        """Append, or leave no trace; with the lock held."""
        try:
            # At the known end, not at the file's position: a part of a record may have been cut off.
            written = os.pwrite(file.descriptor, data, file.end)
            while written < len(data):
                more = os.pwrite(file.descriptor, memoryview(data)[written:], file.end + written)
                if not more:
                    raise OSError(errno.EIO, "nothing is written")
                written += more
        except OSError as error:
            try:
                os.ftruncate(file.descriptor, file.end)
            except OSError:
                file.left = True
            else:
                file.left = error.errno not in _FULL
            raise _refusal(error) from error
        file.end += len(data)

    def _next(self) -> None:
        """Go on to a fresh file, or wait for what is under way in this one; with the lock held."""
        if self._closed:
            raise OutOfResources("the receipts log is closed")
        old = self._file
        if old.syncing:
            self._quiet.wait()
            return
        self._finish(old)
        self._renew()

    def _renew(self) -> None:
        """A fresh file, with what was carried, in the place of one that is finished; with the lock held."""
        old, fresh = self._file, self._create()
        try:
            if self._carried:
                self._write(fresh, self._carried)
                self._carried = b""
        finally:
            # The new file is locked and has its name before the old one is let go: a writer seems never dead between.
            self._file = fresh
            os.close(old.descriptor)

    def _finish(self, file: _File) -> None:
        """Nothing more goes to ``file``, and nobody is syncing it; with the lock held."""
        file.left = True
        if self._durable and not file.failed and file.synced < file.end:
            try:
                self._settle(file)
            except OSError as error:
                self._fail(file, error)
                return
            file.synced = file.end
            file.waited.clear()

    def _fail(self, file: _File, error: OSError) -> None:
        """A sync failed: cut off what was not synced, keep what nobody waits for; with the lock held."""
        _LOG.error("the receipts log could not be synced: %s", error.strerror)
        file.syncing = False
        file.left = file.failed = True
        kept, at = [], file.synced
        try:
            for start, end in [*file.waited, (file.end, file.end)]:
                kept.append(os.pread(file.descriptor, start - at, at))
                at = end
        except OSError as lost:
            self._lost = True
            _LOG.error("records that nobody waited for are lost: %s", lost.strerror)
        self._carried += b"".join(kept)
        file.waited.clear()
        with contextlib.suppress(OSError):
            os.ftruncate(file.descriptor, file.synced)
        file.end = file.synced
        for waiter in file.waiters:
            waiter.refused = True
            waiter.gate.release()
        file.waiters.clear()
        self._quiet.notify_all()

    def _create(self) -> _File:
        """A new empty file, locked before it has its name; its name is on the medium."""
        self._number += 1
        path = self._folder / (self._pattern % self._number)
        draft = path.with_name(f".{path.name}")
        try:
            descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(draft, path)
                if self._durable:
                    disk.sync_directory(self._folder)
            except BaseException:
                os.close(descriptor)
                draft.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise _refusal(error) from error
        return _File(descriptor)


class _Bell:
    """Wakes the reader by its FIFO; keeps the open end, and knocks now and then while nobody waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._again = 0.0
        self._lock = threading.Lock()

    def ring(self) -> None:
        with self._lock:
            if self._descriptor < 0 and not self._open():
                return
            try:
                os.write(self._descriptor, b"\0")
            except BlockingIOError:
                pass  # full: it has been woken often enough
            except OSError:
                self._close()

    def close(self) -> None:
        with self._lock:
            self._close()
            self._again = float("inf")

    def _open(self) -> bool:
        now = time.monotonic()
        if now < self._again:
            return False
        self._again = now + _KNOCK_AGAIN
        with contextlib.suppress(OSError):
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return self._descriptor >= 0

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _refusal(error: OSError) -> OutOfResources:
    return OutOfResources(f"the receipts log cannot be written: {error.strerror or 'input/output error'}")
