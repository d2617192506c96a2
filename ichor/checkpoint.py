"""A point at which one thread can be held for certain. Knows no library and no work that the thread does.

Needed for pynetdicom, of which each room that sends has its own (`dicom_out`, `listener`, `ichor.cli`): an association's
thread tells that it is paused *before* it waits at its `threading.Event`, so whoever sends may take it for paused while
it goes on. It then takes the response off the queue and drops it, and the sender waits in vain until its timeout
(pynetdicom 3.0.4, ``Association._run_reactor``).
"""

from __future__ import annotations

import threading
from typing import Protocol

_LOOK_SECONDS = 0.1  # how often `Checkpoint.clear` looks whether the thread still lives


class _Reacting(Protocol):
    _reactor_checkpoint: threading.Event

    def is_alive(self) -> bool: ...


class Checkpoint(threading.Event):
    """An event whose `clear` returns when ``thread`` waits at it: set lets it pass, cleared holds it. Any thread.

    `clear` does not wait for a thread that has ended, for the one that calls it, or once somebody sets it again.
    """

    def __init__(self, thread: _Reacting) -> None:
        super().__init__()
        self._thread = thread
        self._change = threading.Condition()
        self._open = True
        self._held = False

    def is_set(self) -> bool:
        return self._open

    def set(self) -> None:
        with self._change:
            self._open, self._held = True, False
            self._change.notify_all()

    def clear(self) -> None:
        own: object = threading.current_thread()
        with self._change:
            self._open = False
            if self._thread is own:
                return
            while not (self._held or self._open) and self._thread.is_alive():
                self._change.wait(_LOOK_SECONDS)

    def wait(self, timeout: float | None = None) -> bool:
        with self._change:
            while not self._open:
                self._held = True
                self._change.notify_all()
                if not self._change.wait(timeout):
                    return False
        return True


def hold_while_sending(association: _Reacting) -> None:
    """Have the thread of ``association`` (of pynetdicom, as requestor) held for certain during each of its requests.

    Call it when the association is there, before the first request. May the thread be anywhere: `Checkpoint.clear`
    returns only once it has come to the new checkpoint.
    """
    association._reactor_checkpoint = Checkpoint(association)
