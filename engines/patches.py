"""Patches of pooled cases with random variation, for training only; reads no files and keeps no state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from engines.cases import UNKNOWN, PooledCase

AIR_HU = -1000.0

NOT_KNOWN = -1.0

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Patch:
    """Arrays of one shape (z, y, x), float32: HU, haematoma occupancy 0..1, intracranial 0 or 1 (`NOT_KNOWN`: unsaid)."""

    hu_zyx: F32
    occupancy_zyx: F32
    intracranial_zyx: F32


BLEEDING_SHARE = 0.7
"""Of patches from heads with a bleed: less than this and the network learns late what blood looks like."""


BRAIN_BELOW_HU = 45.0


def brain_like(case: PooledCase) -> float:
    """Share of a case's haematoma that is no denser than brain can be; 0 without a haematoma.

    The serum above a fluid level, the paler half of a blend, blood that partial volume thinned.
    """
    if not case.bleeding_slices.size:
        return 0.0
    hu, labels = case.hu_zyx[case.bleeding_slices], case.labels_zyx[case.bleeding_slices]
    return float((hu[(labels & 0xFF) >= 128] < BRAIN_BELOW_HU).mean())


def draw_batch(
    cases: Sequence[PooledCase],
    *,
    shape_zyx: tuple[int, int, int],
    batch: int,
    seed: int,
    step: int,
    weights: Sequence[float] | None = None,
    settled: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Inputs ``(batch, 1, z, y, x)`` in HU and targets ``(batch, 2, z, y, x)`` of one step.

    Everything random comes from (seed, step, index): a training that was cut off continues with the batches it would
    have seen. ``weights``, one per case: how often a case with a bleed is drawn, to the others; None: all equally.
    ``settled``: of patches with a bleed, the share in which a part is made as dense as brain, see `_settle`.
    """
    bleeding = [case for case in cases if case.bleeding_slices.size]
    chance = None
    if weights is not None:
        wanted = np.array([weight for case, weight in zip(cases, weights, strict=True) if case.bleeding_slices.size])
        chance = wanted / wanted.sum()
    patches = []
    for index in range(batch):
        rng = np.random.default_rng([seed, step, index])
        if bleeding and rng.random() < BLEEDING_SHARE:
            chosen = rng.integers(len(bleeding)) if chance is None else rng.choice(len(bleeding), p=chance)
            case = bleeding[int(chosen)]
        else:
            case = cases[int(rng.integers(len(cases)))]
        patch = _cut(case, shape_zyx, rng)
        if settled and rng.random() < settled:
            patch = _settle(patch, rng)
        patches.append(_vary(patch, rng))
    inputs = torch.from_numpy(np.stack([patch.hu_zyx[None] for patch in patches]))
    targets = torch.from_numpy(np.stack([np.stack([p.occupancy_zyx, p.intracranial_zyx]) for p in patches]))
    return inputs, targets


def _cut(case: PooledCase, shape_zyx: tuple[int, int, int], rng: np.random.Generator) -> Patch:
    """Place the patch: on a bleed, at the bottom (where false bleeds grow), or anywhere, a little beyond the ends."""
    slices = case.hu_zyx.shape[0]
    depth = shape_zyx[0]
    kind = rng.random()
    # Drawn in any case, so that what follows does not depend on the kind.
    away = rng.uniform(-1, 1, size=2)
    aims = [(box.start + box.stop) / 2 + 8 * a for box, a in zip(case.head_box_yx, away, strict=True)]
    slack = [max(b.stop - b.start - n, 0) / 2 for b, n in zip(case.head_box_yx, shape_zyx[1:], strict=True)]
    if kind < 0.65 and case.bleeding_slices.size:
        z = int(rng.choice(case.bleeding_slices))
        z0 = z - int(rng.integers(depth))
        voxel = rng.choice(np.argwhere((case.labels_zyx[z] & 0xFF) >= 128))
        jitter = rng.uniform(-0.4, 0.4, size=2) * np.array(shape_zyx[1:])
        aims = [min(max(at + j, aim - s), aim + s) for at, j, aim, s in zip(voxel, jitter, aims, slack, strict=True)]
    else:
        z0 = int(rng.integers(-1, 3)) if kind < 0.8 else int(rng.integers(-1, max(slices - depth + 2, 0)))
        aims = [aim + rng.uniform(-s, s) for aim, s in zip(aims, slack, strict=True)]
    z0 = min(max(z0, -2), max(slices - depth + 2, -2))
    origin = (z0, round(aims[0] - shape_zyx[1] / 2), round(aims[1] - shape_zyx[2] / 2))
    labels = _window(case.labels_zyx, origin, shape_zyx, fill=0)
    inside = (labels >> 8).astype(np.float32)
    return Patch(
        _window(case.hu_zyx, origin, shape_zyx, fill=int(AIR_HU)).astype(np.float32),
        (labels & 0xFF).astype(np.float32) / np.float32(255),
        np.where(inside == UNKNOWN, np.float32(NOT_KNOWN), inside),
    )


