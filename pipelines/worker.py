"""The resident worker: takes jobs, does each at most as often as it should, tells what came of it. Measures nothing.

The work of an attempt runs in a thread of its own; this one keeps the lease, watches for the end, and alone talks to
the bus. Everything that is published has a stable id and every set is put if absent, so a job that is delivered again
after any crash ends in the same results, told once.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ichor import metrics
from ichor.bus.protocol import Bus, Delivery
from ichor.clock import Clock
from ichor.encoding import Encoder
from ichor.errors import CannotStart, TransientError, UnknownMessage, WorkerFault
from ichor.history.projection import events, study_from
from ichor.history.study import Study
from ichor.messages import (
    EVENTS,
    RESULTS,
    Data,
    JobFailed,
    JobStarted,
    JobSuperseded,
    jobs_topic,
    open_envelope,
    seal,
)
from ichor.outage import Outage
from ichor.pipeline import Engine, PipelineSpec
from ichor.reasons import Reason
from ichor.series.manifest import get_manifest
from ichor.series.volume import build_volume as read_volume
from ichor.store.findings import dump_findings
from ichor.store.protocol import Blobs, SpoolReader
from ichor.types import Job, Priority, ResultSet
from pipelines.amends import predecessor_of
from pipelines.attempt import Bench, BuildVolume, LoadManifest, attempt, not_analysed, with_queue
from pipelines.earlier import earlier_is_at_work, to_compare
from pipelines.failures import (
    MOST_ATTEMPTS,
    MOST_FAULTS,
    faults,
    given_up,
    left_to_others,
    pause_after,
    reason_of,
    store_is_away,
    times_given_up,
    trace_of,
    worker_died,
)
from pipelines.results import Made, done_of, place, put_result_set, ready_of, stored_set
from pipelines.running import Running

log = logging.getLogger(__name__)
T = TypeVar("T")

SOURCE = GROUP = "work"
LEASE_SECONDS = 15.0
BEAT_SECONDS = 5.0
DRAIN_SECONDS = 8.0
AWAY_SECONDS = 5.0  # before a job whose store or bus was away is tried again
OTHERS_PAUSE = 2.0
EARLIER_PAUSE = 0.5


def run_worker(
    *,
    bus: Bus,
    blobs: Blobs,
    spool: SpoolReader,
    pipelines: Sequence[PipelineSpec],
    engines: Mapping[str, Engine],
    encoder: Encoder,
    destinations: Sequence[str],
    not_analysed_report: bool,
    clock: Clock,
    stop: threading.Event,
    on_ready: Callable[[], None],
    name: str = "",
    build_volume: BuildVolume = read_volume,
    load_manifest: LoadManifest = get_manifest,
) -> None:
    """Take jobs until ``stop`` is set; a job in hand is then finished if that takes less than 8 s, else handed back.

    Parameters
    ----------
    engines
        By model name; every model of every pipeline.
    destinations
        Names that results are addressed to.
    not_analysed_report
        Whether "not analysed" is written as a report, too.
    name
        Of this worker and of the process that comes after it, where there are other workers to leave a job to. Empty:
        each process is a worker of its own.

    Raises
    ------
    WorkerFault
        This process is broken; its job was handed back.
    CannotStart
        The bus is not to be used by this version, or with these settings.
    """
    bench = Bench(
        blobs=blobs, spool=spool, engines=engines, encoder=encoder, build_volume=build_volume,
        load_manifest=load_manifest, not_analysed_report=not_analysed_report,
    )  # fmt: skip
    worker = Worker(bus, bench, pipelines=pipelines, destinations=destinations, clock=clock, stop=stop, name=name)
    worker.run(on_ready)


class Worker:
    """See `run_worker`."""

    def __init__(
        self,
        bus: Bus,
        bench: Bench,
        *,
        pipelines: Sequence[PipelineSpec],
        destinations: Sequence[str],
        clock: Clock,
        stop: threading.Event,
        name: str = "",
    ) -> None:
        self._name = name or uuid.uuid4().hex
        self._bus, self._bench, self._clock, self._stop = bus, bench, clock, stop
        self._pipelines = {spec.name: spec for spec in pipelines}
        self._destinations = tuple(destinations)

    def run(self, on_ready: Callable[[], None]) -> None:
        topics = [
            jobs_topic(name, priority) for name in self._pipelines for priority in (Priority.STAT, Priority.ROUTINE)
        ]
        subscription = self._bus.subscribe(topics, GROUP, lease=LEASE_SECONDS, max_attempts=MOST_ATTEMPTS)
        outage = Outage(log, role="work")
        try:
            on_ready()
            while not self._stop.is_set():
                try:
                    delivery = subscription.receive(0.5)
                    if delivery is not None:
                        self.handle(delivery)
                    outage.over()
                except (CannotStart, WorkerFault):
                    raise
                except TransientError as error:
                    outage.away(error)
                    self._stop.wait(1.0)
                except Exception as error:  # noqa: BLE001 - the loop's edge: the lease brings the job back
                    metrics.LOOP_ERRORS.labels("work").inc()
                    log.error("the loop goes on after %s", trace_of(error))
                    self._stop.wait(1.0)
        finally:
            subscription.close()

    def handle(self, delivery: Delivery) -> None:
        """Bring one delivery to its end."""
        try:
            job = open_envelope(delivery.envelope)
            if not isinstance(job, Job) or job.pipeline not in self._pipelines:
                raise UnknownMessage(f"no job for a pipeline of this worker: {delivery.envelope.type}")
        except UnknownMessage as error:
            log.error("a message is given up: %s", error)
            delivery.reject(str(error))
            return
        try:
            self._handle(delivery, job)
        except (TransientError, OSError) as error:
            # The bus, the store or the disk below it: not the job's fault.
            log.warning("job %s waits: %s", job.job_id, reason_of(error))
            delivery.retry(AWAY_SECONDS, reason=reason_of(error), count=False)

    def _handle(self, delivery: Delivery, job: Job) -> None:
        """Find what is left to do, and do it. Whatever raises here is an attempt that raised."""
        spec, blobs = self._pipelines[job.pipeline], self._bench.blobs
        history: tuple[Data, ...] = ()
        predecessor: ResultSet | None = None
        try:
            history = tuple(events(self._bus, job.study_instance_uid))
            result = stored_set(blobs, place(job.job_id))
            if result is not None:
                # An earlier attempt was cut off after storing: its results are the results.
                self._tell(result, job, spec)
                delivery.ack()
                return
            study = study_from(history)
            predecessor = predecessor_of(job, study, history=history, blobs=blobs)
            if not delivery.dead:
                if self._is_due(delivery, job, study, history=history, amends=predecessor is not None):
                    self._do(delivery, job, spec, history=history, predecessor=predecessor)
                return
        except (CannotStart, TransientError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - the loop's edge: told, counted, tried again, at last given up
            if not delivery.dead:
                self._raised(delivery, job, error, history=history)
                return
            log.error("job %s is given up without what it amends: %s", job.job_id, trace_of(error))
        self._give_up(delivery, job, spec, history=history, predecessor=predecessor)

    def _is_due(
        self, delivery: Delivery, job: Job, study: Study | None, *, history: Sequence[Data], amends: bool
    ) -> bool:
        """Whether the job is to be done now; if not, it is ended or put off."""
        now = self._clock.time()
        if any(j.pipeline == job.pipeline and j.revision > job.revision for j in (study.jobs if study else ())):
            self._publish(
                JobSuperseded(study_instance_uid=job.study_instance_uid, job_id=job.job_id, at=now),
                job, id=f"{job.job_id}:superseded",
            )  # fmt: skip
            metrics.JOBS.labels(job.pipeline, "superseded").inc()
            delivery.ack()
        elif worker_died(history, job, attempt=delivery.attempt):
            # As an attempt that raised: others go first, and a shower of deaths does not meet one job alone.
            self._failed(job, Reason.WORKER_DIED, attempt=delivery.attempt - 1)
            delivery.retry(pause_after(delivery.attempt - 1), reason=Reason.WORKER_DIED, count=False)
        elif left_to_others(history, job, worker=self._name, now=now):
            delivery.retry(OTHERS_PAUSE, reason="it is left to another worker", count=False)
        elif earlier_is_at_work(job, self._bus, now=now, amends=amends):
            delivery.retry(EARLIER_PAUSE, reason="the scan that it is compared with is at work", count=False)
        else:
            return True
        return False

    def _do(
        self, delivery: Delivery, job: Job, spec: PipelineSpec, *, history: Sequence[Data],
        predecessor: ResultSet | None,
    ) -> None:  # fmt: skip
        """One attempt, from telling that it starts to telling what came of it."""
        begun = self._clock.time()
        # Before work starts, so that a job that kills its worker shows.
        self._publish(
            JobStarted(
                study_instance_uid=job.study_instance_uid, job_id=job.job_id, attempt=delivery.attempt, at=begun
            ),
            job,
        )
        try:
            asked, earlier = to_compare(
                job, self._bus, blobs=self._bench.blobs, attempt=delivery.attempt + len(faults(history, job))
            )
            made = self._work(
                delivery, lambda: attempt(self._bench, spec, asked, predecessor=predecessor, earlier=earlier)
            )
        except (CannotStart, OSError) as error:  # of the work itself: it counts
            if isinstance(error, OSError) and store_is_away(error):
                raise
            self._raised(delivery, job, error, history=history)
            return
        if made is None:
            delivery.retry(0.0, reason="the worker is stopping", count=False)
            return
        if not given_up(history, job) and stored_set(self._bench.blobs, place(job.job_id, failed=True)) is not None:
            # This attempt outlived its lease, and the job was given up meanwhile: its report is in the PACS, or soon.
            log.warning("job %s: what came of attempt %d is dropped: it was given up", job.job_id, delivery.attempt)
            delivery.ack()
            return
        made = with_queue(made, begun - job.queued_at)
        result = put_result_set(self._bench.blobs, made, job=job, prefix=place(job.job_id), predecessor=predecessor)
        self._tell(result, job, spec)
        metrics.JOBS.labels(job.pipeline, result.outcome).inc()
        for stage, seconds in made.seconds.items():
            metrics.STAGE_SECONDS.labels(stage).observe(seconds)
        # Before the study's next job may go to another worker: it would compute again.
        self._remember(made)
        delivery.ack()

    def _remember(self, made: Made) -> None:
        """Keep fresh findings for the same pixels under another identity; without them they are computed again."""
        for key, findings in made.fresh:
            try:
                self._bench.blobs.put(key, dump_findings(findings))
            except (OSError, TransientError) as error:
                log.warning("findings are not kept for recall: %s", reason_of(error))

    def _give_up(
        self, delivery: Delivery, job: Job, spec: PipelineSpec, *, history: Sequence[Data],
        predecessor: ResultSet | None,
    ) -> None:  # fmt: skip
        """The last of a job: a report "not analysed" with the reason, and the event that it failed for good."""
        reason = next(
            (d.reason for d in self._bus.dead_letters(group=GROUP) if d.envelope.id == delivery.envelope.id),
            Reason.WORKER_DIED,
        )
        prefix = place(job.job_id, failed=True)
        # Told before each try: should the report kill its workers as well, it is let be at last.
        self._publish(
            JobFailed(
                study_instance_uid=job.study_instance_uid, job_id=job.job_id, attempt=delivery.attempt, final=True,
                reason=reason, at=self._clock.time(),
            ),
            job,
        )  # fmt: skip
        result: ResultSet | None = None
        try:
            result = stored_set(self._bench.blobs, prefix)
            if result is None and times_given_up(history, job) < MOST_ATTEMPTS:
                made = self._work(
                    delivery, lambda: not_analysed(self._bench, spec, job, reason=reason, predecessor=predecessor)
                )
                if made is None:
                    delivery.retry(0.0, reason="the worker is stopping", count=False)
                    return
                late = self._result_of(job)
                if late is not None:  # of an attempt that outlived its lease: one answer is enough
                    self._tell(late, job, spec)
                    delivery.ack()
                    return
                result = put_result_set(self._bench.blobs, made, job=job, prefix=prefix, predecessor=predecessor)
        except (OSError, TransientError):
            raise  # it comes again
        except (WorkerFault, MemoryError) as error:
            # Another process may have the room for it; `times_given_up` ends this.
            delivery.retry(1.0, reason=reason_of(error))
            raise WorkerFault(f"job {job.job_id}, the report that it failed: {reason_of(error)}") from error
        except Exception as error:  # noqa: BLE001 - the job is lost already; its report is all that is missing
            log.error("job %s: no report of its failure: %s", job.job_id, trace_of(error))
        if result is not None:
            self._tell(result, job, spec, failed=True)
        metrics.JOBS.labels(job.pipeline, "failed").inc()
        delivery.ack()

    def _result_of(self, job: Job) -> ResultSet | None:
        """What an attempt at it stored, if it can be read."""
        try:
            return stored_set(self._bench.blobs, place(job.job_id))
        except UnknownMessage:
            return None

    def _work(self, delivery: Delivery, task: Callable[[], T]) -> T | None:
        """Run a task in a thread, keeping the lease; None when the end came and it took too long."""
        running = Running(task)
        beat = self._clock.monotonic() + BEAT_SECONDS
        limit: float | None = None
        while not running.finished.wait(0.2):
            now = self._clock.monotonic()
            if self._stop.is_set():
                limit = now + DRAIN_SECONDS if limit is None else limit
                if now >= limit:
                    log.warning("%s is handed back: it takes too long to stop", delivery.envelope.id)
                    return None
            if now >= beat:
                beat = now + BEAT_SECONDS
                try:
                    delivery.extend(LEASE_SECONDS)
                except TransientError as error:
                    log.warning("the lease could not be extended: %s", error)
        return running.result()

    def _tell(self, result: ResultSet, job: Job, spec: PipelineSpec, *, failed: bool = False) -> None:
        """Publish that a set is there and that it waits for delivery. Twice is once."""
        at = self._clock.time()
        name = f"{job.job_id}:failed" if failed else job.job_id
        done = done_of(result, version=spec.version, destinations=self._destinations, at=at)
        self._publish(done, job, id=f"{name}:done")
        if result.objects and self._destinations:
            ready = ready_of(result, destinations=self._destinations, at=at)
            self._publish(ready, job, topic=RESULTS, id=f"{name}:ready")

    def _raised(self, delivery: Delivery, job: Job, error: Exception, *, history: Sequence[Data]) -> None:
        """Count an attempt that raised, and hand the job back (0028). Raises when this process is what is broken."""
        reason = reason_of(error)
        log.error("job %s, attempt %d, worker %s: %s", job.job_id, delivery.attempt, self._name, trace_of(error))
        if not isinstance(error, WorkerFault | MemoryError):
            self._failed(job, reason, attempt=delivery.attempt)
            delivery.retry(pause_after(delivery.attempt), reason=reason)
            return
        try:
            self._failed(job, reason, attempt=delivery.attempt, worker=self._name)
            if len(faults(history, job)) + 1 >= MOST_FAULTS:
                names = {self._name, *(fault.worker or "" for fault in faults(history, job))}
                alone = "" if len(names) >= MOST_FAULTS else f" ({', '.join(sorted(names))}, more than once)"
                delivery.give_up(f"{MOST_FAULTS} workers failed on it{alone}: {reason}")
            else:
                delivery.retry(1.0, reason=reason, count=False)
        except (TransientError, OSError) as away:
            # The worker is broken all the same; the end of its lease brings the job back.
            log.warning("job %s is not handed back: %s", job.job_id, reason_of(away))
        raise WorkerFault(f"job {job.job_id}: {reason}") from error

    def _failed(self, job: Job, reason: str, *, attempt: int, worker: str | None = None) -> None:
        """Tell of an attempt that will be repeated."""
        metrics.JOB_ATTEMPTS_FAILED.labels(job.pipeline).inc()
        self._publish(
            JobFailed(
                study_instance_uid=job.study_instance_uid, job_id=job.job_id, attempt=attempt, final=False,
                reason=reason, at=self._clock.time(), worker=worker,
            ),
            job,
        )  # fmt: skip

    def _publish(self, data: Data, job: Job, *, topic: str = EVENTS, id: str | None = None) -> None:
        self._bus.publish(
            topic, [seal(data, source=SOURCE, time=self._clock.time(), id=id, priority=job.priority)]
        )  # fmt: skip
