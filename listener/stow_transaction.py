"""One Store transaction (PS3.18 section 10.5): parts of a body in, objects to `Reception`. Knows no HTTP.

It stands to the objects as an association does: one name, one origin, one end.
"""

from __future__ import annotations

from collections.abc import Mapping

from ichor.errors import CannotUnderstand
from ichor.uids import is_valid_uid
from listener.multipart import Malformed, media_type
from listener.part10 import FileHead, FileMeta
from listener.reception import Arrival, Origin, Reception, StoreCommand
from listener.stow_response import SUCCESS, Outcome

DICOM = "application/dicom"
# So that the answer, which names each, is bounded.
MOST_PARTS = 20_000
_NO_FILE = "a part is no DICOM file"
_OTHER_TYPE = "a part's Content-Type is not application/dicom"


class TooManyParts(Malformed):
    """More objects than one request may bring."""


class StoreTransaction:
    """Told of the parts of one body (`listener.multipart.Parts`); keeps what became of each.

    Parameters
    ----------
    study
        The only study whose objects are taken; empty: any.
    """

    def __init__(self, *, reception: Reception, origin: Origin, study: str = "") -> None:
        self.outcomes: list[Outcome] = []
        self._reception = reception
        self._origin = origin
        self._study = study
        self._head: FileHead | None = None
        self._meta = FileMeta("", "", "")
        self._arrival: Arrival | None = None
        self._refused: str | None = None

    @property
    def stored(self) -> int:
        """Objects acknowledged so far."""
        return sum(outcome.status == SUCCESS for outcome in self.outcomes)

    def begin(self, headers: Mapping[str, str]) -> None:
        if len(self.outcomes) >= MOST_PARTS:
            raise TooManyParts(f"more than {MOST_PARTS} objects in one request")
        kind = media_type(headers["content-type"])[0] if "content-type" in headers else DICOM
        self._refused = None if kind == DICOM else _OTHER_TYPE
        self._head = FileHead()
        self._meta = FileMeta("", "", "")

    def content(self, data: memoryview) -> None:
        if self._refused is not None:
            return
        if self._arrival is None:
            assert self._head is not None
            try:
                read = self._head.feed(data)
            except CannotUnderstand as refusal:
                self._refused = refusal.reason
                return
            if read is None:
                return
            self._meta, data = read
            self._arrival = self._reception.begin(
                StoreCommand(
                    sop_class_uid=self._meta.sop_class_uid, sop_instance_uid=self._meta.sop_instance_uid,
                    transfer_syntax_uid=self._meta.transfer_syntax_uid, study_instance_uid=self._study,
                ),
                self._origin,
            )  # fmt: skip
        if data:
            self._arrival.feed(data)

    def end(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            status = arrival.end()
        else:
            status = self._reception.refuse(CannotUnderstand(self._refused or _NO_FILE), self._origin, "")
        known = is_valid_uid(self._meta.sop_class_uid) and is_valid_uid(self._meta.sop_instance_uid)
        sop_class, sop_instance = self._meta[:2] if known else ("", "")
        self.outcomes.append(Outcome(sop_class, sop_instance, status))

    def cut(self) -> None:
        """No more comes: nothing of the object under way stays."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.cut()
