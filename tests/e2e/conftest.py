"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.orthanc import Orthanc
from e2e.site import ICHOR, Site


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, compiled and through their gate once and not for every site; a demo's are its own."""
    data = tmp_path_factory.mktemp("engines") / "data"
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("ICHOR_", "PROMETHEUS_"))}
    built = subprocess.run(
        [*ICHOR, "engine", "build"],
        env=environ | {"ICHOR_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return data / "engines"


@pytest.fixture
def site(tmp_path: Path, free_port: Callable[[], int], engines: Path) -> Iterator[Site]:
    """A site that is not started yet: add destinations, then ``start()``."""
    made = Site(tmp_path / "site", free_port(), free_port(), engines=engines)
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
