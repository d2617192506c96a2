"""NIfTI files of an array: voxels, world coordinates and gradients mean what they meant in patient coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from ichor.arrays import Volume
from ichor.series.nifti import write_nifti
from ichor.types import Axis, AxisName, GradientTable

DIRECTIONS = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.6, 0.8), (-0.48, 0.6, 0.64))
TABLE = GradientTable(b_values=(0.0, 1000.0, 1000.0, 2995.5), directions_lps=DIRECTIONS, source="test")


def turned() -> tuple[np.ndarray, np.ndarray]:
    """Row and column of an oblique stack."""
    a, b = np.deg2rad(20.0), np.deg2rad(-12.0)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    rotation = about_x @ about_z
    return rotation[:, 0], rotation[:, 1]


def volume(shape: tuple[int, ...], *, dtype: Any = np.int16, tilt: float = 0.0, **about: Any) -> Volume:
    row, column = turned()
    normal = np.cross(row, column)
    step = 4.0 * (normal + np.tan(np.deg2rad(tilt)) * column)
    array = np.random.default_rng(2).integers(-1000, 3000, shape).astype(dtype)
    if np.issubdtype(dtype, np.floating):
        array = (array * 0.3).astype(dtype)
    return Volume(
        array=array, origins_lps=np.array([10.0, -20.0, 30.0]) + np.arange(shape[-3])[:, None] * step, row_lps=row,
        column_lps=column, pixel_spacing=(2.0, 1.5), slice_thickness=4.0, frame_of_reference_uid=None, unit="1",
        sources=(), **about,
    )  # fmt: skip


def world_lps(image: Any, voxel: tuple[int, int, int]) -> np.ndarray:
    return np.diag([-1.0, -1.0, 1.0]) @ (image.affine @ [*voxel, 1])[:3]


@pytest.mark.parametrize("tilt", [0.0, 15.0])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_voxels_and_their_places_are_those_of_the_array(tmp_path: Path, dtype: Any, tilt: float) -> None:
    whole = volume((3, 5, 4), dtype=dtype, tilt=tilt)
    (path,) = write_nifti([whole], tmp_path, stem="1.2.840.3")
    assert path == tmp_path / "1.2.840.3.nii.gz"
    image = nibabel.load(path)
    assert image.get_data_dtype() == dtype
    assert (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0)
    assert np.array_equal(np.asarray(image.dataobj), whole.array_zyx.transpose(2, 1, 0))
    for i, j, k in ((0, 0, 0), (3, 0, 0), (0, 4, 0), (3, 4, 2)):
        assert world_lps(image, (i, j, k)) == pytest.approx(whole.to_lps([[k, j, i]])[0], abs=1e-4)
    # A reader that prefers the quaternion must not lose the tilt.
    assert int(image.header["sform_code"]) == 1
    assert int(image.header["qform_code"]) == (0 if tilt else 1)


def test_further_axes_follow_the_slices_fastest_first(tmp_path: Path) -> None:
    axes = (Axis(name=AxisName.ECHO, values=(5.0, 10.0)), Axis(name=AxisName.TIME, values=(0.0, 1.5, 3.0)))
    whole = volume((2, 3, 5, 6, 4), axes=axes)
    (path,) = write_nifti([whole], tmp_path, stem="s")
    image = nibabel.load(path)
    assert image.shape == (4, 6, 5, 3, 2)
    data = np.asarray(image.dataobj)
    for echo in range(2):
        for time in range(3):
            assert np.array_equal(data[..., time, echo], whole.array[echo, time].transpose(2, 1, 0))
    assert image.header.get_zooms()[:4] == pytest.approx((1.5, 2.0, 4.0, 1.5))


def test_gradients_turn_back_into_patient_coordinates(tmp_path: Path) -> None:
    axes = (Axis(name=AxisName.DIFFUSION, values=TABLE.b_values),)
    whole = volume((4, 3, 5, 6), axes=axes, gradients=TABLE)
    image_path, bval, bvec = write_nifti([whole], tmp_path, stem="1.2.3.4")
    assert [p.name for p in (bval, bvec)] == ["1.2.3.4.bval", "1.2.3.4.bvec"]
    assert tuple(float(b) for b in bval.read_text().split()) == TABLE.b_values
    vectors = np.loadtxt(bvec)
    assert vectors.shape == (3, 4)
    # Back by FSL's rule: voxel axes, the first one turned round where the affine is right-handed.
    affine = nibabel.load(image_path).affine[:3, :3]
    if np.linalg.det(affine) > 0:
        vectors[0] *= -1
    axes_ras = affine / np.linalg.norm(affine, axis=0)
    assert np.diag([-1.0, -1.0, 1.0]) @ axes_ras @ vectors == pytest.approx(np.array(DIRECTIONS).T, abs=1e-6)


def test_each_stack_has_its_own_files(tmp_path: Path) -> None:
    axes = (Axis(name=AxisName.DIFFUSION, values=TABLE.b_values),)
    stacks = [volume((4, 3, 5, 6), axes=axes, gradients=TABLE), volume((4, 3, 5, 6), axes=axes, gradients=TABLE)]
    made = write_nifti(stacks, tmp_path, stem="1.2.3")
    assert [p.name for p in made] == [
        f"1.2.3_stack{n}{suffix}" for n in (1, 2) for suffix in (".nii.gz", ".bval", ".bvec")
    ]
    assert all(p.stat().st_size for p in made)


@pytest.mark.parametrize(("times", "form"), [(32_767, nibabel.Nifti1Image), (32_768, nibabel.Nifti2Image)])
def test_an_axis_too_long_for_nifti_1_makes_nifti_2(tmp_path: Path, times: int, form: type) -> None:
    axes = (Axis(name=AxisName.TIME, values=tuple(0.5 * k for k in range(times))),)
    whole = volume((times, 2, 1, 1), axes=axes)
    (path,) = write_nifti([whole], tmp_path, stem="s")
    image = nibabel.load(path)
    assert type(image) is form
    assert np.array_equal(np.asarray(image.dataobj), whole.array.T)
    assert image.header.get_zooms()[3] == pytest.approx(0.5)
