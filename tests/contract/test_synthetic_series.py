"""Synthetic series of known truth in every dialect: facts, grid and array against the truth."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from contract.converter import read_nifti
from contract.synthetic import ALL, CASES, numbers_may_lie
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from ichor.arrays import Volume
from ichor.errors import Unreadable
from ichor.series.decoding import read_frames
from ichor.series.facts import read_instance
from ichor.series.grid import Grid, build_grid
from ichor.series.manifest import build_manifest
from ichor.series.nifti import write_nifti
from ichor.series.volume import build_volumes
from ichor.store.journal import StoredObject
from ichor.types import AxisName, Grade, GradientTable, Instance
from phantoms.series import FORMS, Encoding, Scan, scenes, write_series

TIMES = {AxisName.TIME, AxisName.TEMPORAL_POSITION, AxisName.ACQUISITION}


class Folder:
    """Reads where files lie."""

    def open(self, location: str) -> object:
        return Path(location).open("rb")

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        with Path(location).open("rb") as file:
            return os.pread(file.fileno(), length, offset)


def instance_of(path: Path) -> Instance:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    stored = StoredObject(
        sop_instance_uid=header.SOPInstanceUID, sop_class_uid=header.SOPClassUID,
        series_instance_uid=header.SeriesInstanceUID, study_instance_uid=header.StudyInstanceUID,
        transfer_syntax_uid=header.file_meta.TransferSyntaxUID, location=str(path), length=path.stat().st_size,
        file_sha256=hashlib.sha256(path.read_bytes()).hexdigest(), association="a", calling_ae="MR1",
        called_ae="ICHOR", sender_priority=None, called_priority=None, command_priority_high=False, received_at=1.0,
    )  # fmt: skip
    with path.open("rb") as file:
        return read_instance(file, stored=stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What Ichor makes of a folder of one series."""

    instances: tuple[Instance, ...]
    grid: Grid
    volumes: tuple[Volume, ...]


def seen(paths: list[Path]) -> Seen:
    instances = tuple(instance_of(path) for path in paths)
    manifest = build_manifest(instances, revision=1, grade=Grade.REGULAR)
    return Seen(
        instances=instances, grid=build_grid(instances), volumes=build_volumes(manifest, spool=Folder())
    )  # fmt: skip


def assert_the_truth(what: Seen, scan: Scan) -> None:
    assert what.grid.findings == ()
    assert what.grid.gapless
    assert what.grid.missing == ()
    values = scan.values if len(scan.stacks) > 1 else scan.values[None]
    assert len(what.volumes) == len(scan.stacks)
    for volume, stack, true_values in zip(what.volumes, scan.stacks, values, strict=True):
        assert volume.array.shape == true_values.shape
        assert np.array_equal(volume.array, true_values.astype(np.float32))
        np.testing.assert_allclose(volume.affine_lps, stack.affine_lps, atol=1e-3)
        np.testing.assert_allclose(volume.origins_lps, stack.origins_lps, atol=1e-3)
        _assert_axes(volume, scan)
    if scan.b_values:
        table = what.grid.gradients
        assert isinstance(table, GradientTable)
        assert table == what.volumes[0].gradients
        _assert_gradients(table, scan)
    assert len(what.grid.left_out) == sum(len(extra.stored_zyx) for extra in scan.extras)


def _assert_axes(volume: Volume, scan: Scan) -> None:
    true_axes = [axis for axis in scan.axes if axis.name is not AxisName.STACK]
    assert [axis.size for axis in volume.axes] == [axis.size for axis in true_axes]
    for axis, true in zip(volume.axes, true_axes, strict=True):
        if true.name is not AxisName.TIME:
            assert axis.name is true.name
        else:
            assert axis.name in TIMES
        if axis.name is AxisName.COMPONENT:
            assert axis.values == true.values
        elif axis.name is true.name:
            np.testing.assert_allclose(axis.values, true.values, atol=1e-3)


def _assert_gradients(table: GradientTable, scan: Scan) -> None:
    assert table.b_values == scan.b_values
    for found, true in zip(table.directions_lps, scan.directions_lps, strict=True):
        np.testing.assert_allclose(found, true or (0.0, 0.0, 0.0), atol=1e-4)


@pytest.mark.parametrize(("name", "form"), ALL)
def test_a_series_in_any_dialect_gives_its_true_array(name: str, form: str, tmp_path: Path) -> None:
    scan = CASES[name].scan
    paths = write_series(scan, tmp_path, form=form, shuffle=3, lying_numbers=numbers_may_lie(scan, form))
    what = seen(paths)
    assert {instance.dialect for instance in what.instances} == {FORMS[form].dialect}
    assert_the_truth(what, scan)


@pytest.mark.parametrize("form", ["classic-siemens", "classic-philips", "mosaic-siemens", "enhanced-philips"])
def test_sixty_volumes_of_twenty_slices_are_one_time_series(form: str, tmp_path: Path) -> None:
    scan = scenes.perfusion("dsc-60", times=60, slices=20)
    what = seen(write_series(scan, tmp_path, form=form, shuffle=5))
    assert what.volumes[0].array.shape == (60, 20, 24, 20)
    assert_the_truth(what, scan)


