"""Receivers that share a bucket: who they are, who is lost, who answers for whom."""

from __future__ import annotations

import queue
import shutil
from pathlib import Path

import pytest
from s3 import AgedBucket

from ichor.errors import TransientError
from ichor.store.bucket import Bucket
from ichor.store.bucket_receivers import BucketReceivers, open_store, register
from ichor.store.shared import receiver_of_folder

HOUR = 3600.0


class Pod:
    """A receiver's own volume, and its relay."""

    def __init__(self, bucket: AgedBucket, data: Path, *, called: str = "") -> None:
        data.mkdir(exist_ok=True)
        open_store(bucket, data)
        self.bucket, self.data = bucket, data
        self.name = register(bucket, data, site_name=called)
        self.relay = BucketReceivers(bucket, self.name, lost_after=HOUR)

    def is_silent(self, *, ago: float) -> None:
        self.bucket.older[f"receivers/{self.name}"] = ago


@pytest.fixture
def store(aged_bucket: AgedBucket) -> AgedBucket:
    aged_bucket.older.clear()
    return aged_bucket


def test_a_receiver_keeps_its_name_and_no_two_have_the_same(store: AgedBucket, tmp_path: Path) -> None:
    one, other = Pod(store, tmp_path / "a", called="ct"), Pod(store, tmp_path / "b", called="ct")
    assert one.name != other.name
    assert one.name.startswith("ct_")
    assert register(store, tmp_path / "a", site_name="ct") == one.name == receiver_of_folder(tmp_path / "a")


def test_who_gives_no_sign_for_long_is_taken_over_by_one(store: AgedBucket, tmp_path: Path) -> None:
    lost, first, second = (Pod(store, tmp_path / name) for name in "abc")
    lost.is_silent(ago=HOUR - 60)
    assert first.relay.look_round() is False
    assert first.relay.answered_for() == {first.name}
    lost.is_silent(ago=HOUR + 60)
    assert first.relay.look_round() is True
    assert second.relay.look_round() is False
    assert first.relay.look_round() is False
    assert first.relay.answered_for() == {first.name, lost.name}
    assert second.relay.answered_for() == {second.name}


def test_what_was_taken_over_goes_with_who_took_it(store: AgedBucket, tmp_path: Path) -> None:
    lost, first, second = (Pod(store, tmp_path / name) for name in "abc")
    lost.is_silent(ago=2 * HOUR)
    first.relay.look_round()
    first.is_silent(ago=2 * HOUR)
    assert second.relay.look_round() is True
    assert second.relay.answered_for() == {first.name, lost.name, second.name}


def test_a_pod_whose_volume_went_takes_over_its_own_soon(store: AgedBucket, tmp_path: Path) -> None:
    lost, stranger = Pod(store, tmp_path / "a", called="ichor-0"), Pod(store, tmp_path / "b", called="ichor-1")
    lost.is_silent(ago=240)
    shutil.rmtree(tmp_path / "a")
    again = Pod(store, tmp_path / "a", called="ichor-0")
    assert again.name != lost.name
    assert stranger.relay.look_round() is False
    assert again.relay.look_round() is True
    assert again.relay.answered_for() == {again.name, lost.name}


def test_who_comes_back_after_it_was_taken_over_has_a_new_name(
    store: AgedBucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost, other = Pod(store, tmp_path / "a"), Pod(store, tmp_path / "b")
    lost.is_silent(ago=2 * HOUR)
    other.relay.look_round()
    assert lost.relay.look_round() is False  # it was never gone: it says so, once
    lost.relay.look_round()
    assert caplog.text.count(f"was taken for lost by {other.name}") == 1
    assert lost.relay.answered_for() == frozenset()
    back = Pod(store, tmp_path / "a")
    assert back.name not in (lost.name, other.name)
    assert back.relay.answered_for() == {back.name}
    assert other.relay.answered_for() == {other.name, lost.name}


def test_a_receiver_that_is_called_otherwise_now_answers_for_what_it_was(store: AgedBucket, tmp_path: Path) -> None:
    before, after = Pod(store, tmp_path / "a", called="old"), Pod(store, tmp_path / "a", called="new")
    assert after.name.startswith("new_")
    assert after.relay.answered_for() == {after.name, before.name}


def test_a_sign_is_given_and_the_stranger_in_the_folder_is_no_receiver(store: AgedBucket, tmp_path: Path) -> None:
    pod, other = Pod(store, tmp_path / "a"), Pod(store, tmp_path / "b")
    store.delete(f"receivers/{pod.name}")
    store.put("receivers/not a receiver", b"")
    store.older["receivers/not"] = 9 * HOUR
    pod.relay.look_round()
    assert f"receivers/{pod.name}" in [one.key for one in store.names("receivers/")]
    assert other.relay.look_round() is False


class FlakyBucket(Bucket):
    """Takes signs once it has refused some."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.signs: queue.Queue[str] = queue.Queue()

    def put(self, key: str, data: bytes) -> None:  # noqa: ARG002 - a sign has none
        if self.errors:
            raise self.errors.pop(0)
        self.signs.put(key)


def test_a_receiver_gives_signs_while_its_relay_is_at_work_for_long(caplog: pytest.LogCaptureFixture) -> None:
    bucket = FlakyBucket(TransientError("away"), TransientError("away"), ValueError("SECRET"))
    receivers = BucketReceivers(bucket, "ct_1", lost_after=HOUR, every=0.01)
    assert [bucket.signs.get(timeout=60) for _ in range(3)] == ["receivers/ct_1"] * 3
    receivers.close()
    assert caplog.text.count("receivers waits: away") == 1
    assert "SECRET" not in caplog.text
    assert not receivers._signing.is_alive()
