"""What goes with a haematoma: in its volume, and where its expansion is judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import KDTree

from ichor.arrays import Volume
from pipelines import regions
from pipelines.brain import Intracranial
from pipelines.regions import Regions, find_regions, measured, with_islands, without_islands


def volume(*, slices: int, slice_mm: float) -> Volume:
    return Volume(
        array=np.zeros((slices, 64, 64), np.float32),
        origins_lps=np.stack([[0.0, 0.0, slice_mm * k] for k in range(slices)]),
        row_lps=np.array([1.0, 0.0, 0.0]),
        column_lps=np.array([0.0, 1.0, 0.0]),
        pixel_spacing=(1.0, 1.0),
        slice_thickness=slice_mm,
        frame_of_reference_uid=None,
        unit="HU",
        sources=(),
    )


@pytest.mark.parametrize(("gap", "near"), [(4, True), (9, True), (12, False)])
def test_what_lies_near_in_plane_goes_with_it(gap: int, near: bool) -> None:
    head = volume(slices=3, slice_mm=5.0)
    main = np.zeros((3, 64, 64), np.uint8)
    main[:, 20:30, 20:30] = 1
    above = main > 0
    above[1, 24:26, 29 + gap : 31 + gap] = True

    joined = with_islands(main, above, head)

    assert bool(joined[1, 24, 29 + gap]) is near
    assert (joined[main > 0] == 1).all()


@pytest.mark.parametrize(("slices_away", "near"), [(2, True), (3, False)])
def test_distance_between_slices_is_in_mm(slices_away: int, near: bool) -> None:
    head = volume(slices=6, slice_mm=5.0)
    main = np.zeros((6, 64, 64), np.uint8)
    main[:2, 20:30, 20:30] = 1
    above = main > 0
    above[1 + slices_away, 24, 24] = True

    assert bool(with_islands(main, above, head)[1 + slices_away, 24, 24]) is near


def test_a_haematoma_alone_stays_as_it_is() -> None:
    main = np.zeros((3, 64, 64), np.uint8)
    main[:, 60:, 60:] = 1  # at the edge: nothing lies beyond

    assert np.array_equal(with_islands(main, main > 0, volume(slices=3, slice_mm=5.0)), main)


def test_a_region_that_begins_near_goes_with_it_to_its_end() -> None:
    main = np.zeros((3, 64, 64), np.uint8)
    main[:, 20:30, 10:20] = 1
    above = main > 0
    above[1, 24, 26:60] = True  # from 7 mm to 40 mm away
    assert np.array_equal(with_islands(main, above, volume(slices=3, slice_mm=5.0)), above)


def regions_of(probability: np.ndarray, head: Volume) -> Regions:
    one = np.ones((1, 1, 1), bool)
    everywhere = Intracranial(blocks_zyx=one, bone_zyx=~one, block=probability.shape, volume_ml=1400.0)
    return find_regions(probability.astype(np.float32), head, everywhere)


@pytest.mark.parametrize(("gap", "near"), [(4, True), (9, True), (12, False)])
def test_what_is_too_small_to_be_called_belongs_to_the_haematoma_beside_it(gap: int, near: bool) -> None:
    head = volume(slices=3, slice_mm=5.0)
    probability = np.zeros((3, 64, 64))
    probability[:, 20:30, 20:30] = 0.95  # 1.5 mL
    probability[1, 20:30, 29 + gap : 34 + gap] = 0.6  # 0.25 mL, and not sure of it
    found = regions_of(probability, head)
    assert len(found.masks) == 1
    assert int(found.masks[0].sum()) == 300 + 50 * near
    assert found.specks_ml == (() if near else (pytest.approx(0.25),))
    assert found.unsure_ml == ((pytest.approx(0.25),) if near else ())


def test_where_one_is_called_smaller_and_fainter_ones_are_called_too() -> None:
    head = volume(slices=3, slice_mm=5.0)
    probability = np.zeros((3, 64, 64))
    probability[1, 20:30, 45:52] = 0.6  # 0.35 mL, and not sure of it
    alone = regions_of(probability, head)
    assert (alone.masks, alone.specks_ml) == ([], (pytest.approx(0.35),))
    probability[:, 20:30, 20:30] = 0.95
    found = regions_of(probability, head)
    assert [int(mask.sum()) for mask in found.masks] == [300, 70]
    assert found.specks_ml == ()
    assert found.unsure_ml == (pytest.approx(0.35),)


def test_an_island_goes_to_the_nearest_haematoma_and_islands_make_no_bridge() -> None:
    head = volume(slices=3, slice_mm=5.0)
    probability = np.zeros((3, 64, 64))
    probability[:, 2:12, 2:17] = probability[:, 2:12, 45:57] = 0.95  # 2.3 and 1.8 mL, 28 mm apart
    probability[1, 2:12, 37] = 0.95  # 8 mm from the smaller, 21 from the larger
    probability[1, 2:12, 30] = 0.95  # 7 mm from the island
    first, second = regions_of(probability, head).masks
    assert int(first.sum()) == 450
    assert int(second.sum()) == 370


@pytest.mark.parametrize("first_mm", [0.0, -37.43, 101.7])
@pytest.mark.parametrize(("slices_away", "near"), [(2, True), (3, False)])
def test_what_lies_at_the_very_distance_is_near(slices_away: int, near: bool, first_mm: float) -> None:
    head = volume(slices=6, slice_mm=5.0)
    # Where the stack lies decides how sums of 5 mm are rounded.
    head = replace(head, origins_lps=head.origins_lps + np.array([0.0, 0.0, first_mm]))
    probability = np.zeros((6, 64, 64))
    probability[:2, 20:35, 20:30] = 0.95  # 1.5 mL
    probability[1 + slices_away, 24:28, 24:28] = 0.95
    found = regions_of(probability, head)
    assert [int(mask.sum()) for mask in found.masks] == [300 + 16 * near]
    assert bool(with_islands(found.masks[0], probability > 0.5, head)[1 + slices_away, 24, 24]) is near


def uneven() -> Volume:
    """Slices at -20, 0, 3, 6 and 15 mm, the upper ones ever further to the back; pixels of 2 by 0.5 mm."""
    origins = np.array([[0.0, -7.0, -20.0], [0.0, 0.0, 0.0], [0.0, 1.0, 3.0], [0.0, 2.0, 6.0], [0.0, 5.0, 15.0]])
    return replace(volume(slices=5, slice_mm=3.0), origins_lps=origins, pixel_spacing=(2.0, 0.5))


@pytest.mark.parametrize(
    ("at", "near"),
    [((3, 22, 20), True), ((3, 26, 20), False), ((3, 20, 34), True), ((3, 20, 40), False), ((4, 20, 20), False)],
)
def test_distance_is_that_in_the_patient_whatever_pixels_gaps_and_tilt(at: tuple[int, int, int], near: bool) -> None:
    probability = np.zeros((5, 64, 64))
    probability[1:3, 2:20, 2:21] = 0.95
    probability[at] = 0.95
    (mask,) = regions_of(probability, uneven()).masks
    assert bool(mask[at]) is near
    alone = without_islands(mask, uneven().slice_extents)
    assert np.array_equal(with_islands(alone, probability >= 0.5, uneven()), mask)


@pytest.mark.parametrize(("k", "ml"), [(2, 0.24), (3, 0.48), (4, 0.72)])
def test_a_voxel_is_as_large_as_its_slice_stands_for(k: int, ml: float) -> None:
    probability = np.zeros((5, 64, 64))
    probability[k, 2:12, 2:10] = 0.95
    assert regions_of(probability, uneven()).specks_ml == (pytest.approx(ml),)


def test_an_island_between_two_goes_to_the_one_that_is_nearest_to_any_of_it() -> None:
    probability = np.zeros((3, 64, 64))
    probability[:, 20:30, 1:11] = 0.95  # 1.5 mL, 6 mm from the island
    probability[:, 22:36, 30:40] = 0.95  # 2.1 mL, 3 mm
    probability[1, 25, 16:28] = 0.95
    first, second = regions_of(probability, volume(slices=3, slice_mm=5.0)).masks
    assert (int(first.sum()), int(second.sum())) == (432, 300)
    assert first[1, 25, 16:28].all()


def test_each_region_is_looked_up_once_however_many_haematomas_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Counting(KDTree):
        def query(self, x: np.ndarray, **options: float) -> tuple[np.ndarray, np.ndarray]:
            asked.append(len(x))
            return super().query(x, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(regions, "KDTree", Counting)
    probability = np.zeros((3, 64, 64))
    for column in range(2, 12):
        probability[:, 2:14, column:58:14] = 0.95  # four of 1.8 mL, 5 mm apart
    probability[1, 17:62:4, 2:62:4] = 0.6  # 180 specks of one voxel
    found = regions_of(probability, volume(slices=3, slice_mm=5.0))
    assert len(found.masks) == 4
    assert sum(int(mask.sum()) for mask in found.masks) == 4 * 360 + 30
    assert sum(asked) == 180


def test_a_speck_alone_is_no_island() -> None:
    probability = np.zeros((3, 64, 64))
    probability[1, 2:12, 2:12] = 0.95
    found = regions_of(probability, volume(slices=3, slice_mm=5.0))
    assert found.masks == []
    assert found.specks_ml == (pytest.approx(0.5),)


def test_the_ruler_is_laid_on_the_haematoma_without_its_islands() -> None:
    head = volume(slices=3, slice_mm=5.0)
    main = np.zeros((3, 64, 64), np.uint8)
    main[:, 20:30, 20:30] = 1
    joined = main.copy()
    joined[1, 25, 36:38] = 1
    alone, with_them = (measured(mask, head, ()) for mask in (main, joined))
    assert with_them.abc2_ml == alone.abc2_ml
    assert with_them.voxel_ml == pytest.approx(alone.voxel_ml + 0.01)


def test_the_larger_region_is_that_of_more_millilitres_where_slices_lie_unevenly() -> None:
    z = np.array([0.0, 1, 2, 3, 8, 13])
    extents = replace(volume(slices=6, slice_mm=1.0), origins_lps=z[:, None] * np.array([0, 0, 1.0])).slice_extents
    mask = np.zeros((6, 20, 20), np.uint8)
    mask[0:3, 2:6, 2:6] = 1  # 48 voxels of 1 mm
    mask[4:6, 10:14, 10:14] = 1  # 32 voxels of 5 mm and more
    assert np.flatnonzero(without_islands(mask, extents).any(axis=(1, 2))).tolist() == [4, 5]


def test_what_overlaps_a_haematoma_goes_with_it_however_far_its_rim() -> None:
    main = np.zeros((3, 64, 64), np.uint8)
    main[1, 30:33, 30:33] = 1
    above = np.zeros(main.shape, bool)
    above[:, 15:49, 15:49] = True
    assert np.array_equal(with_islands(main, above, volume(slices=3, slice_mm=25.0)), above)
