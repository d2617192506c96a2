"""The loop around the decisions: on a bus, on disk, through restarts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from contract.arrivals import make_slice

from ichor import metrics
from ichor.bus.memory import MemoryBus
from ichor.bus.protocol import Bus
from ichor.clock import ManualClock, SystemClock
from ichor.errors import CannotStart
from ichor.history import identity_of
from ichor.messages import EVENTS, INSTANCES, AssociationClosed, InstancesReceived, StudyAssembled, open_envelope, seal
from ichor.pipeline import PipelineSpec
from ichor.reasons import Reason
from ichor.series.grid import Grid, build_grid
from ichor.series.manifest import get_manifest
from ichor.store.blobs import FileBlobs
from ichor.types import Findings, Grade, Instance, Job, Priority
from listener import series_state
from listener.assembler import Assembler, _handle, run_assembler
from listener.assembly_store import AssemblyStore

STUDY = "1.2.3"


def _never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


PIPELINE = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=_never)


class Place:
    """A bus and a folder that outlive the assemblers that run on them."""

    def __init__(self, folder: Path) -> None:
        self.bus: Bus = MemoryBus(clock=SystemClock())
        self.blobs = FileBlobs(folder / "blobs")
        self.state = folder / "assembly.sqlite"
        self.jobs = self.bus.subscribe(["jobs.haematoma.routine", "jobs.haematoma.stat"], "worker")

    @contextmanager
    def running(self) -> Iterator[None]:
        stop, ready = threading.Event(), threading.Event()
        thread = threading.Thread(
            target=run_assembler,
            kwargs={
                "bus": self.bus, "blobs": self.blobs, "state_path": self.state, "pipelines": (PIPELINE,),
                "study_wait": 10.0, "clock": SystemClock(), "stop": stop, "on_ready": ready.set,
            },
        )  # fmt: skip
        thread.start()
        assert ready.wait(60)
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
            assert not thread.is_alive()

    def bring(self, instances: list[Instance], association: str = "a1") -> None:
        received = InstancesReceived(
            study_instance_uid=STUDY, association=association, instances=tuple(instances)
        )  # fmt: skip
        self.bus.publish(INSTANCES, [seal(received, source="test", time=SystemClock().time())])

    def release(self, counts: dict[str, int], association: str = "a1") -> None:
        closed = AssociationClosed(
            study_instance_uid=STUDY, association=association, released=True, calling_ae="CT1", counts=counts,
            closed_at=0.0,
        )  # fmt: skip
        self.bus.publish(INSTANCES, [seal(closed, source="test", time=SystemClock().time())])

    def job(self) -> Job:
        delivery = self.jobs.receive(60)
        assert delivery is not None
        delivery.ack()
        data = open_envelope(delivery.envelope)
        assert isinstance(data, Job)
        assert delivery.envelope.id == data.job_id
        return data

    def view(self) -> StudyAssembled:
        data = open_envelope(self.bus.read(EVENTS)[-1][1])
        assert isinstance(data, StudyAssembled)
        return data


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def head(count: int = 10, **how: object) -> list[Instance]:
    return [make_slice(number=n + 1, **how) for n in range(count)]  # type: ignore[arg-type]


def test_a_released_series_becomes_a_job_with_its_manifest(place: Place) -> None:
    with place.running():
        for instance in reversed(head()):
            place.bring([instance])
        place.release({"1.2.3.1": 10})
        job = place.job()
    manifest = get_manifest(job.inputs["ncct_head"], place.blobs)
    assert [i.instance_number for i in manifest.instances] == list(range(1, 11))
    view = place.view()
    assert (view.open, view.receiving, view.jobs) == (False, False, (job,))
    assert [s.grade for s in view.series] == [Grade.REGULAR]
    assert identity_of(place.bus)(STUDY, view.jobs[-1].job_id) == ("i",) == (view.identity_sha256,)


def test_a_restart_goes_on_where_it_was_cut_off(place: Place) -> None:
    slices = head()
    with place.running():
        place.bring(slices[:4])
    place.bring(slices[4:])
    with place.running():
        place.release({"1.2.3.1": 10})
        assert place.job().inputs["ncct_head"].instances == 10
    with place.running():
        place.bring([replace(s, identity_sha256="new", file_sha256="new" + s.file_sha256) for s in slices], "a2")
        job = place.job()
        assert job.revision == 2
    assert [identity_of(place.bus)(STUDY, j.job_id) for j in place.view().jobs] == [("new",)] * 2
    assert place.view().jobs[-1] == job


def test_a_correction_cut_off_by_a_restart_stays_under_way(place: Place) -> None:
    slices = head()
    corrected = [replace(s, identity_sha256="new", file_sha256="new" + s.file_sha256) for s in slices]
    with place.running():
        place.bring(slices)
        place.release({"1.2.3.1": 10})
        first = place.job()
        place.bring(corrected[:5], "a2")
    with place.running():
        place.bring(corrected[5:6], "a2")
    assert identity_of(place.bus)(STUDY, first.job_id) == ()
    with place.running():
        place.bring(corrected[6:], "a2")
        assert place.job().revision == 2
    assert identity_of(place.bus)(STUDY, first.job_id) == ("new",)


def test_what_was_decided_and_not_told_is_told_after_a_restart(place: Place) -> None:
    class Away(MemoryBus):
        def publish(self, *_: object) -> None:
            raise OSError("away")

    store = AssemblyStore(place.state)
    assembler = Assembler(
        bus=Away(clock=SystemClock()), blobs=place.blobs, store=store, pipelines=(PIPELINE,), study_wait=10.0,
        clock=SystemClock(),
    )  # fmt: skip
    received = InstancesReceived(study_instance_uid=STUDY, association="a1", instances=tuple(head()))
    closed = AssociationClosed(
        study_instance_uid=STUDY, association="a1", released=True, calling_ae="CT1", counts={"1.2.3.1": 10},
        closed_at=0.0,
    )  # fmt: skip
    for message in (received, closed):
        with pytest.raises(OSError, match="away"):
            assembler.take(seal(message, source="test", time=0.0))
    store.close()
    with place.running():
        assert place.job().inputs["ncct_head"].instances == 10
    assert [s.grade for s in place.view().series] == [Grade.REGULAR]


def test_silence_is_judged_only_when_older_messages_have_been_heard(tmp_path: Path) -> None:
    clock = ManualClock()
    bus = MemoryBus(clock=clock)
    store = AssemblyStore(tmp_path / "a.sqlite")
    assembler = Assembler(
        bus=bus, blobs=FileBlobs(tmp_path / "b"), store=store, pipelines=(PIPELINE,), study_wait=10.0, clock=clock
    )
    slices = head()
    assembler.take(seal(InstancesReceived(study_instance_uid=STUDY, association="a1", instances=tuple(slices[:5])),
                        source="test", time=clock.time()))  # fmt: skip
    sent = clock.time() + 1.0
    clock.advance(3600.0)
    assembler.heard(sent)
    assembler.run_due()
    assert bus.read("jobs.haematoma.routine") == []
    assembler.take(seal(InstancesReceived(study_instance_uid=STUDY, association="a1", instances=tuple(slices[5:])),
                        source="test", time=sent))  # fmt: skip
    assert assembler.sleep() == pytest.approx(0.5)
    clock.advance(11.0)
    assert assembler.sleep() == 0.0
    assembler.heard(clock.time())
    assembler.run_due()
    ((_, envelope),) = bus.read("jobs.haematoma.routine")
    job = open_envelope(envelope)
    assert isinstance(job, Job)
    assert job.inputs["ncct_head"].instances == 10
    store.close()


class Alone:
    """An assembler without its loop: each message is taken when a test says so, on a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(clock=self.clock)
        self.store = AssemblyStore(folder / "a.sqlite")
        self.assembler = Assembler(
            bus=self.bus, blobs=FileBlobs(folder / "b"), store=self.store, pipelines=(PIPELINE,), study_wait=10.0,
            clock=self.clock,
        )  # fmt: skip
        self.member = self.bus.subscribe([INSTANCES], "assemble")

    def bring(
        self, instances: list[Instance], *, study: str = STUDY, association: str = "a1",
        priority: Priority = Priority.ROUTINE,
    ) -> None:  # fmt: skip
        message = InstancesReceived(study_instance_uid=study, association=association, instances=tuple(instances))
        self.bus.publish(INSTANCES, [seal(message, source="test", time=self.clock.time(), priority=priority)])

    def hear(self) -> bool:
        """One turn of the loop; whether there was a message."""
        self.assembler.publish()
        delivery = self.member.receive(0.0, sure=True)
        if delivery is not None:
            _handle(self.assembler, delivery)
        else:
            self.assembler.heard(self.clock.time())
        self.assembler.run_due()
        return delivery is not None

    def images_of_jobs(self) -> list[int]:
        jobs = [open_envelope(envelope) for _, envelope in self.bus.read("jobs.haematoma.routine")]
        return [job.inputs["ncct_head"].instances for job in jobs if isinstance(job, Job) and job.inputs]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    made = Alone(tmp_path)
    yield made
    made.store.close()


