"""The journal: what was acknowledged, and what the bus has of it."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichor.errors import CannotStart, OutOfResources
from ichor.store.journal import Journal, JournalReader, StoredObject
from ichor.types import Priority


def stored(number: int = 1, **changes: object) -> StoredObject:
    one = StoredObject(
        sop_instance_uid=f"1.2.{number}", sop_class_uid="1.2.840.10008.5.1.4.1.1.2", series_instance_uid="1.2.100",
        study_instance_uid="1.2.200", transfer_syntax_uid="1.2.840.10008.1.2.1", location=f"a/b/{number}", length=7,
        file_sha256=f"{number:064x}", association="A", calling_ae="CT1", called_ae="ICHOR",
        sender_priority=None, called_priority=Priority.STAT, command_priority_high=True, received_at=12.5,
    )  # fmt: skip
    return dataclasses.replace(one, **changes)  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


def test_row_comes_back_as_it_was_written(journal: Journal) -> None:
    assert journal.store(stored()) is True
    (row,) = journal.by_instance("1.2.1")
    assert row.stored == stored()
    assert (row.batch, row.published) == (None, False)
    assert journal.by_study("1.2.200") == journal.by_series("1.2.100") == [row]
    assert journal.by_study("1.2.201") == []


def test_same_bytes_are_one_row_and_other_bytes_another(journal: Journal) -> None:
    journal.store(stored())
    assert journal.store(stored(association="B", received_at=99.0)) is False
    assert journal.store(stored(file_sha256="f" * 64, location="other")) is True
    rows = journal.by_instance("1.2.1")
    assert [row.stored.location for row in rows] == ["a/b/1", "other"]
    assert [(row.stored.association, row.stored.received_at, row.last_at) for row in rows] == [
        ("A", 12.5, 99.0),
        ("A", 12.5, 12.5),
    ]


def test_rows_survive_the_process(tmp_path: Path, journal: Journal) -> None:
    journal.store(stored())
    reader = JournalReader(tmp_path / "journal.sqlite")  # while the writer lives
    assert [row.stored for row in reader.by_study("1.2.200")] == [stored()]
    reader.close()
    journal.close()
    again = Journal(tmp_path / "journal.sqlite")
    assert again.store(stored(2)) is True
    assert [row.stored.sop_instance_uid for row in again.by_study("1.2.200")] == ["1.2.1", "1.2.2"]
    again.close()


@pytest.mark.usefixtures("journal")
def test_reader_cannot_write(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path / "journal.sqlite")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._read.execute("DELETE FROM objects")
    reader.close()


def test_association_counts_what_it_brought_also_repetitions(journal: Journal) -> None:
    journal.store(stored(1))
    journal.store(stored(2))
    journal.store(stored(3, association="B", series_instance_uid="1.2.101"))
    journal.store(stored(1, association="B"))
    journal.end_association("A", released=True, at=50.0)
    journal.end_association("A", released=False, at=60.0)  # the first end counts
    journal.flush()
    first, second = journal.open_associations()
    assert (first.association, first.ended_at, first.released) == ("A", 50.0, True)
    assert first.counts == {"1.2.200": {"1.2.100": 2}}
    assert (second.association, second.ended_at) == ("B", None)
    assert second.counts == {"1.2.200": {"1.2.100": 1, "1.2.101": 1}}
    journal.forget_association("A")
    journal.flush()
    assert [row.association for row in journal.open_associations()] == ["B"]


def test_what_is_left_to_publish(journal: Journal) -> None:
    for number in range(1, 6):
        journal.store(stored(number))
    rows = journal.unassigned(limit=3)
    assert [row.stored.sop_instance_uid for row in rows] == ["1.2.1", "1.2.2", "1.2.3"]
    journal.assign_batch("m1", rows)
    assert [row.stored.sop_instance_uid for row in journal.unassigned()] == ["1.2.4", "1.2.5"]
    ((*batch,),) = journal.unpublished_batches()
    assert [(row.batch, row.seq) for row in batch] == [("m1", row.seq) for row in rows]
    journal.mark_published(batch)
    journal.flush()
    assert journal.unpublished_batches() == []


def test_priority_goes_by_the_first_that_applies() -> None:
    named = stored(sender_priority=Priority.LOW)
    assert named.priority(Priority.HIGH) is Priority.LOW
    assert stored().priority(Priority.HIGH) is Priority.STAT
    assert stored(called_priority=None).priority(Priority.MEDIUM) is Priority.MEDIUM
    assert stored(called_priority=None).priority(None) is Priority.HIGH
    assert stored(called_priority=None, command_priority_high=False).priority(None) is None


def test_many_associations_share_commits_and_lose_nothing(journal: Journal) -> None:
    commits: list[str] = []
    journal._write.set_trace_callback(lambda statement: commits.append(statement) if statement == "COMMIT" else None)
    start = threading.Barrier(16)

    def push(association: int) -> None:
        start.wait()
        for number in range(20):
            journal.store(stored(1000 * association + number + 1, association=str(association)))

    threads = [threading.Thread(target=push, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.flush()
    assert len(journal.by_study("1.2.200")) == 320
    assert len(commits) < 320


def test_failed_commit_is_out_of_resources_and_the_next_one_is_tried(journal: Journal) -> None:
    def fail(_: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(OutOfResources) as refused:
        journal._submit(fail).result()
    assert refused.value.status == 0xA700
    assert journal.store(stored()) is True


def test_closed_journal_refuses(journal: Journal) -> None:
    journal.close()
    journal.close()
    with pytest.raises(OutOfResources):
        journal.store(stored())


def test_newer_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(CannotStart, match="version 99"):
        JournalReader(path)
    with pytest.raises(CannotStart, match="version 99"):
        Journal(path)


def test_no_journal_yet(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="nothing has been received"):
        JournalReader(tmp_path / "none.sqlite")
