"""Studies through a cluster of processes over a real Kafka: each series split across receivers, each result once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from e2e.cluster import PATIENCE, Cluster
from e2e.orthanc import Orthanc
from e2e.stream import Modality, many_studies

pytestmark = pytest.mark.xdist_group("kafka")
SLICES = 20


@pytest.fixture
def cluster(
    tmp_path: Path, kafka_servers: str, prefix: str, orthanc: Orthanc, free_port: Callable[[], int]
) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "cluster", servers=kafka_servers, prefix=prefix, orthanc=orthanc, free_port=free_port)
    yield made
    made.end()


def by_uid(studies: list[list[Path]]) -> dict[str, list[Path]]:
    return {pydicom.dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID: paths for paths in studies}


def split_over(cluster: Cluster, studies: list[list[Path]]) -> list[Modality]:
    """A modality for each receiver, which sends it every second (third, ...) slice of each study."""
    count = len(cluster.receivers)
    sending = [
        Modality([paths[n::count] for paths in studies], receiver.port, threading.Event())
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
