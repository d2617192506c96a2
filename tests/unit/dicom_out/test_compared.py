"""A result that compares with an earlier study names what it rests on, and shows both scans whatever was found."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from unit.dicom_out.samples import Sample, make_sample, none_found
from unit.dicom_out.test_encoder import encode, items, read, text_of

from dicom_out.warm import tiny_overlay
from ichor.types import Findings

EARLIER = "2.25.77"
PERTINENT = (
    (EARLIER, "2.25.77.1", "1.2.840.10008.5.1.4.1.1.88.34", "2.25.77.1.1"),
    (EARLIER, "2.25.77.2", "1.2.840.10008.5.1.4.1.1.88.11", "2.25.77.2.1"),
    (EARLIER, "2.25.77.3", "1.2.840.10008.5.1.4.1.1.66.4", "2.25.77.3.1"),
    (EARLIER, "2.25.77.9", "1.2.840.10008.5.1.4.1.1.2", "2.25.77.9.1"),
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("ct"))


def compared(findings: Findings) -> Findings:
    return replace(findings, pertinent=PERTINENT)


def evidence(dataset: Dataset) -> set[tuple[str, str]]:
    return {
        (study.StudyInstanceUID, reference.ReferencedSOPInstanceUID)
        for study in dataset.get("PertinentOtherEvidenceSequence", [])
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }


def test_the_earlier_images_and_results_are_evidence_and_its_reports_are_named(sample: Sample) -> None:
    objects = encode(sample, compared(sample.findings))
    for kind in ("report", "text_report"):
        assert evidence(read(objects[kind])) == {(EARLIER, uid) for *_, uid in PERTINENT}
    named = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items(read(objects["report"]), "122075")
    ]
    assert named == ["2.25.77.1.1", "2.25.77.2.1"]
    assert "Compared with the report 2.25.77.2.1." in text_of(objects["text_report"])


def test_a_result_of_one_study_names_no_other(sample: Sample) -> None:
    objects = encode(sample)
    assert evidence(read(objects["report"])) == set()
    assert items(read(objects["report"]), "122075") == []


def test_both_scans_are_shown_also_where_nothing_is_left(sample: Sample) -> None:
    objects = encode(sample, compared(none_found(sample)), overlays=[tiny_overlay()])
    assert list(objects) == ["report", "text_report", "overlay"]


def test_dciodvfy_finds_no_error_in_a_report_that_cites(
    sample: Sample, tmp_path: Path, peer: Callable[[str, str], str]
) -> None:
    program = peer("dciodvfy", "dicom3tools")
    objects = encode(sample, compared(sample.findings))
    for kind in ("report", "text_report"):
        path = tmp_path / f"{kind}.dcm"
        path.write_bytes(objects[kind].data)
        said = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=60, check=False)
        lines = (said.stdout + said.stderr).splitlines()
        assert [line for line in lines if line.startswith("Error")] == []


def test_a_picture_of_two_heads_names_the_images_of_both_and_no_direction(
    sample: Sample, tmp_path: Path, peer: Callable[[str, str], str]
) -> None:
    others = tuple(replace(one, sop_instance_uid=f"2.25.77.9.{n}") for n, one in enumerate(sample.sources[:2], start=1))
    both = replace(tiny_overlay(), beside=others)
    encoded = encode(sample, compared(sample.findings), overlays=[both])["overlay"]
    image = read(encoded)
    assert [item.ReferencedSOPInstanceUID for item in image.SourceImageSequence] == [
        sample.sources[both.slice].sop_instance_uid, "2.25.77.9.1", "2.25.77.9.2",
    ]  # fmt: skip
    assert not image.PatientOrientation
    program = peer("dciodvfy", "dicom3tools")
    path = tmp_path / "both.dcm"
    path.write_bytes(encoded.data)
    said = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")] == []
