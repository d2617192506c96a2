"""Messages to send and the sender of `replay.c`. Synthetic images with headers as scanners write them; measures nothing.

The sender is in C as Python cannot keep up with the receivers: it is compiled for each run, from this folder.
"""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

INSTANCE, SERIES, STUDY = "1888888888", "1777777777", "1666666666"  # replay.c puts numbers there
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
_ROOT = "1.2.826.0.1.3680043.10.1434"
_OW_LONG = struct.Struct("<HH2sHI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is sent: ``frames`` of ``matrix`` x ``matrix`` 16-bit pixels."""

    name: str
    sop_class: str
    modality: str
    matrix: int
    frames: int = 1


KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="CT", sop_class=CT, modality="CT", matrix=512),
        Kind(name="MR", sop_class=MR, modality="MR", matrix=128),
        Kind(name="4KB", sop_class=CT, modality="CT", matrix=35),
        Kind(name="500MB", sop_class=ENHANCED_CT, modality="CT", matrix=512, frames=1000),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """One kind's files for `replay.c`: A-ASSOCIATE-RQ, command set, data set."""

    kind: Kind
    request: Path
    command: Path
    data_set: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What the sender saw; times in milliseconds, from the last byte sent to the response."""

    acknowledged: int
    failed: int
    seconds: float
    p50: float
    p95: float
    p99: float
    longest: float

    @property
    def rate(self) -> float:
        return self.acknowledged / self.seconds


class Sender:
    """`replay.c`, compiled into ``folder``, and the messages that it sends."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or "gcc"
        self._folder = folder
        self._program = folder / "replay"
        source = Path(__file__).with_name("replay.c")
        subprocess.run([compiler, "-O2", "-o", str(self._program), str(source), "-lpthread"], check=True)

    def messages(self, name: str, *, root: int = 1) -> Messages:
        """The messages of a kind; another ``root``, other UIDs."""
        kind = KINDS[name]
        made = Messages(
            kind=kind,
            request=self._folder / f"{name}-{root}.request",
            command=self._folder / f"{name}-{root}.command",
            data_set=self._folder / f"{name}-{root}.data",
        )
        if not made.data_set.exists():
            made.request.write_bytes(_request(kind.sop_class))
            made.command.write_bytes(_command(kind.sop_class, _uid(root, 3, INSTANCE)))
            with made.data_set.open("wb") as file:
                file.write(encode(header(kind, root=root)))
                size = kind.matrix * kind.matrix * 2
                whole = size * kind.frames + size * kind.frames % 2
                file.write(_OW_LONG.pack(0x7FE0, 0x0010, b"OW", 0, whole))
                for _ in range(kind.frames):
                    file.write(_pixels(kind.matrix))
                file.write(b"\0" * (size * kind.frames % 2))
        return made

    def send(
        self, messages: Messages, port: int, *, associations: int = 1, seconds: float = 0.0, count: int = 0,
        hold: bool = False, timeout: float = 1800.0,
    ) -> Sent:  # fmt: skip
        """Send for ``seconds``, or ``count`` instances per association; one after the other on each."""
        command = self._command(messages, port, associations, seconds, count, hold)
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        return _sent(done.stdout, done.stderr)

    @contextmanager
    def connected(
        self, messages: Messages, port: int, *, associations: int, seconds: float
    ) -> Iterator[subprocess.Popen[str]]:
        """The associations are open when this is entered; a line on its standard input lets them send."""
        command = [*self._command(messages, port, associations, seconds, 0, False), "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"{associations} associations could not be opened")
            yield process

    def _command(
        self, messages: Messages, port: int, associations: int, seconds: float, count: int, hold: bool
    ) -> list[str]:
        files = [str(messages.request), str(messages.command), str(messages.data_set)]
        return [str(self._program), str(port), *files, str(associations), str(seconds), str(count), str(int(hold))]


def _sent(output: str, errors: str = "") -> Sent:
    fields = output.split()
    if len(fields) != 7:
        raise RuntimeError(errors.strip() or "the sender ended without a result")
    p50, p95, p99, longest = (int(value) / 1000 for value in fields[3:])
    return Sent(
        acknowledged=int(fields[0]), failed=int(fields[1]), seconds=float(fields[2]),
        p50=p50, p95=p95, p99=p99, longest=longest,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> Sent:
    """Let a connected sender send, and wait for its end."""
    output, _ = process.communicate("\n", timeout=1800)
    return _sent(output)


def write_files(messages: Messages, folder: Path, *, count: int) -> None:
    """``count`` Part 10 files as `replay.c` would send them, for senders that read files."""
    folder.mkdir(parents=True)
    template = messages.data_set.read_bytes()
    from ichor.store.filemeta import file_meta

    for n in range(count):
        number = f"1{n:09d}"
        series = f"1{n // 40:09d}"
        data = template.replace(INSTANCE.encode(), number.encode()).replace(SERIES.encode(), series.encode())
        uid = _uid(1, 3, number)
        meta = file_meta(
            sop_class_uid=messages.kind.sop_class, sop_instance_uid=uid, transfer_syntax_uid=ExplicitVRLittleEndian
        )
        (folder / f"{n:05d}.dcm").write_bytes(meta + data)


def header(kind: Kind, *, root: int) -> Dataset:
    """A header of some 80 elements without pixels; functional groups where there are frames."""
    item = Dataset()
    multi = kind.frames > 1
    item.SpecificCharacterSet = "ISO_IR 100"
    item.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME" if multi else "AXIAL", *(["NONE"] if multi else [])]
    item.InstanceCreationDate, item.InstanceCreationTime = "20260101", "120000.000000"
    item.SOPClassUID, item.SOPInstanceUID = kind.sop_class, _uid(root, 3, INSTANCE)
    for name in ("Study", "Series", "Acquisition", "Content"):
        setattr(item, f"{name}Date", "20260101")
        setattr(item, f"{name}Time", "120000.000000")
    item.AccessionNumber, item.Modality, item.Manufacturer = "A0001", kind.modality, "SYNTHETIC"
    item.InstitutionName, item.ReferringPhysicianName = "BENCH", "NONE"
    item.StationName, item.StudyDescription, item.SeriesDescription = "ST1", "HEAD", "HEAD 5.0"
    item.ManufacturerModelName, item.DeviceSerialNumber, item.SoftwareVersions = "REPLAY", "1", "1.0"
    item.ReferencedImageSequence = [_reference(n) for n in range(2)]
    item.PatientName, item.PatientID, item.PatientBirthDate, item.PatientSex = "SYNTHETIC", "BENCH", "19500101", "O"
    item.PatientAge, item.PatientPosition, item.BodyPartExamined = "076Y", "HFS", "HEAD"
    item.ProtocolName, item.StudyID, item.SeriesNumber = "HEAD", "1", 2
    item.AcquisitionNumber, item.InstanceNumber = 1, 1
    item.StudyInstanceUID, item.SeriesInstanceUID = _uid(root, 1, STUDY), _uid(root, 2, SERIES)
    item.FrameOfReferenceUID = _uid(root, 4, SERIES)
    item.PositionReferenceIndicator = ""
    _describe_acquisition(item, kind.modality)
    item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
    item.Rows = item.Columns = kind.matrix
    item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 16, 12, 11, 0
    item.WindowCenter, item.WindowWidth = "40", "80"
    if multi:
        item.NumberOfFrames = kind.frames
        item.SharedFunctionalGroupsSequence = [_shared()]
        item.PerFrameFunctionalGroupsSequence = [_frame(n) for n in range(kind.frames)]
    else:
        item.SliceThickness, item.SpacingBetweenSlices, item.SliceLocation = "5", "5", "0"
        item.ImagePositionPatient, item.ImageOrientationPatient = [-112, -112, 0], [1, 0, 0, 0, 1, 0]
        item.PixelSpacing = [0.4375, 0.4375]
        item.RescaleIntercept, item.RescaleSlope, item.RescaleType = "-1024", "1", "HU"
    return item


def _describe_acquisition(item: Dataset, modality: str) -> None:
    if modality == "CT":
        item.KVP, item.DataCollectionDiameter, item.ReconstructionDiameter = "120", "500", "224"
        item.ConvolutionKernel, item.GantryDetectorTilt, item.TableHeight = "H30s", "0", "140"
        item.RotationDirection, item.ExposureTime, item.XRayTubeCurrent, item.Exposure = "CW", 1000, 200, 200
        item.FilterType, item.GeneratorPower, item.FocalSpots = "0", 30, "1.2"
        return
    item.ScanningSequence, item.SequenceVariant, item.ScanOptions, item.MRAcquisitionType = "SE", "SK", "", "2D"
    item.RepetitionTime, item.EchoTime, item.NumberOfAverages, item.ImagingFrequency = "500", "10", "1", "63.8"
    item.ImagedNucleus, item.EchoNumbers, item.MagneticFieldStrength, item.EchoTrainLength = "1H", 1, "1.5", 1
    item.PercentSampling, item.PercentPhaseFieldOfView, item.PixelBandwidth, item.FlipAngle = "100", "100", "130", "90"


def _reference(n: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, f"{_ROOT}.9.{n}"
    return item


def _shared() -> Dataset:
    group, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.4375, 0.4375], "1"
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    group.PixelMeasuresSequence, group.PlaneOrientationSequence = [measures], [orientation]
    return group


def _frame(n: int) -> Dataset:
    group, position, content, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = [-112, -112, n]
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", n + 1, [1, n + 1]
    rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = "-1024", "1", "HU"
    group.PlanePositionSequence, group.FrameContentSequence = [position], [content]
    group.PixelValueTransformationSequence = [rescale]
    return group


def encode(item: Dataset) -> bytes:
    out = DicomBytesIO()
    out.is_implicit_VR, out.is_little_endian = False, True
    write_dataset(out, item)
    return bytes(out.getvalue())


def _pixels(matrix: int) -> bytes:
    row = b"".join(struct.pack("<H", int(1024 + 900 * math.sin(x / 7.0))) for x in range(matrix))
    return b"".join(row[2 * (y % 5) :] + row[: 2 * (y % 5)] for y in range(matrix))


def _uid(root: int, level: int, number: str) -> str:
    return f"{_ROOT}.{root}.{level}.{number}"


def _command(sop_class: str, sop_instance: str) -> bytes:
    """C-STORE-RQ, PS3.7 9.3.1; implicit VR little endian."""

    def uid(element: int, value: str) -> bytes:
        raw = value.encode() + b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, element, len(raw)) + raw

    def number(element: int, value: int) -> bytes:
        return struct.pack("<HHIH", 0, element, 2, value)

    body = uid(0x0002, sop_class) + number(0x0100, 1) + number(0x0110, 7) + number(0x0700, 0) + number(0x0800, 1)
    body += uid(0x1000, sop_instance)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _request(sop_class: str) -> bytes:
    """A-ASSOCIATE-RQ with one presentation context, PS3.8 9.3.2."""

    def item(kind: int, value: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(value)) + value

    context = struct.pack(">BBBB", 1, 0, 0, 0) + item(0x30, sop_class.encode())
    context += item(0x40, ExplicitVRLittleEndian.encode())
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, f"{_ROOT}.0".encode()) + item(0x55, b"REPLAY")
    body = struct.pack(">HH16s16s32x", 1, 0, b"ICHOR".ljust(16), b"REPLAY".ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + item(0x20, context) + item(0x50, user)
    return struct.pack(">BBI", 1, 0, len(body)) + body
