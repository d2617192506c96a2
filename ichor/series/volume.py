"""From a manifest to scalar arrays by reading pixels where the manifest says they lie. Parses no DICOM header."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ichor.arrays import Volume
from ichor.errors import Unreadable
from ichor.reasons import Reason
from ichor.series.decoding import FrameFormat, decode_frame, frame_format, read_frames
from ichor.series.grid import Grid, Stack, build_grid
from ichor.series.planes import Plane
from ichor.series.refusal import array_refusal
from ichor.series.rescale import NO_UNIT, unit_of
from ichor.store.protocol import SpoolReader
from ichor.types import AxisName, GradientTable, Instance, Manifest, ManifestRef, unique

_CONTAINER = Path("/sys/fs/cgroup/memory.max")
_FLOAT32_INTEGER = 1 << 24  # every integer up to here is a float32
_LARGEST_SCALE, _LARGEST_OFFSET = 1 << 31, 1 << 62  # whose sums stay right in 64 bits; beyond them only float64 will do


def build_volume(manifest: Manifest, *, spool: SpoolReader, ref: ManifestRef | None = None) -> Volume:
    """Build the array of a series that is one stack.

    The array is (*axes, z, y, x), slices ascending along the normal, rescale applied once. It is int16 where that is
    exact: slope and intercept are integers, every value is in range. Else float32; where that would not keep stored
    values apart, int32 for integer slope and intercept, else float64. CT values are in HU, unless their Rescale Type says otherwise. Memory is the
    result and one stored image. An array of more than half of the machine's memory is refused.

    Parameters
    ----------
    manifest
        Of a whole series, or one with gaps between slices.
    spool
        Where its ``location`` keys lead.
    ref
        Reference to the manifest, handed on in the volume.

    Raises
    ------
    Unreadable
        With a reason of `ichor.reasons.Reason`, when the series is no array, lacks images, or its pixels do not decode.
    """
    grid = _whole_grid(manifest.instances)
    if len(grid.stacks) != 1:
        raise Unreadable(Reason.MIXED_GEOMETRY)
    return _volume(manifest, grid, 0, spool=spool, ref=ref)


def build_volumes(
    manifest: Manifest, *, spool: SpoolReader, ref: ManifestRef | None = None, grid: Grid | None = None
) -> tuple[Volume, ...]:
    """Build one array per stack, in order of the grid; as `build_volume` in everything else.

    ``grid``: of the same instances, where the caller has it.
    """
    grid = _whole_grid(manifest.instances, grid)
    return tuple(_volume(manifest, grid, stack, spool=spool, ref=ref) for stack in range(len(grid.stacks)))


def memory() -> int:
    """Bytes of main memory, or those that the container may use where that is less."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(_CONTAINER.read_text())
    except (OSError, ValueError):  # no container, or "max"
        return physical
    return min(physical, limit)


def _whole_grid(instances: Sequence[Instance], grid: Grid | None = None) -> Grid:
    if grid is None:
        grid = build_grid(instances)
    refusal = array_refusal(instances, grid)
    if refusal is not None:
        raise Unreadable(refusal)
    return grid


def _volume(manifest: Manifest, grid: Grid, index: int, *, spool: SpoolReader, ref: ManifestRef | None) -> Volume:
    stack = grid.stacks[index]
    cells, axes = grid.cells, grid.axes
    if axes and axes[0].name is AxisName.STACK:
        cells, axes = cells[index], axes[1:]
    planes = [grid.planes[k] for k in cells.ravel().tolist()]
    array = _read(planes, stack, spool=spool, most_bytes=memory() // 2 // len(grid.stacks)).reshape(
        *cells.shape, stack.rows, stack.columns
    )
    gradients = grid.gradients if any(axis.name is AxisName.DIFFUSION for axis in axes) else None
    notes = [*manifest.notes, *grid.notes]
    if isinstance(gradients, Reason):
        notes.append(gradients)
    return Volume(
        array=array,
        origins_lps=np.asarray(stack.origins_lps, dtype=np.float64),
        row_lps=np.asarray(stack.row_lps, dtype=np.float64),
        column_lps=np.asarray(stack.column_lps, dtype=np.float64),
        pixel_spacing=stack.pixel_spacing,
        slice_thickness=max((p.geometry.slice_thickness for p in planes if p.geometry.slice_thickness), default=None),
        frame_of_reference_uid=stack.frame_of_reference_uid,
        unit=_unit(planes),
        sources=_sources(planes),
        axes=axes,
        gradients=gradients if isinstance(gradients, GradientTable) else None,
        manifest=ref,
        notes=unique(notes),
    )


def _unit(planes: Sequence[Plane]) -> str:
    units = {unit_of(plane.instance) or NO_UNIT for plane in planes}
    return units.pop() if len(units) == 1 else NO_UNIT


