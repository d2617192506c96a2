"""The role `console`: follows the events in one thread and serves in another until it is told to stop."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable

import uvicorn

from console.app import build_app
from console.sources import Sources
from ichor.bus.protocol import Bus
from ichor.clock import Clock
from ichor.errors import CannotStart, IchorError
from ichor.history import Lookup, Projection
from ichor.store.protocol import Blobs
from ichor.store.receipts import Waiting

_LOG = logging.getLogger(__name__)
_DRAIN_SECONDS = 3
_LONGEST_READING = 8.0  # seconds; the whole has 15 to become ready (docs/contract.md)


def run_console(
    *,
    host: str,
    port: int,
    bus: Bus,
    blobs: Blobs,
    journal: Lookup | None,
    token: str | None,
    ready: Callable[[], tuple[bool, str]],
    waiting: Callable[[], Waiting | None],
    clock: Clock,
    stop: threading.Event,
    on_ready: Callable[[], None],
    shards: int = 1,
) -> None:
    """Serve page, REST and metrics on ``host:port`` until ``stop`` is set.

    ``on_ready`` is called once the port answers and the log was folded up to its end, or after 8 s: a longer log is
    read on meanwhile, single studies are then answered from the log itself. Nothing is kept between two starts.

    Raises
    ------
    CannotStart
        When the address cannot be had, or the log of events is not to be used by this version or with these settings.
    IchorError
        When the server or the thread that follows the events ended by itself.
    """
    listening = _listen(host, port)
    projection = Projection(bus)
    sources = Sources(
        projection=projection, bus=bus, blobs=blobs, journal=journal, ready=ready, waiting=waiting, clock=clock,
        shards=shards,
    )  # fmt: skip
    # One thread of this process serves: signals belong to the role, and uvicorn leaves them alone off the main thread.
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(sources, token=token), lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )  # fmt: skip
    end = threading.Event()
    refused: list[CannotStart] = []

    def follow_events() -> None:
        try:
            projection.run(end)
        except CannotStart as error:  # for the thread that waits
            refused.append(error)

    follow = threading.Thread(target=follow_events, name="history", daemon=True)
    serve = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="http", daemon=True)
    try:
        follow.start()
        serve.start()
        while not server.started and serve.is_alive():
            serve.join(0.01)
        deadline = clock.monotonic() + _LONGEST_READING
        while not (stop.is_set() or projection.caught_up.wait(0.05) or refused) and clock.monotonic() < deadline:
            pass
        if serve.is_alive() and not refused:
            on_ready()
            _LOG.info("console on http://%s:%d/", host, listening.getsockname()[1])
        while not stop.wait(0.2):
            if refused:
                raise refused[0]
            if not (follow.is_alive() and serve.is_alive()):
                raise IchorError("a thread of the console ended by itself")
    finally:
        end.set()
        server.should_exit = True
        for thread in (serve, follow):
            if thread.is_alive():
                thread.join(_DRAIN_SECONDS + 1)
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
    except OSError as error:
        raise CannotStart(f"console on {host}:{port}: {error.strerror}") from error
