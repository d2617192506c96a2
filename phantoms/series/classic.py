"""Single-frame MR and CT data sets: one image per object. Knows no mosaic and no functional groups."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage

from ichor.types import AxisName
from phantoms.series.header import add_pixels, clock_text, decimal, object_header, orientation, position
from phantoms.series.truth import ImagePlane, Scan
from phantoms.series.vendors import Vendor


def classic_objects(scan: Scan, vendor: Vendor, *, form: str) -> list[Dataset]:
    """One data set per image, volume by volume."""
    objects = []
    for number, plane in enumerate(scan.planes(), start=1):
        ds = single_frame(scan, plane, vendor, form=form, number=number)
        ds.ImagePositionPatient = position(plane.origin_lps)
        ds.SliceLocation = decimal(float(plane.origin_lps @ plane.stack.normal_lps))
        add_pixels(ds, plane.stored_yx, signed=scan.signed)
        if scan.modality == "CT":
            _ct(ds, plane, scan)
        else:
            vendor.annotate(ds, plane, scan)
        objects.append(ds)
    return objects


def single_frame(scan: Scan, plane: ImagePlane, vendor: Vendor, *, form: str, number: int) -> Dataset:
    """All but position, pixels and what the vendor says of the image."""
    storage = CTImageStorage if scan.modality == "CT" else MRImageStorage
    ds = object_header(scan, form=form, sop_class=storage, number=number)
    ds.Manufacturer, ds.ManufacturerModelName = vendor.manufacturer, vendor.model
    ds.SoftwareVersions = vendor.software
    ds.ImageType = vendor.image_type(plane)
    ds.ImageOrientationPatient = orientation(plane.stack)
    ds.PixelSpacing = [decimal(v) for v in plane.stack.pixel_spacing]
    ds.SliceThickness = decimal(plane.stack.slice_thickness)
    if scan.modality == "MR":
        ds.SpacingBetweenSlices = decimal(plane.stack.spacing)
        _mr(ds, plane, scan)
    if (plane.slope, plane.intercept) != (1.0, 0.0) or scan.modality == "CT":
        ds.RescaleSlope, ds.RescaleIntercept = decimal(plane.slope), decimal(plane.intercept)
    return ds


def _mr(ds: Dataset, plane: ImagePlane, scan: Scan) -> None:
    ds.ScanningSequence = ["SE", "EP"] if plane.b_value is not None else ["EP"]
    ds.SequenceVariant, ds.ScanOptions = "SK", ""
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime, ds.EchoTime = "1800", decimal(plane.echo_time)
    ds.EchoTrainLength, ds.FlipAngle = 31, "90"
    ds.MagneticFieldStrength = "3"
    ds.InPlanePhaseEncodingDirection = scan.phase_encoding
    rows, columns = scan.stored.shape[-2:]
    ds.AcquisitionMatrix = [columns, 0, 0, rows] if scan.phase_encoding == "COL" else [0, rows, columns, 0]


def _ct(ds: Dataset, plane: ImagePlane, scan: Scan) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP, ds.ConvolutionKernel, ds.RescaleType = "120", "H30s", "HU"
    ds.GantryDetectorTilt = decimal(plane.stack.gantry_tilt or 0.0)
    ds.AcquisitionNumber = plane.time_index + 1
    ds.AcquisitionTime = clock_text(plane.time + 0.01 * plane.slice_index)
    if scan.size_of(AxisName.TIME) > 1:
        ds.ContentTime = clock_text(plane.time)
