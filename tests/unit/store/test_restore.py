"""After a crash of the machine: what the log carries is back in the spool, byte for byte; what retention removed is not."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from descriptors import few_descriptors

from ichor.errors import OutOfResources, TransientError
from ichor.store import disk, receipt_files, receipt_lane
from ichor.store import restore as module
from ichor.store.journal import Journal, StoredObject
from ichor.store.receipt_lane import LaneLog
from ichor.store.receipt_tail import is_settled
from ichor.store.receipts import Lane, Receipt, ReceiptReader, ReceiptWriter, Stored
from ichor.store.restore import restore, restore_at_start
from ichor.store.spool import Address, FileSpool

COUNT = 24


class Medium:
    """What a machine that crashes now has for certain: of each file the bytes, of each folder the entries, last synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[str, int] = {}
        self.entries: dict[str, set[str]] = {}
        real = disk.sync

        def sync(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if os.path.isdir(path):
                names = set(os.listdir(path))
                real(descriptor)
                self.entries[path] = names
            else:
                size = os.fstat(descriptor).st_size
                real(descriptor)
                self.sizes[path] = size

        monkeypatch.setattr(disk, "sync", sync)

    def crash(self, root: Path, to: Path, damage: Callable[[bytes, int], bytes | None]) -> None:
        """Copy of ``root``, in which ``damage(bytes, how many are synced)`` was done to each segment; None: gone."""
        (to / "receipts").mkdir(parents=True)
        # The logs first: what is settled later does no harm.
        for log in (root / "receipts").glob("[0-9a-f]*.log"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(log, to / "receipts" / log.name)
        for segment in (root / "spool").rglob("*.seg"):
            synced = self.sizes.get(str(segment), 0)
            entered = all(
                path.name in self.entries.get(str(path.parent), ())
                for path in (segment, *segment.parents) if path.is_relative_to(root / "spool") and path.parent != root
            )  # fmt: skip
            data = damage(segment.read_bytes(), synced)
            if data is None:
                assert not (entered and synced), "a crash does not take what was synced"
                continue
            copy = to / segment.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)


def all_gone(data: bytes, synced: int) -> bytes | None:
    return data[:synced] or None


def empty(data: bytes, synced: int) -> bytes:
    return data[:synced]


def zeros(data: bytes, synced: int) -> bytes:
    return data[:synced] + bytes(len(data) - synced)


def torn(data: bytes, synced: int) -> bytes:
    return data[: synced + (len(data) - synced) * zlib.crc32(data) // 2**32]


def some_gone(data: bytes, synced: int) -> bytes | None:
    return data if zlib.crc32(data) % 2 else all_gone(data, synced)


def page_lost(data: bytes, synced: int) -> bytes:
    return data[:synced] + bytes(min(4096, len(data) - synced)) + data[synced + 4096 :]


class Site:
    """A receiver that lives, and what it acknowledged: by location, with the bytes of the Part 10 file."""

    def __init__(self, root: Path, medium: Medium) -> None:
        self.root = root
        self.medium = medium
        self.receipts = ReceiptWriter(root / "receipts")
        self.spool = FileSpool(root / "spool", writer=self.receipts.name)
        self.acknowledged: dict[str, bytes] = {}

    def store(self, number: int, *, size: int = 3000, lane: Lane = Lane.ROUTINE) -> str:
        study, series = f"1.2.{number % 2}", f"1.2.{number % 2}.{number % 3}"
        address = Address(study, series, f"{series}.{number}", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")
        placed = self.spool.begin(address).finish(
            [hashlib.sha512(str(number).encode()).digest() * (size // 64)],
            confirm=lambda placed, carried: self.receipts.append(
                lane,
                Stored(
                    address.sop_instance_uid, address.sop_class_uid, series, study, address.transfer_syntax_uid,
                    placed.location, placed.length, "A", "MR1", "ICHOR", None, None, False, 12.5,
                ),
                carried=carried,
            ),
        )  # fmt: skip
        with self.spool.open(placed.location) as file:
            self.acknowledged[placed.location] = file.read()
        return placed.location

    def fill(self) -> None:
        for number in range(COUNT):
            self.store(number, lane=Lane.STAT if number % 5 == 0 else Lane.ROUTINE)

    def crash(self, damage: Callable[[bytes, int], bytes | None] = all_gone) -> Crashed:
        copy = self.root.with_name(f"crashed-{len(list(self.root.parent.iterdir()))}")
        self.medium.crash(self.root, copy, damage)
        return Crashed(copy)

    def close(self) -> None:
        self.spool.close()
        self.receipts.close()


class Crashed:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = FileSpool(root / "spool")

    def take(self) -> Journal:
        """A relay took all that is in the log into its journal before the crash."""
        journal = Journal(self.root / "journal.sqlite")
        receipts = everything(self.root / "receipts", {})
        rows = [
            (StoredObject(file_sha256=r.record.location, **r.record._asdict()), r.writer)
            for r in receipts if isinstance(r.record, Stored)
        ]  # fmt: skip
        journal.take(rows, cursors={receipt.file: receipt.end for receipt in receipts})
        return journal

    def segments(self) -> list[Path]:
        return sorted((self.root / "spool").rglob("*.seg"))

    def logs(self) -> list[Path]:
        return sorted((self.root / "receipts").glob("[0-9a-f]*.log"))

    def restore(self) -> int:
        return restore(self.root / "receipts", self.root / "spool", self.root / "journal.sqlite")

    def found(self) -> dict[str, bytes]:
        """What lies where the receipts say, whole, from the first byte to the footer."""
        found = {}
        for segment in self.segments():
            name = str(segment.relative_to(self.root / "spool"))
            for offset, length in self.spool.objects(name):
                found[f"{name}@{offset}+{length}"] = self.spool.read_range(f"{name}@{offset}+{length}", 0, length)
        return found


@pytest.fixture
def medium(monkeypatch: pytest.MonkeyPatch) -> Medium:
    return Medium(monkeypatch)


@pytest.fixture
def site(tmp_path: Path, medium: Medium, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Nothing is settled before it is closed."""
    monkeypatch.setattr(LaneLog, "keep", lambda *_: float("inf"))
    site = Site(tmp_path / "site", medium)
    yield site
    site.close()


def test_a_segment_that_is_removed_while_it_is_written_back_to_is_made_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention removes it between its opening and its lock."""
    site.fill()
    after = site.crash(empty)
    real, removed = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.suffix == ".seg" and not removed:
            removed.append(path)
            path.unlink()
        real(descriptor, operation)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with pytest.raises(TransientError):
        after.restore()
    assert removed
    after.restore()
    assert after.found() == site.acknowledged


@pytest.mark.parametrize("damage", [all_gone, empty, zeros, torn, some_gone, page_lost])
@pytest.mark.parametrize("taken", [False, True])
def test_all_that_was_acknowledged_is_back(
    site: Site, damage: Callable[[bytes, int], bytes | None], taken: bool
) -> None:
    site.store(100, size=400_000)  # has its own sync
    site.fill()
    crashed = site.crash(lambda data, _: data)
    if taken:
        crashed.take().close()
    after = site.crash(damage)
    if taken:
        shutil.copyfile(crashed.root / "journal.sqlite", after.root / "journal.sqlite")
    assert after.found() != site.acknowledged
    assert 0 < after.restore() <= COUNT
    assert after.found() == site.acknowledged
    assert after.restore() == 0


def test_whenever_the_machine_crashes_all_that_was_acknowledged_is_back(
    tmp_path: Path, medium: Medium, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While files of the log are left, settled and let go all the time."""
    monkeypatch.setattr(receipt_lane, "ROTATE_AFTER", 0.0)
    monkeypatch.setattr(receipt_files, "SPARE", 20_000)
    site = Site(tmp_path / "site", medium)
    settled = 0
    for number in range(150):
        site.store(number, size=300_000 if number % 40 == 7 else 3000)
        if number % 10 == 9:
            acknowledged = dict(site.acknowledged)
            crashed = site.crash((all_gone, zeros, torn)[number // 10 % 3])
            settled += sum(is_settled_file(log) for log in crashed.logs())
            crashed.restore()
            found = crashed.found()
            assert {location: found.get(location) for location in acknowledged} == acknowledged
    assert settled > 10
    site.close()
    assert all(
        is_settled_file(log) or log.stat().st_size < 3000  # carries nothing: at most the record of a longer object
        for log in (tmp_path / "site" / "receipts").glob("[0-9a-f]*.log")
    )


def is_settled_file(path: Path) -> bool:
    with path.open("rb") as file:
        return is_settled(file.fileno(), path.name)


def test_what_retention_removed_stays_gone_and_what_is_not_taken_comes(site: Site) -> None:
    site.fill()
    crashed = site.crash(lambda data, _: data)
    journal = crashed.take()
    rows = journal.by_study("1.2.0")
    forgotten = {row.stored.location for row in journal.forget(rows[::2])}
    assert len(forgotten) == COUNT // 4
    # The last one of a file waits behind the cursor: a repetition of what was removed, say.
    receipts = everything(crashed.root / "receipts", {})
    last = next(r for r in reversed(receipts) if isinstance(r.record, Stored) and r.record.location in forgotten)
    cursor = max((r.end for r in receipts if r.file == last.file and r.end < last.end), default=0)
    journal._write.execute("UPDATE cursors SET offset = ? WHERE file = ?", (cursor, last.file))
    journal._write.commit()
    behind = {
        receipt.record.location
        for receipt in everything(crashed.root / "receipts", Journal(crashed.root / "journal.sqlite").cursors())
        if isinstance(receipt.record, Stored)
    }
    assert forgotten & behind
    forgotten -= behind
    assert forgotten
    journal.close()
    shutil.rmtree(crashed.root / "spool")
    assert crashed.restore() == COUNT - len(forgotten)
    expected = {location: data for location, data in site.acknowledged.items() if location not in forgotten}
    assert crashed.found() == expected
    site.close()


def everything(folder: Path, cursors: dict[str, int]) -> list[Receipt]:
    """What was read while the writers lived."""
    with contextlib.ExitStack() as stack:
        for log in folder.glob("[0-9a-f]*.log"):
            with contextlib.suppress(BlockingIOError):  # one lives
                fcntl.flock(stack.enter_context(log.open("rb")), fcntl.LOCK_EX | fcntl.LOCK_NB)
        reader = ReceiptReader(folder, cursors=cursors)
        found = [receipt for lane in Lane for receipt in reader.read(lane, limit=1000)]
        reader.close()
    return found


def test_it_may_be_cut_off_anywhere(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.fill()
    crashed = site.crash()
    real, failures = (disk.write_all, disk.sync, disk.sync_directory), 0
    for bad in range(0, 2 * COUNT + 30, 3):
        calls = iter(range(1000))

        def once(work: Callable[..., None], bad: int = bad, calls: object = calls) -> Callable[..., None]:
            def act(*arguments: object, **named: object) -> None:
                if next(calls) == bad:  # type: ignore[call-overload]
                    raise OSError(errno.EIO, "Input/output error")
                work(*arguments, **named)

            return act

        with monkeypatch.context() as patch:
            for name, work in zip(("write_all", "sync", "sync_directory"), real, strict=True):
                patch.setattr(disk, name, once(work))
            try:
                crashed.restore()
            except TransientError:
                failures += 1
    assert failures > 15
    crashed.restore()
    assert crashed.found() == site.acknowledged


@pytest.mark.parametrize("which", [-1, 3])
def test_an_object_that_the_log_has_in_part_is_not_restored_nor_read(site: Site, which: int) -> None:
    site.fill()
    crashed = site.crash()
    file = max(crashed.logs(), key=lambda path: path.read_bytes().rstrip(b"\0").__len__())
    data = file.read_bytes()
    last = sorted((one for one in site.acknowledged.values() if one in data), key=data.find)[which]  # under way
    at = data.find(last)
    file.write_bytes(data[: at + 1000] + bytes(500) + data[at + 1500 :])
    crashed.restore()
    lost = {location: one for location, one in site.acknowledged.items() if one == last}
    assert len(lost) == 1
    assert {**crashed.found(), **lost} == site.acknowledged
    assert crashed.found() != site.acknowledged
    reader = ReceiptReader(crashed.root / "receipts")
    read = {r.record.location for lane in Lane for r in reader.read(lane, limit=100) if isinstance(r.record, Stored)}
    assert read == set(crashed.found())
    reader.close()


def test_nothing_is_written_back_that_was_settled(site: Site) -> None:
    site.fill()
    site.close()
    crashed = site.crash()
    assert crashed.found() == site.acknowledged
    shutil.rmtree(crashed.root / "spool")  # as no crash can
    assert crashed.restore() == 0
    assert crashed.found() == {}


def test_what_lacks_nothing_is_walked_once_and_its_zeros_are_cut_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.fill()
    crashed = site.crash(zeros)
    spare = crashed.root / "receipts" / f"{crashed.logs()[0].name.partition('-')[0]}-000009.routine.log"
    spare.write_bytes(bytes(1 << 20))
    crashed.restore()
    assert all(is_settled_file(log) for log in crashed.logs())
    assert spare.stat().st_size < 100
    monkeypatch.setattr(module, "_restore_all", pytest.fail)
    assert crashed.restore() == 0
    reader = ReceiptReader(crashed.root / "receipts")
    while any(reader.read(lane, limit=100) for lane in Lane):
        pass
    reader.forget({log.name: log.stat().st_size for log in crashed.logs()})
    assert crashed.logs() == []
    reader.close()


def test_the_files_of_a_living_writer_are_left_alone(site: Site) -> None:
    site.fill()
    before = {path: path.read_bytes() for path in (site.root / "receipts").glob("[0-9a-f]*.log")}
    assert restore(site.root / "receipts", site.root / "spool", site.root / "journal.sqlite") == 0
    assert {path: path.read_bytes() for path in before} == before
    site.close()


def test_more_files_than_a_process_may_open_are_written_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_lane, "ROTATE_AT", 1)
    for number in range(80):
        site.store(number)
    crashed = site.crash()
    crashed.take().close()
    assert len(crashed.logs()) >= 80
    with few_descriptors(30):
        assert crashed.restore() == 80
        assert crashed.restore() == 0
    assert crashed.found() == site.acknowledged


def test_who_asks_whether_the_writer_lives_keeps_nothing_from_being_written_back(site: Site) -> None:
    site.fill()
    crashed = site.crash()
    with contextlib.ExitStack() as stack:
        for log in crashed.logs():
            fcntl.flock(stack.enter_context(log.open("rb")), fcntl.LOCK_SH)
        crashed.restore()
    assert crashed.found() == site.acknowledged


def test_a_file_that_cannot_be_written_back_keeps_no_other_waiting_and_is_not_read(site: Site) -> None:
    for number in range(COUNT):
        site.store(number, lane=Lane.STAT if number % 2 else Lane.ROUTINE)
    crashed = site.crash()
    (crashed.root / "spool").mkdir(exist_ok=True)
    (crashed.root / "spool" / "1.2.1").write_bytes(b"")  # no folder can be made for what the STAT log carries
    with pytest.raises(TransientError, match=r"stat\.log: [A-Za-z ]+$"):
        crashed.restore()
    there = {location: data for location, data in site.acknowledged.items() if location.startswith("1.2.0/")}
    assert crashed.found() == there
    reader = ReceiptReader(crashed.root / "receipts")
    assert [r.record.location for r in reader.read(Lane.ROUTINE, limit=100) if isinstance(r.record, Stored)] == list(
        there
    )
    assert reader.read(Lane.STAT, limit=100) == []
    (waiting,) = reader.waiting()
    assert ".stat." in waiting
    assert not reader.finished(site.receipts.name)
    (crashed.root / "spool" / "1.2.1").unlink()
    crashed.restore()
    assert len(reader.read(Lane.STAT, limit=100)) == COUNT // 2
    assert reader.waiting() == frozenset()
    assert crashed.found() == site.acknowledged
    reader.close()


def test_what_retention_may_not_touch_is_locked_while_it_is_written_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.fill()
    crashed = site.crash(empty)
    reclaimed: list[bool] = []
    real = disk.sync

    def sync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.suffix == ".seg" and path.is_relative_to(crashed.root):
            reclaimed.append(crashed.spool.reclaim(str(path.relative_to(crashed.root / "spool"))))
        real(descriptor)

    monkeypatch.setattr(disk, "sync", sync)
    crashed.restore()
    assert reclaimed
    assert not any(reclaimed)
    assert crashed.found() == site.acknowledged


def test_what_a_failed_sync_of_the_spool_may_have_lost_is_written_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site.fill()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", fail)
        site.close()
    assert "the receipts log keeps what it carries" in caplog.text
    reader = ReceiptReader(site.root / "receipts")
    cursors = {receipt.file: receipt.end for receipt in everything(site.root / "receipts", {})}
    assert len(cursors) == 2
    assert all(reader.read(lane, limit=100) == [] for lane in Lane)  # waits
    assert reader.forget(cursors) == []
    # In the page cache all is well: what the medium has nobody knows.
    written: list[int] = []
    real = disk.write_all
    monkeypatch.setattr(disk, "write_all", lambda d, p, *, at: (written.append(sum(map(len, p))), real(d, p, at=at)))
    assert restore(site.root / "receipts", site.root / "spool", site.root / "journal.sqlite") == 0
    assert sum(written) >= sum(map(len, site.acknowledged.values()))
    assert sum(len(reader.read(lane, limit=100)) for lane in Lane) == COUNT
    assert all(reader.read(lane, limit=100) == [] for lane in Lane)
    assert sorted(reader.forget(cursors)) == sorted(cursors)
    reader.close()


def test_a_spool_that_is_away_is_waited_for(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.store(0, size=400_000)  # synced: only in the spool
    site.fill()
    crashed = site.crash()
    crashed.take().close()
    (crashed.root / "spool").rename(crashed.root / "elsewhere")
    with pytest.raises(TransientError):
        crashed.restore()
    restore_at_start(crashed.root / "receipts", crashed.root / "spool", crashed.root / "journal.sqlite")
    assert "not there" in caplog.text
    assert not (crashed.root / "spool").exists()
    (crashed.root / "elsewhere").rename(crashed.root / "spool")
    assert crashed.restore() > 0
    assert crashed.found() == site.acknowledged


def test_a_spool_that_is_away_is_not_taken_for_one_that_is_there_when_something_comes(site: Site) -> None:
    site.store(0, size=400_000)
    site.fill()
    crashed = site.crash()
    crashed.take().close()
    (crashed.root / "spool").rename(crashed.root / "elsewhere")
    later = Site(crashed.root, site.medium)  # receivers start all the same
    for number in range(200, 206):
        later.store(number, size=300_000)
    crashed.take().close()
    with pytest.raises(TransientError, match="not there"):
        crashed.restore()
    assert crashed.found() == later.acknowledged
    later.close()
    (crashed.root / "spool").rename(crashed.root / "beside")
    (crashed.root / "elsewhere").rename(crashed.root / "spool")
    assert crashed.restore() > 0
    assert crashed.found() == site.acknowledged


def test_a_log_that_is_not_understood_is_left_as_it_is(site: Site) -> None:
    """Of another form, or with something of it behind what is understood."""
    site.fill()
    crashed = site.crash()
    file, other = (next((crashed.root / "receipts").glob(f"*.{lane.value}.log")) for lane in Lane)
    foreign = bytes(range(1, 256)) * 50
    file.write_bytes(foreign)
    data = other.read_bytes().rstrip(b"\0")
    other.write_bytes(data + foreign + bytes(5000))
    crashed.restore()
    assert file.read_bytes() == foreign
    assert other.read_bytes().startswith(data + foreign)
    assert is_settled_file(other)
    assert crashed.restore() == 0


def test_a_journal_that_cannot_be_read_in_part_stops_no_start(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.fill()
    crashed = site.crash()
    crashed.take().close()
    journal = crashed.root / "journal.sqlite"
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'objects'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    with journal.open("r+b") as opened:
        opened.seek((page - 1) * size)
        opened.write(b"\xff" * size)
    restore_at_start(crashed.root / "receipts", crashed.root / "spool", journal)
    assert caplog.text.count("the journal cannot be read") == 1
    assert not any(map(is_settled_file, crashed.logs()))


def test_without_a_journal_that_can_be_read_all_is_written_back(site: Site) -> None:
    site.fill()
    crashed = site.crash()
    (crashed.root / "journal.sqlite").write_bytes(b"no journal at all" * 1000)
    assert crashed.restore() == COUNT
    assert crashed.found() == site.acknowledged


def test_a_record_in_an_object_is_nobodys_record(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sender puts into its pixels is not read as a record, not even behind damage."""
    monkeypatch.setattr(receipt_files, "SPARE", 1 << 20)
    other = ReceiptWriter(site.root / "other")
    other.append(Lane.ROUTINE, Stored(*["1.2.3"] * 6, 9, *["x"] * 3, None, None, False, 1.0))  # type: ignore[arg-type]
    other.close()
    (forged,) = (site.root / "other").glob("*.routine.log")
    real = hashlib.sha512

    class Forged:
        def digest(self) -> bytes:
            return forged.read_bytes()

    monkeypatch.setattr(hashlib, "sha512", lambda _: Forged())
    for number in range(3):
        site.store(number)
    monkeypatch.setattr(hashlib, "sha512", real)
    crashed = site.crash()
    for log in crashed.logs():
        data = bytearray(log.read_bytes())
        if any(data):
            data[40:60] = bytes(20)  # the first record
            log.write_bytes(data)
    read = [r.record.location for r in everything(crashed.root / "receipts", {}) if isinstance(r.record, Stored)]
    assert read == list(site.acknowledged)[1:]
    crashed.restore()
    assert set(crashed.found()) == set(read)


def test_an_object_is_refused_when_the_log_cannot_carry_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.fill()
    with monkeypatch.context() as patch:

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OutOfResources):
            site.store(100)
    site.store(101)
    crashed = site.crash()
    crashed.restore()
    assert crashed.found() == site.acknowledged
    assert len(site.acknowledged) == COUNT + 1
