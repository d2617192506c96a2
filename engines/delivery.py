"""From a training checkpoint to the two files that serve, an ONNX model and its card. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.export import INPUT, OUTPUT, TILE_ZYX, export_onnx
from engines.network import parameter_count
from engines.runtime import file_sha256
from engines.training import load_network

OUTPUTS = ("haematoma", "intracranial space")


def deliver(
    checkpoint: Path,
    out: Path,
    *,
    name: str,
    version: str,
    command: str,
    data: str,
    preliminary: bool = False,
    figures: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    tile_zyx: tuple[int, int, int] = TILE_ZYX,
) -> Path:
    """Write ``NAME.onnx`` and ``NAME.json`` into `out`; returns the path of the former.

    Parameters
    ----------
    name : ends in ``-phantom`` for weights that have seen phantoms only.
    command : what a user types to train such a model.
    data : what it was trained on, in a sentence.
    figures : measured on heads that were not trained on; left out of the card when there are none.
    """
    network, facts = load_network(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.onnx"
    own = {
        "name": name,
        "version": version,
        "use": "RESEARCH",
        "command": command,
        "seed": str(facts["seed"]),
        "steps": str(facts["step"]),
        "data": data,
        "input": f"{INPUT}: float32 (1, 1, {', '.join(map(str, tile_zyx))}) in HU, axes z (headwards), y (to the back), "
        "x (to the left), 1.0 mm in plane, native slices; windows -20..120 and -1000..1000 HU are inside the model",
        "output": f"{OUTPUT}: float32 logits, channels {', '.join(OUTPUTS)}",
        "preliminary": str(preliminary).lower(),
    }
    export_onnx(network, path, metadata=own, tile_zyx=tile_zyx)
    card: dict[str, Any] = {
        **own,
        "seed": facts["seed"],
        "steps": facts["step"],
        "preliminary": preliminary,
        "minutes": round(facts["elapsed_s"] / 60, 1),
        "sha256": file_sha256(path),
        "bytes": path.stat().st_size,
        "parameters": parameter_count(network),
        "options": facts["options"],
        "notes": list(notes),
    }
    if figures is not None:
        card["figures"] = dict(figures)
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    (out / f"{name}.json").write_text(text, encoding="utf-8")
    return path
