"""Patient and study modules of a stored source, copied byte for byte into results. Reads no pixels.

Values are kept as the bytes that the source holds, so that no wrong or missing character set and no
padding is changed on the way: whatever the PACS matched the source by, it matches the result by. What does not identify
and is no value of its attribute is left out.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from dataclasses import dataclass

from pydicom import dcmread
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_keyword, dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag, Tag

from dicom_out.validity import is_valid
from ichor.identity import COPIED
from ichor.store import disk
from ichor.store.protocol import SpoolReader
from ichor.types import Instance

logger = logging.getLogger(__name__)

# Type 2: present in every result, empty where the source has none.
_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "StudyID", "ReferringPhysicianName",
)  # fmt: skip
_LONGEST = 10_240  # characters of LT, the longest text that these modules hold

_Element = RawDataElement | DataElement


@dataclass(frozen=True, slots=True)
class SourceHeader:
    """What a result copies of its source; ``timezone`` is its Timezone Offset From UTC, if any."""

    elements: tuple[_Element, ...]
    timezone: str | None

    def copy_to(self, dataset: Dataset) -> None:
        """Replace the patient and study modules of ``dataset``, filling type 2 gaps with empty values."""
        for keyword in COPIED:
            if keyword in dataset:
                del dataset[keyword]
        for keyword in _TYPE_2:
            setattr(dataset, keyword, None)
        for element in self.elements:
            dataset[element.tag] = element


def read_header(spool: SpoolReader, source: Instance) -> SourceHeader:
    """The copied modules of a stored file, as far as it can be read: a cut or odd one gives what it has.

    Raises
    ------
    OSError
        The disk does not give it for the moment.
    """
    dataset = _read(spool, source)
    elements: list[_Element] = []
    for keyword in COPIED:
        tag = Tag(tag_for_keyword(keyword) or 0)
        if tag in dataset:
            element = _copied(dataset, tag, dictionary_VR(tag))
            if element is not None:
                elements.append(element)
    offset = str(dataset.get("TimezoneOffsetFromUTC", "")) if "TimezoneOffsetFromUTC" in dataset else ""
    return SourceHeader(tuple(elements), offset.strip() or None)


def _read(spool: SpoolReader, source: Instance) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with spool.open(source.location) as file:
                return dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(COPIED))
        except OSError as error:
            # A source that the medium lost stops no report. One that cannot be had for a moment is another matter: the
            # report would be nobody's, for ever.
            if error.errno not in disk.DAMAGE:
                raise
            logger.warning("header of %s cannot be read: %s", source.sop_instance_uid, error.strerror)
            return Dataset()
        except (
            InvalidDicomError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError,
            NotImplementedError, RecursionError, struct.error, zlib.error,
        ) as error:  # fmt: skip
            # A report must not fail on a source that cannot be read; the UIDs are known from the facts.
            logger.warning("header of %s cannot be read: %s", source.sop_instance_uid, type(error).__name__)
            return Dataset()


def _copied(dataset: Dataset, tag: BaseTag, vr: str) -> _Element | None:
    """The element as it is in the file: text as raw bytes, a sequence decoded; None when it cannot be written."""
    if tag == 0x00080005 and not _known_character_set(dataset):
        return None
    if vr == "SQ":
        return _sequence(dataset, tag)
    raw = dataset.get_item(tag)
    value = raw.value if isinstance(raw, RawDataElement) else _encoded(raw)
    if value is None or len(value) > _LONGEST:
        return None
    if not is_valid(dictionary_keyword(tag), vr, value, single=dictionary_VM(tag) == "1"):
        # Left out of the result, and empty where the result needs one: a wrong weight or day is none.
        return None
    padded = value + b" " * (len(value) % 2)
    return RawDataElement(tag, vr, len(padded), padded, 0, False, True)


def _encoded(element: DataElement) -> bytes | None:
    """pydicom decodes a few elements while it reads (the character set); their values are ASCII."""
    value = element.value
    parts = [value] if isinstance(value, str) else list(value or ())
    return "\\".join(str(part) for part in parts).encode("ascii", "replace")


def _known_character_set(dataset: Dataset) -> bool:
    """False for a term that no reader knows; the bytes are then copied without a claim about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            convert_encodings(dataset.get("SpecificCharacterSet"))
        except (LookupError, ValueError, UserWarning):
            return False
    return True


def _sequence(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    trial, sink = Dataset(), DicomBytesIO()
    sink.is_implicit_VR, sink.is_little_endian = False, True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            element = dataset[tag]
            trial.add(element)
            write_dataset(sink, trial)
        except (
            ValueError, TypeError, AttributeError, KeyError, NotImplementedError, EOFError, RecursionError,
            struct.error,
        ) as error:  # fmt: skip
            logger.warning("a sequence of the source cannot be copied: %s", type(error).__name__)
            return None
    return element if len(sink.getvalue()) <= _LONGEST else None


def to_file(dataset: Dataset) -> bytes:
    """The DICOM file of a result: preamble, file meta, data set in Explicit VR Little Endian, raw copies as they are."""
    # pydicom writes raw elements unchanged only where it believes the data set was read in the same encoding.
    dataset.set_original_encoding(False, True, dataset._character_set)
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(sink, enforce_file_format=True)
    return sink.getvalue()
