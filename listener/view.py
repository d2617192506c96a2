"""A study as it is told to the event log: its state, its priority, and under which identity results may go out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ichor.messages import StudyAssembled
from ichor.reasons import Reason
from ichor.types import Job, unique
from listener.series_state import SeriesState, contradict
from listener.study import StudyAssembly

_MOST_IDENTITIES = 32  # of one series that are told: headers that differ in more are none that was corrected


def view_of(study: StudyAssembly, *, now: float) -> StudyAssembled:
    """Everything."""
    members = [m.instance for s in study.series.values() for m in s.members.values()]
    accession = [i for i in members if i.accession_sha256]
    return StudyAssembled(
        study_instance_uid=study.uid,
        revision=study.revision,
        priority=study.priority,
        received_at=min(i.received_at for i in members),
        at=now,
        receiving=study.receiving,
        open=study.open,
        series=tuple(series.status() for series in study.series.values()),
        jobs=tuple(study.jobs),
        reason=_reason(study),
        accession_sha256=max(accession, key=lambda i: i.received_at).accession_sha256 if accession else None,
        identity_sha256=newest_identity(study),
        identities=identities_of(study),
    )


def identities_of(study: StudyAssembly) -> dict[str, tuple[str, ...]]:
    """By job id, the identities under which its result may be delivered now; none where headers contradict."""
    return {job.job_id: _of_job(_used_by(study, job)) for job in study.jobs}


def newest_identity(study: StudyAssembly) -> str | None:
    """Identity of the first image that the last job uses, as its header says now: `identities_of` in one word.

    While a correction is under way, that of the newest header: no result of the old one may be delivered.
    """
    used = _used_by(study, study.jobs[-1]) if study.jobs else ()
    if not used:
        return None
    if contradict(used):
        named = [i for series in used for i in series.instances if i.identity_sha256]
        return max(named, key=lambda i: i.received_at).identity_sha256
    return used[0].grid.in_order[0].identity_sha256


def _of_job(used: Sequence[SeriesState]) -> tuple[str, ...]:
    if not used or contradict(used):
        return ()
    # A result is encoded with the first header of its main input.
    named = {instance.identity_sha256 for instance in used[0].instances}
    return tuple(sorted(named)) if len(named) <= _MOST_IDENTITIES else (used[0].grid.in_order[0].identity_sha256,)


def _used_by(study: StudyAssembly, job: Job) -> tuple[SeriesState, ...]:
    """The series of a job, main input first; none when a correction has taken one of them away."""
    uids = [ref.series_instance_uid for ref in (*job.inputs.values(), *job.sources)]
    return tuple(study.series[uid] for uid in uids) if all(uid in study.series for uid in uids) else ()


def _reason(study: StudyAssembly) -> str | None:
    """Why there is no job, None when there is one or something is still open."""
    if study.jobs or study.open:
        return None
    if study.two_patients:
        return Reason.TWO_PATIENTS
    found = unique(list(_refusals(study.series.values())))
    return f"{Reason.NO_PIPELINE}: {', '.join(found)}" if found else Reason.NO_PIPELINE


def _refusals(series: Iterable[SeriesState]) -> Iterable[str]:
    return (s.verdict.reason for s in series if s.verdict and s.verdict.reason)
