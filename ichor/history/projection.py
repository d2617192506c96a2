"""All studies, folded from the event log as it grows. Holds no state of its own that the log does not give again."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ichor import metrics
from ichor.bus.protocol import Bus
from ichor.errors import CannotStart, IchorError, TransientError, UnknownMessage
from ichor.history.study import Study
from ichor.history.view import StudyView, fold
from ichor.messages import EVENTS, Data, Envelope, JobDone, ReceiveRefused, StudyAssembled, open_envelope
from ichor.outage import Outage
from ichor.reasons import Reason
from ichor.types import StudyState

_LOG = logging.getLogger(__name__)
_BATCH = 1000
_ASSEMBLED = "ichor.study.assembled.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A C-STORE or an association that was refused, without PHI."""

    time: float
    calling_ae: str
    status: str
    reason: str


class Projection:
    """The studies of a bus. One thread calls ``step`` or ``run``; any thread may ask.

    Parameters
    ----------
    bus
        Its log ``events`` is read, nothing is taken.
    refusals
        How many of the newest refusals are kept.
    """

    def __init__(self, bus: Bus, *, refusals: int = 1000) -> None:
        self._bus = bus
        self._cursor = 0
        self._lock = threading.Lock()
        self._views: dict[str, StudyView] = {}
        self._derived: dict[str, tuple[StudyView, Study]] = {}
        self._refusals: deque[Refusal] = deque(maxlen=refusals)
        # Series and result objects, so that their UIDs find the study.
        self._inside: dict[str, str] = {}
        # Set once the end of the log was seen: until then a study is asked from the log itself.
        self.caught_up = threading.Event()

    def step(self, wait: float = 0.0) -> int:
        """Fold the next batch of the log, waiting at most ``wait`` seconds for the first event; how many there were."""
        batch = self._bus.read(EVENTS, after=self._cursor, limit=_BATCH, wait=wait)
        outdated = _outdated([envelope for _, envelope in batch])
        for cursor, envelope in batch:
            if envelope.id not in outdated:
                self._take(envelope)
            self._cursor = cursor
        if len(batch) < _BATCH:
            self.caught_up.set()
        return len(batch)

    def catch_up(self, stop: threading.Event | None = None) -> None:
        """Fold all that the log holds now."""
        while self.step() and not (stop and stop.is_set()):
            pass

    def run(self, stop: threading.Event, *, wait: float = 0.5) -> None:
        """Follow the log until ``stop`` is set. A bus that is away is logged, counted and asked again.

        Raises
        ------
        CannotStart
            The log is not to be used by this version, or with these settings.
        """
        pause = 0.1
        outage = Outage(_LOG, role="history")
        while not stop.is_set():
            try:
                self.step(wait)
            except CannotStart:
                raise
            except TransientError as error:
                outage.away(error)
                stop.wait(pause)
                pause = min(2 * pause, 5.0)
            except Exception as error:  # noqa: BLE001 - the loop's edge: the page shows what it knew until then
                metrics.LOOP_ERRORS.labels("history").inc()
                known = error if isinstance(error, IchorError) else type(error).__name__
                _LOG.warning("events cannot be read, again in %.1f s: %s", pause, known)
                stop.wait(pause)
                pause = min(2 * pause, 5.0)
            else:
                outage.over()
                pause = 0.1

    def _take(self, envelope: Envelope) -> None:
        try:
            event = open_envelope(envelope)
            if isinstance(event, ReceiveRefused):
                refusal = Refusal(
                    time=event.at, calling_ae=event.calling_ae, status=event.status, reason=event.reason
                )  # fmt: skip
                with self._lock:
                    self._refusals.append(refusal)
                return
            uid = envelope.subject
            view = fold(self._views.get(uid), event)
        except UnknownMessage as error:
            metrics.LOOP_ERRORS.labels("history").inc()
            _LOG.warning("event %s is left out: %s", envelope.id, error)
            return
        if view is not None:
            with self._lock:
                self._views[uid] = view
                self._inside.update((inner, uid) for inner in _inner_uids(event))

    # --- questions, from any thread ---------------------------------------------------------------------------------

    def study(self, uid: str) -> Study | None:
        """The study with this Study Instance UID."""
        if not self.caught_up.is_set():
            return study(self._bus, uid)
        with self._lock:
            view = self._views.get(uid)
        return None if view is None else self._study(view)

    def studies(self, *, state: StudyState | None = None, since: float | None = None) -> list[Study]:
        """Studies, newest first by their first image; ``since`` keeps those updated at or after it."""
        with self._lock:
            views = list(self._views.values())
        found = [self._study(v) for v in views if since is None or v.updated_at >= since]
        found = [s for s in found if state is None or s.state is state]
        return sorted(found, key=lambda s: (-s.received_at, s.study_instance_uid))

    def find(self, accession_sha256: str) -> list[Study]:
        """Studies with this digest of the Accession Number (`ichor.uids.accession_digest`), newest first."""
        return [s for s in self.studies() if s.accession_sha256 == accession_sha256]

    def refusals(self) -> list[Refusal]:
        """The newest refusals, newest first."""
        with self._lock:
            kept = list(self._refusals)
        return sorted(kept, key=lambda r: r.time, reverse=True)

    def locate(self, uid: str) -> tuple[str, str, str | None] | None:
        """``(level, Study Instance UID, Series Instance UID)`` of a study, or a series or result that events named."""
        with self._lock:
            if uid in self._views:
                return "study", uid, None
            study_uid = self._inside.get(uid)
        found = self.study(study_uid) if study_uid else None
        if found is None:
            return None
        for result in found.results:
            if result.object.sop_instance_uid == uid:
                return "instance", found.study_instance_uid, result.object.series_instance_uid
        return "series", found.study_instance_uid, uid

    def _study(self, view: StudyView) -> Study:
        # Views are replaced, never changed, so identity tells whether the derived study is still right.
        kept = self._derived.get(view.study_instance_uid)
        if kept is None or kept[0] is not view:
            kept = view, Study.of(view)
            self._derived[view.study_instance_uid] = kept
        return kept[1]


