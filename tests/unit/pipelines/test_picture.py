"""Pictures: outlined on the right slice, the patient's right on the left, RESEARCH burned in."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from unit.pipelines.heads import (
    FEET_FIRST,
    HEAD_FIRST,
    PRONE,
    TRANSPOSED,
    Judge,
    Layout,
    ThresholdEngine,
    head,
    no_timing,
)

from ichor.types import Findings
from pipelines.haematoma import PIPELINE
from pipelines.picture import OUTLINE, Drawn, draw, overlays


def pictures(layout: Layout = HEAD_FIRST, **what: object) -> tuple[Findings, list[Drawn]]:
    volume = head(layout, **what)  # type: ignore[arg-type]
    findings = PIPELINE.run({"ncct_head": volume}, {"haematoma-phantom": ThresholdEngine()}, no_timing)
    return findings, draw(findings, volume, overlays(findings, volume))


def pixels(drawn: Drawn) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(drawn.png)))


def outline(drawn: Drawn) -> npt.NDArray[np.intp]:
    return np.argwhere((np.abs(pixels(drawn).astype(int) - OUTLINE) < 12).all(axis=2))


@pytest.mark.parametrize("layout", [HEAD_FIRST, PRONE, FEET_FIRST, TRANSPOSED])
def test_left_is_shown_on_the_right_and_front_up_however_it_is_stored(layout: Layout) -> None:
    _, (drawn,) = pictures(layout, blood=[((35.0, -40.0, 20.0), 15.0)])
    height, width, _ = pixels(drawn).shape
    where = outline(drawn)
    assert len(where) > 100
    y, x = where.mean(axis=0)
    assert 0.6 * width < x < 0.85 * width
    assert 0.15 * height < y < 0.45 * height


@pytest.mark.parametrize(
    "layout",
    [
        HEAD_FIRST,
        replace(HEAD_FIRST, columns=64, spacing=(2.0, 3.0)),
        replace(TRANSPOSED, columns=75, spacing=(2.0, 3.0)),
    ],
    ids=["square pixels", "wide pixels", "wide pixels, transposed"],
)
def test_the_outline_of_a_ball_is_round_thin_and_surrounds_it(layout: Layout) -> None:
    _, (drawn,) = pictures(layout, blood=[((35.0, -10.0, 20.0), 15.0)])
    where = outline(drawn)
    (y0, x0), (y1, x1) = where.min(axis=0), where.max(axis=0)
    assert y1 - y0 == pytest.approx(x1 - x0, abs=12)
    # Filled, it would be pi/4 of its box.
    assert len(where) < 0.2 * (y1 - y0) * (x1 - x0)
    middle = pixels(drawn)[(y0 + y1) // 2, (x0 + x1) // 2]
    # 66 HU in a window from 0 to 80, the same in all colours.
    assert np.ptp(middle) == 0
    assert middle[0] == pytest.approx(66 / 80 * 255, abs=30)


def test_one_picture_per_lesion_at_its_largest_slice() -> None:
    findings, drawn = pictures(blood=[((35.0, -10.0, 20.0), 16.0), ((-38.0, 25.0, -15.0), 9.0)])
    # Slices at -65, -60, ...: the balls' middles at 20 and -15 are slices 18 and 11 of 31.
    assert [d.caption for d in drawn] == [
        "Haematoma 1 outlined; slice 18 of 31", "Haematoma 2 outlined; slice 11 of 31"
    ]  # fmt: skip
    assert len(findings.groups) == 2


def test_without_a_haematoma_the_middle_slice_has_no_outline() -> None:
    findings, (drawn,) = pictures()
    assert findings.outcome == "none"
    assert "No haematoma found" in drawn.caption
    assert len(outline(drawn)) == 0


def test_research_is_burned_in() -> None:
    """The top of the picture is air without the mark: nothing but its letters is bright there."""
    _, (drawn,) = pictures()
    strip = pixels(drawn)[4:26]
    assert (strip > 200).all(axis=2).sum() > 150


def coloured(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Pixels redder than grey, without the legend at the bottom and the outline."""
    red = picture[..., 0].astype(int) - picture[..., 2] > 60
    yellow = (np.abs(picture.astype(int) - OUTLINE) < 40).all(axis=2)
    return np.argwhere((red & ~yellow)[:-40])


@pytest.mark.parametrize("layout", [HEAD_FIRST, PRONE, TRANSPOSED])
def test_attention_is_drawn_in_colour_where_it_lies_on_each_slice_that_holds_it(layout: Layout) -> None:
    volume = head(layout, blood=[((35.0, -40.0, 20.0), 15.0)])
    engines = {"haematoma-phantom": ThresholdEngine(), "haematoma-expansion-phantom": Judge()}
    findings = PIPELINE.run({"ncct_head": volume}, engines, no_timing)
    drawn = overlays(findings, volume)
    held = np.flatnonzero(findings.maps[1].values_zyx.any(axis=(1, 2)))
    assert [one.slice for one in drawn] == list(held)
    assert [one.middle for one in drawn] == [False, True, False]
    for one in drawn:
        height, width, _ = one.rgb_yx.shape
        y, x = coloured(one.rgb_yx).mean(axis=0)
        assert 0.6 * width < x < 0.85 * width
        assert 0.15 * height < y < 0.45 * height
        assert (one.rgb_yx[4:26] > 200).all(axis=2).sum() > 150
    shown = draw(findings, volume, overlays(findings, volume))
    assert len(shown) == 2
    assert shown[1].caption == drawn[1].caption
    assert np.array_equal(pixels(shown[1]), drawn[1].rgb_yx)


def test_without_attention_there_is_no_overlay() -> None:
    volume = head(blood=[((35.0, -40.0, 20.0), 15.0)])
    findings = PIPELINE.run({"ncct_head": volume}, {"haematoma-phantom": ThresholdEngine()}, no_timing)
    assert overlays(findings, volume) == []
