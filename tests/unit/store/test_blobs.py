"""Blobs as files: what the contract tests cannot see, the system calls behind a durable put."""

from __future__ import annotations

from pathlib import Path

import pytest

from ichor.store import disk
from ichor.store.blobs import FileBlobs


@pytest.mark.parametrize("again", [False, True])
def test_the_entry_of_a_set_is_synced_after_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    blobs = FileBlobs(tmp_path)
    blobs.put("results/other", b"x")  # the folder is known: nothing but the new entry is left to sync
    if again:
        blobs.put_set("results/job", {"set.json": b"{}"})
    synced: list[tuple[Path, bool]] = []
    sync_directory = disk.sync_directory

    def record(path: Path) -> None:
        synced.append((path, (tmp_path / "results/job").exists()))
        sync_directory(path)

    monkeypatch.setattr(disk, "sync_directory", record)
    assert blobs.put_set("results/job", {"set.json": b"{}"}) is not again
    assert synced[-1] == (tmp_path / "results", True)
