from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from engines.catalogue import MODELS, load_model, load_model_card
from engines.onnx_runtime import OnnxRuntime
from ichor.cli.folder import DataFolder
from ichor.cli.models import engine_command, load_engines
from ichor.errors import CannotStart


def test_a_model_is_served_by_openvino_once_the_gate_let_it_through(models: Path, tmp_path: Path) -> None:
    loaded = load_model("tiny-phantom", folder=tmp_path / "engines", threads=1, models=models)
    assert loaded.fallback == ""
    assert loaded.segmenter.description.startswith("OpenVINO")
    assert loaded.segmenter.sha256 == loaded.card.sha256
    assert loaded.gate is not None
    assert loaded.gate.accepted
    assert list((tmp_path / "engines").glob("gate-*.json"))


class Wrong(OnnxRuntime):
    def __init__(self, model: Path, *, threads: int, cache: Path | None = None) -> None:
        super().__init__(model, threads=threads)
        self.cache = cache
        self.name = "Wrong 1"

    def run(self, inputs: Any) -> Any:
        return {name: array + np.float32(1) for name, array in super().run(inputs).items()}


def test_a_runtime_that_fails_the_gate_is_replaced_by_the_reference(models: Path, tmp_path: Path) -> None:
    loaded = load_model("tiny-phantom", folder=tmp_path, threads=1, models=models, candidate=Wrong)
    assert loaded.segmenter.description.startswith("ONNX Runtime")
    assert "Wrong 1" in loaded.fallback


def failing(model: Path, *, threads: int, cache: Path | None) -> OnnxRuntime:
    raise RuntimeError(f"no plugin for {model} {threads} {cache}")


def test_a_runtime_that_cannot_load_is_replaced_by_the_reference(models: Path, tmp_path: Path) -> None:
    loaded = load_model("tiny-phantom", folder=tmp_path, threads=1, models=models, candidate=failing)
    assert loaded.segmenter.description.startswith("ONNX Runtime")
    assert loaded.fallback == "RuntimeError while loading or comparing"


def test_a_file_that_is_not_the_one_its_card_describes_is_refused(models: Path) -> None:
    path = models / "tiny-phantom.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CannotStart, match="sha256"):
        load_model_card("tiny-phantom", models=models)


@pytest.mark.parametrize("name", ["", "../tiny-phantom", "tiny phantom", "absent"])
def test_an_unknown_or_unsafe_name_is_refused(models: Path, name: str) -> None:
    with pytest.raises(CannotStart):
        load_model_card(name, models=models)


def test_a_card_that_is_no_card_is_refused(models: Path) -> None:
    (models / "tiny-phantom.json").write_text(json.dumps(["name"]))
    with pytest.raises(CannotStart, match="card"):
        load_model_card("tiny-phantom", models=models)


def test_the_shipped_model_is_whole_small_and_says_what_it_is() -> None:
    card = load_model_card("haematoma-phantom")
    assert card.path.parent == MODELS
    assert card.path.stat().st_size <= 10_000_000
    assert card.facts["use"] == "RESEARCH"
    assert card.facts["command"].startswith("ichor train haematoma ")
    assert {"--seed", "--steps", "--heads"} <= set(
        card.facts["command"].split()
    )  # with a clock it could not be repeated
    assert OnnxRuntime(card.path, threads=1).input_shapes == {"hu": (1, 1, 12, 224, 192)}


def test_a_model_of_the_site_serves_in_place_of_the_shipped_one(models: Path, tmp_path: Path) -> None:
    own = {"haematoma-phantom": models / "tiny-phantom.onnx"}
    engines = load_engines(["haematoma-phantom"], tmp_path, own=own)
    assert list(engines) == ["haematoma-phantom"]
    engine = engines["haematoma-phantom"]
    assert engine.name == "tiny-phantom"
    assert engine.sha256 == load_model_card("tiny-phantom", models=models).sha256


@pytest.mark.parametrize(
    ("name", "file", "why"),
    [
        ("haematoma-phantom", "nowhere.onnx", "models.haematoma-phantom = .*nowhere.onnx: .*FileNotFoundError"),
        ("haematoma-expansion-phantom", "tiny-phantom.onnx", "its card says segmentation, .* is classification"),
        ("haematoma", "tiny-phantom.onnx", "models.haematoma: no pipeline has such a model .haematoma-phantom, "),
    ],
)
def test_a_model_of_the_site_that_cannot_serve_is_refused_by_its_setting(
    name: str, file: str, why: str, models: Path, tmp_path: Path
) -> None:
    with pytest.raises(CannotStart, match=why):
        load_engines(
            ["haematoma-phantom"], tmp_path, optional=["haematoma-expansion-phantom"], own={name: models / file}
        )


