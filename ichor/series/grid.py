"""Where the images of one series lie: stacks of slice positions, the axes beyond space, what is missing, what is wrong.

Positions come from Image Position (Patient) projected on the slice normal, axes from what headers say
(`ichor.series.axes`), never from instance numbers alone. Says nothing about whether more images will come
(`ichor.series.evidence`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ichor.reasons import Reason
from ichor.series.axes import Arrangement, arrange
from ichor.series.gaps import SAME_PLACE_MM, Gap, slice_gaps
from ichor.series.gradients import gradient_table
from ichor.series.labels import Codes, Value, labels_of
from ichor.series.planes import Plane, acquisition_of, planes_of, temporal_position_of
from ichor.series.selection import by_kind, left_out_notes
from ichor.series.stacks import Pile, Stack, pile_up, placed
from ichor.types import Axis, AxisName, GradientTable, Instance, unique

__all__ = ["SAME_PLACE_MM", "Gap", "Grid", "Missing", "Stack", "build_grid", "missing_texts", "slice_gaps"]

_MOST_MISSING = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """An empty slot: ``position`` in mm along the normal of stack number ``stack`` (from 0), ``coordinates`` on axes."""

    stack: int
    position: float
    coordinates: tuple[tuple[AxisName, Value], ...] = ()
    indices: tuple[int, ...] = ()  # on the same axes


@dataclass(frozen=True, kw_only=True, eq=False)  # no slots: the table below is kept
class Grid:
    """All stacks of a series and the array that its images make.

    ``cells`` (*axis sizes, slices) holds indices into ``planes``, which are in its order, -1 where an image is missing;
    slices ascend along the normal. ``axes`` are the leading ones, slowest first, none for a plain volume; several stacks make the first of
    them. Where the images make no array (see ``findings``) ``axes`` is empty and ``cells`` has no element.

    ``left_out``: images of another kind that the series holds beside (trace, ADC, localizers). ``placeless``: objects
    with an image that lies nowhere, or without any. ``missing`` names at most 10,000 slots.
    """

    stacks: tuple[Stack, ...]
    placeless: tuple[Instance, ...]
    planes: tuple[Plane, ...]
    axes: tuple[Axis, ...]
    cells: npt.NDArray[np.int64]
    left_out: tuple[Plane, ...]
    missing: tuple[Missing, ...]
    findings: tuple[Reason, ...]  # what keeps the series from being one array
    notes: tuple[str, ...]

    @property
    def exists(self) -> bool:
        return bool(self.stacks)

    @property
    def arranged(self) -> bool:
        """The images make one array, with or without empty slots."""
        return self.cells.size > 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(*axes, z, y, x) of the array; empty where there is none."""
        return (*self.cells.shape, self.stacks[0].rows, self.stacks[0].columns) if self.arranged else ()

    @property
    def gaps(self) -> tuple[Gap, ...]:
        return tuple(gap for stack in self.stacks for gap in stack.gaps)

    @property
    def lacking(self) -> int:
        """How many slots are empty, those in gaps among them; ``missing`` names the first of them."""
        volumes = int(np.prod(self.cells.shape[:-1])) // max(1, len(self.stacks) if self.arranged else 1)
        in_gaps = sum(len(gap.missing) + gap.unnamed for gap in self.gaps)
        return int((self.cells < 0).sum()) + volumes * in_gaps

    @property
    def even(self) -> bool:
        """Every position of a stack holds the same number of images."""
        return all(least == most for least, most in (stack.multiplicity for stack in self.stacks))

    @property
    def gapless(self) -> bool:
        """A grid is there and nothing in it says that an image is missing."""
        return self.exists and not self.placeless and not self.gaps and not self.missing and self.even

    @property
    def positions(self) -> int:
        return sum(len(stack.positions) for stack in self.stacks)

    @cached_property
    def gradients(self) -> GradientTable | Reason | None:
        """See `ichor.series.gradients.gradient_table`."""
        return gradient_table(self.planes, axes=self.axes, cells=self.cells)

    @property
    def in_order(self) -> tuple[Instance, ...]:
        """Every object once: as ``cells`` go, the slowest axis first; then those left out, then those without a place."""
        objects = [plane.instance for plane in (*self.planes, *self.left_out)]
        objects += sorted(self.placeless, key=_sequence)
        first: dict[str, Instance] = {}
        for instance in objects:
            first.setdefault(instance.sop_instance_uid, instance)
        return tuple(first.values())


