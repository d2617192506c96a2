"""Frames out of stored objects: native and encapsulated, however cut into fragments; damage is refused, not guessed at."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import get_encoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from ichor.errors import Unreadable
from ichor.reasons import Reason
from ichor.series.decoding import decode_frame, frame_format, frame_fragments, read_frames
from ichor.types import Geometry, Instance, Pixels

ROWS, COLUMNS, FRAMES = 40, 48, 5


class Spool:
    """One file in memory; knows how many bytes were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data, self.read = data, 0

    def open(self, location: str) -> BinaryIO:  # noqa: ARG002
        return BytesIO(self.data)

    def read_range(self, location: str, offset: int, length: int) -> bytes:  # noqa: ARG002
        self.read += length
        return self.data[offset : offset + length]


def instance(
    *, syntax: str, length: int, frames: int = FRAMES, offset: int = 0, allocated: int = 16, stored: int = 12,
    signed: bool = False, lossy: bool = False, samples: int = 1, rows: int = ROWS,
) -> Instance:  # fmt: skip
    native = syntax in (ExplicitVRLittleEndian, ExplicitVRBigEndian)
    return Instance(
        sop_instance_uid="1.2.3.4", sop_class_uid="1.2", series_instance_uid="1.2.3", study_instance_uid="1.2",
        transfer_syntax_uid=syntax, modality="MR", location="x", file_sha256="", content_sha256="",
        identity_sha256="", patient_sha256="", accession_sha256=None, association="", calling_ae="", called_ae="",
        priority=None, received_at=0.0, geometry=Geometry(rows=rows, columns=COLUMNS),
        pixels=Pixels(
            offset=offset, length=length, encapsulated=not native, lossy=lossy, frames=frames, bits_allocated=allocated,
            bits_stored=stored, signed=signed, samples_per_pixel=samples,
        ),
    )  # fmt: skip


def truth(*, signed: bool = False) -> np.ndarray:
    low = -2048 if signed else 0
    values = np.random.default_rng(3).integers(low, low + 4096, (FRAMES, ROWS, COLUMNS))
    return values.astype(np.int16 if signed else np.uint16)


def encode(frame: np.ndarray, syntax: str) -> bytes:
    options: dict[str, Any] = {
        "rows": ROWS, "columns": COLUMNS, "number_of_frames": 1, "samples_per_pixel": 1, "bits_allocated": 16,
        "bits_stored": 12, "pixel_representation": int(frame.dtype.kind == "i"),
        "photometric_interpretation": "MONOCHROME2",
    }  # fmt: skip
    return bytes(get_encoder(UID(syntax)).encode(np.ascontiguousarray(frame), **options))


def decoded(value: bytes, indices: list[int], **about: Any) -> np.ndarray:
    padding = b"before"
    one = instance(length=len(value), offset=len(padding), **about)
    form = frame_format(one)
    return np.stack([decode_frame(data, form) for data in read_frames(one, indices, spool=Spool(padding + value))])


# HTJ2K has no encoder here: the nine real files and this module's plug-in share openjpeg with JPEG 2000.
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_frames_of_every_encapsulated_form_are_the_truth(syntax: str, signed: bool) -> None:
    frames = truth(signed=signed)
    streams = [encode(frame, syntax) for frame in frames]
    forms = {
        "a table": encapsulate(streams, has_bot=True),
        "an empty table": encapsulate(streams, has_bot=False),
        "an extended table": encapsulate_extended(streams)[0],
    }
    if syntax != RLELossless:  # a frame is one fragment there (PS3.5 A.4.2)
        forms["fragments with a table"] = encapsulate(streams, fragments_per_frame=3, has_bot=True)
        forms["fragments without a table"] = encapsulate(streams, fragments_per_frame=3, has_bot=False)
    for name, value in forms.items():
        found = decoded(value, [4, 0, 2], syntax=syntax, signed=signed)
        assert np.array_equal(found, frames[[4, 0, 2]]), name


def test_an_image_in_many_fragments_is_one_frame() -> None:
    frames = truth()
    value = encapsulate([encode(frames[0], JPEGLSLossless)], fragments_per_frame=7, has_bot=False)
    assert np.array_equal(decoded(value, [0], syntax=JPEGLSLossless, frames=1)[0], frames[0])


def test_a_table_that_points_elsewhere_is_not_believed() -> None:
    frames = truth()
    value = encapsulate([encode(f, JPEG2000Lossless) for f in frames], fragments_per_frame=2, has_bot=True)
    wrong = bytearray(value)
    wrong[12:16] = struct.pack("<I", 6)  # the second frame's offset
    assert np.array_equal(decoded(bytes(wrong), [1, 3], syntax=JPEG2000Lossless), frames[[1, 3]])


def test_only_the_frames_that_are_asked_for_are_read() -> None:
    frames = truth()
    one = instance(syntax=ExplicitVRLittleEndian, length=frames.nbytes)
    spool = Spool(frames.tobytes())
    data = list(read_frames(one, [3, 1], spool=spool))
    assert [np.frombuffer(d, "<u2").tolist() for d in data] == [frames[3].ravel().tolist(), frames[1].ravel().tolist()]
    assert spool.read == frames[0].nbytes * 2


@pytest.mark.parametrize(("stored", "signed"), [(12, False), (12, True), (16, False), (16, True), (10, True)])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_bits_above_bits_stored_are_cut_off_and_signs_kept(syntax: str, stored: int, signed: bool) -> None:
    low = -(1 << (stored - 1)) if signed else 0
    values = np.linspace(low, low + (1 << stored) - 1, ROWS * COLUMNS).astype(np.int64).reshape(ROWS, COLUMNS)
    dirty = values & ((1 << stored) - 1) | (0b101 << stored & 0xFFFF)
    raw = dirty.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    found = decoded(raw, [0], syntax=syntax, frames=1, stored=stored, signed=signed)[0]
    assert np.array_equal(found, values)


