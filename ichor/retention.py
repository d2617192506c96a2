"""What may be forgotten: received objects, results and finished messages past their age. Nothing that still matters.

A study is touched only when it is ``done``: nothing of it is open, in work or undelivered, and nothing was refused or
held, which a person may still want to look into.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ichor import metrics
from ichor.clock import Clock
from ichor.history import Projection
from ichor.messages import INSTANCES, RESULTS
from ichor.store.journal import Journal
from ichor.store.protocol import Blobs
from ichor.store.spool import FileSpool
from ichor.types import StudyState

log = logging.getLogger(__name__)

_EVERY = 600.0  # seconds between two sweeps


class Prunes(Protocol):
    def prune(self, topic: str, *, before: float) -> int:
        """Forget finished messages published before a moment; how many there were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ages:
    """Seconds after a study's last change."""

    spool: float
    results: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What one sweep removed."""

    objects: int
    result_sets: int


def sweep(projection: Projection, *, journal: Journal, spool: FileSpool, blobs: Blobs, ages: Ages, now: float) -> Swept:
    """Remove what is past its age. A sweep that is cut off is taken up by the next one."""
    objects = result_sets = 0
    for study in projection.studies(state=StudyState.DONE):
        age = now - study.updated_at
        if age > ages.spool:
            # The gate, and the row's own age: what was acknowledged again since the study was done stays.
            with spool.gate.shut(study.study_instance_uid):
                rows = [r for r in journal.by_study(study.study_instance_uid) if now - r.last_at > ages.spool]
                # Files first: a row without its file is removed by the next sweep, a file without a row never would be.
                for row in rows:
                    spool.remove(row.stored.location)
                if rows:
                    journal.forget(rows)
            objects += len(rows)
        if age > ages.results:
            for job in study.jobs:
                prefix = f"results/{job.job_id}"
                if blobs.exists(f"{prefix}/set.json"):
                    blobs.delete(prefix)
                    result_sets += 1
                # The report of a job that was given up, or was before a replay did it.
                if blobs.exists(f"{prefix}-failed/set.json"):
                    blobs.delete(f"{prefix}-failed")
                    result_sets += 1
            for kept in ("manifests", "findings"):
                blobs.delete(f"{kept}/{study.study_instance_uid}")
    return Swept(objects=objects, result_sets=result_sets)


def keep_tidy(
    projection: Projection, *, journal: Journal, spool: FileSpool, blobs: Blobs, bus: Prunes, ages: Ages,
    job_topics: tuple[str, ...], clock: Clock, stop: threading.Event, wait: Callable[[float], object] | None = None,
) -> None:  # fmt: skip
    """Sweep every ten minutes until ``stop``. An error is logged and counted; the next sweep tries again."""
    pause = wait or stop.wait
    while not stop.is_set():
        try:
            projection.catch_up(stop)
            swept = sweep(projection, journal=journal, spool=spool, blobs=blobs, ages=ages, now=clock.time())
            for topic in (INSTANCES, RESULTS, *job_topics):
                bus.prune(topic, before=clock.time() - ages.spool)
            if swept.objects or swept.result_sets:
                log.info("retention: %d objects and %d result sets removed", swept.objects, swept.result_sets)
        except Exception:
            metrics.LOOP_ERRORS.labels("retention").inc()
            log.exception("retention: a sweep failed")
        pause(_EVERY)
