"""From the journal to the bus: whole, in order, and after a crash the same again."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from unit.listener.site import RecordingBus

from ichor.clock import ManualClock
from ichor.errors import Unreadable
from ichor.messages import Envelope
from ichor.store.journal import Journal, StoredObject
from ichor.types import Frame, Geometry, Instance, Priority, Slot
from listener import relay as module
from listener.reception import Refusals
from listener.relay import Relay


def stored(number: int, *, association: str = "A", study: str = "1.2.3", stat: bool = False) -> StoredObject:
    return StoredObject(
        sop_instance_uid=f"1.2.{number}", sop_class_uid="1.2.840.10008.5.1.4.1.1.2", series_instance_uid=f"{study}.1",
        study_instance_uid=study, transfer_syntax_uid="1.2.840.10008.1.2.1", location=str(number), length=7,
        file_sha256=f"{number:064x}", association=association, calling_ae="CT1", called_ae="ICHOR",
        sender_priority=None, called_priority=Priority.STAT if stat else None, command_priority_high=False,
        received_at=12.5,
    )  # fmt: skip


class EmptySpool:
    def open(self, location: str) -> BinaryIO:
        return io.BytesIO(location.encode())

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        raise NotImplementedError


def facts(_: BinaryIO, one: StoredObject) -> Instance:
    return Instance(
        sop_instance_uid=one.sop_instance_uid, sop_class_uid=one.sop_class_uid,
        series_instance_uid=one.series_instance_uid, study_instance_uid=one.study_instance_uid,
        transfer_syntax_uid=one.transfer_syntax_uid, modality="CT", location=one.location,
        file_sha256=one.file_sha256, content_sha256="c", identity_sha256="i", patient_sha256="p",
        accession_sha256=None, association=one.association, calling_ae=one.calling_ae, called_ae=one.called_ae,
        priority=one.priority(None), received_at=one.received_at,
    )  # fmt: skip


Start = Callable[..., Relay]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.sqlite")


def relay_of(journal: Journal, bus: RecordingBus, read: Callable[[BinaryIO, StoredObject], Instance] = facts) -> Relay:
    clock = ManualClock()
    return Relay(
        journal=journal, spool=EmptySpool(), bus=bus, clock=clock, read_facts=read, refusals=Refusals(clock)  # type: ignore[arg-type]
    )  # fmt: skip


def end(journal: Journal, association: str) -> None:
    journal.end_association(association, released=True, at=50.0)
    journal.flush()


def test_message_has_at_most_so_many_instances_of_one_association_and_study(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_PER_MESSAGE", 5)
    for number in range(12):
        journal.store(stored(number, study="1.2.3" if number % 3 else "1.2.4"))
    journal.store(stored(99, association="B"))
    end(journal, "A")
    bus = RecordingBus()
    relay = relay_of(journal, bus)
    relay.start()
    bus.wait_for(lambda b: len(b.closed()) == 3)
    assert relay.drain(60)
    received = [d for d in bus.data() if hasattr(d, "instances")]
    assert all(len({(i.association, i.study_instance_uid) for i in d.instances}) == 1 for d in received)
    assert max(len(d.instances) for d in received) <= 5
    assert [
        i.sop_instance_uid for i in bus.instances() if i.association == "A" and i.study_instance_uid == "1.2.3"
    ] == [f"1.2.{n}" for n in range(12) if n % 3]
    assert {(c.association, c.study_instance_uid, c.released) for c in bus.closed()} == {
        ("A", "1.2.3", True), ("A", "1.2.4", True), ("B", "1.2.3", False),
    }  # fmt: skip
    journal.flush()
    assert journal.unassigned() == journal.unpublished_batches() == journal.open_associations() == []


def test_message_has_at_most_so_many_frames_and_one_object_of_more_goes_alone(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_FRAMES", 10)
    sizes = [0, 4, 6, 3, 8, 25, 1, 0, 9, 10, 10]  # 0: one image, no frames

    def enhanced(file: BinaryIO, one: StoredObject) -> Instance:
        geometry = Geometry(rows=2, columns=2)
        frame = Frame(geometry=geometry, slot=Slot())
        return replace(facts(file, one), frames=(frame,) * sizes[int(one.sop_instance_uid.split(".")[-1])])

    for number in range(len(sizes)):
        journal.store(stored(number))
    end(journal, "A")
    bus = RecordingBus()
    relay = relay_of(journal, bus, enhanced)
    relay.start()
    bus.wait_for(lambda b: len(b.closed()) == 1)
    assert relay.drain(60)
    received = [[len(i.frames) for i in d.instances] for d in bus.data() if hasattr(d, "instances")]
    assert all(sum(max(1, n) for n in part) <= 10 or len(part) == 1 for part in received)
    assert [25] in received
    # In order, and not one by one.
    assert [n for part in received for n in part] == sizes
    assert len(received) < len(sizes)
    journal.flush()
    assert journal.unassigned() == journal.unpublished_batches() == []


class DyingBus(RecordingBus):
    """Takes the first publication and dies before it can say so."""

    def publish(self, topic: str, envelopes: Sequence[Envelope]) -> None:
        if self.log:
            self.away = True
        super().publish(topic, envelopes)
        self.away = True
        with self._changed:
            self._changed.notify_all()
        raise ConnectionError("cut off")


def test_after_a_crash_the_same_message_comes_again(journal: Journal, tmp_path: Path) -> None:
    for number in range(4):
        journal.store(stored(number))
    end(journal, "A")
    dying = DyingBus()
    crashed = relay_of(journal, dying)
    crashed.start()
    dying.wait_for(lambda b: b.away)
    assert not crashed.drain(0.3)
    assert len(dying.log) == 1
    journal.close()  # what the crashed relay still tries finds a closed journal

    again = Journal(tmp_path / "journal.sqlite")
    for number in range(4, 7):
        again.store(stored(number, association="B"))
    end(again, "B")
    bus = RecordingBus()
    relay = relay_of(again, bus)
    relay.start()
    bus.wait_for(lambda b: len(b.closed()) == 2)
    assert relay.drain(60)
    assert bus.log[0][1].id == dying.log[0][1].id
    assert bus.log[0][1].data == dying.log[0][1].data
    assert [i.sop_instance_uid for i in bus.instances()] == [f"1.2.{n}" for n in range(7)]
    again.close()


def test_association_cut_off_by_a_crash_is_closed_as_not_released(journal: Journal) -> None:
    journal.store(stored(1))
    bus = RecordingBus()
    relay = relay_of(journal, bus)
    relay.start()
    bus.wait_for(lambda b: bool(b.closed()))
    (closed,) = bus.closed()
    assert (closed.association, closed.released, closed.counts) == ("A", False, {"1.2.3.1": 1})
    assert [i.sop_instance_uid for i in bus.instances()] == ["1.2.1"]
    assert relay.drain(60)


def test_messages_of_an_association_have_one_priority(journal: Journal) -> None:
    journal.store(stored(1, stat=True))
    end(journal, "A")
    bus = RecordingBus()
    relay = relay_of(journal, bus)
    relay.start()
    bus.wait_for(lambda b: bool(b.closed()))
    assert [envelope.priority for _, envelope in bus.log] == [Priority.STAT, Priority.STAT]
    assert relay.drain(60)


def test_object_without_facts_is_told_with_its_reason(journal: Journal) -> None:
    def read(file: BinaryIO, one: StoredObject) -> Instance:
        if one.sop_instance_uid == "1.2.1":
            raise Unreadable("the object is cut short")
        if one.sop_instance_uid == "1.2.2":
            raise ValueError("anything")
        return facts(file, one)

    for number in (1, 2, 3):
        journal.store(stored(number))
    end(journal, "A")
    bus = RecordingBus()
    relay = relay_of(journal, bus, read)
    relay.start()
    bus.wait_for(lambda b: bool(b.closed()))
    assert [i.defect for i in bus.instances()] == ["the object is cut short", "the header cannot be read", None]
    assert relay.drain(60)
