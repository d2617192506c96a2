"""The fast path beside the plain one: same conversations, same answers, same bytes, same ends."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import ssl
import struct
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileMetaDataset
from pynetdicom import AE
from requestor import associate
from unit.listener.modality import CT, EXPLICIT, IMPLICIT, Scu, encode, image
from unit.listener.paths import Server

from listener import fast_path, pdu
from listener.baton import Baton

ECHO = "1.2.840.10008.1.1"
CONTEXTS = ((CT, (EXPLICIT,)), (ECHO, (IMPLICIT,)), (CT, (IMPLICIT,)))
SMALL = [encode(image(f"1.2.3.4.{n}", pixels=bytes([n]) * 20)) for n in range(4)]


def command(
    sop_instance: bytes = b"1.2.3.4.0\0", *, sop_class: bytes = CT.encode() + b"\0", number: int = 7, field: int = 1,
    priority: int = 0, data_set: int = 1,
) -> bytes:  # fmt: skip
    def element(tag: int, value: bytes) -> bytes:
        return struct.pack("<HHI", 0, tag, len(value)) + value

    elements = element(0x0002, sop_class) + element(0x0100, struct.pack("<H", field))
    elements += element(0x0110, struct.pack("<H", number)) + element(0x0700, struct.pack("<H", priority))
    elements += element(0x0800, struct.pack("<H", data_set))
    elements += element(0x1000, sop_instance) if field == 1 else b""
    return element(0x0000, struct.pack("<I", len(elements))) + elements


def echo(number: int = 9) -> bytes:
    return command(field=0x30, number=number, sop_class=ECHO.encode() + b"\0", data_set=0x0101)


def value(context: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def p_data(*values: bytes) -> bytes:
    body = b"".join(values)
    return struct.pack(">BBI", 4, 0, len(body)) + body


def whole(data_set: bytes, number: int, *, context: int = 1, **changes: Any) -> bytes:
    return p_data(value(context, 3, command(number=number, **changes))) + p_data(value(context, 2, data_set))


@dataclass
class Talk:
    """What one path made of a conversation."""

    answers: list[bytes] = field(default_factory=list)
    fate: str = ""
    stored: list[tuple[Any, bytes]] = field(default_factory=list)


def converse(server: Server, sends: list[bytes], *, answers: int, end: str = "release") -> Talk:
    """Send as told, without waiting; then read so many answers, or what comes until the connection is closed."""
    talk = Talk()
    scu = server.scu(contexts=CONTEXTS)
    for data in sends:
        scu.socket.sendall(data)
    try:
        while len(talk.answers) < answers:
            kind, body = scu.read()
            if kind == 7:
                return talk
            assert kind == 4
            talk.answers.append(body)
        if end == "release":
            scu.release()
        elif end == "abort":
            scu.abort()
    except (ConnectionError, TimeoutError):
        pass
    finally:
        scu.socket.close()
    return talk


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with Server(fast=False) as plain, Server(fast=True) as fast:
        yield plain, fast


Both = Callable[..., tuple[Talk, Talk]]


@pytest.fixture(scope="module")
def both(servers: tuple[Server, Server]) -> Both:
    """``both(sends, answers=, end=)``: what the plain and the fast path made of it."""

    def talk(server: Server, sends: list[bytes], answers: int, end: str) -> Talk:
        server.forget()
        talk = converse(server, sends, answers=answers, end=end)
        talk.fate = server.fate()
        talk.stored = server.stored()
        return talk

    def run(sends: list[bytes], *, answers: int, end: str = "release") -> tuple[Talk, Talk]:
        plain, fast = servers
        return talk(plain, sends, answers, end), talk(fast, sends, answers, end)

    return run


def test_usual_conversation_is_byte_for_byte_the_librarys(both: Both) -> None:
    sends = [whole(data, n, sop_instance=f"1.2.3.4.{n}\0".encode()) for n, data in enumerate(SMALL)]
    plain, fast = both(sends, answers=4)
    assert fast == plain
    assert [data for _, data in fast.stored] == SMALL
    assert fast.fate == "released"


@pytest.mark.parametrize(
    "data", [b"", SMALL[1], b"\xff" * 300, encode(image(study="../x"))], ids=["empty", "other", "nonsense", "bad uid"]
)
def test_refusals_are_the_librarys(both: Both, data: bytes) -> None:
    plain, fast = both([whole(data, 1), whole(SMALL[0], 2)], answers=2)
    assert fast == plain
    assert len(fast.stored) == 1


def test_command_without_a_data_set_is_refused_on_both_paths(both: Both) -> None:
    plain, fast = both([p_data(value(1, 3, command(data_set=0x0101))), whole(SMALL[0], 2)], answers=2)
    assert fast == plain
    assert len(fast.stored) == 1


@pytest.mark.parametrize("priority", [0, 1, 2])
def test_priority_is_written_down(priority: int) -> None:
    records = []
    for fast in (False, True):
        with Server(fast=fast) as server:
            converse(server, [whole(SMALL[0], 1, priority=priority)], answers=1)
            server.fate()
            records.append(server.receipts.records[0][1])
    assert records[0].command_priority_high == records[1].command_priority_high == (priority == 1)


def test_echo_between_and_within_pipelines_is_answered_in_order(both: Both) -> None:
    sends = [
        p_data(value(3, 3, echo(1))) + whole(SMALL[0], 2) + whole(SMALL[1], 3, sop_instance=b"1.2.3.4.1\0"),
        p_data(value(3, 3, echo(4))),
        whole(SMALL[2], 5, sop_instance=b"1.2.3.4.2\0"),
    ]
    plain, fast = both(sends, answers=5)
    assert fast == plain
    assert len(fast.stored) == 3


def test_release_right_behind_is_answered_after_the_object(both: Both) -> None:
    sends = [whole(SMALL[0], 1) + pdu.PDU_HEAD.pack(5, 4) + bytes(4)]
    plain, fast = both(sends, answers=1, end="none")
    assert fast == plain
    assert (len(fast.stored), fast.fate) == (1, "released")


@pytest.mark.parametrize("sent", [0, 10, 300])
def test_abort_in_the_middle_leaves_nothing_of_the_object(both: Both, sent: int) -> None:
    sends = [whole(SMALL[0], 1), p_data(value(1, 3, command(b"1.2.3.4.1\0"))), p_data(value(1, 0, SMALL[1][:sent]))]
    plain, fast = both(sends, answers=1, end="abort")
    assert fast == plain
    assert (len(fast.stored), fast.fate) == (1, "aborted")


def test_connection_that_is_gone_in_the_middle_is_an_abort(both: Both) -> None:
    sends = [p_data(value(1, 3, command())), p_data(value(1, 0, SMALL[0][:100]))[:-20]]
    plain, fast = both(sends, answers=0, end="none")
    assert fast == plain
    assert (fast.stored, fast.fate) == ([], "aborted")


@pytest.mark.parametrize(
    "wrong",
    [
        p_data(value(9, 3, command())) + p_data(value(9, 2, SMALL[0])),  # no such context
        p_data(value(1, 2, SMALL[0])),  # a data set before its command
        p_data(value(1, 3, command())[:20]),  # a PDV longer than its PDU
        p_data(b"\0\0\0\1\1"),  # a PDV without its control header
        p_data(value(1, 3, command())[:3]),
        p_data(value(1, 3, b"\1\2\3")),  # no command set
        p_data(value(1, 3, command(field=0x7777))),
        struct.pack(">BBI", 9, 0, 4) + bytes(4),  # no such PDU
        struct.pack(">BBI", 2, 0, 4) + bytes(4),  # not expected, and malformed
        struct.pack(">BBI", 6, 0, 4) + bytes(4),  # a release response
    ],
    ids=range(10),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the library's, on the plain path
def test_what_cannot_be_ends_the_association_on_both_paths(wrong: bytes) -> None:
    for fast in (False, True):
        with Server(fast=fast) as server:
            scu = server.scu(contexts=CONTEXTS)
            scu.socket.sendall(whole(SMALL[0], 1))
            assert scu.read()[0] == 4
            scu.socket.sendall(wrong)
            with contextlib.suppress(ConnectionError):  # the library's thread may die of it without a word
                assert scu.read()[0] == 7
            scu.socket.close()
            assert not fast or server.fate() == "aborted"
            assert len(server.stored()) == 1


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (p_data(value(1, 3, command())) + p_data(value(3, 2, SMALL[0])), "a data set without its command"),
        (p_data(value(1, 3, command())) + p_data(value(1, 3, command())), "a command within a data set"),
        (p_data(*[value(1, 1, bytes(60_000))] * 2), "a command longer than allowed"),
        (p_data(value(1, 3, bytes(66_000))), "a command set longer than allowed"),
        (struct.pack(">BBI", 4, 0, 200_000), "a PDU longer than allowed"),
        (struct.pack(">BBI", 5, 0, 0xFFFFFFFF), "a PDU longer than allowed"),
    ],
)
def test_bounds_are_answered_with_an_abort(wrong: bytes, cause: str) -> None:
    with Server(fast=True) as server:
        scu = server.scu(contexts=CONTEXTS)
        scu.socket.sendall(whole(SMALL[0], 1) + wrong)
        assert scu.read()[0] == 4
        assert scu.read() == (7, b"\0\0\2\6")  # by the provider: invalid PDU parameter value, PS3.8 table 9-26
        scu.socket.close()
        assert server.fate() == "aborted"
        assert server.causes == [cause]
        assert len(server.stored()) == 1


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[bytes], int]:
    """Objects and echoes in a row: PDVs cut anywhere, several of them in one PDU, sent in pieces of any size."""
    stream, answers = b"", 0
    for number in range(draw(st.integers(1, 5))):
        answers += 1
        if draw(st.integers(0, 4)) == 0:
            stream += p_data(value(3, 3, echo(number)))
            continue
        size = draw(st.sampled_from([0, 1, 500, 5_000, 60_000]))
        data = encode(image(f"1.2.3.4.{number}", pixels=random.Random(number).randbytes(2 * size)))
        data = b"" if draw(st.integers(0, 9)) == 0 else data
        context = draw(st.sampled_from([1, 5]))
        whole_command = command(f"1.2.3.4.{number}\0".encode(), number=number, priority=draw(st.integers(0, 2)))
        values = [*cut(draw, context, 1, whole_command), *cut(draw, context, 0, data)]
        while values:
            # The library loses what follows a message within one PDU: messages end with theirs here.
            take = draw(st.integers(1, 4))
            stream += p_data(*values[:take])
            values = values[take:]
    sends = []
    while stream:
        piece = draw(st.sampled_from([1, 6, 7, 100, 4096, 50_000, 1_000_000]))
        sends.append(stream[:piece])
        stream = stream[piece:]
        if len(sends) > 50:
            sends.append(stream)
            stream = b""
    return sends, answers


def cut(draw: st.DrawFn, context: int, control: int, data: bytes) -> list[bytes]:
    pieces = []
    while True:
        size = draw(st.sampled_from([1, 13, 100, 16_000, 100_000]))
        last = len(data) <= size or len(pieces) > 30
        pieces.append(value(context, control | 2 * last, data if last else data[:size]))
        if last:
            return pieces
        data = data[size:]


@settings(max_examples=60, deadline=None)
@given(conversation=conversations())
def test_any_fragmentation_gives_the_same_on_both_paths(both: Both, conversation: tuple[list[bytes], int]) -> None:
    sends, answers = conversation
    plain, fast = both(sends, answers=answers)
    assert fast == plain
    assert len(fast.answers) == answers


def test_messages_that_share_a_pdu_are_all_answered() -> None:
    values = [
        value(1, 3, command(number=1)), value(1, 2, SMALL[0]), value(3, 3, echo(2)),
        value(1, 3, command(b"1.2.3.4.1\0", number=3)), value(1, 2, SMALL[1]),
    ]  # fmt: skip
    with Server(fast=True) as server:
        talk = converse(server, [p_data(*values)], answers=3)
        assert [answer[-2:] if n == 1 else b"" for n, answer in enumerate(talk.answers)][1] == b"\0\0"
        assert server.fate() == "released"
        assert len(server.stored()) == 2


def test_turn_comes_before_each_object() -> None:
    seen: list[int] = []
    with Server(fast=True, turn=lambda: seen.append(len(server.receipts.records))) as server:
        scu = server.scu(contexts=CONTEXTS)
        scu.socket.sendall(p_data(value(3, 3, echo())))
        scu.read()  # answered, so the fast path is installed: what comes now is never read by the library
        seen.clear()
        scu.socket.sendall(whole(SMALL[0], 1) + whole(SMALL[0], 2))
        scu.read(), scu.read()
        scu.release()
        assert seen == [0, 1]


def test_object_larger_than_the_buffer_streams() -> None:
    data = encode(image("1.2.3.4.0", pixels=random.Random(1).randbytes(5_000_000)))
    with Server(fast=True) as server:
        scu = server.scu(contexts=CONTEXTS)
        assert scu.store(data, sop_instance="1.2.3.4.0", pdv=100_000) == 0
        scu.release()
        assert server.stored()[0][1] == data
        assert server.spool.writes >= 5


def test_full_disk_in_the_middle_is_a700_and_the_association_goes_on() -> None:
    data = encode(image("1.2.3.4.0", pixels=bytes(5_000_000)))
    with Server(fast=True) as server:
        server.spool.is_full = True
        scu = server.scu(contexts=CONTEXTS)
        assert scu.store(data, sop_instance="1.2.3.4.0", pdv=100_000) == 0xA700
        assert server.spool.discarded == 1
        server.spool.is_full = False
        assert scu.store(data, sop_instance="1.2.3.4.0", pdv=100_000) == 0
        scu.release()


def test_sender_silent_within_an_object_is_aborted_and_leaves_nothing() -> None:
    with Server(fast=True, network_timeout=0.3) as server:
        scu = server.scu(contexts=CONTEXTS)
        scu.socket.sendall(p_data(value(1, 3, command())) + p_data(value(1, 0, SMALL[0][:300])))
        assert scu.read()[0] == 7
        scu.socket.close()
        assert server.fate() == "aborted"
        assert server.causes == ["a sender fell silent within a message"]
        assert server.stored() == []


class Time:
    """In place of the module, for the fast path: stands still until it is told how late it is."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._asked = threading.Semaphore(0)

    def monotonic(self) -> float:
        self._asked.release()
        return self.now

    def wait_until_asked(self) -> None:
        assert self._asked.acquire(timeout=60)


