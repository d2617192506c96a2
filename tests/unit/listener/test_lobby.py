"""Connections before they are associations: probes, slow ones, garbage, too many, and those who speak at once."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from unit.listener.requests import request

from ichor import metrics
from listener import lobby
from listener.lobby import ABORT, Lobby


class Door:
    """A lobby whose requests are kept and answered with "yes" by the test's own thread."""

    def __init__(self, patience: float = 60.0) -> None:
        self.requests: list[bytes] = []
        self.answer: bytes | None = None
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = listening.getsockname()[1]
        self.lobby = Lobby(listening, on_request=self._asked, patience=patience)
        self.lobby.start()

    def _asked(self, connection: socket.socket, _: tuple[object, ...], asked: bytes) -> bytes | None:
        self.requests.append(asked)
        if self.answer is not None:
            return self.answer
        assert connection.getblocking()
        connection.sendall(b"yes")
        connection.close()
        return None

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


@pytest.fixture
def door() -> Iterator[Callable[..., Door]]:
    doors: list[Door] = []

    def build(**arguments: float) -> Door:
        doors.append(Door(**arguments))
        return doors[-1]

    yield build
    for one in doors:
        one.lobby.close()


def rest(connection: socket.socket) -> bytes:
    """What comes until the peer closes."""
    data = b""
    while more := connection.recv(65536):
        data += more
    return data


def ended(connection: socket.socket) -> bool:
    """The peer closes without a word, perhaps with a reset as not all was read."""
    try:
        return rest(connection) == b""
    except ConnectionError:
        return True


def dropped(reason: str) -> float:
    return float(metrics.CONNECTIONS_DROPPED.labels(reason)._value.get())


def test_a_request_is_handed_over_whole_however_it_comes(door: Callable[..., Door]) -> None:
    entrance = door()
    whole = request()
    pieces = [whole[:1], whole[1:6], whole[6:7], whole[7:]]
    with entrance.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
            # Another connection's whole exchange lies between: the lobby has seen this piece alone.
            with entrance.connect() as other:
                other.sendall(whole)
                assert rest(other) == b"yes"
        assert rest(connection) == b"yes"
    assert entrance.requests == [whole] * 5


def test_nothing_behind_the_request_is_read(door: Callable[..., Door]) -> None:
    entrance = door()
    with entrance.connect() as connection:
        connection.sendall(request() + b"\4\0more")
        assert connection.recv(3) == b"yes"
    assert entrance.requests == [request()]


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: SECRET\r\n\r\n", lobby.NO_REQUEST),
        (b"\x04\0\0\0\0\x0aSECRETSECRET", lobby.NO_REQUEST),
        (b"\x00", lobby.NO_REQUEST),
        (b"\x01\0\0\0\0\0", lobby.NO_REQUEST),
        (b"\x01\0\xff\xff\xff\xff", lobby.TOO_LONG),
        (struct.pack(">BBI", 1, 0, (256 << 10) + 1), lobby.TOO_LONG),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", lobby.TLS_ON_PLAIN),
    ],
)
def test_what_is_no_request_is_aborted_with_one_line_and_one_count(
    door: Callable[..., Door], caplog: pytest.LogCaptureFixture, sent: bytes, reason: str
) -> None:
    entrance = door()
    before = dropped(reason)
    with caplog.at_level(logging.INFO), entrance.connect() as connection:
        connection.sendall(sent)
        assert rest(connection) == ABORT
    assert dropped(reason) == before + 1
    assert caplog.messages == [f"connection refused: {reason} address=127.0.0.1"]
    assert entrance.requests == []


def test_one_who_never_asks_is_closed_in_time(door: Callable[..., Door], caplog: pytest.LogCaptureFixture) -> None:
    entrance = door(patience=2.0)
    before = dropped(lobby.TOO_LATE)
    silent, slow = entrance.connect(), entrance.connect()
    slow.sendall(request()[:50])
    assert (rest(silent), rest(slow)) == (b"", b"")
    assert dropped(lobby.TOO_LATE) == before + 2
    assert caplog.messages == [f"connection refused: {lobby.TOO_LATE} address=127.0.0.1"] * 2


