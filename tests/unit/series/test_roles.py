"""Rules: what plays which role, what is no candidate, and what is one and cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from contract.arrivals import make_slice
from unit.series.mr_series import SIX, diffusion, mr, tensor, times

from ichor.reasons import Reason
from ichor.series.__main__ import document
from ichor.series.grid import build_grid
from ichor.series.kernels import KernelClass, kernel_class
from ichor.series.roles import Verdict, facts_of, judge
from ichor.series.rules import RULES, Check, Rule, check_fits, extended, rank_fits
from ichor.types import Component, Dialect, Instance, Kind, SequenceFacts, Slot

Change = Callable[[Instance], Instance]


def series(count: int = 8, change: Change = lambda i: i, **how: object) -> list[Instance]:
    return [change(make_slice(number=n + 1, **how)) for n in range(count)]  # type: ignore[arg-type]


def verdict(slices: list[Instance], *, conflict: bool = False) -> Verdict:
    return judge(facts_of(slices, build_grid(slices), conflict=conflict))


def geometry(instance: Instance, **changes: object) -> Instance:
    assert instance.geometry is not None
    return replace(instance, geometry=replace(instance.geometry, **changes))  # type: ignore[arg-type]


def of_kind(instance: Instance, kind: Kind) -> Instance:
    return replace(instance, kind=kind, slot=replace(instance.slot, kind=kind))


def pixels(instance: Instance, **changes: object) -> Instance:
    assert instance.pixels is not None
    return replace(instance, pixels=replace(instance.pixels, **changes))  # type: ignore[arg-type]


def test_a_soft_axial_head_ct_plays_the_role() -> None:
    assert verdict(series()).roles == ("ncct_head",)
    assert verdict(series(tilt=25.0)).roles == ("ncct_head",)
    assert verdict(series(change=lambda i: replace(i, unit="[hnsf'U]"))).roles == ("ncct_head",)
    assert verdict(series(change=lambda i: replace(i, body_part=None, kernel=None))).roles == ("ncct_head",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda i: of_kind(i, Kind.LOCALIZER), Reason.LOCALIZER),
        (lambda i: of_kind(i, Kind.DERIVED), Reason.DERIVED),
        (lambda i: of_kind(i, Kind.REFORMAT), Reason.REFORMAT),
        (lambda i: of_kind(i, Kind.SECONDARY_CAPTURE), Reason.SECONDARY_CAPTURE),
        (lambda i: replace(i, kind=Kind.REPORT, geometry=None, pixels=None), Reason.REPORT),
        (lambda i: replace(i, modality="XA"), Reason.NOT_CT),
        (lambda i: replace(i, body_part="CHEST"), Reason.NOT_HEAD),
        (lambda i: replace(i, contrast=True), Reason.CONTRAST),
        (lambda i: replace(i, kernel="H70h"), Reason.BONE_KERNEL),
        (lambda i: geometry(i, orientation_lps=(1, 0, 0, 0, 0, -1)), Reason.NOT_AXIAL),
    ],
)
def test_what_is_no_candidate_says_why(change: Change, reason: str) -> None:
    found = verdict(series(change=change))
    assert (found.roles, dict(found.refused), found.reason) == ((), {}, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda i: pixels(i, lossy=True), Reason.LOSSY),
        (lambda i: pixels(replace(i, image_type=("DERIVED", "PRIMARY", "AXIAL")), lossy=True), Reason.LOSSY),
        (lambda i: replace(i, defect=Reason.PIXELS_SHORT), Reason.PIXELS_SHORT),
        (lambda i: replace(i, defect=Reason.NO_PIXELS, pixels=None), Reason.NO_PIXELS),
        (lambda i: pixels(i, frames=12), Reason.MULTIFRAME),
        (lambda i: geometry(i, slice_thickness=8.0), Reason.TOO_THICK),
        (lambda i: replace(i, unit="mg/mL"), Reason.NOT_HOUNSFIELD),
        (lambda i: replace(i, unit="1"), Reason.NOT_HOUNSFIELD),
        (lambda i: geometry(i, pixel_spacing=None), Reason.NO_GEOMETRY),
        (lambda i: geometry(i, position_lps=(0.0, 0.0, 0.0)), Reason.ONE_SLICE),
        (lambda i: geometry(i, position_lps=(0.0, 0.0, 5.0 * max(i.instance_number or 0, 3))), Reason.SAME_PLACE),
    ],
)
def test_a_candidate_that_cannot_be_used_is_refused_with_the_reason(change: Change, reason: str) -> None:
    found = verdict(series(change=change))
    assert found.roles == ()
    assert found.refused == {"ncct_head": reason}


def test_one_slice_and_conflicting_duplicates_are_refused() -> None:
    assert verdict(series(1)).refused == {"ncct_head": Reason.ONE_SLICE}
    assert verdict(series(), conflict=True).refused == {"ncct_head": Reason.DUPLICATE_OTHER_BYTES}


@pytest.mark.parametrize("dialect", [Dialect.ENHANCED, Dialect.SIEMENS_MOSAIC, Dialect.UIH_TILED])
def test_a_head_ct_of_frames_or_tiles_is_refused_because_results_cite_an_object_per_slice(dialect: Dialect) -> None:
    assert verdict(series(change=lambda i: replace(i, dialect=dialect))).refused == {"ncct_head": Reason.MULTIFRAME}
    # One such object among single images is enough.
    mixed = series()
    mixed[4] = replace(mixed[4], dialect=dialect)
    assert verdict(mixed).refused == {"ncct_head": Reason.MULTIFRAME}


@pytest.mark.parametrize("dialect", [Dialect.ENHANCED, Dialect.SIEMENS_MOSAIC])
def test_a_dwi_plays_in_any_dialect(dialect: Dialect) -> None:
    assert verdict(tensor(dialect=dialect)).roles == ("dwi",)


def test_a_localizer_of_another_dialect_beside_the_images_changes_nothing() -> None:
    scout = replace(of_kind(make_slice(number=99), Kind.LOCALIZER), sop_instance_uid="1.9", dialect=Dialect.MULTIFRAME)
    assert verdict([scout, *series()]).roles == ("ncct_head",)


def test_five_millimetres_and_rounding_are_thin_enough() -> None:
    assert verdict(series(change=lambda i: geometry(i, slice_thickness=5.0000001))).roles == ("ncct_head",)


def test_just_above_five_millimetres_is_too_thick() -> None:
    thick = series(change=lambda i: geometry(i, slice_thickness=5.1))
    assert verdict(thick).refused == {"ncct_head": Reason.TOO_THICK}


@pytest.mark.parametrize(("tilt", "axial"), [(39.0, True), (41.0, False)])
def test_forty_degrees_to_the_table_is_the_limit_of_axial(tilt: float, axial: bool) -> None:
    assert verdict(series(tilt=tilt)).reason == (None if axial else Reason.NOT_AXIAL)


def test_rank_prefers_soft_kernel_then_coverage_then_thickness() -> None:
    def rank(slices: list[Instance]) -> tuple[float, ...]:
        return tuple(verdict(slices).rank["ncct_head"])

    thick = rank(series(28, spacing=5.0))
    thin = rank(series(140, spacing=1.0))
    small = rank(series(10, spacing=5.0))
    unknown = rank(series(28, spacing=5.0, kernel=None))
    assert sorted([unknown, small, thin, thick]) == [thick, thin, small, unknown]


def test_an_open_series_may_outrank_until_its_facts_say_otherwise() -> None:
    whole = verdict(series(28)).rank["ncct_head"]
    growing = judge(facts_of(series(2), None)).rank["ncct_head"]
    unknown = judge(facts_of(series(2, kernel=None), None)).rank["ncct_head"]
    assert tuple(growing) < tuple(whole) < tuple(unknown)


# --- MR -------------------------------------------------------------------------------------------------------------

BOLUS = SequenceFacts(scanning_sequence=("EP", "GR"), echo_time=30.0, repetition_time=1800.0)
MPRAGE = SequenceFacts(
    scanning_sequence=("GR", "IR"), acquisition_type="3D", echo_time=2.9, repetition_time=2300.0, inversion_time=900.0,
    flip_angle=9.0,
)  # fmt: skip
SPOILED = SequenceFacts(
    scanning_sequence=("GR",), acquisition_type="3D", echo_time=3.7, repetition_time=8.1, flip_angle=8.0
)
SPIN_ECHO = SequenceFacts(scanning_sequence=("SE",), acquisition_type="2D", echo_time=10.0, repetition_time=550.0)
T1_FLAIR = SequenceFacts(
    scanning_sequence=("SE", "IR"), acquisition_type="2D", echo_time=24.0, repetition_time=2500.0, inversion_time=860.0
)
T2_FLAIR = replace(T1_FLAIR, echo_time=120.0, repetition_time=9000.0, inversion_time=2500.0)
T2 = replace(SPIN_ECHO, echo_time=90.0, repetition_time=4000.0)
ANGIOGRAPHY = replace(SPOILED, repetition_time=22.0, flip_angle=18.0)
STEADY_STATE = replace(SPOILED, repetition_time=5.5, echo_time=2.6, flip_angle=50.0)
SUSCEPTIBILITY = SequenceFacts(
    scanning_sequence=("GR",), acquisition_type="3D", echo_time=20.0, repetition_time=28.0, flip_angle=15.0
)


def test_a_b0_and_six_directions_are_a_dwi_fit_for_a_tensor() -> None:
    found = verdict(tensor())
    assert (found.roles, found.rule, found.reason) == (("dwi",), "dwi_tensor", None)


@pytest.mark.parametrize(
    "weights",
    [
        [(0.0, None), *((1000.0, d) for d in SIX[:3])],  # three directions
        [(0.0, None), *((1000.0, d) for d in (*SIX[:3], (-1, 0, 0), (0, -1, 0), (0, 0, -1)))],  # opposite ones
    ],
)
def test_few_directions_are_a_dwi_for_lesions_that_ranks_behind_a_tensor(weights: list[tuple[float, object]]) -> None:
    few, six = verdict(diffusion(weights)), verdict(tensor())  # type: ignore[arg-type]
    assert (few.roles, few.rule) == (("dwi",), "dwi_lesion")
    assert tuple(six.rank["dwi"]) < tuple(few.rank["dwi"])
    said = {s.rule: s for s in few.said}
    assert (said["dwi_tensor"].answer, said["dwi_tensor"].reason) == ("not meant", Reason.FEW_DIRECTIONS)


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (lambda: tensor(slices=2, spacing=3.0), Reason.TOO_LITTLE_BRAIN),
        (lambda: tensor(size=16, dx=2.0), Reason.TOO_LITTLE_BRAIN),
        (lambda: diffusion([(1000.0, d) for d in SIX]), Reason.NO_B0),
        (lambda: tensor(b=300.0), Reason.B_VALUE),
        (lambda: tensor(defect=Reason.PIXELS_SHORT), Reason.PIXELS_SHORT),
    ],
)
def test_a_dwi_that_cannot_be_used_says_why(series: Callable[[], list[Instance]], reason: str) -> None:
    found = verdict(series())
    assert (found.roles, dict(found.refused), found.reason) == ((), {"dwi": reason}, reason)


@pytest.mark.parametrize("size", [0.992, 1.008])
def test_directions_of_nearly_unit_length_are_counted_as_they_point(size: float) -> None:
    directions = [*SIX, [-c for c in SIX[0]]]
    images = diffusion([(0.0, None), *((1000.0, [size * c for c in d]) for d in directions)])
    assert facts_of(images, build_grid(images)).directions == 6


def test_an_adc_map_is_an_adc_and_nothing_else() -> None:
    found = verdict(mr(Slot(kind=Kind.ADC)))
    assert found.roles == ("adc",)
    assert verdict(mr(Slot(kind=Kind.FA))).reason == Reason.PARAMETER_MAP


def test_a_bolus_over_sixty_times_is_a_perfusion_series() -> None:
    found = verdict(times(60, sequence=BOLUS))
    assert (found.roles, found.rule) == (("dsc_perfusion",), "dsc_gradient")
    # An enhanced object may name the contrast where its echo is called by another name.
    named = replace(BOLUS, scanning_sequence=("SE", "EP"), contrast_words=("T2_STAR",))
    assert verdict(times(60, sequence=named)).rule == "dsc_named"


def said_by(rule: str, slices: list[Instance]) -> tuple[str, str | None]:
    (said,) = [s for s in verdict(slices).said if s.rule == rule]
    return said.answer, said.reason


@pytest.mark.parametrize(
    ("count", "interval", "sequence", "reason"),
    [
        (19, 1.8, BOLUS, Reason.FEW_TIMES),
        (60, 1.8, replace(BOLUS, echo_time=9.0), Reason.NOT_T2_STAR),
        (60, 1.8, replace(BOLUS, echo_time=None), Reason.NOT_T2_STAR),
        (60, 1.8, replace(BOLUS, scanning_sequence=("SE", "EP")), Reason.NOT_T2_STAR),
        (200, 1.8, BOLUS, Reason.LONG_SERIES),
    ],
)
def test_other_time_series_are_no_perfusion(count: int, interval: float, sequence: SequenceFacts, reason: str) -> None:
    series = times(count, interval=interval, sequence=sequence, slices=12)
    assert said_by("dsc_gradient", series) == ("not meant", reason)


@pytest.mark.parametrize(
    ("sequence", "rule"),
    [
        (MPRAGE, "t1_inversion_3d"),
        (SPOILED, "t1_gradient_3d"),
        (SPIN_ECHO, "t1_spin_echo"),
        (T1_FLAIR, "t1_inversion_spin_echo"),
        (SequenceFacts(contrast_words=("T1",)), "t1_named"),
    ],
)
def test_t1_by_its_sequence(sequence: SequenceFacts, rule: str) -> None:
    found = verdict(mr(sequence=sequence))
    assert (found.roles, found.rule) == (("t1",), rule)


@pytest.mark.parametrize("sequence", [T2_FLAIR, T2, ANGIOGRAPHY, STEADY_STATE, SequenceFacts()])
def test_what_is_not_t1_plays_no_role(sequence: SequenceFacts) -> None:
    found = verdict(mr(sequence=sequence))
    assert (found.roles, dict(found.refused), found.reason) == ((), {}, Reason.NO_ROLE)


def test_t1_before_contrast_ranks_first() -> None:
    before, after = verdict(mr(sequence=MPRAGE)), verdict(mr(sequence=MPRAGE, contrast=True))
    assert before.roles == after.roles == ("t1",)
    assert tuple(before.rank["t1"]) < tuple(after.rank["t1"])


def test_susceptibility_by_name_or_by_sequence() -> None:
    assert verdict(mr(sequence=SUSCEPTIBILITY)).rule == "swi_gradient_3d"
    named = mr(image_type=("ORIGINAL", "PRIMARY", "M", "SWI"))
    assert verdict(named).rule == "swi_named"
    phase = mr(Slot(component=Component.PHASE), sequence=SUSCEPTIBILITY)
    assert verdict(phase).reason == Reason.NOT_MAGNITUDE


def test_ct_perfusion_is_no_plain_head_ct() -> None:
    slices = [
        replace(make_slice(number=20 * t + n, z=5.0 * n), slot=Slot(time=10.0 + t, temporal_position=t + 1))
        for t in range(20)
        for n in range(1, 9)
    ]
    assert said_by("ncct_head", slices) == ("not meant", Reason.TIME_SERIES)


def test_a_head_ct_scanned_twice_in_one_series_is_refused_not_overlooked() -> None:
    slices = [
        replace(make_slice(number=8 * t + n, z=5.0 * n, acquisition=t + 1), slot=Slot(acquisition=t + 1))
        for t in range(2)
        for n in range(1, 9)
    ]
    assert verdict(slices).refused == {"ncct_head": Reason.OTHER_AXES}


# --- what is said of it ---------------------------------------------------------------------------------------------


def test_every_rule_speaks_and_those_of_one_reason_share_a_line() -> None:
    found = verdict(series())
    assert [s.rule for s in found.said] == [rule.name for rule in RULES]
    lines = [e.detail for e in found.evidence()]
    assert lines[0] == "ncct_head: plays ncct_head"
    assert lines[1].endswith(f": {Reason.NOT_MR}")
    assert len(lines) < len(RULES)
    assert all(any(rule.name in line or rule.role in line for line in lines) for rule in RULES)


def test_an_unknown_fact_that_must_be_known_fails_only_when_the_series_is_whole() -> None:
    slices = mr(sequence=SequenceFacts(scanning_sequence=("GR",)))
    assert "t1" in judge(facts_of(slices, None)).meant
    assert "t1" not in verdict(slices).meant


# --- a site's own -----------------------------------------------------------------------------------------------------


def own(name: str = "scout", role: str = "scouting") -> Rule:
    check = Check(fact="kind", relation="is", value="localizer", reason="not a localizer")
    return Rule(name=name, role=role, about="", meant=(check,), usable=(), rank=())


def test_a_rule_of_the_site_gives_a_role_of_its_own() -> None:
    slices = series(change=lambda i: replace(i, kind=Kind.LOCALIZER, slot=Slot(kind=Kind.LOCALIZER)))
    found = judge(facts_of(slices, build_grid(slices)), rules=extended([own()]))
    assert (found.roles, found.rule) == (("scouting",), "scout")


def test_a_rule_with_our_name_stands_in_its_place_and_one_can_be_switched_off() -> None:
    names = [rule.name for rule in RULES]
    replaced = extended([own("t1_named", "t1"), own()], without=["adc"])
    assert [r.name for r in replaced] == ["scout", *(name for name in names if name != "adc")]
    assert next(r for r in replaced if r.name == "t1_named").meant == own().meant


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (Check(fact="kernl", relation="is", value="soft", reason="r"), ("kernl", "kernel")),
        (Check(fact="kernel", relation="equals", value="soft", reason="r"), ("equals", "at most")),
        (Check(fact="kernel", relation="is", value="mild", reason="r"), ("mild", "soft, sharp, unknown")),
        (Check(fact="kernel", relation="at most", value="soft", reason="r"), ("at most", "one of")),
        (Check(fact="images", relation="at least", value=2.5, reason="r"), ("2.5", "whole number")),
        (Check(fact="contrast", relation="is", value=1, reason="r"), ("contrast", "true or false")),
        (Check(fact="words", relation="has any of", value="T1", reason="r"), ("T1", "a list")),
    ],
)
def test_a_check_that_cannot_be_made_is_named_with_what_is_allowed(check: Check, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"fact|relation|value") as caught:
        check_fits(check)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_our_own_checks_can_be_made() -> None:
    for rule in RULES:
        for check in (*rule.meant, *rule.usable):
            if check.value is not None:
                check_fits(check)
        for fact, prefer, step in rule.rank:
            rank_fits(fact, prefer, step=step)


def test_the_page_of_rules_is_what_the_code_says() -> None:
    """After a wanted change: python -m ichor.series > docs/series.md."""
    page = Path(__file__).resolve().parents[3] / "docs" / "series.md"
    assert page.read_text() == document()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("H31s", "soft"), ("J40s", "soft"), ("Hr38f", "soft"), ("H70h", "sharp"), ("Br64", "sharp"), ("H60s", "sharp"),
        ("STANDARD", "soft"), ("SOFT", "soft"), ("BONE", "sharp"), ("BONEPLUS", "sharp"), ("EDGE", "sharp"),
        ("LUNG", "sharp"), ("UB", "soft"), ("B", "soft"), ("YC", "sharp"), ("D", "sharp"), ("FC21", "soft"),
        ("FC26", "soft"), ("FC30", "sharp"), ("FC81", "sharp"), ("H_SHARP_C", "sharp"), ("Brain Standard", "soft"),
        ("xyz", "unknown"), ("", "unknown"), (None, "unknown"),
    ],
)  # fmt: skip
def test_kernels_by_vendor(name: str | None, expected: str) -> None:
    assert kernel_class(name) is KernelClass(expected)
