"""The kind of a whole object and of each of its frames, by all that its header says. Knows no words of types."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ichor.series.dialects import DialectFacts
from ichor.series.dialects.vendor import Vendor, vendor_of
from ichor.series.kinds import kind_of_calculation, kind_of_class, kind_of_types, only_compressed, stated_component
from ichor.series.storage_classes import should_be_image
from ichor.series.values import Values
from ichor.types import Component, Frame, Kind, Slot

_CALCULATION, _COMPLEX = 0x00089207, 0x00089208
WANTED = frozenset({_CALCULATION, _COMPLEX})


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectKind:
    """As the fields of `ichor.types.Instance` that have these names; ``reason`` is its ``kind_reason``."""

    kind: Kind
    reason: str | None
    slot: Slot
    frames: tuple[Frame, ...]


def object_kind(
    values: Values, told: DialectFacts, *, sop_class_uid: str, modality: str, image_type: tuple[str, ...],
    manufacturer: str | None, lossy: bool,
) -> ObjectKind:  # fmt: skip
    """Kind and component of an object and its frames; only an MR has a component.

    Parameters
    ----------
    told
        What the dialect says, with slots as it reads them.
    image_type
        Values of Image Type, upper case.
    lossy
        Whether the pixels are compressed with loss.
    """
    kind, reason, component = _of_whole(
        values, sop_class_uid=sop_class_uid, image_type=image_type, manufacturer=manufacturer, lossy=lossy
    )
    component = (stated_component(values.text(_COMPLEX)) or told.component or component) if modality == "MR" else None
    frames = told.frames
    if frames:
        frames, kind, reason = _with_kinds(frames, kind=kind, reason=reason)
    elif _is_trace(told.slot) and kind in (Kind.IMAGE, Kind.DERIVED):
        kind, reason = Kind.TRACE, "the diffusion weighting is isotropic"
    return ObjectKind(kind=kind, reason=reason, frames=frames, slot=_slot(told.slot, kind=kind, component=component))


def _of_whole(
    values: Values, *, sop_class_uid: str, image_type: tuple[str, ...], manufacturer: str | None, lossy: bool
) -> tuple[Kind, str | None, Component | None]:
    """By class and types: kind, the reason for it, and the component that the types name."""
    if not should_be_image(sop_class_uid):
        return Kind.REPORT, "the SOP Class holds no image", None
    philips = vendor_of(manufacturer) is Vendor.PHILIPS
    kind, reason, component = kind_of_types(image_type, philips=philips)
    if lossy and kind is Kind.DERIVED and only_compressed(image_type):
        kind, reason = Kind.IMAGE, None
    by_calculation = kind_of_calculation(values.text(_CALCULATION))
    if by_calculation and kind in (Kind.IMAGE, Kind.DERIVED):
        kind, reason = by_calculation
    kind, reason = kind_of_class(sop_class_uid) or (kind, reason)
    return kind, reason, component


def _is_trace(slot: Slot) -> bool:
    diffusion = slot.diffusion
    return diffusion is not None and diffusion.isotropic and diffusion.b_value > 0


def _slot(slot: Slot, *, kind: Kind, component: Component | None) -> Slot:
    component = component or slot.component
    if slot.kind is kind and slot.component is component:
        return slot
    return replace(slot, kind=kind, component=component)


def _with_kinds(
    frames: tuple[Frame, ...], *, kind: Kind, reason: str | None
) -> tuple[tuple[Frame, ...], Kind, str | None]:
    """Frames with the kind that each has by its own facts; the one kind of all, or image, and why."""
    decided = kind in (Kind.SECONDARY_CAPTURE, Kind.LOCALIZER, Kind.REPORT)
    told = []
    for frame in frames:
        slot = frame.slot
        own = kind if decided else slot.kind
        if _is_trace(slot) and own in (Kind.IMAGE, Kind.DERIVED):
            own = Kind.TRACE
        told.append(frame if own is slot.kind else replace(frame, slot=replace(slot, kind=own)))
    kinds = {frame.slot.kind for frame in told}
    if len(kinds) > 1:
        return tuple(told), Kind.IMAGE, "frames are of several kinds: " + ", ".join(sorted(kinds))
    common = kinds.pop()
    if common is kind:
        return tuple(told), kind, reason
    return tuple(told), common, None if common is Kind.IMAGE else f"Frame Type of all frames says {common}"
