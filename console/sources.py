"""What the console reads from, in one group: passed to every page and answer. Holds nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ichor.bus.protocol import Bus
from ichor.clock import Clock
from ichor.history import Lookup, Projection
from ichor.store.protocol import Blobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """``ready`` says whether all roles work and which do not; ``journal`` is None while nothing was received."""

    projection: Projection
    bus: Bus
    blobs: Blobs
    journal: Lookup | None
    ready: Callable[[], tuple[bool, str]]
    clock: Clock

    def locate(self, uid: str) -> tuple[str, str, str | None] | None:
        """What events name first: it costs no query. (`ichor.history.Lookup`)"""
        return self.projection.locate(uid) or (self.journal.locate(uid) if self.journal else None)
