"""What is decided about requests for storage commitment, by the journal, and what survives in between."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.away import Away
from unit.listener.commitment_data import CT

from ichor.bus.sqlite import SqliteBus
from ichor.clock import SystemClock
from ichor.errors import CannotStart, TransientError
from ichor.messages import COMMITMENTS, INSTANCES, CommitmentDecided, ContentAnnounced, open_envelope
from ichor.retention import Ages, sweep
from ichor.shards import shard_of
from ichor.store import receipt_reader
from ichor.store.blobs import FileBlobs
from ichor.store.journal import Journal, JournalRow, StoredObject
from ichor.store.receipts import CommitmentRequested, Lane, Receipt, ReceiptReader, ReceiptWriter, Record, Stored
from ichor.store.shared import Receivers, register
from ichor.store.spool import Address, FileSpool
from listener.commitment import ReportAddress
from listener.commitment_decisions import Commitments
from listener.commitment_findings import Answering
from listener.commitment_reports import ReportFailed

MR = "1.2.840.10008.5.1.4.1.1.4"
HERE = {"CT1": ReportAddress("127.0.0.1", 104)}


class Desk:
    """The relay's side of a data folder, its steps taken by hand; ``sent``: the reports that were taken."""

    def __init__(self, root: Path, *, store: Path | None = None, bus: SqliteBus | None = None) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        name = register(store, root) if store else ""
        self.receivers = Receivers(store, name, lost_after=3600.0) if store else None
        self.answering = Answering(self.receivers)
        self.spool = FileSpool((store or root) / "spool", receiver=name)
        self.writer = ReceiptWriter(root / "receipts")
        self.bus = bus or SqliteBus(root / "bus.sqlite", clock=SystemClock())
        self.journal = Journal(root / "journal.sqlite")
        self.reader = ReceiptReader(root / "receipts", cursors=self.journal.cursors())
        self.sent: list[CommitmentDecided] = []
        self.away = False
        self.tried = threading.Event()
        self.running: Commitments | None = None

    def send(self, address: ReportAddress, decided: CommitmentDecided) -> None:
        assert address == HERE["CT1"]
        self.tried.set()
        if self.away:
            raise ReportFailed("no association to the sender")
        self.sent.append(decided)

    def commitments(self, **changes: Any) -> Commitments:
        arguments: dict[str, Any] = {"addresses": HERE, "enabled": True, "send": self.send, "answering": self.answering}
        arguments |= changes
        return Commitments(
            journal=self.journal, receipts=self.root / "receipts", spool=self.spool, bus=self.bus, clock=SystemClock(),
            **arguments,
        )  # fmt: skip

    def start(self, **changes: Any) -> Commitments:
        self.running = self.commitments(**changes)
        self.running.start()
        return self.running

    def end(self) -> None:
        if self.running is not None:
            self.running.stop(20)
            self.running = None

    def close(self) -> None:
        self.end()
        self.journal.close()
        self.writer.close()
        self.reader.close()
        if self.receivers is not None:
            self.receivers.close()

    def store(self, sop: str, *, study: str = "1.2.3", lane: Lane = Lane.ROUTINE, content: bytes = b"pixels") -> None:
        syntax = "1.2.840.10008.1.2.1"
        placed = self.spool.put(Address(study, study + ".1", sop, CT, syntax), [content])
        self.writer.append(
            lane,
            Stored(sop, CT, study + ".1", study, syntax, *placed, "a1", "CT1", "ICHOR", None, None, False, time.time()),
        )  # fmt: skip

    def asked(self, *, waiting: int) -> bool:
        """So many requests, and nothing else, wait to be decided."""
        return [lag.waiting for lag in self.bus.lag() if lag.group == "commitment.decide"] == [waiting]

    def ask(self, *pairs: tuple[str, str], transaction: str = "1.2.9", calling: str = "CT1") -> Receipt:
        """As if it was received; the receipt, as the relay reads it."""
        record = CommitmentRequested("a1", calling, "ICHOR", transaction, pairs, time.time())
        return Receipt(record, f"file-{transaction}", 1, "writer")

    def take(self, *, publish: bool = True) -> list[JournalRow]:
        """What the relay does with all that is in the receipts."""
        receipts = [receipt for lane in Lane for receipt in self.reader.read(lane, limit=1000)]
        entries = []
        for receipt in receipts:
            assert isinstance(receipt.record, Stored)
            with self.spool.open(receipt.record.location) as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            entries.append((StoredObject(file_sha256=digest, **receipt.record._asdict()), receipt.writer))
        rows = self.journal.take(entries, cursors={receipt.file: receipt.end for receipt in receipts})
        self.journal.assign_batches({f"batch-{time.time_ns()}": rows})
        if publish:
            self.journal.mark_published(rows)
        return rows

    def announced(self) -> list[ContentAnnounced]:
        found = [open_envelope(envelope) for _, envelope in self.bus.read(INSTANCES)]
        return [data for data in found if isinstance(data, ContentAnnounced)]

    def decided(self) -> list[CommitmentDecided]:
        found = [open_envelope(envelope) for _, envelope in self.bus.read(COMMITMENTS)]
        return [data for data in found if isinstance(data, CommitmentDecided)]

    def committed(self, sop: str) -> list[bool]:
        return [row.committed for row in self.journal.by_instance(sop)]

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.01)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()
    made.bus.close()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Desk, Desk]]:
    """Two receivers with one bus and one store."""
    (tmp_path / "store").mkdir()
    bus = SqliteBus(tmp_path / "bus.sqlite", clock=SystemClock())
    desks = (
        Desk(tmp_path / "a", store=tmp_path / "store", bus=bus),
        Desk(tmp_path / "b", store=tmp_path / "store", bus=bus),
    )
    yield desks
    for desk in desks:
        desk.close()
    bus.close()


