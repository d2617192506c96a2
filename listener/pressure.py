"""How full the disk of the spool is, and what follows for senders. Cheap to ask for each object; not a quota."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ichor import metrics
from ichor.clock import Clock
from ichor.errors import OutOfResources

_LOG = logging.getLogger(__name__)
_LOOK_AGAIN = 0.5  # seconds for which a look at the file system is believed
DISK_FULL = "the disk is nearly full"


class DiskPressure:
    """Free space against two watermarks; recovers by itself when there is room again. Safe from any thread.

    Parameters
    ----------
    free_bytes
        Asks the file system; an `OSError` leaves the last answer.
    low, full
        Bytes: below the first no association is taken, below the second no object either.
    """

    def __init__(self, free_bytes: Callable[[], int], *, low: int, full: int, clock: Clock) -> None:
        self._free_bytes = free_bytes
        self._low, self._full = low, full
        self._clock = clock
        self._lock = threading.Lock()
        self._free = low
        self._looked = float("-inf")
        self._level = ""

    def is_low(self, *, look: bool = True) -> bool:
        """True while no further association should be taken. Without ``look``: by the last answer, and never waits."""
        return (self._now_free() if look else self._free) < self._low

    def check(self) -> None:
        """Before an object is stored.

        Raises
        ------
        OutOfResources
            Below the lower watermark.
        """
        if self._now_free() < self._full:
            raise OutOfResources(DISK_FULL)

    def wrote(self, length: int) -> None:
        """Count bytes that the next look at the file system will show."""
        with self._lock:
            self._free -= length

    def _now_free(self) -> int:
        now = self._clock.monotonic()
        with self._lock:
            if now - self._looked >= _LOOK_AGAIN:
                self._looked = now
                try:
                    self._free = self._free_bytes()
                except OSError as error:
                    _LOG.warning("free space cannot be asked for: %s", error.strerror)
                metrics.SPOOL_FREE_BYTES.set(self._free)
                self._tell()
            return self._free

    def _tell(self) -> None:
        level = "full" if self._free < self._full else "low" if self._free < self._low else ""
        if level == self._level:
            return
        self._level = level
        if level == "full":
            _LOG.warning("disk nearly full (%d bytes free): objects are refused with 0xA700", self._free)
        elif level == "low":
            _LOG.warning("disk low (%d bytes free): further associations are rejected for the moment", self._free)
        else:
            _LOG.info("disk has room again (%d bytes free)", self._free)
