"""The one list of reasons why something is refused or not analysed. Shown to people; no PHI, no file names."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Texts that the console, ``ichor why`` and reports print as they stand; some end in a detail after a colon."""

    # of an object
    INVALID_UID = "a UID is not valid"
    NO_STUDY_OR_SERIES = "no readable Study or Series Instance UID"
    UID_MISMATCH = "command and data set disagree on the SOP Instance or Class UID"
    CUT_SHORT = "the object is cut short"
    HEADER_UNREADABLE = "the header cannot be read"
    NO_PIXELS = "no pixel data"
    PIXELS_SHORT = "pixel data are shorter than the header says"
    NOT_AN_IMAGE = "not an image"
    DUPLICATE_OTHER_BYTES = "one SOP Instance UID came twice with different pixels"
    LOSSY = "lossy compressed images are not measured"
    UNSUPPORTED_SYNTAX = "transfer syntax cannot be decoded"
    UNSUPPORTED_PIXELS = "pixel format is not a single-sample grey image"
    # of a series
    LOCALIZER = "a localizer"
    DERIVED = "a derived image"
    SECONDARY_CAPTURE = "a secondary capture"
    REPORT = "a report"
    CONTRAST = "contrast was given"
    BONE_KERNEL = "bone kernel"
    NOT_HEAD = "not a head"
    MADE_BY_ICHOR = "made by Ichor"
    ONE_SLICE = "one slice only"
    SAME_PLACE = "two slices at one place"
    NO_GEOMETRY = "position, orientation or pixel spacing is missing"
    MIXED_GEOMETRY = "slices of different size, orientation or frame of reference"
    TOO_THICK = "slice thickness is above 5 mm"
    GAP = "a slice is missing"
    SHORT = "the series lacks slices"
    REMOVED = "earlier images of the series were removed by retention; send the whole series again"
    MULTIFRAME = "multi-frame images are not measured by this version"
    NOT_AXIAL = "not an axial series"
    # of a study
    TWO_PATIENTS = "two Patient IDs under one Study Instance UID"
    NO_PIPELINE = "no pipeline applies"
    NO_BRAIN = "no brain found"
    # of a delivery
    IDENTITY_MISMATCH = "the identity of the study changed after the result was made"
    WORKER_DIED = "the worker died on this job"
