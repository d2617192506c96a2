"""Every network as an exported graph: which operators, which answers, and whether NVIDIA's compiler takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from engines.export import export_onnx, export_vit
from engines.gate import compare, gate_inputs
from engines.networks import mamba, umamba, vit
from engines.networks.umamba import UMamba, UMambaConfig
from engines.networks.vit import ViT
from engines.onnx_runtime import OnnxRuntime
from engines.openvino_runtime import OpenVinoRuntime
from engines.tensorrt_build import NotCompiled, build_engine

# From NVIDIA's list of supported operators, those that need no loop on the device and no shape that depends on data.
ALLOWED = {
    *("Add", "Sub", "Mul", "Div", "Exp", "Sqrt", "Reciprocal", "Erf", "Sigmoid", "Softplus", "Softmax", "Gelu", "Clip"),
    *("Relu", "LeakyRelu", "Where", "Greater", "Conv", "ConvTranspose", "MatMul", "Gemm", "AveragePool", "Resize"),
    *("ReduceMean", "ReduceSum", "LayerNormalization", "Pad", "Concat", "Split", "Slice", "Gather", "Reshape"),
    *("Transpose", "Squeeze", "Unsqueeze", "Expand"),
}
ENC = UMambaConfig(
    patch_zyx=(2, 16, 16),
    features=(4, 40),
    kernels=((1, 3, 3), (3, 3, 3)),
    strides=((1, 1, 1), (2, 4, 4)),
    blocks=(2, 1),
    decoder_blocks=(1,),
    stem_blocks=1,
    mamba="encoder",
    zscore=(0.0, 100.0, 40.0, 20.0),
)
"""512 tokens in the first stage, channels for tokens in the second."""
NNUNET = replace(ENC, mamba="none", residual=False, stem_blocks=0, blocks=(2, 2), decoder_blocks=(2,))
DEMO = replace(umamba.DEMO, patch_zyx=(4, 64, 48))


@dataclass(frozen=True, slots=True)
class Exported:
    path: Path
    inputs: list[np.ndarray]
    outputs: list[list[np.ndarray]]
    """For each input, in float64 by torch."""


def _segmentation(config: UMambaConfig) -> Callable[[Path], Exported]:
    def make(path: Path) -> Exported:
        network = UMamba(config)
        export_onnx(network, path, metadata={"name": "test"}, tile_zyx=config.patch_zyx)
        inputs = [array[None, None] for _, array in gate_inputs(config.patch_zyx)]
        network = network.double()
        with torch.no_grad():
            return Exported(path, inputs, [[network(torch.from_numpy(hu).double()).numpy()] for hu in inputs])

    return make


def _classifier(path: Path) -> Exported:
    network = ViT(replace(vit.DEMO, depth=2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    export_vit(network, path, metadata={"name": "test"})
    hu = np.random.default_rng(0).normal(40, 25, (3, 1, 224, 224)).astype(np.float32)
    with torch.no_grad():
        logits, attention = network.double().explain(torch.from_numpy(hu).double())
    return Exported(path, [hu], [[logits.numpy(), attention.numpy()]])


MAKERS: dict[str, Callable[[Path], Exported]] = {
    "umamba-demo": _segmentation(DEMO),
    "umamba-enc": _segmentation(ENC),
    "nnunet": _segmentation(NNUNET),
    "vit-demo": _classifier,
}


PARAMS = {name: pytest.param(name, marks=pytest.mark.xdist_group(f"export-{name}")) for name in MAKERS}


@pytest.fixture(scope="module", params=PARAMS.values())
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        # A quarter of the steps unrolled: the same operators, exported in a quarter of the time.
        patch.setattr(mamba, "CHUNK", 8)
        return MAKERS[request.param](tmp_path_factory.mktemp("export") / f"{request.param}.onnx")


def test_the_graph_has_only_operators_that_every_runtime_runs_without_a_loop(exported: Exported) -> None:
    model = onnx.load(exported.path)
    assert {node.op_type for node in model.graph.node} - ALLOWED == set()
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", 20)}
    assert not model.functions


def test_the_file_says_nothing_of_the_machine_that_wrote_it(exported: Exported) -> None:
    assert str(Path(torch.__file__).parents[1]).encode() not in exported.path.read_bytes()
    assert [(entry.key, entry.value) for entry in onnx.load(exported.path).metadata_props] == [("name", "test")]


@pytest.mark.parametrize("runtime", [OnnxRuntime, OpenVinoRuntime])
def test_runtimes_answer_as_torch_does(exported: Exported, runtime: Callable[..., OnnxRuntime]) -> None:
    """Logits within 1e-3 of their standard deviation over all inputs, as the acceptance gate asks; maps of their top."""
    loaded = runtime(exported.path, threads=1)
    found = [list(loaded.run({"hu": hu}).values()) for hu in exported.inputs]
    for one, other in zip(
        map(np.stack, zip(*found, strict=True)), map(np.stack, zip(*exported.outputs, strict=True)), strict=True
    ):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 1e-3 * max(other.std(), 1e-6)


@pytest.mark.parametrize("exported", [PARAMS[n] for n in PARAMS if n != "vit-demo"], indirect=True, scope="module")
def test_openvino_passes_the_gate_against_onnx_runtime(exported: Exported) -> None:
    """The gate compares segmentations."""
    report = compare(OpenVinoRuntime(exported.path, threads=1), OnnxRuntime(exported.path, threads=1), processor="any")
    assert report.reason == ""


def test_the_compiler_for_rtx_takes_it_without_a_gpu(exported: Exported) -> None:
    engine = build_engine(exported.path)
    assert engine.layers > 10
    weights = sum(np.prod(tensor.dims) for tensor in onnx.load(exported.path).graph.initializer)
    assert len(engine.plan) > weights
    assert engine.version


def test_a_model_that_the_parser_does_not_know_is_refused_with_its_name(tmp_path: Path) -> None:
    node = helper.make_node("Fabulate", ["hu"], ["logits"], domain="example.org")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in ("hu", "logits")]
    graph = helper.make_graph([node], "odd", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("example.org", 1)]
    path = tmp_path / "odd.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    with pytest.raises(NotCompiled, match=r"tensorrt_rtx .* odd\.onnx: .*Fabulate"):
        build_engine(path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(NotCompiled, match=r"no\.onnx"):
        build_engine(path)
