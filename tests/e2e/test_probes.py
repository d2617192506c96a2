"""Connections that are none, senders that stall or vanish: memory stays flat, others are served, nothing half stays."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.receive import Receive
from unit.listener.modality import Scu, encode, image

STUDY = "1.2.826.6"
GROWTH_MIB = 16.0
LONGEST_ANSWER = 20.0  # seconds; a third of `listener.network_timeout`
_RESET = struct.pack("ii", 1, 0)
_REQUEST = b"\x01\x00\x00\x00\x10\x00"  # the head of an A-ASSOCIATE-RQ of 4,096 bytes


@pytest.fixture
def receiver(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Receive]:
    made = Receive(tmp_path / "site", free_port())
    made.start()
    yield made
    made.kill()


def numbered(n: int, size: int = 2_000) -> tuple[str, bytes]:
    uid = f"{STUDY}.{n}"
    return uid, encode(image(uid, study=STUDY, series=f"{STUDY}.0", pixels=bytes([n % 251]) * size))


def store(scu: Scu, n: int) -> int:
    uid, data = numbered(n)
    return scu.store(data, sop_instance=uid)


def probe(port: int, n: int) -> None:
    """A connection that is no association: closed at once, reset, or after a few bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        if n % 4 == 1:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        elif n % 4 == 2:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        elif n % 4 == 3:
            connection.sendall(_REQUEST)


def under_probes(receiver: Receive, *, probes: int, half_open: int, slow: int, objects: int) -> None:
    scu = Scu(receiver.port)
    for n in range(20):
        assert store(scu, n) == 0
        with contextlib.suppress(OSError):
            probe(receiver.port, n)
    before = receiver.pss()
    open_ones = [socket.create_connection(("127.0.0.1", receiver.port), timeout=60) for _ in range(half_open)]
    dripping = [socket.create_connection(("127.0.0.1", receiver.port), timeout=60) for _ in range(slow)]
    over = threading.Event()

    def drip() -> None:
        data = _REQUEST + bytes(4096)
        for position in range(len(data)):
            for connection in dripping:
                with contextlib.suppress(OSError):  # let go by the receiver, which is its right
                    connection.send(data[position : position + 1])
            if over.wait(0.05):
                return

    def knock() -> None:
        for n in range(probes):
            with contextlib.suppress(ConnectionError):
                probe(receiver.port, n)

    attackers = [threading.Thread(target=attack, daemon=True) for attack in (drip, knock)]
    for thread in attackers:
        thread.start()
    scu.socket.settimeout(LONGEST_ANSWER)
    statuses, memory = [], []
    for n in range(objects):
        statuses.append(store(scu, 20 + n))
        if n % 10 == 0:
            memory.append(receiver.pss())
    while attackers[1].is_alive():
        memory.append(receiver.pss())
        attackers[1].join(0.05)
    another = Scu(receiver.port, calling="CT2")  # while half-open and slow ones are still there
    another.socket.settimeout(LONGEST_ANSWER)
    statuses.append(store(another, 20 + objects))
    memory.append(receiver.pss())
    over.set()
    attackers[0].join()
    for connection in [*open_ones, *dripping]:
        connection.close()
    scu.release()
    another.release()
    assert statuses == [0] * (objects + 1)
    assert max(memory) - before <= GROWTH_MIB, f"{before:.1f} MiB before, {max(memory):.1f} MiB under {probes} probes"
    receiver.until(lambda: receiver.journalled(STUDY) == 21 + objects, what="everything in the journal")


def test_probes_half_open_and_slow_connections_leave_memory_flat_and_others_served(receiver: Receive) -> None:
    under_probes(receiver, probes=1_000, half_open=60, slow=20, objects=200)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_thousand_probes_leave_memory_flat_and_others_served(receiver: Receive) -> None:
    under_probes(receiver, probes=10_000, half_open=400, slow=100, objects=2_000)


@pytest.mark.parametrize("how", ["closed", "reset", "aborted"])
def test_a_sender_that_vanishes_leaves_nothing_of_its_object_and_what_was_acknowledged(
    receiver: Receive, tmp_path: Path, how: str
) -> None:
    scu = Scu(receiver.port)
    for n in range(3):
        assert store(scu, n) == 0
    uid, data = numbered(3, size=8_000_000)
    half = len(data) // 2
    command_and_half(scu, uid, data[:half])
    receiver.until(lambda: not unsent(scu), what="the receiver to take the part")
    if how == "aborted":
        scu.abort()
    else:
        if how == "reset":
            scu.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        scu.socket.close()
    receiver.until(lambda: receiver.torn() == {} and receiver.objects() == 3, what="the torn object to be cut off")
    another = Scu(receiver.port)
    assert store(another, 4) == 0  # into the same series
    another.release()
    receiver.until(lambda: receiver.journalled(STUDY) == 4, what="everything in the journal")
    receiver.stop()
    assert receiver.torn() == {}
    assert receiver.export(STUDY, tmp_path / "out") == {u: [d] for u, d in map(numbered, (0, 1, 2, 4))}


def command_and_half(scu: Scu, uid: str, data: bytes) -> None:
    """A C-STORE whose data set does not end."""
    elements = Scu._ui(0x0002, "1.2.840.10008.5.1.4.1.1.2") + Scu._us(0x0100, 1) + Scu._us(0x0110, 7)
    elements += Scu._us(0x0700, 2) + Scu._us(0x0800, 1) + Scu._ui(0x1000, uid)
    scu._pdv(1, 3, struct.pack("<HHII", 0, 0, 4, len(elements)) + elements)
    for start in range(0, len(data), 16_000):
        scu._pdv(1, 0, data[start : start + 16_000])


def unsent(scu: Scu) -> int:
    """Bytes that the peer's kernel has not acknowledged."""
    return int.from_bytes(fcntl.ioctl(scu.socket, termios.TIOCOUTQ, bytes(4)), "little")
