from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from engines.user_data import LabelledVolume, UserCase, counts, find_cases, read_case, training_case
from ichor.arrays import Volume
from ichor.errors import ConfigError


def no_dicom(_: Path) -> Volume:
    raise AssertionError("no DICOM here")


def head() -> tuple[np.ndarray, np.ndarray]:
    """HU and mask, (x to the right, y to the front, z headwards); the bleed is in the right front, low."""
    hu = np.full((40, 50, 8), -1000.0, np.float32)
    hu[5:35, 5:45] = 30
    mask = np.zeros(hu.shape, np.uint8)
    mask[25:32, 30:40, 1:4] = 1
    hu[mask > 0] = 70
    return hu, mask


AFFINE = np.array([[0.5, 0, 0, -10], [0, 0.5, 0, -12], [0, 0, 5, 40], [0, 0, 0, 1.0]])


PINNED = {"c00": "train", "c08": "val", "c15": "val", "c25": "test", "c27": "test"}


def write(
    folder: Path, *, affine: np.ndarray = AFFINE, mask_affine: np.ndarray | None = None, flip: bool = False
) -> None:
    folder.mkdir(parents=True)
    hu, mask = head()
    for name, array, at in (
        ("image", hu, affine), ("mask", mask, affine if mask_affine is None else mask_affine),
    ):  # fmt: skip
        image = nib.Nifti1Image(array, at)
        if flip and name == "mask":
            # The same voxels, stored from the other end.
            turned = at.copy()
            turned[:, 0], turned[:3, 3] = -at[:, 0], at[:3, 3] + at[:3, 0] * (len(array) - 1)
            image = nib.Nifti1Image(array[::-1], turned)
        nib.save(image, folder / f"{name}.nii.gz")


def table(folder: Path, *rows: str, columns: str = "case,patient,split,expands") -> None:
    (folder / "cases.csv").write_text("\n".join([columns, *rows]) + "\n")


def case(folder: Path) -> UserCase:
    return UserCase(name=folder.name, patient="p", split="train", folder=folder, expands=None)


def test_a_nifti_case_is_read_left_to_left_and_headwards(tmp_path: Path) -> None:
    write(tmp_path / "a")
    found = read_case(case(tmp_path / "a"), read_dicom=no_dicom)
    assert found.volume.array_zyx.shape == found.mask_zyx.shape == (8, 50, 40)
    z, y, x = np.nonzero(found.mask_zyx)
    # Right front: small column (columns grow to the left), small row (rows grow to the back).
    assert (z.min(), z.max()) == (1, 3)
    assert (y.min(), y.max(), x.min(), x.max()) == (10, 19, 8, 14)
    assert (found.volume.array_zyx[found.mask_zyx] == 70).all()
    np.testing.assert_allclose(found.volume.normal_lps, (0, 0, 1), atol=1e-9)
    # Voxel (25, 30, 1) lies at RAS (2.5, 3, 45).
    corner = found.volume.origins_lps[1] + 0.5 * 14 * found.volume.row_lps + 0.5 * 19 * found.volume.column_lps
    np.testing.assert_allclose(corner, (-2.5, -3, 45))


@pytest.mark.parametrize(
    "stored", [lambda hu: hu + 1024, lambda hu: np.clip(hu, 0, 80), lambda hu: np.where(hu < -900, 0, hu)]
)
def test_an_image_that_is_not_a_head_in_hu_is_refused(stored: Any, tmp_path: Path) -> None:
    """Stored with an offset, windowed, or with the head cut out."""
    write(tmp_path / "a")
    nib.save(nib.Nifti1Image(stored(head()[0]), AFFINE), tmp_path / "a" / "image.nii.gz")
    with pytest.raises(ConfigError, match=r"case a: 0\.0% of its voxels are air .*not in HU"):
        read_case(case(tmp_path / "a"), read_dicom=no_dicom)


