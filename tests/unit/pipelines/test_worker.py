"""The worker: every job ends, is told once, and what can be blamed on nobody costs no attempt."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import pytest
from unit.away import Away
from unit.pipelines.heads import Judge, ThresholdEngine, head, instance

from ichor.arrays import Volume
from ichor.bus.memory import MemoryBus
from ichor.bus.protocol import Delivery
from ichor.clock import ManualClock
from ichor.encoding import EncodedObject, Overlay
from ichor.errors import CannotStart, TransientError, Unreadable, WorkerFault
from ichor.history import study as study_of
from ichor.messages import (
    EVENTS,
    RESULTS,
    Data,
    DeliveryChanged,
    JobDone,
    JobFailed,
    JobStarted,
    JobSuperseded,
    ResultReady,
    StudyAssembled,
    from_json,
    jobs_topic,
    open_envelope,
    seal,
)
from ichor.pipeline import PipelineSpec, Timing
from ichor.reasons import Reason
from ichor.store.memory import MemoryBlobs
from ichor.store.protocol import Blobs, SpoolReader
from ichor.types import (
    Axis,
    AxisName,
    Findings,
    Grade,
    Instance,
    Job,
    JobState,
    Manifest,
    ManifestRef,
    Priority,
    ResultSet,
    Stage,
    StudyState,
)
from ichor.uids import job_id_of, uid_of
from pipelines.attempt import Bench
from pipelines.failures import MOST_ATTEMPTS, OTHERS_FIRST, pause_after
from pipelines.haematoma import PIPELINE
from pipelines.results import SET
from pipelines.worker import BEAT_SECONDS, DRAIN_SECONDS, LEASE_SECONDS, Worker, run_worker

STUDY = "1.2.3"
BLEED = head(blood=[((35.0, -10.0, 20.0), 16.0)])


class NoSpool:
    def open(self, location: str) -> BinaryIO:
        raise KeyError(location)

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        raise KeyError(location, offset, length)


@dataclass
class WordEncoder:
    """Writes what it is told as text; the UID covers identity and outcome, as the real one's does."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None

    def encode(
        self, findings: Findings, *, job: Job, sources: Sequence[Instance], volume: Volume | None,
        predecessor: ResultSet | None, overlays: Sequence[Overlay] = (),
    ) -> list[EncodedObject]:  # fmt: skip
        self.calls.append({
            "findings": findings, "sources": sources, "volume": volume, "predecessor": predecessor, "overlays": overlays,
        })  # fmt: skip
        if self.error is not None:
            raise self.error
        kinds = ["segmentation", "report"] if findings.outcome == "found" else ["report"]
        said = f"{findings.outcome} {findings.reason} {sources[0].identity_sha256}"
        return [
            EncodedObject(
                sop_instance_uid=uid_of(said, kind), sop_class_uid="1.2", series_instance_uid=uid_of(said, kind, "s"),
                kind=kind, data=f"{kind} {said} attempt {len(self.calls)} of {job.job_id}".encode(),
            )
            for kind in kinds
        ]  # fmt: skip


