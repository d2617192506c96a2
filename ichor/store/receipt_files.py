"""The files of one lane of a receipts log: how one comes to be, empty or filled with zeros before.

A file whose records carry objects is followed by a spare that was filled with zeros before: overwriting them changes
neither size nor extents, so that a sync need not wait for the file system's own journal (docs/decisions/0018).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ichor.errors import OutOfResources
from ichor.store import disk
from ichor.store.receipt_codec import Salt, salt_of
from ichor.store.receipt_records import Lane

SPARE = 16 << 20  # bytes of zeros
_ROOM = 2 * SPARE  # bytes: with less the last of it is the senders'
_ZEROS = bytes(1 << 20)


class LogFile:
    """One file. ``end``: of the last whole record; ``synced``: everything before is on the medium."""

    __slots__ = (
        "carries_since", "descriptor", "end", "failed", "filled", "left", "name", "salt", "settles", "synced", "syncing",
        "waited", "waiters",
    )  # fmt: skip

    def __init__(self, descriptor: int, name: str, *, filled: int = 0) -> None:
        self.descriptor = descriptor
        self.name = name
        self.salt: Salt = salt_of(name)
        self.end = self.synced = 0
        self.filled = filled  # zeros are on the medium up to here
        self.syncing = False
        self.left = False  # nothing more is appended
        self.failed = False  # a sync failed: who waits for more than ``synced`` is refused
        self.carries_since = float("inf")  # monotonic seconds, of the first object that it carries
        self.settles: dict[Callable[[int], None], int] = {}  # see `Carried`, with the lowest ``losses`` of its objects
        self.waited: list[tuple[int, int]] = []  # records behind ``synced`` that somebody waits for
        self.waiters: list[Waiter] = []  # threads that came while another one was syncing


class Waiter:
    """A thread that waits for a sync up to ``end``; ``leads``: up to where it has to sync itself, 0 when it need not."""

    __slots__ = ("end", "gate", "leads", "refused")

    def __init__(self, end: int) -> None:
        self.end = end
        self.leads = 0
        self.refused = False
        self.gate = threading.Lock()
        self.gate.acquire()


class LaneFiles:
    """Makes the files of one lane. Thread-safe.

    Parameters
    ----------
    writer
        What files are named by, with a number that grows: they are read in the order of their names.
    durable
        Whether the name of an empty file is on the medium before the file is given; a spare's always is.
    """

    def __init__(self, folder: Path, writer: str, lane: Lane, *, durable: bool) -> None:
        self._folder = folder
        self._writer = writer
        self._lane = lane
        self._durable = durable
        self._number = 0
        self._lock = threading.Lock()

    def empty(self) -> LogFile:
        """A new empty file. Raises OutOfResources."""
        try:
            return self._make(lambda _: None, durable=self._durable)
        except OSError as error:
            raise refusal(error) from error

    def spare(self) -> LogFile:
        """A new file of zeros, all of it on the medium. Raises OSError, also where hardly any space is left."""
        space = os.statvfs(self._folder)
        if space.f_bavail * space.f_frsize < _ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._make(_fill, durable=True, filled=SPARE)

    def is_newest(self, file: LogFile) -> bool:
        with self._lock:
            return file.name == self._name()

    def remove(self, file: LogFile) -> None:
        """The name first: the lock that goes with the descriptor says that who writes it lives. Raises OSError."""
        try:
            (self._folder / file.name).unlink(missing_ok=True)
        finally:
            os.close(file.descriptor)

    def _make(self, fill: Callable[[int], None], *, durable: bool, filled: int = 0) -> LogFile:
        """Locked and filled before it has its name."""
        path = self._folder / f".{self._writer}-{time.monotonic_ns()}.{self._lane.value}.log"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fill(descriptor)
            with self._lock:
                self._number += 1
                path = path.rename(self._folder / self._name())
            if durable:
                disk.sync_directory(self._folder)
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return LogFile(descriptor, path.name, filled=filled)

    def _name(self) -> str:
        return f"{self._writer}-{self._number:06d}.{self._lane.value}.log"


def _fill(descriptor: int) -> None:
    for at in range(0, SPARE, len(_ZEROS)):
        disk.write_all(descriptor, [memoryview(_ZEROS)[: SPARE - at]], at=at)
    os.fdatasync(descriptor)


def refusal(error: OSError) -> OutOfResources:
    return OutOfResources(f"the receipts log cannot be written: {error.strerror or 'input/output error'}")
