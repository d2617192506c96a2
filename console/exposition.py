"""/metrics: what all processes counted, and how far bus and relay are behind, asked at each scrape. Declares no metric."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from ichor import metrics
from ichor.bus.protocol import Bus
from ichor.store.receipts import Waiting

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Exposition:
    """Text for Prometheus. In multiprocess mode (PROMETHEUS_MULTIPROC_DIR) of all roles, otherwise of this process."""

    def __init__(self, bus: Bus, waiting: Callable[[], Waiting | None]) -> None:
        self._bus = bus
        self._waiting = waiting
        self._lock = threading.Lock()
        self._groups: set[tuple[str, str]] = set()
        self._topics: set[str] = set()

    def text(self) -> bytes:
        """The metrics now."""
        with self._lock:
            self._ask_bus()
            waiting = self._waiting()
            for lane, unread in waiting.bytes.items() if waiting is not None else ():
                metrics.RECEIPTS_UNREAD.labels(lane.value).set(unread)
        registry: CollectorRegistry = REGISTRY
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _ask_bus(self) -> None:
        lags = {(lag.topic, lag.group): lag.waiting + lag.leased for lag in self._bus.lag()}
        # What is there no longer is told as zero once it was told at all.
        for topic, group in self._groups - set(lags):
            metrics.BUS_WAITING.labels(topic, group).set(0)
        for (topic, group), waiting in lags.items():
            metrics.BUS_WAITING.labels(topic, group).set(waiting)
        self._groups |= set(lags)
        dead = Counter(letter.topic for letter in self._bus.dead_letters())
        for topic in self._topics | set(dead):
            metrics.DEAD_LETTERS.labels(topic).set(dead[topic])
        self._topics |= set(dead)
