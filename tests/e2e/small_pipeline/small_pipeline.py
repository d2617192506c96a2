"""A pipeline without a network for the tests of a cluster: counts slices, as slowly or as badly as a file asks. RESEARCH."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ichor.errors import WorkerFault
from ichor.pipeline import Engine, PipelineSpec, Timing
from ichor.types import Algorithm, Findings, Stage

if TYPE_CHECKING:
    from ichor.arrays import Volume

ROLE = "ncct_head"


def run(volumes: Mapping[str, Volume], engines: Mapping[str, Engine], timing: Timing) -> Findings:
    """Says how many slices the volume has, and what they hold on average.

    In the folder ``SMALL_PIPELINE``: ``seconds``, how long a job takes; a file named as the study asks for trouble;
    ``at-work`` holds a file named as each process that is at a job, or died at one.
    """
    del engines
    volume = volumes[ROLE]
    study = volume.sources[0].study_instance_uid
    with timing(Stage.INFER), _at_work():
        _misbehave(study)
        time.sleep(float(_asked("seconds") or 0.0))
        mean = float(volume.array_zyx.mean())
    return Findings(
        outcome="none", summary=(f"{len(volume.sources)} slices of {mean:.3f} HU on average",),
        algorithm=Algorithm(pipeline="small", version="1", parameters={}),
    )  # fmt: skip


@contextlib.contextmanager
def _at_work() -> Iterator[None]:
    sign = Path(os.environ["SMALL_PIPELINE"]) / "at-work" / str(os.getpid())
    sign.touch()
    try:
        yield
    finally:
        sign.unlink()


def _misbehave(study: str) -> None:
    trouble = _asked(study)
    if trouble == "raise":
        raise RuntimeError("as the test asked")
    if trouble == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "memory":
        raise MemoryError
    if trouble == "fault":
        raise WorkerFault("as the test asked")


def _asked(name: str) -> str:
    try:
        return (Path(os.environ["SMALL_PIPELINE"]) / name).read_text().strip()
    except FileNotFoundError:
        return ""


PIPELINE = PipelineSpec(name="small", version="1", requires=(ROLE,), run=run)
