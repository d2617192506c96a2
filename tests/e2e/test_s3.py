"""A store in a bucket, behind moto's server: what was acknowledged is there, whatever dies or is away meanwhile."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2e.cluster import PATIENCE, Cluster
from e2e.orthanc import Orthanc
from e2e.receive import Receive
from e2e.stream import data_set_bytes, many_studies
from e2e.test_cluster import SLICES, by_uid, split_over
from e2e.test_shared_store import STUDY, sending, told
from s3 import S3, Way
from unit.listener.modality import Scu, encode, image

from ichor.store.bucket import Bucket
from ichor.store.bucket_blobs import BucketBlobs
from ichor.store.bucket_spool import BucketSpool

OUT_OF_RESOURCES = 0xA700


@pytest.fixture
def bucket(s3: S3, s3_credentials: None) -> Bucket:  # noqa: ARG001 - needed, not used
    """As the test sees it, past the way."""
    return Bucket(f"s3://{s3.make()}/site", endpoint=s3.endpoint)


@pytest.fixture
def start(tmp_path: Path, bucket: Bucket, way: Way, free_port: Callable[[], int]) -> Iterator[Callable[[str], Receive]]:
    made: list[Receive] = []

    def begin(name: str) -> Receive:
        settings = {"url": bucket.url, "receiver": name, "s3.endpoint": way.endpoint}
        receive = Receive(tmp_path / name, free_port(), listener={"processes": 1}, store=settings)
        made.append(receive)
        receive.start()
        return receive

    yield begin
    for receive in made:
        receive.kill()


def stored(bucket: Bucket, folder: Path) -> list[bytes]:
    """All whole objects in the bucket."""
    spool = BucketSpool(bucket, staging=folder)
    return [
        spool.read_range(f"{segment}@{at}+{length}", 0, length)
        for segment, _ in spool.segments()
        for at, length in spool.objects(segment)
    ]


def test_what_is_acknowledged_lies_in_the_bucket_and_nowhere_else(
    start: Callable[[str], Receive], bucket: Bucket, tmp_path: Path
) -> None:
    receive = start("ct-0")
    sent = sending(receive, 0, most=5)
    large = encode(image(f"{STUDY}.9.77", study=STUDY, series=f"{STUDY}.0", pixels=b"ichor" * 700_000))
    scu = Scu(receive.port, calling="CT1")
    assert scu.store(large, sop_instance=f"{STUDY}.9.77") == 0
    scu.release()
    sent[f"{STUDY}.9.77"] = [large]
    receive.until(lambda: receive.journalled(STUDY) == 6, what="the journal")
    found = stored(bucket, tmp_path)
    assert len(found) == 6
    assert all(any(file.endswith(data) for file in found) for (data,) in sent.values())
    pixels = next(iter(sent.values()))[0][-64:]
    for path in (path for path in receive.data.rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert pixels not in content
        assert b"ichor" * 100 not in content
    assert receive.export(STUDY, tmp_path / "out") == sent


def test_a_receiver_killed_between_put_and_receipt_loses_nothing_and_tells_nothing_twice(
    start: Callable[[str], Receive], bucket: Bucket, way: Way, tmp_path: Path
) -> None:
    receive = start("ct-0")
    sent = sending(receive, 0, most=5)
    receive.until(lambda: receive.journalled(STUDY) == 5, what="the journal")
    before = len(stored(bucket, tmp_path))
    way.answers.clear()
    statuses: list[object] = []

    def send_one() -> None:
        try:
            scu = Scu(receive.port, calling="CT1")
            data = encode(image(f"{STUDY}.9.50", study=STUDY, series=f"{STUDY}.0"))
            statuses.append(scu.store(data, sop_instance=f"{STUDY}.9.50"))
        except (OSError, EOFError, AssertionError) as error:
            statuses.append(type(error))

    sender = threading.Thread(target=send_one)
    sender.start()
    receive.until(lambda: len(stored(bucket, tmp_path)) == before + 1, what="the object in the bucket")
    receive.kill()
    sender.join()
    assert statuses != [0]
    way.answers.set()

    receive.start()
    receive.until(lambda: len(told(receive)) == 6, what="what stood whole in the bucket")
    assert receive.ichor("told", "--wait", "120s").returncode == 0
    assert sorted(told(receive)) == sorted([*sent, f"{STUDY}.9.50"])
    exported = receive.export(STUDY, tmp_path / "out")
    assert {uid: exported[uid] for uid in sent} == sent


def test_while_the_endpoint_is_away_senders_are_told_so_and_it_goes_on_by_itself(
    start: Callable[[str], Receive], way: Way, tmp_path: Path
) -> None:
    receive = start("ct-0")
    sent = sending(receive, 0, most=3)
    way.cut()
    scu = Scu(receive.port, calling="CT1")
    images = {
        f"{STUDY}.9.{n}": encode(image(f"{STUDY}.9.{n}", study=STUDY, series=f"{STUDY}.0")) for n in range(10, 13)
    }
    assert [scu.store(data, sop_instance=uid) for uid, data in images.items()] == [OUT_OF_RESOURCES] * 3
    way.begin()
    assert [scu.store(data, sop_instance=uid) for uid, data in images.items()] == [0] * 3  # the same association
    scu.release()
    sent |= {uid: [data] for uid, data in images.items()}
    receive.until(lambda: set(told(receive)) == set(sent), what="all that was acknowledged")
    assert receive.export(STUDY, tmp_path / "out") == sent
    assert "Traceback" not in receive.log()


def test_what_a_lost_receiver_acknowledged_is_told_by_another(
    start: Callable[[str], Receive], bucket: Bucket, tmp_path: Path
) -> None:
    lost = start("ct-0")
    sent = sending(lost, 0, most=20)
    lost.kill()
    (name,) = (one.key.removeprefix("receivers/") for one in bucket.names("receivers/"))
    shutil.rmtree(lost.data)
    other = start("ct-1")
    other.kill()
    # As the other one would after `lost_after`: it cannot be waited for here.
    bucket.put(f"taken/{name}", (other.data / "receiver").read_bytes().strip())
    other.start()
    other.until(lambda: set(told(other)) == set(sent), what="what the other one acknowledged")
    assert len(told(other)) == len(sent)
    assert "ERROR" not in other.log()
    assert other.export(STUDY, tmp_path / "out") == sent


def test_what_is_wrong_with_a_store_is_said_in_one_line_and_nothing_starts(
    start: Callable[[str], Receive], way: Way
) -> None:
    receive = start("ct-0")
    receive.kill()
    way.cut()
    done = receive.ichor("receive")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.strip()][-1].endswith("the endpoint cannot be reached")
    assert "Traceback" not in done.stderr
    way.begin()
    receive.start()
    assert len(sending(receive, 0, most=2)) == 2


@pytest.mark.xdist_group("kafka")
@pytest.mark.timeout(3600)
def test_from_c_store_to_the_pacs_images_and_results_lie_in_the_bucket_and_nowhere_else(
    bucket: Bucket, s3: S3, kafka_servers: str, prefix: str, orthanc: Orthanc, free_port: Callable[[], int], tmp_path: Path
) -> None:  # fmt: skip
    settings = {"ICHOR_STORE__URL": bucket.url, "ICHOR_STORE__S3__ENDPOINT": s3.endpoint, "ICHOR_ASSEMBLE__SHARDS": "1"}
    cluster = Cluster(
        tmp_path / "cluster", servers=kafka_servers, prefix=prefix, orthanc=orthanc, free_port=free_port,
        assemblers=1, workers=1, senders=1, settings=settings,
    )  # fmt: skip
    (tmp_path / "in").mkdir()
    studies = by_uid(many_studies(tmp_path / "in", 2))
    try:
        cluster.start()
        for modality in split_over(cluster, list(studies.values())):
            assert modality.finished.wait(PATIENCE), cluster.say()
        cluster.wait_done(studies, slices=SLICES)
        sent = [path for paths in studies.values() for path in paths]
        cluster.check_nothing_lost(sent, among=BucketSpool(bucket, staging=tmp_path), divided=1)
        assert len(stored(bucket, tmp_path)) == len(sent)
        cluster.check_results(studies, slices=SLICES)
        jobs = {job.job_id for study in cluster.studies().values() for job in study.jobs}
        assert {key.split("/")[1] for key in BucketBlobs(bucket).keys("results")} == jobs
        image_data = data_set_bytes(sent[SLICES // 2])
        pixels = image_data[len(image_data) // 2 :][:4096]
        assert len(set(pixels)) > 10
        kept = [path for path in cluster.folder.rglob("*") if path.is_file()]
        assert not [path for path in kept if pixels in path.read_bytes()]
        assert list(cluster.store.iterdir()) == []
    finally:
        cluster.end()
