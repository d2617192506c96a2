"""Fixtures of the receiver's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.listener.site import Site

from listener import admission, role


@pytest.fixture(autouse=True)
def names_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that looks senders' names up has no end: it would speak in the logs of later tests."""
    monkeypatch.setattr(admission, "_LONGEST_LOOK_UP_AGE", 1e6)


@pytest.fixture
def start_site(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Site]]:
    """``start_site(**settings of the listener)``: a receiver and a relay that are ended with the test."""
    monkeypatch.setattr(role, "_SENDERS_PATIENCE", 0.5)
    sites: list[Site] = []

    def start(**changes: Any) -> Site:
        sites.append(Site(tmp_path / f"site{len(sites)}", free_port(), **changes))
        return sites[-1]

    yield start
    for site in sites:
        site.end()


@pytest.fixture
def site(start_site: Callable[..., Site]) -> Site:
    return start_site()
