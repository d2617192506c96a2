"""Finding the UIDs of an object in whatever a sender wrote."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from unit.listener.modality import BIG_ENDIAN, CT, EXPLICIT, IMPLICIT, encode, image

from listener import identifiers
from listener.identifiers import Identifiers, find_identifiers

DEFLATED = "1.2.840.10008.1.2.1.99"
WHOLE = Identifiers(sop_class=CT, sop_instance="1.2.3.4.1", study="1.2.3", series="1.2.3.4")


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("undefined", [False, True])
def test_every_encoding_is_read(syntax: str, undefined: bool) -> None:
    dataset = image()
    dataset["ReferencedStudySequence"].is_undefined_length = undefined
    for item in dataset.ReferencedStudySequence:
        item.is_undefined_length_sequence_item = undefined
    assert find_identifiers(encode(dataset, syntax), syntax) == WHOLE


@pytest.mark.parametrize(
    ("said", "is_"), [(EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT), ("1.2.840.113619.5.2", IMPLICIT)]
)
def test_encoding_is_what_it_is_not_what_was_negotiated(said: str, is_: str) -> None:
    assert find_identifiers(encode(image(), is_), said) == WHOLE


def test_deflated_data_set_is_read() -> None:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = squeeze.compress(encode(image())) + squeeze.flush()
    assert find_identifiers(data, DEFLATED) == WHOLE
    assert find_identifiers(b"not deflated at all", DEFLATED) == Identifiers()


def test_a_damaged_deflated_stream_is_read_up_to_its_damage_however_much_of_it_is_here() -> None:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    # A block for the head alone, so that the damage is behind it.
    head = squeeze.compress(encode(image())) + squeeze.flush(zlib.Z_FULL_FLUSH)
    for rest in (b"\xff" * 10, b"\xff" * 10_000, squeeze.compress(random.Random(1).randbytes(9000)) + b"\xff" * 5000):
        for length in (0, 1, 5, len(rest)):
            assert find_identifiers(head + rest[:length], DEFLATED) == WHOLE


def test_deflated_bomb_is_cut_off() -> None:
    squeeze = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    head = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, 500_000_000)
    bomb = squeeze.compress(head) + b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(64)) + squeeze.flush()
    assert find_identifiers(bomb, DEFLATED) == Identifiers()


def test_unknown_vr_of_undefined_length_holds_implicit_elements() -> None:
    # PS3.5 6.2.2 note: UN of undefined length is a sequence in Implicit VR Little Endian.
    inner = struct.pack("<HHI", 0x0020, 0x000D, 4) + b"9.9\0"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    private = (
        struct.pack("<HH2sHI", 0x0009, 0x1010, b"UN", 0, 0xFFFFFFFF) + item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )
    whole = encode(image())
    at = whole.index(struct.pack("<HH", 0x0010, 0x0010))
    assert find_identifiers(whole[:at] + private + whole[at:], EXPLICIT) == WHOLE


def test_cut_off_data_set_gives_what_was_there() -> None:
    whole = encode(image())
    at = whole.index(struct.pack("<HH", 0x0020, 0x000E))
    assert find_identifiers(whole[: at + 9], EXPLICIT) == Identifiers(
        sop_class=CT, sop_instance="1.2.3.4.1", study="1.2.3"
    )
    assert find_identifiers(b"", EXPLICIT) == Identifiers()


def test_uids_inside_a_sequence_are_not_the_objects() -> None:
    assert find_identifiers(encode(image(study=None, series=None)), EXPLICIT).study is None


def test_empty_uid_is_none() -> None:
    assert find_identifiers(encode(image(study="")), EXPLICIT).study is None


def test_nothing_is_read_past_the_pixels() -> None:
    dataset = image(study=None)
    padding = struct.pack("<HH2sH4s", 0x7FE1, 0x000D, b"UI", 4, b"1.2\0")
    late = struct.pack("<HH2sH4s", 0x0020, 0x000D, b"UI", 4, b"1.2\0")
    assert find_identifiers(encode(dataset) + padding + late, EXPLICIT).study is None


def test_deep_nesting_ends() -> None:
    opening = struct.pack("<HH2sHI", 0x0008, 0x1110, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    assert find_identifiers(opening * 10_000, EXPLICIT) == Identifiers()


def test_endless_small_elements_end() -> None:
    element = struct.pack("<HH2sH", 0x0009, 0x1001, b"LO", 0)
    late = encode(image())
    assert find_identifiers(element * 100_000 + late, EXPLICIT).study is None
    assert find_identifiers(element * 1_000 + late, EXPLICIT) == WHOLE


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_data_set_never_raises(data: st.DataObject) -> None:
    damaged = bytearray(encode(image(), data.draw(st.sampled_from([EXPLICIT, IMPLICIT, BIG_ENDIAN]))))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    assert isinstance(find_identifiers(damaged[:cut], data.draw(st.sampled_from([EXPLICIT, DEFLATED]))), Identifiers)


def test_dataset_without_sop_uids() -> None:
    bare = Dataset()
    bare.StudyInstanceUID, bare.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    assert find_identifiers(encode(bare), EXPLICIT) == Identifiers(study="1.2.3", series="1.2.3.4")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_remembered_layout_gives_what_a_scan_gives(data: st.DataObject) -> None:
    """Each is read twice: anew, and after data sets that look the same up to a few bytes."""
    syntax = data.draw(st.sampled_from([EXPLICIT, IMPLICIT]))
    dataset = image(data.draw(st.sampled_from(["1.2.3.4.1", "1.2.3.4.7", "1.2.3.4.10"])))
    dataset["ReferencedStudySequence"].is_undefined_length = data.draw(st.booleans())
    damaged = bytearray(encode(dataset, syntax))
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, 300))] = data.draw(st.sampled_from([0, 1, 8, 0x20, 0x31, 0x55, 0xFF]))
    damaged = damaged[: data.draw(st.sampled_from([len(damaged), 250, 300]))]
    found = find_identifiers(damaged, EXPLICIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identifiers, "_layouts", ())
        assert find_identifiers(damaged, EXPLICIT) == found


def test_layouts_do_not_pile_up_and_hold_no_values() -> None:
    for length in range(1, 40):
        assert find_identifiers(encode(image("1.2.3.4." + "1" * length)), EXPLICIT).sop_instance is not None
    assert len(identifiers._layouts) == identifiers._MOST_LAYOUTS
    assert "Secret" not in str(identifiers._layouts)
