"""From the setting ``bus.url`` to a bus. Knows the schemes and nothing of what the buses do."""

from __future__ import annotations

from pathlib import Path

from ichor.bus.memory import MemoryBus
from ichor.bus.protocol import Bus
from ichor.bus.sqlite import SqliteBus
from ichor.clock import Clock
from ichor.errors import ConfigError, NotBuilt


def open_bus(url: str, data_dir: Path, clock: Clock) -> Bus:
    """``sqlite:`` (``data_dir``/bus.sqlite) or ``memory:`` (one process only, forgets all).

    Raises
    ------
    NotBuilt
        For ``kafka://``: in the contract, not in this version.
    ConfigError
        For anything else.
    CannotStart
        When the file is not a bus, or of another version.
    """
    if url == "sqlite:":
        return SqliteBus(data_dir / "bus.sqlite", clock=clock)
    if url == "memory:":
        return MemoryBus(clock=clock)
    if url.startswith("kafka:"):
        raise NotBuilt(f"bus.url = {url!r}: Kafka is not built in this version of Ichor (built: 'sqlite:')")
    raise ConfigError(f"bus.url = {url!r}: 'sqlite:' or 'kafka://host:port,...'")
