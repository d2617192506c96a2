"""Regions of a probability: which are kept as haematomas, and how large and where each is. Words nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from ichor.arrays import Float32Array, Float64Array, MaskArray, Volume
from pipelines.brain import Intracranial
from pipelines.location import HeadFrame, Location
from pipelines.midline import MARGIN_MM
from pipelines.volumes import Sampling, abc2_volume_ml, mesh_volume_ml, voxel_volume_ml

PROBABILITY = 0.5
# Figures of these limits are of the network before it was refined (1.2.0).
# Specks are not called. On 88 synthetic heads that were neither trained on nor in the acceptance set the network made up
# two regions, of 0.2 and 0.5 mL; in the CT template of real anatomy that the tests use, nine, one of 1.3 mL with a mean of
# 0.79; true regions of 1 to 3 mL had 0.86 and more. What is as large as no speck is called even where the network is
# unsure, and this is said: 5 of the 37 true regions of 3 mL and more had a mean below 0.8.
LEAST_ML = 1.0
LEAST_MEAN_PROBABILITY = 0.8
FAINT_BELOW_ML = 3.0
SPECK_ML = 0.2  # below: not even mentioned
# Where there is a haematoma. In 32 synthetic heads with one, 13 of 14 other regions of 0.3 to 0.8 mL were true; with them
# the volume was within 10 % or 1 mL in 26 instead of 25 of those 30 that had 3 mL and more.
BESIDE_ML = 0.3
LEAST_ENCLOSED = 0.5  # share of a region's voxels that must lie inside the skull
ONE_SIDED = 2 / 3
LEAST_ACROSS = 0.05  # on either side, farther from the midline than it may be off: else it may lie on one
MOST_SEGMENTS = 20  # each costs a mask of the whole volume; smaller ones share the last
# What lies so near to a haematoma belongs to it, however small. On 30 synthetic heads that nobody trained on the mean
# error of the volume was 9.2 % with it, 9.8 % without, and 9.6 % with 5 mm; no false region was near a true one.
ISLANDS_MM = 10.0
_NEAR_MM = ISLANDS_MM + 1e-3  # two slices of 5 mm are as far, and no further for how a header's numbers are rounded
NOT_CERTAIN = "not certain"
SEEN_NOT_CALLED = "haematoma_not_called"  # the measurement of the specks


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One region: its mask on the volume's grid, volumes in mL, centre (LPS, mm), side and place.

    ``regions`` > 1: it is that many small ones, which have no side, place or ABC/2 together.
    """

    mask_zyx: MaskArray
    mesh_ml: float
    voxel_ml: float
    abc2_ml: float | None
    centre_lps: tuple[float, float, float]
    side: str
    location: Location
    regions: int = 1

    @property
    def cut(self) -> bool:
        """On the first or last slice: it goes on where nothing was scanned."""
        return bool(self.mask_zyx[0].any() or self.mask_zyx[-1].any())


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """``masks`` are kept, largest first without its islands; millilitres left out outside the skull, or as small or faint specks.

    ``last``: how many regions share the last mask, which need not be the smallest.
    ``unsure_ml``: those kept, islands among them, although the network is no surer of them than of a speck.
    """

    masks: list[MaskArray]
    last: int = 1
    outside_ml: float = 0.0
    specks_ml: tuple[float, ...] = ()
    unsure_ml: tuple[float, ...] = ()


@dataclass(slots=True)
class _Region:
    """Voxels, (3, n), of one connected region, and the outer ones of them; its islands once they are found."""

    voxels: NDArray[np.intp]
    rim: NDArray[np.intp]
    ml: float = 0.0
    sure: bool = True
    islands: list[_Region] = field(default_factory=list)

    @property
    def called(self) -> bool:
        return self.ml >= LEAST_ML and (self.sure or self.ml >= FAINT_BELOW_ML)


