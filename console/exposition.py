"""/metrics: what all processes counted, and how far bus and relay are behind, asked at each scrape. Declares no metric."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from ichor import metrics
from ichor.bus.protocol import Bus
from ichor.store.receipts import Waiting

_LOG = logging.getLogger(__name__)
CONTENT_TYPE = CONTENT_TYPE_LATEST
_PATIENCE = 2.0  # seconds that a scrape waits for the bus: who scrapes waits for ten, and wants the rest


class Exposition:
    """Text for Prometheus. In multiprocess mode (PROMETHEUS_MULTIPROC_DIR) of all roles, otherwise of this process."""

    def __init__(self, bus: Bus, waiting: Callable[[], Waiting | None], *, patience: float = _PATIENCE) -> None:
        self._bus = bus
        self._waiting = waiting
        self._patience = patience
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._complained = False
        self._groups: set[tuple[str, str]] = set()
        self._topics: set[str] = set()

    def text(self) -> bytes:
        """The metrics now; of a bus that does not answer in time what it said last, and that it is away."""
        with self._lock:
            if self._asking is None or not self._asking.is_alive():
                self._asking = threading.Thread(target=self._ask, name="metrics-bus", daemon=True)
                self._asking.start()
            self._asking.join(self._patience)
            if self._asking.is_alive():
                metrics.BUS_AWAY.set(1)
            waiting = self._waiting()
            for lane, unread in waiting.bytes.items() if waiting is not None else ():
                metrics.RECEIPTS_UNREAD.labels(lane.value).set(unread)
        registry: CollectorRegistry = REGISTRY
        if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _ask(self) -> None:
        try:
            self._ask_bus()
        except Exception as error:  # noqa: BLE001 - a thread's edge: the scrape tells it and everything else
            metrics.BUS_AWAY.set(1)
            if not self._complained:
                metrics.LOOP_ERRORS.labels("console").inc()
                _LOG.warning("metrics are told without those of the bus: %s", error)
            self._complained = True
        else:
            metrics.BUS_AWAY.set(0)
            self._complained = False

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
