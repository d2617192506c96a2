"""Whatever bytes a peer sends: the fast path stores what is whole, hands over or aborts; it never hangs, nor grows."""

from __future__ import annotations

import random
import socket
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from descriptors import EVENTS, descriptors
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.listener.modality import EXPLICIT, encode, image
from unit.listener.paths import MemoryReceipts, MemorySpool
from unit.listener.test_fast_path import command, echo, p_data, value

from ichor.clock import SystemClock
from listener import fast_path, pdu
from listener.reception import Origin, Reception, Refusals

DATA_SET = encode(image("1.2.3.4.0", pixels=bytes(20)))


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.just(command()), st.just(echo())), st.data())
def test_command_set_is_read_or_malformed(data: bytes, changes: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(changes.draw(st.integers(0, 4)) if damaged else 0):
        damaged[changes.draw(st.integers(0, len(damaged) - 1))] = changes.draw(st.integers(0, 255))
    try:
        read = pdu.read_command(damaged)
    except pdu.Malformed:
        return
    assert 0 <= read.field <= 0xFFFF
    response = pdu.store_response(1, read, 0xA900)
    kind, length = pdu.PDU_HEAD.unpack_from(response)
    assert (kind, length) == (4, len(response) - 6)
    assert len(response) < 400
    assert pdu.read_command(response[12:]).message_id is None  # a response has the number of another element


class Association:
    """As much of the library's association as the fast path touches; what is handed over is only noted."""

    def __init__(self, connection: socket.socket) -> None:
        context = SimpleNamespace(transfer_syntax=[EXPLICIT])
        self.acceptor = SimpleNamespace(maximum_length=16_384)
        self.requestor = SimpleNamespace(maximum_length=16_384)
        self._accepted_cx = {1: context, 3: context}
        self._reactor_checkpoint: Any = None
        self.dimse = SimpleNamespace(message=None, msg_queue=SimpleNamespace(queue=[]))
        self.handed: list[bytes] = []
        events = SimpleNamespace(queue=[])
        events.put = events.queue.append
        self.dul: Any = SimpleNamespace(
            socket=SimpleNamespace(socket=connection), state_machine=SimpleNamespace(current_state="Sta6"),
            event_queue=events, to_provider_queue=SimpleNamespace(queue=[]), to_user_queue=SimpleNamespace(queue=[]),
            _recv_pdu=SimpleNamespace(put=lambda _: None), _is_transport_event=lambda: False,
            idle_timer_expired=lambda: False, _decode_pdu=self._decode,
            _idle_timer=SimpleNamespace(restart=lambda: None, timeout=10.0, remaining=10.0),
        )  # fmt: skip

    def _decode(self, data: bytearray) -> tuple[None, str]:
        self.handed.append(bytes(data))
        return None, "Evt10"


def serve(stream: bytes) -> tuple[list[bytes], list[tuple[Any, bytes]], list[str], list[str]]:
    """One peer that sends ``stream`` and closes: what was handed over and stored, causes of an abort, the end."""
    ours, theirs = socket.socketpair()
    spool, receipts, causes = MemorySpool(), MemoryReceipts(), []
    refusals = Refusals(SystemClock(), receipts)
    reception = Reception(spool=spool, receipts=receipts, clock=SystemClock(), refusals=refusals)
    association: Any = Association(theirs)
    assert fast_path.install(
        association, reception=reception, origin=Origin(association="A", calling_ae="C", called_ae="I"),
        tell=causes.append,
    )  # fmt: skip
    association._reactor_checkpoint.is_waiting = True  # as if the library's thread were parked
    ours.sendall(stream)  # less than a socket holds
    ours.shutdown(socket.SHUT_WR)
    events: list[str] = []
    path = association.dul._is_transport_event.__self__
    while not path._is_over:
        association.dul._is_transport_event()
        events += association.dul.event_queue.queue
        association.dul.event_queue.queue.clear()
    ours.close()
    theirs.close()
    assert path._arrival is None
    return association.handed, list(spool.objects.values()), causes, events


def mutated(rng: random.Random) -> bytes:
    """Whole messages of several kinds in a row, then damaged in a few bytes, or cut."""
    stream = b""
    for number in range(rng.randint(1, 4)):
        choice = rng.randrange(6)
        whole = command(b"1.2.3.4.0\0", number=number)
        if choice == 0:
            stream += p_data(value(3, 3, echo(number)))
        elif choice == 1:
            stream += p_data(value(1, 3, whole), value(1, 2, DATA_SET))
        elif choice == 2:
            stream += p_data(value(1, 1, whole[:30]), value(1, 3, whole[30:])) + p_data(value(1, 2, DATA_SET))
        elif choice == 3:
            stream += p_data(value(1, 3, command(field=0x130, number=number))) + p_data(value(1, 2, b"\1\2"))
        elif choice == 4:
            stream += p_data(value(1, 3, whole)) + p_data(value(1, 0, DATA_SET[:100]), value(1, 2, DATA_SET[100:]))
        else:
            stream += struct.pack(">BBI", rng.randrange(9), 0, 4) + bytes(4)
    damaged = bytearray(stream)
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        damaged[rng.randrange(len(damaged))] = rng.choice([0, 1, 2, 3, 4, 5, 7, 255, rng.randrange(256)])
    return bytes(damaged[: rng.choice([len(damaged), rng.randint(0, len(damaged))])])


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(3_000, id="some"),
        pytest.param(1_000_000, id="million", marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
)
def test_damaged_streams_end_with_whole_objects_only(cases: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(11)
    stored = aborted = handed = 0
    before = len(descriptors(EVENTS))
    for _ in range(cases):
        seen, objects, causes, events = serve(mutated(rng))
        # Damage in a data set is not seen here; its length is what was sent, or what a damaged header says.
        stored += len(objects)
        aborted += len(causes)
        handed += len(seen)
        assert set(events) <= {"Evt10", "Evt17", "Evt19"}
        assert len(causes) <= 1
        assert "unexpected error" not in caplog.text
        caplog.clear()
    assert min(stored, aborted, handed) > cases / 20
    assert len(descriptors(EVENTS)) <= before + 2
