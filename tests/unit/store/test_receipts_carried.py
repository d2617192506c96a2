"""Receipts that carry their object: what is written where, what is synced when, and what stays when a sync fails."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ichor.errors import OutOfResources
from ichor.store import disk, pool, receipt_files, receipt_lane
from ichor.store.receipt_tail import is_held, is_settled
from ichor.store.receipts import Carried, Lane, ReceiptReader, ReceiptWriter
from ichor.store.restore import restore
from ichor.store.spool import Address, FileSpool, Placed

from .test_receipts import everything, numbers, stored

ADDRESS = Address("1.2.200", "1.2.100", "1.2.1", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")


class Place:
    """A writer and a spool, and in which order files were synced."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = root / "receipts"
        self.writer = ReceiptWriter(self.folder)
        self.spool = FileSpool(root / "spool", writer=self.writer.name)
        self.synced: list[str] = []
        self._patch = monkeypatch
        for module, name in ((disk, "sync"), (os, "fdatasync")):
            real = getattr(module, name)

            def note(descriptor: int, real: Callable[[int], None] = real) -> None:
                real(descriptor)
                self.synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))

            monkeypatch.setattr(module, name, note)

    def put(self, data: bytes, number: int = 1, *, address: Address = ADDRESS) -> Placed:
        return self.spool.begin(address).finish([data], confirm=lambda p, c: self.confirm(p, c, number))

    def confirm(self, placed: Placed, carried: Carried | None, number: int = 1) -> None:
        record = stored(number, location=placed.location, length=placed.length)
        self.writer.append(Lane.ROUTINE, record, carried=carried)

    def logs(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9a-f]*.routine.log"))

    def until_a_spare_is_there(self) -> None:
        self.until(lambda: self.writer._lanes[Lane.ROUTINE]._spare is not None)

    def until(self, true: Callable[[], bool]) -> None:
        for _ in range(60_000):
            if true():
                return
            threading.Event().wait(0.001)
        pytest.fail("waited in vain")

    def close(self) -> None:
        self.spool.close()
        self.writer.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(receipt_files, "SPARE", 64 << 10)
    return Place(tmp_path, monkeypatch)


def fail(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def settled(path: Path) -> bool:
    with path.open("rb") as file:
        return is_settled(file.fileno(), path.name)


def test_a_small_object_takes_one_sync_and_a_long_one_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_lane.LaneLog, "keep", lambda *_: float("inf"))
    place.put(b"x" * 3000)
    assert place.synced == [place.logs()[0].name]
    place.synced.clear()
    place.put(b"x" * 300_000, 2)
    (segment,) = place.spool.root.rglob("*.seg")
    assert place.synced == [segment.name, "1.2.100", "1.2.200", "spool", segment.parents[3].name, place.logs()[0].name]
    incoming = place.spool.begin(ADDRESS)  # came in parts: part of it is written before its end is known
    incoming.write([b"a"])
    place.synced.clear()
    incoming.finish([b"b"], confirm=lambda p, c: place.confirm(p, c, 3))
    assert place.synced[0] == segment.name
    data = place.logs()[0].read_bytes()
    assert data.count(b"x" * 3000) == 1
    reader = ReceiptReader(place.folder)
    assert numbers(everything(reader, limit=1)) == ["1.2.1", "1.2.2", "1.2.3"]
    reader.close()
    place.close()


def test_no_spare_is_made_before_something_is_carried(place: Place) -> None:
    for number in range(5):
        place.writer.append(Lane.ROUTINE, stored(number))
    place.put(b"x" * 300_000, 9)
    assert len(place.logs()) == 1
    assert place.writer._keeper._thread is None  # that makes it
    place.put(b"x", 10)
    place.until_a_spare_is_there()
    assert place.logs()[1].read_bytes() == bytes(64 << 10)
    assert len(list(place.folder.glob("*.stat.log"))) == 1  # the other lane has no need of one
    place.close()


def test_records_overwrite_what_was_filled_and_what_is_let_go_is_cut_and_settled(place: Place) -> None:
    place.put(b"x" * 3000)
    place.until_a_spare_is_there()
    first, spare = place.logs()
    for number in range(2, 8):
        place.put(b"x" * 3000, number)
        assert spare.stat().st_size == 64 << 10
    place.until(lambda: settled(first))
    assert not settled(spare)
    place.close()
    assert settled(spare)
    assert spare.stat().st_size < 6 * 4000
    reader = ReceiptReader(place.folder)
    receipts = everything(reader)
    assert numbers(receipts) == [f"1.2.{number}" for number in range(1, 8)]
    assert [name for name in reader.forget({r.file: r.end for r in receipts}) if "stat" not in name] == [
        first.name, spare.name, *[log.name for log in place.logs()[2:]],
    ]  # fmt: skip
    reader.close()


