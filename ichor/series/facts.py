"""Facts of one stored object: everything later steps need, read once from its header. Not a parser of headers."""

from __future__ import annotations

from typing import Any, BinaryIO, Protocol

from ichor.identity import DIGESTED
from ichor.reasons import Reason
from ichor.series import dialects, image_plane, object_kinds, pixels, rescale, sequence
from ichor.series.dialects import classic, clock
from ichor.series.digests import content_digest, half_digest, identity_digest
from ichor.series.elements import HeaderError
from ichor.series.header import Header, InflatesTooFar, Selection, inflated, walk_header
from ichor.series.likeness import Likeness
from ichor.series.object_kinds import object_kind
from ichor.series.storage_classes import modality_of_class, should_be_image
from ichor.series.values import Values
from ichor.types import Dialect, Frame, Instance, Pixels, Priority, SequenceFacts
from ichor.uids import accession_digest

MADE_BY = "ICHOR"

_IMAGE_TYPE, _MODALITY, _MANUFACTURER, _ACCESSION = 0x00080008, 0x00080060, 0x00080070, 0x00080050
_PATIENT_ID, _ISSUER, _BIRTH_DATE = 0x00100020, 0x00100021, 0x00100030
_CONTRAST, _CONTRAST_SEQUENCE, _BODY_PART, _KERNEL = 0x00180010, 0x00180012, 0x00180015, 0x00181210
_SERIES_NUMBER, _ACQUISITION, _INSTANCE, _TEMPORAL = 0x00200011, 0x00200012, 0x00200013, 0x00200100
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
        _IMAGE_TYPE, _MODALITY, _MANUFACTURER, _ACCESSION, _PATIENT_ID, _ISSUER, _BIRTH_DATE, _CONTRAST, _CONTRAST_SEQUENCE,
        _BODY_PART, _KERNEL, _SERIES_NUMBER, _ACQUISITION, _INSTANCE, _TEMPORAL, rescale.RESCALE_TYPE,
        _REQUEST_SEQUENCE, _PRIORITY, *_COUNTS, *DIGESTED,
    }
)  # fmt: skip
_UIH_TILES = (0x0065, 0x51)
_MIB = 1 << 20
_SELECTION = Selection(
    _WANTED | image_plane.WANTED | pixels.WANTED | object_kinds.WANTED | sequence.WANTED | dialects.WANTED,
    private=dialects.WANTED_PRIVATE,
    limits={
        sequence.PER_FRAME: 64 * _MIB,
        sequence.SHARED: 4 * _MIB,
        rescale.MAPPINGS: _MIB,
        pixels.MODALITY_LUT: _MIB,
    },
    # CSA headers have some 100 KiB, United Imaging's sequence of tiles may have more.
    private_limits=dict.fromkeys(dialects.WANTED_PRIVATE, _MIB) | {_UIH_TILES: 4 * _MIB},
)
# Fields of an instance that the receiver wrote down.
_PROVENANCE = (
    "sop_instance_uid", "sop_class_uid", "series_instance_uid", "study_instance_uid", "transfer_syntax_uid",
    "location", "file_sha256", "association", "calling_ae", "called_ae", "received_at",
)  # fmt: skip
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


class FactsReader:
    """Reads facts of objects that come one after another: headers of a series that was read before take less time.

    What it remembers is bounded (`ichor.series.likeness`) and never changes what is read. Not to be shared by threads.
    """

    def __init__(self) -> None:
        self._likeness = Likeness()

    def read(self, file: BinaryIO, *, stored: Stored) -> Instance:
        """As `read_instance`."""
        return _read(file, stored=stored, digest=True, likeness=self._likeness)


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
    return _read(file, stored=stored, digest=True, likeness=None)


def read_facts(file: BinaryIO, *, stored: Stored) -> Instance:
    """As `read_instance`, without reading the pixels: ``content_sha256`` is empty, unless no header could be read."""
    return _read(file, stored=stored, digest=False, likeness=None)


