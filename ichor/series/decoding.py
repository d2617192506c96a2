"""From the pixel bytes of a stored object to stored values, frame by frame. No rescale, no geometry, no own codec."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ichor.errors import Unreadable
from ichor.reasons import Reason
from ichor.series.elements import HeaderError
from ichor.series.header import inflated
from ichor.series.pixels import DEFLATED
from ichor.store.protocol import SpoolReader
from ichor.types import Instance, Pixels

DAMAGED = f"{Reason.UNSUPPORTED_SYNTAX}: the pixel data are damaged"

_BIG_ENDIAN = "1.2.840.10008.1.2.2"
# The fastest plug-in of each syntax. None of them lets another thread of the process run meanwhile (`bench.series`
# measures it), and helper processes gain less than they cost: docs/decisions/0009.
_PLUGINS = {
    "1.2.840.10008.1.2.5": "pylibjpeg",  # RLE: pylibjpeg-rle
    "1.2.840.10008.1.2.4.57": "pylibjpeg",  # JPEG lossless: pylibjpeg-libjpeg
    "1.2.840.10008.1.2.4.70": "pylibjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",  # JPEG 2000: pylibjpeg-openjpeg
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",  # HTJ2K: pylibjpeg-openjpeg
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}
_RLE = "1.2.840.10008.1.2.5"
_ITEM, _DELIMITER = 0xE000FFFE, 0xE0DDFFFE  # as little endian words
_MOST_FRAGMENTS_PER_FRAME = 4096
_MOST_BOXES = 1024
MOST_PIXELS = 64_000_000  # of one frame: a few KiB of JPEG-LS can stand for 65535 x 65535
_SOC_SIZ, _SOI = b"\xff\x4f\xff\x51", b"\xff\xd8"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameFormat:
    """How the bytes of one frame become stored values (PS3.3 C.7.6.3)."""

    transfer_syntax_uid: str
    rows: int
    columns: int
    encapsulated: bool
    photometric: str
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def value_range(self) -> tuple[int, int]:
        """Least and greatest value that Bits Stored can hold."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def frame_format(instance: Instance) -> FrameFormat:
    """Format of every frame of an object.

    Raises
    ------
    Unreadable
        When it has no pixels, is lossy compressed, is not a single-sample grey image of 8, 16 or 32 bits, or its frames
        have more than 64 million pixels.
    """
    pixels, geometry = instance.pixels, instance.geometry
    if pixels is None or geometry is None:
        raise Unreadable(Reason.NO_PIXELS)
    if pixels.lossy:
        raise Unreadable(Reason.LOSSY)
    if pixels.samples_per_pixel != 1 or pixels.bits_allocated not in (8, 16, 32):
        raise Unreadable(Reason.UNSUPPORTED_PIXELS)
    if not 1 <= pixels.bits_stored <= pixels.bits_allocated:
        raise Unreadable(Reason.HEADER_UNREADABLE)
    if pixels.encapsulated and instance.transfer_syntax_uid not in _PLUGINS:
        raise Unreadable(Reason.UNSUPPORTED_SYNTAX)
    if geometry.rows * geometry.columns > MOST_PIXELS:
        raise Unreadable(Reason.FRAME_TOO_LARGE)
    return FrameFormat(
        transfer_syntax_uid=instance.transfer_syntax_uid,
        rows=geometry.rows,
        columns=geometry.columns,
        encapsulated=pixels.encapsulated,
        photometric=pixels.photometric,
        bits_allocated=pixels.bits_allocated,
        bits_stored=pixels.bits_stored,
        signed=pixels.signed,
    )


