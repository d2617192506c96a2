"""What reads data sets and files: UIDs, storage commitment requests, STOW-RS bodies, header facts."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import random
import socket
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ichor import config
from ichor.clock import SystemClock
from ichor.errors import Unreadable
from ichor.reasons import Reason
from ichor.series.facts import FactsReader, read_instance
from ichor.store.journal import StoredObject
from ichor.store.receipts import ReceiptWriter
from ichor.store.spool import FileSpool
from ichor.types import Instance
from ichor.uids import is_valid_uid
from listener import commitment_request, identifiers
from listener.multipart import Malformed, MultipartReader
from listener.stow import StowServer
from listener.stow_transaction import StoreTransaction

from . import seeds
from .damage import chunks, damaged
from .guard import SECRET
from .store import ORIGIN, STATUSES, Store

_SYNTAXES = (*seeds.CONTEXTS.values(), "1.2.840.10008.1.2.4.90", "", "x")
_REASONS = frozenset(reason.value for reason in Reason)


def _long(rng: random.Random, data: bytes) -> bytes:
    """Now and then the same a hundred times longer, in its middle."""
    if rng.random() > 0.002 or not data:
        return data
    at = rng.randrange(len(data))
    part = data[at : at + rng.choice((8, 12, 16, 100))]
    return data[:at] + part * (1_000_000 // len(part)) + data[at:]


class UIDs:
    """`find_identifiers`, with and without what it remembers of objects before: it must change nothing."""

    def case(self, rng: random.Random) -> str:
        known = seeds.data_sets()
        one = rng.choice(known)
        data = _long(rng, damaged(rng, one.message, [other.message for other in known]))
        syntax = one.syntax if rng.random() < 0.8 else rng.choice(_SYNTAXES)
        if rng.random() < 0.1:
            data, syntax = zlib.compress(data, 1)[2:-4], seeds.DEFLATED
        identifiers._layouts = ()
        fresh = identifiers.find_identifiers(data, syntax)
        for before in rng.sample(known, rng.choice((0, 2, len(known)))):
            identifiers.find_identifiers(before.message.data, before.syntax)
        for _ in range(2):
            held = memoryview(data) if rng.random() < 0.5 else data
            assert identifiers.find_identifiers(held, syntax) == fresh, "what was seen before changes what is read"
        assert len(identifiers._layouts) <= 8
        assert all(uid is None or 0 < len(uid) <= 256 for uid in fresh)
        return "complete" if fresh.is_complete else "in part" if any(fresh) else "nothing"

    def close(self) -> None:
        identifiers._layouts = ()


class Commitment:
    """`read_request` on the data sets of N-ACTIONs."""

    def case(self, rng: random.Random) -> str:
        valid = seeds.commitment_requests()
        data = _long(rng, damaged(rng, rng.choice(valid), valid))
        try:
            asked = commitment_request.read_request(memoryview(data) if rng.random() < 0.5 else data)
        except commitment_request.Malformed as error:
            return str(error)
        except commitment_request.TooLarge:
            return "too large"
        assert 0 < len(asked.referenced) <= commitment_request.MOST_OBJECTS
        assert len(set(asked.referenced)) == len(asked.referenced)
        for uid in (asked.transaction_uid, *(uid for pair in asked.referenced for uid in pair)):
            assert is_valid_uid(uid)
            assert uid.encode() in data
        return "read"

    def close(self) -> None:
        """Nothing is open."""


class Multipart:
    """Bodies of Store transactions in any pieces: multipart, the head of each file, and `Reception`."""

    def __init__(self) -> None:
        self._store = Store()

    def case(self, rng: random.Random) -> str:
        valid = seeds.bodies()
        body = damaged(rng, rng.choice(valid), valid)
        first = self._take(chunks(rng, body))
        if rng.random() < 0.3:
            assert self._take(chunks(rng, body)) == first, "other pieces, another result"
        for data_set in first[2]:
            assert data_set in body
        return first[0]

    def _take(self, pieces: list[bytes]) -> tuple[str, list[Any], list[bytes]]:
        self._store.begin_anew()
        transaction = StoreTransaction(reception=self._store.reception, origin=ORIGIN)
        reader = MultipartReader(seeds.BOUNDARY, parts=transaction)
        end = "whole"
        try:
            for piece in pieces:
                reader.feed(piece)
            reader.close()
        except Malformed as error:
            end = str(error)
        finally:
            transaction.cut()
        stored = self._store.check()
        assert transaction.stored == len(stored)
        assert all(outcome.status in STATUSES for outcome in transaction.outcomes)
        return end, transaction.outcomes, stored

    def close(self) -> None:
        """Nothing is open."""


class Door:
    """A connection to the STOW-RS door: HTTP, the judgement of a request, its body, the answer."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="ichor-fuzz-")
        root = Path(self._folder.name)
        tree = {"listener.stow.port": 0, "listener.disk_low": 0, "listener.disk_full": 0, "listener.request_timeout": 5}
        self._writer = ReceiptWriter(root / "receipts", durable=False)
        self._spool = FileSpool(root / "spool", durability="none")
        self._server: Any = StowServer(
            settings=config.load(environ={}, flags=tree), spool=self._spool, receipts=self._writer, clock=SystemClock()
        )

    def case(self, rng: random.Random) -> str:
        valid = seeds.stow_requests()
        data = damaged(rng, rng.choice(valid), valid)
        ours, theirs = socket.socketpair()
        with ours:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            ours.setblocking(False)
            assert ours.send(data) == len(data), "more than a socket takes at once"
            ours.shutdown(socket.SHUT_WR)
            self._server.converse(theirs, "127.0.0.1", None)
            assert theirs.fileno() == -1
            answer = b""
            try:
                while more := ours.recv(1 << 16):
                    answer += more
            except (BlockingIOError, ConnectionResetError):
                pass
        assert answer[:9] in (b"", b"HTTP/1.1 ")
        assert b"500 Internal" not in answer
        assert SECRET.encode() not in answer.upper()
        assert not self._server._busy
        assert not self._server._waiting
        return answer[9:12].decode() or "nothing"

    def close(self) -> None:
        self._spool.close()
        self._writer.close()
        self._folder.cleanup()


