"""Continuous scalar fields of space: distances to simple solids and sums of plane waves. Knows no anatomy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
Point = tuple[float, float, float]
MARGIN_MM = 7.0
FAR_MM = 99.0


@dataclass(frozen=True, slots=True)
class Waves:
    """A smooth random field: a sum of plane waves, of unit variance.

    Attributes
    ----------
    k : (m, 3) wave vectors in rad/mm.
    phase : (m,) phases in rad.
    """

    k: F32
    phase: F32

    @classmethod
    def draw(
        cls, rng: np.random.Generator, count: int, *, shortest_mm: float, longest_mm: float, stretch: Point = (1, 1, 1)
    ) -> Waves:
        """Draw waves of random direction; `stretch` multiplies the wavelength along x, y, z."""
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        k = direction * (2 * np.pi / rng.uniform(shortest_mm, longest_mm, count))[:, None] / np.asarray(stretch)
        return cls(k.astype(np.float32), rng.uniform(0, 2 * np.pi, count).astype(np.float32))

    def __call__(self, xyz: F32) -> F32:
        """Value at points (3, n), as (n,)."""
        total = np.zeros(xyz.shape[1], np.float32)
        # Wave by wave: the points stay in the cache, and no BLAS starts threads in the processes of a pool.
        for k, phase in zip(self.k, self.phase, strict=True):
            angle = k[0] * xyz[0]
            angle += k[1] * xyz[1]
            angle += k[2] * xyz[2]
            angle += phase
            total += np.sin(angle, out=angle)
        return total * np.float32(np.sqrt(2 / len(self.phase)))

    @property
    def slope(self) -> float:
        """Root mean square of the gradient's component along one direction's normal, 1/mm: turns a value into mm."""
        return float(np.sqrt(np.mean(np.sum(self.k.astype(np.float64) ** 2, axis=1))))


def ellipsoid(xyz: F32, centre: Sequence[float], axes: Sequence[float]) -> F32:
    """About the signed distance in mm to an ellipsoid, negative inside; exact on its surface."""
    axes32 = np.asarray(axes, np.float32)[:, None]
    u = (xyz - np.asarray(centre, np.float32)[:, None]) / axes32
    k0 = np.sqrt(np.einsum("in,in->n", u, u))
    u /= axes32
    k1 = np.sqrt(np.einsum("in,in->n", u, u))
    distance: F32 = k0 * (k0 - np.float32(1)) / (k1 + np.float32(1e-6))
    return distance


def capsule(xyz: F32, start: Sequence[float], end: Sequence[float], radii: tuple[float, float]) -> F32:
    """Signed distance in mm to a rod from `start` to `end` whose radius changes linearly."""
    a = np.asarray(start, np.float32)
    d = np.asarray(end, np.float32) - a
    v = xyz - a[:, None]
    h = np.clip((d @ v) / np.float32(d @ d), np.float32(0), np.float32(1))
    v -= d[:, None] * h
    distance: F32 = np.sqrt(np.einsum("in,in->n", v, v)) - (np.float32(radii[0]) + h * np.float32(radii[1] - radii[0]))
    return distance


def near_ellipsoid(xyz: F32, centre: Sequence[float], axes: Sequence[float]) -> F32:
    """As `ellipsoid` within MARGIN_MM of its box, FAR_MM elsewhere: most solids fill a small part of a slice."""
    low = np.subtract(centre, axes)
    return _near(xyz, low, np.add(centre, axes), lambda part: ellipsoid(part, centre, axes))


def near_capsule(xyz: F32, start: Sequence[float], end: Sequence[float], radii: tuple[float, float]) -> F32:
    """As `capsule` within MARGIN_MM of its box, FAR_MM elsewhere."""
    reach = max(radii)
    low, high = np.minimum(start, end) - reach, np.maximum(start, end) + reach
    return _near(xyz, low, high, lambda part: capsule(part, start, end, radii))


def _near(xyz: F32, low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], solid: Callable[[F32], F32]) -> F32:
    distance = np.full(xyz.shape[1], FAR_MM, np.float32)
    here: npt.NDArray[np.intp] | None = None
    for axis in (2, 1, 0):
        values = xyz[axis] if here is None else xyz[axis, here]
        middle, half = (
            np.float32(0.5 * (low[axis] + high[axis])),
            np.float32(0.5 * (high[axis] - low[axis]) + MARGIN_MM),
        )
        found = np.flatnonzero(np.abs(values - middle) < half)
        if found.size == 0:
            return distance
        here = found if here is None else here[found]
    assert here is not None
    distance[here] = solid(np.take(xyz, here, axis=1))
    return distance


def union(a: F32, b: F32, *, soft: float = 0.0) -> F32:
    """Distance to either; `soft` mm rounds the crease between them (polynomial smooth minimum)."""
    if soft <= 0:
        return np.minimum(a, b)
    h = np.maximum(np.float32(soft) - np.abs(a - b), np.float32(0))
    joined: F32 = np.minimum(a, b) - h * h * np.float32(0.25 / soft)
    return joined


def both(a: F32, b: F32, *, soft: float = 0.0) -> F32:
    """Distance to what lies in both."""
    return -union(-a, -b, soft=soft)


def inside(distance: F32, width: float = 1.2) -> F32:
    """Occupancy 0..1 of what has `distance` < 0, with an edge `width` mm wide (the scanner's blur)."""
    occupancy: F32 = np.clip(np.float32(0.5) - distance * np.float32(1 / width), np.float32(0), np.float32(1))
    return occupancy


def ramp(value: F32, start: float, end: float) -> F32:
    """0 at `start`, 1 at `end` (start may exceed end), linear between, clipped."""
    fraction = (value - np.float32(start)) * np.float32(1 / (end - start))
    clipped: F32 = np.clip(fraction, np.float32(0), np.float32(1))
    return clipped


def paint(hu: F32, occupancy: F32, value: F32 | float) -> None:
    """Mix `value` into `hu` in place."""
    hu += occupancy * (np.asarray(value, np.float32) - hu)


def mirror(q: F32) -> F32:
    """The points with both sides folded onto the left (x >= 0), for what is symmetric."""
    m = q.copy()
    np.abs(m[0], out=m[0])
    return m


def as_point(values: npt.ArrayLike) -> Point:
    """Three plain floats."""
    x, y, z = np.asarray(values, np.float64).tolist()
    return (x, y, z)
