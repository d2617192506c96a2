"""The bus on Kafka, for the processes of a cluster: topics for messages, a ledger per group. No consumer group of Kafka.

Every verb is a record in the group's ledger, a topic with one partition; every member folds the same ledger
(`ichor.bus.kafka_replica`), so that the broker's order of records decides who has what. A claim is on all replicas
that Kafka asks for before ``receive`` returns it. Nothing here depends on polling in time: a job may take hours, and
the number of workers is not bound to partitions. docs/decisions/0022 says why.

``prune`` cuts a log at its front only, up to the first message that somebody has not finished or given up; what it
returns counts places in the log. An id that the topic has had is ignored as far as a member knows it: all that is
unfinished and 2,000 messages before that.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ichor.bus.kafka_client import Cluster, Entry, Gone, Record
from ichor.bus.kafka_replica import Replica, dump, envelope_of
from ichor.bus.kafka_schema import LAG
from ichor.bus.kafka_tail import Tail
from ichor.bus.protocol import DeadLetter, Lag
from ichor.clock import Clock, SystemClock
from ichor.errors import IchorError, TransientError
from ichor.messages import Envelope

if TYPE_CHECKING:
    from ichor.config import KafkaSettings

log = logging.getLogger(__name__)

# Longest sleep of a waiting member: how late it notices a lease that ended, or a clock that was moved.
_TICK_SECONDS = 0.2
_SNAPSHOT_EVERY = 1000  # records of a ledger
_COMMIT_SECONDS = 2.0
_TIDY_AGAIN_SECONDS = 60.0


class KafkaBus:
    """A `Bus` on ``url`` (``kafka://host:port,...``). Threads may share it; open it after a fork. Connects when used.

    Parameters
    ----------
    folder
        Where temporary tables lie: of each group or log that is followed, what it holds.
    """

    def __init__(self, url: str, settings: KafkaSettings, folder: Path, *, clock: Clock | None = None) -> None:
        self.cluster = Cluster(url, settings)
        self.clock = clock or SystemClock()
        self.me = settings.member or uuid.uuid4().hex
        # Of this process alone, also where a member bears the name of the one before it.
        self.process = uuid.uuid4().hex
        self.patience = 2 * settings.timeout
        self._folder = folder
        self._lock = threading.RLock()
        self._seen: dict[str, int] = {}  # topic -> offset after what this bus appended last
        self._groups: dict[str, Tail] = {}
        self._logs: dict[str, Tail] = {}
        self._members: list[KafkaSubscription] = []
        self._closed = False

    def publish(self, topic: str, envelopes: Sequence[Envelope]) -> None:
        if not envelopes:
            return
        now, order = self.clock.time(), time.time_ns()
        self.append(
            topic,
            [
                Entry(value=e.model_dump_json().encode(), key=e.subject, at=now, order=order + n)
                for n, e in enumerate(envelopes)
            ],
        )

    def subscribe(
        self, topics: Sequence[str], group: str, *, lease: float = 30.0, max_attempts: int = 5, member: str = ""
    ) -> KafkaSubscription:
        with self._lock:
            taken = {joined.name for joined in self._members if joined.group == group}
            name = next(name for n in itertools.count() if (name := f"{member or self.me}/{n}") not in taken)
            joined = KafkaSubscription(self, tuple(topics), group, name, lease, max_attempts)
            self._members.append(joined)
        try:
            joined.join()
        except TransientError as error:
            log.debug("group %s joins when the bus is there: %s", group, error)  # who receives says so
        except BaseException:
            self.forget(joined)
            raise
        return joined

    def read(
        self, topic: str, *, after: int = 0, limit: int = 1000, subject: str | None = None, wait: float = 0.0
    ) -> list[tuple[int, Envelope]]:
        deadline = time.monotonic() + wait
        with self._lock:
            self._check_open()
            if topic not in self._logs:
                self.cluster.ensure([topic])
                self._logs[topic] = Tail(self.cluster, self._folder, me=self.process, topic=topic)
            tail = self._logs[topic]
        tail.catch_up(self.patience)
        with tail.replica.changed:
            while True:
                found = tail.replica.read(topic, after=after, limit=limit, subject=subject)
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return [(seq, envelope_of(topic, seq - 1, body)) for seq, body in found]
                tail.replica.changed.wait(left)
                tail.check()
                self._check_open()

    def lag(self) -> list[Lag]:
        now, rows = self.clock.time(), []
        for tail in self._all_groups():
            with tail.replica.changed:
                found = tail.replica.db.execute(LAG, {"now": now}).fetchall()
            group = tail.replica.group or ""
            rows += [
                Lag(
                    topic=topic, group=group, waiting=n - leased, leased=leased,
                    oldest_age=0.0 if oldest is None else max(0.0, now - oldest),
                )
                for topic, n, leased, oldest in found
            ]  # fmt: skip
        return sorted(rows, key=lambda lag: (lag.topic, lag.group))

    def dead_letters(self, *, group: str | None = None) -> list[DeadLetter]:
        if group is None:
            tails = self._all_groups()
        else:
            tails = [self.group(group)]
            tails[0].catch_up(self.patience)
        found = [letter for tail in tails for letter in self._letters(tail.replica)]
        return sorted(found, key=lambda letter: (letter.at, letter.letter_id))

    def replay(self, letter_id: str) -> None:
        for tail in self._all_groups():
            with tail.replica.changed:
                row = tail.replica.db.execute("SELECT 1 FROM letter WHERE letter_id = ?", (letter_id,)).fetchone()
            if row is not None:
                self.tell(tail, {"do": "replay", "letter": letter_id})
                return
        raise KeyError(letter_id)

    def prune(self, topic: str, *, before: float) -> int:
        tails = self._all_groups(reading=topic)
        if not tails:
            return 0
        first, last = self.cluster.ends([topic])[topic]
        young = self.cluster.offset_at(topic, before)
        cut = last if young is None else young
        for tail in tails:
            with tail.replica.changed:
                cut = min(cut, tail.replica.unfinished_from(topic, letters=True))
        if cut <= first:
            return 0
        self.cluster.trim(topic, cut)
        with self._lock:
            for tail in [*self._groups.values(), *self._logs.values()]:
                tail.replica.forget(topic, cut)
        return cut - first

    def close(self) -> None:
        for member in list(self._members):
            member.close()
        with self._lock:
            self._closed = True
            tails = [*self._groups.values(), *self._logs.values()]
        for tail in tails:
            tail.close()
        self.cluster.close()

    # --- for the members ----------------------------------------------------------------------------------------------

    def append(self, topic: str, entries: Sequence[Entry]) -> int:
        """Append durably; offset of the last. What follows sees it."""
        self._check_open()
        offset = self.cluster.append(topic, entries)[-1]
        with self._lock:
            self._seen[topic] = max(offset + 1, self._seen.get(topic, 0))
        return offset

    def tell(self, tail: Tail, entry: Mapping[str, Any], *, wait: bool = True) -> int:
        """Write into a group's ledger, and wait until that is folded; its offset."""
        assert tail.ledger is not None
        offset = self.append(tail.ledger, [Entry(value=dump({**entry, "by": self.process}), at=self.clock.time())])
        if wait:
            tail.wait_for({tail.ledger: offset + 1}, time.monotonic() + self.patience)
        return offset

    def seen(self, names: Sequence[str]) -> dict[str, int]:
        """What this bus has appended to these itself."""
        with self._lock:
            return {name: self._seen[name] for name in names if name in self._seen}

    def group(self, group: str) -> Tail:
        with self._lock:
            self._check_open()
            if group not in self._groups:
                self._groups[group] = Tail(
                    self.cluster, self._folder, me=self.process, group=group, copy_letters=self._copy_letters
                )
            return self._groups[group]

    def forget(self, member: KafkaSubscription) -> None:
        """Drop a member that has left."""
        with self._lock:
            if member in self._members:
                self._members.remove(member)

    def shorten(self, tail: Tail) -> None:
        """Make a snapshot of the ledger, and cut off what was before it; not when somebody writes meanwhile."""
        entry = tail.replica.snapshot()
        if entry is None or tail.ledger is None:
            return
        offset = self.tell(tail, entry, wait=False)
        if offset == entry["after"]:
            self.cluster.trim(tail.ledger, offset)

    def fetch(self, topic: str, seq: int) -> Envelope:
        """A message from Kafka itself; `Gone` when it was deleted."""
        return envelope_of(topic, seq - 1, self.fetch_record(topic, seq).value)

    def fetch_record(self, topic: str, seq: int) -> Record:
        return self.cluster.fetch(topic, seq - 1)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the bus is closed")

    def _all_groups(self, *, reading: str | None = None) -> list[Tail]:
        """Every group that has subscribed something, or ``reading``, up to date. Kafka is asked once for all of them."""
        self._check_open()
        tails = [self.group(name) for name in self.cluster.groups()]
        ledgers = self.cluster.ends([tail.ledger for tail in tails if tail.ledger is not None])
        for tail in tails:
            if tail.ledger is not None:
                tail.wait_for({tail.ledger: ledgers[tail.ledger][1]}, time.monotonic() + self.patience)
        if reading is not None:
            tails = [tail for tail in tails if reading in tail.topics()]
        ends = self.cluster.ends(sorted({topic for tail in tails for topic in tail.topics()}))
        for tail in tails:
            tail.fold_up_to(ends, time.monotonic() + self.patience)
        return tails

    def _letters(self, replica: Replica, only: Sequence[str] | None = None) -> list[DeadLetter]:
        with replica.changed:
            rows = replica.db.execute("SELECT letter_id, topic, seq, attempts, reason, at FROM letter").fetchall()
        found = []
        for letter, topic, seq, attempts, reason, at in rows:
            if only is not None and letter not in only:
                continue
            try:
                envelope = self.fetch(topic, seq)
            except Gone:
                envelope = envelope_of(topic, seq - 1, None)
            found.append(
                DeadLetter(
                    letter_id=letter,
                    topic=topic,
                    group=replica.group or "",
                    envelope=envelope,
                    attempts=attempts,
                    reason=reason,
                    at=at,
                )
            )
        return found

    def _copy_letters(self, replica: Replica, letters: list[str]) -> None:
        """To ``<topic>.dlq``, for people and their tools: Ichor reads its ledger."""
        try:
            for letter in self._letters(replica, letters):
                copied = {
                    "letter_id": letter.letter_id, "topic": letter.topic, "group": letter.group,
                    "attempts": letter.attempts, "reason": letter.reason, "at": letter.at,
                    "message": letter.envelope.model_dump(mode="json"),
                }  # fmt: skip
                value = json.dumps(copied, ensure_ascii=False).encode()
                self.append(f"{letter.topic}.dlq", [Entry(value=value, key=letter.letter_id, at=letter.at)])
        except (IchorError, RuntimeError) as error:
            log.warning("a dead letter of %s was not copied: %s", replica.group, error)


@dataclass(eq=False, slots=True)
class KafkaDelivery:
    """One message in hand; see `ichor.bus.protocol.Delivery`."""

    _member: KafkaSubscription
    _hand: dict[str, Any]  # topic, seq, and the name of this handing out
    topic: str
    envelope: Envelope
    attempt: int
    dead: bool
    _ended: bool = field(default=False)

    def ack(self) -> None:
        self._end("ack", {"do": "finish"})

    def retry(self, delay: float, *, reason: str, count: bool = True) -> None:
        if count and not self.dead and self.attempt >= self._member.max_attempts:
            self.give_up(reason)
            return
        now = self._member.bus.clock.time()
        left = self.attempt - (0 if count or self.dead else 1)
        self._end("retry", {"do": "wait", "due": now + delay, "left": left, "reason": reason})

    def give_up(self, reason: str) -> None:
        self._end("give_up", {"do": "die", "cause": reason, "now": self._member.bus.clock.time()})

    def reject(self, reason: str) -> None:
        self._end("reject", {"do": "finish", "cause": reason, "now": self._member.bus.clock.time()})

    def extend(self, seconds: float) -> None:
        if self._ended:
            raise RuntimeError("this delivery has ended")
        self._tell("extend", {"do": "extend", "until": self._member.bus.clock.time() + seconds})

    def _end(self, verb: str, entry: dict[str, Any]) -> None:
        if self._ended:
            raise RuntimeError(f"{verb}: this delivery has ended already")
        self._tell(verb, entry)
        self._ended = True

    def _tell(self, verb: str, entry: dict[str, Any]) -> None:
        if not self._member.tell_of(self._hand, entry):
            # Harmless: consumers are idempotent, and the message is in other hands.
            log.warning("%s of %s %s: its lease was lost before", verb, self.topic, self.envelope.id)


class KafkaSubscription:
    """One member of a group; see `ichor.bus.protocol.Subscription`."""

    def __init__(
        self, bus: KafkaBus, topics: tuple[str, ...], group: str, name: str, lease: float, max_attempts: int
    ) -> None:
        self.bus = bus
        self.group = group
        self.name = name
        self.max_attempts = max_attempts
        self._topics = topics
        self._lease = lease
        self._tail = bus.group(group)
        self._joined = False
        self._closed = False
        self._unsure: dict[str, float] = {}  # claims that may or may not have been written; until when they would hold
        self._committed: dict[str, int] = {}
        self._tidy_at = 0.0

    def join(self) -> None:
        """Become a member; TransientError when Kafka is away."""
        bus, tail = self.bus, self._tail
        bus.cluster.ensure(self._topics)
        bus.tell(tail, {"do": "join", "topics": self._topics, "me": self.name})
        tail.catch_up(bus.patience)
        self._joined = True

    def receive(self, timeout: float, *, sure: bool = False) -> KafkaDelivery | None:
        deadline = time.monotonic() + timeout
        replica = self._tail.replica
        while True:
            self._check_open()
            if not self._joined:
                self.join()
            self._give_back_unsure()
            self._tail.wait_for(self._seen(), time.monotonic() + self.bus.patience)
            with replica.changed:
                now = self.bus.clock.time()
                key = replica.candidate(self._topics, self.name, now)
            if key is not None:
                if replica.entries >= 5 * _SNAPSHOT_EVERY:  # there is never nothing to do
                    self._tidy()
                delivery = self._claim(key, now)
                if delivery is not None:
                    return delivery
                continue
            self._tidy()
            left = deadline - time.monotonic()
            if left <= 0 and sure:
                self._tail.catch_up(self.bus.patience)
                if not set(self._topics) <= set(self._tail.topics()):
                    raise TransientError(f"the ledger of {self.group} on Kafka is being read anew")
                sure = False
                continue
            if left <= 0:
                return None
            with replica.changed:
                if self._closed or replica.candidate(self._topics, self.name, self.bus.clock.time()):
                    continue
                due = replica.next_due(now)
                replica.changed.wait(min(left, _TICK_SECONDS, max(0.001, due - now) if due is not None else left))
            self._tail.check()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self._tail.replica.changed:
            self._tail.replica.changed.notify_all()  # a receive() of our own
        self.bus.forget(self)
        if self._joined:
            try:
                self.bus.tell(self._tail, {"do": "leave", "me": self.name}, wait=False)
            except IchorError as error:
                log.warning("group %s was left without a word: %s", self.group, error)

    def tell_of(self, hand: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
        """Write what became of a message in hand; False when it is in this hand no more."""
        replica = self._tail.replica
        with replica.changed:
            if self._closed or replica.in_hand(hand["hand"]) is None:
                return False
        self.bus.tell(self._tail, {**hand, **entry}, wait=False)
        return True

    def _claim(self, key: Mapping[str, Any], now: float) -> KafkaDelivery | None:
        bus, replica = self.bus, self._tail.replica
        hand = {**key, "hand": uuid.uuid4().hex}
        claim = {"do": "claim", **hand, "me": self.name, "now": now, "until": now + self._lease}
        try:
            bus.tell(self._tail, {**claim, "most": self.max_attempts})
        except TransientError:
            self._unsure[hand["hand"]] = time.monotonic() + self._lease
            raise
        with replica.changed:
            held = replica.in_hand(hand["hand"])
        if held is None:
            return None  # somebody else was first
        attempts, dead, body = held
        topic, seq = key["topic"], key["seq"]
        try:
            envelope = bus.fetch(topic, seq) if body is None else envelope_of(topic, seq - 1, body)
        except Gone as error:
            bus.tell(self._tail, {**hand, "do": "finish", "cause": str(error), "now": now})
            return None
        except TransientError:
            self._unsure[hand["hand"]] = time.monotonic() + self._lease
            raise
        return KafkaDelivery(self, hand, topic, envelope, attempts, dead)

    def _give_back_unsure(self) -> None:
        for hand, until in list(self._unsure.items()):
            with self._tail.replica.changed:
                held = self._tail.replica.in_hand(hand) is not None
            if held:
                self.bus.tell(self._tail, {"do": "give_back", "hand": hand})
            if held or time.monotonic() > until:
                del self._unsure[hand]

    def _seen(self) -> dict[str, int]:
        assert self._tail.ledger is not None
        return self.bus.seen([*self._topics, self._tail.ledger])

    def _tidy(self) -> None:
        """A snapshot, and offsets for Kafka's own tools."""
        now, replica = time.monotonic(), self._tail.replica
        if now < self._tidy_at:
            return
        self._tidy_at = now + _COMMIT_SECONDS
        with replica.changed:
            offsets = {topic: replica.unfinished_from(topic, letters=False) for topic in self._topics}
        changed = {topic: offset for topic, offset in offsets.items() if self._committed.get(topic) != offset}
        try:
            # First what keeps the ledger short: it must not wait for a right to write offsets.
            if replica.entries >= _SNAPSHOT_EVERY:
                replica.entries = 0
                self.bus.shorten(self._tail)
            if changed:
                self.bus.cluster.commit(self.group, changed)
                self._committed |= changed
        except IchorError as error:
            # Nothing depends on either; but a ledger that is never cut grows.
            self._tidy_at = now + _TIDY_AGAIN_SECONDS
            log.warning("group %s: offsets or a snapshot could not be written: %s", self.group, error)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the subscription is closed")
