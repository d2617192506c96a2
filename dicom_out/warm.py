"""A result of two tiny slices that stands for no patient, so that the first real one need not wait for imports.

The writers load the standard's tables (about a second) when the first object of each kind is made.
"""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np

from ichor.arrays import Volume
from ichor.encoding import Overlay
from ichor.types import (
    Algorithm,
    Code,
    FindingGroup,
    Findings,
    Instance,
    Job,
    Measurement,
    ParametricMap,
    Priority,
    Segmentation,
)

_CODE = Code(value="12738006", scheme="SCT", meaning="Brain")


class NoFiles:
    """A spool whose files are all empty."""

    def open(self, location: str) -> BinaryIO:  # noqa: ARG002
        return io.BytesIO()

    def read_range(self, location: str, offset: int, length: int) -> bytes:  # noqa: ARG002
        return b""


def tiny_volume() -> Volume:
    sources = tuple(
        Instance(
            sop_instance_uid=f"2.25.{k + 1}", sop_class_uid="1.2.840.10008.5.1.4.1.1.2", series_instance_uid="2.25.8",
            study_instance_uid="2.25.9", transfer_syntax_uid="1.2.840.10008.1.2.1", modality="CT", location="",
            file_sha256="", content_sha256="", identity_sha256="", patient_sha256="", accession_sha256=None,
            association="", calling_ae="", called_ae="", priority=None, received_at=0.0,
        )
        for k in range(2)
    )  # fmt: skip
    return Volume(
        array=np.zeros((2, 4, 4), np.int16), origins_lps=np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        row_lps=np.array([1.0, 0.0, 0.0]), column_lps=np.array([0.0, 1.0, 0.0]), pixel_spacing=(1.0, 1.0),
        slice_thickness=1.0, frame_of_reference_uid="2.25.7", unit="[hnsf'U]", sources=sources,
    )  # fmt: skip


def tiny_findings() -> Findings:
    mask = np.zeros((2, 4, 4), np.uint8)
    mask[:, 1:3, 1:3] = 1
    segment = Segmentation(label="-", mask_zyx=mask, category=_CODE, type=_CODE, site=_CODE, tracking_id="-")
    measured = (Measurement(name="-", value=1.0, unit="mL", code=_CODE, method="-"),)
    group = FindingGroup(tracking_id="-", finding=_CODE, site=_CODE, segmentation=segment, measurements=measured)
    values = ParametricMap(label="-", values_zyx=mask.astype(np.float32), quantity=_CODE, unit=_CODE, derivation=_CODE)
    return Findings(
        outcome="found", summary=("-",), algorithm=Algorithm(pipeline="-", version="-", parameters={}),
        groups=(group,), maps=(values,), measurements=measured,
    )  # fmt: skip


def tiny_overlay() -> Overlay:
    return Overlay(rgb_yx=np.zeros((4, 4, 3), np.uint8), slice=0, middle=True, caption="-")


def tiny_job() -> Job:
    return Job(
        job_id="-", study_instance_uid="2.25.9", pipeline="-", revision=1, priority=Priority.ROUTINE, inputs={},
        received_at=0.0, queued_at=0.0,
    )  # fmt: skip
