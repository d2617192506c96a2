"""What a dialect tells of one object beyond the standard's image modules. Reads nothing itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from ichor.types import Component, Dialect, Frame, Geometry, Slot, Tiling


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectFacts:
    """As the fields of `ichor.types.Instance` that have these names.

    ``slot`` has neither kind nor component, which whole objects decide by more than their dialect; the slots of
    ``frames`` have both. ``component``: that a private attribute of the whole object names. ``counts`` are the vendor's own.
    ``unit``: of the images among ``frames``. ``defect``: a `Reason` why the images cannot be told apart, placed or
    measured.
    """

    dialect: Dialect
    geometry: Geometry | None = None
    slot: Slot = field(default_factory=Slot)
    component: Component | None = None
    tiling: Tiling | None = None
    frames: tuple[Frame, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()
    unit: str | None = None
    defect: str | None = None
