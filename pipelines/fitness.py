"""Is a head one of those that the networks were made for? Names what is wrong with it; measures no lesion.

What a network says of a head unlike all it has seen is not worth a number. Each limit lies between what was measured on
synthetic heads as the networks saw them (whole, noisy, with calcifications and fillings) and on the same with what is
looked for; `docs/decisions` has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichor.arrays import Float64Array, Volume
from ichor.errors import Unreadable
from ichor.reasons import Reason
from pipelines.brain import Intracranial, intracranial_space

END_SHARE = 0.88  # of the largest cross-section of the brain, in the first or last slice: some third is missing
CUT_SHARE = 0.8  # of the head's length or width, that a border of the picture runs through: a fifth of it is missing
CUT_MM = 15.0  # over at least this height
OPEN_ARC_MM = 40.0
OPEN_MM = 20.0
AIR_HU = -500.0
METAL_HU = 2500.0
DARK_HU = -30.0
METAL_DARK_SHARE = 0.005
MOST_NOISE_HU = 18.0
CONTRAST_HU = (110.0, 400.0)
CONTRAST_ML = 0.4
CONTRAST_EXTENT_MM = 20.0  # in the plane; vessels and sinuses are long, calcifications are clumps
FROM_BONE_MM = 6.0
ANGLES = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What was measured of a head, each against its limit in this module.

    Attributes
    ----------
    end_share : cross-section of the brain in the first or last slice, the larger, over its largest one.
    cut_mm : height over which a border of the picture cuts off a fifth of the head or more.
    open_mm : height over which the skull has a gap of `OPEN_ARC_MM`, above the middle of the brain.
    dark_share : of the brain away from bone, as dark as streaks; 0 where no metal is in these slices.
    noise_hu : standard deviation against the mean of 5 x 5 pixels of about 1 mm.
    vessels_ml : long and as dense as vessels with contrast, away from bone.
    """

    end_share: float
    cut_mm: float
    open_mm: float
    dark_share: float
    noise_hu: float
    vessels_ml: float


def fit_space(volume: Volume) -> Intracranial:
    """The space inside the skull of a head that the networks were made for.

    Raises
    ------
    Unreadable
        ``NO_BRAIN``, ``PART_OF_HEAD``, ``OPEN_SKULL``, ``NOISE``, ``METAL`` or ``CONTRAST_SEEN``.
    """
    try:
        space = intracranial_space(volume)
    except Unreadable:
        # Half a skull closes nothing in.
        if cut_height_mm(volume) >= CUT_MM:
            raise Unreadable(Reason.PART_OF_HEAD) from None
        raise
    signs = signs_of(volume, space)
    for found, reason in (
        (signs.end_share >= END_SHARE or signs.cut_mm >= CUT_MM, Reason.PART_OF_HEAD),
        (signs.open_mm >= OPEN_MM, Reason.OPEN_SKULL),
        (signs.noise_hu > MOST_NOISE_HU, Reason.NOISE),
        (signs.dark_share >= METAL_DARK_SHARE, Reason.METAL),
        (signs.vessels_ml >= CONTRAST_ML, Reason.CONTRAST_SEEN),
    ):
        if found:
            raise Unreadable(reason)
    return space


