"""Studies through a cluster of processes on a real Kafka, with a pipeline that does nothing. Not the speed of a network.

First `ichor receive` and `ichor assemble` turn studies into jobs, with no worker there. Then for each number of workers
these jobs wait in a queue of 10, 100 and 1,000, and `ichor work` and `ichor send` bring them to a DICOM receiver.
Studies a second, CPU by role and study, bytes on the bus and in the store.

Real: every role is the command of its own, Kafka is Apache Kafka (one broker), C-STOREs on both sides. Made: the images
(a small synthetic head, again and again under new UIDs); and for the queues, what the assembler has published about a
study is published again under another topic prefix, so that images are received once.

Goals are ratios of one run, as a machine's own speed says nothing of growth: of the same workers, a study that waited
among 1,000 costs at most 1.5 times the CPU of one that waited among 10 (what is done once for each of those who wait
would show as a hundredfold); of the longest queue, a study costs at most as much more with four workers than with one
(each of them follows what all of them say); every study is done and delivered once, by one attempt.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._cluster import (
    MATRIX,
    PATIENCE_SECONDS,
    SENDERS,
    SHARDS,
    SLICES,
    Head,
    Meter,
    Site,
    at_rest,
    size_of,
    wait_ready,
)
from bench._site import free_ports
from ichor.bus.kafka import KafkaBus, KafkaSubscription
from ichor.errors import TransientError
from ichor.history.projection import log
from ichor.messages import EVENTS, Envelope, jobs_topic
from ichor.shards import shards
from ichor.types import Priority

WORKERS = (1, 2, 4)
QUEUED = (10, 10, 10, 100, 1000)  # the short ones several times: their median counts
GOAL = 1.5
DEPTHS, CLAIMS = (10, 1000, 10_000), 100
WARM = 8  # studies for each worker before anything counts
_JOBS = jobs_topic("small", Priority.ROUTINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One queue brought to its end. ``cpu``: seconds a study by role; ``bus``: bytes a study by topic."""

    workers: int
    queued: int
    seconds: float  # to the last job done
    delivered: float  # to the last object delivered
    cpu: dict[str, float]
    bus: dict[str, float]
    store: float
    follower: float  # CPU seconds a study of this process, which follows the events (and has published what waits)
    claims: float  # records of the workers' ledger a study
    events: float  # of them a study
    once: bool

    @property
    def total(self) -> float:
        return sum(self.cpu.values())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--queued", type=int, nargs="+", default=QUEUED)
    options = parser.parse_args()
    for program, package in (("storescu", "dcmtk"), ("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None:
            print(f"{program} is not installed: apt install {package}")
            return 1
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ichor-bench-")))
        site = Site(folder, stack)
        count = max(options.workers) * WARM + sum(options.queued)
        missed = _depths(site)
        jobs = _take_in(site, count=count)
        rows = [row for workers in options.workers for row in _queues(site, jobs, options.queued, workers=workers)]
        return _report(rows) or int(missed)


# --- the bus alone ----------------------------------------------------------------------------------------------------


def _depths(site: Site) -> bool:
    """What a member pays for a message when ever more wait behind it; whether the goal is missed."""
    cost: dict[int, float] = {}
    for waiting in DEPTHS:
        bus = site.bus(f"depth-{waiting}.")
        member = bus.subscribe(["jobs"], "work")
        for first in range(0, 2 * CLAIMS + waiting, 1000):
            bus.publish("jobs", [_message(n) for n in range(first, min(first + 1000, 2 * CLAIMS + waiting))])
        _take(member, CLAIMS)
        begun = time.process_time()
        _take(member, CLAIMS)
        cost[waiting] = (time.process_time() - begun) / CLAIMS
        bus.close()
    said = ", ".join(f"{1000 * seconds:.2f} with {waiting:,} waiting" for waiting, seconds in cost.items())
    print(f"the bus alone, CPU ms to take a message and end it: {said}")
    return _misses(f"{max(DEPTHS):,} waiting to {min(DEPTHS)}", cost[max(DEPTHS)], cost[min(DEPTHS)])


def _message(number: int) -> Envelope:
    return Envelope(
        id=f"{number}", source="bench", type="bench", time=0.0, subject=f"1.2.{number}", data={"x": "y" * 1500}
    )


def _take(member: KafkaSubscription, count: int) -> None:
    for _ in range(count):
        delivery = member.receive(PATIENCE_SECONDS)
        assert delivery is not None
        delivery.ack()


# --- images to jobs ---------------------------------------------------------------------------------------------------


def _take_in(site: Site, *, count: int) -> list[list[Envelope]]:
    """What the assembler publishes of ``count`` studies: of each its events, then its job."""
    prefix = "in."
    (port,) = free_ports(1)
    receive = site.member(
        "receive", "receive", prefix=prefix, ICHOR_LISTENER__PORT=str(port), ICHOR_LISTENER__PROCESSES="1",
        ICHOR_STORE__RECEIVER="receive",
    )  # fmt: skip
    assemble = site.member("assemble", "assemble", prefix=prefix)
    wait_ready(receive, assemble)
    bus = site.bus(prefix)
    head = Head(site.memory / "images")
    jobs: dict[str, Envelope] = {}
    queue = _Follower(bus, _JOBS)

    def take(until: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(jobs) < until:
            jobs.update((job.subject, job) for job in queue.next())
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(jobs)} of {until} jobs; {receive.log()[-1000:]}{assemble.log()[-1000:]}")

    head.send(range(WARM), port)
    take(WARM)
    relay = int((receive.data / "run" / "relay.ready").read_text())
    receiving = int((receive.data / "run" / "receive.ready").read_text())
    roots = {"receive": [receiving], "relay": [relay], "assemble": [assemble.process.pid], "Kafka": [site.broker]}
    before, begun = site.bytes_by_topic(prefix), time.monotonic()
    stored = size_of(site.store / "spool"), size_of(site.store / "blobs")
    topics = [shard.topic for shard in shards(SHARDS)]
    messages = _records(bus, *topics)
    meter = Meter(roots)
    head.send(range(WARM, WARM + count), port)
    sent = time.monotonic() - begun
    take(WARM + count)
    seconds, cpu = time.monotonic() - begun, meter.read()
    told = site.bytes_by_topic(prefix) - before
    resting = at_rest(roots)
    print(
        f"{count} studies of {SLICES} images of {MATRIX} x {MATRIX}, an association each, {SENDERS} at a time: sent in {sent:.1f} s, all jobs "
        f"there after {seconds:.1f} s ({count / seconds:.1f} studies/s, {count * SLICES / seconds:.0f} images/s)"
    )
    print("  CPU ms a study: " + ", ".join(f"{role} {1000 * value / count:.1f}" for role, value in cpu.items()))
    print(f"  at rest, CPU ms a second: {resting}")
    messages = _records(bus, *topics) - messages
    print(f"  bytes on the bus a study: {_bytes(told, count)}; messages to the assembler {messages / count:.2f}")
    spool, blobs = size_of(site.store / "spool") - stored[0], size_of(site.store / "blobs") - stored[1]
    print(f"  bytes in the store a study: images {spool / count:,.0f}, manifests {blobs / count:,.0f}", flush=True)
    events = defaultdict(list)
    for event in log(bus, EVENTS):
        events[event.subject].append(event)
    for member in (receive, assemble):
        member.kill()
    return [[*events[uid], job] for uid, job in list(jobs.items())[WARM:]]


# --- jobs to delivered results ----------------------------------------------------------------------------------------


def _queues(site: Site, jobs: Sequence[list[Envelope]], queued: Sequence[int], *, workers: int) -> Iterator[Row]:
    """Queues of each length, one after the other, for the same workers, which have warmed up."""
    prefix = f"work-{workers}."
    shutil.rmtree(site.store / "blobs" / "results", ignore_errors=True)
    shutil.rmtree(site.store / "blobs" / "findings", ignore_errors=True)
    bus = site.bus(prefix)
    team = [site.member(f"work-{n}", "work", prefix=prefix) for n in range(workers)]
    send = site.member("send", "send", prefix=prefix)
    wait_ready(*team, send)
    roots = {
        "work": [m.process.pid for m in team if m.process], "send": [send.process.pid], "Kafka": [site.broker],
    }  # fmt: skip
    rest = iter(jobs)
    follower = _Follower(bus, EVENTS)
    _bring(follower, [next(rest) for _ in range(WARM * workers)])
    print(f"{workers} workers at rest, CPU ms a second: {at_rest(roots)}", flush=True)
    for count in queued:
        studies = [next(rest) for _ in range(count)]
        before, stored = site.bytes_by_topic(prefix), size_of(site.store / "blobs")
        ledger, told = _records(bus, "group.work"), _records(bus, EVENTS)
        meter, own = Meter(roots), time.process_time()
        done, delivered, once = _bring(follower, studies)
        own = time.process_time() - own
        cpu = {role: seconds / count for role, seconds in meter.read().items()}
        grown = site.bytes_by_topic(prefix) - before
        row = Row(
            workers=workers, queued=count, seconds=done, delivered=delivered, cpu=cpu,
            bus={topic: size / count for topic, size in grown.items()},
            store=(size_of(site.store / "blobs") - stored) / count,
            claims=(_records(bus, "group.work") - ledger) / count, events=(_records(bus, EVENTS) - told) / count,
            follower=own / count, once=once,
        )  # fmt: skip
        _print(row)
        yield row
    _print_start(site, prefix, jobs[0][-1].subject)
    for member in (*team, send):
        member.kill()


def _print_start(site: Site, prefix: str, study: str) -> None:
    """What a process that starts does before it knows the events of any one study: it reads them all."""
    bus = site.bus(prefix, "start")
    count, begun, cpu = _records(bus, EVENTS), time.monotonic(), time.process_time()
    bus.read(EVENTS, subject=study)
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    print(
        f"a process that starts reads {count} events in {seconds:.2f} s, {1e6 * cpu / count:.0f} us of CPU each",
        flush=True,
    )


def _records(bus: KafkaBus, *topics: str) -> int:
    return sum(end for _, end in bus.cluster.ends(topics).values())


class _Follower:
    """Follows a log as a console does."""

    def __init__(self, bus: KafkaBus, topic: str) -> None:
        self.bus, self._topic, self._cursor = bus, topic, 0

    def next(self) -> list[Envelope]:
        try:
            found = self.bus.read(self._topic, after=self._cursor, wait=5.0)
        except TransientError as error:  # of a machine so busy that a broker's sign of life is late
            print(f"  ({error})")
            return []
        if found:
            self._cursor = found[-1][0]
        return [envelope for _, envelope in found]


def _bring(follower: _Follower, studies: Sequence[list[Envelope]]) -> tuple[float, float, bool]:
    """Queue studies and wait for their end: seconds to the last job done, to the last delivery, and whether all once."""
    bus = follower.bus
    bus.publish(EVENTS, [event for *events, _ in studies for event in events])
    begun = time.monotonic()
    bus.publish(_JOBS, [job for *_, job in studies])
    wanted = {job.subject for *_, job in studies}
    started: Counter[str] = Counter()
    finished: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    due: dict[str, str] = {}  # SOP Instance UID -> study
    strange: list[str] = []
    done = 0.0
    while len(finished) < len(wanted) or len(sent) < len(due):
        for event in follower.next():
            data: dict[str, Any] = event.data
            if event.subject not in wanted:
                continue
            if event.type == "ichor.job.started.v1":
                started[event.subject] += 1
            elif event.type == "ichor.job.done.v1":
                finished[event.subject] += 1
                due |= dict.fromkeys((item["sop_instance_uid"] for item in data["objects"]), event.subject)
                done = time.monotonic() - begun
            elif event.type == "ichor.delivery.changed.v1":
                sent[data["sop_instance_uid"]] += 1
                strange += [data["state"]] if data["state"] != "sent" else []
            elif event.type == "ichor.job.failed.v1":
                strange.append(data["reason"])
        if time.monotonic() - begun > PATIENCE_SECONDS:
            raise TimeoutError(f"{len(finished)} of {len(wanted)} studies, {len(sent)} of {len(due)} objects")
    once = not strange and set(due.values()) == wanted
    once &= all(set(counts.values()) == {1} for counts in (started, finished, sent))
    return done, time.monotonic() - begun, once


# --- figures ----------------------------------------------------------------------------------------------------------


def _print(row: Row) -> None:
    print(
        f"{row.workers} workers, {row.queued:5d} queued: {row.queued / row.seconds:6.2f} studies/s done, "
        f"{row.queued / row.delivered:6.2f} delivered; CPU ms a study: "
        + ", ".join(f"{role} {1000 * value:.1f}" for role, value in row.cpu.items())
        + f", follower {1000 * row.follower:.1f}; a study has {row.events:.2f} events, {row.claims:.2f} records in the "
        + f"workers' ledger; store {row.store:,.0f} bytes; bus {_bytes(row.bus, 1)}"
        + ("" if row.once else "; NOT EVERY STUDY ONCE"),
        flush=True,
    )


def _report(rows: Sequence[Row]) -> int:
    missed = not all(row.once for row in rows)
    print(f"\nevery study once: {'MISSED' if missed else 'met'}")
    teams, lengths = sorted({row.workers for row in rows}), sorted({row.queued for row in rows})
    total = {
        (team, length): statistics.median(row.total for row in rows if (row.workers, row.queued) == (team, length))
        for team in teams
        for length in lengths
    }
    for team in teams:
        what = f"{team} workers, {lengths[-1]} queued to {lengths[0]}"
        missed |= _misses(what, total[team, lengths[-1]], total[team, lengths[0]])
    what = f"{lengths[-1]} queued, {teams[-1]} workers to {teams[0]}"
    missed |= _misses(what, total[teams[-1], lengths[-1]], total[teams[0], lengths[-1]])
    return 1 if missed else 0


def _misses(what: str, more: float, less: float) -> bool:
    met = more <= GOAL * less
    verdict = "met" if met else "MISSED"
    print(f"{what}: {1000 * more:.1f} / {1000 * less:.1f} CPU ms = {more / less:.2f}; goal <= {GOAL} {verdict}")
    return not met


def _bytes(sizes: Any, count: int) -> str:
    return ", ".join(f"{name} {size / count:,.0f}" for name, size in sorted(sizes.items()) if size)


if __name__ == "__main__":
    sys.exit(main())
