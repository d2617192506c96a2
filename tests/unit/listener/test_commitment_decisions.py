"""What is decided about requests for storage commitment, by the journal, and what survives in between."""

from __future__ import annotations

import dataclasses
import errno
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from unit.away import Away
from unit.listener.commitment_data import CT
from unit.listener.commitment_desk import Desk

from ichor.errors import CannotStart, TransientError
from ichor.messages import COMMITMENTS, ContentAnnounced, open_envelope
from ichor.retention import Ages, sweep
from ichor.shards import shard_of
from ichor.store import receipt_reader
from ichor.store.blobs import FileBlobs
from ichor.store.receipts import Lane, Record

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()
    made.bus.close()


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
        def receive(self, _timeout: float, **_: bool) -> None:
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


@pytest.mark.parametrize(
    ("error", "committed"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.EMFILE, "Too many open files"), True),
        (sqlite3.OperationalError("disk I/O error"), True),
        (OSError(errno.EIO, "Input/output error"), False),  # the medium does not give it
    ],
)
def test_a_disk_that_is_away_for_a_while_decides_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception, committed: bool
) -> None:
    desk.store("1.2.3.4.1")
    desk.take()
    monkeypatch.setattr("listener.commitment_decisions._PAUSE", 0.01)
    where, name = (desk.spool, "open") if isinstance(error, OSError) else (desk.journal, "by_instance")
    real, failing = getattr(where, name), iter(range(8))  # more often than a message may fail

    def away(*arguments: str) -> Any:
        if next(failing, None) is not None:
            raise error
        return real(*arguments)

    monkeypatch.setattr(where, name, away)
    desk.start().requested(desk.ask((CT, "1.2.3.4.1")))
    desk.until(lambda: desk.sent)
    assert bool(desk.sent[0].committed) == committed
    assert [reason for _, _, reason in desk.sent[0].failed] == ([] if committed else [0x0110])
    assert desk.committed("1.2.3.4.1") == [committed]
    assert ("commitment waits: " + str(getattr(error, "strerror", error)) in caplog.messages) == committed


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
    done = {uid: SimpleNamespace(study_instance_uid=uid, updated_at=0.0, jobs=()) for uid in ("1.2.3", "1.2.5")}
    projection = SimpleNamespace(studies=lambda **_: list(done.values()), catch_up=lambda: None, study=done.get)
    swept = sweep(
        projection, journal=desk.journal, spool=desk.spool,  # type: ignore[arg-type]
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
