"""The loading of models that serve, and `ichor engine`. Trains and measures nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engines.catalogue import MODELS, LoadedModel, ModelCard, has_model, load_model, load_model_card
from ichor.cli.folder import DataFolder
from ichor.errors import CannotStart
from ichor.pipeline import Engine, installed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Models:
    """Which file serves under a name: the site's own (`ichor.config.Settings.models`), else the one that is shipped."""

    own: Mapping[str, Path] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Is it installed?"""
        return name in self.own or has_model(name)

    def card(self, name: str) -> ModelCard:
        """Its card, its file's hash verified.

        Raises
        ------
        CannotStart
            Missing, not the one that its card describes, or of another kind than the one in whose place it is to serve.
        """
        if (path := self.own.get(name)) is None:
            return load_model_card(name)
        try:
            card = load_model_card(path.stem, models=path.parent)
        except CannotStart as error:
            raise CannotStart(f"models.{name} = {path}: {error}") from error
        if has_model(name) and (shipped := load_model_card(name)).kind != card.kind:
            raise CannotStart(f"models.{name} = {path}: its card says {card.kind}, {name} is {shipped.kind}")
        return card

    def load(self, name: str, *, folder: Path) -> LoadedModel:
        """Through its acceptance gate; `card` and `engines.catalogue.load_model` say what can be wrong."""
        path = self.card(name).path
        try:
            return load_model(path.stem, folder=folder, models=path.parent)
        except CannotStart as error:
            raise CannotStart(f"models.{name} = {path}: {error}" if name in self.own else str(error)) from error

    def strangers(self, wanted: Iterable[str]) -> tuple[str, ...]:
        """Names of own ones that are none of ``wanted``, which all pipelines' models are."""
        return tuple(sorted(set(self.own) - set(wanted)))


def stranger_words(name: str, wanted: Sequence[str]) -> str:
    """Of a setting that the worker refuses."""
    return f"models.{name}: no pipeline has such a model ({', '.join(wanted)})"


def models_of_pipelines() -> list[str]:
    """Names of the models of all pipelines that are installed, optional ones too."""
    return list(dict.fromkeys(name for one in installed() for name in (*one.models, *one.optional_models)))


def load_engines(
    names: Sequence[str], folder: Path, *, optional: Sequence[str] = (), own: Mapping[str, Path] | None = None
) -> dict[str, Engine]:
    """Load each model, through its acceptance gate, into ``{name: engine}``; of `optional` those that are installed.

    ``own``: files of the site that serve under a name in place of what is shipped.

    Raises
    ------
    CannotStart
        A model is missing or not the one that its card describes, or an own one is for no model of a pipeline.
    """
    models = Models(own or {})
    if strangers := models.strangers([*names, *optional]):
        raise CannotStart(stranger_words(strangers[0], [*names, *optional]))
    engines: dict[str, Engine] = {}
    for name in dict.fromkeys([*names, *(name for name in optional if models.has(name))]):
        loaded = models.load(name, folder=folder)
        if loaded.fallback:
            log.warning("model %s is served by the reference runtime: %s", name, loaded.fallback)
        log.info("model %s %s: %s", name, loaded.card.version, loaded.engine.description)
        engines[name] = loaded.engine
    return engines


def engine_command(verb: str, folder: DataFolder, *, own: Mapping[str, Path]) -> int:
    """``list`` the models; ``verify`` hashes and gate; ``build`` compiles and gates them ahead of serving."""
    models = Models(own)
    wanted = models_of_pipelines()
    if strangers := models.strangers(wanted):
        raise CannotStart(stranger_words(strangers[0], wanted))
    ok = True
    for name in sorted({path.stem for path in MODELS.glob("*.json")} | set(own)):
        card = models.card(name)
        served = name if card.name == name else f"{name}: {card.name}"
        line = f"{served}  version {card.version}  sha256 {card.sha256[:16]}"
        if verb == "list":
            print(line)
            continue
        folder.prepare()
        loaded = models.load(name, folder=folder.engines)
        verdict = loaded.fallback or "gate passed"
        ok &= not loaded.fallback
        print(f"{line}  {loaded.engine.description}: {verdict}")
    return 0 if ok else 1
