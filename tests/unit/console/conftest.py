"""A console over a bus in memory, asked without a network."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from starlette.testclient import TestClient
from unit.history.made import T0, new_bus, publish

from console.app import build_app
from console.sources import Sources
from ichor.bus.memory import MemoryBus
from ichor.clock import ManualClock
from ichor.history import Projection
from ichor.messages import Data
from ichor.store.receipts import Waiting

PNG = b"\x89PNG\r\n\x1a\n" + b"not really one"


class MemoryBlobs:
    """Only what the console asks of `ichor.store.protocol.Blobs`: ``get``."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def get(self, key: str) -> bytes:
        return self.kept[key]


@dataclass
class Desk:
    """A console with all that it reads from."""

    bus: MemoryBus = field(default_factory=new_bus)
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    clock: ManualClock = field(default_factory=lambda: ManualClock(T0 + 60.0))
    ready: tuple[bool, str] = (True, "ready")
    waiting: Waiting | None = None
    token: str | None = None
    base_url: str = "http://127.0.0.1:8080"

    def __post_init__(self) -> None:
        self.projection = Projection(self.bus)
        self.projection.catch_up()

    def tell(self, *messages: Data) -> None:
        publish(self.bus, *messages)
        self.projection.catch_up()

    def client(self) -> TestClient:
        """A browser without a script, or a program."""
        sources = Sources(
            projection=self.projection, bus=self.bus, blobs=self.blobs,  # type: ignore[arg-type]
            journal=None, ready=lambda: self.ready, waiting=lambda: self.waiting, clock=self.clock,
        )  # fmt: skip
        app = build_app(sources, token=self.token)
        return TestClient(app, base_url=self.base_url, raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture
def desk() -> Desk:
    return Desk()
