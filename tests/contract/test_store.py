"""The Blobs contract, held by every form of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ichor.store import disk
from ichor.store.blobs import FileBlobs
from ichor.store.bucket_blobs import BucketBlobs
from ichor.store.memory import MemoryBlobs
from ichor.store.protocol import Blobs


@pytest.fixture(params=["file", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "s3":
        return BucketBlobs(request.getfixturevalue("new_bucket"))
    return FileBlobs(tmp_path / "blobs") if request.param == "file" else MemoryBlobs()


def test_first_put_wins(blobs: Blobs) -> None:
    assert blobs.put("results/1.2.3/report.dcm", b"first") is True
    assert blobs.put("results/1.2.3/report.dcm", b"second") is False
    assert blobs.get("results/1.2.3/report.dcm") == b"first"


def test_first_set_wins_as_a_whole(blobs: Blobs) -> None:
    assert blobs.put_set("results/job-1", {"a.dcm": b"a1", "pictures/1.png": b"p1"}) is True
    assert blobs.put_set("results/job-1", {"a.dcm": b"a2", "b.dcm": b"b2"}) is False
    assert list(blobs.keys("results/job-1")) == ["results/job-1/a.dcm", "results/job-1/pictures/1.png"]
    assert blobs.get("results/job-1/a.dcm") == b"a1"


def test_empty_set_is_wrong_use(blobs: Blobs) -> None:
    with pytest.raises(ValueError, match="empty"):
        blobs.put_set("results/job-1", {})


@pytest.mark.parametrize(
    "key",
    ["", "..", "../x", "a/../b", "/etc/passwd", "a//b", "a/", ".hidden", "a b", "a\\b", "ä", "a/.scratch", "x" * 300],
)
def test_key_that_could_leave_the_store_is_refused(blobs: Blobs, key: str) -> None:
    for call in (
        lambda: blobs.put(key, b""),
        lambda: blobs.get(key),
        lambda: blobs.exists(key),
        lambda: blobs.put_set(key, {"a": b""}),
        lambda: blobs.put_set("p", {key: b""}),
    ):
        with pytest.raises(ValueError, match=r"not a key|empty"):
            call()


def test_absent_key(blobs: Blobs) -> None:
    blobs.put("a/b", b"1")
    assert blobs.exists("a/c") is False
    assert blobs.exists("a") is False
    for key in ("a/c", "a", "z/z"):
        with pytest.raises(KeyError):
            blobs.get(key)
    assert list(blobs.keys("z")) == []


def test_keys_are_sorted_and_below_the_prefix_only(blobs: Blobs) -> None:
    for key in ("r/2", "r/10", "rr/1", "r/1/x"):
        blobs.put(key, b"")
    assert list(blobs.keys("r")) == ["r/1/x", "r/10", "r/2"]
    assert list(blobs.keys("r/2")) == ["r/2"]
    assert list(blobs.keys("")) == ["r/1/x", "r/10", "r/2", "rr/1"]


def test_delete_removes_a_key_or_all_below_a_prefix(blobs: Blobs) -> None:
    blobs.put("r/1/x", b"")
    blobs.put("r/2", b"")
    blobs.delete("r/2")
    blobs.delete("r/nothing")
    assert list(blobs.keys("")) == ["r/1/x"]
    blobs.delete("r")
    assert list(blobs.keys("")) == []
    assert blobs.put("r/1/x", b"again") is True


def test_one_of_many_concurrent_puts_wins(blobs: Blobs) -> None:
    start = threading.Barrier(8)
    won: list[int] = []

    def contend(number: int) -> None:
        start.wait()
        if blobs.put_set("results/job", {"who": str(number).encode(), "twice": str(number).encode()}):
            won.append(number)

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert blobs.get("results/job/who") == blobs.get("results/job/twice") == str(won[0]).encode()


# --- files only ---------------------------------------------------------------------------------------------------

_WRITER = """
import itertools, sys
from pathlib import Path
from ichor.store.blobs import FileBlobs
blobs = FileBlobs(Path(sys.argv[1]))
print("ready", flush=True)
for n in itertools.count():
    blobs.put_set(f"sets/{n}", {f"{part}.bin": bytes(50_000) for part in range(8)})
    print(n, flush=True)
"""


def test_set_is_whole_or_absent_after_kill(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(4)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    told = len(said) - 1 + len(process.stdout.read().split())
    blobs = FileBlobs(tmp_path)
    sets = {key.split("/")[1] for key in blobs.keys("sets")}
    assert len(sets) >= told >= 3
    for number in sets:
        assert [len(blobs.get(key)) for key in blobs.keys(f"sets/{number}")] == [50_000] * 8
    left = [
        path for path in (tmp_path / ".scratch").rglob("*") if path.name not in ("lock", "owner") and path.is_file()
    ]
    assert left == []


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = FileBlobs(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    calls: list[Callable[[], object]] = [
        lambda: blobs.put("r/1", b"x" * 1000),
        lambda: blobs.put_set("r/2", {"a": b"a", "b": b"b"}),
    ]
    for call in calls:
        with monkeypatch.context() as patch:
            patch.setattr(disk, "sync", full)
            with pytest.raises(OSError, match="No space"):
                call()
    assert list(blobs.keys("")) == []
    assert list(tmp_path.rglob("*.part")) == []
    assert blobs.put("r/1", b"y") is True


def test_living_neighbour_keeps_its_scratch(tmp_path: Path) -> None:
    first = disk.Scratch(tmp_path)
    half = first.path()
    half.write_bytes(b"half")
    disk.Scratch(tmp_path)
    assert half.read_bytes() == b"half"
