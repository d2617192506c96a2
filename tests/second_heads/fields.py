"""Shapes as signed distances and smooth random fields, on points or grids. Knows no anatomy.

Points are float32 arrays x (to the left), y (to the back), z (headwards) in mm; a distance is negative inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

F32 = npt.NDArray[np.float32]
Real = npt.NDArray[np.floating[Any]]
Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Points:
    """Coordinates in mm, three arrays of one shape."""

    x: F32
    y: F32
    z: F32

    def mirrored(self) -> Points:
        """x without its sign: what is drawn on the left is on both sides."""
        return Points(np.abs(self.x), self.y, self.z)

    def only(self, mask: npt.NDArray[np.bool_]) -> Points:
        """The points of a mask, as flat arrays."""
        return Points(self.x[mask], self.y[mask], self.z[mask])


def ellipsoid(p: Points, centre: Point, axes: Point, *, back: float | None = None, up: float | None = None) -> F32:
    """About the distance to an ellipsoid; `back` and `up` replace the half axis on the +y and +z side."""
    first: F32 = np.zeros(p.x.shape, np.float32)
    second: F32 = np.zeros(p.x.shape, np.float32)
    for values, middle, half, other in zip((p.x, p.y, p.z), centre, axes, (None, back, up), strict=True):
        scaled: F32 = values - np.float32(middle)
        inverse: F32 | np.float32 = np.float32(1 / half)
        if other is not None:
            inverse = np.where(scaled > 0, np.float32(1 / other), inverse)
        scaled *= inverse
        first += scaled * scaled
        scaled *= inverse
        second += scaled * scaled
    # |p/a| (|p/a| - 1) / |p/a^2|: exact to first order at the surface.
    np.sqrt(first, out=first)
    np.sqrt(second, out=second)
    np.maximum(second, np.float32(1e-4), out=second)
    distance: F32 = first * (first - 1) / second
    return distance


def tube(p: Points, path: Sequence[Point], radii: Sequence[float], *, flat: Point = (1, 1, 1)) -> F32:
    """Distance to a chain of cones with round ends; `flat` scales the axes (above 1: thinner that way)."""
    scale = np.asarray(flat, np.float32)
    x, y, z = p.x * scale[0], p.y * scale[1], p.z * scale[2]
    best: F32 | None = None
    for (start, end), (r0, r1) in zip(pairwise(path), pairwise(radii), strict=True):
        a = np.asarray(start, np.float32) * scale
        ax = np.asarray(end, np.float32) * scale - a
        dx, dy, dz = x - a[0], y - a[1], z - a[2]
        t = np.clip((dx * ax[0] + dy * ax[1] + dz * ax[2]) / np.float32(ax @ ax), 0, 1)
        reach = np.sqrt((dx - t * ax[0]) ** 2 + (dy - t * ax[1]) ** 2 + (dz - t * ax[2]) ** 2)
        distance = reach - np.float32(r0) - t * np.float32(r1 - r0)
        best = distance if best is None else np.minimum(best, distance)
    if best is None:
        raise ValueError("a tube needs two points")
    return best


def union(a: F32, b: F32, *, round_mm: float) -> F32:
    """Smooth minimum: two shapes that grow together over `round_mm`."""
    h = np.maximum(round_mm - np.abs(a - b), 0) / np.float32(round_mm)
    joined: F32 = np.minimum(a, b) - h * h * np.float32(round_mm / 4)
    return joined


def inside(distance: Real, *, edge_mm: float = 0.8) -> F32:
    """1 inside, 0 outside, linear over an edge as wide as a voxel: partial volume."""
    share: F32 = np.clip(np.float32(0.5) - distance / np.float32(edge_mm), 0, 1)
    return share


def blend(under: F32, over: F32 | float, weight: F32) -> None:
    """Lay `over` on `under` with a weight, in place."""
    under += (np.asarray(over, np.float32) - under) * weight


def rough(rng: np.random.Generator, shape: tuple[int, int, int], steps_mm: Point, *, wave_mm: float) -> F32:
    """A random field (z, y, x) of unit variance, made of cubic B-splines on a lattice of half `wave_mm`."""
    maps = [_spline(n, step / (wave_mm / 2)) for n, step in zip(shape, steps_mm, strict=True)]
    lattice = rng.standard_normal([m.shape[1] for m in maps], dtype=np.float32)
    field = np.einsum("ab,bcd->acd", maps[0], lattice, optimize=True)
    field = np.matmul(maps[1], field)
    field = np.matmul(field, maps[2].T)
    result: F32 = field / np.float32(max(float(field.std()), 1e-6))
    return result


def _spline(count: int, step: float) -> F32:
    """(count, nodes): weights of cubic B-splines at evenly spaced places, `step` nodes apart."""
    at = np.arange(count) * step + 1.5
    distance = np.abs(at[:, None] - np.arange(int(np.ceil(at[-1])) + 3)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    weights: F32 = np.where(distance < 1, near, far).astype(np.float32)
    return weights


class Labyrinth:
    """A band-passed random field in a cube of 2 mm steps: its zero surfaces wander like sulci, about `wave_mm` / 2 apart."""

    def __init__(self, rng: np.random.Generator, *, wave_mm: float, width: float = 0.22) -> None:
        size = 104
        noise = np.fft.rfftn(rng.standard_normal((size,) * 3, dtype=np.float32))
        full, half = np.fft.fftfreq(size, 2.0), np.fft.rfftfreq(size, 2.0)
        wave = np.sqrt(full[:, None, None] ** 2 + full[None, :, None] ** 2 + half[None, None, :] ** 2) * wave_mm
        field = np.fft.irfftn(noise * np.exp(-((wave - 1) ** 2) / (2 * width**2)), s=(size,) * 3, axes=(0, 1, 2))
        self._field = (field / field.std()).astype(np.float32)
        self._wave = wave_mm

    def distance(self, x: Real, y: Real, z: Real) -> F32:
        """About how many mm a point is from the nearest zero surface, signed."""
        at = np.stack([axis / 2 + self._field.shape[0] / 2 for axis in (z, y, x)])
        value = ndimage.map_coordinates(self._field, at, order=1, mode="grid-wrap", output=np.float32)
        distance: F32 = value * np.float32(self._wave / 6)
        return distance
