"""Ready-made truths: diffusion, perfusion, echoes, complex images, stacks, CT. Small matrices, no anatomy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ichor.arrays import Float64Array
from ichor.types import Axis, AxisName, Component, Kind
from phantoms.series.truth import Extra, Scan, Stack, StoredArray

ROWS, COLUMNS, SLICES = 24, 20, 7


def oblique_stack(
    slices: int = SLICES, *, spacing: float = 4.0, degrees: tuple[float, float, float] = (11.0, -7.0, 5.0),
    origin_lps: tuple[float, float, float] = (-31.0, -42.5, 17.25), pixel_spacing: tuple[float, float] = (2.5, 2.0),
) -> Stack:  # fmt: skip
    """Axial planes turned by angles about x, y and z; evenly spaced."""
    row, column, normal = _rotation(degrees).T
    origins = np.asarray(origin_lps) + spacing * np.arange(slices)[:, None] * normal
    return Stack(
        origins_lps=origins, row_lps=row, column_lps=column, pixel_spacing=pixel_spacing, slice_thickness=spacing * 0.8
    )


def sagittal_stack(slices: int = SLICES, *, spacing: float = 3.5) -> Stack:
    """Sagittal planes, rows going back and columns going down, slightly turned: the normal points to the right."""
    turned = _rotation((4.0, 3.0, -6.0))
    row, column = turned @ np.array([0.0, 1.0, 0.0]), turned @ np.array([0.0, 0.0, -1.0])
    normal = np.cross(row, column)
    origins = np.array([24.0, -40.0, 30.0]) + spacing * np.arange(slices)[:, None] * normal
    return Stack(
        origins_lps=origins, row_lps=row, column_lps=column, pixel_spacing=(2.0, 2.25), slice_thickness=spacing * 0.9
    )


def tilted_stack(slices: int = SLICES, *, degrees: float = 15.0, gaps: Sequence[float] | None = None) -> Stack:
    """CT planes of a tilted gantry whose table moves along z: origins do not go along the normal.

    ``gaps``: table feed before each slice but the first, mm; 5 mm each by default.
    """
    tilt = np.deg2rad(degrees)
    row, column = np.array([1.0, 0.0, 0.0]), np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    z = np.concatenate([[0.0], np.cumsum(gaps if gaps is not None else [5.0] * (slices - 1))])
    origins = np.array([-60.0, -75.0, 40.0]) + z[:, None] * np.array([0.0, 0.0, 1.0])
    return Stack(
        origins_lps=origins, row_lps=row, column_lps=column, pixel_spacing=(0.5, 0.5), slice_thickness=5.0,
        gantry_tilt=degrees,
    )  # fmt: skip


def picture(shape: tuple[int, ...], *, seed: int, low: int = 20, high: int = 3000) -> StoredArray:
    """Smooth values in [low, high) with a bright corner in every image, so that no flip or transpose hides."""
    rng = np.random.default_rng(seed)
    *_, nz, ny, nx = shape
    z, y, x = np.meshgrid(np.arange(nz), np.arange(ny), np.arange(nx), indexing="ij")
    volumes = int(np.prod(shape[:-3], dtype=int))
    out = np.empty((volumes, nz, ny, nx), dtype=np.int32)
    for v in range(volumes):
        a, b, c, p = rng.uniform(0.1, 0.5, 4)
        wave = (
            np.sin(a * x + p) + np.cos(b * y - p) + np.sin(c * z + x * 0.07) + 0.02 * rng.standard_normal((nz, ny, nx))
        )
        scaled = (wave - wave.min()) / np.ptp(wave)
        out[v] = low + (scaled * (high - low - 1)).astype(np.int32)
        out[v, :, :3, :4] = high - 1 - (v * nz + np.arange(nz))[:, None, None] % 64
    return out.reshape(shape)


def plain(name: str = "plain", *, seed: int = 1) -> Scan:
    """One volume."""
    return Scan(name=name, stored=picture((SLICES, ROWS, COLUMNS), seed=seed), stacks=(oblique_stack(),))


def diffusion(
    name: str = "dwi", *, b_values: Sequence[float] = (0.0, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0, 1000.0),
    seed: int = 2, stack: Stack | None = None, trace: bool = False, adc: bool = False, phase_encoding: str = "COL",
    slope: float = 1.0, matrix: tuple[int, int] = (ROWS, COLUMNS),
) -> Scan:  # fmt: skip
    """Diffusion weighting, one direction per weighted volume; with ``trace`` and ``adc`` a volume of each."""
    stack = stack or oblique_stack()
    shape = (len(stack.origins_lps), *matrix)
    directions = iter(_directions(sum(b > 5 for b in b_values), seed=seed))
    extras = (
        [Extra(kind=Kind.TRACE, stored_zyx=picture(shape, seed=seed + 100), b_value=max(b_values))] if trace else []
    )
    extras += [Extra(kind=Kind.ADC, stored_zyx=picture(shape, seed=seed + 200))] if adc else []
    return Scan(
        name=name, stored=picture((len(b_values), *shape), seed=seed), stacks=(stack,), slopes=slope,
        axes=(Axis(name=AxisName.DIFFUSION, values=tuple(b_values)),),
        directions_lps=tuple(next(directions) if b > 5 else None for b in b_values),
        phase_encoding=phase_encoding, extras=tuple(extras),
    )  # fmt: skip


def perfusion(
    name: str = "dsc", *, times: int = 60, slices: int = 20, seed: int = 3, scaled_per_image: bool = False,
    matrix: tuple[int, int] = (ROWS, COLUMNS),
) -> Scan:  # fmt: skip
    """A bolus series: ``times`` volumes, 1.8 s apart. ``scaled_per_image`` gives every image a slope of its own."""
    slopes = 1.0 + np.arange(times * slices).reshape(times, slices) % 16 / 8 if scaled_per_image else 1.0
    return Scan(
        name=name, stored=picture((times, slices, *matrix), seed=seed), stacks=(oblique_stack(slices),),
        axes=(Axis(name=AxisName.TIME, values=tuple(round(1.8 * t, 6) for t in range(times))),), slopes=slopes,
    )  # fmt: skip


def multi_echo(name: str = "echoes", *, times: Sequence[float] = (4.92, 11.5, 20.0), seed: int = 4) -> Scan:
    """Several echo times, ms."""
    return Scan(
        name=name, stored=picture((len(times), SLICES, ROWS, COLUMNS), seed=seed), stacks=(oblique_stack(),),
        axes=(Axis(name=AxisName.ECHO, values=tuple(times)),),
    )  # fmt: skip


def complex_echoes(name: str = "complex", *, times: Sequence[float] = (5.0, 10.0), seed: int = 5) -> Scan:
    """Magnitude and phase of several echoes; the phase has a slope and an intercept of its own."""
    components = (Component.MAGNITUDE.value, Component.PHASE.value)
    return Scan(
        name=name, stored=picture((2, len(times), SLICES, ROWS, COLUMNS), seed=seed, high=4095),
        stacks=(oblique_stack(),),
        axes=(Axis(name=AxisName.COMPONENT, values=components), Axis(name=AxisName.ECHO, values=tuple(times))),
        slopes=np.array([1.0, 2.0])[:, None, None], intercepts=np.array([0.0, -4096.0])[:, None, None],
    )  # fmt: skip


def two_stacks(name: str = "stacks", *, seed: int = 6) -> Scan:
    """Two groups of planes of one size in one acquisition, turned against each other."""
    first = oblique_stack()
    second = oblique_stack(degrees=(-35.0, 12.0, 0.0), origin_lps=(-20.0, -30.0, 90.0))
    return Scan(
        name=name, stored=picture((2, SLICES, ROWS, COLUMNS), seed=seed), stacks=(first, second),
        axes=(Axis(name=AxisName.STACK, values=("1", "2")),),
    )  # fmt: skip


def head_ct(name: str = "ct", *, seed: int = 7, degrees: float = 15.0, gaps: Sequence[float] | None = None) -> Scan:
    """CT values (HU) of a tilted gantry, even or with a step in the table feed."""
    stack = tilted_stack(degrees=degrees, gaps=gaps)
    return Scan(
        name=name, stored=picture((len(stack.origins_lps), ROWS, COLUMNS), seed=seed), stacks=(stack,), modality="CT",
        intercepts=-1024.0,
    )  # fmt: skip


def ct_perfusion(name: str = "ctp", *, times: int = 12, seed: int = 8) -> Scan:
    """CT volumes in time, 1.5 s apart."""
    stack = tilted_stack(degrees=0.0)
    return Scan(
        name=name, stored=picture((times, SLICES, ROWS, COLUMNS), seed=seed), stacks=(stack,), modality="CT",
        intercepts=-1024.0, axes=(Axis(name=AxisName.TIME, values=tuple(1.5 * t for t in range(times))),),
    )  # fmt: skip


def _rotation(degrees: tuple[float, float, float]) -> Float64Array:
    a, b, c = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    rotation: Float64Array = about_z @ about_y @ about_x
    return rotation


def _directions(count: int, *, seed: int) -> list[tuple[float, float, float]]:
    vectors = np.random.default_rng(seed + 1000).standard_normal((count, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [(float(x), float(y), float(z)) for x, y, z in vectors]
