"""The assembler while the bus is away, and when it is not for this version."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ichor.bus.memory import MemoryBus
from ichor.clock import ManualClock
from ichor.errors import CannotStart, TransientError
from ichor.store.blobs import FileBlobs
from listener import assembler


class Away:
    """A subscription of a bus that is away twice, and then says that this version must not use it."""

    def __init__(self) -> None:
        self.answers: list[Exception] = [TransientError("Kafka hangs up"), TransientError("Kafka is silent")]

    def receive(self, _timeout: float) -> None:
        raise self.answers.pop(0) if self.answers else CannotStart("written by a newer Ichor")

    def close(self) -> None:
        self.answers = []


def test_an_outage_is_said_once_and_a_bus_not_to_be_used_ends_the_assembler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    bus = MemoryBus(clock=clock)
    monkeypatch.setattr(bus, "subscribe", lambda *_, **__: Away())
    monkeypatch.setattr(assembler, "_RETRY", 0.0)
    with pytest.raises(CannotStart, match="newer Ichor"):
        assembler.run_assembler(
            bus=bus, blobs=FileBlobs(tmp_path / "blobs"), state_path=tmp_path / "assembly.sqlite", pipelines=(), study_wait=1.0,
            clock=clock, stop=threading.Event(), on_ready=lambda: None,
        )  # fmt: skip
    assert [record.message for record in caplog.records] == ["assemble waits: Kafka hangs up"]
