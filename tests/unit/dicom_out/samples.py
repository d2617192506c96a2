"""A small CT with a known lesion as files, facts, volume and findings. Not a head: numbers that can be checked by hand."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from ichor.arrays import Volume
from ichor.types import (
    Algorithm,
    Code,
    FindingGroup,
    Findings,
    Geometry,
    Instance,
    Job,
    Measurement,
    ParametricMap,
    Priority,
    Segmentation,
    Statement,
)
from ichor.uids import uid_of

STUDY, SERIES, FRAME = uid_of("test-study"), uid_of("test-series"), uid_of("test-frame")
SLICES, ROWS, COLUMNS = 8, 48, 40
SPACING, GAP = (0.5, 0.75), 5.0
HAEMORRHAGE = Code(value="50960005", scheme="SCT", meaning="Hemorrhage")
BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
LEFT = Code(value="7771000", scheme="SCT", meaning="Left")
VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
FINDING = Code(value="121071", scheme="DCM", meaning="Finding")


class Files:
    """A spool whose keys are paths below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, location: str) -> BinaryIO:
        try:
            return (self._root / location).open("rb")
        except FileNotFoundError:
            raise KeyError(location) from None

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        with self.open(location) as file:
            file.seek(offset)
            return file.read(length)


@dataclass(frozen=True)
class Sample:
    """What an encoder gets, and the truth: voxel volume in mL by counting."""

    root: Path
    volume: Volume
    findings: Findings
    job: Job
    voxel_ml: float

    @property
    def spool(self) -> Files:
        return Files(self.root)

    @property
    def sources(self) -> tuple[Instance, ...]:
        return self.volume.sources


def make_sample(root: Path, *, tilt: float = 0.0, header: dict[str, object] | None = None) -> Sample:
    """Write the CT below ``root``; ``header`` sets attributes, None removes one."""
    angle = np.deg2rad(tilt)
    row, column = np.array([1.0, 0.0, 0.0]), np.array([0.0, np.cos(angle), np.sin(angle)])
    # Slices are stacked along the table, also when the gantry is tilted.
    origins = np.array([[-15.5, -11.25, -20.0 + GAP * k] for k in range(SLICES)])
    pixels = np.zeros((SLICES, ROWS, COLUMNS), np.int16)
    mask = np.zeros(pixels.shape, np.uint8)
    mask[2:5, 10:20, 8:20] = 1
    mask[3, 10:24, 8:20] = 1  # the largest slice
    pixels[mask == 1] = 60
    sources = []
    for k in range(SLICES):
        image = _image(k, pixels[k], origins[k], row, column, header or {})
        name = f"{k}.dcm"
        image.save_as(root / name, enforce_file_format=True)
        sources.append(_facts(image, name, pixels[k].tobytes(), origins[k], row, column))
    volume = Volume(
        array=pixels, origins_lps=origins, row_lps=row, column_lps=column, pixel_spacing=SPACING,
        slice_thickness=GAP, frame_of_reference_uid=FRAME, unit="[hnsf'U]", sources=tuple(sources),
    )  # fmt: skip
    extent = float(volume.slice_extents[0])
    voxel_ml = int(mask.sum()) * SPACING[0] * SPACING[1] * extent / 1000
    job = Job(
        job_id="haematoma-1-0123456789abcdef", study_instance_uid=STUDY, pipeline="haematoma", revision=1,
        priority=Priority.ROUTINE, inputs={}, received_at=1_700_000_000.0, queued_at=1_700_000_001.25,
    )  # fmt: skip
    return Sample(root, volume, _findings(mask, voxel_ml), job, voxel_ml)


def not_analysed(sample: Sample, reason: str = "the series lacks slices") -> Findings:
    return dataclasses.replace(
        sample.findings, outcome="not_analysed", groups=(), maps=(), measurements=(), reason=reason, not_assessed=(),
        summary=(f"Not analysed: {reason}.",),
    )  # fmt: skip


def none_found(sample: Sample) -> Findings:
    zero = dataclasses.replace(sample.findings.measurements[0], value=0.0)
    return dataclasses.replace(
        sample.findings, outcome="none", groups=(), maps=(), measurements=(zero,),
        summary=("No intracerebral haematoma found; subdural, epidural and subarachnoid blood not assessed.",),
    )  # fmt: skip


