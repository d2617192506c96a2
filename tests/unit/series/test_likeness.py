"""Headers of one series are read by what they have in common: faster, and with exactly the facts of each one alone."""

from __future__ import annotations

import random
import struct
from io import BytesIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ichor.series.elements import HeaderError
from ichor.series.header import Header, Selection, walk_header
from ichor.series.likeness import Likeness

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
TAGS = [0x00080000 + 4 * k for k in range(1, 40)]
SELECTION = Selection(TAGS[::3], private={(0x0019, 0x0C)})
SERIES = ("1.2.3", EXPLICIT)


def header_bytes(values: dict[int, bytes], *, implicit: bool = False) -> bytes:
    data = b""
    for tag in sorted(values):
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        value = values[tag] + b" " * (len(values[tag]) % 2)
        data += head + (struct.pack("<I", len(value)) if implicit else b"LO" + struct.pack("<H", len(value))) + value
    pixels = b"\xe0\x7f\x10\x00" + (b"" if implicit else b"OW\0\0") + struct.pack("<I", 4) + b"abcd"
    return data + pixels


def alone(data: bytes, syntax: str = EXPLICIT) -> Header | str:
    try:
        return walk_header(BytesIO(data), transfer_syntax_uid=syntax, selection=SELECTION)
    except HeaderError as error:
        return str(error)


def beside_others(likeness: Likeness, data: bytes, syntax: str = EXPLICIT, series: str = SERIES[0]) -> Header | str:
    course = likeness.course((series, syntax))
    try:
        header = walk_header(BytesIO(data), transfer_syntax_uid=syntax, selection=SELECTION, course=course)
    except HeaderError as error:
        return str(error)
    likeness.learn((series, syntax), header, course=course)
    return header


def same(one: Header | str, other: Header | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return (one.values, one.vrs, one.pixel_offset, one.pixel_length, one.cut) == (
        other.values, other.vrs, other.pixel_offset, other.pixel_length, other.cut,
    )  # fmt: skip


def values_of_slice(k: int) -> dict[int, bytes]:
    values = {tag: f"value {tag}".encode() for tag in TAGS}
    values[TAGS[6]], values[TAGS[20]] = f"position {k}".encode(), f"uid 1.2.{k * 37}".encode()
    values[0x00190010], values[0x0019100C] = b"MAKER", str(k % 3).encode()
    return values


def test_slices_of_a_series_give_what_each_gives_alone_and_most_is_stepped_over() -> None:
    likeness = Likeness()
    for k in range(6):
        data = header_bytes(values_of_slice(k))
        assert same(beside_others(likeness, data), alone(data))
    runs = likeness.course(SERIES).runs
    assert sum(run.length for run in runs.values()) > 0.8 * len(data)
    assert all(b"position" not in run.content and b"uid" not in run.content for run in runs.values())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), damage=st.booleans())
def test_whatever_differs_the_values_are_those_of_the_header(seed: int, damage: bool) -> None:
    chance, likeness = random.Random(seed), Likeness()
    for k in range(12):
        values = values_of_slice(k)
        for _ in range(chance.randrange(4)):
            values[chance.choice(TAGS)] = bytes(chance.randrange(65, 90) for _ in range(chance.randrange(20)))
        for _ in range(chance.randrange(3)):
            values.pop(chance.choice(TAGS), None)
        if chance.random() < 0.3:
            values[0x00080001 + 4 * chance.randrange(40)] = b"inserted"
        data = header_bytes(values)
        if damage and chance.random() < 0.5:
            at = chance.randrange(len(data))
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        assert same(beside_others(likeness, data), alone(data))


def test_an_implicit_header_under_an_explicit_syntax_is_not_read_by_explicit_runs() -> None:
    likeness = Likeness()
    for k in range(4):
        beside_others(likeness, header_bytes(values_of_slice(k)))
    data = header_bytes(values_of_slice(9), implicit=True)
    found = beside_others(likeness, data)
    assert isinstance(found, Header)
    assert not found.explicit
    assert same(found, alone(data))


@pytest.mark.parametrize("count", [10, 1000])
def test_what_is_remembered_is_bounded(count: int) -> None:
    likeness = Likeness()
    for k in range(count):
        for slice_number in range(2):
            beside_others(likeness, header_bytes(values_of_slice(slice_number)), series=f"1.2.{k}")
    known = sum(bool(likeness.course((f"1.2.{k}", EXPLICIT)).runs) for k in range(count))
    assert 0 < known <= 64


def test_one_tag_that_stands_twice_keeps_its_last_value() -> None:
    likeness = Likeness()
    twice = header_bytes({TAGS[0]: b"first"})[:-16] + header_bytes(values_of_slice(0))
    for _ in range(4):
        assert same(beside_others(likeness, twice), alone(twice))