def read_frames(instance: Instance, indices: Sequence[int], *, spool: SpoolReader) -> Iterator[bytes]:
    """Bytes of the frames at ``indices`` (from 0), in that order, one at a time: as stored, or one codestream each.

    Native frames are read by their place. Of an encapsulated object the item headers are read once; a deflated one is
    inflated once, and as a whole: places of its pixels are those in the inflated data set.

    Raises
    ------
    Unreadable
        When the object lacks a frame, does not inflate, or was removed.
    """
    pixels, geometry = instance.pixels, instance.geometry
    assert pixels is not None  # has a format
    assert geometry is not None
    if any(not 0 <= index < pixels.frames for index in indices):
        raise Unreadable(Reason.PIXELS_SHORT)
    try:
        if not pixels.encapsulated:
            size = geometry.rows * geometry.columns * (pixels.bits_allocated // 8)
            whole_set = _inflated(instance, spool=spool) if instance.transfer_syntax_uid == DEFLATED else None
            for index in indices:
                if (index + 1) * size > pixels.length:
                    raise Unreadable(Reason.PIXELS_SHORT)
                if whole_set is None:
                    yield spool.read_range(instance.location, pixels.offset + index * size, size)
                else:
                    whole_set.seek(pixels.offset + index * size)
                    data = whole_set.read(size)
                    if len(data) != size:
                        raise Unreadable(Reason.PIXELS_SHORT)
                    yield data
        elif pixels.frames == 1:
            whole = spool.read_range(instance.location, pixels.offset, pixels.length)
            (frame,) = frame_fragments(BytesIO(whole), offset=0, length=len(whole), frames=1)
            yield b"".join(whole[start : start + length] for start, length in frame)
        else:
            yield from _encapsulated_frames(instance, pixels, indices, spool=spool)
    except KeyError as error:
        # Only retention takes files away; a manifest of a study that was opened again may still name them.
        raise Unreadable(Reason.REMOVED) from error


def decode_frame(data: bytes, form: FrameFormat) -> npt.NDArray[Any]:
    """Stored values (rows, columns) of one frame, sign extended, bits above Bits Stored cut off.

    The array may share ``data`` and be read-only.

    Raises
    ------
    Unreadable
        When the bytes are no such frame.
    """
    if form.encapsulated:
        stored = _decompress(data, form)
    else:
        size = form.bits_allocated // 8
        order = ">" if form.transfer_syntax_uid == _BIG_ENDIAN and size > 1 else "<" if size > 1 else "|"
        kind = np.dtype(f"{order}{'i' if form.signed else 'u'}{size}")
        if len(data) != form.rows * form.columns * size:
            raise Unreadable(Reason.PIXELS_SHORT)
        stored = np.frombuffer(data, dtype=kind).reshape(form.rows, form.columns)
    unused = 8 * stored.dtype.itemsize - form.bits_stored
    if unused > 0:
        # Old writers put overlay bits there (PS3.5 section 8.1.1).
        native = stored.astype(stored.dtype.newbyteorder("="))
        native <<= unused
        native >>= unused
        return native
    return stored


def frame_fragments(
    file: BinaryIO, *, offset: int, length: int, frames: int
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Places (start, length) in ``file`` of the fragments of every frame of an encapsulated value (PS3.5 A.4).

    As many fragments as frames: one each, which is all that an Extended Offset Table allows (PS3.3 C.7.6.3.1.8).
    Else the Basic Offset Table tells, where it names fragments; else a fragment that begins a codestream begins a frame.

    Raises
    ------
    Unreadable
        When the items do not add up to that many frames.
    """
    table, fragments = _items(file, offset=offset, length=length, most=frames * _MOST_FRAGMENTS_PER_FRAME)
    if frames == 1 and fragments:
        return (tuple((start, size) for start, size, _ in fragments),)
    if len(fragments) == frames:
        return tuple(((start, size),) for start, size, _ in fragments)
    # The table counts from the first fragment's item header.
    base = fragments[0][0] if fragments else 0
    places = {start - base: k for k, (start, _, _) in enumerate(fragments)}
    firsts = [places[entry] for entry in table if entry in places]
    if len(firsts) != frames or len(table) != frames or firsts != sorted(set(firsts)) or firsts[:1] != [0]:
        firsts = [k for k, (_, _, head) in enumerate(fragments) if head == _SOC_SIZ or head[:2] == _SOI]
    if len(firsts) != frames or firsts[:1] != [0]:
        raise Unreadable(DAMAGED)
    ends = [*firsts[1:], len(fragments)]
    return tuple(
        tuple((start, size) for start, size, _ in fragments[first:end])
        for first, end in zip(firsts, ends, strict=True)
    )  # fmt: skip


def _items(
    file: BinaryIO, *, offset: int, length: int, most: int
) -> tuple[tuple[int, ...], list[tuple[int, int, bytes]]]:
    """Basic Offset Table, and every fragment's (start, length, first four bytes)."""
    place, end = offset, offset + length
    table: tuple[int, ...] | None = None
    fragments: list[tuple[int, int, bytes]] = []
    while place + 8 <= end:
        file.seek(place)
        head = file.read(12)
        if len(head) < 8:
            break
        tag, size = struct.unpack("<II", head[:8])
        if tag == _DELIMITER:
            break
        place += 8
        if tag != _ITEM or place + size > end or len(fragments) >= most:
            raise Unreadable(DAMAGED)
        if table is None:
            file.seek(place)
            words = file.read(min(size // 4 * 4, 4 * most))
            table = struct.unpack(f"<{len(words) // 4}I", words[: len(words) // 4 * 4])
        else:
            fragments.append((place, size, head[8:]))
        place += size
    if not fragments:
        raise Unreadable(DAMAGED)
    return table or (), fragments


def _inflated(instance: Instance, *, spool: SpoolReader) -> BinaryIO:
    with spool.open(instance.location) as file:
        try:
            return inflated(file)
        except HeaderError as error:
            raise Unreadable(DAMAGED) from error


def _encapsulated_frames(
    instance: Instance, pixels: Pixels, indices: Sequence[int], *, spool: SpoolReader
) -> Iterator[bytes]:
    with spool.open(instance.location) as file:
        frames = frame_fragments(file, offset=pixels.offset, length=pixels.length, frames=pixels.frames)
        for index in indices:
            parts = []
            for start, length in frames[index]:
                file.seek(start)
                parts.append(file.read(length))
            yield b"".join(parts)


def _decompress(data: bytes, form: FrameFormat) -> npt.NDArray[Any]:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    shape = form.rows, form.columns
    # A codec makes room for what the codestream says before anybody can compare it with the header.
    if form.transfer_syntax_uid != _RLE and _stated_size(data) != shape:
        raise Unreadable(DAMAGED)
    about: dict[str, Any] = {
        "rows": form.rows, "columns": form.columns, "number_of_frames": 1, "samples_per_pixel": 1,
        "bits_allocated": form.bits_allocated, "bits_stored": form.bits_stored,
        "photometric_interpretation": form.photometric, "pixel_representation": int(form.signed),
        "pixel_keyword": "PixelData",
    }  # fmt: skip
    try:
        array, _ = get_decoder(UID(form.transfer_syntax_uid)).as_array(
            encapsulate([data], has_bot=False),
            raw=True,
            index=0,
            decoding_plugin=_PLUGINS[form.transfer_syntax_uid],
            **about,
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Codecs raise anything on damaged input, and the input is a stranger's; a panic of one in Rust is no Exception.
        raise Unreadable(DAMAGED) from error
    if array.shape != shape:
        raise Unreadable(Reason.PIXELS_SHORT)
    result: npt.NDArray[Any] = array
    return result


def _stated_size(data: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 codestream says of itself; None when it is none of them."""
    # Some writers leave the boxes of a JP2 file around the codestream.
    start = data.find(_SOC_SIZ, 0, _MOST_BOXES)
    if start >= 0 and len(data) >= start + 24:
        # SIZ: Lsiz, Rsiz, Xsiz, Ysiz, XOsiz, YOsiz (ISO/IEC 15444-1 A.5.1).
        right, low, left, top = struct.unpack(">4I", data[start + 8 : start + 24])
        return low - top, right - left
    if data[:2] != _SOI:
        return None
    place = 2
    while place + 9 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1  # fill byte (ISO/IEC 10918-1 B.1.1.2)
            continue
        # SOF0 to SOF15 without DHT, JPG and DAC; SOF55 of JPEG-LS (ISO/IEC 14495-1 C.1.1).
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = struct.unpack(">HH", data[place + 5 : place + 9])
            return rows, columns
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
