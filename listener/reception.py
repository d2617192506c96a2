"""One C-STORE: is it sound, make it durable, say which status. Knows no network: the seam for any receive path.

Nothing that is merely wrong with an object is judged here: what can be stored is stored.
"""

from __future__ import annotations

import functools
import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from prometheus_client import Counter

from ichor import metrics
from ichor.clock import Clock
from ichor.errors import CannotUnderstand, ClassNotSupported, DataSetMismatch, OutOfResources, StoreRefused
from ichor.reasons import Reason
from ichor.store.disk import Bytes
from ichor.store.receipts import Carried, Lane, Record, Refused, Stored
from ichor.store.spool import MOST_CARRIED, Address, Placed
from ichor.types import Priority, Stage
from ichor.uids import is_valid_uid
from listener.classes import is_storage_class
from listener.identifiers import Identifiers, find_identifiers
from listener.log_limit import LogLimit

_LOG = logging.getLogger(__name__)
SUCCESS = 0x0000
_MOST_LABELS = 100
_MOST_HEAD = 1 << 20  # bytes in which an object's UIDs must be
# Bytes that are kept before they are written: the end of a long object then has little to do. No fewer than the receipts
# log carries, which takes only what comes to the spool whole.
_MOST_HELD = MOST_CARRIED
_MOST_PARTS = 512  # of what is kept
_ASKED_EVERY = 1 << 23  # bytes of one object after which it is asked whether there is room for more


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The association that an object came by; ``lane``: where its receipts go."""

    association: str
    calling_ae: str
    called_ae: str
    sender_priority: Priority | None = None
    called_priority: Priority | None = None
    lane: Lane = Lane.ROUTINE


class StoreCommand(NamedTuple):
    """A C-STORE-RQ's command set, none of it checked. ``study_instance_uid``: the only study that is taken, if any."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    priority_high: bool = False
    study_instance_uid: str = ""


class Incoming(Protocol):
    """An object under way to the spool."""

    def write(self, parts: Sequence[Bytes]) -> None: ...

    def finish(self, parts: Sequence[Bytes] = (), *, confirm: Callable[[Placed, Carried | None], None]) -> Placed:
        """``confirm`` is called when it is durable, or has to make it so; where it raises, nothing of the object stays."""

    def discard(self) -> None: ...


class Spool(Protocol):
    def begin(self, address: Address) -> Incoming:
        """DataSetMismatch or OutOfResources when it cannot be taken."""


class Receipts(Protocol):
    def append(self, lane: Lane, record: Record, *, wait: bool = True, carried: Carried | None = None) -> None:
        """Durable when it returns, where it waits, with the object that it carries; OutOfResources otherwise."""


class Pressure(Protocol):
    """How full the disk is."""

    def check(self) -> None:
        """OutOfResources when nothing may be stored now."""

    def wrote(self, length: int) -> None: ...


class Receives(Protocol):
    """What a receive path asks of a `Reception`."""

    def begin(self, command: StoreCommand, origin: Origin) -> Arrives:
        """An object begins to arrive; never raises."""


class Arrives(Protocol):
    """What a receive path asks of an `Arrival`."""

    @property
    def is_held(self) -> bool: ...

    def feed(self, part: memoryview) -> None: ...

    def flush(self) -> None: ...

    def end(self) -> int: ...

    def cut(self) -> None: ...


class Refusals:
    """Tells what was refused: a log line, and a record for the relay. Safe from any thread, never raises.

    Of one reason, calling AE title and address ten at once, then one each 10 s, and so of each study: metrics count all.
    """

    def __init__(self, clock: Clock, receipts: Receipts) -> None:
        self._clock = clock
        self._receipts = receipts
        self._limit = LogLimit(monotonic=clock.monotonic)
        self._of_study = LogLimit(at_once=1, monotonic=clock.monotonic)

    def add(
        self, *, calling_ae: str, status: str, reason: str, study_instance_uid: str = "", address: str = ""
    ) -> None:  # fmt: skip
        """``address``: of the peer, for the log alone."""
        kind = f"{calling_ae}\n{address}\n{status}\n{reason}"
        of_study = bool(study_instance_uid) and self._of_study.allows(f"{kind}\n{study_instance_uid}")
        if not (self._limit.allows(kind, of=address) or of_study):
            return
        place = f" address={address}" if address else ""
        _LOG.warning("refused: status=%s calling_ae=%s%s reason=%s", status, calling_ae, place, reason)
        try:
            self._receipts.append(
                Lane.ROUTINE, Refused(calling_ae, status, reason, study_instance_uid, self._clock.time()), wait=False
            )
        except OutOfResources as error:
            _LOG.warning("a refusal could not be written down: %s", error.reason)