@pytest.mark.parametrize(
    ("classic", "enhanced"),
    [
        ("classic-philips", "enhanced-philips"),
        ("classic-siemens", "enhanced-siemens"),
        ("classic-canon", "enhanced-canon"),
        ("classic-ge", "enhanced-ge"),
        ("mosaic-siemens", "enhanced-siemens-whole"),
        ("tiled-uih", "classic-uih"),
    ],
)
@pytest.mark.parametrize("name", ["dwi", "dsc"])
def test_classic_and_enhanced_of_one_truth_give_one_array(
    name: str, classic: str, enhanced: str, tmp_path: Path
) -> None:
    scan = CASES[name].scan
    (first,) = seen(write_series(scan, tmp_path / "a", form=classic, shuffle=1)).volumes
    (second,) = seen(write_series(scan, tmp_path / "b", form=enhanced, shuffle=2)).volumes
    assert first.array.dtype == second.array.dtype
    assert np.array_equal(first.array, second.array)
    np.testing.assert_allclose(first.affine_lps, second.affine_lps, atol=1e-3)


@pytest.mark.parametrize(
    "encoding",
    [
        Encoding(transfer_syntax=ImplicitVRLittleEndian),
        Encoding(transfer_syntax=ImplicitVRLittleEndian, undefined_lengths=True),
        Encoding(undefined_lengths=True),
        Encoding(transfer_syntax=ExplicitVRBigEndian),
        Encoding(transfer_syntax=DeflatedExplicitVRLittleEndian),
        Encoding(transfer_syntax=RLELossless),
        Encoding(transfer_syntax=JPEGLSLossless),
        Encoding(transfer_syntax=JPEG2000Lossless, undefined_lengths=True),
    ],
    ids=lambda e: f"{e.transfer_syntax.name}{' undefined' if e.undefined_lengths else ''}",
)
@pytest.mark.parametrize(
    "form",
    ["classic-philips", "classic-ge", "mosaic-siemens", "mosaic-siemens-xa", "tiled-uih", "enhanced-philips"],
)
def test_the_transfer_syntax_changes_nothing(form: str, encoding: Encoding, tmp_path: Path) -> None:
    scan = scenes.diffusion("dwi-encoded", b_values=(0.0, 1000.0, 1000.0), seed=30, matrix=(40, 36))
    assert_the_truth(seen(write_series(scan, tmp_path, form=form, encoding=encoding, shuffle=2)), scan)


def test_a_deflated_object_that_was_damaged_after_it_was_read_is_unreadable(tmp_path: Path) -> None:
    scan = scenes.diffusion("dwi-deflated", b_values=(0.0, 1000.0, 1000.0), seed=31)
    encoding = Encoding(transfer_syntax=DeflatedExplicitVRLittleEndian)
    instances = [instance_of(p) for p in write_series(scan, tmp_path, form="classic-philips", encoding=encoding)]
    path = Path(instances[3].location)
    whole = path.read_bytes()
    path.write_bytes(whole[:-400] + bytes(400))
    with pytest.raises(Unreadable):
        list(read_frames(instances[3], [0], spool=Folder()))
    path.write_bytes(whole)
    assert len(b"".join(read_frames(instances[3], [0], spool=Folder()))) == instances[3].pixels.length  # type: ignore[union-attr]


@pytest.mark.parametrize("form", ["classic-philips", "classic-siemens", "classic-ge", "classic-canon", "classic-uih"])
@pytest.mark.parametrize("name", ["dwi", "dsc", "echoes"])
def test_an_image_that_is_not_there_is_named_by_its_place(name: str, form: str, tmp_path: Path) -> None:
    scan = CASES[name].scan
    slices = scan.stored.shape[-3]
    paths = write_series(scan, tmp_path, form=form)
    del paths[2 * slices + 3]  # slice 3 of volume 2
    grid = build_grid([instance_of(path) for path in paths])
    assert not grid.gapless
    (missing,) = grid.missing
    assert missing.position == pytest.approx(float(scan.stacks[0].origins_lps[3] @ scan.stacks[0].normal_lps), abs=1e-3)
    assert missing.indices == (2,)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("dwi", "classic-philips"), ("dwi-sagittal", "mosaic-siemens"), ("dwi-sagittal", "mosaic-siemens-descending"),
        ("dwi-shells", "enhanced-siemens"), ("complex", "enhanced-philips"), ("stacks", "classic-standard"),
        ("ct-tilted", "classic-standard"),
    ],
)  # fmt: skip
def test_the_nifti_of_a_series_has_its_values_its_place_and_its_gradients(name: str, form: str, tmp_path: Path) -> None:
    scan = CASES[name].scan
    what = seen(write_series(scan, tmp_path / "in", form=form, shuffle=4))
    (tmp_path / "out").mkdir()
    written = [p for p in write_nifti(what.volumes, tmp_path / "out", stem="a") if p.name.endswith(".nii.gz")]
    values = scan.values if len(scan.stacks) > 1 else scan.values[None]
    assert len(written) == len(scan.stacks)
    for path, stack, true_values in zip(written, scan.stacks, values, strict=True):
        image = read_nifti(path)
        there = image.on_grid(stack, rows=true_values.shape[-2], columns=true_values.shape[-1])
        assert there is not None
        assert np.array_equal(there, true_values.reshape(-1, *true_values.shape[-3:]))
        if scan.b_values:
            assert image.b_values == scan.b_values
            assert image.directions_lps is not None
            for found, true in zip(image.directions_lps, scan.directions_lps, strict=True):
                np.testing.assert_allclose(found, true or (0.0, 0.0, 0.0), atol=1e-4)
