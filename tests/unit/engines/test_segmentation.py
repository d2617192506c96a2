from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engines.onnx_runtime import OnnxRuntime
from engines.segmentation import INTRACRANIAL, Segmenter, segment
from ichor.arrays import Volume
from ichor.errors import Unreadable
from ichor.reasons import Reason

Head = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def runtime(threshold_model: Path) -> OnnxRuntime:
    return OnnxRuntime(threshold_model, threads=1)


def overlap(probability: np.ndarray, truth: np.ndarray) -> float:
    found = probability >= 0.5
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.parametrize("spacing", [0.45, 1.0, 1.3])
def test_a_bleed_is_found_where_it_is_whatever_the_pixel_size(runtime: OnnxRuntime, head: Head, spacing: float) -> None:
    shape = (round(110 / spacing), round(96 / spacing))
    hu, truth = head(7, shape, spacing=spacing)
    probability = segment(runtime, hu, spacing_yx_mm=(spacing, spacing))
    assert probability.shape == hu.shape
    assert probability.dtype == np.float32
    assert overlap(probability, truth) > 0.9


def test_what_is_below_1_percent_is_exactly_0(runtime: OnnxRuntime, head: Head) -> None:
    hu, _ = head(5, (200, 180), spacing=0.5)
    probability = segment(runtime, hu, spacing_yx_mm=(0.5, 0.5))
    assert probability[:, 0, 0].max() == 0
    assert probability[probability > 0].min() >= 0.01
    assert probability.max() <= 1


def test_slices_of_a_tilted_gantry_are_laid_upon_one_another(threshold_model: Path, head: Head) -> None:
    offsets = np.stack([np.linspace(-30, 0, 9), np.linspace(-2, -8, 9)], axis=1)
    sheared, truth = head(9, (140, 110), spacing=1.0, offsets=offsets)
    seen: list[np.ndarray] = []

    class Watching(OnnxRuntime):
        def run(self, inputs):  # type: ignore[no-untyped-def]
            seen.append(inputs["hu"][0, 0])
            return super().run(inputs)

    runtime = Watching(threshold_model, threads=1)
    probability = segment(runtime, sheared, spacing_yx_mm=(1.0, 1.0), offsets_yx_mm=offsets)
    assert overlap(probability, truth) > 0.9
    for tile in seen:
        first, last = (np.argwhere(s > 0).mean(axis=0) for s in (tile[0], tile[-1]))
        np.testing.assert_allclose(first, last, atol=0.6)


def test_the_same_input_gives_the_same_bytes(runtime: OnnxRuntime, head: Head) -> None:
    hu, _ = head(6, (150, 140), spacing=0.7)
    first, second = (segment(runtime, hu, spacing_yx_mm=(0.7, 0.7)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_intracranial_space_is_the_second_output(runtime: OnnxRuntime, head: Head) -> None:
    hu, _ = head(4, (100, 90), spacing=1.0)
    probability = segment(runtime, hu, spacing_yx_mm=(1.0, 1.0), output=INTRACRANIAL)
    assert probability[2, 50, 45] > 0.99
    assert probability[2, 2, 2] == 0


@pytest.mark.parametrize("value", [-1024, 0, 3071])
def test_a_volume_without_a_head_gives_an_answer(runtime: OnnxRuntime, value: int) -> None:
    probability = segment(runtime, np.full((2, 30, 30), value, np.int16), spacing_yx_mm=(0.5, 0.5))
    assert probability.shape == (2, 30, 30)
    assert probability.max() == 0


def axial(hu: np.ndarray, *, spacing: float) -> Volume:
    origins = np.stack([np.full(len(hu), -40.0), np.full(len(hu), -50.0), 5.0 * np.arange(len(hu))], axis=1)
    return Volume(
        array=hu,
        origins_lps=origins,
        row_lps=np.array([1.0, 0, 0]),
        column_lps=np.array([0, 1.0, 0]),
        pixel_spacing=(spacing, spacing),
        slice_thickness=5.0,
        frame_of_reference_uid=None,
        unit="[hnsf'U]",
        sources=(),
    )


def test_a_volume_stored_backwards_gives_the_same_answer_backwards(runtime: OnnxRuntime, head: Head) -> None:
    hu, truth = head(6, (104, 92), spacing=1.0)
    hu[4:] = np.where(truth[4:], 30, hu[4:])
    segmenter = Segmenter("threshold", runtime)
    straight = axial(hu, spacing=1.0)
    end = straight.origins_lps + np.array([91.0, 103.0, 0])
    turned = replace(
        straight,
        array=np.ascontiguousarray(hu[:, ::-1, ::-1]),
        origins_lps=end,
        row_lps=np.array([-1.0, 0, 0]),
        column_lps=np.array([0, -1.0, 0]),
    )
    np.testing.assert_allclose(segmenter.segment(turned)[:, ::-1, ::-1], segmenter.segment(straight), atol=1e-4)
    mirrored = replace(
        straight,
        array=np.ascontiguousarray(hu[::-1, :, ::-1]),
        origins_lps=(straight.origins_lps + np.array([91.0, 0, 0]))[::-1],
        row_lps=np.array([-1.0, 0, 0]),
    )
    np.testing.assert_allclose(segmenter.segment(mirrored)[::-1, :, ::-1], segmenter.segment(straight), atol=1e-4)


def test_slices_that_are_not_axial_are_refused_with_a_reason(runtime: OnnxRuntime, head: Head) -> None:
    volume = replace(axial(head(4, (60, 60), spacing=1.0)[0], spacing=1.0), column_lps=np.array([0, 0, -1.0]))
    with pytest.raises(Unreadable) as refused:
        Segmenter("threshold", runtime).segment(volume)
    assert refused.value.reason == Reason.NOT_AXIAL


def test_the_engine_says_what_computed(runtime: OnnxRuntime) -> None:
    segmenter = Segmenter("threshold", runtime)
    assert segmenter.description.startswith("ONNX Runtime ")
    assert segmenter.description.endswith("CPU, f32")
    assert segmenter.sha256 == runtime.sha256


def test_what_looks_like_blood_outside_the_skull_is_none(runtime: OnnxRuntime, head: Head) -> None:
    hu, truth = head(4, (100, 90), spacing=1.0)

    class Outside(OnnxRuntime):
        """Takes nothing for the inside of a skull."""

        def run(self, inputs):  # type: ignore[no-untyped-def]
            outputs = super().run(inputs)
            outputs["logits"][:, 1] = -10
            return outputs

    outside = Outside.__new__(Outside)
    outside.__dict__.update(runtime.__dict__)
    assert segment(outside, hu, spacing_yx_mm=(1.0, 1.0)).max() == 0
    assert overlap(segment(outside, hu, spacing_yx_mm=(1.0, 1.0), enclosed=False), truth) > 0.9
