"""What a synthetic series truly is: values, axes, geometry, diffusion weighting. Knows no DICOM attribute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from ichor.arrays import Float64Array
from ichor.types import Axis, AxisName, Component, Kind

StoredArray = npt.NDArray[np.int32]
VOLUME_TIME = 1.8  # s from one volume of a diffusion series to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Parallel planes: ``origins_lps`` (n, 3) in mm, ascending along ``normal_lps``; unit vectors in LPS."""

    origins_lps: Float64Array
    row_lps: Float64Array  # direction of growing column index
    column_lps: Float64Array  # direction of growing row index
    pixel_spacing: tuple[float, float]  # (dy, dx), mm
    slice_thickness: float
    gantry_tilt: float | None = None  # degrees

    @property
    def normal_lps(self) -> Float64Array:
        normal: Float64Array = np.cross(self.row_lps, self.column_lps)
        return normal

    @property
    def spacing(self) -> float:
        """Mean distance of neighbours along the normal, mm."""
        positions = self.origins_lps @ self.normal_lps
        return float(np.diff(positions).mean()) if len(positions) > 1 else self.slice_thickness

    @property
    def affine_lps(self) -> Float64Array:
        """(4, 4): (column, row, slice, 1) to mm; slices at their mean distance."""
        affine = np.eye(4)
        dy, dx = self.pixel_spacing
        affine[:3, 0], affine[:3, 1], affine[:3, 3] = self.row_lps * dx, self.column_lps * dy, self.origins_lps[0]
        last = len(self.origins_lps) - 1
        affine[:3, 2] = (self.origins_lps[-1] - self.origins_lps[0]) / last if last else self.normal_lps
        return affine


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """A volume that a scanner puts into the series though it is no part of the array: a trace, an ADC map."""

    kind: Kind
    stored_zyx: StoredArray
    b_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlane:
    """One two-dimensional image with all that is true of it. ``volume`` counts volumes in order of the axes, from 0."""

    stored_yx: StoredArray
    slope: float
    intercept: float
    stack: Stack
    stack_index: int
    slice_index: int
    volume: int
    kind: Kind = Kind.IMAGE
    component: Component = Component.MAGNITUDE
    echo_index: int = 0
    echo_time: float = 30.0  # ms
    time_index: int = 0
    time: float = 0.0  # s after the first volume
    diffusion_index: int = 0
    b_value: float | None = None  # None: no diffusion series
    direction_lps: tuple[float, float, float] | None = None  # None: b0 or isotropic

    @property
    def origin_lps(self) -> Float64Array:
        origin: Float64Array = self.stack.origins_lps[self.slice_index]
        return origin

    @property
    def isotropic(self) -> bool:
        """Weighted without a direction: a trace."""
        return bool(self.b_value) and self.direction_lps is None and self.kind is Kind.TRACE


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One series. ``stored`` (\\*axes, z, y, x) are integers; values are ``stored * slopes + intercepts`` per image.

    ``slopes`` and ``intercepts`` broadcast against (\\*axes, z). ``axes`` stand in the order of `AxisName`.
    """

    name: str
    stored: StoredArray
    stacks: tuple[Stack, ...]
    axes: tuple[Axis, ...] = ()
    modality: str = "MR"
    slopes: npt.ArrayLike = 1.0
    intercepts: npt.ArrayLike = 0.0
    directions_lps: tuple[tuple[float, float, float] | None, ...] = ()  # one per entry of the diffusion axis
    phase_encoding: str = "COL"  # In-plane Phase Encoding Direction (0018,1312)
    extras: tuple[Extra, ...] = ()

    @property
    def values(self) -> Float64Array:
        """(\\*axes, z, y, x): what an array of this series must hold."""
        slopes, intercepts = self._scaling()
        values: Float64Array = self.stored * slopes[..., None, None] + intercepts[..., None, None]
        return values

    @property
    def b_values(self) -> tuple[float, ...] | None:
        return next((tuple(float(b) for b in a.values) for a in self.axes if a.name is AxisName.DIFFUSION), None)

    @property
    def signed(self) -> bool:
        return bool(self.stored.min() < 0) or any(bool(e.stored_zyx.min() < 0) for e in self.extras)

    @property
    def volumes(self) -> int:
        """Volumes of one stack, extras not counted."""
        return int(np.prod([a.size for a in self.axes if a.name is not AxisName.STACK], dtype=int))

    def size_of(self, name: AxisName) -> int:
        return next((axis.size for axis in self.axes if axis.name is name), 1)

    def planes(self) -> Iterator[ImagePlane]:
        """Every image, volume by volume in order of the axes; the extras last."""
        slopes, intercepts = self._scaling()
        names = [axis.name for axis in self.axes]
        strides = [axis.size for axis in self.axes if axis.name is not AxisName.STACK]
        for at in product(*(range(axis.size) for axis in self.axes)):
            index = dict(zip(names, at, strict=True))
            stack = index.pop(AxisName.STACK, 0)
            volume = int(np.ravel_multi_index(tuple(index.values()), strides)) if index else 0
            for k in range(self.stored.shape[-3]):
                yield ImagePlane(
                    stored_yx=self.stored[(*at, k)],
                    slope=float(slopes[(*at, k)]),
                    intercept=float(intercepts[(*at, k)]),
                    stack=self.stacks[stack],
                    stack_index=stack,
                    slice_index=k,
                    volume=volume,
                    component=Component(str(self._value(index, AxisName.COMPONENT, Component.MAGNITUDE))),
                    echo_index=index.get(AxisName.ECHO, 0),
                    echo_time=float(self._value(index, AxisName.ECHO, 30.0)),
                    time_index=index.get(AxisName.TIME, 0),
                    time=float(self._value(index, AxisName.TIME, VOLUME_TIME * index.get(AxisName.DIFFUSION, 0))),
                    diffusion_index=index.get(AxisName.DIFFUSION, 0),
                    b_value=self.b_values[index[AxisName.DIFFUSION]] if self.b_values else None,
                    direction_lps=self.directions_lps[index[AxisName.DIFFUSION]] if self.directions_lps else None,
                )
        for n, extra in enumerate(self.extras):
            for k, stored in enumerate(extra.stored_zyx):
                yield ImagePlane(
                    stored_yx=stored,
                    slope=1.0,
                    intercept=0.0,
                    stack=self.stacks[0],
                    stack_index=0,
                    slice_index=k,
                    volume=self.volumes + n,
                    kind=extra.kind,
                    b_value=extra.b_value,
                    diffusion_index=self.size_of(AxisName.DIFFUSION) + n,
                    time=VOLUME_TIME * (self.volumes + n),
                )

    def _scaling(self) -> tuple[Float64Array, Float64Array]:
        shape = self.stored.shape[:-2]
        slopes = np.broadcast_to(np.asarray(self.slopes, dtype=np.float64), shape)
        return slopes, np.broadcast_to(np.asarray(self.intercepts, dtype=np.float64), shape)

    def _value(self, index: dict[AxisName, int], name: AxisName, default: float | str) -> float | str:
        if name not in index:
            return default
        return next(axis.values[index[name]] for axis in self.axes if axis.name is name)
