"""An assembler as a process of its own, for tests that kill it: ``owner.py BUS ROOT SHARDS [hang]``.

``BUS`` is a file or ``kafka://...`` with the prefix after ``#``. ``hang``: it stops in the middle of its first job.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import partial
from pathlib import Path

from ichor.bus.opening import open_bus
from ichor.bus.protocol import Bus
from ichor.clock import SystemClock
from ichor.config import KafkaSettings
from ichor.pipeline import PipelineSpec
from ichor.store.blobs import FileBlobs
from ichor.store.ownership import divide
from ichor.types import Findings
from listener.assembler import run_assembler
from listener.assemblers import run_assemblers


def never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


PIPELINE = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=never)


class HangingBlobs(FileBlobs):
    """Says that it hangs, and does."""

    def put(self, key: str, data: bytes) -> bool:
        print("hangs", flush=True)
        time.sleep(3600)
        return super().put(key, data)


def bus_at(where: str, root: Path) -> Bus:
    if where.startswith("kafka:"):
        url, _, prefix = where.partition("#")
        return open_bus(url, root, SystemClock(), kafka=KafkaSettings(prefix=prefix, timeout=60.0))
    return open_bus("sqlite:", root, SystemClock())


def main(where: str, root: Path, shards: int, *, hangs: bool) -> None:
    blobs = root / "blobs"
    assemble = partial(
        run_assembler, bus=bus_at(where, root), blobs=HangingBlobs(blobs) if hangs else FileBlobs(blobs),
        pipelines=(PIPELINE,), study_wait=10.0, clock=SystemClock(), shared=True,
    )  # fmt: skip
    folder = root / "assembly"
    divide(folder, shards)
    run_assemblers(
        assemble, folder=folder, state_path=lambda number: folder / f"{number}.sqlite", shards=shards,
        stop=threading.Event(), on_ready=lambda: print("ready", flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), hangs="hang" in sys.argv[4:])
