"""The assembler while the bus is away, and when it is not for this version."""

from __future__ import annotations

import errno
import sqlite3
import threading
from pathlib import Path

import pytest
from unit.away import Away

from ichor.bus.memory import MemoryBus
from ichor.clock import ManualClock
from ichor.errors import CannotStart
from ichor.store.blobs import FileBlobs
from listener import assembler


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([], "Kafka hangs up"),
        ([sqlite3.OperationalError("database or disk is full")] * 3, "database or disk is full"),
        ([OSError(errno.ENOSPC, "No space left on device", "/data/123")] * 3, "No space left on device"),
    ],
)
def test_an_outage_is_said_once_and_a_bus_not_to_be_used_ends_the_assembler(
    answers: list[Exception],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    bus, away = MemoryBus(clock=clock), Away()
    away.answers = answers or away.answers
    monkeypatch.setattr(bus, "subscribe", lambda *_, **__: away)
    monkeypatch.setattr(assembler, "_RETRY", 0.0)
    with pytest.raises(CannotStart, match="newer Ichor"):
        assembler.run_assembler(
            bus=bus, blobs=FileBlobs(tmp_path / "blobs"), state_path=tmp_path / "assembly.sqlite", pipelines=(), study_wait=1.0,
            clock=clock, stop=threading.Event(), on_ready=lambda: None,
        )  # fmt: skip
    assert [line for r in caplog.records if "waits" in (line := r.message)] == [f"assemble waits: {said}"]
