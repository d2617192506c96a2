"""The system calls that make bytes durable: whole writes, synced files and directories, a swept scratch folder.

Not a store: `ichor.store.spool`, `ichor.store.receipts` and `ichor.store.blobs` are made of it. Errors are plain ``OSError``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

# Views are of single bytes, so that ``len`` is their size.
Bytes = bytes | bytearray | memoryview

# What says that the medium lost something. All else that a system answers (ESTALE, ETIMEDOUT, ENOTCONN, EMFILE) passes.
DAMAGE = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG})  # the latter two: checksums of ext4 and XFS

_MOST_PARTS = os.sysconf("SC_IOV_MAX")  # of one writev(2)


def write_all(descriptor: int, parts: Sequence[Bytes], *, at: int | None = None) -> None:
    """Write all of ``parts``, in one call wherever the kernel takes them so; at the file's position, or at ``at``."""
    remaining = sum(map(len, parts))
    if len(parts) <= _MOST_PARTS:
        written = os.writev(descriptor, parts) if at is None else os.pwritev(descriptor, parts, at)
        if written == remaining:
            return
    else:
        written = 0
    pending = [memoryview(part) for part in parts if len(part)]
    first = done = 0
    while True:
        done += written
        if done == remaining:
            return
        while written >= len(pending[first]):
            written -= len(pending[first])
            first += 1
        pending[first] = pending[first][written:]
        some = pending[first : first + _MOST_PARTS]
        written = os.writev(descriptor, some) if at is None else os.pwritev(descriptor, some, at + done)
        if not written:
            raise OSError(errno.EIO, "nothing is written")


def sync(descriptor: int) -> None:
    """fsync: data and size of an open file, or the entries of an open directory, are on the medium."""
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


class Folders:
    """Makes directories below ``root`` so that their entries are durable, each synced once per process."""

    _MOST = 20_000

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, None] = {}
        self._lock = threading.Lock()

    def ensure(self, relative: str) -> Path:
        """The directory ``relative`` (POSIX, validated by the caller); it and its parents exist durably."""
        path = self._root / relative
        with self._lock:
            known = relative in self._known
        if known and path.is_dir():
            return path
        level, name = self._root, ""
        for part in Path(relative).parts:
            parent, level, name = level, level / part, f"{name}/{part}" if name else part
            with self._lock:
                known = name in self._known
            if known and level.is_dir():
                continue  # a shared parent is synced once, not for each of its children
            with self._lock:
                self._known.pop(name, None)  # removed since: its new entry is not synced yet
            with contextlib.suppress(FileExistsError):
                level.mkdir()
            sync_directory(parent)
            with self._lock:
                self._known[name] = None
                if len(self._known) > self._MOST:
                    self._known.pop(next(iter(self._known)))
        return path


class Scratch:
    """A folder for half-written things below ``root``, one per process; what dead processes left is swept at open.

    Several processes may share ``root``: each holds a lock on its own folder as long as it lives.
    """

    NAME = ".scratch"

    def __init__(self, root: Path) -> None:
        base = root / self.NAME
        base.mkdir(parents=True, exist_ok=True)
        self._numbers = itertools.count()
        with (base / "lock").open("wb") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            self._sweep(base)
            names = (f"{os.getpid()}-{number}" for number in itertools.count())
            self._folder = next(base / name for name in names if not (base / name).exists())
            self._folder.mkdir()
            self._owner = (self._folder / "owner").open("wb")
            fcntl.flock(self._owner, fcntl.LOCK_EX)

    def is_there(self) -> bool:
        """Can the folder be seen that this process made? Not while its volume is unmounted."""
        return self._folder.is_dir()

    def path(self) -> Path:
        """A fresh path in the scratch folder; nothing is there yet."""
        return self._folder / f"{next(self._numbers)}.part"

    @staticmethod
    def discard(path: Path) -> None:
        """Remove a scratch file or folder, if it is there."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    @staticmethod
    def _sweep(base: Path) -> None:
        for folder in base.iterdir():
            if not folder.is_dir():
                continue
            try:
                owner = (folder / "owner").open("wb")
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with owner:
                try:
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(folder, ignore_errors=True)
