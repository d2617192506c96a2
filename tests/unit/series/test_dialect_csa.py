"""Siemens' CSA header: what is whole is read, what is cut or senseless ends the reading."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichor.series.dialects.csa import read_csa
from phantoms.series.csa import csa_header

NAMES = frozenset({"B_value", "SliceNormalVector", "NumberOfImagesInMosaic"})
HEADER = csa_header(
    [
        ("EchoLinePosition", "IS", ["12"]),
        ("NumberOfImagesInMosaic", "US", ["25      "]),
        ("Empty", "LO", []),
        ("SliceNormalVector", "FD", ["0.0", "-0.1", "0.99"]),
        ("B_value", "IS", ["1000"]),
    ]
)


def test_wanted_elements_are_read_without_padding() -> None:
    assert read_csa(HEADER, names=NAMES) == {
        "NumberOfImagesInMosaic": ("25",), "SliceNormalVector": ("0.0", "-0.1", "0.99"), "B_value": ("1000",)
    }  # fmt: skip


def test_an_element_without_values_is_left_out() -> None:
    assert read_csa(HEADER, names={"Empty", "EchoLinePosition"}) == {"EchoLinePosition": ("12",)}


def test_the_older_format_counts_lengths_from_the_first_number_of_items() -> None:
    def element(name: bytes, values: list[bytes], items: int) -> bytes:
        out = struct.pack("<64si4siii", name, len(values), b"IS\0\0", 6, items, 77)
        for k in range(items):
            text = values[k] + b"\0" if k < len(values) else b""
            out += struct.pack("<4i", len(text) + 6, 0, 77, 0) + text.ljust((len(text) + 3) // 4 * 4, b"\0")
        return out

    data = struct.pack("<2I", 2, 77) + element(b"First", [b"7"], 6) + element(b"B_value", [b"1000"], 6)
    assert read_csa(data, names=NAMES) == {"B_value": ("1000",)}


@pytest.mark.parametrize("length", range(0, len(HEADER), 7))
def test_a_header_cut_anywhere_gives_whole_elements_or_none(length: int) -> None:
    whole = read_csa(HEADER, names=NAMES)
    for name, values in read_csa(HEADER[:length], names=NAMES).items():
        assert values == whole[name]


@given(data=st.binary(max_size=400), sv10=st.booleans())
def test_any_bytes_are_read_without_failing(data: bytes, sv10: bool) -> None:
    found = read_csa((b"SV10\4\3\2\1" if sv10 else b"") + data, names=NAMES)
    assert set(found) <= NAMES


@given(at=st.integers(0, len(HEADER) - 4), word=st.integers(-(2**31), 2**31 - 1))
def test_a_word_changed_anywhere_never_fails_or_makes_texts_longer_than_the_header(at: int, word: int) -> None:
    changed = HEADER[:at] + struct.pack("<i", word) + HEADER[at + 4 :]
    found = read_csa(changed, names=NAMES)
    assert sum(len(text) for values in found.values() for text in values) <= len(HEADER)


def test_a_header_that_claims_a_billion_items_is_refused_at_once() -> None:
    data = bytearray(HEADER)
    struct.pack_into("<i", data, 16 + 76, 10**9)
    assert read_csa(bytes(data), names=NAMES) == {}