def find_regions(probability: Float32Array, volume: Volume, space: Intracranial) -> Regions:
    """Connected regions above `PROBABILITY` that lie inside the skull and are large and sure enough, with their islands.

    Where there is one, more blood is likely: there, regions from `BESIDE_ML` on are kept however faint.
    """
    inside, outside_ml = _regions_inside(probability, volume, space)
    called = [one for one in inside if one.called]
    alone = _join_islands([one for one in inside if not one.called], called, volume)
    if called:
        called += [one for one in alone if one.ml >= BESIDE_ML]
        alone = [one for one in alone if one.ml < BESIDE_ML]
    called.sort(key=lambda one: -one.ml)
    masks: list[MaskArray] = []
    for one in called:
        if len(masks) < MOST_SEGMENTS:
            masks.append(np.zeros(probability.shape, np.uint8))
        for part in (one, *one.islands):
            masks[-1][tuple(part.voxels)] = 1
    unsure = [part.ml for one in called for part in (one, *one.islands) if not part.sure and part.ml >= SPECK_ML]
    return Regions(
        masks=masks, last=max(1, len(called) - MOST_SEGMENTS + 1), outside_ml=outside_ml,
        specks_ml=tuple(sorted((one.ml for one in alone if one.ml >= SPECK_ML), reverse=True)),
        unsure_ml=tuple(sorted(unsure, reverse=True)),
    )  # fmt: skip


def _regions_inside(probability: Float32Array, volume: Volume, space: Intracranial) -> tuple[list[_Region], float]:
    """All inside the skull, and the millilitres of those that are not."""
    area = volume.pixel_spacing[0] * volume.pixel_spacing[1] / 1000
    extents = volume.slice_extents
    found, outside_ml = [], 0.0
    for one in _connected(probability >= PROBABILITY):
        one.ml = float(extents[one.voxels[0]].sum()) * area
        if float(space.contains(one.voxels).mean()) < LEAST_ENCLOSED:
            outside_ml += one.ml if one.ml >= SPECK_ML else 0.0
            continue
        one.sure = float(probability[tuple(one.voxels)].mean()) >= LEAST_MEAN_PROBABILITY
        found.append(one)
    return found, outside_ml


def _join_islands(small: Sequence[_Region], called: Sequence[_Region], volume: Volume) -> list[_Region]:
    """Give each region to the nearest haematoma within `ISLANDS_MM` of it; returns the others."""
    if not small or not called:
        return list(small)
    # One tree and one question for all: there may be thousands of either.
    tree = KDTree(volume.to_lps(np.concatenate([one.rim for one in called], axis=1).T))
    whose = np.repeat(np.arange(len(called)), [one.rim.shape[1] for one in called])
    points = volume.to_lps(np.concatenate([one.rim for one in small], axis=1).T)
    distances, nearest = tree.query(points, distance_upper_bound=_NEAR_MM)
    ends = np.cumsum([one.rim.shape[1] for one in small])
    alone = []
    for region, away, place in zip(small, np.split(distances, ends[:-1]), np.split(nearest, ends[:-1]), strict=True):
        if away.min() < _NEAR_MM:
            called[int(whose[place[away.argmin()]])].islands.append(region)
        else:
            alone.append(region)
    return alone


_AROUND = np.ones((3, 3, 3), bool)


def _box(mask_zyx: NDArray[np.generic]) -> tuple[slice, slice, slice]:
    """The smallest that holds all of a mask, which is not empty."""
    slices = np.flatnonzero(mask_zyx.any(axis=(1, 2)))
    part = mask_zyx[slices[0] : slices[-1] + 1]
    rows, columns = np.flatnonzero(part.any(axis=(0, 2))), np.flatnonzero(part.any(axis=(0, 1)))
    z, y, x = (slice(int(used[0]), int(used[-1]) + 1) for used in (slices, rows, columns))
    return z, y, x


def _connected(above: NDArray[np.bool_]) -> Iterator[_Region]:
    """Each connected region."""
    if not above.any():
        return
    box = _box(above)
    labels, _ = ndimage.label(above[box], structure=_AROUND)
    for label, part in enumerate(ndimage.find_objects(labels), start=1):
        region = labels[part] == label
        yield _region(region, [span.start + first.start for span, first in zip(part, box, strict=True)])


