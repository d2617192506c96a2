"""Damage to valid messages, most of it where their structure is. Every choice is the given generator's."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

from .marks import LONG_VRS, Mark, Message

MOST = 1 << 17  # bytes of a damaged message, but for those that are made to be long
_VRS = (*sorted(LONG_VRS), b"AE", b"AT", b"CS", b"DS", b"FD", b"IS", b"LO", b"PN", b"UI", b"UL", b"US", b"ZZ", b"\0\0")
# As (group, element): items and delimiters, pixels, File Meta Information, UIDs, an odd group, the highest.
_TAGS = (
    (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD), (0x7FE0, 0x0010), (0x0002, 0x0010), (0x0008, 0x0018),
    (0x0020, 0x000D), (0x0020, 0x000E), (0x5200, 0x9230), (0x0009, 0x1010), (0x0029, 0x1010), (0, 0), (0xFFFF, 0xFFFF),
)  # fmt: skip
_CODES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 0x10, 0x20, 0x30, 0x40, 0x50, 0x58, 0x7F, 0x80, 0xFE, 0xFF)
_TEXTS = (
    b"",
    b"\0",
    b" ",
    b"1.2.3",
    b"..",
    b"../../x",
    b"1." * 40,
    b"1.02",
    b"\xff" * 16,
    b"\\",
    b"\r\n--b\r\n",
    b"--b--",
)


def damaged(rng: random.Random, valid: Message, others: Sequence[Message]) -> bytes:
    """``valid`` with up to six changes; a tenth of all have none."""
    data = bytearray(valid.data)
    if rng.random() < 0.1:
        return bytes(data)
    # Numbers first: their places are right until bytes are put in or taken out.
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        if valid.marks:
            overwrite(rng, data, rng.choice(valid.marks))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        rng.choice(_CHANGES)(rng, data, valid, others)
        del data[MOST:]
    return bytes(data)


def overwrite(rng: random.Random, data: bytearray, mark: Mark) -> None:
    """Give a number of the message another value."""
    at, size, order = mark.at, mark.size, mark.order
    if at + size > len(data):
        return
    if mark.kind == "vr":
        data[at : at + 2] = rng.choice(_VRS)
    elif mark.kind == "tag":
        group, element = rng.choice(_TAGS) if rng.random() < 0.8 else (rng.getrandbits(16), rng.getrandbits(16))
        data[at : at + 4] = struct.pack(order + "HH", group, element)
    else:
        form = order + {1: "B", 2: "H", 4: "I"}[size]
        (now,) = struct.unpack_from(form, data, at)
        most = (1 << 8 * size) - 1
        if mark.kind == "code":
            value = rng.choice(_CODES)
        else:
            left = len(data) - at - size
            value = rng.choice(
                (
                    0, 1, 2, 3, 7, 64, 255, now - 1, now + 1, now - 2, now + 2, now * 2, now ^ 1, left, left - 1,
                    left + 1, most, most - 1, most >> 1, (most >> 1) + 1, rng.getrandbits(8 * size),
                )
            )  # fmt: skip
        struct.pack_into(form, data, at, max(0, min(most, value)))


def _flip(rng: random.Random, data: bytearray, valid: Message, others: Sequence[Message]) -> None:  # noqa: ARG001
    if data:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[_place(rng, data, valid) % len(data)] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, data: bytearray, valid: Message, others: Sequence[Message]) -> None:  # noqa: ARG001
    del data[_place(rng, data, valid) :]


def _remove(rng: random.Random, data: bytearray, valid: Message, others: Sequence[Message]) -> None:  # noqa: ARG001
    start, end = _range(rng, data, valid)
    del data[start:end]


def _double(rng: random.Random, data: bytearray, valid: Message, others: Sequence[Message]) -> None:  # noqa: ARG001
    start, end = _range(rng, data, valid)
    data[end:end] = bytes(data[start:end]) * min(rng.choice((1, 1, 2, 20, 200)), MOST // (end - start + 1))


def _splice(rng: random.Random, data: bytearray, valid: Message, others: Sequence[Message]) -> None:
    other = rng.choice(others)
    start, end = _range(rng, bytearray(other.data), other)
    at, behind = _range(rng, data, valid)
    data[at : behind if rng.random() < 0.5 else at] = other.data[start:end]


def _insert(rng: random.Random, data: bytearray, valid: Message, others: Sequence[Message]) -> None:  # noqa: ARG001
    at = _place(rng, data, valid)
    data[at:at] = rng.choice(_TEXTS) if rng.random() < 0.5 else rng.randbytes(rng.choice((1, 2, 3, 8, 100)))


def _nest(rng: random.Random, data: bytearray, valid: Message, others: Sequence[Message]) -> None:  # noqa: ARG001
    """Sequences in sequences, in one of three encodings, few or thousands deep."""
    depth = rng.choice((1, 3, 15, 16, 17, 100, 3000))
    length = rng.choice((0xFFFFFFFF, 0xFFFFFFFF, 0x00FFFFFF))
    item = struct.pack("<HHI", 0xFFFE, 0xE000, length)
    head = rng.choice(
        (
            struct.pack("<HHI", 0x0008, 0x1140, length),
            struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, length),
            struct.pack("<HH2sHI", 0x0009, 0x1040, b"UN", 0, length),
            struct.pack(">HH2sHI", 0x0008, 0x1140, b"SQ", 0, length),
        )
    )
    at = _place(rng, data, valid)
    data[at:at] = (head + item) * depth


def _many(rng: random.Random, data: bytearray, valid: Message, others: Sequence[Message]) -> None:  # noqa: ARG001
    """Thousands of empty items or elements."""
    one = rng.choice(
        (
            struct.pack("<HHI", 0xFFFE, 0xE000, 0),
            struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
            struct.pack("<HHI", 0x0008, 0x0005, 0),
            struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", 0),
        )
    )
    at = _place(rng, data, valid)
    data[at:at] = one * rng.choice((2, 100, 2000))


def _text(rng: random.Random, data: bytearray, valid: Message, others: Sequence[Message]) -> None:  # noqa: ARG001
    """Other characters, at the length that is told."""
    at = _place(rng, data, valid)
    text = rng.choice(_TEXTS)
    data[at : at + len(text)] = text


_CHANGES: tuple[Callable[[random.Random, bytearray, Message, Sequence[Message]], None], ...] = (
    _flip, _flip, _cut, _remove, _double, _splice, _insert, _nest, _many, _text,
)  # fmt: skip


def _place(rng: random.Random, data: bytearray, valid: Message) -> int:
    """Mostly at a border of the message's parts, or shortly behind."""
    if rng.random() < 0.7:
        return min(len(data), rng.choice(valid.borders) + rng.choice((0, 0, 0, 1, 4, 8)))
    return rng.randint(0, len(data))


def _range(rng: random.Random, data: bytearray, valid: Message) -> tuple[int, int]:
    start, end = sorted((_place(rng, data, valid), _place(rng, data, valid)))
    return start, min(end, start + (MOST >> 2))


def chunks(rng: random.Random, data: bytes) -> list[bytes]:
    """The same bytes in pieces as a network brings them."""
    if rng.random() < 0.3:
        return [data]
    most = rng.choice((1, 7, 100, 1000, 70_000)) if len(data) < 3000 else rng.choice((1000, 10_000, 70_000))
    found, at = [], 0
    while at < len(data):
        size = rng.randint(1, most)
        found.append(data[at : at + size])
        at += size
    return found
