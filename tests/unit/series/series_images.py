"""Images of synthetic series, as facts: what a scanner would say of each. No pixels, and no test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from contract.arrivals import make_slice

from ichor.series.grid import Grid
from ichor.types import Instance, Slot

MR = "1.2.840.10008.5.1.4.1.1.4"


def image(number: int, *, z: float, slot: Mapping[str, Any] | None = None, **changes: Any) -> Instance:
    """One axial MR image at ``z`` mm; ``slot`` are fields of its `Slot`, ``geometry`` changes to its plane."""
    geometry = changes.pop("geometry", {})
    made = make_slice(number=number, z=z, acquisition=None)
    assert made.geometry is not None
    changed = {
        "modality": "MR",
        "sop_class_uid": MR,
        "geometry": replace(made.geometry, **geometry),
        "slot": Slot(**(slot or {})),
    }
    return replace(made, **{**changed, **changes})


def volumes(
    labels: Sequence[Mapping[str, Any]],
    *,
    slices: int,
    spacing: float = 3.0,
    per_image: Mapping[str, Callable[[int, int], Any]] | None = None,
    **changes: Any,
) -> list[Instance]:
    """Volume by volume, numbered from 1; ``labels`` are slots of volumes, ``per_image`` fields from (volume, slice)."""
    return [
        image(
            v * slices + s + 1,
            z=spacing * s,
            slot={**slot, **{name: give(v, s) for name, give in (per_image or {}).items()}},
            **changes,
        )
        for v, slot in enumerate(labels)
        for s in range(slices)
    ]


def direction(k: int) -> tuple[float, float, float]:
    """A unit vector, another for every ``k``."""
    vector = np.random.default_rng(k).normal(size=3)
    x, y, z = (vector / np.linalg.norm(vector)).tolist()
    return x, y, z


def cells_of(grid: Grid) -> list[str | None]:
    """SOP Instance UID and index of every cell, in order."""
    return [
        None if k < 0 else f"{grid.planes[k].instance.sop_instance_uid}/{grid.planes[k].index}"
        for k in grid.cells.ravel().tolist()
    ]