@pytest.mark.parametrize("between", ["another study", "a STAT study", "another series"])
def test_silence_is_judged_as_of_what_was_heard_and_not_as_of_now(alone: Alone, between: str) -> None:
    """After a time away: five images were taken, the rest and something else wait, in whatever order they are handed out."""
    slices, report = head(), [make_slice(number=1, series="1.2.3.7", modality="SR")]
    other = head(1, study="1.9", series="1.9.1")
    if between == "another study":  # due by a small series, which came long before
        alone.bring(report, association="a2")
        assert alone.hear()
        alone.clock.advance(9.0)
    alone.bring(slices[:5])
    assert alone.hear()
    alone.clock.advance(2.0)
    if between == "another study":
        alone.bring(other, study="1.9", association="a3")
    if between == "another series":
        alone.bring(report, association="a2")
    alone.clock.advance(1.0)
    alone.bring(slices[5:])
    alone.clock.advance(3600.0)
    if between == "a STAT study":
        alone.bring(other, study="1.9", association="a3", priority=Priority.STAT)
    while alone.hear():
        pass
    for _ in range(10):
        alone.clock.advance(20.0)
        alone.hear()
    assert alone.images_of_jobs() == [10]


def test_silence_is_not_judged_while_a_message_is_put_back(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk was away for a moment: the topic seems empty while the message, and those behind it, wait for another try."""
    slices = head()
    alone.bring(slices[:4])
    alone.hear()
    alone.bring(slices[4:7])
    alone.bring(slices[7:])
    alone.clock.advance(3600.0)
    with monkeypatch.context() as away:
        away.setattr(alone.assembler, "take", _away)
        alone.hear()
    assert not alone.hear()  # both wait
    assert alone.images_of_jobs() == []
    for _ in range(4):
        alone.clock.advance(1.0)
        alone.hear()
    alone.clock.advance(60.0)
    alone.hear()
    assert alone.images_of_jobs() == [10]


def _away(_: object) -> None:
    raise OSError("away")


def test_progress_of_many_small_batches_is_announced_at_most_every_second(tmp_path: Path) -> None:
    clock = ManualClock()
    bus = MemoryBus(clock=clock)
    store = AssemblyStore(tmp_path / "a.sqlite")
    assembler = Assembler(
        bus=bus, blobs=FileBlobs(tmp_path / "b"), store=store, pipelines=(PIPELINE,), study_wait=10.0, clock=clock
    )
    for instance in head(200):
        clock.advance(0.02)
        received = InstancesReceived(study_instance_uid=STUDY, association="a1", instances=(instance,))
        assembler.take(seal(received, source="test", time=clock.time()))
        assembler.heard(clock.time())
        assembler.run_due()
    assert 4 <= len(bus.read(EVENTS)) <= 7
    clock.advance(1.0)
    assembler.heard(clock.time())
    assembler.run_due()
    last = open_envelope(bus.read(EVENTS)[-1][1])
    assert isinstance(last, StudyAssembled)
    assert last.series[0].instances == 200
    store.close()


def test_a_message_of_another_kind_goes_to_the_dead_letters_and_nothing_waits_for_it(place: Place) -> None:
    from ichor.messages import JobSuperseded

    stray = JobSuperseded(study_instance_uid="9.9", job_id="j", at=0.0)
    with place.running():
        place.bus.publish(INSTANCES, [seal(stray, source="test", time=0.0)])
        place.bring(head())
        place.release({"1.2.3.1": 10})
        place.job()
    assert [letter.envelope.subject for letter in place.bus.dead_letters()] == ["9.9"]


def test_state_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(CannotStart, match="version 99"):
        AssemblyStore(path)


def test_identity_is_unknown_before_anything_was_assembled(place: Place) -> None:
    assert identity_of(place.bus)("1.2", "haematoma-1") is None


def test_a_study_that_cannot_be_looked_at_keeps_no_other_waiting_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    broken = True

    def grid(instances: list[Instance]) -> Grid:
        if broken and instances[0].study_instance_uid == "1.9":
            looks.append(clock.time())
            raise KeyError("a defect")
        return build_grid(instances)

    monkeypatch.setattr(series_state, "build_grid", grid)
    clock = ManualClock()
    bus = MemoryBus(clock=clock)
    store = AssemblyStore(tmp_path / "a.sqlite")
    assembler = Assembler(
        bus=bus, blobs=FileBlobs(tmp_path / "b"), store=store, pipelines=(PIPELINE,), study_wait=10.0, clock=clock
    )

    def bring(study: str, instances: list[Instance]) -> None:
        message = InstancesReceived(study_instance_uid=study, association=f"a{study}", instances=tuple(instances))
        assembler.take(seal(message, source="test", time=clock.time()))

    def last(study: str) -> StudyAssembled:
        views = [open_envelope(envelope) for _, envelope in bus.read(EVENTS)]
        return [v for v in views if isinstance(v, StudyAssembled) and v.study_instance_uid == study][-1]

    errors = _loop_errors()
    bring("1.9", head(9, study="1.9", series="1.9.1"))
    clock.advance(0.1)
    bring("1.8", head(study="1.8", series="1.8.1"))
    for _ in range(120):
        clock.advance(1.0)
        assembler.heard(clock.time())
        assembler.run_due()
    assert [s.grade for s in last("1.8").series] == [Grade.QUIET]
    assert _loop_errors() - errors == len(looks)
    pauses = [round(later - earlier) for earlier, later in pairwise(looks)]
    assert pauses == [2**k for k in range(len(pauses))]
    assert len(pauses) >= 5
    (told,) = last("1.9").series
    assert (told.grade, told.reason) == (Grade.OPEN, f"{Reason.CANNOT_BE_JUDGED}: KeyError")
    # What comes meanwhile is kept, and tries nothing.
    before = len(looks)
    bring("1.9", head(10, study="1.9", series="1.9.1")[9:])
    assert len(looks) == before
    broken = False
    for _ in range(6):
        clock.advance(60.0)
        assembler.heard(clock.time())
        assembler.run_due()
    assert [(s.grade, s.instances) for s in last("1.9").series] == [(Grade.QUIET, 10)]
    store.close()


def test_what_a_message_brought_is_kept_when_its_study_cannot_be_looked_at(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> Grid:
        raise ValueError("a defect")

    with monkeypatch.context() as broken:
        broken.setattr(series_state, "build_grid", refuse)
        store = AssemblyStore(place.state)
        assembler = Assembler(
            bus=place.bus, blobs=place.blobs, store=store, pipelines=(PIPELINE,), study_wait=10.0, clock=SystemClock()
        )
        received = InstancesReceived(study_instance_uid=STUDY, association="a1", instances=tuple(head()))
        closed = AssociationClosed(
            study_instance_uid=STUDY, association="a1", released=True, calling_ae="CT1", counts={"1.2.3.1": 10},
            closed_at=0.0,
        )  # fmt: skip
        for message in (received, closed):
            assembler.take(seal(message, source="test", time=0.0))
        store.close()
    with place.running():
        assert place.job().inputs["ncct_head"].instances == 10


def _loop_errors() -> float:
    return sum(s.value for m in metrics.LOOP_ERRORS.collect() for s in m.samples if s.name.endswith("_total"))