class Facts:
    """Header facts as the relay reads them, one reader for many objects: what it remembers must change nothing."""

    def __init__(self) -> None:
        self._stored = functools.cache(_stored)

    def case(self, rng: random.Random) -> str:
        known = seeds.files()
        number = rng.randrange(len(known))
        one = known[number]
        # Others of its size, so that what is spliced in has some meaning.
        data = _long(rng, damaged(rng, one.message, [known[(number + n) % len(known)].message for n in (0, 1, 5)]))
        syntax = one.syntax if rng.random() < 0.9 else rng.choice(_SYNTAXES[:5])
        stored = self._stored(one.sop_class, syntax)
        fresh = _read(functools.partial(read_instance, io.BytesIO(data), stored=stored))
        if rng.random() < 0.3:
            reader = FactsReader()
            for _ in range(2):
                reader.read(io.BytesIO(one.message.data), stored=stored)
            for _ in range(2):
                learnt = _read(functools.partial(reader.read, io.BytesIO(data), stored=stored))
                assert _same(learnt, fresh), "what was read before changes what is read"
        if isinstance(fresh, str):
            return fresh
        assert fresh.defect is None or fresh.defect.split(":")[0] in _REASONS, fresh.defect
        _check_finite(fresh)
        return fresh.defect or "read"

    def close(self) -> None:
        """Nothing is open."""


def _read(read: Any) -> Instance | str:
    """`Unreadable` is what the relay catches and names."""
    try:
        found: Instance = read()
    except Unreadable as error:
        return f"unreadable: {Reason(error.reason)}"
    return found


def _same(one: Any, other: Any) -> bool:
    return bool(repr(one) == repr(other))  # NaN is itself here


def _check_finite(value: Any) -> None:
    if isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, tuple):
        for part in value[:50]:
            _check_finite(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _check_finite(getattr(value, field.name))


def _stored(sop_class: str, syntax: str) -> StoredObject:
    return StoredObject(
        sop_instance_uid="1.2.3.4.1", sop_class_uid=sop_class, series_instance_uid="1.2.3.4", study_instance_uid="1.2.3",
        transfer_syntax_uid=syntax, location="1.2.3/1.2.3.4/a-1.seg@0+1", file_sha256="0" * 64, length=1, association="A",
        calling_ae="CT1", called_ae="ICHOR", sender_priority=None, called_priority=None, command_priority_high=False,
        received_at=1.0,
    )  # fmt: skip
