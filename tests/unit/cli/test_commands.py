"""The commands that serve: what they say before the roles can."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from ichor.cli import commands


def test_a_command_that_serves_says_so_before_it_imports_the_roles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "as it was")
    said: list[str] = []

    def supervise(*_: object) -> int:
        said.extend(record.message for record in caplog.records)
        return 0

    monkeypatch.setattr(commands, "_supervise", supervise)
    assert commands.main(["serve", "--data", str(tmp_path / "data")]) == 0
    assert len(said) == 1
    assert "serve (RESEARCH) starts on" in said[0]
    assert not Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).exists()
