"""A-ASSOCIATE-RQ PDUs made by hand, right ones and wrong ones. Not a client."""

from __future__ import annotations

import struct

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"


def item(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body) if length is None else length) + body


def identity(kind: int, primary: bytes, secondary: bytes = b"", *, wants_answer: bool = False) -> bytes:
    """A User Identity sub-item, PS3.7 D.3.3.7.1."""
    return item(
        0x58,
        struct.pack(">BBH", kind, wants_answer, len(primary)) + primary + struct.pack(">H", len(secondary)) + secondary,
    )


def request(
    *, called: bytes = b"ICHOR", calling: bytes = b"CT1", version: int = 1, context: bytes = APPLICATION_CONTEXT,
    user: bytes = b"", more: bytes = b"", length: int | None = None,
) -> bytes:  # fmt: skip
    body = struct.pack(">HH16s16s32x", version, 0, called.ljust(16), calling.ljust(16))
    body += item(0x10, context)
    body += item(
        0x20, struct.pack(">BBBB", 1, 0, 0, 0) + item(0x30, b"1.2.840.10008.1.1") + item(0x40, b"1.2.840.10008.1.2")
    )
    body += item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4.5") + user) + more
    return struct.pack(">BBI", 1, 0, len(body) if length is None else length) + body
