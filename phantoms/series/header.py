"""What every synthetic object says of itself: patient, study, series, equipment, pixels. No vendor's private words."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from ichor.arrays import Float64Array
from ichor.uids import uid_of
from phantoms.series.truth import Scan, Stack, StoredArray

NOTE = "SYNTHETIC, RESEARCH, no patient"
_START = datetime(2024, 3, 1, 10, 15, 0)


def object_header(scan: Scan, *, form: str, sop_class: str, number: int) -> Dataset:
    """Patient to equipment of object ``number`` (from 1); UIDs depend on scan, form and number only."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = uid_of("series", scan.name, form, number)
    ds.StudyInstanceUID = uid_of("series", scan.name, "study")
    ds.SeriesInstanceUID = uid_of("series", scan.name, form, "series")
    ds.FrameOfReferenceUID = uid_of("series", scan.name, "frame")
    ds.PositionReferenceIndicator = ""
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = f"{_START:%Y%m%d}"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = clock_text(0.0)
    ds.AccessionNumber, ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = "S1", "1", 5, number
    ds.Modality = scan.modality
    ds.InstitutionName = "Synthetic"
    ds.StationName, ds.DeviceSerialNumber = "SYNTHETIC", "1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription, ds.SeriesDescription = NOTE, f"{scan.name} {NOTE}"
    ds.ProtocolName = scan.name
    ds.PatientName, ds.PatientID = "Phantom^Synthetic", "SYNTHETIC"
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.BodyPartExamined = "HEAD"
    ds.PatientPosition = "HFS"
    ds.ContentQualification = "RESEARCH"
    ds.BurnedInAnnotation = "NO"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def add_pixels(ds: Dataset, stored: StoredArray, *, signed: bool) -> None:
    """Store (y, x) or (frames, y, x) in 16 bits, 12 of them used where that is enough."""
    rows, columns = stored.shape[-2:]
    bits = 16 if signed or int(stored.max(initial=0)) > 4095 else 12
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, int(signed)
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"


def orientation(stack: Stack) -> list[str]:
    """Values of Image Orientation (Patient)."""
    return [decimal(v) for v in np.concatenate([stack.row_lps, stack.column_lps])]


def position(origin_lps: Float64Array) -> list[str]:
    """Values of Image Position (Patient)."""
    return [decimal(v) for v in origin_lps]


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 section 6.2, DS)."""
    if abs(value) < 1e-9:
        return "0"
    text = f"{value:.10f}"[:16]
    return text.rstrip("0").rstrip(".") if "." in text else text


def clock_text(seconds: float) -> str:
    """TM, ``seconds`` after the scan's start."""
    return f"{_START + timedelta(seconds=seconds):%H%M%S.%f}"


def date_time_text(seconds: float) -> str:
    """DT, ``seconds`` after the scan's start."""
    return f"{_START + timedelta(seconds=seconds):%Y%m%d%H%M%S.%f}"