def _findings(mask: np.ndarray, voxel_ml: float) -> Findings:
    segment = Segmentation(
        label="Haematoma 1", mask_zyx=mask, type=HAEMORRHAGE, site=BRAIN, tracking_id="Haematoma 1",
        category=Code(value="49755003", scheme="SCT", meaning="Morphologically abnormal structure"),
    )  # fmt: skip
    measurements = (
        Measurement(name="haematoma_volume", value=voxel_ml * 0.98, unit="mL", code=VOLUME, method="Closed surface mesh"),
        Measurement(name="haematoma_volume_voxel", value=voxel_ml, unit="mL", code=VOLUME, method="Voxel count"),
        Measurement(
            name="expansion_probability", value=0.37, unit="1", report_scale=100.0, report_unit="%",
            code=Code(value="EXPANSION_24H", scheme="99ICHOR", meaning="Probability of expansion within 24 h"),
        ),
    )  # fmt: skip
    group = FindingGroup(
        tracking_id="Haematoma 1", finding=HAEMORRHAGE, site=BRAIN, laterality=LEFT, segmentation=segment,
        measurements=measurements,
        statements=(Statement(code=FINDING, text="fewer than three contiguous slices above 10 mm²"),),
    )  # fmt: skip
    probability = ParametricMap(
        label="Haematoma probability", values_zyx=(mask * np.float32(0.75)).astype(np.float32),
        quantity=Code(value="110854", scheme="DCM", meaning="Fractional Probabilistic Segmentation"),
        unit=Code(value="1", scheme="UCUM", meaning="no units"),
        derivation=Code(value="113076", scheme="DCM", meaning="Segmentation"),
    )  # fmt: skip
    return Findings(
        outcome="found",
        summary=(f"One intracerebral haematoma, {voxel_ml * 0.98:.1f} mL.",),
        algorithm=Algorithm(
            pipeline="haematoma", version="0.1", parameters={"threshold": 0.5, "smallest_ml": 0.1},
            model="unet-phantom", weights_sha256="c0" * 32, engine="OpenVINO f32",
        ),
        groups=(group,), maps=(probability,), measurements=measurements,
        not_assessed=("subdural, epidural and subarachnoid blood",),
    )  # fmt: skip


def _image(
    k: int, pixels: np.ndarray, origin: np.ndarray, row: np.ndarray, column: np.ndarray, header: dict[str, object]
) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, uid_of("test-image", k)
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = STUDY, SERIES, FRAME
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Doe^Jane", "P1", "19600102", "F"
    image.StudyDate, image.StudyTime, image.StudyID = "20231114", "221300", "S1"
    image.AccessionNumber, image.ReferringPhysicianName, image.StudyDescription = "A1", "Ref^Doc", "CT head"
    image.PatientAge = "063Y"
    image.Modality, image.SeriesNumber, image.InstanceNumber = "CT", 2, k + 1
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.ImagePositionPatient = [float(v) for v in origin]
    image.ImageOrientationPatient = [round(float(v), 10) for v in (*row, *column)]
    image.PixelSpacing, image.SliceThickness = list(SPACING), GAP
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 1
    image.RescaleIntercept, image.RescaleSlope = 0, 1
    image.PixelData = pixels.tobytes()
    for keyword, value in header.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    return image


def _facts(
    image: Dataset, location: str, pixels: bytes, origin: np.ndarray, row: np.ndarray, column: np.ndarray
) -> Instance:
    digest = hashlib.sha256(pixels + repr(origin).encode()).hexdigest()
    geometry = Geometry(
        rows=ROWS, columns=COLUMNS, position_lps=tuple(map(float, origin)), pixel_spacing=SPACING, slice_thickness=GAP,
        orientation_lps=tuple(round(float(v), 10) for v in (*row, *column)), frame_of_reference_uid=FRAME,
    )  # fmt: skip
    return Instance(
        sop_instance_uid=image.SOPInstanceUID, sop_class_uid=CTImageStorage, series_instance_uid=SERIES,
        study_instance_uid=STUDY, transfer_syntax_uid=ExplicitVRLittleEndian, modality="CT", location=location,
        file_sha256=digest, content_sha256=digest, identity_sha256="1d" * 32, patient_sha256="aa" * 32,
        accession_sha256=None, association="1", calling_ae="CT1", called_ae="ICHOR", priority=None,
        received_at=1_700_000_000.0, geometry=geometry,
    )  # fmt: skip
