"""The thread that keeps a replica up with Kafka. Decides nothing: what records mean is `ichor.bus.kafka_replica`'s.

A replica of a group begins with the ledger: with its snapshot where it has one, and then, of each topic, with what may
be unfinished and `_KNOWN` records before it, whose ids it so knows; one of a log begins with the first record.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kafka.errors import OffsetOutOfRangeError

from ichor.bus.kafka_client import Cluster, order_of
from ichor.bus.kafka_replica import Replica, load
from ichor.errors import CannotStart, IchorError, TransientError
from ichor.outage import Outage

log = logging.getLogger(__name__)

# Finished messages before the first unfinished one whose repetition a member that has just come would notice.
_KNOWN = 2000
_POLL_MS = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_FORGET_SECONDS = 600.0


class Tail:
    """A replica and the thread that feeds it. ``topic``: of a log; else the ledger of ``group`` and what it names."""

    def __init__(
        self, cluster: Cluster, folder: Path, *, me: str, group: str | None = None, topic: str | None = None,
        copy_letters: Callable[[Replica, list[str]], None] = lambda _replica, _letters: None,
    ) -> None:  # fmt: skip
        self._cluster = cluster
        self._me = me
        self._topic = topic
        self.replica = Replica(folder, group=group)
        self.ledger = cluster.ledger_prefix + group if group is not None else None
        self._copy = copy_letters
        self._entries: deque[Any] = deque()
        self._stop = threading.Event()
        self._outage = Outage(log, role="bus")
        self._forget_at = time.monotonic() + _FORGET_SECONDS
        self._begin()
        threading.Thread(target=self._run, name=f"kafka-{group or topic}", daemon=True).start()

    def close(self) -> None:
        """End the thread, soon."""
        self._stop.set()
        with self.replica.changed:
            self.replica.changed.notify_all()

    def catch_up(self, seconds: float) -> None:
        """Wait until everything is folded that Kafka holds now.

        Raises
        ------
        TransientError
            When that takes longer than ``seconds``.
        """
        deadline = time.monotonic() + seconds
        if self.ledger is not None:
            self.wait_for({self.ledger: self._cluster.ends([self.ledger])[self.ledger][1]}, deadline)
        self.fold_up_to(self._cluster.ends(self.topics()), deadline)

    def topics(self) -> list[str]:
        """What it follows beside the ledger; of a group whose ledger is folded, what that has subscribed."""
        with self.replica.changed:
            return list(self.replica.positions)

    def fold_up_to(self, ends: Mapping[str, tuple[int, int]], deadline: float) -> None:
        """Wait until these topics (first offset, and the one after the last) are folded, those of them that it follows."""
        own = {topic: ends[topic] for topic in self.topics() if topic in ends}
        for topic, (first, _) in own.items():
            self.replica.forget(topic, first)
        self.wait_for({topic: last for topic, (_, last) in own.items()}, deadline)

    def wait_for(self, offsets: dict[str, int], deadline: float) -> None:
        """Wait until what is before these offsets is folded; as `catch_up`."""
        replica = self.replica

        def there() -> bool:
            self.check()
            return all(
                (replica.at if name == self.ledger else replica.positions.get(name, offset)) >= offset
                for name, offset in offsets.items()
            )

        with replica.changed:
            if not replica.changed.wait_for(there, max(0.0, deadline - time.monotonic())):
                raise TransientError(f"Kafka at {self._cluster.servers} does not answer in time")

    def check(self) -> None:
        """Raise what keeps the replica from going on."""
        error = self.replica.error
        if error is not None:
            raise type(error)(str(error))

    def _begin(self) -> None:
        self.replica.reset()
        if self._topic is not None:
            self.replica.positions[self._topic] = 0

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            consumer: Any = None
            try:
                consumer = self._cluster.consumer()
                self._assign(consumer)
                while not self._stop.is_set():
                    self._step(consumer)
                    pause = _FIRST_PAUSE
                    self._outage.over()
            except OffsetOutOfRangeError as error:
                # What was to be read next has been deleted: `_assign` begins with what there is.
                log.info("%s was cut: %s", self.ledger or "a log", " ".join(str(error).split()))
            except Exception as error:  # noqa: BLE001 - the loop's edge: a new client begins where this one ended
                self._complain(error)
            finally:
                if consumer is not None:
                    self._close(consumer)
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        with self.replica.changed:
            self.replica.db.close()

    def _close(self, consumer: Any) -> None:
        try:
            consumer.close()
        except Exception as error:  # noqa: BLE001 - it is dropped whatever it says; the next client begins anew
            log.info("%s: a client closed with %s", self.ledger or "log", type(error).__name__)

    def _complain(self, error: Exception) -> None:
        told = error if isinstance(error, CannotStart) else TransientError(str(error) or type(error).__name__)
        if not isinstance(error, IchorError):  # else who waits for the replica is told, and says so
            self._outage.away(told, cause=error)
        with self.replica.changed:
            self.replica.error = told
            self.replica.changed.notify_all()

    def _assign(self, consumer: Any) -> None:
        """Follow the ledger and all topics from where the replica is."""
        replica = self.replica
        self._entries.clear()
        names = list(replica.positions) + ([self.ledger] if self.ledger is not None else [])
        self._cluster.ensure(names)
        ends = self._cluster.ends(names)
        first = {name: ends[name][0] for name in names}
        with replica.changed:
            if self.ledger is not None and replica.at < first[self.ledger]:
                # Others have made a snapshot and cut off what was before it, or this replica begins.
                replica.reset()
                replica.at = first[self.ledger]
            reached = replica.reached() | ({self.ledger: replica.at} if self.ledger is not None else {})
            for name, offset in reached.items():
                if offset > ends[name][1]:
                    whose = f"the ledger of group {replica.group} knows" if replica.group is not None else "it was"
                    raise CannotStart(
                        f"topic {self._cluster.settings.prefix}{name} is shorter than {whose}: was it made anew?"
                    )
            for topic in replica.positions:
                replica.positions[topic] = max(replica.positions[topic], first[topic])
            places = self._cluster.places(
                replica.positions | ({self.ledger: replica.at} if self.ledger is not None else {})
            )
        consumer.assign(list(places))
        for place, offset in places.items():
            consumer.seek(place, offset)

    def _step(self, consumer: Any) -> None:
        with self._cluster.told():
            found = consumer.poll(timeout_ms=_POLL_MS)
        replica = self.replica
        with replica.changed:
            if self._stop.is_set():
                return
            known = len(replica.positions)
            if found or self._entries:
                before = dict(replica.positions), replica.at
                try:
                    with replica.whole():
                        self._fold(found)
                except BaseException:
                    replica.positions, replica.at = before
                    self._begin()
                    raise
            replica.error = None
            replica.changed.notify_all()
            grown = len(replica.positions) > known
            letters, replica.buried = replica.buried, []
        if grown:
            self._assign(consumer)
        if letters:
            self._copy(replica, letters)
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + _FORGET_SECONDS
            for topic, (first, _) in self._cluster.ends(list(replica.positions)).items():
                replica.forget(topic, first)

    def _fold(self, found: dict[Any, list[Any]]) -> None:
        replica = self.replica
        for place, records in found.items():
            topic = self._cluster.topic_of(place.topic)
            if topic == self.ledger:
                self._entries.extend(records)
                continue
            for record in records:
                replica.take_message(
                    topic, record.offset, record.value, published=record.timestamp / 1000.0, order=order_of(record)
                )
        while self._entries:
            record = self._entries[0]
            entry = load(record.value)
            if entry is not None and replica.waits_for(entry):
                return  # of a message that is still to come
            self._take_entry(record.offset, entry)
            self._entries.popleft()

    def _take_entry(self, offset: int, entry: dict[str, Any] | None) -> None:
        replica = self.replica
        if entry is not None and entry["do"] == "snapshot":
            if replica.positions or entry.get("after") != offset:
                replica.at = offset + 1
                return
            replica.begin_with(offset, entry)
            for topic in replica.positions:
                replica.positions[topic] = max(0, replica.positions[topic] - _KNOWN)
            return
        try:
            if entry is None:
                raise ValueError("not a record of a ledger")
            replica.take_entry(offset, entry, ours=entry.get("by") == self._me)
        except (KeyError, TypeError, ValueError) as error:
            replica.at = offset + 1
            log.error("record %d of ledger %s is left out: %s", offset, self.ledger, type(error).__name__)