def test_8_and_32_bit_values_are_read_as_they_are() -> None:
    small = np.arange(ROWS * COLUMNS).astype(np.uint8).reshape(ROWS, COLUMNS)
    large = (np.arange(ROWS * COLUMNS, dtype=np.int64) * 6_700_000 - 2**31).astype(np.int32).reshape(ROWS, COLUMNS)
    kept = decoded(small.tobytes(), [0], syntax=ExplicitVRLittleEndian, frames=1, allocated=8, stored=8)
    assert np.array_equal(kept[0], small)
    kept = decoded(
        large.tobytes(), [0], syntax=ExplicitVRLittleEndian, frames=1, allocated=32, stored=32, signed=True
    )  # fmt: skip
    assert np.array_equal(kept[0], large)


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded() -> None:
    stream = bytearray(encode(truth()[0], JPEG2000Lossless))
    stream[8:16] = struct.pack(">II", 60_000, 60_000)
    form = frame_format(instance(syntax=JPEG2000Lossless, length=0, frames=1))
    with pytest.raises(Unreadable, match="damaged"):
        decode_frame(bytes(stream), form)


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"lossy": True}, Reason.LOSSY),
        ({"samples": 3}, Reason.UNSUPPORTED_PIXELS),
        ({"allocated": 1, "stored": 1}, Reason.UNSUPPORTED_PIXELS),
        ({"allocated": 64, "stored": 64}, Reason.UNSUPPORTED_PIXELS),
        ({"stored": 17}, Reason.HEADER_UNREADABLE),
        ({"syntax": "1.2.840.10008.1.2.4.100"}, Reason.UNSUPPORTED_SYNTAX),  # MPEG2
        ({"rows": 64_000_000 // COLUMNS + 1}, Reason.FRAME_TOO_LARGE),
    ],
)
def test_what_is_no_lossless_grey_image_is_refused(about: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(Unreadable) as caught:
        frame_format(instance(**{"syntax": JPEGLSLossless, "length": 10, **about}))
    assert caught.value.reason == reason


def test_a_frame_that_is_not_there_is_refused() -> None:
    frames = truth()
    short = instance(syntax=ExplicitVRLittleEndian, length=frames.nbytes - 1)
    with pytest.raises(Unreadable) as caught:
        list(read_frames(short, [4], spool=Spool(frames.tobytes())))
    assert caught.value.reason == Reason.PIXELS_SHORT
    with pytest.raises(Unreadable):
        list(read_frames(short, [5], spool=Spool(frames.tobytes())))


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_items_that_do_not_end_or_add_up_are_refused(frames: int) -> None:
    value = encapsulate([b"\x01\x02" * 30] * FRAMES, has_bot=False)
    nothing = struct.pack("<II", 0xE000FFFE, 0) + struct.pack("<II", 0xE0DDFFFE, 0)
    huge = value[:8] + struct.pack("<II", 0xE000FFFE, 0xFFFFFFFE) + value[16:]
    for wrong in (b"", nothing, huge, value[:70], b"\0" * 200):
        with pytest.raises(Unreadable, match="damaged"):
            frame_fragments(BytesIO(wrong), offset=0, length=len(wrong), frames=frames)
    with pytest.raises(Unreadable, match="damaged"):
        frame_fragments(BytesIO(value), offset=0, length=len(value), frames=FRAMES - 2)


def test_no_end_of_empty_items_is_walked() -> None:
    value = struct.pack("<II", 0xE000FFFE, 0) * 10_000
    with pytest.raises(Unreadable, match="damaged"):
        frame_fragments(BytesIO(value), offset=0, length=len(value), frames=1)


def test_a_panic_inside_a_plug_in_is_damage() -> None:
    """pylibjpeg-rle 2.2 panics on a run beyond the end of the image, and a panic is no Exception."""
    frame = np.full((ROWS, COLUMNS), 7, dtype=np.uint16)
    frame[3:9, 4:20] = np.arange(16, dtype=np.uint16) * 11
    stream = bytearray(encode(frame, RLELossless))
    stream[64] = 129  # the first run behind the header (PS3.5 annex G): 128 times the next byte
    form = frame_format(instance(syntax=RLELossless, length=len(stream), frames=1))
    with pytest.raises(Unreadable, match="damaged"):
        decode_frame(bytes(stream), form)


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 400), which=st.integers(0, 2))
def test_damage_anywhere_gives_an_image_or_a_reason(place: int, byte: int, cut: int, which: int) -> None:
    syntax = (RLELossless, JPEGLSLossless, JPEG2000Lossless)[which]
    frame = np.full((ROWS, COLUMNS), 7, dtype=np.uint16)
    frame[3:9, 4:20] = np.arange(16, dtype=np.uint16) * 11
    value = bytearray(encapsulate([encode(frame, syntax)], has_bot=False))
    value[place % len(value)] = byte
    value = value[: len(value) - cut % len(value)] if zlib.crc32(bytes([byte])) % 2 else value
    try:
        answer: tuple[int, ...] | str = decoded(bytes(value), [0], syntax=syntax, frames=1).shape
    except Unreadable as error:
        answer = error.reason
    assert answer == (1, ROWS, COLUMNS) or str(answer).startswith(tuple(Reason))


def test_htj2k_goes_to_a_plug_in_that_is_there() -> None:
    from pydicom.pixels import get_decoder

    assert "pylibjpeg" in get_decoder(HTJ2KLossless).available_plugins
