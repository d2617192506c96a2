"""Studies through a cluster of processes over a real Kafka: each series split across receivers, each result once."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from e2e.cluster import PATIENCE, Cluster
from e2e.orthanc import Orthanc
from e2e.stream import Modality, many_studies
from kafka_broker import Broker

from ichor.history.projection import log as messages_of
from ichor.messages import EVENTS, JobFailed, open_envelope
from pipelines.failures import MOST_ATTEMPTS, MOST_FAULTS, OTHERS_FIRST

pytestmark = [pytest.mark.xdist_group("kafka"), pytest.mark.timeout(3600)]
SLICES = 20


@pytest.fixture
def make_cluster(
    tmp_path: Path, request: pytest.FixtureRequest, prefix: str, orthanc: Orthanc, free_port: Callable[[], int]
) -> Iterator[Callable[..., Cluster]]:
    """``make_cluster(workers=3, ...)``, not started yet."""
    made: list[Cluster] = []

    def make(**options: Any) -> Cluster:
        servers = options.pop("servers", None) or request.getfixturevalue("kafka_servers")
        folder = tmp_path / "cluster"
        made.append(Cluster(folder, servers=servers, prefix=prefix, orthanc=orthanc, free_port=free_port, **options))
        return made[-1]

    yield make
    for cluster in made:
        cluster.end()


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster()


def by_uid(studies: list[list[Path]]) -> dict[str, list[Path]]:
    return {pydicom.dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID: paths for paths in studies}


def split_over(cluster: Cluster, studies: list[list[Path]], *, pause: float = 0.0) -> list[Modality]:
    """A modality for each receiver, which sends it every second (third, ...) slice of each study."""
    count = len(cluster.receivers)
    sending = [
        Modality([paths[n::count] for paths in studies], receiver.port, threading.Event(), pause=pause)
        for n, receiver in enumerate(cluster.receivers)
    ]
    for modality in sending:
        modality.start()
    return sending


def push_many(cluster: Cluster, folder: Path, *, count: int) -> None:
    folder.mkdir()
    studies = by_uid(many_studies(folder, count))
    cluster.start()
    begun = time.monotonic()
    sending = split_over(cluster, list(studies.values()))
    for modality in sending:
        assert modality.finished.wait(PATIENCE), f"the modality could not send everything\n{cluster.say()}"
    sent = time.monotonic()
    cluster.wait_done(studies, slices=SLICES, timeout=max(PATIENCE, 20.0 * count))
    done = time.monotonic()
    acknowledged = set().union(*(modality.acknowledged for modality in sending))
    assert acknowledged == {path for paths in studies.values() for path in paths}
    cluster.check_nothing_lost(acknowledged)
    amended = cluster.check_results(studies, slices=SLICES)
    print(f"{count} studies: sent in {sent - begun:.1f} s, all done {done - sent:.1f} s later, {amended} amended")


def test_series_split_across_receivers_give_one_result_each(cluster: Cluster, tmp_path: Path) -> None:
    push_many(cluster, tmp_path / "in", count=6)


@pytest.mark.soak
def test_fifty_studies_split_across_receivers_give_one_result_each(cluster: Cluster, tmp_path: Path) -> None:
    push_many(cluster, tmp_path / "in", count=50)


@pytest.mark.soak  # three minutes, most of them waits between tries
def test_what_cannot_be_done_is_given_up_with_its_cause_keeps_nobody_waiting_and_can_be_replayed(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = make_cluster(receivers=1, senders=1)
    (tmp_path / "in").mkdir()
    studies = by_uid(many_studies(tmp_path / "in", 5))
    *broken, fine = studies
    causes = {
        "raise": "RuntimeError", "kill": "died or hung", "memory": "3 workers failed on it: out of memory",
        "fault": "3 workers failed on it: as the test asked",
    }  # fmt: skip
    for uid, trouble in zip(broken, causes, strict=True):
        (cluster.control / uid).write_text(trouble)
    cluster.start()
    (modality,) = split_over(cluster, list(studies.values()))
    assert modality.finished.wait(PATIENCE)

    def states() -> dict[str, str]:
        return {uid: study.state.value for uid, study in cluster.studies().items()}

    cluster.until(lambda: states().get(fine) == "done", what="the one that can be done")
    ended = dict.fromkeys(broken, "failed") | {fine: "done"}
    cluster.until(lambda: states() == ended, what=lambda: f"four that are given up: {states()}", timeout=2 * PATIENCE)
    letters = {letter.envelope.subject: letter for letter in cluster.bus().dead_letters()}
    for uid, cause in zip(broken, causes.values(), strict=True):
        assert cause in letters[uid].reason
        assert letters[uid].attempts <= MOST_ATTEMPTS
        assert letters[uid].letter_id in cluster.ichor("dlq", "list")
        assert cause in cluster.ichor("dlq", "show", letters[uid].letter_id)
    assert [letters[uid].attempts for uid in broken[:2]] == [MOST_ATTEMPTS] * 2
    failed = [
        event
        for envelope in messages_of(cluster.bus(), EVENTS)
        if isinstance(event := open_envelope(envelope), JobFailed) and event.worker is not None
    ]
    for uid in broken[-2:]:
        faults = [(f.worker, f.at) for f in failed if f.study_instance_uid == uid]
        assert len(faults) == MOST_FAULTS
        # By three workers, or by one again when the others had not come for it.
        again = [(one, two) for n, one in enumerate(faults) for two in faults[n + 1 :] if one[0] == two[0]]
        assert all(two[1] - one[1] >= OTHERS_FIRST for one, two in again), faults
    for uid in broken:
        (cluster.control / uid).unlink()
        cluster.ichor("dlq", "replay", letters[uid].letter_id)
    cluster.wait_done(studies, slices=SLICES)
    assert cluster.bus().dead_letters() == []


def test_serve_on_kafka_answers_metrics_while_it_is_away_and_goes_on(
    make_broker: Callable[[], Broker], make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    broker = make_broker()
    broker.start()
    alone = {"receivers": 1, "assemblers": 0, "workers": 0, "senders": 0}
    cluster = make_cluster(**alone, whole=True, servers=broker.servers)
    (tmp_path / "in").mkdir()
    first, second = by_uid(many_studies(tmp_path / "in", 2)).items()
    cluster.start()

    def metric(name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{cluster.receivers[0].console}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return max(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    (modality,) = split_over(cluster, [first[1]])
    assert modality.finished.wait(PATIENCE)
    cluster.wait_done([first[0]], slices=SLICES)
    cluster.until(lambda: metric("ichor_bus_away") == 0, what="the bus in the metrics")
    broker.stop()
    cluster.until(lambda: metric("ichor_bus_away") == 1, what="its absence in the metrics")
    (modality,) = split_over(cluster, [second[1]])
    assert modality.finished.wait(PATIENCE), "images are taken without Kafka"
    assert metric("ichor_bytes_stored_total") > 0
    broker.start()
    cluster.wait_done([first[0], second[0]], slices=SLICES)
    cluster.until(lambda: metric("ichor_bus_away") == 0, what="the bus in the metrics again")
    cluster.check_nothing_lost([*first[1], *second[1]])
    cluster.check_results([first[0], second[0]], slices=SLICES)
