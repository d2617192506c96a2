"""How often the same thing is said when whoever connects decides how often it happens. Counts nothing: metrics do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LOGGED_AT_ONCE = 10
_LOGGED_EVERY = 10.0
_MOST_KINDS = 1000
_OTHER = ""


class LogLimit:
    """Lets the first lines of a kind pass, then one each ``_LOGGED_EVERY`` seconds. Safe from any thread."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, float]] = {}  # kind -> (lines in hand, when that was)

    def allows(self, kind: str) -> bool:
        """Take one line of ``kind``; False: say nothing. Beyond the first 1000 kinds all others are one."""
        now = self._monotonic()
        with self._lock:
            if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
                kind = _OTHER
            lines, since = self._kinds.get(kind, (float(_LOGGED_AT_ONCE), now))
            lines = min(_LOGGED_AT_ONCE, lines + (now - since) / _LOGGED_EVERY)
            allowed = lines >= 1
            self._kinds[kind] = (lines - 1 if allowed else lines, now)
        return allowed
