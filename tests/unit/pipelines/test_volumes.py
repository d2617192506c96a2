"""Mesh volume against PyRadiomics' reference; voxel sum, mesh and ABC/2 on shapes with known volumes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import nrrd
import numpy as np
import pytest

from pipelines.volumes import Sampling, abc2_volume_ml, diameters_mm, mesh_volume_ml, voxel_volume_ml


def even(slices: int, *, dz: float, dy: float, dx: float) -> Sampling:
    return Sampling(positions=np.arange(slices) * dz, extents=np.full(slices, dz), pixel_spacing=(dy, dx))


def uneven(positions: np.ndarray, *, dy: float, dx: float) -> Sampling:
    gaps = np.diff(positions)
    padded = np.concatenate([gaps[:1], gaps, gaps[-1:]])
    return Sampling(positions=positions, extents=(padded[:-1] + padded[1:]) / 2, pixel_spacing=(dy, dx))


def ellipsoid(sampling: Sampling, rows: int, columns: int, semi_axes: tuple[float, float, float]) -> np.ndarray:
    """Mask of an ellipsoid (z, y, x semi-axes in mm) in the middle of the grid."""
    dy, dx = sampling.pixel_spacing
    z = sampling.positions - sampling.positions.mean()
    y, x = (np.arange(rows) - (rows - 1) / 2) * dy, (np.arange(columns) - (columns - 1) / 2) * dx
    c, b, a = semi_axes
    return (z[:, None, None] / c) ** 2 + (y[None, :, None] / b) ** 2 + (x[None, None] / a) ** 2 <= 1


@pytest.mark.parametrize("case", ["brain2", "breast1", "lung1"])
def test_mesh_volume_is_pyradiomics(case: str, real_data: Callable[[str], Path]) -> None:
    """The same marching cubes surface (classic table or Lewiner's differ only in ambiguous cells) and tetrahedra."""
    folder = real_data("mesh_volume_pyradiomics")
    with (folder / "baseline_shape.csv").open() as file:
        table = {row[0]: row[1:] for row in csv.reader(file)}
    column = table["featureName"].index(case)
    label_xyz, header = nrrd.read(str(folder / f"{case}_label.nrrd"))
    dx, dy, dz = (float(np.linalg.norm(v)) for v in header["space directions"])
    sampling = even(label_xyz.shape[2], dz=dz, dy=dy, dx=dx)
    mask = label_xyz.T == 1
    assert mesh_volume_ml(mask, sampling) * 1000 == pytest.approx(
        float(table["original_shape_MeshVolume"][column]), rel=1e-3
    )
    assert voxel_volume_ml(mask, sampling) * 1000 == pytest.approx(
        float(table["original_shape_VoxelVolume"][column]), rel=1e-6
    )


def test_volumes_of_an_ellipsoid() -> None:
    sampling = even(40, dz=1.5, dy=0.6, dx=0.4)
    mask = ellipsoid(sampling, 100, 150, (20.0, 12.0, 25.0))
    true = 4 / 3 * np.pi * 20 * 12 * 25 / 1000
    assert mesh_volume_ml(mask, sampling) == pytest.approx(true, rel=0.01)
    assert voxel_volume_ml(mask, sampling) == pytest.approx(true, rel=0.01)


def test_uneven_slices_are_measured_where_they_lie() -> None:
    positions = np.cumsum([0.0] + [1.0] * 20 + [3.0] * 12)
    mask = ellipsoid(uneven(positions, dy=0.5, dx=0.5), 120, 120, (18.0, 20.0, 20.0))
    sampling = uneven(positions, dy=0.5, dx=0.5)
    true = 4 / 3 * np.pi * 18 * 20 * 20 / 1000
    assert mesh_volume_ml(mask, sampling) == pytest.approx(true, rel=0.02)
    assert voxel_volume_ml(mask, sampling) == pytest.approx(true, rel=0.02)
    flat = even(len(positions), dz=float(np.diff(positions).mean()), dy=0.5, dx=0.5)
    assert abs(mesh_volume_ml(mask, flat) - true) > 0.1 * true


def test_a_lesion_at_the_edge_of_the_scan_is_closed_there() -> None:
    sampling = even(4, dz=5.0, dy=1.0, dx=1.0)
    mask = np.zeros((4, 30, 30), bool)
    mask[0:2, 5:25, 5:25] = True
    mask[:, 0:3, 0:3] = True
    assert voxel_volume_ml(mask, sampling) == pytest.approx((2 * 400 + 4 * 9) * 5 / 1000)
    # A mesh cuts the edges and corners of a block, never more than the outer half voxel.
    assert 0.85 < mesh_volume_ml(mask, sampling) / voxel_volume_ml(mask, sampling) < 1.0


def test_an_empty_mask_has_no_volume() -> None:
    sampling = even(3, dz=5.0, dy=1.0, dx=1.0)
    mask = np.zeros((3, 8, 8), bool)
    assert (mesh_volume_ml(mask, sampling), voxel_volume_ml(mask, sampling), abc2_volume_ml(mask, sampling)) == (
        0,
        0,
        0,
    )


def test_diameters_of_a_turned_ellipse() -> None:
    dy, dx = 0.5, 0.8
    y, x = np.meshgrid((np.arange(200) - 99.5) * dy, (np.arange(120) - 59.5) * dx, indexing="ij")
    turn = np.deg2rad(35)
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    longest, across = diameters_mm((u / 20) ** 2 + (v / 9) ** 2 <= 1, (dy, dx))
    assert longest == pytest.approx(40, abs=1.2)
    assert across == pytest.approx(18, abs=1.2)


def test_abc2_weighs_slices_by_their_share_of_the_largest_area() -> None:
    sampling = even(5, dz=4.0, dy=1.0, dx=1.0)
    mask = np.zeros((5, 40, 40), bool)
    mask[0, :4, :6] = True  # 24 of 600: nothing
    mask[1, :10, :30] = True  # a half
    mask[2, :20, :30] = True  # whole, the largest
    mask[3, :16, :30] = True  # 80 %: whole
    a, b = diameters_mm(mask[2], (1.0, 1.0))
    assert a == pytest.approx(np.hypot(20, 30), rel=1e-6)
    assert abc2_volume_ml(mask, sampling) == pytest.approx(a * b * (2.5 * 4.0) / 2000)


def test_abc2_of_an_ellipsoid_follows_its_weights() -> None:
    """Area shares of 75 % and 25 % lie at 0.5 and 0.866 of the half height: C = 20 + 7 of 40 slices of 1 mm."""
    sampling = even(60, dz=1.0, dy=0.5, dx=0.5)
    mask = ellipsoid(sampling, 120, 160, (20.0, 15.0, 25.0))
    assert abc2_volume_ml(mask, sampling) == pytest.approx(50 * 30 * 27 / 2000, rel=0.03)
