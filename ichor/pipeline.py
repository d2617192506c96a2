"""What a pipeline is, as `pipelines` implements it and the worker runs it. Not a pipeline itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ichor.types import Findings, Stage

if TYPE_CHECKING:
    from ichor.arrays import Volume


class Engine(Protocol):
    """A loaded network as pipelines see it (implemented in `engines`)."""

    @property
    def name(self) -> str:
        """Model name; ends in ``-phantom`` for demo weights."""

    @property
    def sha256(self) -> str:
        """Of the weights file."""

    @property
    def description(self) -> str:
        """Runtime, version and precision, for provenance."""

    def segment(self, volume: Volume) -> Any:
        """Probability float32 (z, y, x) in 0..1 on the grid of ``volume`` (HU), true zero below 1 %."""


class Timing(Protocol):
    def __call__(self, stage: Stage) -> AbstractContextManager[None]:
        """Counts the time spent inside to ``stage``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSpec:
    """One pipeline: the roles it needs and can use, its parameters, and the function that does the work.

    ``run`` gets a volume per role present and the engines by model name, and returns findings; it raises
    `ichor.errors.Unreadable` with a reason for what it cannot measure, and never invents a number.
    """

    name: str
    version: str
    requires: tuple[str, ...]
    uses: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    run: Callable[[Mapping[str, Volume], Mapping[str, Engine], Timing], Findings]


def installed_names() -> tuple[str, ...]:
    """Names of the pipelines, none of which is loaded."""
    from importlib.metadata import entry_points

    return tuple(sorted(point.name for point in entry_points(group="ichor.pipelines")))


def installed() -> Iterator[PipelineSpec]:
    """Pipelines found by the entry point group ``ichor.pipelines``, by name."""
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group="ichor.pipelines"), key=lambda p: p.name):
        yield point.load()