class Reception:
    """Answers C-STOREs: Success only after spool and receipts have the object. Safe from any thread.

    Parameters
    ----------
    spool, receipts
        Where it goes, in this order.
    refusals
        Told of every failing answer.
    pressure
        Asked before and within each object, and told what was written.
    waits
        A receipt is on the medium before Success. False at the levels ``association`` and ``none``.
    """

    def __init__(
        self, *, spool: Spool, receipts: Receipts, clock: Clock, refusals: Refusals, pressure: Pressure | None = None,
        waits: bool = True,
    ) -> None:  # fmt: skip
        self.pressure = pressure
        self.spool = spool
        self.receipts = receipts
        self.clock = clock
        self.waits = waits
        self._refusals = refusals
        self._counters: dict[str, Counter] = {}
        self._lock = threading.Lock()
        self.seconds = metrics.STAGE_SECONDS.labels(Stage.RECEIVE.value)

    def begin(self, command: StoreCommand, origin: Origin) -> Arrival:
        """An object begins to arrive; what is wrong with it is told at its end. Never raises."""
        return Arrival(self, command, origin)

    def refuse(self, refusal: StoreRefused, origin: Origin, study: str) -> int:
        status = f"0x{refusal.status:04X}"
        metrics.STORES_REFUSED.labels(status).inc()
        self._refusals.add(calling_ae=origin.calling_ae, status=status, reason=refusal.reason, study_instance_uid=study)
        return refusal.status

    def counter(self, calling_ae: str) -> Counter:
        """Of the objects of a calling AE title. Bounded: whoever connects chooses it."""
        counter = self._counters.get(calling_ae)
        if counter is None:
            with self._lock:
                known = len(self._counters) < _MOST_LABELS
                counter = metrics.INSTANCES_STORED.labels(calling_ae if known else "other")
                if known:
                    self._counters[calling_ae] = counter
        return counter


