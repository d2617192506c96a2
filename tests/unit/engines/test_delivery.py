from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from engines import expansion_training
from engines.catalogue import load_model, load_model_card
from engines.delivery import deliver
from engines.expansion_delivery import deliver_expansion
from engines.gate import compare
from engines.networks.topology import nnunet_topology
from engines.networks.umamba import PAPER, UMamba, UMambaConfig
from engines.networks.vit import ViTConfig
from engines.onnx_runtime import OnnxRuntime
from engines.openvino_runtime import OpenVinoRuntime
from engines.runtime import file_sha256
from engines.saved_run import begin_with, told_of_beginning
from engines.training import TrainingOptions, _Run
from ichor.arrays import Volume
from ichor.errors import CannotStart


def test_what_is_delivered_computes_what_was_trained_and_says_where_it_comes_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = UMambaConfig(
        patch_zyx=(4, 16, 24),
        features=(4, 6),
        kernels=((1, 3, 3), (3, 3, 3)),
        strides=((1, 1, 1), (2, 2, 2)),
        blocks=(1, 1),
        decoder_blocks=(1,),
        stem_blocks=0,
        packed=True,
        outputs=2,
    )
    run = _Run.begin(TrainingOptions(seed=4, network=config, precision="f32"))
    run.step, run.elapsed_s = 17, 90.0
    with torch.no_grad():
        for parameter in run.ema.parameters():  # as no two are the same after a training
            parameter.add_(0.01 * torch.randn_like(parameter))
    run.save(tmp_path / "checkpoint.pt")
    path = deliver(
        tmp_path / "checkpoint.pt",
        tmp_path / "models",
        name="tiny-phantom",
        version="2",
        command="ichor train haematoma --seed 4",
        data="nothing",
        figures={"median_dice": 0.0},
        tile_zyx=(4, 16, 24),
    )

    hu = np.random.default_rng(0).uniform(-1000, 1500, (1, 1, 4, 16, 24)).astype(np.float32)
    with torch.no_grad():
        expected = run.ema(torch.from_numpy(hu)).numpy()
    reference = OnnxRuntime(path, threads=1)
    np.testing.assert_allclose(reference.run({"hu": hu})["logits"], expected, atol=1e-4 * expected.std())
    assert compare(OpenVinoRuntime(path, threads=1), reference, processor="").accepted

    model = onnx.load(path)
    assert {p.key: p.value for p in model.metadata_props}["command"] == "ichor train haematoma --seed 4"
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert str(Path.cwd()).encode() not in path.read_bytes()

    card = load_model_card("tiny-phantom", models=path.parent)
    assert (card.name, card.version, card.preliminary) == ("tiny-phantom", "2", False)
    assert card.voxels_mm == (1.0, None)
    assert (card.facts["seed"], card.facts["steps"], card.facts["minutes"]) == (4, 17, 1.5)
    assert card.facts["use"] == "RESEARCH"
    assert card.facts["figures"] == {"median_dice": 0.0}

    # A training begins with what was delivered.
    fresh, trained = UMamba(config), run.ema.state_dict()
    assert begin_with(path, [fresh], config=config) == file_sha256(path)
    assert all(
        torch.allclose(values, trained[name], rtol=1e-5, atol=1e-7) for name, values in fresh.state_dict().items()
    )
    assert told_of_beginning(path, config) == "began with the averaged weights of a training of 17 steps, seed 4"

    # Not another network's, nor by another file's card.
    with pytest.raises(CannotStart, match="of another network"):
        begin_with(path, [], config=replace(config, features=(4, 8)))
    text = path.with_suffix(".json").read_text()
    wrong = text.replace('"features": [\n   4,\n   6\n  ]', '"features": [4, 8]')
    for forged in (wrong, text.replace(file_sha256(path), "0" * 64)):
        assert forged != text
        path.with_suffix(".json").write_text(forged)
        with pytest.raises(CannotStart, match="no checkpoint to begin with"):
            begin_with(path, [], config=replace(config, features=(4, 8)) if forged == wrong else config)


def test_a_network_of_the_papers_form_is_delivered_and_served_with_its_voxels(tmp_path: Path) -> None:
    patch = (8, 32, 32)
    kernels, strides = nnunet_topology(patch, (5.0, 0.5, 0.5))
    stages = len(kernels)
    config = replace(
        PAPER,
        patch_zyx=patch,
        features=(4,) * stages,
        kernels=kernels,
        strides=strides,
        blocks=(1,) * stages,
        decoder_blocks=(1,) * (stages - 1),
        stem_blocks=1,
    )
    _Run.begin(TrainingOptions(seed=1, network=config, precision="f32")).save(tmp_path / "checkpoint.pt")
    deliver(tmp_path / "checkpoint.pt", tmp_path, name="paper-phantom", version="1", command="c", data="nothing")
    served = load_model("paper-phantom", folder=tmp_path / "engines", threads=1, models=tmp_path).segmenter
    assert (served.pixel_mm, served.slice_mm) == (0.5, 5.0)
    assert served.runtime.input_shapes == {"hu": (1, 1, *patch)}
    hu = np.random.default_rng(0).integers(-50, 120, (6, 40, 36)).astype(np.int16)
    volume = Volume(
        array=hu,
        origins_lps=np.arange(6)[:, None] * np.array([0.0, 0.4, 7.0]),
        row_lps=np.array([1.0, 0, 0]),
        column_lps=np.array([0, 1.0, 0]),
        pixel_spacing=(0.9, 0.9),
        slice_thickness=7.0,
        frame_of_reference_uid=None,
        unit="[hnsf'U]",
        sources=(),
    )
    answer = served.segment(volume)
    assert answer.shape == hu.shape
    assert 0 < answer.max() <= 1


def test_a_judge_of_expansion_is_delivered_with_its_attention(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(size=224, patch=56, depth=1, width=16, heads=2, hidden=16, stem=(4, 6), residual=(1, 2))
    options = expansion_training.ExpansionOptions(seed=4, network=config, precision="f32")
    run = expansion_training._Run.begin(options, total=1)
    with torch.no_grad():
        for parameter in run.ema.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    run.save(tmp_path / "checkpoint.pt")
    path = deliver_expansion(
        tmp_path / "checkpoint.pt", tmp_path, name="tiny-expansion-phantom", version="2", command="c", data="nothing"
    )
    hu = np.random.default_rng(0).uniform(-100, 150, (3, 1, 224, 224)).astype(np.float32)
    with torch.no_grad():
        expected, attention = run.ema.network.explain(torch.from_numpy(hu))
    found = OnnxRuntime(path, threads=1).run({"hu": hu})
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
    np.testing.assert_allclose(found["attention"], attention, atol=1e-4 * float(attention.max()) + 1e-9)
    card = load_model_card("tiny-expansion-phantom", models=tmp_path)
    assert (card.facts["command"], card.facts["kind"]) == ("c", "classification")
    assert "Max-1, Max, Max+1" in card.facts["input"]

    # A judge begins with it; signs and outlines, which nobody serves, begin anew.
    other = expansion_training._Judge(config)
    signs = other.signs.weight.clone()
    begin_with(path, [other], config=config, may_lack=expansion_training.NEW)
    assert all(
        torch.equal(values, run.ema.network.state_dict()[name]) for name, values in other.network.state_dict().items()
    )
    assert torch.equal(other.signs.weight, signs)
