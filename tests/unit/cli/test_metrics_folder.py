"""Where the processes of a `serve` count: in memory, so that a full disk kills none of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ichor.cli.metrics_folder import shared_metrics

COUNT = """
import sys
from pathlib import Path
from ichor.cli.metrics_folder import shared_metrics
with shared_metrics(Path(sys.argv[1]), memory=Path(sys.argv[2])):
    from ichor import metrics
    for n in range(1000):
        metrics.ASSOCIATIONS_ABORTED.labels(f"cause {n}").inc()
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "as it was")  # and so again after the test


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    made = tmp_path / "memory"
    made.mkdir()
    return made


def test_who_counts_beside_a_full_disk_lives(small_disk: Callable[[str], Path], memory: Path) -> None:
    disk = small_disk("128k")
    (disk / "ballast").write_bytes(b"x" * (128 << 10))
    with pytest.raises(OSError, match="No space left"):
        (disk / "more").write_bytes(b"x" * 4096)
    done = subprocess.run([sys.executable, "-c", COUNT, disk, memory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_is_empty_this_users_alone_and_gone_at_the_end(tmp_path: Path, memory: Path) -> None:
    with shared_metrics(tmp_path, memory=memory) as place:
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(place)
        assert place.parent == memory
        assert place.stat().st_mode & 0o777 == 0o700
        (place / "counter_1.db").write_bytes(b"")
    assert not list(memory.iterdir())


def test_what_a_killed_one_left_is_deleted_and_what_is_in_use_is_not(tmp_path: Path, memory: Path) -> None:
    left = memory / "ichor-metrics-left"
    left.mkdir()
    (left / "counter_1.db").write_bytes(b"")
    with shared_metrics(tmp_path, memory=memory) as first, shared_metrics(tmp_path, memory=memory) as second:
        assert sorted(memory.iterdir()) == sorted([first, second])


def test_a_child_keeps_it_when_the_parent_is_killed(tmp_path: Path, memory: Path) -> None:
    held, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        with shared_metrics(tmp_path, memory=memory):
            if os.fork() == 0:
                os.write(held[1], b"x")
                os.read(go[0], 1)
            os._exit(0)
    os.waitpid(pid, 0)
    os.read(held[0], 1)
    with shared_metrics(tmp_path, memory=memory):
        assert len(list(memory.iterdir())) == 2
    os.write(go[1], b"x")


def test_without_room_in_memory_it_is_on_disk_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "counter_1.db").write_bytes(b"of the one before")
    with shared_metrics(tmp_path, memory=tmp_path / "not there") as place:
        assert place == tmp_path.resolve()
        assert not list(tmp_path.iterdir())
    assert [r.levelname for r in caplog.records] == ["WARNING"]
