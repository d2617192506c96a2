"""Result sets in the store: what one job gave, put once and for ever, and the messages that tell of it. Sends nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ichor.encoding import EncodedObject
from ichor.identity import identity_of_sources
from ichor.messages import JobDone, ResultReady, from_json, to_json
from ichor.store.protocol import Blobs
from ichor.types import Findings, Instance, Job, Picture, ResultObject, ResultSet, unique
from pipelines.picture import Drawn

SET = "set.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """All that one attempt gave, before it is stored. ``fresh``: findings that were computed, and where they are kept."""

    findings: Findings
    sources: tuple[Instance, ...]
    objects: tuple[EncodedObject, ...]
    pictures: tuple[Drawn, ...]
    seconds: Mapping[str, float]
    fresh: tuple[tuple[str, Findings], ...] = ()


def place(job_id: str, *, failed: bool = False) -> str:
    """Prefix of a result set. The report of a job that was given up has its own: a replay may still do the job."""
    return f"results/{job_id}" + ("-failed" if failed else "")


def stored_set(blobs: Blobs, prefix: str) -> ResultSet | None:
    """The set below a prefix, or None."""
    try:
        return from_json(ResultSet, blobs.get(f"{prefix}/{SET}"))
    except KeyError:
        return None


def set_of(done: JobDone, blobs: Blobs) -> ResultSet | None:
    """The stored set that an event tells of; None when it has no objects or retention took them."""
    if not done.objects:
        return None
    return stored_set(blobs, done.objects[0].key.partition("/objects/")[0])


def put_result_set(
    blobs: Blobs, made: Made, *, job: Job, prefix: str, predecessor: ResultSet | None
) -> ResultSet:  # fmt: skip
    """Put a set if absent. What is returned is what is stored: of two attempts the first one's bytes."""
    items: dict[str, bytes] = {}
    objects = []
    for item in made.objects:
        name = _name(item.kind, items)
        items[name] = item.data
        objects.append(
            ResultObject(
                sop_instance_uid=item.sop_instance_uid,
                sop_class_uid=item.sop_class_uid,
                series_instance_uid=item.series_instance_uid,
                kind=item.kind,
                key=f"{prefix}/{name}",
                sha256=hashlib.sha256(item.data).hexdigest(),
                length=len(item.data),
                label=item.label,
            )
        )
    pictures = []
    for number, drawn in enumerate(made.pictures, start=1):
        items[f"pictures/{number}.png"] = drawn.png
        pictures.append(Picture(key=f"{prefix}/pictures/{number}.png", caption=drawn.caption))
    findings = made.findings
    result = ResultSet(
        job_id=job.job_id,
        study_instance_uid=job.study_instance_uid,
        pipeline=job.pipeline,
        revision=job.revision,
        outcome=findings.outcome,
        reason=findings.reason,
        summary=findings.summary,
        objects=tuple(objects),
        pictures=tuple(pictures),
        measurements=tuple((m.name, m.value, m.unit) for m in findings.measurements),
        identity_sha256=identity_of_sources(source.identity_sha256 for source in made.sources),
        input_series=_input_series(job),
        predecessor=predecessor.job_id if predecessor else None,
        seconds=dict(made.seconds),
    )
    if blobs.put_set(prefix, {SET: to_json(result), **items}):
        return result
    there = stored_set(blobs, prefix)
    return there if there is not None else result


def done_of(result: ResultSet, *, version: str, destinations: tuple[str, ...], at: float) -> JobDone:
    """What is told of a set that is stored."""
    return JobDone(
        study_instance_uid=result.study_instance_uid, job_id=result.job_id, pipeline=result.pipeline, version=version,
        at=at, outcome=result.outcome, reason=result.reason, summary=result.summary, seconds=result.seconds,
        measurements=result.measurements, input_series=result.input_series, objects=result.objects,
        pictures=tuple((p.key, p.caption) for p in result.pictures), destinations=destinations,
        predecessor=result.predecessor,
    )  # fmt: skip


def ready_of(result: ResultSet, *, destinations: tuple[str, ...], at: float) -> ResultReady:
    """The order to deliver it."""
    return ResultReady(
        study_instance_uid=result.study_instance_uid, job_id=result.job_id, pipeline=result.pipeline,
        revision=result.revision, identity_sha256=result.identity_sha256, destinations=destinations,
        objects=result.objects, ready_at=at,
    )  # fmt: skip


def _input_series(job: Job) -> tuple[str, ...]:
    """Series that the job used; those that it answers for when it used none."""
    refs: Sequence[str] = [ref.series_instance_uid for ref in job.inputs.values()]
    return unique(refs or [ref.series_instance_uid for ref in job.sources])


def _name(kind: str, taken: Mapping[str, bytes]) -> str:
    name, number = f"objects/{kind}.dcm", 2
    while name in taken:
        name, number = f"objects/{kind}-{number}.dcm", number + 1
    return name
