"""Two receivers, each with its own data folder, and one store: what one acknowledged outlives it and its folder."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.receive import Receive
from unit.listener.modality import Scu, encode, image

from ichor.bus.sqlite import SqliteBus
from ichor.clock import SystemClock
from ichor.messages import INSTANCES, InstancesReceived, open_envelope
from ichor.store.journal import JournalReader
from ichor.store.segments import receiver_of
from ichor.store.spool import FileSpool

STUDY = "1.2.826.23"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def start(tmp_path: Path, store: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., Receive]]:
    made: list[Receive] = []

    def begin(name: str, *, commitment: bool = False) -> Receive:
        settings = {"url": f"file:{store}", "receiver": name}
        listener = {"processes": 1, "commitment": commitment}
        receive = Receive(tmp_path / name, free_port(), listener=listener, store=settings)
        with (receive.folder / "ichor.toml").open("a") as file:
            file.write('[[senders]]\nae_title = "CT1"\nhost = "127.0.0.1"\nport = 104\n')
        made.append(receive)
        receive.start()
        return receive

    yield begin
    for receive in made:
        receive.kill()


def sending(
    receive: Receive, first: int, *, most: int, enough: threading.Event | None = None
) -> dict[str, list[bytes]]:
    """Store until ``most`` or the receiver's end; what was acknowledged."""
    acknowledged: dict[str, list[bytes]] = {}
    scu = Scu(receive.port, calling="CT1")
    for number in range(first, first + most):
        uid = f"{STUDY}.9.{number}"
        data = encode(image(uid, study=STUDY, series=f"{STUDY}.{number % 2}"))
        try:
            if scu.store(data, sop_instance=uid) != 0:
                break
        except (OSError, EOFError, AssertionError):
            return acknowledged
        acknowledged[uid] = [data]
        if enough is not None and len(acknowledged) == 20:
            enough.set()
    scu.release()
    return acknowledged


def told(receive: Receive) -> list[str]:
    """SOP Instance UIDs on its bus, as often as they were told."""
    path = receive.data / "bus.sqlite"
    if not path.exists():  # it may take connections before it has one again
        return []
    bus = SqliteBus(path, clock=SystemClock())
    try:
        contents = [open_envelope(envelope) for _, envelope in bus.read(INSTANCES, limit=100_000)]
        batches = [content for content in contents if isinstance(content, InstancesReceived)]
        return [one.sop_instance_uid for batch in batches for one in batch.instances]
    finally:
        bus.close()


def names(store: Path) -> set[str]:
    return {path.name for path in (store / "receivers").iterdir()}


def give_no_sign_since_long(store: Path, name: str) -> None:
    os.utime(store / "receivers" / name, (0, 0))


def test_what_a_lost_receiver_acknowledged_is_told_by_another(
    start: Callable[[str], Receive], store: Path, tmp_path: Path
) -> None:
    lost = start("ct-0")
    (name,) = names(store)
    other = start("ct-1")
    kept = sending(other, 1000, most=10)
    enough, sent = threading.Event(), {}
    sender = threading.Thread(target=lambda: sent.update(sending(lost, 0, most=5000, enough=enough)))
    sender.start()
    assert enough.wait(240)
    lost.kill()
    sender.join()
    shutil.rmtree(lost.data)
    assert len(sent) >= 20
    assert {receiver_of(segment) for segment, _ in FileSpool(store / "spool").segments()} == names(store)

    other.kill()
    other.start()  # it looks at once
    other.until(lambda: other.journalled(STUDY) == len(kept), what="its own images")
    assert f"receiver {name} is lost" not in other.log()
    other.kill()
    give_no_sign_since_long(store, name)
    other.start()
    other.until(lambda: set(told(other)) >= set(sent) | set(kept), what="what the other one acknowledged")
    assert other.ichor("told", "--wait", "60s").returncode == 0
    known = told(other)
    assert len(known) == len(set(known)) <= len(sent) + len(kept) + 1  # one may have come in unacknowledged
    exported = other.export(STUDY, tmp_path / "out")
    assert {uid: exported[uid] for uid in (sent | kept)} == sent | kept


def test_a_receiver_that_lost_its_volume_tells_its_own_again_and_keeps_what_it_may_have_committed(
    start: Callable[..., Receive], store: Path
) -> None:
    receive = start("ct-0", commitment=True)
    (name,) = names(store)
    sent = sending(receive, 0, most=20)
    receive.kill()
    shutil.rmtree(receive.data)
    give_no_sign_since_long(store, name)
    receive.start()
    receive.until(lambda: set(told(receive)) == set(sent), what="what it acknowledged")
    assert len(names(store)) == 2
    journal = JournalReader(receive.data / "journal.sqlite")
    assert [row.committed for row in journal.by_study(STUDY)] == [True] * 20
    journal.close()


def test_without_the_store_nothing_starts_and_nothing_is_taken(start: Callable[[str], Receive], store: Path) -> None:
    receive = start("ct-0")
    sending(receive, 0, most=2)
    receive.kill()
    store.rename(store.with_name("elsewhere"))
    store.mkdir()
    done = receive.ichor("receive")
    assert done.returncode == 1
    assert done.stderr.count("is the volume mounted?") == 1
    assert list(store.iterdir()) == []
    assert "is the volume mounted?" in receive.ichor("doctor").stdout
    store.rmdir()
    store.with_name("elsewhere").rename(store)
    receive.start()
    assert len(sending(receive, 10, most=2)) == 2


def test_what_is_acknowledged_lies_in_the_store_and_nowhere_else(start: Callable[[str], Receive], store: Path) -> None:
    receive = start("ct-0")
    sent = sending(receive, 0, most=3)
    receive.until(lambda: receive.journalled(STUDY) == 3, what="the journal")
    spool = FileSpool(store / "spool")
    found = [
        spool.read_range(f"{segment}@{at}+{length}", 0, length)
        for segment, _ in spool.segments()
        for at, length in spool.objects(segment)
    ]
    assert len(found) == 3
    assert all(any(file.endswith(data) for file in found) for (data,) in sent.values())
    files = [path for path in receive.data.rglob("*") if path.is_file()]
    pixels = next(iter(sent.values()))[0][-64:]
    assert not any(pixels in path.read_bytes() for path in files)
    assert not (receive.data / "spool").exists()
