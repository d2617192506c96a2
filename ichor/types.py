"""The words of Ichor as frozen types. Imports nothing of ours; every room imports it.

What travels between processes (``Instance``, ``Job`` and the messages of `ichor.messages`) is made of JSON-able
fields only; what stays inside one worker (``Findings``) carries numpy arrays, of which `ichor.arrays` knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # for annotations: who only receives must not load numpy
    import numpy as np
    import numpy.typing as npt


class Priority(StrEnum):
    """Terms of Requested Procedure Priority (0040,1003)."""

    STAT = "STAT"
    HIGH = "HIGH"
    ROUTINE = "ROUTINE"
    MEDIUM = "MEDIUM"
    LOW = "LOW"

    @property
    def lane(self) -> str:
        """The topic lane: STAT and HIGH go by the fast one."""
        return "stat" if self in (Priority.STAT, Priority.HIGH) else "routine"

    @property
    def rank(self) -> int:
        """0 is the most urgent."""
        return ("STAT", "HIGH", "ROUTINE", "MEDIUM", "LOW").index(self.value)


class Grade(StrEnum):
    """How sure we are that a series is whole; the first three are complete (docs/contract.md)."""

    COUNTED = "counted"
    REGULAR = "regular"
    QUIET = "quiet"
    OPEN = "open"
    SHORT = "short"

    @property
    def complete(self) -> bool:
        return self in (Grade.COUNTED, Grade.REGULAR, Grade.QUIET)


class Dialect(StrEnum):
    """How an object carries its images; which attributes say where they lie and what they are."""

    CLASSIC = "classic"  # one image per object
    SIEMENS_MOSAIC = "siemens_mosaic"  # all slices of a volume as tiles of one image
    UIH_TILED = "uih_tiled"  # the same idea of United Imaging ("VFRAME")
    ENHANCED = "enhanced"  # multi-frame with functional groups (PS3.3 C.7.6.16)
    MULTIFRAME = "multiframe"  # multi-frame without functional groups: frames have no place of their own


class Kind(StrEnum):
    """What sort of image (or other object) it is, told by facts; only ``image`` goes into an array beside its like."""

    IMAGE = "image"
    LOCALIZER = "localizer"
    SECONDARY_CAPTURE = "secondary_capture"
    TRACE = "trace"
    ADC = "adc"
    FA = "fa"
    MIP = "mip"
    REFORMAT = "reformat"
    DERIVED = "derived"  # any other derived image
    REPORT = "report"  # no image at all: SR, encapsulated document, presentation state, waveform


class Component(StrEnum):
    """Complex Image Component (0008,9208), or what a vendor's Image Type says of it."""

    MAGNITUDE = "magnitude"
    PHASE = "phase"
    REAL = "real"
    IMAGINARY = "imaginary"


class AxisName(StrEnum):
    """Names of the axes of a series' array, slowest first as listed here."""

    STACK = "stack"  # values: Stack IDs or numbers from 1
    COMPONENT = "component"  # values: `Component`
    IMAGE_TYPE = "image_type"  # values: Image Type, joined by backslashes
    ECHO = "echo"  # values: echo times, ms
    DIFFUSION = "diffusion"  # values: b-values, s/mm2, one per volume
    TIME = "time"  # values: seconds after the first
    TEMPORAL_POSITION = "temporal_position"  # values: indices, where no time is stated
    ACQUISITION = "acquisition"  # values: Acquisition Number (0020,0012)
    REPETITION = "repetition"  # values: 1..n, told apart by order only
    SLICE = "slice"  # values: mm along the normal
    ROW = "row"
    COLUMN = "column"


