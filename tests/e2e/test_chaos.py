"""Faults at random over a cluster on a real Kafka: nothing acknowledged is lost, nothing doubled, all done soon after.

Seeded: ``ICHOR_CHAOS_SEED`` (1), and for the long form ``ICHOR_CHAOS_KILLS`` (50) and ``ICHOR_CHAOS_WITHIN`` (120 s, on
a machine that has the processors for it); docs/cluster.md.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e.cluster import PATIENCE, Cluster, Member
from e2e.orthanc import Orthanc
from e2e.stream import Modality, many_studies
from e2e.test_cluster import SLICES, by_uid, split_over
from kafka_broker import Broker, Quorum

from pipelines.worker import LEASE_SECONDS

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.timeout(3600)]
_WITHIN = float(os.environ.get("ICHOR_CHAOS_WITHIN", "120"))  # seconds of the last fault, in the long form

_LED = ("events", "instances.0-of-4", "group.assembler.0-of-4", "group.work", "results", "group.sender.pacs")


class Chaos:
    """Faults at places and after pauses that a seed decides."""

    def __init__(self, cluster: Cluster, broker: Broker | Quorum, *, seed: int) -> None:
        self.cluster, self.broker = cluster, broker
        self.chance, self._killing = random.Random(seed), random.Random(-seed - 1)
        self.sending: list[Modality] = []  # by receiver

    def strike(self, faults: list[Callable[[], str]], *, kills: int, longest_pause: float) -> None:
        """The faults one after the other, and beside them the kills."""
        begun = time.monotonic()

        def one_by_one(those: list[Callable[[], str]], chance: random.Random) -> None:
            for fault in those:
                # When it strikes is the random variable of this test, not a wait for something.
                time.sleep(chance.uniform(0.1, longest_pause))
                at = time.monotonic() - begun
                print(f"{at:7.1f} s: {fault()}", flush=True)

        with ThreadPoolExecutor(1) as beside:
            killed = beside.submit(one_by_one, [self._kill] * kills, self._killing)
            one_by_one(faults, self.chance)
            killed.result()

    def _kill(self) -> str:
        """SIGKILL to any process of any role."""
        member = self._killing.choice(self.cluster.members)
        there = member.processes()
        if not there:
            return f"{member.name} is dead already"
        victim, doing = self._killing.randrange(len(there)), ", at a job" * (member in self.cluster.at_work())
        member.signal(there[victim], signal.SIGKILL)
        return f"killed process {victim + 1} of {len(there)} of {member.name}{doing}"

    def stop_broker(self, seconds: float) -> str:
        """Of three brokers all at once."""
        self.broker.stop()
        time.sleep(seconds)
        self.broker.start()
        return f"Kafka was away for {seconds:.0f} s"

    def kill_leader(self) -> str:
        """SIGKILL to the broker of three that leads a topic; it is back when another one leads."""
        assert isinstance(self.broker, Quorum)
        quorum, topic = self.broker, self.cluster.prefix + self.chance.choice(_LED)
        self.cluster.until(lambda: quorum.is_whole(topic), what=f"all copies of {topic}")
        leader = quorum.led_by(topic)
        leader.stop(signal.SIGKILL)
        begun = time.monotonic()
        self.cluster.until(lambda: not quorum.leads(leader, topic), what=f"another leader of {topic}")
        led = time.monotonic() - begun
        leader.start()
        return f"killed the broker that led {topic}: another one did {led:.1f} s later"

    def pause_worker(self) -> str:
        """A worker that hangs at a job for longer than its lease, and then goes on as if nothing had been."""
        worker, doing = self._worker()
        return f"{doing}, {self._hang(worker)}"

    def pause_other(self) -> str:
        """A receiver, an assembler or a sender that hangs for as long."""
        others = [*self.cluster.receivers, *self.cluster.assemblers, *self.cluster.senders]
        return self._hang(self.chance.choice(others))

    def _hang(self, member: Member) -> str:
        there = member.processes()
        for pid in there:
            member.signal(pid, signal.SIGSTOP)
        time.sleep(LEASE_SECONDS + 5.0)
        for pid in there:
            member.signal(pid, signal.SIGCONT)
        return f"{member.name} hung for {LEASE_SECONDS + 5.0:.0f} s"

    def change_workers(self) -> str:
        """One more, and one that is at a job leaves."""
        joined = self.cluster.join(self.cluster.workers)
        leaving, doing = self._worker(but=joined)
        self.cluster.leave(self.cluster.workers, leaving)
        return f"{joined.name} came, and {leaving.name}, {doing}, left"

    def change_assemblers(self) -> str:
        """One more, which takes shards over, and one leaves with its own."""
        group = self.cluster.assemblers
        leaving, joined = self.chance.choice(group), self.cluster.join(group)
        self.cluster.leave(group, leaving)
        return f"{joined.name} came, and {leaving.name} left"

    def lose_volume(self) -> str:
        """A receiver's journal and log go with what they alone knew: Kafka is away, and more was acknowledged since."""
        which = self.chance.randrange(len(self.cluster.receivers))
        receiver, modality = self.cluster.receivers[which], self.sending[which]
        self.broker.stop()
        before = len(modality.acknowledged)
        self.cluster.until(
            lambda: len(modality.acknowledged) > before or modality.finished.is_set(), what="an image without Kafka"
        )
        told = len(modality.acknowledged) - before
        self.cluster.lose_volume(receiver)
        self.broker.start()
        return f"{receiver.name} lost its volume, and {told} images that it had told nobody"

    def _worker(self, *, but: Member | None = None) -> tuple[Member, str]:
        """A worker at a job, as soon as there is one; any, when there is nothing left to do."""
        busy: list[Member] = []

        def there() -> bool:
            busy[:] = [one for one in self.cluster.at_work() if one is not but]
            return bool(busy) or (all(one.finished.is_set() for one in self.sending) and self.cluster.is_idle())

        self.cluster.until(there, what="a worker at a job")
        if busy:
            return self.chance.choice(busy), "at a job"
        return self.chance.choice(self.cluster.workers), "idle"


