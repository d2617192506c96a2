"""Retention takes what is old and done, and nothing that still matters."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from s3 import AgedBucket

from ichor import retention
from ichor.bus.memory import MemoryBus
from ichor.clock import ManualClock
from ichor.errors import CannotStart, TransientError
from ichor.history import Projection, Study
from ichor.messages import EVENTS, DeliveryChanged, Envelope, JobDone, StudyAssembled, seal
from ichor.retention import Ages, Swept, keep_tidy, sweep
from ichor.shards import shards
from ichor.store.blobs import FileBlobs
from ichor.store.bucket_blobs import BucketBlobs
from ichor.store.bucket_spool import BucketSpool
from ichor.store.journal import Journal, JournalRow, StoredObject
from ichor.store.protocol import Blobs, Spool
from ichor.store.receipts import Lane, ReceiptReader, ReceiptWriter, Stored
from ichor.store.segments import segment_of
from ichor.store.shared import Receivers, register
from ichor.store.spool import Address, FileSpool, Placed
from ichor.types import Job, Priority, ResultObject, StudyState

STUDY, SERIES, IMAGE = "1.2.3", "1.2.3.4", "1.2.3.4.5"
AGES = Ages(spool=100.0, results=1000.0)


class Place:
    """One study with one stored object, one job and one result that waits for a destination."""

    def __init__(self, folder: Path, bucket: AgedBucket | None = None) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(clock=self.clock)
        self.blobs: Blobs = FileBlobs(folder / "blobs") if bucket is None else BucketBlobs(bucket)
        self.folder, self.bucket = folder, bucket
        self.receipts = ReceiptWriter(folder / "receipts", durable=False)
        self.spool = self.next_spool()
        self.journal = Journal(folder / "journal.sqlite")
        address = Address(
            study_instance_uid=STUDY, series_instance_uid=SERIES, sop_instance_uid=IMAGE,
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2", transfer_syntax_uid="1.2.840.10008.1.2.1",
        )  # fmt: skip
        self.address = address
        self.receive()
        self.location = self.journal.by_study(STUDY)[0].stored.location
        self.blobs.put_set("results/job-1", {"set.json": b"{}", "objects/report.dcm": b"x"})
        job = Job(
            job_id="job-1", study_instance_uid=STUDY, pipeline="haematoma", revision=1, priority=Priority.ROUTINE,
            inputs={}, received_at=self.clock.time(), queued_at=self.clock.time(),
        )  # fmt: skip
        result = ResultObject(
            sop_instance_uid="2.25.1", sop_class_uid="1.2", series_instance_uid="2.25.2", kind="report",
            key="results/job-1/objects/report.dcm", sha256="", length=1,
        )  # fmt: skip
        self.say(
            StudyAssembled(
                study_instance_uid=STUDY, revision=1, priority=Priority.ROUTINE, received_at=self.clock.time(),
                at=self.clock.time(), receiving=False, open=False, series=(), jobs=(job,),
            )
        )  # fmt: skip
        self.say(
            JobDone(
                study_instance_uid=STUDY, job_id="job-1", pipeline="haematoma", version="1", at=self.clock.time(),
                outcome="none", reason=None, summary=(), seconds={}, measurements=(), input_series=(SERIES,),
                objects=(result,), pictures=(), destinations=("pacs",),
            )
        )  # fmt: skip

    def next_spool(self) -> Spool:
        if self.bucket is not None:
            return BucketSpool(self.bucket, staging=self.folder, writer=self.receipts.name)
        return FileSpool(self.folder / "spool", durability="none", writer=self.receipts.name)

    def restart(self) -> None:
        """The receiver ends, however it does, and another one begins; its log is told and gone."""
        self.receipts.close()
        self.spool.close()
        for log in (self.folder / "receipts").glob(f"{self.receipts.name}*"):
            log.unlink()
        self.receipts = ReceiptWriter(self.folder / "receipts", durable=False)
        self.spool = self.next_spool()

    def receive(self) -> Placed:
        """Put and acknowledge the image, as receiver and relay do; its segment is sealed and was written long ago."""
        placed = self.put()
        self.take(placed)
        self.settle()
        return placed

    def put(self) -> Placed:
        return self.spool.put(self.address, [b"\0" * 64])

    def take(self, placed: Placed) -> None:
        address = self.address
        with self.spool.open(placed.location) as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        stored = StoredObject(
            sop_instance_uid=IMAGE, sop_class_uid=address.sop_class_uid, series_instance_uid=SERIES,
            study_instance_uid=STUDY, transfer_syntax_uid=address.transfer_syntax_uid, location=placed.location,
            length=placed.length, file_sha256=digest, association="a", calling_ae="CT1", called_ae="ICHOR",
            sender_priority=None, called_priority=None, command_priority_high=False, received_at=self.clock.time(),
        )  # fmt: skip
        self.journal.take([(stored, self.receipts.name)], cursors={})

    def settle(self) -> None:
        self.spool.seal(idle_for=0.0)
        for segment in self.segments() if self.bucket is None else ():
            os.utime(self.folder / "spool" / segment, (0, 0))

    def segments(self) -> dict[str, int]:
        return dict(self.spool.segments())

    def say(self, event: StudyAssembled | JobDone | DeliveryChanged) -> None:
        self.bus.publish(EVENTS, [seal(event, source="test", time=self.clock.time())])

    def deliver(self, state: str) -> None:
        self.say(
            DeliveryChanged(
                study_instance_uid=STUDY, job_id="job-1", sop_instance_uid="2.25.1", destination="pacs", state=state,
                attempts=1, reason=None, at=self.clock.time(),
            )
        )  # fmt: skip

    def sweep(self, *, receivers: frozenset[str] | None = None) -> Swept:
        projection = Projection(self.bus)
        projection.catch_up()
        return sweep(
            projection, journal=self.journal, spool=self.spool, blobs=self.blobs, ages=AGES, now=self.clock.time(),
            receivers=receivers,
        )  # fmt: skip

    def here(self) -> tuple[bool, bool]:
        return bool(self.journal.by_study(STUDY)), self.blobs.exists("results/job-1/set.json")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_study_that_goes_on_while_others_are_swept_keeps_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.deliver("sent")
    place.clock.advance(2000.0)
    real = Projection.studies

    def studies(self: Projection, *, state: StudyState | None = None, since: float | None = None) -> list[Study]:
        listed = real(self, state=state, since=since)
        place.deliver("pending")
        return listed

    monkeypatch.setattr(retention, "_ASK_AGAIN", 0.0)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Projection, "studies", studies)
        assert place.sweep() == Swept(objects=0, result_sets=0)
    assert place.here() == (True, True)
    place.deliver("sent")
    place.clock.advance(2000.0)
    assert place.sweep() == Swept(objects=1, result_sets=1)


def test_an_object_that_closes_a_gap_while_segments_are_removed_keeps_its_segment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt of the first of two objects came very late: the second is told and forgotten by then."""
    first, second = place.put(), place.put()
    assert segment_of(first.location) == segment_of(second.location)
    place.take(second)
    place.settle()
    segment, journal = segment_of(first.location), place.journal
    assert segment in journal.gaps()
    journal.forget([row for row in journal.by_study(STUDY) if row.stored.location == second.location])
    place.deliver("sent")
    place.clock.advance(200.0)
    late, asked = [first], []

    def meanwhile(name: str, ask: Callable[..., object]) -> Callable[..., object]:
        def answered(*arguments: object) -> object:
            answer = ask(*arguments)
            asked.append(name)
            if len(asked) == 2:  # between the two questions of which segments are named
                place.take(late.pop())
            return answer

        return answered

    for name in ("gaps", "by_study"):
        monkeypatch.setattr(journal, name, meanwhile(name, getattr(journal, name)))
    place.sweep()
    assert (late, sorted(asked[1:3])) == ([], ["by_study", "gaps"])
    assert segment in place.segments()
    assert first.location in {row.stored.location for row in journal.by_study(STUDY)}


