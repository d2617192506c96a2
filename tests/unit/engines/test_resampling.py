from __future__ import annotations

import numpy as np
import pytest

from engines.resampling import AIR_HU, Axis, nearest, resample_hu, resample_probability


def test_coarser_pixels_average_what_they_cover() -> None:
    image = np.zeros((40, 40), np.float32)
    image[20, 20] = 1600
    source, target = Axis(0, 0.5, 40), Axis(0, 1.0, 20)
    out = resample_hu(image, (source, source), (target, target))
    # Triangle of 1 mm half width on 0.5 mm pixels: weights 1/4, 1/2, 1/4 along each axis.
    assert out[10, 10] == pytest.approx(1600 / 4, abs=1e-2)
    assert abs(out[10, 11]) < 1e-2


def test_a_flat_image_stays_flat_and_outside_is_air() -> None:
    image = np.full((60, 50), 200, np.int16)
    source, target = (Axis(0, 0.5, 60), Axis(0, 0.5, 50)), (Axis(-8, 1.0, 50), Axis(-8, 1.0, 50))
    out = resample_hu(image, source, target)
    np.testing.assert_allclose(out[9:37, 9:32], 200, atol=1e-3)
    assert np.all(out[:7] == AIR_HU)
    assert np.all(out[:, 34:] == AIR_HU)


def test_a_ramp_is_interpolated_exactly_at_a_fractional_shift() -> None:
    ramp = np.tile(np.arange(30, dtype=np.float32) * 10, (30, 1))
    source = Axis(0, 1.0, 30)
    out = resample_hu(ramp, (source, source), (source, Axis(0.3, 1.0, 28)))
    np.testing.assert_allclose(out[15, :28], 3 + 10 * np.arange(28), atol=1e-3)


def test_probability_goes_to_finer_pixels_between_0_and_1_and_is_0_outside() -> None:
    probability = np.zeros((20, 20), np.float32)
    probability[5:10, 5:10] = 1
    coarse, fine = Axis(10, 1.0, 20), Axis(0, 0.4, 100)
    out = resample_probability(probability, (coarse, coarse), (fine, fine))
    assert out.min() == 0
    assert out.max() == pytest.approx(1)
    assert out.sum() * 0.16 == pytest.approx(25, rel=0.02)
    assert out[:20].max() == 0


def test_nearest_keeps_values_and_marks_outside_as_air() -> None:
    image = np.arange(100, dtype=np.int16).reshape(10, 10)
    axis = Axis(0, 0.5, 10)
    out = nearest(image, (axis, axis), (Axis(-1, 1.0, 4), Axis(0, 1.0, 5)))
    assert out[0].tolist() == [AIR_HU] * 5
    assert out[1].tolist() == [0, 2, 4, 6, 8]


def test_a_target_that_misses_the_source_is_all_air() -> None:
    axis = Axis(0, 1.0, 8)
    out = resample_hu(np.zeros((8, 8), np.float32), (axis, axis), (Axis(100, 1.0, 4), axis))
    assert np.all(out == AIR_HU)
