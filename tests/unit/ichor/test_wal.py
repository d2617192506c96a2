"""The switch to WAL beside others who use the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ichor import wal


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """One connection in a transaction that writes, and another."""
    writer, other = (sqlite3.connect(tmp_path / "a.sqlite", timeout=0.0, isolation_level=None) for _ in range(2))
    writer.execute("BEGIN EXCLUSIVE")
    yield writer, other
    writer.close()
    other.close()


def test_the_switch_waits_for_who_writes(
    both: tuple[sqlite3.Connection, sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, other = both
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            writer.execute("COMMIT")

    monkeypatch.setattr(wal.time, "sleep", pause)
    wal.set_wal(other)
    assert len(pauses) == 3
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_after_its_patience_it_says_so(both: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        wal.set_wal(both[1], patience=-1.0)
