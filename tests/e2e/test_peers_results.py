"""Results before real readers: Debian's validators, dcmqi's readers, Debian's Orthanc."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nrrd
import numpy as np
import pydicom
import pytest
from e2e.orthanc import Orthanc
from unit.dicom_out.samples import STUDY, Sample, make_sample, none_found, not_analysed

from dicom_out.encoder import DicomEncoder
from dicom_out.sender import run_sender
from dicom_out.transport import RESULT_CLASSES, accepted_classes
from ichor.bus.memory import MemoryBus
from ichor.clock import SystemClock
from ichor.encoding import EncodedObject
from ichor.messages import EVENTS, RESULTS, DeliveryChanged, ResultReady, open_envelope, seal
from ichor.store.blobs import FileBlobs
from ichor.types import Destination, ResultObject, ResultSet

Peer = Callable[[str, str], str]


@pytest.fixture(scope="module")
def result_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file per kind of object and outcome, and one set of an odd source that amends another."""
    folder = tmp_path_factory.mktemp("results")
    files: dict[str, Path] = {}

    def add(name: str, objects: list[EncodedObject]) -> list[EncodedObject]:
        for encoded in objects:
            files[f"{name} {encoded.kind}"] = folder / f"{name}-{encoded.kind}.dcm"
            files[f"{name} {encoded.kind}"].write_bytes(encoded.data)
        return objects

    sample = _sample(folder / "even")
    found = add("found", _encode(sample))
    add("none", _encode(sample, findings=none_found(sample)))
    add("refused", _encode(sample, findings=not_analysed(sample), volume=None))
    odd = _sample(
        folder / "odd", tilt=-12.0,
        header={"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东", "PatientSex": None, "StudyID": None},
    )  # fmt: skip
    sources = tuple(dataclasses.replace(s, content_sha256="ab" * 32) for s in odd.sources)
    add("amended", _encode(odd, sources=sources, predecessor=_as_result(found)))
    return files


def _sample(folder: Path, **options: object) -> Sample:
    folder.mkdir()
    return make_sample(folder, **options)  # type: ignore[arg-type]


def _encode(sample: Sample, **changed: object) -> list[EncodedObject]:
    arguments = {
        "findings": sample.findings, "job": sample.job, "sources": sample.sources, "volume": sample.volume,
        "predecessor": None,
    } | changed  # fmt: skip
    return DicomEncoder(sample.spool, software_version="0.1.0").encode(**arguments)  # type: ignore[arg-type]


def _listed(objects: list[EncodedObject]) -> tuple[ResultObject, ...]:
    return tuple(
        ResultObject(
            sop_instance_uid=o.sop_instance_uid, sop_class_uid=o.sop_class_uid, kind=o.kind, key=f"results/{o.kind}",
            series_instance_uid=o.series_instance_uid, sha256="", length=len(o.data),
        )
        for o in objects
    )  # fmt: skip


def _as_result(objects: list[EncodedObject]) -> ResultSet:
    return ResultSet(
        job_id="haematoma-0-0", study_instance_uid=STUDY, pipeline="haematoma", revision=0, outcome="found",
        reason=None, summary=(), objects=_listed(objects), pictures=(), measurements=(), identity_sha256="",
        input_series=(),
    )  # fmt: skip


# The tool's table of 2022 does not know the fourth value that PS3.3 C.7.6.16.3 gives for a quantity, and no tool can
# know a private coding scheme, which is declared in the Coding Scheme Identification Sequence. One source here has no
# Study ID, which is type 2.
_HARMLESS = re.compile(
    r"Unrecognized defined term <QUANTITY> for value 4 of attribute <(Image|Frame) Type>"
    r"|Unrecognized defined term <99ICHOR> for value 1 of attribute <Coding Scheme Designator>"
    r"|Missing attribute or value that would be needed to build DICOMDIR - Study ID"
    r"|Unrecognized defined term <2\.25\.\d+> for value 1 of attribute <Coding Scheme UID>"
)


def test_dciodvfy_finds_no_error(peer: Peer, result_files: dict[str, Path]) -> None:
    program = peer("dciodvfy", "dicom3tools")
    said: dict[str, list[str]] = {}
    for name, path in result_files.items():
        done = subprocess.run([program, str(path)], capture_output=True, text=True, timeout=240)
        lines = (done.stdout + done.stderr).splitlines()
        said[name] = [line for line in lines if line.startswith(("Error", "Warning")) and not _HARMLESS.search(line)]
        assert any(line in lines for line in ("Segmentation", "ParametricMap", "Comprehensive3DSR", "BasicTextSR")), (
            name
        )
    assert {name: lines for name, lines in said.items() if lines} == {}


# False errors: every measurement group has the code 125007, and the tool holds each against TID 1410 as well as 1411,
# so that a volumetric group "lacks" the planar one's region and a group without ROI (TID 1501) lacks both.
_FALSE = re.compile(
    r"Error: Template (1410 PlanarROIMeasurements.*\[Row [57]\]|1411 VolumetricROIMeasurements.*\[Row (5|7|10)\]).*"
    r'within [\d.]+: .*CONTAINER \(125007,DCM,"Measurement Group"\): Missing conditional content item'
)