class Place:
    """A bus, a store and a worker of one pipeline; ``step`` hands the worker its next delivery."""

    def __init__(self, run: Callable[..., Findings] | None = None, *, report: bool = True) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(clock=self.clock)
        self.blobs = MemoryBlobs()
        self.engine, self.encoder = ThresholdEngine(), WordEncoder()
        self.stop = threading.Event()
        self.volume = BLEED
        self.change: Callable[[Volume], Volume] = lambda volume: volume
        self.manifests: dict[str, Manifest] = {}
        self.built = 0
        self.spec = PIPELINE if run is None else replace(PIPELINE, run=run)
        self.orders: list[Job] = []
        self.bench = Bench(
            blobs=self.blobs, spool=NoSpool(), engines={"haematoma-phantom": self.engine}, encoder=self.encoder,
            build_volume=self.build, load_manifest=lambda ref, _: self.manifests[ref.key], not_analysed_report=report,
        )  # fmt: skip
        self.begin()
        topics = [jobs_topic("haematoma", p) for p in (Priority.STAT, Priority.ROUTINE)]
        self.subscription = self.bus.subscribe(topics, "work", lease=15, max_attempts=MOST_ATTEMPTS)

    def begin(self, name: str = "") -> None:
        """Another process is the worker from here on."""
        self.worker = Worker(
            self.bus, self.bench, pipelines=[self.spec], destinations=["pacs"], clock=self.clock, stop=self.stop,
            name=name,
        )  # fmt: skip

    def build(self, manifest: Manifest, *, spool: SpoolReader, ref: ManifestRef | None = None) -> Volume:
        assert isinstance(spool, NoSpool)
        self.built += 1
        return self.change(replace(self.volume, sources=manifest.instances, manifest=ref))

    def order(
        self, revision: int = 1, *, identity: str = "a" * 64, refusal: str | None = None, study: str = STUDY,
        priority: Priority = Priority.ROUTINE,
    ) -> Job:  # fmt: skip
        """Publish a job as the assembler does: the order in the events, then the job."""
        instances = tuple(instance(k, study=study, identity=identity) for k in range(len(self.volume.origins_lps)))
        ref = ManifestRef(key=f"m/{study}/{revision}", sha256="0" * 64, series_instance_uid=f"{study}.1", instances=31)
        self.manifests[ref.key] = Manifest(
            study_instance_uid=study, series_instance_uid=f"{study}.1", revision=revision, grade=Grade.COUNTED,
            instances=instances,
        )  # fmt: skip
        job = Job(
            job_id=job_id_of(study, "haematoma", revision), study_instance_uid=study, pipeline="haematoma",
            revision=revision, priority=priority, inputs={} if refusal else {"ncct_head": ref},
            received_at=self.clock.time(), queued_at=self.clock.time(), refusal=refusal,
            sources=(ref,) if refusal else (),
        )  # fmt: skip
        self.orders.append(job)
        told = StudyAssembled(
            study_instance_uid=study, revision=revision, priority=priority, received_at=self.clock.time(),
            at=self.clock.time(), receiving=False, open=False, series=(),
            jobs=tuple(j for j in self.orders if j.study_instance_uid == study),
        )  # fmt: skip
        self.bus.publish(EVENTS, [seal(told, source="test", time=self.clock.time())])
        self.bus.publish(
            jobs_topic("haematoma", priority), [seal(job, source="test", time=self.clock.time(), id=job.job_id)]
        )
        return job

    def deliver(self, state: str) -> None:
        """Tell that the newest result set came to this end."""
        done = self.told(JobDone)[-1]
        self.bus.publish(
            EVENTS,
            [
                seal(
                    DeliveryChanged(
                        study_instance_uid=done.study_instance_uid, job_id=done.job_id, destination="pacs", attempts=1,
                        sop_instance_uid=item.sop_instance_uid, state=state, reason=None, at=self.clock.time(),
                    ),
                    source="test", time=self.clock.time(),
                )
                for item in done.objects
            ],
        )  # fmt: skip

    def step(self) -> Delivery:
        self.clock.advance(1.0)
        delivery = self.subscription.receive(0)
        assert delivery is not None, "no delivery"
        self.worker.handle(delivery)
        return delivery

    def idle(self) -> bool:
        return all(lag.waiting == 0 and lag.leased == 0 for lag in self.bus.lag())

    def told(self, kind: type[Data], topic: str = EVENTS) -> list[Any]:
        found = [open_envelope(e) for _, e in self.bus.read(topic)]
        return [e for e in found if isinstance(e, kind)]

    def state(self, study: str = STUDY) -> StudyState:
        found = study_of(self.bus, study)
        assert found is not None
        return found.state


def test_a_job_is_done_stored_and_told() -> None:
    place = Place()
    job = place.order()
    place.clock.advance(2.0)
    place.step()
    assert place.idle()
    (started,), (done,), (ready,) = place.told(JobStarted), place.told(JobDone), place.told(ResultReady, RESULTS)
    assert started.attempt == 1
    assert done.outcome == "found"
    assert done.seconds["queue"] == pytest.approx(3.0)
    assert set(done.seconds) == {"queue", "volume", "infer", "measure", "encode"}
    assert {n: u for n, _, u in done.measurements}["haematoma_volume"] == "mL"
    assert done.input_series == (f"{STUDY}.1",)
    assert ready.destinations == done.destinations == ("pacs",)
    assert ready.objects == done.objects
    assert ready.identity_sha256 == "a" * 64
    assert [o.kind for o in done.objects] == ["segmentation", "report"]
    for item in done.objects:
        data = place.blobs.get(item.key)
        assert len(data) == item.length
        assert data.decode().startswith(item.kind)
    assert place.blobs.get(done.pictures[0][0]).startswith(b"\x89PNG")
    stored = from_json(ResultSet, place.blobs.get(f"results/{job.job_id}/set.json"))
    assert (stored.outcome, stored.predecessor) == ("found", None)


def test_an_attempt_is_told_before_work_starts() -> None:
    seen = []

    def run(volumes: Mapping[str, Volume], engines: Mapping[str, Any], timing: Timing) -> Findings:
        seen.append([type(e).__name__ for e in place.told(JobStarted)])
        return PIPELINE.run(volumes, engines, timing)

    place = Place(run)
    place.order()
    place.step()
    assert seen == [["JobStarted"]]


def test_a_job_cut_off_after_storing_is_told_without_work() -> None:
    place = Place()
    job = place.order()
    place.step()
    first = place.told(JobDone)[0]
    again = place.bus
    again.publish(jobs_topic("haematoma", Priority.ROUTINE), [seal(job, source="test", time=0.0, id="redelivered")])
    place.step()
    assert place.built == place.engine.calls == len(place.encoder.calls) == 1
    assert len(place.told(JobDone)) == len(place.told(ResultReady, RESULTS)) == 1
    assert place.told(JobDone)[0] == first
    assert place.idle()


