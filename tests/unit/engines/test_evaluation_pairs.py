"""Pairs of phantoms as `ichor evaluate` has them compared, with the true outlines in place of a network's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ichor.arrays import Volume
from ichor.cli import evaluation_pairs
from ichor.errors import Unreadable
from phantoms.head import Head, sample


class Truth:
    """Outlines what was drawn; where `half`, only the lower half of it in a follow-up."""

    name, sha256, description = "haematoma-phantom", "0" * 64, "the truth, for tests"

    def __init__(self, *, half: bool = False, blind: bool = False) -> None:
        self.drawn: list[Head] = []
        self.half, self.blind = half, blind

    def sample(self, *arguments: Any, **options: Any) -> Head:
        self.drawn.append(sample(*arguments, **options))
        return self.drawn[-1]

    def segment(self, volume: Volume) -> np.ndarray:
        if self.blind:
            raise Unreadable("too dark")
        (k,) = (k for k, head in enumerate(self.drawn) if head.hu_zyx is volume.array)
        probability = (self.drawn[k].mask_zyx > 0).astype(np.float32)
        if self.half and k % 2:
            used = np.flatnonzero(probability.any(axis=(1, 2)))
            probability[used[len(used) // 2] :] = 0
        return probability


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_pairs, "MATRIX", 128)
    monkeypatch.setattr(evaluation_pairs, "SLICES", (33, 36))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("half", [False, True])
def test_growth_is_told_as_far_as_the_outlines_are_right(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Truth(half=half)
    monkeypatch.setattr(evaluation_pairs, "sample", truth.sample)
    (pair,) = evaluation_pairs.phantom_pairs(truth, count=1)
    first, later = truth.drawn
    assert pair.refusal is None
    assert pair.true_ml == pytest.approx(
        sum(v.volume_ml for v in later.lesions) - sum(v.volume_ml for v in first.lesions)
    )
    assert pair.true_before_ml > 2.5
    assert pair.within is not half
    assert first.grid.thickness_mm[0] != later.grid.thickness_mm[0]
    moved = np.subtract(first.lesions[0].centre_lps_mm, later.lesions[0].centre_lps_mm)
    assert np.linalg.norm(moved) > 1


@pytest.mark.usefixtures("small")
def test_a_scan_that_cannot_be_measured_is_a_pair_without_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = Truth(blind=True)
    monkeypatch.setattr(evaluation_pairs, "sample", truth.sample)
    (pair,) = evaluation_pairs.phantom_pairs(truth, count=1)
    assert (pair.told_ml, pair.refusal, pair.within) == (None, "too dark", False)