def _read(file: BinaryIO, *, stored: Stored, digest: bool, likeness: Likeness | None) -> Instance:
    try:
        if stored.transfer_syntax_uid == pixels.DEFLATED:
            file = inflated(file)
        header = _walked(file, stored, likeness=likeness)
    except InflatesTooFar:
        return without_header(stored, Reason.INFLATES_TOO_FAR)
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
    is_image = should_be_image(sop_class_uid)
    ct = modality == "CT"
    found, defect, unit = pixels.read_pixels(header, values, transfer_syntax_uid=syntax, expected=is_image, ct=ct)
    told = dialects.read_dialect(
        values, sop_class_uid=sop_class_uid, geometry=image_plane.read_geometry(values),
        frames=found.frames if found else 1, image_type=image_type, manufacturer=manufacturer,
    )  # fmt: skip
    what = object_kind(
        values, told, sop_class_uid=sop_class_uid, modality=modality, image_type=image_type,
        manufacturer=manufacturer, lossy=bool(found and found.lossy),
    )  # fmt: skip
    acquired = _sequence(values, image_type=image_type) if modality == "MR" and is_image else None
    number = values.integer(_INSTANCE)
    content = ""
    if digest:
        content = content_digest(
            file, header, pixels=found, geometry=told.geometry, slot=what.slot, tiling=told.tiling,
            frames=what.frames, instance_number=number,
            has_axes=acquired is not None or told.tiling is not None or bool(what.frames), sop_class_uid=sop_class_uid,
            transfer_syntax_uid=syntax,
        )  # fmt: skip
    return Instance(
        **_provenance(stored),
        modality=modality,
        content_sha256=content,
        identity_sha256=identity_digest(values),
        patient_sha256=half_digest(values.stripped(_PATIENT_ID)) + half_digest(values.stripped(_ISSUER)),
        birth_date_sha256=_birth_date(values),
        acquired_at=clock.acquired_at(
            date_time=values.text(classic.ACQUISITION_DATE_TIME),
            date=values.text(classic.ACQUISITION_DATE),
            time=values.text(classic.ACQUISITION_TIME),
        ),
        accession_sha256=accession_digest(values.stripped(_ACCESSION)),
        priority=stored.priority(_stated_priority(values)),
        made_by_ichor=(manufacturer or "").upper() == MADE_BY,
        image_type=image_type,
        series_number=values.integer(_SERIES_NUMBER),
        instance_number=number,
        acquisition_number=values.integer(_ACQUISITION),
        temporal_position=values.integer(_TEMPORAL),
        body_part=(values.text(_BODY_PART) or "").upper() or None,
        kernel=next((part for part in values.texts(_KERNEL) if part), None),
        contrast=_contrast(values),
        manufacturer=manufacturer,
        counts=_counts(values) + told.counts,
        geometry=told.geometry,
        pixels=found,
        defect=defect or told.defect or _frames_defect(told.dialect, what.frames, pixels=found),
        dialect=told.dialect,
        kind=what.kind,
        kind_reason=what.reason,
        slot=what.slot,
        tiling=told.tiling,
        frames=what.frames,
        unit=unit or rescale.unit_of_rescale(values, ct=ct) or told.unit,
        sequence=acquired,
    )


def _walked(file: BinaryIO, stored: Stored, *, likeness: Likeness | None) -> Header:
    if likeness is None:
        return walk_header(file, transfer_syntax_uid=stored.transfer_syntax_uid, selection=_SELECTION)
    series = stored.series_instance_uid, stored.transfer_syntax_uid
    course = likeness.course(series)
    header = walk_header(file, transfer_syntax_uid=stored.transfer_syntax_uid, selection=_SELECTION, course=course)
    likeness.learn(series, header, course=course)
    return header


def _provenance(stored: Stored) -> dict[str, Any]:
    """What an instance has of the receiver, as it is there."""
    return {name: getattr(stored, name) for name in _PROVENANCE}


def _frames_defect(dialect: Dialect, frames: tuple[Frame, ...], *, pixels: Pixels | None) -> str | None:
    if dialect is not Dialect.ENHANCED or pixels is None:
        return None
    if not frames or len(frames) != pixels.frames or len(frames) > _MAX_FRAMES:
        return Reason.FRAMES_DISAGREE
    return Reason.HEADER_UNREADABLE if any(not frame.rescale_slope for frame in frames) else None


def _sequence(values: Values, *, image_type: tuple[str, ...]) -> SequenceFacts:
    first = values.items(sequence.PER_FRAME, most=1)
    return sequence.read_sequence(values, image_type=image_type, frame=first[0] if first else None)


def _birth_date(values: Values) -> str | None:
    """Of Patient ID and birth date together: of a date alone, every digest is known."""
    patient, born = values.stripped(_PATIENT_ID), values.stripped(_BIRTH_DATE)
    return half_digest(b"%d %s %s" % (len(patient), patient, born)) if patient and born else None


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


def without_header(stored: Stored, defect: str) -> Instance:
    """An object of which nothing can be said but what the receiver knew.

    Whose it is cannot be told: no identity (empty) and no Patient ID (zeros), so that it contradicts nobody.
    """
    return Instance(
        **_provenance(stored), modality=modality_of_class(stored.sop_class_uid), content_sha256=stored.file_sha256,
        identity_sha256="", patient_sha256=half_digest(b"") * 2, accession_sha256=None, priority=stored.priority(None),
        defect=defect,
    )  # fmt: skip