@pytest.fixture
def make_chaos(
    tmp_path: Path, prefix: str, orthanc: Orthanc, free_port: Callable[[], int]
) -> Iterator[Callable[[Broker | Quorum], Chaos]]:
    """``make_chaos(broker)``: over a cluster of its own, not started yet."""
    made: list[Cluster] = []

    def make(broker: Broker | Quorum) -> Chaos:
        folder = tmp_path / "cluster"
        made.append(Cluster(folder, servers=broker.servers, prefix=prefix, orthanc=orthanc, free_port=free_port))
        return Chaos(made[-1], broker, seed=int(os.environ.get("ICHOR_CHAOS_SEED", "1")))

    yield make
    for cluster in made:
        cluster.end()


def test_nothing_is_lost_or_doubled_by_one_fault_of_each_kind(
    make_chaos: Callable[[Broker], Chaos], make_broker: Callable[[], Broker], tmp_path: Path
) -> None:
    broker = make_broker()
    broker.start()
    chaos = make_chaos(broker)
    faults = [
        chaos.lose_volume, chaos.pause_worker, chaos.change_workers, chaos.change_assemblers,
        lambda: chaos.stop_broker(5.0),
    ]  # fmt: skip
    suffer(chaos, tmp_path / "in", faults=faults, kills=1, studies=4, longest_pause=4.0, within=PATIENCE, pause=3.0)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_nothing_is_lost_or_doubled_by_fifty_kills_and_more(
    make_chaos: Callable[[Quorum], Chaos], quorum: Quorum, tmp_path: Path
) -> None:
    chaos = make_chaos(quorum)
    kills = int(os.environ.get("ICHOR_CHAOS_KILLS", "50"))
    faults = [
        *[chaos.lose_volume] * 2,
        *[chaos.pause_worker] * 3,
        *[chaos.pause_other] * 3,
        *[chaos.change_workers] * 3,
        *[chaos.change_assemblers] * 2,
        *[chaos.kill_leader] * 2,
        lambda: chaos.stop_broker(60.0),
    ]
    chaos.chance.shuffle(faults)
    suffer(
        chaos, tmp_path / "in", faults=faults, kills=kills, studies=100, longest_pause=14.0, within=_WITHIN, pause=0.5
    )


def suffer(
    chaos: Chaos, folder: Path, *, faults: list[Callable[[], str]], kills: int, studies: int, longest_pause: float,
    within: float, pause: float,
) -> None:  # fmt: skip
    cluster = chaos.cluster
    folder.mkdir()
    by = by_uid(many_studies(folder, studies))
    (cluster.control / "seconds").write_text("4")  # so that jobs are in work when something dies
    cluster.start()
    sending = chaos.sending = split_over(cluster, list(by.values()), pause=pause)
    chaos.strike(faults, kills=kills, longest_pause=longest_pause)
    struck = time.monotonic()
    for modality in sending:
        assert modality.finished.wait(PATIENCE), f"the modality could not send everything\n{cluster.say()}"
    sent = time.monotonic()
    cluster.wait_done(by, slices=SLICES, timeout=within)
    done = time.monotonic()
    acknowledged = set().union(*(modality.acknowledged for modality in sending))
    assert acknowledged == {path for paths in by.values() for path in paths}
    cluster.check_nothing_lost(acknowledged)
    amended = cluster.check_results(by, slices=SLICES)
    assert cluster.bus().dead_letters() == []
    most = max(job.attempt for study in cluster.studies().values() for job in study.jobs)
    starts = sum(member.starts - 1 for member in [*cluster.members, *cluster.left])
    taken = cluster.logged("its lease was lost before")
    print(
        f"{studies} studies, {kills} kills, {len(faults)} other faults, {starts} restarts, {taken} messages taken over, "
        f"{most} attempts at a job at most: all done {done - struck:.1f} s after the last fault, "
        f"{done - max(struck, sent):.1f} s after the last of it and of the images; {amended} amended, none lost or doubled"
    )
