"""Settings of the store: below the data folder or shared, and what a shared one must not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ichor import config
from ichor.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "folder"),
    [("file:", None), ("file:/mnt/a", "/mnt/a"), ("file:///mnt/a", "/mnt/a"), ("/mnt/a", "/mnt/a")],
)
def test_a_store_lies_below_data_or_in_a_folder_of_its_own(url: str, folder: str | None) -> None:
    assert config.load(environ={}, flags={"store.url": url}).store.folder == (Path(folder) if folder else None)


@pytest.mark.parametrize(
    "flags",
    [
        {"store.url": "file:relative"}, {"store.url": "/"}, {"store.url": ""}, {"store.url": "gs://b"},
        {"store.receiver": "a/b"}, {"store.receiver": "-"}, {"store.receiver": "x" * 41}, {"store.lost_after": "9m"},
        {"store.url": "/mnt/a", "listener.durability": "none"},
        {"store.url": "/mnt/a", "listener.durability": "association"},
    ],
)  # fmt: skip
def test_a_store_that_cannot_be_is_refused_by_name(flags: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(environ={}, flags=flags)
    assert next(iter(flags)) in str(caught.value)
