"""What a pod needs beside its role, which serves no HTTP: /metrics, and the wait before it ends. No part of Ichor."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

from ichor.cli.folder import DataFolder
from ichor.errors import IchorError
from ichor.store.journal import JournalReader
from ichor.store.receipts import Waiting

_LEAVE_SERVICE = 5.0  # seconds until nobody connects any more


def unread(folder: DataFolder) -> Waiting | None:
    """What the journal has not taken of the receipts log; None when that cannot be read now, or nothing was received."""
    try:
        if not folder.journal.exists():
            return None
        with closing(JournalReader(folder.journal, receipts=folder.receipts)) as reader:
            return reader.waiting()
    except (IchorError, OSError):
        return None


def told(folder: DataFolder) -> bool:
    """Is all that was received told to the bus? False also when that cannot be read now."""
    try:
        if not folder.journal.exists():
            return not any(folder.receipts.glob("*.log"))
        with closing(JournalReader(folder.journal, receipts=folder.receipts)) as reader:
            behind = any(reader.waiting().bytes.values()) or reader.unassigned(limit=1)
            return not (behind or reader.unpublished_batches())
    except (IchorError, OSError):
        return False


class _Unread:
    """Asked at each scrape, of the log itself: a relay that is gone shows, too."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder

    def collect(self) -> Iterator[GaugeMetricFamily]:
        waiting = unread(self._folder)
        if waiting is not None:
            family = GaugeMetricFamily(
                "ichor_receipts_unread_bytes", "Bytes of the receipts log that are not told yet", labels=["lane"]
            )
            for lane, size in waiting.bytes.items():
                family.add_metric([lane.value], size)
            yield family


class _Counted:
    """What the processes of this pod counted; live gauges of the dead are dropped."""

    def __init__(self, metrics: Path) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[object]:
        for file in self._metrics.glob("gauge_live*.db"):
            number = re.search(r"_(\d+)\.db$", file.name)
            if number is not None and not Path("/proc", number[1]).exists():
                file.unlink(missing_ok=True)
        yield from MultiProcessCollector(CollectorRegistry(), str(self._metrics)).collect()


def serve(metrics: Path, folder: DataFolder, port: int) -> int:
    """Answer /metrics; the port."""
    registry = CollectorRegistry()
    registry.register(_Counted(metrics))
    registry.register(_Unread(folder))
    return start_http_server(port, registry=registry)[0].server_port


def drain(folder: DataFolder, seconds: float) -> bool:
    """Wait until all that was received is told; False when it was not in time (it stays on the volume)."""
    deadline = time.monotonic() + seconds
    time.sleep(min(_LEAVE_SERVICE, seconds))
    while not told(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def main(arguments: list[str]) -> int:
    """``metrics FOLDER [PORT]`` or ``drain SECONDS``; the data folder is that of ICHOR_DATA, else the chart's."""
    folder = DataFolder(Path(os.environ.get("ICHOR_DATA", "/var/lib/ichor")))
    if arguments[0] == "drain":
        return 0 if drain(folder, float(arguments[1])) else 1
    port = serve(Path(arguments[1]), folder, int(arguments[2]) if arguments[2:] else 9090)
    print(f"metrics on port {port}", flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
