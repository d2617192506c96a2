"""A haematoma is judged on the same crops as in training, wherever and however the head lies in the volume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.pipelines.heads import FEET_FIRST, HEAD_FIRST, PRONE, TRANSPOSED, Layout, head

from engines.catalogue import has_model, load_model
from engines.classification import Classifier
from engines.expansion_crops import crop_place, cut
from engines.export import export_vit
from engines.networks.vit import ViT, ViTConfig
from engines.onnx_runtime import OnnxRuntime
from engines.runtime import Arrays, file_sha256
from ichor.arrays import Volume
from ichor.errors import CannotStart, Unreadable

BALL = ((35.0, -10.0, 20.0), 14.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with `judge-phantom`, a small ViT of random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network = ViT(ViTConfig(size=224, patch=56, depth=1, width=16, heads=2, hidden=16))
    with torch.no_grad():
        network.head.weight.mul_(40)
    path = folder / "judge-phantom.onnx"
    export_vit(network, path, metadata={})
    card = {"name": "judge-phantom", "version": "1", "kind": "classification", "sha256": file_sha256(path)}
    path.with_suffix(".json").write_text(json.dumps(card))
    return folder


class Told:
    """A runtime that answers what it was told, and keeps what it was asked."""

    name, precision, sha256 = "Told", "f32", "0" * 64
    input_shapes: Mapping[str, tuple[int, ...]] = {"hu": (3, 1, 224, 224)}

    def __init__(self, logits: tuple[float, float, float] = (0.0, 1.0, 2.0), cell: tuple[int, int] = (0, 0)) -> None:
        self.logits = np.array(logits, np.float32)
        self.attention = np.zeros((3, 8, 8), np.float32)
        self.attention[1][cell] = 5.0
        self.asked = np.zeros(0, np.float32)

    def run(self, inputs: Mapping[str, Any]) -> Arrays:
        self.asked = inputs["hu"]
        return {"logits": self.logits, "attention": self.attention}


def bleeding(layout: Layout = HEAD_FIRST) -> tuple[Volume, np.ndarray]:
    volume = head(layout, blood=[BALL], noise=0.0)
    return volume, (np.abs(volume.array_zyx - 66.0) < 1).astype(np.uint8)


def test_probability_is_the_mean_of_three_on_the_crops_of_training(models: Path) -> None:
    volume, mask = bleeding()
    runtime = OnnxRuntime(models / "judge-phantom.onnx", threads=1)
    found = Classifier("judge-phantom", runtime).classify(volume, mask)
    assert found is not None
    place = crop_place(mask, spacing_yx_mm=volume.pixel_spacing)
    assert place is not None
    logits = runtime.run({"hu": cut(volume.array_zyx, place, spacing_yx_mm=volume.pixel_spacing)})["logits"]
    assert found.slices == place.slices
    assert found.each == pytest.approx(1 / (1 + np.exp(-logits)), rel=1e-5)
    assert found.probability == pytest.approx(np.mean(found.each))
    assert 0 < found.probability < 1


@pytest.mark.parametrize("layout", [PRONE, FEET_FIRST, TRANSPOSED])
def test_the_same_head_stored_otherwise_is_judged_alike(layout: Layout) -> None:
    straight, turned = Told(), Told(cell=(1, 2))
    volume, mask = bleeding()
    first = Classifier("t", straight).classify(volume, mask)
    volume, mask = bleeding(layout)
    second = Classifier("t", turned).classify(volume, mask)
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(turned.asked, straight.asked, atol=0.01)
    # Cell (1, 2) of the upright crop: to the front and to the patient's right of the haematoma's middle.
    k, j, i = np.unravel_index(int(second.attention_zyx.argmax()), second.attention_zyx.shape)
    (place,) = volume.to_lps([[k, j, i]])
    assert k == second.slices[1]
    assert BALL[0][0] - 15 < place[0] < BALL[0][0] - 3
    assert BALL[0][1] - 17 < place[1] < BALL[0][1] - 5
    heights = [volume.origins_lps[k][2] for k in second.slices]
    assert heights == sorted(heights)


def test_attention_is_one_at_its_largest_and_zero_outside_the_crops() -> None:
    volume, mask = bleeding()
    runtime = Told(cell=(0, 0))
    found = Classifier("t", runtime).classify(volume, mask)
    assert found is not None
    values = found.attention_zyx
    assert values.max() == pytest.approx(1.0, abs=0.05)
    assert set(np.flatnonzero(values.any(axis=(1, 2)))) == {found.slices[1]}
    place = crop_place(mask, spacing_yx_mm=volume.pixel_spacing)
    assert place is not None
    rows, columns = np.nonzero(values[found.slices[1]])
    for used, centre in ((rows, place.centre_yx[0]), (columns, place.centre_yx[1])):
        assert centre - place.side / 2 <= used.min() * 2.0 < centre - place.side / 2 + 2.0
        assert used.max() * 2.0 < centre


def test_nothing_attended_to_is_a_map_of_zeros() -> None:
    runtime = Told()
    runtime.attention[:] = 0
    found = Classifier("t", runtime).classify(*bleeding())
    assert found is not None
    assert not found.attention_zyx.any()


def test_fewer_than_three_contiguous_slices_are_not_judged() -> None:
    volume, mask = bleeding()
    used = np.flatnonzero(mask.any(axis=(1, 2)))
    mask[used[2:]] = 0
    assert Classifier("t", Told()).classify(volume, mask) is None


def test_an_answer_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a number"):
        Classifier("t", Told(logits=(0.0, float("nan"), 1.0))).classify(*bleeding())


def test_the_catalogue_serves_a_classifier_once_the_gate_let_it_through(models: Path, tmp_path: Path) -> None:
    loaded = load_model("judge-phantom", folder=tmp_path, threads=1, models=models)
    assert loaded.fallback == ""
    assert isinstance(loaded.engine, Classifier)
    assert loaded.engine.description.startswith("OpenVINO")
    with pytest.raises(CannotStart, match="does not outline"):
        _ = loaded.segmenter
    found = loaded.engine.classify(*bleeding())
    reference = Classifier("r", OnnxRuntime(models / "judge-phantom.onnx", threads=1)).classify(*bleeding())
    assert found is not None
    assert reference is not None
    assert found.probability == pytest.approx(reference.probability, abs=1e-3)


@pytest.mark.parametrize("output", ["logits", "attention"])
def test_a_runtime_that_judges_or_looks_elsewhere_is_replaced(models: Path, tmp_path: Path, output: str) -> None:
    class Wrong(OnnxRuntime):
        def __init__(self, model: Path, *, threads: int, cache: Path | None = None) -> None:
            super().__init__(model, threads=threads)
            self.cache = cache
            self.name = "Wrong 1"

        def run(self, inputs: Any) -> Arrays:
            answer = super().run(inputs)
            return {**answer, output: answer[output] * np.float32(1.2) + np.float32(0.01)}

    loaded = load_model("judge-phantom", folder=tmp_path, threads=1, models=models, candidate=Wrong)
    assert "Wrong 1" in loaded.fallback
    assert loaded.engine.description.startswith("ONNX Runtime")


def test_a_kind_that_no_engine_serves_is_refused_by_name(models: Path, tmp_path: Path) -> None:
    path = models / "judge-phantom.onnx"
    (tmp_path / "odd.onnx").write_bytes(path.read_bytes())
    card = {"name": "odd", "version": "1", "kind": "oracle", "sha256": file_sha256(path)}
    (tmp_path / "odd.json").write_text(json.dumps(card))
    with pytest.raises(CannotStart, match="no engine serves its kind"):
        load_model("odd", folder=tmp_path, models=tmp_path)
    assert has_model("odd", models=tmp_path)
    assert not has_model("even", models=tmp_path)


def test_slices_that_are_not_axial_are_refused() -> None:
    volume, mask = bleeding()
    with pytest.raises(Unreadable, match="axial"):
        Classifier("t", Told()).classify(replace(volume, column_lps=np.array([0, 0, -1.0])), mask)