@pytest.fixture(params=["file", "s3"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """In a bucket all that is put seems to have been put long ago."""
    return Place(tmp_path, request.getfixturevalue("aged_bucket") if request.param == "s3" else None)


def test_nothing_undelivered_is_ever_removed(place: Place) -> None:
    place.clock.advance(10_000)
    assert place.sweep() == Swept(objects=0, result_sets=0)
    place.deliver("refused")
    place.clock.advance(10_000)
    assert place.sweep() == Swept(objects=0, result_sets=0)
    assert place.here() == (True, True)


def test_objects_go_at_their_age_and_results_at_theirs(any_place: Place) -> None:
    any_place.deliver("sent")
    any_place.clock.advance(99)
    assert any_place.sweep() == Swept(objects=0, result_sets=0)
    any_place.clock.advance(2)
    assert any_place.sweep() == Swept(objects=1, result_sets=0)
    assert any_place.here() == (False, True)
    with pytest.raises(KeyError):
        any_place.spool.open(any_place.location)
    any_place.clock.advance(1000)
    assert any_place.sweep() == Swept(objects=0, result_sets=1)
    assert any_place.here() == (False, False)


def test_the_report_of_a_job_that_was_given_up_goes_with_the_results(any_place: Place) -> None:
    any_place.blobs.put_set("results/job-1-failed", {"set.json": b"{}"})
    any_place.blobs.put_set("results/job-11", {"set.json": b"{}"})
    any_place.deliver("sent")
    any_place.clock.advance(1001)
    assert any_place.sweep() == Swept(objects=1, result_sets=2)
    assert list(any_place.blobs.keys("results")) == ["results/job-11/set.json"]


def test_an_image_that_was_acknowledged_again_stays(any_place: Place) -> None:
    any_place.deliver("sent")
    any_place.clock.advance(90)
    any_place.receive()
    any_place.clock.advance(20)
    assert any_place.sweep() == Swept(objects=0, result_sets=0)
    with any_place.spool.open(any_place.location) as file:
        assert file.read(1) == b"\0"
    any_place.clock.advance(90)
    assert any_place.sweep() == Swept(objects=1, result_sets=0)


def test_a_segment_stays_until_nothing_in_it_is_named(place: Place) -> None:
    place.deliver("sent")
    first = place.put()
    second = place.spool.put(place.address._replace(sop_instance_uid="1.2.3.4.6"), [b"\1" * 64])
    assert segment_of(first.location) == segment_of(second.location)
    place.take(first)
    place.address = place.address._replace(sop_instance_uid="1.2.3.4.6")
    place.clock.advance(60)
    place.take(second)
    place.settle()
    place.clock.advance(60)
    place.sweep()
    assert segment_of(second.location) in place.segments()
    place.clock.advance(60)
    place.sweep()
    assert place.segments() == place.journal.segment_ends() == {}


def test_a_segment_that_is_written_to_stays(place: Place) -> None:
    place.deliver("sent")
    place.clock.advance(101)
    incoming = place.spool.begin(place.address)
    incoming.write([b"half of it"])
    place.sweep()
    (segment,) = place.segments()
    assert segment != segment_of(place.location)
    placed = incoming.finish()
    place.take(placed)
    assert place.spool.read_range(placed.location, 0, placed.length).endswith(b"half of it")


def test_an_image_that_is_not_taken_yet_keeps_its_segment(any_place: Place) -> None:
    any_place.deliver("sent")
    first = any_place.put()
    any_place.take(first)
    second = any_place.put()  # acknowledged, and still in the receipts log
    any_place.settle()
    any_place.clock.advance(101)
    any_place.sweep()
    assert any_place.journal.by_study(STUDY) == []
    assert any_place.spool.read_range(second.location, 0, second.length)
    any_place.take(second)
    assert [row.stored.location for row in any_place.journal.by_study(STUDY)] == [second.location]


def test_a_segment_that_was_written_to_just_now_stays(place: Place) -> None:
    """An earlier object of it may be acknowledged later than a later one, by another thread."""
    place.deliver("sent")
    place.clock.advance(101)
    at = place.clock.time() - 10
    os.utime(place.folder / "spool" / segment_of(place.location), (at, at))
    place.sweep()
    assert place.journal.by_study(STUDY) == []
    assert segment_of(place.location) in place.segments()
    place.clock.advance(600)
    place.sweep()
    assert place.segments() == {}


def test_the_same_image_that_comes_between_look_and_removal_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget = place.journal.forget

    def forget_after_it_came(rows: list[JournalRow]) -> list[JournalRow]:
        place.take(place.put())
        return forget(rows)

    monkeypatch.setattr(place.journal, "forget", forget_after_it_came)
    place.deliver("sent")
    place.clock.advance(101)
    assert place.sweep().objects == 0
    (row,) = place.journal.by_study(STUDY)
    with place.spool.open(row.stored.location) as file:
        assert file.read().endswith(b"\0" * 64)


def test_the_same_image_that_comes_after_its_row_went_is_kept_at_its_new_place(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget = place.journal.forget

    def it_comes_after(rows: list[JournalRow]) -> list[JournalRow]:
        dropped = forget(rows)
        place.take(place.put())
        place.settle()
        return dropped

    monkeypatch.setattr(place.journal, "forget", it_comes_after)
    place.deliver("sent")
    place.clock.advance(101)
    assert place.sweep().objects == 1
    (row,) = place.journal.by_study(STUDY)
    assert row.stored.location != place.location
    with place.spool.open(row.stored.location) as file:
        assert file.read().endswith(b"\0" * 64)
    assert segment_of(place.location) not in place.segments()


def test_a_committed_image_stays(place: Place) -> None:
    place.journal.commit_objects([(place.address.sop_class_uid, IMAGE)], 1.0, exists=lambda _: True)
    place.deliver("sent")
    place.clock.advance(10_000)
    assert place.sweep().objects == 0
    assert place.spool.open(place.location)


def test_a_segment_of_which_an_object_was_left_out_stays(place: Place) -> None:
    place.deliver("sent")
    first = place.put()
    place.address = place.address._replace(sop_instance_uid="1.2.3.4.6")
    second = place.put()
    place.take(second)
    place.settle()
    place.clock.advance(101)
    place.sweep()
    assert place.journal.by_study(STUDY) == []
    assert list(place.segments()) == [segment_of(first.location)]
    place.take(first)  # it came in after all
    place.clock.advance(101)
    place.sweep()
    assert place.segments() == {}


def test_an_absent_bus_and_an_absent_log_do_not_end_retention(place: Place, tmp_path: Path) -> None:
    stop = threading.Event()
    waited: list[float] = []
    asked: list[None] = []

    def open_bus() -> MemoryBus:
        asked.append(None)
        if len(asked) == 1:
            raise OSError(5, "Input/output error")
        return place.bus

    def wait(seconds: float) -> None:
        waited.append(seconds)
        place.clock.advance(seconds)
        if len(waited) == 3:
            stop.set()

    place.deliver("sent")
    place.clock.advance(101)
    keep_tidy(
        open_bus, journal=place.journal, spool=place.spool, receipts=tmp_path / "nothing", blobs=place.blobs,
        ages=AGES, job_topics=(), clock=place.clock, stop=stop, wait=wait,
    )  # fmt: skip
    assert (len(asked), waited) == (2, [600.0] * 3)
    assert place.journal.by_study(STUDY) == []


def test_an_outage_is_said_once_and_the_sweep_is_tried_again_after_a_minute(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ichor.retention")
    (tmp_path / "own").mkdir()
    receivers = Receivers(tmp_path, register(tmp_path, tmp_path / "own"), lost_after=3600.0)
    answers: list[Exception] = [
        TransientError("store s3://a: the endpoint cannot be reached"),
        TransientError("Kafka at b: KafkaConnectionError: 111"),
        TransientError("Kafka at b: KafkaTimeoutError"),
        CannotStart("Kafka at b refuses the credentials"),
        CannotStart("Kafka at b refuses the credentials"),
    ]
    stop, waited, asked = threading.Event(), [], []

    def open_bus() -> MemoryBus:
        asked.append(sum(waited))
        if answers:
            raise answers.pop(0)
        return place.bus

    def wait(seconds: float) -> None:
        waited.append(seconds)
        place.clock.advance(seconds)
        if len(waited) == 32:
            stop.set()

    place.deliver("sent")
    place.clock.advance(101)
    keep_tidy(
        open_bus, journal=place.journal, spool=place.spool, receipts=tmp_path / "receipts", blobs=place.blobs,
        ages=AGES, job_topics=(), clock=place.clock, stop=stop, wait=wait, receivers=receivers,
    )  # fmt: skip
    receivers.close()
    assert (waited, asked) == ([10.0] * 32, [0.0, 60.0, 120.0, 180.0, 240.0, 300.0])
    assert [record.getMessage() for record in caplog.records] == [
        "retention waits: store s3://a: the endpoint cannot be reached",
        "retention waits: Kafka at b refuses the credentials",
        "retention: 1 objects and 0 result sets removed",
        "retention goes on",
    ]


def test_a_segment_that_another_receiver_answers_for_now_is_left_to_it(place: Place) -> None:
    segments = {}
    for name in ("own_00000001", "taken_00000002"):
        place.spool.close()
        place.spool = FileSpool(place.spool.root, durability="none", receiver=name)
        placed = place.spool.put(place.address, [name.encode()])
        place.take(placed)
        segments[name] = segment_of(placed.location)
    place.settle()
    place.deliver("sent")
    place.clock.advance(101)
    assert place.sweep(receivers=frozenset({"own_00000001"})).objects == 3
    # What lies there from before the store was shared is its own, too.
    assert set(place.segments()) == {segments["taken_00000002"]}
    assert place.journal.segment_ends() == {}


def test_who_was_taken_over_and_goes_on_removes_nothing_that_the_other_may_have_promised(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    own = register(tmp_path, tmp_path / "own")
    receivers = Receivers(tmp_path, own, lost_after=3600.0)
    place.spool.close()
    place.spool = FileSpool(place.spool.root, durability="none", receiver=own)
    placed = place.spool.put(place.address, [b"promised"])
    place.take(placed)
    place.settle()
    place.deliver("sent")
    place.clock.advance(101)
    stop, waited = threading.Event(), []

    def open_bus() -> MemoryBus:
        if not waited:
            raise TransientError("away")  # the sweep is tried again before the next look at who answers for whom
        return place.bus

    def wait(seconds: float) -> None:
        waited.append(seconds)
        place.clock.advance(seconds)
        (tmp_path / "receivers" / own).write_text("12345678\n")
        if place.journal.segment_ends() == {}:
            stop.set()
        assert len(waited) < 100

    keep_tidy(
        open_bus, journal=place.journal, spool=place.spool, receipts=tmp_path / "receipts", blobs=place.blobs,
        ages=AGES, job_topics=(), clock=place.clock, stop=stop, wait=wait, receivers=receivers,
    )  # fmt: skip
    receivers.close()
    assert segment_of(placed.location) in place.segments()


def test_nobody_answers_for_a_receiver_before_its_images_are_looked_for(place: Place, tmp_path: Path) -> None:
    """They are not while the log of an own writer that died waits: who is asked would say that they were never here."""
    (tmp_path / "own").mkdir()
    receivers = Receivers(tmp_path, register(tmp_path, tmp_path / "own"), lost_after=3600.0)
    dead = ReceiptWriter(tmp_path / "receipts")
    dead.close()
    stop, told, waited = threading.Event(), [], []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        place.clock.advance(seconds)
        if told:
            stop.set()
        elif len(waited) == 3:  # it is in the journal now
            for log in (tmp_path / "receipts").glob(f"{dead.name}*"):
                log.unlink()
        assert len(waited) < 100

    keep_tidy(
        lambda: place.bus, journal=place.journal, spool=place.spool, receipts=tmp_path / "receipts",
        blobs=place.blobs, ages=AGES, job_topics=(), clock=place.clock, stop=stop, wait=wait, receivers=receivers,
        taken_in=told.append,
    )  # fmt: skip
    receivers.close()
    assert (told, waited[:4]) == ([{receivers.name}], [5.0, 5.0, 5.0, 10.0])


def test_the_topics_of_all_shards_are_pruned(place: Place, tmp_path: Path) -> None:
    stop = threading.Event()
    topics = [shard.topic for shard in shards(4)]
    for topic in topics:
        place.bus.publish(topic, [Envelope(id="a", source="test", type="ichor.test.v1", time=0.0, subject="1.2.3")])
        member = place.bus.subscribe([topic], "assembler")
        delivery = member.receive(0)
        assert delivery is not None
        delivery.ack()
    place.clock.advance(101)
    keep_tidy(
        lambda: place.bus, journal=place.journal, spool=place.spool, receipts=tmp_path / "nothing", blobs=place.blobs,
        ages=AGES, job_topics=(), clock=place.clock, stop=stop, wait=lambda _: stop.set(), shards=4,
    )  # fmt: skip
    assert [place.bus.read(topic) for topic in topics] == [[]] * 4


def test_what_a_receiver_that_is_lost_meanwhile_stored_comes_in_at_once(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for data in ("own", "lost"):
        (tmp_path / data).mkdir()
    own, lost = (register(tmp_path, data) for data in (tmp_path / "own", tmp_path / "lost"))
    spool = FileSpool(place.spool.root, durability="none", receiver=lost)
    stored = spool.put(place.address, [b"\1" * 64])
    spool.close()
    receivers = Receivers(tmp_path, own, lost_after=3600.0)
    stop, waited = threading.Event(), []
    found: list[set[str]] = []
    told: list[frozenset[str]] = []

    def taken_in(names: frozenset[str]) -> None:
        with contextlib.closing(ReceiptReader(tmp_path / "receipts")) as reader:
            assert (lost in names) == bool(reader.read(Lane.ROUTINE, limit=100))  # not before it is in the log
        told.append(names)

    def wait(seconds: float) -> None:
        waited.append(seconds)
        place.clock.advance(seconds)
        with contextlib.closing(ReceiptReader(tmp_path / "receipts")) as reader:
            records = [receipt.record for receipt in reader.read(Lane.ROUTINE, limit=100)]
        found.append({record.location for record in records if isinstance(record, Stored)} - {place.location})
        if len(waited) == 2:
            os.utime(tmp_path / "receivers" / lost, (0, 0))
        if len(waited) == 4:
            stop.set()

    ended: list[frozenset[str]] = []

    def end(_bus: MemoryBus, gone: frozenset[str], **_: float) -> int:
        ended.append(gone)
        return 0

    monkeypatch.setattr("ichor.retention.end_associations", end)
    keep_tidy(
        lambda: place.bus, journal=place.journal, spool=place.spool, receipts=tmp_path / "receipts",
        blobs=place.blobs, ages=AGES, job_topics=(), clock=place.clock, stop=stop, wait=wait, receivers=receivers,
        taken_in=taken_in,
    )  # fmt: skip
    receivers.close()
    assert told == [{own}, {own, lost}]
    assert found == [set(), set(), {stored.location}, {stored.location}]
    assert waited == [10.0, 10.0, 10.0, 10.0]
    assert ended == [{lost}]