def _sources(planes: Iterable[Plane]) -> tuple[Instance, ...]:
    """Every object once, in order of its first plane: for single images, one per plane."""
    return tuple({plane.instance.sop_instance_uid: plane.instance for plane in planes}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The planes of one object and the cell that each goes to."""

    form: FrameFormat
    planes: list[tuple[int, Plane]]

    @property
    def single(self) -> bool:
        """One frame, which may be a mosaic of all planes."""
        return not self.planes[0][1].instance.frames


def _read(planes: Sequence[Plane], stack: Stack, *, spool: SpoolReader, most_bytes: int) -> npt.NDArray[Any]:
    """Rescaled values (n, rows, columns) of every plane, in the first type that keeps them all."""
    objects: dict[str, _Wanted] = {}
    for cell, plane in enumerate(planes):
        uid = plane.instance.sop_instance_uid
        if uid not in objects:
            objects[uid] = _Wanted(form=frame_format(plane.instance), planes=[])
        objects[uid].planes.append((cell, plane))
    shape = len(planes), stack.rows, stack.columns
    for dtype in _types(list(objects.values())):
        if math.prod(shape) * np.dtype(dtype).itemsize > most_bytes:
            raise Unreadable(Reason.ARRAY_TOO_LARGE)
        try:
            result = np.empty(shape, dtype=dtype)
        except MemoryError as error:
            raise Unreadable(Reason.ARRAY_TOO_LARGE) from error
        if _fill(result, list(objects.values()), spool=spool):
            return result
        del result  # a value does not fit
    raise AssertionError("float64 takes everything")


def _types(objects: Sequence[_Wanted]) -> list[type[np.generic]]:
    """Types to try, narrowest first; the last one always fits."""
    integers = all(
        plane.rescale_slope.is_integer() and plane.rescale_intercept.is_integer()
        for wanted in objects
        for _, plane in wanted.planes
    )
    if integers:
        return [np.int16, np.float32, np.int32, np.float64]
    scales = {
        (wanted.form.value_range, plane.rescale_slope, plane.rescale_intercept)
        for wanted in objects
        for _, plane in wanted.planes
    }
    return [np.float32] if all(_apart_in_float32(*scale) for scale in scales) else [np.float64]


def _apart_in_float32(values: tuple[int, int], slope: float, intercept: float) -> bool:
    """Whether neighbouring stored values stay apart, with half a step to spare."""
    largest = max(abs(value * slope + intercept) for value in values)
    if largest > np.finfo(np.float32).max:
        return False
    return bool(2 * np.spacing(np.float32(largest)) <= abs(slope))


_Planes: TypeAlias = list[tuple[int, Plane]]


def _fill(result: npt.NDArray[Any], objects: Sequence[_Wanted], *, spool: SpoolReader) -> bool:
    """Rescaled values of every plane into ``result``; False when one does not fit."""

    for data, form, planes in _frames(objects, spool=spool):
        stored = decode_frame(data, form)
        for cell, plane in planes:
            image = _tile(stored, plane)
            if image.shape != result.shape[1:]:
                raise Unreadable(Reason.MIXED_GEOMETRY)
            if not _put(result, cell, image, plane, form=form):
                return False
    return True


def _frames(objects: Iterable[_Wanted], *, spool: SpoolReader) -> Iterator[tuple[bytes, FrameFormat, _Planes]]:
    """Bytes of every frame that is needed, once, with its format and the planes that it holds."""
    for wanted in objects:
        frames: dict[int, _Planes] = {}
        for cell, plane in wanted.planes:
            frames.setdefault(0 if wanted.single else plane.index, []).append((cell, plane))
        indices = sorted(frames)  # as they lie in the file
        instance = wanted.planes[0][1].instance
        for index, data in zip(indices, read_frames(instance, indices, spool=spool), strict=True):
            yield data, wanted.form, frames[index]


def _tile(stored: npt.NDArray[Any], plane: Plane) -> npt.NDArray[Any]:
    tiling = plane.instance.tiling
    if tiling is None or plane.instance.frames:
        return stored
    row, column = divmod(plane.index, tiling.across)
    return stored[
        row * tiling.rows : (row + 1) * tiling.rows, column * tiling.columns : (column + 1) * tiling.columns
    ]  # fmt: skip


def _put(result: npt.NDArray[Any], cell: int, image: npt.NDArray[Any], plane: Plane, *, form: FrameFormat) -> bool:
    slope, intercept = plane.rescale_slope, plane.rescale_intercept
    if slope.is_integer() and intercept.is_integer() and result.dtype != np.float64:
        low, high = _limits(result.dtype)
        scale, offset = int(slope), int(intercept)
        if abs(scale) > _LARGEST_SCALE or abs(offset) > _LARGEST_OFFSET:
            return False
        if not _within(form.value_range, scale, offset, low, high) and not _within(
            (int(image.min()), int(image.max())), scale, offset, low, high
        ):
            return False
        if scale == 1 and offset == 0:
            result[cell] = image
        else:
            # What fits into the result fits into this on the way there.
            wide = np.int32 if scale == 1 and form.bits_stored <= 16 else np.int64
            np.add(
                image if scale == 1 else image * np.int64(scale), offset, out=result[cell], dtype=wide, casting="unsafe"
            )
        return True
    result[cell] = image if (slope, intercept) == (1.0, 0.0) else image.astype(np.float64) * slope + intercept
    return True


def _limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype == np.float32:
        return -_FLOAT32_INTEGER, _FLOAT32_INTEGER
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _within(values: tuple[int, int], scale: int, offset: int, low: int, high: int) -> bool:
    ends = [value * scale + offset for value in values]
    return low <= min(ends) and max(ends) <= high
