"""The relay's side of storage commitment, its steps taken by hand. Not a relay."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unit.listener.commitment_data import CT

from ichor.bus import Bus
from ichor.bus.sqlite import SqliteBus
from ichor.clock import SystemClock
from ichor.messages import COMMITMENTS, INSTANCES, CommitmentDecided, ContentAnnounced, open_envelope
from ichor.store.journal import Journal, JournalRow, StoredObject
from ichor.store.receipts import CommitmentRequested, Lane, Receipt, ReceiptReader, ReceiptWriter, Stored
from ichor.store.shared import Receivers, register
from ichor.store.spool import Address, FileSpool
from listener.commitment import ReportAddress
from listener.commitment_decisions import Commitments
from listener.commitment_findings import Answering
from listener.commitment_reports import ReportFailed

HERE = {"CT1": ReportAddress("127.0.0.1", 104)}


class Desk:
    """The relay's side of a data folder, its steps taken by hand; ``sent``: the reports that were taken."""

    def __init__(self, root: Path, *, store: Path | None = None, bus: Bus | None = None) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        name = register(store, root) if store else ""
        self.receivers = Receivers(store, name, lost_after=3600.0) if store else None
        self.answering = Answering(self.receivers)
        self.spool = FileSpool((store or root) / "spool", receiver=name)
        self.writer = ReceiptWriter(root / "receipts")
        self.bus: Bus = bus or SqliteBus(root / "bus.sqlite", clock=SystemClock())
        self.journal = Journal(root / "journal.sqlite")
        self.reader = ReceiptReader(root / "receipts", cursors=self.journal.cursors())
        self.sent: list[CommitmentDecided] = []
        self.away = False
        self.tried = threading.Event()
        self.running: Commitments | None = None

    def send(self, address: ReportAddress, decided: CommitmentDecided) -> None:
        assert address == HERE["CT1"]
        self.tried.set()
        if self.away:
            raise ReportFailed("no association to the sender")
        self.sent.append(decided)

    def commitments(self, **changes: Any) -> Commitments:
        arguments: dict[str, Any] = {"addresses": HERE, "enabled": True, "send": self.send, "answering": self.answering}
        arguments |= changes
        return Commitments(
            journal=self.journal, receipts=self.root / "receipts", spool=self.spool, bus=self.bus, clock=SystemClock(),
            **arguments,
        )  # fmt: skip

    def start(self, **changes: Any) -> Commitments:
        self.running = self.commitments(**changes)
        self.running.start()
        return self.running

    def end(self) -> None:
        if self.running is not None:
            self.running.stop(20)
            self.running = None

    def close(self) -> None:
        self.end()
        self.journal.close()
        self.writer.close()
        self.reader.close()
        if self.receivers is not None:
            self.receivers.close()

    def store(self, sop: str, *, study: str = "1.2.3", lane: Lane = Lane.ROUTINE, content: bytes = b"pixels") -> None:
        syntax = "1.2.840.10008.1.2.1"
        placed = self.spool.put(Address(study, study + ".1", sop, CT, syntax), [content])
        self.writer.append(
            lane,
            Stored(sop, CT, study + ".1", study, syntax, *placed, "a1", "CT1", "ICHOR", None, None, False, time.time()),
        )  # fmt: skip

    def asked(self, *, waiting: int) -> bool:
        """So many requests, and nothing else, wait to be decided."""
        return [lag.waiting for lag in self.bus.lag() if lag.group == "commitment.decide"] == [waiting]

    def ask(self, *pairs: tuple[str, str], transaction: str = "1.2.9", calling: str = "CT1") -> Receipt:
        """As if it was received; the receipt, as the relay reads it."""
        record = CommitmentRequested("a1", calling, "ICHOR", transaction, pairs, time.time())
        return Receipt(record, f"file-{transaction}", 1, "writer")

    def take(self, *, publish: bool = True) -> list[JournalRow]:
        """What the relay does with all that is in the receipts."""
        receipts = [receipt for lane in Lane for receipt in self.reader.read(lane, limit=1000)]
        entries = []
        for receipt in receipts:
            assert isinstance(receipt.record, Stored)
            with self.spool.open(receipt.record.location) as file:
                digest = hashlib.sha256(file.read()).hexdigest()
            entries.append((StoredObject(file_sha256=digest, **receipt.record._asdict()), receipt.writer))
        rows = self.journal.take(entries, cursors={receipt.file: receipt.end for receipt in receipts})
        self.journal.assign_batches({f"batch-{time.time_ns()}": rows})
        if publish:
            self.journal.mark_published(rows)
        return rows

    def announced(self) -> list[ContentAnnounced]:
        found = [open_envelope(envelope) for _, envelope in self.bus.read(INSTANCES)]
        return [data for data in found if isinstance(data, ContentAnnounced)]

    def decided(self) -> list[CommitmentDecided]:
        found = [open_envelope(envelope) for _, envelope in self.bus.read(COMMITMENTS)]
        return [data for data in found if isinstance(data, CommitmentDecided)]

    def committed(self, sop: str) -> list[bool]:
        return [row.committed for row in self.journal.by_instance(sop)]

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.01)