def test_a_file_is_held_until_the_spool_has_what_it_carries_and_is_read_meanwhile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    real = disk.sync

    def slow(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".seg"):
            entered.set()
            assert go_on.wait(60)
        real(descriptor)

    monkeypatch.setattr(disk, "sync", slow)
    reader = ReceiptReader(place.folder)
    place.put(b"x")
    place.until_a_spare_is_there()
    place.put(b"y", 2)  # in the spare
    assert entered.wait(60)
    first = place.logs()[0]
    receipts = everything(reader)
    assert numbers(receipts) == ["1.2.1", "1.2.2"]
    assert reader.forget({r.file: r.end for r in receipts}) == []
    assert not settled(first)
    go_on.set()
    place.until(lambda: settled(first))
    place.until(lambda: first.name in reader.forget({r.file: r.end for r in receipts}))
    reader.close()
    place.close()


def test_a_log_does_not_carry_objects_for_ever(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(b"x")
    place.until_a_spare_is_there()
    place.put(b"y", 2)
    spare = place.logs()[1]
    assert not settled(spare)
    monkeypatch.setattr(receipt_lane, "ROTATE_AFTER", 0.0)
    place.writer._keeper.wake()
    place.until(lambda: settled(spare))
    place.put(b"z", 3)
    reader = ReceiptReader(place.folder)
    assert numbers(everything(reader)) == ["1.2.1", "1.2.2", "1.2.3"]
    reader.close()
    place.close()


def test_an_object_that_is_being_confirmed_is_synced_with_the_rest(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receipt may be in a file that is let go before the object is back in the pool."""
    (tmp,) = {place.folder.parent}

    def confirm(placed: Placed, carried: Carried | None) -> None:
        place.confirm(placed, carried)
        assert carried is not None
        place.synced.clear()
        carried.settle(carried.losses)
        segment = placed.location.partition("@")[0].rpartition("/")[2]
        assert place.synced == [segment, "1.2.100", "1.2.200", "spool", tmp.name]

    monkeypatch.setattr(receipt_lane.LaneLog, "keep", lambda *_: float("inf"))
    place.spool.begin(ADDRESS).finish([b"x"], confirm=confirm)
    place.close()


@pytest.mark.parametrize("how", ["sealed", "checkpoint", "a long object"])
def test_a_file_stays_when_what_it_carries_may_be_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    monkeypatch.setattr(receipt_lane.LaneLog, "keep", lambda *_: float("inf"))
    place.put(b"x")
    reader = ReceiptReader(place.folder)
    assert numbers(everything(reader)) == ["1.2.1"]  # while its writer lives
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", fail)
        if how == "sealed":
            place.spool.seal(idle_for=-1.0)
        elif how == "checkpoint":
            place.close()
        else:
            with pytest.raises(OutOfResources):
                place.put(b"x" * 300_000, 2)
    place.put(b"y", 3) if how != "checkpoint" else None
    place.close()
    (log,) = place.logs()
    assert not settled(log)
    assert "the receipts log keeps what it carries" in caplog.text
    assert [*everything(reader, Lane.STAT), *everything(reader)] == [] or how != "checkpoint"
    assert reader.finished(place.writer.name)
    gone = reader.forget({path.name: path.stat().st_size for path in place.folder.glob("[0-9a-f]*.log")})
    assert log.name not in gone
    assert gone  # the other lane's
    reader.close()


def test_objects_after_a_loss_are_settled(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_lane.LaneLog, "keep", lambda *_: float("inf"))
    place.put(b"x")
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", fail)
        place.spool.seal(idle_for=-1.0)
    log = place.writer._lanes[Lane.ROUTINE]
    with log._lock:
        log._turn()
    place.put(b"y", 2)
    place.close()
    assert [settled(path) for path in place.logs()] == [False, True]


def test_who_waits_for_a_sync_of_the_log_that_fails_is_refused_and_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_lane.LaneLog, "keep", lambda *_: float("inf"))
    first = place.put(b"first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OutOfResources):
            place.put(b"refused", 2)
    third = place.put(b"third", 3)
    assert third.location.partition("@")[0] != first.location.partition("@")[0]
    assert b"refused" not in b"".join(path.read_bytes() for path in place.logs())
    assert b"refused" not in b"".join(path.read_bytes() for path in place.spool.root.rglob("*.seg"))
    reader = ReceiptReader(place.folder)
    assert numbers(everything(reader)) == ["1.2.1", "1.2.3"]
    reader.close()
    place.close()


def test_a_full_disk_costs_the_spare_and_no_object(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = disk.write_all

    def full(descriptor: int, parts: list[bytes], *, at: int | None = None) -> None:
        if not any(map(any, parts)):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, parts, at=at)

    monkeypatch.setattr(disk, "write_all", full)
    for number in range(10):
        place.put(b"x" * 100, number)
    place.until(lambda: "it goes on without" in caplog.text)
    assert len(list(place.folder.glob(".*"))) == 0
    place.put(b"y", 10)
    reader = ReceiptReader(place.folder)
    assert numbers(everything(reader)) == [f"1.2.{number}" for number in range(11)]
    reader.close()
    place.close()


def test_many_threads_lose_nothing_while_files_are_left_all_the_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_lane, "ROTATE_AFTER", 0.0)
    monkeypatch.setattr(receipt_files, "SPARE", 8 << 10)
    monkeypatch.setattr(pool, "MOST_OPEN", 4)

    def push(thread: int) -> None:
        for number in range(60):
            address = ADDRESS._replace(series_instance_uid=f"1.2.{thread}.{number % 2}")
            place.put(f"{thread} {number} ".encode() * 50, thread * 1000 + number, address=address)

    threads = [threading.Thread(target=push, args=(n,)) for n in range(4)]
    reader = ReceiptReader(place.folder)
    for thread in threads:
        thread.start()
    found = []
    while any(thread.is_alive() for thread in threads):
        found += reader.read(Lane.ROUTINE, limit=30)
        reader.forget({receipt.file: receipt.end for receipt in found})
    for thread in threads:
        thread.join()
    place.close()
    found += everything(reader)
    for n in range(4):
        assert [u for u in numbers(found) if int(u[4:]) // 1000 == n] == [f"1.2.{n * 1000 + k}" for k in range(60)]
    everything(reader, Lane.STAT)
    reader.forget({receipt.file: receipt.end for receipt in found})
    assert list(place.folder.glob("*.log")) == []
    reader.close()


def test_what_a_dead_writer_carries_is_not_read_before_it_is_written_back_and_all_else_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_lane.LaneLog, "keep", lambda *_: float("inf"))
    log, (first,) = place.writer._lanes[Lane.ROUTINE], place.logs()
    place.writer.append(Lane.ROUTINE, stored(1))
    place.put(b"x" * 3000, 2)
    place.writer.append(Lane.ROUTINE, stored(3))
    with log._lock:
        log._turn()
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", fail)
        log._let_go_retired()
    assert not is_held(first)
    assert not settled(first)
    place.writer.append(Lane.ROUTINE, stored(4))
    reader = ReceiptReader(place.folder)
    assert numbers(everything(reader)) == ["1.2.1"]
    assert reader.waiting() == {first.name}
    assert numbers(everything(reader)) == []
    reader.pass_by()  # nobody can write it back: what came later is told
    assert numbers(everything(reader)) == ["1.2.4"]
    assert reader.backlog()[Lane.ROUTINE] > 0
    restore(place.folder, place.spool.root, place.folder / "no journal")
    assert numbers(everything(reader)) == ["1.2.2", "1.2.3"]
    assert reader.waiting() == frozenset()
    assert reader.backlog()[Lane.ROUTINE] == 0
    reader.close()
    place.close()


def test_a_reader_does_not_pass_an_object_that_the_disk_takes_in_part(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_lane.LaneLog, "keep", lambda *_: float("inf"))
    reader, seen = ReceiptReader(place.folder), list[str]()
    place.put(b"x" * 3000, 1)
    seen += numbers(everything(reader))
    pieces: list[int] = []

    def short(descriptor: int, parts: Sequence[bytes], at: int) -> int:
        if pieces:
            return os.pwrite(descriptor, b"".join(parts)[: pieces.pop()], at)
        seen.extend(numbers(everything(reader)))  # another process looks just now
        raise OSError(errno.ENOSPC, "No space left on device")

    for written in (4, 100, 500, 4096, 30_000):
        pieces.append(written)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", short)
            with pytest.raises(OutOfResources):
                place.put(b"y" * 34_000, 100 + written)
        place.put(b"z" * 3000, 200 + written)
        seen += numbers(everything(reader))
    place.close()
    seen += numbers(everything(reader))
    assert seen == ["1.2.1", *(f"1.2.{200 + written}" for written in (4, 100, 500, 4096, 30_000))]
    reader.close()


def test_the_last_of_a_disk_is_not_filled_with_zeros(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(b"x")
    place.until_a_spare_is_there()
    place.close()
    monkeypatch.setattr(receipt_files, "_ROOM", 1 << 62)
    writer = ReceiptWriter(place.folder)
    log = writer._lanes[Lane.ROUTINE]
    assert log._prepare() is False
    assert log._spare is None
    assert not list(place.folder.glob(".*.log"))
    writer.close()
