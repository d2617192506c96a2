"""A study as people see it: states, reasons, times and results, derived from its view. The contract's JSON too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ichor.clock import rfc3339
from ichor.history.view import JobTrace, StudyView
from ichor.messages import JobDone
from ichor.reasons import Reason
from ichor.types import (
    DeliveryState,
    Earlier,
    Job,
    JobState,
    Priority,
    ResultObject,
    SeriesStatus,
    Stage,
    StudyState,
    unique,
)

_FINAL_BAD = (DeliveryState.REFUSED, DeliveryState.HELD, DeliveryState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryStatus:
    """One object at one destination; ``at`` is None while nothing was tried."""

    destination: str
    state: DeliveryState
    attempts: int
    reason: str | None
    at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultStatus:
    """A result object and where it is; ``current`` is False for the set of a revision that a newer one amends."""

    object: ResultObject
    deliveries: tuple[DeliveryStatus, ...]
    revision: int
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """A job and how far it is. ``current``: the newest revision of its pipeline."""

    job_id: str
    pipeline: str
    revision: int
    version: str | None
    state: JobState
    reason: str | None
    current: bool
    attempt: int
    input_series: tuple[str, ...]
    seconds: Mapping[str, float]
    measurements: tuple[tuple[str, float, str], ...]
    started_at: float | None
    done: JobDone | None
    earlier: Earlier | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Everything that is known of one study, with the names of docs/contract.md. ``waits_for`` is a sentence while it waits."""

    study_instance_uid: str
    state: StudyState
    reason: str | None
    waits_for: str | None
    revision: int
    priority: Priority
    received_at: float
    updated_at: float
    series: tuple[SeriesStatus, ...]
    jobs: tuple[JobStatus, ...]  # newest last
    results: tuple[ResultStatus, ...]  # current ones first
    pictures: tuple[tuple[str, str], ...]  # (key, caption)
    accession_sha256: str | None

    @classmethod
    def of(cls, view: StudyView) -> Study:
        """Derive a study from the fold of its events (rules: the table of states in docs/contract.md)."""
        assembled = view.assembled
        jobs = _jobs(view)
        results = _results(view, jobs)
        state, reason, waits_for = _state(view, jobs, results)
        revisions = [1, assembled.revision if assembled else 1, *(j.revision for j in jobs)]
        return cls(
            study_instance_uid=view.study_instance_uid,
            state=state,
            reason=reason,
            waits_for=waits_for,
            revision=max(revisions),
            priority=assembled.priority if assembled else Priority.ROUTINE,
            received_at=assembled.received_at if assembled else view.first_at,
            updated_at=view.updated_at,
            series=assembled.series if assembled else (),
            jobs=jobs,
            results=results,
            pictures=tuple(p for j in _answering(jobs) for p in (j.done.pictures if j.done else ())),
            accession_sha256=assembled.accession_sha256 if assembled else None,
        )

    @property
    def final(self) -> bool:
        return self.state in (StudyState.DONE, StudyState.FAILED)

    @property
    def answers(self) -> tuple[str, ...]:
        """What the newest results say, in short sentences."""
        found: list[str] = []
        for job in _answering(self.jobs):
            if job.done and job.done.outcome == "not_analysed":
                found.append(f"Not analysed: {job.reason or job.done.reason or 'no reason given'}")
            elif job.done:
                found += job.done.summary
        return unique(found)


def as_json(study: Study) -> dict[str, Any]:
    """The study object of docs/contract.md: exactly its names, times in RFC 3339."""
    return {
        "study_instance_uid": study.study_instance_uid,
        "state": study.state.value,
        "reason": study.reason,
        "revision": study.revision,
        "priority": study.priority.value,
        "received_at": rfc3339(study.received_at),
        "updated_at": rfc3339(study.updated_at),
        "images": [{"n": n, "caption": caption} for n, (_, caption) in enumerate(study.pictures, start=1)],
        "series": [
            {
                "series_instance_uid": s.series_instance_uid,
                "modality": s.modality,
                "instances": s.instances,
                "complete": s.grade.complete,
                "grade": s.grade.value,
                "evidence": [{"what": e.what, "detail": e.detail} for e in s.evidence],
                "roles": list(s.roles),
                "reason": s.reason,
            }
            for s in study.series
        ],
        "jobs": [
            {
                "pipeline": j.pipeline,
                "version": j.version,
                "state": j.state.value,
                "reason": j.reason,
                "input_series": list(j.input_series),
                "seconds": dict(j.seconds),
                "measurements": [{"name": n, "value": v, "unit": u} for n, v, u in j.measurements],
            }
            for j in study.jobs
        ],
        "results": [
            {
                "sop_instance_uid": r.object.sop_instance_uid,
                "sop_class_uid": r.object.sop_class_uid,
                "series_instance_uid": r.object.series_instance_uid,
                "kind": r.object.kind,
                "deliveries": [
                    {"destination": d.destination, "state": d.state.value, "attempts": d.attempts, "reason": d.reason}
                    for d in r.deliveries
                ],
            }
            for r in study.results
        ],
    }


