"""The journal: what was acknowledged, and what the bus has of it."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichor.errors import CannotStart, OutOfResources
from ichor.store.journal import Journal, JournalReader, JournalRow, StoredObject
from ichor.store.receipts import Ended, Lane, ReceiptReader, ReceiptWriter, Refused, Stored
from ichor.store.segments import FOOTER_SIZE
from ichor.types import Priority

CT = "1.2.840.10008.5.1.4.1.1.2"
SEGMENT = "1.2.200/1.2.100/w-1.seg"


def stored(number: int = 1, **changes: object) -> StoredObject:
    one = StoredObject(
        sop_instance_uid=f"1.2.{number}", sop_class_uid=CT, series_instance_uid="1.2.100",
        study_instance_uid="1.2.200", transfer_syntax_uid="1.2.840.10008.1.2.1", location=f"{SEGMENT}@{number * 100}+7",
        length=7, file_sha256=f"{number:064x}", association="A", calling_ae="CT1", called_ae="ICHOR",
        sender_priority=None, called_priority=Priority.STAT, command_priority_high=True, received_at=12.5,
    )  # fmt: skip
    return dataclasses.replace(one, **changes)  # type: ignore[arg-type]


def receipt(number: int = 1, **changes: object) -> Stored:
    named = dataclasses.asdict(stored(number, **changes))
    del named["file_sha256"]
    return Stored(**named)


def take(journal: Journal, *entries: StoredObject | Ended, writer: str = "w", **cursors: int) -> list[JournalRow]:
    return journal.take([(entry, writer) for entry in entries], cursors=cursors)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


def test_row_comes_back_as_it_was_taken(journal: Journal) -> None:
    (fresh,) = take(journal, stored())
    (row,) = journal.by_instance("1.2.1")
    assert row == fresh
    assert row.stored == stored()
    assert (row.batch, row.published, row.committed, row.last_at) == (None, False, False, 12.5)
    assert journal.by_study("1.2.200") == journal.by_series("1.2.100") == [row]
    assert journal.by_study("1.2.201") == []


def test_same_bytes_are_one_row_and_other_bytes_another(journal: Journal) -> None:
    take(journal, stored())
    fresh = take(
        journal,
        stored(association="B", received_at=99.0, location=f"{SEGMENT}@900+7"),
        stored(file_sha256="f" * 64, location=f"{SEGMENT}@500+7"),
        stored(file_sha256="f" * 64, location=f"{SEGMENT}@700+7", received_at=13.0),  # twice in one transaction
    )
    rows = journal.by_instance("1.2.1")
    assert [row.stored.location for row in rows] == [f"{SEGMENT}@100+7", f"{SEGMENT}@500+7"]
    assert [(row.stored.association, row.stored.received_at, row.last_at) for row in rows] == [
        ("A", 12.5, 99.0),
        ("A", 12.5, 13.0),
    ]
    assert [row.seq for row in fresh] == [rows[1].seq]


def test_fresh_rows_are_in_the_order_of_the_log_also_many(journal: Journal) -> None:
    take(journal, *(stored(number) for number in range(0, 1200, 2)))
    fresh = take(journal, *(stored(number) for number in range(1200)))
    assert [row.stored.sop_instance_uid for row in fresh] == [f"1.2.{number}" for number in range(1, 1200, 2)]
    seqs = [row.seq for row in journal.by_study("1.2.200")]
    assert seqs == list(range(1, 1201))
    assert [row.seq for row in fresh] == seqs[600:]


def test_numbers_of_rows_are_never_used_again(journal: Journal) -> None:
    (first,) = take(journal, stored(1))
    assert journal.forget([first]) == [first]
    (second,) = take(journal, stored(2))
    assert second.seq > first.seq


def test_rows_survive_the_process(tmp_path: Path, journal: Journal) -> None:
    take(journal, stored())
    reader = JournalReader(tmp_path / "journal.sqlite")  # while the writer lives
    assert [row.stored for row in reader.by_study("1.2.200")] == [stored()]
    reader.close()
    journal.close()
    again = Journal(tmp_path / "journal.sqlite")
    take(again, stored(2))
    assert [row.stored.sop_instance_uid for row in again.by_study("1.2.200")] == ["1.2.1", "1.2.2"]
    again.close()


@pytest.mark.usefixtures("journal")
def test_reader_cannot_write(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path / "journal.sqlite")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._query("DELETE FROM objects")
    reader.close()


def test_association_counts_what_it_brought_also_repetitions(journal: Journal) -> None:
    take(journal, stored(1), stored(2))
    other = stored(3, association="B", series_instance_uid="1.2.101")
    again = stored(1, association="B", location=f"{SEGMENT}@900+7")
    take(journal, other, again, writer="v")
    take(journal, Ended("A", True, 50.0))
    take(journal, Ended("A", False, 60.0), Ended("unknown", True, 1.0))  # the first end counts
    first, second = journal.open_associations()
    assert (first.association, first.ended_at, first.released, first.writer) == ("A", 50.0, True, "w")
    assert journal.stored_by(first.association) == {"1.2.200": {"1.2.100": 2}}
    assert (second.association, second.ended_at, second.writer) == ("B", None, "v")
    assert journal.stored_by(second.association) == {"1.2.200": {"1.2.100": 1, "1.2.101": 1}}
    assert first.priority is Priority.STAT
    journal.forget_association("A")
    assert [row.association for row in journal.open_associations()] == ["B"]


def test_a_receipt_that_is_read_twice_counts_once(journal: Journal) -> None:
    assert len(take(journal, stored(1), stored(1))) == 1
    assert take(journal, stored(1)) == []
    assert journal.stored_by(journal.open_associations()[0].association) == {"1.2.200": {"1.2.100": 1}}


def test_what_comes_again_takes_the_place_of_bytes_that_are_gone(journal: Journal) -> None:
    take(journal, *(stored(number) for number in (1, 2, 3)))
    journal.commit_objects([(CT, "1.2.1")], 70.0, exists=lambda _: True)
    old = journal.by_study("1.2.200")
    asked: list[tuple[str, str]] = []

    def holds(location: str, file_sha256: str) -> bool:
        asked.append((location, file_sha256))
        return location == stored(3).location

    again = [stored(n, association="B", location=f"{SEGMENT}@{n}000+7", received_at=99.0) for n in (1, 2, 3)]
    rows = journal.take([*((one, "v") for one in again), (stored(4), "v")], cursors={}, holds=holds)
    assert sorted(asked) == [(stored(n).location, stored(n).file_sha256) for n in (1, 2, 3)]
    assert [row.stored for row in rows] == [again[0], again[1], stored(4)]
    now = journal.by_study("1.2.200")
    assert [(row.stored.location, row.last_at) for row in now] == [
        (stored(3).location, 99.0),
        (again[0].location, 99.0),
        (again[1].location, 99.0),
        (stored(4).location, 12.5),
    ]
    assert [row.committed for row in now] == [False, True, False, False]
    assert min(row.seq for row in rows) > max(row.seq for row in old)
    assert not any(row.published or row.batch for row in now)
    (_, second) = journal.open_associations()
    assert journal.stored_by(second.association) == {"1.2.200": {"1.2.100": 3}}
    journal.take([(again[0], "v")], cursors={}, holds=lambda *_: False)  # the same receipt again: its bytes are there
    assert journal.by_study("1.2.200") == now


def test_a_clock_that_goes_back_does_not_make_an_object_older(journal: Journal) -> None:
    take(journal, stored())
    take(journal, stored(location=f"{SEGMENT}@900+7", received_at=1.0))
    assert [row.last_at for row in journal.by_instance("1.2.1")] == [12.5]


def test_an_association_that_ends_with_its_objects_is_ended(journal: Journal) -> None:
    take(journal, stored(1), Ended("A", True, 50.0))
    (row,) = journal.open_associations()
    assert (row.ended_at, journal.stored_by(row.association)) == (50.0, {"1.2.200": {"1.2.100": 1}})


def test_what_is_left_to_publish(journal: Journal) -> None:
    take(journal, *(stored(number) for number in range(1, 6)))
    rows = journal.unassigned(limit=3)
    assert [row.stored.sop_instance_uid for row in rows] == ["1.2.1", "1.2.2", "1.2.3"]
    journal.assign_batches({"m1": rows})
    assert [row.stored.sop_instance_uid for row in journal.unassigned()] == ["1.2.4", "1.2.5"]
    ((*batch,),) = journal.unpublished_batches()
    assert [(row.batch, row.seq) for row in batch] == [("m1", row.seq) for row in rows]
    journal.mark_published(batch)
    assert journal.unpublished_batches() == []


def test_cursors_are_never_ahead_of_rows_and_never_go_back(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(journal, stored(1), f=100, g=50)
    assert journal.cursors() == {"f": 100, "g": 50}
    take(journal, stored(2), f=80)
    assert journal.cursors() == {"f": 100, "g": 50}
    monkeypatch.setattr("ichor.store.journal.CURSOR", "INSERT INTO nowhere VALUES (?, ?)")
    with pytest.raises(OutOfResources, match="OperationalError"):
        take(journal, stored(3), Ended("A", True, 1.0), f=200)
    monkeypatch.undo()
    reader = JournalReader(tmp_path / "journal.sqlite")
    assert [row.stored.sop_instance_uid for row in reader.by_study("1.2.200")] == ["1.2.1", "1.2.2"]
    assert reader.open_associations()[0].ended_at is None
    reader.close()
    assert journal.cursors() == {"f": 100, "g": 50}
    assert [row.seq for row in take(journal, stored(3), f=200)] == [3]  # and the next one is taken
    assert journal.cursors() == {"f": 200, "g": 50}
    journal.forget_files(["g"])
    assert journal.cursors() == {"f": 200}


def test_taking_is_synced_and_marking_is_not(journal: Journal) -> None:
    said: list[str] = []
    journal._write.set_trace_callback(said.append)

    def level() -> str:
        levels = [statement for statement in said if "synchronous" in statement]
        return levels[-1].rpartition(" ")[2]

    rows = take(journal, stored(1))
    assert level() == "FULL"
    journal.mark_published(rows)
    assert level() == "NORMAL"
    journal.commit_objects([(CT, "1.2.1")], 1.0, exists=lambda _: True)
    assert level() == "FULL"


def test_segments_end_where_their_last_object_ends_duplicates_too(journal: Journal) -> None:
    other = "1.2.201/1.2.100/w-2.seg"
    old = "1.2.200/1.2.100/1.2.9.0123456789abcdef.dcm"
    take(
        journal, stored(3), stored(1), stored(9, location=old, length=50),
        stored(5, location=f"{other}@0+7", study_instance_uid="1.2.201"),
    )  # fmt: skip
    assert journal.segment_ends() == {SEGMENT: 307 + FOOTER_SIZE, other: 7 + FOOTER_SIZE, old: 50}
    take(journal, stored(3, location=f"{SEGMENT}@1000+7"))  # the same bytes again
    assert journal.segment_ends("1.2.200") == {SEGMENT: 1007 + FOOTER_SIZE, old: 50}
    journal.forget(journal.by_study("1.2.200"))
    journal.forget_segments([SEGMENT])
    assert journal.segment_ends() == {other: 7 + FOOTER_SIZE, old: 50}


def test_a_segment_has_a_gap_until_every_object_before_its_end_was_taken(journal: Journal) -> None:
    size = 7 + FOOTER_SIZE
    places = [f"{SEGMENT}@{n * size}+7" for n in range(3)]
    take(journal, stored(3, location=places[2]), stored(1, location=places[0]))
    assert journal.gaps() == {SEGMENT}
    take(journal, stored(3, location=places[1]))  # the same bytes again
    assert journal.gaps() == set()
    journal.forget(journal.by_study("1.2.200"))
    assert journal.gaps() == set()
    other = f"{SEGMENT}2.seg"
    take(journal, stored(9, location=f"{other}@{size}+7"))
    assert journal.gaps() == {other}
    journal.fill_gap(other)
    take(journal, stored(8, location=f"{other}@{5 * size}+7"))
    assert (journal.gaps(), journal.segment_ends()[other]) == (set(), 6 * size)


def test_what_is_committed_is_there_and_stays(journal: Journal, tmp_path: Path) -> None:
    take(journal, *(stored(number) for number in range(1, 5)), stored(1, file_sha256="f" * 64, location="gone"))
    pairs = [(CT, "1.2.3"), (CT, "1.2.1"), (CT, "1.2.77"), ("1.2.840.10008.5.1.4.1.1.4", "1.2.2"), (CT, "1.2.4")]
    gone = {"gone", stored(4).location}
    assert journal.commit_objects(pairs, 70.0, exists=lambda location: location not in gone) == pairs[:2]
    reader = JournalReader(tmp_path / "journal.sqlite")
    rows = reader.by_study("1.2.200")
    reader.close()
    assert [row.committed for row in rows] == [True, False, True, False, False]
    assert journal.forget(rows) == [row for row in rows if not row.committed]
    assert [row.stored.sop_instance_uid for row in journal.by_study("1.2.200")] == ["1.2.1", "1.2.3"]
    assert journal.commit_objects(pairs[:1], 80.0, exists=lambda _: True) == pairs[:1]


def test_what_an_earlier_journal_may_have_committed_stays_where_promises_are_made(tmp_path: Path) -> None:
    path, later = tmp_path / "journal.sqlite", time.time() + 60
    recovered = {"calling_ae": "RECOVERED", "called_ae": "RECOVERED", "received_at": later}
    for keeps, kept in ((False, []), (True, ["1.2.1", "1.2.2"])):
        journal = Journal(path, keeps_unsure=keeps)
        take(journal, stored(1, **recovered), stored(2), stored(3, received_at=later))
        assert [row.stored.sop_instance_uid for row in journal.by_study("1.2.200") if row.committed] == kept
        journal.forget(journal.by_study("1.2.200"))
        assert [row.stored.sop_instance_uid for row in journal.by_study("1.2.200")] == kept
        journal.close()
        for file in tmp_path.glob("journal.sqlite*"):
            file.unlink()


def test_bytes_that_are_here_already_are_kept_when_another_receiver_may_have_committed_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", keeps_unsure=True)
    later = time.time() + 60
    take(journal, stored(1, received_at=later), stored(2, received_at=later))
    assert not any(row.committed for row in journal.by_study("1.2.200"))
    other = f"1.2.200/1.2.100/x.b_00000000-1.seg@0+{7}"
    assert take(journal, stored(1, calling_ae="RECOVERED", location=other, received_at=later)) == []
    assert [row.committed for row in journal.by_study("1.2.200")] == [True, False]
    journal.close()


def test_when_a_journal_was_made_is_known_to_later_processes(tmp_path: Path) -> None:
    path, later = tmp_path / "journal.sqlite", time.time() + 60
    Journal(path).close()
    journal = Journal(path, keeps_unsure=True)
    take(journal, stored(1), stored(2, received_at=later))
    assert [row.committed for row in journal.by_study("1.2.200")] == [True, False]
    journal.close()


def test_what_was_acknowledged_again_is_not_forgotten(journal: Journal) -> None:
    take(journal, stored(1), stored(2))
    rows = journal.by_study("1.2.200")
    take(journal, stored(1, received_at=500.0, location=f"{SEGMENT}@900+7"))
    assert journal.forget(rows) == rows[1:]
    assert [row.last_at for row in journal.by_study("1.2.200")] == [500.0]


def test_priority_goes_by_the_first_that_applies() -> None:
    named = stored(sender_priority=Priority.LOW)
    assert named.priority(Priority.HIGH) is Priority.LOW
    assert stored().priority(Priority.HIGH) is Priority.STAT
    assert stored(called_priority=None).priority(Priority.MEDIUM) is Priority.MEDIUM
    assert stored(called_priority=None).priority(None) is Priority.HIGH
    assert stored(called_priority=None, command_priority_high=False).priority(None) is None


def test_two_threads_share_the_journal(journal: Journal) -> None:
    def push(thread: int) -> None:
        for number in range(30):
            rows = take(journal, stored(100 * thread + number), **{str(thread): number})
            if number % 2:
                journal.forget(rows)
            journal.by_study("1.2.200")

    threads = [threading.Thread(target=push, args=(n,)) for n in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.by_study("1.2.200")) == 45
    assert journal.cursors() == {"1": 29, "2": 29, "3": 29}


def test_closed_journal_refuses(journal: Journal) -> None:
    journal.close()
    journal.close()
    with pytest.raises(OutOfResources):
        take(journal, stored())


def test_newer_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(CannotStart, match="version 99"):
        JournalReader(path)
    with pytest.raises(CannotStart, match="version 99"):
        Journal(path)


def test_nothing_received_yet(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    with pytest.raises(CannotStart, match="nothing has been received"):
        JournalReader(path)
    writer = ReceiptWriter(tmp_path / "receipts")
    with pytest.raises(CannotStart, match="nothing has been received"):
        JournalReader(path, receipts=tmp_path / "receipts")
    writer.close()
    assert not path.exists()


def test_what_only_the_log_holds_is_seen(tmp_path: Path) -> None:
    path, folder = tmp_path / "journal.sqlite", tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    writer.append(Lane.ROUTINE, receipt(2, received_at=20.0))
    writer.append(Lane.STAT, receipt(1, received_at=10.0))
    writer.append(Lane.ROUTINE, Refused("CT1", "0xA700", "reason", "1.2.200", 1.0))
    reader = JournalReader(path, receipts=folder)  # no journal yet
    (first, second) = reader.by_study("1.2.200")
    assert [row.stored for row in (first, second)] == [
        stored(1, received_at=10.0, file_sha256=""),
        stored(2, received_at=20.0, file_sha256=""),
    ]
    assert (first.seq, first.published, first.last_at) == (0, False, 10.0)
    assert reader.by_instance("1.2.2") == [second]
    assert reader.by_series("1.2.10") == []  # the beginning of another UID
    assert reader.locate("1.2.200") == ("study", "1.2.200", None)
    assert reader.locate("1.2.100") == ("series", "1.2.200", "1.2.100")
    assert reader.locate("1.2.2") == ("instance", "1.2.200", "1.2.100")
    assert reader.locate("1.2") is None
    assert reader.open_associations() == []

    # The relay takes them one after the other: each is always seen once.
    relay, log = Journal(path), ReceiptReader(folder)
    for lane in Lane:
        for one in log.read(lane, limit=10):
            if isinstance(one.record, Stored):
                full = StoredObject(file_sha256="a" * 64, **one.record._asdict())
                relay.take([(full, one.writer)], cursors={one.file: one.end})
            rows = reader.by_study("1.2.200")
            assert sorted(row.stored.sop_instance_uid for row in rows) == ["1.2.1", "1.2.2"]
    writer.append(Lane.ROUTINE, receipt(3))
    assert [(row.stored.sop_instance_uid, row.seq) for row in reader.by_study("1.2.200")] == [
        ("1.2.1", 1), ("1.2.2", 2), ("1.2.3", 0),
    ]  # fmt: skip
    reader.close()
    relay.close()
    writer.close()


def test_a_journal_made_anew_from_the_log_is_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    for start in (1, 10):
        writer = ReceiptWriter(folder)
        for number in range(start, start + 5):
            writer.append(Lane.ROUTINE, receipt(number), wait=False)
        writer.close()

    def made(path: Path) -> list[JournalRow]:
        journal, log = Journal(path), ReceiptReader(folder)
        while some := log.read(Lane.ROUTINE, limit=3):
            entries = [
                (StoredObject(file_sha256=r.record.location, **r.record._asdict()), r.writer)
                for r in some
                if isinstance(r.record, Stored)
            ]
            journal.take(entries, cursors={r.file: r.end for r in some})
        rows = journal.by_study("1.2.200")
        journal.close()
        return rows

    first = made(tmp_path / "first.sqlite")
    assert sorted(row.stored.sop_instance_uid for row in first) == sorted(
        f"1.2.{n}" for n in [*range(1, 6), *range(10, 15)]
    )
    assert made(tmp_path / "second.sqlite") == first


def version_1(path: Path) -> None:
    """As the first version of Ichor wrote it."""
    connection = sqlite3.connect(path)
    connection.executescript("""
        PRAGMA journal_mode = WAL;
        CREATE TABLE objects (
          seq INTEGER PRIMARY KEY AUTOINCREMENT,
          sop_instance_uid NOT NULL, sop_class_uid NOT NULL, series_instance_uid NOT NULL, study_instance_uid NOT NULL,
          transfer_syntax_uid NOT NULL, location NOT NULL, length NOT NULL, file_sha256 NOT NULL, association NOT NULL,
          calling_ae NOT NULL, called_ae NOT NULL, command_priority_high NOT NULL, received_at NOT NULL,
          sender_priority, called_priority,
          last_at REAL NOT NULL, batch TEXT, published INTEGER NOT NULL DEFAULT 0,
          UNIQUE (sop_instance_uid, file_sha256));
        CREATE INDEX objects_study ON objects (study_instance_uid);
        CREATE INDEX objects_series ON objects (series_instance_uid);
        CREATE INDEX objects_unpublished ON objects (seq) WHERE published = 0;
        CREATE TABLE associations (
          association TEXT PRIMARY KEY, calling_ae TEXT NOT NULL, priority TEXT NOT NULL,
          ended_at REAL, released INTEGER NOT NULL DEFAULT 0);
        CREATE TABLE receipts (
          association TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL, count INTEGER NOT NULL,
          PRIMARY KEY (association, study, series)) WITHOUT ROWID;
        INSERT INTO objects VALUES (7, '1.2.9', '1.2.840.10008.5.1.4.1.1.2', '1.2.100', '1.2.200',
          '1.2.840.10008.1.2.1', '1.2.200/1.2.100/1.2.9.0123456789abcdef.dcm', 50, 'abc', 'A', 'CT1', 'ICHOR', 1, 12.5,
          NULL, 'STAT', 13.5, 'm1', 0);
        INSERT INTO associations VALUES ('A', 'CT1', 'STAT', NULL, 0);
        INSERT INTO receipts VALUES ('A', '1.2.200', '1.2.100', 1);
        PRAGMA user_version = 1;
    """)
    connection.close()


def test_an_older_journal_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    version_1(path)
    location = "1.2.200/1.2.100/1.2.9.0123456789abcdef.dcm"
    old = JournalRow(
        seq=7,
        stored=stored(9, location=location, length=50, file_sha256="abc"),
        last_at=13.5,
        batch="m1",
        published=False,
    )
    reader = JournalReader(path, receipts=tmp_path / "receipts")  # before the first start of this version
    assert reader.by_study("1.2.200") == [old]
    journal = Journal(path)
    assert journal.by_study("1.2.200") == reader.by_study("1.2.200") == [old]
    reader.close()
    assert journal.unpublished_batches() == [[old]]
    (association,) = journal.open_associations()
    assert (association.writer, journal.stored_by(association.association)) == ("", {"1.2.200": {"1.2.100": 1}})
    assert journal.segment_ends() == {location: 50}
    assert [row.seq for row in take(journal, stored(1), f=10)] == [8]
    journal.close()
    again = Journal(path, keeps_unsure=True)
    assert [row.seq for row in again.by_study("1.2.200")] == [7, 8]
    assert again.cursors() == {"f": 10}
    take(again, stored(3))
    assert not any(row.committed for row in again.by_study("1.2.200"))  # it is the first there was
    again.close()


def test_a_journal_of_the_version_before_keeps_rows_and_promises(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    old = Journal(path)
    take(old, stored(1), stored(2))
    old.commit_objects([(CT, "1.2.1")], 70.0, exists=lambda _: True)
    old.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE made; PRAGMA user_version = 2;")
    journal = Journal(path, keeps_unsure=True)
    take(journal, stored(3))
    rows = journal.by_study("1.2.200")
    assert [(row.stored.sop_instance_uid, row.committed) for row in rows] == [
        ("1.2.1", True),
        ("1.2.2", False),
        ("1.2.3", False),
    ]
    journal.close()


def test_what_waits_in_the_log_is_told_with_the_age_of_its_oldest_record(tmp_path: Path) -> None:
    path, folder = tmp_path / "journal.sqlite", tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    writer.append(Lane.ROUTINE, receipt(1, received_at=10.0))
    writer.append(Lane.ROUTINE, receipt(2, received_at=20.0))
    writer.append(Lane.STAT, Refused("CT1", "0xA700", "reason", "", 15.0))
    reader = JournalReader(path, receipts=folder)  # there is no relay, nor a journal
    sizes = {lane: sum(f.stat().st_size for f in folder.glob(f"*.{lane}.log")) for lane in Lane}
    assert reader.waiting() == (sizes, 10.0)
    assert all(sizes.values())
    journal, log = Journal(path), ReceiptReader(folder)
    first, second = log.read(Lane.ROUTINE, limit=10)
    take(journal, stored(1), **{first.file: first.end})
    waiting = reader.waiting()
    assert (waiting.bytes[Lane.ROUTINE], waiting.since) == (second.end - first.end, 15.0)
    (urgent,) = log.read(Lane.STAT, limit=10)
    take(journal, stored(2), **{second.file: second.end, urgent.file: urgent.end})
    assert reader.waiting() == (dict.fromkeys(Lane, 0), None)
    for one in (log, journal, reader, writer):
        one.close()
