"""Growth since an earlier CT: against the truth of phantoms, by the rule, and refused where it cannot be told."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from unit.pipelines.heads import HEAD_FIRST, Ball, Layout, ThresholdEngine, head, no_timing

from ichor.arrays import Volume
from ichor.pipeline import Compared, Examined
from ichor.types import Findings
from phantoms.bleeds import Bleed
from phantoms.ct_study import study_grid
from phantoms.follow_up import followed_up
from phantoms.head import Head, HeadModel, sample
from pipelines.follow_up import TRACKING_ID, compare
from pipelines.growth import Growth
from pipelines.haematoma import MODEL, run

CENTRE = (35.0, -10.0, 20.0)
FINE = Layout(rows=224, columns=192, spacing=(1.0, 1.0), z=tuple(np.arange(-65.0, 90.0, 2.5)))


def examined(volume: Volume, engine: ThresholdEngine | None = None) -> Examined:
    return Examined(findings=run({"ncct_head": volume}, {MODEL: engine or ThresholdEngine()}, no_timing), volume=volume)


@cache
def ball(*radii: float, layout: Layout = HEAD_FIRST, turn_deg: float = 0.0) -> Examined:
    """A head with balls of blood: the first at `CENTRE`, the second on the other side."""
    places = (CENTRE, (-38.0, 0.0, 20.0))
    blood: list[Ball] = [(place, r) for place, r in zip(places, radii, strict=False) if r > 0]
    return examined(head(layout, blood=blood, turn_deg=turn_deg))


def numbers(findings: Findings) -> dict[str, float]:
    return {m.name: m.value for m in findings.measurements}


def said(compared: Compared) -> list[str]:
    (group,) = [g for g in compared.findings.groups if g.tracking_id == TRACKING_ID]
    return [statement.text for statement in group.statements]


@pytest.mark.parametrize(
    ("before", "now", "expansion"),
    [
        (30.0, 36.0, False), (30.0, 36.1, True), (10.0, 13.29, False), (10.0, 13.4, True), (0.0, 5.9, False),
        (0.0, 6.1, True), (30.0, 10.0, False),
    ],
)  # fmt: skip
def test_expansion_is_more_than_6_ml_or_more_than_33_percent(before: float, now: float, expansion: bool) -> None:
    assert Growth(before=before, now=now).expansion is expansion


def test_growth_is_the_difference_of_what_each_scan_has_by_itself() -> None:
    now, then = ball(19.0), ball(16.0)
    compared = compare(now, then, hours=6.25)
    ml = numbers(now.findings)["haematoma_volume"] - numbers(then.findings)["haematoma_volume"]
    told = numbers(compared.findings)
    assert told["haematoma_growth"] == pytest.approx(ml)
    assert told["haematoma_growth_percent"] == pytest.approx(100 * ml / numbers(then.findings)["haematoma_volume"])
    assert compared.findings.summary[1].startswith("Expansion by the rule")
    assert "6.2 h earlier" in compared.findings.summary[1]
    assert said(compared)[0].startswith("expansion: yes (rule: growth by more than 6 mL or more than 33 %")
    assert {name: told[name] for name in numbers(now.findings)} == numbers(now.findings)


def test_what_stays_as_it_was_is_no_expansion() -> None:
    compared = compare(ball(16.0, turn_deg=0.0), ball(16.0), hours=24.0)
    assert numbers(compared.findings)["haematoma_growth"] == pytest.approx(0.0)
    assert said(compared)[0].startswith("expansion: no")


def test_a_haematoma_that_is_new_has_no_percentage() -> None:
    compared = compare(ball(16.0), ball(), hours=5.0)
    told = numbers(compared.findings)
    assert "haematoma_growth_percent" not in told
    assert told["haematoma_growth"] == pytest.approx(told["haematoma_volume"])
    assert "Haematoma 1 is new" in said(compared)


def test_one_that_is_gone_is_said() -> None:
    compared = compare(ball(), ball(16.0), hours=5.0)
    assert numbers(compared.findings)["haematoma_growth_percent"] == pytest.approx(-100.0)
    assert [text for text in said(compared) if text.endswith("is no longer seen")]
    assert compared.picture is not None


def test_several_haematomas_are_told_apart_by_where_they_lie() -> None:
    compared = compare(ball(16.0, 19.0), ball(17.0, 12.0), hours=5.0)
    now = [g for g in compared.findings.groups if g.segmentation is not None]
    then = [g for g in ball(17.0, 12.0).findings.groups if g.segmentation is not None]
    sizes = [[next(m.value for m in g.measurements) for g in groups] for groups in (now, then)]
    # Largest first: the one on the right side grew past the one on the left.
    assert f"Haematoma 1: {sizes[1][1]:.1f} mL then, {sizes[0][0]:.1f} mL now" in said(compared)
    assert f"Haematoma 2: {sizes[1][0]:.1f} mL then, {sizes[0][1]:.1f} mL now" in said(compared)


def test_none_in_either_scan_is_a_sentence_and_no_number() -> None:
    compared = compare(ball(), ball(), hours=5.0)
    assert "haematoma_growth" not in numbers(compared.findings)
    assert compared.findings.summary[1] == "Nor was one found on the CT 5.0 h earlier"
    assert compared.picture is None


def test_none_in_either_of_two_heads_is_not_comparable() -> None:
    wide = replace(ball().volume, pixel_spacing=(1.75, 2.4))
    compared = compare(ball(), Examined(findings=ball().findings, volume=wide), hours=5.0)
    assert compared.findings.algorithm.parameters["not_compared"]


class Faint(ThresholdEngine):
    """Unsure of all that it calls."""

    def segment(self, volume: Volume) -> np.ndarray:
        return super().segment(volume) * np.float32(0.7)


@pytest.mark.parametrize(("before", "now", "faint"), [(5.5, 7.6, False), (8.5, 11.0, True)])
def test_growth_that_hangs_on_blood_that_was_not_called_is_not_measured(before: float, now: float, faint: bool) -> None:
    then = examined(head(blood=[(CENTRE, before)]), Faint() if faint else None)
    assert then.findings.outcome == "none"
    compared = compare(ball(now), then, hours=5.0)
    assert not [name for name in numbers(compared.findings) if "growth" in name]
    seen = numbers(then.findings)["haematoma_not_called"]
    assert f"growth not measured, {seen:.1f} mL then seen but not called" in compared.findings.summary[-1]
    assert not [g for g in compared.findings.groups if g.tracking_id == TRACKING_ID]
    assert not any("xpansion by the rule" in line or "is new" in line for line in compared.findings.summary)


def test_what_was_not_called_is_counted_where_it_changes_nothing_of_the_answer() -> None:
    then = ball(5.5)
    compared = compare(ball(19.0), then, hours=5.0)
    told, seen = numbers(compared.findings), numbers(then.findings)["haematoma_not_called"]
    assert told["haematoma_growth"] == pytest.approx(told["haematoma_volume"] - seen)
    assert compared.findings.summary[1].startswith("Expansion by the rule")
    assert f"{seen:.1f} mL then seen but not called" in compared.findings.summary[1]
    assert "Haematoma 1 was not called then" in said(compared)
    gone = compare(ball(5.5), ball(7.6), hours=5.0)
    assert numbers(gone.findings)["haematoma_growth_percent"] > -90.0
    assert not any("no longer seen" in text for text in said(gone))


def cut_at(volume: Volume, end: int) -> Volume:
    return replace(volume, array=volume.array[:end], origins_lps=volume.origins_lps[:end], sources=volume.sources[:end])


def test_growth_of_a_haematoma_that_a_scan_cuts_off_is_expansion_at_least_or_not_told() -> None:
    high = (30.0, -10.0, 25.0)
    whole = examined(head(blood=[(high, 19.0)]))
    part = examined(cut_at(whole.volume, 21))
    assert any("edge of the scan" in line for line in part.findings.summary)
    for now, then in ((part, whole), (whole, part)):
        compared = compare(now, then, hours=5.0)
        assert not [name for name in numbers(compared.findings) if "growth" in name]
        assert not any("xpansion by the rule" in line for line in compared.findings.summary)
        assert compared.findings.algorithm.parameters["not_compared"]
    compared = compare(part, ball(), hours=5.0)
    assert compared.findings.summary[1].startswith("Expansion by the rule")
    assert "at least +" in compared.findings.summary[1]
    assert not [name for name in numbers(compared.findings) if "growth" in name]


def test_a_scan_of_minutes_before_is_so_many_minutes_earlier() -> None:
    assert "2 min earlier" in compare(ball(16.0), ball(16.0), hours=1 / 30).findings.summary[1]


def test_a_scan_that_ends_where_the_other_has_blood_is_not_comparable() -> None:
    now = ball(19.0).volume
    low = replace(now, array=now.array[:15], origins_lps=now.origins_lps[:15], sources=now.sources[:15])
    without = Examined(findings=ball().findings, volume=low)
    compared = compare(without, ball(16.0), hours=5.0)
    assert "haematoma_growth" not in numbers(compared.findings)
    assert "the earlier haematoma lies partly outside this scan" in compared.findings.summary[-1]
    assert any("growth" in what for what in compared.findings.not_assessed)
    assert compared.findings.algorithm.parameters["not_compared"]


def test_another_head_is_not_comparable() -> None:
    other = ball(16.0).volume
    wide = replace(other, pixel_spacing=(1.75, 2.4))
    compared = compare(ball(19.0), Examined(findings=ball(16.0).findings, volume=wide), hours=5.0)
    assert "haematoma_growth" not in numbers(compared.findings)
    assert "skull" in compared.findings.summary[-1]


def test_both_scans_are_drawn_beside_each_other_at_the_same_place() -> None:
    compared = compare(ball(19.0, layout=FINE), ball(16.0, layout=FINE, turn_deg=8.0), hours=5.0)
    assert compared.picture is not None
    height, width, _ = compared.picture.rgb_yx.shape
    half = width // 2
    yellow = (compared.picture.rgb_yx.astype(int) - (255, 196, 0)).__abs__().sum(axis=2) < 60
    then, now = (np.argwhere(part) for part in (yellow[:, :half], yellow[:, half:]))
    assert len(then) > 40
    assert np.ptp(now, axis=0).min() > np.ptp(then, axis=0).max() > 20
    # Turned back: what was drawn of a ball 8 degrees aside would lie 5 mm off.
    middles = [(part.min(axis=0) + part.max(axis=0)) / 2 for part in (then, now)]
    assert np.linalg.norm(middles[0] - middles[1]) < 0.08 * height
    assert compared.picture.caption.startswith("5.0 h earlier")
    # Both heads lie level: what is drawn of the earlier one is of one slice or two beside each other.
    earlier = ball(16.0, layout=FINE, turn_deg=8.0).volume
    assert 1 <= len(compared.picture.beside) <= 3
    assert earlier.sources[compared.picture.slice] in compared.picture.beside


@pytest.mark.parametrize("seed", [30_201, 30_204])
def test_growth_of_phantoms_is_true_to_a_tenth_or_a_millilitre(seed: int) -> None:
    """With the true masks in place of a network's: what measuring and registering add."""
    model = HeadModel.draw(seed, bleed=Bleed((20.0,)))
    later, hours = followed_up(model, seed=1)
    heads = [scanned(model, 28), scanned(later, 36)]
    truth = [sum(lesion.volume_ml for lesion in one.lesions) for one in heads]
    then, now = (examined(volume_of(one), Truth(one)) for one in heads)
    compared = compare(now, then, hours=hours)
    growth = numbers(compared.findings)["haematoma_growth"]
    assert growth == pytest.approx(truth[1] - truth[0], abs=max(1.0, 0.1 * abs(truth[1] - truth[0])))


class Truth(ThresholdEngine):
    """A network that is always right."""

    def __init__(self, of: Head) -> None:
        super().__init__()
        self._mask = of.mask_zyx

    def segment(self, volume: Volume) -> np.ndarray:
        assert volume.array_zyx.shape == self._mask.shape
        return self._mask.astype(np.float32)


def scanned(model: HeadModel, slices: int) -> Head:
    return sample(model, study_grid(model, slices=slices, tilt=0.0, gaps="even", matrix=128))


def volume_of(one: Head) -> Volume:
    grid = one.grid
    blank = head(HEAD_FIRST).sources[0]
    return Volume(
        array=one.hu_zyx, origins_lps=grid.origins(), row_lps=grid.row_direction, column_lps=grid.column_direction,
        pixel_spacing=(grid.pixel_mm, grid.pixel_mm), slice_thickness=grid.thickness_mm[0], frame_of_reference_uid=None,
        unit="[hnsf'U]", sources=(blank,) * len(grid.z_mm),
    )  # fmt: skip
