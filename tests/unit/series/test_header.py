"""The walk over a header: what is asked for is kept, within bounds; the rest is stepped over, however it is encoded."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest

from ichor.series.elements import HeaderError
from ichor.series.header import Selection, walk_header

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
PIXELS = b"\xe0\x7f\x10\x00OW\0\0\x04\0\0\0abcd"


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"SQ", b"UN", b"OW"):
        return head + b"\0\0" + struct.pack("<I", len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def undefined(tag: int, vr: bytes, content: bytes) -> bytes:
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + b"\0\0\xff\xff\xff\xff"
    return head + content + b"\xfe\xff\xdd\xe0\0\0\0\0"


def item(content: bytes, *, defined: bool = True) -> bytes:
    if defined:
        return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content
    return b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + content + b"\xfe\xff\x0d\xe0\0\0\0\0"


def test_only_what_is_asked_for_is_kept() -> None:
    data = element(0x00080060, b"CS", b"MR") + element(0x00180081, b"DS", b"85") + PIXELS
    header = walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=Selection({0x00180081}))
    assert header.values == {0x00180081: b"85"}
    assert (header.pixel_offset, header.pixel_length) == (len(data) - 4, 4)


def test_private_elements_are_kept_with_their_creators_whatever_their_block() -> None:
    data = (
        element(0x00190010, b"LO", b"MAKER A ") + element(0x00190023, b"LO", b"MAKER B ")
        + element(0x0019100C, b"IS", b"10") + element(0x0019230C, b"IS", b"20") + element(0x0019230D, b"IS", b"30")
        + element(0x0021100C, b"IS", b"40") + PIXELS
    )  # fmt: skip
    selection = Selection((), private={(0x0019, 0x0C)})
    header = walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=selection)
    assert header.values == {
        0x00190010: b"MAKER A ",
        0x00190023: b"MAKER B ",
        0x0019100C: b"10",
        0x0019230C: b"20",
    }


@pytest.mark.parametrize(("length", "kept"), [(1 << 16, True), ((1 << 16) + 2, False)])
def test_a_value_is_kept_up_to_its_limit(length: int, kept: bool) -> None:
    data = element(0x00291010, b"OB", b"x" * length) + element(0x00080060, b"CS", b"MR") + PIXELS
    tags = {0x00080060, 0x00291010}
    header = walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=Selection(tags))
    assert (0x00291010 in header.values) is kept
    assert header.values[0x00080060] == b"MR"
    larger = Selection({0x00080060}, private={(0x0029, 0x10)}, private_limits={(0x0029, 0x10): 1 << 20})
    header = walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=larger)
    assert header.values == {0x00291010: b"x" * length, 0x00080060: b"MR"}


@pytest.mark.parametrize("size", [10, 70_000, 200_000])
def test_what_follows_a_long_sequence_of_undefined_length_is_read(size: int) -> None:
    content = item(element(0x00080100, b"SH", b"121311") + element(0x00091010, b"UN", b"y" * size), defined=False)
    tags = Selection({0x00080060, 0x00540016}, limits={0x00540016: 1 << 20})
    data = undefined(0x00540016, b"SQ", content * 3) + element(0x00540081, b"US", b"\x05\0") + PIXELS
    for selection in (tags, Selection({0x00540081})):
        header = walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=selection)
        assert header.pixel_offset == len(data) - 4
    assert header.values == {0x00540081: b"\x05\0"}
    kept = walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=tags).values[0x00540016]
    assert kept == content * 3 + b"\xfe\xff\xdd\xe0\0\0\0\0"


def test_an_icon_with_encapsulated_pixels_inside_a_sequence_is_stepped_over() -> None:
    icon = undefined(0x7FE00010, b"OB", item(b"") + item(b"\xff\xd8\xff\xd9"))
    data = undefined(0x00880200, b"SQ", item(icon, defined=False)) + element(0x00880904, b"LO", b"T ") + PIXELS
    header = walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=Selection({0x00880904}))
    assert header.values == {0x00880904: b"T "}
    assert header.pixel_offset == len(data) - 4


def test_a_top_level_that_is_implicit_against_its_syntax_is_read() -> None:
    data = b"\x08\0\x60\0" + struct.pack("<I", 2) + b"MR" + b"\x18\0\x81\0" + struct.pack("<I", 2) + b"85"
    header = walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=Selection({0x00180081}))
    assert not header.explicit
    assert header.values == {0x00180081: b"85"}


def test_sequences_opened_without_end_are_refused() -> None:
    opened = b"\x29\x00\x10\x10SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(HeaderError, match="nested too deeply"):
        walk_header(BytesIO(opened * 100), transfer_syntax_uid=EXPLICIT, selection=Selection(()))


def test_elements_without_end_are_refused() -> None:
    data = element(0x00090000, b"UL", b"") * 200_001
    with pytest.raises(HeaderError, match="too many elements"):
        walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=Selection(()))


@pytest.mark.parametrize("end", ["item", "sequence"])
def test_a_delimiter_where_none_may_be_is_refused(end: str) -> None:
    wrong = (
        b"\xfe\xff\x0d\xe0\0\0\0\0"
        if end == "item"
        else item(b"\xfe\xff\xdd\xe0\0\0\0\0")[:4] + (b"\xff\xff\xff\xff\xfe\xff\xdd\xe0\0\0\0\0")
    )
    data = b"\x54\x00\x16\x00SQ\0\0\xff\xff\xff\xff" + wrong + b"\0" * 16
    with pytest.raises(HeaderError, match="delimiter"):
        walk_header(BytesIO(data), transfer_syntax_uid=EXPLICIT, selection=Selection(()))
