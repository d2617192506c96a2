"""P-DATA of the DICOM upper layer and DIMSE's C-STORE as bytes: pure functions on buffers. No sockets, no state.

PS3.8 9.3.5 and annex E (P-DATA-TF, presentation data values), PS3.7 6.3, 9.3.1 and annex E (command sets, C-STORE).
"""

from __future__ import annotations

import functools
import struct
from typing import NamedTuple

P_DATA_TF = 0x04
A_RELEASE_RQ = 0x05
PDU_HEAD = struct.Struct(">BxI")  # type, length of what follows
PDV_HEAD = struct.Struct(">IBB")  # length of what follows, presentation context id, message control header
COMMAND, LAST = 1, 2  # bits of the message control header
MOST_COMMAND_BYTES = 65_536

C_STORE_RQ = 0x0001
# PS3.7 table E.1-1: what else may begin a message; requests, then responses and C-CANCEL-RQ.
KNOWN_COMMANDS = frozenset(
    {0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150}
    | {0x8001, 0x8010, 0x8020, 0x8021, 0x8030, 0x8100, 0x8110, 0x8120, 0x8130, 0x8140, 0x8150, 0x0FFF}
)
NO_DATA_SET = 0x0101
_HIGH = 1  # Priority, PS3.7 9.1.1.1
_LONGEST_UID = 64  # PS3.5 9.1
_PDV_HEAD_SIZE = 6

_ELEMENT = struct.Struct("<HHI")  # Implicit VR Little Endian, PS3.7 6.3.1
_US = struct.Struct("<H")
_ABORT = struct.Struct(">BxIxxBB")
_RESPONSE_HEAD = struct.Struct(">BxIIBB")


class Malformed(Exception):
    """A PDU, PDV or command set that says something which cannot be."""


class Command(NamedTuple):
    """The elements of a command set that a receiver of C-STOREs looks at; UIDs as sent, None where there is none."""

    field: int
    has_data_set: bool
    message_id: int | None
    priority_high: bool
    sop_class: bytes | None
    sop_instance: bytes | None


def read_command(data: bytes | memoryview) -> Command:
    """Read a whole command set.

    Raises
    ------
    Malformed
        When it is no sequence of group 0000 elements, or lacks Command Field or Command Data Set Type.
    """
    size = len(data)
    if size > MOST_COMMAND_BYTES:
        raise Malformed("a command set longer than allowed")
    field = kind = message_id = sop_class = sop_instance = None
    priority = 0
    position = 0
    while position < size:
        if size - position < 8:
            raise Malformed("a command set cut short")
        group, element, length = _ELEMENT.unpack_from(data, position)
        value = position + 8
        position = value + length
        if group or position > size:
            raise Malformed("a command set with a wrong length or group")
        if element in _NUMBERS:
            if length != 2:
                raise Malformed("a command set with a wrong length or group")
            (number,) = _US.unpack_from(data, value)
            if element == 0x0100:
                field = number
            elif element == 0x0110:
                message_id = number
            elif element == 0x0700:
                priority = number
            else:
                kind = number
        elif element == 0x0002:
            sop_class = bytes(data[value:position])
        elif element == 0x1000:
            sop_instance = bytes(data[value:position])
    if field is None or kind is None:
        raise Malformed("a command set without its type")
    return Command(field, kind != NO_DATA_SET, message_id, priority == _HIGH, sop_class, sop_instance)


_NUMBERS = frozenset({0x0100, 0x0110, 0x0700, 0x0800})


def text_of(uid: bytes | None) -> str:
    """A UID of a command set without its padding; what is not ASCII is replaced, so that it is no valid UID."""
    return (uid or b"").decode("ascii", "replace").rstrip("\0 ")


def known_text_of(uid: bytes | None) -> str:
    """`text_of`, for what many objects share."""
    return _text_of(uid) if len(uid or b"") <= _LONGEST_UID else text_of(uid)


_text_of = functools.lru_cache(maxsize=1024)(text_of)


def store_response(context: int, command: Command, status: int, *, longest: int = 0) -> bytes:
    """P-DATA-TF of a C-STORE-RSP, PS3.7 9.3.1.2; UIDs are given back as they came.

    Parameters
    ----------
    longest
        What the peer allows a PDU to hold; 0: any length (PS3.8 annex D.1). More PDUs than one where it is less.
    """
    uid = _given_back(command.sop_instance)
    before, after, instance = _around(context, _given_back(command.sop_class), len(uid))
    whole = b"".join((before, _US.pack(command.message_id or 0), after, _US.pack(status), instance, uid))
    if not longest or len(whole) - 6 <= longest:
        return whole
    data, step = whole[_RESPONSE_HEAD.size :], max(longest - _PDV_HEAD_SIZE, 1)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    return b"".join(
        pdata(context, COMMAND | (LAST if number == len(pieces) else 0), piece)
        for number, piece in enumerate(pieces, 1)
    )


def _given_back(uid: bytes | None) -> bytes:
    """Of an even length; what is too long for a UID is left out of a response, where both are optional."""
    if uid is None or len(uid) > _LONGEST_UID:
        return b""
    return uid + b"\0" if len(uid) % 2 else uid


@functools.lru_cache(maxsize=1024)
def _around(context: int, sop_class: bytes, size: int) -> tuple[bytes, bytes, bytes]:
    """What stands before the message id, before the status, and before the SOP Instance UID of ``size`` bytes."""
    before = _ELEMENT.pack(0, 0x0002, len(sop_class)) + sop_class if sop_class else b""
    before += _ELEMENT.pack(0, 0x0100, 2) + _US.pack(0x8001) + _ELEMENT.pack(0, 0x0120, 2)
    after = _ELEMENT.pack(0, 0x0800, 2) + _US.pack(NO_DATA_SET) + _ELEMENT.pack(0, 0x0900, 2)
    instance = _ELEMENT.pack(0, 0x1000, size) if size else b""
    length = len(before) + 2 + len(after) + 2 + len(instance) + size
    group = _ELEMENT.pack(0, 0x0000, 4) + struct.pack("<I", length)
    head = _RESPONSE_HEAD.pack(P_DATA_TF, length + 18, length + 14, context, COMMAND | LAST)
    return head + group + before, after, instance


def pdata(context: int, control: int, data: bytes | memoryview) -> bytes:
    """A P-DATA-TF PDU of one presentation data value."""
    size = len(data) + 2
    return _RESPONSE_HEAD.pack(P_DATA_TF, size + 4, size, context, control) + data


def abort(*, reason: int) -> bytes:
    """An A-ABORT PDU of the service provider, PS3.8 9.3.8."""
    return _ABORT.pack(0x07, 4, 2, reason)


UNEXPECTED_PDU, INVALID_PARAMETER = 2, 6  # reasons of A-ABORT