def test_a_job_killed_between_storing_and_telling_is_told() -> None:
    place, other = Place(), Place()
    place.order()
    place.step()
    # Another bus that never heard of it, and the same store: what a crash before telling leaves.
    other.blobs.__dict__.update(place.blobs.__dict__)
    other.order()
    other.step()
    assert other.engine.calls == 0
    assert other.told(JobDone)[0].objects == place.told(JobDone)[0].objects
    assert len(other.told(ResultReady, RESULTS)) == 1


def test_the_first_stored_bytes_are_the_result() -> None:
    """Two attempts run side by side after a lost lease: the slower one sends what the faster one stored."""

    def run(volumes: Mapping[str, Volume], engines: Mapping[str, Any], timing: Timing) -> Findings:
        if not racing:
            racing.append(True)
            place.worker.handle(place.subscription.receive(0) or pytest.fail("no second delivery"))
        return PIPELINE.run(volumes, engines, timing)

    racing: list[bool] = []
    place = Place(run)
    job = place.order()
    place.bus.publish(
        jobs_topic("haematoma", Priority.ROUTINE), [seal(job, source="test", time=0.0, id="the same again")]
    )
    place.step()
    (done,) = place.told(JobDone)
    assert len(place.encoder.calls) == 2
    assert all(b"attempt 1 " in place.blobs.get(o.key) for o in done.objects)


def test_the_same_pixels_under_a_new_identity_are_encoded_again_without_inference() -> None:
    place = Place()
    first = place.order()
    place.step()
    place.order(2, identity="b" * 64)
    place.step()
    assert place.engine.calls == 1
    one, two = place.told(JobDone)
    assert two.predecessor == first.job_id
    assert place.encoder.calls[1]["predecessor"].job_id == first.job_id
    assert {o.sop_instance_uid for o in one.objects}.isdisjoint(o.sop_instance_uid for o in two.objects)
    assert one.measurements == two.measurements
    assert "infer" not in two.seconds
    assert place.told(ResultReady, RESULTS)[1].identity_sha256 == "b" * 64
    assert place.blobs.get(two.pictures[0][0]) == place.blobs.get(one.pictures[0][0])


def test_only_what_was_sent_or_may_be_is_amended() -> None:
    place = Place()
    sent = place.order()
    place.step()
    place.deliver("sent")
    place.order(2, identity="b" * 64)
    place.step()
    place.deliver("held")
    place.order(3, identity="c" * 64)
    place.step()
    place.order(4, identity="d" * 64)
    place.step()
    one, two, three, _ = place.told(JobDone)
    second, third, fourth = (call["predecessor"] for call in place.encoder.calls[1:])
    assert [{o.sop_instance_uid for o in p.objects} for p in (second, third)] == [
        {o.sop_instance_uid for o in one.objects}
    ] * 2
    assert third.job_id == sent.job_id != two.job_id
    # The third may still be sent or held: whichever comes, what is in the PACS is amended.
    assert {o.sop_instance_uid for o in fourth.objects} == {o.sop_instance_uid for o in (*one.objects, *three.objects)}
    assert fourth.job_id == three.job_id


def test_nothing_is_amended_where_nothing_was_sent() -> None:
    place = Place()
    place.order()
    place.step()
    place.deliver("held")
    place.order(2, identity="b" * 64)
    place.step()
    assert place.encoder.calls[1]["predecessor"] is None
    assert place.engine.calls == 1


def test_findings_are_kept_before_the_next_job_of_the_study_may_begin() -> None:
    place = Place()
    place.order()
    topics = [jobs_topic("haematoma", Priority.ROUTINE)]
    other_worker = place.bus.subscribe(topics, "work", lease=15, max_attempts=MOST_ATTEMPTS)
    handed_out: list[bool] = []
    put = place.blobs.put

    def looks(key: str, data: bytes) -> bool:
        place.order(2, identity="b" * 64)
        handed_out.append(other_worker.receive(0) is not None)
        return put(key, data)

    place.blobs.put = looks  # type: ignore[method-assign]
    place.step()
    assert handed_out == [False]
    assert other_worker.receive(0) is not None


def test_attention_reaches_the_encoder_as_pictures_and_a_new_judge_computes_anew() -> None:
    place = Place()
    place.order(1)
    place.step()
    assert place.encoder.calls[-1]["overlays"] == []
    # The classifier is installed between two identities of the same pixels.
    engines = {**place.worker._bench.engines, "haematoma-expansion-phantom": Judge()}
    place.worker._bench = replace(place.worker._bench, engines=engines)
    place.order(2, identity="b" * 64)
    place.step()
    assert place.engine.calls == 2
    assert len(place.encoder.calls[-1]["overlays"]) == 3
    place.order(3, identity="c" * 64)
    place.step()
    assert place.engine.calls == 2
    assert len(place.encoder.calls[-1]["overlays"]) == 3


def test_other_pixels_are_inferred_again() -> None:
    place = Place()
    place.order()
    place.step()
    place.order(2)
    key = place.orders[1].inputs["ncct_head"].key
    changed = tuple(replace(i, content_sha256="9" * 64) for i in place.manifests[key].instances)
    place.manifests[key] = replace(place.manifests[key], instances=changed)
    place.step()
    assert place.engine.calls == 2


