"""How writers of the receipts log wake its reader, when it sleeps: an event count. It carries no data.

A byte that all processes map says that the reader sleeps, or is about to; a FIFO ends its sleep. The reader sets the byte
and then looks at the files once more; a writer writes to its file and then looks at the byte. Between the two, on both
sides, lie system calls and the interpreter's lock, which no store or load passes: one of them sees what the other did. So
that a writer makes a system call for it only when somebody sleeps. A byte that a killed reader left costs one vain ring.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path

_LOG = logging.getLogger(__name__)
_FIFO, _FLAG = "wake", "asleep"
_NO_FIFO_SLEEP = 0.01  # seconds


class Bell:
    """A writer's end. Any thread. Where the files cannot be made, it is silent: the reader looks by itself in the end."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FIFO
        self._flag = _flag(folder)
        self._lock = threading.Lock()

    def ring(self) -> None:
        """Call it when what was written can be read."""
        if self._flag is not None and self._flag[0]:
            self._ring()

    def close(self) -> None:
        """Later rings are silent."""
        with self._lock:
            self._flag = None

    def _ring(self) -> None:
        with self._lock:
            if self._flag is not None and self._flag[0]:
                # Before it is rung: who sleeps again after that sets it again.
                self._flag[0] = 0
                with contextlib.suppress(OSError):  # nobody reads any more
                    descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                    try:
                        os.write(descriptor, b"\0")
                    finally:
                        os.close(descriptor)


class Sleep:
    """The reader's end; one reader per folder. Where a filesystem knows no FIFO or no mapping, it polls."""

    def __init__(self, folder: Path) -> None:
        self._ends: list[int] = []
        self._flag = _flag(folder)
        path = folder / _FIFO
        try:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(path, 0o600)
            self._ends.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            # A writing end of our own: without one, poll() reports a hang-up for ever after the first writer left.
            self._ends.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            _LOG.warning("no FIFO for the receipts log (%s): polling instead", error.strerror)
            self.close()

    def wait(self, seconds: float, *, unless: Callable[[], bool]) -> None:
        """Until a writer rings, at most ``seconds``; not at all when ``unless``, asked when a ring would be heard."""
        if not self._ends or self._flag is None:
            time.sleep(min(seconds, _NO_FIFO_SLEEP))
            return
        self._flag[0] = 1
        try:
            if seconds > 0 and not unless():
                poll = select.poll()
                poll.register(self._ends[0], select.POLLIN)
                poll.poll(seconds * 1000)
        finally:
            self._flag[0] = 0
            with contextlib.suppress(BlockingIOError):
                os.read(self._ends[0], 65536)

    def close(self) -> None:
        for end in self._ends:
            os.close(end)
        self._ends.clear()


def _flag(folder: Path) -> mmap.mmap | None:
    try:
        descriptor = os.open(folder / _FLAG, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # A page without a block would be a SIGBUS for who first stores to it on a full disk.
            os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)
            return mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)
    except OSError as error:
        _LOG.warning("no mapping for the receipts log (%s): its reader is woken late", error.strerror)
        return None
