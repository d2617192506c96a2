"""From the receipts log to the journal and the bus: whole, in order, and after a crash the same again."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from descriptors import few_descriptors
from unit.listener.site import RecordingBus

from ichor import metrics
from ichor.clock import Clock, SystemClock
from ichor.errors import CannotStart, OutOfResources, TransientError, Unreadable
from ichor.messages import Envelope, InstancesReceived
from ichor.shards import shard_of
from ichor.store import receipt_codec, receipt_followed, receipt_lane
from ichor.store.journal import Journal, StoredObject
from ichor.store.receipt_tail import is_held, is_settled, settled_mark
from ichor.store.receipts import (
    Carried,
    CommitmentRequested,
    Ended,
    Lane,
    Receipt,
    ReceiptReader,
    ReceiptWriter,
    Record,
    Refused,
    Stored,
)
from ichor.types import Frame, Geometry, Instance, Priority, Slot
from listener import relay as module
from listener import relay_messages, relay_objects
from listener.relay import Relay


def stored(number: int, *, association: str = "A", study: str = "1.2.3", stat: bool = False) -> Stored:
    return Stored(
        sop_instance_uid=f"1.2.{number}", sop_class_uid="1.2.840.10008.5.1.4.1.1.2", series_instance_uid=f"{study}.1",
        study_instance_uid=study, transfer_syntax_uid="1.2.840.10008.1.2.1", location=str(number), length=7,
        association=association, calling_ae="CT1", called_ae="ICHOR", sender_priority=None,
        called_priority=Priority.STAT if stat else None, command_priority_high=False, received_at=12.5,
    )  # fmt: skip


def facts(_: BinaryIO, one: StoredObject) -> Instance:
    return Instance(
        sop_instance_uid=one.sop_instance_uid, sop_class_uid=one.sop_class_uid,
        series_instance_uid=one.series_instance_uid, study_instance_uid=one.study_instance_uid,
        transfer_syntax_uid=one.transfer_syntax_uid, modality="CT", location=one.location,
        file_sha256=one.file_sha256, content_sha256="c", identity_sha256="i", patient_sha256="p",
        accession_sha256=None, association=one.association, calling_ae=one.calling_ae, called_ae=one.called_ae,
        priority=one.priority(None), received_at=one.received_at,
    )  # fmt: skip


class SpoolOfNames:
    """Each object's bytes are its location up to an ``@``."""

    def open(self, location: str) -> BinaryIO:
        return io.BytesIO(location.partition("@")[0].encode())

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        return location.partition("@")[0].encode()[offset : offset + length]

    def is_there(self) -> bool:
        return True


class Requests:
    """Takes requests over, once ``refusing`` is used up."""

    def __init__(self) -> None:
        self.refusing = 0
        self.taken: list[Receipt] = []

    def requested(self, receipt: Receipt) -> None:
        if self.refusing:
            self.refusing -= 1
            raise TransientError("away")
        self.taken.append(receipt)


