"""Heads of DICOM files in any pieces: the UIDs they say and the data set that follows, or that they are none."""

from __future__ import annotations

import contextlib
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.listener.modality import CT, EXPLICIT

from ichor.errors import CannotUnderstand
from ichor.reasons import Reason
from ichor.store.filemeta import file_meta
from listener.part10 import FileHead, FileMeta

HEAD = file_meta(sop_class_uid=CT, sop_instance_uid="1.2.3.4.1", transfer_syntax_uid=EXPLICIT)
SAID = FileMeta(CT, "1.2.3.4.1", EXPLICIT)


def read(file: bytes, cuts: list[int]) -> tuple[FileMeta, bytes] | None:
    head, found = FileHead(), None
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(file)), len(file)]
    for start, end in itertools.pairwise(edges):
        piece = memoryview(file)[start:end]
        if found is not None:
            found = found[0], found[1] + bytes(piece)
        elif (told := head.feed(piece)) is not None:
            found = told[0], bytes(told[1])
    return found


@given(st.lists(st.integers(1, 600), max_size=12), st.binary(min_size=2, max_size=200))
def test_any_pieces_give_the_uids_and_the_whole_data_set(cuts: list[int], rest: bytes) -> None:
    data_set = b"\x08\x00" + rest
    assert read(HEAD + data_set, cuts) == (SAID, data_set)
    every_byte = list(range(len(HEAD) + len(data_set)))
    assert read(HEAD + data_set, every_byte) == (SAID, data_set)


def test_a_head_without_preamble_and_prefix_is_read_as_libraries_write_it() -> None:
    assert read(HEAD[132:] + b"\x08\x00rest", []) == (SAID, b"\x08\x00rest")
    assert read(HEAD[132 + 12 :] + b"\x08\x00rest", [1, 2, 3]) == (SAID, b"\x08\x00rest")  # and without group length


def test_a_head_that_says_nothing_gives_empty_uids() -> None:
    file = bytes(128) + b"DICM" + struct.pack("<HH2sHH", 2, 0x0100, b"UI", 2, 0x0031) + b"\x08\x00"
    assert read(file, []) == (FileMeta("", "", ""), b"\x08\x00")


@pytest.mark.parametrize(
    "file",
    [
        b"no DICOM file" * 20,
        bytes(200),
        bytes(128) + b"DICM" + b"\x02\x00\x00\x00??\x04\x00" + bytes(20),  # no value representation
        bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 0xFFFFFFFF) + bytes(20),  # undefined length
        bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 1, b"OB", 0, 1 << 20) + bytes(20),  # longer than any head
        bytes(128) + b"DICM" + (struct.pack("<HH2sHI", 2, 0x0102, b"OB", 0, 8192) + bytes(8192)) * 9,
    ],
)
def test_what_is_no_dicom_file_is_refused(file: bytes) -> None:
    with pytest.raises(CannotUnderstand) as caught:
        read(file, [])
    assert caught.value.reason == Reason.HEADER_UNREADABLE


@given(st.binary(max_size=400), st.booleans())
def test_whatever_comes_is_read_refused_or_waited_for_and_what_is_kept_is_bounded(rest: bytes, dicm: bool) -> None:
    head = FileHead()
    with contextlib.suppress(CannotUnderstand):
        head.feed(memoryview((bytes(128) + b"DICM\x02\x00" if dicm else b"") + rest))
    assert len(head._seen) <= 65_536
