"""The space inside the skull, and whether a brain is in it. Finds no lesion, and outlines no brain to the voxel.

All on a coarse grid (about 4 mm). A block lies inside the skull when bone is met in its slice in at least seven of
eight directions: foramina, thin walls, orbits and a gap from surgery do not open it, and neither tilt, nor a cropped
vertex, nor the distance of slices matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichor.arrays import Float64Array, Volume
from ichor.errors import Unreadable
from ichor.reasons import Reason

Blocks: TypeAlias = npt.NDArray[np.float32]

BLOCK_MM = 4.0
BONE_HU = 250.0
BONE_WAYS = 7
SOFT_HU = (-10.0, 95.0)  # CSF to dense blood
PLAUSIBLE_ML = (250.0, 2300.0)  # the lower end: a scan that shows only part of the head
LEAST_SHARE = 0.5  # of what bone encloses in the same slices
MEAN_HU = (12.0, 55.0)
# Grey and white matter differ by 5-10 HU and CSF by 20 more; water or plastic of one kind stays below.
LEAST_SPREAD_HU = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Intracranial:
    """The space inside closed bone on a coarse grid.

    Attributes
    ----------
    blocks_zyx : bool; a block covers `block` voxels each way, block (k, j, i) from voxel (k, j, i) * `block`.
    block : voxels of a block along slices, rows and columns.
    bone_zyx : bool, blocks that hold a voxel of bone, inside or not.
    volume_ml : of the soft tissue in it.
    """

    blocks_zyx: npt.NDArray[np.bool_]
    bone_zyx: npt.NDArray[np.bool_]
    block: tuple[int, int, int]
    volume_ml: float

    def contains(self, indices_zyx: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """For voxels (3, n) of the volume: does each lie inside?"""
        coarse = [np.minimum(indices_zyx[a] // self.block[a], self.blocks_zyx.shape[a] - 1) for a in range(3)]
        inside: npt.NDArray[np.bool_] = self.blocks_zyx[coarse[0], coarse[1], coarse[2]]
        return inside

    def centres(self) -> Float64Array:
        """(m, 3) indices (slice, row, column) of the middles of the blocks inside."""
        middles: Float64Array = (np.argwhere(self.blocks_zyx) + 0.5) * np.asarray(self.block) - 0.5
        return middles


def intracranial_space(volume: Volume) -> Intracranial:
    """Find the space inside the skull and make sure that a brain is in it.

    Raises
    ------
    Unreadable
        ``Reason.NO_BRAIN``: no closed bone, or what it encloses is not like a brain in amount, density or texture.
    """
    block = _block(volume)
    hu, peak = _blocks(volume.array_zyx, block)
    bone = hu > BONE_HU
    inside = (_bone_ways(peak > BONE_HU) >= BONE_WAYS) & ~bone
    soft = inside & (hu > SOFT_HU[0]) & (hu < SOFT_HU[1])
    labels, count = ndimage.label(ndimage.binary_opening(soft, structure=_PLANE))
    if count == 0:
        raise Unreadable(Reason.NO_BRAIN)
    brain = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    extents = np.add.reduceat(volume.slice_extents, np.arange(0, volume.array_zyx.shape[0], block[0]))
    block_ml = extents * block[1] * block[2] * volume.pixel_spacing[0] * volume.pixel_spacing[1] / 1000
    brain_ml = float(np.count_nonzero(brain, axis=(1, 2)) @ block_ml)
    # Of the slices that hold it: below, jaws and spine enclose air and fat as well.
    beside_ml = float((np.count_nonzero(inside, axis=(1, 2)) * brain.any(axis=(1, 2))) @ block_ml)
    if not PLAUSIBLE_ML[0] <= brain_ml <= PLAUSIBLE_ML[1] or brain_ml < LEAST_SHARE * beside_ml:
        raise Unreadable(Reason.NO_BRAIN)
    # Without its rim, where blocks hold some bone, and over 12 mm, where noise hardly shows.
    core = ndimage.binary_erosion(brain, structure=_PLANE)
    share = ndimage.uniform_filter(core.astype(np.float32), size=(1, 3, 3))
    level = (ndimage.uniform_filter(hu * core, size=(1, 3, 3)) / np.maximum(share, 1e-3))[core & (share > 0.6)]
    if level.size < 100:
        raise Unreadable(Reason.NO_BRAIN)
    low, high = np.percentile(level, (5, 95))
    if not MEAN_HU[0] <= float(level.mean()) <= MEAN_HU[1] or high - low < LEAST_SPREAD_HU:
        raise Unreadable(Reason.NO_BRAIN)
    # One block further: what touches the inner table is inside, too.
    grown = ndimage.binary_dilation(brain, structure=_PLANE) | ndimage.binary_fill_holes(brain)
    return Intracranial(blocks_zyx=grown, bone_zyx=peak > BONE_HU, block=block, volume_ml=brain_ml)


_PLANE = np.zeros((3, 3, 3), dtype=bool)
_PLANE[1, :, 1] = _PLANE[1, 1, :] = True


def _block(volume: Volume) -> tuple[int, int, int]:
    dy, dx = volume.pixel_spacing
    dz = float(np.median(volume.slice_extents))
    slices, rows, columns = volume.array_zyx.shape
    return (
        int(np.clip(round(BLOCK_MM / max(dz, 1e-3)), 1, slices)),
        int(np.clip(2 * round(BLOCK_MM / dy / 2), 1, rows)),
        int(np.clip(2 * round(BLOCK_MM / dx / 2), 1, columns)),
    )


def _blocks(array_zyx: npt.NDArray[Any], block: tuple[int, int, int]) -> tuple[Blocks, Blocks]:
    """Mean and maximum of every block; of every second row and column where a block holds enough."""
    strides = (1, *(2 if size >= 6 else 1 for size in block[1:]))
    mean: Blocks = np.ascontiguousarray(array_zyx[:, :: strides[1], :: strides[2]], dtype=np.float32)
    peak = mean
    for axis in (2, 1, 0):
        length, size = mean.shape[axis], block[axis] // strides[axis]
        if size == 1:
            continue
        starts = np.arange(0, length, size)
        counts = np.diff(np.append(starts, length)).astype(np.float32)
        mean = np.add.reduceat(mean, starts, axis=axis)
        mean /= counts.reshape([-1 if a == axis else 1 for a in range(3)])
        peak = np.maximum.reduceat(peak, starts, axis=axis)
    return mean, peak


def _bone_ways(bone_zyx: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """In how many of eight directions in its slice (straight and diagonal) does a block meet bone?"""
    ways = np.zeros(bone_zyx.shape, np.uint8)
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        met = bone_zyx[:, :: down or 1, :: right or 1].copy()
        if down == 0:
            np.logical_or.accumulate(met, axis=2, out=met)
        elif right == 0:
            np.logical_or.accumulate(met, axis=1, out=met)
        else:
            for row in range(1, met.shape[1]):
                met[:, row, 1:] |= met[:, row - 1, :-1]
        ways += met[:, :: down or 1, :: right or 1]
    return ways
