"""How scanners say what an image is: one reader per dialect behind `read_dialect`. Reads no pixels and no whole series."""

from __future__ import annotations

from dataclasses import replace

from ichor.reasons import Reason
from ichor.series.dialects import classic, enhanced, uih
from ichor.series.dialects.classic import slot_of, weighting_of
from ichor.series.dialects.facts import DialectFacts
from ichor.series.dialects.ge import ge_component, ge_counts
from ichor.series.dialects.mosaic import siemens_tiles
from ichor.series.dialects.philips import philips_counts
from ichor.series.dialects.siemens import csa_of
from ichor.series.dialects.vendor import Vendor, vendor_of
from ichor.series.values import Values
from ichor.types import Dialect, Geometry

__all__ = ["WANTED", "WANTED_PRIVATE", "DialectFacts", "read_dialect"]

_MODALITY = 0x00080060
WANTED: frozenset[int] = classic.WANTED | enhanced.WANTED | {_MODALITY}
WANTED_PRIVATE: frozenset[tuple[int, int]] = classic.WANTED_PRIVATE

# Enhanced CT and MR, and legacy converted enhanced CT and MR (PS3.4 table B.5-1).
_ENHANCED_CT = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
_ENHANCED = _ENHANCED_CT | {f"1.2.840.10008.5.1.4.1.1.4.{end}" for end in (1, 3, 4)}


def read_dialect(
    values: Values,
    *,
    sop_class_uid: str,
    geometry: Geometry | None,
    frames: int,
    image_type: tuple[str, ...],
    manufacturer: str | None,
) -> DialectFacts:
    """What one object says in its vendor's dialect. Never raises for bad content.

    Parameters
    ----------
    values
        Attributes of the object, among them `WANTED` and `WANTED_PRIVATE`.
    geometry
        As the image plane module has it; None for an object without rows and columns.
    frames
        Number of Frames, 1 where it is absent.
    image_type
        Values of Image Type, upper case.
    """
    vendor = vendor_of(manufacturer)
    told = _read(values, vendor, sop_class_uid=sop_class_uid, geometry=geometry, frames=frames, image_type=image_type)
    component = ge_component(values) if vendor in (Vendor.GE, Vendor.ANY) else None
    return told if component is None else replace(told, component=component)


def _read(
    values: Values, vendor: Vendor, *, sop_class_uid: str, geometry: Geometry | None, frames: int,
    image_type: tuple[str, ...],
) -> DialectFacts:  # fmt: skip
    counts = _counts(values, vendor)
    if geometry is None:
        return DialectFacts(dialect=Dialect.CLASSIC, counts=counts)
    if values.raw(enhanced.PER_FRAME) or sop_class_uid in _ENHANCED:
        ct = sop_class_uid in _ENHANCED_CT or values.text(_MODALITY) == "CT"
        return _enhanced(values, vendor, geometry=geometry, counts=counts, frames=frames, ct=ct)
    if frames > 1:
        return DialectFacts(dialect=Dialect.MULTIFRAME, geometry=geometry, counts=counts)
    orientation = geometry.orientation_lps
    csa = csa_of(values) if vendor in (Vendor.SIEMENS, Vendor.ANY) else {}
    diffusion = weighting_of(values, vendor, orientation=orientation, csa=csa)
    slot = slot_of(values, vendor, image_type=image_type, diffusion=diffusion)
    if "MOSAIC" in image_type[2:] and vendor in (Vendor.SIEMENS, Vendor.ANY):
        tiling = siemens_tiles(values, geometry, csa=csa)
        if tiling is None:
            return DialectFacts(
                dialect=Dialect.SIEMENS_MOSAIC, geometry=geometry, slot=slot, counts=counts,
                defect=Reason.TILES_UNPLACED,
            )  # fmt: skip
        return DialectFacts(
            dialect=Dialect.SIEMENS_MOSAIC, slot=slot, tiling=tiling, counts=counts,
            geometry=replace(geometry, position_lps=tiling.first_position_lps),
        )  # fmt: skip
    if "VFRAME" in image_type[2:] and vendor in (Vendor.UIH, Vendor.ANY):
        tiles = uih.uih_tiles(values, geometry)
        if tiles is None:
            return DialectFacts(
                dialect=Dialect.UIH_TILED, geometry=geometry, slot=slot, counts=counts, defect=Reason.TILES_UNPLACED
            )
        return DialectFacts(
            dialect=Dialect.UIH_TILED, tiling=tiles.tiling, counts=counts,
            slot=slot if slot.time is not None else replace(slot, time=tiles.time),
            geometry=replace(geometry, position_lps=tiles.tiling.first_position_lps),
        )  # fmt: skip
    return DialectFacts(dialect=Dialect.CLASSIC, geometry=geometry, slot=slot, counts=counts)


def _enhanced(
    values: Values, vendor: Vendor, *, geometry: Geometry, counts: tuple[tuple[str, int], ...], frames: int, ct: bool
) -> DialectFacts:
    read, units = enhanced.read_frames(values, geometry=geometry, vendor=vendor, ct=ct)
    if not read or len(read) != frames:
        return DialectFacts(
            dialect=Dialect.ENHANCED, geometry=geometry, counts=counts, defect=Reason.FRAMES_DISAGREE, frames=read
        )
    return DialectFacts(
        dialect=Dialect.ENHANCED, geometry=enhanced.common_geometry(read, geometry), frames=read, counts=counts,
        slot=enhanced.common_slot(read), unit=next(iter(units)) if len(units) == 1 else None,
        defect=Reason.MIXED_UNITS if len(units) > 1 else None,
    )  # fmt: skip


def _counts(values: Values, vendor: Vendor) -> tuple[tuple[str, int], ...]:
    if vendor is Vendor.PHILIPS:
        return philips_counts(values)
    return ge_counts(values) if vendor is Vendor.GE else ()