def test_a_probe_is_counted_and_not_logged(door: Callable[..., Door], caplog: pytest.LogCaptureFixture) -> None:
    entrance = door()
    before = dropped(lobby.CLOSED)
    for _ in range(20):
        entrance.connect().close()
    with entrance.connect() as connection:
        connection.sendall(request())
        assert rest(connection) == b"yes"
    deadline = time.monotonic() + 60
    while dropped(lobby.CLOSED) < before + 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert dropped(lobby.CLOSED) == before + 20
    assert caplog.messages == []


def test_the_oldest_goes_when_there_are_too_many_and_who_speaks_gets_in(
    door: Callable[..., Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lobby, "_MOST_WAITING", 4)
    entrance = door()
    silent = [entrance.connect() for _ in range(5)]
    assert rest(silent[0]) == b""
    for _ in range(3):
        with entrance.connect() as connection:
            connection.sendall(request())
            assert rest(connection) == b"yes"
    silent[4].sendall(request())
    assert rest(silent[4]) == b"yes"
    for connection in silent:
        connection.close()


def test_a_crowd_of_one_address_pushes_out_its_own(door: Callable[..., Door], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "_MOST_OF_ONE_ADDRESS", 2)
    entrance = door()
    patient = socket.create_connection(("127.0.0.1", entrance.port), timeout=60, source_address=("127.0.0.2", 0))
    crowd = [entrance.connect() for _ in range(6)]
    assert [rest(connection) for connection in crowd[:4]] == [b""] * 4
    patient.sendall(request())
    assert rest(patient) == b"yes"
    for connection in [*crowd, patient]:
        connection.close()


def test_unfinished_requests_are_bounded_in_bytes(door: Callable[..., Door], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "_MOST_WAITING_BYTES", 250_000)
    entrance = door()
    unfinished = struct.pack(">BBI", 1, 0, 150_000) + bytes(130_000)
    first, second = entrance.connect(), entrance.connect()
    first.sendall(unfinished)
    second.sendall(unfinished)
    assert ended(first)
    second.sendall(bytes(20_000))
    assert rest(second) == b"yes"
    first.close()
    second.close()


def test_an_answer_arrives_although_the_peer_goes_on_sending(door: Callable[..., Door]) -> None:
    entrance = door()
    entrance.answer = b"no, for ten bytes"
    with entrance.connect() as connection:
        connection.sendall(request() + bytes(100_000))
        assert rest(connection) == b"no, for ten bytes"


def test_no_descriptor_for_a_moment_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Scarce(socket.socket):
        failures = 3

        def accept(self) -> tuple[socket.socket, object]:  # type: ignore[override]
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    listening = Scarce()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    answered = threading.Event()

    def asked(connection: socket.socket, _: tuple[object, ...], __: bytes) -> None:
        answered.set()
        connection.close()

    waiting = Lobby(listening, on_request=asked)
    waiting.start()
    with socket.create_connection(listening.getsockname(), timeout=60) as connection:
        connection.sendall(request())
        assert answered.wait(60)
    waiting.close()
    assert "a connection cannot be accepted: EMFILE" in caplog.messages


def test_closing_ends_those_who_wait() -> None:
    entrance = Door()
    connection = entrance.connect()
    connection.sendall(b"\1")
    entrance.lobby.close()
    assert ended(connection)
    with pytest.raises(ConnectionRefusedError):
        entrance.connect()


def test_ten_thousand_probes_leave_memory_flat_and_others_in(door: Callable[..., Door]) -> None:
    entrance = door()

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    held: list[socket.socket] = []

    def probe(number: int) -> None:
        connection = entrance.connect()
        if number % 3 == 0:
            connection.close()
            return
        if number % 3 == 1:
            connection.sendall(request()[: number % 60 + 1])
        held.append(connection)
        if len(held) > 500:
            held.pop(0).close()

    for number in range(1500):  # what is kept of connections at all is allocated now
        probe(number)
    before, threads = resident(), set(threading.enumerate())
    for number in range(8500):
        probe(number)
        if number % 1000 == 0:
            with entrance.connect() as connection:
                connection.sendall(request())
                assert rest(connection) == b"yes"
    assert resident() - before < 4 << 20
    assert set(threading.enumerate()) <= threads  # of earlier tests some may have ended
    for connection in held:
        connection.close()
