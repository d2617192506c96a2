"""Diffusion weighting and tiled volumes in United Imaging's private attributes. Knows no other mosaic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ichor.series.dialects.clock import seconds_of_date_time, seconds_of_time
from ichor.series.dialects.lps import Vector, from_axes, length, plus, scaled, vector
from ichor.series.dialects.weighting import Stated
from ichor.series.values import Values
from ichor.types import Geometry, Tiling

_GROUP, _CREATOR = 0x0065, "Image Private Header"
# dcm2niix' notes on UIH, with the vendor's table of private attributes.
_B_VALUE, _DIRECTION, _TILES, _TILE_SEQUENCE = 0x09, 0x37, 0x50, 0x51
_POSITION, _TIME, _DATE_TIME = 0x00200032, 0x00080032, 0x0008002A

WANTED_PRIVATE = frozenset({(_GROUP, low) for low in (_B_VALUE, _DIRECTION, _TILES, _TILE_SEQUENCE)})

_MOST_TILES = 4096
_OFF = 0.02  # mm that a tile may lie beside its place in an even row of tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class UihTiles:
    """Tiles of one object; ``time`` is the earliest of theirs, s since midnight."""

    tiling: Tiling
    time: float | None


def uih_weighting(values: Values, *, orientation: tuple[float, ...] | None) -> Stated | None:
    """The b-value as it was, not as it was asked for; the direction is given along row, column and normal."""
    b_tag, direction_tag = values.private(_GROUP, _CREATOR, _B_VALUE), values.private(_GROUP, _CREATOR, _DIRECTION)
    b_value = values.numbers(b_tag, "d", 1) if b_tag is not None else None
    if not b_value:
        return None
    components = vector(values.numbers(direction_tag, "d", 3)) if direction_tag is not None else None
    direction: Vector | None = None
    if components is not None and orientation is not None:
        direction = from_axes(components, orientation)
    return Stated(source="(0065,1009)", b_value=float(b_value[0]), direction_lps=direction)


def uih_tiles(values: Values, geometry: Geometry) -> UihTiles | None:
    """Tiles and their places; None where their number, their size or a place is missing or they lie unevenly.

    ``cols = ceil(sqrt(total))``, ``rows = ceil(total / cols)``: the vendor's table.
    """
    count_tag = values.private(_GROUP, _CREATOR, _TILES)
    items_tag = values.private(_GROUP, _CREATOR, _TILE_SEQUENCE)
    number = values.number(count_tag) if count_tag is not None else None
    if number is None or items_tag is None or not 1 <= number <= _MOST_TILES or number != int(number):
        return None
    count = int(number)
    items = values.items(items_tag)
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    if len(items) != count or geometry.rows % down or geometry.columns % across:
        return None
    places: list[Vector] = []
    for item in items:
        place = vector(item.decimals(_POSITION, 3))
        if place is None:
            return None
        places.append(place)
    first, last = places[0], places[-1]
    step = scaled(plus(last, scaled(first, -1.0)), 1 / max(1, count - 1))
    off = (length(plus(place, scaled(plus(first, scaled(step, k)), -1.0))) for k, place in enumerate(places))
    if any(distance > _OFF for distance in off) or (count > 1 and length(step) <= _OFF):
        return None
    times = [t for item in items if (t := _time(item)) is not None]
    return UihTiles(
        tiling=Tiling(
            count=count, across=across, rows=geometry.rows // down, columns=geometry.columns // across,
            first_position_lps=first, step_lps=step,
        ),
        time=min(times) if len(times) == count else None,
    )  # fmt: skip


def _time(item: Values) -> float | None:
    stated = seconds_of_date_time(item.text(_DATE_TIME))
    return stated if stated is not None else seconds_of_time(item.text(_TIME))
