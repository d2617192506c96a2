"""How each vendor tells of component, diffusion, echo and time in single images. Knows no geometry and no frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from ichor.types import AxisName, Component, Kind
from phantoms.series.csa import csa_header
from phantoms.series.header import clock_text, decimal
from phantoms.series.truth import ImagePlane, Scan

Annotate = Callable[[Dataset, ImagePlane, Scan], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """Name and habits of a scanner. ``annotate`` adds what the vendor says of one single-frame image."""

    manufacturer: str
    model: str
    software: str
    image_type: Callable[[ImagePlane], list[str]]
    annotate: Annotate


LETTER = {Component.MAGNITUDE: "M", Component.PHASE: "P", Component.REAL: "R", Component.IMAGINARY: "I"}
_DERIVED = {Kind.TRACE: "TRACEW", Kind.ADC: "ADC"}


# --- Philips: dcm2niix' notes on Philips, and an Achieva's files ------------------------------------------------------


def _philips_type(plane: ImagePlane) -> list[str]:
    if plane.kind is Kind.ADC:
        return ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
    # A trace is called like the weighted images (Achieva R2.5): only its missing direction tells.
    letter = LETTER[plane.component]
    return ["ORIGINAL", "PRIMARY", "PHASE MAP" if letter == "P" else f"{letter}_SE", letter, "SE"]


def philips_private(ds: Dataset, plane: ImagePlane, scan: Scan) -> None:
    """Private elements of Philips' classic images; newer enhanced frames repeat them in (2005,140F)."""
    imaging = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
    imaging.add_new(0x0A, "IS", plane.slice_index + 1)
    imaging.add_new(0x14, "SL", scan.size_of(AxisName.ECHO))
    imaging.add_new(0x18, "SL", len(plane.stack.origins_lps))
    imaging.add_new(0x81, "IS", scan.size_of(AxisName.TIME))
    blocks = [ds.private_block(0x2005, f"Philips MR Imaging DD {n:03d}", create=True) for n in range(1, 6)]
    blocks[0].add_new(0x0D, "FL", plane.intercept)
    blocks[0].add_new(0x0E, "FL", 0.25)  # display to floating point values: not the standard's rescale
    blocks[0].add_new(0x11, "CS", LETTER[plane.component])
    blocks[0].add_new(0xA0, "FL", plane.time if scan.size_of(AxisName.TIME) > 1 else 0.0)
    if plane.b_value is None or not scan.b_values:
        return
    shells = sorted(set(scan.b_values))
    imaging.add_new(0x03, "FL", plane.b_value)
    imaging.add_new(0x04, "CS", "O" if plane.direction_lps else "I")
    for low, value in zip((0xB0, 0xB1, 0xB2), plane.direction_lps or (0.0, 0.0, 0.0), strict=True):
        blocks[0].add_new(low, "FL", value)
    of_shell = [i for i, b in enumerate(scan.b_values) if b == plane.b_value]
    # Images without a direction count from the end of the directions (Achieva: 33 of 33); no two volumes of one
    # b-value share a number.
    before = 0 if plane.direction_lps else len(scan.b_values) - 1
    at = of_shell.index(plane.diffusion_index) if plane.diffusion_index in of_shell else 0
    blocks[4].add_new(0x12, "IS", shells.index(plane.b_value) + 1)
    blocks[4].add_new(0x13, "IS", before + at + 1)
    blocks[4].add_new(0x14, "SL", len(shells))
    blocks[4].add_new(0x15, "SL", len(scan.b_values))


def _philips(ds: Dataset, plane: ImagePlane, scan: Scan) -> None:
    philips_private(ds, plane, scan)
    ds.TemporalPositionIdentifier = plane.time_index + 1
    ds.NumberOfTemporalPositions = scan.size_of(AxisName.TIME)
    ds.AcquisitionNumber = 5  # the same in all images
    ds.EchoNumbers = plane.echo_index + 1
    ds.RescaleType = "normalized"


