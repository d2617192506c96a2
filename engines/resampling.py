"""In-plane resampling of slice stacks by one small sparse matrix per axis. Slices stay where they are.

Sparse and single-threaded: dense products are ten times the work, and their threads fight with the network's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

F32 = npt.NDArray[np.float32]
AIR_HU = -1000.0


@dataclass(frozen=True, slots=True)
class Axis:
    """Evenly spaced pixel centres along one in-plane axis: `count` of them, `step` mm apart, the first at `start` mm."""

    start: float
    step: float
    count: int

    def shifted(self, millimetres: float) -> Axis:
        """The same pixels, elsewhere; rounded to a micrometre, so that equal shifts share their matrices."""
        return Axis(round(self.start + millimetres, 3), self.step, self.count)


@dataclass(frozen=True, slots=True)
class Band:
    """A resampling matrix without its empty columns: ``out = matrix @ values[low:high]``."""

    matrix: Any
    low: int
    high: int


@lru_cache(maxsize=512)
def band(source: Axis, target: Axis) -> Band:
    """Linear interpolation; where the target is coarser, the triangle is as wide as its step (anti-alias).

    Beyond the source's ends values count as 0 there.
    """
    centres = (target.start + target.step * np.arange(target.count) - source.start) / source.step
    width = max(target.step / source.step, 1.0)
    distance = np.abs(np.arange(source.count)[None, :] - centres[:, None])
    weights = np.maximum(1 - distance / width, 0)
    # The sum over an endless source, not over what is left of it at its ends: what is missing counts as 0.
    reach = np.arange(-int(np.ceil(width)), int(np.ceil(width)) + 1)
    fraction = centres - np.floor(centres)
    whole = np.maximum(1 - np.abs(reach[None, :] - fraction[:, None]) / width, 0).sum(axis=1)
    whole += np.maximum(1 - np.abs(reach[-1] + 1 - fraction) / width, 0)
    matrix = (weights / whole[:, None]).astype(np.float32)
    used = np.flatnonzero(matrix.any(axis=0))
    if used.size == 0:
        return Band(sparse.csr_array((target.count, 0), dtype=np.float32), 0, 0)
    low, high = int(used[0]), int(used[-1]) + 1
    return Band(sparse.csr_array(matrix[:, low:high]), low, high)


def resample_hu(slice_yx: npt.NDArray[np.generic], source: tuple[Axis, Axis], target: tuple[Axis, Axis]) -> F32:
    """One slice of HU on other pixels; what lies outside is air."""
    rows, columns = band(source[0], target[0]), band(source[1], target[1])
    part = slice_yx[rows.low : rows.high, columns.low : columns.high].astype(np.float32)
    part -= np.float32(AIR_HU)
    return _apply(rows, columns, part) + np.float32(AIR_HU)


def resample_probability(slice_yx: F32, source: tuple[Axis, Axis], target: tuple[Axis, Axis]) -> F32:
    """One slice of probabilities on other pixels; what lies outside is 0."""
    rows, columns = band(source[0], target[0]), band(source[1], target[1])
    part = slice_yx[rows.low : rows.high, columns.low : columns.high]
    return _apply(rows, columns, part)


def _apply(rows: Band, columns: Band, part_yx: F32) -> F32:
    half = np.ascontiguousarray((rows.matrix @ part_yx).T)
    out: F32 = np.ascontiguousarray((columns.matrix @ half).T)
    return out


def nearest(
    slice_yx: npt.NDArray[np.generic], source: tuple[Axis, Axis], target: tuple[Axis, Axis]
) -> npt.NDArray[np.int16]:
    """One slice of HU on other pixels, nearest neighbours; what lies outside is air. Quick and rough."""
    index, inside = [], []
    for a, b in zip(source, target, strict=True):
        at = np.rint((b.start + b.step * np.arange(b.count) - a.start) / a.step).astype(np.intp)
        inside.append((at >= 0) & (at < a.count))
        index.append(np.clip(at, 0, a.count - 1))
    picked = slice_yx[np.ix_(*index)].astype(np.int16)
    return np.where(inside[0][:, None] & inside[1][None, :], picked, np.int16(AIR_HU))
