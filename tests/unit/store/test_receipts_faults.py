"""The receipts log when things break: torn tails, damage, killed writers, disks that are full or lie."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from descriptors import descriptors, few_descriptors

from ichor import metrics
from ichor.errors import CannotStart, OutOfResources
from ichor.store import disk, receipt_followed, receipt_lane, receipt_reader, receipt_tail
from ichor.store.receipt_codec import encode_body, head_of, salt_of
from ichor.store.receipts import Lane, Receipt, ReceiptReader, ReceiptWriter, Stored

from .test_receipts import everything, log_of, numbers, stored


def filled(folder: Path, count: int) -> tuple[Path, list[Receipt]]:
    """A dead writer's log of ``count`` records, and what a reader finds in it."""
    writer = ReceiptWriter(folder)
    for number in range(count):
        writer.append(Lane.ROUTINE, stored(number), wait=False)
    writer.close()
    return log_of(folder), everything(ReceiptReader(folder))


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Syncs of data, by whether they worked; what lies in front of the list is done to the next ones."""
    real, done = os.fdatasync, []

    def fdatasync(descriptor: int) -> None:
        if done and done[-1] == "break the next":
            done[-1] = "broken"
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)
        done.append("synced")

    monkeypatch.setattr(receipt_lane.os, "fdatasync", fdatasync)
    return done


def test_a_log_torn_anywhere_gives_the_whole_records_before(tmp_path: Path) -> None:
    path, receipts = filled(tmp_path / "whole", 4)
    data = path.read_bytes()
    torn = tmp_path / "torn"
    torn.mkdir()
    for size in range(len(data) + 1):
        (torn / path.name).write_bytes(data[:size])
        reader = ReceiptReader(torn)
        found = everything(reader)
        assert found == [receipt for receipt in receipts if receipt.end <= size]
        assert reader.finished(receipts[0].writer)
        last = {path.name: found[-1].end} if found else {}
        if found:
            assert reader.forget({path.name: found[-1].end - 1}) == []
        assert reader.forget(last) == [path.name]
        reader.close()


def test_a_log_that_ends_in_zeros_is_torn(tmp_path: Path) -> None:
    path, receipts = filled(tmp_path / "receipts", 3)
    with path.open("ab") as file:
        file.write(bytes(5000))
    reader = ReceiptReader(path.parent)
    assert everything(reader) == receipts
    assert everything(reader, Lane.STAT) == []
    assert reader.finished(receipts[0].writer)


def test_damage_costs_the_records_it_hits_and_no_others(tmp_path: Path) -> None:
    path, receipts = filled(tmp_path / "receipts", 4)
    data = path.read_bytes()
    start, end = receipts[0].end, receipts[1].end
    for at in range(start, end):
        bad = bytearray(data)
        bad[at] ^= 0xFF
        path.write_bytes(bad)
        reader = ReceiptReader(path.parent)
        assert everything(reader) == [receipts[0], *receipts[2:]], at
        reader.close()


def test_damage_in_a_living_log_stops_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    for number in range(3):
        writer.append(Lane.ROUTINE, stored(number))
    reader = ReceiptReader(folder)
    (first,) = reader.read(Lane.ROUTINE, limit=1)
    with log_of(folder).open("r+b") as file:
        file.seek(first.end + 20)
        file.write(b"\xff\xff")
    assert numbers(everything(reader)) == ["1.2.2"]
    writer.append(Lane.ROUTINE, stored(3))
    assert numbers(everything(reader)) == ["1.2.3"]
    writer.close()


def test_zeros_in_a_living_log_are_damage_when_records_stand_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_tail, "_SEARCH_AFTER", 0.0)
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    for number in range(3):
        writer.append(Lane.ROUTINE, stored(number))
    first, second, _ = everything(ReceiptReader(folder))
    with log_of(folder).open("r+b") as file:
        file.seek(first.end)
        file.write(bytes(second.end - first.end))
        file.truncate(1 << 20)
    reader = ReceiptReader(folder)
    assert numbers(everything(reader)) == ["1.2.0", "1.2.2"]
    # Zeros at the end are what comes next: they are looked behind only after something was written.
    sizes, real = [], os.pread

    def pread(descriptor: int, size: int, at: int) -> bytes:
        sizes.append(size)
        return real(descriptor, size, at)

    monkeypatch.setattr(receipt_tail.os, "pread", pread)
    for _ in range(5):
        assert everything(reader) == []
    assert sizes.count(receipt_tail._SEARCH) <= 2
    writer.close()


def test_questions_beside_the_reader_see_what_stands_behind_damage_of_the_dead(tmp_path: Path) -> None:
    path, receipts = filled(tmp_path / "receipts", 3)
    with path.open("r+b") as file:
        file.seek(receipts[0].end)
        file.write(bytes(receipts[1].end - receipts[0].end))
    unread = receipt_reader.Unread(path.parent)
    assert [one.sop_instance_uid for one in unread.about("1.2.200", {})] == ["1.2.0", "1.2.2"]
    assert unread.ends_of({"1.2.2"}, {}) == {path.name: receipts[2].end}
    unread.close()


def test_a_record_under_way_is_read_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    reader = ReceiptReader(folder)
    body = encode_body(stored(1))
    data = head_of(body, salt_of(log_of(folder).name)) + body
    with log_of(folder).open("r+b") as file:
        for byte in data[:-1]:
            file.write(bytes([byte]))
            file.flush()
            assert reader.read(Lane.ROUTINE, limit=1) == []
        file.write(data[-1:])
    assert [r.record for r in everything(reader)] == [stored(1)]
    writer.close()


@pytest.mark.parametrize(("begun", "searched"), [(0, False), (4, True), (50, True)])
def test_records_that_come_behind_a_slow_reader_are_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: int, searched: bool
) -> None:
    """``begun`` bytes of a record are there; once the reader looked, that one and more than it reads at once are whole."""
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    path = log_of(folder)
    records = [stored(n, association="a" * 200_000) for n in range(12)]
    bodies = [encode_body(record) for record in records]
    data = b"".join(head_of(body, salt_of(path.name)) + body for body in bodies)
    path.write_bytes(data[:begun] + bytes(4 << 20))
    real, sizes = os.pread, []

    def pread(descriptor: int, size: int, at: int) -> bytes:
        read = real(descriptor, size, at)
        sizes.append(size)
        if size == receipt_tail._SEARCH and sizes.count(size) == 1:
            with path.open("r+b") as file:
                file.write(data)
        return read

    monkeypatch.setattr(receipt_tail.os, "pread", pread)
    damaged = metrics.RECEIPTS_DAMAGED._value.get()
    reader = ReceiptReader(folder)
    assert [r.record for r in everything(reader)] == (records if searched else [])
    assert (receipt_tail._SEARCH in sizes) is searched  # zeros that were filled ahead are not searched
    with path.open("r+b") as file:
        file.write(data)
    assert [r.record for r in everything(reader)] == ([] if searched else records)
    assert metrics.RECEIPTS_DAMAGED._value.get() == damaged
    writer.close()


def test_records_greater_than_a_chunk_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder, durable=False)
    long = stored(1, association="a" * 3_000_000)
    for record in (stored(0), long, stored(2)):
        writer.append(Lane.ROUTINE, record)
    assert [r.record for r in everything(ReceiptReader(folder), limit=1)] == [stored(0), long, stored(2)]
    writer.close()


def test_a_failed_sync_is_not_acknowledged_and_what_follows_is_in_a_fresh_file(
    tmp_path: Path, syncs: list[str]
) -> None:
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    writer.append(Lane.ROUTINE, stored(1))
    old = log_of(folder)
    writer.append(Lane.ROUTINE, stored(2), wait=False)  # acknowledged otherwise: must not be lost
    syncs.append("break the next")
    with pytest.raises(OutOfResources) as refused:
        writer.append(Lane.ROUTINE, stored(3))
    assert refused.value.status == 0xA700
    size = old.stat().st_size
    writer.append(Lane.ROUTINE, stored(3))  # the sender tries again
    writer.append(Lane.ROUTINE, stored(4))
    assert old.stat().st_size == size
    assert numbers(everything(ReceiptReader(folder))) == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]
    assert ReceiptReader(folder).live_writers() == {writer.name}
    writer.close()


def test_a_reader_that_was_ahead_of_a_failed_sync_goes_on(tmp_path: Path, syncs: list[str]) -> None:
    folder = tmp_path / "receipts"
    writer, reader = ReceiptWriter(folder), ReceiptReader(folder)
    writer.append(Lane.ROUTINE, stored(1), wait=False)
    assert numbers(everything(reader)) == ["1.2.1"]
    syncs.append("break the next")
    with pytest.raises(OutOfResources):
        writer.sync()
    writer.sync()  # it says so of the fresh file, which has the record
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receipt_lane, "ROTATE_AT", 1)
        writer.append(Lane.ROUTINE, stored(2))
    assert numbers(everything(reader))[-1] == "1.2.2"
    writer.close()


def test_all_who_wait_for_a_failed_sync_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    entered, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def fail(_: int) -> None:
        entered.set()
        assert go_on.wait(30)
        raise OSError(errno.EIO, "Input/output error")

    outcomes: dict[int, str] = {}

    def push(number: int) -> None:
        try:
            writer.append(Lane.ROUTINE, stored(number))
            outcomes[number] = "acknowledged"
        except OutOfResources:
            outcomes[number] = "refused"

    monkeypatch.setattr(receipt_lane.os, "fdatasync", fail)
    threads = [threading.Thread(target=push, args=(number,)) for number in range(4)]
    threads[0].start()
    assert entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    log = writer._lanes[Lane.ROUTINE]
    while True:
        with log._lock:
            if len(log._file.waited) == 4:
                break
    go_on.set()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(receipt_lane.os, "fdatasync", real)
    assert set(outcomes.values()) == {"refused"}
    writer.append(Lane.ROUTINE, stored(9))
    assert numbers(everything(ReceiptReader(folder))) == ["1.2.9"]
    writer.close()


def test_who_comes_after_a_failed_sync_of_its_file_is_refused_too(tmp_path: Path, syncs: list[str]) -> None:
    writer = ReceiptWriter(tmp_path / "receipts")
    log = writer._lanes[Lane.ROUTINE]
    file, end = log.write(encode_body(stored(1)), wait=True)  # another thread syncs before this one does
    syncs.append("break the next")
    with pytest.raises(OutOfResources):
        writer.append(Lane.ROUTINE, stored(2))
    with pytest.raises(OutOfResources):
        log.sync(file, end)
    assert syncs == ["broken"]  # nobody asked again
    assert everything(ReceiptReader(tmp_path / "receipts")) == []
    writer.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_half_way_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    writer.append(Lane.ROUTINE, stored(1))
    real, calls = os.pwritev, iter(range(100))

    def half(descriptor: int, parts: list[bytes], at: int) -> int:
        if next(calls):
            raise OSError(code, os.strerror(code))
        return real(descriptor, [b"".join(parts)[:20]], at)

    monkeypatch.setattr(disk.os, "pwritev", half)
    with pytest.raises(OutOfResources, match="cannot be written"):
        writer.append(Lane.ROUTINE, stored(2))
    monkeypatch.setattr(disk.os, "pwritev", real)
    writer.append(Lane.ROUTINE, stored(2))
    writer.append(Lane.ROUTINE, stored(3))
    found = everything(ReceiptReader(folder))
    assert numbers(found) == ["1.2.1", "1.2.2", "1.2.3"]
    # What a medium with an error holds of that file is not known: nothing is promised in it any more.
    assert [one.file == found[0].file for one in found[1:]] == 2 * [code == errno.ENOSPC]
    writer.close()


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev
    monkeypatch.setattr(disk.os, "pwritev", lambda d, parts, at: real(d, [b"".join(parts)[:7]], at))
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder)
    writer.append(Lane.ROUTINE, stored(1))
    writer.append(Lane.ROUTINE, stored(2))
    assert numbers(everything(ReceiptReader(folder))) == ["1.2.1", "1.2.2"]
    writer.close()


def test_a_new_log_has_its_name_on_the_medium_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[str]] = []
    real = receipt_lane.disk.sync_directory

    def note(path: Path) -> None:
        synced.append(sorted(name for name in os.listdir(path) if name != "asleep"))
        real(path)

    monkeypatch.setattr(receipt_lane.disk, "sync_directory", note)
    writer = ReceiptWriter(tmp_path / "receipts")
    assert synced[0] == ["receipts"]
    assert synced[-1] == [f"{writer.name}-000001.{lane}.log" for lane in ("routine", "stat")]
    writer.close()


def test_durability_none_never_syncs(tmp_path: Path, syncs: list[str]) -> None:
    writer = ReceiptWriter(tmp_path / "receipts", durable=False)
    writer.append(Lane.ROUTINE, stored(1))
    writer.sync()
    writer.close()
    assert syncs == []


_ROOT = Path(__file__).parents[3]
_PUSH = """
import sys
from pathlib import Path
from ichor.store.receipts import Lane, ReceiptWriter
from tests.unit.store.test_receipts import stored
from ichor.store import disk, receipt_lane, receipt_reader
receipt_lane.ROTATE_AT = 20_000
writer = ReceiptWriter(Path(sys.argv[1]))
number = 0
while True:
    writer.append(Lane.ROUTINE, stored(number))
    print(number, flush=True)
    number += 1
