"""A role in its process: what it tells those who ask whether it is ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ichor.cli import supervisor
from ichor.cli.supervisor import all_ready, run_role


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield
    for number, handler in before:
        signal.signal(number, handler)


def test_a_role_that_starts_on_a_full_disk_works_and_says_that_it_is_ready_when_there_is_room(
    small_disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_READY_AGAIN", 0.01)
    disk = small_disk("64k")
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(b"x" * (128 << 10))
    seen: list[bool] = []

    def role(_stop: threading.Event, on_ready: Callable[[], None]) -> None:
        on_ready()
        seen.append(all_ready(disk, ["receive"])[0])
        ballast.unlink()
        deadline = time.monotonic() + 60
        while not all_ready(disk, ["receive"])[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append((disk / "receive.ready").read_text() == str(os.getpid()))

    assert run_role("receive", role, disk) == 0
    assert seen == [False, True]
    assert [r.levelname for r in caplog.records if "cannot say" in r.message] == ["WARNING"]


COUNT_AND_DIE = """
import os, sys, threading
from pathlib import Path
from ichor.cli.metrics_folder import count_by_role, shared_metrics
from ichor.cli.supervisor import Supervisor
folder = Path(sys.argv[1])
with shared_metrics(folder, memory=folder) as place:
    count_by_role()
    from console.exposition import Exposition
    from ichor import metrics
    from ichor.bus.memory import MemoryBus

    def role(stop, on_ready):
        metrics.BYTES_STORED.inc()
        metrics.ASSOCIATIONS_OPEN.inc()
        if metrics.BYTES_STORED._value.get() < 4:
            os._exit(3)
        print(Exposition(MemoryBus(), lambda: None).text().decode(), len(list(place.glob("counter_*.db"))), flush=True)
        os.kill(os.getppid(), 15)
        stop.wait(60)

    sys.exit(Supervisor({"receive": role}, folder).run())
"""


def test_a_role_that_dies_again_and_again_goes_on_counting_in_the_files_that_it_has(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT_AND_DIE, tmp_path], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "ichor_bytes_stored_total 4.0" in done.stdout
    assert "ichor_associations_open 1.0" in done.stdout  # of the dead, none
    assert int(done.stdout.split()[-1]) <= 2  # the supervisor's and the role's
