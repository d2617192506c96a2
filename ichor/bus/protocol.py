"""The Bus contract. Backends: `ichor.bus.memory`, `ichor.bus.sqlite`; one suite (tests/contract) holds all of them.

Rules
-----
* A message is delivered to every group that subscribes its topic, to one member of the group at a time, at least once.
  A group that subscribes for the first time gets what the topic still holds, oldest first.
* ``publish`` returns when the messages are durable. An envelope whose ``id`` the topic has had already is ignored.
* Order: per group by priority rank, then by publication; retried messages return when their delay is over. Two
  messages with the same subject are never in the hands of two members of one group at the same time (one member may
  hold several), and a later one of the same topic and rank is not handed out before an earlier one of its subject
  that waits for its retry.
* A delivery is leased: when the lease ends without an ending or extend, it is delivered again and the
  attempt counts. A backend that can tell that a member's process died ends its leases at once. The attempt is durable
  before ``receive`` returns it, so a message that kills its worker is counted. Who lost its lease to another ends
  nothing any more: its verbs are logged and ignored.
* A message whose ``max_attempts`` attempts all failed goes to the dead letters with its cause instead of being
  delivered again; it is handed out with ``dead=True``, without delay and until that is acked, so that the consumer can
  say so. A message that the consumer rejected is not handed out again.
* ``retry(count=False)`` takes the attempt back: the failure was not the message's fault. ``give_up`` makes the attempt the
  last one, however many there were.
* Any verb raises `ichor.errors.TransientError` when the backend is away or full. What it should have done may have been
  done: to publish again is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ichor.messages import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that was given up, with its cause (no PHI)."""

    letter_id: str
    topic: str
    group: str
    envelope: Envelope
    attempts: int
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag:
    """How far a group is behind on a topic."""

    topic: str
    group: str
    waiting: int
    leased: int
    oldest_age: float  # seconds since publication of the oldest unfinished message, 0 when there is none


class Delivery(Protocol):
    """One message in hand. Exactly one of ack, retry, give_up, reject ends it; a second ending raises RuntimeError."""

    @property
    def topic(self) -> str: ...

    @property
    def envelope(self) -> Envelope: ...

    @property
    def attempt(self) -> int:
        """1 for the first delivery."""

    @property
    def dead(self) -> bool:
        """True when the message has just gone to the dead letters: say so and ack."""

    def ack(self) -> None:
        """Done: never delivered to this group again."""

    def retry(self, delay: float, *, reason: str, count: bool = True) -> None:
        """Deliver again in ``delay`` seconds. ``count=False``: this attempt is taken back."""

    def give_up(self, reason: str) -> None:
        """As if this had been the last attempt: to the dead letters with ``reason``, then handed out dead."""

    def reject(self, reason: str) -> None:
        """To the dead letters with ``reason`` at once."""

    def extend(self, seconds: float) -> None:
        """Keep the lease until ``seconds`` from now."""


class Subscription(Protocol):
    """One member of a group."""

    def receive(self, timeout: float, *, sure: bool = False) -> Delivery | None:
        """The next delivery, waiting at most ``timeout`` seconds; None when there was none.

        ``sure``: None says then that all that was published before the call was handed out, TransientError that this
        cannot be known. Else a message may be on its way, for as long as a bus on other machines is away.
        """

    def close(self) -> None:
        """Leave: what is in hand becomes available to others, the attempt not counted."""


class Bus(Protocol):
    def publish(self, topic: str, envelopes: Sequence[Envelope]) -> None:
        """Append durably, all or none."""

    def subscribe(
        self, topics: Sequence[str], group: str, *, lease: float = 30.0, max_attempts: int = 5, member: str = ""
    ) -> Subscription:
        """Join ``group`` on ``topics``; topics need not exist yet.

        ``member``: a name that one process bears at a time, and then another. A backend that cannot tell that a process
        died ends the leases of the one before it, who bore the name.
        """

    def read(
        self, topic: str, *, after: int = 0, limit: int = 1000, subject: str | None = None, wait: float = 0.0
    ) -> list[tuple[int, Envelope]]:
        """The log of a topic without taking anything: (cursor, envelope) with cursor > ``after``, in order.

        ``subject`` keeps one study only. Waits up to ``wait`` seconds for the first entry.
        """

    def lag(self) -> list[Lag]:
        """One row per (topic, group)."""

    def dead_letters(self, *, group: str | None = None) -> list[DeadLetter]:
        """All, oldest first; with ``group`` those that it gave up, whatever is wrong with another group."""

    def replay(self, letter_id: str) -> None:
        """Deliver a dead letter again to its group, attempts from zero. KeyError when there is none."""

    def prune(self, topic: str, *, before: float) -> int:
        """Forget messages published before ``before`` (POSIX seconds) that every group has finished; how many.

        What was given up is kept. A topic that no group subscribes (the events) keeps everything. The ids are
        forgotten too: such a message could be published again.
        """

    def close(self) -> None:
        """Close the subscriptions that are still open, then the bus."""
