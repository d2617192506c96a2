"""Requests with random damage, against the whole door: always an answer or an end, never an unexpected error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from unit.listener.modality import CT, EXPLICIT, encode, image

from ichor import config
from ichor.clock import SystemClock
from ichor.store.filemeta import file_meta
from ichor.store.receipts import ReceiptWriter
from ichor.store.spool import FileSpool
from listener.stow import StowServer

PARTS = b"".join(
    b"--b\r\nContent-Type: application/dicom\r\n\r\n"
    + file_meta(sop_class_uid=CT, sop_instance_uid=f"1.2.3.4.{n}", transfer_syntax_uid=EXPLICIT)
    + encode(image(f"1.2.3.4.{n}"))
    + b"\r\n"
    for n in (1, 2)
)
BODY = PARTS + b"--b--"
HEAD = b'POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/related; type="application/dicom"; boundary=b\r\n'
WHOLE = HEAD + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"

# Most damage where structure is: heads, not pixels.
PLACES = st.one_of(st.integers(0, 400), st.integers(0, len(CHUNKED)))
EDITS = st.lists(st.tuples(PLACES, st.integers(0, 30), st.one_of(st.binary(max_size=8), st.just(b"\r\n"))), max_size=6)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StowServer]:
    root = tmp_path_factory.mktemp("stow")
    tree = {"listener.stow.port": 0, "listener.disk_low": 0, "listener.disk_full": 0, "listener.request_timeout": 5}
    writer = ReceiptWriter(root / "receipts", durable=False)
    spool = FileSpool(root / "spool", durability="none")
    yield StowServer(settings=config.load(environ={}, flags=tree), spool=spool, receipts=writer, clock=SystemClock())
    spool.close()
    writer.close()


def errors() -> list[float]:
    names = ("stow", "receive")
    return [REGISTRY.get_sample_value("ichor_loop_errors_total", {"role": name}) or 0.0 for name in names]


def answer(server: StowServer, data: bytes) -> bytes:
    ours, theirs = socket.socketpair()
    # A pair has no TCP options; what is tested lies above them.
    thread = threading.Thread(target=server.converse, args=(theirs, "127.0.0.1", None))
    thread.start()
    received = b""
    with ours:
        ours.settimeout(60)
        try:
            ours.sendall(data)
            ours.shutdown(socket.SHUT_WR)
            while more := ours.recv(65_536):
                received += more
        except (BrokenPipeError, ConnectionResetError):
            pass
    thread.join(60)
    assert not thread.is_alive()
    return received


@pytest.mark.parametrize("request_", [WHOLE, CHUNKED])
def test_without_damage_it_is_stored(server: StowServer, request_: bytes) -> None:
    assert answer(server, request_).startswith(b"HTTP/1.1 200 ")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([WHOLE, CHUNKED]), EDITS, st.one_of(st.none(), st.integers(0, len(CHUNKED))))
def test_damaged_requests_are_answered_or_ended(
    server: StowServer, request_: bytes, edits: list[tuple[int, int, bytes]], cut: int | None
) -> None:
    before = errors()
    for place, removed, put in edits:
        request_ = request_[:place] + put + request_[place + removed :]
    received = answer(server, request_[:cut])
    assert received[:9] in (b"", b"HTTP/1.1 ")
    assert errors() == before
    assert len(server._busy) == len(server._waiting) == 0


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_noise_is_answered_or_ended(server: StowServer, data: bytes) -> None:
    before = errors()
    assert answer(server, data)[:13] in (b"", b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")
    assert errors() == before
