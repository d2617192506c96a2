"""Why a series is no array: told here for rules, `ichor facts` and the building of volumes. Reads no pixels."""

from __future__ import annotations

from collections.abc import Sequence

from ichor.reasons import Reason
from ichor.series.decoding import MOST_PIXELS
from ichor.series.grid import Grid
from ichor.series.planes import Plane
from ichor.series.rescale import unit_of
from ichor.series.scans import two_scans
from ichor.types import Instance


def of_the_array(instances: Sequence[Instance], grid: Grid | None) -> Sequence[Instance]:
    """Objects that the array needs: all but those whose images are left out of it."""
    if grid is None or not grid.left_out:
        return instances
    needed = {plane.instance.sop_instance_uid for plane in grid.planes}
    beside = {plane.instance.sop_instance_uid for plane in grid.left_out} - needed
    return [i for i in instances if i.sop_instance_uid not in beside]


def array_refusal(instances: Sequence[Instance], grid: Grid | None, *, conflict: bool = False) -> str | None:
    """The reason, perhaps with a detail after a colon; None for an array with every slot filled.

    Without ``grid`` (a series that is still coming) only its objects are looked at. ``conflict``: one SOP Instance UID
    came twice with different pixels.
    """
    if conflict:
        return Reason.DUPLICATE_OTHER_BYTES
    used = of_the_array(instances, grid)
    if any(i.pixels is not None and i.pixels.lossy for i in used):
        return Reason.LOSSY
    told = next((why for i in used if (why := _against(i)) is not None), None)
    if told is not None or grid is None:
        return told
    if grid.findings:
        return grid.findings[0]
    if _mixed_units(grid.planes):
        return Reason.MIXED_UNITS
    if not grid.arranged:
        return Reason.NO_GEOMETRY
    if (grid.cells < 0).any():
        return Reason.SHORT
    return Reason.TWO_SCANS if two_scans(grid) else None


def _mixed_units(planes: Sequence[Plane]) -> bool:
    """Whether images of one component and type are different quantities. Phase beside magnitude, or a map, may be."""
    units: dict[tuple[object, ...], set[str | None]] = {}
    for plane in planes:
        units.setdefault((plane.slot.component, plane.slot.image_type), set()).add(unit_of(plane.instance))
    return any(len(found) > 1 for found in units.values())


def _against(instance: Instance) -> str | None:
    if instance.defect is not None:
        return instance.defect
    if instance.pixels is None:
        return Reason.NO_PIXELS
    if instance.geometry is not None and instance.geometry.rows * instance.geometry.columns > MOST_PIXELS:
        return Reason.FRAME_TOO_LARGE
    if instance.frames:
        return Reason.FRAMES_DISAGREE if len(instance.frames) != instance.pixels.frames else None
    return Reason.MULTIFRAME if instance.pixels.frames != 1 else None
