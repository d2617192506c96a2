"""Why a series is no array: rules, `ichor facts` and the builder of volumes say the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

import pytest
from contract.arrivals import make_slice
from unit.series.mr_series import SIX, diffusion, mr, tensor

from ichor.errors import Unreadable
from ichor.reasons import Reason
from ichor.series.grid import build_grid
from ichor.series.manifest import build_manifest
from ichor.series.refusal import array_refusal, of_the_array
from ichor.series.roles import facts_of, judge
from ichor.series.summary import SeenSeries
from ichor.series.volume import build_volumes
from ichor.types import Component, Dialect, Frame, Grade, Instance, Kind, SequenceFacts, Slot

T1 = SequenceFacts(acquisition_type="3D", scanning_sequence=("GR", "IR"), inversion_time=900.0, echo_time=3.0)


class Unread:
    """A spool of which nothing may be read."""

    def open(self, location: str) -> BinaryIO:
        raise AssertionError(location)

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        raise AssertionError(location, offset, length)


def head() -> list[Instance]:
    return [make_slice(number=n + 1) for n in range(8)]


def changed(**changes: object) -> list[Instance]:
    slices = head()
    slices[3] = replace(slices[3], **changes)  # type: ignore[arg-type]
    return slices


def with_pixels(**changes: object) -> list[Instance]:
    pixels = head()[3].pixels
    assert pixels is not None
    return changed(pixels=replace(pixels, **changes))  # type: ignore[arg-type]


def with_report() -> list[Instance]:
    report = replace(make_slice(number=9), kind=Kind.REPORT, geometry=None, pixels=None, sop_instance_uid="1.9")
    return [*head(), report]


def two_frames_one_described() -> list[Instance]:
    slices = with_pixels(frames=2)
    geometry = slices[3].geometry
    assert geometry is not None
    frame = Frame(geometry=geometry, slot=slices[3].slot)
    slices[3] = replace(slices[3], frames=(frame,), dialect=Dialect.ENHANCED)
    return slices


def sized(instance: Instance, rows: int, columns: int) -> Instance:
    assert instance.geometry is not None
    return replace(instance, geometry=replace(instance.geometry, rows=rows, columns=columns))


def enhanced_copy() -> list[Instance]:
    """Single images and one object with a frame for each of them, under one Series Instance UID."""
    singles = mr(Slot(component=Component.MAGNITUDE), sequence=T1)
    frames = tuple(Frame(geometry=i.geometry, slot=Slot()) for i in singles if i.geometry is not None)
    first = singles[0]
    assert first.pixels is not None
    whole = replace(
        first, sop_instance_uid="1.9", dialect=Dialect.ENHANCED, frames=frames, slot=Slot(),
        pixels=replace(first.pixels, frames=len(frames)),
    )  # fmt: skip
    return [*singles, whole]


def one_slice_short() -> list[Instance]:
    images = tensor()
    del images[70]
    return images


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        (head, None),
        (lambda: with_pixels(lossy=True), Reason.LOSSY),
        (lambda: changed(defect=f"{Reason.CUT_SHORT}: 3 bytes"), f"{Reason.CUT_SHORT}: 3 bytes"),
        (lambda: changed(pixels=None), Reason.NO_PIXELS),
        (with_report, Reason.NO_PIXELS),
        (lambda: with_pixels(frames=2), Reason.MULTIFRAME),
        (lambda: with_pixels(frames=0), Reason.MULTIFRAME),
        (two_frames_one_described, Reason.FRAMES_DISAGREE),
        (lambda: changed(geometry=None), Reason.NO_GEOMETRY),
        (lambda: [*head(), make_slice(number=99, z=15.0)], Reason.SAME_PLACE),
        (one_slice_short, Reason.SHORT),
        (lambda: mr(unit="mm2/s", sequence=T1)[:10] + mr(sequence=T1)[10:], Reason.MIXED_UNITS),
        (enhanced_copy, Reason.MIXED_FORMS),
        (lambda: [sized(i, 8_000, 8_001) for i in head()], Reason.FRAME_TOO_LARGE),
        (lambda: [sized(i, 8_000, 8_000) for i in head()], None),
    ],
)
def test_rules_facts_and_volumes_give_one_reason(series: Callable[[], list[Instance]], reason: str | None) -> None:
    instances = series()
    grid = build_grid(instances)
    verdict = judge(facts_of(instances, grid))
    seen = SeenSeries(
        series_instance_uid="1.2.3.1", study_instance_uid="1.2.3", instances=tuple(instances), grid=grid,
        grade=Grade.REGULAR, evidence=(), reason=None, verdict=verdict,
    )  # fmt: skip
    assert array_refusal(instances, grid) == reason
    assert seen.array_refusal == reason
    (refused,) = verdict.refused.values() if verdict.refused else (None,)
    assert refused == reason
    manifest = build_manifest(instances, revision=1, grade=Grade.REGULAR)
    if reason is not None:
        with pytest.raises(Unreadable) as caught:
            build_volumes(manifest, spool=Unread())
        assert caught.value.reason == reason


def test_phase_in_another_unit_than_magnitude_is_an_axis() -> None:
    both = mr(Slot(component=Component.MAGNITUDE), sequence=T1) + mr(
        Slot(component=Component.PHASE), volume=1, unit="rad", sequence=T1
    )
    assert array_refusal(both, build_grid(both)) is None


def test_ct_images_that_say_hounsfield_and_those_that_need_not_are_one_quantity() -> None:
    assert array_refusal(changed(unit="[hnsf'U]"), build_grid(changed(unit="[hnsf'U]"))) is None
    assert array_refusal(changed(unit="1"), build_grid(changed(unit="1"))) == Reason.MIXED_UNITS


def test_an_object_beside_the_array_refuses_nothing() -> None:
    trace = [
        replace(i, sop_instance_uid=f"1.9.{n}", defect=Reason.LOSSY)
        for n, i in enumerate(diffusion([(1000.0, None)], kind=Kind.TRACE))
    ]
    instances = [*tensor(), *trace]
    grid = build_grid(instances)
    assert len(of_the_array(instances, grid)) == (len(SIX) + 1) * 20
    assert array_refusal(instances, grid) is None
    assert array_refusal(instances, None) == Reason.LOSSY


def test_pixels_that_came_twice_are_the_first_reason() -> None:
    images = mr(defect=Reason.CUT_SHORT)
    assert array_refusal(images, build_grid(images), conflict=True) == Reason.DUPLICATE_OTHER_BYTES
