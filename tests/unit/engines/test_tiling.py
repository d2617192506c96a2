from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engines.tiling import predict_tiled, starts


@pytest.mark.parametrize("shape", [(4, 16, 16), (11, 16, 16), (9, 40, 23), (2, 16, 30), (1, 17, 16)])
def test_tiles_of_an_identity_give_the_volume_back(shape: tuple[int, int, int]) -> None:
    volume = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    out = predict_tiled(volume, (4, 16, 16), overlap_zyx=(2, 4, 4), predict=lambda tile: np.stack([tile, -tile]))
    assert out.shape == (2, *shape)
    np.testing.assert_allclose(out[0], volume, atol=1e-5)
    np.testing.assert_allclose(out[1], -volume, atol=1e-5)


def test_every_tile_has_the_one_shape() -> None:
    seen = set()

    def predict(tile: np.ndarray) -> np.ndarray:
        seen.add(tile.shape)
        return tile[None]

    predict_tiled(np.zeros((7, 33, 16), np.float32), (4, 16, 16), overlap_zyx=(1, 2, 2), predict=predict)
    assert seen == {(4, 16, 16)}


def test_where_tiles_meet_the_one_whose_middle_is_nearer_has_more_say() -> None:
    tiles = iter([0.0, 1.0])
    out = predict_tiled(
        np.zeros((6, 16, 16), np.float32),
        (4, 16, 16),
        overlap_zyx=(2, 2, 2),
        predict=lambda tile: np.full((1, *tile.shape), next(tiles), np.float32),
    )[0]
    assert out[1].max() == 0
    assert 0 < out[2, 0, 0] < 0.5 < out[3, 0, 0] < 1
    assert out[4].min() == 1


@pytest.mark.parametrize(("size", "tile", "overlap"), [(40, 12, 4), (13, 12, 4), (12, 12, 4), (5, 12, 4), (300, 12, 4)])
def test_starts_cover_all_with_the_overlap(size: int, tile: int, overlap: int) -> None:
    found = starts(size, tile=tile, overlap=overlap)
    assert found[0] == 0
    assert found[-1] + tile >= size
    assert found[-1] <= max(size - tile, 0)
    assert all(b - a <= tile - overlap for a, b in pairwise(found))
