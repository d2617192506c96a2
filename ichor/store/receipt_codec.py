"""Records as bytes: ``<magic><u32 length><u32 crc32><body>``, and behind some the object that they carry. No file here.

All numbers are little-endian. Magic and the checksum's beginning are of the file's name (`Salt`), in which the writer's
random number is: an object that is carried may hold anything, and its sender must not be able to write a record there.
The checksum goes over the length, too, so that it covers all but itself. A body is a type, numbers and text; texts are
separated by NUL, which no UID, AE title, location or reason holds.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import struct
import zlib
from typing import NamedTuple

from ichor.errors import CannotStart
from ichor.store.receipt_records import CommitmentRequested, Ended, Record, Refused, Stored
from ichor.types import Priority

MOST = 4 << 20  # a storage commitment request names up to 20,000 instances by two UIDs each
HEAD_SIZE = 12

_HEAD = struct.Struct("<4sII")
_STORED = struct.Struct("<BdQBBB")
_CHECKSUM = struct.Struct("<I")  # of what is carried: behind the texts of a `Stored`
_TIMED = struct.Struct("<BdB")
_STORED_TYPE, _ENDED_TYPE, _REFUSED_TYPE, _COMMITMENT_TYPE, _CARRYING_TYPE, _SETTLED_TYPE = 1, 2, 3, 4, 5, 6
_STORED_TEXTS, _REFUSED_TEXTS, _COMMITMENT_TEXTS = 9, 4, 4
_LENGTH_AT = 9  # of a `Stored`, in its body

# The last record of a file of which nothing more is to be restored: all that it carries is on the medium in the spool.
# No record for readers.
SETTLED = bytes([_SETTLED_TYPE])

_PRIORITIES: tuple[Priority | None, ...] = (None, *Priority)  # by number: new ones go to the end
_NUMBERS = {priority: number for number, priority in enumerate(_PRIORITIES)}


class Damaged(ValueError):
    """These bytes are no record."""


class Salt(NamedTuple):
    """What the records of one file begin with, and what their checksums do."""

    magic: bytes
    seed: int


@functools.lru_cache(maxsize=64)
def salt_of(name: str) -> Salt:
    """Of a file of the log, by its name."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    # No zero: what nobody wrote yet is never the beginning of a record.
    return Salt(bytes(byte or 1 for byte in digest[:4]), int.from_bytes(digest[4:], "little"))


def head_of(body: bytes, salt: Salt) -> bytes:
    """What goes in front of a body."""
    size = len(body)
    return _HEAD.pack(salt.magic, size, zlib.crc32(body, salt.seed ^ size))


def encode_body(record: Record, *, carries: int | None = None) -> bytes:
    """The body of one record. ``carries``: crc32 of the object that follows it, `Stored.length` bytes.

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
            _STORED_TYPE if carries is None else _CARRYING_TYPE, received_at, length, _NUMBERS[sender_priority],
            _NUMBERS[called_priority], high,
        )  # fmt: skip
    else:
        text, nulls, numbers, values = _others(record)
    if text.count("\0") != nulls:
        raise ValueError("a text of a record holds NUL")
    try:
        body = numbers.pack(*values) + text.encode()
    except struct.error as error:
        raise ValueError(f"a number of a record does not fit: {error}") from None
    if carries is not None:
        body += _CHECKSUM.pack(carries)
    if len(body) > MOST:
        raise ValueError(f"a record of {len(body)} bytes")
    return body


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
        if kind in (_STORED_TYPE, _CARRYING_TYPE):
            if kind == _CARRYING_TYPE:
                body = body[: -_CHECKSUM.size]
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


def carried(body: bytes) -> tuple[int, int] | None:
    """Length and crc32 of the object behind the record of this body; None when it carries none."""
    if body[0] != _CARRYING_TYPE or len(body) < _STORED.size + _CHECKSUM.size:
        return None
    length = int.from_bytes(body[_LENGTH_AT : _LENGTH_AT + 8], "little")
    return length, _CHECKSUM.unpack_from(body, len(body) - _CHECKSUM.size)[0]


def is_blank(data: bytes, at: int) -> bool:
    """Was nothing written here yet? Files are filled with zeros ahead of their records."""
    return not any(data[at : at + HEAD_SIZE])


def size_at(data: bytes, at: int, salt: Salt) -> int:
    """Bytes of the record at ``at``, without what it carries; 0 when even its head is not whole.

    Raises
    ------
    Damaged
        When no record begins there.
    """
    if len(data) - at < HEAD_SIZE:
        return 0
    return _head(data, at, salt)[0] + HEAD_SIZE


def split(data: bytes, at: int, salt: Salt) -> tuple[int, bytes] | None:
    """``(end, body)`` of the record that begins at ``at``; None when it is not whole. What it carries lies behind ``end``.

    Raises
    ------
    Damaged
        When there is no record.
    """
    if len(data) - at < HEAD_SIZE:
        return None
    length, checksum = _head(data, at, salt)
    start = at + HEAD_SIZE
    end = start + length
    if end > len(data):
        return None
    body = data[start:end]
    if zlib.crc32(body, salt.seed ^ length) != checksum:
        raise Damaged("a record's checksum is wrong")
    return end, body


def _head(data: bytes, at: int, salt: Salt) -> tuple[int, int]:
    """Length of the body, and checksum."""
    magic, length, checksum = _HEAD.unpack_from(data, at)
    if magic != salt.magic or not 0 < length <= MOST:
        raise Damaged("no record begins here")
    return length, checksum


def find(data: bytes, at: int, salt: Salt) -> int:
    """Where the first record at or behind ``at`` begins that may be one, by its head; -1 when there is none."""
    while (at := data.find(salt.magic, at)) >= 0:
        with contextlib.suppress(Damaged):
            size_at(data, at, salt)
            return at
        at += 1
    return -1
