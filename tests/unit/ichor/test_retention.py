"""Retention takes what is old and done, and nothing that still matters."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ichor.bus.memory import MemoryBus
from ichor.clock import ManualClock
from ichor.history import Projection
from ichor.messages import EVENTS, DeliveryChanged, JobDone, StudyAssembled, seal
from ichor.retention import Ages, Swept, sweep
from ichor.store.blobs import FileBlobs
from ichor.store.journal import Journal, JournalRow, StoredObject
from ichor.store.spool import Address, FileSpool
from ichor.types import Job, Priority, ResultObject

STUDY, SERIES, IMAGE = "1.2.3", "1.2.3.4", "1.2.3.4.5"
AGES = Ages(spool=100.0, results=1000.0)


class Place:
    """One study with one stored object, one job and one result that waits for a destination."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBus(clock=self.clock)
        self.blobs = FileBlobs(folder / "blobs")
        self.spool = FileSpool(folder / "spool")
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

    def receive(self) -> None:
        """Put and acknowledge the image, as the receiver does."""
        address = self.address
        placed = self.spool.put(address, [b"\0" * 64])
        self.journal.store(
            StoredObject(
                sop_instance_uid=IMAGE, sop_class_uid=address.sop_class_uid, series_instance_uid=SERIES,
                study_instance_uid=STUDY, transfer_syntax_uid=address.transfer_syntax_uid, location=placed.location,
                length=placed.length, file_sha256=placed.file_sha256, association="a", calling_ae="CT1",
                called_ae="ICHOR", sender_priority=None, called_priority=None, command_priority_high=False,
                received_at=self.clock.time(),
            )
        )  # fmt: skip

    def say(self, event: StudyAssembled | JobDone | DeliveryChanged) -> None:
        self.bus.publish(EVENTS, [seal(event, source="test", time=self.clock.time())])

    def deliver(self, state: str) -> None:
        self.say(
            DeliveryChanged(
                study_instance_uid=STUDY, job_id="job-1", sop_instance_uid="2.25.1", destination="pacs", state=state,
                attempts=1, reason=None, at=self.clock.time(),
            )
        )  # fmt: skip

    def sweep(self) -> Swept:
        projection = Projection(self.bus)
        projection.catch_up()
        return sweep(
            projection, journal=self.journal, spool=self.spool, blobs=self.blobs, ages=AGES, now=self.clock.time()
        )

    def here(self) -> tuple[bool, bool]:
        return bool(self.journal.by_study(STUDY)), self.blobs.exists("results/job-1/set.json")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_nothing_undelivered_is_ever_removed(place: Place) -> None:
    place.clock.advance(10_000)
    assert place.sweep() == Swept(objects=0, result_sets=0)
    place.deliver("refused")
    place.clock.advance(10_000)
    assert place.sweep() == Swept(objects=0, result_sets=0)
    assert place.here() == (True, True)


def test_objects_go_at_their_age_and_results_at_theirs(place: Place) -> None:
    place.deliver("sent")
    place.clock.advance(99)
    assert place.sweep() == Swept(objects=0, result_sets=0)
    place.clock.advance(2)
    assert place.sweep() == Swept(objects=1, result_sets=0)
    assert place.here() == (False, True)
    with pytest.raises(KeyError):
        place.spool.open(place.location)
    place.clock.advance(1000)
    assert place.sweep() == Swept(objects=0, result_sets=1)
    assert place.here() == (False, False)


def test_the_report_of_a_job_that_was_given_up_goes_with_the_results(place: Place) -> None:
    place.blobs.put_set("results/job-1-failed", {"set.json": b"{}"})
    place.blobs.put_set("results/job-11", {"set.json": b"{}"})
    place.deliver("sent")
    place.clock.advance(1001)
    assert place.sweep() == Swept(objects=1, result_sets=2)
    assert list(place.blobs.keys("results")) == ["results/job-11/set.json"]


def test_an_image_that_was_acknowledged_again_stays(place: Place) -> None:
    place.deliver("sent")
    place.clock.advance(90)
    place.receive()
    place.clock.advance(20)
    assert place.sweep() == Swept(objects=0, result_sets=0)
    with place.spool.open(place.location) as file:
        assert file.read(1) == b"\0"
    place.clock.advance(90)
    assert place.sweep() == Swept(objects=1, result_sets=0)


def test_an_image_that_comes_while_its_study_is_removed_waits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    started = threading.Event()

    def receive_again() -> None:
        started.set()
        with place.spool.gate.enter(STUDY):
            order.append("received")
            place.receive()

    receiver = threading.Thread(target=receive_again)
    remove, forget = place.spool.remove, place.journal.forget

    def remove_while_it_comes(location: str) -> None:
        receiver.start()
        assert started.wait(60)
        receiver.join(0.1)  # a gate that is open lets it through here
        remove(location)
        order.append("removed")

    def forget_last(rows: list[JournalRow]) -> None:
        forget(rows)
        order.append("forgotten")

    monkeypatch.setattr(place.spool, "remove", remove_while_it_comes)
    monkeypatch.setattr(place.journal, "forget", forget_last)
    place.deliver("sent")
    place.clock.advance(101)
    assert place.sweep().objects == 1
    receiver.join(60)
    assert order == ["removed", "forgotten", "received"]
    with place.spool.open(place.location) as file:
        assert len(file.read()) > 64
    assert place.here()[0]
