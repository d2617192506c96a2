"""Requests for storage commitment as evidence: a sender names what it believes to have sent. Commits to nothing.

Storage Commitment Push Model, PS3.4 annex J. While ``listener.commitment`` is off, each request is answered with
"processing failure": the sender learns at once that nobody took responsibility, and that no report will come.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import ImplicitVRLittleEndian

from ichor.messages import ContentAnnounced
from ichor.store.journal import JournalReader
from ichor.uids import is_valid_uid

_LOG = logging.getLogger(__name__)
PROCESSING_FAILURE = 0x0110  # PS3.7 annex C
INVALID_ARGUMENT = 0x0115
_REQUEST = 1  # action type, PS3.4 J.3.2
_MOST_BYTES = 8 << 20
_MOST_OBJECTS = 20_000
_MOST_WAITING = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one N-ACTION named."""

    association: str
    calling_ae: str
    sop_instance_uids: tuple[str, ...]


def read_request(
    information: BytesIO | None, *, action_type: int | None, transfer_syntax_uid: str
) -> tuple[str, ...] | None:
    """SOP Instance UIDs that an N-ACTION asks to commit; None when it is no such request, or none that can be read."""
    if action_type != _REQUEST or information is None or information.getbuffer().nbytes > _MOST_BYTES:
        return None
    try:
        information.seek(0)
        data = read_dataset(information, transfer_syntax_uid == ImplicitVRLittleEndian, True)
        found = [_uid(item) for item in data.get("ReferencedSOPSequence") or ()]
    except Exception as error:  # noqa: BLE001 - the parser raises anything on malformed input
        _LOG.warning("a request for storage commitment cannot be read: %s", type(error).__name__)
        return None
    uids = tuple(dict.fromkeys(uid for uid in found if uid is not None))
    return uids if uids and None not in found and len(uids) <= _MOST_OBJECTS else None


def _uid(item: Dataset) -> str | None:
    uid = str(item.get("ReferencedSOPInstanceUID") or "")
    return uid if is_valid_uid(uid) else None


class Announcements:
    """Requests not yet told to the assembler; bounded, the oldest go first. Safe from any thread, never waits."""

    def __init__(self) -> None:
        self.on_added: Callable[[], None] = lambda: None
        self._waiting: deque[Request] = deque(maxlen=_MOST_WAITING)

    def add(self, request: Request) -> None:
        self._waiting.append(request)
        self.on_added()

    def take(self) -> list[Request]:
        taken = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        return taken

    def put_back(self, requests: Sequence[Request]) -> None:
        self._waiting.extendleft(reversed(requests))


def announced(request: Request, journal: JournalReader) -> list[ContentAnnounced]:
    """The request by study, as the journal knows its objects."""
    studies: dict[str, list[str]] = {}
    unknown = 0
    for uid in request.sop_instance_uids:
        rows = journal.by_instance(uid)
        if rows:
            studies.setdefault(rows[-1].stored.study_instance_uid, []).append(uid)
        else:
            unknown += 1
    return [
        ContentAnnounced(
            study_instance_uid=study, association=request.association, calling_ae=request.calling_ae,
            sop_instance_uids=tuple(uids), unknown=unknown,
        )
        for study, uids in studies.items()
    ]  # fmt: skip
