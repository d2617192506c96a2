"""Connections from the process that accepts to the others: shares, addresses, a full inbox, and what waits in one."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import threading
from collections.abc import Iterator

import pytest
from unit.listener.requests import request

from ichor import metrics
from listener import handover
from listener.handover import Crew, Door
from listener.lobby import Lobby


class Process:
    """The lobby of one of a crew; whoever asks gets its number and keeps a place."""

    def __init__(self, crew: Crew, number: int) -> None:
        self._seats = crew.seats.at(number)
        self._answer = b"%d" % number
        self.addresses: list[tuple[object, ...]] = []
        listening = socket.create_server(("127.0.0.1", 0)) if not number else socket.socket()
        self.port = listening.getsockname()[1] if not number else 0
        self.source = crew.source(self._seats, number, listening)
        self.lobby = Lobby(self.source, on_request=self._asked, on_waiting=self._seats.waits)

    def start(self) -> None:
        self.lobby.start()
        self._seats.opens()

    def _asked(self, connection: socket.socket, address: tuple[object, ...], _: bytes) -> None:
        self.addresses.append(address)
        with self._seats.alone():
            self._seats.take(0)
        connection.sendall(self._answer)
        connection.close()


@pytest.fixture
def crew() -> Iterator[Crew]:
    made = Crew.of(2)
    made.seats.at(1).opens()  # it ran once
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


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is taken to hang."""
    monkeypatch.setattr(handover, "_HANGS", 600.0)


@pytest.mark.usefixtures("patient")
def test_connections_are_served_in_turn_and_keep_their_addresses(crew: Crew) -> None:
    processes = [Process(crew, number) for number in (0, 1)]
    for process in processes:
        process.start()
    answers, addresses = zip(*(ask(processes[0].port) for _ in range(6)), strict=True)
    assert sorted(answers) == [b"0"] * 3 + [b"1"] * 3
    assert sorted(a for p in processes for a in p.addresses) == sorted(addresses)
    for process in processes:
        process.lobby.close()


