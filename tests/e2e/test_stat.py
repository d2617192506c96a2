"""A STAT study while 1,000 routine jobs wait, on a real Kafka: its job is the next that a worker takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from e2e.cluster import Cluster
from e2e.stream import many_studies
from e2e.test_cluster import SLICES, by_uid, make_cluster

from ichor.history.projection import log as messages_of
from ichor.messages import EVENTS, Data, JobDone, JobStarted, StudyAssembled, jobs_topic, open_envelope, seal
from ichor.series.manifest import get_manifest, put_manifest
from ichor.store.blobs import FileBlobs
from ichor.types import Job, Priority
from ichor.uids import job_id_of

__all__ = ["make_cluster"]  # a fixture
# Over a minute; that STAT goes first is in the contract of the bus, which CI runs on Kafka, too.
pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.soak, pytest.mark.timeout(3600)]
ROUTINE, WORKERS, SECONDS = 1000, 2, 3.0
D = TypeVar("D", bound=Data)


def events(cluster: Cluster, kind: type[D]) -> list[D]:
    told = (open_envelope(envelope) for envelope in messages_of(cluster.bus(), EVENTS))
    return [event for event in told if isinstance(event, kind)]


def job_of(cluster: Cluster, study: str) -> Job:
    (job,) = [view for view in events(cluster, StudyAssembled) if view.study_instance_uid == study][-1].jobs
    return job


def order_many(cluster: Cluster, like: Job) -> set[str]:
    """Routine jobs on the images of that one, each as if they were of another study; their ids."""
    blobs = FileBlobs(cluster.store / "blobs")
    manifest = get_manifest(like.inputs["ncct_head"], blobs)
    jobs = []
    for number in range(ROUTINE):
        study = f"1.2.826.0.1.{number}"
        ref = put_manifest(replace(manifest, study_instance_uid=study), blobs)
        jobs.append(
            replace(
                like, job_id=job_id_of(study, "small", 1), study_instance_uid=study, inputs={"ncct_head": ref},
                queued_at=time.time(),
            )
        )  # fmt: skip
    cluster.bus().publish(
        jobs_topic("small", Priority.ROUTINE),
        [seal(job, source="test", time=job.queued_at, id=job.job_id) for job in jobs],
    )
    return {job.job_id for job in jobs}


def test_a_stat_job_is_the_next_that_a_worker_takes_although_a_thousand_wait(
    make_cluster: Callable[..., Cluster],
    tmp_path: Path,
) -> None:
    cluster = make_cluster(receivers=1, assemblers=1, workers=WORKERS, senders=0)
    (tmp_path / "in").mkdir()
    first, urgent = by_uid(many_studies(tmp_path / "in", 2)).items()
    cluster.start()

    def push(paths: list[Path], called: str) -> None:
        folder = tmp_path / called
        folder.mkdir()
        for path in paths:
            path.rename(folder / path.name)
        cluster.ichor("push", str(folder), "--to", f"{called}@127.0.0.1:{cluster.receivers[0].port}")

    def done(study: str) -> bool:
        return any(event.study_instance_uid == study for event in events(cluster, JobDone))

    push(first[1], "ICHOR")
    cluster.until(lambda: done(first[0]), what="the study that the others are copied from")
    (cluster.control / "seconds").write_text(str(SECONDS))
    routine = order_many(cluster, job_of(cluster, first[0]))

    def taken() -> list[JobStarted]:
        return [event for event in events(cluster, JobStarted) if event.job_id in routine]

    cluster.until(lambda: len(taken()) >= WORKERS, what="workers at work")
    push(urgent[1], "ICHOR_STAT")
    cluster.until(lambda: done(urgent[0]), what="the urgent study")
    job = job_of(cluster, urgent[0])
    (started,) = [event for event in events(cluster, JobStarted) if event.job_id == job.job_id]
    assert job.priority is Priority.STAT
    before = [event for event in taken() if event.at < started.at]
    assert len(before) < ROUTINE / 2, "most of the routine jobs were waiting still"
    # What a worker was about to take when the job was queued is all that it takes before it.
    between = [event for event in before if event.at > job.queued_at]
    assert len(between) <= WORKERS
    (result,) = [event for event in events(cluster, JobDone) if event.job_id == job.job_id]
    assert f"{SLICES} slices of" in result.summary[0]
    begun = {event.job_id: event.at for event in taken()}
    ended = [event for event in events(cluster, JobDone) if event.job_id in begun]
    longest = max(event.at - begun[event.job_id] for event in ended)
    free = min(event.at for event in ended if event.at > job.queued_at)
    print(
        f"{ROUTINE} routine jobs of up to {longest:.2f} s, {WORKERS} workers: a STAT job started "
        f"{started.at - job.queued_at:.2f} s after it was queued, {started.at - free:.2f} s after a job's end, "
        f"{len(between)} others in between"
    )
