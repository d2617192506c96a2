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
import time
from collections.abc import Collection, Iterator

_WORD = 8
# A row: whether it takes connections, those in the lobby, the last one taken from the inbox, then places by sender, at the
# end those of unlisted ones.
_OPEN, _WAITING, _TAKEN, _PLACES = 0, 1, 2, 3
UNLISTED = 64  # among so many numbers the AE titles without an entry are divided
_PATIENCE = 0.1
_PAUSE = 0.001


class Seats:
    """Shared by the processes that are forked after it was made; each has its view of it by `at`. Safe from any thread.

    Parameters
    ----------
    processes
        That receive.
    senders
        That have an entry in the settings: 0 to ``senders`` - 1 are theirs, the next `UNLISTED` everybody else's.
    patience
        Seconds that `alone` waits for another process.
    """

    def __init__(self, *, processes: int = 1, senders: int = 0, patience: float = _PATIENCE) -> None:
        self.processes = processes
        self._patience = patience
        self._process = 0
        self._length = _PLACES + senders + UNLISTED
        memory = memoryview(mmap.mmap(-1, _WORD * (1 + processes * (1 + self._length))))
        self._urgent_until = memory[:_WORD].cast("d")
        self._handed = memory[_WORD : _WORD * (1 + processes)].cast("Q")
        rows = memory[_WORD * (1 + processes) :].cast("Q")
        self._rows = [rows[start : start + self._length] for start in range(0, len(rows), self._length)]
        # A record lock dies with its holder; it does not tell threads of one process apart.
        self._judging = threading.Lock()
        self._row = threading.Lock()  # never held while another process is waited for
        self._coming = 0
        self._descriptor = os.memfd_create("seats") if processes > 1 else -1

    def at(self, process: int) -> Seats:
        """The view of one process, from its start: nobody has a place or waits there, and it takes no connection yet."""
        view = copy.copy(self)
        view._process = process
        row = view._rows[process]
        for at in (_OPEN, _WAITING, *range(_PLACES, view._length)):
            row[at] = 0
        view._coming = row[_TAKEN]
        return view

    # --- places ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else takes a place meanwhile, in any process.

        A process that hangs in here is waited for only so long: a limit may then be exceeded by one.
        """
        with self._judging:
            is_locked = self._descriptor >= 0 and self._lock()
            try:
                yield
            finally:
                if is_locked:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_PAUSE)
            else:
                return True

    def taken(self, sender: int | None = None) -> int:
        """Places taken now in all processes: by one sender, or by all."""
        if sender is None:
            return sum(sum(row[_PLACES:]) for row in self._rows)
        return sum(row[_PLACES + sender] for row in self._rows)

    def take(self, sender: int) -> None:
        """A place in this process; within `alone`."""
        with self._row:
            self._rows[self._process][_PLACES + sender] += 1

    def give_back(self, sender: int) -> None:
        with self._row:
            self._rows[self._process][_PLACES + sender] -= 1

    # --- connections between the processes ------------------------------------------------------------------------

    def opens(self) -> None:
        """This process takes connections from now on."""
        self._rows[self._process][_OPEN] = 1

    def closes(self) -> None:
        """It takes no more."""
        self._rows[self._process][_OPEN] = 0

    def least_loaded(self, *, but: Collection[int] = ()) -> int:
        """Of the processes that take connections the one that has least to do; of equal ones the first.

        The first, which needs no handing over, is always among them.
        """
        there = [n for n in range(self.processes) if not n or (self._rows[n][_OPEN] and n not in but)]
        return min(there, key=self.load)

    def load(self, process: int) -> int:
        """Associations, connections in the lobby, and those on their way there."""
        row = self._rows[process]
        return sum(row[_PLACES:]) + row[_WAITING] + max(0, self._handed[process] - row[_TAKEN])

    def waits(self, connections: int) -> None:
        """So many are in this process' lobby, the one that is `coming` among them."""
        row = self._rows[self._process]
        row[_WAITING], row[_TAKEN] = connections, self._coming

    def coming(self, number: int) -> None:
        """The connection of that number has been taken from the inbox; on its way until `waits` is told next."""
        self._coming = number

    def hand(self, process: int) -> int:
        """One more is on its way to ``process``; its number. For the process that accepts."""
        self._handed[process] += 1
        return self._handed[process]

    def keep(self, process: int) -> None:
        """The last one that `hand` counted did not go."""
        self._handed[process] -= 1

    def took(self, number: int) -> None:
        """This process has the one of that number. Not a count: what a killed process left uncounted is made good."""
        self._coming = self._rows[self._process][_TAKEN] = number

    def last_of(self, process: int) -> tuple[int, int]:
        """The numbers of the last one handed to a process and of the last one that it took."""
        return self._handed[process], self._rows[process][_TAKEN]

    # --- turns ----------------------------------------------------------------------------------------------------

    @property
    def urgent_until(self) -> float:
        """Until when, on the monotonic clock that all processes share, STAT objects come first."""
        return self._urgent_until[0]

    @urgent_until.setter
    def urgent_until(self, moment: float) -> None:
        self._urgent_until[0] = moment
