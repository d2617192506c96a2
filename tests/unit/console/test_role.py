"""The role: it listens, follows the events, and ends when told."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Callable

import pytest
from unit.console.conftest import MemoryBlobs
from unit.history.made import new_bus, publish, uid, whole_way

from console.role import run_console
from ichor.clock import SystemClock
from ichor.errors import CannotStart


def test_it_answers_from_the_log_and_follows_it(free_port: Callable[[], int]) -> None:
    bus, port = new_bus(), free_port()
    publish(bus, *whole_way(1)[:4])
    stop, ready = threading.Event(), threading.Event()
    role = threading.Thread(
        target=run_console,
        kwargs={
            "host": "127.0.0.1", "port": port, "bus": bus, "blobs": MemoryBlobs(), "journal": None, "token": None,
            "ready": lambda: (True, "ready"), "waiting": lambda: None, "clock": SystemClock(), "stop": stop, "on_ready": ready.set,
        },
    )  # fmt: skip
    role.start()
    try:
        assert ready.wait(120)

        def state() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/studies/{uid(1)}", timeout=60) as answer:
                return str(json.load(answer)["state"])

        assert state() == "sending"
        publish(bus, *whole_way(1)[4:])
        pause = threading.Event()
        for _ in range(6000):
            if state() == "done":
                break
            pause.wait(0.01)
        assert state() == "done"
    finally:
        stop.set()
        role.join(60)
    assert not role.is_alive()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_in_use_is_told(free_port: Callable[[], int]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)), pytest.raises(CannotStart, match=f"127.0.0.1:{port}"):
        run_console(
            host="127.0.0.1", port=port, bus=new_bus(), blobs=MemoryBlobs(), journal=None, token=None,  # type: ignore[arg-type]
            ready=lambda: (True, ""), waiting=lambda: None, clock=SystemClock(), stop=threading.Event(), on_ready=lambda: None,
        )  # fmt: skip


def test_a_log_that_may_not_be_used_ends_the_role_with_the_reason(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, said = new_bus(), "events has 3 partitions: Ichor needs one"

    def refuse(*_: object, **__: object) -> None:
        raise CannotStart(said)

    monkeypatch.setattr(bus, "read", refuse)
    ready = threading.Event()
    with pytest.raises(CannotStart, match=said):
        run_console(
            host="127.0.0.1", port=free_port(), bus=bus, blobs=MemoryBlobs(), journal=None, token=None,  # type: ignore[arg-type]
            ready=lambda: (True, ""), waiting=lambda: None, clock=SystemClock(), stop=threading.Event(), on_ready=ready.set,
        )  # fmt: skip
    assert not ready.is_set()
