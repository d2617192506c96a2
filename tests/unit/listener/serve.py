"""Receiver and relay as a process of their own, for tests that kill or trace it: ``serve.py ROOT PORT``.

Their bus is a file.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ichor.bus.memory import MemoryBus
from ichor.clock import SystemClock
from ichor.config import Settings
from ichor.messages import Envelope
from ichor.store.journal import Journal
from ichor.store.receipts import ReceiptWriter
from ichor.store.spool import FileSpool
from listener.role import run_receiver, run_relay


class FileBus(MemoryBus):
    """Appends ``topic<TAB>envelope`` lines; keeps repetitions, so that a test can see them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def publish(self, topic: str, envelopes: Sequence[Envelope]) -> None:
        os.write(self._file, "".join(f"{topic}\t{e.model_dump_json()}\n" for e in envelopes).encode())
        super().publish(topic, envelopes)


def main(root: Path, port: int) -> None:
    settings = Settings.model_validate({"data": root, "listener": {"port": port}})
    receipts, stop = ReceiptWriter(root / "receipts"), threading.Event()
    relay = threading.Thread(
        target=lambda: run_relay(
            settings=settings, receipts=root / "receipts", journal=Journal(root / "journal.sqlite"),
            spool=FileSpool(root / "spool"), bus=FileBus(root / "bus.jsonl"), clock=SystemClock(), stop=stop,
            on_ready=lambda: None,
        ),
        daemon=True,
    )  # fmt: skip
    relay.start()
    run_receiver(
        settings=settings, spool=FileSpool(root / "spool", writer=receipts.name), receipts=receipts,
        clock=SystemClock(), stop=stop, on_ready=lambda: print("ready", flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
