"""From the receipts log to the journal and the bus: facts of each object, once, then its association's end. One thread.

Not a queue: what is left to tell is what lies in the log behind the journal's cursors, or in the journal as not told, so
that a crash or an absent bus loses nothing, refuses nothing and takes no memory. A message's content is written down
before it is published; its repetition has the same id.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ichor import heap, metrics
from ichor.bus.protocol import Bus
from ichor.clock import Clock
from ichor.errors import CannotStart, IchorError
from ichor.messages import EVENTS, Envelope, ReceiveRefused, seal
from ichor.outage import Outage
from ichor.shards import by_topic
from ichor.store.journal import Journal, StoredObject
from ichor.store.receipts import Ended, Lane, Receipt, ReceiptReader, Refused, Stored
from ichor.types import Instance
from listener import relay_messages
from listener.relay_messages import SOURCE, Message, Told, closing, message, messages, weight
from listener.relay_objects import Objects, ReadFacts, RelaySpool

_LOG = logging.getLogger(__name__)
_MOST_PER_BATCH = 500
_LONGEST_WORK, _WORK_BESIDE_STAT = 0.020, 0.005  # seconds on one batch of a lane
# While senders push faster than this tells, in fewer transactions: each one's syncs make theirs wait.
_WORK_WHEN_BEHIND = 0.100
_LOOK_FOR_STAT_EVERY = 8  # objects
_COLLECTION = 0.020  # seconds from one batch of a lane to the next, unless something is in a hurry
_READ_AT_ONCE = 64
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_WHILE_STOPPING = 0.1, 5.0, 0.2
_IDLE = 0.5
_LOOK_ROUND, _FORGET = 1.0, 10.0
_REST = 10  # times as long as looking round or forgetting took: of many dead writers there are many files


class TakesRequests(Protocol):
    """Who decides requests for storage commitment (`listener.commitment_decisions`)."""

    def requested(self, receipt: Receipt) -> None:
        """Durable when it returns, and again is harmless; TransientError when the bus is away."""


@dataclass(slots=True)
class _Batch:
    """What was read from one lane and is not in the journal yet."""

    entries: list[tuple[StoredObject | Ended, str]] = field(default_factory=list)
    facts: dict[str, Instance] = field(default_factory=dict)  # by location
    refused: list[Receipt] = field(default_factory=list)
    requests: list[Receipt] = field(default_factory=list)
    cursors: dict[str, int] = field(default_factory=dict)
    size: int = 0
    frames: int = 0
    ends: bool = False
    hurried: bool = False


class Relay:
    """Reads receipts, makes the journal of them, tells the bus; `run` in one thread.

    Parameters
    ----------
    read_facts
        ``(open file, stored object) -> Instance``; an error becomes an Instance with a defect.
    restore
        Writes back what the log of dead writers carries (`ichor.store.restore`): before it is read, and before it goes.
        While it fails, what it could not write back waits in the log; everything else is told.
    shards
        Into how many studies are divided: each shard's assembler is told of its own.
    """

    def __init__(
        self, *, reader: ReceiptReader, journal: Journal, spool: RelaySpool, bus: Bus, clock: Clock,
        read_facts: ReadFacts, commitments: TakesRequests, restore: Callable[[], object] = lambda: None,
        shards: int = 1,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._journal = journal
        self._objects = Objects(spool, read_facts, clock=clock)
        self._bus = bus
        self._clock = clock
        self._commitments = commitments
        self._restore = restore
        self._shards = shards
        self._restored: frozenset[str] | None = None  # files that waited for it when it was last tried
        self._complaint = ""
        self._outage = Outage(_LOG, role="relay")
        self._unread: dict[Lane, deque[Receipt]] = {lane: deque() for lane in Lane}
        self._batches: dict[Lane, _Batch | None] = dict.fromkeys(Lane)
        self._last: dict[Lane, float] = dict.fromkeys(Lane, float("-inf"))
        self._pending: list[Message] = []
        self._untold = True  # the journal may hold what is neither told nor in `_pending`
        self._look_at = self._forget_at = float("-inf")
        self._cannot_read: set[str] = set()
        self._behind = False  # as much of ROUTINE was there as is read at once
        self._stopping = False

    def run(self, stop: threading.Event, *, patience: float) -> bool:
        """Relay until ``stop``, then until every writer is gone and all is told, or ``patience`` seconds are over.

        What cannot be written back into the spool is left in the log, and tried again. What a newer version of Ichor
        wrote is left there, and whatever its writer wrote behind it: complained of once. Everything else goes on.

        Returns
        -------
        bool
            False when something may be left for the next start.
        """
        pause, deadline = _FIRST_PAUSE, float("inf")
        while True:
            if stop.is_set() and not self._stopping:
                self._stopping, deadline = True, self._clock.monotonic() + patience
            try:
                if self._restored is None:
                    self._write_back()
                nobody_writes = self._stopping and not self._reader.live_writers()
                busy = self._step()
                if self._reader.waiting() - (self._restored or frozenset()):
                    self._write_back()
                    busy = True
                if nobody_writes and not busy:
                    self._look_round()
                    return not self._cannot_read and not self._reader.waiting()
                pause = _FIRST_PAUSE
                self._outage.over()
            except Exception as error:  # noqa: BLE001 - the loop's edge: the bus or the disk is away, nothing is lost
                if isinstance(error, IchorError):
                    self._outage.away(error)  # also what a person must mend: senders need not wait for that
                else:
                    metrics.LOOP_ERRORS.labels("relay").inc()
                    # Said once, and without a path, in which there are UIDs.
                    reason = error.strerror if isinstance(error, OSError) else ""
                    self._outage.away(IchorError(reason or type(error).__name__))
                self._untold, busy = True, True
                if self._stopping:
                    threading.Event().wait(_PAUSE_WHILE_STOPPING)
                else:
                    stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            if self._clock.monotonic() >= deadline:
                return False
            if not busy:
                self._reader.wait(_IDLE)

    def _write_back(self) -> None:
        self._restored = self._reader.waiting()
        try:
            self._restore()
            self._complaint = ""
        except (OSError, IchorError) as error:
            self._reader.pass_by()
            metrics.LOOP_ERRORS.labels("relay").inc()
            if str(error) != self._complaint:
                self._complaint = str(error)
                _LOG.error("what the receipts log carries is not in the spool yet: %s", error)

    def _step(self) -> bool:
        """One small batch of each lane, the urgent one first; False when there was nothing to do."""
        self._publish_pending()
        if self._untold:
            self._tell_what_is_left()
        urgent = self._relay(Lane.STAT, _LONGEST_WORK)
        budget = _WORK_BESIDE_STAT if urgent else _WORK_WHEN_BEHIND if self._behind else _LONGEST_WORK
        busy = self._relay(Lane.ROUTINE, budget) or urgent
        if self._clock.monotonic() >= self._look_at:
            self._look_round()
        return busy

    def _relay(self, lane: Lane, budget: float) -> bool:
        batch = self._batches[lane]
        if batch is None or not batch.size:
            batch = self._collect(lane, budget)
        if not batch.size:
            return False
        self._tell_first(batch)
        fresh = self._journal.take(batch.entries, cursors=batch.cursors, holds=self._objects.holds)
        self._batches[lane] = None
        self._last[lane] = self._clock.monotonic()
        self._assign([(row, batch.facts[row.stored.location]) for row in fresh])
        self._publish_pending(ends=batch.ends)
        return True

    def _collect(self, lane: Lane, budget: float) -> _Batch:
        """The next receipts with their facts. The first after a silence goes alone and at once; later ones gather."""
        batch = self._batches[lane] = _Batch()  # until the journal has it, however often that is tried
        gathered_by = self._last[lane] + _COLLECTION
        deadline = self._clock.monotonic() + budget
        while batch.size < _MOST_PER_BATCH and batch.frames < relay_messages.MOST_FRAMES:
            receipt = self._next(lane)
            if receipt is not None:
                try:
                    self._add(batch, receipt)
                except BaseException:
                    self._unread[lane].appendleft(receipt)
                    raise
                if self._clock.monotonic() >= deadline:
                    break
                if lane is Lane.ROUTINE and batch.size % _LOOK_FOR_STAT_EVERY == 0 and self._waits(Lane.STAT):
                    break
                continue
            left = min(gathered_by, deadline) - self._clock.monotonic()
            if not batch.size or batch.hurried or self._stopping or left <= 0:
                break
            if lane is Lane.ROUTINE and self._waits(Lane.STAT):
                break
            self._reader.wait(left, lanes=(Lane.STAT,) if lane is Lane.STAT else tuple(Lane))
        return batch

    def _next(self, lane: Lane) -> Receipt | None:
        return self._unread[lane].popleft() if self._waits(lane) else None

    def _waits(self, lane: Lane) -> bool:
        unread = self._unread[lane]
        if not unread:
            try:
                unread.extend(self._reader.read(lane, limit=_READ_AT_ONCE))
                if lane is Lane.ROUTINE:
                    self._behind = len(unread) == _READ_AT_ONCE
            except CannotStart as error:
                if str(error) not in self._cannot_read:
                    self._cannot_read.add(str(error))
                    metrics.LOOP_ERRORS.labels("relay").inc()
                    _LOG.error("%s; it waits there for a version that can", error)
        return bool(unread)

    def _add(self, batch: _Batch, receipt: Receipt) -> None:
        record = receipt.record
        if isinstance(record, Stored):
            found = self._objects.look_into(record)
            if found is not None:
                stored, instance = found
                batch.entries.append((stored, receipt.writer))
                batch.facts[stored.location] = instance
                batch.frames += weight(instance)
        elif isinstance(record, Ended):
            batch.entries.append((record, receipt.writer))
            batch.ends = batch.hurried = True
        elif isinstance(record, Refused):
            batch.refused.append(receipt)
        else:
            batch.requests.append(receipt)
            batch.hurried = True
        batch.cursors[receipt.file] = receipt.end
        batch.size += 1

    def _tell_first(self, batch: _Batch) -> None:
        """What only the log remembers: it must be on the bus before the cursors pass it."""
        if batch.refused:
            self._bus.publish(EVENTS, [_refusal(receipt) for receipt in batch.refused])
            batch.refused.clear()
        while batch.requests:
            self._commitments.requested(batch.requests[0])
            del batch.requests[0]

    def _assign(self, told: Sequence[Told]) -> None:
        if told:
            fresh = messages(told, now=self._clock.time())
            self._journal.assign_batches({one.envelope.id: one.rows for one in fresh})
            self._pending += fresh

    def _publish_pending(self, *, ends: bool = False) -> None:
        """Tell what is assigned. ``ends``: then all that the journal holds is told, so that associations may be closed."""
        ended = [row for row in self._journal.open_associations() if row.ended_at is not None] if ends else []
        while self._pending or ended:
            envelopes: Iterator[Envelope] = (one.envelope for one in self._pending)
            # One at a time, and in parts: an association may have brought thousands of studies and series.
            row = ended.pop(0) if ended else None
            if row is not None:
                told = closing(row, self._journal.stored_by(row.association), now=self._clock.time())
                envelopes = itertools.chain(envelopes, told)
            while part := list(itertools.islice(envelopes, _MOST_PER_BATCH)):
                for topic, some in by_topic(part, self._shards).items():
                    self._bus.publish(topic, some)
            if self._pending:
                self._journal.mark_published([row for one in self._pending for row in one.rows])
                self._pending.clear()
            if row is not None:
                self._journal.forget_association(row.association)

    def _tell_what_is_left(self) -> None:
        """What the journal holds and the bus may not: of an earlier process, or of a step that failed."""
        for rows in self._journal.unpublished_batches():
            self._pending.append(
                message([(row, self._objects.facts_of(row.stored)) for row in rows], now=self._clock.time())
            )
            self._publish_pending()
        while rows := self._journal.unassigned(limit=_MOST_PER_BATCH):
            told: list[Told] = []
            frames = 0
            for row in rows:
                told.append((row, self._objects.facts_of(row.stored)))
                frames += weight(told[-1][1])
                if frames >= relay_messages.MOST_FRAMES:
                    break
            self._assign(told)
            self._publish_pending()
        self._publish_pending(ends=True)
        self._untold = False

    def _look_round(self) -> None:
        """Now and then: associations whose receiver is gone, files of the log that are done."""
        now = self._clock.monotonic()
        self._look_at = now + _LOOK_ROUND
        held = {receipt.writer for unread in self._unread.values() for receipt in unread}
        lost = [
            (Ended(row.association, False, self._clock.time()), row.writer)
            for row in self._journal.open_associations()
            if row.ended_at is None and row.writer not in held and self._reader.finished(row.writer)
        ]
        if lost:
            self._journal.take(lost, cursors={})
            self._publish_pending(ends=True)
        if now >= self._forget_at:
            self._forget_at = now + _FORGET
            self._write_back()
            self._journal.forget_files(self._reader.forget(self._journal.cursors()))
            heap.give_back()
            since, now = now, self._clock.monotonic()
            self._forget_at = max(self._forget_at, now + _REST * (now - since))
        for lane, unread in self._reader.backlog().items():
            metrics.RECEIPTS_UNREAD.labels(lane.value).set(unread)
        self._look_at = max(self._look_at, (done := self._clock.monotonic()) + _REST * (done - now))


def _refusal(receipt: Receipt) -> Envelope:
    record = receipt.record
    assert isinstance(record, Refused)
    told = ReceiveRefused(
        study_instance_uid=record.study_instance_uid, calling_ae=record.calling_ae, status=record.status,
        reason=record.reason, at=record.at,
    )  # fmt: skip
    return seal(told, source=SOURCE, time=record.at, id=f"refused-{receipt.file}-{receipt.end}")
