"""From a volume in HU to the probability of haematoma on the same grid. No thresholds, no components, no DICOM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.headbox import head_box, skull_box
from engines.orientation import Upright
from engines.resampling import Axis, nearest, resample_hu, resample_probability
from engines.runtime import Runtime
from engines.tiling import predict_tiled
from ichor.arrays import Float64Array, Volume
from ichor.errors import Unreadable
from ichor.reasons import Reason

F32 = npt.NDArray[np.float32]

ROUGH_MM = 1.0
MOST_MM = 2500.0
"""Of a stack along any axis: places in a header, however odd, decide how large the arrays between are."""
LEAST_PROBABILITY = 0.01
OVERLAP_ZYX = (4, 48, 48)
HAEMATOMA, INTRACRANIAL = 0, 1


@dataclass(frozen=True, slots=True)
class Segmenter:
    """A network that serves: what `ichor.pipeline.Engine` asks for, on a `Runtime`.

    Attributes
    ----------
    name : of the model; weights trained on phantoms end in ``-phantom``.
    pixel_mm, slice_mm : of the voxels that it was trained on; `slice_mm` None: slices as they come.
    """

    name: str
    runtime: Runtime
    pixel_mm: float = 1.0
    slice_mm: float | None = None

    @property
    def sha256(self) -> str:
        """Of the weights file."""
        return self.runtime.sha256

    @property
    def description(self) -> str:
        """Runtime, version and precision, for provenance."""
        return f"{self.runtime.name}, CPU, {self.runtime.precision}"

    def segment(self, volume: Volume) -> F32:
        """Probability (z, y, x) of haematoma in 0..1 on the grid of `volume` (HU), true zero below 1 %.

        Raises
        ------
        Unreadable
            ``NOT_AXIAL``; ``NOT_HEAD`` where the slices lie further apart than any body is long.
        """
        upright = Upright.of(volume)
        probability = segment(
            self.runtime,
            upright.turn(volume.array_zyx),
            spacing_yx_mm=upright.spacing(volume.pixel_spacing),
            offsets_yx_mm=upright.offsets_yx(volume),
            positions_mm=upright.positions(volume),
            pixel_mm=self.pixel_mm,
            slice_mm=self.slice_mm,
        )
        return np.ascontiguousarray(upright.back(probability))


def segment(
    runtime: Runtime,
    volume_zyx_hu: npt.NDArray[np.int16] | F32,
    *,
    spacing_yx_mm: tuple[float, float],
    offsets_yx_mm: Float64Array | None = None,
    positions_mm: Float64Array | None = None,
    pixel_mm: float = 1.0,
    slice_mm: float | None = None,
    output: int = HAEMATOMA,
    enclosed: bool = True,
) -> F32:
    """Probability float32 (z, y, x) of `output` on the input's grid, exactly 0 below `LEAST_PROBABILITY`.

    In plane the head is resampled to `pixel_mm`, slices are shifted onto one another; with `slice_mm` they are
    interpolated (linearly, as for training) at that distance from the first one on, and the answer back at the input's.

    Parameters
    ----------
    volume_zyx_hu : slices headwards, rows to the back, columns to the patient's left.
    spacing_yx_mm : between rows, between columns.
    offsets_yx_mm : (slices, 2), where the first pixel of each slice lies in the plane; a tilted gantry shears a stack.
    positions_mm : (slices,), along their normal, ascending; needed with `slice_mm`.
    output : `HAEMATOMA` or `INTRACRANIAL`.
    enclosed : haematoma is no likelier than that the voxel lies inside the skull, as the network itself sees it, where
        it has that output (the lower of both): muscles and neck look much like blood.

    Raises
    ------
    Unreadable
        ``NOT_HEAD``.
    """
    slices, rows, columns = volume_zyx_hu.shape
    offsets = np.zeros((slices, 2)) if offsets_yx_mm is None else np.asarray(offsets_yx_mm, np.float64)
    own = (Axis(0.0, float(spacing_yx_mm[0]), rows), Axis(0.0, float(spacing_yx_mm[1]), columns))
    placed = [(own[0].shifted(y), own[1].shifted(x)) for y, x in offsets]
    (shape,) = runtime.input_shapes.values()
    (name,) = runtime.input_shapes
    tile = (shape[2], shape[3], shape[4])
    target = _network_grid(volume_zyx_hu, placed, pixel_mm=pixel_mm, tile_yx=tile[1:])

    head = np.stack([resample_hu(one, at, target) for one, at in zip(volume_zyx_hu, placed, strict=True)])
    back = np.arange(slices, dtype=np.float64)
    if slice_mm is not None:
        if positions_mm is None:
            raise ValueError("slices at another distance need the positions of these")
        wanted = _positions(positions_mm, slice_mm)
        head = np.stack([_between(head, at) for at in np.interp(wanted, positions_mm, back)])
        back = np.interp(positions_mm, wanted, np.arange(len(wanted), dtype=np.float64))

    def predict(tile_zyx: F32) -> F32:
        (logits,) = runtime.run({name: tile_zyx[None, None]}).values()
        return _sigmoid(logits[0])

    outputs = predict_tiled(head, tile, overlap_zyx=OVERLAP_ZYX, predict=predict)
    found = outputs.min(axis=0) if enclosed and output == HAEMATOMA else outputs[output]
    probability = np.zeros(volume_zyx_hu.shape, np.float32)
    for k, at in enumerate(placed):
        one = _between(found, back[k])
        if one.max() >= LEAST_PROBABILITY:
            probability[k] = resample_probability(one, target, at)
    np.clip(probability, 0, 1, out=probability)
    probability[probability < LEAST_PROBABILITY] = 0
    return probability


def _positions(positions_mm: Float64Array, slice_mm: float) -> Float64Array:
    """From the first slice to the last one or just beyond, so that none is left out."""
    length = _no_longer_than_a_body(float(positions_mm[-1] - positions_mm[0]))
    steps = int(np.ceil(length / slice_mm - 1e-3))
    positions: Float64Array = positions_mm[0] + slice_mm * np.arange(steps + 1)
    return positions


def _between(stack_zyx: F32, index: float) -> F32:
    """The slice at a fractional index."""
    below = int(index)
    share = np.float32(index - below)
    one: F32 = stack_zyx[below]
    return one if share == 0 else (1 - share) * one + share * stack_zyx[below + 1]


def _network_grid(
    volume_zyx_hu: npt.NDArray[np.int16] | F32,
    placed: list[tuple[Axis, Axis]],
    *,
    pixel_mm: float,
    tile_yx: tuple[int, int],
) -> tuple[Axis, Axis]:
    """Pixels over the skull (the head, where no bone is seen), at least a tile of them, centred."""
    full = _extent([at[0] for at in placed]), _extent([at[1] for at in placed])
    rough = np.stack([nearest(one, at, full) for one, at in zip(volume_zyx_hu, placed, strict=True)])
    box = skull_box(rough) or head_box(rough)
    grid = []
    for whole, span, tile in zip(full, box, tile_yx, strict=True):
        count = max(int(np.ceil((span.stop - span.start) * ROUGH_MM / pixel_mm)), tile)
        middle = whole.start + ROUGH_MM * (span.start + span.stop - 1) / 2
        grid.append(Axis(round(middle - pixel_mm * (count - 1) / 2, 3), pixel_mm, count))
    return grid[0], grid[1]


def _extent(axes: list[Axis]) -> Axis:
    """Pixels of `ROUGH_MM`, what `engines.headbox` looks at, from the first to the last pixel of any slice."""
    low = min(axis.start for axis in axes)
    high = max(axis.start + axis.step * (axis.count - 1) for axis in axes)
    return Axis(low, ROUGH_MM, int(_no_longer_than_a_body(high - low) / ROUGH_MM) + 1)


def _no_longer_than_a_body(millimetres: float) -> float:
    if not 0 <= millimetres <= MOST_MM:
        raise Unreadable(Reason.NOT_HEAD)
    return millimetres


def _sigmoid(logits: F32) -> F32:
    with np.errstate(over="ignore"):
        probability: F32 = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return probability
