"""Bad input gets a clear reason without PHI in the console, crashes nothing, and nothing else waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pydicom
import pytest
from e2e.sender import send
from e2e.site import Site
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import JPEGBaseline8Bit, generate_uid

from dicom_out.demo_pacs import DemoPacs
from phantoms.ct_study import write_ct_head

NAME = "ZZSECRET^Patient"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> list[FileDataset]:
    """A small whole head with a bleed, as slices in order of position."""
    folder = tmp_path_factory.mktemp("head")
    write_ct_head(folder, seed=20_500, bleed=35.0, slices=24, matrix=160, series={"soft"})
    slices = [pydicom.dcmread(p) for p in sorted((folder / "dicom").rglob("*.dcm"))]
    return sorted(slices, key=lambda s: float(s.ImagePositionPatient[2]))


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], engines: Path
) -> Iterator[tuple[Site, DemoPacs]]:
    """One site for all cases: each must leave it whole for the next."""
    site = Site(tmp_path_factory.mktemp("bad") / "site", free_port(), free_port(), engines=engines)
    with DemoPacs() as pacs:
        site.add_destination(0, name="pacs", ae_title=pacs.ae_title, port=pacs.port)
        site.start()
        yield site, pacs
        site.kill()


def as_new_study(head: list[FileDataset]) -> list[FileDataset]:
    """The same head as another study of another patient, whose name would be found wherever it leaked."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    made = []
    for n, source in enumerate(head, start=1):
        copy = deepcopy(source)
        copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.FrameOfReferenceUID = study, series, frame
        copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        copy.PatientName, copy.PatientID, copy.InstanceNumber = NAME, "ZZSECRET-ID", n
        if "ImagesInAcquisition" in copy:
            copy.ImagesInAcquisition = len(head)
        made.append(copy)
    return made


