"""A receiver as a process of its own, for tests that kill or trace it: ``serve.py ROOT PORT``. Its bus is a file."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ichor.clock import SystemClock
from ichor.messages import Envelope
from ichor.store.journal import Journal
from ichor.store.spool import FileSpool
from listener.role import run_receiver


class FileBus:
    """Appends ``topic<TAB>envelope`` lines; keeps repetitions, so that a test can see them."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def publish(self, topic: str, envelopes: Sequence[Envelope]) -> None:
        os.write(self._file, "".join(f"{topic}\t{e.model_dump_json()}\n" for e in envelopes).encode())


def main(root: Path, port: int) -> None:
    run_receiver(
        ae_title="ICHOR", host="127.0.0.1", port=port, stat_ae_titles=(), senders=(),
        spool=FileSpool(root / "spool"), journal=Journal(root / "journal.sqlite"),
        bus=FileBus(root / "bus.jsonl"),  # type: ignore[arg-type]  # a receiver only publishes
        clock=SystemClock(), stop=threading.Event(), on_ready=lambda: print("ready", flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
