"""Time as an argument: the real clock and one that tests move by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def time(self) -> float:
        """POSIX seconds (UTC)."""

    def monotonic(self) -> float:
        """Seconds that never go back; for waits and durations."""


class SystemClock:
    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until ``advance``; both readings move together."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


def rfc3339(posix_seconds: float) -> str:
    """UTC, milliseconds: ``2026-01-02T03:04:05.678Z``."""
    stamp = datetime.fromtimestamp(posix_seconds, UTC)
    return stamp.strftime("%Y-%m-%dT%H:%M:%S.") + f"{stamp.microsecond // 1000:03d}Z"
