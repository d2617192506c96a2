"""Enhanced multi-frame objects: shared and per-frame groups put together, frame by frame."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from unit.series.dialect_objects import (
    BIG,
    ENHANCED_CT,
    ENHANCED_MR,
    EXPLICIT,
    IMPLICIT,
    UNIT,
    geometry,
    item,
    items,
    told,
)

from ichor.reasons import Reason
from ichor.series.dialects import DialectFacts
from ichor.types import Component, Dialect, Diffusion, Kind

SYNTAXES = (EXPLICIT, IMPLICIT, BIG)
PLANE = geometry(orientation=None, position=None, pixel_spacing=None, spacing=None)
PHILIPS = "Philips Medical Systems"


def measures(spacing: list[float], thickness: float = 3.0) -> Dataset:
    return item(PixelSpacing=spacing, SliceThickness=thickness, SpacingBetweenSlices=3.5)


def frame(number: int, **groups: Dataset) -> Dataset:
    """A frame of slice and time ``number``; ``groups``: one item per functional group sequence, over the usual ones."""
    usual = {
        "PlanePositionSequence": item(ImagePositionPatient=[1, 2, 3 + number]),
        "FrameContentSequence": item(
            FrameAcquisitionDateTime=f"20240301120{number:03d}.25+0100", StackID="1", InStackPositionNumber=number + 1,
            TemporalPositionIndex=number + 1, DimensionIndexValues=[1, number + 1, number + 7],
        ),
        "PixelValueTransformationSequence": item(RescaleIntercept="-1024", RescaleSlope="2", RescaleType="HU"),
    }  # fmt: skip
    return item(**{name: items(group) for name, group in (usual | groups).items()})


def enhanced(*frames: Dataset, **shared: Dataset) -> Dataset:
    ds = Dataset()
    ds.BitsStored, ds.PixelRepresentation = 12, 0
    ds.AcquisitionNumber, ds.SeriesDate = 4, "20240301"
    usual = {
        "PlaneOrientationSequence": item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        "PixelMeasuresSequence": measures([2.0, 1.5]),
        "MREchoSequence": item(EffectiveEchoTime=30.5),
    }
    ds.DimensionIndexSequence = items(
        item(DimensionIndexPointer=0x00209056), item(DimensionIndexPointer=0x00209057),
        item(DimensionIndexPointer=0x00209128),
    )  # fmt: skip
    ds.SharedFunctionalGroupsSequence = items(
        item(**{name: items(group) for name, group in (usual | shared).items()})
    )  # fmt: skip
    ds.PerFrameFunctionalGroupsSequence = items(*frames)
    return ds


def read(
    ds: Dataset, manufacturer: str = "CANON_MEC", *, sop_class_uid: str = ENHANCED_MR, syntax: str = EXPLICIT,
    frames: int | None = None,
) -> DialectFacts:  # fmt: skip
    count = len(ds.PerFrameFunctionalGroupsSequence) if frames is None else frames
    return told(ds, manufacturer=manufacturer, plane=PLANE, sop_class_uid=sop_class_uid, frames=count, syntax=syntax)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_shared_and_per_frame_groups_make_one_frame(syntax: str) -> None:
    found = read(enhanced(frame(0), frame(1)), syntax=syntax)
    assert (found.dialect, found.defect, len(found.frames)) == (Dialect.ENHANCED, None, 2)
    second = found.frames[1]
    assert second.geometry.position_lps == (1.0, 2.0, 4.0)
    assert second.geometry.orientation_lps == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    assert (second.geometry.pixel_spacing, second.geometry.slice_thickness) == ((2.0, 1.5), 3.0)
    assert (second.geometry.rows, second.geometry.columns) == (64, 48)
    assert (second.rescale_slope, second.rescale_intercept) == (2.0, -1024.0)
    assert (second.slot.stack, second.slot.temporal_position, second.slot.echo_time) == ("1", 2, 30.5)
    assert second.slot.time == pytest.approx(12 * 3600 + 1.25)
    assert second.slot.acquisition == 4
    assert found.geometry is not None
    assert (found.geometry.pixel_spacing, found.geometry.position_lps) == ((2.0, 1.5), None)
    assert (found.slot.echo_time, found.slot.time) == (30.5, None)


def test_a_frames_own_group_wins_over_the_shared_one() -> None:
    found = read(enhanced(frame(0), frame(1, PixelMeasuresSequence=measures([1.0, 1.0]))))
    assert [f.geometry.pixel_spacing for f in found.frames] == [(2.0, 1.5), (1.0, 1.0)]


def test_dimension_indices_of_space_are_no_order() -> None:
    found = read(enhanced(frame(0), frame(1)))
    assert [f.slot.order for f in found.frames] == [(7,), (8,)]


def test_dimension_indices_of_another_number_than_the_dimensions_are_not_used() -> None:
    ds = enhanced(frame(0), frame(1))
    del ds.DimensionIndexSequence[0]
    assert [f.slot.order for f in read(ds).frames] == [(), ()]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_each_frame_has_its_own_diffusion_weighting(syntax: str) -> None:
    direction = items(item(DiffusionGradientOrientation=list(UNIT)))
    weighted = item(
        DiffusionBValue=800.0, DiffusionDirectionality="DIRECTIONAL", DiffusionGradientDirectionSequence=direction
    )
    trace = item(DiffusionBValue=800.0, DiffusionDirectionality="ISOTROPIC")
    found = read(
        enhanced(
            frame(0, MRDiffusionSequence=item(DiffusionBValue=0.0, DiffusionDirectionality="NONE")),
            frame(1, MRDiffusionSequence=weighted), frame(2, MRDiffusionSequence=trace), frame(3),
        ),
        syntax=syntax,
    )  # fmt: skip
    none, directed, isotropic, silent = (f.slot.diffusion for f in found.frames)
    assert none == Diffusion(b_value=0.0, source="(0018,9087)")
    assert directed is not None
    assert (directed.b_value, directed.direction_lps) == (800.0, pytest.approx(UNIT))
    assert isotropic == Diffusion(b_value=800.0, isotropic=True, source="(0018,9087)")
    assert silent is None


def test_philips_private_frame_fills_what_the_public_groups_lack() -> None:
    private = Dataset()
    private.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x03, "FL", 800.0)
    block = private.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    for low, value in zip((0xB0, 0xB1, 0xB2), UNIT, strict=True):
        block.add_new(low, "FL", value)
    private.EchoTime = "77"
    carrying = frame(0)
    carrying.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", items(private))
    ds = enhanced(carrying)
    del ds.SharedFunctionalGroupsSequence[0].MREchoSequence
    slot = read(ds, PHILIPS).frames[0].slot
    assert slot.diffusion is not None
    assert slot.diffusion.problem is None
    assert (slot.diffusion.b_value, slot.diffusion.direction_lps) == (800.0, pytest.approx(UNIT))
    assert slot.echo_time == 77.0

    public = item(DiffusionBValue=400.0, DiffusionDirectionality="ISOTROPIC")
    carrying.MRDiffusionSequence = items(public)
    contradicted = read(enhanced(carrying), PHILIPS).frames[0].slot.diffusion
    assert contradicted is not None
    assert contradicted.problem == Reason.DIFFUSION_CONTRADICTS


def test_legacy_converted_frames_are_told_by_the_attributes_they_kept() -> None:
    kept = item(AcquisitionTime="101112.5", EchoTime="9.5", TemporalPositionIdentifier=3)
    bare = frame(0, FrameContentSequence=item(InStackPositionNumber=1))
    bare.UnassignedPerFrameConvertedAttributesSequence = items(kept)
    ds = enhanced(bare)
    del ds.SharedFunctionalGroupsSequence[0].MREchoSequence
    slot = read(ds, sop_class_uid="1.2.840.10008.5.1.4.1.1.4.4").frames[0].slot
    assert (slot.time, slot.echo_time, slot.temporal_position) == (36672.5, 9.5, 3)


def test_kinds_and_components_are_those_of_each_frame() -> None:
    plain = item(FrameType=["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"], ComplexImageComponent="PHASE")
    derived = item(FrameType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])
    found = read(enhanced(frame(0, MRImageFrameTypeSequence=plain), frame(1, MRImageFrameTypeSequence=derived)))
    assert [f.slot.kind for f in found.frames] == [Kind.IMAGE, Kind.ADC]
    assert [f.slot.component for f in found.frames] == [Component.PHASE, None]


def test_ct_frames_have_types_of_their_own() -> None:
    projected = item(FrameType=["DERIVED", "PRIMARY", "AXIAL"], VolumeBasedCalculationTechnique="MAX_IP")
    found = read(enhanced(frame(0, CTImageFrameTypeSequence=projected)), sop_class_uid=ENHANCED_CT)
    assert found.frames[0].slot.kind is Kind.MIP


def test_trigger_delays_that_differ_are_the_times_of_frames() -> None:
    frames = [frame(k, CardiacSynchronizationSequence=item(NominalCardiacTriggerDelayTime=40.0 * k)) for k in (0, 1, 2)]
    assert [f.slot.time for f in read(enhanced(*frames)).frames] == pytest.approx([0.0, 0.04, 0.08])


def test_frames_after_midnight_come_later() -> None:
    late = item(FrameAcquisitionDateTime="20240302000001")
    found = read(enhanced(frame(0), frame(1, FrameContentSequence=late)))
    assert found.frames[1].slot.time == 86401.0


@pytest.mark.parametrize("frames", [1, 3])
def test_a_number_of_frames_that_differs_from_the_items_is_a_defect(frames: int) -> None:
    assert read(enhanced(frame(0), frame(1)), frames=frames).defect == Reason.FRAMES_DISAGREE


def test_an_enhanced_object_without_per_frame_groups_is_a_defect_and_another_multi_frame_object_none() -> None:
    ds = Dataset()
    ds.BitsStored = 12
    with_none = told(ds, manufacturer="X", plane=PLANE, sop_class_uid=ENHANCED_MR, frames=4)
    assert (with_none.dialect, with_none.frames, with_none.defect) == (Dialect.ENHANCED, (), Reason.FRAMES_DISAGREE)
    other = told(ds, manufacturer="X", plane=PLANE, sop_class_uid="1.2.840.10008.5.1.4.1.1.7.2", frames=4)
    assert (other.dialect, other.defect) == (Dialect.MULTIFRAME, None)


def test_what_no_group_states_is_none() -> None:
    ds = enhanced(Dataset(), frame(1))
    ds.SharedFunctionalGroupsSequence = items(Dataset())
    found = read(ds)
    first = found.frames[0]
    plane = first.geometry
    assert (plane.position_lps, plane.orientation_lps, plane.pixel_spacing) == (None, None, None)
    assert (first.slot.stack, first.slot.echo_time, first.slot.time, first.slot.diffusion) == (None, None, None, None)
    assert (first.rescale_slope, first.rescale_intercept) == (1.0, 0.0)


def test_axes_that_are_no_unit_vectors_at_a_right_angle_are_none() -> None:
    skewed = item(ImageOrientationPatient=[1, 0, 0, 0.1, 1, 0])
    assert read(enhanced(frame(0), PlaneOrientationSequence=skewed)).frames[0].geometry.orientation_lps is None


def test_one_real_world_mapping_of_all_stored_values_is_the_rescale() -> None:
    mapping = item(
        RealWorldValueFirstValueMapped=0, RealWorldValueLastValueMapped=4095, RealWorldValueIntercept=0.5,
        RealWorldValueSlope=0.25,
    )  # fmt: skip
    mapped, plain = read(enhanced(frame(0, RealWorldValueMappingSequence=mapping), frame(1))).frames
    assert (mapped.rescale_slope, mapped.rescale_intercept) == (0.25, 0.5)
    assert (plain.rescale_slope, plain.rescale_intercept) == (2.0, -1024.0)


def in_unit(unit: str, slope: float = 0.25) -> Dataset:
    code = item(CodeValue=unit, CodingSchemeDesignator="UCUM", CodeMeaning=unit)
    return item(
        RealWorldValueFirstValueMapped=0, RealWorldValueLastValueMapped=4095, RealWorldValueIntercept=0.5,
        RealWorldValueSlope=slope, MeasurementUnitsCodeSequence=items(code),
    )  # fmt: skip


def test_a_frames_own_real_world_mapping_wins_over_the_shared_one() -> None:
    found = read(
        enhanced(
            frame(0), frame(1, RealWorldValueMappingSequence=in_unit("ms", 2.0)),
            RealWorldValueMappingSequence=in_unit("ms", 3.0),
        )
    )  # fmt: skip
    assert [f.rescale_slope for f in found.frames] == [3.0, 2.0]
    assert (found.unit, found.defect) == ("ms", None)


def test_images_of_one_object_in_different_units_are_a_defect_and_maps_beside_them_none() -> None:
    mapped = frame(1, RealWorldValueMappingSequence=in_unit("mm2/s"))
    assert read(enhanced(frame(0), mapped)).defect == Reason.MIXED_UNITS
    mapped.MRImageFrameTypeSequence = items(item(FrameType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]))
    beside = read(enhanced(frame(0), mapped))
    assert (beside.defect, beside.unit) == (None, "[hnsf'U]")


def test_phase_may_have_another_unit_than_magnitude_and_then_the_object_has_none() -> None:
    phase = item(FrameType=["ORIGINAL", "PRIMARY", "OTHER", "NONE"], ComplexImageComponent="PHASE")
    radians = frame(1, RealWorldValueMappingSequence=in_unit("rad"), MRImageFrameTypeSequence=phase)
    found = read(enhanced(frame(0), radians))
    assert (found.defect, found.unit) == (None, None)


@pytest.mark.parametrize(("stated", "unit"), [("HU", "[hnsf'U]"), ("US", "1")])
def test_frames_of_a_ct_keep_rescale_beside_a_mapping_of_another_unit(stated: str, unit: str) -> None:
    rescale = item(RescaleIntercept="-1024", RescaleSlope="1", RescaleType=stated)
    frames = [
        frame(k, PixelValueTransformationSequence=rescale, RealWorldValueMappingSequence=in_unit("mg/mL"))
        for k in (0, 1)
    ]
    found = read(enhanced(*frames), sop_class_uid=ENHANCED_CT)
    assert {(f.rescale_slope, f.rescale_intercept) for f in found.frames} == {(1.0, -1024.0)}
    assert (found.unit, found.defect) == (unit, None)


def test_the_time_of_a_frame_is_its_temporal_offset_in_seconds() -> None:
    frames = [frame(k, TemporalPositionSequence=item(TemporalPositionTimeOffset=1.75 * k)) for k in (0, 1, 2)]
    assert [f.slot.time for f in read(enhanced(*frames)).frames] == [0.0, 1.75, 3.5]
