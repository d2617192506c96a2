"""Frames of enhanced and legacy converted multi-frame objects, from their functional groups. Knows no single images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from ichor.series.dialects import standard
from ichor.series.dialects.classic import private_statements, slot_of
from ichor.series.dialects.clock import plausible, seconds_of_date_time
from ichor.series.dialects.special_types import special_types
from ichor.series.dialects.vendor import Vendor
from ichor.series.dialects.weighting import Stated, settled
from ichor.series.image_plane import read_measures, read_orientation, read_position
from ichor.series.kinds import kind_of_calculation, kind_of_types, stated_component
from ichor.series.rescale import INTERCEPT, SLOPE, real_world_mapping, unit_of_rescale
from ichor.series.values import Values
from ichor.types import Component, Diffusion, Frame, Geometry, Kind, Slot

SHARED, PER_FRAME, DIMENSIONS = 0x52009229, 0x52009230, 0x00209222
_DIMENSION_POINTER = 0x00209165

_POSITIONS, _ORIENTATIONS, _MEASURES, _TRANSFORMATION = 0x00209113, 0x00209116, 0x00289110, 0x00289145
_CONTENT, _ECHO, _TEMPORAL_SEQUENCE, _CARDIAC = 0x00209111, 0x00189114, 0x00209310, 0x00189118
_FRAME_TYPES = (0x00189226, 0x00189329)  # MR, CT Image Frame Type Sequence
_CONVERTED_SHARED, _CONVERTED = 0x00209170, 0x00209171  # Unassigned ... Converted Attributes Sequence
_POSITION = 0x00200032
_STACK, _IN_STACK, _TEMPORAL_INDEX, _INDICES = 0x00209056, 0x00209057, 0x00209128, 0x00209157
_ACQUISITION_NUMBER = 0x00209156  # Frame Acquisition Number
_ACQUIRED, _REFERENCE = 0x00189074, 0x00189151
_TIME_OFFSET, _TRIGGER_DELAY = 0x0020930D, 0x00209153
_EFFECTIVE_ECHO_TIME = 0x00189082
_FRAME_TYPE, _COMPLEX, _CALCULATION = 0x00089007, 0x00089208, 0x00089207
_BITS_STORED, _REPRESENTATION, _SERIES_DATE = 0x00280101, 0x00280103, 0x00080021
_PHILIPS_GROUP, _PHILIPS_CREATOR, _PHILIPS_FRAME = 0x2005, "Philips MR Imaging DD 005", 0x0F

WANTED = frozenset({SHARED, PER_FRAME, DIMENSIONS, _BITS_STORED, _REPRESENTATION, _SERIES_DATE})

_SPATIAL = frozenset({_STACK, _IN_STACK, _POSITION, 0x00201041, 0x00209301})
_MOST_FRAMES = 200_000

# Indices that order the frames of one object are no place of the whole object.
_SHARED = tuple(f.name for f in fields(Slot) if f.name != "order")
# What the whole object says itself.
_OF_THE_OBJECT = ("rows", "columns", "frame_of_reference_uid", "gantry_tilt")

_T = TypeVar("_T")
_NONE = Values()


def read_frames(
    values: Values, *, geometry: Geometry, vendor: Vendor, ct: bool
) -> tuple[tuple[Frame, ...], frozenset[str | None]]:
    """(every frame in stored order, units of the images among them). Empty without per-frame items.

    What both groups lack is None.

    A frame's own functional group wins over the shared one. Private and converted classic attributes
    ((2005,xx0F) of Philips, Unassigned Converted Attributes of legacy converted objects) fill only what the functional
    groups leave open, but for the diffusion weighting, where they must agree; then come the object's own attributes.
    """
    items = values.items(PER_FRAME)
    if not items or len(items) > _MOST_FRAMES:
        return (), frozenset()
    shared = next(iter(values.items(SHARED)), _NONE)
    reader = _Reader(values, shared=shared, geometry=geometry, vendor=vendor, ct=ct)
    frames = tuple(reader.frame(item) for item in items)
    return _by_trigger(frames, reader.trigger_delays), _units_of_images(frames, reader.units)


def _units_of_images(frames: Sequence[Frame], units: Sequence[str | None]) -> frozenset[str | None]:
    """Units of each component's images where these differ within one, else of all. Maps have units of their own."""
    found: dict[Component | None, set[str | None]] = {}
    images = any(frame.slot.kind is Kind.IMAGE for frame in frames)
    for frame, unit in zip(frames, units, strict=True):
        if frame.slot.kind is Kind.IMAGE or not images:
            found.setdefault(frame.slot.component, set()).add(unit)
    mixed = next((own for own in found.values() if len(own) > 1), None)
    if mixed is not None:
        return frozenset(mixed)
    together = frozenset(unit for own in found.values() for unit in own)
    return together if len(together) == 1 else frozenset()