class StudyState(StrEnum):
    RECEIVING = "receiving"
    ASSEMBLING = "assembling"
    QUEUED = "queued"
    RUNNING = "running"
    SENDING = "sending"
    DONE = "done"
    FAILED = "failed"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class DeliveryState(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    COMMITTED = "committed"
    REFUSED = "refused"
    HELD = "held"
    FAILED = "failed"


class Stage(StrEnum):
    """Stages of the way of an image; label of ``ichor_stage_seconds``."""

    RECEIVE = "receive"
    ASSEMBLE = "assemble"
    QUEUE = "queue"
    VOLUME = "volume"
    INFER = "infer"
    MEASURE = "measure"
    ENCODE = "encode"
    SEND = "send"


# --- what a header says ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Image plane of one single-frame instance, as stored (PS3.3 C.7.6.2). Any part may be missing."""

    rows: int
    columns: int
    position_lps: tuple[float, float, float] | None = None
    orientation_lps: tuple[float, float, float, float, float, float] | None = None
    pixel_spacing: tuple[float, float] | None = None  # (row spacing = dy, column spacing = dx), mm
    slice_thickness: float | None = None
    spacing_between_slices: float | None = None
    frame_of_reference_uid: str | None = None
    gantry_tilt: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Where the pixel data lie in the stored file and how to read them (PS3.3 C.7.6.3)."""

    offset: int  # of the first pixel byte (native) or of the pixel data element's value (encapsulated)
    length: int  # bytes of the value present in the file
    encapsulated: bool
    lossy: bool  # by transfer syntax or (0028,2110)
    frames: int = 1
    samples_per_pixel: int = 1
    photometric: str = "MONOCHROME2"
    bits_allocated: int = 16
    bits_stored: int = 16
    signed: bool = False
    rescale_slope: float = 1.0
    rescale_intercept: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFacts:
    """How an MR image was acquired, for the rules of routing. Texts are upper case, as stored."""

    scanning_sequence: tuple[str, ...] = ()  # (0018,0020): SE, IR, GR, EP, RM
    sequence_variant: tuple[str, ...] = ()  # (0018,0021)
    acquisition_type: str | None = None  # (0018,0023): 2D, 3D
    sequence_name: str | None = None  # (0018,0024), or Pulse Sequence Name (0018,9005)
    echo_time: float | None = None  # ms
    repetition_time: float | None = None  # ms
    inversion_time: float | None = None  # ms
    flip_angle: float | None = None  # degrees
    contrast_words: tuple[str, ...] = ()  # Image Type values and Acquisition Contrast (0008,9209)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """Diffusion weighting of one image. ``source`` names the attributes that said so, e.g. ``CSA``, ``(2001,1003)``.

    ``direction_lps`` is in patient coordinates, as stated, unit within 1e-2; None for b0, and for ``isotropic`` (trace-weighted).
    ``problem``: a `Reason` when attributes contradict each other; then nothing else is to be used.
    """

    b_value: float
    direction_lps: tuple[float, float, float] | None = None
    isotropic: bool = False
    source: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where an image stands on the axes of its series other than in space. None: its header does not say.

    ``order``: the vendor's own indices that order volumes (Philips' b-value and gradient numbers, Dimension Index
    Values of an enhanced frame): for sorting only, never to tell images apart by themselves.
    """

    kind: Kind = Kind.IMAGE
    component: Component | None = None
    image_type: str | None = None  # values 3 and later of Image Type or Frame Type that are not component or kind
    stack: str | None = None
    echo_time: float | None = None  # ms
    temporal_position: int | None = None
    time: float | None = None  # seconds: since midnight, or of a trigger; comparable within one series
    acquisition: int | None = None
    diffusion: Diffusion | None = None
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """A mosaic: ``count`` tiles of (``rows``, ``columns``) in raster order, ``across`` of them in a row of the image.

    Tile k lies at ``first_position_lps + k * step_lps``: position of the centre of its first pixel, mm.
    """

    count: int
    across: int
    rows: int
    columns: int
    first_position_lps: tuple[float, float, float]
    step_lps: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame of an enhanced multi-frame object: shared and per-frame functional groups put together."""

    geometry: Geometry
    slot: Slot
    rescale_slope: float = 1.0
    rescale_intercept: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Facts of one stored SOP Instance, read once from its header. No PHI: identity is a digest.

    ``content_sha256`` covers pixel bytes, geometry and what arranges an array, ``identity_sha256`` what a result copies
    of the patient and study modules: the same content under another identity is a corrected header, not new work.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    location: str  # key of the stored file in the spool
    file_sha256: str
    content_sha256: str
    identity_sha256: str
    patient_sha256: str  # Patient ID and its issuer
    accession_sha256: str | None
    association: str
    calling_ae: str
    called_ae: str
    priority: Priority | None
    received_at: float  # POSIX seconds, when Success was answered
    made_by_ichor: bool = False
    image_type: tuple[str, ...] = ()
    series_number: int | None = None
    instance_number: int | None = None
    acquisition_number: int | None = None
    temporal_position: int | None = None
    body_part: str | None = None
    kernel: str | None = None
    contrast: bool = False
    manufacturer: str | None = None
    counts: tuple[
        tuple[str, int], ...
    ] = ()  # counts a header gives: (keyword, value), e.g. ("ImagesInAcquisition", 40)
    geometry: Geometry | None = None
    pixels: Pixels | None = None
    defect: str | None = None  # a Reason's text when the object cannot be measured as it is
    dialect: Dialect = Dialect.CLASSIC
    kind: Kind = Kind.IMAGE
    kind_reason: str | None = None  # the fact that says so, e.g. "Image Type has LOCALIZER"
    # Of a single image or a mosaic: where it stands. Of an enhanced object: what all its frames share.
    slot: Slot = Slot()
    tiling: Tiling | None = None
    frames: tuple[Frame, ...] = ()  # of an enhanced object, in stored order
    # UCUM, from a real-world value mapping or Rescale Type, "1" where what these say is no unit; None where nothing says
    unit: str | None = None
    sequence: SequenceFacts | None = None  # MR only
    birth_date_sha256: str | None = (
        None  # Patient's Birth Date, together with the Patient ID; None where either is missing
    )
    acquired_at: float | None = None  # of the acquisition, by the clock on the scanner's wall: seconds since 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One piece of evidence about a series: ``what`` is a short stable term, ``detail`` a sentence without PHI."""

    what: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesStatus:
    """What the assembler knows of a series at one moment."""

    series_instance_uid: str
    modality: str
    instances: int
    grade: Grade
    evidence: tuple[Evidence, ...] = ()
    roles: tuple[str, ...] = ()
    reason: str | None = None  # why it plays no role, is open or short, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRef:
    """Claim check for a manifest in the store."""

    key: str
    sha256: str
    series_instance_uid: str
    instances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Every instance of one series in slice order: what a volume is built from without parsing a file again."""

    study_instance_uid: str
    series_instance_uid: str
    revision: int
    grade: Grade
    instances: tuple[Instance, ...]
    notes: tuple[str, ...] = ()  # e.g. the gap that a report must name


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The scan of the same patient before this one, which a report is to compare with.

    ``refusal``: why it is not compared; then neither study nor inputs are named. ``hours`` lie between the acquisitions.
    """

    study_instance_uid: str = ""
    inputs: Mapping[str, ManifestRef] = field(default_factory=dict)  # role -> manifest
    hours: float = 0.0
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one study has for one pipeline, for a later study of the same patient to be compared with.

    Attributes
    ----------
    patient, issuer : digests; zeros where the header has none.
    birth_date : digest, None where it is missing.
    acquired_at : by the scanner's clock (`ichor.types.Instance.acquired_at`), None where no image says it.
    acquired_until : the same of its last image.
    received_at : stands in for that, to tell whether it matters that it is missing.
    about : digest of content and identity: with another one it is to be compared anew.
    """

    study_instance_uid: str
    pipeline: str
    patient: str
    issuer: str
    birth_date: str | None
    acquired_at: float | None
    received_at: float
    about: str
    inputs: Mapping[str, ManifestRef]
    acquired_until: float | None = None

    @property
    def told(self) -> Scan:
        """What others depend on: a new job on the same content under the same identity changes nothing for them."""
        return replace(self, inputs={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work for one pipeline on one study. ``refusal`` is set when the study should be analysed and cannot be."""

    job_id: str
    study_instance_uid: str
    pipeline: str
    revision: int
    priority: Priority
    inputs: Mapping[str, ManifestRef]  # role -> manifest
    received_at: float  # when the last image it uses was acknowledged
    queued_at: float
    refusal: str | None = None
    # Series that the job answers for but cannot read, for a refusal: the report still cites one source image.
    sources: tuple[ManifestRef, ...] = ()
    earlier: Earlier | None = None


# --- what a worker computes with ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of an array: ``values`` has one entry per index, of the meaning that `AxisName` gives."""

    name: AxisName
    values: tuple[float | int | str, ...]

    @property
    def size(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientTable:
    """Diffusion weighting of the volumes along a diffusion axis, in its order.

    ``directions_lps`` are in patient coordinates, as stated, unit within 1e-2; (0, 0, 0) for b0. ``source`` names the
    attributes.
    """

    b_values: tuple[float, ...]
    directions_lps: tuple[tuple[float, float, float], ...]
    source: str


# --- findings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded concept: value, coding scheme designator, meaning (PS3.3 section 8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A number with its coded meaning. ``name`` is the stable REST name, ``unit`` UCUM."""

    name: str
    value: float
    unit: str
    code: Code
    method: str | None = None
    report_scale: float = 1.0  # a report prints value * report_scale in report_unit
    report_unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A coded sentence, e.g. none found, not analysed and why, what was not assessed."""

    code: Code
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """One segment on the grid of a volume: ``mask_zyx`` uint8 0/1 of the volume's shape."""

    label: str
    mask_zyx: npt.NDArray[np.uint8]
    category: Code
    type: Code
    site: Code
    tracking_id: str
    colour_lab: tuple[float, float, float] = (50.0, 60.0, 40.0)  # CIELab, recommended display


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametricMap:
    """A quantity per voxel on the grid of a volume, true zero where nothing is."""

    label: str
    values_zyx: npt.NDArray[np.float32]
    quantity: Code
    unit: Code
    derivation: Code
    value_range: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingGroup:
    """Measurements and statements about one thing (a lesion, the whole head), tied to a segment by tracking id."""

    tracking_id: str
    finding: Code
    site: Code | None = None
    laterality: Code | None = None
    segmentation: Segmentation | None = None
    measurements: tuple[Measurement, ...] = ()
    statements: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """Who made it: pipeline, model and engine, named in every object."""

    pipeline: str
    version: str
    parameters: Mapping[str, Any]
    model: str | None = None
    weights_sha256: str | None = None
    engine: str | None = None  # runtime and precision: shown, never part of a UID


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a pipeline has to say about one study.

    ``outcome``: ``found``, ``none`` (an answer too) or ``not_analysed`` (then ``reason`` says why and there are no
    measurements).
    """

    outcome: str
    summary: tuple[str, ...]  # short sentences for the text report and the console, in reading order
    algorithm: Algorithm
    groups: tuple[FindingGroup, ...] = ()
    maps: tuple[ParametricMap, ...] = ()
    measurements: tuple[Measurement, ...] = ()  # totals, shown by REST
    not_assessed: tuple[str, ...] = ()
    reason: str | None = None
    window: tuple[float, float] = (40.0, 80.0)  # centre and width for pictures
    # Objects of another study that the answer rests on, the reports among them first: study, series, class, instance.
    pertinent: tuple[tuple[str, str, str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultObject:
    """One encoded DICOM object in the results store.

    ``kind``: segmentation, parametric_map, overlay, report, text_report. ``label``: what tells it from others of its kind.
    """

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    kind: str
    key: str
    sha256: str
    length: int
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A preview PNG of a result, kept beside it: ``key`` in the store."""

    key: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultSet:
    """All that one job gave, as stored once and for ever (put if absent)."""

    job_id: str
    study_instance_uid: str
    pipeline: str
    revision: int
    outcome: str
    reason: str | None
    summary: tuple[str, ...]
    objects: tuple[ResultObject, ...]
    pictures: tuple[Picture, ...]
    measurements: tuple[tuple[str, float, str], ...]  # (name, value, unit)
    identity_sha256: str
    input_series: tuple[str, ...]
    predecessor: str | None = None  # job_id of the result set that this one amends
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where results go."""

    name: str
    ae_title: str
    host: str
    port: int


T = TypeVar("T")


def unique(items: Sequence[T]) -> tuple[T, ...]:
    """Items in order of first appearance."""
    return tuple(dict.fromkeys(items))