def test_sender_of_a_byte_now_and_then_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time()
    data = whole(SMALL[0], 1)
    with Server(fast=True, network_timeout=60.0) as server:
        scu = server.scu(contexts=CONTEXTS)
        monkeypatch.setattr(fast_path, "time", clock)
        for at in range(4):  # the last one when 75 s have gone
            scu.socket.sendall(data[at : at + 1])
            clock.wait_until_asked()  # it waits for the next one: no byte has another's time
            clock.now += 25.0
        assert scu.read()[0] == 7
        scu.socket.close()
        assert server.fate() == "aborted"
        assert server.causes == ["a sender was too slow within a message"]


@pytest.mark.parametrize(("response", "kind"), [("A-ABORT", 7), ("A-RELEASE", 5)])
def test_idle_association_ends_as_on_the_plain_path(response: str, kind: int) -> None:
    def shorten() -> None:
        server.associations[0].network_timeout = 0.1  # from the object on: the sender may be late with it

    with Server(fast=True, turn=shorten, idle_response=response) as server:
        scu = server.scu(contexts=CONTEXTS)
        scu.socket.sendall(whole(SMALL[0], 1))
        assert scu.read()[0] == 4
        assert scu.read()[0] == kind
        if kind == 5:
            scu.pdu(6, bytes(4))
        scu.socket.close()


