"""The bus in the memory of one process, for tests. Forgets everything at its end; same contract as the others."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from ichor.bus.protocol import DeadLetter, Lag
from ichor.clock import Clock, SystemClock
from ichor.messages import Envelope

log = logging.getLogger(__name__)

# A waiting member looks again this often: the clock may be moved by hand.
_TICK_SECONDS = 0.02
_DIED = "its worker died or hung: the lease ended without an answer"


@dataclass(eq=False, slots=True)
class _Unfinished:
    """A message that a group has not finished. ``due``: when it may be handed out, or the end of its lease."""

    seq: int
    topic: str
    envelope: Envelope
    published: float
    due: float = 0.0
    hands: MemoryDelivery | None = None
    attempts: int = 0
    dead: bool = False
    reason: str | None = None

    @property
    def order(self) -> tuple[int, int]:
        return self.envelope.priority.rank, self.seq

    def held(self, now: float) -> bool:
        return self.hands is not None and self.due > now


@dataclass(eq=False, slots=True)
class _Message:
    seq: int
    topic: str
    envelope: Envelope
    published: float


@dataclass(eq=False, slots=True)
class _Letter:
    letter: DeadLetter
    seq: int
    published: float


class MemoryBus:
    """A `Bus` for the threads of one process."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.changed = threading.Condition(threading.RLock())
        self.unfinished: dict[str, list[_Unfinished]] = {}
        self._log: list[_Message] = []
        self._ids: set[tuple[str, str]] = set()
        self._seq = 0
        self._groups: dict[str, set[str]] = {}  # topic -> groups
        self._letters: dict[str, _Letter] = {}
        self._members: list[MemorySubscription] = []

    def publish(self, topic: str, envelopes: Sequence[Envelope]) -> None:
        with self.changed:
            for envelope in envelopes:
                if (topic, envelope.id) in self._ids:
                    continue
                self._ids.add((topic, envelope.id))
                self._seq += 1
                message = _Message(self._seq, topic, envelope, self.clock.time())
                self._log.append(message)
                for group in self._groups.get(topic, ()):
                    self._hand_to(group, message)
            self.changed.notify_all()

    def subscribe(
        self, topics: Sequence[str], group: str, *, lease: float = 30.0, max_attempts: int = 5,
        member: str = "",  # noqa: ARG002 - who dies here takes the bus along
    ) -> MemorySubscription:  # fmt: skip
        with self.changed:
            for topic in topics:
                groups = self._groups.setdefault(topic, set())
                if group not in groups:
                    groups.add(group)
                    for message in self._log:
                        if message.topic == topic:
                            self._hand_to(group, message)
            joined = MemorySubscription(self, tuple(topics), group, lease, max_attempts)
            self._members.append(joined)
            return joined

    def read(
        self, topic: str, *, after: int = 0, limit: int = 1000, subject: str | None = None, wait: float = 0.0
    ) -> list[tuple[int, Envelope]]:
        def found() -> list[tuple[int, Envelope]]:
            return [
                (m.seq, m.envelope)
                for m in self._log
                if m.topic == topic and m.seq > after and subject in (None, m.envelope.subject)
            ][:limit]

        with self.changed:
            self.changed.wait_for(found, timeout=wait)
            return found()

    def lag(self) -> list[Lag]:
        with self.changed:
            now = self.clock.time()
            rows = []
            for topic, group in sorted((t, g) for t, groups in self._groups.items() for g in groups):
                left = [u for u in self.unfinished.get(group, []) if u.topic == topic]
                leased = sum(u.held(now) for u in left)
                oldest = min(left, key=lambda u: u.seq, default=None)
                age = 0.0 if oldest is None else max(0.0, now - oldest.published)
                rows.append(Lag(topic=topic, group=group, waiting=len(left) - leased, leased=leased, oldest_age=age))
            return rows

    def dead_letters(self, *, group: str | None = None) -> list[DeadLetter]:
        with self.changed:
            return [entry.letter for entry in self._letters.values() if group in (None, entry.letter.group)]

    def replay(self, letter_id: str) -> None:
        with self.changed:
            entry = self._letters.pop(letter_id)
            left = self.unfinished.setdefault(entry.letter.group, [])
            left[:] = [u for u in left if u.seq != entry.seq]
            letter = entry.letter
            left.append(_Unfinished(entry.seq, letter.topic, letter.envelope, entry.published))
            self.changed.notify_all()

    def prune(self, topic: str, *, before: float) -> int:
        with self.changed:
            if not self._groups.get(topic):
                return 0
            needed = {u.seq for left in self.unfinished.values() for u in left}
            needed |= {entry.seq for entry in self._letters.values()}
            gone = [m for m in self._log if m.topic == topic and m.published < before and m.seq not in needed]
            self._ids -= {(m.topic, m.envelope.id) for m in gone}
            self._log = [m for m in self._log if m not in gone]
            return len(gone)

    def close(self) -> None:
        for member in list(self._members):
            member.close()

    def bury(self, item: _Unfinished, group: str, reason: str) -> None:
        """Write a dead letter. The caller holds the lock."""
        letter = DeadLetter(
            letter_id=uuid.uuid4().hex[:12], topic=item.topic, group=group, envelope=item.envelope,
            attempts=item.attempts, reason=reason, at=self.clock.time(),
        )  # fmt: skip
        self._letters[letter.letter_id] = _Letter(letter, item.seq, item.published)

    def forget(self, member: MemorySubscription) -> None:
        """Drop a member that has left."""
        with self.changed:
            if member in self._members:
                self._members.remove(member)

    def _hand_to(self, group: str, message: _Message) -> None:
        self.unfinished.setdefault(group, []).append(
            _Unfinished(message.seq, message.topic, message.envelope, message.published)
        )


