"""What the encoded objects say, read back by other code than wrote them."""

from __future__ import annotations

import dataclasses
import errno
import io
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from unit.dicom_out.samples import FRAME, SERIES, SLICES, STUDY, Sample, make_sample, none_found, not_analysed

from dicom_out.encoder import DicomEncoder
from dicom_out.header import read_header
from ichor.encoding import EncodedObject, Overlay
from ichor.types import Code, Findings, ParametricMap, ResultObject, ResultSet
from ichor.uids import uid_of


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    return make_sample(tmp_path)


def encode(sample: Sample, findings: Findings | None = None, **changed: object) -> dict[str, EncodedObject]:
    given = findings or sample.findings
    arguments = {
        "job": sample.job, "sources": sample.sources, "predecessor": None,
        "volume": None if given.outcome == "not_analysed" else sample.volume,
    } | changed  # fmt: skip
    objects = DicomEncoder(sample.spool, software_version="0.1.0").encode(given, **arguments)  # type: ignore[arg-type]
    return {o.kind: o for o in objects}


def read(encoded: EncodedObject) -> Dataset:
    return pydicom.dcmread(io.BytesIO(encoded.data))


def text_of(encoded: EncodedObject) -> list[str]:
    found: list[str] = []

    def walk(item: Dataset) -> None:
        if item.get("ValueType") == "TEXT" and item.RelationshipType == "CONTAINS":
            found.append(item.TextValue)
        for child in item.get("ContentSequence", []):
            walk(child)

    walk(read(encoded))
    return found


def items(dataset: Dataset, code: str) -> list[Dataset]:
    """Content items of a concept name at any depth."""
    found = []
    for child in dataset.get("ContentSequence", []):
        if child.get("ConceptNameCodeSequence") and child.ConceptNameCodeSequence[0].CodeValue == code:
            found.append(child)
        found.extend(items(child, code))
    return found


def as_result(objects: dict[str, EncodedObject]) -> ResultSet:
    listed = tuple(
        ResultObject(
            sop_instance_uid=o.sop_instance_uid, sop_class_uid=o.sop_class_uid, kind=o.kind, key=o.kind,
            series_instance_uid=o.series_instance_uid, sha256="", length=len(o.data),
        )
        for o in objects.values()
    )  # fmt: skip
    return ResultSet(
        job_id="haematoma-0-0", study_instance_uid=STUDY, pipeline="haematoma", revision=0, outcome="found",
        reason=None, summary=(), objects=listed, pictures=(), measurements=(), identity_sha256="", input_series=(),
    )  # fmt: skip


def test_found_gives_segmentation_map_and_both_reports(sample: Sample) -> None:
    objects = encode(sample)
    assert list(objects) == ["segmentation", "report", "text_report", "parametric_map"]
    for kind, encoded in objects.items():
        dataset = read(encoded)
        assert dataset.SOPInstanceUID == encoded.sop_instance_uid == dataset.file_meta.MediaStorageSOPInstanceUID, kind
        assert dataset.SeriesInstanceUID == encoded.series_instance_uid
        assert dataset.StudyInstanceUID == STUDY
        assert "RESEARCH" in dataset.SeriesDescription
        assert dataset.Manufacturer == "Ichor"
        assert dataset.ManufacturerModelName.endswith("-phantom")
        assert (dataset.ContentDate, dataset.ContentTime) == ("20231114", "221321.250000")
    assert len({o.series_instance_uid for o in objects.values()}) == 4


def test_no_haematoma_gives_reports_that_say_so_and_no_segmentation(sample: Sample) -> None:
    objects = encode(sample, none_found(sample))
    assert list(objects) == ["report", "text_report"]
    sentence = "No intracerebral haematoma found; subdural, epidural and subarachnoid blood not assessed."
    assert sentence in text_of(objects["report"])
    assert text_of(objects["text_report"])[0] == sentence
    (volume,) = items(read(objects["report"]), "118565006")
    assert float(volume.MeasuredValueSequence[0].NumericValue) == 0.0


