"""The seam between the worker and `dicom_out`: findings in, encoded DICOM objects out. Not an encoder itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ichor.types import Findings, Instance, Job, ResultSet

if TYPE_CHECKING:
    from ichor.arrays import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedObject:
    """One DICOM file: preamble, file meta, data set."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    kind: str  # segmentation, parametric_map, report, text_report
    data: bytes


class Encoder(Protocol):
    """Implemented by `dicom_out`; the worker gets one passed in."""

    def encode(
        self,
        findings: Findings,
        *,
        job: Job,
        sources: Sequence[Instance],
        volume: Volume | None,
        predecessor: ResultSet | None,
    ) -> list[EncodedObject]:
        """Encode all objects of one result set, byte-identical for equal arguments.

        Parameters
        ----------
        findings
            What to say.
        job
            Its ``queued_at`` is the objects' time (UTC).
        sources
            Instances that were used (or, when not analysed, that the answer is about); never empty. Patient and study
            modules are copied from the first one's stored header.
        volume
            The grid that masks and maps lie on; None when not analysed.
        predecessor
            The result set that this one amends, if any.
        """
