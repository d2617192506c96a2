from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch

from engines.catalogue import load_model_card
from engines.delivery import deliver
from engines.gate import compare
from engines.network import NetworkConfig
from engines.onnx_runtime import OnnxRuntime
from engines.openvino_runtime import OpenVinoRuntime
from engines.training import TrainingOptions, _Run


def test_what_is_delivered_computes_what_was_trained_and_says_where_it_comes_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = _Run.begin(TrainingOptions(seed=4, network=NetworkConfig(widths=(4, 6), flat_levels=1)))
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
