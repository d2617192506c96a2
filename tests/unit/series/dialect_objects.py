"""Data sets of single objects made with pydicom, and what `read_dialect` says of them. Knows no series."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TypeAlias

from pydicom import dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from ichor.series.dialects import WANTED, WANTED_PRIVATE, DialectFacts, read_dialect
from ichor.series.header import Selection, walk_header
from ichor.series.values import Values
from ichor.types import Diffusion, Geometry

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
MR, ENHANCED_MR, ENHANCED_CT = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("4", "4.1", "2.1"))
Orientation: TypeAlias = tuple[float, float, float, float, float, float]
AXIAL: Orientation = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
UNIT = (0.36, 0.48, 0.8)

_LIMIT = 16 << 20


def geometry(
    rows: int = 64, columns: int = 48, *, orientation: Orientation | None = AXIAL,
    position: tuple[float, float, float] | None = (-10.0, 20.0, 30.0),
    pixel_spacing: tuple[float, float] | None = (2.0, 1.5), spacing: float | None = 3.0,
) -> Geometry:  # fmt: skip
    return Geometry(
        rows=rows, columns=columns, position_lps=position, orientation_lps=orientation, pixel_spacing=pixel_spacing,
        slice_thickness=2.5, spacing_between_slices=spacing, frame_of_reference_uid="1.2.9",
    )  # fmt: skip


def values_of(ds: Dataset, syntax: str = EXPLICIT) -> Values:
    """Through bytes and the walker, as a stored object goes."""
    target = BytesIO()
    dcmwrite(target, ds, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG, force_encoding=True)
    selection = Selection(
        WANTED, private=WANTED_PRIVATE, limits=dict.fromkeys(WANTED, _LIMIT),
        private_limits=dict.fromkeys(WANTED_PRIVATE, _LIMIT),
    )  # fmt: skip
    return Values.of(walk_header(BytesIO(target.getvalue()), transfer_syntax_uid=syntax, selection=selection))


def told(
    ds: Dataset, *, manufacturer: str | None, image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "M"),
    plane: Geometry | None = None, sop_class_uid: str = MR, frames: int = 1, syntax: str = EXPLICIT,
) -> DialectFacts:  # fmt: skip
    return read_dialect(
        values_of(ds, syntax), sop_class_uid=sop_class_uid, geometry=plane or geometry(), frames=frames,
        image_type=tuple(image_type), manufacturer=manufacturer,
    )  # fmt: skip


def weighting(
    ds: Dataset, manufacturer: str | None, *, plane: Geometry | None = None, syntax: str = EXPLICIT
) -> Diffusion | None:
    return told(ds, manufacturer=manufacturer, plane=plane, syntax=syntax).slot.diffusion


def item(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def items(*content: Dataset) -> Items:
    return Items(content)
