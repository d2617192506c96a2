"""The loop of one shard: facts from the bus in, jobs and the view of each study out. Decisions are `listener.study`'s.

One message is one transaction of `listener.assembly_store`; it is acknowledged when that is on disk. There is no tick:
the loop sleeps until a message comes or something is due.
"""

from __future__ import annotations

import heapq
import logging
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ichor import metrics
from ichor.bus.protocol import Bus, Delivery, Subscription
from ichor.clock import Clock
from ichor.errors import CannotStart, TransientError, UnknownMessage
from ichor.messages import (
    EVENTS,
    AssociationClosed,
    ContentAnnounced,
    Envelope,
    InstancesReceived,
    ScanChanged,
    jobs_topic,
    open_envelope,
    seal,
)
from ichor.outage import Outage
from ichor.pipeline import PipelineSpec
from ichor.reasons import Reason
from ichor.series.evidence import Sender
from ichor.series.manifest import put_manifest
from ichor.series.rules import RULES, Rule
from ichor.shards import WHOLE, Shard
from ichor.store.ownership import ShardLost
from ichor.store.protocol import Blobs
from ichor.types import Job, Priority, Scan, Stage
from listener.assembly_store import AssemblyStore
from listener.pauses import Pauses
from listener.scans import changes
from listener.study import StudyAssembly
from listener.view import identities_of, view_of

_LOG = logging.getLogger(__name__)
_SOURCE = "assembler"
_LONGEST_SLEEP = 0.5  # seconds, so that a stop is seen
_PROGRESS = 1.0  # seconds between announcements that only say that more images came
_IN_MEMORY, _FEWEST_IN_MEMORY = 64, 8  # studies of a process that has all shards, and of one shard
_RETRY = 1.0
_LONGEST_STAND = 60.0  # seconds; a lease is 30
_AWAY = (OSError, sqlite3.Error, TransientError)  # the disk or the bus, no fault of a message or a study


