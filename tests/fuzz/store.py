"""A spool and receipts in memory that know what was promised: each object ends once, and Success only for what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ichor.clock import SystemClock
from ichor.errors import DataSetMismatch, StoreRefused
from ichor.reasons import Reason
from ichor.store.receipts import Carried, Lane, Record, Refused, Stored
from ichor.store.spool import Address, Placed
from ichor.uids import is_valid_uid
from listener.reception import Origin, Reception, Refusals

from .guard import SECRET

ORIGIN = Origin(association="A", calling_ae="CT1", called_ae="ICHOR")
STATUSES = frozenset({0x0000} | {refusal.status for refusal in StoreRefused.__subclasses__()})
_REASONS = frozenset(reason.value for reason in Reason) | {
    "the SOP class is not for storage",
    "a part is no DICOM file",
    "a part's Content-Type is not application/dicom",
}


class _Incoming:
    def __init__(self, store: Store, address: Address) -> None:
        self._store, self._address, self._data = store, address, bytearray()
        self._ended = False
        store.under_way += 1

    def write(self, parts: Sequence[Any]) -> None:
        assert not self._ended, "written after its end"
        for part in parts:
            self._data += part

    def finish(self, parts: Sequence[Any] = (), *, confirm: Callable[[Placed, Carried | None], None]) -> Placed:
        self.write(parts)
        self._end()
        location = str(len(self._store.objects))
        self._store.objects[location] = self._address, bytes(self._data)
        placed = Placed(location, len(self._data))
        confirm(placed, None)
        return placed

    def discard(self) -> None:
        if not self._ended:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._store.under_way -= 1


class Store:
    """One reception and what it keeps."""

    def __init__(self) -> None:
        self.reception = Reception(
            spool=self, receipts=self, clock=SystemClock(), refusals=Refusals(SystemClock(), self)
        )
        self.begin_anew()

    def begin_anew(self) -> None:
        self.objects: dict[str, tuple[Address, bytes]] = {}
        self.records: list[Record] = []
        self.under_way = 0

    def begin(self, address: Address) -> _Incoming:
        if not all(map(is_valid_uid, address)):
            raise DataSetMismatch(Reason.INVALID_UID)
        return _Incoming(self, address)

    def append(self, lane: Lane, record: Record, *, wait: bool = True, carried: Carried | None = None) -> None:  # noqa: ARG002
        self.records.append(record)

    def check(self) -> list[bytes]:
        """Data sets that were acknowledged, in order."""
        assert not self.under_way, "an object was neither ended nor discarded"
        stored = [record for record in self.records if isinstance(record, Stored)]
        assert [record.location for record in stored] == list(self.objects), "stored without a receipt, or the reverse"
        for record in self.records:
            if isinstance(record, Refused):
                assert record.reason in _REASONS, record.reason
                assert SECRET not in "".join(map(str, record)).upper()
        for record in stored:
            address, _ = self.objects[record.location]
            assert (record.study_instance_uid, record.series_instance_uid, record.sop_instance_uid) == address[:3]
        return [self.objects[record.location][1] for record in stored]
