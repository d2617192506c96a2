"""Who is where: places taken and connections waiting, per receiving process, in memory they share. Counts; judges nothing.

A process writes its own row alone and clears it when it starts, so what a killed one held comes back by itself.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator

_WORD = 8
# A row: connections in the lobby, the last one taken from the inbox, then places by sender, at the end those of unknown ones.
_WAITING, _TAKEN, _PLACES = 0, 1, 2


class Seats:
    """Shared by the processes that are forked after it was made; each has its view of it by `at`. Safe from any thread.

    Parameters
    ----------
    processes
        That receive.
    senders
        That have an entry in the settings: 0 to ``senders`` - 1 are theirs, ``senders`` is everybody else.
    """

    def __init__(self, *, processes: int = 1, senders: int = 0) -> None:
        self.processes = processes
        self._process = 0
        self._length = _PLACES + senders + 1
        memory = memoryview(mmap.mmap(-1, _WORD * (1 + processes * (1 + self._length))))
        self._urgent_until = memory[:_WORD].cast("d")
        self._handed = memory[_WORD : _WORD * (1 + processes)].cast("Q")
        rows = memory[_WORD * (1 + processes) :].cast("Q")
        self._rows = [rows[start : start + self._length] for start in range(0, len(rows), self._length)]
        # A record lock dies with its holder; it does not tell threads of one process apart.
        self._lock = threading.Lock()
        self._descriptor = os.memfd_create("seats") if processes > 1 else -1

    def at(self, process: int) -> Seats:
        """The view of one process, from its start: nobody has a place or waits there."""
        view = copy.copy(self)
        view._process = process
        row = view._rows[process]
        for at in (_WAITING, *range(_PLACES, view._length)):
            row[at] = 0
        return view

    # --- places ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else takes a place meanwhile, in any process."""
        with self._lock:
            if self._descriptor >= 0:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                if self._descriptor >= 0:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def taken(self, sender: int | None = None) -> int:
        """Places taken now in all processes: by one sender, or by all."""
        if sender is None:
            return sum(sum(row[_PLACES:]) for row in self._rows)
        return sum(row[_PLACES + sender] for row in self._rows)

    def take(self, sender: int) -> None:
        """A place in this process; within `alone`."""
        self._rows[self._process][_PLACES + sender] += 1

    def give_back(self, sender: int) -> None:
        with self._lock:
            self._rows[self._process][_PLACES + sender] -= 1

    # --- connections between the processes ------------------------------------------------------------------------

    def least_loaded(self) -> int:
        """The process that has least to do; of equal ones the first, which needs no handing over."""
        return min(range(self.processes), key=self.load)

    def load(self, process: int) -> int:
        """Associations, connections in the lobby, and those on their way there."""
        row = self._rows[process]
        return sum(row[_PLACES:]) + row[_WAITING] + max(0, self._handed[process] - row[_TAKEN])

    def waits(self, connections: int) -> None:
        """So many are in this process' lobby."""
        self._rows[self._process][_WAITING] = connections

    def hand(self, process: int) -> int:
        """One more is on its way to ``process``; its number. For the process that accepts."""
        self._handed[process] += 1
        return self._handed[process]

    def keep(self, process: int) -> None:
        """The last one that `hand` counted did not go."""
        self._handed[process] -= 1

    def took(self, number: int) -> None:
        """This process has the connection of that number. Not a count: what a killed process left uncounted is made good."""
        self._rows[self._process][_TAKEN] = number

    # --- turns ----------------------------------------------------------------------------------------------------

    @property
    def urgent_until(self) -> float:
        """Until when, on the monotonic clock that all processes share, STAT objects come first."""
        return self._urgent_until[0]

    @urgent_until.setter
    def urgent_until(self, moment: float) -> None:
        self._urgent_until[0] = moment
