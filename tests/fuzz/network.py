"""What reads DICOM's upper layer and commands: admission, lobby, commands, and the fast path's whole conversation."""

from __future__ import annotations

import contextlib
import queue
import random
import socket
import struct
from types import SimpleNamespace
from typing import Any

from ichor.types import Priority
from listener import fast_path, pdu
from listener.admission import Admission, Rejection, UnreadableRequest
from listener.baton import Baton
from listener.library import configure_library, is_readable
from listener.lobby import ABORT, Lobby

from . import seeds
from .damage import chunks, damaged
from .marks import joined
from .store import ORIGIN, STATUSES, Store


class Request:
    """`Admission.judge` on A-ASSOCIATE-RQ PDUs, then what asks the library whether it can read them."""

    def __init__(self) -> None:
        configure_library()
        self._admission = Admission(titles={"ICHOR": None, "STAT": Priority.STAT}, senders=(), most=2)

    def case(self, rng: random.Random) -> str:
        valid = seeds.associate_requests()
        request = damaged(rng, rng.choice(valid), valid)
        try:
            verdict = self._admission.judge(request, rng.choice(("127.0.0.1", "::1", "", "x")))
        except UnreadableRequest:
            return "unreadable"
        if isinstance(verdict, Rejection):
            assert len(verdict.pdu()) == 10
            return "rejected"
        assert self._admission.open() == 1
        assert verdict.called_ae in ("ICHOR", "STAT")
        assert verdict.calling_ae.isascii()
        assert len(verdict.calling_ae) <= 16
        readable = is_readable(request)
        self._admission.leave(verdict)
        assert self._admission.open() == 0
        return "admitted" if readable else "not the library's"

    def close(self) -> None:
        """Nothing is open."""


class LobbyTarget:
    """`Lobby` with connections that bring requests in pieces; without its thread, so that a case has an end."""

    def __init__(self) -> None:
        self._requests: list[bytes] = []
        self._lobby: Any = Lobby(socket.socket(), on_request=self._on_request)

    def _on_request(self, connection: socket.socket, _: tuple[object, ...], request: bytes) -> bytes | None:
        self._requests.append(request)
        if len(request) % 2:
            return ABORT
        connection.close()
        return None

    def case(self, rng: random.Random) -> str:
        lobby = self._lobby
        valid = seeds.associate_requests()
        data = damaged(rng, rng.choice(valid), valid) + rng.choice((b"", b"", b"more", seeds.RELEASE.data))
        self._requests.clear()
        ours, theirs = socket.socketpair()
        with ours:
            pieces = chunks(rng, data)[:40]
            data = b"".join(pieces)
            guest = None
            for place, piece in enumerate(pieces or [b""]):
                with contextlib.suppress(OSError):
                    ours.sendall(piece)
                if place == 0:
                    lobby._welcome(theirs, ("127.0.0.1", 1))
                    guest = next(iter([*lobby._waiting, *lobby._leaving]), None)
                elif guest in lobby._waiting or guest in lobby._leaving:
                    lobby._serve(guest)
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_WR)
            if guest is not None and (guest in lobby._waiting or guest in lobby._leaving):
                lobby._serve(guest)
            ours.setblocking(False)
            try:
                answer = ours.recv(100)
            except (BlockingIOError, ConnectionResetError):
                answer = b""
        assert answer in (b"", ABORT)
        assert not lobby._waiting
        assert not lobby._leaving
        assert not lobby._of_address
        assert lobby._bytes == 0
        assert not lobby._selector.get_map()
        assert theirs.fileno() == -1, "a connection that nobody has was not closed"
        for request in self._requests:
            # Whatever the pieces, it is the first PDU and nothing else.
            assert request == data[: len(request)]
            assert len(request) == 6 + struct.unpack_from(">I", data, 2)[0]
            assert request[0] == 1
        return "request" if self._requests else "answered" if answer else "dropped"

    def close(self) -> None:
        self._lobby._selector.close()