def test_not_analysed_gives_reports_with_the_reason_and_no_number(sample: Sample) -> None:
    objects = encode(sample, not_analysed(sample), sources=sample.sources[:1])
    assert list(objects) == ["report", "text_report"]
    assert text_of(objects["text_report"])[0] == "Not analysed: the series lacks slices."
    assert any("the series lacks slices" in line for line in text_of(objects["report"]))
    assert items(read(objects["report"]), "118565006") == []
    assert "not analysed" in read(objects["text_report"]).SeriesDescription


def test_equal_arguments_give_equal_bytes(sample: Sample) -> None:
    assert {k: o.data for k, o in encode(sample).items()} == {k: o.data for k, o in encode(sample).items()}


@pytest.mark.parametrize("what", ["version", "parameters", "weights_sha256"])
def test_uids_depend_on_what_computed(sample: Sample, what: str) -> None:
    other = {"version": "0.2", "parameters": {"threshold": 0.4}, "weights_sha256": "d0" * 32}[what]
    algorithm = dataclasses.replace(sample.findings.algorithm, **{what: other})
    changed = encode(sample, dataclasses.replace(sample.findings, algorithm=algorithm))
    for kind, encoded in encode(sample).items():
        assert changed[kind].sop_instance_uid != encoded.sop_instance_uid
        assert changed[kind].series_instance_uid != encoded.series_instance_uid


def test_uids_depend_on_identity_and_content_and_not_on_the_engine(sample: Sample) -> None:
    first = {k: o.sop_instance_uid for k, o in encode(sample).items()}
    for field in ("identity_sha256", "content_sha256"):
        sources = tuple(dataclasses.replace(s, **{field: "ff" * 32}) for s in sample.sources)
        changed = {k: o.sop_instance_uid for k, o in encode(sample, sources=sources).items()}
        assert not set(first.values()) & set(changed.values())
    algorithm = dataclasses.replace(sample.findings.algorithm, engine="TensorRT bf16")
    other = encode(sample, dataclasses.replace(sample.findings, algorithm=algorithm))
    assert {k: o.sop_instance_uid for k, o in other.items()} == first
    assert any("TensorRT" in line for line in text_of(other["text_report"]))


def test_two_reasons_for_not_analysing_the_same_images_are_two_results(sample: Sample) -> None:
    one = encode(sample, not_analysed(sample, "a slice is missing"))
    two = encode(sample, not_analysed(sample, "no brain found"))
    assert one["report"].sop_instance_uid != two["report"].sop_instance_uid


@pytest.mark.parametrize("tilt", [0.0, 17.5])
def test_segmentation_lies_where_the_mask_lies(tmp_path: Path, tilt: float) -> None:
    sample = make_sample(tmp_path, tilt=tilt)
    seg = highdicom.seg.segread(io.BytesIO(encode(sample)["segmentation"].data))
    mask = sample.findings.groups[0].segmentation
    assert mask is not None
    assert seg.SegmentationType == "BINARY"
    assert seg.FrameOfReferenceUID == FRAME
    frames = seg.pixel_array.reshape(-1, *mask.mask_zyx.shape[1:])
    assert len(frames) == 3
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = [float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient]
        (k,) = np.flatnonzero((sample.volume.origins_lps == position).all(axis=1))
        assert np.array_equal(frame, mask.mask_zyx[k])
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert source == sample.sources[k].sop_instance_uid
    shared = seg.SharedFunctionalGroupsSequence[0]
    expected = sample.sources[0].geometry
    assert expected is not None
    assert [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient] == list(
        expected.orientation_lps or ()
    )
    assert [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.5, 0.75]