# --- jobs -----------------------------------------------------------------------------------------------------------


def _jobs(view: StudyView) -> tuple[JobStatus, ...]:
    """All jobs, newest last; also those whose order has not arrived yet."""
    ordered = {j.job_id: j for j in (view.assembled.jobs if view.assembled else ())}
    # An event may overtake the order of its job: pipeline and revision are then in the id (`ichor.uids.job_id_of`).
    known = [(j.revision, place, j.job_id, j.pipeline) for place, j in enumerate(ordered.values())]
    for job_id in sorted(set(view.jobs) - set(ordered)):
        pipeline, revision = _parts(job_id)
        known.append((revision, len(ordered), job_id, pipeline))
    known.sort()
    newest: dict[str, str] = {pipeline: job_id for _, _, job_id, pipeline in known}
    return tuple(
        _job(
            view, job_id, order=ordered.get(job_id), pipeline=pipeline, revision=revision,
            current=newest[pipeline] == job_id,
        )
        for revision, _, job_id, pipeline in known
    )  # fmt: skip


def _parts(job_id: str) -> tuple[str, int]:
    pipeline, _, rest = job_id.rpartition("-")[0].rpartition("-")
    return (pipeline, int(rest)) if pipeline and rest.isdigit() else (job_id, 0)


def _job(view: StudyView, job_id: str, *, order: Job | None, pipeline: str, revision: int, current: bool) -> JobStatus:
    trace = view.jobs.get(job_id, JobTrace())
    state, reason = _job_state(trace, current=current)
    inputs = tuple(m.series_instance_uid for m in (*order.inputs.values(), *order.sources)) if order else ()
    done = trace.done
    return JobStatus(
        job_id=job_id,
        pipeline=pipeline,
        revision=revision,
        version=done.version if done else None,
        state=state,
        reason=reason,
        current=current,
        attempt=trace.started.attempt if trace.started else 0,
        input_series=done.input_series if done else unique(inputs),
        seconds=_seconds(view, trace, order),
        measurements=done.measurements if done else (),
        started_at=trace.started.at if trace.started else None,
        done=done,
        earlier=order.earlier if order else None,
    )


def _job_state(trace: JobTrace, *, current: bool) -> tuple[JobState, str | None]:
    started, failed, done = trace.started, trace.failed, trace.done
    begun_again = started is not None and failed is not None and started.at > failed.at
    if done is not None:
        # A job that was given up still gets its report "not analysed"; only a replay makes it done.
        if failed is not None and failed.final and done.outcome == "not_analysed" and not begun_again:
            return (JobState.FAILED if current else JobState.SUPERSEDED), failed.reason
        return JobState.DONE, done.reason
    if trace.superseded is not None or not current:
        return JobState.SUPERSEDED, "a newer revision of the study took its place"
    if failed is not None and not begun_again:
        if failed.final:
            return JobState.FAILED, failed.reason
        return JobState.QUEUED, f"attempt {failed.attempt} failed and will be repeated: {failed.reason}"
    return (JobState.RUNNING if started is not None else JobState.QUEUED), None


def _seconds(view: StudyView, trace: JobTrace, order: Job | None) -> dict[str, float]:
    """Seconds per stage, in the order of the way; what the worker measured wins over what the times tell."""
    found: dict[str, float] = {}
    if order is not None:
        if view.assembled is not None and order.revision == 1:
            found[Stage.RECEIVE] = order.received_at - view.assembled.received_at
        found[Stage.ASSEMBLE] = order.queued_at - order.received_at
        if trace.started is not None:
            found[Stage.QUEUE] = trace.started.at - order.queued_at
    if trace.done is not None:
        found |= trace.done.seconds
        deliveries = [d for o in trace.done.objects for d in _deliveries(trace, trace.done, o)]
        ends = [d.at for d in deliveries if d.at is not None]
        if ends and all(d.state is not DeliveryState.PENDING for d in deliveries):
            found[Stage.SEND] = max(ends) - trace.done.at
    order_of_way = [*(s.value for s in Stage), *sorted(set(found) - {s.value for s in Stage})]
    return {stage: round(max(0.0, found[stage]), 4) for stage in order_of_way if stage in found}


def _answering(jobs: tuple[JobStatus, ...]) -> Iterator[JobStatus]:
    """Per pipeline the newest job that has an answer."""
    newest = {j.pipeline: j for j in jobs if j.done is not None}
    yield from newest.values()


# --- results --------------------------------------------------------------------------------------------------------


def _results(view: StudyView, jobs: tuple[JobStatus, ...]) -> tuple[ResultStatus, ...]:
    """Objects of the newest revision first; an object that two revisions share is listed once, with the newer."""
    found: dict[str, ResultStatus] = {}
    for job in reversed(jobs):
        for item in job.done.objects if job.done else ():
            if item.sop_instance_uid not in found:
                trace = view.jobs[job.job_id]
                assert job.done is not None
                deliveries = _deliveries(trace, job.done, item)
                found[item.sop_instance_uid] = ResultStatus(
                    object=item, deliveries=deliveries, revision=job.revision, current=job.current
                )
    return tuple(sorted(found.values(), key=lambda r: not r.current))


