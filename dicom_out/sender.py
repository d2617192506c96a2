"""The send role: one thread per destination, each its own consumer group on topic ``results``. No result is made here."""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Callable, Sequence

from dicom_out.outbox import LEASE_SECONDS, IdentityOf, Outbox, Withdrawn
from dicom_out.transport import CONNECT_SECONDS, store_objects
from ichor.bus import Bus, Delivery, Subscription
from ichor.clock import Clock
from ichor.errors import CannotStart, TransientError
from ichor.messages import RESULTS
from ichor.metrics import LOOP_ERRORS
from ichor.outage import Outage
from ichor.store.protocol import Blobs
from ichor.types import Destination

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_MOST_ATTEMPTS = 5  # only a crash or an error of ours counts


def run_sender(
    *,
    destinations: Sequence[Destination],
    bus: Bus,
    blobs: Blobs,
    clock: Clock,
    stop: threading.Event,
    on_ready: Callable[[], None],
    calling_ae: str,
    identity_of: IdentityOf = lambda _study, _job: None,
    withdrawn: Withdrawn = lambda _study, _job: None,
) -> None:
    """Deliver results to every destination until ``stop`` is set; returns when all threads have ended.

    Parameters
    ----------
    blobs
        Where `ResultObject.key` is read from.
    calling_ae
        Our AE title.
    identity_of
        Identity digests under which the result of a job (Study Instance UID, job id) may go out now, or None; a
        result of another identity is held for a person.
    withdrawn
        Why the result of a job (Study Instance UID, job id) must not be sent any more, or None; it is then held.

    Raises
    ------
    CannotStart
        The bus is not to be used by this version, or with these settings.
    """
    threads = []
    end = _End(stop)
    for destination in destinations:
        outbox = Outbox(
            destination, bus=bus, blobs=blobs, clock=clock, calling_ae=calling_ae, identity_of=identity_of,
            withdrawn=withdrawn, store=store_objects, reachable=port_open, stopping=end.came, rng=random.Random(),
        )  # fmt: skip
        subscription = bus.subscribe(
            [RESULTS], f"sender.{destination.name}", lease=LEASE_SECONDS, max_attempts=_MOST_ATTEMPTS
        )
        thread = threading.Thread(
            target=_deliver, args=(outbox, subscription, end), name=f"send-{destination.name}", daemon=True
        )
        thread.start()
        threads.append(thread)
    on_ready()
    while not end.wait(_POLL_SECONDS):
        pass
    for thread in threads:
        thread.join()
    if end.cause is not None:
        raise end.cause


def port_open(destination: Destination) -> bool:
    """True when something accepts a connection at the destination's port."""
    try:
        with socket.create_connection((destination.host, destination.port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


class _End:
    """Of all threads: asked for, or because one of them cannot use the bus."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self.cause: CannotStart | None = None

    def came(self) -> bool:
        return self._stop.is_set() or self.cause is not None

    def wait(self, seconds: float) -> bool:
        return self.came() or self._stop.wait(seconds)


def _deliver(outbox: Outbox, subscription: Subscription, end: _End) -> None:
    outage = Outage(logger, role="send")
    held: Delivery | None = None  # when the bus went away
    try:
        while not end.came():
            try:
                if held is not None:
                    # Its lease is so long that nobody would send it for minutes after the bus is back.
                    held.retry(0.0, reason="the bus was away", count=False)
                    held = None
                held = subscription.receive(_POLL_SECONDS)
                if held is not None:
                    outbox.handle(held)
                    held = None
                outage.over()
            except CannotStart as error:
                end.cause = error
            except TransientError as error:
                outage.away(error)
                end.wait(_POLL_SECONDS)
            except Exception:
                # The message stays leased: it comes again, counted, and after five times goes to the dead letters.
                logger.exception("unexpected error while sending")
                LOOP_ERRORS.labels(role="send").inc()
                held = None
                end.wait(_POLL_SECONDS)
    finally:
        subscription.close()
