"""The chart's pod.py: what a pod counted is scraped, and a receiver leaves when all that it received is told."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest

from ichor.bus.memory import MemoryBus
from ichor.cli.folder import DataFolder
from ichor.clock import SystemClock
from ichor.config import Settings
from ichor.store.journal import Journal
from ichor.store.receipts import Lane, ReceiptWriter, Refused
from ichor.store.spool import FileSpool
from listener.role import run_relay

from .conftest import CHART


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("pod", CHART / "files" / "pod.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "_LEAVE_SERVICE", 0.0)
    return module


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return answer.read().decode()


def test_what_processes_of_a_pod_counted_is_scraped_and_the_dead_are_open_no_longer(
    pod: ModuleType, tmp_path: Path
) -> None:
    counted = tmp_path / "metrics"
    counted.mkdir()
    # A role in a process of its own, which has ended.
    subprocess.run(
        [sys.executable, "-c", "from ichor import metrics as m; m.BYTES_STORED.inc(7); m.ASSOCIATIONS_OPEN.set(3)"],
        check=True, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(counted)},
    )  # fmt: skip
    assert list(counted.glob("gauge_livesum_*.db"))
    text = _scrape(pod.serve(counted, DataFolder(tmp_path / "data"), 0))
    assert "ichor_bytes_stored_total 7.0" in text
    assert "ichor_associations_open 3.0" not in text
    assert "ichor_receipts_unread_bytes" not in text  # of a pod that receives nothing


def _received(folder: DataFolder) -> None:
    """A receiver has written a receipt, and no relay runs."""
    folder.prepare()
    Journal(folder.journal).close()
    writer = ReceiptWriter(folder.receipts, durable=False)
    refused = Refused(calling_ae="CT1", status="0xA700", reason="no space", study_instance_uid="", at=1.0)
    writer.append(Lane.ROUTINE, refused)
    writer.close()


def test_a_receiver_without_a_relay_waits_as_long_as_it_may_and_its_metrics_say_so(
    pod: ModuleType, tmp_path: Path
) -> None:
    folder = DataFolder(tmp_path / "data")
    assert pod.drain(folder, 0.0) is True  # nothing was received at all
    _received(folder)
    assert pod.drain(folder, 0.1) is False
    (tmp_path / "metrics").mkdir()
    text = _scrape(pod.serve(tmp_path / "metrics", folder, 0))
    waiting = re.search(r'ichor_receipts_unread_bytes\{lane="ROUTINE"\} (\S+)', text, re.IGNORECASE)
    assert waiting is not None
    assert float(waiting[1]) > 0


def test_a_receiver_leaves_when_the_relay_has_told_all(pod: ModuleType, tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    _received(folder)
    stop, clock = threading.Event(), SystemClock()
    journal = Journal(folder.journal)
    relay = threading.Thread(
        target=run_relay,
        kwargs={
            "settings": Settings(), "receipts": folder.receipts, "journal": journal, "spool": FileSpool(folder.spool),
            "bus": MemoryBus(clock=clock), "clock": clock, "stop": stop, "on_ready": lambda: None,
        },
    )  # fmt: skip
    relay.start()
    try:
        assert pod.drain(folder, 120.0) is True
    finally:
        stop.set()
        relay.join()
        journal.close()
