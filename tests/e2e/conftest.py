"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.orthanc import Orthanc
from e2e.site import Site


@pytest.fixture
def site(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Site]:
    """A site that is not started yet: add destinations, then ``start()``."""
    made = Site(tmp_path / "site", free_port(), free_port())
    yield made
    made.kill()


@pytest.fixture
def orthanc(tmp_path: Path, free_port: Callable[[], int], peer: Callable[[str, str], str]) -> Iterator[Orthanc]:
    """Debian's Orthanc, started, empty."""
    made = Orthanc(peer("Orthanc", "orthanc"), tmp_path / "orthanc", free_port(), free_port())
    try:
        made.start()
        yield made
    finally:
        made.stop()
