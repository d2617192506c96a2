"""What may be forgotten: received objects, results and finished messages past their age. Nothing that still matters.

A study is touched only when it is ``done``: nothing of it is open, in work or undelivered, and nothing was refused or
held, which a person may still want to look into.

Objects lie in segments of the spool, several in each, which another process writes. Removing them needs no lock with
it; in this order nothing is lost that comes meanwhile:

1. Rows go, one by one, each only if it is not committed and the same bytes were not acknowledged again since it was
   looked at (`Journal.forget`). From then on the same bytes, sent again, are a new row at their new place.
2. A segment goes when no row is left that names a place in it, and it ends where the journal's last object in it ends.
   What is under way, or waits in the receipts log, lies behind that end; the spool compares again while it holds the
   segment's lock, which a writer holds from the first byte to the last, and what was let go is never written again.
   An end may hide an earlier object of the segment whose receipt comes late, another thread's: segments that were
   written to within the last ten minutes stay.
3. What no receipt names was never acknowledged, or its receipt is still to come. The latter ends with its writer: once
   the receipts log has no file of a writer, all that it wrote is in the journal, and the rest of its segments is cut.
   The spool is listed before the log, as a writer makes its log before its first segment.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ichor import metrics
from ichor.clock import Clock
from ichor.history import Projection
from ichor.messages import COMMITMENTS, INSTANCES, RESULTS
from ichor.store.journal import Journal
from ichor.store.protocol import Blobs
from ichor.store.segments import segment_of, writer_of
from ichor.store.spool import FileSpool
from ichor.types import StudyState

log = logging.getLogger(__name__)

_EVERY = 600.0  # seconds between two sweeps
_SETTLED = 600.0  # seconds since a segment was written to


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
            rows = journal.by_study(study.study_instance_uid)
            # The row's own age: what was acknowledged again since the study was done stays.
            objects += len(journal.forget([row for row in rows if now - row.last_at > ages.spool]))
            _remove_segments(study.study_instance_uid, journal=journal, spool=spool, now=now)
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


def _remove_segments(study: str, *, journal: Journal, spool: FileSpool, now: float) -> None:
    """Remove the segments of a study that no row names any more."""
    ends = journal.segment_ends(study)  # before the rows: a row that comes in between lies behind these
    if not ends:
        return
    named = {segment_of(row.stored.location) for row in journal.by_study(study)}
    gone = []
    for segment, end in ends.items():
        try:
            settled = now - spool.written_at(segment) > _SETTLED
        except KeyError:
            settled = True
        if segment not in named and settled and spool.reclaim(segment, at_most=end):
            gone.append(segment)
    journal.forget_segments(gone)


def cut_unnamed(*, journal: Journal, spool: FileSpool, receipts: Path) -> int:
    """Remove from the spool what no receipt names and none can name any more; how many segments were cut or removed.

    Parameters
    ----------
    receipts
        Folder of the receipts log.
    """
    there = list(spool.segments())
    writers = {name.removeprefix(".").partition("-")[0] for name in os.listdir(receipts)}
    ends = journal.segment_ends()
    cut = 0
    for segment, size in there:
        end = ends.get(segment, 0)
        if size > end and writer_of(segment) not in writers:
            cut += spool.reclaim(segment, keep_until=end, at_most=size)
    return cut


def keep_tidy(
    projection: Projection, *, journal: Journal, spool: FileSpool, receipts: Path, blobs: Blobs, bus: Prunes,
    ages: Ages, job_topics: Sequence[str], clock: Clock, stop: threading.Event,
    wait: Callable[[float], object] | None = None,
) -> None:  # fmt: skip
    """Sweep every ten minutes until ``stop``. An error is logged and counted; the next sweep tries again."""
    pause = wait or stop.wait
    while not stop.is_set():
        try:
            projection.catch_up(stop)
            swept = sweep(projection, journal=journal, spool=spool, blobs=blobs, ages=ages, now=clock.time())
            cut = cut_unnamed(journal=journal, spool=spool, receipts=receipts)
            for topic in (INSTANCES, RESULTS, COMMITMENTS, *job_topics):
                bus.prune(topic, before=clock.time() - ages.spool)
            if swept.objects or swept.result_sets:
                log.info("retention: %d objects and %d result sets removed", swept.objects, swept.result_sets)
            if cut:
                log.info("retention: %d segments held what was never acknowledged", cut)
        except Exception:
            metrics.LOOP_ERRORS.labels("retention").inc()
            log.exception("retention: a sweep failed")
        pause(_EVERY)
