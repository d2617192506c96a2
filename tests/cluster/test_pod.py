"""The chart's pod.py: what the processes of a pod counted is scraped, and what a receiver has not told yet."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ichor.cli.folder import DataFolder
from ichor.store.journal import Journal
from ichor.store.receipts import Lane, ReceiptWriter, Refused

from .conftest import CHART, Object, container, workloads


@pytest.fixture
def pod() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pod", CHART / "files" / "pod.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
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


def test_what_a_receiver_has_not_told_is_scraped_though_no_relay_runs(pod: ModuleType, tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    _received(folder)
    (tmp_path / "metrics").mkdir()
    text = _scrape(pod.serve(tmp_path / "metrics", folder, 0))
    waiting = re.search(r'ichor_receipts_unread_bytes\{lane="ROUTINE"\} (\S+)', text, re.IGNORECASE)
    assert waiting is not None
    assert float(waiting[1]) > 0


def test_the_probe_follows_a_role_that_starts_and_ends(
    pod: ModuleType, render: Callable[..., list[Object]], tmp_path: Path
) -> None:
    data, counted = tmp_path / "data", tmp_path / "metrics"
    counted.mkdir()
    *shell, text = container(workloads(render("small"))["assemble"])["readinessProbe"]["exec"]["command"]
    probe = [*shell, text.replace("/var/lib/ichor", str(data))]

    def ready() -> bool:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0

    assert not ready()
    with (tmp_path / "log").open("wb") as log:
        role = subprocess.Popen(
            [sys.executable, "-m", "ichor", "assemble", "--data", data], stdout=log, stderr=log,
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(counted)},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 600
        while not ready():
            assert role.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "ichor_objects_lost_total 0.0" in _scrape(pod.serve(counted, DataFolder(data), 0))
    finally:
        role.terminate()
        assert role.wait(60) == 0
    assert not ready()
