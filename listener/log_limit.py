"""How often the same thing is said when whoever connects decides how often it happens. Counts nothing: metrics do."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

_MOST_KINDS = 1000
_MOST_OF_ONE = 100
_OTHER = ""


class LogLimit:
    """Lets the first lines of a kind pass, then one each ``every`` seconds. Safe from any thread.

    A kind of which nothing came until all of its lines were in hand again is forgotten: it begins anew.

    Parameters
    ----------
    at_once
        Lines of a kind that pass at first.
    every
        Seconds after which a kind has one line more, never more than ``at_once``.
    """

    def __init__(
        self, *, at_once: int = 10, every: float = 10.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        self._at_once = at_once
        self._every = every
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # kind -> (lines in hand, when that was, whose it is), latest last
        self._kinds: dict[str, tuple[float, float, str]] = {}
        self._of: Counter[str] = Counter()  # kinds of each

    def allows(self, kind: str, *, of: str = "") -> bool:
        """Take one line of ``kind``; False: say nothing. Beyond 1000 kinds at a time all others are one.

        ``of``: who brings it about, as by address. Of each that is named all kinds beyond 100 are one, so that nobody's
        make those of others one.
        """
        with self._lock:
            now = self._monotonic()
            self._forget(now)
            kind = f"{of}\n{kind}"
            if of and kind not in self._kinds and self._of[of] >= _MOST_OF_ONE:
                kind = of
            if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
                kind, of = _OTHER, ""
            if kind not in self._kinds:
                self._of[of] += 1
            lines, since, _ = self._kinds.pop(kind, (float(self._at_once), now, of))
            lines = min(self._at_once, lines + (now - since) / self._every)
            allowed = lines >= 1
            self._kinds[kind] = (lines - 1 if allowed else lines, now, of)
        return allowed

    def _forget(self, now: float) -> None:
        """What was asked for so long ago that nothing of it is left to count; each kind is looked at once for that."""
        while self._kinds:
            kind, (_, since, of) = next(iter(self._kinds.items()))
            if now - since < self._at_once * self._every:
                return
            del self._kinds[kind]
            self._of[of] -= 1
            if not self._of[of]:
                del self._of[of]