@dataclass(eq=False, slots=True)
class MemoryDelivery:
    """One message in hand; see `ichor.bus.protocol.Delivery`."""

    member: MemorySubscription
    _item: _Unfinished
    topic: str
    envelope: Envelope
    attempt: int
    dead: bool
    _ended: bool = field(default=False)

    def ack(self) -> None:
        with self.member.bus.changed:
            if self._end("ack"):
                self._remove()

    def retry(self, delay: float, *, reason: str, count: bool = True) -> None:
        if count and not self.dead and self.attempt >= self.member.max_attempts:
            self.give_up(reason)
            return
        bus, item = self.member.bus, self._item
        with bus.changed:
            if self._end("retry"):
                item.due = bus.clock.time() + delay
                item.reason = reason
                item.attempts -= not (count or self.dead)

    def give_up(self, reason: str) -> None:
        bus, item = self.member.bus, self._item
        with bus.changed:
            if self._end("give_up"):
                if not self.dead:
                    bus.bury(item, self.member.group, reason)
                item.dead, item.due = True, 0.0

    def reject(self, reason: str) -> None:
        with self.member.bus.changed:
            if self._end("reject"):
                if not self.dead:
                    self.member.bus.bury(self._item, self.member.group, reason)
                self._remove()

    def extend(self, seconds: float) -> None:
        with self.member.bus.changed:
            if self._ended:
                raise RuntimeError("this delivery has ended")
            if self._still_mine("extend"):
                self._item.due = self.member.bus.clock.time() + seconds

    def _end(self, verb: str) -> bool:
        """Give it out of hand; False when the lease was lost before."""
        if self._ended:
            raise RuntimeError(f"{verb}: this delivery has ended already")
        self._ended = True
        mine = self._still_mine(verb)
        if mine:
            self._item.hands = None
        self.member.bus.changed.notify_all()
        return mine

    def _still_mine(self, verb: str) -> bool:
        mine = self._item.hands is self
        if not mine:
            # Harmless: consumers are idempotent, and the message is in other hands.
            log.warning("%s of %s %s: its lease was lost before", verb, self.topic, self.envelope.id)
        return mine

    def _remove(self) -> None:
        left = self.member.bus.unfinished[self.member.group]
        if self._item in left:  # absent after a replay of its letter
            left.remove(self._item)


class MemorySubscription:
    """One member of a group; see `ichor.bus.protocol.Subscription`."""

    def __init__(self, bus: MemoryBus, topics: tuple[str, ...], group: str, lease: float, max_attempts: int) -> None:
        self.bus = bus
        self.group = group
        self.max_attempts = max_attempts
        self._topics = topics
        self._lease = lease
        self._closed = False

    def receive(self, timeout: float, *, sure: bool = False) -> MemoryDelivery | None:  # noqa: ARG002 - it always is
        deadline = time.monotonic() + timeout
        with self.bus.changed:
            while True:
                if self._closed:
                    raise RuntimeError("the subscription is closed")
                delivery = self._claim()
                left = deadline - time.monotonic()
                if delivery is not None or left <= 0:
                    return delivery
                self.bus.changed.wait(min(left, _TICK_SECONDS))

    def close(self) -> None:
        with self.bus.changed:
            if self._closed:
                return
            self._closed = True
            for item in self.bus.unfinished.get(self.group, []):
                if item.hands is not None and item.hands.member is self:
                    item.hands, item.due = None, 0.0
                    item.attempts -= not item.dead
            self.bus.forget(self)
            self.bus.changed.notify_all()

    def _claim(self) -> MemoryDelivery | None:
        now = self.bus.clock.time()
        left = self.bus.unfinished.get(self.group, [])
        free = [u for u in left if u.topic in self._topics and u.due <= now and not self._blocked(u, left, now)]
        if not free:
            return None
        item = min(free, key=lambda u: u.order)
        if not item.dead and item.attempts >= self.max_attempts:
            self.bus.bury(item, self.group, _DIED if item.reason is None else f"{_DIED}; before that: {item.reason}")
            item.dead = True
        item.attempts += not item.dead
        item.due = now + self._lease
        item.hands = MemoryDelivery(self, item, item.topic, item.envelope, item.attempts, item.dead)
        return item.hands

    def _blocked(self, item: _Unfinished, left: Sequence[_Unfinished], now: float) -> bool:
        """Is its subject in other hands, or does an earlier one of its rank wait for a retry?"""
        for other in left:
            if other.envelope.subject != item.envelope.subject or other.due <= now:
                continue
            if other.hands is None:
                if other.topic == item.topic and other.order[0] == item.order[0] and other.seq < item.seq:
                    return True
            elif other.hands.member is not self:
                return True
        return False
