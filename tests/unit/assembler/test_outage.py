"""The assembler while the bus is away, and when it is not for this version."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from unit.away import Away

from ichor.bus.memory import MemoryBus
from ichor.clock import ManualClock
from ichor.errors import CannotStart
from ichor.store.blobs import FileBlobs
from listener import assembler


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