def _by_trigger(frames: tuple[Frame, ...], delays: list[float | None]) -> tuple[Frame, ...]:
    """Frames at their trigger delay (s) where all state one and these differ: phases of a cycle, not moments of a day."""
    if None in delays or len(set(delays)) < 2:
        return frames
    return tuple(
        replace(frame, slot=replace(frame.slot, time=delay / 1000))
        for frame, delay in zip(frames, delays, strict=True)
        if delay is not None
    )


@dataclass(slots=True)
class _Once:
    """Results by the bytes they were read from: most frames repeat the same groups."""

    known: dict[tuple[str, bytes], object] = field(default_factory=dict)

    def get(self, what: str, raw: bytes, read: Callable[[], _T]) -> _T:
        key = (what, raw)
        if key not in self.known:
            if len(self.known) > 4096:
                self.known.clear()
            self.known[key] = read()
        return self.known[key]  # type: ignore[return-value]


class _Reader:
    """Reads frames of one object beside what they share."""

    def __init__(self, values: Values, *, shared: Values, geometry: Geometry, vendor: Vendor, ct: bool) -> None:
        self._shared, self._geometry, self._vendor, self._ct = shared, geometry, vendor, ct
        self._first_day = values.text(_SERIES_DATE)
        self._bits, self._signed = values.unsigned(_BITS_STORED) or 16, values.unsigned(_REPRESENTATION) == 1
        self._kept = _kept_dimensions(values)
        self._whole = slot_of(values, vendor, image_type=(), diffusion=None)
        self._once = _Once()
        self._shared_converted = next(iter(shared.items(_CONVERTED_SHARED)), _NONE)
        self.trigger_delays: list[float | None] = []
        self.units: list[str | None] = []

    def frame(self, item: Values) -> Frame:
        geometry = self._geometry_of(item)
        slope, intercept, unit = self._rescale_of(item)
        self.units.append(unit)
        slot = self._slot_of(item, orientation=geometry.orientation_lps)
        return Frame(geometry=geometry, slot=slot, rescale_slope=slope, rescale_intercept=intercept)

    def _group(self, item: Values, tag: int) -> Values:
        found = item.items(tag) or self._shared.items(tag)
        return found[0] if found else _NONE

    def _raw(self, item: Values, tag: int) -> bytes:
        return item.raw(tag) or self._shared.raw(tag)

    def _geometry_of(self, item: Values) -> Geometry:
        raw = self._raw(item, _ORIENTATIONS)
        orientation = self._once.get("orientation", raw, lambda: read_orientation(self._group(item, _ORIENTATIONS)))
        raw = self._raw(item, _MEASURES)
        measures = self._once.get("measures", raw, lambda: read_measures(self._group(item, _MEASURES)))
        base = self._geometry
        return Geometry(
            rows=base.rows,
            columns=base.columns,
            position_lps=read_position(self._group(item, _POSITIONS)),
            orientation_lps=orientation,
            pixel_spacing=measures.pixel_spacing,
            slice_thickness=measures.slice_thickness,
            spacing_between_slices=measures.spacing_between_slices,
            frame_of_reference_uid=base.frame_of_reference_uid,
            gantry_tilt=base.gantry_tilt,
        )

    def _rescale_of(self, item: Values) -> tuple[float, float, str | None]:
        for level in (item, self._shared):
            mapping = real_world_mapping(level, bits_stored=self._bits, signed=self._signed, ct=self._ct)
            if mapping is not None:
                return mapping.slope, mapping.intercept, mapping.unit
        raw = self._raw(item, _TRANSFORMATION)
        return self._once.get("rescale", raw, lambda: self._transformation(self._group(item, _TRANSFORMATION)))

    def _transformation(self, group: Values) -> tuple[float, float, str | None]:
        """Slope, intercept, unit; a slope that cannot be read is 0, which is a defect, as is none with an intercept."""
        unit = unit_of_rescale(group, ct=self._ct)
        if not group.raw(SLOPE) and not group.raw(INTERCEPT):
            return 1.0, 0.0, unit
        slope, intercept = group.decimal(SLOPE), group.decimal(INTERCEPT)
        return (slope, intercept, unit) if slope is not None and intercept is not None else (0.0, 0.0, unit)

    def _slot_of(self, item: Values, *, orientation: tuple[float, ...] | None) -> Slot:
        content = self._group(item, _CONTENT)
        kind, component, image_type = self._types_of(item)
        echo = self._raw(item, _ECHO)
        classic = self._classic_of(item)
        told = slot_of(classic, self._vendor, image_type=(), diffusion=None) if classic is not None else self._whole
        echo_time = self._once.get(
            "echo", echo, lambda: plausible(self._group(item, _ECHO).number(_EFFECTIVE_ECHO_TIME))
        )
        index = content.numbers(_TEMPORAL_INDEX, "I", 1)
        acquisition = content.numbers(_ACQUISITION_NUMBER, "H", 1)
        time = self._time_of(item, content)
        return Slot(
            kind=kind,
            component=component,
            image_type=image_type,
            stack=content.text(_STACK),
            echo_time=_first(echo_time, told.echo_time, self._whole.echo_time),
            temporal_position=_first(
                int(index[0]) if index else None, told.temporal_position, self._whole.temporal_position
            ),
            time=_first(time, told.time, self._whole.time),
            acquisition=_first(int(acquisition[0]) if acquisition else None, told.acquisition, self._whole.acquisition),
            diffusion=self._diffusion_of(item, classic, orientation=orientation),
            order=self._order_of(content) or told.order,
        )

    def _classic_of(self, item: Values) -> Values | None:
        """Attributes of a single image that a frame carries along; None where it carries none."""
        tag = item.private(_PHILIPS_GROUP, _PHILIPS_CREATOR, _PHILIPS_FRAME) if self._vendor is Vendor.PHILIPS else None
        carried = (item.items(tag) if tag is not None else ()) or item.items(_CONVERTED)
        if carried:
            return carried[0]
        return self._shared_converted if self._shared_converted is not _NONE else None

    def _types_of(self, item: Values) -> tuple[Kind, Component | None, str | None]:
        for tag in _FRAME_TYPES:
            raw = self._raw(item, tag)
            if raw:
                return self._once.get("types", raw, lambda tag=tag: self._types(self._group(item, tag)))  # type: ignore[misc]
        return Kind.IMAGE, None, None

    def _types(self, group: Values) -> tuple[Kind, Component | None, str | None]:
        types = tuple(part.upper() for part in group.texts(_FRAME_TYPE)[:8])
        kind, _, component = kind_of_types(types, philips=self._vendor is Vendor.PHILIPS)
        calculated = kind_of_calculation(group.text(_CALCULATION))
        if calculated is not None and kind in (Kind.IMAGE, Kind.DERIVED):
            kind = calculated[0]
        component = stated_component(group.text(_COMPLEX)) or component
        return kind, component, special_types(types, philips=self._vendor is Vendor.PHILIPS)

    def _diffusion_of(
        self, item: Values, classic: Values | None, *, orientation: tuple[float, ...] | None
    ) -> Diffusion | None:
        level = item if item.raw(standard.DIFFUSION_SEQUENCE) else self._shared
        if classic is None:
            raw = level.raw(standard.DIFFUSION_SEQUENCE)
            return self._once.get("diffusion", raw, lambda: settled(_there(standard.standard_weighting(level))))
        public = standard.standard_weighting(level) or standard.standard_weighting(classic)
        private = private_statements(classic, self._vendor, public=public, orientation=orientation, csa={})
        return settled([*_there(public), *private])

    def _time_of(self, item: Values, content: Values) -> float | None:
        """Temporal Position Time Offset, else Frame Acquisition DateTime, else Frame Reference DateTime; s."""
        cardiac = self._group(item, _CARDIAC)
        self.trigger_delays.append(plausible(cardiac.number(_TRIGGER_DELAY)) if cardiac is not _NONE else None)
        offset = self._group(item, _TEMPORAL_SEQUENCE).numbers(_TIME_OFFSET, "d", 1)
        seconds = plausible(float(offset[0])) if offset is not None else None
        if seconds is not None:
            return seconds
        for tag in (_ACQUIRED, _REFERENCE):
            seconds = seconds_of_date_time(content.text(tag), since=self._first_day)
            if seconds is not None:
                return seconds
        return None

    def _order_of(self, content: Values) -> tuple[int, ...]:
        indices = content.numbers(_INDICES, "I")
        if indices is None or not self._kept or len(indices) != self._kept[-1]:
            return ()
        return tuple(int(indices[k]) for k in self._kept[:-1])