def test_overlapping_masks_are_both_kept_whole(sample: Sample) -> None:
    group = sample.findings.groups[0]
    assert group.segmentation is not None
    shifted = np.roll(group.segmentation.mask_zyx, 3, axis=2)
    second = dataclasses.replace(group.segmentation, label="Oedema", tracking_id="Oedema 1", mask_zyx=shifted)
    both = dataclasses.replace(
        sample.findings, groups=(group, dataclasses.replace(group, tracking_id="Oedema 1", segmentation=second))
    )
    seg = highdicom.seg.segread(io.BytesIO(encode(sample, both)["segmentation"].data))
    assert seg.SegmentsOverlap == "YES"
    counts = {1: 0, 2: 0}
    for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        counts[int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)] += int(frame.sum())
    assert counts == {1: int(group.segmentation.mask_zyx.sum()), 2: int(shifted.sum())}


def test_segment_says_what_it_is_and_who_made_it(sample: Sample) -> None:
    segment = read(encode(sample)["segmentation"]).SegmentSequence[0]
    assert segment.SegmentLabel == "Haematoma 1"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "50960005"
    assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    assert algorithm.AlgorithmName.endswith("unet-phantom")
    assert "c0" * 32 in segment.SegmentDescription
    assert "RESEARCH" in segment.SegmentDescription


def test_map_stores_the_values_of_its_frames_only(sample: Sample) -> None:
    image = read(encode(sample)["parametric_map"])
    values = np.frombuffer(image.FloatPixelData, np.float32).reshape(-1, image.Rows, image.Columns)
    assert np.array_equal(values, sample.findings.maps[0].values_zyx[2:5])
    assert image.ContentQualification == "RESEARCH"
    mapping = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "110854"
    assert len(mapping.LUTLabel) <= 16


def with_attention(sample: Sample) -> Findings:
    values = np.zeros(sample.volume.array_zyx.shape, np.float32)
    values[2:5, 11:18, 9:16] = 0.5
    attention = ParametricMap(
        label="Attention for expansion", values_zyx=values, unit=sample.findings.maps[0].unit,
        quantity=Code(value="130403", scheme="DCM", meaning="Gradient-weighted class activation"),
        derivation=sample.findings.maps[0].derivation,
    )  # fmt: skip
    return dataclasses.replace(sample.findings, maps=(*sample.findings.maps, attention))


def drawn() -> list[Overlay]:
    rng = np.random.default_rng(0)
    return [
        Overlay(
            rgb_yx=rng.integers(0, 255, (30, 25, 3), np.uint8), slice=k, middle=k == 3, caption=f"Attention; slice {k}"
        )
        for k in (2, 3, 4)
    ]


def test_an_attention_map_has_its_own_series_and_its_values_on_the_slices_that_hold_it(sample: Sample) -> None:
    findings = with_attention(sample)
    encoded = DicomEncoder(sample.spool, software_version="0.1.0").encode(
        findings, job=sample.job, sources=sample.sources, volume=sample.volume, predecessor=None
    )
    probability, attention = (read(o) for o in encoded if o.kind == "parametric_map")
    assert probability.SeriesInstanceUID != attention.SeriesInstanceUID
    assert (probability.SeriesNumber, probability.InstanceNumber) != (attention.SeriesNumber, attention.InstanceNumber)
    assert attention.SeriesDescription.endswith("Attention for expansion")
    values = np.frombuffer(attention.FloatPixelData, np.float32).reshape(-1, attention.Rows, attention.Columns)
    assert np.array_equal(values, findings.maps[1].values_zyx[2:5])
    mapping = attention.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130403"


def overlay_objects(sample: Sample, **changed: object) -> list[EncodedObject]:
    arguments = {
        "job": sample.job, "sources": sample.sources, "volume": sample.volume, "predecessor": None,
        "overlays": drawn(),
    } | changed  # fmt: skip
    encoder = DicomEncoder(sample.spool, software_version="0.1.0")
    return encoder.encode(with_attention(sample), **arguments)  # type: ignore[arg-type]