def run_assembler(
    *,
    bus: Bus,
    blobs: Blobs,
    state_path: Path,
    pipelines: Sequence[PipelineSpec],
    study_wait: float,
    rules: Sequence[Rule] = RULES,
    clock: Clock,
    stop: threading.Event,
    on_ready: Callable[[], None],
    shard: Shard = WHOLE,
    shared: bool = False,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Assemble a shard until ``stop``. State lies in ``state_path``; a second start goes on where the first was cut off.

    Parameters
    ----------
    study_wait
        Longest wait, in seconds, for an open series that would be a better input.
    rules
        Rules of routing, the site's own among them.
    shared, check
        Of `AssemblyStore`.

    Raises
    ------
    CannotStart
        When this version cannot read the state, or what is on the bus.
    sqlite3.Error
        When the state cannot be read: who owns the shard may open it anew, or another one. What concerns one message, or
        passes, is tried again here, so that one study does not stop the others.
    ShardLost
        When another one owns it by now.
    """
    store = AssemblyStore(state_path, shared=shared, check=check)
    outage = Outage(_LOG, role="assemble")
    subscription: Subscription | None = None
    try:
        subscription = bus.subscribe([shard.topic], shard.group, member=shard.group)
        assembler = Assembler(
            bus=bus, blobs=blobs, store=store, pipelines=pipelines, study_wait=study_wait, clock=clock, rules=rules,
            shard=shard,
        )  # fmt: skip
        on_ready()
        while not stop.is_set():
            try:
                assembler.publish()
                pause, asked_at = assembler.sleep(), clock.time()
                delivery = subscription.receive(pause, sure=pause == 0.0)
                if delivery is not None:
                    _handle(assembler, delivery)
                elif pause == 0.0:
                    # Nothing is said of what comes behind the question.
                    assembler.heard(asked_at)
                assembler.run_due()
                outage.over()
            except (ShardLost, CannotStart):
                raise
            except (OSError, sqlite3.OperationalError, TransientError) as error:
                # The disk, as when it is full, or the bus.
                outage.away(error if isinstance(error, TransientError) else TransientError(_words(error)))
                assembler.forget()
                stop.wait(_RETRY)
            except Exception as error:  # noqa: BLE001 - the loop's edge: logged, counted, and on with the next
                metrics.LOOP_ERRORS.labels("assemble").inc()
                _LOG.exception("assembler: %s", type(error).__name__)
                assembler.forget()
                stop.wait(_RETRY)
    finally:
        try:
            if subscription is not None:
                subscription.close()
        finally:
            store.close()  # whatever the bus says: the shard's next owner opens it


def _words(error: OSError | sqlite3.OperationalError) -> str:
    # SQLite's own texts name no value; those of the system may name a path.
    return (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__


def _handle(assembler: Assembler, delivery: Delivery) -> None:
    """One message: taken in and acknowledged, or handed back."""
    if delivery.envelope.priority is Priority.ROUTINE:  # others overtake: what came before them may still wait
        assembler.heard(delivery.envelope.time)
    if delivery.dead:
        _LOG.error("a message about study %s was given up", delivery.envelope.subject)
        assembler.goes_on(delivery.envelope)
        delivery.ack()
        return
    try:
        assembler.take(delivery.envelope)
    except UnknownMessage as error:
        _LOG.error("a message is given up: %s", error)
        assembler.goes_on(delivery.envelope)
        delivery.reject(str(error))
    except ShardLost:
        raise  # to leave the group hands the message back
    except _AWAY as error:
        assembler.forget()
        assembler.stands_still(delivery.envelope)
        delivery.retry(_RETRY, reason=type(error).__name__, count=False)
    except Exception as error:  # noqa: BLE001 - the loop's edge: the message is handed back and counted
        assembler.forget()
        metrics.LOOP_ERRORS.labels("assemble").inc()
        _LOG.exception("assembler: %s", type(error).__name__)
        assembler.stands_still(delivery.envelope)
        delivery.retry(_RETRY, reason=type(error).__name__)
    else:
        assembler.goes_on(delivery.envelope)
        delivery.ack()


@dataclass(slots=True)
class _Held:
    """A study in memory, and what the event log has heard of it."""

    study: StudyAssembly
    announcements: int
    said: Hashable = None
    images: int = 0
    said_at: float = 0.0


class _Senders(dict[str, Sender]):
    """What was learned, and of whom since the last write."""

    def __init__(self, known: Mapping[str, Sender]) -> None:
        super().__init__(known)
        self.changed: set[str] = set()

    def __setitem__(self, ae: str, sender: Sender) -> None:
        if self.get(ae) != sender:
            super().__setitem__(ae, sender)
            self.changed.add(ae)


class Assembler:
    """All studies of a shard: takes messages in, looks again when something is due, keeps both on disk."""

    def __init__(
        self,
        *,
        bus: Bus,
        blobs: Blobs,
        store: AssemblyStore,
        pipelines: Sequence[PipelineSpec],
        study_wait: float,
        clock: Clock,
        rules: Sequence[Rule] = RULES,
        shard: Shard = WHOLE,
    ) -> None:
        self._shard = shard
        self._bus = bus
        self._blobs = blobs
        self._store = store
        self._pipelines = pipelines
        self._study_wait = study_wait
        self._rules = rules
        self._clock = clock
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._most_held = max(_IN_MEMORY // shard.of, _FEWEST_IN_MEMORY)
        self._senders = _Senders({})
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._pauses = Pauses()
        self._put_back: dict[
            str, dict[str, float]
        ] = {}  # study -> messages, each with when it is not waited for any more
        self._heard = float("-inf")
        self._to_publish = True
        self.forget()

    def take(self, envelope: Envelope) -> None:
        """Take a message in; durable when it returns."""
        message = open_envelope(envelope)
        now = self._clock.time()
        if isinstance(message, ScanChanged):
            self._take_scan(message, now)
            return
        held = self._taken(message, now)
        if held.study.series:
            # Those of its study that were told before, and of its priority, are taken.
            self._look_or_pause(held, now, heard=max(self._heard, envelope.time), message=message)

    def _take_scan(self, told: ScanChanged, now: float) -> None:
        """What other studies may be compared with, of another shard's study: as if it were one of ours that changed."""
        known, was = self._store.scan(told.study_instance_uid, told.pipeline)
        if told.change > known:
            again = self._to_compare({told.pipeline: (was, told.scan)})
            self._store.keep_scan(told, again=(now, again))
            self._look_again(again, now)

    def _taken(self, message: object, now: float) -> _Held:
        uid = getattr(message, "study_instance_uid", "")
        if not self._shard.has(uid):
            raise UnknownMessage(f"study {uid} does not belong to shard {self._shard.number} of {self._shard.of}")
        if isinstance(message, InstancesReceived):
            held = self._hold(message.study_instance_uid)
            held.study.receive(message.instances, association=message.association, now=now)
        elif isinstance(message, AssociationClosed):
            held = self._hold(message.study_instance_uid)
            held.study.close(message)
        elif isinstance(message, ContentAnnounced):
            held = self._hold(message.study_instance_uid)
            held.study.announce(message)
        else:
            raise UnknownMessage(f"{type(message).__name__} does not belong on this topic")
        return held

    def heard(self, until: float) -> None:
        """All that was told until then has been taken: a message of then was, or the topic was asked then and had none.

        After a time away the topic holds messages that are older than what is due: silence is judged as of what has been
        heard, never as of now.
        """
        # Of a relay whose clock is ahead no more is believed than ours says.
        self._heard = max(self._heard, min(until, self._clock.time()))

    def run_due(self) -> None:
        """Look again at everything that is due.

        Not at a study of which a message is put back: that one and those behind it wait.
        """
        now = self._clock.time()
        limit = min(now, self._heard)
        while (at := self._next()) is not None and at <= limit:
            uid = heapq.heappop(self._heap)[1]
            del self._due[uid]
            if any(until > now for until in self._put_back.get(uid, {}).values()):
                self._wait(uid, now + _RETRY)
                continue
            try:
                held = self._hold(uid)
            except _AWAY:
                raise
            except Exception as error:  # noqa: BLE001 - the loop's edge: one study, and on with the next
                self._failed(uid, error, now)
                self._wait(uid, self._pauses[uid].until)
            else:
                self._look_or_pause(held, now, heard=self._heard)

    def stands_still(self, envelope: Envelope) -> None:
        """A message is put back: until it `goes_on` those behind it are not heard, and its study is not judged.

        For no longer than it takes until a lease ends: should it never come again, it holds nobody up.
        """
        self._put_back.setdefault(envelope.subject, {})[envelope.id] = self._clock.time() + _LONGEST_STAND

    def goes_on(self, envelope: Envelope) -> None:
        """The message was taken, or given up."""
        waiting = self._put_back.get(envelope.subject, {})
        waiting.pop(envelope.id, None)
        if not waiting:
            self._put_back.pop(envelope.subject, None)

    def sleep(self) -> float:
        """Seconds until something is due, at most half a second."""
        at = self._next()
        return _LONGEST_SLEEP if at is None else min(max(at - self._clock.time(), 0.0), _LONGEST_SLEEP)

    def publish(self) -> None:
        """Tell the bus what it has not been told."""
        if self._to_publish:
            self._store.publish_outbox(self._bus.publish)
            self._to_publish = False

    def forget(self) -> None:
        """Drop what is in memory after an error: disk is right."""
        self._held.clear()
        self._senders = _Senders(self._store.senders())
        self._due = {
            uid: max(at, self._pauses[uid].until if uid in self._pauses else at) for at, uid in self._store.due()
        }
        self._heap = [(at, uid) for uid, at in self._due.items()]
        heapq.heapify(self._heap)
        self._to_publish = True

    def _next(self) -> float | None:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _hold(self, uid: str) -> _Held:
        held = self._held.get(uid)
        if held is None:
            study = StudyAssembly(
                uid=uid,
                pipelines=self._pipelines,
                study_wait=self._study_wait,
                senders=self._senders,
                rules=self._rules,
                scans_before=self._store.scans_before,
            )
            held = self._held[uid] = _Held(study, self._store.load(study) or 0)
            while len(self._held) > self._most_held:
                self._held.popitem(last=False)
        self._held.move_to_end(uid)
        return held

    def _look_or_pause(self, held: _Held, now: float, *, heard: float, message: object = None) -> None:
        """Look; a study that cannot be looked at is put off, so that it keeps no other waiting.

        What ``message`` brought is kept whatever happens.
        """
        uid = held.study.uid
        if not self._pauses.hold(uid, now=now):
            try:
                self._look(held, now, min(now, heard))
            except _AWAY:
                raise
            except Exception as error:  # noqa: BLE001 - the loop's edge: one study, and on with the next
                self._failed(uid, error, now)
                # What a look left half done is in memory only.
                held = self._taken(message, now) if message is not None else self._hold(uid)
                self._put_off(held, now, error=error)
            else:
                self._pauses.pop(uid, None)
        else:
            self._put_off(held, now)

    def _failed(self, uid: str, error: Exception, now: float) -> None:
        pause = self._pauses.failed(uid, now=now)
        metrics.LOOP_ERRORS.labels("assemble").inc()
        _LOG.error("study %s is put off for %.0f s: %s", uid, pause.until - now, type(error).__name__, exc_info=error)
        self.forget()

    def _put_off(self, held: _Held, now: float, *, error: Exception | None = None) -> None:
        """Keep a study without a decision; when it fails again and again its open series say so."""
        study, pause = held.study, self._pauses[held.study.uid]
        outgoing: list[tuple[str, Envelope]] = []
        reason = f"{Reason.CANNOT_BE_JUDGED}: {type(error).__name__}"
        unsaid = [s for s in study.series.values() if error and s.undecided and s.decision.reason != reason]
        if pause.to_tell and unsaid:
            for series in unsaid:
                series.decision = replace(series.decision, reason=reason)
            self._announce(held, now, outgoing)
        self._save(held, due=pause.until, outgoing=outgoing)

    def _look(self, held: _Held, now: float, heard: float) -> None:
        study = held.study
        step = study.look(heard, now=now, put_manifest=lambda manifest: put_manifest(manifest, self._blobs))
        # Jobs first: a worker need not wait until the event log has heard of it.
        outgoing = [
            (jobs_topic(job.pipeline, job.priority), seal(job, source=_SOURCE, time=now, id=job.job_id))
            for job in step.jobs
        ]
        announce_at = self._announce(held, now, outgoing)
        due = min((at for at in (study.due, announce_at) if at is not None), default=None)
        self._save(held, due=due, outgoing=outgoing)
        self._count(step.jobs)
        for grade in step.decided:
            metrics.SERIES_DECIDED.labels(grade.value).inc()
        for grade in step.amended:
            metrics.SERIES_AMENDED.labels(grade.value).inc()

    def _save(self, held: _Held, *, due: float | None, outgoing: list[tuple[str, Envelope]]) -> None:
        study, now = held.study, self._clock.time()
        again = self._to_compare(study.moved)
        changes = self._tell_others(study, now, outgoing)
        self._store.save(
            study, due=due, announcements=held.announcements, outgoing=outgoing, senders=self._senders.changed,
            again=(now, again), changes=changes,
        )  # fmt: skip
        self._senders.changed.clear()
        self._look_again(again, now)
        if due is None:
            self._due.pop(study.uid, None)
        else:
            self._wait(study.uid, due)
        if outgoing:
            self._to_publish = True
            self.publish()

    def _tell_others(
        self, study: StudyAssembly, now: float, outgoing: list[tuple[str, Envelope]]
    ) -> dict[str, int]:  # fmt: skip
        """Add to ``outgoing`` what other shards are to know of its scans; by pipeline, how often each has changed."""
        if not self._shard.others:
            return {}
        changes = {}
        for pipeline in study.moved:
            change = changes[pipeline] = self._store.scan(study.uid, pipeline)[0] + 1
            told = ScanChanged(
                study_instance_uid=study.uid, pipeline=pipeline, change=change, scan=study.scans.get(pipeline)
            )  # fmt: skip
            envelope = seal(told, source=_SOURCE, time=now, id=f"scan-{study.uid}-{pipeline}-{change}")
            outgoing += [(shard.topic, envelope) for shard in self._shard.others]
        return changes

    def _look_again(self, studies: Collection[str], now: float) -> None:
        for uid in studies:
            if uid in self._held:
                self._held[uid].study.reconsider()
            self._wait(uid, min(now, self._due.get(uid, now)))

    def _to_compare(self, moved: Mapping[str, tuple[Scan | None, Scan | None]]) -> set[str]:
        """Later studies of the patient whose reports are to speak of another scan than before, or of none, now.

        Those of this shard. ``moved``: by pipeline, a scan as it was and as it is now.
        """
        found: set[str] = set()
        for pipeline in self._pipelines:
            hours, (was, now) = pipeline.follow_up_hours, moved.get(pipeline.name, (None, None))
            if (was and was.told) == (now and now.told):
                continue
            later = {o.study_instance_uid: o for s in (was, now) if s for o in self._store.scans_after(s, hours)}
            found |= {
                uid
                for uid, other in later.items()
                if self._shard.has(uid)
                and changes(other, self._store.scans_before(other, hours), was=was, now=now, hours=hours)
            }
        return found

    def _wait(self, uid: str, due: float) -> None:
        self._due[uid] = due
        heapq.heappush(self._heap, (due, uid))

    def _announce(self, held: _Held, now: float, outgoing: list[tuple[str, Envelope]]) -> float | None:
        """Tell the event log if there is something to tell; when to come back if it can wait."""
        study = held.study
        said: Hashable = (
            study.revision, study.receiving, study.open, len(study.jobs), tuple(identities_of(study).items()),
            tuple((uid, s.grade, s.verdict.roles if s.verdict else ()) for uid, s in study.series.items()),
        )  # fmt: skip
        images = len(study.home)
        if said == held.said and images == held.images:
            return None
        if said == held.said and now < held.said_at + _PROGRESS:
            return held.said_at + _PROGRESS
        held.said, held.images, held.said_at = said, images, now
        held.announcements += 1
        name = f"assembled-{study.uid}-{held.announcements}"
        outgoing.append((EVENTS, seal(view_of(study, now=now), source=_SOURCE, time=now, id=name)))
        return None

    def _count(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            metrics.STAGE_SECONDS.labels(Stage.ASSEMBLE.value).observe(max(0.0, job.queued_at - job.received_at))
