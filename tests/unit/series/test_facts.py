"""Facts of stored objects: what is there is read, what is not is None, what is wrong is named."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from ichor.reasons import Reason
from ichor.series.facts import FactsReader, read_facts, read_instance
from ichor.series.rescale import HOUNSFIELD, unit_of
from ichor.store.journal import StoredObject
from ichor.types import Component, Dialect, Instance, Kind, Priority

CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.67"


def stored_as(transfer_syntax_uid: str, **changes: Any) -> StoredObject:
    plain = StoredObject(
        sop_instance_uid="1.2.3.4", sop_class_uid=CT, series_instance_uid="1.2.3", study_instance_uid="1.2",
        transfer_syntax_uid=transfer_syntax_uid, location="a/b/c", length=1, file_sha256="f" * 64, association="a1",
        calling_ae="CT1", called_ae="ICHOR", sender_priority=None, called_priority=None, command_priority_high=False,
        received_at=5.0,
    )  # fmt: skip
    return replace(plain, **changes)


def slice_of_ct() -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CT, "1.2.3.4"
    ds.StudyDate, ds.AccessionNumber, ds.Modality, ds.Manufacturer = "20260102", "A77", "CT", "Maker"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Änne^Prüfung", "P1", "19500102", "F"
    ds.BodyPartExamined, ds.SliceThickness, ds.ConvolutionKernel = "HEAD", "5", ["J40s", "3"]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2", "1.2.3"
    ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 2, 1, 7
    ds.ImagePositionPatient = [-100, "-99.5", 12.25]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID, ds.ImagesInAcquisition = "1.2.9", 40
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 4, 6
    ds.PixelSpacing = [0.5, 0.25]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleIntercept, ds.RescaleSlope = "-1024", "1"
    ds.PixelData = np.arange(24, dtype="<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def bytes_of(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CT, "1.2.3.4"
    target = BytesIO()
    if syntax == ExplicitVRBigEndian:
        ds = pydicom.dcmread(BytesIO(bytes_of(ds)))
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        pydicom.dcmwrite(target, ds, little_endian=False, implicit_vr=False, force_encoding=True)
    else:
        pydicom.dcmwrite(target, ds, enforce_file_format=True)
    return target.getvalue()


def facts(ds: Dataset, syntax: str = ExplicitVRLittleEndian, **stored: Any) -> Instance:
    return read_instance(BytesIO(bytes_of(ds, syntax)), stored=stored_as(syntax, **stored))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_one_pass_gives_geometry_counts_and_the_place_of_the_pixels(syntax: str) -> None:
    data = bytes_of(slice_of_ct(), syntax)
    found = read_instance(BytesIO(data), stored=stored_as(syntax))
    assert found.defect is None
    assert found.geometry is not None
    assert found.geometry.position_lps == (-100.0, -99.5, 12.25)
    assert (found.geometry.rows, found.geometry.columns, found.geometry.pixel_spacing) == (4, 6, (0.5, 0.25))
    assert found.counts == (("ImagesInAcquisition", 40),)
    assert (found.kernel, found.body_part, found.instance_number) == ("J40s", "HEAD", 7)
    assert found.pixels is not None
    raw = data[found.pixels.offset : found.pixels.offset + found.pixels.length]
    order = ">u2" if syntax == ExplicitVRBigEndian else "<u2"
    assert np.frombuffer(raw, order).tolist() == list(range(24))


def test_content_does_not_depend_on_the_encoding_or_on_the_name() -> None:
    first = facts(slice_of_ct())
    renamed = slice_of_ct()
    renamed.PatientName = "Berta^Prüfung"
    second = facts(renamed, ImplicitVRLittleEndian)
    third = facts(slice_of_ct(), ExplicitVRBigEndian)
    assert first.content_sha256 == second.content_sha256 == third.content_sha256
    assert first.identity_sha256 != second.identity_sha256
    assert first.identity_sha256 == third.identity_sha256
    assert first.patient_sha256 == second.patient_sha256


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: setattr(ds, "ImagePositionPatient", [0, 0, 1]),
        lambda ds: setattr(ds, "RescaleIntercept", "-1000"),
        lambda ds: setattr(ds, "PixelData", bytes(48)),
        lambda ds: setattr(ds, "PixelSpacing", [0.5, 0.5]),
    ],
)
def test_other_pixels_or_geometry_are_other_content(change: Callable[[Dataset], None]) -> None:
    changed = slice_of_ct()
    change(changed)
    assert facts(changed).content_sha256 != facts(slice_of_ct()).content_sha256


def test_accession_and_patient_digests_are_those_of_the_text() -> None:
    ds = slice_of_ct()
    found = facts(ds)
    assert found.accession_sha256 == hashlib.sha256(b"A77").hexdigest()
    assert found.patient_sha256 == hashlib.sha256(b"P1").hexdigest()[:32] + "0" * 32
    ds.IssuerOfPatientID = "Hospital"
    assert facts(ds).patient_sha256[:32] == found.patient_sha256[:32]
    assert facts(ds).patient_sha256 != found.patient_sha256


def short(ds: Dataset) -> None:
    ds.PixelData = bytes(20)


def no_pixels(ds: Dataset) -> None:
    del ds.PixelData


def lossy(ds: Dataset) -> None:
    ds.LossyImageCompression = "01"


def slope_zero(ds: Dataset) -> None:
    ds.RescaleSlope = "0"


def high_bit(ds: Dataset) -> None:
    ds.HighBit = 15  # of 12 bits stored: they lie four bits higher


def look_up_table(ds: Dataset) -> None:
    table = Dataset()
    table.add_new(0x00283002, "US", [0, 0, 16])
    table.ModalityLUTType = "HU"
    table.add_new(0x00283006, "OW", bytes(2 << 16))  # the longest there is
    ds.ModalityLUTSequence = Sequence([table])


def colour(ds: Dataset) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.PixelData = bytes(144)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (short, Reason.PIXELS_SHORT),
        (no_pixels, Reason.NO_PIXELS),
        (lossy, Reason.LOSSY),
        (slope_zero, Reason.HEADER_UNREADABLE),
        (colour, Reason.UNSUPPORTED_PIXELS),
        (high_bit, Reason.UNSUPPORTED_PIXELS),
        (look_up_table, Reason.MODALITY_LUT),
    ],
)
def test_what_cannot_be_measured_is_named(change: Callable[[Dataset], None], reason: Reason) -> None:
    ds = slice_of_ct()
    change(ds)
    assert facts(ds).defect == reason


def test_lossy_syntax_is_lossy_whatever_the_header_says() -> None:
    ds = slice_of_ct()
    ds.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    found = facts(ds, JPEGBaseline8Bit)
    assert found.defect == Reason.LOSSY
    assert found.pixels is not None
    assert found.pixels.lossy
    assert found.pixels.encapsulated


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_encapsulated_pixels_end_at_their_delimiter(syntax: str) -> None:
    ds = pydicom.dcmread(BytesIO(bytes_of(slice_of_ct())))
    ds.compress(syntax)
    ds.add_new(0xFFFCFFFC, "OB", bytes(64))
    data = bytes_of(ds, syntax)
    found = read_instance(BytesIO(data), stored=stored_as(syntax))
    assert found.defect is None
    assert found.pixels is not None
    assert data[found.pixels.offset : found.pixels.offset + found.pixels.length] == data[found.pixels.offset : -76]
    cut = read_instance(BytesIO(data[:-80]), stored=stored_as(syntax))
    assert cut.defect == Reason.CUT_SHORT


def test_a_deflated_object_has_the_facts_and_the_content_of_the_plain_one() -> None:
    found, plain = facts(slice_of_ct(), DeflatedExplicitVRLittleEndian), facts(slice_of_ct())
    assert found.defect is None
    assert found.body_part == "HEAD"
    assert found.identity_sha256 == plain.identity_sha256
    assert found.content_sha256 == plain.content_sha256


def test_a_deflated_object_that_is_cut_is_cut_short() -> None:
    data = bytes_of(slice_of_ct(), DeflatedExplicitVRLittleEndian)
    stored = stored_as(DeflatedExplicitVRLittleEndian)
    assert read_instance(BytesIO(data[:-40]), stored=stored).defect == Reason.CUT_SHORT


@pytest.mark.parametrize("mib", [16, 255])
@pytest.mark.parametrize("tag", [0x7FE00010, 0x00211010], ids=["pixels", "private"])
def test_a_deflated_object_that_inflates_too_far_is_named_and_takes_no_memory(mib: int, tag: int) -> None:
    plain = bytes_of(slice_of_ct(), ExplicitVRLittleEndian)
    meta_ends = 144 + int.from_bytes(plain[140:144], "little")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = struct.pack("<HH2sxxI", tag >> 16, tag & 0xFFFF, b"OB", mib << 20)
    parts = [deflate.compress(head)] + [deflate.compress(bytes(1 << 20)) for _ in range(mib)] + [deflate.flush()]
    data = plain[:meta_ends] + b"".join(parts)
    assert len(data) < 300_000
    tracemalloc.start()
    try:
        found = read_instance(BytesIO(data), stored=stored_as(DeflatedExplicitVRLittleEndian))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.defect == Reason.INFLATES_TOO_FAR
    assert peak < 100 << 20


def test_a_deflated_empty_image_is_no_bomb() -> None:
    ds = slice_of_ct()
    ds.Rows = ds.Columns = 1024
    ds.PixelData = bytes(2 << 20)
    found, plain = facts(ds, DeflatedExplicitVRLittleEndian), facts(ds)
    assert found.defect is None
    assert found.content_sha256 == plain.content_sha256


def test_a_report_has_no_defect_and_no_content_but_its_class() -> None:
    ds = slice_of_ct()
    for name in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, name)
    renamed = pydicom.dcmread(BytesIO(bytes_of(ds)))
    renamed.PatientName = "Other"
    first, second = facts(ds, sop_class_uid=SR), facts(renamed, sop_class_uid=SR)
    assert first.defect is None
    assert first.pixels is None
    assert first.content_sha256 == second.content_sha256


@pytest.mark.parametrize("value", ["abc", "1\\2", "1e400", "", "nan\\nan\\nan", "1\\2\\3\\4"])
def test_garbage_in_a_position_is_none_not_a_guess(value: str) -> None:
    ds = slice_of_ct()
    data = bytes_of(ds)
    plain = b"\x20\x00\x32\x00DS"
    at = data.index(plain)
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    padded = value.encode() + b" " * (len(value) % 2)
    changed = data[: at + 6] + len(padded).to_bytes(2, "little") + padded + data[at + 8 + length :]
    found = read_instance(BytesIO(changed), stored=stored_as(ExplicitVRLittleEndian))
    assert found.geometry is not None
    assert found.geometry.position_lps is None


def test_directions_that_are_not_perpendicular_unit_vectors_are_none() -> None:
    ds = slice_of_ct()
    ds.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]
    found = facts(ds)
    assert found.geometry is not None
    assert found.geometry.orientation_lps is None


def test_priority_is_the_first_that_applies() -> None:
    ds = slice_of_ct()
    assert facts(ds).priority is None
    assert facts(ds, command_priority_high=True).priority is Priority.HIGH
    item = Dataset()
    item.RequestedProcedureDescription, item.RequestedProcedurePriority = "x", "STAT"
    ds.RequestAttributesSequence = Sequence([item])
    assert facts(ds, command_priority_high=True).priority is Priority.STAT
    assert facts(ds, ImplicitVRLittleEndian).priority is Priority.STAT
    ds["RequestAttributesSequence"].is_undefined_length = True
    assert facts(ds).priority is Priority.STAT
    assert facts(ds, called_priority=Priority.HIGH).priority is Priority.HIGH
    assert facts(ds, called_priority=Priority.HIGH, sender_priority=Priority.LOW).priority is Priority.LOW


@pytest.mark.parametrize("length", [100, 200, 400, 700])
def test_an_unreadable_header_is_nobodys_and_keeps_the_priority_of_its_association(length: int) -> None:
    stat = stored_as(ExplicitVRLittleEndian, called_priority=Priority.STAT)
    found = read_instance(BytesIO(DATA[:length]), stored=stat)
    assert found.defect is not None
    assert found.priority is Priority.STAT
    assert (found.identity_sha256, found.patient_sha256, found.modality) == ("", "0" * 64, "CT")
    high = stored_as(ExplicitVRLittleEndian, command_priority_high=True)
    assert read_instance(BytesIO(DATA[:length]), stored=high).priority is Priority.HIGH


def test_contrast_is_an_agent_that_is_named() -> None:
    ds = slice_of_ct()
    assert not facts(ds).contrast
    ds.ContrastBolusAgent = "NONE"
    assert not facts(ds).contrast
    ds.ContrastBolusAgent = "Iohexol"
    assert facts(ds).contrast


def test_our_own_objects_are_known_by_their_maker() -> None:
    ds = slice_of_ct()
    ds.Manufacturer = "Ichor"
    assert facts(ds).made_by_ichor


DATA = bytes_of(slice_of_ct())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    at=st.integers(0, len(DATA) - 1),
    replaced=st.binary(min_size=1, max_size=6),
    cut=st.integers(1, len(DATA)),
)
def test_damaged_headers_never_raise(at: int, replaced: bytes, cut: int) -> None:
    damaged = (DATA[:at] + replaced + DATA[at + len(replaced) :])[:cut]
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian):
        found = read_instance(BytesIO(damaged), stored=stored_as(syntax))
        if found.geometry is not None and found.geometry.position_lps is not None:
            assert all(np.isfinite(found.geometry.position_lps))
        if found.pixels is not None:
            assert found.pixels.offset + found.pixels.length <= len(damaged)


@pytest.mark.parametrize("length", range(0, len(DATA), 7))
def test_a_file_that_ends_too_early_is_cut_short(length: int) -> None:
    found = read_instance(BytesIO(DATA[:length]), stored=stored_as(ExplicitVRLittleEndian))
    assert found.defect in (Reason.CUT_SHORT, Reason.NO_PIXELS, Reason.HEADER_UNREADABLE)


MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def slice_of_mr() -> Dataset:
    ds = slice_of_ct()
    ds.Modality, ds.SOPClassUID, ds.Manufacturer = "MR", MR, "SIEMENS"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = ["EP", "SE"], "SK", "2D"
    ds.SequenceName, ds.EchoTime, ds.RepetitionTime, ds.FlipAngle = "ep_b1000#3", "85", "4200", "90"
    ds.InversionTime = "0"
    del ds.ConvolutionKernel
    return ds


def mr_facts(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> Instance:
    return facts(ds, syntax, sop_class_uid=str(ds.SOPClassUID))


def test_content_of_a_plain_image_is_what_running_sites_have_stored() -> None:
    stored = "a7970205adc3dfeed7590c415413818260e859ae9137b2db96ad2afa329bfd78"
    assert facts(slice_of_ct()).content_sha256 == stored


def test_facts_without_the_digest_are_the_same_facts() -> None:
    data = bytes_of(slice_of_ct())
    plain = read_facts(BytesIO(data), stored=stored_as(ExplicitVRLittleEndian))
    whole = read_instance(BytesIO(data), stored=stored_as(ExplicitVRLittleEndian))
    assert plain.content_sha256 == ""
    assert replace(plain, content_sha256=whole.content_sha256) == whole


def test_diffusion_weighting_is_content() -> None:
    digests = set()
    for b_value in (None, 0.0, 1000.0):
        ds = slice_of_mr()
        if b_value is not None:
            ds.DiffusionBValue = b_value
        digests.add(mr_facts(ds).content_sha256)
    assert len(digests) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: setattr(ds, "TemporalPositionIdentifier", 2),
        lambda ds: setattr(ds, "AcquisitionTime", "101500.25"),
        lambda ds: setattr(ds, "EchoTime", "60"),
        lambda ds: setattr(ds, "AcquisitionNumber", 2),
        lambda ds: setattr(ds, "InstanceNumber", 2),
        lambda ds: setattr(ds, "StackID", "2"),
        lambda ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "P", "ND"]),
        lambda ds: setattr(ds, "ImageType", ["DERIVED", "PRIMARY", "M", "ND"]),
        lambda ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "M", "DIS2D"]),
    ],
)
def test_what_arranges_the_volumes_of_an_mr_is_content(change: Callable[[Dataset], None]) -> None:
    changed = slice_of_mr()
    change(changed)
    assert mr_facts(changed).content_sha256 != mr_facts(slice_of_mr()).content_sha256


def test_of_what_arranges_the_temporal_position_alone_is_content_of_a_plain_ct() -> None:
    timed, corrected = slice_of_ct(), slice_of_ct()
    timed.TemporalPositionIdentifier = 2
    corrected.AcquisitionTime, corrected.AcquisitionNumber, corrected.InstanceNumber = "101500.25", 9, 70
    plain = facts(slice_of_ct()).content_sha256
    assert facts(corrected).content_sha256 == plain
    first = facts(timed).content_sha256
    timed.TemporalPositionIdentifier = 3
    assert len({plain, first, facts(timed).content_sha256}) == 3


def test_what_arranges_the_frames_of_an_object_is_content() -> None:
    digests = set()
    for index in (1, 2):
        ds, content = two_frames(), Dataset()
        content.TemporalPositionIndex = index
        ds.PerFrameFunctionalGroupsSequence[1].FrameContentSequence = Sequence([content])
        digests.add(mr_facts(ds).content_sha256)
    assert len(digests) == 2


def test_a_reader_that_goes_on_gives_the_facts_of_each_object_alone() -> None:
    reader, alone, beside = FactsReader(), [], []
    for number in range(5):
        ds = slice_of_mr()
        ds.InstanceNumber, ds.AcquisitionNumber = number, number % 2
        data, stored = bytes_of(ds), stored_as(ExplicitVRLittleEndian, sop_class_uid=str(ds.SOPClassUID))
        alone.append(read_instance(BytesIO(data), stored=stored))
        beside.append(reader.read(BytesIO(data), stored=stored))
    assert beside == alone
    assert len(set(beside)) == 5


def test_how_an_mr_image_was_acquired_is_read() -> None:
    sequence = mr_facts(slice_of_mr()).sequence
    assert sequence is not None
    assert (sequence.scanning_sequence, sequence.sequence_variant, sequence.acquisition_type) == (
        ("EP", "SE"), ("SK",), "2D",
    )  # fmt: skip
    assert (sequence.echo_time, sequence.repetition_time, sequence.flip_angle) == (85.0, 4200.0, 90.0)
    assert sequence.inversion_time is None
    assert sequence.sequence_name == "EP_B1000#3"
    assert sequence.contrast_words == ("M", "ND")
    assert facts(slice_of_ct()).sequence is None


def test_kind_and_component_stand_in_the_instance_and_in_its_slot() -> None:
    ds = slice_of_mr()
    found = mr_facts(ds)
    assert (found.kind, found.kind_reason, found.slot.component) == (Kind.IMAGE, None, Component.MAGNITUDE)
    ds.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]
    found = mr_facts(ds)
    assert (found.kind, found.slot.kind, found.kind_reason) == (Kind.ADC, Kind.ADC, "Image Type has ADC")


def test_ge_says_the_component_in_a_private_element() -> None:
    ds = slice_of_mr()
    ds.Manufacturer, ds.ImageType = "GE MEDICAL SYSTEMS", ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.add_new(0x00430010, "LO", "GEMS_PARM_01")
    for value, component in enumerate(
        (Component.MAGNITUDE, Component.PHASE, Component.REAL, Component.IMAGINARY, None)
    ):
        ds.add_new(0x0043102F, "SS", value)
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            assert mr_facts(ds, syntax).slot.component is component


def test_a_ct_has_no_component_whatever_its_types() -> None:
    ds = slice_of_ct()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "P"]
    assert facts(ds).slot.component is None


def test_compression_makes_an_image_derived_and_changes_nothing_else() -> None:
    ds = slice_of_ct()
    ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    assert facts(ds).kind is Kind.DERIVED
    ds.LossyImageCompression = "01"
    assert (facts(ds).kind, facts(ds).defect) == (Kind.IMAGE, Reason.LOSSY)
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    assert facts(ds).kind is Kind.DERIVED


@pytest.mark.parametrize(
    ("uid", "kind"),
    [
        (SR, Kind.REPORT),
        ("1.2.840.10008.5.1.4.1.1.104.1", Kind.REPORT),
        ("1.2.840.10008.5.1.4.1.1.7", Kind.SECONDARY_CAPTURE),
        ("1.2.840.10008.5.1.4.1.1.66.4", Kind.DERIVED),
        (CT, Kind.IMAGE),
    ],
)
def test_the_class_decides_before_the_types(uid: str, kind: Kind) -> None:
    assert facts(slice_of_ct(), sop_class_uid=uid).kind is kind


def mapping(slope: float, *, first: int = 0, last: int = 4095, unit: str = "mm2/s", scheme: str = "UCUM") -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, scheme, "unit"
    item = Dataset()
    item.add_new(0x00409216, "US", first)
    item.add_new(0x00409211, "US", last)
    item.RealWorldValueIntercept, item.RealWorldValueSlope = 2.0, slope
    item.MeasurementUnitsCodeSequence = Sequence([code])
    return item


def rescaled(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> tuple[float, float, str | None]:
    found = mr_facts(ds, syntax)
    assert found.pixels is not None
    return found.pixels.rescale_slope, found.pixels.rescale_intercept, found.unit


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_one_real_world_mapping_that_covers_all_wins_over_rescale(syntax: str) -> None:
    ds = slice_of_mr()
    ds.RealWorldValueMappingSequence = Sequence([mapping(1e-6)])
    assert rescaled(ds, syntax) == (1e-6, 2.0, "mm2/s")


@pytest.mark.parametrize(
    "items",
    [
        [mapping(2.0), mapping(3.0)],
        [mapping(2.0, last=4000)],
        [mapping(2.0, first=1)],
        [mapping(0.0)],
        [mapping(float("nan"))],
        [Dataset()],
        [],
    ],
)
def test_any_other_real_world_mapping_leaves_rescale(items: list[Dataset]) -> None:
    ds = slice_of_mr()
    ds.RealWorldValueMappingSequence = Sequence(items)
    assert rescaled(ds) == (1.0, -1024.0, None)


def test_a_mapping_with_a_table_or_an_uncoded_unit_is_not_linear_or_has_no_unit() -> None:
    ds = slice_of_mr()
    table = mapping(2.0)
    table.RealWorldValueLUTData = [0.0, 1.0]
    ds.RealWorldValueMappingSequence = Sequence([table])
    assert rescaled(ds) == (1.0, -1024.0, None)
    ds.RealWorldValueMappingSequence = Sequence([mapping(2.0, scheme="99LOCAL")])
    assert rescaled(ds) == (2.0, 2.0, "1")
    # Rescale Type is the unit of other values than these.
    ds.RescaleType = "HU"
    assert rescaled(ds) == (2.0, 2.0, "1")


@pytest.mark.parametrize(
    ("stated", "of_ct", "of_mr"),
    [("HU", "[hnsf'U]", "[hnsf'U]"), ("MGML", "mg/mL", "mg/mL"), ("US", "1", None), ("Z_EFF", "1", None)],
)
def test_unit_is_that_of_rescale_type_when_it_is_one(stated: str, of_ct: str, of_mr: str | None) -> None:
    ct, mr = slice_of_ct(), slice_of_mr()
    ct.RescaleType = mr.RescaleType = stated
    assert unit_of(facts(ct)) == of_ct
    assert unit_of(mr_facts(mr)) == of_mr


def test_a_ct_that_states_no_rescale_type_is_in_hounsfield_units() -> None:
    assert unit_of(facts(slice_of_ct())) == HOUNSFIELD
    assert unit_of(mr_facts(slice_of_mr())) is None


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (lambda: mapping(0.5, unit="mg/mL"), (1.0, -1024.0, HOUNSFIELD)),
        (lambda: mapping(0.5, scheme="99LOCAL"), (1.0, -1024.0, HOUNSFIELD)),
        (lambda: mapping(0.5, unit=HOUNSFIELD), (0.5, 2.0, HOUNSFIELD)),
    ],
)
def test_a_real_world_mapping_of_a_ct_counts_only_in_hounsfield_units(
    item: Callable[[], Dataset], expected: tuple[float, float, str]
) -> None:
    ds = slice_of_ct()
    ds.RealWorldValueMappingSequence = Sequence([item()])
    found = facts(ds)
    assert found.pixels is not None
    assert (found.pixels.rescale_slope, found.pixels.rescale_intercept, unit_of(found)) == expected


def test_counts_of_a_concatenation_are_kept() -> None:
    ds = slice_of_mr()
    ds.InConcatenationTotalNumber = 3
    assert ("InConcatenationTotalNumber", 3) in mr_facts(ds).counts
    assert ("InConcatenationTotalNumber", 3) in mr_facts(ds, ImplicitVRLittleEndian).counts


def two_frames(*, described: int = 2, types: tuple[str, ...] = ("NONE", "NONE")) -> Dataset:
    ds = slice_of_mr()
    ds.SOPClassUID, ds.NumberOfFrames = ENHANCED_MR, 2
    ds.PixelData = ds.PixelData * 2
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, name)
    for name in ("ScanningSequence", "EchoTime", "RepetitionTime", "FlipAngle", "InversionTime"):
        delattr(ds, name)
    ds.EchoPulseSequence, ds.EchoPlanarPulseSequence, ds.PulseSequenceName = "SPIN", "YES", "ep2d"
    ds.AcquisitionContrast = "DIFFUSION"
    shared = Dataset()
    orientation, measures, timing, echo, scale = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [2, 2], "3"
    timing.RepetitionTime, timing.FlipAngle = "5000", "90"
    echo.EffectiveEchoTime = 70.0
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = "2", "1", "US"
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.MRTimingAndRelatedParametersSequence = Sequence([timing])
    shared.MREchoSequence = Sequence([echo])
    shared.PixelValueTransformationSequence = Sequence([scale])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    per_frame = []
    for k in range(described):
        frame, place, kind = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, 3.0 * k]
        kind.FrameType = ["ORIGINAL" if types[k] == "NONE" else "DERIVED", "PRIMARY", "DIFFUSION", types[k]]
        frame.PlanePositionSequence, frame.MRImageFrameTypeSequence = Sequence([place]), Sequence([kind])
        per_frame.append(frame)
    ds.PerFrameFunctionalGroupsSequence = Sequence(per_frame)
    return ds


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_an_enhanced_object_has_frames_and_says_how_it_was_acquired(syntax: str) -> None:
    found = mr_facts(two_frames(), syntax)
    assert (found.dialect, found.defect, found.kind) == (Dialect.ENHANCED, None, Kind.IMAGE)
    assert [frame.geometry.position_lps for frame in found.frames] == [(0, 0, 0), (0, 0, 3)]
    assert [(frame.rescale_slope, frame.rescale_intercept) for frame in found.frames] == [(2, 1), (2, 1)]
    assert found.sequence is not None
    assert (found.sequence.scanning_sequence, found.sequence.sequence_name) == (("SE", "EP"), "EP2D")
    assert (found.sequence.echo_time, found.sequence.repetition_time, found.sequence.flip_angle) == (70, 5000, 90)
    assert "DIFFUSION" in found.sequence.contrast_words


@pytest.mark.parametrize(("stated", "unit"), [("HU", "[hnsf'U]"), ("US", None)])
def test_unit_of_an_enhanced_object_is_what_its_frames_share(stated: str, unit: str | None) -> None:
    ds = two_frames()
    ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = stated
    assert mr_facts(ds).unit == unit
    ds.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence = Sequence([mapping(0.5)])
    assert mr_facts(ds).unit == "mm2/s"
    assert [frame.rescale_slope for frame in mr_facts(ds).frames] == [0.5, 0.5]


def test_frames_that_are_not_described_one_by_one_are_a_defect() -> None:
    assert mr_facts(two_frames(described=1)).defect == Reason.FRAMES_DISAGREE


def test_kind_of_an_enhanced_object_is_that_of_all_its_frames() -> None:
    found = mr_facts(two_frames(types=("ADC", "ADC")))
    assert found.kind is Kind.ADC
    mixed = mr_facts(two_frames(types=("NONE", "ADC")))
    assert mixed.kind is Kind.IMAGE
    assert [frame.slot.kind for frame in mixed.frames] == [Kind.IMAGE, Kind.ADC]
    assert mixed.kind_reason == "frames are of several kinds: adc, image"


def test_geometry_of_frames_is_content() -> None:
    moved = two_frames()
    moved.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 4]
    assert mr_facts(moved).content_sha256 != mr_facts(two_frames()).content_sha256


def test_more_frames_than_fragments_can_hold_are_short_pixels() -> None:
    ds = slice_of_ct()
    ds.NumberOfFrames = 1000
    ds.PixelData = encapsulate([b"\x00" * 64])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    assert facts(ds, RLELossless).defect == Reason.PIXELS_SHORT


FRAMES_DATA = bytes_of(two_frames())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(at=st.integers(0, len(FRAMES_DATA) - 1), replaced=st.binary(min_size=1, max_size=6))
def test_damaged_functional_groups_never_raise(at: int, replaced: bytes) -> None:
    damaged = FRAMES_DATA[:at] + replaced + FRAMES_DATA[at + len(replaced) :]
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        found = read_instance(BytesIO(damaged), stored=stored_as(syntax, sop_class_uid=ENHANCED_MR))
        if found.defect is None and found.dialect is Dialect.ENHANCED:
            assert found.pixels is not None
            assert len(found.frames) == found.pixels.frames
