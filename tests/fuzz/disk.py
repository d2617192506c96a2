"""What reads our own files after they were damaged: receipts, segments of the spool, locations."""

from __future__ import annotations

import os
import random

from ichor.store import segments
from ichor.store.receipt_codec import HEAD_SIZE, decode, encode_body, head_of, salt_of, split
from ichor.store.receipt_reader import Tail
from ichor.store.receipts import CommitmentRequested, Ended, Record, Refused, Stored
from ichor.types import Priority

from .damage import damaged
from .marks import Mark, joined, message

_SALT = salt_of("0000000000000001-000001.routine.log")


class Receipts:
    """A log of records with damage: what is read was written, and what stands behind the damage is found again."""

    def __init__(self) -> None:
        self._file = os.memfd_create("receipts")

    def case(self, rng: random.Random) -> str:
        records = [_record(rng) for _ in range(rng.choice((1, 3, 8)))]
        bodies = [head_of(body, _SALT) + body for body in map(encode_body, records)]
        for body, record in zip(bodies, records, strict=True):
            whole = split(body, 0, _SALT)
            assert whole is not None
            assert decode(whole[1]) == record
        log = joined(
            *(
                message(b, [Mark("length", 4, 4, "<"), Mark("length", 8, 4, "<"), Mark("code", HEAD_SIZE, 1, "<")])
                for b in bodies
            )
        )
        data = damaged(rng, log, [log])
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, data, 0)
        tail = Tail(self._file, 0, salt=_SALT)
        limit = rng.choice((1, 2, 1000))
        found: list[tuple[int, bytes]] = []
        for final in (False, True):
            while more := tail.bodies(limit, final=final):
                assert len(more) <= limit
                found += more
        walked = tail.lost + sum(len(body) + HEAD_SIZE for _, body in found)
        assert walked == len(data) or not any(data[walked:][:HEAD_SIZE]), "bytes that are neither read nor lost"
        written = {body[HEAD_SIZE:] for body in bodies}
        for end, body in found:
            assert body in written, "a record that nobody wrote"
            assert data[end - len(body) : end] == body
            decode(body)
        # Every record that lies whole in the file, outside of every other one that was read, was read.
        assert data.count(bodies[0]) <= sum(body == bodies[0][HEAD_SIZE:] for _, body in found)
        return "whole" if data == log.data else "all found" if len(found) >= len(records) else "some found"

    def close(self) -> None:
        os.close(self._file)


def _record(rng: random.Random) -> Record:
    kind = rng.randrange(4)
    if kind == 0:
        return Stored(
            "1.2.3.4.1", "1.2.840", "1.2.3.4", "1.2.3", "1.2.840.10008.1.2.1", "1.2.3/1.2.3.4/a-1.seg@0+700",
            rng.getrandbits(64), "A", "CT1", "ICHOR", rng.choice((None, *Priority)), None, rng.random() < 0.5, rng.random(),
        )  # fmt: skip
    if kind == 1:
        return Ended("A" * rng.choice((0, 1, 300)), rng.random() < 0.5, rng.random())
    if kind == 2:
        return Refused("CT1", "0xA700", "é" * rng.choice((1, 100)), "", rng.random())
    pairs = tuple((f"1.2.{n}", f"1.3.{n}") for n in range(rng.choice((0, 1, 50))))
    return CommitmentRequested("A", "CT1", "ICHOR", "1.2.9", pairs, rng.random())


class Segments:
    """A segment with damage, and locations that somebody made up."""

    _SEGMENT = "1.2.3/1.2.3.4/a-1.seg"

    def __init__(self) -> None:
        self._file = os.memfd_create("segment")

    def case(self, rng: random.Random) -> str:
        if rng.random() < 0.2:
            return self._location(rng)
        data, places = b"", list[tuple[int, int]]()
        for _ in range(rng.choice((1, 2, 5, 20))):
            length = rng.choice((0, 1, 30, 500, 5000)) + 1
            location = segments.location_of(self._SEGMENT, len(data), length)
            # Bytes as a sender may choose them: another object's footer.
            content = (data[-segments.FOOTER_SIZE :] if rng.random() < 0.3 else b"").ljust(length, b"x")[:length]
            places.append((len(data), length))
            data += content + segments.footer(location, length)
        if rng.random() < 0.5:
            return self._in_place(rng, data, places)
        marks = [Mark("length", at + length + 8, 4, "<") for at, length in places]
        self._put(damaged(rng, message(data, marks), [message(data, marks)]))
        self._walk(set(places), exactly=False)
        return "damaged"

    def _in_place(self, rng: random.Random, data: bytes, places: list[tuple[int, int]]) -> str:
        """What is overwritten hides no object but its own; what is appended hides none."""
        changed = bytearray(data)
        for _ in range(rng.choice((0, 1, 3))):
            at = rng.randrange(len(data))
            some = rng.choice((rng.randbytes(rng.choice((1, 8, 600))), b"\xffICHOR\r\n", data[:20]))
            changed[at : at + len(some)] = some[: len(data) - at]
        changed += rng.choice((b"", b"", rng.randbytes(30), data[-20:], b"\xffICHOR\r\n" * 50, bytes(3000)))
        self._put(bytes(changed))
        left = {
            (at, length) for at, length in places
            if changed[at + length : at + length + segments.FOOTER_SIZE] == data[at + length : at + length + segments.FOOTER_SIZE]
        }  # fmt: skip
        self._walk(left, exactly=True)
        return "all found" if len(left) == len(places) else "some found"

    def _put(self, data: bytes) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, data, 0)

    def _walk(self, places: set[tuple[int, int]], *, exactly: bool) -> None:
        found = list(segments.objects(self._file, self._SEGMENT))
        for (at, length), (before, _) in zip(found[1:], found, strict=False):
            assert at + length + segments.FOOTER_SIZE <= before, "objects that overlap"
        assert set(found) <= places, "an object that nobody wrote"
        if exactly:
            assert set(found) == places, "an object with its footer was not found"

    def _location(self, rng: random.Random) -> str:
        valid = rng.choice((b"1.2.3/1.2.3.4/a-1.seg@10+20", b"1.2.3/1.2.3.4/1.2.0123456789abcdef.dcm"))
        marks = [Mark("code", at, 1, "<") for at, one in enumerate(valid) if one in b"/@+."]
        text = damaged(rng, message(valid, marks), [message(valid, marks)])[:1000].decode("latin-1")
        try:
            place = segments.parse(text)
        except KeyError:
            return "no location"
        parts = place.segment.split("/")
        assert len(parts) == 3
        assert not {"", ".", ".."} & set(parts)
        assert not any(c in text for c in "\0\\\n")
        assert place.offset >= 0
        return "location"

    def close(self) -> None:
        os.close(self._file)
