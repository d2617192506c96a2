"""Where the library's thread of an association waits while `fast_path` reads. Decides nothing."""

from __future__ import annotations

import os
import threading


class Checkpoint(threading.Event):
    """In place of the event at which the library waits between two requests; also tells when it is needed.

    The library itself calls `set` to end an association, and `clear`, later `set`, to send a request of its own: from
    then on the association is all its.
    """

    def __init__(self) -> None:
        super().__init__()
        super().set()
        self.is_waiting = False
        self.is_asked = False
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._bell_lock = threading.Lock()
        self._goes_on = True

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self.is_waiting = True
            super().wait(timeout)
            self.is_waiting = False
        return True

    def set(self) -> None:
        self._goes_on = self.is_asked = True
        super().set()
        self._ring()

    def clear(self) -> None:
        self._goes_on = False
        self.is_asked = True
        super().clear()
        self._ring()

    def park(self) -> bool:
        """True once the thread waits here."""
        super().clear()
        if self.is_asked:
            self.unpark()
            return False
        return self.is_waiting

    def unpark(self) -> None:
        if self._goes_on:
            super().set()

    def close(self) -> None:
        with self._bell_lock:
            bell, self.bell = self.bell, -1
        if bell >= 0:
            os.close(bell)

    def _ring(self) -> None:
        with self._bell_lock:
            if self.bell >= 0:
                os.eventfd_write(self.bell, 1)

    def __del__(self) -> None:
        self.close()
