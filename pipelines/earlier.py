"""The scan that a job is compared with: whether to wait for its answer, and what to cite. Compares nothing."""

from __future__ import annotations

from dataclasses import replace

from ichor.bus.protocol import Bus
from ichor.history.projection import events, study_from
from ichor.history.study import JobStatus
from ichor.reasons import Reason
from ichor.store.protocol import Blobs
from ichor.types import Earlier, Job, JobState, ResultSet
from pipelines.results import set_of

LONGEST_WAIT = 60.0  # seconds that a job waits for another one's answer
COMPARED_ATTEMPTS = 2


def earlier_is_at_work(job: Job, bus: Bus, *, now: float, amends: bool) -> bool:
    """Whether to wait for a result to cite, and for findings that would be computed twice: not for long."""
    earlier = status_of(job, bus)
    if earlier is None or now - job.queued_at > LONGEST_WAIT:
        return False
    # Whoever has no answer yet does not wait for a job that waits itself.
    return earlier.state is JobState.RUNNING or (amends and earlier.state is JobState.QUEUED)


def to_compare(job: Job, bus: Bus, *, blobs: Blobs, attempt: int) -> tuple[Job, ResultSet | None]:
    """The job and the result to cite. What goes wrong with another study must not cost this one its answer."""
    earlier = status_of(job, bus)
    if job.earlier is not None and job.earlier.refusal is None:
        failed = earlier is not None and earlier.state is JobState.FAILED
        if failed or attempt > COMPARED_ATTEMPTS:
            reason = Reason.EARLIER_FAILED if failed else Reason.EARLIER_GIVEN_UP
            return replace(job, earlier=Earlier(refusal=reason)), None
    return job, None if earlier is None or earlier.done is None else set_of(earlier.done, blobs)


def status_of(job: Job, bus: Bus) -> JobStatus | None:
    """The newest job on that scan."""
    if job.earlier is None or job.earlier.refusal is not None:
        return None
    study = study_from(events(bus, job.earlier.study_instance_uid))
    return next((j for j in (study.jobs if study else ()) if j.pipeline == job.pipeline and j.current), None)
