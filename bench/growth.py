"""Studies through a cluster of processes on a real Kafka, with a pipeline that does nothing. Not the speed of a network.

First `ichor receive` and `ichor assemble` turn studies into jobs, with no worker there. Then for each number of workers
these jobs wait in a queue of 10, 100 and 1,000, and `ichor work` and `ichor send` bring them to a DICOM receiver.
Studies a second, CPU by role and study, bytes on the bus and in the store.

Real: every role is the command of its own, Kafka is Apache Kafka (one broker), C-STOREs on both sides. Made: the images
(a small synthetic head, again and again under new UIDs); and for the queues, what the assembler has published about a
study is published again under another topic prefix, so that images are received once.

Goals are ratios of one run, as a machine's own speed says nothing of growth: of the same workers, a study that waited
among 1,000 costs at most 1.5 times the CPU of one that waited among 10 (what is done once for each of those who wait
would show as a hundredfold), and every study is done and delivered once, by one attempt.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from bench._peers import descendants
from bench._site import free_ports
from ichor.bus.kafka import KafkaBus
from ichor.config import KafkaSettings
from ichor.errors import TransientError
from ichor.history.projection import log
from ichor.messages import EVENTS, Envelope, jobs_topic
from ichor.types import Priority
from phantoms.ct_study import write_ct_head

# A real Kafka and a pod's process are started for the tests in the same way.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from e2e.cluster import Member, _plugin
from kafka_broker import Broker, _classpath

WORKERS = (1, 2, 4)
QUEUED = (10, 10, 10, 100, 1000)  # the short ones several times: their median counts
GOAL = 1.5
SLICES, MATRIX = 20, 128
SHARDS = 8
WARM = 8  # studies for each worker before anything counts
PATIENCE_SECONDS = 900.0
REST_SECONDS = 5.0
_JOBS = jobs_topic("small", Priority.ROUTINE)
_TICKS = os.sysconf("SC_CLK_TCK")


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
    claims: float  # records of the workers' ledger by study
    once: bool

    @property
    def total(self) -> float:
        return sum(self.cpu.values())


class Site:
    """Kafka, a DICOM receiver that keeps nothing, one store; members come and go."""

    def __init__(self, folder: Path, stack: ExitStack, *, servers: str, log: Path, broker: int) -> None:
        self.folder, self.servers, self.log, self.broker = folder, servers, log, broker
        self.store = folder / "store"
        self.store.mkdir()
        self._stack = stack
        self._plugin = _plugin(folder / "plugin")
        (folder / "control").mkdir()
        (self.pacs,) = free_ports(1)
        # Without the variable Nagle's algorithm costs 40 ms a response.
        receiver = subprocess.Popen(
            ["storescp", "--ignore", str(self.pacs)], env={**os.environ, "TCP_NODELAY": "1"}, cwd=folder
        )
        stack.callback(receiver.wait)
        stack.callback(receiver.kill)

    def member(self, name: str, command: str, *, prefix: str, **more: str) -> Member:
        """A role as a pod of its own, ready."""
        settings = {
            "ICHOR_BUS__URL": f"kafka://{self.servers}", "ICHOR_BUS__KAFKA__PREFIX": prefix,
            "ICHOR_BUS__KAFKA__MEMBER": name, "ICHOR_STORE__URL": f"file:{self.store}",
            "ICHOR_ASSEMBLE__SHARDS": str(SHARDS), "ICHOR_DESTINATIONS__0__NAME": "pacs",
            "ICHOR_DESTINATIONS__0__AE_TITLE": "PACS", "ICHOR_DESTINATIONS__0__HOST": "127.0.0.1",
            "ICHOR_DESTINATIONS__0__PORT": str(self.pacs), "PYTHONPATH": str(self._plugin),
            "SMALL_PIPELINE": str(self.folder / "control"),
        } | more  # fmt: skip
        member = Member(name, command, self.folder / f"{prefix}{name}", settings)
        self._stack.callback(member.kill)
        member.start()
        return member

    def bus(self, prefix: str) -> KafkaBus:
        folder = self.folder / f"{prefix}asking"
        folder.mkdir()
        bus = KafkaBus(f"kafka://{self.servers}", KafkaSettings(prefix=prefix, timeout=30.0), folder)
        self._stack.callback(bus.close)
        return bus

    def bytes_by_topic(self, prefix: str) -> Counter[str]:
        """Of Kafka's log, as it lies on the disk (its records are compressed)."""
        found: Counter[str] = Counter()
        for path in self.log.glob(f"{prefix}*-0/*.log"):
            topic = path.parent.name.removeprefix(prefix).removesuffix("-0")
            found[topic.partition(".")[0] if topic.startswith(("instances", "jobs")) else topic] += path.stat().st_size
        return found


