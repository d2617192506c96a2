"""Heads unlike those that networks have seen are named, with the reason; those that only look so pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from unit.pipelines.heads import FEET_FIRST, HEAD_FIRST, PRONE, TRANSPOSED, Layout, ThresholdEngine, head, no_timing

from ichor.arrays import Volume
from ichor.errors import Unreadable
from ichor.reasons import Reason
from pipelines.fitness import METAL_DARK_SHARE, OPEN_MM, fit_space, signs_of
from pipelines.haematoma import PIPELINE

Change = Callable[[Volume], Volume]


def changed(volume: Volume, change: Callable[[np.ndarray], None]) -> Volume:
    array = volume.array_zyx.copy()
    change(array)
    return replace(volume, array=array)


def part(
    volume: Volume, slices: slice = slice(None), rows: slice = slice(None), columns: slice = slice(None)
) -> Volume:
    first = (rows.start or 0) * volume.pixel_spacing[0] * volume.column_lps
    first = first + (columns.start or 0) * volume.pixel_spacing[1] * volume.row_lps
    return replace(
        volume, array=volume.array_zyx[slices, rows, columns], origins_lps=volume.origins_lps[slices] + first,
        sources=volume.sources[slices],
    )  # fmt: skip


def craniectomy(volume: Volume) -> Volume:
    def remove(hu: np.ndarray) -> None:
        side = hu[15:28, 36:76, 60:]
        side[side > 500] = 30

    return changed(volume, remove)


def streaks(volume: Volume) -> Volume:
    def clip(hu: np.ndarray) -> None:
        hu[16, 54:57, 46:49] = 3071
        for k in range(14, 19):
            soft = (hu[k] > -100) & (hu[k] < 100)
            band = np.zeros_like(soft)
            band[::12] = True
            hu[k][soft & band] -= 120

    return changed(volume, clip)


def noisy(volume: Volume) -> Volume:
    rng = np.random.default_rng(1)
    return replace(volume, array=(volume.array_zyx + rng.normal(0, 22, volume.array_zyx.shape)).astype(np.int16))


def sinus(hu_value: int) -> Change:
    """A band of 4 x 4 mm along the midline over the back half of the head."""

    def fill(hu: np.ndarray) -> None:
        hu[14:24, 62:84, 47:49] = hu_value

    return lambda volume: changed(volume, fill)


def calcified_plexus(volume: Volume) -> Volume:
    def fill(hu: np.ndarray) -> None:
        for column in (34, 60):
            hu[16:18, 62:66, column : column + 4] = 250

    return changed(volume, fill)


@pytest.mark.parametrize("layout", [HEAD_FIRST, PRONE, FEET_FIRST, TRANSPOSED])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (craniectomy, Reason.OPEN_SKULL),
        (streaks, Reason.METAL),
        (sinus(180), Reason.CONTRAST_SEEN),
    ],
    ids=["craniectomy", "streaks", "sinus"],
)
def test_what_networks_never_saw_is_named_however_it_is_stored(layout: Layout, change: Change, reason: Reason) -> None:
    straight = change(head())
    # The same voxels, turned as the other layout stores them.
    turned = head(layout)
    points = turned.to_lps(np.argwhere(np.ones(turned.array_zyx.shape, bool)))
    k = np.rint(np.interp(points[:, 2], straight.origins_lps[:, 2], np.arange(len(straight.origins_lps))))
    rest = points - straight.origins_lps[k.astype(int)]
    j, i = np.rint(rest[:, 1] / 2.0), np.rint(rest[:, 0] / 2.0)
    shape = straight.array_zyx.shape
    at = tuple(np.clip(v, 0, n - 1).astype(int) for v, n in zip((k, j, i), shape, strict=True))
    turned = replace(turned, array=straight.array_zyx[at].reshape(turned.array_zyx.shape))
    with pytest.raises(Unreadable) as refused:
        fit_space(turned)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "cut",
    [
        lambda v: part(v, columns=slice(48, None)),
        lambda v: part(v, rows=slice(0, 56)),
        lambda v: part(v, slices=slice(14, None)),
        lambda v: part(v, slices=slice(0, 15)),
    ],
    ids=["one side", "front", "top", "base"],
)
def test_half_a_head_is_named(cut: Change) -> None:
    with pytest.raises(Unreadable, match=Reason.PART_OF_HEAD):
        fit_space(cut(head()))


def test_too_much_noise_is_named() -> None:
    with pytest.raises(Unreadable, match=Reason.NOISE):
        fit_space(noisy(head()))


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v,
        calcified_plexus,
        sinus(75),
        lambda v: part(v, slices=slice(2, 29)),
        lambda v: part(v, columns=slice(6, None)),
    ],
    ids=["as it is", "calcified plexus", "dense sinus", "cropped ends", "off the middle"],
)
def test_what_only_looks_odd_passes(change: Change) -> None:
    assert fit_space(change(head())).volume_ml > 900


def test_a_filling_that_throws_no_streaks_over_the_brain_passes() -> None:
    def tooth(hu: np.ndarray) -> None:
        hu[0, 10:12, 46:49] = 3071

    volume = changed(head(), tooth)
    assert signs_of(volume, fit_space(volume)).dark_share < METAL_DARK_SHARE


def test_a_burr_hole_is_no_open_skull() -> None:
    def drill(hu: np.ndarray) -> None:
        hole = hu[20:23, 52:58, 60:]
        hole[hole > 500] = 30

    volume = changed(head(), drill)
    assert signs_of(volume, fit_space(volume)).open_mm < OPEN_MM


def test_noise_is_measured_at_the_resolution_of_networks() -> None:
    """White noise on pixels of 0.5 mm is half as strong on those of 1 mm."""
    volume = head(Layout(rows=448, columns=384, spacing=(0.5, 0.5), z=tuple(np.arange(-60.0, 75, 15.0))), noise=0.0)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, volume.array_zyx.shape)
    noisy_volume = replace(volume, array=(volume.array_zyx + noise).astype(np.int16))
    assert signs_of(noisy_volume, fit_space(noisy_volume)).noise_hu == pytest.approx(6.0, rel=0.15)


def test_no_network_is_asked_about_what_it_never_saw() -> None:
    engine = ThresholdEngine()
    with pytest.raises(Unreadable, match=Reason.OPEN_SKULL):
        PIPELINE.run({"ncct_head": craniectomy(head())}, {"haematoma-phantom": engine}, no_timing)
    assert engine.calls == 0