def test_overlays_are_pictures_of_one_series_that_cite_the_slices_they_show(sample: Sample) -> None:
    encoded = overlay_objects(sample)
    assert [o.kind for o in encoded] == [
        "segmentation",
        "report",
        "text_report",
        *["overlay"] * 3,
        *["parametric_map"] * 2,
    ]
    assert [o.label for o in encoded if o.kind == "overlay"] == [overlay.caption for overlay in drawn()]
    assert len({o.label for o in encoded if o.kind == "parametric_map"} - {""}) == 2
    images = [read(o) for o in encoded if o.kind == "overlay"]
    assert len({i.SeriesInstanceUID for i in images}) == 1
    assert [i.InstanceNumber for i in images] == [1, 2, 3]
    for image, overlay in zip(images, drawn(), strict=True):
        assert image.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
        assert np.array_equal(image.pixel_array, overlay.rgb_yx)
        assert image.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert list(image.PatientOrientation) == ["L", "P"]
        (source,) = image.SourceImageSequence
        assert source.ReferencedSOPInstanceUID == sample.sources[overlay.slice].sop_instance_uid
        assert image.PatientID == "P1"
        assert "RESEARCH" in image.ImageComments
        assert image.BurnedInAnnotation == "NO"
        assert "ImagePositionPatient" not in image
    assert [o.data for o in overlay_objects(sample)] == [o.data for o in encoded]
    (study,) = read(encoded[1]).CurrentRequestedProcedureEvidenceSequence
    listed = {r.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for r in s.ReferencedSOPSequence}
    assert {str(i.SOPInstanceUID) for i in images} <= listed


def test_dciodvfy_finds_nothing_wrong_with_overlay_and_attention_map(
    sample: Sample, tmp_path: Path, peer: Callable[[str, str], str]
) -> None:
    program = peer("dciodvfy", "dicom3tools")
    for number, encoded in enumerate(overlay_objects(sample)):
        if encoded.kind not in ("overlay", "parametric_map"):
            continue
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(encoded.data)
        said = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=60, check=False)
        lines = (said.stdout + said.stderr).splitlines()
        assert [line for line in lines if line.startswith("Error")] == []
        # The tool's table of 2022 does not know QUANTITY as value 4 of Image Type, nor our private scheme.
        told = [line for line in lines if line.startswith("Warning") and not re.search("QUANTITY|99ICHOR", line)]
        assert told == []


def test_report_tells_each_lesion_on_its_segment_and_as_an_outline(sample: Sample) -> None:
    objects = encode(sample)
    report = read(objects["report"])
    (segment,) = items(report, "121191")
    assert segment.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == objects["segmentation"].sop_instance_uid
    assert segment.ReferencedSOPSequence[0].ReferencedSegmentNumber == 1
    (region,) = items(report, "111030")
    image = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == sample.sources[3].sop_instance_uid  # the largest slice
    points = np.array(region.GraphicData).reshape(-1, 2)
    assert np.array_equal(points[0], points[-1])
    # The mask is columns 8-19 and rows 10-23; pixel edges are whole numbers, so the outline's box is 8-20, 10-24.
    assert np.allclose(points.min(axis=0), [8, 10], atol=0.01)
    assert np.allclose(points.max(axis=0), [20, 24], atol=0.01)
    values = {
        item.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning: float(item.MeasuredValueSequence[0].NumericValue)
        for item in items(report, "118565006")
    }
    assert values["Voxel count"] == pytest.approx(sample.voxel_ml, rel=1e-8)
    # On the segment, and beside the outline, where viewers show it.
    on_segment, beside_outline = items(report, "EXPANSION_24H")
    for probability in (on_segment, beside_outline):
        measured = probability.MeasuredValueSequence[0]
        assert float(measured.NumericValue) == pytest.approx(37.0)
        assert measured.MeasurementUnitsCodeSequence[0].CodeValue == "%"
    tracking = {item.UID for item in items(report, "112040")}
    assert tracking == {read(objects["segmentation"]).SegmentSequence[0].TrackingUID}