class Arrival:
    """An object that is arriving: fed, then ended or cut. One thread; nothing here raises.

    What is wrong with it is remembered, the rest of it swallowed, and the status told at the end.
    """

    __slots__ = (
        "_command", "_counted", "_held", "_incoming", "_joined", "_origin", "_parts", "_reception", "_refusal",
        "_searched", "_series", "_study", "_uncounted",
    )  # fmt: skip

    def __init__(self, reception: Reception, command: StoreCommand, origin: Origin) -> None:
        self._reception = reception
        self._command = command
        self._origin = origin
        self._parts: list[Bytes] = []
        self._held = 0  # bytes in them
        self._joined = 0  # bytes in the first of them, which is a copy then
        self._searched = 0  # bytes in which the UIDs were looked for in vain
        self._counted = self._uncounted = 0  # bytes that were written
        self._incoming: Incoming | None = None
        self._study = ""
        self._series = ""
        self._refusal: StoreRefused | None = None
        try:
            _check_command(command)
            if reception.pressure is not None:
                reception.pressure.check()
        except StoreRefused as refusal:
            self._refusal = refusal

    def feed(self, part: memoryview) -> None:
        """The next bytes of the data set, single ones. Its memory must not change before `flush` or the end."""
        if self._refusal is not None:
            self._whose(part)
            return
        self._parts.append(part)
        self._held += len(part)
        if self._held - self._joined >= _MOST_HELD or len(self._parts) >= _MOST_PARTS:
            self.flush()

    def _whose(self, part: memoryview) -> None:
        """Refused before its study was known: what its first bytes say, so that the refusal is found there."""
        if self._searched or self._study:
            return
        self._searched = len(part)
        try:
            study = find_identifiers(part[:_MOST_HEAD], self._command.transfer_syntax_uid).study
        except Exception as error:  # noqa: BLE001 - the edge of one request: it is refused as it is
            _LOG.error("unexpected error while an object was refused: %s", place_of(error))
            return
        self._name_study(study)

    def _name_study(self, study: str | None) -> None:
        if study is not None and _known_valid(study):
            self._study = study

    @property
    def is_held(self) -> bool:
        """Memory of what was fed is still needed."""
        return self._held > self._joined

    def flush(self) -> None:
        """What was fed is written or copied: its memory may be used again."""
        parts = self._parts
        if self._refusal is not None or not parts:
            return
        try:
            if self._incoming is None:
                said = self._search(last=self._held >= _MOST_HEAD)
                if said is None:
                    parts[:] = [b"".join(parts)]
                    self._joined = self._held
                    return
                self._incoming = self._begin(said)
            self._incoming.write(parts)
            self._count(self._held)
        except StoreRefused as refusal:
            self._give_up(refusal)
        except Exception as error:  # noqa: BLE001 - the edge of one request: the sender is told, the association goes on
            self._give_up(_unexpected(error))
        parts.clear()
        self._held = self._joined = 0

    def end(self) -> int:
        """That was all: the status to answer with."""
        reception = self._reception
        began = reception.clock.monotonic()
        if self._refusal is None:
            try:
                length = self._store()
            except StoreRefused as refusal:
                self._give_up(refusal)
            except Exception as error:  # noqa: BLE001 - the edge of one request: the association goes on
                self._give_up(_unexpected(error))
        if self._refusal is not None:
            return reception.refuse(self._refusal, self._origin, self._study)
        reception.counter(self._origin.calling_ae).inc()
        metrics.BYTES_STORED.inc(length)
        reception.seconds.observe(reception.clock.monotonic() - began)
        return SUCCESS

    def cut(self) -> None:
        """The sender is gone: nothing of it stays."""
        self._give_up(CannotUnderstand(Reason.CUT_SHORT))

    def _store(self) -> int:
        reception = self._reception
        incoming = self._incoming
        if incoming is None:
            incoming = self._incoming = self._begin(self._search(last=True) or Identifiers())
        placed = incoming.finish(self._parts, confirm=self._write_receipt)
        if reception.pressure is not None:
            reception.pressure.wrote(placed.length - self._counted)
        return placed.length

    def _count(self, length: int) -> None:
        """Of a long object: what was written counts at once, and one without end does not pass the watermarks."""
        pressure = self._reception.pressure
        self._uncounted += length
        if pressure is not None and self._uncounted >= _ASKED_EVERY:
            pressure.wrote(self._uncounted)
            self._counted += self._uncounted
            self._uncounted = 0
            pressure.check()

    def _write_receipt(self, placed: Placed, carried: Carried | None) -> None:
        reception, command, origin = self._reception, self._command, self._origin
        reception.receipts.append(
            origin.lane,
            Stored(
                command.sop_instance_uid, command.sop_class_uid, self._series, self._study,
                command.transfer_syntax_uid, placed.location, placed.length, origin.association, origin.calling_ae,
                origin.called_ae, origin.sender_priority, origin.called_priority, command.priority_high,
                reception.clock.time(),
            ),
            wait=reception.waits, carried=carried,
        )  # fmt: skip

    def _search(self, *, last: bool) -> Identifiers | None:
        """The UIDs in what is held; None while bytes to come may tell more."""
        parts, syntax = self._parts, self._command.transfer_syntax_uid
        said = Identifiers()
        if not self._searched and parts:
            said = find_identifiers(parts[0][:_MOST_HEAD], syntax)
            if said.is_complete or (last and len(parts) == 1):
                return said
        if last or self._held >= 2 * self._searched:  # doubled since: small fragments must not cost a scan each
            self._searched = self._held
            said = find_identifiers(b"".join(parts)[:_MOST_HEAD], syntax)
        return said if last or said.is_complete else None

    def _begin(self, said: Identifiers) -> Incoming:
        command = self._command
        self._name_study(said.study)  # also where it is refused: it is looked for by its study
        if said.sop_class not in (None, command.sop_class_uid):
            raise DataSetMismatch(Reason.UID_MISMATCH)
        if said.sop_instance not in (None, command.sop_instance_uid):
            raise DataSetMismatch(Reason.UID_MISMATCH)
        if said.study is None or said.series is None:
            raise CannotUnderstand(Reason.NO_STUDY_OR_SERIES)
        address = Address(
            said.study, said.series, command.sop_instance_uid, command.sop_class_uid, command.transfer_syntax_uid
        )
        incoming = self._reception.spool.begin(address)  # validates the UIDs
        self._series = said.series  # fit for an event only now
        if command.study_instance_uid not in ("", said.study):
            raise DataSetMismatch(Reason.OTHER_STUDY)
        return incoming

    def _give_up(self, refusal: StoreRefused) -> None:
        self._refusal = self._refusal or refusal
        self._parts.clear()
        self._held = self._joined = 0
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.discard()


_known_valid = functools.lru_cache(maxsize=1024)(is_valid_uid)  # of what many objects share


def _check_command(command: StoreCommand) -> None:
    if not _known_valid(command.sop_class_uid):
        raise DataSetMismatch(Reason.INVALID_UID)
    if not is_storage_class(command.sop_class_uid):
        raise ClassNotSupported("the SOP class is not for storage")
    if not is_valid_uid(command.sop_instance_uid) or not _known_valid(command.transfer_syntax_uid):
        raise DataSetMismatch(Reason.INVALID_UID)


def _unexpected(error: Exception) -> OutOfResources:
    metrics.LOOP_ERRORS.labels("receive").inc()
    _LOG.error("unexpected error while an object was stored: %s", place_of(error))
    return OutOfResources("an unexpected error")


def place_of(error: Exception) -> str:
    """Type of an error and where it was raised; its text may hold what a sender wrote."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + place
