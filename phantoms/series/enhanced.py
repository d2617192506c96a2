"""Enhanced multi-frame MR and CT (PS3.3 A.36, A.38) as Philips, Siemens, Canon and GE write them. No single frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage

from ichor.types import AxisName, Kind
from phantoms.series.header import add_pixels, date_time_text, decimal, object_header, orientation, position
from phantoms.series.truth import ImagePlane, Scan
from phantoms.series.vendors import LETTER, b_matrix, philips_private

_CONTENT, _DIFFUSION, _ECHO = 0x00209111, 0x00189117, 0x00189114

# Dimension Index Pointer and Functional Group Pointer by the name of what is counted.
_DIMENSIONS = {
    "stack": (0x00209056, _CONTENT),
    "slice": (0x00209057, _CONTENT),
    "time": (0x00209128, _CONTENT),
    "volume": (0x00209128, _CONTENT),
    "echo": (0x00189082, _ECHO),
    "component": (0x20051011, 0x2005140F),  # Philips' own
    "b": (0x00189087, _DIFFUSION),
    "direction": (0x00189089, _DIFFUSION),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """How one vendor writes enhanced objects."""

    manufacturer: str
    software: str
    dimensions: tuple[str, ...]  # slowest first
    per_volume: bool = False  # one object per volume
    slice_major: bool = False  # all volumes of a plane, then the next plane
    shared_geometry: bool = True  # orientation and pixel measures in the shared groups
    b_matrices: bool = False  # Diffusion Directionality BMATRIX, with direction and matrix
    temporal_index: bool = True
    timed_diffusion: bool = True  # False: all frames of a diffusion series have one time
    timed_slices: bool = True  # False: all frames of a volume have one time
    letter_at: int | None = None  # value of Frame Type that is M or P, for magnitude and phase
    philips: bool = False  # classic attributes once more in (2005,140F), real-world values, one reference time


PHILIPS = Flavour(  # from public files of an enhanced pCASL and field map
    manufacturer="Philips Medical Systems", software="5.1.7", shared_geometry=False, slice_major=True,
    dimensions=("stack", "time", "component", "echo", "b", "direction", "slice"), timed_slices=False,
    letter_at=3, philips=True,
)  # fmt: skip
SIEMENS = Flavour(  # XA30, from public files of a Prisma
    manufacturer="Siemens Healthineers", software="syngo MR XA30", shared_geometry=False, per_volume=True,
    dimensions=("stack", "slice", "volume"), b_matrices=True, letter_at=2,
)  # fmt: skip
SIEMENS_WHOLE = Flavour(
    manufacturer="Siemens Healthineers", software="syngo MR XA30", shared_geometry=False,
    dimensions=("stack", "slice", "volume"), b_matrices=True, letter_at=2,
)  # fmt: skip
CANON = Flavour(  # Temporal Position Index counts diffusion volumes (a Galan's files)
    manufacturer="CANON_MEC",
    software="V6.1SP3002*",
    dimensions=("volume", "echo", "stack", "slice"),
    timed_diffusion=False,
)
GE = Flavour(
    manufacturer="GE MEDICAL SYSTEMS", software="30\\LX\\MR30.0", temporal_index=False,
    dimensions=("stack", "time", "echo", "b", "direction", "slice"),
)  # fmt: skip


def enhanced_objects(scan: Scan, flavour: Flavour, *, form: str) -> list[Dataset]:
    """One object, or one per volume; extras as frames beside the others or, per volume, as objects of their own."""
    planes = list(scan.planes())
    if not flavour.per_volume:
        if flavour.slice_major:
            planes.sort(key=lambda p: (p.stack_index, p.slice_index, p.volume))
        return [_object(scan, planes, flavour, form=form, number=1)]
    volumes: dict[int, list[ImagePlane]] = {}
    for plane in planes:
        volumes.setdefault(plane.volume, []).append(plane)
    return [
        _object(scan, volume, flavour, form=form, number=number) for number, volume in enumerate(volumes.values(), 1)
    ]


def _object(scan: Scan, planes: Sequence[ImagePlane], flavour: Flavour, *, form: str, number: int) -> Dataset:
    storage = EnhancedCTImageStorage if scan.modality == "CT" else EnhancedMRImageStorage
    ds = object_header(scan, form=form, sop_class=storage, number=number)
    ds.Manufacturer, ds.ManufacturerModelName = flavour.manufacturer, "SYNTHETIC"
    ds.SoftwareVersions = flavour.software.split("\\")
    ds.AcquisitionNumber = number
    ds.AcquisitionDateTime = date_time_text(planes[0].time)
    ds.ImageType = _frame_type(planes[0], scan, flavour)
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"
    if scan.modality == "MR":
        ds.ComplexImageComponent = planes[0].component.value.upper() if _one_component(planes) else "MIXED"
        ds.AcquisitionContrast = "DIFFUSION" if scan.b_values else "UNKNOWN"
        ds.PulseSequenceName, ds.EchoPlanarPulseSequence = "synthetic", "YES"
        ds.EchoPulseSequence = "SPIN" if scan.b_values else "GRADIENT"
        ds.MRAcquisitionType, ds.MagneticFieldStrength = "2D", "3"
    if scan.size_of(AxisName.TIME) > 1 or flavour.per_volume:
        ds.NumberOfTemporalPositions = scan.size_of(AxisName.TIME) if not flavour.per_volume else scan.volumes
    dimensions = flavour.dimensions if scan.modality == "MR" else ("stack", "time", "slice")
    _add_dimensions(ds, dimensions)
    shared = _shared(scan, planes[0], flavour)
    ds.NumberOfFrames = len(planes)
    add_pixels(ds, np.stack([p.stored_yx for p in planes]), signed=scan.signed)
    ds.SharedFunctionalGroupsSequence = Items([shared])
    ds.PerFrameFunctionalGroupsSequence = Items([_frame(p, scan, flavour, dimensions) for p in planes])
    return ds


def _add_dimensions(ds: Dataset, dimensions: Sequence[str]) -> None:
    organization = f"{ds.SeriesInstanceUID[:58]}.1"
    ds.DimensionOrganizationSequence = Items([_item(DimensionOrganizationUID=organization)])
    ds.DimensionIndexSequence = Items(
        [
            _item(
                DimensionOrganizationUID=organization, DimensionIndexPointer=pointer, FunctionalGroupPointer=group
            )
            for pointer, group in (_DIMENSIONS[name] for name in dimensions)
        ]
    )  # fmt: skip


def _shared(scan: Scan, plane: ImagePlane, flavour: Flavour) -> Dataset:
    groups = Dataset()
    if scan.modality == "MR":
        groups.MRTimingAndRelatedParametersSequence = Items(
            [_item(RepetitionTime="1800", EchoTrainLength=31, FlipAngle="90")]
        )
        groups.MRFOVGeometrySequence = Items(
            [_item(InPlanePhaseEncodingDirection="COLUMN" if scan.phase_encoding == "COL" else "ROW")]
        )
        if scan.size_of(AxisName.ECHO) == 1:
            groups.MREchoSequence = Items([_item(EffectiveEchoTime=plane.echo_time)])
    if _geometry_is_shared(scan, flavour):
        groups.PlaneOrientationSequence = Items([_item(ImageOrientationPatient=orientation(plane.stack))])
        groups.PixelMeasuresSequence = Items([_pixel_measures(plane)])
    return groups


def _frame(plane: ImagePlane, scan: Scan, flavour: Flavour, dimensions: Sequence[str]) -> Dataset:
    groups = Dataset()
    timed = flavour.timed_diffusion or not scan.b_values
    at = date_time_text((plane.time if timed else 0.0) + 0.05 * plane.slice_index * flavour.timed_slices)
    indices = _indices(plane, scan)
    content = _item(
        FrameAcquisitionDateTime=at, FrameReferenceDateTime=date_time_text(0.0) if flavour.philips else at,
        FrameAcquisitionDuration=50.0,
        StackID=str(plane.stack_index + 1), InStackPositionNumber=plane.slice_index + 1,
        DimensionIndexValues=[indices[name] for name in dimensions],
    )  # fmt: skip
    if flavour.temporal_index:
        content.TemporalPositionIndex = indices["volume" if "volume" in dimensions else "time"]
    groups.FrameContentSequence = Items([content])
    groups.PlanePositionSequence = Items([_item(ImagePositionPatient=position(plane.origin_lps))])
    if not _geometry_is_shared(scan, flavour):
        groups.PlaneOrientationSequence = Items([_item(ImageOrientationPatient=orientation(plane.stack))])
        groups.PixelMeasuresSequence = Items([_pixel_measures(plane)])
    groups.PixelValueTransformationSequence = Items(
        [
            _item(
                RescaleIntercept=decimal(plane.intercept), RescaleSlope=decimal(plane.slope),
                RescaleType="HU" if scan.modality == "CT" else "US",
            )
        ]
    )  # fmt: skip
    frame_type = _item(FrameType=_frame_type(plane, scan, flavour), PixelPresentation="MONOCHROME")
    frame_type.VolumetricProperties, frame_type.VolumeBasedCalculationTechnique = "VOLUME", "NONE"
    if scan.modality == "CT":
        groups.CTImageFrameTypeSequence = Items([frame_type])
        return groups
    frame_type.ComplexImageComponent = plane.component.value.upper()
    frame_type.AcquisitionContrast = "DIFFUSION" if scan.b_values else "UNKNOWN"
    groups.MRImageFrameTypeSequence = Items([frame_type])
    if scan.size_of(AxisName.ECHO) > 1:
        groups.MREchoSequence = Items([_item(EffectiveEchoTime=plane.echo_time)])
    if plane.b_value is not None:
        groups.MRDiffusionSequence = Items([_diffusion(plane, flavour)])
    if flavour.philips:
        _add_philips(groups, plane, scan)
    return groups


def _diffusion(plane: ImagePlane, flavour: Flavour) -> Dataset:
    item = _item(DiffusionBValue=float(plane.b_value or 0.0))
    if plane.direction_lps is None:
        item.DiffusionDirectionality = "ISOTROPIC" if plane.isotropic else "NONE"
        return item
    item.DiffusionDirectionality = "BMATRIX" if flavour.b_matrices else "DIRECTIONAL"
    item.DiffusionGradientDirectionSequence = Items([_item(DiffusionGradientOrientation=list(plane.direction_lps))])
    if flavour.b_matrices:
        keywords = [f"DiffusionBValue{axes}" for axes in ("XX", "XY", "XZ", "YY", "YZ", "ZZ")]
        matrix = _item(**dict(zip(keywords, b_matrix(plane), strict=True)))
        item.DiffusionBMatrixSequence = Items([matrix])
    return item


def _add_philips(groups: Dataset, plane: ImagePlane, scan: Scan) -> None:
    """What the classic image would say, with a position half a pixel off, and its values in the real world."""
    unit = _item(CodeValue="1", CodingSchemeDesignator="UCUM", CodeMeaning="no units")
    mapping = _item(LUTExplanation="Philips", LUTLabel="Philips", MeasurementUnitsCodeSequence=Items([unit]))
    mapping.add_new(0x00409216, "SS" if scan.signed else "US", 0)
    mapping.add_new(0x00409211, "SS" if scan.signed else "US", 4095)
    # Slope and intercept of the stored values: instead of the rescale, not after it (PS3.3 C.7.6.16.2.11).
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = plane.slope, plane.intercept
    groups.RealWorldValueMappingSequence = Items([mapping])
    classic = Dataset()
    dy, dx = plane.stack.pixel_spacing
    classic.ImagePositionPatient = position(
        plane.origin_lps - plane.stack.row_lps * dx / 2 - plane.stack.column_lps * dy / 2
    )
    classic.InstanceNumber = "0"
    philips_private(classic, plane, scan)
    # The fifth block of the group, as in the files: (2005,140F).
    for number in range(1, 6):
        block = groups.private_block(0x2005, f"Philips MR Imaging DD {number:03d}", create=True)
    block.add_new(0x0F, "SQ", Items([classic]))


def _frame_type(plane: ImagePlane, scan: Scan, flavour: Flavour) -> list[str]:
    if scan.modality == "CT":
        return ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    if plane.kind is not Kind.IMAGE:
        return ["DERIVED", "PRIMARY", "DIFFUSION", "ADC" if plane.kind is Kind.ADC else "ISOTROPIC"]
    values = ["ORIGINAL", "PRIMARY", "DIFFUSION" if scan.b_values else "T2_STAR", "NONE"]
    if flavour.letter_at and not scan.b_values:
        values[flavour.letter_at] = LETTER[plane.component]
    return values


def _pixel_measures(plane: ImagePlane) -> Dataset:
    stack = plane.stack
    return _item(
        PixelSpacing=[decimal(v) for v in stack.pixel_spacing], SliceThickness=decimal(stack.slice_thickness),
        SpacingBetweenSlices=decimal(stack.spacing),
    )  # fmt: skip


def _geometry_is_shared(scan: Scan, flavour: Flavour) -> bool:
    return flavour.shared_geometry and len(scan.stacks) == 1


def _one_component(planes: Sequence[ImagePlane]) -> bool:
    return len({p.component for p in planes}) == 1


def _indices(plane: ImagePlane, scan: Scan) -> dict[str, int]:
    """Dimension indices from 1, by the names of `_DIMENSIONS`."""
    components = next((a.values for a in scan.axes if a.name is AxisName.COMPONENT), (plane.component.value,))
    shells = sorted(set(scan.b_values or ()))
    return {
        "stack": plane.stack_index + 1,
        "slice": plane.slice_index + 1,
        "time": plane.time_index + 1,
        "volume": plane.volume + 1,
        "echo": plane.echo_index + 1,
        "component": components.index(plane.component.value) + 1,
        "b": shells.index(plane.b_value) + 1 if plane.b_value in shells else 1,
        "direction": plane.diffusion_index + 1,
    }


def _item(**values: object) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds
