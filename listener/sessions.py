"""The associations that live, what is kept of each, and the one record of its end. Knows no protocol."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pynetdicom.association import Association

from ichor import metrics
from ichor.clock import Clock
from ichor.errors import OutOfResources
from ichor.store.receipts import Ended, ReceiptWriter
from listener.admission import Admitted, printable
from listener.log_limit import LogLimit
from listener.reception import Arrives, Origin, Refusals

_LOG = logging.getLogger(__name__)
_ENDED = "the association has been ended"


class Session:
    """What is kept of one association while it lives. Its end is told after its last object, whoever learns of it first."""

    def __init__(self, admitted: Admitted, *, losses: int) -> None:
        self.admitted = admitted
        self.losses = losses  # of the spool when it began
        self.origin: Origin | None = None  # once it is accepted
        self.abort_received = False
        self.release_received = False
        self.cause = ""  # why we ended it, where we did
        self._lock = threading.Lock()
        self._storing = False
        self._end: bool | None = None

    def may_store(self) -> bool:
        """Before an object is ended; False when the association's end has been told already."""
        with self._lock:
            self._storing = self._end is None
            return self._storing

    def stored(self) -> bool | None:
        """After it: how the association ended meanwhile, which is now to be told; None: it did not."""
        with self._lock:
            self._storing = False
            return self._end

    def ended(self, *, released: bool) -> bool:
        """True when the end is to be told now, False when the storing thread does it."""
        with self._lock:
            self._end = released
            return not self._storing


class Sessions:
    """All associations of a process. Thread-safe.

    Parameters
    ----------
    receipts
        Gets an `Ended` for each association that was accepted, after everything that it stored.
    refusals
        Told of objects that came behind the end of their association.
    leave
        Called once for each association, when it is over: gives back its place.
    """

    def __init__(
        self, *, receipts: ReceiptWriter, refusals: Refusals, clock: Clock, leave: Callable[[Admitted], None]
    ) -> None:  # fmt: skip
        self._receipts = receipts
        self._refusals = refusals
        self._clock = clock
        self._leave = leave
        self._log_limit = LogLimit(monotonic=clock.monotonic)
        self._sessions: dict[Association, Session] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._sessions)

    def all(self) -> dict[Association, Session]:
        with self._lock:
            return dict(self._sessions)

    def get(self, association: Association) -> Session | None:
        with self._lock:
            return self._sessions.get(association)

    def begin(self, association: Association, admitted: Admitted, *, losses: int) -> None:
        """``losses``: of the spool, before anything is stored."""
        with self._lock:
            self._sessions[association] = Session(admitted, losses=losses)
            metrics.ASSOCIATIONS_OPEN.set(len(self._sessions))

    def forget(self, admitted: Admitted) -> None:
        """What was begun with it was never accepted; its place is not given back here."""
        with self._lock:
            for association in [a for a, s in self._sessions.items() if s.admitted is admitted]:
                del self._sessions[association]

    def finish(self, session: Session, arrival: Arrives) -> int:
        """End an object, and write its association's end where that was told meanwhile."""
        if session.origin is None or not session.may_store():
            arrival.cut()
            return self.refuse_late(session.admitted.calling_ae)
        try:
            return arrival.end()
        finally:
            released = session.stored()
            if released is not None:
                self._write_end(session.origin, released=released)

    def refuse_late(self, calling_ae: str) -> int:
        """It is being drained, and its end was told: nobody would tell of an object that came behind it."""
        status = OutOfResources.status
        metrics.STORES_REFUSED.labels(f"0x{status:04X}").inc()
        self._refusals.add(calling_ae=printable(calling_ae.encode()), status=f"0x{status:04X}", reason=_ENDED)
        return status

    def end(self, association: Association, *, released: bool) -> None:
        """Whoever learns of it first tells it; the second call does nothing."""
        with self._lock:
            session = self._sessions.pop(association, None)
            metrics.ASSOCIATIONS_OPEN.set(len(self._sessions))
        if session is None:
            return
        self._leave(session.admitted)
        origin = session.origin
        if origin is None:
            return
        if released and not session.release_received:
            # By us, after silence: the sender did not say that it was done.
            released, session.cause = False, "idle, released by us"
        if not released:
            if session.abort_received:
                cause = "by the peer"
            else:
                cause = session.cause or ("by us" if association._sent_abort else "connection lost or out of step")
            metrics.ASSOCIATIONS_ABORTED.labels(cause).inc()
            if self._log_limit.allows(f"{cause}\n{origin.calling_ae}", of=str(association.requestor.address)):
                _LOG.warning("association aborted (%s): calling_ae=%s", cause, origin.calling_ae)
        if session.ended(released=released):
            self._write_end(origin, released=released)

    def _write_end(self, origin: Origin, *, released: bool) -> None:
        try:
            self._receipts.append(
                origin.lane, Ended(association=origin.association, released=released, at=self._clock.time()), wait=False
            )
        except OutOfResources as error:
            # The relay takes associations of a writer that is gone for aborted: late, not wrong.
            _LOG.error("the end of an association could not be written: %s", error.reason)
