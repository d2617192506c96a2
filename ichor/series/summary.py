"""One series in the words of ``ichor facts``: JSON-able, for programs and for the table. Decides nothing, reads nothing.

Names and meanings of the keys: docs/contract.md. What the headers hold of a person is nowhere in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ichor.reasons import Reason
from ichor.series.gradients import gradient_table
from ichor.series.grid import Grid, Stack
from ichor.series.roles import Said, Verdict, facts_of, of_the_array
from ichor.types import Axis, AxisName, Evidence, Float64Array, Grade, GradientTable, Instance, unique

_MOST_MISSING = 10_000  # slots listed


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenSeries:
    """A series and all that was decided of it. ``verdict`` is None for what Ichor made itself."""

    series_instance_uid: str
    study_instance_uid: str
    instances: tuple[Instance, ...]
    grid: Grid
    grade: Grade
    evidence: tuple[Evidence, ...]
    reason: str | None
    verdict: Verdict | None
    conflict: bool = False
    notes: tuple[str, ...] = ()  # what a report must name

    @property
    def array_refusal(self) -> str | None:
        """Why it cannot become an array, None when it can. A series without any image has nothing to refuse."""
        if self.conflict:
            return Reason.DUPLICATE_OTHER_BYTES
        used = of_the_array(self.instances, self.grid)
        defect = next((i.defect for i in used if i.defect is not None), None)
        if defect is not None:
            return defect
        if any(i.pixels is not None and i.pixels.lossy for i in used):
            return Reason.LOSSY
        if not self.has_images:
            return None
        if any(i.pixels is not None and i.pixels.frames > 1 and not i.frames for i in used):
            return Reason.MULTIFRAME
        if self.grid.findings:
            return self.grid.findings[0]
        return Reason.SHORT if self.grade is Grade.SHORT or (self.grid.cells < 0).any() else None

    @property
    def has_images(self) -> bool:
        return any(i.pixels is not None for i in self.instances)


def summary(series: SeenSeries) -> dict[str, Any]:
    """What ``ichor facts --json`` prints of one series; null where a key does not apply."""
    grid, verdict = series.grid, series.verdict
    facts = facts_of(series.instances, grid, conflict=series.conflict)
    gridded = grid.arranged
    roles = verdict.roles if verdict is not None and series.grade is not Grade.SHORT else ()
    axes = _axes(grid) if gridded else None
    table = gradient_table(grid) if gridded else None
    directions = table if isinstance(table, GradientTable) else None
    refused = series.array_refusal
    if refused is None and verdict is not None and not roles:
        refused = next(iter(verdict.refused.values()), None)
    stacks = _stacks(grid) if gridded else None
    return {
        "series_instance_uid": series.series_instance_uid,
        "study_instance_uid": series.study_instance_uid,
        "modality": facts.modality,
        "dialect": facts.dialect.value,
        "kind": facts.kind.value,
        "roles": list(roles),
        "rule": verdict.rule if verdict is not None and roles else None,
        "axes": axes,
        "shape": list(grid.shape) or None,
        "affine_lps": stacks[0]["affine_lps"] if stacks is not None and len(stacks) == 1 else None,
        "complete": series.grade.complete,
        "grade": series.grade.value,
        "evidence": [{"what": e.what, "detail": e.detail} for e in series.evidence if e.what != "rule"],
        "missing": [
            {
                "position_mm": round(slot.position, 4),
                **{name.value: value for name, value in slot.coordinates},
                "indices": list(slot.indices),
            }
            for slot in grid.missing[:_MOST_MISSING]
        ],
        "bvals": list(directions.b_values) if directions is not None else _b_values(grid) if gridded else None,
        "bvecs_lps": [list(d) for d in directions.directions_lps] if directions is not None else None,
        "refused": refused,
        # Beyond the contract's list: what a person asks next.
        "reason": series.reason,
        "kind_reason": next((i.kind_reason for i in series.instances if i.kind is facts.kind), None),
        "rules": [asdict(said) for said in _said(verdict, series.grade)] if verdict is not None else [],
        "instances": len(series.instances),
        "stacks": stacks,
        "left_out": _left_out(grid),
        "notes": list(unique([*series.notes, *grid.notes])),
        "unit": next((i.unit for i in series.instances if i.unit is not None), None),
        "gradients": None if directions is not None or table is None else str(table),
    }


def _said(verdict: Verdict, grade: Grade) -> list[Said]:
    """What the rules said; none lets a short series play."""
    if grade is not Grade.SHORT:
        return list(verdict.said)
    return [
        replace(said, answer="refused", reason=Reason.SHORT) if said.answer == "plays" else said
        for said in verdict.said
    ]


def affine_of(stack: Stack, *, thickness: float | None) -> Float64Array:
    """(4, 4): (column, row, slice, 1) to mm in patient coordinates; slices at their mean distance.

    ``thickness`` (mm) stands for the distance where there is one slice.
    """
    origins = np.asarray(stack.origins_lps, dtype=np.float64)
    dy, dx = stack.pixel_spacing
    row, column = np.asarray(stack.row_lps), np.asarray(stack.column_lps)
    last = len(origins) - 1
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * dx, column * dy
    affine[:3, 2] = (origins[-1] - origins[0]) / last if last else np.cross(row, column) * (thickness or 1.0)
    affine[:3, 3] = origins[0]
    return affine


def _axes(grid: Grid) -> list[dict[str, Any]]:
    """Every dimension of the array, slowest first; rows and columns have no values of their own."""
    stack = grid.stacks[0]
    several = len(grid.stacks) > 1
    space = [
        _axis(AxisName.SLICE, None if several else [round(p, 4) for p in stack.positions], size=len(stack.positions)),
        _axis(AxisName.ROW, None, size=stack.rows),
        _axis(AxisName.COLUMN, None, size=stack.columns),
    ]
    return [_axis(axis.name, list(axis.values), size=axis.size) for axis in grid.axes] + space


def _axis(name: AxisName, values: list[Any] | None, *, size: int) -> dict[str, Any]:
    return {"name": name.value, "size": size, "values": values}


def _stacks(grid: Grid) -> list[dict[str, Any]]:
    axis = next((axis for axis in grid.axes if axis.name is AxisName.STACK), None)
    thickness = max((p.geometry.slice_thickness for p in grid.planes if p.geometry.slice_thickness), default=None)
    names: Sequence[Any] = axis.values if axis is not None else [None] * len(grid.stacks)
    return [
        {
            "id": name,
            "affine_lps": affine_of(stack, thickness=thickness).tolist(),
            "slices": [round(p, 4) for p in stack.positions],
        }
        for name, stack in zip(names, grid.stacks, strict=True)
    ]


def _b_values(grid: Grid) -> list[float | None] | None:
    """Of a series without a table; null for volumes that state none."""
    axis: Axis | None = next((axis for axis in grid.axes if axis.name is AxisName.DIFFUSION), None)
    return [None if isinstance(b, str) else float(b) for b in axis.values] if axis is not None else None


def _left_out(grid: Grid) -> list[dict[str, Any]]:
    kinds = Counter(plane.slot.kind for plane in grid.left_out)
    return [{"kind": kind.value, "images": kinds[kind]} for kind in unique([p.slot.kind for p in grid.left_out])]