def test_what_is_here_is_committed_and_what_is_not_is_named_with_its_reason(desk: Desk) -> None:
    for sop in ("1.2.3.4.1", "1.2.3.4.2"):
        desk.store(sop)
    desk.store("1.2.3.4.3", study="1.2.5")
    desk.take()
    (lost,) = desk.journal.by_instance("1.2.3.4.3")
    (desk.root / "spool" / lost.stored.location.partition("@")[0]).unlink()
    asked = ((CT, "1.2.3.4.1"), (MR, "1.2.3.4.2"), (CT, "1.2.3.4.3"), (CT, "1.2.3.4.99"))
    desk.start().requested(desk.ask(*asked))
    desk.until(lambda: desk.sent)
    (decided,) = desk.sent
    assert decided.committed == ((CT, "1.2.3.4.1"),)
    assert decided.failed == ((MR, "1.2.3.4.2", 0x0119), (CT, "1.2.3.4.3", 0x0110), (CT, "1.2.3.4.99", 0x0112))
    assert (decided.transaction_uid, decided.calling_ae, decided.called_ae) == ("1.2.9", "CT1", "ICHOR")
    kept = {sop: desk.committed(sop) for sop in ("1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3")}
    assert kept == {"1.2.3.4.1": [True], "1.2.3.4.2": [False], "1.2.3.4.3": [False]}


def test_the_shard_of_each_study_is_told_what_its_sender_believes_to_have_sent(desk: Desk) -> None:
    studies = {f"1.2.{n}": f"1.2.{n}.4.1" for n in range(10, 16)}
    for study, sop in studies.items():
        desk.store(sop, study=study)
    desk.take()
    desk.start(shards=4).requested(desk.ask(*((CT, sop) for sop in studies.values())))
    desk.until(lambda: desk.sent)
    assert desk.announced() == []
    for study, sop in studies.items():
        told = [open_envelope(e) for _, e in desk.bus.read(shard_of(study, 4).topic, subject=study)]
        assert [data.sop_instance_uids for data in told if isinstance(data, ContentAnnounced)] == [(sop,)]