def test_a_mask_that_is_stored_from_the_other_end_is_the_same_mask(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", flip=True)
    first, second = (read_case(case(tmp_path / name), read_dicom=no_dicom).mask_zyx for name in "ab")
    np.testing.assert_array_equal(first, second)


def test_a_mask_on_another_grid_is_refused_by_name(tmp_path: Path) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] += 3
    write(tmp_path / "a", mask_affine=shifted)
    with pytest.raises(ConfigError, match=r"case a: the mask lies 3\.0 mm away"):
        read_case(case(tmp_path / "a"), read_dicom=no_dicom)
    _hu, mask = head()
    nib.save(nib.Nifti1Image(mask[:-1], AFFINE), tmp_path / "a" / "mask.nii.gz")
    with pytest.raises(ConfigError, match="the mask has"):
        read_case(case(tmp_path / "a"), read_dicom=no_dicom)
    (tmp_path / "a" / "mask.nii.gz").write_bytes(b"\x1f\x8b not gzip")
    with pytest.raises(ConfigError, match="case a: cannot be read"):
        read_case(case(tmp_path / "a"), read_dicom=no_dicom)
    (tmp_path / "a" / "mask.nii.gz").unlink()
    with pytest.raises(ConfigError, match="case a: no mask"):
        read_case(case(tmp_path / "a"), read_dicom=no_dicom)


def test_a_dicom_series_goes_with_a_nifti_mask(tmp_path: Path) -> None:
    write(tmp_path / "a")
    expected = read_case(case(tmp_path / "a"), read_dicom=no_dicom)
    (tmp_path / "a" / "image.nii.gz").unlink()
    (tmp_path / "a" / "dicom").mkdir()
    # As a scanner might store it feet first: slices ascend along a normal that points to the feet.
    volume = expected.volume
    feet_first = replace(
        volume,
        array=volume.array_zyx[::-1, :, ::-1],
        origins_lps=volume.origins_lps[::-1] + 39 * 0.5 * volume.row_lps,
        row_lps=-volume.row_lps,
    )
    found = read_case(case(tmp_path / "a"), read_dicom=lambda _: feet_first)
    np.testing.assert_array_equal(found.volume.array_zyx, volume.array_zyx)
    np.testing.assert_allclose(found.volume.origins_lps, volume.origins_lps)


def test_sagittal_slices_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    volume = read_case(case(tmp_path / "a"), read_dicom=no_dicom).volume
    (tmp_path / "a" / "image.nii.gz").unlink()
    (tmp_path / "a" / "dicom").mkdir()
    sagittal = replace(volume, row_lps=np.array([0.0, 1, 0]), column_lps=np.array([0.0, 0, -1]))
    with pytest.raises(ConfigError, match="case a: slices are not axial"):
        read_case(case(tmp_path / "a"), read_dicom=lambda _: sagittal)


def test_for_training_pixels_are_resampled_and_blood_keeps_its_volume(tmp_path: Path) -> None:
    write(tmp_path / "a")
    labelled = read_case(case(tmp_path / "a"), read_dicom=no_dicom)
    true_ml = float(labelled.mask_zyx.sum()) * 0.5 * 0.5 * 5 / 1000
    demo = training_case(labelled)
    assert demo.hu_zyx.shape == (8, 25, 20)
    assert demo.spacing_mm == (5.0, 1.0, 1.0)
    assert demo.intracranial_zyx is None
    assert float(demo.occupancy_zyx.sum()) * 5 / 1000 == pytest.approx(true_ml, rel=0.1)
    paper = training_case(labelled, inside_zyx=labelled.mask_zyx, pixel_mm=0.5, slice_mm=2.5)
    assert paper.hu_zyx.shape == (15, 50, 40)
    np.testing.assert_array_equal(paper.hu_zyx[::2], labelled.volume.array_zyx)
    assert paper.hu_zyx[1, 12, 10] == 50  # halfway between 30 and 70
    assert paper.intracranial_zyx is not None


