"""Real diffusion series of five scanners: arrays, b-values and directions against dcm2niix, run in the same test."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from contract.converter import Converted, convert
from contract.test_series_of_files import Folder, instance_of, objects

from ichor.arrays import Volume
from ichor.series.grid import build_grid
from ichor.series.manifest import build_manifest
from ichor.series.nifti import write_nifti
from ichor.series.volume import build_volume
from ichor.types import AxisName, Grade, Instance

RealData = Callable[[str], Path]
Peer = Callable[[str, str], str]

# (b0, weighted) volumes, slices, rows and columns, as the data's own description has them.
SETS = {
    "dwi_philips_achieva_1b0_6b1000_and_trace": (1, 6, (60, 128, 128)),
    "dwi_siemens_trio_mosaic_2b0_40b1000": (2, 40, (60, 102, 102)),
    "dwi_siemens_prisma_mosaic_1b0_12b1000": (1, 12, (25, 128, 128)),
    "dwi_ge_pioneer_1b0_6b1000": (1, 6, (2, 256, 256)),
    "dwi_canon_galan_classic_1b0_12b1500": (1, 12, (40, 80, 80)),
    "dwi_canon_galan_enhanced_1b0_12b1500": (1, 12, (40, 80, 80)),
}


@cache
def instances_of(folder: Path) -> tuple[Instance, ...]:
    """In an order that says nothing: by digest of the file."""
    return tuple(sorted((instance_of(path) for path in objects(folder)), key=lambda i: i.file_sha256))


@cache
def volume_of(instances: tuple[Instance, ...]) -> Volume:
    manifest = build_manifest(instances, revision=1, grade=Grade.REGULAR)
    return build_volume(manifest, spool=Folder())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def oracle(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Converted]:
    """The one image with gradients that dcm2niix makes of a folder."""
    program = peer("dcm2niix", "dcm2niix")

    @cache
    def converted(folder: Path) -> Converted:
        out = tmp_path_factory.mktemp("converted") / "out"
        (found,) = (image for image in convert(program, folder, out) if image.b_values is not None)
        return found

    return converted


@pytest.mark.parametrize("name", SETS)
def test_diffusion_series_are_what_the_converter_makes_of_them(
    name: str, real_data: RealData, oracle: Callable[[Path], Converted]
) -> None:
    folder = real_data(name)
    expected = oracle(folder)
    volume = volume_of(instances_of(folder))
    b0, weighted, shape = SETS[name]

    assert [axis.name for axis in volume.axes] == [AxisName.DIFFUSION]
    assert volume.array.shape == (b0 + weighted, *shape)

    assert volume.gradients is not None
    assert volume.gradients.b_values == expected.b_values
    assert tuple(volume.axes[0].values) == expected.b_values
    assert expected.directions_lps is not None
    directions = np.asarray(volume.gradients.directions_lps)
    assert np.abs(directions - expected.directions_lps).max() <= 1e-4
    diffuse = np.asarray(volume.gradients.b_values) > 5
    assert diffuse.sum() == weighted
    assert np.linalg.norm(directions[diffuse], axis=1) == pytest.approx(
        np.ones(weighted), abs=5e-4
    )  # GE's are up to 0.04 % longer
    assert not directions[~diffuse].any()

    there = expected.on_grid(volume, rows=shape[1], columns=shape[2])  # type: ignore[arg-type]
    assert there is not None, "voxels lie elsewhere"
    assert np.allclose(volume.array, there, rtol=1e-6, atol=0)
    if volume.array.dtype == np.int16:
        assert np.array_equal(volume.array, there)


@pytest.mark.parametrize("name", SETS)
def test_our_own_files_mean_the_same_as_the_converters(
    name: str, real_data: RealData, oracle: Callable[[Path], Converted], tmp_path: Path
) -> None:
    folder = real_data(name)
    theirs = oracle(folder)
    volume = volume_of(instances_of(folder))
    image_path, bval, bvec = write_nifti([volume], tmp_path, stem=volume.sources[0].series_instance_uid)
    image = nibabel.load(image_path)
    assert tuple(float(b) for b in bval.read_text().split()) == theirs.b_values
    ours = np.asarray(image.affine, dtype=np.float64)
    vectors = np.loadtxt(bvec, ndmin=2)
    if np.linalg.det(ours[:3, :3]) > 0:
        vectors[0] *= -1
    ras = (ours[:3, :3] / np.linalg.norm(ours[:3, :3], axis=0)) @ vectors
    assert theirs.directions_lps is not None
    assert np.abs((np.diag([-1.0, -1.0, 1.0]) @ ras).T - theirs.directions_lps).max() <= 1e-4
    data = np.asarray(image.dataobj)
    # The corner voxels and the centre, by where they lie in the room.
    size = np.array(data.shape[:3])
    rng = np.random.default_rng(4)
    back = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ theirs.affine_lps) @ ours
    for voxel in rng.integers(0, size, (200, 3)):
        other = np.rint((back @ [*voxel, 1])[:3]).astype(int)
        assert np.allclose(data[tuple(voxel)], theirs.values[tuple(other)], rtol=1e-6, atol=0)


def test_the_trace_volume_is_left_out_and_named(real_data: RealData) -> None:
    instances = instances_of(real_data("dwi_philips_achieva_1b0_6b1000_and_trace"))
    grid = build_grid(instances)
    assert len(grid.left_out) == 60
    assert all(plane.slot.diffusion and plane.slot.diffusion.isotropic for plane in grid.left_out)
    assert any("trace" in note for note in grid.notes)
    used = {i.sop_instance_uid for i in volume_of(instances).sources}
    assert len(used) == 420
    assert not used & {plane.instance.sop_instance_uid for plane in grid.left_out}


def test_classic_and_enhanced_of_one_acquisition_are_one_array(real_data: RealData) -> None:
    classic = volume_of(instances_of(real_data("dwi_canon_galan_classic_1b0_12b1500")))
    enhanced = volume_of(instances_of(real_data("dwi_canon_galan_enhanced_1b0_12b1500")))
    assert classic.array.dtype == enhanced.array.dtype
    assert np.array_equal(classic.array, enhanced.array)
    assert np.abs(classic.affine_lps - enhanced.affine_lps).max() <= 1e-3
    assert np.abs(classic.origins_lps - enhanced.origins_lps).max() <= 1e-3
    assert classic.axes == enhanced.axes
    assert classic.gradients is not None
    assert enhanced.gradients is not None
    assert classic.gradients.b_values == enhanced.gradients.b_values
    apart = np.asarray(classic.gradients.directions_lps) - np.asarray(enhanced.gradients.directions_lps)
    assert np.abs(apart).max() <= 1e-4


@pytest.mark.parametrize("number", range(9))
def test_each_file_of_the_transfer_syntaxes_alone_decodes_to_the_same_pixels(number: int, real_data: RealData) -> None:
    paths = objects(real_data("mosaic_nine_transfer_syntaxes"))
    assert len(paths) == 9
    (native,) = (
        p for p in paths if pydicom.dcmread(p, stop_before_pixels=True).file_meta.TransferSyntaxUID.endswith(".1.2")
    )
    stored = pydicom.dcmread(native).pixel_array
    volume = volume_of((instance_of(paths[number]),))
    slices, rows, columns = volume.array_zyx.shape
    across = stored.shape[1] // columns
    tiles = np.stack(
        [
            stored[k // across * rows : (k // across + 1) * rows, k % across * columns : (k % across + 1) * columns]
            for k in range(slices)
        ]
    )
    # Tiles beyond the last slice are empty.
    filled = sum(
        stored[r : r + rows, c : c + columns].any()
        for r in range(0, stored.shape[0], rows)
        for c in range(0, stored.shape[1], columns)
    )
    assert slices == filled
    assert slices > 1
    ascending = volume.array_zyx if np.array_equal(volume.array_zyx[0], tiles[0]) else volume.array_zyx[::-1]
    assert np.array_equal(ascending, tiles)