def save(slices: list[FileDataset], folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = []
    for n, item in enumerate(slices):
        path = folder / f"{n:03d}.dcm"
        item.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def reasons(study: dict[str, Any]) -> str:
    texts = [study["reason"], *(j["reason"] for j in study["jobs"]), *(s["reason"] for s in study["series"])]
    return " | ".join(t for t in texts if t)


def lossy(slices: list[FileDataset]) -> None:
    for item in slices:
        item.LossyImageCompression = "01"
        item.LossyImageCompressionRatio = 10.0


def lossy_syntax(slices: list[FileDataset]) -> None:
    for item in slices:
        item.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        item.BitsAllocated = item.BitsStored = 8
        item.HighBit, item.PixelRepresentation = 7, 0
        item.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        item["PixelData"].is_undefined_length = True


def pixels_short(slices: list[FileDataset]) -> None:
    slices[7].PixelData = slices[7].PixelData[:1000]


def no_pixels(slices: list[FileDataset]) -> None:
    for item in slices:
        del item.PixelData


def one_slice(slices: list[FileDataset]) -> None:
    del slices[1:]
    slices[0].ImagesInAcquisition = 1


def same_place(slices: list[FileDataset]) -> None:
    slices[8].ImagePositionPatient = slices[7].ImagePositionPatient


def no_spacing(slices: list[FileDataset]) -> None:
    for item in slices:
        del item.PixelSpacing


def two_patients(slices: list[FileDataset]) -> None:
    for item in slices[12:]:
        item.PatientID = "ANOTHER-ID"


def gap(slices: list[FileDataset]) -> None:
    del slices[11]


CASES: dict[str, tuple[Callable[[list[FileDataset]], None], str]] = {
    "lossy flag": (lossy, "lossy"),
    "lossy JPEG": (lossy_syntax, "lossy"),
    "pixels shorter than the header says": (pixels_short, "shorter"),
    "no pixel data": (no_pixels, "no pixel data"),
    "one slice": (one_slice, "one slice"),
    "two slices at one place": (same_place, "one place"),
    "no spacing": (no_spacing, "spacing"),
    "two Patient IDs": (two_patients, "two Patient IDs"),
    "a slice missing": (gap, "lacks slices"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_measured_is_named_and_never_measured(
    case: str, place: tuple[Site, DemoPacs], head: list[FileDataset], tmp_path: Path
) -> None:
    site, pacs = place
    change, words = CASES[case]
    slices = as_new_study(head)
    change(slices)
    uid = slices[0].StudyInstanceUID
    statuses = send(save(slices, tmp_path / "in"), site.listener_port)
    assert set(statuses) == {0x0000}
    study = site.wait_study(uid)
    assert study["state"] == "done", reasons(study)
    assert words in reasons(study)
    assert all(job["measurements"] == [] for job in study["jobs"])
    sent = [o for o in list(pacs.received.values()) if o.StudyInstanceUID == uid]
    assert {o.Modality for o in sent} <= {"SR"}
    assert "ZZSECRET" not in site.log() + str(study) + site.ichor("why", uid).stdout


def test_a_file_cut_short_is_stored_and_named(
    place: tuple[Site, DemoPacs], head: list[FileDataset], tmp_path: Path
) -> None:
    site, _ = place
    slices = as_new_study(head)
    paths = save(slices, tmp_path / "in")
    whole = paths[5].read_bytes()
    paths[5].write_bytes(whole[: len(whole) - 7000])
    assert set(send(paths, site.listener_port)) == {0x0000}
    study = site.wait_study(slices[0].StudyInstanceUID)
    assert study["state"] == "done"
    assert "cut short" in reasons(study) or "shorter" in reasons(study)
    assert all(job["measurements"] == [] for job in study["jobs"])


def test_a_hostile_uid_is_refused_listed_and_written_nowhere(
    place: tuple[Site, DemoPacs], head: list[FileDataset], tmp_path: Path
) -> None:
    site, _ = place
    before = {p for p in site.folder.rglob("*") if "spool" in p.parts}
    for attribute in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        item = as_new_study(head)[0]
        item[attribute].value = "../../x"
        if attribute == "SOPInstanceUID":
            item.file_meta.MediaStorageSOPInstanceUID = "../../x"
        path = save([item], tmp_path / attribute)
        assert send(path, site.listener_port) in ([0xA900], [0xC000]), attribute
    assert {p for p in site.folder.rglob("*") if "spool" in p.parts} == before
    refusals: list[dict[str, str]] = []

    def listed() -> bool:
        refusals[:] = site.request("/api/v1/refusals")[1]
        return any(refusal["status"] == "0xA900" for refusal in refusals)

    site.until(listed, timeout=300, what="the refusal in the list")
    assert all(set(r) == {"time", "calling_ae", "status", "reason"} for r in refusals)


def test_reports_and_a_dicomdir_in_the_stream_break_nothing(
    place: tuple[Site, DemoPacs], head: list[FileDataset], tmp_path: Path
) -> None:
    site, _ = place
    slices = as_new_study(head)
    report = deepcopy(slices[0])
    for keyword in ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"):
        delattr(report, keyword)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.Modality, report.SeriesInstanceUID = "SR", generate_uid()
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory = Dataset()
    directory.FileSetID = "X"
    directory.DirectoryRecordSequence = []
    directory.file_meta = deepcopy(slices[0].file_meta)
    directory.SOPClassUID = directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.SOPInstanceUID = directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    paths = save([slices[0], report, directory, *slices[1:]], tmp_path / "in")
    statuses = send(paths, site.listener_port)
    assert statuses[:2] == [0, 0]
    assert statuses[2] in (0x0122, 0xA900, 0xC000)
    assert set(statuses[3:]) == {0}
    study = site.wait_study(slices[0].StudyInstanceUID)
    assert study["state"] == "done"
    assert [j["state"] for j in study["jobs"]] == ["done"]
    assert any(m["name"] == "haematoma_volume" for m in study["jobs"][0]["measurements"])


@pytest.mark.parametrize(
    "missing", ["PatientSex", "PatientBirthDate", "ReferringPhysicianName", "StudyDate", "AccessionNumber"]
)
def test_gaps_in_the_header_never_stop_a_result(
    missing: str, place: tuple[Site, DemoPacs], head: list[FileDataset], tmp_path: Path
) -> None:
    site, pacs = place
    slices = as_new_study(head)
    for item in slices:
        item.pop(missing, None)
    send(save(slices, tmp_path / "in"), site.listener_port)
    uid = slices[0].StudyInstanceUID
    study = site.wait_study(uid)
    assert study["state"] == "done", reasons(study)
    assert "SEG" in {o.Modality for o in list(pacs.received.values()) if o.StudyInstanceUID == uid}


def test_a_name_in_gb18030_comes_back_as_it_was(
    place: tuple[Site, DemoPacs], head: list[FileDataset], tmp_path: Path
) -> None:
    site, pacs = place
    slices = as_new_study(head)
    for item in slices:
        item.SpecificCharacterSet = "GB18030"
        item.PatientName = "Wang^XiaoDong=王^小东"
    send(save(slices, tmp_path / "in"), site.listener_port)
    uid = slices[0].StudyInstanceUID
    assert site.wait_study(uid)["state"] == "done"
    back = [o for o in list(pacs.received.values()) if o.StudyInstanceUID == uid]
    assert len(back) >= 3
    assert {str(o.PatientName) for o in back} == {"Wang^XiaoDong=王^小东"}


def test_one_uid_with_other_pixels_is_not_analysed(
    place: tuple[Site, DemoPacs], head: list[FileDataset], tmp_path: Path
) -> None:
    site, _ = place
    slices = as_new_study(head)
    other = deepcopy(slices[10])
    other.PixelData = bytes(reversed(other.PixelData))
    send(save([*slices, other], tmp_path / "in"), site.listener_port)
    study = site.wait_study(slices[0].StudyInstanceUID)
    assert "different pixels" in reasons(study)
    assert (
        all(job["measurements"] == [] for job in study["jobs"] if job["state"] != "superseded") or study["revision"] > 1
    )


def test_a_corrected_name_is_encoded_again_without_inference(
    place: tuple[Site, DemoPacs], head: list[FileDataset], tmp_path: Path
) -> None:
    site, pacs = place
    slices = as_new_study(head)
    uid = slices[0].StudyInstanceUID
    send(save(slices, tmp_path / "in"), site.listener_port)
    first = site.wait_study(uid)
    for item in slices:
        item.PatientName = "Corrected^Name"
    send(save(slices, tmp_path / "again"), site.listener_port)
    second = site.wait_study(uid, revision=first["revision"] + 1)
    assert second["state"] == "done", reasons(second)
    current = second["jobs"][-1]
    assert current["measurements"] == first["jobs"][-1]["measurements"]
    assert current["seconds"].get("infer", 0.0) == 0.0
    old = {r["sop_instance_uid"] for r in first["results"]}
    new = {r["sop_instance_uid"] for r in second["results"]} - old
    assert new
    assert {str(pacs.received[u].PatientName) for u in new} == {"Corrected^Name"}
    reports = [pacs.received[u] for u in new if pacs.received[u].Modality == "SR"]
    cited = {
        item.ReferencedSOPInstanceUID
        for report in reports
        for study_item in report.get("PredecessorDocumentsSequence", [])
        for series_item in study_item.ReferencedSeriesSequence
        for item in series_item.ReferencedSOPSequence
    }
    assert cited & old