@pytest.mark.parametrize("within", [False, True])
def test_abort_by_us_comes_at_once(within: bool) -> None:
    with Server(fast=True) as server:
        scu = server.scu(contexts=CONTEXTS)
        scu.socket.sendall(whole(SMALL[0], 1))
        assert scu.read()[0] == 4
        if within:
            scu.socket.sendall(p_data(value(1, 3, command())) + p_data(value(1, 0, SMALL[0][:300])))
        scu.socket.settimeout(30)  # the network timeout is 60 s
        server.associations[0].abort(block=False)
        assert scu.read()[0] == 7
        scu.socket.close()
        assert server.fate() == "aborted"
        server.associations[0].join(60)
        assert not server.associations[0].is_alive()
        assert len(server.stored()) == 1


@pytest.mark.parametrize("broken", ["_take_values", "_send"])
def test_unexpected_error_ends_the_association_and_no_other(
    broken: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("Secret^Name")

    with Server(fast=True) as server:
        with monkeypatch.context() as patch:
            patch.setattr(fast_path._FastPath, broken, fail)
            assert converse(server, [whole(SMALL[0], 1)], answers=1).answers == []
            assert server.fate() == "aborted"
        (message,) = [m for m in caplog.messages if m.startswith("unexpected error while an association was served")]
        assert "Secret" not in caplog.text
        assert "ZeroDivisionError at test_fast_path.py:" in message
        assert len(converse(server, [whole(SMALL[0], 1)], answers=1).answers) == 1
        assert server.fate(1) == "released"


def test_request_of_our_own_is_the_librarys() -> None:
    # The library pauses its reactor for that: from then on the association is its own.
    with Server(fast=True) as server:
        scu = server.scu(contexts=CONTEXTS)
        scu.socket.sendall(whole(SMALL[0], 1))
        assert scu.read()[0] == 4
        released = threading.Thread(target=server.associations[0].release)
        released.start()
        assert scu.read()[0] == 5
        scu.pdu(6, bytes(4))
        released.join(60)
        assert not released.is_alive()
        scu.socket.close()


@pytest.mark.parametrize("longest", [7, 64, 128, 511])
def test_peer_of_tiny_pdus_gets_its_answers_in_pieces_as_from_the_library(longest: int) -> None:
    commands = []
    for fast in (False, True):
        with Server(fast=fast) as server:
            scu = server.scu(contexts=CONTEXTS, longest=longest)
            scu.socket.sendall(whole(SMALL[0], 1))
            said, control = b"", 0
            while not control & pdu.LAST:
                kind, body = scu.read()
                assert (kind, len(body) <= longest) == (4, True)
                control, said = body[5], said + body[6:]
            commands.append(said)
            scu.release()
            assert len(server.stored()) == 1
    assert commands[0] == commands[1]


def test_long_uids_do_not_stay_in_memory() -> None:
    tracemalloc.start()
    try:
        for number in range(100):
            uid = b"1.%060000d" % number
            pdu.known_text_of(uid)
            pdu.store_response(1, pdu.Command(pdu.C_STORE_RQ, True, 1, False, uid, uid), 0)
        del uid
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_message_of_the_librarys_is_bounded_as_it_is_handed_over() -> None:
    asked = command(field=0x30, sop_class=ECHO.encode() + b"\0")
    with Server(fast=True) as server:
        scu = server.scu(contexts=CONTEXTS)
        scu.socket.sendall(p_data(value(3, 3, asked)))
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                scu.socket.sendall(p_data(value(3, 0, bytes(120_000))))
        scu.socket.close()
        assert server.fate() == "aborted"
        assert server.causes == ["a message longer than allowed"]


def test_library_as_a_sender_is_served() -> None:
    with Server(fast=True) as server:
        ae = AE("CT1")
        ae.add_requested_context(CT, EXPLICIT)
        ae.add_requested_context(ECHO)
        association = associate(ae, server.port)
        assert association.send_c_echo().Status == 0
        dataset = image("1.2.3.4.0")
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = EXPLICIT
        assert [association.send_c_store(dataset, msg_id=n).Status for n in range(1, 4)] == [0, 0, 0]
        association.release()
        assert server.fate() == "released"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory, peer: Callable[[str, str], str]) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [peer("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    return certificate, key


@pytest.fixture
def secure(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """The server's side; `Scu` speaks TLS from now on."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*certificate)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    connect = socket.create_connection

    def create_connection(address: tuple[str, int], timeout: float) -> ssl.SSLSocket:
        return client.wrap_socket(connect(address, timeout))

    monkeypatch.setattr(socket, "create_connection", create_connection)
    return server


def test_tls_carries_objects_echoes_and_releases(secure: ssl.SSLContext) -> None:
    large = encode(image("1.2.3.4.9", pixels=random.Random(2).randbytes(3_000_000)))
    with Server(fast=True, tls=secure) as server:
        talk = converse(server, [whole(SMALL[0], 1) + p_data(value(3, 3, echo(2))), whole(b"", 3)], answers=3)
        assert (len(talk.answers), server.fate()) == (3, "released")
        scu = server.scu(contexts=CONTEXTS)
        assert scu.store(large, sop_instance="1.2.3.4.9", pdv=120_000) == 0
        assert scu.echo(3) == 0
        assert scu.store(SMALL[1], sop_instance="1.2.3.4.1", pdv=7) == 0
        scu.release()
        assert server.fate(1) == "released"
        assert [data for _, data in server.stored()] == [SMALL[0], large, SMALL[1]]


def test_tls_sender_silent_within_an_object_is_aborted(secure: ssl.SSLContext) -> None:
    with Server(fast=True, tls=secure, network_timeout=0.3) as server:
        scu = server.scu(contexts=CONTEXTS)
        scu.socket.sendall(p_data(value(1, 3, command())) + p_data(value(1, 0, SMALL[0][:300])))
        assert scu.read()[0] == 7
        scu.socket.close()
        assert (server.fate(), server.stored()) == ("aborted", [])


def test_tls_abort_by_us_comes_at_once_also_within_a_record(secure: ssl.SSLContext) -> None:
    with Server(fast=True, tls=secure) as server:
        scu = server.scu(contexts=CONTEXTS)
        socket.socket.sendall(scu.socket, b"\x17\x03\x03\x01\x00" + bytes(10))  # the beginning of a TLS record
        scu.socket.settimeout(30)
        server.associations[0].abort(block=False)
        assert scu.read()[0] == 7
        scu.socket.close()
        assert server.fate() == "aborted"


def until(state: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(6000):
        if state():
            return
        tick.wait(0.01)
    raise AssertionError("it never came to that")


@contextlib.contextmanager
def flooding(scu: Scu, data: bytes) -> Iterator[None]:
    """Send the same again and again, until the connection is closed; read nothing."""

    def send() -> None:
        with contextlib.suppress(OSError):
            while True:
                scu.socket.sendall(data)

    thread = threading.Thread(target=send, daemon=True)
    scu.socket.settimeout(600.0)
    thread.start()
    yield
    scu.socket.shutdown(socket.SHUT_RDWR)
    thread.join(60.0)
    scu.socket.close()


def test_a_sender_that_reads_no_answers_is_in_nobodys_way() -> None:
    with Server(fast=True, network_timeout=600.0, baton=Baton(longest=600.0)) as server:
        deaf, other = server.scu(), server.scu()
        until(lambda: len(server.associations) == 2)
        answers = server.associations[0].dul.socket.socket
        answers.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        with flooding(deaf, whole(SMALL[0], 1)):
            until(lambda: not select.select([], [answers], [], 0)[1])
            for _ in range(300):  # on the way there it waits for good
                assert other.store(SMALL[1], sop_instance="1.2.3.4.1") == 0
        other.release()


def test_a_sender_that_never_pauses_leaves_others_their_turns() -> None:
    with Server(fast=True, baton=Baton(longest=600.0)) as server:
        hog, other = server.scu(), server.scu()
        hog.socket.sendall(p_data(value(1, 3, command())))
        with flooding(hog, p_data(value(1, 0, b""), value(1, 0, b"")) * 8000):
            for number in (1, 2, 3):
                assert other.store(SMALL[number], sop_instance=f"1.2.3.4.{number}") == 0
        other.release()


def test_an_object_whose_end_waits_for_a_disk_is_in_nobodys_way() -> None:
    waiting, over = threading.Event(), threading.Event()

    def finish(arrival: Any) -> int:
        if not waiting.is_set():
            waiting.set()
            over.wait(60.0)
        return int(arrival.end())

    with Server(fast=True, baton=Baton(), finish=finish) as server:
        slow, other = server.scu(), server.scu()
        slow.send_store(SMALL[0], sop_class=CT, sop_instance="1.2.3.4.0")
        assert waiting.wait(60.0)
        for number in (1, 2, 3):
            assert other.store(SMALL[number], sop_instance=f"1.2.3.4.{number}") == 0
        over.set()
        assert slow.status() == 0
        for scu in (slow, other):
            scu.release()
