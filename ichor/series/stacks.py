"""Planes of one series grouped into stacks by geometry alone: size, orientation, spacing, frame of reference, Stack ID.

Knows nothing of time, echo or diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

import numpy as np

from ichor.series.gaps import SAME_PLACE_MM, Gap
from ichor.series.labels import Codes, Numbers, chained, split_by_columns
from ichor.series.planes import Plane
from ichor.types import Geometry, Instance

_ORIENTATION_TOLERANCE = 1e-3  # direction cosines of one stack scatter by rounding only
_SHORTEST = 0.5  # square of the length of a direction cosine triple; 1 but for rounding
_MOST_SKEW = 0.1  # cosine between row and column, 0 but for rounding
_SAME_ORIGIN_MM = 0.1  # images of one position whose first pixels lie further apart belong to stacks side by side
_EVEN = 1.1  # widest to narrowest spacing of slabs that continue each other

Vector: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """Images of one size, orientation, pixel spacing and frame of reference.

    ``positions`` (s,) ascend along the normal, mm; ``origins_lps`` (s, 3) are the centres of the first pixels there, mm;
    ``members[k]`` are the objects with images at ``positions[k]``, each once, in order of the grid; ``counts[k]`` says
    how many images they have there. ``row_lps`` and ``column_lps`` are perpendicular unit vectors of growing column
    and row index.
    """

    positions: tuple[float, ...]
    origins_lps: tuple[Vector, ...]
    members: tuple[tuple[Instance, ...], ...]
    counts: tuple[int, ...]
    gaps: tuple[Gap, ...]
    normal_lps: Vector
    row_lps: Vector
    column_lps: Vector
    rows: int
    columns: int
    pixel_spacing: tuple[float, float]  # (dy between rows, dx between columns), mm
    frame_of_reference_uid: str | None
    stack_id: str | None = None

    @property
    def multiplicity(self) -> tuple[int, int]:
        """(least, most) images at one position."""
        return min(self.counts), max(self.counts)

    @property
    def spacing(self) -> float | None:
        """Median distance of neighbours, mm; None for one position."""
        return median(np.diff(self.positions).tolist()) if len(self.positions) > 1 else None

    @property
    def coverage(self) -> float:
        """Distance from the first to the last position, mm."""
        return self.positions[-1] - self.positions[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pile:
    """A stack in the making: ``members`` (m,) index planes, ``place`` (m,) their position in ``positions`` (s,)."""

    members: Codes
    place: Codes
    positions: Numbers
    geometry: Geometry  # the most frequent, with directions that stand for all
    axes_lps: Numbers  # (3, 3): row, column, normal
    stack_id: str | None


def placed(geometry: Geometry) -> bool:
    """Whether it says where the image lies: two directions that span a plane, a spacing, a position."""
    orientation, spacing = geometry.orientation_lps, geometry.pixel_spacing
    if geometry.position_lps is None or orientation is None or spacing is None:
        return False
    a, b, c, d, e, f = orientation
    along = a * a + b * b + c * c, d * d + e * e + f * f
    across = abs(a * d + b * e + c * f)
    # Written so that a NaN fails.
    return min(along) > _SHORTEST and across < _MOST_SKEW and max(along) < 1 / _SHORTEST and min(spacing) > 0


def pile_up(planes: Sequence[Plane]) -> list[Pile]:
    """Group placed planes; in order of Stack ID where all have one, else largest first, then in order of acquisition.

    Stacks with different Stack IDs are one when together they make one even row of slices without a double (slabs
    that continue each other): so a form that keeps no Stack ID gives the same. Images of one position that lie
    side by side are stacks of their own.
    """
    if not planes:
        return []
    origins = np.asarray([plane.geometry.position_lps for plane in planes], dtype=np.float64)
    piles: list[Pile] = []
    for by_id in _alike(planes):
        parts = [(stack_id, np.asarray(members, dtype=np.int64)) for stack_id, members in sorted(by_id.items())]
        whole = _pile(planes, origins, np.sort(np.concatenate([m for _, m in parts])), stack_id=None)
        if len(parts) == 1 or _continuous(whole, [m for _, m in parts], origins):
            found = [_named(whole, parts[0][0] if len(parts) == 1 else None)]
        else:
            found = [_pile(planes, origins, members, stack_id=stack_id or None) for stack_id, members in parts]
        piles += [side for pile in found for side in _side_by_side(planes, origins, pile)]
    ids = [pile.stack_id for pile in piles]
    if None not in ids and len(set(ids)) == len(ids):
        piles.sort(key=lambda pile: _id_order(pile.stack_id or ""))
    else:
        piles.sort(key=lambda pile: _first_come(pile, planes, origins))
    return piles


def _alike(planes: Sequence[Plane]) -> list[dict[str, list[int]]]:
    """Indices of planes of one geometry, apart by Stack ID."""
    exact: dict[tuple[object, ...], dict[str, list[int]]] = {}
    for index, plane in enumerate(planes):
        g = plane.geometry
        key: tuple[object, ...] = (
            g.rows,
            g.columns,
            g.frame_of_reference_uid or "",
            g.orientation_lps,
            g.pixel_spacing,
        )
        exact.setdefault(key, {}).setdefault(plane.slot.stack or "", []).append(index)
    if len(exact) == 1:
        return list(exact.values())
    keys = list(exact)
    frames = {uid: k for k, uid in enumerate(sorted({str(key[2]) for key in keys}))}
    table = np.asarray(
        [(key[0], key[1], frames[str(key[2])], *key[3], *key[4]) for key in keys],  # type: ignore[misc]
        dtype=np.float64,
    )
    tolerance = (0.5, 0.5, 0.5, *[_ORIENTATION_TOLERANCE] * 8)
    merged: dict[int, dict[str, list[int]]] = {}
    for exact_key, group in zip(keys, split_by_columns(table, tolerance=tolerance).tolist(), strict=True):
        into = merged.setdefault(group, {})
        for stack_id, members in exact[exact_key].items():
            into.setdefault(stack_id, []).extend(members)
    return list(merged.values())


def _pile(planes: Sequence[Plane], origins: Numbers, members: Codes, *, stack_id: str | None) -> Pile:
    geometry = _usual([planes[k].geometry for k in members.tolist()])
    axes = _axes_lps(geometry)
    along = origins[members] @ axes[2]
    place = _places(along)
    first = np.full(int(place.max()) + 1, np.inf)
    np.minimum.at(first, place, along)
    return Pile(members=members, place=place, positions=first, geometry=geometry, axes_lps=axes, stack_id=stack_id)


def _named(pile: Pile, stack_id: str | None) -> Pile:
    return Pile(
        members=pile.members,
        place=pile.place,
        positions=pile.positions,
        geometry=pile.geometry,
        axes_lps=pile.axes_lps,
        stack_id=stack_id or None,
    )


def _usual(geometries: Sequence[Geometry]) -> Geometry:
    """The most frequent orientation and spacing, the least where several are as frequent."""
    found: dict[tuple[object, ...], list[Geometry]] = {}
    for geometry in geometries:
        found.setdefault((geometry.orientation_lps, geometry.pixel_spacing), []).append(geometry)
    return min(found.items(), key=lambda item: (-len(item[1]), item[0]))[1][0]


def _axes_lps(geometry: Geometry) -> Numbers:
    """(3, 3): unit vectors of row, column and normal; rounded cosines made exactly perpendicular."""
    orientation = np.asarray(geometry.orientation_lps, dtype=np.float64)
    row = orientation[:3] / np.linalg.norm(orientation[:3])
    column = orientation[3:] - (orientation[3:] @ row) * row
    column /= np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)])


def _places(along: Numbers) -> Codes:
    """Position (m,) of images at ``along`` (m,), mm: within 0.01 mm of the first of a position is the same."""
    codes = chained(along, tolerance=np.nextafter(SAME_PLACE_MM, 0.0))
    low = np.full(int(codes.max()) + 1, np.inf)
    high = -low
    np.minimum.at(low, codes, along)
    np.maximum.at(high, codes, along)
    if (high - low < SAME_PLACE_MM).all():
        return codes
    order = np.argsort(along, kind="stable")
    start, place = -np.inf, -1
    for index, value in zip(order.tolist(), along[order].tolist(), strict=True):
        if value - start >= SAME_PLACE_MM:
            start, place = value, place + 1
        codes[index] = place
    return codes


def _continuous(whole: Pile, parts: Sequence[Codes], origins: Numbers) -> bool:
    """Whether parts with different Stack IDs make one even row: no position twice, one spacing, one line."""
    place = dict(zip(whole.members.tolist(), whole.place.tolist(), strict=True))
    if sum(len({place[k] for k in part.tolist()}) for part in parts) != len(whole.positions):
        return False
    spacings = np.diff(whole.positions)
    if len(spacings) > 1 and spacings.max() > _EVEN * spacings.min():
        return False
    inside = origins[whole.members] @ whole.axes_lps[:2].T
    line = inside[np.argmin(whole.place)]
    last = inside[np.argmax(whole.place)]
    share = (whole.positions[whole.place] - whole.positions[0]) / max(float(np.ptp(whole.positions)), SAME_PLACE_MM)
    return bool(np.abs(inside - line - share[:, None] * (last - line)).max() <= _SAME_ORIGIN_MM)


def _side_by_side(planes: Sequence[Plane], origins: Numbers, pile: Pile) -> list[Pile]:
    """The pile, or its parts where images of one position lie apart in the plane."""
    inside = origins[pile.members] @ pile.axes_lps[:2].T
    count = len(pile.positions)
    if count == len(pile.members):
        return [pile]
    spread = 0.0
    for axis in range(2):
        low = np.full(count, np.inf)
        high = -low
        np.minimum.at(low, pile.place, inside[:, axis])
        np.maximum.at(high, pile.place, inside[:, axis])
        spread = max(spread, float((high - low).max()))
    if spread <= _SAME_ORIGIN_MM:
        return [pile]
    sides = split_by_columns(inside, tolerance=(_SAME_ORIGIN_MM, _SAME_ORIGIN_MM))
    if int(sides.max()) + 1 > int(np.bincount(pile.place).max()):
        return [pile]
    return [
        _pile(planes, origins, pile.members[sides == side], stack_id=pile.stack_id)
        for side in range(int(sides.max()) + 1)
    ]


def _first_come(pile: Pile, planes: Sequence[Plane], origins: Numbers) -> tuple[object, ...]:
    """Largest first; the rest only orders stacks of one size as the scanner did, and always alike."""
    own = [planes[k] for k in pile.members.tolist()]
    times = [plane.slot.time for plane in own]
    known = [time for time in times if time is not None]
    number = min(plane.instance.instance_number or 0 for plane in own)
    corner = origins[pile.members[np.argmin(pile.place)]]
    time = min(known) if len(known) == len(times) else 0.0
    return -len(pile.positions), time, number, min(plane.index for plane in own), tuple(corner.tolist())


def _id_order(stack_id: str) -> tuple[int, int, str]:
    return (0, int(stack_id), "") if stack_id.isdecimal() and len(stack_id) < 10 else (1, 0, stack_id)