def test_a_job_with_a_newer_revision_is_superseded() -> None:
    place = Place()
    old = place.order(1)
    place.order(2)
    place.step()
    assert [e.job_id for e in place.told(JobSuperseded)] == [old.job_id]
    assert place.built == 0
    place.step()
    (done,) = place.told(JobDone)
    assert done.job_id == place.orders[1].job_id
    assert place.idle()


def test_a_newer_job_of_another_study_supersedes_nothing() -> None:
    place = Place()
    place.order(1)
    place.order(2, study="1.2.4")
    place.step()
    place.step()
    assert len(place.told(JobDone)) == 2


def test_stat_goes_first() -> None:
    place = Place()
    place.order(study="1.2.4")
    place.order(study="1.2.5", priority=Priority.STAT)
    place.step()
    assert place.told(JobDone)[0].study_instance_uid == "1.2.5"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda v: replace(v, array=v.array[None], axes=(Axis(name=AxisName.TIME, values=(0.0,)),)),
            Reason.OTHER_AXES,
        ),
        (lambda v: replace(v, sources=v.sources[:1]), Reason.MULTIFRAME),  # all slices are frames of one object
    ],
)
def test_a_volume_that_no_result_can_cite_is_answered_before_inference_and_once(
    change: Callable[[Volume], Volume], reason: str
) -> None:
    place = Place()
    place.change = change
    place.order()
    place.step()
    (done,) = place.told(JobDone)
    assert (done.outcome, done.reason, done.measurements) == ("not_analysed", reason, ())
    assert place.engine.calls == 0
    assert place.told(JobFailed) == []
    assert place.idle()


@pytest.mark.parametrize("report", [True, False])
def test_no_brain_is_a_done_job_with_its_reason(report: bool) -> None:
    place = Place(report=report)
    place.volume = head(fill=-1000.0)
    place.order()
    place.step()
    (done,) = place.told(JobDone)
    assert (done.outcome, done.reason, done.measurements) == ("not_analysed", Reason.NO_BRAIN, ())
    assert [o.kind for o in done.objects] == (["report"] if report else [])
    assert len(place.told(ResultReady, RESULTS)) == (1 if report else 0)
    found = study_of(place.bus, STUDY)
    assert found is not None
    assert found.jobs[0].state is JobState.DONE
    assert found.jobs[0].reason == Reason.NO_BRAIN
    assert place.idle()


def test_a_refused_study_is_answered_without_reading_pixels() -> None:
    place = Place()
    place.order(refusal=Reason.TWO_PATIENTS)
    place.step()
    (done,) = place.told(JobDone)
    assert (done.outcome, done.reason) == ("not_analysed", Reason.TWO_PATIENTS)
    assert done.input_series == (f"{STUDY}.1",)
    assert place.built == 0
    assert place.encoder.calls[0]["volume"] is None
    assert place.told(ResultReady, RESULTS)[0].identity_sha256 == "a" * 64


def test_a_header_that_cannot_be_read_leaves_the_answer_without_a_report() -> None:
    place = Place()
    place.encoder.error = Unreadable(Reason.HEADER_UNREADABLE)
    place.order(refusal=Reason.SHORT)
    place.step()
    (done,) = place.told(JobDone)
    assert (done.outcome, done.objects) == ("not_analysed", ())
    assert place.idle()


