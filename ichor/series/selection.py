"""Which images of a series make its array, by their kind; the rest sits in the series beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ichor.series.planes import Plane
from ichor.series.shells import B0_LIMIT
from ichor.types import Kind


def by_kind(planes: Sequence[Plane]) -> tuple[list[Plane], list[Plane]]:
    """(those that make the array, those left out).

    Images of kind ``image`` make the array; those of other kinds are left out, unless the series has nothing else: then
    the most frequent kind does. Isotropic diffusion images beside directional ones are left out too; b0 and trace
    images alone are one array.
    """
    kinds = Counter(_kind(plane) for plane in planes)
    if len(kinds) == 1 and not any(plane.slot.diffusion for plane in planes):
        return list(planes), []
    images = [plane for plane in planes if _kind(plane) is Kind.IMAGE]
    weighted = [plane.slot.diffusion for plane in images if _b_value(plane) > B0_LIMIT]
    directional = any(diffusion is not None and not diffusion.isotropic for diffusion in weighted)
    if not images:
        wanted = {max(kinds, key=lambda kind: (kinds[kind], kind))} if kinds else set()
    elif not directional and all(plane.slot.diffusion for plane in images):
        wanted = {Kind.IMAGE, Kind.TRACE}
    else:
        wanted = {Kind.IMAGE}
    chosen: list[Plane] = []
    left_out: list[Plane] = []
    for plane in planes:
        isotropic = directional and plane.slot.diffusion is not None and plane.slot.diffusion.isotropic
        beside = _kind(plane) not in wanted or (isotropic and _b_value(plane) > B0_LIMIT)
        (left_out if beside else chosen).append(plane)
    return chosen, left_out


def left_out_notes(left_out: Sequence[Plane]) -> tuple[str, ...]:
    """How many of which kind, in words."""
    kinds = Counter(
        Kind.TRACE if plane.slot.diffusion is not None and plane.slot.diffusion.isotropic else _kind(plane)
        for plane in left_out
    )
    return tuple(f"no part of the array: {count} of kind {kind}" for kind, count in sorted(kinds.items()))


def _kind(plane: Plane) -> Kind:
    """Of a frame, what its own functional groups say; else what either place says that is more than ``image``."""
    if plane.instance.frames or plane.slot.kind is not Kind.IMAGE:
        return plane.slot.kind
    return plane.instance.kind


def _b_value(plane: Plane) -> float:
    diffusion = plane.slot.diffusion
    return diffusion.b_value if diffusion is not None else 0.0