def _deliveries(trace: JobTrace, done: JobDone, item: ResultObject) -> tuple[DeliveryStatus, ...]:
    extra = sorted(name for uid, name in trace.deliveries if uid == item.sop_instance_uid)
    return tuple(_delivery(trace, item, name) for name in unique([*done.destinations, *extra]))


def _delivery(trace: JobTrace, item: ResultObject, destination: str) -> DeliveryStatus:
    event = trace.deliveries.get((item.sop_instance_uid, destination))
    if event is None:
        state, attempts, reason, at = DeliveryState.PENDING, 0, None, None
    else:
        state, attempts, reason, at = DeliveryState(event.state), event.attempts, event.reason, event.at
    return DeliveryStatus(destination=destination, state=state, attempts=attempts, reason=reason, at=at)


# --- state of the whole ---------------------------------------------------------------------------------------------


def _state(
    view: StudyView, jobs: tuple[JobStatus, ...], results: tuple[ResultStatus, ...]
) -> tuple[StudyState, str | None, str | None]:
    """State, reason (when it is final) and what it waits for (when it is not)."""
    assembled = view.assembled
    if assembled is not None and assembled.open:
        state = StudyState.RECEIVING if assembled.receiving else StudyState.ASSEMBLING
        return state, None, _open_series(assembled.series, receiving=assembled.receiving)
    current = [j for j in jobs if j.current and not _withdrawn(view, j)]
    for job in current:
        if job.state is JobState.FAILED:
            return StudyState.FAILED, f"the pipeline {job.pipeline} was given up: {job.reason}", None
    for job in current:
        if job.state is JobState.RUNNING:
            return StudyState.RUNNING, None, f"the pipeline {job.pipeline} is at work (attempt {job.attempt})"
    for job in current:
        if job.state in (JobState.QUEUED, JobState.SUPERSEDED):
            return (
                StudyState.QUEUED,
                None,
                f"the pipeline {job.pipeline} waits for a worker" + (f"; {job.reason}" if job.reason else ""),
            )
    deliveries = [d for r in results if r.current for d in r.deliveries]
    bad = next((d for d in deliveries if d.state in _FINAL_BAD), None)
    if bad is not None:
        return StudyState.FAILED, f"delivery to {bad.destination} {bad.state}: {bad.reason or 'no reason given'}", None
    pending = [d for d in deliveries if d.state is DeliveryState.PENDING]
    if pending:
        return StudyState.SENDING, None, _pending(pending)
    if assembled is None:
        return StudyState.ASSEMBLING, None, "its series have not been told yet"
    if not current:
        if assembled.receiving and assembled.reason is None:
            return StudyState.RECEIVING, None, "the sender's association is open"
        return StudyState.DONE, assembled.reason or Reason.NO_PIPELINE.value, None
    return StudyState.DONE, next((j.reason for j in current if j.reason), None), None


def _withdrawn(view: StudyView, job: JobStatus) -> bool:
    """Superseded, and the assembler has spoken since without ordering a newer one: nothing is to come of it."""
    superseded = view.jobs[job.job_id].superseded if job.job_id in view.jobs else None
    if job.state is not JobState.SUPERSEDED or superseded is None or view.assembled is None:
        return False
    return view.assembled.at > superseded.at


def _open_series(series: tuple[SeriesStatus, ...], *, receiving: bool) -> str:
    waiting = [s for s in series if s.grade == "open"]
    if not waiting:
        return "images are arriving" if receiving else "a decision which series to use"
    # The one with the most images is the one that people wait for.
    first = max(waiting, key=lambda s: s.instances)
    sentence = f"{first.modality} series …{short(first.series_instance_uid)} is open with {images(first.instances)}"
    if first.reason or first.evidence:
        sentence += f": {first.reason or first.evidence[-1].detail}"
    return sentence + (f" (and {len(waiting) - 1} more open series)" if len(waiting) > 1 else "")


def _pending(pending: list[DeliveryStatus]) -> str:
    parts = []
    for name in sorted({d.destination for d in pending}):
        here = [d for d in pending if d.destination == name]
        reason = next((d.reason for d in here if d.reason), None)
        waits = "1 object waits" if len(here) == 1 else f"{len(here)} objects wait"
        parts.append(f"{waits} for delivery to {name}" + (f" ({reason})" if reason else ""))
    return "; ".join(parts)


def short(uid: str) -> str:
    """The end of a UID: enough to tell the series of a study apart."""
    return uid[-8:].lstrip(".")


def images(count: int) -> str:
    return "1 object" if count == 1 else f"{count} objects"


def sentences(parts: Iterable[str]) -> str:
    """Parts one after the other, each with an end."""
    ended = (part if part.endswith((".", "!", "?", ":")) else f"{part}." for part in map(str.strip, parts) if part)
    return " ".join(ended)
