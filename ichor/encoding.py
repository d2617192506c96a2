"""The seam between the worker and `dicom_out`: findings in, encoded DICOM objects out. Not an encoder itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ichor.types import Findings, Instance, Job, ResultSet

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ichor.arrays import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedObject:
    """One DICOM file: preamble, file meta, data set."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    kind: str  # segmentation, parametric_map, overlay, report, text_report
    data: bytes
    label: str = ""  # what tells it from others of its kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A drawn slice for viewers that show no maps: colours over grey, RESEARCH burned in, nobody's identity.

    Attributes
    ----------
    rgb_yx : uint8 (rows, columns, 3); the patient's right is on the left, the front up.
    slice : its index in the volume.
    middle : the one to show where there is room for one.
    beside : images of another scan that is drawn beside it.
    """

    rgb_yx: npt.NDArray[np.uint8]
    slice: int
    middle: bool
    caption: str
    beside: tuple[Instance, ...] = ()


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
        overlays: Sequence[Overlay] = (),
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
        overlays
            Slices of ``volume`` to send as pictures as well.
        """
