"""Where the structure of valid messages is: type codes, lengths, tags and value representations. Reads no damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
UNDEFINED = 0xFFFFFFFF


class Mark(NamedTuple):
    """A number in a message. ``kind``: length, code, tag or vr; ``order``: ``<`` or ``>``."""

    kind: str
    at: int
    size: int
    order: str


class Message(NamedTuple):
    """A valid message; ``borders``: where its parts begin and end."""

    data: bytes
    marks: tuple[Mark, ...]
    borders: tuple[int, ...]


def message(data: bytes, marks: Iterable[Mark]) -> Message:
    found = tuple(marks)
    return Message(data, found, tuple(sorted({0, len(data), *(m.at for m in found if m.kind in ("tag", "code"))})))


def joined(*parts: Message | bytes) -> Message:
    data, marks = b"", list[Mark]()
    for part in parts:
        if isinstance(part, Message):
            marks += [mark._replace(at=mark.at + len(data)) for mark in part.marks]
            data += part.data
        else:
            data += part
    return message(data, marks)


def marked(data: bytes, walk: Callable[[bytes, list[Mark]], object]) -> Message:
    marks: list[Mark] = []
    walk(data, marks)
    return message(data, marks)


def of_data_set(data: bytes, *, implicit: bool = False, big: bool = False) -> Message:
    return marked(data, lambda data, marks: _elements(data, 0, len(data), marks, implicit=implicit, big=big))


def of_part10(data: bytes, *, implicit: bool = False, big: bool = False) -> Message:
    """A file with preamble, whose File Meta Information says how long it is."""
    behind = 144 + int(struct.unpack_from("<I", data, 140)[0])
    return joined(data[:132], of_data_set(data[132:behind]), of_data_set(data[behind:], implicit=implicit, big=big))


def of_associate(data: bytes) -> Message:
    """PS3.8 9.3.2."""

    def items(at: int, end: int, marks: list[Mark]) -> None:
        while at + 4 <= end:
            (length,) = struct.unpack_from(">H", data, at + 2)
            marks += [Mark("code", at, 1, ">"), Mark("length", at + 2, 2, ">")]
            if data[at] in (0x20, 0x50):
                items(at + (8 if data[at] == 0x20 else 4), at + 4 + length, marks)
            elif data[at] == 0x58:
                marks += [Mark("code", at + 4, 1, ">"), Mark("length", at + 6, 2, ">")]
                (primary,) = struct.unpack_from(">H", data, at + 6)
                marks.append(Mark("length", at + 8 + primary, 2, ">"))
            at += 4 + length

    marks = [Mark("code", 0, 1, ">"), Mark("length", 2, 4, ">"), Mark("code", 6, 2, ">")]
    items(74, len(data), marks)
    return message(data, marks)


def pdv(context: int, control: int, content: Message | bytes) -> Message:
    inner = content if isinstance(content, Message) else message(content, ())
    head = struct.pack(">IBB", len(inner.data) + 2, context, control)
    marks = [Mark("length", 0, 4, ">"), Mark("code", 4, 1, ">"), Mark("code", 5, 1, ">")]
    return joined(message(head, marks), inner)


def p_data(*values: Message) -> Message:
    body = joined(*values)
    head = struct.pack(">BxI", 4, len(body.data))
    return joined(message(head, [Mark("code", 0, 1, ">"), Mark("length", 2, 4, ">")]), body)


def _elements(data: bytes, at: int, end: int, marks: list[Mark], *, implicit: bool, big: bool) -> int:
    order = ">" if big else "<"
    while at + 8 <= end:
        group, number = struct.unpack_from(order + "HH", data, at)
        marks.append(Mark("tag", at, 4, order))
        if group == 0xFFFE or implicit:
            (length,) = struct.unpack_from(order + "I", data, at + 4)
            marks.append(Mark("length", at + 4, 4, order))
            inner, vr = at + 8, b""
        else:
            vr = data[at + 4 : at + 6]
            marks.append(Mark("vr", at + 4, 2, "<"))
            wide = vr in LONG_VRS
            (length,) = struct.unpack_from(order + ("I" if wide else "H"), data, at + (8 if wide else 6))
            marks.append(Mark("length", at + (8 if wide else 6), 4 if wide else 2, order))
            inner = at + (12 if wide else 8)
        if (group, number) in ((0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)):
            return inner
        item = struct.pack(order + "HH", 0xFFFE, 0xE000)
        nested = group == 0xFFFE or vr == b"SQ" or (implicit and data[inner : inner + 4] == item)
        if group == 0x7FE0 and length == UNDEFINED:
            return end
        if nested:
            inner_end = end if length == UNDEFINED else inner + length
            behind = _elements(data, inner, inner_end, marks, implicit=implicit, big=big)
            at = behind if length == UNDEFINED else inner_end
        else:
            at = inner + length
    return at
