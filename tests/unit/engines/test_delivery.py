from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch

from engines import expansion_training
from engines.catalogue import load_model_card
from engines.delivery import deliver
from engines.expansion_delivery import deliver_expansion
from engines.gate import compare
from engines.networks.umamba import UMambaConfig
from engines.networks.vit import ViTConfig
from engines.onnx_runtime import OnnxRuntime
from engines.openvino_runtime import OpenVinoRuntime
from engines.training import TrainingOptions, _Run


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
    assert (card.facts["seed"], card.facts["steps"], card.facts["minutes"]) == (4, 17, 1.5)
    assert card.facts["use"] == "RESEARCH"
    assert card.facts["figures"] == {"median_dice": 0.0}


def test_a_judge_of_expansion_is_delivered_with_its_attention(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ViTConfig(size=224, patch=56, depth=1, width=16, heads=2, hidden=16)
    options = expansion_training.ExpansionOptions(seed=4, network=config, precision="f32")
    run = expansion_training._Run.begin(options, total=1)
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
