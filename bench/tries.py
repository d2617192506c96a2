"""Which jobs a shower of kills ends, by the pauses between tries: a model, not a run. Says nothing of speed.

Jobs wait in order for one worker. Killed, it is away for 0.5 to 2 s; the job that it had counts a try, waits for its
pause, and is given up after its last try. 30 jobs, and 50 kills 0.1 to 1.5 s apart, as in the soak of
``tests/e2e/test_faults.py``; one in four ends the worker (of eight processes the worker itself, or its supervisor).

Goal: the pauses of `pipelines.failures` give a job up in fewer runs than each other way, whatever the jobs take.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from pipelines.failures import MOST_ATTEMPTS, pause_after

RUNS, JOBS, KILLS, OF_THE_WORKER = 2000, 30, 50, 0.25
LENGTHS = (1.0, 2.0, 3.0, 4.0)
WAYS: dict[str, Sequence[float]] = {
    "five at once": (0.0,) * 4,
    "seven at once": (0.0,) * 6,
    "1, 2, 4, 8 s": (1.0, 2.0, 4.0, 8.0),
    "as it is": tuple(pause_after(attempt) for attempt in range(1, MOST_ATTEMPTS)),
}


def main() -> int:
    print(f"runs of {RUNS} in which some job was given up, in percent, by the length of a job")
    print(f"{'tries':16}" + "".join(f"{length:8.0f} s" for length in LENGTHS))
    rows = {name: [100 * _share(length, pauses) for length in LENGTHS] for name, pauses in WAYS.items()}
    for name, row in rows.items():
        print(f"{name:16}" + "".join(f"{percent:10.2f}" for percent in row))
    *others, ours = rows.values()
    return 0 if all(max(ours) < max(row) and sum(ours) < sum(row) for row in others) else 1


def _share(length: float, pauses: Sequence[float]) -> float:
    return sum(_some_job_is_lost(length, pauses, random.Random(seed)) for seed in range(RUNS)) / RUNS


def _some_job_is_lost(length: float, pauses: Sequence[float], chance: random.Random) -> bool:
    kills, now = [], 0.0
    for _ in range(KILLS):
        now += chance.uniform(0.1, 1.5)
        if chance.random() < OF_THE_WORKER:
            kills.append(now)
    waiting = [(0.0, number, 0) for number in range(JOBS)]  # due, number, deaths
    free = 0.0
    for kill in kills:
        while free < kill and waiting:
            # Of those that are due the one that was ordered first, as the bus has it.
            job = min((w for w in waiting if w[0] <= free), key=lambda w: w[1], default=min(waiting))
            end = max(free, job[0]) + length
            if end <= kill:
                free = end
                waiting.remove(job)
                continue
            if max(free, job[0]) < kill:
                waiting.remove(job)
                if job[2] == len(pauses):
                    return True
                waiting.append((kill + pauses[job[2]], job[1], job[2] + 1))
            break
        free = max(free, kill + chance.uniform(0.5, 2.0))
    return False
