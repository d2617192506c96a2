"""From the journal to the bus, off the response's path: header facts of each object, once, then the association's end.

Not a queue of its own: what is left to tell is what the journal says is left, so a crash or an absent bus loses nothing
and refuses nothing. A message's content is written down before it is published; its repetition has the same id.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from ichor import metrics
from ichor.bus.protocol import Bus
from ichor.clock import Clock
from ichor.errors import Unreadable
from ichor.messages import EVENTS, INSTANCES, AssociationClosed, Envelope, InstancesReceived, seal
from ichor.reasons import Reason
from ichor.series.facts import without_header
from ichor.store.journal import AssociationRow, Journal, JournalRow, StoredObject
from ichor.store.protocol import SpoolReader
from ichor.types import Instance
from listener.commitment import Announcements, Request, announced
from listener.reception import Refusals

_LOG = logging.getLogger(__name__)
_SOURCE = "receiver"
_MOST_PER_MESSAGE = 500
_MOST_FRAMES = 20_000  # in one message: facts of an enhanced object take some 700 bytes for each of its frames
_LONGEST_COLLECTION = 0.020  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

ReadFacts = Callable[[BinaryIO, StoredObject], Instance]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    envelope: Envelope
    rows: tuple[JournalRow, ...]


class Relay:
    """One thread that tells the bus what the journal holds.

    Parameters
    ----------
    read_facts
        ``(open file, stored object) -> Instance``; an error becomes an Instance with a defect.
    refusals
        Told on the topic ``events``, kept in memory until the bus took them.
    announcements
        Told on the topic ``instances``, after what they name.
    """

    def __init__(
        self, *, journal: Journal, spool: SpoolReader, bus: Bus, clock: Clock, read_facts: ReadFacts, refusals: Refusals,
        announcements: Announcements | None = None,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._spool = spool
        self._bus = bus
        self._clock = clock
        self._read_facts = read_facts
        self._refusals = refusals
        self._announcements = announcements or Announcements()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._stopping = threading.Event()
        self._given_up = threading.Event()
        self._pending: list[_Message] = []
        self._look_again = False
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Begin with what an earlier process left: messages that were under way, then associations cut off."""
        for row in self._journal.open_associations():
            if row.ended_at is None:
                self._journal.end_association(row.association, released=False, at=self._clock.time())
        self._journal.flush()
        for rows in self._journal.unpublished_batches():
            self._pending.append(self._message(rows, [self._facts(row.stored) for row in rows]))
        self._wake.set()
        self._thread.start()

    def notify(self) -> None:
        """There is something new in the journal; returns at once."""
        self._wake.set()

    def notify_ended(self) -> None:
        """An association has ended: what it stored is told without collecting any longer. Returns at once."""
        self._hurry.set()
        self._wake.set()

    def drain(self, patience: float) -> bool:
        """Tell what is left and stop, within ``patience`` seconds; False when something is left for the next start."""
        self._stopping.set()
        self._hurry.set()
        self._wake.set()
        self._thread.join(patience)
        self._given_up.set()
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._wake.wait()
            self._wake.clear()
            stopping = self._stopping.is_set()
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 - the loop's edge: the bus or the disk is away, nothing is lost
                metrics.LOOP_ERRORS.labels("relay").inc()
                _LOG.warning("relay waits %.1f s: %s", pause, type(error).__name__)
                self._wake.set()
                # A stop shortens the pause; drain's patience decides how often it is tried again.
                if self._given_up.wait(min(pause, 0.2) if stopping else pause):
                    return
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            if stopping:
                return

    def _step(self) -> None:
        """Tell everything that the journal holds now, and what arrives meanwhile."""
        self._hurry.clear()
        # Read before the rows: what an ended association stored is in the journal by then.
        ended = [row for row in self._journal.open_associations() if row.ended_at is not None]
        if ended:
            self._hurry.set()
        requests = self._announcements.take()
        try:
            self._publish_pending()
            while self._tell_some():
                pass
            self._publish_announcements(requests)
        except BaseException:
            self._announcements.put_back(requests)
            raise
        for association in ended:
            self._close(association)
        self._publish_refusals()
        if self._look_again:
            # A call that came while we were collecting may have been about an association's end or a refusal.
            self._look_again = False
            self._wake.set()

    def _tell_some(self) -> bool:
        """Collect facts for 20 ms, less when an association has ended, and publish them; False when there were none."""
        groups: dict[tuple[str, str], list[tuple[JournalRow, Instance]]] = {}
        deadline = self._clock.monotonic() + _LONGEST_COLLECTION
        taken, last, frames = 0, 0, 0
        while taken < _MOST_PER_MESSAGE and frames < _MOST_FRAMES:
            rows = self._journal.unassigned(after=last, limit=_MOST_PER_MESSAGE - taken)
            for row in rows:
                key = row.stored.association, row.stored.study_instance_uid
                instance = self._facts(row.stored)
                groups.setdefault(key, []).append((row, instance))
                taken, last, frames = taken + 1, row.seq, frames + _frames(instance)
                if frames >= _MOST_FRAMES or self._clock.monotonic() >= deadline:
                    break
            left = deadline - self._clock.monotonic()
            if left <= 0 or (not rows and (taken == 0 or self._hurry.is_set())):
                break
            if not rows and self._wake.wait(left):
                self._wake.clear()
                self._look_again = True
        for part in (part for group in groups.values() for part in _parts(group)):
            members = [row for row, _ in part]
            message = self._message(members, [instance for _, instance in part])
            self._journal.assign_batch(message.envelope.id, members)
            self._pending.append(message)
        self._publish_pending()
        return taken > 0

    def _publish_pending(self) -> None:
        if not self._pending:
            return
        self._bus.publish(INSTANCES, [message.envelope for message in self._pending])
        self._journal.mark_published([row for message in self._pending for row in message.rows])
        self._pending.clear()

    def _message(self, rows: Sequence[JournalRow], instances: Sequence[Instance]) -> _Message:
        first = rows[0].stored
        received = InstancesReceived(
            study_instance_uid=first.study_instance_uid, association=first.association, instances=tuple(instances)
        )
        # A row is in one message only and its number is never used again.
        name = rows[0].batch or f"instances-{first.association}-{rows[0].seq}"
        # What the association says, not what a header says: messages of one association must keep their order.
        priority = first.association_priority
        envelope = seal(received, source=_SOURCE, time=self._clock.time(), id=name, priority=priority)
        return _Message(envelope=envelope, rows=tuple(rows))

    def _close(self, row: AssociationRow) -> None:
        if row.ended_at is None:
            return
        envelopes = [
            seal(
                AssociationClosed(
                    study_instance_uid=study, association=row.association, released=row.released,
                    calling_ae=row.calling_ae, counts=counts, closed_at=row.ended_at,
                ),
                source=_SOURCE, time=self._clock.time(), id=f"closed-{row.association}-{study}", priority=row.priority,
            )
            for study, counts in row.counts.items()
        ]  # fmt: skip
        if envelopes:
            self._bus.publish(INSTANCES, envelopes)
        self._journal.forget_association(row.association)

    def _publish_announcements(self, requests: Sequence[Request]) -> None:
        messages = [message for request in requests for message in announced(request, self._journal)]
        if messages:
            now = self._clock.time()
            self._bus.publish(INSTANCES, [seal(message, source=_SOURCE, time=now) for message in messages])

    def _publish_refusals(self) -> None:
        refusals = self._refusals.take()
        if not refusals:
            return
        try:
            self._bus.publish(EVENTS, [seal(r, source=_SOURCE, time=r.at) for r in refusals])
        except BaseException:
            self._refusals.put_back(refusals)
            raise

    def _facts(self, stored: StoredObject) -> Instance:
        try:
            with self._spool.open(stored.location) as file:
                instance = self._read_facts(file, stored)
        except Unreadable as error:
            instance = without_header(stored, error.reason)
        except Exception as error:  # noqa: BLE001 - one object must not stop the relay; the text may hold header values
            metrics.LOOP_ERRORS.labels("relay").inc()
            _LOG.error("no facts of %s: %s", stored.sop_instance_uid, type(error).__name__)
            instance = without_header(stored, Reason.HEADER_UNREADABLE.value)
        if instance.defect is not None:
            metrics.INSTANCE_DEFECTS.labels(instance.defect.split(":")[0]).inc()
        return instance


def _parts(group: Sequence[tuple[JournalRow, Instance]]) -> Iterator[list[tuple[JournalRow, Instance]]]:
    """As few parts as hold `_MOST_FRAMES` each, in order; an object that holds more is one of its own."""
    part: list[tuple[JournalRow, Instance]] = []
    frames = 0
    for row, instance in group:
        more = _frames(instance)
        if part and frames + more > _MOST_FRAMES:
            yield part
            part, frames = [], 0
        part.append((row, instance))
        frames += more
    if part:
        yield part


def _frames(instance: Instance) -> int:
    return max(1, len(instance.frames))
