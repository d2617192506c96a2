from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.gate import compare, compare_once, gate_inputs
from engines.onnx_runtime import OnnxRuntime
from engines.openvino_runtime import OpenVinoRuntime

CPU = "a processor"


class Changed:
    """A runtime whose answers are another's, changed."""

    precision = "f32"
    name = "Changed 1"

    def __init__(self, inner: OnnxRuntime, change: Any) -> None:
        self._inner, self._change = inner, change
        self.sha256, self.input_shapes = inner.sha256, inner.input_shapes
        self.runs = 0

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.runs += 1
        return {name: self._change(array) for name, array in self._inner.run(inputs).items()}


@pytest.fixture
def reference(threshold_model: Path) -> OnnxRuntime:
    return OnnxRuntime(threshold_model, threads=1)


def test_openvino_passes_on_a_model_that_it_computes_rightly(threshold_model: Path, reference: OnnxRuntime) -> None:
    report = compare(OpenVinoRuntime(threshold_model, threads=1), reference, processor=CPU)
    assert report.accepted
    assert report.reason == ""
    assert len(report.cases) >= 8
    assert report.candidate.startswith("OpenVINO")


def noisy(array: np.ndarray) -> np.ndarray:
    out = array.copy()
    out.flat[7] += 0.01 * array.std()
    return out


def flipped(array: np.ndarray) -> np.ndarray:
    out = array.copy()
    out[:, 0, :, :20] *= -1
    return out


def broken(array: np.ndarray) -> np.ndarray:
    out = array.copy()
    out.flat[-1] = np.nan
    return out


@pytest.mark.parametrize(("change", "word"), [(noisy, "error"), (flipped, "agreement"), (broken, "not finite")])
def test_a_runtime_that_computes_something_else_is_refused(reference: OnnxRuntime, change: Any, word: str) -> None:
    report = compare(Changed(reference, change), reference, processor=CPU)
    assert not report.accepted
    assert "Changed 1" in report.reason
    assert word in report.reason


def test_a_verdict_is_kept_for_the_same_model_runtime_and_processor(reference: OnnxRuntime, tmp_path: Path) -> None:
    candidate = Changed(reference, noisy)
    first = compare_once(candidate, reference, processor=CPU, folder=tmp_path)
    ran = candidate.runs
    assert compare_once(candidate, reference, processor=CPU, folder=tmp_path) == first
    assert candidate.runs == ran
    compare_once(candidate, reference, processor="another processor", folder=tmp_path)
    assert candidate.runs == 2 * ran


def test_a_damaged_verdict_is_computed_again(reference: OnnxRuntime, tmp_path: Path) -> None:
    candidate = Changed(reference, np.copy)
    compare_once(candidate, reference, processor=CPU, folder=tmp_path)
    (path,) = tmp_path.glob("gate-*.json")
    path.write_text('{"model_sha256": 1}')
    assert compare_once(candidate, reference, processor=CPU, folder=tmp_path).accepted


def test_runtimes_of_different_models_are_not_compared(reference: OnnxRuntime) -> None:
    other = Changed(reference, np.copy)
    other.sha256 = "0" * 64
    with pytest.raises(ValueError, match="different models"):
        compare(other, reference, processor=CPU)


def test_gate_inputs_are_the_same_each_time_and_reach_the_extremes() -> None:
    first, second = dict(gate_inputs((4, 32, 32))), dict(gate_inputs((4, 32, 32)))
    assert len(first) >= 8
    assert all(array.dtype == np.float32 and array.shape == (4, 32, 32) for array in first.values())
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert min(a.min() for a in first.values()) == -32768
    assert max(a.max() for a in first.values()) == 32767