def signs_of(volume: Volume, space: Intracranial) -> Signs:
    """Measure them all."""
    areas = np.count_nonzero(space.blocks_zyx, axis=(1, 2))
    brain = np.flatnonzero(areas)
    first, last = int(brain[0]) * space.block[0], min((int(brain[-1]) + 1) * space.block[0], len(volume.array_zyx))
    near_bone = ndimage.binary_dilation(
        space.bone_zyx, structure=_DISC[None], iterations=max(1, round(FROM_BONE_MM / _block_mm(volume, space)))
    )
    core_blocks = space.blocks_zyx & ~near_bone
    # As in `pipelines.brain`: of fine pixels every second one tells as much.
    down, right = (2 if size >= 6 else 1 for size in space.block[1:])
    hu = volume.array_zyx[first:last, ::down, ::right]
    core = _voxels(core_blocks, (space.block[0], space.block[1] // down, space.block[2] // right))
    core = core[first:last, : hu.shape[1], : hu.shape[2]]
    extents = volume.slice_extents[first:last]
    spacing = volume.pixel_spacing[0] * down, volume.pixel_spacing[1] * right
    area = spacing[0] * spacing[1] / 1000
    core_ml = float(np.count_nonzero(core, axis=(1, 2)) @ extents) * area
    metal = bool((hu > METAL_HU).any())
    dark_ml = float(np.count_nonzero(core & (hu < DARK_HU), axis=(1, 2)) @ extents) * area if metal else 0.0
    return Signs(
        end_share=float(max(areas[0], areas[-1]) / areas.max()),
        cut_mm=cut_height_mm(volume),
        open_mm=_open_height_mm(volume, space),
        dark_share=dark_ml / max(core_ml, 1e-9),
        noise_hu=_noise_hu(volume, core_blocks, space.block),
        vessels_ml=_long_ml(core & (hu > CONTRAST_HU[0]) & (hu < CONTRAST_HU[1]), extents, spacing),
    )


def cut_height_mm(volume: Volume) -> float:
    """Height over which one border of the picture runs through a fifth of the head or more."""
    worst = 0.0
    solid = volume.array_zyx[:, ::2, ::2] > DARK_HU
    for axis, step in ((1, volume.pixel_spacing[0]), (2, volume.pixel_spacing[1])):
        seen = solid.any(axis=3 - axis)
        length = np.count_nonzero(seen, axis=1) * 2 * step
        for border in (0, -1):
            line = np.take(volume.array_zyx, border, axis=3 - axis)
            # Through the skull: brain between bone and bone.
            bone = line > 300
            through = np.logical_or.accumulate(bone, axis=1) & np.logical_or.accumulate(bone[:, ::-1], axis=1)[:, ::-1]
            cut = np.count_nonzero(through, axis=1) * step
            wrong = (cut >= CUT_SHARE * length) & (cut >= 60)
            worst = max(worst, float(volume.slice_extents[wrong].sum()))
    return worst


def _open_height_mm(volume: Volume, space: Intracranial) -> float:
    """Rays from the middle of each slice of the upper brain: where many neighbours meet no bone, the skull is open."""
    areas = np.count_nonzero(space.blocks_zyx, axis=(1, 2))
    heights = volume.to_lps(
        [[min((k + 0.5) * space.block[0], len(volume.array_zyx) - 1), 0, 0] for k in range(len(areas))]
    )[:, 2]
    middle = float(np.average(heights, weights=areas))
    extents = np.add.reduceat(volume.slice_extents, np.arange(0, len(volume.array_zyx), space.block[0]))
    dy, dx = (n * mm for n, mm in zip(space.block[1:], volume.pixel_spacing, strict=True))
    angles = 2 * np.pi * np.arange(ANGLES) / ANGLES
    total = 0.0
    for k in np.flatnonzero((areas >= 0.5 * areas.max()) & (heights >= middle)):
        rows, columns = np.nonzero(space.blocks_zyx[k])
        radius = float(np.sqrt(areas[k] * dy * dx / np.pi))
        reach = np.arange(0.4 * radius, 2.0 * radius, 0.5 * min(dy, dx))
        y = np.rint(rows.mean() + np.sin(angles)[:, None] * reach / dy).astype(np.intp)
        x = np.rint(columns.mean() + np.cos(angles)[:, None] * reach / dx).astype(np.intp)
        shape = space.bone_zyx.shape[1:]
        there = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
        y, x = np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)
        plane = volume.array_zyx[min((int(k) * space.block[0]) + space.block[0] // 2, len(volume.array_zyx) - 1)]
        air = plane[:: space.block[1], :: space.block[2]] < AIR_HU
        # A ray that leaves the picture within the head says nothing: there must be air, and no bone before.
        gap = (air[y, x] & there).any(axis=1) & ~(space.bone_zyx[k][y, x] & there).any(axis=1)
        if _longest_run(gap) * 2 * np.pi * radius / ANGLES >= OPEN_ARC_MM:
            total += float(extents[k])
    return total


def _longest_run(flags: npt.NDArray[np.bool_]) -> int:
    """The longest run of true values on a circle."""
    if flags.all():
        return len(flags)
    turned = np.roll(flags, -int(np.flatnonzero(~flags)[0]))
    ends = np.flatnonzero(np.diff(np.concatenate([[False], turned, [False]]).astype(np.int8)))
    return int((ends[1::2] - ends[::2]).max(initial=0))


def _noise_hu(volume: Volume, core_zyx: npt.NDArray[np.bool_], block: tuple[int, int, int]) -> float:
    """From the median of a few slices, at about 1 mm in plane: what networks see."""
    found = []
    rows, columns = (max(1, round(1.0 / mm)) for mm in volume.pixel_spacing)
    for k in np.argsort(np.count_nonzero(core_zyx, axis=(1, 2)))[-9::2]:
        plane = volume.array_zyx[int(k) * block[0]].astype(np.float32)
        height, width = plane.shape[0] // rows * rows, plane.shape[1] // columns * columns
        coarse = plane[:height, :width].reshape(height // rows, rows, width // columns, columns).mean(axis=(1, 3))
        residual = coarse - ndimage.uniform_filter(coarse, 5)
        used = _voxels(core_zyx[k : k + 1], (1, *block[1:]))[0, :height:rows, :width:columns]
        if used.any():
            found.append(1.4826 * float(np.median(np.abs(residual[used]))))
    return float(np.median(found)) if found else 0.0


def _long_ml(dense_zyx: npt.NDArray[np.bool_], extents: Float64Array, spacing: tuple[float, float]) -> float:
    """Volume of connected parts that are at least `CONTRAST_EXTENT_MM` long in the plane."""
    labels, count = ndimage.label(dense_zyx, structure=np.ones((3, 3, 3)))
    if count == 0:
        return 0.0
    dy, dx = spacing
    total = 0.0
    for label, part in enumerate(ndimage.find_objects(labels), start=1):
        size = ((part[1].stop - part[1].start) * dy, (part[2].stop - part[2].start) * dx)
        if float(np.hypot(*size)) >= CONTRAST_EXTENT_MM:
            total += float(np.count_nonzero(labels[part] == label, axis=(1, 2)) @ extents[part[0]]) * dy * dx / 1000
    return total


def _voxels(blocks_zyx: npt.NDArray[np.bool_], size: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Every block as the voxels it stands for; the last ones may reach beyond the volume."""
    spread = blocks_zyx
    for axis, count in enumerate(size):
        spread = np.repeat(spread, count, axis=axis)
    return spread


def _block_mm(volume: Volume, space: Intracranial) -> float:
    return float(min(space.block[1] * volume.pixel_spacing[0], space.block[2] * volume.pixel_spacing[1]))


_DISC = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool)
