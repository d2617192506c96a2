"""One series in the words of ``ichor facts``: JSON-able, for programs and for the table. Decides nothing, reads nothing.

Names and meanings of the keys: docs/contract.md. What the headers hold of a person is nowhere in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ichor.arrays import mean_affine_lps
from ichor.reasons import Reason
from ichor.series.grid import Grid, Missing
from ichor.series.refusal import array_refusal
from ichor.series.roles import Said, Verdict, facts_of
from ichor.types import Axis, AxisName, Evidence, Grade, GradientTable, Instance, unique

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
    study_refusal: str | None = None  # why nothing of its study is used
    failed: bool = False  # an unexpected error kept it from being looked at; ``study_refusal`` names it

    @property
    def barred(self) -> str | None:
        """Why it plays no role, whatever the rules say of it."""
        return self.study_refusal or (Reason.SHORT if self.grade is Grade.SHORT else None)

    @property
    def array_refusal(self) -> str | None:
        """Why it cannot become an array, None when it can. A series without any image has nothing to refuse."""
        if self.study_refusal is not None:
            return self.study_refusal
        if not (self.has_images or self.conflict or any(i.defect for i in self.instances)):
            return None
        refusal = array_refusal(self.instances, self.grid, conflict=self.conflict)
        return Reason.SHORT if refusal is None and self.grade is Grade.SHORT else refusal

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Empty slots. A series that is complete lacks nothing where a scanner left a gap; ``notes`` name that."""
        return () if self.grade.complete and self.array_refusal is not Reason.SHORT else self.grid.missing

    @property
    def has_images(self) -> bool:
        return any(i.pixels is not None for i in self.instances)


def summary(series: SeenSeries) -> dict[str, Any]:
    """What ``ichor facts --json`` prints of one series; null where a key does not apply."""
    grid, verdict = series.grid, series.verdict
    facts = verdict.facts if verdict is not None else None
    if facts is None or not facts.whole:
        facts = facts_of(series.instances, grid, conflict=series.conflict)
    gridded = grid.arranged
    roles = verdict.roles if verdict is not None and series.barred is None else ()
    axes = _axes(grid) if gridded else None
    table = grid.gradients if gridded else None
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
            for slot in series.missing[:_MOST_MISSING]
        ],
        "missing_slots": grid.lacking if series.missing else 0,  # of which so many are listed
        "bvals": list(directions.b_values) if directions is not None else _b_values(grid) if gridded else None,
        "bvecs_lps": [list(d) for d in directions.directions_lps] if directions is not None else None,
        "refused": refused,
        # Beyond the contract's list: what a person asks next.
        "reason": series.reason,
        "kind_reason": next((i.kind_reason for i in series.instances if i.kind is facts.kind), None),
        "rules": [asdict(said) for said in _said(verdict, series.barred)] if verdict is not None else [],
        "instances": len(series.instances),
        "stacks": stacks,
        "left_out": _left_out(grid),
        "notes": list(unique([*series.notes, *grid.notes])),
        "unit": facts.unit,
        "gradients": None if directions is not None or table is None else str(table),
    }


def _said(verdict: Verdict, barred: str | None) -> list[Said]:
    """What the rules said; none lets a series play that is barred."""
    if barred is None:
        return list(verdict.said)
    return [replace(said, answer="refused", reason=barred) if said.answer == "plays" else said for said in verdict.said]


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
            "affine_lps": mean_affine_lps(
                stack.origins_lps,
                stack.row_lps,
                stack.column_lps,
                pixel_spacing=stack.pixel_spacing,
                thickness=thickness,
            ).tolist(),
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
