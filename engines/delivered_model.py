"""Weights read back from a delivered model, so that a training can begin with what ships. Imports torch; trains nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from engines.export import export_onnx, export_vit
from engines.networks.umamba import UMamba, UMambaConfig
from engines.networks.vit import ViT, ViTConfig
from engines.runtime import file_sha256

Array = npt.NDArray[Any]
Export = Callable[[Any, Path], None]


def facts_of(model: Path) -> dict[str, Any]:
    """What the card of ``NAME.onnx`` says of its training, as a checkpoint has it. Raises as `read_back`."""
    card = _card(model)
    return {
        "seed": card["seed"],
        "step": card["steps"],
        "elapsed_s": 60.0 * card["minutes"],
        "options": card["options"],
        "precision": card["precision"],
        "network_config": card["network"],
    }


def read_back(model: Path) -> dict[str, Tensor]:
    """Weights of ``NAME.onnx`` with its card, as a checkpoint has them; of a judge of expansion the ViT alone.

    Raises
    ------
    OSError, LookupError, ValueError
        No card, another model's card, or a model that this version does not read back.
    """
    card = _card(model)
    if card.get("kind") == "classification":
        found = weights_of(model, ViT(ViTConfig.from_dict(card["network"])), partial(export_vit, metadata={}))
        return {f"network.{name}": values for name, values in found.items()}
    (given,) = _loaded(model).input
    tile = tuple(one.dim_value for one in given.type.tensor_type.shape.dim[2:])
    network = UMamba(UMambaConfig.from_dict(card["network"]))
    return weights_of(model, network, partial(export_onnx, metadata={}, tile_zyx=tile))


def _card(model: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads(model.with_suffix(".json").read_text(encoding="utf-8"))
    if file_sha256(model) != card["sha256"]:
        raise ValueError("the card is of another file")
    return card


def weights_of(model: Path, network: nn.Module, export: Export) -> dict[str, Tensor]:
    """The state of `network` of which `export` made `model`.

    An exporter stores some of it transposed, reshaped or computed with, under names of its own: a twin with other weights,
    exported alike, tells which is which. What is found is exported again, and must give what the model has.

    Raises
    ------
    ValueError
        It does not: another network, or another version of the exporter.
    """
    stored = _constants(model)
    twin = copy.deepcopy(network)
    random = torch.Generator().manual_seed(0)  # of its own: what a training draws must not depend on this
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.normal_(generator=random)
    known = _exported(twin, export)
    if known.keys() != stored.keys():
        raise ValueError("its graph has other constants")
    state = {name: _found(name, values.numpy(), known, stored) for name, values in twin.state_dict().items()}
    twin.load_state_dict(state)
    again = _exported(twin, export)
    if not all(np.allclose(again[name], stored[name], rtol=1e-5, atol=1e-7) for name in stored):
        raise ValueError("its weights give another model")
    return state


def _found(name: str, wanted: Array, known: Mapping[str, Array], stored: Mapping[str, Array]) -> Tensor:
    for constant, values in known.items():
        there = stored[constant]
        if values.shape == wanted.T.shape and np.array_equal(values, wanted.T):
            found = there.T
        elif (
            values.size and values.size % wanted.size == 0 and (values.reshape(-1, wanted.size) == wanted.ravel()).all()
        ):
            found = there.reshape(-1, wanted.size)[0].reshape(wanted.shape)  # in another shape, or repeated
        elif values.shape == wanted.shape and np.allclose(values, -np.exp(wanted), atol=0):
            found = np.log(-there)  # Mamba's
        else:
            continue
        return torch.from_numpy(np.array(found))
    raise ValueError(f"{name} is not among its constants")


def _exported(network: nn.Module, export: Export) -> dict[str, Array]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "twin.onnx"
        export(network, path)
        return _constants(path)


def _constants(model: Path) -> dict[str, Array]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in _loaded(model).initializer}


def _loaded(model: Path) -> onnx.GraphProto:
    try:
        return onnx.load(model).graph
    except DecodeError as error:
        raise ValueError("no ONNX model") from error
