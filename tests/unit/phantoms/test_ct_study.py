"""Behaviour of the written studies: headers against truth, geometry, determinism, validity."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from ichor.errors import ConfigError, NotBuilt
from phantoms.ct_study import Truth, phantom_command, write_ct_head
from phantoms.ct_vendors import HABITS

SOFT = frozenset({"soft"})


def patient_points(files: tuple[Path, ...], mask_zyx: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Patient coordinates of the mask's voxels, from nothing but the headers (PS3.3 equation C.7.6.2.1-1)."""
    points = []
    for path, plane in zip(files, mask_zyx, strict=True):
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        origin = np.array(ds.ImagePositionPatient, float)
        along_row, along_column = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        row, column = np.nonzero(plane)
        points.append(
            origin
            + column[:, None] * float(ds.PixelSpacing[1]) * along_row
            + row[:, None] * float(ds.PixelSpacing[0]) * along_column
        )
    return np.concatenate(points)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def tilted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    out = tmp_path_factory.mktemp("tilted")
    return out, write_ct_head(out, seed=21, bleed=25.0, slices=30, tilt=17.5, matrix=128)


def test_tilted_voxels_hit_the_lesion_by_their_headers(tilted: tuple[Path, Truth], tmp_path: Path) -> None:
    out, truth = tilted
    files, (lesion,) = truth.files("soft"), truth.lesions
    assert np.allclose(patient_points(files, truth.head.mask_zyx).mean(axis=0), lesion.centre_lps_mm, atol=1e-4)
    straight = write_ct_head(tmp_path, seed=21, bleed=25.0, slices=30, matrix=128, series=SOFT).lesions[0]
    assert np.allclose(lesion.centre_lps_mm, straight.centre_lps_mm, atol=1.0)
    ds = pydicom.dcmread(files[0])
    angle = np.deg2rad(17.5)
    assert np.allclose(ds.ImageOrientationPatient, [1, 0, 0, 0, np.cos(angle), np.sin(angle)], atol=1e-7)
    assert float(ds.GantryDetectorTilt) == 17.5
    first, second = (np.array(pydicom.dcmread(f).ImagePositionPatient, float) for f in files[:2])
    assert np.allclose(second - first, [0, 0, 5.0], atol=1e-6)
    assert float(ds.SpacingBetweenSlices) == pytest.approx(5.0 * np.cos(angle), abs=1e-6)
    assert out.joinpath("truth.json").exists()


def test_truth_files_say_what_the_contract_says(tilted: tuple[Path, Truth]) -> None:
    out, truth = tilted
    told = json.loads((out / "truth.json").read_text())
    assert set(told) == {"study_instance_uid", "series", "lesions", "expands"}
    assert told["expands"] is truth.head.expands
    assert isinstance(told["expands"], bool)
    with np.load(out / "truth.npz") as kept:
        assert set(kept) == {"mask_zyx", "affine_lps", "slice_positions_lps"}
        mask, affine, positions = kept["mask_zyx"], kept["affine_lps"], kept["slice_positions_lps"]
    soft = [pydicom.dcmread(f) for f in truth.files("soft")]
    assert mask.shape == (30, 128, 128)
    assert np.allclose(positions, [np.array(d.ImagePositionPatient, float) for d in soft], atol=1e-6)
    assert np.allclose(affine @ [0, 0, 29, 1], [*positions[-1], 1])
    (lesion,) = told["lesions"]
    area = (230.4 / 128) ** 2
    assert lesion["volume_ml"] == pytest.approx(
        np.count_nonzero(mask) * area * 5.0 * np.cos(np.deg2rad(17.5)) / 1000, abs=1e-3
    )
    assert lesion["volume_ml"] == pytest.approx(25.0, rel=0.08)
    roles = {s["series_instance_uid"]: s["roles"] for s in told["series"]}
    assert roles[soft[0].SeriesInstanceUID] == ["ncct_head"]
    assert sorted(map(tuple, roles.values())) == [(), (), (), ("ncct_head",)]
    assert told["study_instance_uid"] == soft[0].StudyInstanceUID


def test_pixels_are_the_heads_hounsfield_units(tilted: tuple[Path, Truth]) -> None:
    _, truth = tilted
    ds = pydicom.dcmread(truth.files("soft")[12])
    hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    assert np.array_equal(hu, truth.head.hu_zyx[12])
    assert ds.RescaleIntercept == -1024
    assert ds.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian


def test_study_holds_a_localizer_a_bone_series_and_a_dose_report(tilted: tuple[Path, Truth]) -> None:
    _, truth = tilted
    assert [s.kind for s in truth.series] == ["localizer", "soft", "bone", "dose"]
    (localizer,) = truth.files("localizer")
    assert "LOCALIZER" in pydicom.dcmread(localizer).ImageType
    bone, soft = (pydicom.dcmread(truth.files(kind)[10]) for kind in ("bone", "soft"))
    assert bone.ImagePositionPatient == soft.ImagePositionPatient
    assert bone.ConvolutionKernel != soft.ConvolutionKernel
    assert np.diff(bone.pixel_array.astype(float)).std() > np.diff(soft.pixel_array.astype(float)).std()
    (dose,) = truth.files("dose")
    assert pydicom.dcmread(dose).SOPClassUID == pydicom.uid.XRayRadiationDoseSRStorage
    everything = [pydicom.dcmread(f) for f in truth.files()]
    assert len({d.SOPInstanceUID for d in everything}) == len(everything) == 62
    assert {d.PatientID for d in everything} == {"PHANTOM-21"}
    assert all("SYNTHETIC" in d.StudyDescription for d in everything)