def test_text_report_reads_answer_numbers_not_assessed_provenance(sample: Sample) -> None:
    lines = text_of(encode(sample)["text_report"])
    order = [
        next(i for i, line in enumerate(lines) if text in line)
        for text in (
            "One intracerebral haematoma",
            "RESEARCH: not for clinical use.",
            "Voxel count",
            "Not assessed: subdural",
            "Made by Ichor",
        )
    ]
    assert order == sorted(order)
    assert any("Probability of expansion within 24 h 37 %" in line for line in lines)
    assert max(map(len, lines)) <= 100
    assert lines[1] == lines[-1] == "RESEARCH: not for clinical use."
    said = text_of(encode(sample)["report"])
    assert [i for i, line in enumerate(said) if line == lines[1]] == [1, len(said) - 1]


def test_reports_list_the_images_used_as_evidence(sample: Sample) -> None:
    objects = encode(sample)
    (study,) = read(objects["report"]).CurrentRequestedProcedureEvidenceSequence
    by_series = {s.SeriesInstanceUID: s.ReferencedSOPSequence for s in study.ReferencedSeriesSequence}
    assert len(by_series[SERIES]) == SLICES
    assert {objects[k].series_instance_uid for k in ("segmentation", "parametric_map")} <= set(by_series)


def test_identity_is_copied_as_the_bytes_that_the_source_has(tmp_path: Path) -> None:
    name = "Wang^XiaoDong=王^小东"
    sample = make_sample(tmp_path, header={"SpecificCharacterSet": "GB18030", "PatientName": name})
    stored = pydicom.dcmread(tmp_path / "0.dcm").get_item("PatientName").value
    for encoded in encode(sample).values():
        dataset = read(encoded)
        assert dataset.get_item("PatientName").value == stored
        assert str(dataset.PatientName) == name
        for keyword in ("PatientID", "StudyDate", "AccessionNumber", "StudyDescription", "PatientAge"):
            assert dataset[keyword].value == pydicom.dcmread(tmp_path / "0.dcm")[keyword].value


def test_a_name_whose_character_set_is_not_declared_is_copied_all_the_same(tmp_path: Path) -> None:
    sample = make_sample(tmp_path)
    raw = (tmp_path / "0.dcm").read_bytes()
    (tmp_path / "0.dcm").write_bytes(raw.replace(b"Doe^Jane", "王^小东a".encode("gb18030")))
    for encoded in encode(sample).values():
        assert read(encoded).get_item("PatientName").value == "王^小东a".encode("gb18030")


def test_a_disk_that_does_not_give_the_header_is_no_source_without_a_patient(tmp_path: Path) -> None:
    source = make_sample(tmp_path).sources[0]

    class Disk:
        def __init__(self, answer: int) -> None:
            self.answer = answer

        def open(self, _: str) -> BinaryIO:
            raise OSError(self.answer, "what a disk says")

    for away in (errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE):
        with pytest.raises(OSError, match="what a disk says"):
            read_header(Disk(away), source)  # type: ignore[arg-type]
    lost = read_header(Disk(errno.EIO), source)  # type: ignore[arg-type]
    assert lost.elements == ()


@pytest.mark.parametrize(
    "header",
    [
        {"PatientSex": None},
        {"PatientSex": "UNKNOWN"},
        {"PatientName": None, "PatientBirthDate": None, "StudyTime": None, "ReferringPhysicianName": None},
        {"SpecificCharacterSet": "NO_SUCH_TERM"},
        {"StudyDate": "2023.11.14"},
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_gaps_and_oddities_of_a_source_never_stop_a_result(tmp_path: Path, header: dict[str, object]) -> None:
    sample = make_sample(tmp_path, header=header)
    objects = encode(sample)
    assert len(objects) == 4
    for encoded in objects.values():
        dataset = read(encoded)
        assert {"PatientName", "PatientSex", "PatientBirthDate", "StudyTime", "ReferringPhysicianName"} <= set(
            dataset.dir()
        )
        assert dataset.PatientID == "P1"


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "garbage"])
def test_a_source_that_cannot_be_read_still_gets_its_report(sample: Sample, damage: str) -> None:
    path = sample.root / "0.dcm"
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[:700], "empty": b"", "garbage": b"\x00\xff" * 500}[damage])
    objects = encode(sample, not_analysed(sample), sources=sample.sources[:1])
    assert read(objects["text_report"]).StudyInstanceUID == STUDY
    assert "the series lacks slices" in text_of(objects["text_report"])[0]


