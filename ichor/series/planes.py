"""The two-dimensional images that an object holds: one, the tiles of a mosaic, or the frames of an enhanced object."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ichor.types import Geometry, Instance, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One image: ``index`` is its frame, or its tile in raster order; 0 where the object holds one image only."""

    instance: Instance
    index: int
    geometry: Geometry
    slot: Slot
    rescale_slope: float
    rescale_intercept: float


def temporal_position_of(instance: Instance, slot: Slot | None = None) -> int | None:
    """Temporal position of an object, or of the image at ``slot``.

    Manifests of version 1 hold it beside the slot.
    """
    stated = (slot or instance.slot).temporal_position
    return stated if stated is not None else instance.temporal_position


def acquisition_of(instance: Instance, slot: Slot | None = None) -> int | None:
    """Acquisition number, likewise."""
    stated = (slot or instance.slot).acquisition
    return stated if stated is not None else instance.acquisition_number


def planes_of(instance: Instance) -> tuple[Plane, ...]:
    """Every image of an object that has rows and columns; its place, and its pixels, may still be unknown.

    A multi-frame object without functional groups gives none: nothing says where its frames lie.
    """
    if instance.frames:
        return tuple(
            Plane(
                instance=instance,
                index=index,
                geometry=frame.geometry,
                slot=frame.slot,
                rescale_slope=frame.rescale_slope,
                rescale_intercept=frame.rescale_intercept,
            )
            for index, frame in enumerate(instance.frames)
        )
    pixels, geometry = instance.pixels, instance.geometry
    if geometry is None or (pixels is not None and pixels.frames > 1):
        return ()
    tiling = instance.tiling
    if tiling is None:
        return (_plane(instance, 0, geometry),)
    places = (
        tuple(p + k * s for p, s in zip(tiling.first_position_lps, tiling.step_lps, strict=True))
        for k in range(tiling.count)
    )
    return tuple(
        _plane(
            instance,
            k,
            replace(geometry, rows=tiling.rows, columns=tiling.columns, position_lps=(place[0], place[1], place[2])),
        )
        for k, place in enumerate(places)
    )


def _plane(instance: Instance, index: int, geometry: Geometry) -> Plane:
    pixels = instance.pixels
    return Plane(
        instance=instance,
        index=index,
        geometry=geometry,
        slot=instance.slot,
        rescale_slope=pixels.rescale_slope if pixels else 1.0,
        rescale_intercept=pixels.rescale_intercept if pixels else 0.0,
    )
