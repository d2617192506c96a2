"""From the setting to the bus."""

from __future__ import annotations

from pathlib import Path

import pytest

from ichor.bus.memory import MemoryBus
from ichor.bus.opening import open_bus
from ichor.clock import ManualClock
from ichor.config import KafkaSettings
from ichor.errors import CannotStart, ConfigError, TransientError


def test_sqlite_lies_in_the_data_folder(tmp_path: Path) -> None:
    open_bus("sqlite:", tmp_path, ManualClock()).close()
    assert (tmp_path / "bus.sqlite").read_bytes().startswith(b"SQLite format 3\0")


def test_memory_touches_no_disk(tmp_path: Path) -> None:
    assert isinstance(open_bus("memory:", tmp_path, ManualClock()), MemoryBus)
    assert list(tmp_path.iterdir()) == []


def test_kafka_is_not_asked_before_it_is_used(tmp_path: Path) -> None:
    bus = open_bus("kafka://nowhere.invalid:9092", tmp_path, ManualClock(), kafka=KafkaSettings(timeout=1.0))
    with pytest.raises(TransientError, match=r"nowhere\.invalid:9092"):
        bus.lag()
    bus.close()


@pytest.mark.parametrize("url", ["amqp://host", ""])
def test_another_bus_is_refused_naming_the_setting(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bus\.url"):
        open_bus(url, tmp_path, ManualClock())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="nowhere"):
        open_bus("sqlite:", tmp_path / "nowhere", ManualClock())
