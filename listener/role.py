"""The roles of receiving and of telling what was received, each from its start until told to stop. Wiring only."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from ichor.bus.protocol import Bus
from ichor.clock import Clock
from ichor.config import Settings
from ichor.series.facts import FactsReader
from ichor.store.journal import Journal
from ichor.store.protocol import Spool
from ichor.store.receipts import ReceiptReader, ReceiptWriter
from ichor.store.restore import restore
from listener.commitment import report_addresses
from listener.commitment_decisions import Commitments
from listener.commitment_findings import Answering
from listener.handover import Crew
from listener.pressure import DiskPressure
from listener.receiver import Receiver
from listener.reception import Reception, Refusals
from listener.relay import Relay

_LOG = logging.getLogger(__name__)

# A stop may take 10 s, and the supervisor waits for 9: senders first, then what they sent is told.
_SENDERS_PATIENCE = 4.0
_BUS_PATIENCE = 7.0
_REPORTS_PATIENCE = 1.0


def run_receiver(
    *, settings: Settings, spool: Spool, receipts: ReceiptWriter, clock: Clock, stop: threading.Event,
    on_ready: Callable[[], None], crew: Crew | None = None, process: int = 0,
) -> None:  # fmt: skip
    """Receive until ``stop``, then let senders finish for 4 s and return. Closes neither spool nor receipts.

    Parameters
    ----------
    receipts
        This process's own writer.
    crew, process
        The processes that receive together and which of them this is; None: this one alone.

    Raises
    ------
    CannotStart
        When the address cannot be had.
    ConfigError
        When a certificate, key or passcode cannot be used.
    """
    refusals = Refusals(clock, receipts)
    pressure = DiskPressure(
        lambda: min(spool.free_bytes(), receipts.free_bytes()),
        low=settings.listener.disk_low,
        full=settings.listener.disk_full,
        clock=clock,
    )
    reception = Reception(
        spool=spool, receipts=receipts, clock=clock, refusals=refusals, pressure=pressure,
        waits=settings.listener.durability == "instance",
    )  # fmt: skip
    receiver = Receiver(
        settings=settings.listener, senders=settings.senders, reception=reception, refusals=refusals,
        receipts=receipts, spool=spool, pressure=pressure, clock=clock, crew=crew, process=process,
    )  # fmt: skip
    receiver.start()
    if not process:
        _LOG.info("receiving on %s:%d as %s", settings.listener.host, receiver.port, settings.listener.ae_title)
    on_ready()
    while not stop.wait(1.0):
        receiver.sweep()
    receiver.drain(_SENDERS_PATIENCE)


def run_relay(
    *, settings: Settings, receipts: Path, journal: Journal, spool: Spool, bus: Bus, clock: Clock,
    stop: threading.Event, on_ready: Callable[[], None], answering: Answering | None = None,
) -> None:  # fmt: skip
    """Tell the bus what is received until ``stop``, then what is left, for at most 8 s. Closes nothing that it was given.

    Parameters
    ----------
    receipts
        Folder of the receipts log, which nobody else reads for this purpose.
    answering
        Where several receivers share the store.
    """
    facts = FactsReader()
    commitments = Commitments(
        journal=journal, receipts=receipts, spool=spool, bus=bus, clock=clock,
        addresses=report_addresses(settings.senders), enabled=settings.listener.commitment,
        shards=settings.assemble.shards, answering=answering,
    )  # fmt: skip
    reader = ReceiptReader(receipts, cursors=journal.cursors())
    relay = Relay(
        reader=reader, journal=journal, spool=spool, bus=bus, clock=clock, commitments=commitments,
        read_facts=lambda file, stored: facts.read(file, stored=stored),
        restore=lambda: restore(receipts, spool.root, journal.path) if spool.root is not None else None,
        shards=settings.assemble.shards,
    )  # fmt: skip
    commitments.start()
    on_ready()
    try:
        if not relay.run(stop, patience=_BUS_PATIENCE):
            _LOG.warning("not all is told: what is left is told at the next start")
    finally:
        commitments.stop(_REPORTS_PATIENCE)
        reader.close()
