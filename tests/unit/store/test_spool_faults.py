"""What the spool keeps when writes, syncs and processes fail, and what is on the medium when it says so."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from descriptors import descriptors

from ichor.errors import OutOfResources
from ichor.store import disk, pool
from ichor.store.segments import segment_of
from ichor.store.spool import Address, FileSpool

ADDRESS = Address(
    study_instance_uid="1.2.3", series_instance_uid="1.2.3.4", sop_instance_uid="1.2.3.4.5",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.4", transfer_syntax_uid="1.2.840.10008.1.2.1",
)  # fmt: skip


def data_set(spool: FileSpool, location: str) -> bytes:
    with spool.open(location) as file:
        whole = file.read()
    return whole[144 + int.from_bytes(whole[140:144], "little") :]


def finished(root: Path) -> list[bytes]:
    spool = FileSpool(root)
    return sorted(
        data_set(spool, f"{segment}@{offset}+{length}")
        for segment, _ in spool.segments()
        for offset, length in spool.objects(segment)
    )


def size(spool: FileSpool) -> int:
    return sum(size for _, size in spool.segments())


def failing(code: int, *, writes: bool = False) -> Callable[..., None]:
    """In the place of ``sync`` or of ``write_all``, which writes some of it."""

    def fail(where: Any, *_: object) -> None:
        if writes:
            os.write(where, b"some of it")
        raise OSError(code, os.strerror(code))

    return fail


# --- refused cleanly --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("where", ["write_all", "sync"])
@pytest.mark.parametrize("pieces", [False, True])
def test_disk_error_refuses_leaves_nothing_and_the_segment_is_never_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, where: str, pieces: bool
) -> None:
    spool = FileSpool(tmp_path)
    neighbour = spool.put(ADDRESS, [b"neighbour"])
    before = (tmp_path / segment_of(neighbour.location)).read_bytes()
    incoming = spool.begin(ADDRESS)
    if pieces:
        incoming.write([b"written already"])
    with monkeypatch.context() as patch:
        patch.setattr(disk, where, failing(code, writes=where == "write_all"))
        with pytest.raises(OutOfResources) as refused:
            incoming.finish([b"x" * 1000])
    assert refused.value.status == 0xA700
    assert errno.errorcode[code] in refused.value.reason
    assert "1.2.3" not in refused.value.reason
    assert (tmp_path / segment_of(neighbour.location)).read_bytes() == before
    with pytest.raises(OutOfResources):
        incoming.finish([b"x"])
    incoming.discard()
    placed = spool.put(ADDRESS, [b"again"])  # space again: it recovers alone
    assert segment_of(placed.location) != segment_of(neighbour.location)
    assert (tmp_path / segment_of(neighbour.location)).read_bytes() == before
    assert finished(tmp_path) == [b"again", b"neighbour"]


def test_a_folder_that_cannot_be_synced_refuses_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = FileSpool(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_directory", failing(errno.EIO))
        with pytest.raises(OutOfResources):
            spool.put(ADDRESS, [b"x"])
    assert list(tmp_path.iterdir()) == []
    assert data_set(spool, spool.put(ADDRESS, [b"x"]).location) == b"x"


def test_an_error_while_it_streams_ends_the_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool(tmp_path)
    incoming = spool.begin(ADDRESS)
    incoming.write([b"x" * 1000])
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_all", failing(errno.ENOSPC, writes=True))
        with pytest.raises(OutOfResources, match="ENOSPC"):
            incoming.write([b"x"])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutOfResources):
        incoming.write([b"x"])
    assert list(tmp_path.iterdir()) == []


def test_an_end_that_cannot_be_cut_off_is_not_an_object_and_is_cut_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = FileSpool(tmp_path)
    kept = spool.put(ADDRESS, [b"kept"])
    known = size(spool)
    incoming = spool.begin(ADDRESS)
    incoming.write([b"half"])

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", fail)
        incoming.discard()
    assert size(spool) > known
    assert segment_of(spool.put(ADDRESS, [b"next"]).location) != segment_of(kept.location)
    assert finished(tmp_path) == [b"kept", b"next"]
    assert spool.reclaim(segment_of(kept.location), keep_until=known) is True
    assert (tmp_path / segment_of(kept.location)).stat().st_size == known


def test_without_descriptors_an_object_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(OutOfResources, match="EMFILE"):
            spool.put(ADDRESS, [b"x"])
    assert data_set(spool, spool.put(ADDRESS, [b"x"]).location) == b"x"


@pytest.mark.parametrize("level", ["instance", "association", "none"])
def test_whatever_fails_meanwhile_what_was_finished_is_there_and_nothing_is_left_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setattr(pool, "SEAL_SIZE", 20_000)
    monkeypatch.setattr(pool, "MOST_OPEN", 3)
    luck, real_sync, real_write = random.Random(7), disk.sync, disk.write_all

    def sync(descriptor: int) -> None:
        if luck.random() < 0.05:
            raise OSError(errno.EIO, "Input/output error")
        real_sync(descriptor)

    def write_all(descriptor: int, parts: Any) -> None:
        if luck.random() < 0.05:
            os.write(descriptor, b"some of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real_write(descriptor, parts)

    spool = FileSpool(tmp_path, durability=level)
    placed: dict[bytes, str] = {}
    refused = []

    def send(thread: int) -> None:
        mine = random.Random(thread)
        for n in range(200):
            sent = f"{thread} {n} ".encode() * mine.randrange(1, 400)
            incoming = spool.begin(ADDRESS._replace(series_instance_uid=f"1.2.3.{mine.randrange(4)}"))
            try:
                if mine.random() < 0.5:
                    incoming.write([sent[:5]])
                    if mine.random() < 0.2:
                        incoming.discard()
                        continue
                    placed[sent] = incoming.finish([sent[5:]]).location
                else:
                    placed[sent] = incoming.finish([sent]).location
                if mine.random() < 0.1:
                    spool.seal(idle_for=0.0)
                if mine.random() < 0.1:
                    spool.sync()
            except OutOfResources as error:
                refused.append(error.reason)

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", sync)
        patch.setattr(disk, "write_all", write_all)
        threads = [threading.Thread(target=send, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    spool.close()
    assert len(placed) > 600
    assert len(refused) > 20
    for sent, location in placed.items():
        assert data_set(spool, location) == sent
    assert finished(tmp_path) == sorted(placed)
    assert all(spool.reclaim(segment) for segment, _ in spool.segments())
    assert list(tmp_path.iterdir()) == []
    assert descriptors(tmp_path) == []


def test_a_full_disk_refuses_keeps_what_was_stored_and_recovers_alone(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("1m")
    spool = FileSpool(disk / "spool")
    sent, placed = [], []

    def fill() -> None:
        for n in range(100):
            placed.append(spool.put(ADDRESS, [bytes([n]) * 50_000]))
            sent.append(bytes([n]) * 50_000)

    def stream() -> None:
        for _ in range(100):
            streamed.write([b"s" * 50_000])

    with pytest.raises(OutOfResources, match="ENOSPC"):
        fill()
    assert len(sent) > 10
    assert finished(disk / "spool") == sent
    streamed = spool.begin(ADDRESS._replace(series_instance_uid="1.2.3.5"))
    with pytest.raises(OutOfResources, match="ENOSPC"):
        stream()
    assert finished(disk / "spool") == sent
    assert {segment for segment, _ in spool.segments()} == {segment_of(placed[0].location)}
    assert spool.reclaim(segment_of(placed[0].location)) is True
    again = spool.put(ADDRESS, [sent[0]])
    assert data_set(spool, again.location) == sent[0]


# --- on the medium ----------------------------------------------------------------------------------------------------


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every sync: what (path below the folder of the test) and the size it had then."""
    calls: list[tuple[str, int]] = []

    def record(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append((str(path.relative_to(tmp_path)), path.stat().st_size if path.is_file() else 0))

    monkeypatch.setattr(disk, "sync", record)
    return calls


def test_level_instance_syncs_the_object_and_new_entries_before_it_returns(
    tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    spool = FileSpool(tmp_path / "spool")
    first = segment_of(spool.put(ADDRESS, [b"one"]).location)
    folders = [("spool/1.2.3/1.2.3.4", 0), ("spool/1.2.3", 0), ("spool", 0)]
    assert synced == [(f"spool/{first}", size(spool)), *folders, (".", 0)]
    synced.clear()
    spool.put(ADDRESS, [b"two"])
    assert synced == [(f"spool/{first}", size(spool))]
    synced.clear()
    spool.close()
    assert synced == []
    # Another process may have removed and made the folders meanwhile.
    again = segment_of(spool.put(ADDRESS, [b"three"]).location)
    assert [path for path, _ in synced] == [f"spool/{again}", *(path for path, _ in folders)]


def test_level_association_syncs_what_was_finished_when_it_is_told_to(
    tmp_path: Path, synced: list[tuple[str, int]]
) -> None:
    spool = FileSpool(tmp_path / "spool", durability="association")
    places = [
        segment_of(spool.put(ADDRESS._replace(series_instance_uid=series), [b"x"]).location)
        for series in ("1.2.3.4", "1.2.3.5", "1.2.3.4")
    ]
    assert synced == []
    spool.sync()
    sizes = dict(spool.segments())
    assert {(f"spool/{name}", sizes[name]) for name in places} <= set(synced)
    assert {"spool/1.2.3/1.2.3.4", "spool/1.2.3/1.2.3.5", "spool/1.2.3", "spool"} <= {path for path, _ in synced}
    synced.clear()
    spool.sync()
    assert synced == []
    assert segment_of(spool.put(ADDRESS, [b"y"]).location) == places[0]
    spool.sync()
    assert synced == [(f"spool/{places[0]}", dict(spool.segments())[places[0]])]


def test_level_association_syncs_a_segment_before_it_is_sealed(tmp_path: Path, synced: list[tuple[str, int]]) -> None:
    spool = FileSpool(tmp_path / "spool", durability="association")
    segment = segment_of(spool.put(ADDRESS, [b"x"]).location)
    spool.close()
    assert (f"spool/{segment}", size(spool)) in synced
    synced.clear()
    spool.sync()
    assert synced == []


@pytest.mark.parametrize("level", ["instance", "association", "none"])
def test_a_segment_whose_folder_was_removed_is_not_written_again(tmp_path: Path, level: str) -> None:
    spool = FileSpool(tmp_path / "spool", durability=level)
    losses = spool.losses
    before = spool.put(ADDRESS, [b"before"])
    shutil.rmtree(tmp_path / "spool" / ADDRESS.study_instance_uid)
    if level == "none":  # where nothing is synced it is noticed within a second
        deadline = time.monotonic() + 60.0
        while segment_of(spool.put(ADDRESS, [b"lost"]).location) == segment_of(before.location):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    placed = spool.put(ADDRESS, [b"after"])
    assert segment_of(placed.location) != segment_of(before.location)
    assert data_set(spool, placed.location) == b"after"
    if level == "association":  # the first one was acknowledged, and is on no medium
        with pytest.raises(OutOfResources):
            spool.sync(losses=losses)
        spool.sync(losses=spool.losses)
    spool.close()


def test_an_object_whose_segment_is_removed_while_it_is_written_is_refused(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path / "spool")
    incoming = spool.begin(ADDRESS)
    incoming.write([b"some of it"])
    shutil.rmtree(tmp_path / "spool" / ADDRESS.study_instance_uid)
    with pytest.raises(OutOfResources, match="ENOENT"):
        incoming.finish([b"the rest"])
    assert data_set(spool, spool.put(ADDRESS, [b"again"]).location) == b"again"
    spool.close()


def test_level_association_tells_everybody_whose_objects_a_failed_sync_left_in_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = FileSpool(tmp_path, durability="association")
    losses = spool.losses
    before = segment_of(spool.put(ADDRESS, [b"of one"]).location)
    spool.put(ADDRESS, [b"of another"])
    under_way = spool.begin(ADDRESS)
    under_way.write([b"half"])
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", failing(errno.EIO))
        with pytest.raises(OutOfResources, match="EIO"):
            spool.sync(losses=losses)
    with pytest.raises(OutOfResources):
        spool.sync(losses=losses)  # the other association; a sync that succeeds now proves nothing
    with pytest.raises(OutOfResources):
        under_way.finish([b"in the segment that failed"])
    later = spool.losses
    assert segment_of(spool.put(ADDRESS, [b"later"]).location) != before
    spool.sync(losses=later)


def test_sync_that_fails_while_an_object_is_confirmed_is_a_loss_and_the_object_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = FileSpool(tmp_path / "spool", durability="association")
    spool.put(ADDRESS, [b"of another"])
    losses = spool.losses

    def fail_meanwhile(*_: object) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(disk, "sync", failing(errno.EIO))
            with pytest.raises(OutOfResources):
                spool.sync()

    placed = spool.begin(ADDRESS).finish([b"told already"], confirm=fail_meanwhile)
    with spool.open(placed.location) as file:
        assert file.read().endswith(b"told already")
    with pytest.raises(OutOfResources):
        spool.sync(losses=losses)
    spool.sync()
    assert segment_of(spool.put(ADDRESS, [b"later"]).location) != segment_of(placed.location)


def test_level_association_counts_a_sync_that_fails_as_it_seals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = FileSpool(tmp_path, durability="association")
    spool.put(ADDRESS, [b"x"])
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", failing(errno.EIO))
        spool.seal(idle_for=0.0)
    with pytest.raises(OutOfResources):
        spool.sync(losses=0)


def test_whoever_syncs_second_waits_for_the_sync_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool(tmp_path, durability="association")
    spool.put(ADDRESS, [b"x"])
    begun, go_on, order = threading.Event(), threading.Event(), []

    def slow(_: int) -> None:
        begun.set()
        go_on.wait(60)
        order.append("on the medium")

    monkeypatch.setattr(disk, "sync", slow)

    def second() -> None:
        spool.sync()
        order.append("second told")

    threads = [threading.Thread(target=spool.sync), threading.Thread(target=second)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    threads[1].join(0.2)
    assert order == []
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert order[0] == "on the medium"
    assert order[-1] == "second told"


def test_whoever_waited_for_a_sync_that_failed_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool(tmp_path, durability="association")
    spool.put(ADDRESS, [b"x"])
    under_way = spool.begin(ADDRESS)
    under_way.write([b"half"])  # so that the segment stays open
    begun, go_on, told = threading.Event(), threading.Event(), []
    calls = iter([True])

    def slow_and_failing_once(_: int) -> None:
        if next(calls, False):
            begun.set()
            go_on.wait(60)
            raise OSError(errno.EIO, "Input/output error")

    entered, real = threading.Semaphore(0), pool.Pool._sync

    def enter(self: pool.Pool, segment: pool.Segment) -> None:
        entered.release()
        real(self, segment)

    monkeypatch.setattr(disk, "sync", slow_and_failing_once)
    monkeypatch.setattr(pool.Pool, "_sync", enter)

    def sync() -> None:
        try:
            spool.sync()
        except OutOfResources as error:
            told.append(error.reason)

    threads = [threading.Thread(target=sync) for _ in range(2)]
    threads[0].start()
    assert begun.wait(60)
    threads[1].start()
    for _ in threads:
        assert entered.acquire(timeout=60)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(told) == 2
    under_way.discard()


def test_level_none_syncs_nothing(tmp_path: Path, synced: list[tuple[str, int]]) -> None:
    spool = FileSpool(tmp_path / "spool", durability="none")
    placed = spool.put(ADDRESS, [b"abc"])
    spool.sync()
    spool.close()
    assert synced == []
    assert data_set(spool, placed.location) == b"abc"


# --- a process that dies ----------------------------------------------------------------------------------------------

WRITER = """
import os, sys, threading
from pathlib import Path
from ichor.store.spool import Address, FileSpool

spool = FileSpool(Path(sys.argv[1]), durability="none")
lock = threading.Lock()

def send(thread):
    n = 0
    while True:
        n += 1
        address = Address("1.2.3", f"1.2.3.{n % 2}", f"1.2.{thread}.{n}", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")
        data = f"{thread} {n} ".encode() * (1 + n % 2000)
        incoming = spool.begin(address)
        incoming.write([data])
        if n % 7 == 0:
            incoming.discard()
            continue
        placed = incoming.finish([data])
        os.write(1, f"{placed.location} {thread} {n}\\n".encode())

for thread in range(1, 4):
    threading.Thread(target=send, args=(thread,)).start()
"""


@pytest.mark.parametrize("lines", [1, 57, 400])
def test_what_a_killed_writer_had_finished_is_found_by_the_footers(tmp_path: Path, lines: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    told = [writer.stdout.readline() for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    told += [line for line in writer.stdout if line.endswith("\n")]
    writer.wait(60)
    spool = FileSpool(tmp_path)
    found = {}
    for segment, _ in spool.segments():
        places = sorted(spool.objects(segment))
        for offset, length in places:
            location = f"{segment}@{offset}+{length}"
            found[location] = data_set(spool, location)
        # Nobody holds it any more: the torn end goes, what is whole stays.
        end = sum(places[-1]) + 20 if places else 0
        assert spool.reclaim(segment, keep_until=end) is True
        assert list(spool.objects(segment) if places else []) == places[::-1]
    for line in told:
        location, thread, n = line.split()
        assert found[location] == f"{thread} {n} ".encode() * (1 + int(n) % 2000) * 2
    # At most one each was finished and could not say so.
    assert len(told) <= len(found) <= len(told) + 3


def test_an_object_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from ichor.store.spool import Address, FileSpool
spool = FileSpool(Path(sys.argv[1]), durability="none")
address = Address("1.2.3", "1.2.3.4", "1.2.3.4.5", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")
piece = bytearray(1 << 20)
spool.put(address, [piece])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
incoming = spool.begin(address)
for _ in range(300):
    incoming.write([piece])
placed = incoming.finish()
assert placed.length > 300 << 20
assert spool.read_range(placed.location, placed.length - 10, 10) == bytes(10)
assert [length for _, length in spool.objects(placed.location.partition("@")[0])][0] == placed.length
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert int(done.stdout) <= 4 << 10  # KiB
