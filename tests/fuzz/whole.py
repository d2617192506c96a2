"""The receiver as it is run: its port, the library, spool and receipts on disk. Each case is one connection."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from ichor import config
from ichor.clock import SystemClock
from ichor.store.receipts import Ended, Lane, ReceiptReader, ReceiptWriter, Record, Stored
from ichor.store.segments import end_of, segment_of
from ichor.store.spool import FileSpool
from listener.pressure import DiskPressure
from listener.receiver import Receiver
from listener.reception import Reception, Refusals

from . import seeds
from .damage import chunks, damaged
from .marks import Message, joined, of_associate
from .store import STATUSES

_COMMITMENT = "1.2.840.10008.1.20.1"
_PATIENCE = 40.0  # seconds
_SILENCE = 0.1  # after which a peer gives up


def _associate() -> Message:
    """All contexts of `seeds.CONTEXTS`, and those of C-ECHO and storage commitment."""
    from unit.listener.modality import CT, IMPLICIT
    from unit.listener.requests import item, request

    wanted = [(number, CT, syntax) for number, syntax in seeds.CONTEXTS.items()]
    wanted += [(9, seeds.ECHO, IMPLICIT), (11, _COMMITMENT, IMPLICIT)]
    contexts = b"".join(
        item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract.encode()) + item(0x40, syntax.encode()))
        for number, abstract, syntax in wanted
    )
    plain = request()
    # In place of the one context of that request.
    at = plain.index(b"\x20\0", 74)
    behind = at + 4 + struct.unpack_from(">H", plain, at + 2)[0]
    body = plain[6:at] + contexts + plain[behind:]
    return of_associate(struct.pack(">BBI", 1, 0, len(body)) + body)


class Whole:
    """`Receiver` behind a port of this machine."""

    def __init__(self, *, fast: bool = True) -> None:
        self._folder = TemporaryDirectory(prefix="ichor-fuzz-")
        root = Path(self._folder.name)
        self._receipts = ReceiptWriter(root / "receipts", durable=False)
        self._reader = ReceiptReader(root / "receipts")
        self._spool = FileSpool(root / "spool", durability="none")
        clock = SystemClock()
        refusals = Refusals(clock, self._receipts)
        flags = {
            "listener.host": "127.0.0.1", "listener.port": 0, "listener.disk_low": 0, "listener.disk_full": 0,
            "listener.network_timeout": 5, "listener.request_timeout": 5,
        }  # fmt: skip
        settings = config.load(environ={}, flags=flags).listener
        self._receiver = Receiver(
            settings=settings, reception=Reception(spool=self._spool, receipts=self._receipts, clock=clock, refusals=refusals),
            refusals=refusals, receipts=self._receipts, spool=self._spool, clock=clock, fast=fast,
            pressure=DiskPressure(self._spool.free_bytes, low=0, full=0, clock=clock),
        )  # fmt: skip
        self._receiver.start()
        self._associate = _associate()

    def case(self, rng: random.Random) -> str:
        turns = seeds.turns()
        said = [rng.choice(turns) for _ in range(rng.choice((1, 2, 2, 3)))]
        said += rng.choice(([], [seeds.RELEASE], [seeds.RELEASE], [seeds.ABORT]))
        if rng.random() < 0.25:
            request, data = damaged(rng, self._associate, seeds.associate_requests()), joined(*said).data
        else:
            request, data = self._associate.data, damaged(rng, joined(*said), turns)
        answers = self._say(request, chunks(rng, data) if len(data) < 3000 else [data], waits=rng.random() < 0.9)
        end, stored = _read(answers)
        deadline = time.monotonic() + _PATIENCE
        while self._receiver.open_associations():
            assert time.monotonic() < deadline, "an association that does not end"
            self._receiver.sweep()
            time.sleep(0.0005)
        self._check(stored)
        return end

    def _say(self, request: bytes, pieces: list[bytes], *, waits: bool) -> bytes:
        heard = b""
        with socket.create_connection(("127.0.0.1", self._receiver.port), timeout=_PATIENCE) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                connection.sendall(request)
                # A request that is not whole is answered by nothing before a timeout.
                if waits and len(request) >= 6 and len(request) >= 6 + struct.unpack_from(">I", request, 2)[0]:
                    heard += connection.recv(1 << 16)
                for piece in pieces:
                    connection.sendall(piece)
                connection.settimeout(_SILENCE)
                heard += _heard(connection)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(_PATIENCE)
                while more := connection.recv(1 << 16):
                    heard += more
            except TimeoutError as error:
                raise AssertionError("neither answered nor closed") from error
            except OSError:  # the receiver closed first
                pass
        return heard

    def _check(self, successes: int) -> None:
        """As many objects as were answered with Success, each as it says on disk. What was not heard may be more."""
        records = self._records()
        stored = [record for record in records if isinstance(record, Stored)]
        assert len(stored) >= successes, "Success for what is not there"
        for record in stored:
            with self._spool.open(record.location) as file:
                whole = file.read()
            assert len(whole) == record.length
            assert whole[128:132] == b"DICM"
            assert end_of(record.location, record.length) > 0
            assert segment_of(record.location).startswith(f"{record.study_instance_uid}/{record.series_instance_uid}/")
        deadline = time.monotonic() + _PATIENCE
        while stored and not any(isinstance(record, Ended) for record in records):
            assert time.monotonic() < deadline, "no end of an association that stored"
            time.sleep(0.001)
            records += self._records()

    def _records(self) -> list[Record]:
        return [receipt.record for lane in Lane for receipt in self._reader.read(lane, limit=100_000)]

    def close(self) -> None:
        self._receiver.drain(2.0)
        self._reader.close()
        self._spool.close()
        self._receipts.close()
        self._folder.cleanup()


def _heard(connection: socket.socket) -> bytes:
    """What comes until it is silent or closed."""
    heard = b""
    with contextlib.suppress(TimeoutError):
        while more := connection.recv(1 << 16):
            heard += more
    return heard


def _read(answers: bytes) -> tuple[str, int]:
    """How the conversation ended, and how many times Success was answered to a C-STORE."""
    at, end, stored = 0, "closed", 0
    names = {2: "accepted", 3: "rejected", 6: "released", 7: "aborted"}
    while at + 6 <= len(answers):
        kind, length = struct.unpack_from(">BxI", answers, at)
        body = answers[at + 6 : at + 6 + length]
        at += 6 + length
        assert kind in (2, 3, 4, 6, 7), kind
        if kind != 4:
            end = names[kind]
        elif len(body) == length:
            numbers = _numbers(body[6:])
            if numbers.get(0x0100) == 0x8001:
                assert numbers[0x0900] in STATUSES, hex(numbers[0x0900])
                stored += numbers[0x0900] == 0
    return end, stored


def _numbers(command: bytes) -> dict[int, int]:
    found, at = {}, 0
    while at + 8 <= len(command):
        _, element, length = struct.unpack_from("<HHI", command, at)
        if length == 2 and at + 10 <= len(command):
            (found[element],) = struct.unpack_from("<H", command, at + 8)
        at += 8 + length
    return found
