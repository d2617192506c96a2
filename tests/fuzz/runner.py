"""Deals cases out to processes, a block of one target each, and gathers what they found. Knows no target's business."""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from .disk import Receipts, Segments
from .guard import Finding, Guard, Target
from .network import Command, Conversation, LobbyTarget, Request
from .objects import Commitment, Door, Facts, Multipart, UIDs
from .whole import Whole

# Name -> what makes it, and its cases of 1,000,000: the cheaper the more.
TARGETS: dict[str, tuple[Callable[[], Target], int]] = {
    "whole": (Whole, 3_000),
    "facts": (Facts, 40_000),
    "conversation": (Conversation, 100_000),
    "receipts": (Receipts, 30_000),
    "door": (Door, 50_000),
    "multipart": (Multipart, 80_000),
    "commitment": (Commitment, 80_000),
    "request": (Request, 120_000),
    "uids": (UIDs, 160_000),
    "lobby": (LobbyTarget, 80_000),
    "segments": (Segments, 107_000),
    "command": (Command, 150_000),
}
_MOST_FINDINGS = 10  # of one block
_BLOCKS = 8  # of one target
_HANG = 180.0  # seconds without a word: even the alarm did not end it


@dataclass
class Report:
    """What became of the cases of one target; ``peak``: of memory, in MiB, ``slowest``: (seconds, case)."""

    cases: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    peak: int = 0


@dataclass
class _Block:
    target: str
    numbers: range
    process: Any = None
    at: Any = None  # the case that it runs, in shared memory
    seen: tuple[int, float] = (-1, 0.0)  # that case, and when it was another one


def share(cases: int) -> dict[str, int]:
    """Cases of each target when there are ``cases`` in all."""
    return {name: max(1, cases * weight // 1_000_000) for name, (_, weight) in TARGETS.items()}


def run_here(
    name: str, numbers: range, *, seed: int, limits: bool = False, at: Callable[[int], None] = lambda _: None
) -> Report:
    """Cases in this process and the main thread; ``at`` is told each before it runs."""
    began = time.monotonic()
    target = TARGETS[name][0]()
    try:
        with Guard(name, target, seed=seed, limits=limits) as guard:
            for number in numbers:
                at(number)
                guard.run(number)
                if len(guard.findings) >= _MOST_FINDINGS:
                    break
    finally:
        target.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    done = sum(guard.ends.values()) + len(guard.findings)
    return Report(done, time.monotonic() - began, Counter(guard.ends), guard.findings, guard.slowest, peak)


def run(counts: dict[str, int], *, seed: int, processes: int, tell: Callable[[str], None]) -> dict[str, Report]:
    """Cases of each target as ``counts`` says, each block in a process of its own: one that dies is a finding."""
    blocks = [
        _Block(name, range(count * n // parts, count * (n + 1) // parts))
        for name, count in counts.items()
        for parts in [min(_BLOCKS, max(1, count // 100))]
        for n in range(parts)
    ]
    # The whole receiver mostly waits: its blocks run beside the others.
    blocks.sort(key=lambda block: (block.numbers.start, block.target != "whole"))
    reports = {name: Report() for name in counts}
    context = multiprocessing.get_context("fork")
    running: dict[Connection, _Block] = {}
    while blocks or running:
        while blocks and len(running) < processes:
            block = blocks.pop(0)
            ours, theirs = context.Pipe(duplex=False)
            block.at = context.RawValue("q", -1)
            block.process = context.Process(target=_work, args=(theirs, block.at, block.target, block.numbers, seed))
            block.process.start()
            theirs.close()
            block.seen = -1, time.monotonic()
            running[ours] = block
        for ready in wait(list(running), timeout=1.0):
            assert isinstance(ready, Connection)
            _hear(ready, running, reports, seed, tell)
        for connection, block in list(running.items()):
            if block.at.value != block.seen[0]:
                block.seen = block.at.value, time.monotonic()
            elif time.monotonic() - block.seen[1] > _HANG:
                block.process.kill()
                _end(connection, running, reports, seed, "it hung, and was killed")
    return reports


def _hear(
    connection: Connection, running: dict[Connection, _Block], reports: dict[str, Report], seed: int,
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    block = running[connection]
    try:
        more: Report = connection.recv()
    except EOFError:
        _end(connection, running, reports, seed, "its process died")
        return
    report = reports[block.target]
    report.cases += more.cases
    report.seconds += more.seconds
    report.ends += more.ends
    report.findings += more.findings
    report.slowest = max(report.slowest, more.slowest)
    report.peak = max(report.peak, more.peak)
    for finding in more.findings:
        tell(f"FINDING {finding.target} seed={finding.seed} number={finding.number}\n{finding.what}")
    tell(
        f"{block.target} {block.numbers.start}..{block.numbers.stop - 1}: {more.seconds:.0f} s, {len(more.findings)} findings"
    )
    block.process.join()
    del running[connection]
    connection.close()


def _end(
    connection: Connection, running: dict[Connection, _Block], reports: dict[str, Report], seed: int, what: str
) -> None:
    block = running.pop(connection)
    block.process.join()
    reports[block.target].findings.append(
        Finding(block.target, seed, block.at.value, f"{what} (exit {block.process.exitcode})")
    )
    connection.close()


def _work(connection: Connection, at: Any, name: str, numbers: range, seed: int) -> None:
    connection.send(run_here(name, numbers, seed=seed, limits=True, at=functools.partial(setattr, at, "value")))
    connection.close()
    os._exit(0)  # threads of a receiver may be left