def model(inputs: tuple[Any, ...], *outputs: tuple[str, tuple[Any, ...]]) -> bytes:
    """Says what it was told, in the shapes that it declares."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["hu"], [name]) for name, _ in outputs],
        "same",
        [helper.make_tensor_value_info("hu", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
    )
    told = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(told.SerializeToString())


TILE, CROPS = (1, 1, 4, 96, 80), (3, 1, 224, 224)


@pytest.mark.parametrize(
    ("kind", "file", "why"),
    [
        ("segmentation", b"no model", "not loaded by ONNX Runtime .*: InvalidProtobuf"),
        ("segmentation", b"", "not loaded by ONNX Runtime .*: InvalidArgument"),
        ("segmentation", model((3, 1, 96, 80), ("logits", (3, 1, 96, 80))), "is no segmentation"),
        ("segmentation", model((1, 1, 4, "y", "x"), ("logits", (1, 1, 4, "y", "x"))), "is no segmentation"),
        ("segmentation", model((1, 3, 4, 96, 80), ("logits", (1, 3, 4, 96, 80))), "is no segmentation"),
        ("segmentation", model(TILE, ("logits", TILE), ("more", TILE)), "is no segmentation"),
        ("classification", model(TILE, ("logits", TILE)), "is no classification"),
        ("classification", model(CROPS, ("logits", CROPS)), "is no classification"),
        ("classification", model((3, 1, 64, 64), ("logits", CROPS), ("attention", CROPS)), "is no classification"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_before_it_is_asked(
    kind: str, file: bytes, why: str, tmp_path: Path
) -> None:
    name = {"segmentation": "haematoma-phantom", "classification": "haematoma-expansion-phantom"}[kind]
    path = tmp_path / "odd.onnx"
    path.write_bytes(file)
    card = {"name": "odd", "version": "1", "kind": kind, "sha256": hashlib.sha256(file).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(CannotStart, match=f"models.{name} = .*odd.onnx: model odd: .*{why}"):
        load_engines([name], tmp_path, own={name: path})


def test_engine_says_of_a_setting_for_no_model_what_the_worker_says(models: Path, tmp_path: Path) -> None:
    for verb in ("list", "verify", "build"):
        with pytest.raises(CannotStart, match=r"models\.haematoma: no pipeline has such a model \(haematoma-phantom, "):
            engine_command(verb, DataFolder(tmp_path), own={"haematoma": models / "tiny-phantom.onnx"})


def test_the_list_of_models_names_those_of_the_site(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"haematoma-phantom": models / "tiny-phantom.onnx"}
    assert engine_command("list", DataFolder(tmp_path), own=own) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("haematoma-expansion-phantom  version ")
    assert second.startswith("haematoma-phantom: tiny-phantom  version ")


def test_a_model_in_the_place_of_another_of_its_size_and_time_is_compiled_anew(models: Path, tmp_path: Path) -> None:
    path, folder = models / "tiny-phantom.onnx", tmp_path / "engines"
    tile = {"hu": np.full((1, 1, 4, 96, 80), 72.5, np.float32)}

    def served(data: bytes) -> float:
        path.write_bytes(data)
        os.utime(path, (1, 1))
        card = {"name": "tiny-phantom", "version": "1", "sha256": hashlib.sha256(data).hexdigest()}
        path.with_suffix(".json").write_text(json.dumps(card))
        loaded = load_model("tiny-phantom", folder=folder, threads=1, models=models)
        assert loaded.fallback == ""
        (logits,) = loaded.segmenter.runtime.run(tile).values()
        return float(logits[0, 0, 0, 0, 0])

    first = path.read_bytes()
    other = first.replace(np.float32(72.5).tobytes(), np.float32(10).tobytes())
    assert len(other) == len(first)
    assert [served(data) for data in (first, other)] == [pytest.approx(13.75), pytest.approx(-17.5)]


def test_an_optional_model_that_is_not_installed_is_left_out(tmp_path: Path) -> None:
    assert load_engines([], tmp_path, optional=["no-such-phantom"]) == {}
    with pytest.raises(CannotStart, match="no-such-phantom"):
        load_engines(["no-such-phantom"], tmp_path)
