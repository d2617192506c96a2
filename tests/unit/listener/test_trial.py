"""The trial of the fast path at start: any difference, and the plain path serves."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pynetdicom.dul import DULServiceProvider

from listener import fast_path, pdu, trial


def served() -> dict[str, float | None]:
    return {path: REGISTRY.get_sample_value("ichor_receive_path", {"path": path}) for path in ("fast", "plain")}


def test_fast_path_serves_with_the_library_that_is_installed() -> None:
    assert trial.is_fast_path_usable()
    assert served() == {"fast": 1.0, "plain": 0.0}


def test_fast_path_passes_where_the_bytes_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        def __init__(self, connection: socket.socket) -> None:
            self._connection = connection

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

        def sendall(self, data: bytes) -> None:
            time.sleep(0.05)
            self._connection.sendall(data)

    def pair() -> tuple[Any, socket.socket]:
        ours, theirs = real()
        return Slow(ours), theirs

    real = socket.socketpair
    monkeypatch.setattr(socket, "socketpair", pair)
    assert trial.is_fast_path_usable()


def test_fast_path_passes_where_the_library_says_late_that_it_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fast_path.install

    def install(*arguments: Any, **more: Any) -> bool:
        time.sleep(0.1)
        return real(*arguments, **more)

    monkeypatch.setattr(fast_path, "install", install)
    assert trial.is_fast_path_usable()


def test_private_name_that_is_gone_means_the_plain_path(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trial, "_PATIENCE", 0.5)
    monkeypatch.delattr(DULServiceProvider, "_decode_pdu")
    assert not trial.is_fast_path_usable()
    assert served() == {"fast": 0.0, "plain": 1.0}
    (record,) = [record for record in caplog.records if record.name == "listener.trial"]
    assert record.getMessage().startswith("the plain receive path serves")


def test_fast_path_that_is_never_asked_means_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    # As where the library no longer looks at the socket by the method that is replaced.
    monkeypatch.setattr(fast_path, "install", lambda *_, **__: True)
    assert not trial.is_fast_path_usable()


def test_one_wrong_byte_in_what_is_stored_means_the_plain_path(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Flipped:
        def __init__(self, arrival: Any) -> None:
            self._arrival = arrival

        def __getattr__(self, name: str) -> Any:
            return getattr(self._arrival, name)

        def begin(self, *arguments: Any) -> Flipped:
            return Flipped(self._arrival.begin(*arguments))

        def feed(self, part: memoryview) -> None:
            self._arrival.feed(memoryview(bytes(part[:-1]) + bytes([part[-1] ^ 1])))

    real = fast_path.install
    monkeypatch.setattr(
        fast_path, "install",
        lambda association, *, reception, **more: real(association, reception=Flipped(reception), **more),
    )  # fmt: skip
    assert not trial.is_fast_path_usable()
    assert served() == {"fast": 0.0, "plain": 1.0}
    assert "other bytes stored" in caplog.text


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("store_response", lambda *_: b""),
        ("read_command", lambda _: 1 / 0),
    ],
)
def test_other_answer_means_the_plain_path(monkeypatch: pytest.MonkeyPatch, name: str, wrong: object) -> None:
    class Wrong:
        def __getattr__(self, attribute: str) -> object:
            return wrong if attribute == name else getattr(pdu, attribute)

    monkeypatch.setattr(fast_path, "pdu", Wrong())
    assert not trial.is_fast_path_usable()
