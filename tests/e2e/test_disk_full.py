"""A disk that fills up: objects are refused cleanly, nothing half-written stays, and it recovers alone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.receive import Receive
from e2e.site import Site
from unit.listener.modality import Rejected, Scu, encode, image

NO_SPACE = 0xA700
STUDY = "1.2.826.5"


@pytest.fixture
def disk(small_disk: Callable[[str], Path]) -> Path:
    return small_disk("64m")


@pytest.fixture
def receiver(disk: Path, free_port: Callable[[], int]) -> Iterator[Receive]:
    # Without watermarks, so that the disk itself says no.
    made = Receive(disk / "site", free_port(), listener={"disk_low": "0B", "disk_full": "0B"})
    made.start()
    yield made
    made.kill()


def ballast(disk: Path, *, leave: int) -> Path:
    """A file that takes all but ``leave`` bytes."""
    path = disk / f"ballast-{len(list(disk.glob('ballast-*')))}"
    for last in [False] * 100 + [True]:
        space = os.statvfs(disk)
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - leave)
            break
        except OSError:  # nothing is free, or another process took some meanwhile
            if last or space.f_bavail * space.f_frsize <= leave:
                raise
    return path


def numbered(n: int, size: int) -> tuple[str, bytes]:
    uid = f"{STUDY}.{size}.{n}"
    return uid, encode(image(uid, study=STUDY, series=f"{STUDY}.{size}", pixels=bytes([n % 251]) * size))


@pytest.mark.parametrize("size", [1_000_000, 2_000])
def test_a_full_disk_refuses_keeps_nothing_half_written_and_recovers(
    receiver: Receive, disk: Path, tmp_path: Path, size: int
) -> None:
    stored: dict[str, bytes] = {}
    filler = ballast(disk, leave=6_000_000 if size > 100_000 else 400_000)
    scu = Scu(receiver.port)
    statuses = []
    while statuses.count(NO_SPACE) < 5:
        uid, data = numbered(len(statuses), size)
        statuses.append(scu.store(data, sop_instance=uid))
        if statuses[-1] == 0:
            stored[uid] = data
        assert len(statuses) < 2_000, "it never fills"
    assert set(statuses) == {0, NO_SPACE}
    filler.unlink()

    def one_more() -> bool:
        uid, data = numbered(len(statuses), size)
        statuses.append(scu.store(data, sop_instance=uid))
        if statuses[-1] == 0:
            stored[uid] = data
        return statuses[-1] == 0

    receiver.until(one_more, what="Success after space came back")  # on the same association
    scu.release()
    receiver.until(lambda: receiver.journalled(STUDY) == len(stored), what="everything in the journal")
    receiver.stop()
    assert receiver.torn() == {}
    assert receiver.objects() == len(stored)
    kept = receiver.export(STUDY, tmp_path / "out")
    assert kept == {uid: [data] for uid, data in stored.items()}


def test_a_receiver_that_starts_on_a_full_disk_refuses_and_recovers(receiver: Receive, disk: Path) -> None:
    receiver.kill()
    ballast(disk, leave=0)
    receiver.start()
    scu = Scu(receiver.port)
    uid, data = numbered(1, 2_000)

    def refused() -> bool:
        # What the dead left is cut, which may give space back: that is filled, too.
        with contextlib.suppress(OSError):
            ballast(disk, leave=0)
        return scu.store(data, sop_instance=uid) == NO_SPACE

    receiver.until(refused, what="A700")
    for filler in disk.glob("ballast-*"):
        filler.unlink()
    receiver.until(lambda: scu.store(data, sop_instance=uid) == 0, what="Success after space came back")
    receiver.until(lambda: "receive" in receiver.receiving(), what="the ready file")
    scu.release()
    receiver.stop()
    assert not re.search(r"role receive\S* ended \(", receiver.log()), receiver.log()[-3000:]


@pytest.fixture
def site(disk: Path, free_port: Callable[[], int], engines: Path) -> Iterator[Site]:
    watermarks = {"ICHOR_LISTENER__DISK_LOW": "0B", "ICHOR_LISTENER__DISK_FULL": "0B"}
    made = Site(disk / "site", free_port(), free_port(), engines=engines, env=watermarks)
    made.start()
    yield made
    made.kill()


def test_serve_counts_on_a_full_disk_and_its_receivers_come_back_there(site: Site, disk: Path) -> None:
    run = site.folder / "data" / "run"
    filler = ballast(disk, leave=0)
    for pid in [int(path.read_text()) for path in run.glob("receive*.ready")]:
        os.kill(pid, signal.SIGKILL)
    uid, data = numbered(1, 2_000)

    def answer() -> int | None:
        with contextlib.suppress(OSError):
            return Scu(site.listener_port).store(data, sop_instance=uid)
        return None

    site.until(lambda: answer() == NO_SPACE, timeout=240, what="a receiver that is back")
    for body in (bytes(4), bytes([0, 0, 0, 2, 1, 0]), bytes([0, 0, 0, 3, 1, 3, 0]), bytes([0, 0, 0, 9, 1, 3, 0])):
        with pytest.raises(Rejected):  # each of them is counted under a label of its own
            Scu(site.listener_port, called="NOBODY")
        Scu(site.listener_port).pdu(4, body)
    assert answer() == NO_SPACE
    filler.unlink()
    site.until(lambda: answer() == 0, timeout=240, what="Success after space came back")
    site.until(lambda: site.request("/readyz")[0] == 200, timeout=240, what="ready files")
    assert "(signal 7)" not in site.log(), site.log()[-3000:]
