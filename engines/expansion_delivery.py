"""From a checkpoint of the judge of expansion to its ONNX model and card. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.delivery import facts_for_card, write_card
from engines.expansion_crops import MARGIN_MM, SIZE
from engines.expansion_training import load_expansion
from engines.export import ATTENTION, INPUT, OUTPUT, SLICES, export_vit


def deliver_expansion(
    checkpoint: Path,
    out: Path,
    *,
    name: str,
    version: str,
    command: str,
    data: str,
    figures: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
) -> Path:
    """Write ``NAME.onnx`` and ``NAME.json`` into `out`; returns the path of the former. As `engines.delivery.deliver`."""
    network, facts = load_expansion(checkpoint)
    grid = network.config.grid
    own = {
        "name": name,
        "kind": "classification",
        "version": version,
        "use": "RESEARCH",
        "command": command,
        "seed": str(facts["seed"]),
        "steps": str(facts["step"]),
        "data": data,
        "input": f"{INPUT}: float32 ({SLICES}, 1, {SIZE}, {SIZE}) in HU: Max-1, Max, Max+1, a square of the haematoma's "
        f"extent and {MARGIN_MM:g} mm around; the window 40/80 HU is inside the model",
        "output": f"{OUTPUT}: float32 ({SLICES},) logits of expansion, the patient's probability is the mean of theirs; "
        f"{ATTENTION}: float32 ({SLICES}, {grid}, {grid}) Grad-CAM",
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.onnx"
    export_vit(network, path, metadata=own)
    write_card(path, {**own, **facts_for_card(facts, network), "notes": list(notes)}, figures=figures)
    return path
