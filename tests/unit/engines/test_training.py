from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines import patches
from engines.cases import CasePool, PooledCase, TrainingCase
from engines.loss import haematoma_loss
from engines.networks.umamba import UMambaConfig
from engines.patches import brain_like, draw_batch
from engines.runtime import file_sha256
from engines.training import PAPER_PROTOCOL, TrainingOptions, load_network, train, with_intensities_of
from ichor.errors import CannotStart

NETWORK = UMambaConfig(
    patch_zyx=(4, 32, 32),
    features=(4, 6),
    kernels=((1, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (2, 2, 2)),
    blocks=(1, 1),
    decoder_blocks=(1,),
    stem_blocks=0,
    packed=True,
    outputs=2,
)
OPTIONS = TrainingOptions(
    seed=5, steps=6, network=NETWORK, small_patch_zyx=(4, 16, 16), precision="f32", threads=1, checkpoint_seconds=1e9
)


def disc(key: str) -> TrainingCase:
    """A dense disc with a denser one in it; every third has none."""
    seed = int(key)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :40]
    hu = np.full((6, 48, 40), -1000.0)
    brain = np.broadcast_to(np.hypot(y - 24, x - 20) < 17, hu.shape)
    hu[brain] = 35
    occupancy = np.zeros(hu.shape)
    if seed % 3:
        occupancy[1:4, 20:27, 14:21] = 1
    hu = hu + 30 * occupancy + rng.normal(0, 3, hu.shape)
    return TrainingCase(hu.astype(np.int16), occupancy, brain if seed != 4 else None, (5.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[PooledCase]:
    pool = CasePool(tmp_path_factory.mktemp("pool"), disc)
    keys = [str(seed) for seed in range(6)]
    pool.fill(keys, processes=1, report=silent)
    return [pool.load(key) for key in keys]


def silent(_: str) -> None:
    pass


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(load_network(checkpoint)[0].state_dict())


class Stopped(Exception):
    pass


def test_a_training_that_was_cut_off_ends_with_the_very_same_weights(cases: list[PooledCase], tmp_path: Path) -> None:
    whole = train(cases[:3], cases[4:5], tmp_path / "whole", options=OPTIONS, report=silent)
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("look"):
            raise Stopped

    ticks = iter(np.arange(0, 1000, 0.5))
    impatient = replace(OPTIONS, checkpoint_seconds=1.4)
    with pytest.raises(Stopped):
        train(cases[:3], cases[4:5], tmp_path / "cut", options=impatient, report=stop, clock=lambda: float(next(ticks)))
    resumed = train(cases[:3], cases[4:5], tmp_path / "cut", options=OPTIONS, resume=True, report=lines.append)
    assert any(line.startswith("resumed at step ") for line in lines)
    assert (whole.steps, resumed.steps) == (6, 6)
    first, second = weights(whole.checkpoint), weights(resumed.checkpoint)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "cut" / "early_look.png").stat().st_size > 100


def test_training_learns_what_is_denser(cases: list[PooledCase], tmp_path: Path) -> None:
    lines: list[str] = []
    options = replace(OPTIONS, steps=150, learning_rate=3e-2, ema_decay=0.8, small_patch_zyx=None)
    train(cases, cases[1:3], tmp_path, options=options, report=lines.append)
    (look,) = (line for line in lines if line.startswith("look"))
    scores = [float(word) for word in look.split(";")[0].split()[5:]]
    assert min(scores) > 0.4, look


def test_a_line_a_minute_tells_loss_and_dice_on_heads_that_are_not_trained_on(
    cases: list[PooledCase], tmp_path: Path
) -> None:
    lines: list[str] = []
    ticks = iter(np.arange(0, 1000, 10.0))
    train(cases[:3], cases[4:5], tmp_path, options=replace(OPTIONS, steps=20), report=lines.append,
          clock=lambda: float(next(ticks)))  # fmt: skip
    told = [line for line in lines if line.startswith("step ")]
    assert 3 <= len(told) <= 6
    assert all("dice" in line and "held-out Dice 0." in line for line in told)


def test_a_checkpoint_of_another_training_is_not_continued(cases: list[PooledCase], tmp_path: Path) -> None:
    train(cases, [], tmp_path, options=replace(OPTIONS, steps=1), report=silent)
    with pytest.raises(CannotStart, match="seed 5"):
        train(cases, [], tmp_path, options=replace(OPTIONS, seed=6), resume=True, report=silent)


def test_a_training_goes_on_with_its_own_options_and_cases_only(cases: list[PooledCase], tmp_path: Path) -> None:
    once = replace(OPTIONS, steps=1)
    train(cases, [], tmp_path, options=once, report=silent)
    for other, told in (
        (replace(once, learning_rate=9e-3, batch=3), "batch .*, not 3; learning_rate .*, not 0.009"),
        (replace(once, optimizer="sgd"), "optimizer 'adamw', not 'sgd'"),
        (replace(once, steps=2), "steps 1, not 2"),
    ):
        with pytest.raises(CannotStart, match=told):
            train(cases, [], tmp_path, options=other, resume=True, report=silent)
    for others in (cases[1:], list(reversed(cases))):
        with pytest.raises(CannotStart, match="other cases"):
            train(others, [], tmp_path, options=once, resume=True, report=silent)
    train(cases, [], tmp_path, options=replace(once, checkpoint_seconds=1.0), resume=True, report=silent)


@pytest.mark.parametrize(
    "foreign",
    [b"no checkpoint", {"seed": 5, "network_config": {"depth": 2, "heads": 1}}, {"seed": 5}, [1, 2], torch.zeros(3)],
    ids=["text", "another network", "less", "a list", "a tensor"],
)
def test_what_is_no_checkpoint_of_this_network_is_refused(
    foreign: object, cases: list[PooledCase], tmp_path: Path
) -> None:
    if isinstance(foreign, bytes):
        (tmp_path / "checkpoint.pt").write_bytes(foreign)
    else:
        torch.save(foreign, tmp_path / "checkpoint.pt")
    with pytest.raises(CannotStart, match=r"checkpoint\.pt is of another training"):
        train(cases, [], tmp_path, options=OPTIONS, resume=True, report=silent)


def test_a_training_begins_with_the_weights_of_another_and_goes_on_as_itself(
    cases: list[PooledCase], tmp_path: Path
) -> None:
    first = train(cases, [], tmp_path / "first", options=replace(OPTIONS, steps=2), report=silent).checkpoint
    before = torch.load(first, weights_only=True)["ema"]
    still = replace(OPTIONS, steps=1, learning_rate=0.0, elusive=20.0)
    train(cases, [], tmp_path / "second", options=still, begin=first, report=silent)
    after = torch.load(tmp_path / "second" / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(before[name], after["ema"][name]) for name in before)
    assert after["options"]["begun_from"] == file_sha256(first)
    train(cases, [], tmp_path / "second", options=still, begin=first, resume=True, report=silent)
    with pytest.raises(CannotStart, match="begun_from"):
        train(cases, [], tmp_path / "second", options=still, resume=True, report=silent)


def test_weights_to_begin_with_must_be_of_the_same_network(cases: list[PooledCase], tmp_path: Path) -> None:
    first = train(cases, [], tmp_path / "first", options=replace(OPTIONS, steps=1), report=silent).checkpoint
    other = replace(OPTIONS, network=replace(NETWORK, mamba="none"))
    with pytest.raises(CannotStart, match="of another network"):
        train(cases, [], tmp_path / "second", options=other, begin=first, report=silent)
    tensor = tmp_path / "tensor.pt"
    torch.save(torch.zeros(3), tensor)
    first.write_bytes(b"no checkpoint")
    for begin in (first, tmp_path / "nowhere.pt", tensor):
        with pytest.raises(CannotStart, match="no checkpoint to begin with"):
            train(cases, [], tmp_path / "second", options=OPTIONS, begin=begin, report=silent)


def test_a_refinement_that_was_cut_off_ends_with_the_very_same_weights(
    cases: list[PooledCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "LEAST_SETTLED", 20)
    first = train(cases, [], tmp_path / "first", options=replace(OPTIONS, steps=1), report=silent).checkpoint
    refined = replace(OPTIONS, small_patch_zyx=None, elusive=20.0, settled=0.5)

    def refine(name: str, options: TrainingOptions, **how: Any) -> dict[str, torch.Tensor]:
        return weights(train(cases, cases[4:5], tmp_path / name, options=options, begin=first, **how).checkpoint)

    def stop(line: str) -> None:
        if line.startswith("look"):
            raise Stopped

    whole = refine("whole", refined, report=silent)
    ticks = iter(np.arange(0, 1000, 0.5))
    with pytest.raises(Stopped):
        refine("cut", replace(refined, checkpoint_seconds=1.4), report=stop, clock=lambda: float(next(ticks)))
    resumed = refine("cut", refined, resume=True, report=silent)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    for other in (replace(refined, settled=0.0), replace(refined, elusive=0.0)):
        apart = refine(f"other {other.settled}", other, report=silent)
        assert not all(torch.equal(whole[name], apart[name]) for name in whole)
        with pytest.raises(CannotStart, match=r"elusive|settled"):
            refine("cut", other, resume=True, report=silent)


def test_a_bleed_settles_within_its_outline_and_to_the_back_more_often_than_not() -> None:
    _, y, x = np.mgrid[:6, :40, :40]
    occupancy = (np.hypot(y - 20, x - 18) < 9).astype(np.float32)
    occupancy[:, :2, :2] = 1  # too small for a level
    whole = patches.Patch((35 + 30 * occupancy).astype(np.float32), occupancy, np.ones_like(occupancy))
    blood = (occupancy > 0.5) & (y > 5)
    to_the_back = through_slices = 0
    for seed in range(100):
        settled = patches._settle(whole, np.random.default_rng(seed))
        lower = whole.hu_zyx - settled.hu_zyx
        assert np.array_equal(settled.occupancy_zyx, occupancy)
        assert not lower[~blood].any()
        assert 11 < lower.max() <= 28
        pale = lower > lower.max() / 2
        assert 0.1 < pale[blood].mean() < 0.9
        to_the_back += bool(y[pale].mean() < y[blood & ~pale].mean())
        through_slices += bool(pale[0].sum() != pale[-1].sum())
    assert 60 <= to_the_back <= 90  # half are levels, and half of the others point that way
    assert 35 <= through_slices <= 65
    small = patches.Patch(whole.hu_zyx[:, :5], occupancy[:, :5], np.ones_like(occupancy[:, :5]))
    assert patches._settle(small, np.random.default_rng(1)) is small


def test_what_looks_like_brain_is_drawn_more_often(cases: list[PooledCase]) -> None:
    shares = [brain_like(case) for case in cases]
    assert all(0 <= share < 0.05 for share in shares)
    bleeding = [case for case in cases if case.bleeding_slices.size]
    pale = replace(bleeding[1], hu_zyx=np.where(bleeding[1].hu_zyx > 50, 38, bleeding[1].hu_zyx).astype(np.int16))
    assert brain_like(pale) == 1.0
    known = [bleeding[0], pale]

    def pale_ones(weights: list[float] | None) -> int:
        batch = draw_batch(known, shape_zyx=(4, 24, 24), batch=200, seed=1, step=0, weights=weights)
        return sum(float(i[0][t[0] > 0.9].median()) < 50 for i, t in zip(*batch, strict=True) if (t[0] > 0.9).any())

    assert pale_ones([1 + 6 * brain_like(case) for case in known]) > 1.25 * pale_ones(None)


def test_fluid_levels_are_drawn_into_their_share_of_patches(
    cases: list[PooledCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[patches.Patch] = []

    def settle(patch: patches.Patch, _: np.random.Generator) -> patches.Patch:
        settled.append(patch)
        return patch

    monkeypatch.setattr(patches, "_settle", settle)
    draw_batch(cases, shape_zyx=(4, 16, 16), batch=300, seed=1, step=0, settled=0.2)
    assert 35 < len(settled) < 90


def test_a_checkpoint_of_before_an_option_goes_on_without_it(cases: list[PooledCase], tmp_path: Path) -> None:
    once = replace(OPTIONS, steps=1)
    path = train(cases, [], tmp_path, options=once, report=silent).checkpoint
    state = torch.load(path, weights_only=True)
    for later in ("elusive", "settled", "begun_from"):
        del state["options"][later]
    torch.save(state, path)
    with pytest.raises(CannotStart, match=r"settled 0\.0, not 0\.5"):
        train(cases, [], tmp_path, options=replace(once, settled=0.5), resume=True, report=silent)
    train(cases, [], tmp_path, options=once, resume=True, report=silent)


def test_the_schedule_ends_when_its_minutes_are_over(cases: list[PooledCase], tmp_path: Path) -> None:
    ticks = iter(np.arange(0, 10_000, 6.0))
    options = replace(OPTIONS, steps=None, minutes=0.5)
    result = train(cases, [], tmp_path, options=options, report=silent, clock=lambda: float(next(ticks)))
    assert result.steps < 6
    assert result.minutes >= 0.5


def test_a_step_that_bfloat16_cannot_take_is_taken_in_float32(
    cases: list[PooledCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines import training

    run = training._Run.begin(replace(OPTIONS, precision="bf16"))
    inputs, targets = draw_batch(cases, shape_zyx=(4, 32, 32), batch=1, seed=1, step=0)
    real = training._Run._gradient
    tried: list[str] = []

    def failing(self: training._Run, inputs: torch.Tensor, targets: torch.Tensor, *, precision: str) -> Any:
        tried.append(precision)
        return None if precision == "bf16" else real(self, inputs, targets, precision=precision)

    monkeypatch.setattr(training._Run, "_gradient", failing)
    run.descend(inputs, targets)
    assert tried == ["bf16", "f32"]
    assert run.repeated == 1
    assert all(torch.isfinite(p).all() for p in run.network.parameters())


def test_the_papers_protocol_trains_a_network_with_deep_supervision(cases: list[PooledCase], tmp_path: Path) -> None:
    network = replace(NETWORK, packed=False, outputs=1, zscore=(0.0, 1.0, 0.0, 1.0), deep_supervision=True)
    network = with_intensities_of(network, cases)
    assert network.zscore is not None
    low, high, mean, spread = network.zscore
    assert 50 < low < 62 < mean < 68 < high < 80
    assert 2 < spread < 4
    options = TrainingOptions(**{**PAPER_PROTOCOL, "steps": 2}, seed=1, network=network, precision="f32", threads=1)
    result = train(cases, cases[1:2], tmp_path, options=options, report=silent)
    state = torch.load(result.checkpoint, weights_only=True)
    assert all(torch.equal(state["ema"][name], state["network"][name]) for name in state["ema"])
    group = state["optimizer"]["param_groups"][0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.99, True, 3e-5)
    assert group["lr"] == pytest.approx(1e-3 * 0.5**0.9)


def test_what_is_not_known_to_be_inside_the_skull_does_not_count() -> None:
    logits, targets = torch.randn(1, 2, 2, 8, 8), torch.zeros(1, 2, 2, 8, 8)
    targets[:, 1] = -1
    assert haematoma_loss(logits, targets).intracranial == 0
    targets[:, 1, 0] = 1
    half = haematoma_loss(logits, targets).intracranial
    other = logits.clone()
    other[:, 1, 1] = 50.0
    assert haematoma_loss(other, targets).intracranial == pytest.approx(half)


def test_a_head_that_was_made_is_not_made_again(tmp_path: Path) -> None:
    made: list[str] = []

    def counting(key: str) -> TrainingCase:
        made.append(key)
        return disc(key)

    CasePool(tmp_path, counting).fill(["1", "2"], processes=1, report=silent)
    pool = CasePool(tmp_path, counting)
    pool.fill(["1", "2", "3"], processes=1, report=silent)
    assert made == ["1", "2", "3"]
    case, expected = pool.load("2"), disc("2")
    np.testing.assert_array_equal(case.hu_zyx, expected.hu_zyx)
    np.testing.assert_array_equal(case.occupancy_zyx >= 128, expected.occupancy_zyx >= 0.5)
    np.testing.assert_array_equal(case.intracranial_zyx, expected.intracranial_zyx)
    assert case.bleeding_slices.tolist() == [1, 2, 3]


def test_batches_come_from_seed_and_step_alone_and_bleeds_are_common(cases: list[PooledCase]) -> None:
    known = [case for case in cases if case.key != "4"]
    first, again = (draw_batch(known, shape_zyx=(4, 24, 24), batch=2, seed=1, step=9) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    bleeding = 0
    for step in range(40):
        inputs, targets = draw_batch(known, shape_zyx=(4, 24, 24), batch=1, seed=1, step=step)
        assert inputs.shape == (1, 1, 4, 24, 24)
        assert targets.shape == (1, 2, 4, 24, 24)
        blood, brain = targets[0, 0] > 0.5, (inputs[0, 0] > -10) & (targets[0, 1] > 0.5)
        inner = (blood & ~brain)[:, 2:-2, 2:-2]  # turned patches fade into air at their border
        assert not inner.any()
        bleeding += bool(blood.any())
    assert 20 <= bleeding <= 36


def test_patches_of_a_case_without_a_skull_label_say_so(cases: list[PooledCase]) -> None:
    _, targets = draw_batch([cases[4]], shape_zyx=(4, 24, 24), batch=8, seed=1, step=0)
    # 0 beyond the scan and at edges that were cut off.
    assert set(torch.unique(targets[:, 1]).tolist()) == {-1.0, 0.0}
