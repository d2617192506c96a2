"""Receivers and relays that are killed in the middle of a push: what was acknowledged is there and is told once."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from unit.listener.modality import Scu, encode, image

from ichor.messages import AssociationClosed, Envelope, InstancesReceived, open_envelope
from ichor.store.journal import JournalReader
from ichor.store.spool import FileSpool

SERVE = Path(__file__).parent / "serve.py"
ROOT = Path(__file__).parents[3]


class Process:
    """A receiver in a process, perhaps under another program."""

    def __init__(self, root: Path, port: int, under: Sequence[str] = ()) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.popen = subprocess.Popen(
            [*under, sys.executable, str(SERVE), str(root), str(port)],
            stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "ready\n"

    def go_on(self) -> None:
        """Leave it the processor for a moment; it must live."""
        assert self.popen.poll() is None
        time.sleep(0.05)

    def kill(self) -> None:
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        assert self.popen.stdout is not None
        self.popen.stdout.close()


@pytest.fixture
def serve(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Callable[..., tuple[Process, int]]]:
    started: list[Process] = []
    port = free_port()

    def start(under: Sequence[str] = ()) -> tuple[Process, int]:
        started.append(Process(tmp_path, port, under))
        return started[-1], port

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.kill()


def told(root: Path) -> list[Envelope]:
    """What was published so far; a line that is being written while it is read does not count yet."""
    path = root / "bus.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [Envelope.model_validate_json(line.split("\t", 1)[1]) for line in lines if line.endswith("\n")]


def push(port: int, numbers: Iterator[int], acknowledged: dict[str, bytes], some: threading.Event) -> None:
    """Send objects one after another until the receiver is gone; note what was answered with Success."""
    try:
        scu = Scu(port)
        for number in numbers:
            sop = f"1.2.3.4.{number}"
            data_set = encode(image(sop, pixels=random.Random(number).randbytes(2 * (number % 3000))))
            if scu.store(data_set, sop_instance=sop) == 0:
                acknowledged[sop] = data_set
            if len(acknowledged) >= 3:
                some.set()
    except (ConnectionError, TimeoutError):
        some.set()


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_killed_receiver_keeps_what_it_acknowledged_and_tells_each_once(
    tmp_path: Path, serve: Callable[..., tuple[Process, int]], kills: int
) -> None:
    acknowledged: dict[str, bytes] = {}
    numbers = itertools.count(1)
    moments = random.Random(7)
    for _ in range(kills):
        process, port = serve()
        some = threading.Event()
        senders = [threading.Thread(target=push, args=(port, numbers, acknowledged, some)) for _ in range(2)]
        for sender in senders:
            sender.start()
        assert some.wait(60)
        threading.Event().wait(moments.uniform(0, 0.15))  # the moment of the fault is the parameter here
        process.kill()
        for sender in senders:
            sender.join()
    assert len(acknowledged) >= 3

    process, port = serve()
    scu = Scu(port)
    assert scu.store(encode(image("1.2.99")), sop_instance="1.2.99") == 0
    scu.release()
    acknowledged["1.2.99"] = encode(image("1.2.99"))
    while not any(e.id.startswith("closed-") and e.data["released"] for e in told(tmp_path)):
        process.go_on()
    spool, journal = FileSpool(tmp_path / "spool"), JournalReader(tmp_path / "journal.sqlite")
    while any(row.ended_at is None for row in journal.open_associations()):  # of those killed: looked for now and then
        process.go_on()
    associations = {row.stored.association for row in journal.by_study("1.2.3")}
    while len({e.id for e in told(tmp_path) if e.id.startswith("closed-")}) < len(associations):
        process.go_on()
    process.kill()

    rows = {row.stored.sop_instance_uid: row for row in journal.by_study("1.2.3")}
    assert set(acknowledged) <= set(rows)  # a kill between commit and answer leaves an object more, never one less
    for sop, data_set in acknowledged.items():
        with spool.open(rows[sop].stored.location) as file:
            assert file.read().endswith(data_set)

    repeated: dict[str, Envelope] = {}
    for envelope in told(tmp_path):
        first = repeated.setdefault(envelope.id, envelope)
        assert first.data == envelope.data  # the same message again, not another one
    messages = [open_envelope(envelope) for envelope in repeated.values()]
    counts = Counter(i.sop_instance_uid for m in messages if isinstance(m, InstancesReceived) for i in m.instances)
    assert set(counts) == set(rows)
    assert set(counts.values()) == {1}
    closed = [m for m in messages if isinstance(m, AssociationClosed)]
    assert len(closed) == len({m.association for m in closed}) == len({r.stored.association for r in rows.values()})
    assert sum(m.released for m in closed) == 1
    assert sum(sum(m.counts.values()) for m in closed) == len(rows)
    # The last kill may come between telling the end of an association and forgetting it: telling twice is harmless.
    assert {row.association for row in journal.open_associations()} <= {m.association for m in closed if m.released}
    journal.close()