class Meter:
    """CPU seconds of processes and their descendants by role, from when it is made. None may have ended meanwhile."""

    def __init__(self, roles: dict[str, list[int]]) -> None:
        self._pids = {role: [pid for root in roots for pid in descendants(root)] for role, roots in roles.items()}
        self._before = self._now()

    def read(self) -> dict[str, float]:
        return {role: now - self._before[role] for role, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {role: sum(map(_cpu, pids)) for role, pids in self._pids.items()}


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
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ichor-bench-", dir=_memory())))
        (memory / "kafka").mkdir()
        broker = Broker(memory / "kafka", java="java", classpath=_classpath("mvn"), free_port=lambda: free_ports(1)[0])
        stack.callback(broker.stop)
        broker.start()
        pid = broker._process.pid
        site = Site(folder, stack, servers=broker.servers, log=memory / "kafka" / "log", broker=pid)
        count = max(options.workers) * WARM + sum(options.queued)
        jobs = _take_in(site, memory / "images", count=count)
        rows = [row for workers in options.workers for row in _queues(site, jobs, options.queued, workers=workers)]
        return _report(rows)


# --- images to jobs ---------------------------------------------------------------------------------------------------


def _take_in(site: Site, images: Path, *, count: int) -> list[list[Envelope]]:
    """What the assembler publishes of ``count`` studies: of each its events, then its job."""
    prefix = "in."
    (port,) = free_ports(1)
    receive = site.member(
        "receive", "receive", prefix=prefix, ICHOR_LISTENER__PORT=str(port), ICHOR_LISTENER__PROCESSES="1",
        ICHOR_STORE__RECEIVER="receive",
    )  # fmt: skip
    assemble = site.member("assemble", "assemble", prefix=prefix)
    _wait_ready(receive, assemble)
    bus = site.bus(prefix)
    head = _Head(images)
    jobs: dict[str, Envelope] = {}
    queue = _Follower(bus, _JOBS)

    def take(until: int) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(jobs) < until:
            jobs.update((job.subject, job) for job in queue.next())
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(jobs)} of {until} jobs; {receive.log()[-1000:]}{assemble.log()[-1000:]}")

    for number in range(WARM):
        head.send(number, port)
    take(WARM)
    relay = int((receive.data / "run" / "relay.ready").read_text())
    receiving = int((receive.data / "run" / "receive.ready").read_text())
    roots = {"receive": [receiving], "relay": [relay], "assemble": [assemble.process.pid], "Kafka": [site.broker]}
    before, begun = site.bytes_by_topic(prefix), time.monotonic()
    stored = _size(site.store / "spool"), _size(site.store / "blobs")
    meter = Meter(roots)
    for number in range(WARM, WARM + count):
        head.send(number, port)
    sent = time.monotonic() - begun
    take(WARM + count)
    seconds, cpu = time.monotonic() - begun, meter.read()
    told = site.bytes_by_topic(prefix) - before
    resting = _at_rest(roots)
    print(
        f"{count} studies of {SLICES} images of {MATRIX} x {MATRIX}, an association each: sent in {sent:.1f} s, all jobs "
        f"there after {seconds:.1f} s ({count / seconds:.1f} studies/s, {count * SLICES / seconds:.0f} images/s)"
    )
    print("  CPU ms a study: " + ", ".join(f"{role} {1000 * value / count:.1f}" for role, value in cpu.items()))
    print(f"  at rest, CPU ms a second: {resting}")
    print(f"  bytes on the bus a study: {_bytes(told, count)}")
    spool, blobs = _size(site.store / "spool") - stored[0], _size(site.store / "blobs") - stored[1]
    print(f"  bytes in the store a study: images {spool / count:,.0f}, manifests {blobs / count:,.0f}", flush=True)
    events = defaultdict(list)
    for event in log(bus, EVENTS):
        events[event.subject].append(event)
    for member in (receive, assemble):
        member.kill()
    return [[*events[uid], job] for uid, job in list(jobs.items())[WARM:]]


def _at_rest(roots: dict[str, list[int]]) -> str:
    time.sleep(REST_SECONDS)
    meter = Meter(roots)
    time.sleep(REST_SECONDS)
    return ", ".join(f"{role} {1000 * value / REST_SECONDS:.0f}" for role, value in meter.read().items())


