"""A volume through a network of one fixed tile shape, and back together. Knows nothing about what the network sees."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def predict_tiled(
    volume_zyx: F32, tile_zyx: tuple[int, int, int], *, overlap_zyx: tuple[int, int, int], predict: Callable[[F32], F32]
) -> F32:
    """Weighted mean of overlapping tiles, accumulated in float32, in a fixed order.

    Parameters
    ----------
    volume_zyx : at least one tile along y and x; along z shorter volumes are continued by their last slice.
    overlap_zyx : the least overlap of neighbouring tiles.
    predict : tile (z, y, x) to (channels, z, y, x).

    Returns
    -------
    (channels, z, y, x)
    """
    slices = volume_zyx.shape[0]
    if slices < tile_zyx[0]:
        volume_zyx = np.pad(volume_zyx, ((0, tile_zyx[0] - slices), (0, 0), (0, 0)), mode="edge")
    spans = [
        starts(size, tile=tile, overlap=overlap)
        for size, tile, overlap in zip(volume_zyx.shape, tile_zyx, overlap_zyx, strict=True)
    ]
    weight = _weight(tile_zyx)
    total: F32 | None = None
    weights = np.zeros(volume_zyx.shape, np.float32)
    for corner in product(*spans):
        place = tuple(slice(start, start + size) for start, size in zip(corner, tile_zyx, strict=True))
        part = predict(np.ascontiguousarray(volume_zyx[place]))
        if total is None:
            total = np.zeros((part.shape[0], *volume_zyx.shape), np.float32)
        total[(slice(None), *place)] += part * weight
        weights[place] += weight
    assert total is not None
    total /= weights
    return total[:, :slices]


def starts(size: int, *, tile: int, overlap: int) -> list[int]:
    """Evenly spread tile starts that cover `size`, neighbours sharing at least `overlap` (at most half a tile)."""
    if size <= tile:
        return [0]
    overlap = min(overlap, tile // 2)
    count = int(np.ceil((size - overlap) / (tile - overlap)))
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def _weight(tile_zyx: tuple[int, int, int]) -> F32:
    """A Gaussian, a quarter of the tile wide: less say near the tile's faces, where context is missing."""
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) for n in tile_zyx]
    weight: F32 = (axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]).astype(np.float32)
    return weight
