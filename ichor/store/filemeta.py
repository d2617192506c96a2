"""The head of a stored file: preamble and File Meta Information (PS3.10 section 7.1). Knows nothing of data sets.

It depends on nothing but its arguments, so that the same data set received twice gives the same file.
"""

from __future__ import annotations

import functools
import struct

from ichor.uids import is_valid_uid, uid_of

IMPLEMENTATION_CLASS_UID = uid_of("ichor-implementation")
IMPLEMENTATION_VERSION_NAME = "ICHOR"


def file_meta(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and group 0002 in Explicit VR Little Endian for a data set in ``transfer_syntax_uid``."""
    uid = sop_instance_uid.encode("ascii")
    if len(uid) % 2:
        uid += b"\0"
    before, after = _around(sop_class_uid, transfer_syntax_uid, len(uid))
    return b"".join((before, uid, after))


def names_in(head: bytes) -> tuple[str, str, str] | None:
    """SOP class, SOP instance and transfer syntax of a file that begins with ``head``; None when they do not stand there.

    ``head`` may go on with the data set, or end within it.
    """
    if head[128:132] != b"DICM":
        return None
    found: dict[int, str] = {}
    at = 132
    while at + 8 <= len(head):
        group, element, vr, size = struct.unpack_from("<HH2sH", head, at)
        if group != 0x0002:
            break
        at += 8
        if vr in (b"OB", b"UN"):
            if at + 4 > len(head):
                break
            (size,) = struct.unpack_from("<I", head, at)
            at += 4
        if vr == b"UI":
            found[element] = head[at : at + size].rstrip(b"\0").decode("ascii", "replace")
        at += size
    names = found.get(0x0002, ""), found.get(0x0003, ""), found.get(0x0010, "")
    return names if all(map(is_valid_uid, names)) else None


@functools.lru_cache(maxsize=1024)
def _around(sop_class_uid: str, transfer_syntax_uid: str, size: int) -> tuple[bytes, bytes]:
    """What stands before and behind the value of Media Storage SOP Instance UID, which is ``size`` bytes long."""
    before = b"".join(
        [
            struct.pack("<HH2sHI2s", 0x0002, 0x0001, b"OB", 0, 2, b"\x00\x01"),
            _text(0x0002, b"UI", sop_class_uid, b"\0"),
            struct.pack("<HH2sH", 0x0002, 0x0003, b"UI", size),
        ]
    )
    after = b"".join(
        [
            _text(0x0010, b"UI", transfer_syntax_uid, b"\0"),
            _text(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\0"),
            _text(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME, b" "),
        ]
    )
    length = len(before) + size + len(after)
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, length) + before, after


def _text(element: int, vr: bytes, value: str, padding: bytes) -> bytes:
    encoded = value.encode("ascii")
    if len(encoded) % 2:
        encoded += padding
    return struct.pack("<HH2sH", 0x0002, element, vr, len(encoded)) + encoded
