"""Blobs as files: what the contract tests cannot see, the system calls behind a durable put."""

from __future__ import annotations

from pathlib import Path

import pytest

from ichor.errors import TransientError
from ichor.store import disk
from ichor.store.blobs import FileBlobs


def test_nothing_is_absent_while_the_volume_is_unmounted(tmp_path: Path) -> None:
    volume, off = tmp_path / "volume", tmp_path / "off"
    blobs = FileBlobs(volume / "blobs")
    blobs.put("results/one", b"x")
    volume.rename(off)
    volume.mkdir()  # the bare mount point
    for ask in (blobs.exists, blobs.get):
        for key in ("results/one", "results/two"):
            with pytest.raises(TransientError):
                ask(key)
    volume.rmdir()
    off.rename(volume)
    assert (blobs.get("results/one"), blobs.exists("results/two")) == (b"x", False)
    with pytest.raises(KeyError):
        blobs.get("results/two")


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