# --- Siemens: (0019,10xx) "SIEMENS MR HEADER", CSA image header -------------------------------------------------------


def siemens_type(plane: ImagePlane) -> list[str]:
    if plane.kind in _DERIVED:
        return ["DERIVED", "PRIMARY", "DIFFUSION", _DERIVED[plane.kind], "ND"]
    if plane.b_value is not None:
        return ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND"]
    return ["ORIGINAL", "PRIMARY", LETTER[plane.component], "ND"]


def siemens_diffusion(ds: Dataset, plane: ImagePlane) -> None:
    """b-value, directionality and direction in patient coordinates."""
    if plane.b_value is None:
        return
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", round(plane.b_value))
    block.add_new(0x0D, "CS", "DIRECTIONAL" if plane.direction_lps else "NONE")
    if plane.direction_lps:
        block.add_new(0x0E, "FD", list(plane.direction_lps))
        block.add_new(0x27, "FD", b_matrix(plane))


def siemens_csa(ds: Dataset, plane: ImagePlane, *, tiles: int = 0, normal_sign: float = 1.0) -> None:
    """The CSA image header of one image, or of a mosaic of ``tiles`` that go along ``normal_sign`` times the normal."""
    elements: list[tuple[str, str, list[str]]] = [
        ("EchoLinePosition", "IS", ["12      "]),
        ("AcquisitionMatrixText", "SH", ["{}p*{}".format(*plane.stored_yx.shape)]),
        ("ImagePositionPatient", "DS", []),
        ("NumberOfImagesInMosaic", "US", [f"{tiles:<8d}"] if tiles else []),
        ("SliceNormalVector", "FD", [f"{v * normal_sign:.8f}" for v in plane.stack.normal_lps]),
        ("PhaseEncodingDirectionPositive", "IS", ["1       "]),
    ]
    if plane.b_value is not None:
        elements.append(("B_value", "IS", [f"{round(plane.b_value):<8d}"]))
        elements.append(("DiffusionDirectionality", "CS", ["DIRECTIONAL" if plane.direction_lps else "NONE"]))
        elements.append(("DiffusionGradientDirection", "FD", [f"{v:.8f}" for v in plane.direction_lps or ()]))
        elements.append(("B_matrix", "FD", [f"{v:.8f}" for v in b_matrix(plane)] if plane.direction_lps else []))
    if tiles:
        elements.append(("MosaicRefAcqTimes", "FD", [f"{40.0 * (k // 2 + k % 2 * tiles):.8f}" for k in range(tiles)]))
    block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    block.add_new(0x09, "LO", "20240301")
    block.add_new(0x10, "OB", csa_header(elements))


def siemens_common(ds: Dataset, plane: ImagePlane, scan: Scan) -> None:
    """Numbers and times: an acquisition per volume, a time per image."""
    ds.AcquisitionNumber = plane.volume + 1 if scan.size_of(AxisName.ECHO) == 1 else 1
    ds.AcquisitionTime = clock_text(plane.time + 0.05 * plane.slice_index)
    ds.EchoNumbers = plane.echo_index + 1
    if plane.b_value is not None:
        weighted = f"*ep_b{round(plane.b_value)}"
        ds.SequenceName = f"{weighted}#{plane.volume}" if plane.direction_lps else weighted


def b_matrix(plane: ImagePlane) -> list[float]:
    """xx, xy, xz, yy, yz, zz, rounded as scanners do."""
    x, y, z = plane.direction_lps or (0.0, 0.0, 0.0)
    return [float(round((plane.b_value or 0.0) * v)) for v in (x * x, x * y, x * z, y * y, y * z, z * z)]


def _siemens(ds: Dataset, plane: ImagePlane, scan: Scan) -> None:
    siemens_common(ds, plane, scan)
    siemens_diffusion(ds, plane)
    siemens_csa(ds, plane)


# --- GE: b in (0043,1039), direction by frequency, phase and slice in (0019,10BB..BD) ---------------------------------


