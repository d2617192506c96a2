"""Drawn slices as Secondary Capture images (PS3.3 A.8.1), for viewers that show no maps. Draws nothing, measures nothing.

Pictures, not measurements: they carry no place in space, only which way the patient lies in them and what they show.
"""

from __future__ import annotations

from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SecondaryCaptureImageStorage
from pydicom.valuerep import DA, TM

from dicom_out.codes import plain
from dicom_out.context import RESEARCH_NOTICE, ResultContext, cite
from ichor.arrays import Volume
from ichor.encoding import EncodedObject, Overlay
from ichor.types import Instance

KIND = "overlay"


def encode_overlay(context: ResultContext, volume: Volume, overlay: Overlay, *, index: int) -> EncodedObject:
    """One RGB image, with the CT images that it was drawn from as its sources; all of a result lie in one series."""
    image = SCImage(
        pixel_array=overlay.rgb_yx,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        # As drawn: rows run to the patient's left, columns to the back.
        patient_orientation=("L", "P"),
        study_instance_uid=context.job.study_instance_uid,
        series_instance_uid=context.uid(f"{KIND} series"),
        series_number=1,
        sop_instance_uid=context.uid(KIND, index),
        instance_number=1,
        manufacturer="",
    )
    image.ConversionType = "WSD"
    image.DateOfSecondaryCapture = DA(context.time.strftime("%Y%m%d"))
    image.TimeOfSecondaryCapture = TM(context.time.strftime("%H%M%S.%f"))
    image.BodyPartExamined = "HEAD"
    # Annotation that identifies the patient is what this asks for (PS3.3 C.7.6.1); there is none.
    image.BurnedInAnnotation = "NO"
    image.ImageComments = plain(f"{overlay.caption}. {RESEARCH_NOTICE}", 1024)
    image.DerivationDescription = plain(" ".join([*context.provenance(), RESEARCH_NOTICE]), 1024)
    image.SourceImageSequence = [_source(one) for one in (volume.sources[overlay.slice], *overlay.beside)]
    if overlay.beside:
        # Of two heads no direction is that of the picture: empty, as type 2C may be.
        image.PatientOrientation = []
    cite(image, context.amended(KIND))
    return context.finish(
        image, kind=KIND, sop_class_uid=SecondaryCaptureImageStorage, index=index, label=overlay.caption
    )


def _source(instance: Instance) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = instance.sop_class_uid
    item.ReferencedSOPInstanceUID = instance.sop_instance_uid
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    return item
