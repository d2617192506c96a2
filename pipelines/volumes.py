"""Volumes of a mask: closed surface mesh, voxel sum and ABC/2, in mL. Finds no lesion and says nothing of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull
from skimage.measure import marching_cubes

from ichor.arrays import Float64Array, Volume

Mask = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Where the voxels of a mask lie. Millimetres.

    Attributes
    ----------
    positions : (slices,) along the normal of the slices, ascending.
    extents : (slices,) what each slice stands for along the normal: half the way to either neighbour. For even slices
        it is their distance, and then the voxel sum is what a reader of the segmentation object computes (voxels x
        spacing); for uneven ones no single spacing is right, and only this sum is.
    pixel_spacing : (dy between rows, dx between columns).
    """

    positions: Float64Array
    extents: Float64Array
    pixel_spacing: tuple[float, float]

    @property
    def even(self) -> bool:
        """Do all slices stand for the same extent, to 1 %?"""
        return float(np.ptp(self.extents)) <= 0.01 * float(self.extents.max())

    @classmethod
    def of(cls, volume: Volume) -> Sampling:
        return cls(
            positions=volume.slice_positions, extents=volume.slice_extents, pixel_spacing=volume.pixel_spacing
        )  # fmt: skip


def mesh_volume_ml(mask_zyx: Mask, sampling: Sampling) -> float:
    """Volume inside the closed marching-cubes surface of a mask, in mL.

    The surface runs half-way between voxels inside and outside, the mask being padded with empty voxels so that it
    closes; its volume is the sum of signed tetrahedra from the origin (van Griethuysen et al. 2017,
    DOI 10.1158/0008-5472.CAN-17-0339, MeshVolume). Slices need not be even: vertices are mapped through the slice
    positions. Slices of a tilted gantry are shifted in their plane, which changes no volume, so the shift is left out.

    Parameters
    ----------
    mask_zyx : (slices, rows, columns), non-zero inside.
    sampling : its geometry.
    """
    found = np.nonzero(mask_zyx)
    if found[0].size == 0:
        return 0.0
    low = [int(axis.min()) for axis in found]
    high = [int(axis.max()) + 1 for axis in found]
    box = np.asarray(mask_zyx[low[0] : high[0], low[1] : high[1], low[2] : high[2]] != 0, dtype=np.float32)
    vertices, faces, _, _ = marching_cubes(np.pad(box, 1), level=0.5)  # type: ignore[no-untyped-call]
    z = _outward(sampling)[low[0] : high[0] + 2]
    dy, dx = sampling.pixel_spacing
    points = np.stack(
        [np.interp(vertices[:, 0], np.arange(len(z)), z - z[0]), vertices[:, 1] * dy, vertices[:, 2] * dx], axis=1
    )
    corners = points[faces]
    six_fold = np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    return abs(float(six_fold)) / 6000.0


def voxel_volume_ml(mask_zyx: Mask, sampling: Sampling) -> float:
    """Sum of pixel area x slice extent over the voxels of a mask, in mL."""
    per_slice = np.count_nonzero(mask_zyx, axis=(1, 2))
    dy, dx = sampling.pixel_spacing
    return float(per_slice @ sampling.extents) * dy * dx / 1000.0


def abc2_volume_ml(mask_zyx: Mask, sampling: Sampling) -> float:
    """ABC/2 of a mask in mL (Kothari et al. 1996, DOI 10.1161/01.STR.27.8.1304).

    On the slice of largest area, A is the longest diameter and B the longest one at right angles to it. C adds the
    extents of the slices: whole when the area is more than 75 % of the largest, half from 25 % to 75 %, else nothing.
    """
    areas = np.count_nonzero(mask_zyx, axis=(1, 2))
    if not areas.any():
        return 0.0
    share = areas / areas.max()
    weight = np.where(share > 0.75, 1.0, np.where(share >= 0.25, 0.5, 0.0))
    a, b = diameters_mm(mask_zyx[int(areas.argmax())], sampling.pixel_spacing)
    return a * b * float(weight @ sampling.extents) / 2000.0


def diameters_mm(mask_yx: Mask, pixel_spacing: tuple[float, float]) -> tuple[float, float]:
    """Longest diameter of a plane mask and its longest chord at right angles to that, in mm, pixels as squares."""
    rows, columns = np.nonzero(mask_yx)
    dy, dx = pixel_spacing
    corners = np.concatenate(
        [np.stack([(rows + i) * dy, (columns + j) * dx], axis=1) for i in (-0.5, 0.5) for j in (-0.5, 0.5)]
    )
    hull = corners[ConvexHull(corners).vertices]
    distances = np.linalg.norm(hull[:, None] - hull[None], axis=2)
    first, second = np.unravel_index(int(distances.argmax()), distances.shape)
    longest = float(distances[first, second])
    along = (hull[second] - hull[first]) / longest
    across = np.array([-along[1], along[0]])
    # Chords at right angles, one per pixel's width along the diameter.
    step = min(dy, dx)
    bins = np.floor((corners - corners.min(axis=0)) @ along / step).astype(np.intp)
    bins -= bins.min()
    offset = corners @ across
    top, bottom = np.full(bins.max() + 1, -np.inf), np.full(bins.max() + 1, np.inf)
    np.maximum.at(top, bins, offset)
    np.minimum.at(bottom, bins, offset)
    return longest, float((top - bottom).max())


def _outward(sampling: Sampling) -> Float64Array:
    """Slice positions with one more at either end, a whole extent beyond."""
    z = sampling.positions
    return np.concatenate([[z[0] - sampling.extents[0]], z, [z[-1] + sampling.extents[-1]]])
