"""A volume's slices as the source images that highdicom asks for. Made from facts: no stored file is parsed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydicom.dataset import Dataset

from dicom_out.context import ResultContext
from ichor.arrays import Volume
from ichor.types import Instance
from ichor.uids import is_valid_uid, uid_of

_EVEN_MM = 0.01


def source_images(context: ResultContext, volume: Volume, slices: Iterable[int]) -> list[Dataset]:
    """One data set per slice: references and exact plane, and no identity (`ResultContext.finish` brings that)."""
    frame_of_reference = _frame_of_reference(context, volume)
    orientation = _orientation(volume)
    return [_image(volume, k, frame_of_reference, orientation) for k in slices]


def _frame_of_reference(context: ResultContext, volume: Volume) -> str:
    """The source's; where that is no UID, one made of it, so that results of the same source still lie together."""
    told = volume.frame_of_reference_uid
    if not told:
        return context.uid("frame of reference")
    return told if is_valid_uid(told) else uid_of("frame of reference", told)


def _orientation(volume: Volume) -> list[float]:
    geometry = volume.sources[0].geometry
    if geometry is not None and geometry.orientation_lps is not None:
        return list(geometry.orientation_lps)
    return [float(v) for v in (*volume.row_lps, *volume.column_lps)]


def _image(volume: Volume, index: int, frame_of_reference: str, orientation: list[float]) -> Dataset:
    source: Instance = volume.sources[index]
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = source.sop_class_uid, source.sop_instance_uid
    image.StudyInstanceUID, image.SeriesInstanceUID = source.study_instance_uid, source.series_instance_uid
    image.Modality = source.modality
    for keyword in (
        "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
        "StudyTime", "ReferringPhysicianName", "PositionReferenceIndicator",
    ):  # fmt: skip
        setattr(image, keyword, None)
    image.Rows, image.Columns = volume.array_zyx.shape[1:]
    image.FrameOfReferenceUID = frame_of_reference
    image.ImagePositionPatient = _decimal_strings(volume.origins_lps[index])
    image.ImageOrientationPatient = _decimal_strings(orientation)
    image.PixelSpacing = _decimal_strings(volume.pixel_spacing)
    image.SliceThickness = _decimal_strings([_thickness(volume)])[0]
    spacing = _even_spacing(volume)
    if spacing is not None:
        image.SpacingBetweenSlices = _decimal_strings([spacing])[0]
    return image


def _even_spacing(volume: Volume) -> float | None:
    """Distance of neighbouring slices along the normal, where it is the same for all (PS3.3 C.7.6.16.2.1)."""
    gaps = np.diff(volume.slice_positions)
    return float(gaps.mean()) if gaps.size and np.ptp(gaps) < _EVEN_MM else None


def _thickness(volume: Volume) -> float:
    if volume.slice_thickness:
        return volume.slice_thickness
    return float(sorted(volume.slice_extents)[len(volume.slice_extents) // 2])


def _decimal_strings(values: Iterable[float]) -> list[str]:
    """Shortest DS (16 characters at most) that reads back as the same number where there is one."""
    texts = []
    for value in values:
        text, digits = repr(float(value)), 16
        while len(text) > 16:
            digits -= 1
            text = f"{float(value):.{digits}g}"
        texts.append(text)
    return texts
