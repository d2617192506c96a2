"""From a training checkpoint to the two files that serve, an ONNX model and its card. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from engines.export import INPUT, OUTPUT, TILE_ZYX, export_onnx
from engines.networks.layers import parameter_count
from engines.runtime import file_sha256
from engines.training import load_network

OUTPUTS = ("haematoma", "intracranial space")
PAPER_PIXEL_MM, PAPER_SLICE_MM = 0.5, 5.0


def deliver(
    checkpoint: Path,
    out: Path,
    *,
    name: str,
    version: str,
    command: str,
    data: str,
    figures: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    tile_zyx: tuple[int, int, int] | None = None,
) -> Path:
    """Write ``NAME.onnx`` and ``NAME.json`` into `out`; returns the path of the former.

    Parameters
    ----------
    name : ends in ``-phantom`` for weights that have seen phantoms only.
    command : what a user types to train such a model.
    data : what it was trained on, in a sentence.
    figures : measured on heads that were not trained on; left out of the card when there are none.
    tile_zyx : the one input size of the file; by default the demo's, or the patch of a network that is not the demo's.
    """
    network, facts = load_network(checkpoint)
    config = network.config
    tile = tile_zyx or (TILE_ZYX if config.packed else config.patch_zyx)
    # Only the demo's network is packed; whoever serves it need not know that, which is inside the model, but its voxels.
    pixel_mm, slice_mm = (1.0, None) if config.packed else (PAPER_PIXEL_MM, PAPER_SLICE_MM)
    voxels = f"{pixel_mm} mm in plane, " + ("native slices" if slice_mm is None else f"slices at {slice_mm:g} mm")
    windows = "windows -20..120 and -1000..1000 HU" if config.zscore is None else "clipping and z-score"
    own = {
        "name": name,
        "version": version,
        "use": "RESEARCH",
        "command": command,
        "seed": str(facts["seed"]),
        "steps": str(facts["step"]),
        "data": data,
        "input": f"{INPUT}: float32 (1, 1, {', '.join(map(str, tile))}) in HU, axes z (headwards), y (to the back), "
        f"x (to the left), {voxels}; {windows} are inside the model",
        "output": f"{OUTPUT}: float32 logits, channels {', '.join(OUTPUTS[: config.outputs])}",
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.onnx"
    export_onnx(network, path, metadata=own, tile_zyx=tile)
    card = {**own, "pixel_mm": pixel_mm, "slice_mm": slice_mm, **facts_for_card(facts, network), "notes": list(notes)}
    write_card(path, card, figures=figures)
    return path


def facts_for_card(facts: Mapping[str, Any], network: nn.Module) -> dict[str, Any]:
    """How a network of any kind came about, from what lies beside its weights in a checkpoint."""
    return {
        "seed": facts["seed"],
        "steps": facts["step"],
        "minutes": round(facts["elapsed_s"] / 60, 1),
        "parameters": parameter_count(network),
        "network": facts["network_config"],
        "options": facts["options"],
        "precision": facts["precision"],
    }


def write_card(model: Path, facts: Mapping[str, Any], *, figures: Mapping[str, Any] | None = None) -> None:
    """Write the card of an exported model beside it, with its hash and size."""
    card = {**facts, "preliminary": False, "sha256": file_sha256(model), "bytes": model.stat().st_size}
    if figures is not None:
        card["figures"] = dict(figures)
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    model.with_suffix(".json").write_text(text, encoding="utf-8")
