"""The loading of models that serve, and `ichor engine`. Trains and measures nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from engines.catalogue import MODELS, has_model, load_model, load_model_card
from ichor.cli.folder import DataFolder
from ichor.pipeline import Engine

log = logging.getLogger(__name__)


def load_engines(names: Sequence[str], folder: Path, *, optional: Sequence[str] = ()) -> dict[str, Engine]:
    """Load each model, through its acceptance gate, into ``{name: engine}``; of `optional` those that are installed.

    Raises
    ------
    CannotStart
        A model is missing or not the one that its card describes.
    """
    engines: dict[str, Engine] = {}
    for name in dict.fromkeys([*names, *(name for name in optional if has_model(name))]):
        loaded = load_model(name, folder=folder)
        if loaded.fallback:
            log.warning("model %s is served by the reference runtime: %s", name, loaded.fallback)
        log.info("model %s %s: %s", name, loaded.card.version, loaded.engine.description)
        engines[name] = loaded.engine
    return engines


def engine_command(verb: str, folder: DataFolder) -> int:
    """``list`` the models; ``verify`` hashes and gate; ``build`` compiles and gates them ahead of serving."""
    names = sorted(path.stem for path in MODELS.glob("*.json"))
    ok = True
    for name in names:
        card = load_model_card(name)
        line = f"{name}  version {card.version}  sha256 {card.sha256[:16]}"
        if verb == "list":
            print(line)
            continue
        folder.prepare()
        loaded = load_model(name, folder=folder.engines)
        verdict = loaded.fallback or "gate passed"
        ok &= not loaded.fallback
        print(f"{line}  {loaded.engine.description}: {verdict}")
    return 0 if ok else 1
