"""The receipts log between a writer and a reader: order, cursors, rotation, who lives, what is deleted when."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichor.errors import OutOfResources
from ichor.store import receipt_bell, receipt_lane, receipt_reader
from ichor.store.receipts import Ended, Lane, Receipt, ReceiptReader, ReceiptWriter, Refused, Stored


def stored(number: int = 1, **changes: object) -> Stored:
    one = Stored(
        f"1.2.{number}", "1.2.840.10008.5.1.4.1.1.2", "1.2.100", "1.2.200", "1.2.840.10008.1.2.1",
        f"1.2.200/1.2.100/w-1.seg@{number}+7", 7, "A", "CT1", "ICHOR", None, None, False, 12.5,
    )  # fmt: skip
    return one._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "receipts"


@pytest.fixture
def writer(folder: Path) -> Iterator[ReceiptWriter]:
    writer = ReceiptWriter(folder)
    yield writer
    writer.close()


def everything(reader: ReceiptReader, lane: Lane = Lane.ROUTINE, *, limit: int = 100) -> list[Receipt]:
    found: list[Receipt] = []
    while some := reader.read(lane, limit=limit):
        assert len(some) <= limit
        found += some
    return found


def numbers(receipts: list[Receipt]) -> list[str]:
    return [r.record.sop_instance_uid for r in receipts if isinstance(r.record, Stored)]


def log_of(folder: Path, lane: Lane = Lane.ROUTINE) -> Path:
    (path,) = folder.glob(f"*.{lane.value}.log")
    return path


def test_records_are_read_once_in_order_and_by_lane(folder: Path, writer: ReceiptWriter) -> None:
    records = [stored(1), Refused("CT1", "0xA700", "disk full", "", 1.0), stored(2), Ended("A", True, 2.0)]
    reader = ReceiptReader(folder)
    for record in records:
        writer.append(Lane.ROUTINE, record)
    writer.append(Lane.STAT, stored(9))
    receipts = reader.read(Lane.ROUTINE, limit=3)
    receipts += everything(reader)
    assert [receipt.record for receipt in receipts] == records
    assert {(receipt.file, receipt.writer) for receipt in receipts} == {(log_of(folder).name, writer.name)}
    assert log_of(folder).name.startswith(writer.name)
    assert numbers(everything(reader, Lane.STAT)) == ["1.2.9"]
    writer.append(Lane.ROUTINE, stored(3), wait=False)
    assert numbers(everything(reader)) == ["1.2.3"]


def test_a_cursor_goes_on_behind_what_is_taken(folder: Path, writer: ReceiptWriter) -> None:
    for number in range(5):
        writer.append(Lane.ROUTINE, stored(number))
    receipts = everything(ReceiptReader(folder))
    assert receipts[-1].end == log_of(folder).stat().st_size
    for taken, receipt in enumerate(receipts, 1):
        again = ReceiptReader(folder, cursors={receipt.file: receipt.end})
        assert again.read(Lane.ROUTINE, limit=100) == receipts[taken:]
        assert again.backlog() == {Lane.STAT: 0, Lane.ROUTINE: 0}


def test_a_writer_is_finished_when_it_is_dead_and_read_in_all_lanes(folder: Path) -> None:
    first, second = ReceiptWriter(folder), ReceiptWriter(folder)
    reader = ReceiptReader(folder)
    first.append(Lane.ROUTINE, stored(1))
    first.append(Lane.STAT, stored(2))
    assert numbers(everything(reader)) == ["1.2.1"]
    assert reader.live_writers() == {first.name, second.name}
    assert not reader.finished(first.name)
    first.close()
    assert reader.live_writers() == {second.name}
    everything(reader)
    assert not reader.finished(first.name)  # the other lane is not read
    everything(reader, Lane.STAT)
    assert reader.finished(first.name)
    assert not reader.finished(second.name)
    assert reader.finished("of whom nothing is known")
    second.close()


def test_files_go_when_they_are_dead_and_taken(folder: Path) -> None:
    writer, reader = ReceiptWriter(folder), ReceiptReader(folder)
    for number in range(3):
        writer.append(Lane.ROUTINE, stored(number))
    receipts = everything(reader)
    cursors = {receipts[-1].file: receipts[-1].end}
    assert reader.forget(cursors) == []  # it lives
    writer.close()
    assert everything(reader) == everything(reader, Lane.STAT) == []
    log_of_stat = log_of(folder, Lane.STAT).name
    assert reader.forget({receipts[0].file: receipts[1].end}) == [log_of_stat]
    assert log_of(folder).exists()
    assert reader.forget(cursors) == [receipts[0].file]
    assert list(folder.glob("*.log")) == []
    assert reader.backlog() == {Lane.STAT: 0, Lane.ROUTINE: 0}
    assert reader.finished(writer.name)


def test_a_log_is_rotated_and_read_in_order(
    folder: Path, writer: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_lane, "ROTATE_AT", 1000)
    reader = ReceiptReader(folder)
    found: list[Receipt] = []
    for number in range(100):
        writer.append(Lane.ROUTINE, stored(number), wait=number % 3 == 0)
        if number % 17 == 0:
            found += everything(reader)
    found += everything(reader, limit=7)
    assert numbers(found) == [f"1.2.{number}" for number in range(100)]
    files = [path.name for path in sorted(folder.glob("*.routine.log"))]
    assert len(files) > 10
    # The newest is still written; the others wait for nobody but the cursors.
    cursors = {receipt.file: receipt.end for receipt in found}
    assert sorted(reader.forget(cursors)) == files[:-1]
    assert reader.live_writers() == {writer.name}
    writer.append(Lane.ROUTINE, stored(100))
    assert numbers(everything(reader)) == ["1.2.100"]


def test_what_came_later_is_not_read_before_what_came_earlier(
    folder: Path, writer: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_lane, "ROTATE_AT", 1)
    writer.append(Lane.ROUTINE, stored(1))
    reader = ReceiptReader(folder)
    assert numbers(everything(reader)) == ["1.2.1"]
    writer.append(Lane.ROUTINE, stored(2))
    first, second = sorted(folder.glob("*.routine.log"))
    kept = second.read_bytes()
    with first.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second.write_bytes(b"")
        assert everything(reader) == []
        assert not reader.finished(writer.name)
        second.write_bytes(kept)  # so nothing more comes to the first, held or not
        assert numbers(everything(reader)) == ["1.2.2"]
        assert reader.live_writers() == {writer.name}
        assert reader.forget({first.name: 10_000}) == []
    assert reader.forget({first.name: 10_000}) == [first.name]


def test_records_of_several_writers_are_read_by_their_times(folder: Path, writer: ReceiptWriter) -> None:
    with contextlib.closing(ReceiptWriter(folder)) as other:
        for number in range(0, 100, 2):
            writer.append(Lane.ROUTINE, stored(number, received_at=1000.0 + number), wait=False)
        writer.append(Lane.ROUTINE, Ended("A", True, 1100.0), wait=False)
        for number in range(1, 100, 2):
            other.append(Lane.ROUTINE, stored(number, association="B", received_at=1000.0 + number), wait=False)
        reader = ReceiptReader(folder)
        for limit in (1, 7, 64):
            found = everything(ReceiptReader(folder), limit=limit)
            assert numbers(found) == [f"1.2.{number}" for number in range(100)]
            # The end of an association comes behind all that another process had stored before.
            assert isinstance(found[-1].record, Ended)
        half = reader.read(Lane.ROUTINE, limit=51)
        other.append(Lane.ROUTINE, stored(200, association="B", received_at=1099.0), wait=False)
        assert numbers(half + everything(reader)) == [f"1.2.{number}" for number in range(100)] + ["1.2.200"]


def test_what_was_read_ahead_is_not_finished_and_lets_nobody_sleep(
    folder: Path, writer: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_reader, "_LONGEST_SLEEP", 600.0)
    other = ReceiptWriter(folder)
    other.append(Lane.ROUTINE, stored(7, received_at=2000.0))
    other.close()
    writer.append(Lane.ROUTINE, stored(1, received_at=1000.0))
    reader = ReceiptReader(folder)
    assert numbers(reader.read(Lane.ROUTINE, limit=1)) == ["1.2.1"]
    assert not reader.finished(other.name)
    reader.wait(600.0)
    assert numbers(reader.read(Lane.ROUTINE, limit=1)) == ["1.2.7"]
    assert everything(reader) == everything(reader, Lane.STAT) == []
    assert reader.finished(other.name)


def test_a_clock_that_was_ahead_keeps_no_writer_from_being_read(folder: Path, writer: ReceiptWriter) -> None:
    other = ReceiptWriter(folder)
    other.append(Lane.ROUTINE, stored(99, received_at=time.time() + 1e6), wait=False)
    reader = ReceiptReader(folder)
    found: list[str] = []
    for number in range(40):
        writer.append(Lane.ROUTINE, stored(number, received_at=time.time()), wait=False)
        writer.append(Lane.ROUTINE, stored(number, received_at=time.time()), wait=False)
        found += numbers(reader.read(Lane.ROUTINE, limit=1))
    assert "1.2.99" in found
    other.close()


def test_a_file_that_is_made_in_the_same_tick_as_the_folder_was_listed_is_found(
    folder: Path, writer: ReceiptWriter
) -> None:
    reader = ReceiptReader(folder)
    writer.append(Lane.ROUTINE, stored(1))
    os.utime(folder)
    assert numbers(everything(reader)) == ["1.2.1"]
    tick = folder.stat().st_mtime_ns
    other = ReceiptWriter(folder)
    os.utime(folder, ns=(tick, tick))
    other.append(Lane.ROUTINE, stored(2))
    time.sleep(max(0.0, tick / 1e9 + 1.1 - time.time()))  # the reader stood still until the tick was long ago
    assert numbers(everything(reader)) == ["1.2.2"]
    other.close()


def test_many_threads_and_two_writers_lose_nothing(folder: Path) -> None:
    writers = [ReceiptWriter(folder), ReceiptWriter(folder)]
    start = threading.Barrier(8)

    def push(thread: int) -> None:
        start.wait()
        for number in range(40):
            record = stored(number, association=str(thread))
            writers[thread % 2].append(Lane.ROUTINE, record, wait=number % 4 != 1)

    threads = [threading.Thread(target=push, args=(n,)) for n in range(8)]
    reader = ReceiptReader(folder)
    found: list[Receipt] = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += reader.read(Lane.ROUTINE, limit=30)
    for thread in threads:
        thread.join()
    found += everything(reader)
    for n in range(8):
        mine = [r for r in found if isinstance(r.record, Stored) and r.record.association == str(n)]
        assert numbers(mine) == [f"1.2.{number}" for number in range(40)]
        assert {r.writer for r in mine} == {writers[n % 2].name}
    for writer in writers:
        writer.close()


def test_the_reader_wakes_when_something_is_appended(
    folder: Path, writer: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_reader, "_LONGEST_SLEEP", 600.0)
    reader = ReceiptReader(folder)
    writer.append(Lane.ROUTINE, stored(0))
    reader.wait(600.0)  # it was there before: no sleep
    assert numbers(everything(reader)) == ["1.2.0"]
    found: list[str] = []

    def follow() -> None:
        while True:
            for lane in Lane:
                found.extend(numbers(reader.read(lane, limit=100)))
            if len(found) == 200:
                return
            reader.wait(600.0)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    for number in range(200):
        writer.append(Lane.STAT if number % 7 else Lane.ROUTINE, stored(number), wait=False)
        while number % 5 == 0 and len(found) <= number and thread.is_alive():  # nothing comes before it is heard
            threading.Event().wait(0.0005)
    thread.join(60)
    assert not thread.is_alive()


def test_nobody_is_rung_who_does_not_sleep(folder: Path, writer: ReceiptWriter) -> None:
    reader = ReceiptReader(folder)
    fifo = os.open(folder / "wake", os.O_RDONLY | os.O_NONBLOCK)
    writer.append(Lane.ROUTINE, stored(1))
    with pytest.raises(BlockingIOError):
        os.read(fifo, 1)
    reader._sleep._flag[0] = 1  # type: ignore[index]  # as one that was killed in its sleep leaves it
    for number in range(3):
        writer.append(Lane.ROUTINE, stored(number))
    assert os.read(fifo, 10) == b"\0"
    os.close(fifo)


def test_a_reader_may_leave_and_come_back(folder: Path, writer: ReceiptWriter) -> None:
    first = ReceiptReader(folder)
    writer.append(Lane.ROUTINE, stored(1))
    receipts = everything(first)
    first.close()
    writer.append(Lane.ROUTINE, stored(2))  # nobody waits: no error
    again = ReceiptReader(folder, cursors={receipts[-1].file: receipts[-1].end})
    assert numbers(everything(again)) == ["1.2.2"]
    again._sleep._flag[0] = 1  # type: ignore[index]
    writer.append(Lane.ROUTINE, stored(3), wait=False)
    assert os.read(again._sleep._ends[0], 10) == b"\0"


def test_without_fifos_the_reader_polls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(receipt_bell.os, "mkfifo", refuse)
    reader, writer = ReceiptReader(folder), ReceiptWriter(folder)
    writer.append(Lane.ROUTINE, stored(1))
    reader.wait(0.001)
    assert numbers(everything(reader)) == ["1.2.1"]
    writer.close()


def test_what_is_mapped_has_its_block_before_a_full_disk_can_refuse_it(
    folder: Path, writer: ReceiptWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (folder / "asleep").stat().st_blocks * 512 >= mmap.PAGESIZE

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    reader = ReceiptReader(folder)
    reader.wait(0.01)  # polls
    writer.append(Lane.ROUTINE, stored())
    assert numbers(everything(reader)) == ["1.2.1"]
    reader.close()


def test_a_closed_writer_refuses(folder: Path, writer: ReceiptWriter) -> None:
    writer.append(Lane.ROUTINE, stored(1), wait=False)
    writer.close()
    writer.close()
    with pytest.raises(OutOfResources, match="closed"):
        writer.append(Lane.ROUTINE, stored(2))
    assert numbers(everything(ReceiptReader(folder))) == ["1.2.1"]


def test_a_record_that_cannot_be_written_is_refused(folder: Path, writer: ReceiptWriter) -> None:
    with pytest.raises(OutOfResources, match="NUL"):
        writer.append(Lane.ROUTINE, Ended("a\0b", True, 1.0))
    writer.append(Lane.ROUTINE, stored(1))
    assert numbers(everything(ReceiptReader(folder))) == ["1.2.1"]


def test_drafts_of_writers_that_died_are_swept(folder: Path, writer: ReceiptWriter) -> None:
    draft = folder / ".00ffffffffffffffff-000001.stat.log"
    draft.touch()
    reader = ReceiptReader(folder)
    reader.forget({})
    assert draft.exists()  # it may be under way
    os.utime(draft, (1.0, 1.0))
    reader.forget({})
    assert not draft.exists()
    assert reader.live_writers() == {writer.name}