def _first(*stated: _T | None) -> _T | None:
    """The first that is stated."""
    return next((value for value in stated if value is not None), None)


def _kept_dimensions(values: Values) -> tuple[int, ...]:
    """Which dimension indices are not those of space, and last how many there are in all; empty without dimensions."""
    pointers = [_pointer(item) for item in values.items(DIMENSIONS)[:64]]
    kept = [k for k, pointer in enumerate(pointers) if pointer not in _SPATIAL]
    return (*kept, len(pointers)) if kept else ()


def _pointer(item: Values) -> int | None:
    halves = item.numbers(_DIMENSION_POINTER, "H", 2)
    return int(halves[0]) << 16 | int(halves[1]) if halves else None


def _there(stated: Stated | None) -> list[Stated]:
    return [stated] if stated is not None else []


def common_slot(frames: Sequence[Frame]) -> Slot:
    """What all frames share; None for what differs. Kind and component are those of all, or the defaults."""
    first = frames[0].slot
    shared = [name for name in _SHARED if all(getattr(f.slot, name) == getattr(first, name) for f in frames)]
    return Slot(**{name: getattr(first, name) for name in shared})


def common_geometry(frames: Sequence[Frame], geometry: Geometry) -> Geometry:
    """Rows, columns and frame of reference, and of the rest what all frames share."""
    first = frames[0].geometry
    names = [f.name for f in fields(Geometry) if f.name not in _OF_THE_OBJECT]
    shared: dict[str, Any] = {
        name: getattr(first, name) if all(getattr(f.geometry, name) == getattr(first, name) for f in frames) else None
        for name in names
    }
    return replace(geometry, **shared)
