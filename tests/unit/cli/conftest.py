"""Fixtures of the command line's tests."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """A folder that may not be read from here on, for root, too."""
    real, shut = os.scandir, set[str]()

    def scandir(path: str) -> object:
        if str(path) in shut:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    def close(folder: Path) -> Path:
        shut.add(str(folder))
        return folder

    monkeypatch.setattr(os, "scandir", scandir)
    return close
