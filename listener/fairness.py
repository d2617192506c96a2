"""Whose object is next when a STAT sender and a research push share a machine. Bounded waits; not a scheduler of threads.

While a STAT association is sending, in whatever process, all routine associations together begin one object per slot; none
waits longer than `_LONGEST`, so that no sender's own timeout is ever near.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ichor import metrics
from ichor.clock import Clock
from ichor.store.receipts import Lane
from listener.seats import Seats

_URGENT_FOR = 0.1  # seconds after the beginning of a STAT object for which its association counts as sending
_SLOT = 0.05
_LONGEST = 1.0


class Turns:
    """``turn`` before each object; returns when it may begin. Safe from any thread.

    Parameters
    ----------
    clock
        Its ``monotonic`` is read.
    seats
        Tell the receiving processes of each other's STAT objects; each process uses its share of the slots.
    wait
        Sleeps; an argument for tests.
    """

    def __init__(self, clock: Clock, *, seats: Seats | None = None, wait: Callable[[float], None] = time.sleep) -> None:
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._seats = seats or Seats()
        self._slot = _SLOT * self._seats.processes
        self._next_slot = float("-inf")

    def turn(self, lane: Lane) -> None:
        now = self._clock.monotonic()
        if lane is Lane.STAT:
            self._seats.urgent_until = now + _URGENT_FOR
            return
        if now >= self._seats.urgent_until:
            return
        with self._lock:
            mine = max(now, self._next_slot)
            if mine > now + _LONGEST:
                mine = now + _LONGEST
            else:
                self._next_slot = mine + self._slot
        if mine > now:
            metrics.ROUTINE_WAITS.inc()
        while now < (until := min(mine, self._seats.urgent_until)):
            self._wait(until - now)
            now = self._clock.monotonic()