def _region(region: NDArray[np.bool_], low: Sequence[int]) -> _Region:
    """Of a mask that begins at voxel ``low``."""
    rim = region & ~ndimage.binary_erosion(region, structure=_AROUND)
    first = np.array(low)[:, None]
    return _Region(np.asarray(np.nonzero(region)) + first, np.asarray(np.nonzero(rim)) + first)


def with_islands(mask_zyx: MaskArray, above: NDArray[np.bool_], volume: Volume) -> MaskArray:
    """A haematoma with the regions of ``above`` (z, y, x), however small, at most `ISLANDS_MM` from it, as `find_regions`."""
    box = _box(mask_zyx)
    main = _region(mask_zyx[box] > 0, [span.start for span in box])
    regions = list(_connected(above))
    _join_islands(regions, [main], volume)
    joined = mask_zyx.copy()
    for one in (*main.islands, *(one for one in regions if mask_zyx[tuple(one.voxels)].any())):
        joined[tuple(one.voxels)] = 1
    return joined


def without_islands(mask_zyx: MaskArray, extents: Float64Array) -> MaskArray:
    """The largest connected region of a mask, which is not empty, on slices that stand for ``extents`` mm each."""
    box = _box(mask_zyx)
    labels, found = ndimage.label(mask_zyx[box], structure=_AROUND)
    if found < 2:
        return mask_zyx
    sizes = ndimage.sum_labels(np.broadcast_to(extents[box[0], None, None], labels.shape), labels, range(1, found + 1))
    largest = np.zeros_like(mask_zyx)
    largest[box] = labels == 1 + int(np.argmax(sizes))
    return largest


def measured(mask_zyx: MaskArray, volume: Volume, frames: Sequence[HeadFrame], *, regions: int = 1) -> Lesion:
    """Volumes, centre, side and place of a mask, which is not empty.

    ``frames``: all that the head's may be. A side or place that is not the same by each is not certain.
    """
    sampling = Sampling.of(volume)
    rows, columns = np.flatnonzero(mask_zyx.any(axis=(0, 2))), np.flatnonzero(mask_zyx.any(axis=(0, 1)))
    part = mask_zyx[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    voxels = np.argwhere(part) + np.array([0, rows[0], columns[0]])
    weights = volume.slice_extents[voxels[:, 0]]
    points: Float64Array = volume.to_lps(voxels)
    x, y, z = (float(v) for v in np.average(points, axis=0, weights=weights))
    asked = frames if regions == 1 else ()
    sides = {_side(one.midline.left_of(points), weights) for one in asked}
    locations = {one.locate((x, y, z)) for one in asked}
    return Lesion(
        mask_zyx=mask_zyx,
        mesh_ml=mesh_volume_ml(part, sampling),
        voxel_ml=voxel_volume_ml(part, sampling),
        abc2_ml=abc2_volume_ml(without_islands(part, sampling.extents), sampling) if regions == 1 else None,
        centre_lps=(x, y, z),
        side=sides.pop() if len(sides) == 1 else NOT_CERTAIN,
        location=locations.pop() if len(locations) == 1 else Location.UNKNOWN,
        regions=regions,
    )


def _side(left_mm: Float64Array, weights: Float64Array) -> str:
    """Of how far left of the plane points of these weights lie: as it also is where the plane is `MARGIN_MM` off."""
    left, right = (float(np.average(far > MARGIN_MM, weights=weights)) for far in (left_mm, -left_mm))
    if max(left, right) >= ONE_SIDED:
        return "left" if left > right else "right"
    nearly = abs(float(np.average(left_mm > 0, weights=weights)) - 0.5) < ONE_SIDED - 0.5
    return "across the midline" if nearly and min(left, right) >= LEAST_ACROSS else NOT_CERTAIN
