"""Masks as a BINARY Segmentation (PS3.3 A.51), native, one segment per mask. Measures nothing.

BINARY because it is the only type that every reader tried showed right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from highdicom.seg import Segmentation as SegmentationImage
from pydicom.uid import SegmentationStorage

from dicom_out.codes import concept, plain
from dicom_out.context import RESEARCH_NOTICE, ResultContext
from dicom_out.grid import source_images
from ichor.arrays import Volume
from ichor.encoding import EncodedObject
from ichor.types import Findings, Segmentation

KIND = "segmentation"


def segments_of(findings: Findings) -> tuple[Segmentation, ...]:
    """The masks of all groups in order, each once; segment numbers count from 1 in this order."""
    found: list[Segmentation] = []
    for group in findings.groups:
        if group.segmentation is not None and not any(group.segmentation is s for s in found):
            found.append(group.segmentation)
    return tuple(found)


def encode_segmentation(context: ResultContext, volume: Volume, segments: Sequence[Segmentation]) -> EncodedObject:
    """One object with all masks; frames on which a segment is empty are left out.

    Raises
    ------
    ValueError
        When a mask does not have the volume's shape.
    """
    image = SegmentationImage(
        source_images=source_images(context, volume, range(len(volume.sources))),
        pixel_array=_pixels(segments, volume.array_zyx.shape),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(context, s, number) for number, s in enumerate(segments, start=1)],
        series_instance_uid=context.uid(f"{KIND} series"),
        series_number=1,
        sop_instance_uid=context.uid(KIND),
        instance_number=1,
        manufacturer="",
        manufacturer_model_name="",
        software_versions="",
        device_serial_number="",
        content_label="SEGMENTATION",
        content_description=RESEARCH_NOTICE,
        content_creator_name="Ichor^",
    )
    return context.finish_image(image, kind=KIND, sop_class_uid=SegmentationStorage)


def _pixels(segments: Sequence[Segmentation], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """A label volume where no two masks overlap, which is several times faster; else one channel per mask."""
    labels = np.zeros(shape, np.uint8)
    for number, segment in enumerate(segments, start=1):
        if segment.mask_zyx.shape != shape:
            raise ValueError(f"mask of {segment.mask_zyx.shape} on a volume of {shape}")
        inside = segment.mask_zyx != 0
        if number > 255 or labels[inside].any():
            return np.stack([s.mask_zyx != 0 for s in segments], axis=-1).astype(np.uint8)
        labels[inside] = number
    return labels


def _describe(context: ResultContext, segment: Segmentation, number: int) -> SegmentDescription:
    description = SegmentDescription(
        segment_number=number,
        segment_label=plain(segment.label, 64),
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=context.algorithm_sequence(),
        tracking_uid=context.tracking_uid(segment.tracking_id),
        tracking_id=plain(segment.tracking_id, 64),
        anatomic_regions=[concept(segment.site)],
        display_color=CIELabColor(*segment.colour_lab),
    )
    description.SegmentDescription = plain(" ".join([*context.provenance(), RESEARCH_NOTICE]), 1024)
    return description
