"""What the receiver writes down, in order: one record per acknowledged object, association end, refusal and request.

How a record is laid out in a file is `ichor.store.receipt_codec`'s business. Not an index, and not the event log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from ichor.store.disk import Bytes
from ichor.types import Priority

RECOVERED = "RECOVERED"  # the calling AE title of what lay in the spool and no receipt spoke of


class Lane(StrEnum):
    """Which log a record goes to: what is urgent is read first."""

    STAT = "stat"
    ROUTINE = "routine"


class Stored(NamedTuple):
    """One object that was acknowledged with Success; all UIDs are valid ones, titles are printable ASCII."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    location: str  # key in the spool
    length: int  # bytes of the stored file, File Meta Information included
    association: str
    calling_ae: str
    called_ae: str
    sender_priority: Priority | None  # set for this sender
    called_priority: Priority | None  # STAT when the called AE title means it
    command_priority_high: bool  # C-STORE-RQ priority HIGH
    received_at: float  # POSIX seconds, just before Success was answered


class Ended(NamedTuple):
    """An association ended, after everything that it stored. ``released`` False: aborted or lost."""

    association: str
    released: bool
    at: float


class Refused(NamedTuple):
    """A refusal: PHI-free reason; ``status`` is ``0xA700`` and the like, or ``rejected`` for an association."""

    calling_ae: str
    status: str
    reason: str
    study_instance_uid: str
    at: float


class CommitmentRequested(NamedTuple):
    """An N-ACTION that asks for storage commitment. ``referenced``: (SOP Class UID, SOP Instance UID) pairs."""

    association: str
    calling_ae: str
    called_ae: str
    transaction_uid: str
    referenced: tuple[tuple[str, str], ...]
    at: float


Record = Stored | Ended | Refused | CommitmentRequested


class Carried(NamedTuple):
    """The bytes of an object that its segment has, but not yet on the medium: its receipt carries them there.

    ``settle(losses)`` returns when the segments that were written so far are on the medium, with all entries that lead
    there; OutOfResources when that cannot be said of what was written since ``losses`` was asked for.
    """

    parts: Sequence[Bytes]  # of the whole Part 10 file
    losses: int
    settle: Callable[[int], None]


class Receipt(NamedTuple):
    """A record and where it was read: ``end`` is the cursor of ``file`` once the record is taken."""

    record: Record
    file: str
    end: int
    writer: str