def study(bus: Bus, uid: str) -> Study | None:
    """One study straight from the log, without folding the others; None when no event names it."""
    return study_from(events(bus, uid))


def identity_of(bus: Bus) -> Callable[[str, str], tuple[str, ...] | None]:
    """A function from Study Instance UID and job id to the identities under which that job's result may go out now.

    None when none is known: nothing was told, or not yet of this job. Empty when the headers that it was made from
    contradict each other, as they do half-way through a correction. A study of two patients has no identity: its
    report says so and nothing else, whosever header it carries.
    """

    def ask(study_instance_uid: str, job_id: str) -> tuple[str, ...] | None:
        told = _newest(bus, study_instance_uid)
        job = next((j for j in told.jobs if j.job_id == job_id), None) if told is not None else None
        if told is None or job is None or job.refusal == Reason.TWO_PATIENTS:
            return None
        if told.identities is not None:
            return told.identities.get(job_id)
        return (told.identity_sha256,) if told.identity_sha256 is not None else None

    return ask


def withdrawn(bus: Bus) -> Callable[[str, str], str | None]:
    """A function from Study Instance UID and job id to the reason why that job's result must not be sent any more.

    The reason is `Reason.TWO_PATIENTS` when a later job of the study, of any pipeline, was refused for it: which of
    the two patients the earlier result belongs to is for a person to say. None for every other job, and for one that
    the log does not know.
    """

    def ask(study_instance_uid: str, job_id: str) -> str | None:
        told = _newest(bus, study_instance_uid)
        jobs = told.jobs if told is not None else ()
        place = next((n for n, job in enumerate(jobs) if job.job_id == job_id), None)
        if place is None or jobs[place].refusal == Reason.TWO_PATIENTS:
            return None
        later = (job.refusal for job in jobs[place + 1 :])
        return Reason.TWO_PATIENTS.value if Reason.TWO_PATIENTS in later else None

    return ask


def _newest(bus: Bus, study_instance_uid: str) -> StudyAssembled | None:
    told: StudyAssembled | None = None
    for event in events(bus, study_instance_uid):
        if isinstance(event, StudyAssembled):
            told = event
    return told


def study_from(history: Iterable[Data]) -> Study | None:
    """The study that these events tell; what this version cannot fold is left out."""
    view: StudyView | None = None
    for event in history:
        try:
            view = fold(view, event)
        except UnknownMessage as error:
            _LOG.warning("an event is left out: %s", error)
    return None if view is None else Study.of(view)


def events(bus: Bus, study_instance_uid: str, *, topic: str = EVENTS) -> Iterator[Data]:
    """Everything that a topic still holds about one study, in order; what this version cannot read is left out."""
    for envelope in log(bus, topic, subject=study_instance_uid):
        try:
            yield open_envelope(envelope)
        except UnknownMessage as error:
            _LOG.warning("message %s is left out: %s", envelope.id, error)


def log(bus: Bus, topic: str, *, subject: str | None = None) -> Iterator[Envelope]:
    """All that a topic holds, in order, in batches."""
    cursor = 0
    while True:
        batch = bus.read(topic, after=cursor, limit=_BATCH, subject=subject)
        yield from (envelope for _, envelope in batch)
        if len(batch) < _BATCH:  # to ask Kafka for nothing more costs as much as to ask for something
            return
        cursor = batch[-1][0]


def _outdated(batch: list[Envelope]) -> set[str]:
    """Ids of assembler's views that a later one of the same batch replaces: reading them costs most of a restart."""
    newest: dict[str, tuple[tuple[float, float], str]] = {}
    outdated: set[str] = set()
    for envelope in batch:
        if envelope.type != _ASSEMBLED:
            continue
        revision, at = envelope.data.get("revision"), envelope.data.get("at")
        if not (isinstance(revision, int) and isinstance(at, int | float)):
            continue
        other = newest.get(envelope.subject)
        # Only what is older in both: the others leave a trace in the fold.
        if other is None or (revision >= other[0][0] and at > other[0][1]):
            if other is not None:
                outdated.add(other[1])
            newest[envelope.subject] = (revision, at), envelope.id
    return outdated


def _inner_uids(event: Data) -> Iterator[str]:
    if isinstance(event, StudyAssembled):
        yield from (s.series_instance_uid for s in event.series)
    elif isinstance(event, JobDone):
        for item in event.objects:
            yield item.sop_instance_uid
            yield item.series_instance_uid
