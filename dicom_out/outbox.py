"""What becomes of results at one destination: attempts, back-off, final states, events. Opens no socket itself.

An unreachable destination costs no message anything: attempts are taken back, and only one message at a time finds
out whether it has returned. What was answered for one object stays, whatever happens to the next.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from dicom_out.transport import Answer, Unreachable, Verdict
from ichor.bus import Bus, Delivery
from ichor.clock import Clock
from ichor.errors import TransientError, UnknownMessage
from ichor.history.projection import log
from ichor.messages import EVENTS, DeliveryChanged, ResultReady, open_envelope, seal
from ichor.metrics import DELIVERIES, DELIVERY_RETRIES, STAGE_SECONDS
from ichor.reasons import Reason
from ichor.store import disk
from ichor.store.protocol import Blobs
from ichor.types import DeliveryState, Destination, ResultObject, Stage

logger = logging.getLogger(__name__)

LEASE_SECONDS = 180.0
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0
_MOST_UNCLEAR = 5
_TELL_SECONDS = 60.0
_GONE = "the stored result is gone"
_CRASHED = "given up after repeated crashes of the sender"

IdentityOf = Callable[[str, str], Collection[str] | None]
Withdrawn = Callable[[str, str], str | None]


class StoreObjects(Protocol):
    def __call__(
        self,
        destination: Destination,
        objects: Sequence[ResultObject],
        *,
        calling_ae: str,
        read: Callable[[ResultObject], bytes],
        before_each: Callable[[], None],
    ) -> Iterable[tuple[ResultObject, Answer]]:
        """`dicom_out.transport.store_objects`, or what a test puts in its place."""


@dataclass(slots=True)
class Backoff:
    """Growing delays with jitter; ``reset`` after a success. Doubles from 1 s to 60 s."""

    rng: random.Random
    tries: int = 0

    def next(self) -> float:
        ceiling = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(self.tries, 10))
        self.tries += 1
        return ceiling * self.rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        self.tries = 0


@dataclass(slots=True)
class _Progress:
    """What this process knows of a message that is not finished."""

    attempts: int = 0  # associations asked for, whatever became of them
    unclear: Counter[str] = field(default_factory=Counter)  # such answers by SOP Instance UID
    told: tuple[str, int, float] | None = None  # reason, attempts and time of the last word about waiting
    final: set[str] = field(default_factory=set)
    backoff: Backoff | None = None


class _Stopping(Exception):
    """The process is asked to end: hand the message back."""


class Outbox:
    """Handles the messages of topic ``results`` for one destination.

    Parameters
    ----------
    store
        Sends objects over one association.
    reachable
        Is anything listening at the destination's port? Asked while it is away.
    identity_of
        Identity digests under which the result of a job (Study Instance UID, job id) may go out now; None when they
        are not known, empty when its headers contradict each other.
    withdrawn
        Why the result of a job (Study Instance UID, job id) must not be sent any more; None when it may.
    stopping
        True once the process should end.
    """

    def __init__(
        self,
        destination: Destination,
        *,
        bus: Bus,
        blobs: Blobs,
        clock: Clock,
        calling_ae: str,
        identity_of: IdentityOf,
        withdrawn: Withdrawn,
        store: StoreObjects,
        reachable: Callable[[Destination], bool],
        stopping: Callable[[], bool],
        rng: random.Random,
    ) -> None:
        self._destination, self._bus, self._blobs, self._clock = destination, bus, blobs, clock
        self._calling_ae, self._identity_of, self._stopping, self._rng = calling_ae, identity_of, stopping, rng
        self._store, self._withdrawn = store, withdrawn
        self._gate = _Gate(destination, clock=clock, reachable=reachable, rng=rng)
        self._progress: dict[str, _Progress] = {}

    def handle(self, delivery: Delivery) -> None:
        """Deliver one message, or put it back. Ends the delivery in every case."""
        try:
            ready = open_envelope(delivery.envelope)
            if not isinstance(ready, ResultReady):
                raise UnknownMessage(f"a {type(ready).__name__} is no result")
        except UnknownMessage as error:
            logger.error("a message is given up: %s", error)
            delivery.reject(str(error))
            return
        if self._destination.name not in ready.destinations:
            delivery.ack()
            return
        key = delivery.envelope.id
        if key not in self._progress:
            self._progress[key] = self._remembered(delivery, ready)
        progress = self._progress[key]
        if delivery.dead:
            self._finish_all(delivery, ready, progress, DeliveryState.FAILED, _CRASHED)
        elif (held := self._held(ready)) is not None:
            self._finish_all(delivery, ready, progress, DeliveryState.HELD, held)
        else:
            self._attempt(delivery, ready, progress)

    def _remembered(self, delivery: Delivery, ready: ResultReady) -> _Progress:
        """What an earlier process has told of this message: what is final stays so, whatever happened to it."""
        progress = _Progress()
        for envelope in log(self._bus, EVENTS, subject=ready.study_instance_uid):
            try:
                event = open_envelope(envelope)
            except UnknownMessage:
                continue  # of another version: no word of this room
            if not isinstance(event, DeliveryChanged) or event.destination != self._destination.name:
                continue
            # The id tells this message from another one about the same objects.
            if envelope.id != _event_id(delivery, event):
                continue
            progress.attempts = max(progress.attempts, event.attempts)
            if event.state == DeliveryState.PENDING:
                progress.told = (event.reason or "", event.attempts, event.at)
            else:
                progress.final.add(event.sop_instance_uid)
        return progress

    def _held(self, ready: ResultReady) -> str | None:
        """Why a person has to look before anything of this result goes out; None when it may."""
        withdrawn = self._withdrawn(ready.study_instance_uid, ready.job_id)
        if withdrawn is not None:
            return withdrawn
        known = self._identity_of(ready.study_instance_uid, ready.job_id)
        return Reason.IDENTITY_MISMATCH.value if known is not None and ready.identity_sha256 not in known else None

    def _attempt(self, delivery: Delivery, ready: ResultReady, progress: _Progress) -> None:
        waiting = self._gate.closed()
        if waiting is not None:
            # Not tried: others found out that it is away. Asks again the rarer the more are waiting.
            self._tell_pending(delivery, ready, progress, waiting)
            self._put_back(delivery, min(30.0, max(1.0, len(self._progress) / 10)), waiting)
            return
        progress.attempts += 1
        if progress.attempts > 1:
            DELIVERY_RETRIES.labels(destination=self._destination.name).inc()
        try:
            later = self._send(delivery, ready, progress)
        except _Stopping:
            delivery.retry(0.0, reason="the sender stopped", count=False)
            return
        except Unreachable as error:
            self._gate.close(error)
            self._tell_pending(delivery, ready, progress, error.reason)
            self._put_back(delivery, _FIRST_DELAY, error.reason)
            return
        except TransientError as error:  # the store is away, or does not answer: no fault of message or destination
            self._tell_pending(delivery, ready, progress, str(error))
            progress.backoff = progress.backoff or Backoff(self._rng)
            self._put_back(delivery, progress.backoff.next(), str(error))
            return
        self._gate.open()
        if later is None:
            del self._progress[delivery.envelope.id]
            delivery.ack()
            return
        self._tell_pending(delivery, ready, progress, later)
        progress.backoff = progress.backoff or Backoff(self._rng)
        self._put_back(delivery, progress.backoff.next(), later)

    def _send(self, delivery: Delivery, ready: ResultReady, progress: _Progress) -> str | None:
        """Send what is not final yet; the reason when something has to be sent again."""
        left = [o for o in ready.objects if o.sop_instance_uid not in progress.final]
        here = []
        for item in left:
            with _store_answers():
                there = self._blobs.exists(item.key)
            if there:
                here.append(item)
            else:
                self._finish(delivery, ready, progress, item, DeliveryState.FAILED, _GONE)

        def before_each() -> None:
            if self._stopping():
                raise _Stopping
            delivery.extend(LEASE_SECONDS)

        later: str | None = None
        for item, answer in self._answers(here, before_each):
            if answer.verdict is Verdict.SENT:
                self._finish(delivery, ready, progress, item, DeliveryState.SENT, None)
                continue
            if answer.verdict is Verdict.UNCLEAR:
                progress.unclear[item.sop_instance_uid] += 1
            if answer.verdict is Verdict.REFUSED or progress.unclear[item.sop_instance_uid] >= _MOST_UNCLEAR:
                self._finish(delivery, ready, progress, item, DeliveryState.REFUSED, answer.reason)
            else:
                later = answer.reason
        return later

    def _answers(
        self, objects: Sequence[ResultObject], before_each: Callable[[], None]
    ) -> Iterator[tuple[ResultObject, Answer]]:
        if objects:
            yield from self._store(
                self._destination, objects, calling_ae=self._calling_ae,
                read=self._read, before_each=before_each,
            )  # fmt: skip

    def _read(self, item: ResultObject) -> bytes:
        with _store_answers():
            return self._blobs.get(item.key)

    @staticmethod
    def _put_back(delivery: Delivery, delay: float, reason: str) -> None:
        delivery.retry(delay, reason=reason, count=False)

    def _finish_all(
        self, delivery: Delivery, ready: ResultReady, progress: _Progress, state: DeliveryState, reason: str
    ) -> None:
        for item in ready.objects:
            if item.sop_instance_uid not in progress.final:
                self._finish(delivery, ready, progress, item, state, reason)
        del self._progress[delivery.envelope.id]
        delivery.ack()

    def _finish(
        self,
        delivery: Delivery,
        ready: ResultReady,
        progress: _Progress,
        item: ResultObject,
        state: DeliveryState,
        reason: str | None,
    ) -> None:
        seconds = max(0.0, self._clock.time() - ready.ready_at) if state is DeliveryState.SENT else None
        self._publish(delivery, [self._event(ready, progress, item, state, reason, seconds)])
        progress.final.add(item.sop_instance_uid)
        DELIVERIES.labels(destination=self._destination.name, state=state.value).inc()
        if seconds is not None:
            STAGE_SECONDS.labels(stage=Stage.SEND.value).observe(seconds)
        level = logging.INFO if state is DeliveryState.SENT else logging.WARNING
        became = f"{state.value}: {reason}" if reason else state.value
        logger.log(level, "%s at %s: %s", item.sop_instance_uid, self._destination.name, became)

    def _tell_pending(self, delivery: Delivery, ready: ResultReady, progress: _Progress, reason: str) -> None:
        """Say why objects wait: at once, then when the reason is new or the attempts have doubled, once a minute at most."""
        attempts, now = progress.attempts, self._clock.time()
        if progress.told is not None:
            said, counted, at = progress.told
            again = reason != said or attempts >= max(1, 2 * counted)
            if not again or 0 <= now - at < _TELL_SECONDS:
                return
        progress.told = (reason, attempts, now)
        waiting = [o for o in ready.objects if o.sop_instance_uid not in progress.final]
        events = [self._event(ready, progress, o, DeliveryState.PENDING, reason, None) for o in waiting]
        self._publish(delivery, events)

    def _event(
        self,
        ready: ResultReady,
        progress: _Progress,
        item: ResultObject,
        state: DeliveryState,
        reason: str | None,
        seconds: float | None,
    ) -> DeliveryChanged:
        return DeliveryChanged(
            study_instance_uid=ready.study_instance_uid,
            job_id=ready.job_id,
            sop_instance_uid=item.sop_instance_uid,
            destination=self._destination.name,
            state=state.value,
            attempts=progress.attempts,
            reason=reason,
            at=self._clock.time(),
            seconds=seconds,
        )

    def _publish(self, delivery: Delivery, events: Sequence[DeliveryChanged]) -> None:
        envelopes = [
            seal(event, source=f"send/{self._destination.name}", time=event.at, id=_event_id(delivery, event))
            for event in events
        ]
        if envelopes:
            self._bus.publish(EVENTS, envelopes)


@contextmanager
def _store_answers() -> Iterator[None]:
    """A disk that does not answer for the moment is no fault of the message or of the destination."""
    try:
        yield
    except OSError as error:
        if error.errno in disk.DAMAGE:
            raise
        raise TransientError(f"the store of results: {error.strerror or 'input/output error'}") from error


def _event_id(delivery: Delivery, event: DeliveryChanged) -> str:
    """Stable: a redelivered message that comes to the same end says it once."""
    said = (
        delivery.envelope.id, event.destination, event.sop_instance_uid, event.state, str(event.attempts),
        event.reason or "",
    )  # fmt: skip
    return hashlib.sha256("|".join(said).encode()).hexdigest()


class _Gate:
    """Is the destination worth an attempt? Closed after it could not be reached.

    Where nothing listened, its port is probed every second and an answer opens the gate; where something answered and
    turned us away, only time does (1 s doubling to 60 s).
    """

    def __init__(
        self,
        destination: Destination,
        *,
        clock: Clock,
        reachable: Callable[[Destination], bool],
        rng: random.Random,
    ) -> None:
        self._destination, self._clock, self._reachable = destination, clock, reachable
        self._backoff = Backoff(rng)
        self._failure: Unreachable | None = None
        self._until = 0.0

    def closed(self) -> str | None:
        """The reason while it is closed; None when an attempt may be made."""
        if self._failure is None:
            return None
        now = self._clock.monotonic()
        if now < self._until:
            return self._failure.reason
        if self._failure.no_listener and not self._reachable(self._destination):
            # From the end of the probe: one that times out takes longer than the delay, and all would wait for theirs.
            self._until = self._clock.monotonic() + _FIRST_DELAY
            return self._failure.reason
        return None

    def close(self, failure: Unreachable) -> None:
        self._failure = failure
        delay = _FIRST_DELAY if failure.no_listener else self._backoff.next()
        self._until = self._clock.monotonic() + delay

    def open(self) -> None:
        self._failure = None
        self._backoff.reset()
