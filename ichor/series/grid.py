"""Where the images of one series lie in space: stacks of slice positions, their gaps, and what is wrong with them.

Positions come from Image Position (Patient) projected on the slice normal, never from instance numbers. Says nothing
about whether more images will come (`ichor.series.evidence`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ichor.reasons import Reason
from ichor.types import Geometry, Instance

SAME_PLACE_MM = 0.01  # nearer than this is the same slice position: decimals of a DS round by less
_ORIENTATION_TOLERANCE = 1e-3  # direction cosines of one stack scatter by rounding only
_GAP_FACTOR = 1.5
_GAP_NEIGHBOURS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A spacing that is too wide: ``missing`` are the positions (mm along the normal) that would fill it evenly."""

    before: float
    after: float
    missing: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Images of one size, orientation, pixel spacing and frame of reference.

    ``positions`` ascend along the normal, mm; ``members[k]`` are the images at ``positions[k]`` in order of temporal
    position and instance number.
    """

    normal_lps: tuple[float, float, float]
    positions: tuple[float, ...]
    members: tuple[tuple[Instance, ...], ...]
    gaps: tuple[Gap, ...]

    @property
    def multiplicity(self) -> tuple[int, int]:
        """(least, most) images at one position."""
        sizes = [len(images) for images in self.members]
        return min(sizes), max(sizes)

    @property
    def spacing(self) -> float | None:
        """Median distance of neighbours, mm; None for one position."""
        return median(np.diff(self.positions).tolist()) if len(self.positions) > 1 else None

    @property
    def coverage(self) -> float:
        """Distance from the first to the last position, mm."""
        return self.positions[-1] - self.positions[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All stacks of a series, largest first, and the images that have no place."""

    stacks: tuple[Stack, ...]
    placeless: tuple[Instance, ...]

    @property
    def exists(self) -> bool:
        return bool(self.stacks)

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return tuple(gap for stack in self.stacks for gap in stack.gaps)

    @property
    def even(self) -> bool:
        """Every position of a stack holds the same number of images."""
        return all(least == most for least, most in (stack.multiplicity for stack in self.stacks))

    @property
    def gapless(self) -> bool:
        """A grid is there and nothing in it says that an image is missing."""
        return self.exists and not self.placeless and not self.gaps and self.even

    @property
    def positions(self) -> int:
        return sum(len(stack.positions) for stack in self.stacks)

    @property
    def findings(self) -> tuple[Reason, ...]:
        """What keeps the series from being one scalar volume."""
        found = []
        if self.placeless or not self.stacks:
            found.append(Reason.NO_GEOMETRY)
        if len(self.stacks) > 1:
            found.append(Reason.MIXED_GEOMETRY)
        if any(stack.multiplicity[1] > 1 for stack in self.stacks):
            found.append(Reason.SAME_PLACE)
        return tuple(found)

    @property
    def in_order(self) -> tuple[Instance, ...]:
        """Every image: stacks as listed, positions ascending; those without a place last, by instance number."""
        placed = tuple(image for stack in self.stacks for images in stack.members for image in images)
        return placed + tuple(sorted(self.placeless, key=_sequence))


def build_grid(instances: Iterable[Instance]) -> Grid:
    """Group the images of one series. Tilted and uneven sets are exact: only the projection on the normal counts."""
    groups: list[tuple[Geometry, list[Instance]]] = []
    placeless: list[Instance] = []
    last: tuple[Geometry, list[Instance]] | None = None
    for instance in instances:
        geometry = instance.geometry
        if geometry is None or _placeless(geometry):
            placeless.append(instance)
            continue
        if last is None or not _alike(last[0], geometry):
            last = next((group for group in groups if _alike(group[0], geometry)), None)
            if last is None:
                last = (geometry, [])
                groups.append(last)
        last[1].append(instance)
    stacks = [_stack(members) for _, members in groups]
    stacks.sort(key=lambda stack: (-len(stack.positions), stack.normal_lps, stack.positions))
    return Grid(stacks=tuple(stacks), placeless=tuple(placeless))