def test_an_amended_result_cites_its_predecessor(sample: Sample) -> None:
    before = encode(sample)
    sources = tuple(dataclasses.replace(s, content_sha256="ab" * 32) for s in sample.sources)
    after = encode(sample, sources=sources, predecessor=as_result(before))
    for kind in ("report", "text_report"):
        (study,) = read(after[kind]).PredecessorDocumentsSequence
        cited = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        assert cited == before[kind].sop_instance_uid
        assert any("amends" in line and cited in line for line in text_of(after[kind]))
    for kind in ("segmentation", "parametric_map"):
        (cited,) = read(after[kind]).ReferencedInstanceSequence
        assert cited.ReferencedSOPInstanceUID == before[kind].sop_instance_uid


def test_the_same_result_again_does_not_amend_itself(sample: Sample) -> None:
    before = encode(sample)
    again = encode(sample, predecessor=as_result(before))
    assert {k: o.data for k, o in again.items()} == {k: o.data for k, o in before.items()}


def test_the_time_zone_of_the_source_is_kept(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, header={"TimezoneOffsetFromUTC": "+0800"})
    dataset = read(encode(sample)["report"])
    assert dataset.TimezoneOffsetFromUTC == "+0800"
    assert (dataset.ContentDate, dataset.ContentTime) == ("20231115", "061321.250000")


@pytest.mark.filterwarnings("ignore")
def test_values_that_are_none_of_their_attribute_are_left_out_and_identity_stays(tmp_path: Path) -> None:
    sample = make_sample(tmp_path)
    path = tmp_path / "0.dcm"
    raw = pydicom.dcmread(path)
    raw.PatientSize, raw.PatientWeight, raw.StudyDate, raw.PatientAge = "1.75", "80.5", "20261145", "099Z"
    raw.PatientID = "P" * 80
    raw.save_as(path)
    path.write_bytes(path.read_bytes().replace(b"80.5", b"80,5"))
    for encoded in encode(sample).values():
        dataset = read(encoded)
        assert dataset.get_item("StudyDate").value in (None, b"")
        assert "PatientAge" not in dataset
        assert "PatientWeight" not in dataset
        assert dataset.PatientSize == 1.75
        assert dataset.PatientID == "P" * 80


def test_a_frame_of_reference_that_is_no_uid_is_replaced_by_one_made_of_it(sample: Sample) -> None:
    volume = dataclasses.replace(sample.volume, frame_of_reference_uid="1.2.03.x")
    objects = encode(sample, volume=volume)
    written = {str(read(objects[k]).FrameOfReferenceUID) for k in ("segmentation", "parametric_map")}
    assert written == {uid_of("frame of reference", "1.2.03.x")}


def test_a_mask_of_another_shape_is_refused(sample: Sample) -> None:
    group = sample.findings.groups[0]
    assert group.segmentation is not None
    small = dataclasses.replace(group.segmentation, mask_zyx=group.segmentation.mask_zyx[:, 1:])
    broken = dataclasses.replace(sample.findings, groups=(dataclasses.replace(group, segmentation=small),))
    with pytest.raises(ValueError, match="mask of"):
        encode(sample, broken)


def test_warming_up_changes_no_result(sample: Sample) -> None:
    before = encode(sample)
    DicomEncoder(sample.spool, software_version="0.1.0").warm()
    assert {k: o.data for k, o in encode(sample).items()} == {k: o.data for k, o in before.items()}