def test_dicomsrvalidator_finds_only_its_own_errors(peer: Peer, result_files: dict[str, Path]) -> None:
    peer("DicomSRValidator", "pixelmed-apps")
    java = peer("java", "default-jre-headless")
    limits = [f"-Djdk.xml.{name}=0" for name in ("xpathExprGrpLimit", "xpathExprOpLimit", "xpathTotalOpLimit")]
    # Seconds each: one of every form, the found ones from the odd source.
    names = ("amended report", "amended text_report", "none report", "refused report", "refused text_report")

    def errors(name: str) -> list[str]:
        done = subprocess.run(
            [
                java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *limits, "-cp", "/usr/share/java/pixelmed.jar",
                "com.pixelmed.validate.DicomSRValidator", str(result_files[name]),
            ],
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        lines = (done.stdout + done.stderr).splitlines()
        assert "IOD validation complete" in lines, f"{name}: {done.stderr[-500:]}"
        return [f"{name}: {line}" for line in lines if line.startswith("Error") and not _FALSE.search(line)]

    with ThreadPoolExecutor(2) as pool:
        assert [error for found in pool.map(errors, names) for error in found] == []


def _dcmqi(program: str, path: Path, out: Path) -> None:
    out.mkdir()
    done = subprocess.run(
        [Path(sys.executable).parent / program, "--inputDICOM", path, "--outputDirectory", out, "-t", "nrrd"],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("tilt", [0.0, 15.0])
def test_dcmqi_reads_the_segmentation_back_in_its_place(tmp_path: Path, tilt: float) -> None:
    sample = _sample(tmp_path / "ct", tilt=tilt)
    (tmp_path / "seg.dcm").write_bytes(_encode(sample)[0].data)
    _dcmqi("segimage2itkimage", tmp_path / "seg.dcm", tmp_path / "out")
    voxels, header = nrrd.read(str(tmp_path / "out" / "1.nrrd"))
    mask = sample.findings.groups[0].segmentation
    assert mask is not None
    assert int(np.count_nonzero(voxels)) == int(mask.mask_zyx.sum())
    dy, dx = sample.volume.pixel_spacing
    extent = float(sample.volume.slice_extents[0])
    assert np.allclose(np.linalg.norm(header["space directions"], axis=1), [dx, dy, extent], atol=1e-4)
    assert np.allclose(header["space origin"], sample.volume.origins_lps[2], atol=1e-4)
    measured = next(m.value for m in sample.findings.measurements if m.name == "haematoma_volume_voxel")
    cell = abs(np.linalg.det(header["space directions"]))
    assert np.count_nonzero(voxels) * cell / 1000 == pytest.approx(measured, rel=1e-5)
    if not tilt:
        assert np.array_equal(voxels.transpose(2, 1, 0) != 0, mask.mask_zyx[2:5] != 0)


def test_dcmqi_reads_the_map(tmp_path: Path) -> None:
    sample = _sample(tmp_path / "ct")
    (tmp_path / "map.dcm").write_bytes(_encode(sample)[-1].data)
    _dcmqi("paramap2itkimage", tmp_path / "map.dcm", tmp_path / "out")
    values, header = nrrd.read(str(tmp_path / "out" / "pmap.nrrd"))
    assert np.array_equal(values.transpose(2, 1, 0), sample.findings.maps[0].values_zyx[2:5])
    assert np.allclose(header["space origin"], sample.volume.origins_lps[2])


def test_results_land_in_the_study_of_their_source_in_orthanc(orthanc: Orthanc, tmp_path: Path) -> None:
    """Also: what is stored is the data set that was encoded, and a second delivery changes nothing."""
    sample = _sample(tmp_path / "ct", header={"SpecificCharacterSet": "GB18030", "PatientName": "Wang=王^小东"})
    objects = _encode(sample)
    blobs, bus, stop = FileBlobs(tmp_path / "blobs"), MemoryBus(), threading.Event()
    blobs.put_set("results", {o.kind: o.data for o in objects})
    destination = Destination(name="pacs", ae_title=orthanc.ae_title, host="127.0.0.1", port=orthanc.dicom_port)
    assert set(accepted_classes(destination, list(RESULT_CLASSES), calling_ae="ICHOR")) == set(RESULT_CLASSES)
    ready = ResultReady(
        study_instance_uid=STUDY, job_id="haematoma-1-0", pipeline="haematoma", revision=1, identity_sha256="1d" * 32,
        destinations=("pacs",), objects=_listed(objects), ready_at=0.0,
    )  # fmt: skip
    sender = threading.Thread(
        target=run_sender,
        kwargs={
            "destinations": [destination], "bus": bus, "blobs": blobs, "clock": SystemClock(), "stop": stop,
            "on_ready": lambda: None, "calling_ae": "ICHOR",
        },
    )  # fmt: skip
    sender.start()
    try:
        for time in (1.0, 2.0):
            bus.publish(RESULTS, [seal(ready, source="test", time=time)])
        states = _states(bus, count=8)
    finally:
        stop.set()
        sender.join()
    assert set(states) == {"sent"}
    there = {i["SOPInstanceUID"]: i for i in orthanc.instances(STUDY)}
    assert set(there) == {o.sop_instance_uid for o in objects}
    assert {i["Modality"] for i in there.values()} == {"SEG", "OT", "SR"}
    for encoded in objects:
        stored = pydicom.dcmread(io.BytesIO(orthanc.file(there[encoded.sop_instance_uid]["ID"])))
        assert stored == pydicom.dcmread(io.BytesIO(encoded.data))
        assert str(stored.PatientName) == "Wang=王^小东"


def _states(bus: MemoryBus, *, count: int) -> list[str]:
    states: list[str] = []
    cursor = 0
    while len(states) < count:
        entries = bus.read(EVENTS, after=cursor, wait=30.0)
        assert entries, f"only {states}"
        cursor = entries[-1][0]
        changes = [open_envelope(envelope) for _, envelope in entries]
        states.extend(c.state for c in changes if isinstance(c, DeliveryChanged))
    return states