def build_grid(instances: Iterable[Instance]) -> Grid:
    """The grid of one series, whatever the order of ``instances``.

    Tilted and uneven sets are exact: only the projection on the normal counts.

    `ichor.series.selection` says which images make the array.
    """
    planes: list[Plane] = []
    placeless: list[Instance] = []
    for instance in sorted(instances, key=_sequence):
        found = planes_of(instance)
        planes += found
        if not found:
            placeless.append(instance)
    chosen, left_out = by_kind(planes)
    lying = [plane for plane in chosen if placed(plane.geometry)]
    if len(lying) < len(chosen):
        lost = {p.instance.sop_instance_uid: p.instance for p in chosen if not placed(p.geometry)}
        placeless += lost.values()
    piles = pile_up(lying)
    place = _places(piles, len(lying))
    findings = [Reason.NO_GEOMETRY] if placeless or not piles else []
    notes = left_out_notes(left_out)
    arrangement = None
    if len({_shared(pile) for pile in piles}) > 1 or _scattered(piles):
        findings.append(Reason.MIXED_GEOMETRY)
        if any(len(pile.members) > len(pile.positions) for pile in piles):
            findings.append(Reason.SAME_PLACE)
    elif _mixed_forms(lying, place):
        findings.append(Reason.MIXED_FORMS)
    elif piles:
        found_axes = arrange(labels_of(lying), place=place)
        notes += found_axes.notes
        if found_axes.finding is None:
            arrangement = found_axes
        else:
            findings.append(found_axes.finding)
    axes, cells, order = _cells(piles, place, arrangement)
    lying = [lying[k] for k in order.tolist()]
    stacks = _stacks(lying, piles, place[order])
    return Grid(
        stacks=stacks,
        placeless=tuple(placeless),
        planes=tuple(lying),
        axes=axes,
        cells=cells,
        left_out=tuple(left_out),
        missing=_missing(cells, axes, stacks),
        findings=tuple(findings),
        notes=notes,
    )


def missing_texts(grid: Grid, *, most: int = 10) -> tuple[str, ...]:
    """What is missing in words, one text per volume, e.g. ``slices at 30.0, 35.0 mm of time 4 of 60``.

    At most ``most`` volumes with ``most`` positions each are listed; a last text says how many slices are not.
    """
    places: dict[tuple[int, ...], list[float]] = {}
    for slot in grid.missing:
        places.setdefault(slot.indices if grid.axes else (slot.stack,), []).append(slot.position)
    texts, named = [], 0
    for indices, positions in list(places.items())[:most]:
        listed = ", ".join(f"{position:.1f}" for position in positions[:most])
        named += min(len(positions), most)
        of = ", ".join(
            f"{axis.name.replace('_', ' ')} {k + 1} of {axis.size}" for axis, k in zip(grid.axes, indices, strict=False)
        )
        more = "" if len(positions) <= most else f" and {len(positions) - most} more"
        named += max(0, len(positions) - most)
        noun = "slice" if len(positions) == 1 else "slices"
        texts.append(f"{noun} at {listed} mm{more}" + (f" of {of}" if of else ""))
    rest = grid.lacking - named
    if rest:
        texts.append("1 more slice" if rest == 1 else f"{rest} more slices")
    return tuple(texts)


def _sequence(instance: Instance) -> tuple[int, int, int, str]:
    return (
        temporal_position_of(instance) or 0,
        acquisition_of(instance) or 0,
        instance.instance_number or 0,
        instance.sop_instance_uid,
    )


def _shared(pile: Pile) -> tuple[object, ...]:
    """What stacks of one array have in common."""
    g = pile.geometry
    spacing = tuple(round(s, 3) for s in g.pixel_spacing or ())
    return g.rows, g.columns, spacing, g.frame_of_reference_uid, len(pile.positions)


def _scattered(piles: Sequence[Pile]) -> bool:
    """Single images that each look another way, by no Stack ID one acquisition: radial projections, scouts."""
    return len(piles) > 1 and len(piles[0].positions) == 1 and any(pile.stack_id is None for pile in piles)


def _mixed_forms(planes: Sequence[Plane], place: Codes) -> bool:
    """Whether images of one place come as single ones and as frames or tiles: copies of each other, no two volumes."""
    forms = {dialect: k for k, dialect in enumerate(unique([plane.instance.dialect for plane in planes]))}
    if len(forms) < 2:
        return False
    form = np.asarray([forms[plane.instance.dialect] for plane in planes])
    return len(np.unique(np.stack([place, form]), axis=1).T) > int(place.max()) + 1


