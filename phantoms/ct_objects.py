"""DICOM data sets of a synthetic CT study: axial images, a localizer, a dose report. Renders nothing, writes no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, XRayRadiationDoseSRStorage

from ichor.uids import uid_of
from phantoms.acquisition import Grid
from phantoms.ct_vendors import HABITS, Habit

_NOTE = "SYNTHETIC computer-made images, no patient. RESEARCH, not for diagnosis."


@dataclass(frozen=True, slots=True)
class StudyHeader:
    """What every object of a study shares.

    Attributes
    ----------
    key : text that all UIDs derive from; the same key gives the same UIDs.
    overrides : attribute keyword to value, set on every object last; None removes the attribute.
    habit : whose headers these are.
    hours_later : of a follow-up study, since the first one of this patient.
    """

    seed: int
    key: str
    overrides: Mapping[str, str | None]
    habit: Habit = HABITS["plain"]
    hours_later: float = 0.0

    def uid(self, *parts: str | int) -> str:
        """A UID of this study that depends on nothing but the key and `parts`."""
        return uid_of("phantom", self.key, *parts)

    def data_set(self, *, sop_class: str, modality: str, series: str, series_number: int, instance: int) -> Dataset:
        """Patient, study, series and equipment attributes of one object, with its file meta information."""
        start = datetime(2024, 1, 1, 10, 15) + timedelta(days=self.seed % 365, hours=self.hours_later)
        birth = datetime(1935, 1, 1) + timedelta(days=self.seed * 37 % 18_000)
        ds = Dataset()
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.SOPClassUID = sop_class
        ds.SOPInstanceUID = self.uid(series, "instance", instance)
        ds.StudyDate, ds.StudyTime = _date_and_time(start)
        ds.SeriesDate, ds.SeriesTime = _date_and_time(start + timedelta(minutes=1))
        ds.ContentDate, ds.ContentTime = _date_and_time(start + timedelta(minutes=2))
        ds.AccessionNumber = f"{'F' if self.hours_later else 'P'}{self.seed % 10**9:09d}"
        ds.Modality = modality
        ds.Manufacturer = self.habit.manufacturer
        ds.InstitutionName = "Synthetic"
        ds.ManufacturerModelName = self.habit.model
        ds.DeviceSerialNumber = "1"
        ds.SoftwareVersions = "1"
        ds.ReferringPhysicianName = ""
        ds.StudyDescription = "SYNTHETIC head CT, no patient"
        ds.PatientName = "Phantom^Synthetic"
        ds.PatientID = f"PHANTOM-{self.seed}"
        ds.IssuerOfPatientID = "ICHOR PHANTOMS"
        ds.PatientBirthDate = birth.strftime("%Y%m%d")
        ds.PatientSex = "O"
        ds.StudyInstanceUID = self.uid("study")
        ds.SeriesInstanceUID = self.uid(series, "series")
        ds.StudyID = str(self.seed % 10**9)
        ds.SeriesNumber = series_number
        ds.InstanceNumber = instance
        return ds

    def finish(self, ds: Dataset) -> Dataset:
        """Apply the overrides and add the file meta information."""
        for keyword, value in self.overrides.items():
            if value is not None:
                setattr(ds, keyword, value)
            elif keyword in ds:
                delattr(ds, keyword)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return ds


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """How an axial series is named and shown; `kernel` is its place in `Habit.kernels`."""

    name: str
    number: int
    description: str
    kernel: int
    window: tuple[int, int]


SOFT = Reconstruction("soft", 2, "Head axial soft SYNTHETIC", 0, (40, 80))
BONE = Reconstruction("bone", 3, "Head axial bone SYNTHETIC", 1, (600, 2800))


def axial_images(
    header: StudyHeader, hu_zyx: npt.NDArray[np.int16], *, grid: Grid, kind: Reconstruction, count: bool
) -> list[Dataset]:
    """One CT Image per slice, feet to head; `count` writes Images in Acquisition (0020,1002)."""
    habit = header.habit
    gaps = np.diff(np.asarray(grid.z_mm)) * grid.normal[2]
    even = gaps.size > 0 and float(np.ptp(gaps)) < 1e-3
    images: list[Dataset] = []
    for k, (plane, origin) in enumerate(zip(hu_zyx, grid.origins(), strict=True)):
        number = k + 1 if habit.headwards else len(hu_zyx) - k
        ds = _ct_image(header, kind.name, kind.number, number, list(habit.image_type))
        ds.SeriesDescription = kind.description
        ds.ConvolutionKernel = habit.kernels[kind.kernel]
        ds.SliceThickness = _text(grid.thickness_mm[k])
        if even and habit.spacing:
            ds.SpacingBetweenSlices = _text(float(gaps.mean()))
        ds.GantryDetectorTilt = _text(grid.tilt_deg)
        ds.SliceLocation = _text(grid.z_mm[k])
        _place(ds, origin, (grid.row_direction, grid.column_direction), (grid.pixel_mm, grid.pixel_mm))
        if count:
            ds.ImagesInAcquisition = len(hu_zyx)
        centre, width = kind.window
        ds.WindowCenter = [centre] * habit.windows if habit.windows > 1 else centre
        ds.WindowWidth = [width] * habit.windows if habit.windows > 1 else width
        _pixels(ds, plane, habit)
        images.append(header.finish(ds))
    return images


def localizer_image(
    header: StudyHeader, picture_zy: npt.NDArray[np.int16], *, origin: npt.NDArray[np.float64], pixel_mm: float
) -> Dataset:
    """A lateral scout: rows go down from the vertex, columns to the back."""
    ds = _ct_image(header, "localizer", 1, 1, ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    ds.SeriesDescription = "Topogram lateral SYNTHETIC"
    ds.ConvolutionKernel = "T20s"
    ds.SliceThickness = "1"
    directions = (np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0]))
    _place(ds, origin, directions, (pixel_mm, pixel_mm))
    ds.WindowCenter, ds.WindowWidth = -250, 1300
    _pixels(ds, picture_zy, HABITS["plain"])
    # A projection has no Hounsfield units (PS3.3 section C.8.2.1.1.1).
    ds.RescaleType = "US"
    return header.finish(ds)


def _ct_image(header: StudyHeader, series: str, number: int, instance: int, image_type: list[str]) -> Dataset:
    ds = header.data_set(
        sop_class=CTImageStorage, modality="CT", series=series, series_number=number, instance=instance
    )
    ds.ImageType = image_type
    ds.BodyPartExamined = "HEAD"
    ds.ProtocolName = "Head routine SYNTHETIC"
    ds.KVP = "120"
    ds.DataCollectionDiameter = "500"
    ds.ExposureTime = "1000"
    ds.XRayTubeCurrent = "300"
    ds.Exposure = "300"
    ds.PatientPosition = "HFS"
    ds.AcquisitionNumber = number
    ds.AcquisitionDate, ds.AcquisitionTime = ds.SeriesDate, ds.SeriesTime
    ds.FrameOfReferenceUID = header.uid("frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.ImageComments = _NOTE
    return ds


def _place(
    ds: Dataset,
    origin: npt.NDArray[np.float64],
    directions: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    pixel_mm: tuple[float, float],
) -> None:
    ds.ImagePositionPatient = [_text(v) for v in origin]
    ds.ImageOrientationPatient = [_text(v) for v in np.concatenate(directions)]
    ds.PixelSpacing = [_text(v) for v in pixel_mm]


def _pixels(ds: Dataset, hu: npt.NDArray[np.int16], habit: Habit) -> None:
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = hu.shape
    ds.ReconstructionDiameter = _text(float(ds.PixelSpacing[0]) * hu.shape[0])
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, habit.bits_stored, habit.bits_stored - 1
    ds.PixelRepresentation = int(habit.signed)
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(habit.intercept), "1", "HU"
    stored = hu.astype(np.int32) - habit.intercept
    if not habit.signed:
        stored = np.clip(stored, 0, 2**habit.bits_stored - 1)
    if habit.padding is not None:
        row, column = np.ogrid[: hu.shape[0], : hu.shape[1]]
        middle = (hu.shape[0] - 1) / 2, (hu.shape[1] - 1) / 2
        outside = (row - middle[0]) ** 2 + (column - middle[1]) ** 2 > (min(hu.shape) / 2) ** 2
        stored = np.where(outside, habit.padding, stored)
        ds.add_new("PixelPaddingValue", "SS", habit.padding)
    ds.PixelData = stored.astype("<i2" if habit.signed else "<u2").tobytes()


def _date_and_time(moment: datetime) -> tuple[str, str]:
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")


def dose_report(header: StudyHeader, *, scan_length_mm: float) -> Dataset:
    """An X-Ray Radiation Dose SR after TID 10011 with one sequenced acquisition; its figures are made up."""
    ds = header.data_set(
        sop_class=XRayRadiationDoseSRStorage, modality="SR", series="dose", series_number=999, instance=1
    )
    ds.SeriesDescription = "Dose report SYNTHETIC"
    ds.ReferencedPerformedProcedureStepSequence = Sequence()
    ds.PerformedProcedureCodeSequence = Sequence()
    ds.CompletionFlag, ds.VerificationFlag = "COMPLETE", "UNVERIFIED"
    device = header.uid("device")
    ctdi = 48.0
    event = [
        _item("CONTAINS", "TEXT", _code("125203", "Acquisition Protocol"), TextValue="Head routine SYNTHETIC"),
        _concept("CONTAINS", _code("123014", "Target Region"), _code("69536005", "Head", "SCT")),
        _concept("CONTAINS", _code("113820", "CT Acquisition Type"), _code("113804", "Sequenced Acquisition")),
        _item("CONTAINS", "UIDREF", _code("113769", "Irradiation Event UID"), UID=header.uid("irradiation")),
        _container(
            _code("113822", "CT Acquisition Parameters"),
            [
                _number(_code("113824", "Exposure Time"), 40.0, _unit("s")),
                _number(_code("113825", "Scanning Length"), scan_length_mm, _unit("mm")),
                _number(_code("113826", "Nominal Single Collimation Width"), 5.0, _unit("mm")),
                _number(_code("113827", "Nominal Total Collimation Width"), 20.0, _unit("mm")),
                _number(_code("113823", "Number of X-Ray Sources"), 1.0, _unit("{X-Ray sources}", "X-Ray sources")),
                _container(
                    _code("113831", "CT X-Ray Source Parameters"),
                    [
                        _item("CONTAINS", "TEXT", _code("113832", "Identification of the X-Ray Source"), TextValue="A"),
                        _number(_code("113733", "KVP"), 120.0, _unit("kV")),
                        _number(_code("113833", "Maximum X-Ray Tube Current"), 300.0, _unit("mA")),
                        _number(_code("113734", "X-Ray Tube Current"), 300.0, _unit("mA")),
                        _number(_code("113834", "Exposure Time per Rotation"), 1.0, _unit("s")),
                    ],
                ),
            ],
        ),
        _container(
            _code("113829", "CT Dose"),
            [
                _number(_code("113830", "Mean CTDIvol"), ctdi, _unit("mGy")),
                _concept(
                    "CONTAINS",
                    _code("113835", "CTDIw Phantom Type"),
                    _code("113690", "IEC Head Dosimetry Phantom"),
                ),
                _number(_code("113838", "DLP"), ctdi * scan_length_mm / 10, _unit("mGy.cm")),
            ],
        ),
    ]
    procedure = _concept("HAS CONCEPT MOD", _code("121058", "Procedure reported"), _code("77477000", "CT", "SCT"))
    procedure.ContentSequence = Sequence(
        [
            _concept(
                "HAS CONCEPT MOD",
                _code("363703001", "Has Intent", "SCT"),
                _code("261004008", "Diagnostic Intent", "SCT"),
            )
        ]
    )
    scope = _concept("HAS OBS CONTEXT", _code("113705", "Scope of Accumulation"), _code("113014", "Study"))
    scope.ContentSequence = Sequence(
        [_item("HAS PROPERTIES", "UIDREF", _code("110180", "Study Instance UID"), UID=ds.StudyInstanceUID)]
    )
    totals = [
        _number(_code("113812", "Total Number of Irradiation Events"), 1.0, _unit("{events}", "events")),
        _number(_code("113813", "CT Dose Length Product Total"), ctdi * scan_length_mm / 10, _unit("mGy.cm")),
    ]
    start, end = ds.SeriesDate + ds.SeriesTime, ds.ContentDate + ds.ContentTime
    root = _container(
        _code("113701", "X-Ray Radiation Dose Report"),
        [
            procedure,
            _concept("HAS OBS CONTEXT", _code("121005", "Observer Type"), _code("121007", "Device")),
            _item("HAS OBS CONTEXT", "UIDREF", _code("121012", "Device Observer UID"), UID=device),
            _item("HAS OBS CONTEXT", "DATETIME", _code("113809", "Start of X-Ray Irradiation"), DateTime=start),
            _item("HAS OBS CONTEXT", "DATETIME", _code("113810", "End of X-Ray Irradiation"), DateTime=end),
            scope,
            _container(_code("113811", "CT Accumulated Dose Data"), totals),
            _container(_code("113819", "CT Acquisition"), event),
            _concept(
                "CONTAINS",
                _code("113854", "Source of Dose Information"),
                _code("113856", "Automated Data Collection"),
            ),
        ],
    )
    del root.RelationshipType
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "10011"
    root.ContentTemplateSequence = Sequence([template])
    ds.update(root)
    return header.finish(ds)


def _code(value: str, meaning: str, scheme: str = "DCM") -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def _unit(value: str, meaning: str | None = None) -> Dataset:
    ds = _code(value, meaning or value, "UCUM")
    ds.CodingSchemeVersion = "1.4"
    return ds


def _item(relationship: str, value_type: str, name: Dataset, **values: str) -> Dataset:
    ds = Dataset()
    ds.RelationshipType, ds.ValueType = relationship, value_type
    ds.ConceptNameCodeSequence = Sequence([name])
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _concept(relationship: str, name: Dataset, value: Dataset) -> Dataset:
    ds = _item(relationship, "CODE", name)
    ds.ConceptCodeSequence = Sequence([value])
    return ds


def _container(name: Dataset, content: list[Dataset]) -> Dataset:
    ds = _item("CONTAINS", "CONTAINER", name, ContinuityOfContent="SEPARATE")
    ds.ContentSequence = Sequence(content)
    return ds


def _number(name: Dataset, value: float, unit: Dataset) -> Dataset:
    ds = _item("CONTAINS", "NUM", name)
    measured = Dataset()
    measured.NumericValue = _text(value)
    measured.MeasurementUnitsCodeSequence = Sequence([unit])
    ds.MeasuredValueSequence = Sequence([measured])
    return ds


def _text(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5 section 6.2, DS)."""
    text = f"{float(value):.8f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
