"""A trained network as one ONNX file with its provenance in it. Imports torch: for training machines, not for serving."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

import onnx
import torch

from engines.network import InstanceNorm, ResidualUNet

OPSET = 20
INPUT, OUTPUT = "hu", "logits"
TILE_ZYX = (12, 224, 192)
"""Fixed, so that every runtime compiles one shape; `segmentation` tiles a head with it."""


def export_onnx(
    network: ResidualUNet,
    path: Path,
    *,
    metadata: Mapping[str, str],
    tile_zyx: tuple[int, int, int] = TILE_ZYX,
) -> None:
    """Write `network` to `path`: input ``hu`` float32 (1, 1, z, y, x) in HU, output ``logits`` (1, outputs, z, y, x).

    Parameters
    ----------
    metadata : goes into the model's metadata properties; nothing there depends on the time, so that the same weights
        give the same file.
    """
    network = network.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            module.explicit = True
    example = torch.zeros(1, 1, *tile_zyx)
    with torch.no_grad(), redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:
        # The exporter notes stack traces here: size, and paths of the machine it ran on.
        del node.metadata_props[:]
        node.doc_string = ""
    for values in (model.graph.value_info, model.graph.input, model.graph.output):
        for value in values:
            del value.metadata_props[:]
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    del model.graph.metadata_props[:], model.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
    for key, text in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model, full_check=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(model.SerializeToString(deterministic=True))
    temporary.rename(path)