def slice_gaps(positions: Sequence[float], thickness: Sequence[float | None]) -> tuple[Gap, ...]:
    """Gaps of ascending ``positions`` (n,), mm, of slices as thick as ``thickness`` (n,).

    A gap is a spacing over 1.5 times the median of the four spacings nearest to it, unless slice thickness changes
    alike (docs/contract.md): a spacing measured in thicknesses of the slices beside it must be too wide as well.
    """
    spacings = np.diff(np.asarray(positions, dtype=np.float64))
    count = len(spacings)
    if count < 2:
        return ()
    # Fast way for the usual case: no spacing can be a gap when the widest is not 1.5 times the narrowest.
    if spacings.max() <= _GAP_FACTOR * spacings.min():
        return ()
    scale = None
    if all(value is not None for value in thickness):
        thick = np.asarray(thickness, dtype=np.float64)
        scale = np.maximum(thick[:-1], thick[1:])
    gaps = []
    for i in range(count):
        near = sorted((j for j in range(max(0, i - 4), min(count, i + 5)) if j != i), key=lambda j: (abs(j - i), j))
        near = near[:_GAP_NEIGHBOURS]
        usual = median(spacings[near].tolist())
        if spacings[i] <= _GAP_FACTOR * usual + SAME_PLACE_MM:
            continue
        if scale is not None and spacings[i] / scale[i] <= _GAP_FACTOR * median(
            (spacings[near] / scale[near]).tolist()
        ):
            continue
        absent = max(1, round(float(spacings[i] / usual)) - 1)
        step = float(spacings[i]) / (absent + 1)
        start = float(positions[i])
        gaps.append(
            Gap(
                before=start,
                after=float(positions[i + 1]),
                missing=tuple(round(start + step * (k + 1), 2) for k in range(absent)),
            )
        )
    return tuple(gaps)


def _placeless(geometry: Geometry) -> bool:
    return geometry.position_lps is None or geometry.orientation_lps is None or geometry.pixel_spacing is None


def _alike(a: Geometry, b: Geometry) -> bool:
    if (a.rows, a.columns, a.frame_of_reference_uid) != (b.rows, b.columns, b.frame_of_reference_uid):
        return False
    pairs = zip((*(a.orientation_lps or ()), *(a.pixel_spacing or ())),
                (*(b.orientation_lps or ()), *(b.pixel_spacing or ())), strict=True)  # fmt: skip
    return all(abs(x - y) <= _ORIENTATION_TOLERANCE for x, y in pairs)


def _stack(instances: list[Instance]) -> Stack:
    geometries = [i.geometry for i in instances if i.geometry is not None]
    orientation = np.asarray(geometries[0].orientation_lps, dtype=np.float64)
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    along = np.asarray([g.position_lps for g in geometries], dtype=np.float64) @ normal
    order = np.argsort(along, kind="stable")
    positions: list[float] = []
    members: list[list[Instance]] = []
    for index in order.tolist():
        place = float(along[index])
        if positions and place - positions[-1] < SAME_PLACE_MM:
            members[-1].append(instances[index])
        else:
            positions.append(place)
            members.append([instances[index]])
    for images in members:
        images.sort(key=_sequence)
    thickness = [images[0].geometry.slice_thickness if images[0].geometry else None for images in members]
    return Stack(
        normal_lps=(float(normal[0]), float(normal[1]), float(normal[2])),
        positions=tuple(positions),
        members=tuple(tuple(images) for images in members),
        gaps=slice_gaps(positions, thickness),
    )


def _sequence(instance: Instance) -> tuple[int, int, int, str]:
    return (
        instance.temporal_position or 0,
        instance.acquisition_number or 0,
        instance.instance_number or 0,
        instance.sop_instance_uid,
    )
