"""The writers of synthetic series: files say what the truth says, as others (nibabel, pydicom) read them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGLSLossless

from ichor.types import AxisName
from phantoms.series import FORMS, Encoding, Scan, scenes, write_series
from phantoms.series.files import write_object

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that these readers are experimental
    from nibabel.nicom import csareader, dicomwrappers

SCANS = [
    scenes.plain(), scenes.diffusion(trace=True, adc=True), scenes.perfusion(times=3, slices=4), scenes.multi_echo(),
    scenes.complex_echoes(), scenes.two_stacks(), scenes.head_ct(),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scan", SCANS, ids=lambda s: s.name)
def test_every_object_says_that_it_is_synthetic_and_for_research(scan: Scan, form: str) -> None:
    objects = FORMS[form].data_sets(scan, name=form)
    assert len({ds.SOPInstanceUID for ds in objects}) == len(objects)
    assert len({ds.SeriesInstanceUID for ds in objects}) == 1
    for ds in objects:
        assert "SYNTHETIC" in ds.SeriesDescription
        assert (ds.ContentQualification, ds.PatientID) == ("RESEARCH", "SYNTHETIC")
        assert ds.SOPInstanceUID.is_valid


@pytest.mark.parametrize("scan", SCANS, ids=lambda s: s.name)
def test_the_planes_are_the_array_and_the_extras(scan: Scan) -> None:
    planes = list(scan.planes())
    own = planes[: int(np.prod(scan.stored.shape[:-2]))]
    values = np.array([p.stored_yx * p.slope + p.intercept for p in own]).reshape(scan.values.shape)
    assert np.array_equal(values, scan.values)
    assert len(planes) - len(own) == sum(len(extra.stored_zyx) for extra in scan.extras)


def test_no_volume_equals_another_or_its_own_mirror_image() -> None:
    scan = scenes.perfusion(times=5, slices=4)
    for n, volume in enumerate(scan.stored):
        for axis in (0, 1, 2):
            assert not np.array_equal(volume, np.flip(volume, axis))
        assert all(not np.array_equal(volume, other) for other in scan.stored[n + 1 :])


def test_the_csa_header_is_what_nibabel_reads() -> None:
    scan = scenes.diffusion()
    ds = FORMS["mosaic-siemens"].data_sets(scan, name="mosaic-siemens")[3]
    tags = csareader.get_csa_header(ds)["tags"]
    assert tags["NumberOfImagesInMosaic"]["items"] == [scan.stored.shape[-3]]
    assert tags["B_value"]["items"] == [1000]
    assert tags["ImagePositionPatient"]["items"] == []
    np.testing.assert_allclose(tags["DiffusionGradientDirection"]["items"], scan.directions_lps[3], atol=1e-7)
    np.testing.assert_allclose(tags["SliceNormalVector"]["items"], scan.stacks[0].normal_lps, atol=1e-7)


def test_the_tiles_of_a_mosaic_lie_where_nibabel_finds_them() -> None:
    scan = scenes.diffusion()
    ds = FORMS["mosaic-siemens"].data_sets(scan, name="mosaic-siemens")[2]
    wrapped = dicomwrappers.wrapper_from_data(ds)
    assert wrapped.is_mosaic
    # nibabel's voxel axes are (row, column, slice).
    assert np.array_equal(np.transpose(wrapped.get_data(), (2, 0, 1)), scan.stored[2])
    np.testing.assert_allclose(wrapped.affine[:, [1, 0, 2, 3]], scan.stacks[0].affine_lps, atol=1e-5)


def test_values_of_one_object_with_two_rescales_are_refused_where_the_dialect_has_one() -> None:
    scan = scenes.perfusion(times=2, slices=4, scaled_per_image=True)
    with pytest.raises(ValueError, match="rescale"):
        FORMS["mosaic-siemens"].data_sets(scan, name="mosaic-siemens")


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLSLossless], ids=lambda s: s.name)
@pytest.mark.parametrize("undefined", [False, True])
def test_an_encoding_keeps_pixels_and_functional_groups(syntax: str, undefined: bool, tmp_path: Path) -> None:
    scan = scenes.diffusion(b_values=(0.0, 1000.0))
    (ds,) = FORMS["enhanced-canon"].data_sets(scan, name="enhanced-canon")
    write_object(ds, tmp_path / "a.dcm", encoding=Encoding(transfer_syntax=syntax, undefined_lengths=undefined))
    read = pydicom.dcmread(tmp_path / "a.dcm")
    assert read.file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(read.pixel_array, scan.stored.reshape(-1, *scan.stored.shape[-2:]))
    last = read.PerFrameFunctionalGroupsSequence[-1]
    assert last.MRDiffusionSequence[0].DiffusionBValue == 1000.0
    assert read["PerFrameFunctionalGroupsSequence"].is_undefined_length is undefined


def test_shuffled_files_keep_their_objects_and_may_lie_about_their_numbers(tmp_path: Path) -> None:
    scan = scenes.perfusion(times=4, slices=3)
    paths = write_series(scan, tmp_path, form="classic-siemens", shuffle=1, lying_numbers=True)
    read = [pydicom.dcmread(p, stop_before_pixels=True) for p in paths]
    assert [ds.InstanceNumber for ds in read] == list(range(1, 13))
    truth = FORMS["classic-siemens"].data_sets(scan, name="classic-siemens")
    assert [ds.SOPInstanceUID for ds in read] != [ds.SOPInstanceUID for ds in truth]
    assert {ds.SOPInstanceUID for ds in read} == {ds.SOPInstanceUID for ds in truth}


def test_a_tilted_gantry_moves_along_the_table_not_along_the_normal() -> None:
    (stack,) = scenes.head_ct(degrees=15.0, gaps=(5.0, 5.0, 7.5)).stacks
    steps = np.diff(stack.origins_lps, axis=0)
    assert np.allclose(steps / np.linalg.norm(steps, axis=1, keepdims=True), [0.0, 0.0, 1.0])
    assert np.degrees(np.arccos(stack.normal_lps[2])) == pytest.approx(15.0)
    assert scenes.head_ct().size_of(AxisName.TIME) == 1
