"""Connections from the process that accepts to the others: shares, addresses, a full inbox, and what waits in one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from unit.listener.requests import request

from listener.handover import Crew
from listener.lobby import Lobby


class Process:
    """The lobby of one of a crew; whoever asks gets its number and keeps a place."""

    def __init__(self, crew: Crew, number: int) -> None:
        self._seats = crew.seats.at(number)
        self._answer = b"%d" % number
        self.addresses: list[tuple[object, ...]] = []
        listening = socket.create_server(("127.0.0.1", 0)) if not number else socket.socket()
        self.port = listening.getsockname()[1] if not number else 0
        source = crew.source(self._seats, number, listening)
        self.lobby = Lobby(source, on_request=self._asked, on_waiting=self._seats.waits)

    def _asked(self, connection: socket.socket, address: tuple[object, ...], _: bytes) -> None:
        self.addresses.append(address)
        with self._seats.alone():
            self._seats.take(0)
        connection.sendall(self._answer)
        connection.close()


@pytest.fixture
def crew() -> Iterator[Crew]:
    made = Crew.of(2)
    yield made
    for end in (end for pair in made.inboxes for end in pair):
        end.close()


def ask(port: int) -> tuple[bytes, tuple[object, ...]]:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        address = connection.getsockname()
        try:
            connection.sendall(request())
            return connection.recv(1), address
        except ConnectionError:
            return b"", address


def test_connections_are_served_in_turn_and_keep_their_addresses(crew: Crew) -> None:
    processes = [Process(crew, number) for number in (0, 1)]
    for process in processes:
        process.lobby.start()
    answers, addresses = zip(*(ask(processes[0].port) for _ in range(6)), strict=True)
    assert sorted(answers) == [b"0"] * 3 + [b"1"] * 3
    assert sorted(a for p in processes for a in p.addresses) == sorted(addresses)
    for process in processes:
        process.lobby.close()


def test_what_nobody_takes_waits_for_the_next_process_and_a_full_inbox_is_served_here(crew: Crew) -> None:
    first = Process(crew, 0)
    # The inbox holds few; the other process is gone.
    crew.inboxes[0][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    first.lobby.start()
    clients = [socket.create_connection(("127.0.0.1", first.port), timeout=60) for _ in range(60)]
    for client in clients:
        client.sendall(request())
    # The last one is accepted last, whoever serves it; a full inbox has room for less than every second one.
    assert clients[-1].recv(1, socket.MSG_PEEK) == b"0"
    second = Process(crew, 1)
    second.lobby.start()
    answers = [client.recv(1) for client in clients]
    assert 0 < answers.count(b"1") < 30
    assert answers.count(b"0") == len(first.addresses) == 60 - answers.count(b"1")
    assert crew.seats.taken() == 60
    for one in (first, second):
        one.lobby.close()
    for client in clients:
        client.close()


def test_a_stop_ends_what_still_waits_in_the_inbox(crew: Crew) -> None:
    first = Process(crew, 0)
    first.lobby.start()
    assert ask(first.port)[0] == b"0"
    with socket.create_connection(("127.0.0.1", first.port), timeout=60) as waiting:
        assert ask(first.port)[0] == b"0"  # so the one before has gone to the inbox
        crew.source(crew.seats.at(1), 1, socket.socket()).close()
        assert waiting.recv(1) == b""
    first.lobby.close()


def test_a_process_without_descriptors_goes_on_when_it_has_some_again(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    processes = [Process(crew, number) for number in (0, 1)]
    whole, failures = socket.recv_fds, [1]

    def scarce(*arguments: Any) -> Any:
        message, descriptors, flags, address = whole(*arguments)
        if failures:
            failures.pop()
            os.close(descriptors.pop())  # as the system does
        return message, descriptors, flags, address

    monkeypatch.setattr(socket, "recv_fds", scarce)
    for process in processes:
        process.lobby.start()
    assert [ask(processes[0].port)[0] for _ in range(2)] == [b"0", b""]
    assert b"1" in [ask(processes[0].port)[0] for _ in range(4)]
    assert "a connection cannot be accepted: EMFILE" in caplog.messages
    for process in processes:
        process.lobby.close()


def test_a_flood_for_the_other_process_leaves_the_first_its_own_turn(crew: Crew) -> None:
    seats = crew.seats.at(0)
    for _ in range(100):
        with seats.alone():
            seats.take(0)
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    clients = [socket.create_connection(listening.getsockname(), timeout=60) for _ in range(70)]
    door = crew.source(seats, 0, listening)
    door.setblocking(False)
    for handed in (64, 70):
        with pytest.raises(BlockingIOError):
            door.accept()
        assert crew.seats.load(1) == handed
    for one in (door, crew.source(crew.seats.at(1), 1, socket.socket()), *clients):
        one.close()


def test_a_process_alone_listens_by_itself() -> None:
    crew = Crew.of(1)
    listening = socket.socket()
    assert crew.source(crew.seats.at(0), 0, listening) is listening
    listening.close()
