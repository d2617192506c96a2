"""What a new result amends: earlier objects of its pipeline that are in a PACS, or may come there. Stores nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ichor.history import Study
from ichor.messages import Data, DeliveryChanged, JobDone
from ichor.store.protocol import Blobs
from ichor.types import DeliveryState, Job, ResultObject, ResultSet
from pipelines.results import set_of

_THERE = (DeliveryState.SENT, DeliveryState.COMMITTED)
_MAY_COME = (*_THERE, DeliveryState.PENDING)


def predecessor_of(job: Job, study: Study | None, *, history: Iterable[Data], blobs: Blobs) -> ResultSet | None:
    """The newest earlier set of the job's pipeline that some destination has or may get; None when there is none.

    What was held or refused everywhere is nobody's predecessor: what was sent before it is. While the newest is on
    its way it may yet be held, so that the objects of the sets before it are listed with its own.

    Parameters
    ----------
    history
        The events of the study, in order.
    """
    # A set of this revision counts, too, when it was the report of the same job, given up before.
    earlier = [
        j.done for j in (study.jobs if study else ()) if j.pipeline == job.pipeline and j.revision <= job.revision
    ]  # fmt: skip
    told = {
        (event.job_id, event.sop_instance_uid, event.destination): event.state
        for event in history
        if isinstance(event, DeliveryChanged)
    }
    newest: ResultSet | None = None
    objects: dict[str, ResultObject] = {}
    for done in reversed(earlier):
        found = None if done is None else set_of(done, blobs)
        if done is None or found is None:
            continue
        states = {item.sop_instance_uid: _states(done, item, told) for item in found.objects}
        known = [item for item in found.objects if states[item.sop_instance_uid] & set(_MAY_COME)]
        objects = {**{item.sop_instance_uid: item for item in known}, **objects}
        newest = newest or (found if known else None)
        if known and (not done.destinations or any(s & set(_THERE) for s in states.values())):
            break
    return None if newest is None else replace(newest, objects=tuple(objects.values()))


def _states(done: JobDone, item: ResultObject, told: dict[tuple[str, str, str], str]) -> set[str]:
    """Its states at all destinations; pending where nothing was told, and where there is no destination."""
    return {
        told.get((done.job_id, item.sop_instance_uid, name), DeliveryState.PENDING.value) for name in done.destinations
    } or {DeliveryState.PENDING.value}
