"""Records as bytes: ``<u32 length><u32 crc32><body>``, the body being a type, numbers and text. Reads and writes no file.

All numbers are little-endian. The checksum begins with the length, so that it covers all but itself. Text fields are
separated by NUL, which no UID, AE title, location or reason holds.
"""

from __future__ import annotations

import struct
import zlib

from ichor.errors import CannotStart
from ichor.store.receipt_records import CommitmentRequested, Ended, Record, Refused, Stored
from ichor.types import Priority

# A storage commitment request names up to 20,000 instances by two UIDs each. The first byte of printable text as the
# high byte of a length is far above this, so that text is never taken for the beginning of a record.
MOST = 4 << 20
HEAD_SIZE = 8

_HEAD = struct.Struct("<II")
_STORED = struct.Struct("<BdQBBB")
_TIMED = struct.Struct("<BdB")
_STORED_TYPE, _ENDED_TYPE, _REFUSED_TYPE, _COMMITMENT_TYPE = 1, 2, 3, 4
_STORED_TEXTS, _REFUSED_TEXTS, _COMMITMENT_TEXTS = 9, 4, 4

_PRIORITIES: tuple[Priority | None, ...] = (None, *Priority)  # by number: new ones go to the end
_NUMBERS = {priority: number for number, priority in enumerate(_PRIORITIES)}


class Damaged(ValueError):
    """These bytes are no record."""


def encode(record: Record) -> bytes:
    """The bytes of one record.

    Raises
    ------
    ValueError
        When a text holds NUL, a number does not fit, or the record is longer than `MOST`.
    """
    numbers: struct.Struct
    values: tuple[float, ...]
    if type(record) is Stored:
        (
            instance, sop_class, series, study, syntax, location, length, association, calling, called,
            sender_priority, called_priority, high, received_at,
        ) = record  # fmt: skip
        text = "\0".join((instance, sop_class, series, study, syntax, location, association, calling, called))
        nulls = _STORED_TEXTS - 1
        numbers, values = _STORED, (
            _STORED_TYPE, received_at, length, _NUMBERS[sender_priority], _NUMBERS[called_priority], high,
        )  # fmt: skip
    else:
        text, nulls, numbers, values = _others(record)
    if text.count("\0") != nulls:
        raise ValueError("a text of a record holds NUL")
    try:
        body = numbers.pack(*values) + text.encode()
    except struct.error as error:
        raise ValueError(f"a number of a record does not fit: {error}") from None
    size = len(body)
    if size > MOST:
        raise ValueError(f"a record of {size} bytes")
    return _HEAD.pack(size, zlib.crc32(body, size)) + body


def _others(record: Record) -> tuple[str, int, struct.Struct, tuple[float, ...]]:
    texts: tuple[str, ...]
    if isinstance(record, Ended):
        kind, flag, texts = _ENDED_TYPE, record.released, (record.association,)
    elif isinstance(record, Refused):
        kind, flag = _REFUSED_TYPE, False
        texts = (record.calling_ae, record.status, record.reason, record.study_instance_uid)
    elif isinstance(record, CommitmentRequested):
        kind, flag = _COMMITMENT_TYPE, False
        texts = (record.association, record.calling_ae, record.called_ae, record.transaction_uid)
        texts += tuple(uid for pair in record.referenced for uid in pair)
    else:
        raise TypeError(f"no record: {type(record).__name__}")
    return "\0".join(texts), len(texts) - 1, _TIMED, (kind, record.at, flag)


def decode(body: bytes) -> Record:
    """The record of a body that `split` gave.

    Raises
    ------
    CannotStart
        When a newer version of Ichor wrote it.
    """
    try:
        kind = body[0]
        if kind == _STORED_TYPE:
            _, received_at, length, sender_priority, called_priority, high = _STORED.unpack_from(body)
            (
                instance, sop_class, series, study, syntax, location, association, calling, called,
            ) = body[_STORED.size :].decode().split("\0")  # fmt: skip
            return Stored(
                instance, sop_class, series, study, syntax, location, length, association, calling, called,
                _PRIORITIES[sender_priority], _PRIORITIES[called_priority], bool(high), received_at,
            )  # fmt: skip
        _, at, flag = _TIMED.unpack_from(body)
        texts = body[_TIMED.size :].decode().split("\0")
        if kind == _ENDED_TYPE:
            (association,) = texts
            return Ended(association, bool(flag), at)
        if kind == _REFUSED_TYPE:
            calling, status, reason, study = texts
            return Refused(calling, status, reason, study, at)
        if kind == _COMMITMENT_TYPE:
            association, calling, called, transaction, *uids = texts
            referenced = tuple(zip(uids[::2], uids[1::2], strict=True))
            return CommitmentRequested(association, calling, called, transaction, referenced, at)
    except (ValueError, IndexError, struct.error):
        pass  # its checksum is right, so it was written so
    raise CannotStart(f"the receipts log has a record (type {body[0]}) that this version of Ichor cannot read")


def size_at(data: bytes, at: int) -> int:
    """Bytes that the record at ``at`` takes; 0 when even its head is not whole.

    Raises
    ------
    Damaged
        When no record is that long.
    """
    if len(data) - at < HEAD_SIZE:
        return 0
    (length, _) = _HEAD.unpack_from(data, at)
    if not 0 < length <= MOST:
        raise Damaged("a record of an impossible length")
    return int(length) + HEAD_SIZE


def split(data: bytes, at: int) -> tuple[int, bytes] | None:
    """``(end, body)`` of the record that begins at ``at``; None when it is not whole.

    Raises
    ------
    Damaged
        When there is no record.
    """
    if len(data) - at < HEAD_SIZE:
        return None
    length, checksum = _HEAD.unpack_from(data, at)
    if not 0 < length <= MOST:
        raise Damaged("a record of an impossible length")
    start = at + HEAD_SIZE
    end = start + length
    if end > len(data):
        return None
    body = data[start:end]
    if zlib.crc32(body, length) != checksum:
        raise Damaged("a record's checksum is wrong")
    return end, body


def find(data: bytes, at: int) -> int:
    """Where the first whole record at or behind ``at`` begins; -1 when there is none."""
    for start in range(at, len(data) - HEAD_SIZE):
        try:
            if split(data, start) is not None:
                return start
        except Damaged:
            continue
    return -1
