"""Writing back at the start, before the roles are forked: by one process at a time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ichor.cli import roles
from ichor.cli.folder import DataFolder


def test_nothing_is_written_back_beside_a_relay_that_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    tried: list[Path] = []
    monkeypatch.setattr(roles, "restore_at_start", lambda receipts, *_: tried.append(receipts))
    handle = folder.lock("run/relay.lock", alone=True)
    roles.write_back(folder)
    assert tried == []
    os.close(handle)
    roles.write_back(folder)
    assert tried == [folder.receipts]
    os.close(folder.lock("run/relay.lock", alone=True, patience=0.0))  # the relay gets it