def test_nothing_is_decided_before_all_that_was_received_before_is_told(desk: Desk) -> None:
    desk.store("1.2.3.4.1", lane=Lane.STAT)
    desk.take()
    desk.store("1.2.3.4.2", lane=Lane.ROUTINE)
    asked = desk.start().requested
    asked(desk.ask((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2")))
    waited = threading.Event()
    waited.wait(0.3)
    assert (desk.announced(), desk.sent) == ([], [])
    rows = desk.take(publish=False)  # in the journal, but not on the bus
    waited.wait(0.3)
    assert (desk.announced(), desk.sent) == ([], [])
    desk.journal.mark_published(rows)
    desk.until(lambda: desk.sent)
    assert desk.sent[0].failed == ()
    (announced,) = desk.announced()
    assert set(announced.sop_instance_uids) == {"1.2.3.4.1", "1.2.3.4.2"}
    assert (announced.association, announced.calling_ae, announced.unknown) == ("a1", "CT1", 0)


def test_a_request_that_waits_reads_the_log_once_and_waits_for_nothing_that_came_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        desk.store(f"1.2.3.4.{number}")
    decoded: list[bytes] = []
    looks: list[int] = []
    real, cursors = receipt_reader.decode, desk.journal.cursors

    def decode(body: bytes) -> Record:
        if threading.current_thread().name == "commitment.decide":
            decoded.append(body)
        return real(body)

    def look() -> dict[str, int]:
        looks.append(len(decoded))
        return cursors()

    monkeypatch.setattr(receipt_reader, "decode", decode)
    monkeypatch.setattr(desk.journal, "cursors", look)
    desk.start().requested(desk.ask((CT, "1.2.3.4.3"), (CT, "1.2.77")))
    desk.until(lambda: len(looks) > 3)
    assert (looks[0], set(looks[1:])) == (0, {5})
    assert desk.sent == []
    desk.take()
    desk.store("1.2.77")
    desk.until(lambda: desk.sent)
    assert desk.sent[0].committed == ((CT, "1.2.3.4.3"),)
    assert [pair[1] for pair in desk.sent[0].failed] == ["1.2.77"]
    assert len(decoded) == 5


def test_what_is_off_or_has_no_address_is_evidence_and_keeps_nothing(desk: Desk) -> None:
    desk.store("1.2.3.4.1")
    desk.store("1.2.5.1", study="1.2.5")
    desk.take()
    pairs = ((CT, "1.2.3.4.1"), (CT, "1.2.5.1"), (CT, "1.2.3.4.99"))
    commitments = desk.start(enabled=False)
    commitments.requested(desk.ask(*pairs))
    commitments.requested(desk.ask(*pairs, transaction="1.2.10", calling="NOBODY"))
    desk.until(lambda: len(desk.announced()) == 4 and desk.sent)
    assert {(a.calling_ae, a.study_instance_uid, a.sop_instance_uids, a.unknown) for a in desk.announced()} == {
        (calling, study, (sop,), 1)
        for calling in ("CT1", "NOBODY")
        for study, sop in (("1.2.3", "1.2.3.4.1"), ("1.2.5", "1.2.5.1"))
    }
    (decided,) = desk.sent
    assert (decided.committed, decided.failed) == ((), tuple((*pair, 0x0110) for pair in pairs))
    assert not any(desk.committed("1.2.3.4.1"))
    desk.end()
    # Switched on meanwhile: who has no address was answered with a failure, and is committed nothing.
    desk.start().requested(desk.ask((CT, "1.2.3.4.1"), transaction="1.2.11", calling="NOBODY"))
    desk.until(lambda: len(desk.announced()) == 5)
    desk.until(lambda: all(lag.waiting == 0 for lag in desk.bus.lag() if lag.topic == COMMITMENTS))
    assert not any(desk.committed("1.2.3.4.1"))
    assert len(desk.sent) == 1


def test_a_request_that_is_read_again_is_reported_once_and_a_repeated_transaction_twice(desk: Desk) -> None:
    desk.store("1.2.3.4.1")
    desk.take()
    receipt = desk.ask((CT, "1.2.3.4.1"))
    commitments = desk.start()
    for again in (receipt, receipt, receipt._replace(end=2)):
        commitments.requested(again)
    desk.until(lambda: len(desk.sent) == 2)
    desk.until(lambda: all(lag.waiting == 0 for lag in desk.bus.lag() if lag.topic == COMMITMENTS))
    first, second = desk.sent
    assert dataclasses.replace(first, at=second.at) == second


def test_a_decision_that_was_cut_off_from_its_report_is_reported_by_the_next_process(desk: Desk) -> None:
    desk.store("1.2.3.4.1")
    desk.take()
    desk.away = True
    desk.start().requested(desk.ask((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2")))
    assert desk.tried.wait(60)
    desk.end()
    (decided,) = desk.decided()
    assert desk.sent == []
    desk.away = False
    # What arrives after the decision does not change it.
    desk.store("1.2.3.4.2")
    desk.take()
    desk.start()
    desk.until(lambda: desk.sent)
    assert desk.sent == desk.decided() == [decided]
    assert decided.failed == ((CT, "1.2.3.4.2", 0x0112),)


def test_a_request_is_decided_though_nobody_ran_when_it_came(desk: Desk) -> None:
    desk.commitments().requested(desk.ask((CT, "1.2.3.4.1")))
    desk.start()
    desk.until(lambda: desk.sent)
    assert desk.sent[0].failed == ((CT, "1.2.3.4.1", 0x0112),)


def test_a_bus_that_is_away_leaves_the_request_to_the_receipts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise TransientError("away")

    commitments = desk.commitments()
    monkeypatch.setattr(desk.bus, "publish", away)
    with pytest.raises(TransientError):
        commitments.requested(desk.ask((CT, "1.2.3.4.1")))


def test_a_bus_that_is_not_for_this_version_is_said_once_by_each_group_and_asked_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[None] = []

    class Newer(Away):
        def receive(self, _timeout: float) -> None:
            asked.append(None)
            raise CannotStart("written by a newer Ichor")

    monkeypatch.setattr(desk.bus, "subscribe", lambda *_, **__: Newer())
    monkeypatch.setattr("listener.commitment_decisions._PAUSE", 0.01)
    desk.start()
    desk.until(lambda: len(asked) > 10)
    desk.end()
    assert [record.message for record in caplog.records] == ["commitment waits: written by a newer Ichor"] * 2


def test_a_decision_that_fails_whenever_it_is_tried_is_told_as_failed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.store("1.2.3.4.1")
    desk.take()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("listener.commitment_decisions._LEASE", 0.05)
    monkeypatch.setattr("listener.commitment_decisions._PAUSE", 0.01)
    monkeypatch.setattr(desk.journal, "commit_objects", broken)
    desk.start().requested(desk.ask((CT, "1.2.3.4.1")))
    desk.until(lambda: desk.sent)
    assert (desk.sent[0].committed, desk.sent[0].failed) == ((), ((CT, "1.2.3.4.1", 0x0110),))


def test_a_large_request_is_committed_whole(desk: Desk) -> None:
    sops = [f"1.2.3.4.{n}" for n in range(1201)]
    for sop in sops:
        desk.store(sop)
    desk.take()
    desk.take()
    desk.start().requested(desk.ask(*((CT, sop) for sop in sops)))
    desk.until(lambda: desk.sent)
    assert [sop for _, sop in desk.sent[0].committed] == sops
    assert all(all(desk.committed(sop)) for sop in sops)


def test_what_is_committed_survives_retention_and_what_is_not_goes(desk: Desk) -> None:
    for study in ("1.2.3", "1.2.5"):
        for number in (1, 2):
            desk.store(f"{study}.1.{number}", study=study, content=f"{study} {number}".encode())
    desk.store("1.2.5.9.1", study="1.2.5", content=b"nobody asked")
    desk.take()
    kept = {row.stored.location for row in desk.journal.by_study("1.2.3")}
    before = {location: desk.spool.open(location).read() for location in kept}
    desk.start().requested(desk.ask((CT, "1.2.3.1.1"), (CT, "1.2.3.1.2")))
    desk.until(lambda: desk.sent)
    desk.spool.close()
    done = [SimpleNamespace(study_instance_uid=uid, updated_at=0.0, jobs=()) for uid in ("1.2.3", "1.2.5")]
    swept = sweep(
        SimpleNamespace(studies=lambda **_: done), journal=desk.journal, spool=desk.spool,  # type: ignore[arg-type]
        blobs=FileBlobs(desk.root / "blobs"), ages=Ages(spool=3600.0, results=3600.0), now=time.time() + 86400.0,
    )  # fmt: skip
    assert swept.objects == 3
    assert {location: desk.spool.open(location).read() for location in kept} == before
    assert desk.journal.by_study("1.2.5") == []
    assert [segment for segment, _ in desk.spool.segments() if segment.startswith("1.2.5/")] == []
    # Asked for once more: what went is not here, what stayed still is.
    desk.sent.clear()
    assert desk.running is not None
    desk.running.requested(desk.ask((CT, "1.2.3.1.1"), (CT, "1.2.5.1.1"), transaction="1.2.10"))
    desk.until(lambda: desk.sent)
    assert desk.sent[0].committed == ((CT, "1.2.3.1.1"),)
    assert desk.sent[0].failed == ((CT, "1.2.5.1.1", 0x0112),)


def test_of_receivers_with_one_store_each_is_asked_whoever_has_the_request(two: tuple[Desk, Desk]) -> None:
    for sop, desk in zip(("1.2.3.4.1", "1.2.3.4.2"), two, strict=True):
        desk.store(sop)
        desk.store("1.2.3.4.3")
        desk.take()
        desk.start()
    pairs = ((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"), (CT, "1.2.3.4.3"), (CT, "1.2.3.4.99"))
    requests = [(desk, f"1.2.9.{number}.{n}") for number in range(5) for n, desk in enumerate(two)]
    for desk, transaction in requests:
        assert desk.running is not None
        desk.running.requested(desk.ask(*pairs, transaction=transaction))
    sent = two[0].sent, two[1].sent
    two[0].until(lambda: len(sent[0]) + len(sent[1]) == len(requests))
    two[0].until(lambda: two[0].asked(waiting=0))
    assert sorted(decided.transaction_uid for some in sent for decided in some) == sorted(t for _, t in requests)
    for decided in (*sent[0], *sent[1]):
        assert decided.committed == pairs[:3]
        assert decided.failed == ((CT, "1.2.3.4.99", 0x0112),)
    told = two[0].announced()
    assert len(told) == len(requests)  # one for the study, not one of each receiver
    assert all(set(one.sop_instance_uids) == {pair[1] for pair in pairs[:3]} and one.unknown == 1 for one in told)
    assert (two[0].committed("1.2.3.4.1"), two[1].committed("1.2.3.4.2")) == ([True], [True])


def test_evidence_is_of_all_receivers_where_nothing_is_committed(two: tuple[Desk, Desk]) -> None:
    for sop, desk in zip(("1.2.3.4.1", "1.2.3.4.2"), two, strict=True):
        desk.store(sop)
        desk.take()
        desk.start(enabled=False)
    assert two[0].running is not None
    two[0].running.requested(two[0].ask((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"), calling="NOBODY"))
    two[0].until(two[0].announced)
    (told,) = two[0].announced()
    assert (set(told.sop_instance_uids), told.unknown) == ({"1.2.3.4.1", "1.2.3.4.2"}, 0)


def test_a_receiver_that_is_away_is_waited_for_while_something_is_missing(two: tuple[Desk, Desk]) -> None:
    here, away = two
    for sop, desk in zip(("1.2.3.4.1", "1.2.3.4.2"), two, strict=True):
        desk.store(sop)
        desk.take()
    asked = here.start().requested
    asked(here.ask((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"), transaction="1.2.9.1"))
    asked(here.ask((CT, "1.2.3.4.1"), transaction="1.2.9.2"))
    here.until(lambda: here.sent)
    here.until(lambda: here.asked(waiting=1))
    assert [decided.transaction_uid for decided in here.sent] == ["1.2.9.2"]
    away.start()
    here.until(lambda: here.asked(waiting=0))
    here.until(lambda: here.sent[1:] or away.sent)
    (late,) = [*here.sent[1:], *away.sent]
    assert (late.transaction_uid, late.failed) == ("1.2.9.1", ())
    assert late.committed == ((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"))


def test_for_a_receiver_that_is_lost_who_took_it_over_looks_once_its_images_are_in(two: tuple[Desk, Desk]) -> None:
    here, lost = two
    assert lost.receivers is not None
    here.store("1.2.3.4.1")
    here.take()
    asked = here.start().requested
    asked(here.ask((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2")))
    here.until(lambda: len(here.bus.read(COMMITMENTS)) == 2)  # it was passed on, and nobody has it
    assert here.sent == []
    here.store("1.2.3.4.2")  # as it comes in from the spool
    here.answering.taken_in(frozenset({lost.receivers.name}))
    threading.Event().wait(0.3)
    assert here.sent == []  # it is in the log only
    here.take()
    here.until(lambda: here.sent)
    assert here.sent[0].committed == ((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"))


def test_a_store_that_is_away_makes_a_request_wait(two: tuple[Desk, Desk], tmp_path: Path) -> None:
    here, other = two
    other.start()
    (tmp_path / "store" / "receivers").rename(tmp_path / "store" / "elsewhere")
    asked = here.start().requested
    asked(here.ask((CT, "1.2.3.4.1")))
    threading.Event().wait(0.3)
    assert [*here.sent, *other.sent] == []
    (tmp_path / "store" / "elsewhere").rename(tmp_path / "store" / "receivers")
    here.until(lambda: here.sent or other.sent)
    assert [*here.sent, *other.sent][0].failed == ((CT, "1.2.3.4.1", 0x0112),)