class _Head:
    """A small synthetic head that is sent as one new study after another, as files by `storescu`."""

    _ROOT = "1.2.826.0.1.3680043.10.1434.77"
    _STUDY = 6_000_000_000

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "now"
        self._folder.mkdir(parents=True)
        write_ct_head(folder / "head", seed=20_510, bleed=30.0, slices=SLICES, matrix=MATRIX, series={"soft"})
        self._files = []
        for n, path in enumerate(sorted((folder / "head" / "dicom").rglob("*.dcm"))):
            item = pydicom.dcmread(path)
            item.StudyInstanceUID, item.SeriesInstanceUID = (
                f"{self._ROOT}.1.{self._STUDY}",
                f"{self._ROOT}.2.{self._STUDY}",
            )
            item.FrameOfReferenceUID = f"{self._ROOT}.3.{self._STUDY}"
            item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = f"{self._ROOT}.4.{self._STUDY}.{n}"
            item.PatientID = str(self._STUDY)
            item.save_as(path, enforce_file_format=True)
            self._files.append(path.read_bytes())

    def send(self, number: int, port: int) -> None:
        old, new = str(self._STUDY).encode(), str(self._STUDY + 1 + number).encode()
        for n, content in enumerate(self._files):
            (self._folder / f"{n:03d}").write_bytes(content.replace(old, new))
        subprocess.run(
            ["storescu", "-aet", "CT1", "-aec", "ICHOR", "+sd", "127.0.0.1", str(port), str(self._folder)],
            env={**os.environ, "TCP_NODELAY": "1"}, check=True,
        )  # fmt: skip


# --- jobs to delivered results ----------------------------------------------------------------------------------------


def _queues(site: Site, jobs: Sequence[list[Envelope]], queued: Sequence[int], *, workers: int) -> Iterator[Row]:
    """Queues of each length, one after the other, for the same workers, which have warmed up."""
    prefix = f"work-{workers}."
    shutil.rmtree(site.store / "blobs" / "results", ignore_errors=True)
    shutil.rmtree(site.store / "blobs" / "findings", ignore_errors=True)
    bus = site.bus(prefix)
    team = [site.member(f"work-{n}", "work", prefix=prefix) for n in range(workers)]
    send = site.member("send", "send", prefix=prefix)
    _wait_ready(*team, send)
    roots = {
        "work": [m.process.pid for m in team if m.process], "send": [send.process.pid], "Kafka": [site.broker],
    }  # fmt: skip
    rest = iter(jobs)
    follower = _Follower(bus, EVENTS)
    _bring(follower, [next(rest) for _ in range(WARM * workers)])
    print(f"{workers} workers at rest, CPU ms a second: {_at_rest(roots)}", flush=True)
    for count in queued:
        studies = [next(rest) for _ in range(count)]
        before, stored = site.bytes_by_topic(prefix), _size(site.store / "blobs")
        ledger = bus.cluster.ends(["group.work"])["group.work"][1]
        meter = Meter(roots)
        done, delivered, once = _bring(follower, studies)
        cpu = {role: seconds / count for role, seconds in meter.read().items()}
        grown = site.bytes_by_topic(prefix) - before
        row = Row(
            workers=workers, queued=count, seconds=done, delivered=delivered, cpu=cpu,
            bus={topic: size / count for topic, size in grown.items()},
            store=(_size(site.store / "blobs") - stored) / count,
            claims=(bus.cluster.ends(["group.work"])["group.work"][1] - ledger) / count, once=once,
        )  # fmt: skip
        _print(row)
        yield row
    for member in (*team, send):
        member.kill()


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
        + f"; records of the ledger a study {row.claims:.2f}; store {row.store:,.0f} bytes; bus {_bytes(row.bus, 1)}"
        + ("" if row.once else "; NOT EVERY STUDY ONCE"),
        flush=True,
    )


def _report(rows: Sequence[Row]) -> int:
    missed = not all(row.once for row in rows)
    print(f"\nevery study once: {'MISSED' if missed else 'met'}")
    for workers in sorted({row.workers for row in rows}):
        few, many = (
            statistics.median(row.total for row in rows if row.workers == workers and row.queued == queued)
            for queued in (min(row.queued for row in rows), max(row.queued for row in rows))
        )
        met = many <= GOAL * few
        missed |= not met
        print(
            f"{workers} workers: CPU a study, longest queue to shortest: {1000 * many:.1f} / {1000 * few:.1f} ms = "
            f"{many / few:.2f}; goal <= {GOAL} {'met' if met else 'MISSED'}"
        )
    return 1 if missed else 0


def _bytes(sizes: Any, count: int) -> str:
    return ", ".join(f"{name} {size / count:,.0f}" for name, size in sorted(sizes.items()) if size)


def _cpu(pid: int) -> float:
    """Seconds in user and kernel mode, proc_pid_stat(5) fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _memory() -> str | None:
    # As in the tests: the controller syncs all the time, and a busy disk would stop it.
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _wait_ready(*members: Member) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(member.is_ready() for member in members):
        for member in members:
            if time.monotonic() > deadline or not member.processes():
                raise RuntimeError(f"{member.name} is not ready: {member.log()[-2000:]}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
