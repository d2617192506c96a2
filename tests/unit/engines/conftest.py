"""A model that is no network: blood is what lies between 45 and 100 HU. And heads made of ellipses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

TILE = (4, 96, 80)


def write_threshold_model(path: Path, *, tile: tuple[int, int, int] = TILE) -> Path:
    """Logits: channel 0 is positive for 45..100 HU, channel 1 for anything denser than -100 HU."""
    shape = (1, 1, *tile)
    constants = {"middle": 72.5, "half": 27.5, "steep": 0.5, "air": -100.0}
    nodes = [
        helper.make_node("Sub", ["hu", "middle"], ["centred"]),
        helper.make_node("Abs", ["centred"], ["away"]),
        helper.make_node("Sub", ["half", "away"], ["within"]),
        helper.make_node("Mul", ["within", "steep"], ["blood"]),
        helper.make_node("Sub", ["hu", "air"], ["solid"]),
        helper.make_node("Concat", ["blood", "solid"], ["logits"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("hu", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 2, *tile))],
        [numpy_helper.from_array(np.float32(value).reshape(1), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def threshold_model(tmp_path: Path) -> Path:
    return write_threshold_model(tmp_path / "threshold.onnx")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A catalogue folder with one model, `tiny-phantom`."""
    folder = tmp_path / "models"
    folder.mkdir()
    path = write_threshold_model(folder / "tiny-phantom.onnx")
    card = {"name": "tiny-phantom", "version": "1", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "tiny-phantom.json").write_text(json.dumps(card))
    return folder


@pytest.fixture
def head() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Makes (hu, truth) of a skull with brain and one bleed, by pixel positions in mm."""

    def make(
        slices: int, shape_yx: tuple[int, int], *, spacing: float, offsets: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        hu, truth = [], []
        for k in range(slices):
            shift = (0.0, 0.0) if offsets is None else offsets[k]
            y = shift[0] + spacing * np.arange(shape_yx[0])[:, None]
            x = shift[1] + spacing * np.arange(shape_yx[1])[None, :]
            radius = np.hypot(y - 50, x - 45)
            image = np.full(shape_yx, -1000.0)
            image[radius < 40] = 1000
            image[radius < 34] = 30
            bleed = np.hypot(y - 40, x - 55) < 9
            image[bleed] = 72
            hu.append(image)
            truth.append(bleed)
        return np.stack(hu).astype(np.int16), np.stack(truth)

    return make