def _ge_type(plane: ImagePlane) -> list[str]:
    return ["DERIVED", "PRIMARY", "ADC"] if plane.kind is Kind.ADC else ["ORIGINAL", "PRIMARY", "OTHER"]


def ge_direction(plane: ImagePlane, scan: Scan) -> tuple[float, float, float]:
    """Frequency, phase and slice component; the sign is the one that dcm2niix gives back (its notes on GE)."""
    direction = np.asarray(plane.direction_lps or (0.0, 0.0, 0.0))
    along_row, along_column, along_normal = (
        float(direction @ v) for v in (plane.stack.row_lps, plane.stack.column_lps, plane.stack.normal_lps)
    )
    if scan.phase_encoding == "COL":
        return -along_row, -along_column, along_normal
    return along_column, -along_row, along_normal


def _ge(ds: Dataset, plane: ImagePlane, scan: Scan) -> None:
    ds.AcquisitionNumber = 1
    ds.EchoNumbers = plane.echo_index + 1
    ds.ImagesInAcquisition = scan.stored.size // (scan.stored.shape[-1] * scan.stored.shape[-2])
    acquisition = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
    ds.private_block(0x0021, "GEMS_RELA_01", create=True).add_new(0x4F, "SS", len(plane.stack.origins_lps))
    parameters = ds.private_block(0x0043, "GEMS_PARM_01", create=True)
    parameters.add_new(0x2F, "SS", list(Component).index(plane.component))
    if scan.size_of(AxisName.TIME) > 1:
        ds.TemporalPositionIdentifier = plane.time_index + 1
        ds.NumberOfTemporalPositions = scan.size_of(AxisName.TIME)
        ds.TriggerTime = decimal(1000.0 * plane.time)
    if plane.b_value is not None:
        # Newer software adds 10^9 to tell that the value stands for itself (dcm2niix' notes on GE).
        parameters.add_new(0x39, "IS", [round(plane.b_value) + (10**9 if plane.b_value else 0), 8, 0, 0])
        for low, value in zip((0xBB, 0xBC, 0xBD), ge_direction(plane, scan), strict=True):
            acquisition.add_new(low, "DS", f"{value:.6f}")
        acquisition.add_new(0xE0, "DS", f"{sum(d is not None for d in scan.directions_lps):.6f}")
        # 14: without weighting, 16: of a tensor scan (a Pioneer's files).
        parameters.add_new(0x30, "SS", 16 if plane.direction_lps else 14)


# --- Canon and UIH ----------------------------------------------------------------------------------------------------


def _canon_type(plane: ImagePlane) -> list[str]:
    if plane.kind in _DERIVED:
        return ["DERIVED", "PRIMARY", "ADC" if plane.kind is Kind.ADC else "ISOTROPIC"]
    return ["ORIGINAL", "PRIMARY", "PHASE" if plane.component is Component.PHASE else "GDC"]


def _canon(ds: Dataset, plane: ImagePlane, scan: Scan) -> None:
    ds.AcquisitionNumber = 8
    ds.EchoNumbers = plane.echo_index + 1
    ds.NumberOfTemporalPositions = scan.size_of(AxisName.TIME)
    if scan.size_of(AxisName.TIME) > 1:  # all images of a diffusion series have one time (a Galan's files)
        ds.AcquisitionTime = ds.ContentTime = clock_text(plane.time)
    ds.StackID, ds.InStackPositionNumber = str(plane.stack_index + 1), plane.slice_index + 1
    ds.TemporalPositionIndex = 1  # 1 in all images, whatever the volume (a Galan's files)
    standard_diffusion(ds, plane, zero_direction=True)


def _uih_type(plane: ImagePlane) -> list[str]:
    if plane.kind in _DERIVED:
        return ["DERIVED", "PRIMARY", _DERIVED[plane.kind]]
    return ["ORIGINAL", "PRIMARY", LETTER[plane.component]]


