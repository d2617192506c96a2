"""Rules: what is a head CT, what is not, and what is one and cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from contract.arrivals import make_slice

from ichor.reasons import Reason
from ichor.series.grid import build_grid
from ichor.series.kernels import KernelClass, kernel_class
from ichor.series.roles import Verdict, facts_of, judge
from ichor.types import Instance

Change = Callable[[Instance], Instance]


def series(count: int = 8, change: Change = lambda i: i, **how: object) -> list[Instance]:
    return [change(make_slice(number=n + 1, **how)) for n in range(count)]  # type: ignore[arg-type]


def verdict(slices: list[Instance], *, conflict: bool = False) -> Verdict:
    return judge(facts_of(slices, build_grid(slices), conflict=conflict))


def geometry(instance: Instance, **changes: object) -> Instance:
    assert instance.geometry is not None
    return replace(instance, geometry=replace(instance.geometry, **changes))  # type: ignore[arg-type]


def pixels(instance: Instance, **changes: object) -> Instance:
    assert instance.pixels is not None
    return replace(instance, pixels=replace(instance.pixels, **changes))  # type: ignore[arg-type]


def test_a_soft_axial_head_ct_plays_the_role() -> None:
    assert verdict(series()).roles == ("ncct_head",)
    assert verdict(series(tilt=25.0)).roles == ("ncct_head",)
    assert verdict(series(change=lambda i: replace(i, body_part=None, kernel=None))).roles == ("ncct_head",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda i: replace(i, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), Reason.LOCALIZER),
        (lambda i: replace(i, image_type=("DERIVED", "SECONDARY", "MPR")), Reason.DERIVED),
        (lambda i: replace(i, sop_class_uid="1.2.840.10008.5.1.4.1.1.7"), Reason.SECONDARY_CAPTURE),
        (lambda i: replace(i, geometry=None, pixels=None), Reason.REPORT),
        (lambda i: replace(i, modality="MR"), "not a CT"),
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
        (lambda i: geometry(i, pixel_spacing=None), Reason.NO_GEOMETRY),
        (lambda i: geometry(i, position_lps=(0.0, 0.0, 0.0)), Reason.SAME_PLACE),
    ],
)
def test_a_candidate_that_cannot_be_used_is_refused_with_the_reason(change: Change, reason: str) -> None:
    found = verdict(series(change=change))
    assert found.roles == ()
    assert found.refused == {"ncct_head": reason}


def test_one_slice_and_conflicting_duplicates_are_refused() -> None:
    assert verdict(series(1)).refused == {"ncct_head": Reason.ONE_SLICE}
    assert verdict(series(), conflict=True).refused == {"ncct_head": Reason.DUPLICATE_OTHER_BYTES}


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
