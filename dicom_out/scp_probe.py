"""What a destination takes, for ``ichor doctor``. Stores nothing."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ParametricMapStorage,
    SegmentationStorage,
)

from dicom_out.transport import Unreachable, accepted_classes, echo
from ichor.types import Destination

RESULT_CLASSES: tuple[str, ...] = (
    SegmentationStorage, ParametricMapStorage, Comprehensive3DSRStorage, BasicTextSRStorage,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """``echo``: None when C-ECHO succeeded, else why not. Classes by name; empty when it could not be asked."""

    echo: str | None
    accepted: tuple[str, ...] = ()
    not_accepted: tuple[str, ...] = ()


def probe(destination: Destination, *, calling_ae: str) -> Probe:
    """C-ECHO, then which of our result classes would be accepted."""
    answer: str | None = None
    try:
        echo(destination, calling_ae=calling_ae)
    except Unreachable as error:
        answer = error.reason
        if error.no_listener:
            return Probe(echo=answer)
    try:
        accepted = accepted_classes(destination, RESULT_CLASSES, calling_ae=calling_ae)
    except Unreachable as error:
        return Probe(echo=answer or error.reason)
    return Probe(
        echo=answer,
        accepted=tuple(UID(uid).name for uid in accepted),
        not_accepted=tuple(UID(uid).name for uid in RESULT_CLASSES if uid not in accepted),
    )
