"""A trained network as one ONNX file with its provenance in it. Imports torch: for training machines, not for serving."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from engines.networks.layers import InstanceNorm
from engines.networks.umamba import UMamba
from engines.networks.vit import ViT

OPSET = 20
INPUT, OUTPUT, ATTENTION = "hu", "logits", "attention"
TILE_ZYX = (12, 224, 192)
"""Fixed, so that every runtime compiles one shape; `segmentation` tiles a head with it."""
SLICES = 3
"""Crops that a classifier takes at once: Max-1, Max, Max+1."""


def export_onnx(
    network: UMamba,
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
    _export(network, torch.zeros(1, 1, *tile_zyx), path, outputs=[OUTPUT], metadata=metadata)


def export_vit(network: ViT, path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write `network` to `path`: input ``hu`` float32 (3, 1, y, x) in HU, a crop of each slice; outputs ``logits`` (3,)
    and ``attention`` (3, grid, grid), its Grad-CAM.
    """
    example = torch.zeros(SLICES, 1, network.config.size, network.config.size)
    _export(_Explained(network), example, path, outputs=[OUTPUT, ATTENTION], metadata=metadata)


class _Explained(nn.Module):
    def __init__(self, network: ViT) -> None:
        super().__init__()
        self.network = network

    def forward(self, hu: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.explain(hu)


def _export(
    network: nn.Module, example: Tensor, path: Path, *, outputs: Sequence[str], metadata: Mapping[str, str]
) -> None:
    network = network.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            module.explicit = True
    with torch.no_grad(), redirect_stdout(io.StringIO()):
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(outputs),
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
