"""The receiver's role: from ``serve`` until told to stop, then drained. Wiring only."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from ichor import metrics
from ichor.bus.protocol import Bus
from ichor.clock import Clock
from ichor.config import SenderSettings
from ichor.series.facts import FactsReader
from ichor.store.journal import Journal
from ichor.store.spool import FileSpool
from listener.commitment import Announcements
from listener.receiver import Receiver
from listener.reception import Reception, Refusals
from listener.relay import Relay

_LOG = logging.getLogger(__name__)

# Together under the 10 s that a stop may take.
_SENDERS_PATIENCE = 4.0
_BUS_PATIENCE = 3.0


def run_receiver(
    *, ae_title: str, host: str, port: int, stat_ae_titles: Sequence[str], senders: Sequence[SenderSettings],
    spool: FileSpool, journal: Journal, bus: Bus, clock: Clock, stop: threading.Event, on_ready: Callable[[], None],
) -> None:  # fmt: skip
    """Receive until ``stop``, then let senders finish, tell the bus what is left, and return within 10 s.

    Raises
    ------
    CannotStart
        When the address cannot be had.
    """
    refusals, announcements, reader = Refusals(clock), Announcements(), FactsReader()
    relay = Relay(
        journal=journal, spool=spool, bus=bus, clock=clock, refusals=refusals, announcements=announcements,
        read_facts=lambda file, stored: reader.read(file, stored=stored),
    )  # fmt: skip
    refusals.on_added = announcements.on_added = relay.notify
    reception = Reception(spool=spool, journal=journal, clock=clock, refusals=refusals, on_stored=relay.notify)
    receiver = Receiver(
        ae_title=ae_title, host=host, port=port, stat_ae_titles=stat_ae_titles, senders=senders,
        reception=reception, refusals=refusals, journal=journal, clock=clock, on_ended=relay.notify_ended,
        announcements=announcements,
    )  # fmt: skip
    relay.start()
    receiver.start()
    _LOG.info("receiving on %s:%d as %s", host, receiver.port, ae_title)
    on_ready()
    while not stop.wait(1.0):
        receiver.sweep()
        metrics.SPOOL_FREE_BYTES.set(spool.free_bytes())
    receiver.drain(_SENDERS_PATIENCE)
    journal.flush()
    if not relay.drain(_BUS_PATIENCE):
        _LOG.warning("the bus is away: what it was not told is told at the next start")