@pytest.mark.usefixtures("patient")
def test_what_nobody_takes_waits_for_the_next_process_and_a_full_inbox_is_served_here(crew: Crew) -> None:
    first = Process(crew, 0)
    # The inbox holds few; the other process is gone.
    crew.inboxes[0][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    first.start()
    clients = [socket.create_connection(("127.0.0.1", first.port), timeout=60) for _ in range(60)]
    for client in clients:
        client.sendall(request())
    # The last one is accepted last, whoever serves it; a full inbox has room for less than every second one.
    assert clients[-1].recv(1, socket.MSG_PEEK) == b"0"
    second = Process(crew, 1)
    second.start()
    answers = [client.recv(1) for client in clients]
    assert 0 < answers.count(b"1") < 30
    assert answers.count(b"0") == len(first.addresses) == 60 - answers.count(b"1")
    assert crew.seats.taken() == 60
    for one in (first, second):
        one.lobby.close()
    for client in clients:
        client.close()


@contextlib.contextmanager
def waiting_in_the_inbox(crew: Crew) -> Iterator[tuple[Process, socket.socket]]:
    """The first process, and a connection that it gave to the second one, which is not there."""
    first = Process(crew, 0)
    first.start()
    assert ask(first.port)[0] == b"0"
    with socket.create_connection(("127.0.0.1", first.port), timeout=60) as waiting:
        assert ask(first.port)[0] == b"0"  # so the one before has gone to the inbox
        yield first, waiting


@pytest.mark.usefixtures("patient")
def test_what_still_waits_in_the_inbox_of_a_process_that_stops_is_the_next_ones(crew: Crew) -> None:
    with waiting_in_the_inbox(crew) as (first, waiting):
        waiting.sendall(request())
        crew.source(crew.seats.at(1), 1, socket.socket()).close()
        second = Process(crew, 1)
        second.start()
        assert waiting.recv(1) == b"1"
    for process in (first, second):
        process.lobby.close()


@pytest.mark.usefixtures("patient")
def test_what_still_waits_in_an_inbox_ends_with_all_processes(crew: Crew) -> None:
    with waiting_in_the_inbox(crew) as (first, waiting):
        crew.source(crew.seats.at(1), 1, socket.socket()).close()
        first.lobby.close()
        for end in crew.inboxes[0]:  # as the kernel does with the last process
            end.close()
        assert waiting.recv(1) == b""


def test_a_process_without_descriptors_loses_nothing_and_goes_on_when_it_has_some_again(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [OSError(errno.EMFILE, "none left")] * 3
    copy = os.dup

    def scarce(descriptor: int) -> int:
        if failures:
            raise failures.pop()
        return copy(descriptor)

    monkeypatch.setattr(os, "dup", scarce)
    processes = [Process(crew, number) for number in (0, 1)]
    for process in processes:
        process.start()
    assert [ask(processes[0].port)[0] for _ in range(2)] == [b"0", b"1"]
    assert not failures
    assert "a connection cannot be accepted: EMFILE" in caplog.messages
    for process in processes:
        process.lobby.close()


def test_nothing_is_brought_back_without_a_descriptor_for_it(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    listening, (here, there) = socket.create_server(("127.0.0.1", 0)), socket.socketpair()
    listening.setblocking(False)
    door = crew.source(crew.seats.at(0), 0, listening)
    assert isinstance(door, Door)
    assert door._hand(1, ("127.0.0.1", 4), there)
    door._watch()  # as ever, it has seen how far the other one is
    door._hung[1] = False

    def none_left(_: int) -> int:
        raise OSError(errno.EMFILE, "none left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="none left"):  # noqa: PT012
        patch.setattr(os, "dup", none_left)
        door.accept()
    connection, address = door.accept()
    assert tuple(address) == ("127.0.0.1", 4)
    for one in (connection, here, there, door):
        one.close()


def test_a_message_is_not_taken_without_a_descriptor_for_its_connection(crew: Crew) -> None:
    pid = os.fork()
    if not pid:
        try:
            inbox = crew.source(crew.seats.at(1), 1, socket.socket())
            socket.send_fds(crew.inboxes[0][0], [b'[1, "127.0.0.1", 4]'], [0])
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
            reason = 0
            try:
                inbox.accept()
            except OSError as error:
                reason = error.errno
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            message, descriptors, _, _ = socket.recv_fds(crew.inboxes[0][1], 512, 1)
            os._exit(not (message and descriptors and reason == errno.EMFILE))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_what_a_process_that_hangs_was_given_is_served_by_the_first_one(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    before = float(metrics.RECEIVERS_HUNG._value.get())
    first = Process(crew, 0)
    first.start()
    assert ask(first.port)[0] == b"0"
    clients = [socket.create_connection(("127.0.0.1", first.port), timeout=60) for _ in range(3)]
    for client in clients:
        client.sendall(request())
    with looking(first):
        assert [client.recv(1) for client in clients] == [b"0"] * 3
        assert [ask(first.port)[0] for _ in range(6)] == [b"0"] * 6
        assert metrics.RECEIVERS_HUNG._value.get() == before + 1
        # It wakes up, and has its share again once it has taken what was left for it: the question, no connection.
        second = Process(crew, 1)
        second.start()
        answers = b""
        while b"1" not in answers:
            answers += ask(first.port)[0]
    assert len(second.addresses) == 1
    assert len(first.addresses) == 1 + 3 + 6 + len(answers) - 1
    told = [line for line in caplog.messages if "process 2" in line]
    assert told == [
        "receiving process 2 does not take its connections: the first one serves them",
        "receiving process 2 takes its connections again",
    ]
    for one in (first, second):
        one.lobby.close()
    for client in clients:
        client.close()


@contextlib.contextmanager
def looking(process: Process) -> Iterator[None]:
    """What a receiver's sweep does."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            assert isinstance(process.source, Door)
            process.source.look()

    thread = threading.Thread(target=look)
    thread.start()
    yield
    over.set()
    thread.join()


def test_a_connection_that_died_with_its_taker_does_not_count_for_ever(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = handover._HANGS
    monkeypatch.setattr(handover, "_HANGS", 600.0)
    first = Process(crew, 0)
    first.start()
    assert ask(first.port)[0] == b"0"
    with socket.create_connection(("127.0.0.1", first.port), timeout=60) as lost:
        lost.sendall(request())
        assert ask(first.port)[0] == b"0"
        handover._take(crew.inboxes[0][1])[1].close()  # type: ignore[union-attr]  # and it was killed
        monkeypatch.setattr(handover, "_HANGS", hangs)
        second = Process(crew, 1)
        second.start()
        with looking(first):
            while ask(first.port)[0] != b"1":
                pass
    assert crew.seats.last_of(1)[0] == crew.seats.last_of(1)[1]
    for one in (first, second):
        one.lobby.close()


def test_a_process_that_drains_or_has_not_begun_is_given_nothing(crew: Crew) -> None:
    first, second = Process(crew, 0), Process(crew, 1)
    first.start()
    assert [ask(first.port)[0] for _ in range(3)] == [b"0"] * 3
    second.start()
    assert ask(first.port)[0] == b"1"
    second._seats.closes()
    assert [ask(first.port)[0] for _ in range(3)] == [b"0"] * 3
    for one in (first, second):
        one.lobby.close()


@pytest.mark.usefixtures("patient")
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
