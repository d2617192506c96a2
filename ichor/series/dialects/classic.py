"""Where a single image stands on the axes of its series: weighting, echo, time, numbers. Knows no frames, no tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ichor.series.dialects import canon, ge, philips, siemens, standard, uih
from ichor.series.dialects.clock import days_after, plausible, seconds_of_date_time, seconds_of_time
from ichor.series.dialects.special_types import special_types
from ichor.series.dialects.vendor import Vendor
from ichor.series.dialects.weighting import Stated, settled
from ichor.series.values import Values
from ichor.types import Diffusion, Slot

ACQUISITION_DATE_TIME, ACQUISITION_DATE, ACQUISITION_TIME = 0x0008002A, 0x00080022, 0x00080032
SERIES_DATE = 0x00080021
_ECHO_TIME, _TRIGGER_TIME, _CARDIAC_IMAGES = 0x00180081, 0x00181060, 0x00181090
_ACQUISITION, _TEMPORAL, _TEMPORAL_INDEX, _TIME_OFFSET, _STACK = (
    0x00200012, 0x00200100, 0x00209128, 0x0020930D, 0x00209056,
)  # fmt: skip

WANTED = (
    frozenset(
        {
            ACQUISITION_DATE_TIME, ACQUISITION_DATE, ACQUISITION_TIME, SERIES_DATE, _ECHO_TIME, _TRIGGER_TIME,
            _CARDIAC_IMAGES, _ACQUISITION, _TEMPORAL, _TEMPORAL_INDEX, _TIME_OFFSET, _STACK,
        }
    )
    | standard.WANTED
    | ge.WANTED
    | canon.WANTED
)  # fmt: skip
WANTED_PRIVATE = siemens.WANTED_PRIVATE | philips.WANTED_PRIVATE | ge.WANTED_PRIVATE | uih.WANTED_PRIVATE


def weighting_of(
    values: Values, vendor: Vendor, *, orientation: tuple[float, ...] | None, csa: dict[str, tuple[str, ...]]
) -> Diffusion | None:
    """The diffusion weighting of a single image by all attributes that its vendor fills."""
    public = standard.standard_weighting(values)
    private = private_statements(values, vendor, public=public, orientation=orientation, csa=csa)
    return settled([public, *private] if public is not None else private)


def private_statements(
    values: Values,
    vendor: Vendor,
    *,
    public: Stated | None,
    orientation: tuple[float, ...] | None,
    csa: dict[str, tuple[str, ...]],
) -> list[Stated]:
    """What the vendor's attributes add to the ``public`` ones."""
    stated: list[Stated | None] = []
    has_direction = public is not None and public.direction_lps is not None and any(public.direction_lps)
    anyone = vendor is Vendor.ANY
    if anyone or vendor is Vendor.SIEMENS:
        stated += siemens.siemens_weightings(values, csa=csa)
    if anyone or vendor is Vendor.PHILIPS:
        told = philips.philips_weighting(values)
        # A zero vector beside a public direction is an attribute left empty.
        stated.append(replace(told, isotropic=False) if told is not None and has_direction else told)
    if anyone or vendor is Vendor.GE:
        stated.append(ge.ge_weighting(values, orientation=orientation))
    if anyone or vendor is Vendor.UIH:
        stated.append(uih.uih_weighting(values, orientation=orientation))
    if vendor is Vendor.CANON and not has_direction:
        stated.append(canon.canon_weighting(values, orientation=orientation))
    return [s for s in stated if s is not None]


def slot_of(values: Values, vendor: Vendor, *, image_type: Sequence[str], diffusion: Diffusion | None) -> Slot:
    """Place of a single image, or of a mosaic, on all axes but those of space."""
    temporal = values.integer(_TEMPORAL)
    if temporal is None:
        indices = values.numbers(_TEMPORAL_INDEX, "I", 1)
        temporal = int(indices[0]) if indices else None
    return Slot(
        image_type=special_types(image_type, philips=vendor is Vendor.PHILIPS),
        stack=values.text(_STACK),
        echo_time=values.decimal(_ECHO_TIME),
        temporal_position=temporal,
        time=time_of(values, vendor),
        acquisition=values.integer(_ACQUISITION),
        diffusion=diffusion,
        order=philips.philips_order(values) if vendor in (Vendor.PHILIPS, Vendor.ANY) else (),
    )


def time_of(values: Values, vendor: Vendor) -> float | None:
    """Seconds at which an image was taken, by one rule for all images of a series.

    1. Temporal Position Time Offset, where it is stated.
    2. Trigger Time, where Cardiac Number of Images (or Philips' number of phases) says that there are several phases,
       and in GE's images wherever it is stated: their Acquisition Time is that of the whole series.
    3. Philips' begin of the dynamic scan, where there are several, for the same reason.
    4. Acquisition DateTime, else Acquisition Time, since midnight of the series' first day.
    """
    offset = values.numbers(_TIME_OFFSET, "d", 1)
    seconds = plausible(float(offset[0])) if offset is not None else None
    if seconds is not None:
        return seconds
    trigger = values.decimal(_TRIGGER_TIME)
    if trigger is not None:
        phases = values.integer(_CARDIAC_IMAGES) or 1
        if vendor is Vendor.PHILIPS:
            phases = max(phases, philips.philips_phases(values))
        if vendor is Vendor.GE or phases > 1:
            return trigger / 1000
    if vendor is Vendor.PHILIPS:
        dynamic = philips.philips_dynamic_time(values)
        if dynamic is not None:
            return dynamic
    first_day = values.text(SERIES_DATE)
    seconds = seconds_of_date_time(values.text(ACQUISITION_DATE_TIME), since=first_day)
    if seconds is not None:
        return seconds
    seconds = seconds_of_time(values.text(ACQUISITION_TIME))
    if seconds is None:
        return None
    return seconds + 86400.0 * days_after(values.text(ACQUISITION_DATE), since=first_day)
