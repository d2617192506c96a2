"""What speaks against a job: attempts at it that ended badly, as the event log tells them. Talks to no bus."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence

from ichor.errors import IchorError
from ichor.messages import Data, JobFailed, JobStarted
from ichor.types import Job

MOST_ATTEMPTS = 5
MOST_FAULTS = 3  # of different workers
_AWAY = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES,
        errno.EMFILE, errno.ENFILE, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    }
)  # fmt: skip
OTHERS_FIRST = 60.0  # for so long a worker by whose fault a job failed leaves it to others


def pause_after(attempt: int) -> float:
    """Seconds before a job is tried again whose attempt failed: of five, the last one comes 40 s after the first ends."""
    return 3.0 ** (attempt - 1)


def store_is_away(error: OSError) -> bool:
    """Does the disk or the volume answer so, and not a file that is as it should not be? Then no job is to blame."""
    return error.errno in _AWAY


def worker_died(history: Sequence[Data], job: Job, *, attempt: int) -> bool:
    """Was the attempt before this one begun, and nothing told of its end?"""
    told = (e for e in reversed(history) if isinstance(e, JobStarted | JobFailed) and e.job_id == job.job_id)
    last = next(told, None)
    return isinstance(last, JobStarted) and last.attempt < attempt


def faults(history: Sequence[Data], job: Job) -> list[JobFailed]:
    """Failures that were their worker's fault, since the job was ordered or given up last."""
    found: list[JobFailed] = []
    for event in history:
        if isinstance(event, JobFailed) and event.job_id == job.job_id:
            if event.final:
                found.clear()
            elif event.worker is not None:
                found.append(event)
    return found


def left_to_others(history: Sequence[Data], job: Job, *, worker: str, now: float) -> bool:
    """Did it fail by the fault of this worker a moment ago?"""
    return any(fault.worker == worker and now - fault.at < OTHERS_FIRST for fault in faults(history, job))


def given_up(history: Sequence[Data], job: Job) -> bool:
    """Was it ever, as ``history`` has it?"""
    return any(isinstance(event, JobFailed) and event.job_id == job.job_id and event.final for event in history)


def times_given_up(history: Sequence[Data], job: Job) -> int:
    """How often that was told since the last attempt at it."""
    times = 0
    for event in history:
        if isinstance(event, JobStarted) and event.job_id == job.job_id:
            times = 0
        elif isinstance(event, JobFailed) and event.job_id == job.job_id:
            times += event.final
    return times


def reason_of(error: BaseException) -> str:
    """What people are told: our own errors hold no PHI, others' texts may."""
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) if isinstance(error, IchorError) else f"unexpected error ({type(error).__name__})"


def trace_of(error: BaseException) -> str:
    """Where it happened, without the text of a foreign error: that may quote a header."""
    where = "".join(traceback.format_tb(error.__traceback__))
    return f"{reason_of(error)}\n{where}"
