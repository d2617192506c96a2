"""What a pipeline is and what it asks of networks, as `pipelines` and `engines` implement it. Not a pipeline itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ichor.encoding import Overlay
from ichor.types import Findings, Stage

if TYPE_CHECKING:
    from ichor.arrays import Float32Array, MaskArray, Volume


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


@runtime_checkable
class SegmentationEngine(Engine, Protocol):
    """Outlines."""

    def segment(self, volume: Volume) -> Float32Array:
        """Probability (z, y, x) in 0..1 on the grid of ``volume`` (HU), true zero below 1 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What a network said of one region, and where it looked.

    Attributes
    ----------
    probability : 0..1, mean of ``each``.
    each : of the three slices.
    slices : their indices in the volume: Max-1, Max, Max+1, from the feet up.
    attention_zyx : Grad-CAM on the volume's grid, 0 outside the crops, 1 at its largest; 0 everywhere where nothing
        spoke for the answer.
    """

    probability: float
    each: tuple[float, float, float]
    slices: tuple[int, int, int]
    attention_zyx: Float32Array


@runtime_checkable
class ClassificationEngine(Engine, Protocol):
    """Judges what is outlined."""

    def classify(self, volume: Volume, mask_zyx: MaskArray) -> Classification | None:
        """Judge the region of ``mask_zyx``; None when it has fewer than three contiguous slices."""


class Timing(Protocol):
    def __call__(self, stage: Stage) -> AbstractContextManager[None]:
        """Counts the time spent inside to ``stage``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A scan and what was found on it."""

    findings: Findings
    volume: Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Findings that speak of an earlier scan, too, and a picture of both where one can be drawn."""

    findings: Findings
    picture: Overlay | None = None


class Compare(Protocol):
    """Implemented by pipelines that follow a finding up."""

    def __call__(self, now: Examined, earlier: Examined, *, hours: float) -> Compared: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSpec:
    """One pipeline: the roles it needs and can use, its models and parameters, and the function that does the work.

    ``optional_models`` are used where they are installed; the findings name what cannot be assessed without them.

    ``run`` gets a volume per role present and the engines by model name, and returns findings; it raises
    `ichor.errors.Unreadable` with a reason for what it cannot measure, and never invents a number.

    ``compare`` gets what was found now and in a scan of the same patient at most ``follow_up_hours`` before.
    """

    name: str
    version: str
    requires: tuple[str, ...]
    uses: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    optional_models: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    follow_up_hours: float = 0.0
    compare: Compare | None = None
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
