"""One C-STORE: is it sound, make it durable, say which status. Knows no network: the seam for any receive path.

Nothing that is merely wrong with an object is judged here: what can be stored is stored.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ichor import metrics
from ichor.clock import Clock
from ichor.errors import CannotUnderstand, ClassNotSupported, DataSetMismatch, OutOfResources, StoreRefused
from ichor.messages import ReceiveRefused
from ichor.reasons import Reason
from ichor.store.disk import Bytes
from ichor.store.gate import Gate
from ichor.store.journal import StoredObject
from ichor.store.spool import Address, Placed
from ichor.types import Priority, Stage
from ichor.uids import is_valid_uid
from listener.classes import is_storage_class
from listener.identifiers import find_identifiers

_LOG = logging.getLogger(__name__)
SUCCESS = 0x0000
_MOST_REFUSALS = 10_000
_MOST_LABELS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The association that an object came by."""

    association: str
    calling_ae: str
    called_ae: str
    sender_priority: Priority | None = None
    called_priority: Priority | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRequest:
    """A C-STORE-RQ as received: the command's UIDs and the data set's bytes, none of them checked."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: Bytes
    priority_high: bool = False


class Spool(Protocol):
    @property
    def gate(self) -> Gate: ...

    def put(self, address: Address, data_set: Sequence[Bytes]) -> Placed:
        """Durable when it returns; DataSetMismatch or OutOfResources otherwise."""


class Acknowledgements(Protocol):
    def store(self, stored: StoredObject) -> bool:
        """Durable when it returns; OutOfResources otherwise."""


def check(request: StoreRequest) -> Address:
    """Where the object belongs.

    Raises
    ------
    ClassNotSupported, DataSetMismatch, CannotUnderstand
        As docs/contract.md says.
    """
    if not is_valid_uid(request.sop_class_uid):
        raise DataSetMismatch(Reason.INVALID_UID)
    if not is_storage_class(request.sop_class_uid):
        raise ClassNotSupported("the SOP class is not for storage")
    if not is_valid_uid(request.sop_instance_uid) or not is_valid_uid(request.transfer_syntax_uid):
        raise DataSetMismatch(Reason.INVALID_UID)
    said = find_identifiers(request.data_set, request.transfer_syntax_uid)
    if said.sop_class not in (None, request.sop_class_uid):
        raise DataSetMismatch(Reason.UID_MISMATCH)
    if said.sop_instance not in (None, request.sop_instance_uid):
        raise DataSetMismatch(Reason.UID_MISMATCH)
    if said.study is None or said.series is None:
        raise CannotUnderstand(Reason.NO_STUDY_OR_SERIES)
    if not is_valid_uid(said.study) or not is_valid_uid(said.series):
        raise DataSetMismatch(Reason.INVALID_UID)
    return Address(
        study_instance_uid=said.study, series_instance_uid=said.series, sop_instance_uid=request.sop_instance_uid,
        sop_class_uid=request.sop_class_uid, transfer_syntax_uid=request.transfer_syntax_uid,
    )  # fmt: skip


class Refusals:
    """What was refused and not yet told; bounded, the oldest go first. Safe from any thread, never waits."""

    def __init__(self, clock: Clock) -> None:
        self.on_added: Callable[[], None] = lambda: None
        self._clock = clock
        self._waiting: deque[ReceiveRefused] = deque(maxlen=_MOST_REFUSALS)

    def add(self, *, calling_ae: str, status: str, reason: str, study_instance_uid: str = "") -> None:
        _LOG.warning("refused: status=%s calling_ae=%s reason=%s", status, calling_ae, reason)
        self._waiting.append(
            ReceiveRefused(
                study_instance_uid=study_instance_uid, calling_ae=calling_ae, status=status, reason=reason,
                at=self._clock.time(),
            )
        )  # fmt: skip
        self.on_added()

    def take(self) -> list[ReceiveRefused]:
        taken = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        return taken

    def put_back(self, refusals: Sequence[ReceiveRefused]) -> None:
        self._waiting.extendleft(reversed(refusals))


class Reception:
    """Answers C-STOREs: Success only after the spool and the journal have the object.

    Parameters
    ----------
    spool, journal
        Where it goes; both return only when it is durable.
    refusals
        Told of every failing answer.
    on_stored
        Called after each acknowledged object, in the caller's thread; must not wait.
    """

    def __init__(
        self, *, spool: Spool, journal: Acknowledgements, clock: Clock, refusals: Refusals,
        on_stored: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._spool = spool
        self._journal = journal
        self._clock = clock
        self._refusals = refusals
        self._on_stored = on_stored
        self._labels: set[str] = set()
        self._lock = threading.Lock()

    def receive(self, request: StoreRequest, origin: Origin) -> int:
        """The status to answer with; never raises."""
        began = self._clock.monotonic()
        study = ""
        try:
            address = check(request)
            study = address.study_instance_uid
            with self._spool.gate.enter(study):
                stored = self._store(request, origin, address)
        except StoreRefused as refusal:
            return self._refuse(refusal, origin, study)
        except Exception:  # noqa: BLE001 - the edge of one request: the sender is told, the association goes on
            metrics.LOOP_ERRORS.labels("receive").inc()
            _LOG.exception("unexpected error while an object was stored")
            return self._refuse(OutOfResources("an unexpected error"), origin, study)
        metrics.INSTANCES_STORED.labels(self._label(origin.calling_ae)).inc()
        metrics.BYTES_STORED.inc(stored.length)
        metrics.STAGE_SECONDS.labels(Stage.RECEIVE.value).observe(self._clock.monotonic() - began)
        self._on_stored()
        return SUCCESS

    def _store(self, request: StoreRequest, origin: Origin, address: Address) -> StoredObject:
        placed = self._spool.put(address, [request.data_set])
        stored = StoredObject(
            sop_instance_uid=address.sop_instance_uid, sop_class_uid=address.sop_class_uid,
            series_instance_uid=address.series_instance_uid, study_instance_uid=address.study_instance_uid,
            transfer_syntax_uid=address.transfer_syntax_uid,
            location=placed.location, length=placed.length, file_sha256=placed.file_sha256,
            association=origin.association, calling_ae=origin.calling_ae, called_ae=origin.called_ae,
            sender_priority=origin.sender_priority, called_priority=origin.called_priority,
            command_priority_high=request.priority_high, received_at=self._clock.time(),
        )  # fmt: skip
        self._journal.store(stored)
        return stored

    def _refuse(self, refusal: StoreRefused, origin: Origin, study: str) -> int:
        status = f"0x{refusal.status:04X}"
        metrics.STORES_REFUSED.labels(status).inc()
        self._refusals.add(calling_ae=origin.calling_ae, status=status, reason=refusal.reason, study_instance_uid=study)
        return refusal.status

    def _label(self, calling_ae: str) -> str:
        """The AE title as a metric label, bounded: whoever connects chooses it."""
        with self._lock:
            if calling_ae in self._labels or len(self._labels) < _MOST_LABELS:
                self._labels.add(calling_ae)
                return calling_ae
        return "other"
