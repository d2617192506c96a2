"""From the setting ``bus.url`` to a bus. Knows the schemes and nothing of what the buses do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ichor.bus.memory import MemoryBus
from ichor.bus.protocol import Bus
from ichor.bus.sqlite import SqliteBus
from ichor.clock import Clock
from ichor.errors import ConfigError

if TYPE_CHECKING:
    from ichor.config import KafkaSettings


def open_bus(url: str, data_dir: Path, clock: Clock, *, kafka: KafkaSettings | None = None) -> Bus:
    """``sqlite:`` (``data_dir``/bus.sqlite), ``kafka://host:port,...`` or ``memory:`` (one process only, forgets all).

    Kafka need not be there: its verbs say so when they are used.

    Raises
    ------
    ConfigError
        For anything else.
    CannotStart
        When the file is not a bus, or of another version.
    """
    if url == "sqlite:":
        return SqliteBus(data_dir / "bus.sqlite", clock=clock)
    if url == "memory:":
        return MemoryBus(clock=clock)
    if url.startswith("kafka:") and kafka is not None:
        from ichor.bus.kafka import KafkaBus

        return KafkaBus(url, kafka, data_dir, clock=clock)
    raise ConfigError(f"bus.url = {url!r}: 'sqlite:' or 'kafka://host:port,...'")
