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
   written to within the last ten minutes stay. Only `ichor.store.restore` writes to what was let go: at places that the
   journal names or has not taken, with the segment's lock, and before the first sweep.
3. What no row and no receipt names and stands whole comes in by `ichor.store.recovery`; what is torn is cut there. A
   segment with a gap, an object before its end that was never taken, stays until that is done.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ichor import metrics
from ichor.bus import Bus
from ichor.clock import Clock
from ichor.errors import CannotStart, TransientError
from ichor.history import Projection
from ichor.messages import COMMITMENTS, RESULTS
from ichor.outage import Outage
from ichor.shards import shards as all_shards
from ichor.store.journal import Journal
from ichor.store.protocol import Blobs, Receivers, Spool
from ichor.store.recovery import recover
from ichor.store.segments import receiver_of, segment_of
from ichor.succession import end_associations
from ichor.types import StudyState

log = logging.getLogger(__name__)

_EVERY = 600.0  # seconds between two sweeps
_AGAIN = 60.0  # seconds until a sweep that failed is tried again: it asks for every topic anew
_SOON = 5.0  # seconds, while what dead receivers wrote is not in the journal yet
_ASK_AGAIN = 1.0  # seconds of a sweep after which it looks what came meanwhile
_SETTLED = 600.0  # seconds since a segment was written to
_SIGN = 10.0  # seconds between two signs to the other receivers of a store


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


def sweep(
    projection: Projection, *, journal: Journal, spool: Spool, blobs: Blobs, ages: Ages, now: float,
    receivers: Collection[str] | None = None,
) -> Swept:  # fmt: skip
    """Remove what is past its age. A sweep that is cut off is taken up by the next one.

    Parameters
    ----------
    receivers
        Whose segments this journal answers for, where several receivers share the spool (`ichor.store.shared`). Of what
        another one has taken over it has rows as well, and may have committed what this one does not know of.
    """
    objects = result_sets = 0
    asked_at = time.monotonic()
    for study in projection.studies(state=StudyState.DONE):
        age = now - study.updated_at
        if age <= min(ages.spool, ages.results):
            continue
        # A sweep takes long where much is old: what came for this study since it began keeps all of it.
        if time.monotonic() - asked_at > _ASK_AGAIN:
            projection.catch_up()
            asked_at = time.monotonic()
        if projection.study(study.study_instance_uid) != study:
            continue
        if age > ages.spool:
            rows = journal.by_study(study.study_instance_uid)
            # The row's own age: what was acknowledged again since the study was done stays.
            objects += len(journal.forget([row for row in rows if now - row.last_at > ages.spool]))
            _remove_segments(study.study_instance_uid, journal=journal, spool=spool, now=now, receivers=receivers)
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


def _remove_segments(
    study: str, *, journal: Journal, spool: Spool, now: float, receivers: Collection[str] | None
) -> None:
    """Remove the segments of a study that no row names any more."""
    ends = journal.segment_ends(study)  # before the rows: a row that comes in between lies behind these
    if not ends:
        return
    # Gaps before rows, too: what closes one in between has a row then.
    named = journal.gaps() | {segment_of(row.stored.location) for row in journal.by_study(study)}
    gone = []
    for segment, end in ends.items():
        try:
            settled = now - spool.written_at(segment) > _SETTLED
        except KeyError:
            settled = True
        if segment in named or not settled:
            continue
        others = receivers is not None and receiver_of(segment) not in {"", *receivers}
        if others or spool.reclaim(segment, at_most=end):
            gone.append(segment)
    journal.forget_segments(gone)


def keep_tidy(
    open_bus: Callable[[], Bus], *, journal: Journal, spool: Spool, receipts: Path, blobs: Blobs, ages: Ages,
    job_topics: Sequence[str], clock: Clock, stop: threading.Event, wait: Callable[[float], object] | None = None,
    receivers: Receivers | None = None, shards: int = 1,
    taken_in: Callable[[frozenset[str]], object] = lambda _: None,
) -> None:  # fmt: skip
    """Recover and sweep, now and every ten minutes until ``stop``. An error is logged and counted; it is tried again.

    What a receiver stored that is taken over comes in at once.

    Parameters
    ----------
    open_bus
        Called when it is first needed, and again after an error.
    receipts
        Folder of the receipts log.
    receivers
        Of a store that several share; this thread's from now on.
    shards
        Into how many studies are divided.
    taken_in
        Told whose images are in the journal, or in the receipts log on their way there, where the store is shared.
    """
    pause = wait or stop.wait
    topics = (*(shard.topic for shard in all_shards(shards)), RESULTS, COMMITMENTS, *job_topics)
    recover_at = sweep_at = float("-inf")
    known: frozenset[str] | None = None  # for whose segments this one answers; None: for all
    lost: frozenset[str] = frozenset()  # receivers that this one took over
    ended: frozenset[str] = frozenset()  # those whose associations it has ended
    bus: Bus | None = None
    projection: Projection | None = None
    outage = Outage(log, role="retention")
    while not stop.is_set():
        waits = False
        try:
            if receivers is None or receivers.look_round() or clock.monotonic() >= recover_at:
                recover_at = clock.monotonic()  # again soon where it fails, or has to wait
                known = receivers.answered_for() if receivers is not None else None
                lost = known - {receivers.name} if known is not None and receivers is not None else lost
                recovered = recover(journal=journal, spool=spool, receipts=receipts, receivers=known)
                waits = recovered.waits
                if known is not None and not waits:
                    taken_in(known)
                recover_at += 0.0 if waits else _EVERY
                if recovered.torn:
                    log.info("retention: %d segments had a torn end", recovered.torn)
            if lost - ended:
                with contextlib.closing(open_bus()) as asked:  # one of its own: it would follow that log from now on
                    count = end_associations(asked, lost - ended, now=clock.time(), shards=shards)
                if count:
                    log.warning("%d associations of lost receivers are told to have been cut off", count)
                ended = lost
            if clock.monotonic() >= sweep_at:
                sweep_at = clock.monotonic() + _EVERY
                bus = bus or open_bus()
                projection = projection or Projection(bus)
                projection.catch_up(stop)
                # Asked anew: who was taken over meanwhile, for whatever reason, removes nothing of what others keep.
                known = receivers.answered_for() if receivers is not None else None
                swept = sweep(
                    projection, journal=journal, spool=spool, blobs=blobs, ages=ages, now=clock.time(), receivers=known
                )
                for topic in topics:
                    bus.prune(topic, before=clock.time() - ages.spool)
                if swept.objects or swept.result_sets:
                    log.info("retention: %d objects and %d result sets removed", swept.objects, swept.result_sets)
                outage.over()  # not before a sweep got through: what refused may be one topic of it
        except (TransientError, CannotStart) as error:
            outage.away(error)
            sweep_at = min(sweep_at, clock.monotonic() + _AGAIN)
        except Exception:
            metrics.LOOP_ERRORS.labels("retention").inc()
            log.exception("retention: a sweep failed")
        pause(_SOON if waits else _EVERY if receivers is None else _SIGN)