class Command:
    """`pdu.read_command`, and the response to what it accepts."""

    def case(self, rng: random.Random) -> str:
        valid = seeds.commands()
        data = damaged(rng, rng.choice(valid), valid)
        try:
            read = pdu.read_command(memoryview(data) if rng.random() < 0.5 else data)
        except pdu.Malformed:
            return "malformed"
        assert 0 <= read.field <= 0xFFFF
        assert read.message_id is None or 0 <= read.message_id <= 0xFFFF
        pdu.known_text_of(read.sop_class)
        pdu.text_of(read.sop_instance)
        status = rng.choice(sorted(STATUSES))
        response = pdu.store_response(5, read, status)
        kind, length = pdu.PDU_HEAD.unpack_from(response)
        assert (kind, length) == (pdu.P_DATA_TF, len(response) - 6)
        assert len(response) <= 300
        answer = pdu.read_command(response[12:])
        assert (answer.field, answer.has_data_set) == (0x8001, False)
        for given, got in ((read.sop_class, answer.sop_class), (read.sop_instance, answer.sop_instance)):
            if given is not None and len(given) <= 64:
                assert (got or b"").rstrip(b"\0") == given.rstrip(b"\0")
            else:
                assert got is None
        return "read"

    def close(self) -> None:
        """Nothing is open."""


class Conversation:
    """`fast_path` on a socket, with everything that a peer says behind its association request; the library is a stub.

    Beside it a reader of a few lines says which objects are whole in it, until something is not as it should be.
    """

    def __init__(self) -> None:
        self._store = Store()

    def case(self, rng: random.Random) -> str:
        turns = seeds.turns()
        chosen = [rng.choice(turns) for _ in range(rng.choice((1, 2, 2, 3, 5)))]
        chosen += rng.choice(([], [seeds.RELEASE], [seeds.RELEASE], [seeds.ABORT]))
        whole = joined(*chosen)
        data = damaged(rng, whole, turns)
        first = self._hold(data, rng)
        if rng.random() < 0.2:
            assert self._hold(data, rng) == first, "other pieces, another result"
        return first[0]

    def _hold(self, data: bytes, rng: random.Random) -> tuple[str, list[bytes], list[bytes]]:
        store = self._store
        store.begin_anew()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            ours.setblocking(False)
            assert ours.send(data) == len(data), "more than a socket takes at once"
            ours.shutdown(socket.SHUT_WR)
            most = rng.choice((1, 50, 5000, 1 << 20)) if len(data) < 5000 else rng.choice((5000, 1 << 20))
            library = _Library(ours, theirs, store, most=most)
            while not library.is_over:
                library.turn()
            theirs.close()
            library.listen()
        said = library.said
        answers, fate = _answers(said)
        acknowledged = store.check()
        assert [s for _, s in answers].count(0) == len(acknowledged), "stored without Success, or Success without it"
        expected = _objects_in(data)
        assert len(answers) <= len(expected), "an answer to nothing"
        successes = iter(acknowledged)
        for (message_id, status), (asked, data_set) in zip(answers, expected, strict=False):
            assert message_id == asked
            assert status in STATUSES
            if status == 0:
                assert next(successes) == data_set, "other bytes stored than sent"
        return library.fate or fate, acknowledged, [said]

    def close(self) -> None:
        """Nothing is open."""


