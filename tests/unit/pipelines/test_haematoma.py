"""What the pipeline says of a head: lesions, volumes, sides, and what it must not say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from unit.pipelines.heads import (
    FEET_FIRST,
    HEAD_FIRST,
    PRONE,
    TILTED,
    TRANSPOSED,
    UNEVEN,
    Ball,
    Judge,
    Layout,
    ThresholdEngine,
    head,
    no_timing,
)

from ichor.arrays import Volume
from ichor.errors import Unreadable
from ichor.pipeline import Classification, Engine
from ichor.reasons import Reason
from ichor.types import Findings
from pipelines import ich_score
from pipelines.haematoma import NONE_FOUND, PIPELINE
from pipelines.regions import measured

LEFT: Ball = ((35.0, -10.0, 20.0), 16.0)
RIGHT: Ball = ((-38.0, 25.0, -15.0), 9.0)


def run(volume: Volume, engine: ThresholdEngine | None = None) -> Findings:
    return PIPELINE.run({"ncct_head": volume}, {"haematoma-phantom": engine or ThresholdEngine()}, no_timing)


def judged(volume: Volume, judge: Judge | None = None) -> Findings:
    engines = {"haematoma-phantom": ThresholdEngine(), "haematoma-expansion-phantom": judge or Judge()}
    return PIPELINE.run({"ncct_head": volume}, engines, no_timing)


def numbers(findings: Findings) -> dict[str, float]:
    return {m.name: m.value for m in findings.measurements}


def ball_ml(radius: float) -> float:
    return 4 / 3 * np.pi * radius**3 / 1000


@pytest.mark.parametrize("layout", [HEAD_FIRST, PRONE, FEET_FIRST, TRANSPOSED, TILTED, UNEVEN])
@pytest.mark.parametrize(("ball", "side"), [(LEFT, "Left"), (RIGHT, "Right")])
def test_volume_centre_and_side_do_not_depend_on_how_the_head_is_stored(
    layout: Layout, ball: Ball, side: str
) -> None:  # fmt: skip
    findings = run(head(layout, blood=[ball]))
    (group,) = findings.groups
    assert group.laterality is not None
    assert group.laterality.meaning == side
    assert side.lower() in findings.summary[0]
    for name, value in numbers(findings).items():
        # ABC/2 with weighted slices underestimates by design of its weights.
        low = 0.5 if name.endswith("abc2") else 0.85
        assert low * ball_ml(ball[1]) < value < 1.15 * ball_ml(ball[1]), name
    (centre,) = (s.text for s in group.statements if s.text.startswith("centre"))
    found = [float(v) for v in centre.removeprefix("centre ").split(" mm")[0].split(", ")]
    assert found == pytest.approx(ball[0], abs=1.5)


@pytest.mark.parametrize("turn", [-44.0, -34.0, -20.0, 20.0, 34.0, 44.0])
@pytest.mark.parametrize("x", [-9.0, 9.0])
def test_side_follows_a_turned_head(turn: float, x: float) -> None:
    """A bleed beside the midline in front lies on the other side of x = 0 when the head is turned."""
    angle = np.deg2rad(turn)
    centre = (x * np.cos(angle) + 60 * np.sin(angle), x * np.sin(angle) - 60 * np.cos(angle), 10.0)
    volume = head(blood=[(centre, 7.0)], turn_deg=turn)
    (group,) = run(volume).groups
    assert group.laterality is not None
    assert group.laterality.meaning == ("Left" if x > 0 else "Right")
    if x * turn < 0:
        assert np.sign(centre[0]) != np.sign(x)


def turned(ball: Ball, turn_deg: float) -> Ball:
    """Where a ball lies when the head is turned."""
    (x, y, z), radius = ball
    angle = np.deg2rad(turn_deg)
    return (x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle), z), radius


def wide(volume: Volume) -> Volume:
    """The same head, 80 mm from the middle to the side in place of 68."""
    rows, columns = volume.pixel_spacing
    return replace(volume, pixel_spacing=(rows, columns * 80 / 68), origins_lps=volume.origins_lps * (80 / 68, 1, 1))


@pytest.mark.parametrize("turn", [-70.0, 55.0])
def test_of_a_head_turned_too_far_no_side_is_told(turn: float) -> None:
    findings = run(head(blood=[turned(LEFT, turn)], turn_deg=turn))
    assert findings.groups[0].laterality is None
    assert "side not certain" in findings.summary[0]
    assert any(line.startswith("Side not certain") for line in findings.summary)
    assert not any("left" in line or "right" in line for line in findings.summary if "cannot be told" not in line)
    assert "side: not certain" in [s.text for s in findings.groups[0].statements]


def test_of_a_round_head_a_side_is_told_only_where_no_turn_could_make_it_another() -> None:
    far, front = (run(wide(head(blood=[ball]))) for ball in (((-45.0, 0.0, 20.0), 12.0), ((-17.0, -55.0, 20.0), 9.0)))
    assert [g.laterality.meaning for g in far.groups if g.laterality] == ["Right"]
    assert "right" in far.summary[0]
    assert front.groups[0].laterality is None
    assert "side not certain" in front.summary[0]


def test_a_bleed_on_the_midline_is_on_both_sides() -> None:
    findings = run(head(blood=[((0.0, 30.0, -30.0), 12.0)]))
    assert findings.groups[0].laterality is not None
    assert findings.groups[0].laterality.meaning == "Bilateral"
    assert "across the midline" in findings.summary[0]


@pytest.mark.parametrize("x", [0.0, 4.0, -4.0])
def test_of_a_small_bleed_as_near_the_midline_as_that_may_be_off_no_side_is_told(x: float) -> None:
    findings = run(head(blood=[((x, 30.0, -30.0), 7.0)]))
    assert findings.groups[0].laterality is None
    assert "side not certain" in findings.summary[0]


def test_lesions_come_largest_first_and_totals_are_their_sums() -> None:
    findings = run(head(blood=[RIGHT, LEFT]))
    assert [g.laterality.meaning for g in findings.groups if g.laterality] == ["Left", "Right"]
    assert [g.tracking_id for g in findings.groups] == ["Haematoma 1", "Haematoma 2"]
    assert findings.summary[0].startswith("2 intracerebral haematomas: ")
    for name, total in numbers(findings).items():
        parts = [m.value for g in findings.groups for m in g.measurements if m.name == name]
        assert len(parts) == 2
        assert sum(parts) == pytest.approx(total)
        assert parts[0] > parts[1]


def test_the_voxel_volume_is_that_of_the_segments() -> None:
    volume = head(blood=[LEFT, RIGHT])
    findings = run(volume)
    voxels = sum(int(g.segmentation.mask_zyx.sum()) for g in findings.groups if g.segmentation)
    assert numbers(findings)["haematoma_volume_voxel"] == pytest.approx(voxels * 2.0 * 2.0 * 5.0 / 1000)


@pytest.mark.parametrize(("layout", "said"), [(HEAD_FIRST, False), (TILTED, False), (UNEVEN, True)])
def test_uneven_slices_are_named_where_the_voxel_sum_stands(layout: Layout, said: bool) -> None:
    (voxels,) = (m for m in run(head(layout, blood=[LEFT])).measurements if m.name == "haematoma_volume_voxel")
    assert ("uneven" in (voxels.method or "")) is said


def test_none_found_is_an_answer_with_zero_volume_and_no_segment() -> None:
    findings = run(head())
    assert findings.outcome == "none"
    assert findings.summary[0] == (
        "No intracerebral haematoma found; subdural, epidural and subarachnoid blood not assessed"
    )
    assert numbers(findings) == {
        "haematoma_volume": 0.0, "haematoma_volume_voxel": 0.0, "haematoma_volume_abc2": 0.0
    }  # fmt: skip
    assert (findings.groups, findings.maps) == ((), ())


def test_with_a_gap_none_found_is_never_said() -> None:
    note = "gap of 10.0 mm between the slices at 5.0 and 15.0 mm"
    with pytest.raises(Unreadable) as error:
        run(head(notes=(note,)))
    assert error.value.reason.startswith(Reason.GAP)
    assert note in error.value.reason
    findings = run(head(blood=[LEFT], notes=(note,)))
    assert findings.outcome == "found"
    assert any(note in line for line in findings.summary)
    assert NONE_FOUND not in findings.summary


def test_blood_outside_the_skull_is_left_out_and_said() -> None:
    scalp: Ball = ((-76.0, 0.0, 10.0), 9.0)
    findings = run(head(blood=[LEFT, scalp]))
    assert len(findings.groups) == 1
    assert any("outside the skull" in line for line in findings.summary)
    assert run(head(blood=[scalp])).summary[0] == NONE_FOUND


def test_specks_are_left_out_and_those_of_some_size_said() -> None:
    place = (30.0, 0.0, 20.0)
    tiny, small, large = (run(head(blood=[(place, radius)])) for radius in (1.5, 5.0, 8.0))
    assert (tiny.outcome, small.outcome, large.outcome) == ("none", "none", "found")
    assert tiny.summary == (NONE_FOUND,)
    assert any("specks" in line for line in small.summary)


def test_a_faint_region_is_called_a_haematoma_only_where_it_is_large_and_this_is_said() -> None:
    class Unsure(ThresholdEngine):
        def segment(self, volume: Volume) -> npt.NDArray[np.float32]:
            return super().segment(volume) * np.float32(0.7)

    small, large = (run(head(blood=[((30.0, 0.0, 20.0), radius)]), Unsure()) for radius in (7.5, 14.0))
    assert small.outcome == "none"
    assert any("too faint" in line for line in small.summary)
    assert large.outcome == "found"
    assert any("unsure" in line for line in large.summary)
    assert not any("unsure" in line for line in run(head(blood=[LEFT])).summary)


def test_a_haematoma_at_the_edge_of_the_scan_is_said_to_be_cut() -> None:
    volume = head(blood=[((20.0, -5.0, -46.0), 13.0)])
    assert not any("edge of the scan" in line for line in run(volume).summary)
    first = int(np.flatnonzero((np.abs(volume.array_zyx - 66.0) < 3).sum(axis=(1, 2)) > 20)[0])
    cut = replace(
        volume, array=volume.array_zyx[first + 1 :], origins_lps=volume.origins_lps[first + 1 :],
        sources=volume.sources[first + 1 :],
    )  # fmt: skip
    assert any("edge of the scan" in line for line in run(cut).summary)


def test_parts_that_touch_at_corners_are_one_lesion() -> None:
    volume = head()
    hu = volume.array_zyx.copy()
    hu[10:12, 50:60, 60:66] = 66
    hu[12:14, 60:70, 66:72] = 66
    findings = run(replace(volume, array=hu))
    assert len(findings.groups) == 1


def test_many_regions_share_the_last_segment_and_are_told_as_many() -> None:
    """Memory is bounded: a mask of the whole volume for each of twenty, however many there are."""
    rng = np.random.default_rng(3)
    balls: list[Ball] = [
        ((float(x), float(y), float(z)), 7.0)
        for x in (-48, -28, 28, 48) for y in (-30, 0, 30) for z in (-20, 10, 40)
    ]  # fmt: skip
    rng.shuffle(balls)
    judge = Judge()
    findings = judged(head(blood=balls), judge)
    assert len(findings.groups) == 20
    assert findings.summary[0].startswith("36 intracerebral haematomas: ")
    assert numbers(findings)["haematoma_volume_voxel"] == pytest.approx(36 * ball_ml(7.0), rel=0.5)
    inside = np.stack([g.segmentation.mask_zyx for g in findings.groups if g.segmentation]).sum(axis=0)
    assert inside.max() == 1
    *each, last = findings.groups
    assert last.tracking_id == "Haematoma: 17 small regions together"
    assert last.laterality is None
    assert max(g.measurements[0].value for g in each) < 2 * ball_ml(7.0) < last.measurements[0].value
    assert not any(m.name.endswith("abc2") for m in (*last.measurements, *findings.measurements))
    assert np.count_nonzero(judge.asked[0]) * 0.02 < 2 * ball_ml(7.0)


def test_the_map_is_zero_below_one_percent_and_on_the_grid() -> None:
    class Faint(ThresholdEngine):
        def segment(self, volume: Volume) -> npt.NDArray[np.float32]:
            probability = super().segment(volume)
            probability[0, 0, 0], probability[0, 0, 1], probability[0, 0, 2] = 0.009, 0.011, 1.5
            return probability

    volume = head(blood=[LEFT])
    (values,) = run(volume, Faint()).maps
    assert values.values_zyx.shape == volume.array_zyx.shape
    assert values.values_zyx[0, 0, :4].tolist() == pytest.approx([0.0, 0.011, 1.0, 0.0])
    assert values.quantity.value == "110854"


def test_a_network_that_breaks_down_is_an_error_not_an_answer() -> None:
    class Broken(ThresholdEngine):
        def segment(self, volume: Volume) -> npt.NDArray[np.float32]:
            return np.full(volume.array_zyx.shape, np.nan, np.float32)

    class Short(ThresholdEngine):
        def segment(self, volume: Volume) -> npt.NDArray[np.float32]:
            return super().segment(volume)[1:]

    for engine in (Broken(), Short()):
        with pytest.raises(ValueError, match="probability"):
            run(head(), engine)


def test_no_brain_is_not_inferred() -> None:
    engine = ThresholdEngine()
    with pytest.raises(Unreadable, match=Reason.NO_BRAIN):
        run(head(fill=-1000.0), engine)
    assert engine.calls == 0


def test_without_a_model_expansion_is_said_not_to_be_assessed() -> None:
    findings = run(head(blood=[LEFT]))
    assert "expansion_probability" not in numbers(findings)
    assert "Probability of expansion not assessed: no model" in findings.summary
    assert any(what.startswith("probability of expansion") for what in findings.not_assessed)
    assert len(findings.maps) == 1


def test_expansion_of_the_largest_haematoma_is_a_probability_a_map_and_a_sentence() -> None:
    judge = Judge()
    volume = head(blood=[RIGHT, LEFT])
    findings = judged(volume, judge)
    assert numbers(findings)["expansion_probability"] == pytest.approx(0.3)
    (told,) = (m for m in findings.measurements if m.name == "expansion_probability")
    assert (told.unit, told.report_unit, told.value * told.report_scale) == ("1", "%", pytest.approx(30.0))
    assert told in findings.groups[0].measurements
    assert told not in findings.groups[1].measurements
    (asked,) = judge.asked
    assert findings.groups[0].segmentation is not None
    assert np.array_equal(asked, findings.groups[0].segmentation.mask_zyx)
    attention = findings.maps[1]
    assert attention.quantity.value == "130403"
    assert np.count_nonzero(attention.values_zyx.any(axis=(1, 2))) == 3
    (sentence,) = (line for line in findings.summary if "expansion" in line)
    assert "30 % for haematoma 1" in sentence
    assert "20, 30, 40 %" in sentence
    assert not any("expansion" in what for what in findings.not_assessed)
    assert findings.algorithm.parameters["expansion_weights_sha256"] == "1" * 64


def test_expansion_is_asked_of_the_haematoma_and_its_islands_not_of_theirs() -> None:
    island, beyond = ((35.0, -37.0, 20.0), 4.0), ((35.0, -50.0, 20.0), 3.0)  # 7 mm from it, 21 mm
    judge = Judge()
    findings = judged(head(blood=[LEFT, island, beyond]), judge)
    (asked,) = judge.asked
    (group,) = findings.groups
    assert group.segmentation is not None
    assert np.array_equal(asked, group.segmentation.mask_zyx)
    assert ndimage.label(asked, structure=np.ones((3, 3, 3)))[1] == 2


def test_what_is_not_assessed_is_smaller_where_there_is_a_haematoma() -> None:
    small = ((-38.0, 25.0, 15.0), 5.0)  # 0.5 mL
    findings = run(head(blood=[LEFT, small]))
    assert 0.3 < {m.name: m.value for m in findings.groups[1].measurements}["haematoma_volume_voxel"] < 1
    assert "haematomas below 0.3 mL" in findings.not_assessed
    assert "haematomas below 1 mL" not in findings.not_assessed
    none = run(head(blood=[small]))
    assert none.outcome == "none"
    assert "haematomas below 1 mL" in none.not_assessed


def test_a_network_that_is_unsure_of_much_is_quoted_in_one_sentence() -> None:
    class Unsure(ThresholdEngine):
        def segment(self, volume: Volume) -> npt.NDArray[np.float32]:
            probability = super().segment(volume)
            rest = np.arange(volume.array_zyx.shape[1])[:, None] > 52  # behind LEFT
            return np.where(rest & (probability > 0), np.float32(0.6), probability)

    faint = [((x, 30.0, z), 7.0) for x in (-35.0, -15.0, 5.0, 25.0) for z in (-10.0, 30.0)]
    findings = run(head(blood=[LEFT, *faint]), Unsure())
    assert len(findings.groups) == 9
    (said,) = (line for line in findings.summary if "unsure" in line)
    assert said.count(".") == 6  # of five volumes and of 0.8
    assert " mL and 3 smaller of what it outlined" in said


def test_fewer_than_three_slices_are_not_classifiable_and_said_so() -> None:
    volume = head(Layout(z=tuple(np.arange(-65.0, 90.0, 10.0))), blood=[((35.0, -10.0, 20.0), 9.0)])
    findings = judged(volume)
    assert findings.outcome == "found"
    assert "expansion_probability" not in numbers(findings)
    assert any("not classifiable" in line and "3 contiguous slices" in line for line in findings.summary)


@pytest.mark.parametrize(("missing", "judged_all_the_same"), [(18, False), (25, True)])
def test_a_slice_missing_within_the_three_makes_them_not_classifiable(missing: int, judged_all_the_same: bool) -> None:
    whole = head(blood=[LEFT])  # slice 17 is its middle
    kept = [k for k in range(len(whole.array_zyx)) if k != missing]
    volume = replace(
        whole, array=whole.array_zyx[kept], origins_lps=whole.origins_lps[kept],
        sources=tuple(whole.sources[k] for k in kept), notes=("gap of 10.0 mm",),
    )  # fmt: skip
    findings = judged(volume)
    assert ("expansion_probability" in numbers(findings)) is judged_all_the_same
    assert any("a slice is missing between" in line for line in findings.summary) is not judged_all_the_same


def test_where_nothing_is_attended_to_there_is_a_probability_and_no_map() -> None:
    findings = judged(head(blood=[LEFT]), Judge(blind=True))
    assert numbers(findings)["expansion_probability"] == pytest.approx(0.3)
    assert len(findings.maps) == 1
    assert any("no attention map" in line for line in findings.summary)


class Nan(Judge):
    def classify(self, volume: Volume, mask_zyx: npt.NDArray[np.uint8]) -> Classification | None:  # noqa: ARG002
        raise ValueError("the network's answer is not a number everywhere")


@pytest.mark.parametrize(
    ("other", "reason"), [(Nan(), "not usable"), (ThresholdEngine(), "does not classify")], ids=["nan", "kind"]
)
def test_a_judge_of_expansion_that_breaks_down_costs_no_answer(other: Engine, reason: str) -> None:
    engines = {"haematoma-phantom": ThresholdEngine(), "haematoma-expansion-phantom": other}
    findings = PIPELINE.run({"ncct_head": head(blood=[LEFT])}, engines, no_timing)
    assert numbers(findings)["haematoma_volume"] > 10
    assert "expansion_probability" not in numbers(findings)
    assert any("expansion not assessed" in line and reason in line for line in findings.summary)
    assert any(reason in what for what in findings.not_assessed)


def test_none_found_asks_nobody_about_expansion() -> None:
    judge = Judge()
    findings = judged(head(), judge)
    assert judge.asked == []
    assert "expansion_probability" not in numbers(findings)


def test_items_of_the_ich_score_are_told_and_what_is_not_known_of_them() -> None:
    def items(findings: Findings) -> list[str]:
        return [s.text for s in findings.groups[0].statements if "ICH score" in s.text]

    volume, place, ventricles = items(run(head(blood=[((30.0, 0.0, 5.0), 21.0)])))
    assert "30 mL or more: yes" in volume
    assert "infratentorial: no" in place
    assert ventricles.endswith("intraventricular: not assessed")
    small, _, _ = items(run(head(blood=[LEFT])))
    assert "30 mL or more: no" in small


def test_an_infratentorial_haematoma_is_told_also_beside_a_larger_one_above() -> None:
    low = (-12.0, 45.0, -42.0)
    findings = run(head(blood=[LEFT, (low, 11.0)]))
    assert any("location: infratentorial" in s.text for s in findings.groups[1].statements)
    (items,) = (line for line in findings.summary if "ICH score" in line)
    assert "infratentorial: yes, by a coarse rule (haematoma 2)" in items


def test_a_volume_below_30_ml_is_not_rounded_to_it_and_that_of_a_part_decides_nothing() -> None:
    lesion = measured(np.ones((3, 3, 3), np.uint8), head(Layout(rows=3, columns=3, z=(0.0, 5.0, 10.0))), ())
    almost, more = (replace(lesion, mesh_ml=ml) for ml in (29.96, 30.0))
    assert ich_score.items([almost], whole=True)[0] == "volume of 30 mL or more: no (29.9 mL, mesh)"
    assert ich_score.items([almost], whole=False)[0].startswith("volume of 30 mL or more: not certain, part is missing")
    assert "or more: yes" in ich_score.items([more], whole=False)[0]