class Failing:
    """A run that raises what it is given, then works."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def __call__(self, volumes: Mapping[str, Volume], engines: Mapping[str, Any], timing: Timing) -> Findings:
        if self.errors:
            raise self.errors.pop(0)
        return PIPELINE.run(volumes, engines, timing)


def test_a_store_that_is_away_costs_no_attempt() -> None:
    place = Place(Failing(TransientError("store away"), TransientError("store away")))
    place.order()
    for _ in range(3):
        assert place.step().attempt == 1
        place.clock.advance(10)
    assert place.told(JobFailed) == []
    assert place.state() is StudyState.SENDING


def test_a_failed_attempt_is_told_without_the_text_of_a_foreign_error_and_repeated() -> None:
    place = Place(Failing(ValueError("PatientName=SECRET^NAME")))
    place.order()
    place.step()
    (failed,) = place.told(JobFailed)
    assert (failed.attempt, failed.final) == (1, False)
    assert "ValueError" in failed.reason
    assert "SECRET" not in failed.reason
    place.clock.advance(60)
    assert place.step().attempt == 2
    assert place.told(JobDone)[0].outcome == "found"


@pytest.mark.parametrize("error", [type("PanicException", (BaseException,), {})("SECRET"), SystemExit(3)])
def test_what_is_no_exception_ends_its_attempt_and_not_the_worker(error: BaseException) -> None:
    place = Place(Failing(error))
    place.order()
    place.step()
    (failed,) = place.told(JobFailed)
    assert (failed.attempt, failed.final, failed.reason) == (1, False, f"unexpected error ({type(error).__name__})")
    place.clock.advance(60)
    assert place.step().attempt == 2
    assert place.told(JobDone)[0].outcome == "found"


def test_a_job_that_always_fails_is_given_up_with_a_report() -> None:
    place = Place(Failing(*[ValueError("SECRET")] * 99))
    job = place.order()
    for _ in range(MOST_ATTEMPTS + 1):
        place.step()
        place.clock.advance(100)
    failed = place.told(JobFailed)
    assert [f.final for f in failed] == [False] * MOST_ATTEMPTS + [True]
    assert "ValueError" in failed[-1].reason
    assert place.state() is StudyState.FAILED
    (ready,) = place.told(ResultReady, RESULTS)
    assert [o.kind for o in ready.objects] == ["report"]
    assert place.encoder.calls[-1]["findings"].reason == failed[-1].reason
    assert place.idle()
    # A replay may still do it: the failure's report does not stand in its place.
    place.worker._pipelines["haematoma"] = PIPELINE
    place.bus.replay(place.bus.dead_letters()[0].letter_id)
    place.step()
    assert place.told(JobDone)[-1].outcome == "found"
    assert place.told(JobDone)[-1].predecessor == job.job_id
    assert len(place.told(ResultReady, RESULTS)) == 2
    assert place.state() is StudyState.SENDING


def test_a_job_whose_worker_always_dies_is_given_up() -> None:
    place = Place()
    place.order()
    for _ in range(MOST_ATTEMPTS):
        assert place.subscription.receive(0) is not None
        place.clock.advance(100)
    delivery = place.step()
    assert delivery.dead
    assert place.built == 0
    assert place.told(JobFailed)[-1].final
    assert "died" in place.told(JobFailed)[-1].reason
    assert place.state() is StudyState.FAILED


def given_up() -> Place:
    """The next delivery is that of a job whose attempts all failed."""
    place = Place(Failing(*[ValueError()] * 99))
    place.order()
    for _ in range(MOST_ATTEMPTS):
        place.step()
        place.clock.advance(100)
    return place


@pytest.mark.parametrize("error", [TransientError("store away"), OSError(5, "Input/output error")])
def test_a_store_that_is_away_for_a_moment_does_not_cost_a_lost_job_its_report(error: Exception) -> None:
    place = given_up()
    place.encoder.error = error
    place.step()
    assert place.told(ResultReady, RESULTS) == []
    assert not place.idle()
    place.encoder.error = None
    place.clock.advance(100)
    place.step()
    (ready,) = place.told(ResultReady, RESULTS)
    assert [o.kind for o in ready.objects] == ["report"]
    assert place.state() is StudyState.FAILED
    assert place.idle()


@pytest.mark.parametrize("kills", [True, False])
def test_a_report_of_failure_that_never_comes_is_not_tried_for_ever(kills: bool) -> None:
    place = given_up()
    calls = len(place.encoder.calls)
    place.encoder.error = None if kills else OSError(5, "Input/output error")
    for _ in range(MOST_ATTEMPTS):
        if kills:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(place.worker, "_work", died)
                with pytest.raises(KeyboardInterrupt):
                    place.step()
        else:
            place.step()
        place.clock.advance(100)
    place.encoder.error = None
    tried = len(place.encoder.calls)
    place.step()
    assert len(place.encoder.calls) == tried == calls + (0 if kills else MOST_ATTEMPTS)
    assert place.told(JobFailed)[-1].final
    assert place.told(ResultReady, RESULTS) == []
    assert place.idle()


def died(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_report_of_failure_that_breaks_its_worker_is_made_by_the_next_one() -> None:
    place = given_up()
    place.encoder.error = MemoryError()
    with pytest.raises(WorkerFault, match="out of memory"):
        place.step()
    place.encoder.error = None
    place.begin()
    place.clock.advance(2.0)
    assert place.step().dead
    assert [o.kind for o in place.told(ResultReady, RESULTS)[0].objects] == ["report"]
    assert place.idle()


def test_a_report_of_failure_that_cannot_be_made_is_let_be() -> None:
    place = given_up()
    place.encoder.error = ValueError("a defect")
    calls = len(place.encoder.calls)
    place.step()
    place.encoder.error = None
    assert len(place.encoder.calls) == calls + 1
    assert place.told(JobFailed)[-1].final
    assert place.told(ResultReady, RESULTS) == []
    assert place.idle()


def spent(place: Place) -> None:
    """The worker takes all deliveries of a job that it cannot do, and the one after them."""
    for attempt in range(1, MOST_ATTEMPTS + 1):
        assert place.step().attempt == attempt
        place.clock.advance(100)
    assert place.step().dead
    assert place.idle()


def test_a_job_whose_own_results_cannot_be_read_is_given_up_with_that_cause_and_a_report() -> None:
    place = Place()
    job = place.order()
    place.blobs.put_set(f"results/{job.job_id}", {SET: b"{broken"})
    spent(place)
    (letter,) = place.bus.dead_letters()
    assert "ResultSet" in letter.reason
    assert [(f.final, f.reason) for f in place.told(JobFailed)] == [(False, letter.reason)] * MOST_ATTEMPTS + [
        (True, letter.reason)
    ]
    assert [o.kind for o in place.told(ResultReady, RESULTS)[0].objects] == ["report"]
    assert place.state() is StudyState.FAILED
    assert place.built == 0


def test_a_job_that_amends_what_cannot_be_read_is_given_up_with_that_cause_and_a_report() -> None:
    place = Place()
    first = place.order()
    place.step()
    place.blobs.delete(f"results/{first.job_id}/{SET}")
    place.blobs.put(f"results/{first.job_id}/{SET}", b"{broken")
    place.order(2)
    spent(place)
    assert "ResultSet" in place.told(JobFailed)[-1].reason
    assert place.encoder.calls[-1]["findings"].outcome == "not_analysed"
    assert place.encoder.calls[-1]["predecessor"] is None
    assert [o.kind for o in place.told(ResultReady, RESULTS)[-1].objects] == ["report"]


def test_a_report_of_failure_that_cannot_be_read_is_let_be() -> None:
    place = given_up()
    place.blobs.put_set(f"results/{place.orders[0].job_id}-failed", {SET: b"{broken"})
    place.step()
    assert place.told(JobFailed)[-1].final
    assert place.told(ResultReady, RESULTS) == []
    assert place.state() is StudyState.FAILED
    assert place.idle()


def test_results_that_cannot_be_stored_are_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    place.order()
    with monkeypatch.context() as patch:
        patch.setattr(place.blobs, "put_set", refuse)
        place.step()
    (failed,) = place.told(JobFailed)
    assert (failed.attempt, failed.final, failed.reason) == (1, False, "unexpected error (ValueError)")
    place.clock.advance(60)
    assert place.step().attempt == 2
    assert place.told(JobDone)[0].outcome == "found"


def refuse(*_: object) -> bool:
    raise ValueError("SECRET")


def broken_by(place: Place, *names: str) -> None:
    """Workers of these names take the job, one after the other, and end by a fault of theirs."""
    for name in names:
        place.begin(name)
        with pytest.raises(WorkerFault):
            place.step()
        place.clock.advance(10)


FAULTS = [WorkerFault("device lost"), MemoryError()]


@pytest.mark.parametrize("error", FAULTS)
def test_a_broken_worker_hands_back_and_ends_and_two_of_them_cost_no_attempt(error: BaseException) -> None:
    place = Place(Failing(error, error))
    place.order()
    broken_by(place, "one", "two")
    assert [(f.final, f.worker) for f in place.told(JobFailed)] == [(False, "one"), (False, "two")]
    place.begin("three")
    assert place.step().attempt == 1
    assert place.told(JobDone)[0].outcome == "found"
    assert place.bus.dead_letters() == []


@pytest.mark.parametrize("names", [("one", "two", "three"), ("", "", "")])
@pytest.mark.parametrize(("error", "cause"), [(FAULTS[0], "device lost"), (FAULTS[1], "out of memory")])
def test_a_job_that_broke_three_workers_is_given_up(names: tuple[str, ...], error: BaseException, cause: str) -> None:
    """Where a worker has no name that stays, as on one machine, each process of it is a worker of its own."""
    place = Place(Failing(*[error] * 99))
    place.order()
    broken_by(place, *names)
    (letter,) = place.bus.dead_letters()
    assert letter.reason == f"3 workers failed on it: {cause}"
    place.begin()
    assert place.step().dead
    assert (place.told(JobFailed)[-1].final, place.told(JobFailed)[-1].reason) == (True, letter.reason)
    (ready,) = place.told(ResultReady, RESULTS)
    assert [o.kind for o in ready.objects] == ["report"]
    assert place.state() is StudyState.FAILED
    assert place.idle()
    # A replay begins from the first worker.
    place.bus.replay(letter.letter_id)
    broken_by(place, "one", "two")
    assert place.bus.dead_letters() == []


def test_a_worker_that_broke_leaves_the_job_to_others_and_takes_it_again_when_nobody_came() -> None:
    place = Place(Failing(*[MemoryError()] * 99))
    place.order()
    for breaks in (1, 2, 3):
        broken_by(place, "one")
        assert len([f for f in place.told(JobFailed) if f.worker == "one"]) == breaks
        if breaks == 3:
            break
        place.begin("one")
        place.step()
        place.clock.advance(OTHERS_FIRST / 2)
        place.step()
        assert len(place.told(JobStarted)) == breaks
        place.clock.advance(OTHERS_FIRST / 2)
    cause = "3 workers failed on it (one, more than once): out of memory"
    assert [letter.reason for letter in place.bus.dead_letters()] == [cause]


def test_a_bus_not_to_be_used_costs_the_job_nothing_and_its_own_refusal_an_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Place(Failing(CannotStart("said by the pipeline")))
    place.order()
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.worker.events", not_to_be_used)
        with pytest.raises(CannotStart):
            place.step()
    assert place.told(JobFailed) == []
    place.clock.advance(LEASE_SECONDS)
    place.step()
    assert [f.reason for f in place.told(JobFailed)] == ["said by the pipeline"]


def not_to_be_used(*_: object) -> None:
    raise CannotStart("written by a newer Ichor")


@pytest.mark.parametrize("away", [TransientError("Kafka away"), OSError(5, "Input/output error")])
@pytest.mark.parametrize("at", ["telling", "handing back"])
def test_a_broken_worker_ends_also_when_the_bus_is_away_at_that_moment(
    monkeypatch: pytest.MonkeyPatch, at: str, away: Exception
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise away

    def run(*_: object) -> Findings:
        if at == "telling":
            monkeypatch.setattr(place.bus, "publish", gone)
        else:
            monkeypatch.setattr(type(delivery), "retry", gone)
        raise WorkerFault("device lost")

    place = Place(run)
    place.order()
    delivery = place.subscription.receive(0)
    assert delivery is not None
    with pytest.raises(WorkerFault, match="device lost"):
        place.worker.handle(delivery)
    monkeypatch.undo()
    place.spec = PIPELINE
    place.begin()
    place.clock.advance(LEASE_SECONDS)
    place.step()
    place.clock.advance(60)
    if at == "telling":  # the end of its lease is all that is known of the attempt
        assert [(f.attempt, f.reason) for f in place.told(JobFailed)] == [(1, Reason.WORKER_DIED)]
        place.step()
    assert place.told(JobDone)[0].outcome == "found"


def test_the_faults_of_one_job_are_not_those_of_another() -> None:
    place = Place(Failing(*[MemoryError()] * 3))
    place.order(study="1.2.4")
    broken_by(place, "one", "two")
    place.order(study="1.2.5")
    place.begin("two")
    assert place.step().envelope.subject == "1.2.4"  # which it leaves to others
    with pytest.raises(WorkerFault):
        place.step()
    assert [f.study_instance_uid for f in place.told(JobFailed)] == ["1.2.4", "1.2.4", "1.2.5"]
    assert place.bus.dead_letters() == []


def test_a_job_whose_worker_died_says_so_and_lets_others_go_first() -> None:
    place = Place()
    place.order(study="1.2.4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.worker, "_work", died)
        with pytest.raises(KeyboardInterrupt):
            place.step()
    place.order(study="1.2.5")
    place.clock.advance(LEASE_SECONDS)
    place.begin()
    assert place.step().envelope.subject == "1.2.4"
    (failed,) = place.told(JobFailed)
    assert (failed.study_instance_uid, failed.attempt, failed.final) == ("1.2.4", 1, False)
    assert "died" in failed.reason
    next_one = place.subscription.receive(0)
    assert next_one is not None
    place.worker.handle(next_one)
    place.step()
    assert [done.study_instance_uid for done in place.told(JobDone)] == ["1.2.5", "1.2.4"]
    assert [(s.study_instance_uid, s.attempt) for s in place.told(JobStarted)] == [
        ("1.2.4", 1), ("1.2.5", 1), ("1.2.4", 2),
    ]  # fmt: skip


def test_a_message_that_cannot_be_read_is_a_dead_letter() -> None:
    place = Place()
    strange = seal(JobSuperseded(study_instance_uid=STUDY, job_id="x", at=0.0), source="test", time=0.0)
    place.bus.publish(jobs_topic("haematoma", Priority.ROUTINE), [strange])
    place.step()
    assert len(place.bus.dead_letters()) == 1
    assert place.idle()


class JumpingClock(ManualClock):
    """Every look at it is a second later."""

    def monotonic(self) -> float:
        self.advance(1.0)
        return super().monotonic()


class HeldDelivery:
    """A delivery that counts what is done with it."""

    def __init__(self) -> None:
        self.extended: list[float] = []
        self.enough = threading.Event()

    envelope = seal(JobSuperseded(study_instance_uid=STUDY, job_id="x", at=0.0), source="test", time=0.0)

    def extend(self, seconds: float) -> None:
        self.extended.append(seconds)
        if len(self.extended) == 3:
            self.enough.set()


def _worker(stop: threading.Event) -> Worker:
    place = Place()
    return Worker(
        place.bus, place.worker._bench, pipelines=[PIPELINE], destinations=[], clock=JumpingClock(), stop=stop
    )


def test_the_lease_is_kept_while_work_goes_on() -> None:
    delivery = HeldDelivery()
    worker = _worker(threading.Event())
    assert worker._work(delivery, lambda: delivery.enough.wait(60)) is True  # type: ignore[arg-type]
    assert delivery.extended[:3] == [15.0, 15.0, 15.0]  # and again until the work's thread has ended
    assert BEAT_SECONDS < 15.0 / 2


def test_long_work_is_handed_back_at_the_end_and_short_work_is_finished() -> None:
    stop, never = threading.Event(), threading.Event()
    stop.set()
    worker = _worker(stop)
    assert worker._work(HeldDelivery(), never.wait) is None  # type: ignore[arg-type]
    never.set()
    assert worker._work(HeldDelivery(), lambda: "done") == "done"  # type: ignore[arg-type]
    assert DRAIN_SECONDS < 10.0


def test_a_job_handed_back_costs_no_attempt() -> None:
    never = threading.Event()

    def run(volumes: Mapping[str, Volume], engines: Mapping[str, Any], timing: Timing) -> Findings:
        if not place.stop.is_set():
            place.stop.set()
            never.wait(60)
        return PIPELINE.run(volumes, engines, timing)

    place = Place(run)
    place.worker._clock = JumpingClock()
    place.order()
    place.step()
    never.set()
    assert place.told(JobDone) == []
    place.worker._clock = place.clock
    assert place.step().attempt == 1
    assert place.told(JobDone)[0].outcome == "found"


def test_the_role_runs_until_it_is_stopped() -> None:
    place = Place()
    place.order()
    ready = threading.Event()
    stopped = threading.Thread(
        target=run_worker,
        kwargs={
            "bus": place.bus, "blobs": place.blobs, "spool": NoSpool(), "pipelines": [PIPELINE],
            "engines": {"haematoma-phantom": place.engine}, "encoder": place.encoder, "destinations": ["pacs"],
            "not_analysed_report": True, "clock": place.clock, "stop": place.stop, "on_ready": ready.set,
            "build_volume": place.build, "load_manifest": _loader(place),
        },
    )  # fmt: skip
    place.subscription.close()
    stopped.start()
    assert ready.wait(60)
    assert place.bus.read(RESULTS, wait=60)
    place.stop.set()
    stopped.join(60)
    assert not stopped.is_alive()
    assert place.told(JobDone)[0].outcome == "found"


def _loader(place: Place) -> Callable[[ManifestRef, Blobs], Manifest]:
    def load(ref: ManifestRef, blobs: Blobs) -> Manifest:
        assert blobs is place.blobs
        return place.manifests[ref.key]

    return load


def test_every_stage_of_the_worker_is_named_in_the_contract() -> None:
    place = Place()
    place.order()
    place.step()
    assert set(place.told(JobDone)[0].seconds) <= {s.value for s in Stage}


def test_a_pipeline_spec_is_found_by_its_entry_point() -> None:
    from ichor.pipeline import installed

    assert [p.name for p in installed() if isinstance(p, PipelineSpec)] == ["haematoma"]


def test_an_outage_is_said_once_and_a_bus_not_to_be_used_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place()
    monkeypatch.setattr(place.bus, "subscribe", lambda *_, **__: Away())
    with pytest.raises(CannotStart, match="newer Ichor"):
        place.worker.run(lambda: None)
    assert [said for r in caplog.records if "waits" in (said := r.message)] == ["work waits: Kafka hangs up"]


def test_an_attempt_that_outlives_the_job_gives_no_second_answer() -> None:
    attempts = 0

    def run(volumes: Any, engines: Any, timing: Any) -> Findings:
        nonlocal attempts
        attempts += 1
        if attempts < MOST_ATTEMPTS:
            raise RuntimeError("a defect")
        # The process hangs; another one is handed the job, dead, and tells so.
        place.clock.advance(LEASE_SECONDS + 1)
        topics = [jobs_topic("haematoma", p) for p in (Priority.STAT, Priority.ROUTINE)]
        other = place.bus.subscribe(topics, "work", lease=15, max_attempts=MOST_ATTEMPTS)
        dead = other.receive(0)
        assert dead is not None
        assert dead.dead
        Worker(
            place.bus, place.bench, pipelines=[place.spec], destinations=["pacs"], clock=place.clock, stop=place.stop
        ).handle(dead)
        return PIPELINE.run(volumes, engines, timing)

    place = Place(run)
    place.order()
    for _ in range(MOST_ATTEMPTS):
        place.clock.advance(60.0)
        place.step()
    assert [done.outcome for done in place.told(JobDone)] == ["not_analysed"]
    assert len(place.told(ResultReady, RESULTS)) == 1
    assert place.idle()


def test_a_volume_that_is_away_while_a_job_is_done_costs_it_no_try() -> None:
    place = Place()
    place.order()
    built = place.bench.build_volume

    def away(*_: Any, **__: Any) -> Volume:
        raise OSError(errno.ESTALE, "Stale file handle")

    place.bench = replace(place.bench, build_volume=away)
    place.begin()
    for _ in range(2 * MOST_ATTEMPTS):
        assert place.step().attempt == 1
        place.clock.advance(30.0)
    place.bench = replace(place.bench, build_volume=built)
    place.begin()
    place.step()
    assert [done.outcome for done in place.told(JobDone)] == ["found"]
    assert place.told(JobFailed) == []


def test_the_last_of_five_tries_comes_forty_seconds_after_the_first() -> None:
    assert [pause_after(n) for n in range(1, MOST_ATTEMPTS)] == [1.0, 3.0, 9.0, 27.0]


def test_a_bus_that_may_not_be_used_ends_the_worker_and_counts_against_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place()
    place.order()

    def refuse(*_: Any, **__: Any) -> Any:
        raise CannotStart("a ledger of a newer Ichor")

    with monkeypatch.context() as patch:
        patch.setattr(place.bus, "read", refuse)
        with pytest.raises(CannotStart):
            place.step()
    assert place.told(JobFailed) == []
