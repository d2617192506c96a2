"""Labelled haematomas for training the judge of expansion: five slices around the largest area each, on disk. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from engines.expansion_crops import SIZE, CropPlace, crop_place, cut

F32 = npt.NDArray[np.float32]
OUTLINE_CELL = 4  # pixels of a crop, along a side
AROUND_MM = 22.0  # kept around a haematoma: margin, jitter and a mask that came out too large
SIGNS = ("irregular", "black_hole", "blend", "island", "swirl", "early")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBleed:
    """One haematoma on a first scan and what became of it.

    Attributes
    ----------
    hu_zyx, mask_zyx : int16 and bool, up to five slices, the largest area in the middle where it can be.
    spacing_yx_mm : pixels.
    expands : whether it did.
    probability : what is learned: that of the law that drew `expands` where there is one, else 0 or 1.
    signs : as `SIGNS`, 0 or 1; NaN where nobody says.
    """

    hu_zyx: npt.NDArray[np.int16]
    mask_zyx: npt.NDArray[np.bool_]
    spacing_yx_mm: tuple[float, float]
    expands: bool
    probability: float
    signs: F32


BleedSource = Callable[[str], LabelledBleed | None]
"""Key to haematoma, always the same; None where it cannot be judged (fewer than three slices). Must be picklable."""


def around_largest(
    hu_zyx: npt.NDArray[np.int16], mask_zyx: npt.NDArray[np.bool_], *, spacing_yx_mm: tuple[float, float]
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]] | None:
    """The slices and pixels of a scan that crops can need; None when the haematoma cannot be judged."""
    place = crop_place(mask_zyx, spacing_yx_mm=spacing_yx_mm)
    if place is None:
        return None
    middle = place.slices[1]
    seen: npt.NDArray[np.bool_] = np.any(mask_zyx[middle - 1 : middle + 2], axis=0)
    box = [slice(max(middle - 2, 0), middle + 3)]
    for axis, mm in zip((1, 0), spacing_yx_mm, strict=True):
        used = np.flatnonzero(np.any(seen, axis=axis))
        margin = int(AROUND_MM / mm) + 1
        box.append(slice(max(int(used[0]) - margin, 0), int(used[-1]) + margin + 1))
    part = tuple(box)
    return np.ascontiguousarray(hu_zyx[part]), np.ascontiguousarray(mask_zyx[part])


def make(source: BleedSource, key: str, path: Path) -> None:
    """Write the haematoma of a key, whole or not at all; an empty file where it cannot be judged."""
    bleed = source(key)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        if bleed is not None:
            np.savez(
                stream,
                hu=bleed.hu_zyx.astype(np.int16),
                mask=np.packbits(bleed.mask_zyx),
                spacing=np.asarray(bleed.spacing_yx_mm),
                outcome=np.array([bleed.expands, bleed.probability]),
                signs=bleed.signs.astype(np.float32),
            )
    temporary.rename(path)


def read(path: Path) -> LabelledBleed | None:
    """What `make` wrote."""
    if path.stat().st_size == 0:
        return None
    with np.load(path, allow_pickle=False) as stored:
        hu = stored["hu"]
        mask = np.unpackbits(stored["mask"], count=hu.size).reshape(hu.shape).astype(bool)
        dy, dx = (float(mm) for mm in stored["spacing"])
        expands, probability = (float(value) for value in stored["outcome"])
        return LabelledBleed(
            hu_zyx=hu,
            mask_zyx=mask,
            spacing_yx_mm=(dy, dx),
            expands=expands > 0.5,
            probability=probability,
            signs=stored["signs"],
        )


def crops(bleed: LabelledBleed) -> F32:
    """Max-1, Max, Max+1 as when serving: HU (3, 1, 224, 224)."""
    place = crop_place(bleed.mask_zyx, spacing_yx_mm=bleed.spacing_yx_mm)
    assert place is not None
    return cut(bleed.hu_zyx, place, spacing_yx_mm=bleed.spacing_yx_mm)


def varied_crops(
    bleed: LabelledBleed, rng: np.random.Generator, *, together: bool = False, density: float = 1.0
) -> tuple[F32, F32]:
    """One of the three, HU (1, 1, 224, 224), as a network's mask would place it: grown, shrunk, shifted, another slice as Max.

    Then turned by quarters, mirrored, and varied in density (`density` times as much as by default) and noise. `together`:
    all three, (3, 1, 224, 224), varied alike but for their noise. With them the share of haematoma in each cell of
    `OUTLINE_CELL` pixels, (1 or 3, 56, 56).
    """
    mask = bleed.mask_zyx
    change = int(rng.integers(-1, 3))
    if change:
        plane = np.ones((1, 3, 3), bool)
        other = (
            ndimage.binary_dilation(mask, plane, iterations=change)
            if change > 0
            else ndimage.binary_erosion(mask, plane, iterations=-change)
        )
        mask = other if other.any() else mask
    place = crop_place(mask, spacing_yx_mm=bleed.spacing_yx_mm) or crop_place(
        bleed.mask_zyx, spacing_yx_mm=bleed.spacing_yx_mm
    )
    assert place is not None
    side = place.side * rng.uniform(0.92, 1.12)
    cy, cx = (c + rng.normal(0, 0.02) * place.side for c in place.centre_yx)
    chosen = list(place.slices) if together else [int(rng.choice(place.slices))]
    if rng.random() < 0.1:
        shift = int(np.clip(rng.choice((-1, 1)), -chosen[0], len(mask) - 1 - chosen[-1]))
        chosen = [k + shift for k in chosen]
    varied_place = CropPlace(slices=tuple(chosen), centre_yx=(cy, cx), side=side)
    percent = np.int16(100) * bleed.mask_zyx
    crop, blood = (cut(one, varied_place, spacing_yx_mm=bleed.spacing_yx_mm) for one in (bleed.hu_zyx, percent))
    quarters = int(rng.integers(4))
    crop, blood = (np.rot90(one, quarters, axes=(2, 3)) for one in (crop, blood))
    if rng.random() < 0.5:
        crop, blood = crop[..., ::-1], blood[..., ::-1]
    gain = 1 + density * (rng.uniform(0.93, 1.07) - 1)
    varied = crop * np.float32(gain) + np.float32(density * rng.normal(0, 2))
    if rng.random() < 0.5:
        varied += rng.standard_normal(crop.shape, dtype=np.float32) * np.float32(rng.uniform(0, 3))
    cells = SIZE // OUTLINE_CELL
    share = np.clip(blood / 100, 0, 1).reshape(-1, cells, OUTLINE_CELL, cells, OUTLINE_CELL).mean(axis=(2, 4))
    return np.ascontiguousarray(varied), share.astype(np.float32)
