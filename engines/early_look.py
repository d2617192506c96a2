"""A first look at a network in training: a picture and a line of figures on held-out heads. Not an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional

from engines.cases import PooledCase
from engines.networks.umamba import UMamba
from engines.precision import autocast, resolve

Mask = npt.NDArray[np.bool_]
PER_ROW = 4


def draw_early_look(network: UMamba, cases: Sequence[PooledCase], *, path: Path, report: Callable[[str], None]) -> None:
    """For each case the slice with most blood (predicted, else true): truth outlined green, prediction red."""
    if not cases:
        return
    tiles, scores, false_ml = [], [], []
    for case in cases:
        found, truth = _predict(network, case.hu_zyx), case.occupancy_zyx >= 128
        voxel_ml = float(np.prod(case.spacing_mm)) / 1000
        if truth.any():
            scores.append(_dice(found, truth))
        else:
            false_ml.append(float(found.sum()) * voxel_ml)
        busiest = int(np.argmax((truth if truth.any() else found).sum(axis=(1, 2))))
        tiles.append(_picture(np.asarray(case.hu_zyx[busiest]), found[busiest], truth[busiest]))
    height, width = (max(tile.shape[i] for tile in tiles) for i in (0, 1))
    sheet = np.zeros((height * -(-len(tiles) // PER_ROW), width * min(len(tiles), PER_ROW), 3), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = height * (i // PER_ROW), width * (i % PER_ROW)
        sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    Image.fromarray(sheet).save(path)
    report(
        f"look: raw Dice at 0.5 {' '.join(f'{score:.2f}' for score in scores)}; "
        f"false mL in heads without a bleed {' '.join(f'{ml:.1f}' for ml in false_ml)}"
    )


def held_out_dice(network: UMamba, case: PooledCase) -> float:
    """Dice at 0.5 of one case, NaN where it has no haematoma."""
    truth = case.occupancy_zyx >= 128
    return _dice(_predict(network, case.hu_zyx), truth) if truth.any() else float("nan")


def _dice(found: Mask, truth: Mask) -> float:
    return 2 * float((found & truth).sum()) / max(float(found.sum() + truth.sum()), 1.0)


def _predict(network: UMamba, hu_zyx: npt.NDArray[np.int16]) -> Mask:
    """Mask on the case's grid from slabs side by side, without overlap."""
    slices, rows, columns = hu_zyx.shape
    depth = network.config.patch_zyx[0]
    _, stride_y, stride_x = network.config.stride_zyx
    device = next(network.parameters()).device
    _, precision = resolve(device.type, "auto")
    hu = torch.from_numpy(np.array(hu_zyx, np.float32))
    room = (0, -columns % stride_x, 0, -rows % stride_y, 0, -slices % depth)
    hu = functional.pad(hu, room, value=-1000.0)
    with torch.inference_mode(), autocast(device.type, precision):
        logits = torch.cat(
            [network(slab[None, None].to(device))[0, 0].float().cpu() for slab in torch.split(hu, depth)]
        )
    found: Mask = (logits[:slices, :rows, :columns] >= 0).numpy()
    return found


def _picture(hu: npt.NDArray[np.int16], found: Mask, truth: Mask) -> npt.NDArray[np.uint8]:
    grey = (np.clip(hu.astype(np.float32), 0, 80) * (255 / 80)).astype(np.uint8)
    picture: npt.NDArray[np.uint8] = np.repeat(grey[..., None], 3, axis=2)
    for mask, colour in ((truth, (0, 255, 0)), (found, (255, 0, 0))):
        picture[mask & ~ndimage.binary_erosion(mask)] = colour
    return picture