def test_slices_of_a_tilted_gantry_are_shifted_onto_one_another(tmp_path: Path) -> None:
    write(tmp_path / "a")
    labelled = read_case(case(tmp_path / "a"), read_dicom=no_dicom)
    volume = labelled.volume
    sheared = replace(volume, origins_lps=volume.origins_lps + np.arange(8)[:, None] * volume.column_lps)
    found = training_case(LabelledVolume(volume=sheared, mask_zyx=labelled.mask_zyx))
    rows = [int(np.flatnonzero(found.occupancy_zyx[k].max(axis=1) > 0.4)[0]) for k in (1, 2, 3)]
    assert [b - a for a, b in itertools.pairwise(rows)] == [1, 1]


def test_splits_come_from_folders_or_the_table_or_by_patient(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/c"):
        (tmp_path / "one" / name).mkdir(parents=True)
    assert counts(find_cases(tmp_path / "one")) == {"train": 2, "val": 0, "test": 1}

    for i in range(400):
        (tmp_path / "two" / f"s{i:03d}").mkdir(parents=True)
    table(tmp_path / "two", *(f"s{i:03d},p{i // 2},,{i % 2}" for i in range(400)))
    found = find_cases(tmp_path / "two")
    shares = [n / 400 for n in counts(found).values()]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.05)
    assert {one.patient for one in found if one.split == "train"}.isdisjoint(
        one.patient for one in found if one.split != "train"
    )
    assert [one.expands for one in found[:3]] == [False, True, False]


def test_a_patient_stays_in_its_split_when_others_are_added_or_taken_away(tmp_path: Path) -> None:
    for i in range(40):
        (tmp_path / f"c{i:02d}").mkdir()
    before = {one.patient: one.split for one in find_cases(tmp_path)}
    for i in (3, 11):
        (tmp_path / f"c{i:02d}").rmdir()
    for i in range(40, 60):
        (tmp_path / f"c{i:02d}").mkdir()
    after = {one.patient: one.split for one in find_cases(tmp_path)}
    assert len(after) == 58
    assert all(after[patient] == split for patient, split in before.items() if patient in after)
    # Of this version and every later one: else the test patients of an older model would be trained on.
    assert {name: after[name] for name in PINNED} == PINNED


def test_a_split_that_is_needed_and_empty_is_said_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    find_cases(tmp_path, needed=("train",))
    with pytest.raises(ConfigError, match=r"no case has the split val: give cases\.csv a column split"):
        find_cases(tmp_path, needed=("train", "val"))


def test_one_name_in_two_splits_is_refused(tmp_path: Path) -> None:
    for name in ("train/a", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ConfigError, match="case a: two folders of this name"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (("a,p1,train,", "b,p1,test,"), "case,patient,split,expands", "a and b are of one patient, but in train and test"),
        (("a,p1,training,", "b,p2,test,"), "case,patient,split,expands", "case a: split 'training'; allowed are train"),
        (("a,p1,train,yes", "b,p2,test,"), "case,patient,split,expands", "case a: expands 'yes'"),
        (("a,p1,train,", "c,p2,test,"), "case,patient,split,expands", "no folder for case 'c'"),
        (("a,p1,train,", "a,p2,test,"), "case,patient,split,expands", "'a' stands there twice"),
        (("a,p1,train,",), "case,patient,split,expands", "case b: no split"),
        (("a,1", "b,2"), "case,age", "columns"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_right_is_refused(
    rows: tuple[str, ...], columns: str, words: str, tmp_path: Path
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    table(tmp_path, *rows, columns=columns)
    with pytest.raises(ConfigError, match=words):
        find_cases(tmp_path)


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no case folder"):
        find_cases(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        find_cases(tmp_path / "x")


def test_a_changed_image_or_outcome_is_another_case(tmp_path: Path) -> None:
    write(tmp_path / "a")
    before = case(tmp_path / "a").key
    assert case(tmp_path / "a").key == before
    assert replace(case(tmp_path / "a"), expands=True).key != before
    assert replace(case(tmp_path / "a"), expands=False).key != replace(case(tmp_path / "a"), expands=True).key
    (tmp_path / "a" / "mask.nii.gz").write_bytes(b"1")
    assert case(tmp_path / "a").key != before