class _Library:
    """As much of a pynetdicom association as the fast path looks at."""

    def __init__(self, peer: socket.socket, connection: socket.socket, store: Store, *, most: int) -> None:
        self.fate = ""
        self.is_over = False
        self.said = b""
        self._peer = peer
        self._events: queue.Queue[str] = queue.Queue()
        self._causes: list[str] = []
        dul = SimpleNamespace(
            socket=SimpleNamespace(socket=connection), _is_transport_event=lambda: False,
            state_machine=SimpleNamespace(current_state="Sta6"), event_queue=self._events, to_provider_queue=queue.Queue(),
            to_user_queue=queue.Queue(), _recv_pdu=queue.Queue(), idle_timer_expired=lambda: False,
            _idle_timer=SimpleNamespace(timeout=None, remaining=0.0, restart=self.listen),
            _decode_pdu=lambda data: (bytes(data), f"PDU {data[0]}"),
        )  # fmt: skip
        association: Any = SimpleNamespace(
            dul=dul, dimse=SimpleNamespace(message=None, msg_queue=queue.Queue()),
            acceptor=SimpleNamespace(maximum_length=16_384), requestor=SimpleNamespace(maximum_length=16_384),
            _accepted_cx={n: SimpleNamespace(transfer_syntax=[s]) for n, s in seeds.CONTEXTS.items()},
        )  # fmt: skip
        self._dul: Any = dul
        path = fast_path._FastPath(
            association, store.reception, ORIGIN, lambda: None, lambda arrival: arrival.end(), self._causes.append, 5.0,
            Baton(),
        )  # fmt: skip
        self._path: Any = path
        path._checkpoint.is_waiting = True  # an association thread with nothing to do
        receive = path._receive
        path._receive = lambda view: receive(view[:most])

    def turn(self) -> None:
        """One look of the library's thread, and what it would do then."""
        path = self._path
        path._event()
        path._checkpoint.is_waiting = True
        while not self._events.empty():
            event = self._events.get()
            if event == "Evt17":
                self.is_over = True
                self.fate = self._causes[0] if self._causes else "closed"
            elif path._is_over:
                self.is_over = True
                self.fate = event
            elif not self._dul._recv_pdu.empty():
                handed: bytes = self._dul._recv_pdu.get()
                assert handed[0] == pdu.P_DATA_TF, "something else than a message was handed over"
                assert len(handed) == 6 + struct.unpack_from(">I", handed, 2)[0]

    def listen(self) -> None:
        """Called after each answer: a peer that does not read would hold its sender up."""
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while more := self._peer.recv(1 << 16):
                self.said += more


def _answers(said: bytes) -> tuple[list[tuple[int, int]], str]:
    """(message id, status) of each response, and how the acceptor ended it."""
    answers, at, fate = [], 0, "open"
    while at < len(said):
        kind, length = struct.unpack_from(">BxI", said, at)
        body = said[at + 6 : at + 6 + length]
        at += 6 + length
        assert at <= len(said), "half an answer"
        if kind == 7:
            assert length == 4
            assert at == len(said), "something was said after an abort"
            fate = "aborted"
        else:
            assert kind == 4
            numbers = _numbers(body[6:])
            assert numbers[0x0100] == 0x8001
            answers.append((numbers[0x0120], numbers[0x0900]))
    return answers, fate


def _numbers(command: bytes) -> dict[int, int]:
    found, at = {}, 0
    while at + 8 <= len(command):
        _, element, length = struct.unpack_from("<HHI", command, at)
        if length == 2 and at + 10 <= len(command):
            (found[element],) = struct.unpack_from("<H", command, at + 8)
        at += 8 + length
    return found


def _objects_in(data: bytes) -> list[tuple[int, bytes]]:
    """(message id, data set) of each C-STORE that is whole; stops where something is wrong, not always at once."""
    found: list[tuple[int, bytes]] = []
    at, command, data_set, asked = 0, b"", b"", 0
    while at + 6 <= len(data):
        kind, length = struct.unpack_from(">BxI", data, at)
        end = at + 6 + length
        if kind != 4 or end > len(data):
            break
        at += 6
        while at + 6 <= end:
            size, _, control = struct.unpack_from(">IBB", data, at)
            value = data[at + 6 : at + 4 + size]
            if size < 2 or at + 4 + size > end:
                return found
            at += 4 + size
            if control & 1:
                command += value
                if control & 2:
                    numbers = _numbers(command)
                    command, data_set = b"", b""
                    is_store = numbers.get(0x0100) == 1
                    asked = numbers.get(0x0110, 0) if is_store else -1
                    if is_store and numbers.get(0x0800) == 0x0101:
                        found.append((asked, b""))
            else:
                data_set += value
                if control & 2:
                    if asked >= 0:
                        found.append((asked, data_set))
                    data_set = b""
        at = end
    return found
