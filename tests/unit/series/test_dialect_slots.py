"""Times, echoes, order and counts of single images, by the rule of each vendor."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from unit.series.dialect_objects import BIG, EXPLICIT, IMPLICIT, item, told

from ichor.series.dialects import read_dialect
from ichor.series.values import Values
from ichor.types import Dialect, Slot

# Values that are none of their VR are written on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")

PHILIPS, GE = "Philips Medical Systems", "GE MEDICAL SYSTEMS"


def slot(
    ds: Dataset, manufacturer: str = "SIEMENS", image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M")
) -> Slot:
    return told(ds, manufacturer=manufacturer, image_type=image_type).slot


def test_time_is_acquisition_time_in_seconds_since_midnight() -> None:
    assert slot(item(AcquisitionTime="101112.25")).time == 36672.25
    assert slot(item(AcquisitionTime="10:11:12")).time == 36672.0
    assert slot(item(AcquisitionDateTime="20240301101112.5-0500")).time == 36672.5


@pytest.mark.parametrize("text", ["1011a2", "251112", "-10000", "1e3", ""])
def test_a_time_that_is_none_is_no_time(text: str) -> None:
    assert slot(item(AcquisitionTime=text)).time is None


def test_time_goes_on_past_midnight() -> None:
    after = item(AcquisitionTime="000002", AcquisitionDate="20240301", SeriesDate="20240229")
    assert slot(after).time == 86402.0
    assert slot(item(AcquisitionDateTime="20240301000002", SeriesDate="20240229")).time == 86402.0
    unrelated = item(AcquisitionTime="000002", AcquisitionDate="20240401", SeriesDate="20240229")
    assert slot(unrelated).time == 2.0


def test_a_temporal_offset_is_preferred_and_a_trigger_time_counts_where_there_are_phases() -> None:
    ds = item(AcquisitionTime="101112", TriggerTime="450")
    assert slot(ds).time == 36672.0
    ds.CardiacNumberOfImages = 20
    assert slot(ds).time == 0.45
    ds.TemporalPositionTimeOffset = 1.75
    assert slot(ds).time == 1.75


@pytest.mark.parametrize("seconds", [1.7e308, -1e9])
def test_an_offset_that_no_series_lasts_is_not_stated(seconds: float) -> None:
    ds = item()
    ds.TemporalPositionTimeOffset = seconds
    assert slot(ds).time is None
    ds.AcquisitionTime = "101112"
    assert slot(ds).time == 36672.0


def test_ge_trigger_time_is_the_time_of_an_image() -> None:
    assert slot(item(AcquisitionTime="101112", TriggerTime="3600"), GE).time == 3.6


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_philips_says_order_dynamic_time_and_number_of_slices(syntax: str) -> None:
    ds = item(AcquisitionTime="101112", EchoTime="58.4", TemporalPositionIdentifier=2, AcquisitionNumber=12)
    imaging = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
    imaging.add_new(0x18, "SL", 60)
    imaging.add_new(0x81, "IS", 5)
    ds.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(0xA0, "FL", 3.5)
    # Another block has an element of that number too.
    ds.private_block(0x2005, "Philips MR Imaging DD 002", create=True).add_new(0x12, "IS", 99)
    numbers = ds.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
    numbers.add_new(0x12, "IS", 2)
    numbers.add_new(0x13, "IS", 33)
    found = told(ds, manufacturer=PHILIPS, syntax=syntax)
    assert found.counts == (("PhilipsNumberOfSlices", 60),)
    assert (found.slot.order, found.slot.time) == ((2, 33), 3.5)
    assert (found.slot.echo_time, found.slot.temporal_position, found.slot.acquisition) == (58.4, 2, 12)
    imaging[0x81].value = 1
    assert told(ds, manufacturer=PHILIPS, syntax=syntax).slot.time == 36672.0


@pytest.mark.parametrize(("phases", "time"), [(20, 0.45), (1, 36672.0)])
def test_philips_trigger_time_counts_where_there_are_cardiac_phases(phases: int, time: float) -> None:
    ds = item(AcquisitionTime="101112", TriggerTime="450")
    ds.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x17, "SL", phases)
    assert slot(ds, PHILIPS).time == time


def test_ge_counts_locations() -> None:
    ds = Dataset()
    ds.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(0x4F, "SS", 28)
    assert told(ds, manufacturer=GE).counts == (("GELocationsInAcquisition", 28),)


def test_image_type_keeps_what_is_neither_component_nor_form() -> None:
    assert slot(Dataset(), image_type=("ORIGINAL", "PRIMARY", "M", "ND", "NORM", "MOSAIC")).image_type == "ND\\NORM"
    assert slot(Dataset(), PHILIPS, ("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE")).image_type == "FFE"
    assert slot(Dataset(), PHILIPS, ("ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE")).image_type == "FFE"
    assert slot(Dataset(), image_type=("ORIGINAL", "PRIMARY")).image_type is None


def test_private_attributes_are_told_by_their_creator_where_no_manufacturer_is_named() -> None:
    ds = Dataset()
    ds.private_block(0x0065, "Image Private Header", create=True).add_new(0x09, "FD", 800.0)
    named = told(ds, manufacturer=None).slot.diffusion
    assert named is not None
    assert named.b_value == 800.0
    ds[0x00650010].value = "SOMEBODY ELSE"
    assert told(ds, manufacturer=None).slot.diffusion is None


def test_an_object_without_an_image_has_no_slot() -> None:
    found = read_dialect(
        Values(), sop_class_uid="1.2", geometry=None, frames=1, image_type=(), manufacturer=None
    )  # fmt: skip
    assert (found.dialect, found.geometry, found.slot, found.defect) == (Dialect.CLASSIC, None, Slot(), None)
