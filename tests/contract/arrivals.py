"""One slice of a head CT as the receiver would tell of it. No pixels, no network."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from ichor.types import Geometry, Instance, Pixels

CT = "1.2.840.10008.5.1.4.1.1.2"


def make_slice(
    *,
    study: str = "1.2.3",
    series: str = "1.2.3.1",
    number: int,
    z: float | None = None,
    spacing: float = 5.0,
    thickness: float | None = None,
    count: int | None = None,
    calling_ae: str = "CT1",
    association: str = "a1",
    acquisition: int | None = 1,
    tilt: float = 0.0,
    patient: str = "p",
    identity: str = "i",
    received_at: float = 0.0,
    **changes: object,
) -> Instance:
    """One axial head CT slice as the receiver would tell of it."""
    place = spacing * number if z is None else z
    sine, cosine = float(np.sin(np.deg2rad(tilt))), float(np.cos(np.deg2rad(tilt)))
    uid = f"{series}.{number}"
    whose = hashlib.sha256(patient.encode()).hexdigest()[:32] + "0" * 32
    made = Instance(
        sop_instance_uid=uid,
        sop_class_uid=CT,
        series_instance_uid=series,
        study_instance_uid=study,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT",
        location=f"{study}/{series}/{uid}",
        file_sha256=hashlib.sha256(f"{uid}{identity}".encode()).hexdigest(),
        content_sha256=hashlib.sha256(uid.encode()).hexdigest(),
        identity_sha256=identity,
        patient_sha256=whose,
        accession_sha256=None,
        association=association,
        calling_ae=calling_ae,
        called_ae="ICHOR",
        priority=None,
        received_at=received_at,
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        series_number=2,
        instance_number=number,
        acquisition_number=acquisition,
        body_part="HEAD",
        kernel="H30s",
        counts=(("ImagesInAcquisition", count),) if count is not None else (),
        geometry=Geometry(
            rows=64,
            columns=64,
            position_lps=(-110.0, -110.0, place),
            orientation_lps=(1.0, 0.0, 0.0, 0.0, cosine, sine),
            pixel_spacing=(0.5, 0.5),
            slice_thickness=spacing if thickness is None else thickness,
            frame_of_reference_uid="1.2.3.9",
        ),
        pixels=Pixels(offset=1000, length=8192, encapsulated=False, lossy=False, rescale_intercept=-1024.0),
    )
    return replace(made, **changes)  # type: ignore[arg-type]
