"""Kinds of images by their types, as the vendors write them, each with its reason."""

from __future__ import annotations

import pytest

from ichor.series.dialects.vendor import Vendor, vendor_of
from ichor.series.kinds import (
    kind_of_calculation,
    kind_of_class,
    kind_of_types,
    only_compressed,
    stated_component,
)
from ichor.types import Component, Kind


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        (r"ORIGINAL\PRIMARY\AXIAL", Kind.IMAGE),
        (r"ORIGINAL\PRIMARY\AXIAL\CT_SOM5 SPI", Kind.IMAGE),
        (r"ORIGINAL\PRIMARY\LOCALIZER", Kind.LOCALIZER),
        (r"ORIGINAL\PRIMARY\LOCALIZER\CT_SOM5 TOP", Kind.LOCALIZER),
        (r"DERIVED\PRIMARY\LOCALIZER", Kind.LOCALIZER),
        (r"ORIGINAL\PRIMARY\DIFFUSION\NONE\ND\NORM\MOSAIC", Kind.IMAGE),
        (r"ORIGINAL\PRIMARY\M\ND\MOSAIC", Kind.IMAGE),
        (r"DERIVED\PRIMARY\DIFFUSION\ADC\ND", Kind.ADC),
        (r"DERIVED\PRIMARY\DIFFUSION\TRACEW\ND", Kind.TRACE),
        (r"ORIGINAL\PRIMARY\DIFFUSION\TRACEW\ND", Kind.TRACE),
        (r"DERIVED\PRIMARY\DIFFUSION\FA\ND", Kind.FA),
        (r"DERIVED\PRIMARY\DIFFUSION\COLFA\ND", Kind.FA),
        (r"ORIGINAL\PRIMARY\DIFFUSION\CALC_BVALUE\TRACEW\ND", Kind.TRACE),
        (r"ORIGINAL\PRIMARY\DIFFUSION\CALC_BVALUE\ND", Kind.DERIVED),
        (r"ORIGINAL\PRIMARY\ADC_UNSPECIFIED\ADC\UNSPECIFIED", Kind.ADC),
        (r"DERIVED\PRIMARY\ADC_SE\ADC\SE", Kind.ADC),
        (r"ORIGINAL\PRIMARY\M_SE\M\SE", Kind.IMAGE),
        (r"ORIGINAL\PRIMARY\T2 MAP\T2\MIXED", Kind.DERIVED),
        (r"ORIGINAL\PRIMARY\PHASE MAP\P\FFE", Kind.IMAGE),
        (r"ORIGINAL\PRIMARY\OTHER", Kind.IMAGE),
        (r"DERIVED\SECONDARY\REFORMATTED\AVERAGE", Kind.REFORMAT),
        (r"DERIVED\SECONDARY\MPR", Kind.REFORMAT),
        (r"DERIVED\SECONDARY\AXIAL\CT_SOM5 MIP", Kind.MIP),
        (r"ORIGINAL\PRIMARY\M\ND\NORM\MNIP", Kind.MIP),
        (r"DERIVED\PRIMARY\PROJECTION IMAGE\M\FFE", Kind.MIP),
        (r"DERIVED\SECONDARY\SCREEN SAVE", Kind.SECONDARY_CAPTURE),
        (r"ORIGINAL\PRIMARY\GDC", Kind.IMAGE),
        (r"DERIVED\PRIMARY\PERFUSION\RCBV", Kind.DERIVED),
        (r"DERIVED\PRIMARY\AXIAL", Kind.DERIVED),
        (r"DERIVED\SECONDARY", Kind.DERIVED),
        ("", Kind.IMAGE),
    ],
)
def test_kind_of_types_that_scanners_write(stored: str, kind: Kind) -> None:
    found, reason, _ = kind_of_types(tuple(stored.split("\\")) if stored else ())
    assert found is kind
    assert (reason is None) is (kind is Kind.IMAGE)


def test_the_reason_names_the_value_that_decided() -> None:
    assert kind_of_types(("ORIGINAL", "PRIMARY", "LOCALIZER"))[1] == "Image Type has LOCALIZER"
    assert kind_of_types(("DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MPR"))[1] == "Image Type has CT_SOM5 MPR"


def test_the_first_two_values_are_no_words_of_a_kind() -> None:
    assert kind_of_types(("ADC", "LOCALIZER", "M"))[0] is Kind.IMAGE


@pytest.mark.parametrize(
    ("stored", "manufacturer", "component"),
    [
        (r"ORIGINAL\PRIMARY\M\ND\NORM", "SIEMENS", Component.MAGNITUDE),
        (r"ORIGINAL\PRIMARY\P\ND", "SIEMENS", Component.PHASE),
        (r"ORIGINAL\PRIMARY\M_FFE\M\FFE", "Philips Medical Systems", Component.MAGNITUDE),
        (r"ORIGINAL\PRIMARY\M_FFE", "Philips Healthcare", Component.MAGNITUDE),
        (r"ORIGINAL\PRIMARY\M_FFE", "SIEMENS", None),
        (r"ORIGINAL\PRIMARY\PHASE MAP\P\FFE", "Philips Medical Systems", Component.PHASE),
        (r"ORIGINAL\PRIMARY\R_SE\R\SE", "Philips Medical Systems", Component.REAL),
        (r"ORIGINAL\PRIMARY\I_SE\I\SE", "Philips Medical Systems", Component.IMAGINARY),
        (r"DERIVED\PRIMARY\OTHER\IMAGINARY", None, Component.IMAGINARY),
        (r"ORIGINAL\PRIMARY\M\P", "SIEMENS", None),
        (r"ORIGINAL\PRIMARY\OTHER", "GE MEDICAL SYSTEMS", None),
    ],
)
def test_component_is_the_one_that_the_types_name(stored: str, manufacturer: str, component: Component | None) -> None:
    assert kind_of_types(stored.split("\\"), philips=vendor_of(manufacturer) is Vendor.PHILIPS)[2] is component


def test_stated_components_are_the_terms_of_the_standard() -> None:
    assert stated_component("PHASE") is Component.PHASE
    assert stated_component("MIXED") is None
    assert stated_component(None) is None


def test_classes_and_calculations_decide_where_types_do_not() -> None:
    secondary = kind_of_class("1.2.840.10008.5.1.4.1.1.7.2")
    assert secondary is not None
    assert secondary[0] is Kind.SECONDARY_CAPTURE
    assert kind_of_class("1.2.840.10008.5.1.4.1.1.4") is None
    assert kind_of_calculation("MAX_IP") == (Kind.MIP, "Volume Based Calculation Technique is MAX_IP")
    assert kind_of_calculation("NONE") is None
    assert kind_of_calculation(None) is None


def test_derived_may_stand_for_compression_only_when_nothing_else_changed() -> None:
    assert only_compressed(("DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 SPI"))
    assert not only_compressed(("DERIVED", "SECONDARY", "AXIAL"))
    assert not only_compressed(("DERIVED", "PRIMARY", "MPR"))
