"""What the console reads from, in one group: passed to every page and answer. Holds nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ichor.bus.protocol import Bus
from ichor.clock import Clock
from ichor.history import Lookup, Projection, why
from ichor.store.protocol import Blobs
from ichor.store.receipts import Waiting

LONG_UNTOLD = 30.0  # seconds; the relay tells within milliseconds, and of a burst within seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """``ready`` says whether all roles work and which do not; ``journal`` is None while nothing was received.

    ``waiting`` asks the receipts log itself what is not told, so that a relay that is gone shows. Studies are divided
    into ``shards``.
    """

    projection: Projection
    bus: Bus
    blobs: Blobs
    journal: Lookup | None
    ready: Callable[[], tuple[bool, str]]
    waiting: Callable[[], Waiting | None]
    clock: Clock
    shards: int = 1

    def why(self, uid: str) -> dict[str, Any] | None:
        """`ichor.history.why`, without a search through the whole log."""
        return why(uid, bus=self.bus, journal=self, search=False, shards=self.shards)

    def state(self) -> tuple[bool, str]:
        """``ready``, unless what was received waits so long that the relay does not do its work, running or not."""
        ready, detail = self.ready()
        waiting = self.waiting()
        if (
            waiting is not None
            and waiting.since is not None
            and (age := self.clock.time() - waiting.since) > LONG_UNTOLD
        ):
            behind = f"received {age:.0f} s ago and not told yet: the relay does not keep up"
            return False, behind if ready else f"{detail}; {behind}"
        return ready, detail

    def locate(self, uid: str) -> tuple[str, str, str | None] | None:
        """What events name first: it costs no query. (`ichor.history.Lookup`)"""
        return self.projection.locate(uid) or (self.journal.locate(uid) if self.journal else None)
