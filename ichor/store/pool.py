"""Segments that are open for writing, pooled per series. Knows nothing of what is written into them.

A segment is checked out to one writer at a time, so that an object that is given up can be cut off its end. It is
sealed, that is closed for ever, when it is large, was idle for long, when too many are open, or after any error.
Whoever has one open holds flock(2) on it: nobody else writes to it, cuts it or removes it meanwhile. The exception is
`ichor.store.restore`, which writes objects again at their places, also where it is sealed, or held by who wrote them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ichor.store import disk

log = logging.getLogger(__name__)

SEAL_SIZE = 256 << 20  # bytes
SEAL_IDLE = 600.0  # seconds
MOST_OPEN = 256
_TRIES = 16
_LOOK_AGAIN = 1.0  # seconds

Key = tuple[str, str]  # Study and Series Instance UID, both valid


class Segment:
    """An open segment. ``end`` is where its last whole object ends; what lies behind is of the one under way."""

    __slots__ = ("_descriptor", "_look_at", "end", "entered", "failed", "key", "lock", "lost", "name", "owed", "synced")

    def __init__(self, descriptor: int, *, key: Key, name: str) -> None:
        self._descriptor = descriptor
        self._look_at = time.monotonic() + _LOOK_AGAIN
        self.key = key
        self.name = name  # path below the root
        self.entered = False  # the entries that lead here are on the medium
        self.end = 0
        self.owed = 0  # of what lies before, something is still to be synced, or was
        self.synced = 0  # of what is owed: everything before is on the medium
        self.failed = False  # never written again
        self.lost = False  # a sync of finished objects failed: one that succeeds now proves nothing
        self.lock = threading.Lock()  # of syncs

    def append(self, parts: Sequence[disk.Bytes]) -> None:
        disk.write_all(self._descriptor, parts)

    def cut(self) -> None:
        """Take off what lies behind ``end``."""
        os.ftruncate(self._descriptor, self.end)

    def sync(self) -> None:
        """The bytes written so far are on the medium; not the entries that lead here."""
        disk.sync(self._descriptor)
        if self.is_removed():
            raise FileNotFoundError(errno.ENOENT, "the segment was removed")

    def is_removed(self) -> bool:
        """Did somebody take its name away? What is written then, nobody finds."""
        return not os.fstat(self._descriptor).st_nlink

    def seems_removed(self) -> bool:
        """The same, looked at once a second: a system call more for each object is much where nothing is synced."""
        now = time.monotonic()
        if now < self._look_at:
            return False
        self._look_at = now + _LOOK_AGAIN
        return self.is_removed()

    def close(self) -> None:
        """Also lets the lock go."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class Pool:
    """Segments below ``root``, named by ``writer``, which is unique for ever. Thread-safe.

    Parameters
    ----------
    deferred
        All that is checked in is owed to `sync`. Else only what `check` was told of.
    synced
        False: objects are never synced.
    """

    def __init__(self, root: Path, *, writer: str, deferred: bool, synced: bool = True) -> None:
        self.losses = 0
        self._root = root
        self._writer = writer
        self._deferred = deferred
        self._synced = synced
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._open = 0
        self._closed = False
        self._entered = False  # the root's own entry is on the medium
        self._idle: dict[Key, list[Segment]] = {}
        self._used: dict[Segment, float] = {}  # the idle ones, the one that waited longest first
        self._dirty: dict[Segment, None] = {}

    def check_out(self, key: Key) -> Segment:
        """A segment of this series, for the caller alone; OSError when none can be made."""
        removed = []
        with self._lock:
            while idle := self._idle.get(key):
                segment = self._take(idle[-1])
                if not (segment.is_removed() if self._synced else segment.seems_removed()):
                    return segment
                self._open -= 1
                segment.failed = True
                removed.append(segment)
        for segment in removed:
            log.error("spool: a segment was removed while it was open; going on in another")
            self._seal(segment)
        with self._lock:
            full = self._open >= MOST_OPEN and self._used
            oldest = self._take(next(iter(self._used))) if full else None
            self._open += 0 if full else 1
        try:
            if oldest:
                self._seal(oldest)
            return self._create(key)
        except BaseException:
            with self._lock:
                self._open -= 1
            raise

    def check(self, segment: Segment, *, owed: int = 0) -> None:
        """Before an object in it is confirmed: OSError when a sync of the segment failed meanwhile.

        ``owed``: where an object ends that was written and not synced. From now on `sync` syncs it, checked in or not.
        """
        with self._lock:
            if segment.failed:
                raise OSError(errno.EIO, "an earlier sync failed")
            if owed:
                segment.owed = owed
                self._dirty[segment] = None

    def check_in(self, segment: Segment, *, end: int) -> None:
        """Back, with a whole object that ends at ``end``. Where a sync failed since `check`, `losses` tells."""
        with self._lock:
            segment.end = end
            if self._deferred and not segment.failed:
                segment.owed = end
                self._dirty[segment] = None
            over = self._back(segment)
        if over:
            self._seal(segment)

    def cut_off(self, segment: Segment, *, failed: bool) -> None:
        """Back, without the object that was under way. ``failed``: it is not written again. Never raises."""
        try:
            segment.cut()
        except OSError as error:
            failed = True
            log.warning("spool: a segment keeps a torn end (%s)", errno.errorcode.get(error.errno or 0, "unknown"))
        with self._lock:
            segment.failed |= failed
            over = self._back(segment)
        if over:
            self._seal(segment)

    def commit(self, segment: Segment) -> None:
        """Everything written to a segment so far is on the medium, also the entries that lead there; or OSError.

        The folders are synced for each segment, and not once each: retention, another process, removes empty ones,
        and a third may have made them again without having synced them yet.
        """
        with segment.lock:
            try:
                self._commit(segment)
            except OSError:
                self._lose(segment)
                raise

    def _commit(self, segment: Segment) -> None:
        segment.sync()
        if not segment.entered:
            for directory in folders_of(self._root, segment.name):
                disk.sync_directory(directory)
            if not self._entered:
                with contextlib.suppress(PermissionError):  # above a mount point, which others made
                    disk.sync_directory(self._root.parent)
                self._entered = True
            segment.entered = True

    def sync(self) -> None:
        """Everything that is owed so far is on the medium; the first OSError, after all were tried."""
        with self._lock:
            dirty = list(self._dirty)
        first: OSError | None = None
        for segment in dirty:
            try:
                self._sync(segment)
            except OSError as error:
                first = first or error
        if first is not None:
            raise first

    def seal(self, *, idle_for: float = SEAL_IDLE) -> None:
        """Seal what nobody has used for so many seconds."""
        with self._lock:
            stale = self._stale(idle_for)
        for segment in stale:
            self._seal(segment)

    def close(self) -> None:
        """Seal all; what is checked out is sealed when it comes back."""
        self._closed = True
        self.seal(idle_for=0.0)

    def _take(self, segment: Segment) -> Segment:
        del self._used[segment]
        idle = self._idle[segment.key]
        idle.remove(segment)
        if not idle:
            del self._idle[segment.key]
        return segment

    def _stale(self, idle_for: float) -> list[Segment]:
        before = time.monotonic() - idle_for
        stale = []
        for segment, used in self._used.items():
            if used > before:
                break
            stale.append(segment)
        for segment in stale:
            self._take(segment)
        self._open -= len(stale)
        return stale

    def _back(self, segment: Segment) -> bool:
        """True when it is to be sealed now."""
        if segment.failed or self._closed or segment.end >= SEAL_SIZE:
            self._open -= 1
            return True
        self._idle.setdefault(segment.key, []).append(segment)
        self._used[segment] = time.monotonic()
        return False

    def _seal(self, segment: Segment) -> None:
        try:
            if segment in self._dirty:
                self._sync(segment)
        except OSError:
            pass  # counted: whoever stored something here is told when it syncs
        finally:
            if not segment.end:
                with contextlib.suppress(OSError):
                    path = self._root / segment.name
                    path.unlink()
                    remove_folders(path)
            with segment.lock:  # after a sync that another thread has under way
                segment.close()

    def _sync(self, segment: Segment) -> None:
        with segment.lock:
            owed = segment.owed
            if segment.lost:
                raise OSError(errno.EIO, "an earlier sync failed")
            if segment.synced < owed:
                try:
                    self._commit(segment)
                except OSError:
                    # Not cut: what was acknowledged may lie there whole all the same.
                    if self._lose(segment):
                        segment.close()
                    raise
                segment.synced = owed
        with self._lock:
            if segment.synced == segment.owed:
                self._dirty.pop(segment, None)

    def _lose(self, segment: Segment) -> bool:
        """A sync of it failed: what it owes is lost. True when nobody has it now."""
        with self._lock:
            segment.failed = segment.lost = True
            if segment in self._dirty:
                self.losses += 1
                del self._dirty[segment]
            idle = segment in self._used
            if idle:
                self._take(segment)
                self._open -= 1
            return idle

    def _create(self, key: Key) -> Segment:
        for _ in range(_TRIES):
            name = f"{key[0]}/{key[1]}/{self._writer}-{next(self._numbers):x}.seg"
            path = self._root / name
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            except FileNotFoundError:
                # Not there yet, or removed as empty by retention just now.
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                continue
            segment = Segment(descriptor, key=key, name=name)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return segment
            except BlockingIOError:
                pass  # retention was faster and took it for a dead one
            segment.close()
        raise OSError(errno.EBUSY, "no segment could be made")


def folders_of(root: Path, segment: str) -> tuple[Path, Path, Path]:
    """The folders whose entries lead to a segment, as they are to be synced."""
    folder = (root / segment).parent
    return folder, folder.parent, root


def remove_folders(path: Path) -> None:
    """Remove the folders of series and study that ``path`` was in, where they are empty."""
    for folder in (path.parent, path.parent.parent):
        try:
            folder.rmdir()
        except OSError:
            return
