"""What becomes of requests for storage commitment: evidence at once, a decision, a report. Receives nothing.

Each step is a message on the bus before the one before it is finished, so that a crash between any two loses nothing
and repeats a step whose repetition is harmless. See docs/decisions/0015-commitment.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping
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
from ichor.store import disk
from ichor.store.journal import Journal, JournalRow
from ichor.store.protocol import SpoolReader
from ichor.store.receipt_reader import Unread
from ichor.store.receipts import CommitmentRequested, Receipt
from listener.commitment import PROCESSING_FAILURE, ReportAddress
from listener.commitment_findings import Answering, Findings
from listener.commitment_reports import Reporter, Send, send_report
from listener.log_limit import LogLimit

_LOG = logging.getLogger(__name__)
_SOURCE = "commitment"

_LEASE = 120.0  # longer than a report may take
_MOST_ATTEMPTS = 5  # only a crash or an error of ours counts
_POLL = 0.5
_PAUSE = 1.0
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 1.0
_LONGEST_WAIT_FOR_OTHERS = 10.0
_MOST_WAITING = 256  # more requests look at the whole log again
_PAIRS_AT_ONCE = 500  # the journal's other writers wait for so many


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
    answering
        Who else looks for what a request names, where several receivers share the store.
    """

    def __init__(
        self, *, journal: Journal, receipts: Path, spool: SpoolReader, bus: Bus, clock: Clock,
        addresses: Mapping[str, ReportAddress], enabled: bool, send: Send = send_report, shards: int = 1,
        answering: Answering | None = None,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._receipts = receipts
        self._spool = spool
        self._bus = bus
        self._clock = clock
        self._addresses = addresses
        self._enabled = enabled
        self._shards = shards
        self._answering = answering or Answering()
        self._log_limit = LogLimit(monotonic=clock.monotonic)
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

    def _handle(self, delivery: Delivery, handle: Callable[[Delivery], None]) -> None:
        try:
            handle(delivery)
        except UnknownMessage as error:
            _LOG.error("a message is given up: %s", error)
            delivery.reject(str(error))
        except (TransientError, OutOfResources) as error:
            delivery.retry(_PAUSE, reason=type(error).__name__, count=False)
        except (OSError, sqlite3.OperationalError) as error:
            # The disk, away for a while or short of something: what is kept is not decided by that.
            metrics.LOOP_ERRORS.labels("commitment").inc()
            reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
            if self._log_limit.allows(reason):
                _LOG.warning("commitment waits: %s", reason)
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
            return
        request = data.request or delivery.envelope.id
        findings = Findings(data)
        if delivery.dead:
            # Whatever it was that killed us: the sender waits for an answer.
            self._publish_decision(request, findings, known=False)
            delivery.ack()
            return
        commits = self._enabled and data.calling_ae in self._addresses
        own = self._answering.own - set(data.looked)
        if own and not self._look(findings, delivery.envelope.id, commits=commits):
            wait = min(max(self._clock.time() - data.at, _SHORTEST_WAIT), _LONGEST_WAIT)
            delivery.retry(wait, reason="not all that was received before is told", count=False)
            return
        looked = own.union(data.looked)
        if findings.open(commits=commits) and self._answering.everybody() - looked:
            if not own:
                # Who gets it next is chance: so often that another one has it soon, if there is one.
                wait = min(max((self._clock.time() - data.at) / 8, _SHORTEST_WAIT), _LONGEST_WAIT_FOR_OTHERS)
                delivery.retry(wait, reason="not every receiver has looked", count=False)
                return
            self._pass_on(request, findings, looked)
        else:
            self._announce(request, findings)
            self._publish_decision(request, findings, known=self._enabled)
        self._behind.pop(delivery.envelope.id, None)
        delivery.ack()

    def _look(self, findings: Findings, request: str, *, commits: bool) -> bool:
        """Add what the journal knows, committed where it may be; False while some of it is not told to the bus.

        The log is searched when a request is looked at first: what comes later does not delay it.
        """
        places = findings.open(commits=commits)
        referenced = findings.asked.referenced
        # Opened before the cursors are read: what is taken meanwhile is seen twice, never not at all.
        unread = Unread(self._receipts)
        try:
            cursors = self._journal.cursors()
            if not unread.passed(self._behind.get(request, {}), cursors):
                return False
            rows: dict[str, list[JournalRow]] = {}
            # Backwards, as those that came last are told last.
            for instance in dict.fromkeys(referenced[place][1] for place in reversed(places)):
                rows[instance] = self._journal.by_instance(instance)
                if not all(row.published for row in rows[instance]):
                    return False
            missing = set()
            for place in places:
                sop_class, instance = referenced[place]
                classes = {row.stored.sop_class_uid for row in rows[instance]}
                if classes:
                    findings.add(place, study=rows[instance][-1].stored.study_instance_uid, classes=classes)
                if sop_class not in classes:
                    missing.add(instance)
            if missing and request not in self._behind:
                while len(self._behind) >= _MOST_WAITING:
                    del self._behind[next(iter(self._behind))]
                behind = self._behind[request] = unread.ends_of(missing, cursors)
                if behind:
                    return False
        finally:
            unread.close()
        if commits:
            # Durable before anything is told of it; those that are not here are left out.
            for start in range(0, len(places), _PAIRS_AT_ONCE):
                pairs = [referenced[place] for place in places[start : start + _PAIRS_AT_ONCE]]
                findings.commit(self._journal.commit_objects(pairs, self._clock.time(), exists=self._is_there))
        return True

    def _pass_on(self, request: str, findings: Findings, looked: frozenset[str]) -> None:
        """To whoever of the receivers has not looked yet."""
        names = tuple(sorted(looked))
        further = dataclasses.replace(findings.asked, request=request, looked=names, found=findings.told())
        # The same receivers, in whatever order, know the same.
        name = f"{request}-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}"
        self._bus.publish(COMMITMENTS, [seal(further, source=_SOURCE, time=self._clock.time(), id=name)])

    def _announce(self, request: str, findings: Findings) -> None:
        asked, unknown = findings.asked, findings.unknown()
        envelopes = [
            seal(
                ContentAnnounced(
                    study_instance_uid=study, association=asked.association, calling_ae=asked.calling_ae,
                    sop_instance_uids=tuple(instances), unknown=unknown,
                ),
                source=_SOURCE, time=self._clock.time(), id=f"{request}-{study}",
            )
            for study, instances in findings.instances().items()
        ]  # fmt: skip
        for topic, some in by_topic(envelopes, self._shards).items():
            self._bus.publish(topic, some)

    def _is_there(self, location: str) -> bool:
        try:
            self._spool.open(location).close()
        except KeyError:
            return False
        except OSError as error:
            if error.errno not in disk.DAMAGE:
                raise
            return False
        return True

    def _publish_decision(self, request: str, findings: Findings, *, known: bool) -> None:
        """``known``: it is known why something is not committed."""
        asked, failed = findings.asked, findings.failed()
        if asked.calling_ae not in self._addresses:
            return
        decided = CommitmentDecided(
            transaction_uid=asked.transaction_uid, calling_ae=asked.calling_ae, called_ae=asked.called_ae,
            committed=findings.committed(), at=self._clock.time(),
            failed=failed if known else tuple((c, i, PROCESSING_FAILURE) for c, i, _ in failed),
        )  # fmt: skip
        self._bus.publish(COMMITMENTS, [seal(decided, source=_SOURCE, time=decided.at, id=f"{request}-decided")])
