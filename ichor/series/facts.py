"""Facts of one stored object: everything later steps need, read once from its header. Not a parser of headers."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable
from typing import BinaryIO, Protocol

from ichor.identity import DIGESTED, PERSON
from ichor.reasons import Reason
from ichor.series.header import FLOAT_PIXELS, Header, HeaderError, find_nested, inflated, walk_header
from ichor.types import Geometry, Instance, Pixels, Priority
from ichor.uids import accession_digest

MADE_BY = "ICHOR"

_DEFLATED = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _BIG_ENDIAN, _DEFLATED})
# Lossless by definition (PS3.5 annex A.4); the general JPEG-LS, JPEG 2000 and HTJ2K syntaxes may be lossy, and are so
# for certain only when the header says it (0028,2110).
_LOSSLESS = frozenset(
    {
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.4.201",
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.5",
    }
)

_CT_CLASSES = frozenset({f"1.2.840.10008.5.1.4.1.1.2{end}" for end in ("", ".1", ".2")})
_MR_CLASSES = frozenset({f"1.2.840.10008.5.1.4.1.1.4{end}" for end in ("", ".1", ".3", ".4")})
# Storage classes that carry no pixels of a patient; the rest is expected to have them.
_NO_IMAGE_PREFIXES = (
    "1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.104.", "1.2.840.10008.5.1.4.1.1.11.",
    "1.2.840.10008.5.1.4.1.1.9.", "1.2.840.10008.5.1.4.34.", "1.2.840.10008.5.1.4.1.1.66.1",
    "1.2.840.10008.5.1.4.1.1.66.2", "1.2.840.10008.5.1.4.1.1.66.3", "1.2.840.10008.5.1.4.1.1.66.5",
)  # fmt: skip
_NO_IMAGE = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.66",
        "1.2.840.10008.5.1.4.1.1.67",
        "1.2.840.10008.5.1.4.1.1.481.3",
        "1.2.840.10008.5.1.4.1.1.481.4",
        "1.2.840.10008.5.1.4.1.1.481.5",
        "1.2.840.10008.5.1.4.1.1.481.6",
        "1.2.840.10008.5.1.4.1.1.481.7",
        "1.2.840.10008.5.1.4.1.1.481.8",
        "1.2.840.10008.5.1.4.1.1.481.9",
        "1.2.840.10008.1.3.10",
    }
)

_IMAGE_TYPE, _MODALITY, _MANUFACTURER, _ACCESSION = 0x00080008, 0x00080060, 0x00080070, 0x00080050
_PATIENT_ID, _ISSUER = 0x00100020, 0x00100021
_CONTRAST, _CONTRAST_SEQUENCE, _BODY_PART = 0x00180010, 0x00180012, 0x00180015
_THICKNESS, _SPACING_BETWEEN, _TILT, _KERNEL, _PATIENT_POSITION = (
    0x00180050,
    0x00180088,
    0x00181120,
    0x00181210,
    0x00185100,
)
_SERIES_NUMBER, _ACQUISITION, _INSTANCE, _POSITION, _ORIENTATION = (
    0x00200011,
    0x00200012,
    0x00200013,
    0x00200032,
    0x00200037,
)
_FRAME_OF_REFERENCE, _TEMPORAL = 0x00200052, 0x00200100
_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _PIXEL_SPACING = (
    0x00280002,
    0x00280004,
    0x00280008,
    0x00280010,
    0x00280011,
    0x00280030,
)
_ALLOCATED, _STORED, _REPRESENTATION = 0x00280100, 0x00280101, 0x00280103
_INTERCEPT, _SLOPE, _LOSSY = 0x00281052, 0x00281053, 0x00282110
_REQUEST_SEQUENCE, _PRIORITY = 0x00400275, 0x00401003

_COUNTS = {
    0x00181090: "CardiacNumberOfImages",
    0x00200105: "NumberOfTemporalPositions",
    0x00201002: "ImagesInAcquisition",
    0x00201209: "NumberOfSeriesRelatedInstances",
    0x00280008: "NumberOfFrames",
    0x00540081: "NumberOfSlices",
    0x00540101: "NumberOfTimeSlices",
}
_BINARY_COUNTS = frozenset({0x00540081, 0x00540101})  # US; the others are IS

_WANTED = frozenset(
    {
        _IMAGE_TYPE, _MODALITY, _MANUFACTURER, _ACCESSION, _PATIENT_ID, _ISSUER, _CONTRAST, _CONTRAST_SEQUENCE,
        _BODY_PART, _THICKNESS, _SPACING_BETWEEN, _TILT, _KERNEL, _PATIENT_POSITION, _SERIES_NUMBER, _ACQUISITION,
        _INSTANCE, _POSITION, _ORIENTATION, _FRAME_OF_REFERENCE, _TEMPORAL, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS,
        _COLUMNS, _PIXEL_SPACING, _ALLOCATED, _STORED, _REPRESENTATION, _INTERCEPT, _SLOPE, _LOSSY, _REQUEST_SEQUENCE,
        _PRIORITY, *_COUNTS, *DIGESTED,
    }
)  # fmt: skip
_HASH_CHUNK = 1 << 20
_NO_CONTRAST_WORDS = frozenset({"", "NO", "NONE", "WITHOUT", "NATIVE", "N"})


class Stored(Protocol):
    """What the journal knows of a stored object (`ichor.store.journal`)."""

    @property
    def sop_instance_uid(self) -> str: ...
    @property
    def sop_class_uid(self) -> str: ...
    @property
    def series_instance_uid(self) -> str: ...
    @property
    def study_instance_uid(self) -> str: ...
    @property
    def transfer_syntax_uid(self) -> str: ...
    @property
    def location(self) -> str: ...
    @property
    def file_sha256(self) -> str: ...
    @property
    def association(self) -> str: ...
    @property
    def calling_ae(self) -> str: ...
    @property
    def called_ae(self) -> str: ...
    @property
    def received_at(self) -> float: ...

    def priority(self, header: Priority | None) -> Priority | None:
        """Priority of the study by this object, given what its header says."""


def read_instance(file: BinaryIO, *, stored: Stored) -> Instance:
    """The facts of one object. Never raises for bad content: what is wrong is the instance's ``defect``.

    A value that is missing or is not what the standard says (garbage, out of range, not finite) is None: nothing is
    invented. ``patient_sha256`` is 32 hexadecimal digits of Patient ID, then 32 of its issuer (zeros where there is
    none), so that a missing issuer can be told from another one. ``accession_sha256`` is that of the Accession Number
    without surrounding spaces. Both are bytes as stored.

    Parameters
    ----------
    file
        The stored file: Part 10, or a bare data set; seekable.
    stored
        What the receiver wrote down; UIDs, syntax and provenance are taken from there.
    """
    try:
        if stored.transfer_syntax_uid == _DEFLATED:
            file = inflated(file)
        header = walk_header(file, transfer_syntax_uid=stored.transfer_syntax_uid, wanted=_WANTED)
    except HeaderError as error:
        return without_header(stored, Reason.CUT_SHORT if error.cut else Reason.HEADER_UNREADABLE)
    if header.pixel_offset is None and (header.cut or not header.values):
        # Half a header would look like another patient's, or like a corrected one.
        return without_header(stored, Reason.CUT_SHORT if header.cut else Reason.HEADER_UNREADABLE)
    read = _Values(header)
    geometry = _geometry(read)
    pixels, defect = _pixels(header, read, stored=stored)
    return Instance(
        sop_instance_uid=stored.sop_instance_uid,
        sop_class_uid=stored.sop_class_uid,
        series_instance_uid=stored.series_instance_uid,
        study_instance_uid=stored.study_instance_uid,
        transfer_syntax_uid=stored.transfer_syntax_uid,
        modality=(read.text(_MODALITY) or "")[:16].upper(),
        location=stored.location,
        file_sha256=stored.file_sha256,
        content_sha256=_content_digest(file, header, pixels=pixels, geometry=geometry, stored=stored),
        identity_sha256=_named(read, PERSON)[:32] + _named(read, DIGESTED)[:32],
        patient_sha256=_half(read.stripped(_PATIENT_ID)) + _half(read.stripped(_ISSUER)),
        accession_sha256=accession_digest(read.stripped(_ACCESSION)),
        association=stored.association,
        calling_ae=stored.calling_ae,
        called_ae=stored.called_ae,
        priority=stored.priority(_stated_priority(header, read)),
        received_at=stored.received_at,
        made_by_ichor=(read.text(_MANUFACTURER) or "").upper() == MADE_BY,
        image_type=tuple(part.upper() for part in read.texts(_IMAGE_TYPE)[:8]),
        series_number=read.integer(_SERIES_NUMBER),
        instance_number=read.integer(_INSTANCE),
        acquisition_number=read.integer(_ACQUISITION),
        temporal_position=read.integer(_TEMPORAL),
        body_part=(read.text(_BODY_PART) or "").upper() or None,
        kernel=next((part for part in read.texts(_KERNEL) if part), None),
        contrast=_contrast(read),
        manufacturer=read.text(_MANUFACTURER),
        patient_position=read.text(_PATIENT_POSITION),
        counts=_counts(read),
        geometry=geometry,
        pixels=pixels,
        defect=defect,
    )


class _Values:
    """Values of a header as Python objects; None for what is missing or not what its VR says."""

    def __init__(self, header: Header) -> None:
        self._values = header.values
        self._order = "<" if header.little_endian else ">"

    def stripped(self, tag: int) -> bytes:
        return self._values.get(tag, b"").strip(b" \0")

    def texts(self, tag: int) -> list[str]:
        raw = self.stripped(tag)
        if not raw or len(raw) > 1024:
            return []
        return [part.strip()[:64] for part in raw.decode("ascii", "replace").split("\\")]

    def text(self, tag: int) -> str | None:
        """The value as one short text, for single values."""
        raw = self.stripped(tag)
        return raw[:64].decode("ascii", "replace").strip() or None if raw else None

    def unsigned(self, tag: int) -> int | None:
        raw = self._values.get(tag, b"")
        return int(struct.unpack(self._order + "H", raw)[0]) if len(raw) == 2 else None

    def integer(self, tag: int) -> int | None:
        parts = self.texts(tag)
        try:
            number = int(parts[0]) if parts else None
        except ValueError:
            return None
        return number if number is not None and -(2**31) <= number < 2**31 else None

    def decimals(self, tag: int, count: int) -> tuple[float, ...] | None:
        """Exactly ``count`` finite decimals, else None."""
        parts = self.texts(tag)
        if len(parts) != count:
            return None
        try:
            numbers = tuple(float(part) for part in parts)
        except ValueError:
            return None
        return numbers if all(math.isfinite(n) and abs(n) < 1e7 for n in numbers) else None

    def decimal(self, tag: int) -> float | None:
        numbers = self.decimals(tag, 1)
        return numbers[0] if numbers else None


def _positive(number: float | None) -> float | None:
    return number if number is not None and number > 0 else None


def _geometry(read: _Values) -> Geometry | None:
    rows, columns = read.unsigned(_ROWS), read.unsigned(_COLUMNS)
    if not rows or not columns:
        return None
    position = read.decimals(_POSITION, 3)
    orientation = read.decimals(_ORIENTATION, 6)
    spacing = read.decimals(_PIXEL_SPACING, 2)
    return Geometry(
        rows=rows,
        columns=columns,
        position_lps=(position[0], position[1], position[2]) if position else None,
        orientation_lps=_unit_pair(orientation) if orientation else None,
        pixel_spacing=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        slice_thickness=_positive(read.decimal(_THICKNESS)),
        spacing_between_slices=read.decimal(_SPACING_BETWEEN),
        frame_of_reference_uid=read.text(_FRAME_OF_REFERENCE),
        gantry_tilt=read.decimal(_TILT),
    )


def _unit_pair(values: tuple[float, ...]) -> tuple[float, float, float, float, float, float] | None:
    """Two directions, as stored, when they are unit vectors at a right angle within 1e-3 (PS3.3 C.7.6.2.1.1)."""
    a, b = values[:3], values[3:]
    lengths_fit = all(abs(math.hypot(*vector) - 1) < 1e-3 for vector in (a, b))
    if not lengths_fit or abs(sum(x * y for x, y in zip(a, b, strict=True))) > 1e-3:
        return None
    return a[0], a[1], a[2], b[0], b[1], b[2]


def _is_lossy(read: _Values, transfer_syntax_uid: str) -> bool:
    if read.text(_LOSSY) == "01":
        return True
    if transfer_syntax_uid in _NATIVE or transfer_syntax_uid in _LOSSLESS:
        return False
    # Of the syntaxes that leave it open, JPEG-LS near-lossless, J2K and HTJ2K: a header that states "00" is believed.
    may_be_lossless = transfer_syntax_uid in {
        "1.2.840.10008.1.2.4.81",
        "1.2.840.10008.1.2.4.91",
        "1.2.840.10008.1.2.4.203",
    }
    return not (may_be_lossless and read.text(_LOSSY) == "00")


def _pixels(header: Header, read: _Values, *, stored: Stored) -> tuple[Pixels | None, str | None]:
    """Where the pixels lie, and what is wrong with them."""
    image = _should_be_image(stored.sop_class_uid)
    if header.pixel_offset is None:
        if header.cut:
            return None, Reason.CUT_SHORT
        return None, Reason.NO_PIXELS if image else None
    rows, columns = read.unsigned(_ROWS), read.unsigned(_COLUMNS)
    allocated = read.unsigned(_ALLOCATED)
    if header.pixel_tag in FLOAT_PIXELS:
        return None, Reason.UNSUPPORTED_PIXELS
    if not rows or not columns or not allocated:
        return None, Reason.HEADER_UNREADABLE
    bits = read.unsigned(_STORED) or allocated
    frames = read.integer(_FRAMES) or 1
    samples = read.unsigned(_SAMPLES) or 1
    slope, intercept = read.decimal(_SLOPE), read.decimal(_INTERCEPT)
    encapsulated = header.encapsulated
    present = header.size - header.pixel_offset
    length = min(header.pixel_length or present, present)
    pixels = Pixels(
        offset=header.pixel_offset,
        length=length,
        encapsulated=encapsulated,
        lossy=_is_lossy(read, stored.transfer_syntax_uid),
        frames=frames,
        samples_per_pixel=samples,
        photometric=(read.text(_PHOTOMETRIC) or "")[:16],
        bits_allocated=allocated,
        bits_stored=bits,
        signed=read.unsigned(_REPRESENTATION) == 1,
        rescale_slope=1.0 if slope is None else slope,
        rescale_intercept=0.0 if intercept is None else intercept,
    )
    if header.cut or header.pixel_length > present:
        return pixels, Reason.CUT_SHORT
    native_syntax = stored.transfer_syntax_uid in _NATIVE
    if encapsulated == native_syntax:
        return pixels, Reason.HEADER_UNREADABLE
    if frames < 1 or slope == 0 or not 1 <= bits <= allocated:
        return pixels, Reason.HEADER_UNREADABLE
    if not encapsulated and length < (rows * columns * samples * frames * allocated + 7) // 8:
        return pixels, Reason.PIXELS_SHORT
    if pixels.lossy:
        return pixels, Reason.LOSSY
    if stored.transfer_syntax_uid == _DEFLATED:
        # A place in the inflated data set is no place in the file.
        return pixels, Reason.UNSUPPORTED_SYNTAX
    if samples != 1 or allocated not in (8, 16, 32) or not pixels.photometric.startswith("MONOCHROME"):
        return pixels, Reason.UNSUPPORTED_PIXELS
    return pixels, None


def _should_be_image(sop_class_uid: str) -> bool:
    return sop_class_uid not in _NO_IMAGE and not sop_class_uid.startswith(_NO_IMAGE_PREFIXES)


def _contrast(read: _Values) -> bool:
    """A contrast agent is named. Writers put NONE there as often as nothing."""
    agent = (read.text(_CONTRAST) or "").upper()
    if agent:
        return agent not in _NO_CONTRAST_WORDS
    return len(read.stripped(_CONTRAST_SEQUENCE)) > 8


def _counts(read: _Values) -> tuple[tuple[str, int], ...]:
    found = []
    for tag, keyword in _COUNTS.items():
        number = read.unsigned(tag) if tag in _BINARY_COUNTS else read.integer(tag)
        if number is not None and number > 0:
            found.append((keyword, number))
    return tuple(found)


def _stated_priority(header: Header, read: _Values) -> Priority | None:
    """Requested Procedure Priority (0040,1003), of the object or of the request it answers."""
    nested = find_nested(header, _REQUEST_SEQUENCE, _PRIORITY) or b""
    stated = (read.text(_PRIORITY) or nested.strip(b" \0").decode("ascii", "replace")).upper()
    return Priority(stated) if stated in Priority.__members__.values() else None


def _digest(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(4, "little"))
        total.update(part)
    return total.hexdigest()


def _named(read: _Values, tags: Iterable[int]) -> str:
    return _digest(b"%08x" % tag + b"=" + read.stripped(tag) for tag in tags)


def _half(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:32] if value else "0" * 32


def _content_digest(
    file: BinaryIO, header: Header, *, pixels: Pixels | None, geometry: Geometry | None, stored: Stored
) -> str:
    """sha256 of the pixel bytes and of all that a number computed from them depends on.

    An object without pixels (a report) has only its class here: nothing is ever computed from it, and a corrected
    name in it must not look like another content.
    """
    if pixels is None:
        return _digest([b"no pixels", stored.sop_class_uid.encode(), repr(geometry).encode()])
    about = (
        pixels.frames, pixels.samples_per_pixel, pixels.photometric, pixels.bits_allocated, pixels.bits_stored,
        pixels.signed, pixels.rescale_slope, pixels.rescale_intercept, pixels.encapsulated, geometry,
    )  # fmt: skip
    total = hashlib.sha256(repr(about).encode())
    if pixels.encapsulated:
        total.update(stored.transfer_syntax_uid.encode())
    swap = not header.little_endian and pixels.bits_allocated == 16
    left = pixels.length
    if not pixels.encapsulated and geometry is not None:
        # A pad byte is no pixel.
        bits = geometry.rows * geometry.columns * pixels.samples_per_pixel * pixels.frames * pixels.bits_allocated
        left = min(left, (bits + 7) // 8)
    file.seek(pixels.offset)
    while left > 0:
        chunk = file.read(min(left, _HASH_CHUNK))
        if not chunk:
            break
        left -= len(chunk)
        total.update(_swapped(chunk) if swap else chunk)
    return total.hexdigest()


def _swapped(chunk: bytes) -> bytes:
    """16-bit words in the other byte order, so that the same pixels have one digest in both."""
    even = bytearray(chunk)
    count = len(even) // 2 * 2
    even[0:count:2], even[1:count:2] = even[1:count:2], even[0:count:2]
    return bytes(even)


def without_header(stored: Stored, defect: str) -> Instance:
    """An object of which nothing can be said but what the receiver knew.

    Whose it is cannot be told: no identity (empty) and no Patient ID (zeros), so that it contradicts nobody.
    """
    return Instance(
        sop_instance_uid=stored.sop_instance_uid, sop_class_uid=stored.sop_class_uid,
        series_instance_uid=stored.series_instance_uid, study_instance_uid=stored.study_instance_uid,
        transfer_syntax_uid=stored.transfer_syntax_uid, modality=_modality_of_class(stored.sop_class_uid),
        location=stored.location, file_sha256=stored.file_sha256, content_sha256=stored.file_sha256,
        identity_sha256="", patient_sha256=_half(b"") * 2, accession_sha256=None, association=stored.association,
        calling_ae=stored.calling_ae, called_ae=stored.called_ae, priority=stored.priority(None),
        received_at=stored.received_at, defect=defect,
    )  # fmt: skip


def _modality_of_class(sop_class_uid: str) -> str:
    """Modality that a storage class stands for, for objects whose own cannot be read."""
    if sop_class_uid in _CT_CLASSES:
        return "CT"
    return "MR" if sop_class_uid in _MR_CLASSES else ""
