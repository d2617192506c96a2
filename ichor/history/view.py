"""What the events of one study leave behind: the fold itself. What it means (states, reasons) is in `study`.

Each place of a view holds the newest of its events by a total order of their contents, not of their arrival. So the
same events give the same view in any order and any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ichor.errors import UnknownMessage
from ichor.messages import Data, DeliveryChanged, JobDone, JobFailed, JobStarted, JobSuperseded, StudyAssembled
from ichor.types import DeliveryState

_E = TypeVar("_E")
DeliveryKey = tuple[str, str]  # SOP Instance UID, destination


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTrace:
    """What is known of one job beyond its order: the newest event of each kind."""

    started: JobStarted | None = None
    failed: JobFailed | None = None
    done: JobDone | None = None
    superseded: JobSuperseded | None = None
    deliveries: Mapping[DeliveryKey, DeliveryChanged] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyView:
    """The fold of a study's events. ``updated_at`` is the time of the newest of all."""

    study_instance_uid: str
    assembled: StudyAssembled | None = None
    jobs: Mapping[str, JobTrace] = field(default_factory=dict)
    first_at: float = 0.0  # of the oldest event: stands in for received_at until the study was assembled
    updated_at: float = 0.0


def fold(view: StudyView | None, event: Data) -> StudyView | None:
    """The view after ``event``; the very same object when the event changes nothing.

    Events of other studies and messages that are no event of a study (refusals, facts) change nothing. ``None`` is
    the view of a study of which nothing is known.

    Raises
    ------
    UnknownMessage
        For a delivery state that this version does not know.
    """
    if not isinstance(event, StudyAssembled | JobStarted | JobSuperseded | JobDone | JobFailed | DeliveryChanged):
        return view
    if view is None:
        view = StudyView(study_instance_uid=event.study_instance_uid, first_at=event.at, updated_at=event.at)
    elif view.study_instance_uid != event.study_instance_uid:
        return view
    assembled, jobs = view.assembled, view.jobs
    if isinstance(event, StudyAssembled):
        assembled = _newer(assembled, event, lambda e: (e.revision, e.at))
    else:
        old = jobs.get(event.job_id, _NOTHING)
        trace = _trace(old, event)
        if trace is not old:
            jobs = {**jobs, event.job_id: trace}
    first, last = min(view.first_at, event.at), max(view.updated_at, event.at)
    if assembled is view.assembled and jobs is view.jobs and (first, last) == (view.first_at, view.updated_at):
        return view
    return StudyView(
        study_instance_uid=view.study_instance_uid, assembled=assembled, jobs=jobs, first_at=first, updated_at=last
    )


_NOTHING = JobTrace()
_STATES = frozenset(s.value for s in DeliveryState)


def _trace(old: JobTrace, event: JobStarted | JobSuperseded | JobDone | JobFailed | DeliveryChanged) -> JobTrace:
    if isinstance(event, DeliveryChanged):
        if event.state not in _STATES:
            raise UnknownMessage(f"delivery state {event.state!r} is not known to this version of Ichor")
        key = (event.sop_instance_uid, event.destination)
        before = old.deliveries.get(key)
        # Attempts begin again after a replay, so time comes first.
        newest = _newer(before, event, lambda e: (e.at, e.attempts))
        return old if newest is before else replace(old, deliveries={**old.deliveries, key: newest})
    if isinstance(event, JobStarted):
        started = _newer(old.started, event, lambda e: (e.at, e.attempt))
        return old if started is old.started else replace(old, started=started)
    if isinstance(event, JobFailed):
        failed = _newer(old.failed, event, lambda e: (e.at, e.attempt))
        return old if failed is old.failed else replace(old, failed=failed)
    if isinstance(event, JobDone):
        done = _newer(old.done, event, lambda e: e.at)
        return old if done is old.done else replace(old, done=done)
    superseded = _newer(old.superseded, event, lambda e: e.at)
    return old if superseded is old.superseded else replace(old, superseded=superseded)


def _newer(old: _E | None, new: _E, key: Callable[[_E], Any]) -> _E:
    """The newer by ``key``; of two at the same moment the one whose text is greater, so that order never matters."""
    if old is None:
        return new
    before, after = key(old), key(new)
    if after != before:
        return new if after > before else old
    return new if repr(new) > repr(old) else old
