"""From a haematoma to the probability that it expands, and where in it that was seen. Finds no haematoma, no DICOM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.expansion_crops import SIZE, CropPlace, crop_place, cut
from engines.orientation import Upright
from engines.resampling import Axis, resample_probability
from engines.runtime import Runtime
from ichor.arrays import MaskArray, Volume
from ichor.pipeline import Classification

F32 = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

LOGITS, ATTENTION = "logits", "attention"


@dataclass(frozen=True, slots=True)
class Classifier:
    """A network that judges crops: what `ichor.pipeline.ClassificationEngine` asks for, on a `Runtime`.

    Attributes
    ----------
    name : of the model; weights trained on phantoms end in ``-phantom``.
    """

    name: str
    runtime: Runtime

    @property
    def sha256(self) -> str:
        """Of the weights file."""
        return self.runtime.sha256

    @property
    def description(self) -> str:
        """Runtime, version and precision, for provenance."""
        return f"{self.runtime.name}, CPU, {self.runtime.precision}"

    def classify(self, volume: Volume, mask_zyx: MaskArray) -> Classification | None:
        """Judge the haematoma of `mask_zyx` on its slices Max-1, Max and Max+1; None when it has fewer than three.

        Crops are cut by the code that cuts them for training (`engines.expansion_crops`), from the volume turned
        upright, so that it does not matter how the head is stored. The probability is the mean of three.

        Raises
        ------
        Unreadable
            The slices are not axial.
        ValueError
            The network's answer is not a number.
        """
        upright = Upright.of(volume)
        spacing = upright.spacing(volume.pixel_spacing)
        place = crop_place(upright.turn(mask_zyx), spacing_yx_mm=spacing)
        if place is None:
            return None
        (name,) = self.runtime.input_shapes
        answer = self.runtime.run({name: cut(upright.turn(volume.array_zyx), place, spacing_yx_mm=spacing)})
        logits, attention = answer[LOGITS].astype(np.float64).ravel(), answer[ATTENTION]
        if not (np.isfinite(logits).all() and np.isfinite(attention).all()):
            raise ValueError("the network's answer is not a number everywhere")
        each = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        # An array for the whole volume of which three slices are written: pages that nobody touches cost nothing.
        spread = np.zeros(volume.array_zyx.shape, np.float32)
        upright.turn(spread)[list(place.slices)] = _on_slices(
            attention, place, shape_yx=upright.turn(mask_zyx).shape[1:], spacing_yx_mm=spacing
        )
        below, middle, above = (upright.slice_index(k, len(mask_zyx)) for k in place.slices)
        return Classification(
            probability=float(each.mean()),
            each=(float(each[0]), float(each[1]), float(each[2])),
            slices=(below, middle, above),
            attention_zyx=spread,
        )


def crops_of(volume: Volume, mask_zyx: MaskArray) -> Mask | None:
    """(z, y, x), the voxels that the three crops of a haematoma cover: all that its judge sees; None where it judges none."""
    upright = Upright.of(volume)
    spacing = upright.spacing(volume.pixel_spacing)
    turned = upright.turn(mask_zyx)
    place = crop_place(turned, spacing_yx_mm=spacing)
    if place is None:
        return None
    seen = np.zeros(mask_zyx.shape, np.bool_)
    upright.turn(seen)[list(place.slices)] = _covered(place, shape_yx=turned.shape[1:], spacing_yx_mm=spacing)
    return seen


def _covered(place: CropPlace, *, shape_yx: tuple[int, ...], spacing_yx_mm: tuple[float, float]) -> Mask:
    """(y, x), pixels whose centres lie in the crop."""
    y, x = (
        np.abs(mm * np.arange(count) - centre) <= 0.5 * place.side
        for mm, count, centre in zip(spacing_yx_mm, shape_yx, place.centre_yx, strict=True)
    )
    covered: Mask = y[:, None] & x[None]
    return covered


def _on_slices(
    attention: F32, place: CropPlace, *, shape_yx: tuple[int, ...], spacing_yx_mm: tuple[float, float]
) -> F32:
    """Grad-CAM (3, grid, grid) on the pixels of the slices: linear between its cells, 1 at the largest of all three,
    exactly 0 outside the crops."""
    highest = float(attention.max())
    if highest <= 0:
        return np.zeros((len(attention), *shape_yx), np.float32)
    cells = attention.shape[-1]
    step = place.side / cells
    # One more cell around, the same as its neighbour: half a cell is left to the crop's edge.
    coarse = [Axis(axis.start - 0.5 * place.side / SIZE - 0.5 * step, step, cells + 2) for axis in place.axes()]
    own = [Axis(0.0, mm, count) for mm, count in zip(spacing_yx_mm, shape_yx, strict=True)]
    crop = _covered(place, shape_yx=shape_yx, spacing_yx_mm=spacing_yx_mm)
    return np.stack(
        [
            resample_probability(np.pad(one / highest, 1, mode="edge"), (coarse[0], coarse[1]), (own[0], own[1])) * crop
            for one in attention.astype(np.float32)
        ]
    )
