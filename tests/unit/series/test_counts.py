"""What the counts in headers say of a series: plain ones, products, objects, and where they contradict each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from contract.arrivals import make_slice
from contract.series_kinds import Where, enhanced_several, enhanced_volume, enhanced_volumes

from ichor.series.counts import Claim, CountTally, Reading
from ichor.types import Instance, Slot, Tiling

TILING = Tiling(count=20, across=5, rows=64, columns=64, first_position_lps=(0.0, 0.0, 0.0), step_lps=(0.0, 0.0, 4.0))
WHERE = Where("1.2", "1.2.3", "MR1")


def tally(images: list[Instance]) -> CountTally:
    found = CountTally()
    for image in images:
        found.add(image)
    return found


def claim(images: list[Instance]) -> Claim | None:
    return tally(images).claim()


def volumes(count: int, slices: int, *counts: tuple[str, int]) -> list[Instance]:
    return [
        make_slice(
            number=v * slices + k + 1, z=5.0 * k, counts=counts, temporal_position=v + 1,
            slot=Slot(temporal_position=v + 1),
        )
        for v in range(count)
        for k in range(slices)
    ]  # fmt: skip


def test_tiled_objects_of_united_imaging_count_objects_where_they_say_slices() -> None:
    tiled = [replace(i, tiling=TILING) for i in volumes(3, 1, ("NumberOfSlices", 3))]
    found = tally(tiled)
    assert found.planes == 60
    assert found.claim() == Claim(expected=3, here=3)
    del tiled[1]
    assert claim(tiled) == Claim(expected=3, here=2)


def test_temporal_positions_alone_or_one_of_them_count_nothing() -> None:
    assert claim(volumes(3, 4, ("NumberOfTemporalPositions", 3))) is None
    assert claim(volumes(3, 4, ("NumberOfTemporalPositions", 1), ("PhilipsNumberOfSlices", 4))) is None
    assert claim(volumes(3, 4, ("NumberOfTemporalPositions", 3), ("PhilipsNumberOfSlices", 1))) is None


@pytest.mark.parametrize("keyword", ["PhilipsNumberOfSlices", "GELocationsInAcquisition"])
def test_slices_times_temporal_positions_is_a_count(keyword: str) -> None:
    counts = (keyword, 4), ("NumberOfTemporalPositions", 3)
    found = claim(volumes(2, 4, *counts))
    assert found is not None
    assert (found.expected, found.here, found.reading) == (12, 8, Reading.PRODUCT)
    whole = claim(volumes(3, 4, *counts))
    assert whole is not None
    assert whole.met


def test_tiled_objects_are_not_counted_by_slices_times_volumes() -> None:
    counts = ("GELocationsInAcquisition", 20), ("NumberOfTemporalPositions", 3)
    assert claim([replace(i, tiling=TILING) for i in volumes(3, 1, *counts)]) is None


def test_a_product_that_another_count_contradicts_is_none() -> None:
    counts = ("PhilipsNumberOfSlices", 4), ("NumberOfTemporalPositions", 3)
    found = claim(volumes(3, 4, *counts, ("ImagesInAcquisition", 13)))
    assert found is not None
    assert found.expected is None
    more = [
        *volumes(3, 4, *counts, ("ImagesInAcquisition", 13)),
        *volumes(4, 4, *counts, ("ImagesInAcquisition", 13))[-1:],
    ]
    # 13 images: the product is shown to be wrong, the plain count is not.
    agreed = claim(more)
    assert agreed is not None
    assert agreed.met


def test_a_count_of_one_volume_of_several_is_no_count_of_the_series() -> None:
    counts = ("ImagesInAcquisition", 4), ("NumberOfTemporalPositions", 3)
    found = claim(volumes(1, 4, *counts))
    assert found is not None
    assert found.expected is None


def test_one_image_said_of_many_is_no_count() -> None:
    assert claim(volumes(2, 4, ("ImagesInAcquisition", 1), ("NumberOfTemporalPositions", 1))) is None


def test_fewer_temporal_positions_than_stated_are_named_and_all_of_them_count_nothing() -> None:
    found = claim(volumes(9, 8, ("NumberOfTemporalPositions", 10)))
    assert found is not None
    assert (found.expected, found.here) == (80, 72)
    assert found.wanting == ", temporal position 10 of 10 is missing"
    assert claim(volumes(10, 8, ("NumberOfTemporalPositions", 10))) is None
    assert claim(volumes(1, 8, ("NumberOfTemporalPositions", 10))) is None


def test_an_object_whose_number_of_frames_is_not_that_of_the_frames_described_has_no_count() -> None:
    (image,) = enhanced_volumes(np.random.default_rng(1), WHERE, "none").images
    assert image.pixels is not None
    wrong = replace(image, pixels=replace(image.pixels, frames=1_000_000))
    found = claim([wrong])
    assert found is not None
    assert found.expected is None
    assert found.words == f"1000000 frames are stated, {len(image.frames)} described"


def test_time_slices_multiply_slices() -> None:
    found = claim(volumes(2, 4, ("NumberOfSlices", 4), ("NumberOfTimeSlices", 3)))
    assert found is not None
    assert (found.expected, found.here) == (12, 8)


def test_the_frames_of_one_object_are_a_count_and_those_of_several_are_none() -> None:
    rng = np.random.default_rng(1)
    several = claim(list(enhanced_volumes(rng, WHERE, "none").images))
    one = claim(list(enhanced_volume(rng, WHERE, "none").images))
    assert several is not None
    assert one is not None
    assert (several.reading, one.reading) == (Reading.OBJECT, Reading.VOLUME)
    assert claim(list(enhanced_several(rng, WHERE, "none").images)) is None


def test_a_concatenation_says_how_many_objects_it_has() -> None:
    images = list(enhanced_several(np.random.default_rng(1), WHERE, "concatenation").images)
    found = claim(images[:-1])
    assert found is not None
    assert (found.expected, found.here) == (len(images), len(images) - 1)


def test_taking_an_image_out_undoes_putting_it_in() -> None:
    images = volumes(3, 4, ("PhilipsNumberOfSlices", 4), ("NumberOfTemporalPositions", 3))
    other = replace(images[0], counts=(("PhilipsNumberOfSlices", 7),), acquisition_number=9, instance_number=77)
    found = tally(images)
    before = found.claim(), found.acquisitions, found.planes, found.numbers_speak_of_more
    found.add(other)
    assert found.claim() != before[0]
    assert found.numbers_speak_of_more
    found.add(other, by=-1)
    assert (found.claim(), found.acquisitions, found.planes, found.numbers_speak_of_more) == before
