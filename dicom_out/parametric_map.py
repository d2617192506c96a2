"""A quantity per voxel as a float Parametric Map (PS3.3 A.75). Only frames that hold something are stored."""

from __future__ import annotations

import re

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import DerivedPixelContrastValues, RealWorldValueMapping
from highdicom.pm import ParametricMap as ParametricMapImage
from pydicom.dataset import Dataset
from pydicom.uid import ParametricMapStorage

from dicom_out.codes import BRAIN, concept, plain
from dicom_out.context import RESEARCH_NOTICE, ResultContext
from dicom_out.grid import source_images
from ichor.arrays import Volume
from ichor.encoding import EncodedObject
from ichor.types import ParametricMap

KIND = "parametric_map"


def encode_map(context: ResultContext, volume: Volume, values: ParametricMap, *, index: int) -> EncodedObject | None:
    """One object for one map, in a series of its own; None when it is zero everywhere.

    Raises
    ------
    ValueError
        When the map does not have the volume's shape.
    """
    if values.values_zyx.shape != volume.array_zyx.shape:
        raise ValueError(f"map of {values.values_zyx.shape} on a volume of {volume.array_zyx.shape}")
    slices = np.flatnonzero(values.values_zyx.any(axis=(1, 2)))
    if slices.size == 0:
        return None
    low, high = values.value_range
    image = ParametricMapImage(
        source_images=source_images(context, volume, slices),
        pixel_array=np.ascontiguousarray(values.values_zyx[slices], dtype=np.float32),
        series_instance_uid=context.uid(f"{KIND} series", index),
        series_number=1,
        sop_instance_uid=context.uid(KIND, index),
        instance_number=1,
        manufacturer="",
        manufacturer_model_name="",
        software_versions="",
        device_serial_number="",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label=plain(values.label, 16),
                lut_explanation=plain(values.label, 64),
                unit=concept(values.unit),
                value_range=(float(low), float(high)),
                slope=1.0,
                intercept=0.0,
                quantity_definition=concept(values.quantity),
            )
        ],
        # LINEAR would need a width of 1 or more (PS3.3 C.11.2.1.2.1).
        voi_lut_transformations=[
            VOILUTTransformation(
                window_center=(low + high) / 2, window_width=high - low, voi_lut_function="LINEAR_EXACT"
            )
        ],
        content_label=_label(values.label),
        content_description=plain(f"{values.label}. {RESEARCH_NOTICE}", 64),
        content_creator_name="Ichor^",
        derived_pixel_contrast=DerivedPixelContrastValues.QUANTITY,
        derivation=concept(values.derivation),
    )
    shared = image.SharedFunctionalGroupsSequence[0]
    shared.FrameAnatomySequence = [_anatomy()]
    image.DerivationDescription = plain(" ".join([*context.provenance(), RESEARCH_NOTICE]), 1024)
    return context.finish_image(
        image, kind=KIND, sop_class_uid=ParametricMapStorage, index=index, series=index, title=values.label
    )


def _anatomy() -> Dataset:
    """Frame Anatomy (PS3.3 C.7.6.16.2.8); a widely used reader fails without it."""
    item = Dataset()
    item.FrameLaterality = "U"
    item.AnatomicRegionSequence = [concept(BRAIN)]
    return item


def _label(text: str) -> str:
    """Content Label is CS: at most 16 of A-Z, 0-9, space and underscore."""
    return re.sub(r"[^A-Z0-9]+", "_", plain(text).upper()).strip("_")[:16].strip("_") or "MAP"
