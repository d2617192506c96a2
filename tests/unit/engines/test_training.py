from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.cases import CasePool, TrainingCase
from engines.network import NetworkConfig
from engines.patches import draw_batch
from engines.training import TrainingOptions, load_network, train

OPTIONS = TrainingOptions(
    seed=5,
    steps=6,
    heads=3,
    validation_heads=1,
    network=NetworkConfig(widths=(4, 6), flat_levels=1),
    patch_zyx=(4, 32, 32),
    small_patch_zyx=(4, 16, 16),
    threads=1,
    processes=1,
    checkpoint_seconds=1e9,
)


def disc(seed: int) -> TrainingCase:
    """A dense disc with a denser one in it; every third has none."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :40]
    hu = np.full((6, 48, 40), -1000.0)
    brain = np.broadcast_to(np.hypot(y - 24, x - 20) < 17, hu.shape)
    hu[brain] = 35
    occupancy = np.zeros(hu.shape)
    if seed % 3:
        occupancy[1:4, 20:27, 14:21] = 1
    hu = hu + 30 * occupancy + rng.normal(0, 3, hu.shape)
    return TrainingCase(hu.astype(np.int16), occupancy, brain, (5.0, 1.0, 1.0))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(load_network(checkpoint)[0].state_dict())


class Stopped(Exception):
    pass


def test_a_training_that_was_cut_off_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    whole = train(disc, tmp_path / "whole", options=OPTIONS, report=lambda _: None)
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("look"):
            raise Stopped

    ticks = iter(np.arange(0, 1000, 0.5))
    impatient = TrainingOptions(**{**fields(OPTIONS), "checkpoint_seconds": 1.4})
    with pytest.raises(Stopped):
        train(disc, tmp_path / "cut", options=impatient, report=stop, clock=lambda: float(next(ticks)))
    resumed = train(disc, tmp_path / "cut", options=OPTIONS, resume=True, report=lines.append)
    assert any(line.startswith("resumed at step 3 ") for line in lines)
    assert (whole.steps, resumed.steps) == (6, 6)
    first, second = weights(whole.checkpoint), weights(resumed.checkpoint)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "cut" / "early_look.png").stat().st_size > 100


def fields(options: TrainingOptions) -> dict[str, object]:
    return {name: getattr(options, name) for name in options.__slots__}


def test_a_checkpoint_of_another_training_is_not_continued(tmp_path: Path) -> None:
    train(disc, tmp_path, options=TrainingOptions(**{**fields(OPTIONS), "steps": 1}), report=lambda _: None)
    other = TrainingOptions(**{**fields(OPTIONS), "seed": 6})
    with pytest.raises(ValueError, match="seed 5"):
        train(disc, tmp_path, options=other, resume=True, report=lambda _: None)


def test_the_schedule_ends_when_its_minutes_are_over(tmp_path: Path) -> None:
    ticks = iter(np.arange(0, 10_000, 6.0))
    options = TrainingOptions(**{**fields(OPTIONS), "steps": None, "minutes": 0.5})
    result = train(disc, tmp_path, options=options, report=lambda _: None, clock=lambda: float(next(ticks)))
    assert result.steps == 5
    assert result.minutes == pytest.approx(0.5)


def test_a_head_that_was_made_is_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def counting(seed: int) -> TrainingCase:
        made.append(seed)
        return disc(seed)

    CasePool(tmp_path, counting).fill([1, 2], processes=1, report=lambda _: None)
    pool = CasePool(tmp_path, counting)
    pool.fill([1, 2, 3], processes=1, report=lambda _: None)
    assert made == [1, 2, 3]
    case, expected = pool.load(2), disc(2)
    np.testing.assert_array_equal(case.hu_zyx, expected.hu_zyx)
    np.testing.assert_array_equal(case.occupancy_zyx >= 128, expected.occupancy_zyx >= 0.5)
    np.testing.assert_array_equal(case.intracranial_zyx, expected.intracranial_zyx)
    assert case.bleeding_slices.tolist() == [1, 2, 3]


def test_batches_come_from_seed_and_step_alone_and_bleeds_are_common(tmp_path: Path) -> None:
    pool = CasePool(tmp_path, disc)
    pool.fill(range(6), processes=1, report=lambda _: None)
    cases = [pool.load(seed) for seed in range(6)]
    first, again = (draw_batch(cases, shape_zyx=(4, 24, 24), batch=2, seed=1, step=9) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    bleeding = 0
    for step in range(40):
        inputs, targets = draw_batch(cases, shape_zyx=(4, 24, 24), batch=1, seed=1, step=step)
        assert inputs.shape == (1, 1, 4, 24, 24)
        assert targets.shape == (1, 2, 4, 24, 24)
        blood, brain = targets[0, 0] > 0.5, (inputs[0, 0] > -10) & (targets[0, 1] > 0.5)
        inner = (blood & ~brain)[:, 2:-2, 2:-2]  # turned patches fade into air at their border
        assert not inner.any()
        bleeding += bool(blood.any())
    assert 20 <= bleeding <= 36
