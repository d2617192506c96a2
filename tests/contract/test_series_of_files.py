"""Whole series from files: the public Philips phantom, nine transfer syntaxes, and our own phantoms against their truth."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.filereader import read_file_meta_info
from pydicom.uid import MediaStorageDirectoryStorage

from ichor.messages import AssociationClosed
from ichor.pipeline import PipelineSpec
from ichor.series.facts import read_instance
from ichor.series.grid import build_grid
from ichor.series.manifest import build_manifest
from ichor.series.roles import facts_of, judge
from ichor.series.volume import build_volume
from ichor.store.journal import StoredObject
from ichor.types import Findings, Grade, Instance, Manifest, ManifestRef
from listener.study import StudyAssembly
from listener.view import view_of
from phantoms.ct_study import write_ct_head

RealData = Callable[[str], Path]


def objects(folder: Path) -> list[Path]:
    """Files of a public data set, without its DICOMDIR."""
    paths = sorted(folder.rglob("*.dcm"))
    return [
        p for p in paths if read_file_meta_info(p).MediaStorageSOPClassUID != MediaStorageDirectoryStorage
    ]  # fmt: skip


def instance_of(path: Path) -> Instance:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    stored = StoredObject(
        sop_instance_uid=header.SOPInstanceUID, sop_class_uid=header.SOPClassUID,
        series_instance_uid=header.SeriesInstanceUID, study_instance_uid=header.StudyInstanceUID,
        transfer_syntax_uid=header.file_meta.TransferSyntaxUID, location=str(path), length=path.stat().st_size,
        file_sha256=hashlib.sha256(path.read_bytes()).hexdigest(), association="a", calling_ae="CT1",
        called_ae="ICHOR", sender_priority=None, called_priority=None, command_priority_high=False, received_at=1.0,
    )  # fmt: skip
    with path.open("rb") as file:
        return read_instance(file, stored=stored)


class Folder:
    """Reads where files lie."""

    def open(self, location: str) -> object:
        return Path(location).open("rb")

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        with Path(location).open("rb") as file:
            return os.pread(file.fileno(), length, offset)


def volume_of(instances: list[Instance]) -> np.ndarray:
    manifest = build_manifest(instances, revision=1, grade=Grade.REGULAR)
    return build_volume(manifest, spool=Folder()).array_zyx  # type: ignore[arg-type]


def _never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


def _nowhere(manifest: Manifest) -> ManifestRef:
    uid = manifest.series_instance_uid
    return ManifestRef(key=uid, sha256="s", series_instance_uid=uid, instances=len(manifest.instances))


def assembled(instances: list[Instance]) -> StudyAssembly:
    """The study after one association brought it and was released."""
    pipeline = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=_never)
    study = StudyAssembly(uid=instances[0].study_instance_uid, pipelines=(pipeline,), study_wait=10.0, senders={})
    counts: dict[str, int] = defaultdict(int)
    for instance in instances:
        counts[instance.series_instance_uid] += 1
    study.receive(instances, association="a", now=10.0)
    study.look(10.0, put_manifest=_nowhere)
    study.close(
        AssociationClosed(
            study_instance_uid=study.uid, association="a", released=True, calling_ae="CT1", counts=counts,
            closed_at=10.0,
        )
    )  # fmt: skip
    study.look(10.0, put_manifest=_nowhere)
    return study


def test_the_philips_head_phantom_is_regular_and_a_head_ct(real_data: RealData) -> None:
    instances = [instance_of(p) for p in objects(real_data("ct_head_phantom_philips_28x5mm"))]
    assert len(instances) == 28
    (job,) = assembled(instances).jobs
    assert (job.refusal, job.inputs["ncct_head"].instances) == (None, 28)
    (series,) = view_of(assembled(instances), now=10.0).series
    assert (series.grade, series.roles) == (Grade.REGULAR, ("ncct_head",))
    volume = volume_of(instances)
    by_height = sorted(
        (pydicom.dcmread(i.location) for i in instances), key=lambda d: float(d.ImagePositionPatient[2])
    )  # fmt: skip
    expected = np.stack([d.pixel_array.astype(np.int32) - 1024 for d in by_height])
    assert volume.dtype == np.int16
    assert np.array_equal(volume, expected)


def test_every_transfer_syntax_decodes_to_the_same_pixels(real_data: RealData) -> None:
    instances = [instance_of(p) for p in objects(real_data("mosaic_nine_transfer_syntaxes"))]
    assert len({i.transfer_syntax_uid for i in instances}) == 7
    volumes = [volume_of([instance]) for instance in instances]
    assert len(volumes) == 9
    assert all(np.array_equal(v, volumes[0]) for v in volumes)


@pytest.mark.parametrize(("tilt", "gaps"), [(0.0, "even"), (18.0, "uneven")])
def test_phantom_series_play_the_roles_of_their_truth(tmp_path: Path, tilt: float, gaps: str) -> None:
    truth = write_ct_head(tmp_path, seed=20_301, bleed=20.0, slices=16, matrix=64, tilt=tilt, gaps=gaps)
    for series in truth.series:
        instances = [instance_of(p) for p in series.files]
        assert [i.defect for i in instances] == [None] * len(instances)
        grid = build_grid(instances)
        assert grid.gaps == ()
        assert judge(facts_of(instances, grid)).roles == series.roles
    whole = assembled([instance_of(p) for p in truth.files()])
    (soft,) = (s for s in truth.series if s.roles)
    (job,) = whole.jobs
    assert job.inputs["ncct_head"].series_instance_uid == soft.series_instance_uid
    assert whole.series[soft.series_instance_uid].grade is Grade.COUNTED
    assert not whole.open
