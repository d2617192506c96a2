from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engines import expansion_pool
from engines.cases import make_missing
from engines.expansion_crops import MARGIN_MM, SIZE, crop_place, cut
from engines.expansion_pool import SIGNS, LabelledBleed, around_largest, crops, varied_crops
from engines.expansion_training import (
    PAPER_PROTOCOL,
    ExpansionOptions,
    _any,
    _chances,
    _cross_entropy,
    _Judge,
    _mean,
    _steps,
    draw,
    load_expansion,
    probability,
    train_expansion,
)
from engines.networks.vit import ViTConfig
from engines.runtime import file_sha256
from ichor.errors import CannotStart

TINY = ViTConfig(size=SIZE, patch=56, depth=1, width=16, heads=2, hidden=16)
OPTIONS = ExpansionOptions(
    seed=3, steps=4, network=TINY, batch=4, precision="f32", threads=1, checkpoint_seconds=1e9, warm_up=0
)


def bleed(seed: int) -> LabelledBleed:
    """An ellipse; those that expand are less dense."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:60, :70]
    mask = np.stack([np.hypot((y - 30) / a, (x - 36) / (1.5 * a)) < 1 for a in (5, 8, 10, 9, 4)])
    hu = 30 + np.where(mask, 22.0 if seed % 2 else 45.0, 0.0) + rng.normal(0, 2, mask.shape)
    signs = np.full(len(SIGNS), np.nan, np.float32)
    signs[0] = seed % 2
    return LabelledBleed(
        hu_zyx=hu.astype(np.int16),
        mask_zyx=mask,
        spacing_yx_mm=(0.5, 0.5),
        expands=bool(seed % 2),
        probability=0.9 if seed % 2 else 0.1,
        signs=signs,
    )


def lopsided(seed: int) -> LabelledBleed:
    """One with an island far off in a corner, plain to see."""
    one = bleed(seed)
    mask = one.mask_zyx.copy()
    mask[:, 5:9, 5:12] = True
    return replace(one, hu_zyx=np.where(mask, 70, 10).astype(np.int16), mask_zyx=mask)


def silent(_: str) -> None:
    pass


def test_the_crop_is_a_square_around_the_three_slices_of_the_largest_area() -> None:
    one = bleed(0)
    place = crop_place(one.mask_zyx, spacing_yx_mm=(0.5, 0.5))
    assert place is not None
    assert place.slices == (1, 2, 3)
    assert place.centre_yx == pytest.approx((15, 18))
    assert place.side == pytest.approx(2 * 10 * 1.5 * 0.5 + 2 * MARGIN_MM, abs=1)
    found = cut(one.hu_zyx, place, spacing_yx_mm=(0.5, 0.5))
    assert found.shape == (3, 1, SIZE, SIZE)
    middle = found[1, 0, SIZE // 2 - 5 : SIZE // 2 + 5, SIZE // 2 - 5 : SIZE // 2 + 5]
    assert middle.mean() == pytest.approx(75, abs=2)
    dense = found[1, 0] > 55
    rows, columns = np.flatnonzero(dense.any(axis=1)), np.flatnonzero(dense.any(axis=0))
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(SIZE / 2, abs=2)
    assert (columns[-1] - columns[0] + 1) * place.side / SIZE == pytest.approx(15, abs=1)


def test_fewer_than_three_contiguous_slices_cannot_be_judged() -> None:
    mask = bleed(0).mask_zyx.copy()
    mask[[0, 3]] = False
    assert crop_place(mask, spacing_yx_mm=(0.5, 0.5)) is None
    assert crop_place(np.zeros_like(mask), spacing_yx_mm=(0.5, 0.5)) is None
    assert around_largest(bleed(0).hu_zyx, mask, spacing_yx_mm=(0.5, 0.5)) is None


def test_where_the_largest_area_is_at_the_end_the_middle_is_its_neighbour() -> None:
    mask = bleed(0).mask_zyx[:3]
    place = crop_place(mask, spacing_yx_mm=(0.5, 0.5))
    assert place is not None
    assert place.slices == (0, 1, 2)


def test_what_is_kept_of_a_scan_gives_the_same_crops_as_the_scan(tmp_path: Path) -> None:
    one = bleed(1)
    hu = np.full((9, 200, 220), 5, np.int16)
    mask = np.zeros(hu.shape, bool)
    hu[2:7, 70:130, 80:150], mask[2:7, 70:130, 80:150] = one.hu_zyx, one.mask_zyx
    part = around_largest(hu, mask, spacing_yx_mm=(0.5, 0.5))
    assert part is not None
    assert part[0].size < hu.size / 5
    kept = replace(one, hu_zyx=part[0], mask_zyx=part[1])
    expansion_pool.make(lambda _: kept, "a", tmp_path / "a.npz")
    back = expansion_pool.read(tmp_path / "a.npz")
    assert back is not None
    place = crop_place(mask, spacing_yx_mm=(0.5, 0.5))
    assert place is not None
    np.testing.assert_allclose(crops(back), cut(hu, place, spacing_yx_mm=(0.5, 0.5)), atol=1e-3)
    assert (back.expands, back.probability, back.signs[0]) == (True, 0.9, 1.0)
    expansion_pool.make(lambda _: None, "b", tmp_path / "b.npz")
    assert expansion_pool.read(tmp_path / "b.npz") is None


def test_what_is_made_is_not_made_again(tmp_path: Path) -> None:
    made: list[str] = []

    def source(key: str, path: Path) -> None:
        made.append(key)
        path.write_text("")

    paths = {key: tmp_path / key for key in ("1", "2")}
    make_missing(source, paths, 1, silent)
    make_missing(source, {**paths, "3": tmp_path / "3"}, 1, silent)
    assert made == ["1", "2", "3"]


def test_varied_crops_differ_but_still_show_the_haematoma() -> None:
    one = bleed(0)
    first, second = (varied_crops(one, np.random.default_rng(seed))[0] for seed in (0, 1))
    assert first.shape == (1, 1, SIZE, SIZE)
    assert not np.array_equal(first, second)
    for seed in range(20):
        crop, _ = varied_crops(one, np.random.default_rng(seed))
        assert np.median(crop[0, 0, 90:134, 90:134]) > 45


def test_three_crops_together_are_neighbours_turned_and_varied_alike() -> None:
    """Each slice has a spot off its middle and a density of its own."""
    one = bleed(0)
    hu = np.where(one.mask_zyx, 50, 20) + 10 * np.arange(5)[:, None, None]
    hu[:, 26:30, 44:48] += 100
    marked = replace(one, hu_zyx=hu.astype(np.int16))
    places, steps = set(), set()
    for seed in range(20):
        three, _ = varied_crops(marked, np.random.default_rng(seed), together=True)
        assert three.shape == (3, 1, SIZE, SIZE)
        spots = [np.argwhere(crop[0] > crop[0].max() - 40).mean(axis=0) for crop in three]
        assert np.allclose(spots, spots[0], atol=2)
        below, middle, above = (float(np.median(crop[0, 104:120, 104:120])) for crop in three)
        assert middle - below == pytest.approx(above - middle, abs=1)
        places.add(tuple(np.sign(spots[0] - SIZE / 2)))
        steps.add(round(middle - below, 2))
    assert len(places) > 2
    assert len(steps) > 5


@pytest.mark.parametrize("together", [False, True])
def test_an_outline_lies_where_the_crop_shows_the_haematoma(together: bool) -> None:
    """However it was turned and mirrored: a haematoma off the middle of its crop, for the mask has an island."""
    for seed in range(20):
        crop, outline = varied_crops(lopsided(0), np.random.default_rng(seed), together=together, density=0.0)
        assert outline.shape == (3 if together else 1, 56, 56)
        assert 0.01 < outline.mean() < 0.6
        cells = crop.reshape(-1, 56, 4, 56, 4).mean(axis=(2, 4))
        inside, outside = cells[outline > 0.99], cells[outline < 0.01]
        assert inside.min() > 50
        assert outside.max() < 30


def test_haematomas_drawn_together_keep_to_the_batch_and_their_signs() -> None:
    bleeds = [bleed(seed) for seed in range(4)]
    options = replace(OPTIONS, batch=13, together=True)
    drawn = draw(bleeds, None, options=options, step=0)
    assert drawn.crops.shape == (4, 3, 1, SIZE, SIZE)
    assert (drawn.targets.shape, drawn.signs.shape) == ((4,), (4, len(SIGNS)))
    assert drawn.outlines.shape == (4, 3, 56, 56)
    assert draw(bleeds, None, options=replace(options, together=False), step=0).crops.shape == (13, 1, 1, SIZE, SIZE)


def test_without_variation_of_density_a_haematoma_keeps_its_own() -> None:
    one = bleed(0)
    own = np.median(crops(one)[1, 0, 90:134, 90:134])
    for seed in range(20):
        three, _ = varied_crops(one, np.random.default_rng(seed), together=True, density=0.0)
        assert np.median(three[1, 0, 90:134, 90:134]) == pytest.approx(own, abs=3)


def test_slices_together_are_judged_by_their_mean_and_a_sign_may_lie_on_any() -> None:
    logits = torch.tensor([[-4.0, 0.5, 3.0], [-60.0, 40.0, -60.0]])
    p = torch.sigmoid(logits)
    yes, no = _mean(logits)
    assert torch.allclose(yes.exp(), p.mean(1))
    assert torch.allclose(no.exp(), 1 - p.mean(1))
    yes, no = _any(logits)
    assert torch.allclose(yes.exp(), 1 - (1 - p).prod(1))
    assert torch.allclose(no.exp(), (1 - p).prod(1))


@pytest.mark.parametrize("logit", [-60.0, -20.0, 20.0, 60.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_what_is_wrong_however_far_is_pulled_back(logit: float, target: float) -> None:
    for of in (_mean, _any):
        logits = torch.full((1, 3), logit, requires_grad=True)
        _cross_entropy(*of(logits), torch.tensor([target])).sum().backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        assert bool(torch.isfinite(logits.grad).all())
        if (logit > 0) != (target > 0):
            assert float(logits.grad.abs().min()) > 0.1


@pytest.mark.parametrize("kind", ["mean", "any"])
def test_of_one_slice_it_is_the_usual_cross_entropy(kind: str) -> None:
    logits, target = torch.tensor([[-3.0], [0.0], [2.0]]), torch.tensor([0.0, 0.3, 1.0])
    ours = _cross_entropy(*(_mean if kind == "mean" else _any)(logits), target)
    usual = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
    assert torch.allclose(ours, usual, atol=1e-6)


def test_a_training_that_was_cut_off_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    bleeds = [bleed(seed) for seed in range(6)]
    whole = train_expansion(bleeds, bleeds[:4], tmp_path / "whole", options=OPTIONS, report=silent)

    def stop(line: str) -> None:
        if line.startswith("look"):
            raise InterruptedError

    ticks = iter(np.arange(0, 1000, 0.5))
    with pytest.raises(InterruptedError):
        train_expansion(bleeds, bleeds[:4], tmp_path / "cut", options=replace(OPTIONS, checkpoint_seconds=0.9),
                        report=stop, clock=lambda: float(next(ticks)))  # fmt: skip
    resumed = train_expansion(bleeds, bleeds[:4], tmp_path / "cut", options=OPTIONS, resume=True, report=silent)
    assert (whole.steps, resumed.steps) == (4, 4)
    first, second = (load_expansion(one.checkpoint)[0].state_dict() for one in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("together", [False, True])
def test_training_learns_which_ones_expand(together: bool, tmp_path: Path) -> None:
    lines: list[str] = []
    bleeds = [bleed(seed) for seed in range(8)]
    options = replace(
        OPTIONS, steps=100, learning_rate=5e-3, ema_decay=0.8, together=together, batch=12 if together else 4
    )
    result = train_expansion(bleeds, [bleed(seed) for seed in range(20, 28)], tmp_path, options=options,
                             report=lines.append)  # fmt: skip
    assert "AUC 1.000" in lines[-1], lines[-1]
    network, facts = load_expansion(result.checkpoint)
    assert facts["step"] == 100
    assert probability(network, bleed(31)) > 0.6 > probability(network, bleed(30))


@pytest.mark.parametrize("config", [{"features": [4, 6]}, {**asdict(TINY), "depth": 3}])
def test_a_checkpoint_of_another_training_is_not_continued(config: dict[str, object], tmp_path: Path) -> None:
    torch.save({"seed": OPTIONS.seed, "network_config": config}, tmp_path / "checkpoint-expansion.pt")
    with pytest.raises(CannotStart, match=r"checkpoint-expansion\.pt is of another training"):
        train_expansion([bleed(0), bleed(1)], [], tmp_path, options=OPTIONS, resume=True, report=silent)


def test_a_corrected_outcome_is_another_training(tmp_path: Path) -> None:
    once = replace(OPTIONS, steps=1)
    bleeds = [bleed(0), bleed(1), bleed(2)]
    train_expansion(bleeds, [], tmp_path, options=once, report=silent)
    with pytest.raises(CannotStart, match="learning_rate"):
        train_expansion(bleeds, [], tmp_path, options=replace(once, learning_rate=1.0), resume=True, report=silent)
    corrected = [*bleeds[:2], replace(bleeds[2], expands=not bleeds[2].expands)]
    with pytest.raises(CannotStart, match="other cases"):
        train_expansion(corrected, [], tmp_path, options=once, resume=True, report=silent)


def test_one_outcome_alone_cannot_be_learned(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="both outcomes"):
        train_expansion([bleed(0), bleed(2)], [], tmp_path, options=OPTIONS, report=silent)


def test_the_papers_protocol_balances_classes_one_to_two_over_a_hundred_epochs() -> None:
    bleeds = [bleed(seed) for seed in (0, 2, 4, 6, 8, 10, 1)]
    options = ExpansionOptions(**PAPER_PROTOCOL, network=TINY)
    chance = _chances(bleeds, options.negatives_per_positive)
    assert chance.sum() == pytest.approx(1)
    assert chance[-1] == pytest.approx(1 / 3)
    assert _steps(options, 2206) == 100 * 26
    drawn = draw(bleeds, chance, options=replace(options, batch=90), step=0)
    assert 15 <= int((drawn.targets > 0.5).sum()) <= 45


def test_a_judge_begins_with_the_weights_of_another_and_goes_on_as_itself(tmp_path: Path) -> None:
    bleeds = [bleed(seed) for seed in range(4)]
    first = train_expansion(bleeds, [], tmp_path / "first", options=OPTIONS, report=silent).checkpoint
    before = torch.load(first, weights_only=True)["ema"]
    still = replace(OPTIONS, steps=1, learning_rate=0.0, least_rate=0.0)
    second = tmp_path / "second"
    train_expansion(bleeds, [], second, options=still, begin=first, report=silent)
    after = torch.load(second / first.name, weights_only=True)
    assert all(torch.equal(before[name], after["ema"][name]) for name in before)
    assert after["options"]["begun_from"] == file_sha256(first)
    with pytest.raises(CannotStart, match="begun_from"):
        train_expansion(bleeds, [], second, options=still, resume=True, report=silent)
    other = replace(OPTIONS, network=replace(TINY, depth=2))
    with pytest.raises(CannotStart, match="of another network"):
        train_expansion(bleeds, [], second, options=other, begin=first, report=silent)


def test_an_outline_is_learned_cell_by_cell(tmp_path: Path) -> None:
    """Of what is turned and mirrored anew each time: neither their mean nor a picture with its axes swapped would do."""
    options = replace(OPTIONS, steps=300, learning_rate=5e-3, ema_decay=0.8, outline_weight=1.0, signs_weight=0.0)
    lines: list[str] = []
    train_expansion([lopsided(0), lopsided(1)], [], tmp_path, options=options, report=lines.append)
    judge = _Judge(TINY)
    judge.load_state_dict(torch.load(tmp_path / "checkpoint-expansion.pt", weights_only=True)["ema"])
    drawn = [varied_crops(lopsided(0), np.random.default_rng(seed)) for seed in range(40)]
    outlines = np.stack([outline for _, outline in drawn])
    with torch.inference_mode():
        _, _, cells = judge(torch.from_numpy(np.stack([hu for hu, _ in drawn])))

    def wrong(told: np.ndarray) -> float:
        return float(np.square(told - outlines).mean())

    told = torch.sigmoid(cells).numpy()
    assert wrong(told) < 0.5 * wrong(outlines.mean(axis=0, keepdims=True))
    assert wrong(told) < 0.5 * wrong(told.swapaxes(2, 3))
    assert all("outline" in line for line in lines if line.startswith("step"))


def test_a_judge_with_residual_blocks_begins_with_one_without_them_and_with_none_that_lacks_more(
    tmp_path: Path,
) -> None:
    bleeds = [bleed(seed) for seed in range(4)]
    plain = replace(TINY, stem=(4,))
    first = train_expansion(bleeds, [], tmp_path, options=replace(OPTIONS, network=plain), report=silent).checkpoint
    state = torch.load(first, weights_only=True)
    without = {name: values for name, values in state["ema"].items() if not name.startswith("outline.")}
    torch.save(state | {"ema": without}, first)  # as before judges were asked for outlines
    still = replace(
        OPTIONS,
        network=replace(plain, residual=(1,)),
        steps=1,
        learning_rate=0.0,
        least_rate=0.0,
        together=True,
        batch=3,
    )
    train_expansion(bleeds, [], tmp_path / "grown", options=still, begin=first, report=silent)
    grown, _ = load_expansion(tmp_path / "grown" / first.name)
    assert probability(grown, bleeds[0]) == pytest.approx(probability(load_expansion(first)[0], bleeds[0]), abs=1e-6)
    del without["network.head.weight"]
    torch.save(state | {"ema": without}, first)
    with pytest.raises(CannotStart, match="no checkpoint to begin with"):
        train_expansion(bleeds, [], tmp_path / "lacking", options=still, begin=first, report=silent)
