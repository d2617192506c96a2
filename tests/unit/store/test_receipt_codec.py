"""Records as bytes: back as they were, damage noticed, torn ones never taken for whole."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichor.errors import CannotStart
from ichor.store.receipt_codec import (
    HEAD_SIZE,
    MOST,
    SETTLED,
    Damaged,
    Salt,
    carried,
    decode,
    encode_body,
    find,
    head_of,
    is_blank,
    salt_of,
    size_at,
    split,
)  # fmt: skip
from ichor.store.receipt_records import CommitmentRequested, Ended, Record, Refused, Stored
from ichor.types import Priority

TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=70)
TIME = st.floats(allow_nan=False)
PRIORITY = st.none() | st.sampled_from(Priority)
STORED = st.builds(
    Stored, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, st.integers(0, 2**64 - 1), TEXT, TEXT, TEXT, PRIORITY, PRIORITY,
    st.booleans(), TIME,
)  # fmt: skip
RECORDS: st.SearchStrategy[Record] = st.one_of(
    STORED,
    st.builds(Ended, TEXT, st.booleans(), TIME),
    st.builds(Refused, TEXT, TEXT, TEXT, TEXT, TIME),
    st.builds(CommitmentRequested, TEXT, TEXT, TEXT, TEXT, st.lists(st.tuples(TEXT, TEXT)).map(tuple), TIME),
)


SALT = salt_of("w-000001.routine.log")


def encode(record: Record) -> bytes:
    return encode_for(record, SALT)


def encode_for(record: Record, salt: Salt) -> bytes:
    body = encode_body(record)
    return head_of(body, salt) + body


def bodies(data: bytes) -> list[bytes]:
    found, at = [], 0
    while (one := split(data, at, SALT)) is not None:
        at, body = one
        found.append(body)
    return found


@given(st.lists(RECORDS, max_size=5))
def test_records_come_back_as_they_were(records: list[Record]) -> None:
    again = [decode(body) for body in bodies(b"".join(map(encode, records)))]
    assert again == records
    assert [type(record) for record in again] == [type(record) for record in records]


@given(RECORDS, st.data())
def test_any_damaged_byte_is_noticed(record: Record, data: st.DataObject) -> None:
    good = encode(record)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Damaged):
        assert split(bytes(bad), 0, SALT) is None  # a greater length: not whole


@given(RECORDS, st.data())
def test_a_torn_record_is_none(record: Record, data: st.DataObject) -> None:
    good = encode(record)
    torn = good[: data.draw(st.integers(0, len(good) - 1))]
    assert split(torn, 0, SALT) is None
    assert size_at(torn, 0, SALT) == (len(good) if len(torn) >= HEAD_SIZE else 0)


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_foreign_bytes_are_damage_or_not_whole(data: bytes) -> None:
    try:
        one = split(data, 0, SALT)
    except Damaged:
        return
    assert one is None


@given(st.binary(max_size=60), RECORDS)
def test_the_next_whole_record_is_found_behind_what_is_none(rubbish: bytes, record: Record) -> None:
    data = rubbish + encode(record)
    start = find(data, 0, SALT)
    assert start == len(rubbish)
    assert split(data, start, SALT) is not None
    assert find(rubbish, 0, SALT) == -1


def test_what_cannot_be_read_again_is_not_written() -> None:
    ended = Ended("a\0b", True, 1.0)
    with pytest.raises(ValueError, match="NUL"):
        encode(ended)
    stored = Stored("1", "1", "1", "1", "1", "x", -1, "a", "b", "c", None, None, False, 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        encode(stored)
    pair = ("1" * 64, "2" * 64)
    most = CommitmentRequested("a", "b", "c", "1.2", (pair,) * 20_000, 1.0)
    assert decode(bodies(encode(most))[0]) == most
    with pytest.raises(ValueError, match="bytes"):
        encode(most._replace(referenced=(pair,) * (MOST // 130 + 1)))


@pytest.mark.parametrize("body", [b"\x63", b"\x63 of a newer version", b"\x02", b"\x01" + b"\xff" * 40])
def test_a_whole_record_that_is_not_understood_says_so(body: bytes) -> None:
    data = head_of(body, SALT) + body
    one = split(data, 0, SALT)
    assert one == (len(data), body)
    with pytest.raises(CannotStart, match=f"type {body[0]}"):
        decode(body)


@given(STORED, st.integers(0, 2**32 - 1))
def test_a_record_says_what_it_carries(record: Stored, checksum: int) -> None:
    body = encode_body(record, carries=checksum)
    assert carried(body) == (record.length, checksum)
    assert decode(body) == record
    assert carried(encode_body(record)) is None


@given(RECORDS)
def test_a_record_of_another_file_is_none(record: Record) -> None:
    data = encode_for(record, salt_of("w-000002.routine.log"))
    assert find(data, 0, SALT) == -1
    with pytest.raises(Damaged):
        split(data, 0, SALT)
    # Nor is one of which somebody knew how it begins, but not what its checksum begins with.
    with pytest.raises(Damaged):
        split(SALT.magic + data[len(SALT.magic) :], 0, SALT)


def test_zeros_are_no_record_and_no_damage() -> None:
    assert is_blank(bytes(HEAD_SIZE), 0)
    assert find(bytes(1000), 0, SALT) == -1
    assert not is_blank(head_of(SETTLED, SALT), 0)
    assert all(salt_of(str(n)).magic.count(0) == 0 for n in range(2000))