def uih_private(ds: Dataset, plane: ImagePlane, *, normal_sign: float = 1.0) -> None:
    """b as it was and as it was asked for; direction along row, column and normal (dcm2niix' notes on UIH)."""
    block = ds.private_block(0x0065, "Image Private Header", create=True)
    stack = plane.stack
    block.add_new(0x14, "DS", [decimal(normal_sign * v) for v in stack.normal_lps])
    if plane.b_value is not None:
        direction = np.asarray(plane.direction_lps or (0.0, 0.0, 0.0))
        axes = (stack.row_lps, stack.column_lps, stack.normal_lps)
        block.add_new(0x09, "FD", float(plane.b_value))
        block.add_new(0x0A, "FD", float(round(plane.b_value, -2)))
        block.add_new(0x37, "FD", [float(direction @ v) for v in axes])


def _uih(ds: Dataset, plane: ImagePlane, _scan: Scan) -> None:
    ds.AcquisitionTime = clock_text(plane.time + 0.05 * plane.slice_index)
    ds.ContentTime = clock_text(plane.time)
    ds.EchoNumbers = plane.echo_index + 1
    uih_private(ds, plane)


# --- nobody's: the standard's attributes only -------------------------------------------------------------------------


def standard_diffusion(ds: Dataset, plane: ImagePlane, *, zero_direction: bool = False) -> None:
    """Diffusion b-value (0018,9087) and Gradient Orientation (0018,9089), as top-level attributes."""
    if plane.b_value is None:
        return
    ds.DiffusionBValue = float(plane.b_value)
    if plane.direction_lps:
        ds.DiffusionGradientOrientation = list(plane.direction_lps)
    elif zero_direction and not plane.b_value:
        ds.DiffusionGradientOrientation = [0.0, 0.0, 0.0]


def _standard(ds: Dataset, plane: ImagePlane, scan: Scan) -> None:
    ds.AcquisitionNumber = 1
    ds.EchoNumbers = plane.echo_index + 1
    if scan.size_of(AxisName.TIME) > 1:
        ds.TemporalPositionIdentifier = plane.time_index + 1
        ds.NumberOfTemporalPositions = scan.size_of(AxisName.TIME)
        ds.AcquisitionTime = clock_text(plane.time)
    if scan.size_of(AxisName.COMPONENT) > 1:
        ds.ComplexImageComponent = plane.component.value.upper()
    if scan.size_of(AxisName.STACK) > 1:
        ds.StackID = str(plane.stack_index + 1)
    if plane.b_value is not None:
        ds.DiffusionDirectionality = (
            "DIRECTIONAL" if plane.direction_lps else "ISOTROPIC" if plane.isotropic else "NONE"
        )
    standard_diffusion(ds, plane)


def _standard_type(plane: ImagePlane) -> list[str]:
    if plane.kind in _DERIVED:
        return ["DERIVED", "PRIMARY", "DIFFUSION", {"TRACEW": "ISOTROPIC"}.get(_DERIVED[plane.kind], "ADC")]
    return ["ORIGINAL", "PRIMARY", "OTHER"]


PHILIPS = Vendor(
    manufacturer="Philips Medical Systems", model="SYNTHETIC Achieva", software="2.5.3",
    image_type=_philips_type, annotate=_philips,
)  # fmt: skip
SIEMENS = Vendor(
    manufacturer="SIEMENS", model="SYNTHETIC Trio", software="syngo MR E11", image_type=siemens_type, annotate=_siemens
)
GE = Vendor(
    manufacturer="GE MEDICAL SYSTEMS", model="SYNTHETIC Pioneer", software="28", image_type=_ge_type, annotate=_ge
)
CANON = Vendor(
    manufacturer="CANON_MEC", model="SYNTHETIC Galan", software="V6.1", image_type=_canon_type, annotate=_canon
)
UIH = Vendor(manufacturer="UIH", model="SYNTHETIC uMR", software="R002", image_type=_uih_type, annotate=_uih)
STANDARD = Vendor(
    manufacturer="SYNTHETIC", model="SYNTHETIC", software="1", image_type=_standard_type, annotate=_standard
)
