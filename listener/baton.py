"""Who works next among the associations of a process: one at a time between their waits, in the order of asking.

Threads that all work at once hand the interpreter's lock to and fro around every system call: at four associations that
cost as much CPU as the work itself. Who holds the baton lets go of it before it waits for anything.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator


class Baton:
    """A lock that goes to whoever has waited longest. Not reentrant; the holder alone calls `release` and `let_others`."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._held = False
        self._holder = 0  # its thread, where it is held
        self._waiting: deque[threading.Lock] = deque()

    def acquire(self) -> None:
        gate = None
        with self._mutex:
            if self._held:
                gate = self._queue()
            self._held = True
        if gate is not None:
            gate.acquire()
        self._holder = threading.get_ident()

    def release(self) -> None:
        with self._mutex:
            self._hand_on()

    def let_others(self) -> None:
        """Everybody who waits now comes first."""
        if not self._waiting:
            return
        with self._mutex:
            if not self._waiting:
                return
            gate = self._queue()
            self._hand_on()
        gate.acquire()
        self._holder = threading.get_ident()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """In a thread that holds it: without it meanwhile. In any other: just that."""
        holds = self._holder == threading.get_ident()
        if holds:
            self.release()
        try:
            yield
        finally:
            if holds:
                self.acquire()

    def sleep(self, seconds: float) -> None:
        with self.away():
            time.sleep(seconds)

    def _queue(self) -> threading.Lock:
        gate = threading.Lock()
        gate.acquire()
        self._waiting.append(gate)
        return gate

    def _hand_on(self) -> None:
        self._holder = 0
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._held = False
