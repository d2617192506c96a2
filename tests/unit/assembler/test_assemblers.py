"""Several assemblers: each shard with one at a time, shared fairly, taken over when one dies; nothing done twice."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from contract.arrivals import make_slice
from kafka_broker import PATIENCE

from ichor.bus.memory import MemoryBus
from ichor.bus.protocol import Bus
from ichor.bus.sqlite import SqliteBus
from ichor.clock import SystemClock
from ichor.errors import CannotStart
from ichor.messages import (
    EVENTS,
    AssociationClosed,
    Envelope,
    InstancesReceived,
    StudyAssembled,
    open_envelope,
    seal,
)
from ichor.pipeline import PipelineSpec
from ichor.shards import Shard, by_topic, shard_of
from ichor.store.blobs import FileBlobs
from ichor.types import Findings, Grade, Job
from listener.assembler import run_assembler
from listener.assemblers import run_assemblers
from listener.assembly_store import AssemblyStore
from listener.study import StudyAssembly

SHARDS = 4
STUDIES = [f"1.2.{n}" for n in range(1, 13)]  # some in every shard


def never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


PIPELINE = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=never)


def eventually(true: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


class Owners:
    """Assemblers that do nothing but say which shards they have; by name."""

    def __init__(self, folder: Path, *, shards: int) -> None:
        self.folder, self.shards = folder, shards
        self.has: dict[str, set[int]] = {}
        self.owners: dict[int, str] = {}
        self.twice: list[tuple[str, str, int]] = []
        self.broken: dict[int, Exception] = {}
        self.ended: dict[str, BaseException | None] = {}
        self._stops: dict[str, threading.Event] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def start(self, name: str) -> None:
        self.has[name], self._stops[name] = set(), threading.Event()
        self._threads[name] = threading.Thread(target=self._run, args=(name,))
        self._threads[name].start()

    def stop(self, name: str) -> None:
        self._stops.pop(name).set()
        self._threads.pop(name).join(PATIENCE)
        self.has.pop(name)

    def stop_all(self) -> None:
        for name in list(self._stops):
            self.stop(name)

    def sizes(self) -> list[int]:
        with self._lock:
            return sorted(len(found) for found in self.has.values())

    def _run(self, name: str) -> None:
        try:
            run_assemblers(
                partial(self._assemble, name), folder=self.folder, state_path=lambda n: self.folder / f"{n}",
                shards=self.shards, stop=self._stops[name], on_ready=lambda: None, pause=0.05,
            )  # fmt: skip
            self.ended[name] = None
        except CannotStart as error:
            self.ended[name] = error

    def _assemble(
        self, name: str, *, shard: Shard, check: Callable[[], None], stop: threading.Event,
        on_ready: Callable[[], None], **_: object,
    ) -> None:  # fmt: skip
        if shard.number in self.broken:
            raise self.broken.pop(shard.number)
        with self._lock:
            if shard.number in self.owners:
                self.twice.append((name, self.owners[shard.number], shard.number))
            self.owners[shard.number] = name
            self.has[name].add(shard.number)
        on_ready()
        while not stop.wait(0.01):
            check()
        with self._lock:
            self.owners.pop(shard.number)
            self.has[name].discard(shard.number)


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[Owners]:
    made = Owners(tmp_path, shards=8)
    yield made
    made.stop_all()
    assert made.twice == []


def test_shards_are_shared_fairly_by_those_that_come_and_go_and_never_owned_twice(owners: Owners) -> None:
    owners.start("a")
    eventually(lambda: owners.sizes() == [8])
    owners.start("b")
    eventually(lambda: owners.sizes() == [4, 4])
    owners.start("c")
    eventually(lambda: owners.sizes() == [2, 3, 3])
    owners.stop("a")
    eventually(lambda: owners.sizes() == [4, 4])
    owners.stop("b")
    eventually(lambda: owners.sizes() == [8])


def test_who_comes_when_all_is_owned_waits_and_takes_over(tmp_path: Path) -> None:
    owners = Owners(tmp_path, shards=1)
    for name in ("a", "b", "c"):
        owners.start(name)
    eventually(lambda: owners.sizes() == [0, 0, 1])
    (first,) = owners.owners.values()
    owners.stop(first)
    eventually(lambda: owners.sizes() == [0, 1])
    owners.stop_all()
    assert owners.twice == []


def test_a_shard_whose_state_cannot_be_used_is_let_go_and_taken_again(owners: Owners) -> None:
    owners.broken[3] = sqlite3.OperationalError("disk I/O error")
    owners.start("a")
    eventually(lambda: owners.sizes() == [8])
    assert owners.broken == {}


def test_the_only_shard_of_a_damaged_file_ends_the_role_and_is_never_ready(tmp_path: Path) -> None:
    (tmp_path / "assembly.sqlite").write_bytes(b"no database" * 100)
    bus = MemoryBus()
    ready = threading.Event()
    (tmp_path / "assembly").mkdir()
    with pytest.raises(sqlite3.DatabaseError):
        run_assemblers(
            partial(
                run_assembler, bus=bus, blobs=FileBlobs(tmp_path / "blobs"), pipelines=(), study_wait=1.0,
                clock=SystemClock(),
            ),
            folder=tmp_path / "assembly", state_path=lambda _: tmp_path / "assembly.sqlite", shards=1,
            stop=threading.Event(), on_ready=ready.set,
        )  # fmt: skip
    assert not ready.is_set()


def test_a_state_that_this_version_cannot_read_ends_the_role(owners: Owners) -> None:
    owners.broken[3] = CannotStart("version 99")
    owners.start("a")
    eventually(lambda: "a" in owners.ended)
    assert str(owners.ended["a"]) == "version 99"
    assert owners.owners == {}


# --- with studies ----------------------------------------------------------------------------------------------------


def told_of(study: str, *, part: slice = slice(None), release: bool = True, association: str = "a1") -> list[Envelope]:
    images = [make_slice(study=study, series=f"{study}.1", number=n + 1) for n in range(10)][part]
    told: list[InstancesReceived | AssociationClosed] = [
        InstancesReceived(study_instance_uid=study, association=association, instances=tuple(images)),
        *([AssociationClosed(
            study_instance_uid=study, association=association, released=True, calling_ae="CT1",
            counts={f"{study}.1": len(images)}, closed_at=0.0,
        )] if release else []),
    ]  # fmt: skip
    return [seal(one, source="test", time=SystemClock().time()) for one in told]


def bring(bus: Bus, study: str, *, part: slice = slice(None), release: bool = True, association: str = "a1") -> None:
    envelopes = told_of(study, part=part, release=release, association=association)
    for topic, some in by_topic(envelopes, SHARDS).items():
        bus.publish(topic, some)


def jobs(bus: Bus) -> list[Job]:
    found = [open_envelope(envelope) for _, envelope in bus.read("jobs.haematoma.routine")]
    return [job for job in found if isinstance(job, Job)]


def grades(bus: Bus) -> dict[str, list[Grade]]:
    views = [open_envelope(envelope) for _, envelope in bus.read(EVENTS, limit=100_000)]
    return {v.study_instance_uid: [s.grade for s in v.series] for v in views if isinstance(v, StudyAssembled)}


def test_a_study_goes_on_where_another_assembler_left_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEFAULT_QUIET", "LONGEST_QUIET"):  # a slow machine is no evidence that a series is whole
        monkeypatch.setattr(f"ichor.series.senders.{name}", 300.0)
    bus = MemoryBus(clock=SystemClock())
    assemble = partial(
        run_assembler, bus=bus, blobs=FileBlobs(tmp_path / "blobs"), pipelines=(PIPELINE,), study_wait=10.0,
        clock=SystemClock(), shared=True,
    )  # fmt: skip

    def start() -> Callable[[], None]:
        stop = threading.Event()
        thread = threading.Thread(
            target=run_assemblers, args=(assemble,),
            kwargs={
                "folder": tmp_path, "state_path": lambda n: tmp_path / f"{n}.sqlite", "shards": SHARDS, "stop": stop,
                "on_ready": lambda: None,
            },
        )  # fmt: skip
        thread.start()

        def end() -> None:
            stop.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()

        return end

    end = start()
    for study in STUDIES:
        bring(bus, study, part=slice(0, 6), release=False)
    eventually(lambda: set(grades(bus)) == set(STUDIES))
    another = start()
    end()
    for study in STUDIES:
        bring(bus, study, part=slice(6, 10))
    eventually(lambda: len(jobs(bus)) == len(STUDIES))
    another()
    assert {job.study_instance_uid for job in jobs(bus)} == set(STUDIES)
    assert {job.inputs["ncct_head"].instances for job in jobs(bus)} == {10}
    assert grades(bus) == {study: [Grade.REGULAR] for study in STUDIES}
    assert bus.dead_letters() == []
    # Of a volume that machines share nothing is mapped into memory.
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(("-wal", "-shm"))] == []


@pytest.mark.parametrize("shared", [False, True])
def test_a_study_whose_state_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    read = AssemblyStore.load

    def load(store: AssemblyStore, study: StudyAssembly) -> int | None:
        if study.uid == STUDIES[0]:
            raise sqlite3.DatabaseError("database disk image is malformed")
        return read(store, study)

    monkeypatch.setattr(AssemblyStore, "load", load)
    bus, stop = MemoryBus(clock=SystemClock()), threading.Event()
    for study in STUDIES[:4]:
        bus.publish("instances", told_of(study))
    thread = threading.Thread(
        target=run_assembler,
        kwargs={
            "bus": bus, "blobs": FileBlobs(tmp_path / "blobs"), "state_path": tmp_path / "assembly.sqlite",
            "pipelines": (PIPELINE,), "study_wait": 10.0, "clock": SystemClock(), "stop": stop,
            "on_ready": lambda: None, "shared": shared,
        },
    )  # fmt: skip
    thread.start()
    try:
        eventually(lambda: {job.study_instance_uid for job in jobs(bus)} == set(STUDIES[1:4]))
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(PATIENCE)


class Process:
    """`owner.py`."""

    def __init__(self, *arguments: str) -> None:
        tests = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("owner.py")), *arguments], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])},
        )  # fmt: skip

    def says(self, word: str) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(f"it ended before it said {word!r}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def killed_in_the_middle(bus: Bus, where: str, root: Path) -> None:
    """An assembler is killed in the middle of a message; another one makes the job, and all others, once."""
    first = Process(where, str(root), str(SHARDS), "hang")
    second: Process | None = None
    try:
        first.says("ready")
        bring(bus, STUDIES[0])
        first.says("hangs")
        second = Process(where, str(root), str(SHARDS))
        second.says("ready")
        first.kill()
        for study in STUDIES[1:]:
            bring(bus, study)
        eventually(lambda: len(jobs(bus)) >= len(STUDIES))
    finally:
        first.kill()
        if second is not None:
            second.kill()
    assert sorted(job.study_instance_uid for job in jobs(bus)) == sorted(STUDIES)
    assert {job.revision for job in jobs(bus)} == {1}
    assert bus.dead_letters() == []


def test_a_message_in_the_hand_of_a_killed_assembler_is_another_ones(tmp_path: Path) -> None:
    assert {shard_of(study, SHARDS).number for study in STUDIES} == set(range(SHARDS))
    bus = SqliteBus(tmp_path / "bus.sqlite")
    try:
        killed_in_the_middle(bus, "sqlite", tmp_path)
    finally:
        bus.close()


@pytest.mark.xdist_group("kafka")
def test_the_same_on_kafka(tmp_path: Path, kafka_servers: str, kafka_bus: Callable[..., Bus], prefix: str) -> None:
    bus = kafka_bus(prefix)
    try:
        killed_in_the_middle(bus, f"kafka://{kafka_servers}#{prefix}", tmp_path)
    finally:
        bus.close()
