"""`ichor evaluate` and the wrong uses of `ichor train`, on a model that is no network."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from unit.engines.conftest import write_threshold_model

from ichor.arrays import Volume
from ichor.cli import evaluation, main
from ichor.cli.evaluation_page import goals_of
from ichor.cli.labelled import inside_skull, phantom_bleed, phantom_case
from ichor.errors import Unreadable
from phantoms.acquisition import Grid
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
    models, data, out = tmp_path / "models", tmp_path / "data", tmp_path / "out"
    models.mkdir()
    card(write_threshold_model(models / "haematoma-own.onnx"))
    write_judge(models / "haematoma-expansion-own.onnx")
    card(models / "haematoma-expansion-own.onnx", kind="classification")
    for seed in (1, 2):
        write_case(data / f"s{seed}", make_head(seed, bleed=Bleed((30.0 * seed,), sites=("lobar",), hu=(72.0,))))
    (data / "s3").mkdir()
    (data / "cases.csv").write_text("case,patient,split,expands\ns1,a,test,1\ns2,b,test,0\ns3,c,test,0\n")
    arguments = ["evaluate", "haematoma", "--data", str(data), "--models", str(models), "--out", str(out), "--card"]
    assert main(arguments) == 0
    figures = json.loads((out / "figures.json").read_text())
    assert figures["goals"] == {}
    assert [case["patient"] for case in figures["cases"]] == ["a", "b"]
    assert [case["true_ml"] for case in figures["cases"]] == pytest.approx([30, 60], rel=0.15)
    assert figures["pipeline"]["measured_cases"] == 2
    assert figures["refused"] == {"s3": "no mask.nii.gz"}
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
    assert "2 heads of 2 patients + 1 refused" in page
    assert [line.endswith("(n=2) + 1 refused") for line in page.splitlines() if "median IoU" in line] == [True, True]
    for plot in ("volumes.png", "expansion_roc.png", "expansion_calibration.png", "expansion_attention.png"):
        assert (out / plot).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "stroke", "--out", "x"], "'stroke'"),
        (["train", "haematoma", "--out", "x", "--steps", "3", "--minutes", "2"], "one of them"),
        (["train", "haematoma", "--out", "x", "--heads", "20000"], "--heads must be 1..10000"),
        (["train", "haematoma", "--out", "x", "--data", "nowhere"], "no such folder"),
        (["evaluate", "haematoma", "--models", "nowhere"], "one network haematoma-... that outlines is needed; none"),
    ],
)
def test_wrong_use_is_named_with_exit_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def small_head(seed: int) -> Head:
    z = tuple(float(v) for v in range(-50, 70, 12))
    return make_head(seed, grid=Grid(56, 56, 4.0, z, (6.0,) * len(z)))


def outlined_truth(one: evaluation.Labelled, outlined: Any, _: object) -> evaluation._Found:
    """Refuses every third head, else says the truth."""
    if int(one.key) % 3 == 0:
        raise Unreadable("only a part of the head")
    mask = one.labels_zyx > 0
    outlined.probability = mask.astype(np.float32)
    return evaluation._Found(mask_zyx=mask, volume_ml=float(mask.sum()), said=None)


def test_phantoms_are_drawn_until_enough_are_measured_and_refused_ones_have_a_goal_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, out = tmp_path / "models", tmp_path / "out"
    models.mkdir()
    card(write_threshold_model(models / "haematoma-nnunet-phantom.onnx"))
    monkeypatch.setattr(evaluation, "training_head", small_head)
    monkeypatch.setattr(evaluation, "_through_the_pipeline", outlined_truth)
    command = ["evaluate", "haematoma", "--models", str(models), "--out", str(out), "--heads", "4", "--pairs", "0"]
    assert main(command) == 1
    figures = json.loads((out / "figures.json").read_text())
    assert [case["key"] for case in figures["cases"]] == ["20000", "20002", "20003", "20005"]
    assert figures["refused"] == dict.fromkeys(("20001", "20004"), "only a part of the head")
    assert figures["goals"]["at most 1 of 6 heads refused"] is False
    page = (out / "page.txt").read_text()
    assert "4 heads of 4 patients + 2 refused" in page
    assert "no judge installed (haematoma-expansion-phantom)" in page
    assert page.startswith("haematoma-nnunet-phantom")

    monkeypatch.setattr(evaluation, "_through_the_pipeline", refuse)
    assert main(command) == 1


def refuse(*_: object) -> evaluation._Found:
    raise Unreadable("too dark")


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, set()),
        ({"heads_refused": 12, "scans_refused": 12}, set()),
        ({"heads_refused": 13, "scans_refused": 13}, {"at most 1 of 6 heads refused"}),
        ({"cases": 59}, {"at least 60 heads"}),
        ({"median_dice": 0.92}, {"median Dice of >= 3 mL at least 0.93"}),
        ({"within_share": 0.89}, {"volume within 10 % or 1 mL for 90%"}),
        ({"clean_called": 2}, {"a haematoma in at most 1 of 20 heads without"}),
    ],
)
def test_each_goal_of_the_segmentation_is_missed_by_what_is_worse_than_it(
    change: dict[str, Any], missed: set[str]
) -> None:
    figures = {"cases": 60, "median_dice": 0.93, "within_share": 0.9, "clean_called": 1, "clean_cases": 20, **change}
    for name in ("median_dice", "within_share"):
        figures[name] = SimpleNamespace(value=figures[name])
    told: Any = SimpleNamespace(
        pipeline=SimpleNamespace(**figures), expansion=None, growth=None, heads_refused=figures.get("heads_refused", 0)
    )
    of_segmentation = list(goals_of(told).items())[:5]
    assert {goal for goal, met in of_segmentation if not met} == missed


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, set()),
        ({"haematomas": 199}, {"at least 200 haematomas judged"}),
        ({"law_auc": 0.79}, {"AUC of the law at least 0.8"}),
        ({"below_law": 0.06}, {"AUC of expansion at most 0.05 below the law's"}),
        ({"inside": 0.69}, {"median share of attention on the haematoma at least 0.7"}),
        ({"ratio": 1.1}, {"median of that over a uniform map's at least 1.2"}),
        ({"maps": 179, "empty": 21}, {"at most 1 of 10 attention maps empty"}),
    ],
)
def test_each_goal_of_expansion_is_missed_by_what_is_worse_than_it(change: dict[str, Any], missed: set[str]) -> None:
    values = {
        "haematomas": 200,
        "law_auc": 0.8,
        "below_law": 0.05,
        "inside": 0.7,
        "ratio": 1.2,
        "maps": 180,
        "empty": 20,
    }
    values |= change
    of = {name: SimpleNamespace(value=values[name]) for name in ("law_auc", "below_law", "inside", "ratio")}
    attention = SimpleNamespace(inside=of["inside"], ratio=of["ratio"], maps=values["maps"], empty=values["empty"])
    expansion = SimpleNamespace(
        haematomas=values["haematomas"], law_auc=of["law_auc"], below_law=of["below_law"], attention=attention
    )
    one = SimpleNamespace(value=1.0)
    figures = SimpleNamespace(cases=60, median_dice=one, within_share=one, clean_called=0, clean_cases=20)
    told: Any = SimpleNamespace(pipeline=figures, expansion=expansion, growth=None, heads_refused=0)
    of_expansion = list(goals_of(told).items())[5:-2]
    assert len(of_expansion) == 6
    assert {goal for goal, met in of_expansion if not met} == missed


def test_of_two_networks_one_must_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("haematoma-own", "haematoma-nnunet-own"):
        card(write_threshold_model(tmp_path / f"{name}.onnx"))
    assert main(["evaluate", "haematoma", "--models", str(tmp_path)]) == 2
    assert "several (haematoma-nnunet-own, haematoma-own): name one with --model" in capsys.readouterr().err
    command = ["evaluate", "haematoma", "--models", str(tmp_path), "--model", "haematoma-own"]
    assert main([*command, "--out", str(tmp_path / "out"), "--data", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_haematomas_of_one_mask_that_lie_apart_are_lesions_of_their_own(tmp_path: Path) -> None:
    head = small_head(3)
    mask = np.zeros(head.hu_zyx.shape, np.uint8)
    mask[2:4, 20:24, 20:24] = mask[6:8, 30:34, 30:34] = mask[8, 34, 34] = 1
    write_case(tmp_path / "a", dataclasses.replace(head, mask_zyx=mask))
    (one,) = evaluation._own(argparse.Namespace(data=tmp_path, split="all"), {})
    assert np.unique(one.labels_zyx).tolist() == [0, 1, 2]
    assert [int((one.labels_zyx == label).sum()) for label in (1, 2)] == [32, 33]


@pytest.mark.parametrize(
    ("split", "words"), [("test", "split test"), ("train", "TRAINED on all"), ("all", "among them those that")]
)
def test_a_page_on_cases_that_were_trained_on_says_so(split: str, words: str) -> None:
    told = evaluation._told_data(argparse.Namespace(data=Path("data"), split=split))
    assert words in told
    assert ("TRAINED" in told) is (split != "test")


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