def _window(
    array: npt.NDArray[np.int16], origin: tuple[int, int, int], shape: tuple[int, int, int], *, fill: int
) -> npt.NDArray[np.int16]:
    out = np.full(shape, fill, np.int16)
    source, target = [], []
    for start, size, limit in zip(origin, shape, array.shape, strict=True):
        low, high = max(start, 0), min(start + size, limit)
        source.append(slice(low, max(high, low)))
        target.append(slice(low - start, max(high, low) - start))
    out[tuple(target)] = array[tuple(source)]
    return out


LEAST_SETTLED = 200  # voxels: a smaller one shows no level
LEVEL_SHARE = 0.5
PIXELS_A_SLICE = 4.0  # about how far slices lie apart, in pixels of 1 mm


def _settle(patch: Patch, rng: np.random.Generator) -> Patch:
    """One bleed of the patch with a fluid level (cells to the back, serum above) or, as often, two halves as of a blend.

    The paler part is as dense as brain: what outlines it is its rim and the rest of the shape.
    """
    labels, _ = ndimage.label(patch.occupancy_zyx >= 0.5)
    sizes = np.bincount(labels.ravel())[1:]
    large = np.flatnonzero(sizes >= LEAST_SETTLED)
    if not large.size:
        return patch
    bleed = labels == 1 + int(rng.choice(large))
    toward = rng.normal(size=3) if rng.random() >= LEVEL_SHARE else np.array([0.0, 1.0, 0.0])
    z, y, x = np.ogrid[tuple(slice(n) for n in bleed.shape)]
    along = ((toward[0] * PIXELS_A_SLICE * z + toward[1] * y + toward[2] * x) / np.linalg.norm(toward)).astype(
        np.float32
    )
    level = np.quantile(along[bleed], rng.uniform(0.2, 0.8))
    above = np.clip(np.float32(level) - along + np.float32(0.5), 0, 1)
    # Its partly filled border with it: beyond, nothing is filled.
    near = ndimage.binary_dilation(bleed, structure=np.ones((1, 3, 3), bool), iterations=2)
    drop = np.float32(rng.uniform(12, 28)) * above * patch.occupancy_zyx * near
    return Patch(patch.hu_zyx - drop.astype(np.float32), patch.occupancy_zyx, patch.intracranial_zyx)


def _vary(patch: Patch, rng: np.random.Generator) -> Patch:
    """Flips, half turns, small turns and scalings, soft-tissue contrast, noise, cut edges."""
    arrays = [patch.hu_zyx, patch.occupancy_zyx, patch.intracranial_zyx]
    if rng.random() < 0.2:
        arrays = _turn(arrays, degrees=float(rng.uniform(-15, 15)), scale=float(rng.uniform(0.9, 1.1)))
    if rng.random() < 0.5:
        arrays = [array[:, :, ::-1] for array in arrays]
    if rng.random() < 0.1:
        arrays = [array[:, ::-1, ::-1] for array in arrays]
    if rng.random() < 0.1:
        arrays = [array[::-1] for array in arrays]
    hu, occupancy, intracranial = (np.ascontiguousarray(array, dtype=np.float32) for array in arrays)
    if rng.random() < 0.5:
        shift, scale = rng.uniform(-5, 5), rng.uniform(0.85, 1.15)
        soft = np.abs(hu) < 150
        hu[soft] = (hu[soft] - np.float32(35)) * np.float32(scale) + np.float32(35 + shift)
    if rng.random() < 0.4:
        hu += rng.standard_normal(hu.shape, dtype=np.float32) * np.float32(rng.uniform(0.5, 6))
    if rng.random() < 0.1:
        axis = int(rng.integers(1, 3))
        width = int(rng.integers(4, 40))
        edge = slice(0, width) if rng.random() < 0.5 else slice(-width, None)
        index = (slice(None), edge) if axis == 1 else (slice(None), slice(None), edge)
        hu[index], occupancy[index], intracranial[index] = AIR_HU, 0.0, 0.0
    return Patch(hu, occupancy, intracranial)


def _turn(arrays: list[F32], *, degrees: float, scale: float) -> list[F32]:
    """Turn and scale each slice about its centre."""
    slices, height, width = arrays[0].shape
    angle = np.deg2rad(degrees)
    cos, sin, ratio = np.cos(angle) / scale, np.sin(angle) / scale, height / width
    theta = torch.tensor([[[cos, -sin * ratio, 0.0], [sin / ratio, cos, 0.0]]], dtype=torch.float32)
    grid = functional.affine_grid(theta, [1, 1, height, width], align_corners=False).expand(slices, -1, -1, -1)
    stacked = torch.from_numpy(np.stack([arrays[0] - np.float32(AIR_HU), arrays[1], arrays[2]], axis=1))
    turned = functional.grid_sample(stacked, grid, align_corners=False, padding_mode="zeros").numpy()
    # A mixture of known and not known is not known.
    inside = np.where(turned[:, 2] < 0, np.float32(NOT_KNOWN), turned[:, 2])
    return [turned[:, 0] + np.float32(AIR_HU), turned[:, 1], inside]
