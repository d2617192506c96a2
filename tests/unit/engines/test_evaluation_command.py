"""`ichor evaluate` and the wrong uses of `ichor train`, on a model that is no network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from unit.engines.conftest import write_threshold_model

from ichor.arrays import Volume
from ichor.cli import main
from ichor.cli.labelled import inside_skull, phantom_bleed, phantom_case
from phantoms.bleeds import Bleed
from phantoms.head import Head, make_head


def card(path: Path, *, kind: str = "segmentation") -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    facts = {"name": path.stem, "version": "1", "kind": kind, "sha256": digest}
    path.with_suffix(".json").write_text(json.dumps(facts))


def write_judge(path: Path) -> None:
    """The denser, the more likely to expand; looks at what is as dense as blood."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["hu", "axes"], ["mean"], keepdims=0),
            helper.make_node("Sub", ["mean", "middle"], ["logits"]),
            helper.make_node("Sub", ["hu", "blood"], ["beside"]),
            helper.make_node("Abs", ["beside"], ["away"]),
            helper.make_node("Sub", ["width", "away"], ["within"]),
            helper.make_node("Relu", ["within"], ["dense"]),
            helper.make_node("AveragePool", ["dense"], ["cells"], kernel_shape=[16, 16], strides=[16, 16]),
            helper.make_node("Squeeze", ["cells", "channel"], ["attention"]),
        ],
        "judge",
        [helper.make_tensor_value_info("hu", TensorProto.FLOAT, (3, 1, 224, 224))],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, (3,)),
            helper.make_tensor_value_info("attention", TensorProto.FLOAT, (3, 14, 14)),
        ],
        [
            helper.make_tensor("axes", TensorProto.INT64, (3,), [1, 2, 3]),
            helper.make_tensor("channel", TensorProto.INT64, (1,), [1]),
            helper.make_tensor("middle", 1, (1,), [40.0]),
            helper.make_tensor("blood", 1, (1,), [72.0]),
            helper.make_tensor("width", 1, (1,), [12.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def write_case(folder: Path, head: Head) -> None:
    folder.mkdir(parents=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ head.affine_lps
    for name, array in (("image", head.hu_zyx), ("mask", (head.mask_zyx > 0).astype(np.uint8))):
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), folder / f"{name}.nii.gz")


def test_an_evaluation_writes_page_figures_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    models, data, out = tmp_path / "models", tmp_path / "data", tmp_path / "out"
    models.mkdir()
    card(write_threshold_model(models / "haematoma-own.onnx"))
    write_judge(models / "haematoma-expansion-own.onnx")
    card(models / "haematoma-expansion-own.onnx", kind="classification")
    for seed in (1, 2):
        write_case(data / f"s{seed}", make_head(seed, bleed=Bleed((30.0 * seed,), sites=("lobar",), hu=(72.0,))))
    (data / "cases.csv").write_text("case,patient,split,expands\ns1,a,test,1\ns2,b,test,0\n")
    arguments = ["evaluate", "haematoma", "--data", str(data), "--models", str(models), "--out", str(out), "--card"]
    assert main(arguments) == 0
    figures = json.loads((out / "figures.json").read_text())
    assert figures["goals"] == {}
    assert [case["patient"] for case in figures["cases"]] == ["a", "b"]
    assert [case["true_ml"] for case in figures["cases"]] == pytest.approx([30, 60], rel=0.15)
    assert figures["pipeline"]["measured_cases"] == 2
    assert 0.2 < figures["network"]["median_dice"]["value"] <= 1
    assert figures["network"]["median_dice"]["low"] <= figures["network"]["median_dice"]["value"]
    assert figures["expansion"]["haematomas"] + figures["unjudged"] == 2
    attention = figures["expansion"]["attention"]
    assert attention["maps"] == figures["expansion"]["haematomas"] == 2
    assert 0 < attention["uniform"]["value"] < attention["inside"]["value"] <= 1
    assert attention["ratio"]["value"] > 1
    assert [one["attention"]["inside"] > one["attention"]["uniform"] for one in figures["judged"]] == [True, True]
    assert (figures["growth"], figures["pairs"]) == (None, [])
    stored = json.loads((models / "haematoma-own.json").read_text())
    assert stored["figures"]["median_dice"] == figures["pipeline"]["median_dice"]
    assert stored["figures"]["set"] == "data, split test"
    page = (out / "page.txt").read_text()
    assert page in capsys.readouterr().out
    assert "RESEARCH" in page
    assert "median Dice" in page
    assert "median share of attention" in page
    assert "Growth" not in page
    for plot in ("volumes.png", "expansion_roc.png", "expansion_calibration.png", "expansion_attention.png"):
        assert (out / plot).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "stroke", "--out", "x"], "'stroke'"),
        (["train", "haematoma", "--out", "x", "--steps", "3", "--minutes", "2"], "one of them"),
        (["train", "haematoma", "--out", "x", "--heads", "20000"], "--heads must be 1..10000"),
        (["train", "haematoma", "--out", "x", "--data", "nowhere"], "no such folder"),
        (["evaluate", "haematoma", "--models", "nowhere"], "neither haematoma-own.onnx"),
    ],
)
def test_wrong_use_is_named_with_exit_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_phantom_bleed_shows_its_haematoma_and_knows_its_fate() -> None:
    one = phantom_bleed("2")
    assert one is not None
    again = phantom_bleed("2")
    assert again is not None
    np.testing.assert_array_equal(one.hu_zyx, again.hu_zyx)
    assert 0 < one.probability < 1
    assert set(one.signs.tolist()) <= {0.0, 1.0}
    inside, outside = one.hu_zyx[one.mask_zyx], one.hu_zyx[~one.mask_zyx]
    assert np.median(inside) > 40 > np.median(outside[outside < 200])


def test_a_phantom_for_the_papers_protocol_has_the_papers_voxels() -> None:
    case = phantom_case("3", paper=True)
    assert case.spacing_mm == (5.0, 0.5, 0.5)
    assert case.hu_zyx.shape[1:] > (400, 400)
    assert case.intracranial_zyx is not None


def test_a_scan_without_a_skull_has_no_known_inside() -> None:
    volume = Volume(
        array=np.full((6, 64, 64), 20, np.int16),
        origins_lps=np.arange(6)[:, None] * np.array([0.0, 0, 5]),
        row_lps=np.array([1.0, 0, 0]),
        column_lps=np.array([0.0, 1, 0]),
        pixel_spacing=(1.0, 1.0),
        slice_thickness=5.0,
        frame_of_reference_uid=None,
        unit="HU",
        sources=(),
    )
    assert inside_skull(volume) is None
