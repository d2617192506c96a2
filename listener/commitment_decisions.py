"""What becomes of requests for storage commitment: evidence at once, a decision, a report. Receives nothing.

Each step is a message on the bus before the one before it is finished, so that a crash between any two loses nothing
and repeats a step whose repetition is harmless. See docs/decisions/0015-commitment.md.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ichor import metrics
from ichor.bus.protocol import Bus, Delivery, Subscription
from ichor.clock import Clock
from ichor.errors import CannotStart, OutOfResources, TransientError, UnknownMessage
from ichor.messages import (
    COMMITMENTS,
    CommitmentAsked,
    CommitmentDecided,
    ContentAnnounced,
    open_envelope,
    seal,
)
from ichor.outage import Outage
from ichor.shards import by_topic
from ichor.store.journal import Journal
from ichor.store.protocol import SpoolReader
from ichor.store.receipt_reader import Unread
from ichor.store.receipts import CommitmentRequested, Receipt
from listener.commitment import PROCESSING_FAILURE, ReportAddress
from listener.commitment_reports import Reporter, Send, send_report

_LOG = logging.getLogger(__name__)
_SOURCE = "commitment"

# Failure Reason (0008,1197), PS3.3 C.14.1.1; PROCESSING_FAILURE is one, too.
NO_SUCH_INSTANCE = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119

_LEASE = 120.0  # longer than a report may take
_MOST_ATTEMPTS = 5  # only a crash or an error of ours counts
_POLL = 0.5
_PAUSE = 1.0
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 1.0
_MOST_WAITING = 256  # more requests look at the whole log again
_PAIRS_AT_ONCE = 500  # the journal's other writers wait for so many

_Pair = tuple[str, str]


class Commitments:
    """Decides and reports in two threads of the process that writes the journal, between ``start`` and ``stop``.

    Parameters
    ----------
    receipts
        Folder of the receipts log, in which may lie what the journal does not have yet.
    addresses
        By calling AE title; who is not in it was told at once that nothing is committed, and gets no report.
    enabled
        False: nothing is committed, and every instance is reported as failed.
    shards
        Into how many studies are divided: each shard's assembler is told of its own.
    """

    def __init__(
        self, *, journal: Journal, receipts: Path, spool: SpoolReader, bus: Bus, clock: Clock,
        addresses: Mapping[str, ReportAddress], enabled: bool, send: Send = send_report, shards: int = 1,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._receipts = receipts
        self._spool = spool
        self._bus = bus
        self._clock = clock
        self._addresses = addresses
        self._enabled = enabled
        self._shards = shards
        self._reporter = Reporter(addresses=addresses, clock=clock, send=send)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._behind: dict[str, dict[str, int]] = {}  # request that waits -> up to where the log must be taken for it

    def requested(self, receipt: Receipt) -> None:
        """Take a `CommitmentRequested` over; durable when it returns, and again is harmless.

        Raises
        ------
        TransientError
            When the bus is away: the cursor must not pass the receipt.
        """
        record = receipt.record
        assert isinstance(record, CommitmentRequested)
        asked = CommitmentAsked(
            transaction_uid=record.transaction_uid, association=record.association, calling_ae=record.calling_ae,
            called_ae=record.called_ae, referenced=record.referenced, at=record.at,
        )  # fmt: skip
        name = f"commitment-{receipt.file}-{receipt.end}"
        self._bus.publish(COMMITMENTS, [seal(asked, source=_SOURCE, time=self._clock.time(), id=name)])

    def start(self) -> None:
        """Join both groups and begin; TransientError when the bus is away."""
        for group, handle in (("commitment.decide", self._decide), ("commitment.report", self._report)):
            subscription = self._bus.subscribe([COMMITMENTS], group, lease=_LEASE, max_attempts=_MOST_ATTEMPTS)
            thread = threading.Thread(target=self._serve, args=(subscription, handle), name=group, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, patience: float) -> None:
        """Return within ``patience`` seconds; what is left, or cut off, goes on at the next start."""
        self._stopping.set()
        deadline = self._clock.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._clock.monotonic()))

    def _serve(self, subscription: Subscription, handle: Callable[[Delivery], None]) -> None:
        outage = Outage(_LOG, role="commitment")
        try:
            while not self._stopping.is_set():
                try:
                    delivery = subscription.receive(_POLL)
                    if delivery is not None:
                        self._handle(delivery, handle)
                    outage.over()
                except (TransientError, CannotStart) as error:
                    outage.away(error)
                    self._stopping.wait(_PAUSE)
                except Exception as error:  # noqa: BLE001 - the loop's edge: the message comes again, and is counted
                    metrics.LOOP_ERRORS.labels("commitment").inc()
                    _LOG.error("%s: unexpected error: %s", threading.current_thread().name, type(error).__name__)
                    self._stopping.wait(_PAUSE)
        finally:
            subscription.close()

    @staticmethod
    def _handle(delivery: Delivery, handle: Callable[[Delivery], None]) -> None:
        try:
            handle(delivery)
        except UnknownMessage as error:
            _LOG.error("a message is given up: %s", error)
            delivery.reject(str(error))
        except (TransientError, OutOfResources) as error:
            delivery.retry(_PAUSE, reason=type(error).__name__, count=False)

    def _report(self, delivery: Delivery) -> None:
        data = open_envelope(delivery.envelope)
        if isinstance(data, CommitmentDecided):
            self._reporter.handle(delivery, data)
        else:
            delivery.ack()

    def _decide(self, delivery: Delivery) -> None:
        data = open_envelope(delivery.envelope)
        if not isinstance(data, CommitmentAsked):
            delivery.ack()
        elif delivery.dead:
            # Whatever it was that killed us: the sender waits for an answer.
            self._publish_decision(delivery, data, committed=[])
            delivery.ack()
        else:
            known = self._known(data, delivery.envelope.id)
            if known is None:
                age = self._clock.time() - data.at
                wait = min(max(age, _SHORTEST_WAIT), _LONGEST_WAIT)
                delivery.retry(wait, reason="not all that was received before is told", count=False)
                return
            self._behind.pop(delivery.envelope.id, None)
            self._announce(delivery, data, known)
            self._publish_decision(delivery, data, committed=self._commit(data), known=known)
            delivery.ack()

    def _known(self, asked: CommitmentAsked, request: str) -> _Known | None:
        """What the journal knows of the objects; None while some were received before and are not told to the bus.

        The log is searched when a request is looked at first: what comes later does not delay it.
        """
        # Opened before the cursors are read: what is taken meanwhile is seen twice, never not at all.
        unread = Unread(self._receipts)
        try:
            cursors = self._journal.cursors()
            if not unread.passed(self._behind.get(request, {}), cursors):
                return None
            known = _Known()
            # Backwards, as those that came last are told last.
            for instance in dict.fromkeys(instance for _, instance in reversed(asked.referenced)):
                rows = self._journal.by_instance(instance)
                if not all(row.published for row in rows):
                    return None
                for row in rows:
                    known.classes.setdefault(instance, set()).add(row.stored.sop_class_uid)
                if rows:
                    known.studies.setdefault(rows[-1].stored.study_instance_uid, []).append(instance)
                else:
                    known.unknown.add(instance)
            missing = {i for c, i in asked.referenced if c not in known.classes.get(i, ())}
            if missing and request not in self._behind:
                while len(self._behind) >= _MOST_WAITING:
                    del self._behind[next(iter(self._behind))]
                behind = self._behind[request] = unread.ends_of(missing, cursors)
                return None if behind else known
            return known
        finally:
            unread.close()

    def _announce(self, delivery: Delivery, asked: CommitmentAsked, known: _Known) -> None:
        envelopes = [
            seal(
                ContentAnnounced(
                    study_instance_uid=study, association=asked.association, calling_ae=asked.calling_ae,
                    sop_instance_uids=tuple(instances), unknown=len(known.unknown),
                ),
                source=_SOURCE, time=self._clock.time(), id=f"{delivery.envelope.id}-{study}",
            )
            for study, instances in known.studies.items()
        ]  # fmt: skip
        for topic, some in by_topic(envelopes, self._shards).items():
            self._bus.publish(topic, some)

    def _commit(self, asked: CommitmentAsked) -> list[_Pair]:
        """Those of the objects that are here and will be kept, durably."""
        committed: list[_Pair] = []
        if self._enabled and asked.calling_ae in self._addresses:
            for start in range(0, len(asked.referenced), _PAIRS_AT_ONCE):
                some = asked.referenced[start : start + _PAIRS_AT_ONCE]
                committed += self._journal.commit_objects(some, self._clock.time(), exists=self._is_there)
        return committed

    def _is_there(self, location: str) -> bool:
        try:
            self._spool.open(location).close()
        except (KeyError, OSError):
            return False
        return True

    def _publish_decision(
        self, delivery: Delivery, asked: CommitmentAsked, *, committed: list[_Pair], known: _Known | None = None
    ) -> None:
        if asked.calling_ae not in self._addresses:
            return
        kept = set(committed)
        judge = known.failure if known is not None and self._enabled else lambda _: PROCESSING_FAILURE
        decided = CommitmentDecided(
            transaction_uid=asked.transaction_uid, calling_ae=asked.calling_ae, called_ae=asked.called_ae,
            committed=tuple(committed), failed=tuple((*p, judge(p)) for p in asked.referenced if p not in kept),
            at=self._clock.time(),
        )  # fmt: skip
        name = f"{delivery.envelope.id}-decided"
        self._bus.publish(COMMITMENTS, [seal(decided, source=_SOURCE, time=decided.at, id=name)])


@dataclass(frozen=True, slots=True)
class _Known:
    """What the journal has of the objects of one request."""

    studies: dict[str, list[str]] = field(default_factory=dict)  # Study -> SOP Instance UIDs
    classes: dict[str, set[str]] = field(default_factory=dict)  # SOP Instance UID -> SOP Class UIDs
    unknown: set[str] = field(default_factory=set)  # SOP Instance UIDs

    def failure(self, pair: _Pair) -> int:
        """Why an object that is not committed is not."""
        sop_class, instance = pair
        if instance not in self.classes:
            return NO_SUCH_INSTANCE
        return PROCESSING_FAILURE if sop_class in self.classes[instance] else CLASS_INSTANCE_CONFLICT
