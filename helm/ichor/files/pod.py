"""The /metrics of a pod whose role serves no HTTP, in a container beside it. No part of Ichor, and counts nothing."""

from __future__ import annotations

import os
import re
import sys
import threading
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


def unread(folder: DataFolder) -> Waiting | None:
    """What the journal has not taken of the receipts log; None when that cannot be read now, or nothing was received."""
    try:
        if not folder.journal.exists():
            return None
        with closing(JournalReader(folder.journal, receipts=folder.receipts)) as reader:
            return reader.waiting()
    except (IchorError, OSError):
        return None


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


def main(metrics: str, port: str = "9090") -> None:
    """Serve until the end; the data folder is that of ICHOR_DATA, else the chart's."""
    folder = DataFolder(Path(os.environ.get("ICHOR_DATA", "/var/lib/ichor")))
    print(f"metrics on port {serve(Path(metrics), folder, int(port))}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