"""


def test_what_a_killed_writer_acknowledged_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    processes = [
        subprocess.Popen([sys.executable, "-c", _PUSH, str(folder)], stdout=subprocess.PIPE, text=True, cwd=_ROOT)
        for _ in range(2)
    ]
    last = []
    for count, process in zip((200, 300), processes, strict=True):
        assert process.stdout is not None
        last.append(next(number for line in process.stdout if (number := int(line)) == count))
    reader = ReceiptReader(folder)
    assert len(reader.live_writers()) == 2
    for index, process in enumerate(processes):
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        last[index] = max([last[index], *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.wait()
    found = everything(reader)
    by_writer: dict[str, list[Receipt]] = {}
    for receipt in found:
        by_writer.setdefault(receipt.writer, []).append(receipt)
    counts = sorted(len(receipts) for receipts in by_writer.values())
    for receipts in by_writer.values():
        assert numbers(receipts) == [f"1.2.{number}" for number in range(len(receipts))]
    for count, acknowledged in zip(counts, sorted(last), strict=True):
        assert acknowledged + 1 <= count <= acknowledged + 2  # at most the one that was under way
    assert reader.live_writers() == set()
    everything(reader, Lane.STAT)
    assert all(reader.finished(name) for name in by_writer)
    assert all(isinstance(receipt.record, Stored) for receipt in found)


def test_whatever_fails_acknowledged_is_read_and_refused_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four threads, rotation all the time, and every tenth system call fails."""
    chance = random.Random(7)
    real_sync, real_write = os.fdatasync, os.pwritev

    def fdatasync(descriptor: int) -> None:
        real_sync(descriptor)
        if chance.random() < 0.1:
            raise OSError(errno.EIO, "Input/output error")

    def pwritev(descriptor: int, parts: list[bytes], at: int) -> int:
        data = b"".join(parts)
        if chance.random() < 0.1:
            real_write(descriptor, [data[: chance.randrange(len(data))]], at)
            raise OSError(chance.choice([errno.EIO, errno.ENOSPC]), "it fails")
        return real_write(descriptor, parts, at)

    monkeypatch.setattr(receipt_lane, "ROTATE_AT", 3000)
    monkeypatch.setattr(receipt_lane.os, "fdatasync", fdatasync)
    monkeypatch.setattr(disk.os, "pwritev", pwritev)
    writer = ReceiptWriter(tmp_path / "receipts")
    acknowledged: list[list[str]] = [[] for _ in range(4)]
    refused: list[set[str]] = [set() for _ in range(4)]

    def push(thread: int) -> None:
        for number in range(300):
            record = stored(number, association=str(thread))
            try:
                writer.append(Lane.ROUTINE, record, wait=number % 5 != 0)
                acknowledged[thread].append(record.sop_instance_uid)
            except OutOfResources:
                refused[thread].add(record.sop_instance_uid)

    threads = [threading.Thread(target=push, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.setattr(receipt_lane.os, "fdatasync", real_sync)
    monkeypatch.setattr(disk.os, "pwritev", real_write)
    writer.sync()
    found = everything(ReceiptReader(tmp_path / "receipts"))
    for n in range(4):
        mine = [r for r in found if isinstance(r.record, Stored) and r.record.association == str(n)]
        assert refused[n]
        assert numbers(mine) == acknowledged[n]
    writer.close()


# --- what nobody waits for, and files that somebody removes -----------------------------------------------------------


def test_what_a_failed_sync_carries_over_is_there_at_once(tmp_path: Path, syncs: list[str]) -> None:
    writer = ReceiptWriter(tmp_path / "receipts")
    writer.append(Lane.ROUTINE, stored(1), wait=False)
    writer.append(Lane.ROUTINE, stored(2), wait=False)
    syncs.append("break the next")
    with pytest.raises(OutOfResources):
        writer.append(Lane.ROUTINE, stored(3))
    reader = ReceiptReader(tmp_path / "receipts")
    assert numbers(everything(reader)) == ["1.2.1", "1.2.2"]
    reader.close()
    writer.close()


def test_what_is_carried_over_as_the_log_closes_is_not_lost(tmp_path: Path, syncs: list[str]) -> None:
    writer = ReceiptWriter(tmp_path / "receipts")
    writer.append(Lane.ROUTINE, stored(1), wait=False)
    syncs.append("break the next")
    writer.close()
    assert syncs[-2:] == ["broken", "synced"]
    reader = ReceiptReader(tmp_path / "receipts")
    assert numbers(everything(reader)) == ["1.2.1"]
    assert everything(reader, Lane.STAT) == []
    assert reader.finished(writer.name)
    reader.close()


def test_what_could_not_be_carried_over_at_once_is_when_the_log_closes(
    tmp_path: Path, syncs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = ReceiptWriter(tmp_path / "receipts")
    writer.append(Lane.ROUTINE, stored(1), wait=False)
    syncs.append("break the next")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", no_room)
        with pytest.raises(OutOfResources):
            writer.append(Lane.ROUTINE, stored(2))
    writer.close()
    reader = ReceiptReader(tmp_path / "receipts")
    assert numbers(everything(reader)) == ["1.2.1"]
    reader.close()


def test_what_can_be_carried_over_nowhere_is_said(
    tmp_path: Path, syncs: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = ReceiptWriter(tmp_path / "receipts")
    writer.append(Lane.ROUTINE, stored(1), wait=False)
    syncs.append("break the next")
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", no_room)
        writer.close()
    assert "records that nobody waited for are lost" in caplog.text


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("wait", [True, False])
def test_a_writer_whose_files_are_removed_goes_on_in_fresh_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wait: bool
) -> None:
    monkeypatch.setattr(receipt_lane, "LOOK_AGAIN", 0.0)
    folder = tmp_path / "receipts"
    writer = ReceiptWriter(folder, durable=wait)
    reader = ReceiptReader(folder)
    writer.append(Lane.ROUTINE, stored(1))
    assert numbers(everything(reader)) == ["1.2.1"]
    for path in folder.glob("*.log"):
        path.unlink()
    assert reader.live_writers() == set()
    writer.append(Lane.ROUTINE, stored(2))
    assert "removed" in caplog.text
    assert numbers(everything(reader)) == ["1.2.2"]
    assert reader.live_writers() == {writer.name}
    assert not reader.finished(writer.name)
    reader.close()
    writer.close()


def test_a_receipt_in_a_file_that_was_removed_is_no_promise(tmp_path: Path) -> None:
    writer = ReceiptWriter(tmp_path / "receipts")
    writer.append(Lane.ROUTINE, stored(1), wait=False)
    log_of(tmp_path / "receipts").unlink()
    with pytest.raises(OutOfResources, match="removed"):
        writer.append(Lane.ROUTINE, stored(2))
    writer.append(Lane.ROUTINE, stored(3))
    reader = ReceiptReader(tmp_path / "receipts")
    assert numbers(everything(reader)) == ["1.2.1", "1.2.3"]
    reader.close()
    writer.close()


def test_the_names_of_deleted_logs_are_off_the_medium_before_they_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, receipts = filled(tmp_path / "receipts", 3)
    reader = ReceiptReader(path.parent)
    everything(reader)
    everything(reader, Lane.STAT)
    there: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(receipt_reader.disk, "sync_directory", lambda folder: there.append(path in folder.iterdir()))
        assert path.name in reader.forget({path.name: receipts[-1].end})
    assert there == [False]
    reader.close()


# --- the reading side, when it is short of something ------------------------------------------------------------------


def test_a_reader_without_descriptors_for_a_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in (1, 11):
        writer = ReceiptWriter(tmp_path / "receipts")
        for number in range(start, start + 3):
            writer.append(Lane.ROUTINE, stored(number))
    real = os.open
    for bad in range(12):
        calls = iter(range(100))

        def scarce(path: object, *rest: int, bad: int = bad, calls: Iterator[int] = calls) -> int:
            if str(path).endswith(".log") and next(calls) == bad:
                raise OSError(errno.EMFILE, "Too many open files")
            return real(path, *rest)  # type: ignore[arg-type]

        reader = ReceiptReader(tmp_path / "receipts")
        found: list[Receipt] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", scarce)
            for _ in range(4):
                with contextlib.suppress(OSError):
                    found += reader.read(Lane.ROUTINE, limit=100)
        assert sorted(numbers(found)) == sorted(f"1.2.{n}" for n in (1, 2, 3, 11, 12, 13)), bad
        reader.close()


@pytest.mark.parametrize(("writers", "files"), [(1, 150), (60, 2)])
def test_more_unread_files_than_a_process_may_open_are_counted_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: int, files: int
) -> None:
    monkeypatch.setattr(receipt_followed, "_MOST_OPEN", 8)
    monkeypatch.setattr(receipt_lane, "ROTATE_AT", 500)  # four records
    for writer in range(writers):
        log = ReceiptWriter(tmp_path / "receipts", durable=False)
        for number in range(4 * files):
            log.append(Lane.ROUTINE, stored(1_000 * (writer + 10) + number, received_at=float(number)))
        log.close()
    assert len(list((tmp_path / "receipts").glob("*.routine.log"))) >= 120
    reader = ReceiptReader(tmp_path / "receipts")
    with few_descriptors(20):
        total = reader.backlog()[Lane.ROUTINE]
        assert total > 4 * files * writers * 100
        found = reader.read(Lane.ROUTINE, limit=1)
        assert reader.backlog()[Lane.ROUTINE] == total - writers * total // (4 * files * writers)
        while some := reader.read(Lane.ROUTINE, limit=3):
            reader.backlog()
            found += some
        assert reader.backlog()[Lane.ROUTINE] == 0
    for writer in range(writers):
        mine = [uid for uid in numbers(found) if int(uid[4:]) // 1_000 == writer + 10]
        assert mine == [f"1.2.{1_000 * (writer + 10) + number}" for number in range(4 * files)]
    reader.close()


def test_a_question_that_lacks_descriptors_keeps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_lane, "ROTATE_AT", 1)
    writer = ReceiptWriter(tmp_path / "receipts", durable=False)
    for number in range(60):
        writer.append(Lane.ROUTINE, stored(number))
    writer.close()
    with few_descriptors(20), pytest.raises(OSError, match="Too many open files"):
        receipt_reader.Unread(tmp_path / "receipts")
    assert descriptors(tmp_path) == []


def test_a_medium_that_does_not_give_a_log_for_a_moment_costs_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_tail, "_CHUNK", 1000)
    path, receipts = filled(tmp_path / "receipts", 12)
    real = os.pread
    for bad in range(12):
        calls = iter(range(100))

        def sick(*arguments: int, bad: int = bad, calls: Iterator[int] = calls) -> bytes:
            if next(calls) == bad:
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments)

        reader = ReceiptReader(path.parent)
        found: list[Receipt] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", sick)
            for _ in range(4):
                with contextlib.suppress(OSError):
                    found += reader.read(Lane.ROUTINE, limit=100)
        assert found == receipts, bad
        reader.close()


def test_what_a_newer_version_wrote_waits_and_costs_no_record_beside_it(tmp_path: Path) -> None:
    path, receipts = filled(tmp_path / "receipts", 3)
    body = b"\x63 of a newer version"
    with path.open("r+b") as file:
        file.seek(receipts[1].end)
        rest = file.read()
        file.seek(receipts[1].end)
        file.write(head_of(body, salt_of(path.name)) + body + rest)
    other = ReceiptWriter(path.parent)
    other.append(Lane.ROUTINE, stored(99))
    reader = ReceiptReader(path.parent)
    assert sorted(numbers(reader.read(Lane.ROUTINE, limit=100))) == ["1.2.0", "1.2.1", "1.2.99"]
    for _ in range(2):
        with pytest.raises(CannotStart, match="type 99"):
            reader.read(Lane.ROUTINE, limit=100)
    other.append(Lane.ROUTINE, stored(100))
    assert numbers(reader.read(Lane.ROUTINE, limit=100)) == ["1.2.100"]
    assert not reader.finished(receipts[0].writer)
    assert reader.forget({path.name: path.stat().st_size}) == []
    reader.close()