def test_every_kind_of_object_is_valid_dicom(tilted: tuple[Path, Truth], peer: Callable[[str, str], str]) -> None:
    dciodvfy = peer("dciodvfy", "dicom3tools")
    for path in (truth_file for s in tilted[1].series for truth_file in (s.files[0], s.files[-1])):
        said = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stderr + said.stdout, (path.name, said.stderr)


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_ct_head(tmp_path / name, seed=2, slices=6, matrix=64, series={"soft", "dose"})
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_header_overrides_change_no_uid_and_count_can_be_left_out(tmp_path: Path) -> None:
    plain = write_ct_head(tmp_path / "a", seed=2, slices=4, matrix=64, series=SOFT)
    other = write_ct_head(
        tmp_path / "b", seed=2, slices=4, matrix=64, series=SOFT, count=False,
        header={"PatientName": "Other^Name", "PatientSex": None},
    )  # fmt: skip
    a, b = (pydicom.dcmread(t.files()[0]) for t in (plain, other))
    assert a.SOPInstanceUID == b.SOPInstanceUID
    assert a.PixelData == b.PixelData
    assert str(b.PatientName) == "Other^Name"
    assert "PatientSex" in a
    assert "PatientSex" not in b
    assert a.ImagesInAcquisition == 4
    assert "ImagesInAcquisition" not in b


def test_other_parameters_give_other_uids(tmp_path: Path) -> None:
    uids = {
        write_ct_head(tmp_path / str(i), seed=2, slices=4, matrix=32, series=SOFT, **change).study_instance_uid  # type: ignore[arg-type]
        for i, change in enumerate(({}, {"tilt": 5.0}, {"gaps": "uneven"}, {"bleed": "none"}))
    }
    assert len(uids) == 4


def test_uneven_gaps_are_uneven_and_the_truth_follows_them(tmp_path: Path) -> None:
    truth = write_ct_head(tmp_path, seed=9, bleed=18.0, slices=36, gaps="uneven", matrix=128, series=SOFT)
    z = np.array([float(pydicom.dcmread(f).ImagePositionPatient[2]) for f in truth.files()])
    gaps = np.diff(z)
    assert gaps.max() > 1.7 * gaps.min()
    assert len(np.unique(np.round(gaps, 3))) > 5
    assert "SpacingBetweenSlices" not in pydicom.dcmread(truth.files()[0])
    (lesion,) = truth.lesions
    assert lesion.volume_ml == pytest.approx(18.0, rel=0.1)
    by_slice = np.count_nonzero(truth.head.mask_zyx, axis=(1, 2)) * (230.4 / 128) ** 2 / 1000
    between = np.concatenate([gaps[:1], (gaps[:-1] + gaps[1:]) / 2, gaps[-1:]])
    assert lesion.volume_ml == pytest.approx(float((by_slice * between).sum()), rel=1e-4)


def test_a_head_without_a_bleed_has_no_lesion(tmp_path: Path) -> None:
    truth = phantom_command("ct-head", seed=4, out=tmp_path, bleed="none", slices=3)
    told = json.loads((tmp_path / "truth.json").read_text())
    assert told["lesions"] == []
    assert told["expands"] is None
    assert not truth.head.mask_zyx.any()
    assert truth.head.hu_zyx.shape == (3, 512, 512)


def test_what_is_not_built_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match="dwi"):
        phantom_command("dwi", seed=1, out=tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "mri"}, "mri"),
        ({"bleed": "much"}, "--bleed"),
        ({"bleed": "-3"}, "--bleed"),
        ({"bleed": "nan"}, "--bleed"),
        ({"slices": 0}, "--slices"),
        ({"tilt": 60.0}, "--tilt"),
        ({"gaps": "odd"}, "--gaps"),
        ({"vendor": "acme"}, "--vendor"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, change: dict[str, object], said: str) -> None:
    arguments: dict[str, object] = {"kind": "ct-head", "seed": 1, "out": tmp_path, **change}
    with pytest.raises(ConfigError, match=said):
        phantom_command(arguments.pop("kind"), **arguments)  # type: ignore[arg-type]


def test_a_study_is_not_written_over_another(tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        write_ct_head(tmp_path, seed=1, slices=2, matrix=32)


@pytest.mark.parametrize("vendor", sorted(HABITS))
def test_every_makers_headers_are_valid_and_mean_the_same_pixels(
    tmp_path: Path, vendor: str, peer: Callable[[str, str], str]
) -> None:
    dciodvfy = peer("dciodvfy", "dicom3tools")
    truth = write_ct_head(tmp_path, seed=3, slices=4, matrix=64, series=SOFT, vendor=vendor)
    for path, plane in zip(truth.files(), truth.head.hu_zyx, strict=True):
        ds = pydicom.dcmread(path)
        stored = ds.pixel_array.astype(int)
        known = stored != ds.get("PixelPaddingValue", 99_999)
        hu = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        assert np.array_equal(hu[known], plane[known])
        assert known.mean() > 0.75
        said = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in said.stderr + said.stdout, said.stderr
    numbers = [int(pydicom.dcmread(f).InstanceNumber) for f in truth.files()]
    assert numbers == ([1, 2, 3, 4] if HABITS[vendor].headwards else [4, 3, 2, 1])
