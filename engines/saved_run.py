"""What a killed training goes on from: weights, optimiser, random state, step, and of what training they are. Trains nothing."""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from engines.delivered_model import facts_of, read_back
from engines.runtime import file_sha256
from ichor.errors import CannotStart

FACTS = ("seed", "step", "elapsed_s", "options", "precision", "network_config")
NO_CHECKPOINT = (
    OSError, EOFError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, pickle.UnpicklingError,
    struct.error,
)  # fmt: skip
"""What reading a file that is not one, or not of this network, can raise."""
CHANGES_NO_WEIGHT = {"device", "threads", "checkpoint_seconds"}


class Options(Protocol):
    """What decides the weights of a training: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seed(self) -> int: ...

    @property
    def network(self) -> Any:
        """Configuration, with `dataclasses.asdict`'s inverse as ``from_dict``, and ``begins_with(another)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRun:
    """A training as it lies, or will lie, in a file.

    Attributes
    ----------
    cases : `digest` of what is trained on, in its order.
    parts : what is saved and put back, by its name in the file; ``ema`` is what `delivered` reads.
    """

    path: Path
    options: Options
    cases: str
    precision: str
    parts: Mapping[str, nn.Module | torch.optim.Optimizer]

    def save(self, *, step: int, elapsed_s: float) -> None:
        """Whole or not at all: written beside, then renamed."""
        state = {
            **{name: part.state_dict() for name, part in self.parts.items()},
            "random": torch.get_rng_state(),
            "step": step,
            "elapsed_s": elapsed_s,
            "seed": self.options.seed,
            "network_config": asdict(self.options.network),
            "precision": self.precision,
            "options": _without_network(self.options),
            "cases": self.cases,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.rename(self.path)

    def restore(self) -> tuple[int, float]:
        """Put everything back; returns the step and the seconds behind it. No pickle is run.

        Raises
        ------
        CannotStart
            It is of another training (other options, network or cases), or no checkpoint.
        """
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            network = type(self.options.network).from_dict(state["network_config"])
            other = [] if network == self.options.network else ["another network"]
            # Options that came later had no effect then, which is what their defaults do.
            then = {option.name: option.default for option in fields(self.options)} | state["options"]
            then.pop("network")
            now = _without_network(self.options)
            other += [
                f"{name} {then.get(name)!r:.40}, not {now.get(name)!r:.40}"
                for name in sorted((now.keys() | then.keys()) - CHANGES_NO_WEIGHT)
                if now.get(name) != then.get(name)
            ]
            # A checkpoint of before this was kept does not say.
            other += [] if state.get("cases", self.cases) == self.cases else ["other cases"]
            step, elapsed_s = int(state["step"]), float(state["elapsed_s"])
            if not other:
                for name, part in self.parts.items():
                    part.load_state_dict(state[name])
                torch.set_rng_state(state["random"])
        except NO_CHECKPOINT as error:
            told = f"{self.path.name} is of another training, or no checkpoint ({type(error).__name__})"
            raise CannotStart(told) from error
        if other:
            raise CannotStart(f"{self.path.name} is of another training: {'; '.join(other)}")
        return step, elapsed_s


def delivered(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The averaged weights of a checkpoint and its `FACTS`. No pickle is run."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return state["ema"], {name: state[name] for name in FACTS}


def begin_with(checkpoint: Path, networks: Iterable[nn.Module], *, config: Any, may_lack: tuple[str, ...] = ()) -> str:
    """Give networks of `config` (as `Options.network`) the averaged weights of a checkpoint; returns its SHA-256.

    Of a delivered ``.onnx`` with its card likewise. What it lacks stays as it is in `networks`, where its name begins with
    one of `may_lack`. No pickle is run.

    Raises
    ------
    CannotStart
        No checkpoint, one of another network, or one that lacks anything else.
    """
    told_of_beginning(checkpoint, config)
    with _beginning(checkpoint):
        weights = read_back(checkpoint) if checkpoint.suffix == ".onnx" else delivered(checkpoint)[0]
        for network in networks:
            kept = {name: values for name, values in network.state_dict().items() if name.startswith(may_lack)}
            network.load_state_dict({**kept, **weights})
        return file_sha256(checkpoint)


def told_of_beginning(checkpoint: Path, config: Any) -> str:
    """A note for the card of what begins with a checkpoint or model. Raises as `begin_with`."""
    with _beginning(checkpoint):
        facts = _facts(checkpoint)
        if not config.begins_with(type(config).from_dict(facts["network_config"])):
            raise CannotStart(f"{checkpoint.name} is of another network than the one to train")
        return f"began with the averaged weights of a training of {facts['step']} steps, seed {facts['seed']}"


def intensities_begun_with(checkpoint: Path, config: Any) -> Any:
    """``config`` with the z-score of a checkpoint's network, where it has one: its weights know no other.

    Raises
    ------
    CannotStart
        No checkpoint.
    """
    if config.zscore is None:
        return config
    with _beginning(checkpoint):
        return replace(config, zscore=type(config).from_dict(_facts(checkpoint)["network_config"]).zscore)


def _facts(checkpoint: Path) -> dict[str, Any]:
    return facts_of(checkpoint) if checkpoint.suffix == ".onnx" else delivered(checkpoint)[1]


@contextmanager
def _beginning(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except NO_CHECKPOINT as error:
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.120}"
        raise CannotStart(f"{checkpoint.name}: no checkpoint to begin with ({why})") from error


def digest(told: Iterable[bytes]) -> str:
    """Of what is trained on, case by case."""
    found = hashlib.sha256()
    for one in told:
        found.update(hashlib.sha256(one).digest())
    return found.hexdigest()


def _without_network(options: Options) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if name != "network"}
