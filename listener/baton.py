"""Who works next among the associations of a process: one at a time between their waits, in the order of asking.

Threads that all work at once hand the interpreter's lock to and fro around every system call: at four associations that
cost as much CPU as the work itself. It orders and protects nothing: who holds it lets go before a wait that may be long
(for the peer, for a turn); where it waits all the same, for a disk, the baton is taken from it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator

_LONGEST = 0.05  # seconds after which it is taken from its holder where others wait
_TURN = 0.001  # seconds that a holder keeps it between two waits, if it asks so often


class Baton:
    """A lock that goes to whoever has waited longest, and away from whoever holds it too long. Not reentrant.

    `release` and `let_others` may be called by a thread from which it was taken: then it is another's already.
    """

    def __init__(self, *, longest: float = _LONGEST, turn: float = _TURN) -> None:
        self._longest = longest
        self._turn = turn
        self._mutex = threading.Lock()
        self._holder = 0  # its thread; 0: nobody
        self._since = 0.0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def acquire(self) -> None:
        me = threading.get_ident()
        with self._mutex:
            if not self._holder:
                self._holder, self._since = me, time.monotonic()
                return
            gate = self._queue(me)
        self._wait(gate)

    def release(self) -> None:
        with self._mutex:
            if self._holder == threading.get_ident():
                self._hand_on()

    def let_others(self) -> None:
        """When this turn has lasted: everybody who waits now comes first. Cheap where nobody does."""
        if not self._waiting or time.monotonic() - self._since < self._turn:
            return
        me = threading.get_ident()
        with self._mutex:
            if not self._waiting:
                return
            gate = self._queue(me)
            if self._holder == me:
                self._hand_on()
        self._wait(gate)

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

    def _queue(self, thread: int) -> threading.Lock:
        gate = threading.Lock()
        gate.acquire()
        self._waiting.append((thread, gate))
        return gate

    def _wait(self, gate: threading.Lock) -> None:
        patience = self._longest
        while not gate.acquire(timeout=patience):
            with self._mutex:
                patience = self._since + self._longest - time.monotonic()
                if patience <= 0:
                    self._hand_on()  # to the first who waits, whether that is this thread or not
                    patience = self._longest

    def _hand_on(self) -> None:
        if self._waiting:
            self._holder, gate = self._waiting.popleft()
            self._since = time.monotonic()
            gate.release()
        else:
            self._holder = 0
