"""Values of a data set level: what its VR says is read, in every encoding; what is not there or not right is not."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from ichor.series.elements import vr_code
from ichor.series.header import Selection, walk_header
from ichor.series.values import Values

IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
PHILIPS_SEQUENCE = 0x2005140F
SHARED, MEASURES, SPACING = 0x52009229, 0x00289110, 0x00280030


def data_set() -> Dataset:
    ds = Dataset()
    ds.Modality = "MR"
    ds.EchoTime, ds.InstanceNumber, ds.Rows = "85.5", "12", 64
    ds.DiffusionBValue = 1000.0
    ds.ImagePositionPatient = [1, -2.5, 3e2]
    ds.add_new(0x20010010, "LO", "Philips Imaging DD 001")
    ds.add_new(0x20011003, "FL", 800.0)
    ds.add_new(0x00430010, "LO", "OTHER MAKER")
    ds.add_new(0x00430011, "LO", "GEMS_PARM_01")
    ds.add_new(0x00431139, "IS", ["1000000800", "8", "0", "0"])
    inner = Dataset()
    inner.PixelSpacing = [0.5, 0.25]
    group = Dataset()
    group.PixelMeasuresSequence = Sequence([inner])
    ds.SharedFunctionalGroupsSequence = Sequence([group, Dataset()])
    return ds


def encoded(ds: Dataset, syntax: str = EXPLICIT, *, undefined: bool = False) -> bytes:
    if undefined:
        for element in ds:
            if element.VR == "SQ":
                element.is_undefined_length = True
                for item in element.value:
                    item.is_undefined_length_sequence_item = True
                    for inner in item:
                        inner.is_undefined_length = inner.VR == "SQ"
    target = BytesIO()
    pydicom.dcmwrite(target, ds, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG, force_encoding=True)
    return target.getvalue()


def values_of(data: bytes, syntax: str = EXPLICIT) -> Values:
    everything = {0x00080060, 0x00180081, 0x00200013, 0x00280010, 0x00189087, 0x00200032, SHARED, 0x00540081}
    private = {(0x2001, 0x03), (0x0043, 0x39), (0x2005, 0x0F)}
    header = walk_header(BytesIO(data), transfer_syntax_uid=syntax, selection=Selection(everything, private=private))
    return Values.of(header)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_values_are_the_same_in_every_encoding(syntax: str, undefined: bool) -> None:
    values = values_of(encoded(data_set(), syntax, undefined=undefined), syntax)
    assert values.text(0x00080060) == "MR"
    assert (values.decimal(0x00180081), values.integer(0x00200013), values.unsigned(0x00280010)) == (85.5, 12, 64)
    assert values.decimals(0x00200032, 3) == (1.0, -2.5, 300.0)
    assert values.numbers(0x00189087, "d", 1) == (1000.0,)
    assert values.number(0x00189087) == 1000.0
    assert values.number(0x00180081) == 85.5
    first, second = values.items(SHARED)
    assert first.items(MEASURES)[0].decimals(SPACING, 2) == (0.5, 0.25)
    assert second.items(MEASURES) == ()
    assert len(values.items(SHARED, most=1)) == 1


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_a_private_element_is_found_in_the_block_that_its_creator_reserved(syntax: str) -> None:
    values = values_of(encoded(data_set(), syntax), syntax)
    assert values.private(0x0043, "gems_parm", 0x39) == 0x00431139
    assert values.texts(0x00431139)[0] == "1000000800"
    assert values.private(0x2001, "Philips Imaging", 0x03) == 0x20011003
    assert values.number(0x20011003) == 800.0
    assert values.private(0x2005, "Philips", 0x0F) is None
    assert values.private(0x0043, "SIEMENS", 0x39) is None


def test_of_two_blocks_of_one_creator_the_one_with_the_element_counts() -> None:
    values = Values({0x00290010: b"SIEMENS CSA HEADER", 0x00290011: b"SIEMENS CSA HEADER", 0x00291110: b"SV10"})
    assert values.private(0x0029, "SIEMENS CSA HEADER", 0x10) == 0x00291110


def test_unknown_sequences_are_read_as_they_are_encoded() -> None:
    inner = Dataset()
    inner.add_new(0x00189087, "FD", 700.0)
    for implicit in (True, False):
        target = BytesIO()
        pydicom.dcmwrite(target, inner, implicit_vr=implicit, little_endian=True, force_encoding=True)
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(target.getvalue())) + target.getvalue()
        ds = Dataset()
        ds.add_new(0x20050010, "LO", "Philips MR Imaging DD 005")
        ds.add_new(PHILIPS_SEQUENCE, "UN", item)
        (found,) = values_of(encoded(ds)).items(PHILIPS_SEQUENCE)
        assert found.number(0x00189087) == 700.0


def test_an_unknown_sequence_of_undefined_length_is_implicit_inside() -> None:
    item = b"\xfe\xff\x00\xe0" + struct.pack("<I", 16) + b"\x18\x00\x87\x90" + struct.pack("<Id", 8, 650.0)
    element = b"\x05\x20\x0f\x14UN\0\0\xff\xff\xff\xff" + item + b"\xfe\xff\xdd\xe0\0\0\0\0"
    ds = Dataset()
    ds.add_new(0x00080060, "CS", "MR")
    ds.add_new(0x20050010, "LO", "Philips MR Imaging DD 005")
    after = Dataset()
    after.add_new(SHARED, "SQ", Sequence([Dataset(), Dataset()]))
    values = values_of(encoded(ds) + element + encoded(after))
    assert values.items(PHILIPS_SEQUENCE)[0].number(0x00189087) == 650.0
    assert len(values.items(SHARED)) == 2


@pytest.mark.parametrize(
    ("raw", "call", "expected"),
    [
        (b"", "decimal", None),
        (b"nan", "decimal", None),
        (b"1e9", "decimal", None),
        (b"1\\2", "decimal", None),
        (b"7.5 ", "decimal", 7.5),
        (b"99999999999", "integer", None),
        (b"12\\13", "integer", 12),
        (b"1.5", "integer", None),
        (b"\x01\x00\x00", "unsigned", None),
        (b" \0", "text", None),
    ],
)
def test_what_is_not_a_number_is_none(raw: bytes, call: str, expected: Any) -> None:
    assert getattr(Values({1: raw}), call)(1) == expected


def test_binary_numbers_are_finite_and_as_many_as_asked_for() -> None:
    values = Values({1: struct.pack("<3d", 1, 2, 3), 2: struct.pack("<2d", 1, float("nan")), 3: b"\0" * 7})
    assert values.numbers(1, "d", 3) == (1, 2, 3)
    assert values.numbers(1, "d", 2) is None
    assert values.numbers(2, "d") is None
    assert values.numbers(3, "d") is None
    assert Values({1: b"0.643778"}, vrs={1: vr_code(b"FD")}).number(1) is None
    assert Values({1: struct.pack("<d", -6.1e-17)}, vrs={1: vr_code(b"FD")}).number(1) == -6.1e-17
    assert values.numbers(9, "d") is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (struct.pack("<d", 1000.0), 1000.0),
        (struct.pack("<f", 800.0), 800.0),
        (b"1000", 1000.0),
        (b"-0.5 ", -0.5),
        (struct.pack("<H", 700), 700.0),
        (struct.pack("<I", 5), None),
        (struct.pack("<d", float("inf")), None),
        (b"many", None),
        (b"abc", None),
    ],
)
def test_a_number_without_vr_is_what_it_can_only_be(raw: bytes, expected: float | None) -> None:
    assert Values({1: raw}, explicit=False).number(1) == expected


def test_sequences_nested_beyond_reason_end() -> None:
    body = b""
    for _ in range(40):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(body)) + body
        body = b"\x29\x52\x00\x92"[:0] + b"\x00\x52\x29\x92SQ\0\0" + struct.pack("<I", len(item)) + item
    level = values_of(body).items(SHARED)
    depth = 0
    while level:
        level, depth = level[0].items(SHARED), depth + 1
    assert 8 <= depth < 40


DATA = encoded(data_set(), undefined=True)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, len(DATA) - 1), replaced=st.binary(min_size=1, max_size=8), cut=st.integers(1, len(DATA)))
def test_damaged_sequences_never_raise_and_never_gain_a_value(at: int, replaced: bytes, cut: int) -> None:
    raw = values_of(DATA).raw(SHARED)
    damaged = (raw[: at % len(raw)] + replaced + raw[at % len(raw) + len(replaced) :])[:cut]
    for explicit in (True, False):
        for item in Values({SHARED: damaged}, explicit=explicit).items(SHARED):
            for inner in item.items(MEASURES):
                spacing = inner.decimals(SPACING, 2)
                assert spacing is None or all(abs(value) < 1e7 for value in spacing)


def test_more_items_than_any_object_has_frames_are_none() -> None:
    item = b"\xfe\xff\x00\xe0\0\0\0\0"
    assert len(Values({SHARED: item * 50_000}).items(SHARED)) == 50_000
    assert Values({SHARED: item * 50_001}).items(SHARED) == ()


@pytest.mark.parametrize(
    ("vr", "raw", "call", "arguments"),
    [
        (b"FD", b"1000\\8\\0", "texts", ()),
        (b"FD", b"12345678", "integer", ()),
        (b"UL", b"1234", "decimal", ()),
        (b"US", b"12", "text", ()),
        (b"IS", b"12", "unsigned", ()),
        (b"DS", b"12345678", "numbers", ("d", 1)),
        (b"LO", b"ab", "number", ()),
    ],
)
def test_a_value_is_not_read_against_its_vr(vr: bytes, raw: bytes, call: str, arguments: tuple[Any, ...]) -> None:
    tagged = Values({1: raw}, vrs={1: vr_code(vr)})
    assert not getattr(tagged, call)(1, *arguments)
    assert Values({1: raw}).raw(1) == raw