def _places(piles: Sequence[Pile], count: int) -> Codes:
    """Codes (n,) of the places of planes: stack by stack, positions ascending."""
    place = np.zeros(count, dtype=np.int64)
    base = 0
    for pile in piles:
        place[pile.members] = base + pile.place
        base += len(pile.positions)
    return place


def _cells(
    piles: Sequence[Pile], place: Codes, arrangement: Arrangement | None
) -> tuple[tuple[Axis, ...], npt.NDArray[np.int64], Codes]:
    """(axes, cells, order of the planes that cells index)."""
    if arrangement is None:
        return (), np.empty(0, dtype=np.int64), np.argsort(place, kind="stable")
    axes = arrangement.axes
    slices = len(piles[0].positions)
    indices = [*arrangement.indices, place % slices]
    if len(piles) > 1:
        ids = [pile.stack_id for pile in piles]
        named = None not in ids and len(set(ids)) == len(ids)
        values = tuple(i or "" for i in ids) if named else tuple(range(1, len(piles) + 1))
        axes = (Axis(name=AxisName.STACK, values=values), *axes)
        indices.insert(0, place // slices)
    shape = (*(axis.size for axis in axes), slices)
    flat = np.ravel_multi_index(indices, shape)
    order = np.argsort(flat, kind="stable")
    cells = np.full(int(np.prod(shape)), -1, dtype=np.int64)
    cells[flat[order]] = np.arange(len(order))
    return axes, cells.reshape(shape), order


def _stacks(planes: Sequence[Plane], piles: Sequence[Pile], place: Codes) -> tuple[Stack, ...]:
    """Stacks of ``planes`` in order of the grid; ``place`` (n,) is theirs."""
    order = np.argsort(place, kind="stable")
    bounds = np.searchsorted(place[order], np.arange(sum(len(pile.positions) for pile in piles) + 1)).tolist()
    sorted_planes = [planes[k] for k in order.tolist()]
    stacks = []
    base = 0
    for pile in piles:
        runs = [sorted_planes[bounds[k] : bounds[k + 1]] for k in range(base, base + len(pile.positions))]
        base += len(pile.positions)
        row, column, normal = (_vector(axis) for axis in pile.axes_lps.tolist())
        positions = tuple(pile.positions.tolist())
        geometry = pile.geometry
        stacks.append(
            Stack(
                positions=positions,
                origins_lps=tuple(run[0].geometry.position_lps or (0.0, 0.0, 0.0) for run in runs),
                members=tuple(
                    tuple({plane.instance.sop_instance_uid: plane.instance for plane in run}.values()) for run in runs
                ),
                counts=tuple(len(run) for run in runs),
                gaps=slice_gaps(positions, [run[0].geometry.slice_thickness for run in runs]),
                normal_lps=normal,
                row_lps=row,
                column_lps=column,
                rows=geometry.rows,
                columns=geometry.columns,
                pixel_spacing=geometry.pixel_spacing or (0.0, 0.0),
                frame_of_reference_uid=geometry.frame_of_reference_uid,
                stack_id=pile.stack_id,
            )
        )
    return tuple(stacks)


def _vector(values: Sequence[float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]


def _missing(cells: npt.NDArray[np.int64], axes: tuple[Axis, ...], stacks: tuple[Stack, ...]) -> tuple[Missing, ...]:
    """Empty cells, and those at positions that fill a gap; volume by volume, positions ascending."""
    found: list[Missing] = []
    several = bool(axes) and axes[0].name is AxisName.STACK

    def name(indices: tuple[int, ...], stack: int, position: float) -> None:
        coordinates = tuple((axis.name, axis.values[k]) for axis, k in zip(axes, indices, strict=True))
        found.append(Missing(stack=stack, position=position, coordinates=coordinates, indices=indices))

    for index in np.argwhere(cells < 0)[:_MOST_MISSING].tolist():
        *indices, k = index
        stack = indices[0] if several else 0
        name(tuple(indices), stack, stacks[stack].positions[k])
    for s, stack in enumerate(stacks):
        places = [place for gap in stack.gaps for place in gap.missing]
        shape = cells.shape[1:-1] if several else cells.shape[:-1]
        for volume in np.ndindex(shape) if places else ():
            if len(found) >= _MOST_MISSING:
                break
            for place in places:
                name((s, *volume) if several else volume, s, place)
    found.sort(key=lambda slot: (slot.stack, slot.indices, slot.position))
    return tuple(found[:_MOST_MISSING])