class Running:
    """A relay in a thread, on the log of ``folder``."""

    def __init__(
        self, folder: Path, bus: RecordingBus, *, read: Callable[[BinaryIO, StoredObject], Instance] = facts,
        spool: Any = None, requests: Requests | None = None, patience: float = 60.0,
        restore: Callable[[], object] = lambda: None, shards: int = 1, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self.bus = bus
        self.journal = Journal(folder / "journal.sqlite", durable=False)
        self.reader = ReceiptReader(folder / "receipts", cursors=self.journal.cursors())
        self.requests = requests or Requests()
        self.relay = Relay(
            reader=self.reader, journal=self.journal, spool=spool or SpoolOfNames(), bus=bus, clock=clock or SystemClock(),
            read_facts=read, commitments=self.requests, restore=restore, shards=shards,
        )  # fmt: skip
        self.stop = threading.Event()
        self.all_told: bool | None = None
        self.patience = patience
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.all_told = self.relay.run(self.stop, patience=self.patience)

    def end(self) -> bool | None:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.reader.close()
        self.journal.close()
        return self.all_told


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, seconds in (("_FIRST_PAUSE", 0.01), ("_LONGEST_PAUSE", 0.02), ("_PAUSE_WHILE_STOPPING", 0.01)):
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr(module, "_LOOK_ROUND", 0.02)
    monkeypatch.setattr(module, "_FORGET", 0.02)
    return tmp_path


@pytest.fixture
def log(place: Path) -> Iterator[ReceiptWriter]:
    writer = ReceiptWriter(place / "receipts", durable=False)
    yield writer
    writer.close()


def write(log: ReceiptWriter, *records: Record, lane: Lane = Lane.ROUTINE) -> None:
    for record in records:
        log.append(lane, record)


def ended(association: str = "A", *, released: bool = True) -> Ended:
    return Ended(association, released, 50.0)


def messages(bus: RecordingBus) -> list[InstancesReceived]:
    return [d for d in bus.data() if isinstance(d, InstancesReceived)]


def until(true: Callable[[], bool]) -> None:
    """Wait for what no bus tells."""
    for _ in range(6000):
        if true():
            return
        threading.Event().wait(0.01)
    pytest.fail("waited in vain")


def uids(bus: RecordingBus) -> list[str]:
    return [i.sop_instance_uid for i in bus.instances()]


def test_what_is_about_a_study_goes_to_its_shard_in_order(place: Path, log: ReceiptWriter) -> None:
    studies = [f"1.2.{n}" for n in range(100, 112)]
    write(log, *(stored(n, study=study) for n, study in enumerate(2 * studies)), ended())
    bus = RecordingBus()
    relay = Running(place, bus, shards=4)
    bus.wait_for(lambda b: len(b.closed()) == len(studies))
    log.close()
    assert relay.end() is True
    assert len({topic for topic, _ in bus.log}) > 1
    assert all(topic == shard_of(envelope.subject, 4).topic for topic, envelope in bus.log)
    assert sorted(uids(bus)) == sorted(f"1.2.{n}" for n in range(24))
    for study in studies:
        kinds = [envelope.type for _, envelope in bus.log if envelope.subject == study]
        assert kinds[-1] == "ichor.association.closed.v1"
        assert kinds.count(kinds[-1]) == 1


def test_message_has_at_most_so_many_instances_of_one_association_and_study(
    place: Path, log: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_PER_BATCH", 5)
    write(
        log, *(stored(n, study="1.2.3" if n % 3 else "1.2.4") for n in range(12)), stored(99, association="B"), ended()
    )
    running = Running(place, RecordingBus())
    running.bus.wait_for(lambda b: len(b.closed()) == 2)
    log.close()
    running.bus.wait_for(lambda b: len(b.closed()) == 3)
    assert all(len({(i.association, i.study_instance_uid) for i in m.instances}) == 1 for m in messages(running.bus))
    assert 1 < max(len(m.instances) for m in messages(running.bus)) <= 5
    assert [
        i.sop_instance_uid for i in running.bus.instances() if i.association == "A" and i.study_instance_uid == "1.2.3"
    ] == [f"1.2.{n}" for n in range(12) if n % 3]
    assert {(c.association, c.study_instance_uid, c.released) for c in running.bus.closed()} == {
        ("A", "1.2.3", True), ("A", "1.2.4", True), ("B", "1.2.3", False),
    }  # fmt: skip
    journal = running.journal
    until(lambda: journal.open_associations() == [])
    assert (journal.unassigned(), journal.unpublished_batches()) == ([], [])
    assert running.end() is True


def test_message_has_at_most_so_many_frames_and_one_object_of_more_goes_alone(
    place: Path, log: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_messages, "MOST_FRAMES", 10)
    sizes = [0, 4, 6, 3, 8, 25, 1, 0, 9, 10, 10]  # 0: one image, no frames

    def enhanced(file: BinaryIO, one: StoredObject) -> Instance:
        frame = Frame(geometry=Geometry(rows=2, columns=2), slot=Slot())
        return replace(facts(file, one), frames=(frame,) * sizes[int(one.sop_instance_uid.split(".")[-1])])

    write(log, *(stored(number) for number in range(len(sizes))), ended())
    running = Running(place, RecordingBus(), read=enhanced)
    running.bus.wait_for(lambda b: len(b.closed()) == 1)
    log.close()
    assert running.end() is True
    received = [[len(i.frames) for i in m.instances] for m in messages(running.bus)]
    assert all(sum(max(1, n) for n in part) <= 10 or len(part) == 1 for part in received)
    assert [25] in received
    assert [n for part in received for n in part] == sizes  # in order, and not one by one
    assert len(received) < len(sizes)


class DyingBus(RecordingBus):
    """Takes the first publication and dies before it can say so."""

    def publish(self, topic: str, envelopes: Sequence[Envelope]) -> None:
        if self.log:
            self.away = True
        super().publish(topic, envelopes)
        with self.published:
            self.away = True
            self.published.notify_all()
        raise ConnectionError("cut off")


def test_after_a_crash_the_same_message_comes_again(place: Path, log: ReceiptWriter) -> None:
    write(log, *(stored(number) for number in range(4)), ended())
    dying = DyingBus()
    crashed = Running(place, dying, patience=0.05)
    dying.wait_for(lambda b: b.away)
    assert crashed.end() is False
    assert dying.log[0][1].id.startswith("instances-A-")

    write(log, *(stored(number, association="B") for number in range(4, 7)), ended("B"))
    again = Running(place, RecordingBus())
    again.bus.wait_for(lambda b: len(b.closed()) == 2)
    log.close()
    assert again.end() is True
    repeated = [envelope for _, envelope in again.bus.log[: len(dying.log)]]
    assert [(e.id, e.data) for e in repeated] == [(e.id, e.data) for _, e in dying.log]
    assert uids(again.bus) == [f"1.2.{n}" for n in range(7)]


def test_association_of_a_receiver_that_died_is_closed_as_not_released(place: Path, log: ReceiptWriter) -> None:
    write(log, stored(1))
    running = Running(place, RecordingBus())
    running.bus.wait_for(lambda b: bool(b.instances()))
    other = ReceiptWriter(place / "receipts", durable=False)
    write(other, stored(2, association="B"), ended("B"))
    running.bus.wait_for(lambda b: bool(b.closed()))
    assert [c.association for c in running.bus.closed()] == ["B"]  # that of a living one is open
    log.close()
    running.bus.wait_for(lambda b: len(b.closed()) == 2)
    closed = running.bus.closed()[1]
    assert (closed.association, closed.released, closed.counts) == ("A", False, {"1.2.3.1": 1})
    other.close()
    assert running.end() is True


def test_messages_of_an_association_have_one_priority(place: Path, log: ReceiptWriter) -> None:
    write(log, stored(1, stat=True), ended(), lane=Lane.STAT)
    running = Running(place, RecordingBus())
    running.bus.wait_for(lambda b: bool(b.closed()))
    assert [envelope.priority for _, envelope in running.bus.log] == [Priority.STAT, Priority.STAT]
    log.close()
    assert running.end() is True


def test_urgent_objects_go_before_a_long_backlog(
    place: Path, log: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_PER_BATCH", 5)
    monkeypatch.setattr(module, "_LONGEST_WORK", 60.0)
    write(log, *(stored(number) for number in range(200)), ended())
    write(log, *(stored(number, association="S") for number in range(900, 905)), ended("S"), lane=Lane.STAT)
    running = Running(place, RecordingBus())
    running.bus.wait_for(lambda b: len(b.closed()) == 2)
    order = [i.association for i in running.bus.instances()]
    assert order[:5] == ["S"] * 5
    assert running.bus.closed()[0].association == "S"
    log.close()
    assert running.end() is True


def test_what_takes_long_now_and_then_is_not_most_of_what_is_done(
    place: Path, log: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing back walks the files of all dead writers, of which there may be hundreds."""
    monkeypatch.setattr(module, "_MOST_PER_BATCH", 2)
    late = [0.0]

    class Late(SystemClock):
        def monotonic(self) -> float:
            return super().monotonic() + sum(late)

    write(log, *(stored(number) for number in range(100)), ended())
    running = Running(place, RecordingBus(), restore=lambda: late.append(20.0), clock=Late())
    running.bus.wait_for(lambda b: bool(b.closed()))
    assert len(running.bus.instances()) == 100
    assert len(late) - 1 <= 2
    log.close()
    assert running.end() is True


def test_object_without_facts_is_told_with_its_reason(place: Path, log: ReceiptWriter) -> None:
    def read(file: BinaryIO, one: StoredObject) -> Instance:
        if one.sop_instance_uid == "1.2.1":
            raise Unreadable("the object is cut short")
        if one.sop_instance_uid == "1.2.2":
            raise ValueError("anything")
        return facts(file, one)

    write(log, *(stored(number) for number in (1, 2, 3)), ended())
    running = Running(place, RecordingBus(), read=read)
    running.bus.wait_for(lambda b: bool(b.closed()))
    told = [i.defect for i in running.bus.instances()]
    assert told == ["the object is cut short", "the header cannot be read", None]
    log.close()
    assert running.end() is True


@pytest.mark.parametrize("whole", [7, 3])
def test_digest_is_that_of_the_file(
    place: Path, log: ReceiptWriter, monkeypatch: pytest.MonkeyPatch, whole: int
) -> None:
    monkeypatch.setattr("listener.relay_objects._WHOLE", whole)
    write(log, stored(1), stored(2), stored(1)._replace(location="1@9"), ended())
    running = Running(place, RecordingBus())
    running.bus.wait_for(lambda b: bool(b.closed()))
    rows = running.journal.by_study("1.2.3")
    assert [r.stored.file_sha256 for r in rows] == [hashlib.sha256(name).hexdigest() for name in (b"1", b"2")]
    assert running.bus.closed()[0].counts == {"1.2.3.1": 3}  # the same again is counted, and told once
    assert uids(running.bus) == ["1.2.1", "1.2.2"]
    log.close()
    assert running.end() is True


def test_refusals_are_told_once_however_often_it_is_tried(place: Path, log: ReceiptWriter) -> None:
    bus = RecordingBus()
    bus.away = True
    write(log, Refused("CT1", "0xA900", "a UID is not valid", "", 3.0), stored(1), ended())
    running = Running(place, bus)
    bus.wait_for(lambda b: b.refused >= 3)
    assert running.journal.cursors() == {}  # nothing but the log remembers it
    bus.away = False
    bus.wait_for(lambda b: bool(b.closed()))
    (refusal,) = bus.refusals()
    assert (refusal.calling_ae, refusal.status, refusal.reason, refusal.at) == (
        "CT1",
        "0xA900",
        "a UID is not valid",
        3.0,
    )
    log.close()
    assert running.end() is True


def test_request_for_commitment_is_handed_over_before_the_log_forgets_it(place: Path, log: ReceiptWriter) -> None:
    requests = Requests()
    requests.refusing = 3
    asked = CommitmentRequested("A", "CT1", "ICHOR", "1.2.77", (("1.2.840.10008.5.1.4.1.1.2", "1.2.1"),), 4.0)
    write(log, stored(1), asked, ended())
    running = Running(place, RecordingBus(), requests=requests)
    running.bus.wait_for(lambda b: bool(b.closed()))
    assert [receipt.record for receipt in requests.taken] == [asked]
    assert requests.refusing == 0
    assert uids(running.bus) == ["1.2.1"]
    log.close()
    assert running.end() is True


@pytest.mark.parametrize("error", [TransientError, CannotStart])
def test_an_absent_bus_and_one_that_refuses_are_said_once_stop_the_reading_and_lose_nothing(
    place: Path, log: ReceiptWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    error: type[TransientError | CannotStart],
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "_MOST_PER_BATCH", 10)
    bus = RecordingBus()
    bus.away, bus.error = True, error
    write(log, *(stored(number) for number in range(100)), ended())
    running = Running(place, bus)
    bus.wait_for(lambda b: b.refused >= 5)
    assert 0 < len(running.journal.by_study("1.2.3")) <= 10
    bus.away = False
    bus.wait_for(lambda b: bool(b.closed()))
    assert uids(bus) == [f"1.2.{n}" for n in range(100)]
    assert bus.closed()[0].counts == {"1.2.3.1": 100}
    log.close()
    assert running.end() is True
    said = [record.message for record in caplog.records if record.name == module.__name__]
    assert said.count("relay waits: away") == 1, said


class LossySpool(SpoolOfNames):
    """Does not have object 1; the disk gives 2 at the second try and 3 never."""

    def __init__(self) -> None:
        self.tries = 0

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        if location == "1":
            raise KeyError(location)
        if location == "2":
            self.tries += 1
        if location == "3" or (location == "2" and self.tries == 1):
            raise OSError(5, "Input/output error")
        return super().read_range(location, offset, length)


def test_object_that_is_lost_has_no_row_and_one_that_cannot_be_read_has_a_defect(
    place: Path, log: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_objects, "_PATIENCE", 0.0)
    lost = metrics.OBJECTS_LOST._value.get()
    write(log, *(stored(number) for number in (1, 2, 3, 4)), ended())
    running = Running(place, RecordingBus(), spool=LossySpool())
    running.bus.wait_for(lambda b: bool(b.closed()))
    assert [(i.sop_instance_uid, i.defect) for i in running.bus.instances()] == [
        ("1.2.2", None), ("1.2.3", "the header cannot be read"), ("1.2.4", None),
    ]  # fmt: skip
    assert metrics.OBJECTS_LOST._value.get() == lost + 1
    assert running.bus.closed()[0].counts == {"1.2.3.1": 3}
    log.close()
    assert running.end() is True


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), TransientError("the store is away")])
@pytest.mark.parametrize("started_anew", [False, True])
def test_a_store_that_is_away_while_a_header_is_read_costs_the_object_nothing(
    place: Path, log: ReceiptWriter, error: Exception, started_anew: bool
) -> None:
    errors = [error]

    def read(file: BinaryIO, one: StoredObject) -> Instance:
        if errors:
            raise errors.pop()
        return facts(file, one)

    if started_anew:
        with contextlib.closing(Journal(place / "journal.sqlite", durable=False)) as journal:
            one = StoredObject(file_sha256=hashlib.sha256(b"1").hexdigest(), **stored(1)._asdict())
            journal.take([(one, "gone")], cursors={}, holds=lambda *_: True)
    else:
        write(log, stored(1), ended())
    running = Running(place, RecordingBus(), read=read)
    running.bus.wait_for(lambda b: bool(b.instances()))
    assert [one.defect for one in running.bus.instances()] == [None]
    assert not errors
    log.close()
    assert running.end() is True


def test_a_volume_that_is_away_for_a_while_is_said_once_by_its_error_and_costs_no_object(
    place: Path, log: ReceiptWriter, caplog: pytest.LogCaptureFixture
) -> None:
    class StaleSpool(SpoolOfNames):
        tries = 0

        def read_range(self, location: str, offset: int, length: int) -> bytes:
            self.tries += 1
            if self.tries <= 40:
                raise OSError(errno.ESTALE, "Stale file handle", "1.2.840.1")
            return super().read_range(location, offset, length)

    write(log, stored(1), stored(2), ended())
    running = Running(place, RecordingBus(), spool=StaleSpool())
    running.bus.wait_for(lambda b: bool(b.closed()))
    assert [one.defect for one in running.bus.instances()] == [None, None]
    rows = running.journal.by_study("1.2.3")
    assert [row.stored.file_sha256 for row in rows] == [hashlib.sha256(name).hexdigest() for name in (b"1", b"2")]
    log.close()
    assert running.end() is True
    said = [record.message for record in caplog.records if record.name == module.__name__]
    assert said == ["relay waits: Stale file handle"]


def test_more_unread_files_than_a_process_may_open_are_told(
    place: Path, log: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_followed, "_MOST_OPEN", 8)
    monkeypatch.setattr(receipt_lane, "ROTATE_AT", 1)
    write(log, *(stored(number) for number in range(150)), ended())
    log.close()
    assert len(list((place / "receipts").glob("*.routine.log"))) > 150
    with few_descriptors(50):
        running = Running(place, RecordingBus())
        running.bus.wait_for(lambda b: bool(b.closed()))
        until(lambda: not any((place / "receipts").glob("[0-9a-f]*.log")))
        assert running.end() is True
    assert uids(running.bus) == [f"1.2.{number}" for number in range(150)]


@pytest.mark.parametrize("damage", ["gone", "zeros"])
def test_object_whose_bytes_a_crash_took_is_told_anew_when_it_comes_again(
    place: Path, log: ReceiptWriter, damage: str
) -> None:
    class AfterTheCrash(SpoolOfNames):
        def open(self, location: str) -> BinaryIO:
            if location == "7":
                if damage == "gone":
                    raise KeyError(location)
                return io.BytesIO(bytes(1))
            return super().open(location)

    bus = RecordingBus()
    write(log, stored(7), stored(8), ended())
    first = Running(place, bus, patience=0.1)
    bus.wait_for(lambda b: len(b.closed()) == 1)
    first.end()
    before = metrics.OBJECTS_LOST._value.get()
    again = [stored(n, association="B")._replace(location=f"{n}@again", received_at=20.0) for n in (7, 8)]
    write(log, *again, ended("B"))
    second = Running(place, bus, spool=AfterTheCrash(), patience=0.1)
    bus.wait_for(lambda b: len(b.closed()) == 2)
    second.end()
    assert [i.location for i in bus.instances()] == ["7", "8", "7@again"]
    assert bus.closed()[1].counts == {"1.2.3.1": 2}
    assert metrics.OBJECTS_LOST._value.get() == before + 1


class UnmountedSpool(SpoolOfNames):
    """Its volume is away until ``mounted``."""

    def __init__(self) -> None:
        self.mounted = threading.Event()
        self.asked = threading.Event()

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        if not self.mounted.is_set():
            raise KeyError(location)
        return super().read_range(location, offset, length)

    def is_there(self) -> bool:
        self.asked.set()
        return self.mounted.is_set()


def test_no_object_is_lost_while_the_spool_is_not_mounted(place: Path, log: ReceiptWriter) -> None:
    lost = metrics.OBJECTS_LOST._value.get()
    write(log, stored(1), stored(2), ended())
    spool = UnmountedSpool()
    running = Running(place, RecordingBus(), spool=spool)
    for _ in range(3):
        spool.asked.clear()
        assert spool.asked.wait(60)
    assert running.journal.cursors() == {}
    spool.mounted.set()
    running.bus.wait_for(lambda b: bool(b.closed()))
    assert uids(running.bus) == ["1.2.1", "1.2.2"]
    assert metrics.OBJECTS_LOST._value.get() == lost
    log.close()
    assert running.end() is True


def test_what_a_newer_version_wrote_waits_and_everything_else_is_told(
    place: Path, log: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = receipt_codec.decode

    def decode(body: bytes) -> Record:
        record = known(body)
        if isinstance(record, Ended) and record.association == "Z":
            raise CannotStart("the receipts log has a record that this version of Ichor cannot read")
        return record

    monkeypatch.setattr("ichor.store.receipt_followed.decode", decode)
    newer = ReceiptWriter(place / "receipts", durable=False)
    for lane in Lane:
        write(newer, ended("Z"), stored(9, association="N"), lane=lane)
    errors = metrics.LOOP_ERRORS.labels("relay")._value.get()
    write(log, stored(1), ended())
    running = Running(place, RecordingBus(), patience=0.1)
    running.bus.wait_for(lambda b: bool(b.closed()))
    write(log, stored(2, association="B"), ended("B"))
    running.bus.wait_for(lambda b: len(b.closed()) == 2)
    assert uids(running.bus) == ["1.2.1", "1.2.2"]
    assert metrics.LOOP_ERRORS.labels("relay")._value.get() == errors + 1
    newer.close()
    log.close()
    assert running.end() is False
    assert list((place / "receipts").glob(f"{newer.name}*"))


def test_a_stop_waits_for_what_living_writers_still_send(place: Path, log: ReceiptWriter) -> None:
    running = Running(place, RecordingBus())
    write(log, stored(1))
    running.bus.wait_for(lambda b: len(b.instances()) == 1)
    running.stop.set()
    write(log, stored(2), ended())
    running.bus.wait_for(lambda b: bool(b.closed()))
    assert running.thread.is_alive()
    write(log, stored(3, association="B"))
    log.close()
    assert running.end() is True
    assert uids(running.bus) == ["1.2.1", "1.2.2", "1.2.3"]
    assert [(c.association, c.released) for c in running.bus.closed()] == [("A", True), ("B", False)]


def test_a_stop_does_not_wait_for_ever(place: Path, log: ReceiptWriter) -> None:
    running = Running(place, RecordingBus(), patience=0.1)
    assert running.end() is False
    log.close()


def test_the_log_of_a_dead_writer_goes_once_it_is_told(place: Path, log: ReceiptWriter) -> None:
    write(log, stored(1), ended())
    running = Running(place, RecordingBus())
    running.bus.wait_for(lambda b: bool(b.closed()))
    log.close()
    other = ReceiptWriter(place / "receipts", durable=False)
    for number in range(2, 10_000):
        write(other, stored(number, association="B"))
        if not any(name.name.startswith(log.name) for name in (place / "receipts").iterdir()):
            break
        threading.Event().wait(0.01)
    else:
        pytest.fail("it is still there")
    other.close()
    assert running.end() is True
    journal = Journal(place / "journal.sqlite")
    assert not any(name.startswith(log.name) for name in journal.cursors())
    journal.close()


def carry(place: Path, *records: Stored) -> None:
    """A writer that died and left a log that carries what the spool may lack."""

    def fail(_: int) -> None:
        raise OutOfResources("not synced")

    writer = ReceiptWriter(place / "receipts", durable=False)
    for record in records:
        writer.append(Lane.ROUTINE, record, carried=Carried([bytes(record.length)], 0, fail))
    writer.close()


def write_back(place: Path) -> None:
    """As `ichor.store.restore` marks what it has written back."""
    for path in (place / "receipts").glob("[0-9a-f]*.log"):
        if not is_held(path):
            with path.open("r+b") as file:
                if not is_settled(file.fileno(), path.name):
                    file.seek(0, 2)
                    file.write(settled_mark(path.name))


def test_what_the_log_of_a_dead_writer_carries_is_told_once_the_spool_has_it_and_all_else_at_once(
    place: Path, log: ReceiptWriter, caplog: pytest.LogCaptureFixture
) -> None:
    bus, full = RecordingBus(), threading.Event()
    full.set()

    def restore() -> None:
        if full.is_set():
            raise TransientError("No space left on device")
        write_back(place)

    carry(place, stored(1), stored(2))
    running = Running(place, bus, restore=restore)
    write(log, stored(3), ended())
    bus.wait_for(lambda b: bool(b.closed()))
    until(lambda: bool(running.reader.waiting()))
    write(log, stored(4, association="B"), ended("B"))
    bus.wait_for(lambda b: len(b.closed()) == 2)
    assert uids(bus) == ["1.2.3", "1.2.4"]
    assert caplog.text.count("not in the spool yet: No space left on device") == 1
    full.clear()
    bus.wait_for(lambda b: len(uids(b)) == 4)
    assert uids(bus) == ["1.2.3", "1.2.4", "1.2.1", "1.2.2"]
    log.close()
    assert running.end() is True


def test_what_could_not_be_written_back_is_left_for_the_next_start(place: Path, log: ReceiptWriter) -> None:
    def restore() -> None:
        raise TransientError("Input/output error")

    carry(place, stored(1))
    write(log, stored(2))
    log.close()
    bus = RecordingBus()
    assert Running(place, bus, restore=restore).end() is False
    assert uids(bus) == ["1.2.2"]
    bus = RecordingBus()
    running = Running(place, bus, restore=lambda: write_back(place))
    assert running.end() is True
    assert uids(bus) == ["1.2.1"]
