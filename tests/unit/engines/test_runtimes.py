"""What every runtime must do, run on each of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.onnx_runtime import OnnxRuntime
from engines.openvino_runtime import OpenVinoRuntime
from engines.runtime import Runtime, processor

MAKERS: dict[str, Callable[[Path], Runtime]] = {
    "onnxruntime": lambda path: OnnxRuntime(path, threads=1),
    "openvino": lambda path: OpenVinoRuntime(path, threads=1),
    "openvino-cached": lambda path: OpenVinoRuntime(path, threads=1, cache=path.parent / "cache"),
}


@pytest.fixture(params=MAKERS)
def runtime(request: pytest.FixtureRequest, threshold_model: Path) -> Runtime:
    return MAKERS[request.param](threshold_model)


def test_it_computes_the_model(runtime: Runtime) -> None:
    ((name, shape),) = runtime.input_shapes.items()
    hu = np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32)
    logits = runtime.run({name: hu})["logits"]
    expected = np.concatenate([(27.5 - np.abs(hu - 72.5)) * 0.5, hu + 100], axis=1)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-3)


def test_an_answer_is_the_callers_own(runtime: Runtime) -> None:
    ((name, shape),) = runtime.input_shapes.items()
    first = runtime.run({name: np.zeros(shape, np.float32)})["logits"]
    kept = first.copy()
    runtime.run({name: np.full(shape, 60, np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_it_takes_integers_and_views(runtime: Runtime) -> None:
    ((name, shape),) = runtime.input_shapes.items()
    hu = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    backwards = hu[..., ::-1]
    found = runtime.run({name: backwards})["logits"]
    np.testing.assert_allclose(found, runtime.run({name: backwards.astype(np.float32).copy()})["logits"])


def test_it_names_itself_its_precision_and_its_model(runtime: Runtime, threshold_model: Path) -> None:
    assert any(character.isdigit() for character in runtime.name)
    assert runtime.precision == "f32"
    assert runtime.sha256 == hashlib.sha256(threshold_model.read_bytes()).hexdigest()


def test_the_processor_is_named_the_same_each_time() -> None:
    assert processor() == processor()
    assert len(processor()) > 5


def test_serving_does_not_import_torch() -> None:
    code = (
        "import sys, engines.runtime, engines.openvino_runtime, engines.onnx_runtime, engines.gate, engines.catalogue, "
        "engines.segmentation, engines.evaluation; print('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert out.stdout.strip() == "False"
