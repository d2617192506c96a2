"""Which models are there, and how one of them is loaded to serve. Trains nothing and imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.classification import ATTENTION, LOGITS, Classifier
from engines.expansion_crops import SIZE
from engines.gate import GateReport, compare_once
from engines.onnx_runtime import OnnxRuntime
from engines.openvino_runtime import OpenVinoRuntime
from engines.runtime import Runtime, file_sha256, processor
from engines.segmentation import Segmenter
from ichor.errors import CannotStart

MODELS = Path(__file__).parent / "models"
LEAST_VOXEL_MM, MOST_VOXEL_MM = 0.2, 20.0
"""A finer grid than any head is scanned with would only take memory."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model: who made it from what, how good it was found, and the hash its file must have.

    Attributes
    ----------
    facts : everything the card's JSON holds; ``kind`` is ``segmentation`` (where it is left out) or ``classification``.
    """

    name: str
    version: str
    sha256: str
    path: Path
    facts: Mapping[str, Any]

    @property
    def voxels_mm(self) -> tuple[float, float | None]:
        """Pixel and slice distance that a segmentation was trained on; where the card is silent 1.0 mm and as they come.

        Raises
        ------
        CannotStart
            Something that no head was ever trained on.
        """
        pixel, slices = self.facts.get("pixel_mm", 1.0), self.facts.get("slice_mm")
        for value in (pixel,) if slices is None else (pixel, slices):
            if type(value) not in (int, float) or not LEAST_VOXEL_MM <= value <= MOST_VOXEL_MM:
                raise CannotStart(f"model {self.name}: voxels of {value!r:.20} mm")
        return float(pixel), None if slices is None else float(slices)

    @property
    def kind(self) -> str:
        """``segmentation`` or ``classification``."""
        return str(self.facts.get("kind", "segmentation"))

    @property
    def preliminary(self) -> bool:
        """Weights from an unfinished training."""
        return bool(self.facts.get("preliminary", False))


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that may serve: its card, the engine, and the gate's verdict on OpenVINO (`fallback` says why not)."""

    card: ModelCard
    engine: Segmenter | Classifier
    gate: GateReport | None
    fallback: str

    @property
    def segmenter(self) -> Segmenter:
        """The engine of a model that outlines.

        Raises
        ------
        CannotStart
            It is of another kind.
        """
        if not isinstance(self.engine, Segmenter):
            raise CannotStart(f"model {self.card.name} does not outline")
        return self.engine


def has_model(name: str, *, models: Path = MODELS) -> bool:
    """Is there a card of this name? Says nothing about whether the model can be loaded."""
    return (models / f"{name}.json").is_file()


def load_model_card(name: str, *, models: Path = MODELS) -> ModelCard:
    """The card of a model, its file's hash verified.

    Raises
    ------
    CannotStart
        No such model, an unreadable card, or a file that is not the one the card describes.
    """
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise CannotStart(f"no model is called {name[:64]!r}")
    try:
        facts = json.loads((models / f"{name}.json").read_text(encoding="utf-8"))
        card = ModelCard(facts["name"], facts["version"], facts["sha256"], models / f"{name}.onnx", facts)
        found = file_sha256(card.path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CannotStart(f"model {name}: {type(error).__name__} while reading its card or file") from error
    if found != card.sha256:
        raise CannotStart(f"model {name}: file has sha256 {found[:12]}, its card says {card.sha256[:12]}")
    return card


def load_model(
    name: str,
    *,
    folder: Path,
    threads: int = 2,
    models: Path = MODELS,
    candidate: Callable[..., Runtime] = OpenVinoRuntime,
) -> LoadedModel:
    """Load a model to serve: OpenVINO where it passes the gate against ONNX Runtime, else ONNX Runtime.

    Parameters
    ----------
    folder : keeps gate reports and compiled models; may be deleted at any time.
    candidate : what is tried in place of the reference; called as ``candidate(path, threads=, cache=)``.

    Raises
    ------
    CannotStart
        See `load_model_card`; or a kind that this version cannot serve, a file that is no model, or one of other inputs or
        outputs than its kind has.
    """
    card = load_model_card(name, models=models)
    serve = _engine_of(card)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        reference = OnnxRuntime(card.path, threads=threads)
    except RuntimeError as error:
        raise CannotStart(f"model {name}: {error}") from error
    if not _FITS[card.kind](reference.input_shapes, reference.output_shapes):
        shapes = f"{reference.input_shapes} to {reference.output_shapes}"
        raise CannotStart(f"model {name}: {shapes:.300} is no {card.kind} that can serve (docs/training.md)")
    try:
        # OpenVINO knows a compiled model again by path, size and time, which another file may share.
        tried = candidate(card.path, threads=threads, cache=folder / card.sha256[:16])
        report = compare_once(tried, reference, processor=processor(), folder=folder)
    except RuntimeError as error:
        # OpenVINO reports every failure of its own as RuntimeError; the reference can still serve.
        reason = f"{type(error).__name__} while loading or comparing"
        return LoadedModel(card, serve(reference), None, reason)
    chosen = tried if report.accepted else reference
    return LoadedModel(card, serve(chosen), report, report.reason)


def _engine_of(card: ModelCard) -> Callable[[Runtime], Segmenter | Classifier]:
    if card.kind == "segmentation":
        pixel, slices = card.voxels_mm
        return lambda runtime: Segmenter(card.name, runtime, pixel_mm=pixel, slice_mm=slices)
    if card.kind == "classification":
        return lambda runtime: Classifier(card.name, runtime)
    raise CannotStart(f"model {card.name}: no engine serves its kind")


def _outlines(inputs: Mapping[str, tuple[Any, ...]], outputs: Mapping[str, tuple[Any, ...]]) -> bool:
    """One tile of fixed size, and for each voxel the logit of haematoma and perhaps that of the inside of the skull."""
    if len(inputs) != 1 or len(outputs) != 1:
        return False
    (given,), (out,) = inputs.values(), outputs.values()
    if len(given) != 5:
        return False
    *first, z, y, x = given
    fixed = all(type(size) is int and size > 0 for size in (z, y, x))
    return fixed and first == [1, 1] and out in ((1, channels, z, y, x) for channels in (1, 2))


def _judges(inputs: Mapping[str, tuple[Any, ...]], outputs: Mapping[str, tuple[Any, ...]]) -> bool:
    """Three crops, and for each a logit and where it looked."""
    logits, attention = outputs.get(LOGITS, ()), outputs.get(ATTENTION, ())
    looks = len(attention) == 3 and attention[0] == 3 and attention[1] == attention[2] and type(attention[1]) is int
    return list(inputs.values()) == [(3, 1, SIZE, SIZE)] and logits == (3,) and looks


_FITS = {"segmentation": _outlines, "classification": _judges}
