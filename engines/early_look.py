"""A first look at a network in training: a picture and a line of figures on validation heads. Not an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from engines.cases import PooledCase

SLICES = 12


def draw_early_look(network: nn.Module, cases: list[PooledCase], *, path: Path, report: Callable[[str], None]) -> None:
    """For each case the slice with most blood (predicted, else true): truth outlined green, prediction red."""
    if not cases:
        return
    tiles, scores, false_ml = [], [], []
    for case in cases:
        probability = _predict(network, case.hu_zyx)
        found, truth = probability >= 0.5, case.occupancy_zyx >= 128
        voxel_ml = float(np.prod(case.spacing_mm)) / 1000
        if truth.any():
            scores.append(2 * float((found & truth).sum()) / float(found.sum() + truth.sum()))
        else:
            false_ml.append(float(found.sum()) * voxel_ml)
        busiest = int(np.argmax((truth if truth.any() else found).sum(axis=(1, 2))))
        tiles.append(_picture(case.hu_zyx[busiest], found[busiest], truth[busiest]))
    height, width = (max(tile.shape[i] for tile in tiles) for i in (0, 1))
    sheet = np.zeros((height, width * len(tiles), 3), np.uint8)
    for i, tile in enumerate(tiles):
        sheet[: tile.shape[0], i * width : i * width + tile.shape[1]] = tile
    Image.fromarray(sheet).save(path)
    report(
        f"look: raw Dice at 0.5 {' '.join(f'{score:.2f}' for score in scores)}; "
        f"false mL in heads without a bleed {' '.join(f'{ml:.1f}' for ml in false_ml)}"
    )


def _predict(network: nn.Module, hu_zyx: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Probability on the case's grid, slabs side by side without overlap (columns and rows are multiples of 16)."""
    slices, rows, columns = hu_zyx.shape
    padded = np.full((-(-slices // SLICES) * SLICES, -(-rows // 16) * 16, -(-columns // 16) * 16), -1000, np.float32)
    padded[:slices, :rows, :columns] = hu_zyx
    with torch.inference_mode():
        slabs = [
            torch.sigmoid(network(torch.from_numpy(padded[z : z + SLICES])[None, None])[0, 0]).numpy()
            for z in range(0, len(padded), SLICES)
        ]
    probability: npt.NDArray[np.float32] = np.concatenate(slabs)[:slices, :rows, :columns]
    return probability


def _picture(
    hu: npt.NDArray[np.int16], found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    grey = (np.clip(hu.astype(np.float32), 0, 80) * (255 / 80)).astype(np.uint8)
    picture: npt.NDArray[np.uint8] = np.repeat(grey[..., None], 3, axis=2)
    for mask, colour in ((truth, (0, 255, 0)), (found, (255, 0, 0))):
        picture[mask & ~ndimage.binary_erosion(mask)] = colour
    return picture
