"""Pools of heads on disk: what is read is what was drawn, and a pool that was cut off goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phantoms import pool
from phantoms.acquisition import Grid
from phantoms.head import Head, make_head


def small_head(seed: int) -> Head:
    z = tuple(float(v) for v in range(-50, 70, 12))
    return make_head(seed, grid=Grid(56, 56, 4.0, z, (6.0,) * len(z)))


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "training_head", small_head)


@pytest.mark.usefixtures("_small")
def test_what_is_read_is_what_was_drawn(tmp_path: Path) -> None:
    pool._write(tmp_path, 7)
    kept, drawn = pool.read(pool.path_of(tmp_path, 7)), small_head(7)
    assert np.array_equal(kept.hu_zyx, drawn.hu_zyx)
    assert np.array_equal(kept.brain_zyx, drawn.brain_zyx)
    assert np.array_equal(kept.mask_zyx, drawn.mask_zyx)
    assert kept.occupancy_zyx.max() > 200
    assert np.abs(kept.occupancy_zyx / 255 - drawn.occupancy_zyx).max() < 0.003
    assert kept.spacing_mm == drawn.spacing_mm
    assert np.array_equal(kept.slice_positions_mm, drawn.slice_positions_mm)
    assert (kept.expands, kept.signs) == (drawn.expands, drawn.signs)


@pytest.mark.usefixtures("_small")
def test_only_missing_and_broken_heads_are_drawn_again(tmp_path: Path) -> None:
    for seed in (1, 2):
        pool._write(tmp_path, seed)
    whole, broken = (pool.path_of(tmp_path, seed) for seed in (1, 2))
    broken.write_bytes(broken.read_bytes()[:1000])
    assert pool._is_whole(whole)
    assert not pool._is_whole(broken)
    assert not pool._is_whole(pool.path_of(tmp_path, 3))
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.usefixtures("_small")
def test_heads_of_another_generator_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool._write(tmp_path, 1)
    monkeypatch.setattr(pool, "GENERATOR", pool.GENERATOR + 1)
    assert not pool._is_whole(pool.path_of(tmp_path, 1))
    with pytest.raises(ValueError, match="generator"):
        pool.read(pool.path_of(tmp_path, 1))


def test_processes_write_the_heads_of_the_seeds(tmp_path: Path) -> None:
    said: list[str] = []
    (path,) = pool.write_pool(tmp_path, [30], processes=1, report=said.append)
    head = pool.read(path)
    assert head.seed == 30
    assert head.hu_zyx.shape[1:] == (240, 208)
    assert said[-1] == "1 of 1 heads drawn"
    before = path.stat().st_mtime_ns
    assert pool.write_pool(tmp_path, [30], processes=1) == [path]
    assert path.stat().st_mtime_ns == before
