"""A series in the words of `ichor facts`: keys, null where they do not apply, JSON-able."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from contract.arrivals import make_slice
from unit.series.mr_series import SIX, diffusion, mr, tensor, times

from ichor.reasons import Reason
from ichor.series.grid import build_grid
from ichor.series.roles import facts_of, judge
from ichor.series.summary import SeenSeries, summary
from ichor.types import Diffusion, Evidence, Geometry, Grade, Instance, Kind, SequenceFacts, Slot

GIVEN = {
    "series_instance_uid", "study_instance_uid", "modality", "dialect", "kind", "roles", "rule", "axes", "shape",
    "affine_lps", "complete", "grade", "evidence", "missing", "bvals", "bvecs_lps", "refused",
}  # fmt: skip


def seen(
    instances: Sequence[Instance], *, grade: Grade = Grade.REGULAR, conflict: bool = False, notes: tuple[str, ...] = ()
) -> dict[str, Any]:
    grid = build_grid(instances)
    verdict = judge(facts_of(instances, grid, conflict=conflict))
    series = SeenSeries(
        series_instance_uid="1.2.3.1", study_instance_uid="1.2.3", instances=tuple(instances), grid=grid, grade=grade,
        evidence=(Evidence(what="count", detail="none"), *verdict.evidence()), reason=verdict.reason, verdict=verdict,
        conflict=conflict, notes=notes,
    )  # fmt: skip
    said: dict[str, Any] = json.loads(json.dumps(summary(series), allow_nan=False))
    return said


def test_a_plain_volume_has_three_axes_and_an_affine() -> None:
    said = seen([make_slice(number=n + 1, tilt=20.0) for n in range(8)])
    assert set(said) >= GIVEN
    assert said["shape"] == [8, 64, 64]
    assert [axis["name"] for axis in said["axes"]] == ["slice", "row", "column"]
    normal = np.cross((1, 0, 0), (0, np.cos(np.deg2rad(20)), np.sin(np.deg2rad(20))))
    assert said["axes"][0]["values"] == pytest.approx(
        [(-110 * normal[1]) + 5.0 * (n + 1) * normal[2] for n in range(8)], abs=1e-4
    )
    assert (said["axes"][1]["values"], said["axes"][2]["values"]) == (None, None)
    affine = np.asarray(said["affine_lps"])
    assert affine @ (0, 0, 0, 1) == pytest.approx([-110, -110, 5, 1])
    assert affine @ (63, 0, 7, 1) == pytest.approx([-110 + 31.5, -110, 40, 1])
    assert affine @ (0, 10, 0, 1) == pytest.approx(
        [-110, -110 + 5 * np.cos(np.deg2rad(20)), 5 + 5 * np.sin(np.deg2rad(20)), 1]
    )
    assert (said["roles"], said["rule"], said["refused"], said["bvals"], said["missing"]) == (
        ["ncct_head"], "ncct_head", None, None, [],
    )  # fmt: skip


def test_a_diffusion_series_has_b_values_and_directions_in_its_order() -> None:
    said = seen(tensor())
    assert said["shape"] == [7, 20, 64, 64]
    assert said["axes"][0] == {"name": "diffusion", "size": 7, "values": [0.0, *[1000.0] * 6]}
    assert said["bvals"] == [0.0, *[1000.0] * 6]
    assert said["bvecs_lps"] == [[0.0, 0.0, 0.0], *[list(map(float, d)) for d in SIX]]
    assert (said["roles"], said["rule"]) == (["dwi"], "dwi_tensor")


def test_directions_that_contradict_each_other_are_null_with_the_reason() -> None:
    images = [
        replace(i, slot=replace(i.slot, diffusion=Diffusion(b_value=1000.0, problem=Reason.DIFFUSION_DIFFERS)))
        if i.slot.acquisition == 3
        else i
        for i in tensor()
    ]
    said = seen(images)
    assert (said["bvecs_lps"], said["gradients"]) == (None, Reason.DIFFUSION_DIFFERS)
    assert said["bvals"] == [0.0, 1000.0, None, *[1000.0] * 4]
    assert (said["roles"], said["refused"]) == ([], Reason.DIFFUSION_DIFFERS)


def test_a_short_series_names_its_empty_slots_and_plays_nothing() -> None:
    images = times(20, sequence=SequenceFacts(scanning_sequence=("EP",), echo_time=30.0, repetition_time=1800.0))
    lost = images.pop(63)
    said = seen(images, grade=Grade.SHORT)
    assert lost.geometry is not None
    assert lost.geometry.position_lps is not None
    assert said["missing"] == [
        {"position_mm": lost.geometry.position_lps[2], "time": pytest.approx(3 * 1.8), "indices": [3]}
    ]
    assert (said["complete"], said["grade"], said["roles"], said["rule"], said["refused"]) == (
        False, "short", [], None, Reason.SHORT,
    )  # fmt: skip
    assert not any(rule["answer"] == "plays" for rule in said["rules"])
    assert {"role": "dsc_perfusion", "rule": "dsc_gradient", "answer": "refused", "reason": Reason.SHORT} in said[
        "rules"
    ]


def test_too_little_brain_is_an_array_without_a_role() -> None:
    said = seen(tensor(slices=2, spacing=3.0))
    assert said["shape"] == [7, 2, 64, 64]
    assert (said["roles"], said["rule"], said["refused"]) == ([], None, Reason.TOO_LITTLE_BRAIN)


def test_a_localizer_is_not_refused_it_is_no_candidate() -> None:
    said = seen([replace(i, modality="CT") for i in mr(Slot(kind=Kind.LOCALIZER))])
    assert (said["kind"], said["roles"], said["refused"], said["reason"]) == ("localizer", [], None, Reason.LOCALIZER)


def test_a_report_has_no_array() -> None:
    report = replace(make_slice(number=1), kind=Kind.REPORT, geometry=None, pixels=None, modality="SR")
    said = seen([report])
    assert said["kind"] == "report"
    assert [said[key] for key in ("axes", "shape", "affine_lps", "bvals", "bvecs_lps", "refused", "stacks")] == [
        None
    ] * 7


@pytest.mark.parametrize(
    ("defect", "conflict", "reason"),
    [(Reason.LOSSY, False, Reason.LOSSY), (None, True, Reason.DUPLICATE_OTHER_BYTES)],
)
def test_what_cannot_be_an_array_says_why(defect: str | None, conflict: bool, reason: str) -> None:
    images = [make_slice(number=n + 1, defect=defect) for n in range(8)]
    said = seen(images, conflict=conflict)
    assert (said["roles"], said["refused"]) == ([], reason)


def test_a_complete_series_lacks_nothing_where_the_scanner_left_a_gap() -> None:
    images = [make_slice(number=n + 1, thickness=5.0) for n in range(12)]
    del images[5]
    gap = "gap of 10.0 mm between the slices at 25.0 and 35.0 mm"
    said = seen(images, grade=Grade.QUIET, notes=(gap,))
    assert (said["shape"], said["refused"], said["missing"], said["notes"]) == ([11, 64, 64], None, [], [gap])
    short = seen(images, grade=Grade.SHORT)
    assert (short["refused"], short["missing"]) == (Reason.SHORT, [{"position_mm": 30.0, "indices": []}])


def test_empty_slots_of_an_array_are_missing_whatever_the_grade() -> None:
    images = times(20, sequence=SequenceFacts(scanning_sequence=("EP",), echo_time=30.0, repetition_time=1800.0))
    del images[63]
    said = seen(images, grade=Grade.QUIET)
    assert (said["roles"], said["refused"], len(said["missing"])) == ([], Reason.SHORT, 1)


def test_mixed_sizes_have_no_axes_and_say_why() -> None:
    images = [make_slice(number=n + 1) for n in range(8)]
    odd = images[3].geometry
    assert isinstance(odd, Geometry)
    images[3] = replace(images[3], geometry=replace(odd, rows=32))
    said = seen(images)
    assert (said["axes"], said["shape"], said["refused"]) == (None, None, Reason.MIXED_GEOMETRY)


def test_what_sits_in_the_series_and_not_in_the_array_is_counted() -> None:
    trace = [
        replace(i, sop_instance_uid=f"1.9.{n}", slot=replace(i.slot, acquisition=99))
        for n, i in enumerate(diffusion([(1000.0, None)], kind=Kind.TRACE))
    ]
    trace[4] = replace(trace[4], defect=Reason.PIXELS_SHORT)
    said = seen([*tensor(), *trace])
    assert said["shape"] == [7, 20, 64, 64]
    assert said["left_out"] == [{"kind": "trace", "images": 20}]
    assert said["instances"] == 160
    assert (said["roles"], said["refused"]) == (["dwi"], None)
