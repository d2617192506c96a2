"""Facts of one stored object: everything later steps need, read once from its header. Not a parser of headers."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from functools import lru_cache
from typing import BinaryIO, Protocol

from ichor.identity import DIGESTED, PERSON
from ichor.reasons import Reason
from ichor.series import dialects, pixels, rescale, sequence
from ichor.series.header import HeaderError, Selection, inflated, walk_header
from ichor.series.kinds import (
    ge_component,
    kind_of_calculation,
    kind_of_class,
    kind_of_types,
    only_compressed,
    stated_component,
)
from ichor.series.likeness import Likeness
from ichor.series.values import Values
from ichor.types import (
    Component,
    Dialect,
    Frame,
    Geometry,
    Instance,
    Kind,
    Pixels,
    Priority,
    SequenceFacts,
    Slot,
)
from ichor.uids import accession_digest

MADE_BY = "ICHOR"

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
_PIXEL_SPACING = 0x00280030
_CALCULATION, _COMPLEX = 0x00089207, 0x00089208
_GE_GROUP, _GE_CREATOR, _GE_IMAGE_TYPE = 0x0043, "GEMS_PARM", 0x2F
_REQUEST_SEQUENCE, _PRIORITY = 0x00400275, 0x00401003

_COUNTS = {
    0x00181090: "CardiacNumberOfImages",
    0x00200105: "NumberOfTemporalPositions",
    0x00201002: "ImagesInAcquisition",
    0x00201209: "NumberOfSeriesRelatedInstances",
    0x00209163: "InConcatenationTotalNumber",
    0x00280008: "NumberOfFrames",
    0x00540081: "NumberOfSlices",
    0x00540101: "NumberOfTimeSlices",
}
_BINARY_COUNTS = frozenset({0x00209163, 0x00540081, 0x00540101})  # US; the others are IS

_WANTED = frozenset(
    {
        _IMAGE_TYPE, _MODALITY, _MANUFACTURER, _ACCESSION, _PATIENT_ID, _ISSUER, _CONTRAST, _CONTRAST_SEQUENCE,
        _BODY_PART, _THICKNESS, _SPACING_BETWEEN, _TILT, _KERNEL, _PATIENT_POSITION, _SERIES_NUMBER, _ACQUISITION,
        _INSTANCE, _POSITION, _ORIENTATION, _FRAME_OF_REFERENCE, _TEMPORAL, pixels.SAMPLES, pixels.PHOTOMETRIC,
        pixels.FRAMES, pixels.ROWS, pixels.COLUMNS, _PIXEL_SPACING, pixels.ALLOCATED, pixels.STORED,
        pixels.REPRESENTATION, rescale.INTERCEPT, rescale.SLOPE, rescale.RESCALE_TYPE, rescale.MAPPINGS, pixels.LOSSY,
        _CALCULATION, _COMPLEX, _REQUEST_SEQUENCE, _PRIORITY, *_COUNTS, *DIGESTED,
    }
)  # fmt: skip
_UIH_TILES = (0x0065, 0x51)
_MIB = 1 << 20
_SELECTION = Selection(
    _WANTED | sequence.WANTED | dialects.WANTED,
    private=dialects.WANTED_PRIVATE | {(_GE_GROUP, _GE_IMAGE_TYPE)},
    limits={sequence.PER_FRAME: 64 * _MIB, sequence.SHARED: 4 * _MIB, rescale.MAPPINGS: _MIB},
    # CSA headers have some 100 KiB, United Imaging's sequence of tiles may have more.
    private_limits=dict.fromkeys(dialects.WANTED_PRIVATE, _MIB) | {_UIH_TILES: 4 * _MIB},
)
_LIKENESS = Likeness()
_MAX_FRAMES = 50_000
_PRIORITIES = {priority.value: priority for priority in Priority}
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
    return _read(file, stored=stored, digest=True)


def read_facts(file: BinaryIO, *, stored: Stored) -> Instance:
    """As `read_instance`, without reading the pixels: ``content_sha256`` is empty, unless no header could be read."""
    return _read(file, stored=stored, digest=False)


def _read(file: BinaryIO, *, stored: Stored, digest: bool) -> Instance:
    try:
        if stored.transfer_syntax_uid == pixels.DEFLATED:
            file = inflated(file)
        series = stored.series_instance_uid, stored.transfer_syntax_uid
        header = walk_header(
            file, transfer_syntax_uid=stored.transfer_syntax_uid, selection=_SELECTION, runs=_LIKENESS.runs(series)
        )
        _LIKENESS.learn(series, header)
    except HeaderError as error:
        return without_header(stored, Reason.CUT_SHORT if error.cut else Reason.HEADER_UNREADABLE)
    if header.pixel_offset is None and (header.cut or not header.values):
        # Half a header would look like another patient's, or like a corrected one.
        return without_header(stored, Reason.CUT_SHORT if header.cut else Reason.HEADER_UNREADABLE)
    values = Values.of(header)
    sop_class_uid, syntax = stored.sop_class_uid, stored.transfer_syntax_uid
    modality = (values.text(_MODALITY) or "")[:16].upper()
    manufacturer = values.text(_MANUFACTURER)
    image_type = tuple(part.upper() for part in values.texts(_IMAGE_TYPE)[:8])
    is_image = _should_be_image(sop_class_uid)
    found, defect, unit = pixels.read_pixels(header, values, transfer_syntax_uid=syntax, expected=is_image)
    told = dialects.read_dialect(
        values,
        sop_class_uid=sop_class_uid,
        geometry=_geometry(values),
        frames=found.frames if found else 1,
        image_type=image_type,
        manufacturer=manufacturer,
    )
    kind, why, component = _kind(
        values, stored=stored, image_type=image_type, manufacturer=manufacturer, lossy=bool(found and found.lossy)
    )
    if modality != "MR":
        component = None
    frames = told.frames
    if frames:
        frames, kind, why = _with_kinds(frames, kind=kind, why=why)
    elif _is_trace(told.slot) and kind in (Kind.IMAGE, Kind.DERIVED):
        kind, why = Kind.TRACE, "the diffusion weighting is isotropic"
    return Instance(
        sop_instance_uid=stored.sop_instance_uid,
        sop_class_uid=sop_class_uid,
        series_instance_uid=stored.series_instance_uid,
        study_instance_uid=stored.study_instance_uid,
        transfer_syntax_uid=syntax,
        modality=modality,
        location=stored.location,
        file_sha256=stored.file_sha256,
        content_sha256=pixels.content_digest(
            file,
            header,
            pixels=found,
            geometry=told.geometry,
            slot=told.slot,
            tiling=told.tiling,
            frames=frames,
            sop_class_uid=sop_class_uid,
            transfer_syntax_uid=syntax,
        )
        if digest
        else "",
        identity_sha256=_identity(values),
        patient_sha256=_half(values.stripped(_PATIENT_ID)) + _half(values.stripped(_ISSUER)),
        accession_sha256=accession_digest(values.stripped(_ACCESSION)),
        association=stored.association,
        calling_ae=stored.calling_ae,
        called_ae=stored.called_ae,
        priority=stored.priority(_stated_priority(values)),
        received_at=stored.received_at,
        made_by_ichor=(manufacturer or "").upper() == MADE_BY,
        image_type=image_type,
        series_number=values.integer(_SERIES_NUMBER),
        instance_number=values.integer(_INSTANCE),
        acquisition_number=values.integer(_ACQUISITION),
        temporal_position=values.integer(_TEMPORAL),
        body_part=(values.text(_BODY_PART) or "").upper() or None,
        kernel=next((part for part in values.texts(_KERNEL) if part), None),
        contrast=_contrast(values),
        manufacturer=manufacturer,
        patient_position=values.text(_PATIENT_POSITION),
        counts=_counts(values) + told.counts,
        geometry=told.geometry,
        pixels=found,
        defect=defect or told.defect or _frames_defect(told.dialect, frames, pixels=found),
        dialect=told.dialect,
        kind=kind,
        kind_reason=why,
        slot=_slot(told.slot, kind=kind, component=component),
        tiling=told.tiling,
        frames=frames,
        unit=unit or rescale.unit_of_rescale(values) or (_unit_of_frames(values, pixels=found) if frames else None),
        sequence=_sequence(values, image_type=image_type) if modality == "MR" and is_image else None,
    )


def _kind(
    values: Values, *, stored: Stored, image_type: tuple[str, ...], manufacturer: str | None, lossy: bool
) -> tuple[Kind, str | None, Component | None]:
    """Kind of a whole object by its class and types, the reason for it, and the component that its header names."""
    if not _should_be_image(stored.sop_class_uid):
        return Kind.REPORT, "the SOP Class holds no image", None
    kind, why, component = kind_of_types(image_type, manufacturer=manufacturer)
    if lossy and kind is Kind.DERIVED and only_compressed(image_type):
        kind, why = Kind.IMAGE, None
    by_calculation = kind_of_calculation(values.text(_CALCULATION))
    if by_calculation and kind in (Kind.IMAGE, Kind.DERIVED):
        kind, why = by_calculation
    kind, why = kind_of_class(stored.sop_class_uid) or (kind, why)
    stated = stated_component(values.text(_COMPLEX)) or _ge_component(values)
    return kind, why, stated or component


def _ge_component(values: Values) -> Component | None:
    tag = values.private(_GE_GROUP, _GE_CREATOR, _GE_IMAGE_TYPE)
    if tag is None:
        return None
    numbers = values.numbers(tag, "h", 1)
    return ge_component(int(numbers[0])) if numbers else None


def _is_trace(slot: Slot) -> bool:
    diffusion = slot.diffusion
    return diffusion is not None and diffusion.isotropic and diffusion.b_value > 0


def _slot(slot: Slot, *, kind: Kind, component: Component | None) -> Slot:
    component = component or slot.component
    if slot.kind is kind and slot.component is component:
        return slot
    return replace(slot, kind=kind, component=component)


def _with_kinds(
    frames: tuple[Frame, ...], *, kind: Kind, why: str | None
) -> tuple[tuple[Frame, ...], Kind, str | None]:
    """Frames with the kind that each has by its own facts; the one kind of all, or image, and why."""
    decided = kind in (Kind.SECONDARY_CAPTURE, Kind.LOCALIZER, Kind.REPORT)
    told = []
    for frame in frames:
        slot = frame.slot
        own = kind if decided else slot.kind
        if _is_trace(slot) and own in (Kind.IMAGE, Kind.DERIVED):
            own = Kind.TRACE
        told.append(frame if own is slot.kind else replace(frame, slot=replace(slot, kind=own)))
    kinds = {frame.slot.kind for frame in told}
    if len(kinds) > 1:
        return tuple(told), Kind.IMAGE, "frames are of several kinds: " + ", ".join(sorted(kinds))
    common = kinds.pop()
    if common is kind:
        return tuple(told), kind, why
    return tuple(told), common, None if common is Kind.IMAGE else f"Frame Type of all frames says {common}"


def _frames_defect(dialect: Dialect, frames: tuple[Frame, ...], *, pixels: Pixels | None) -> str | None:
    if dialect is not Dialect.ENHANCED or pixels is None:
        return None
    if not frames or len(frames) != pixels.frames or len(frames) > _MAX_FRAMES:
        return Reason.FRAMES_DISAGREE
    return Reason.HEADER_UNREADABLE if any(not frame.rescale_slope for frame in frames) else None


def _unit_of_frames(values: Values, *, pixels: Pixels | None) -> str | None:
    """Unit that all frames share; None where it stands frame by frame."""
    for shared in values.items(sequence.SHARED, most=1):
        if pixels is not None:
            mapping = rescale.real_world_mapping(shared, bits_stored=pixels.bits_stored, signed=pixels.signed)
            if mapping is not None:
                return mapping.unit
        for transformation in shared.items(rescale.TRANSFORMATIONS, most=1):
            return rescale.unit_of_rescale(transformation)
    return None


def _sequence(values: Values, *, image_type: tuple[str, ...]) -> SequenceFacts:
    first = values.items(sequence.PER_FRAME, most=1)
    return sequence.read_sequence(values, image_type=image_type, frame=first[0] if first else None)


def _positive(number: float | None) -> float | None:
    return number if number is not None and number > 0 else None


def _geometry(values: Values) -> Geometry | None:
    rows, columns = values.unsigned(pixels.ROWS), values.unsigned(pixels.COLUMNS)
    if not rows or not columns:
        return None
    position = values.decimals(_POSITION, 3)
    orientation = values.decimals(_ORIENTATION, 6)
    spacing = values.decimals(_PIXEL_SPACING, 2)
    return Geometry(
        rows=rows,
        columns=columns,
        position_lps=(position[0], position[1], position[2]) if position else None,
        orientation_lps=_unit_pair(orientation) if orientation else None,
        pixel_spacing=(spacing[0], spacing[1]) if spacing and min(spacing) > 0 else None,
        slice_thickness=_positive(values.decimal(_THICKNESS)),
        spacing_between_slices=values.decimal(_SPACING_BETWEEN),
        frame_of_reference_uid=values.text(_FRAME_OF_REFERENCE),
        gantry_tilt=values.decimal(_TILT),
    )


def _unit_pair(values: tuple[float, ...]) -> tuple[float, float, float, float, float, float] | None:
    """Two directions, as stored, when they are unit vectors at a right angle within 1e-3 (PS3.3 C.7.6.2.1.1)."""
    a, b = values[:3], values[3:]
    lengths_fit = all(abs(math.hypot(*vector) - 1) < 1e-3 for vector in (a, b))
    if not lengths_fit or abs(sum(x * y for x, y in zip(a, b, strict=True))) > 1e-3:
        return None
    return a[0], a[1], a[2], b[0], b[1], b[2]


def _should_be_image(sop_class_uid: str) -> bool:
    return sop_class_uid not in _NO_IMAGE and not sop_class_uid.startswith(_NO_IMAGE_PREFIXES)


def _contrast(values: Values) -> bool:
    """A contrast agent is named. Writers put NONE there as often as nothing."""
    agent = (values.text(_CONTRAST) or "").upper()
    if agent:
        return agent not in _NO_CONTRAST_WORDS
    return len(values.stripped(_CONTRAST_SEQUENCE)) > 8


def _counts(values: Values) -> tuple[tuple[str, int], ...]:
    found = []
    for tag, keyword in _COUNTS.items():
        number = values.unsigned(tag) if tag in _BINARY_COUNTS else values.integer(tag)
        if number is not None and number > 0:
            found.append((keyword, number))
    return tuple(found)


def _stated_priority(values: Values) -> Priority | None:
    """Requested Procedure Priority (0040,1003), of the object or of the request it answers."""
    stated = values.text(_PRIORITY)
    raw = values.raw(_REQUEST_SEQUENCE)
    # Few requests state one: parse only those that can.
    if stated is None and (b"\x40\0\x03\x10" in raw or b"\0\x40\x10\x03" in raw):
        nested = (item.text(_PRIORITY) for item in values.items(_REQUEST_SEQUENCE))
        stated = next((text for text in nested if text), None)
    return _PRIORITIES.get((stated or "").upper())


_IDENTITY_TAGS = tuple(dict.fromkeys((*PERSON, *DIGESTED)))


def _identity(values: Values) -> str:
    """Whose the study is: half a digest of the person (`ichor.identity.person_of`), half of all that is copied."""
    return _digests_of(tuple(map(values.kept.get, _IDENTITY_TAGS)))


@lru_cache(maxsize=64)
def _digests_of(stored: tuple[bytes | None, ...]) -> str:
    """As `_identity`; all headers of a study have the same values."""
    named = {tag: (raw or b"").strip(b" \0") for tag, raw in zip(_IDENTITY_TAGS, stored, strict=True)}
    halves = (
        hashlib.sha256(b"".join(_named(tag, named[tag]) for tag in tags)).hexdigest()[:32]
        for tags in (PERSON, DIGESTED)
    )
    return "".join(halves)


def _named(tag: int, value: bytes) -> bytes:
    """Length, tag and value, for a digest."""
    return b"%s%08x=%s" % ((len(value) + 9).to_bytes(4, "little"), tag, value)


def _half(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:32] if value else "0" * 32


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
    """Modality that a storage class stands for, for objects whose own cannot be values."""
    if sop_class_uid in _CT_CLASSES:
        return "CT"
    return "MR" if sop_class_uid in _MR_CLASSES else ""
