"""Receivers that share a store: who they are, who is lost, who answers for whom; and which store it is."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from ichor.errors import CannotStart
from ichor.store.shared import Receivers, check_store, open_store, receiver_of_folder, register, try_volume

HOUR = 3600.0


class Pod:
    """A receiver's own volume, and its relay."""

    def __init__(self, store: Path, data: Path, *, called: str = "") -> None:
        data.mkdir(exist_ok=True)
        open_store(store, data)
        self.store, self.data = store, data
        self.name = register(store, data, site_name=called)
        self.relay = Receivers(store, self.name, lost_after=HOUR, patience=0.0)

    def dies(self, *, ago: float) -> None:
        self.relay.close()
        path = self.store / "receivers" / self.name
        os.utime(path, (time.time() - ago, time.time() - ago))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def test_a_receiver_keeps_its_name_and_no_two_have_the_same(store: Path, tmp_path: Path) -> None:
    one, other = Pod(store, tmp_path / "a", called="ct"), Pod(store, tmp_path / "b", called="ct")
    assert one.name != other.name
    assert one.name.startswith("ct_")
    one.relay.close()
    assert register(store, tmp_path / "a", site_name="ct") == one.name == receiver_of_folder(tmp_path / "a")


def test_two_relays_of_one_receiver_are_one_too_many(store: Path, tmp_path: Path) -> None:
    pod = Pod(store, tmp_path / "a")
    with pytest.raises(CannotStart, match="lives"):
        Receivers(store, pod.name, lost_after=HOUR, patience=0.0)
    pod.relay.close()
    Receivers(store, pod.name, lost_after=HOUR, patience=0.0).close()


def test_who_is_gone_for_long_is_taken_over_by_one(store: Path, tmp_path: Path) -> None:
    lost, first, second = (Pod(store, tmp_path / name) for name in "abc")
    lost.dies(ago=HOUR - 60)
    assert first.relay.look_round() is False
    assert first.relay.answered_for() == {first.name}
    os.utime(store / "receivers" / lost.name, (0, 0))
    assert first.relay.look_round() is True
    assert second.relay.look_round() is False
    assert first.relay.look_round() is False
    assert first.relay.answered_for() == {first.name, lost.name}
    assert second.relay.answered_for() == {second.name}


def test_who_lives_is_not_lost_however_long_it_gave_no_sign(store: Path, tmp_path: Path) -> None:
    silent, other = Pod(store, tmp_path / "a"), Pod(store, tmp_path / "b")
    os.utime(store / "receivers" / silent.name, (0, 0))
    assert other.relay.look_round() is False
    silent.relay.close()
    assert other.relay.look_round() is True


def test_a_sign_is_given(store: Path, tmp_path: Path) -> None:
    pod, other = Pod(store, tmp_path / "a"), Pod(store, tmp_path / "b")
    os.utime(store / "receivers" / pod.name, (0, 0))
    pod.relay.look_round()
    pod.relay.close()
    assert other.relay.look_round() is False


def test_what_was_taken_over_goes_with_who_took_it(store: Path, tmp_path: Path) -> None:
    lost, first, second = (Pod(store, tmp_path / name) for name in "abc")
    lost.dies(ago=2 * HOUR)
    first.relay.look_round()
    first.dies(ago=2 * HOUR)
    assert second.relay.look_round() is True
    assert second.relay.answered_for() == {first.name, lost.name, second.name}


def test_a_pod_whose_volume_went_takes_over_its_own_soon(store: Path, tmp_path: Path) -> None:
    lost, stranger = Pod(store, tmp_path / "a", called="ichor-0"), Pod(store, tmp_path / "b", called="ichor-1")
    lost.dies(ago=240)
    shutil.rmtree(tmp_path / "a")
    again = Pod(store, tmp_path / "a", called="ichor-0")
    assert again.name != lost.name
    assert stranger.relay.look_round() is False
    assert again.relay.look_round() is True
    assert again.relay.answered_for() == {again.name, lost.name}


def test_receivers_without_a_name_do_not_succeed_each_other(store: Path, tmp_path: Path) -> None:
    lost, other = Pod(store, tmp_path / "a"), Pod(store, tmp_path / "b")
    lost.dies(ago=240)
    assert other.relay.look_round() is False


def test_who_comes_back_after_it_was_taken_over_has_a_new_name(store: Path, tmp_path: Path) -> None:
    lost, other = Pod(store, tmp_path / "a"), Pod(store, tmp_path / "b")
    lost.dies(ago=2 * HOUR)
    other.relay.look_round()
    back = Pod(store, tmp_path / "a")
    assert back.name not in (lost.name, other.name)
    assert back.relay.answered_for() == {back.name}
    assert other.relay.answered_for() == {other.name, lost.name}


def test_who_was_taken_over_and_goes_on_answers_for_nobody(store: Path, tmp_path: Path) -> None:
    older, taken, other = (Pod(store, tmp_path / name) for name in "abc")
    older.dies(ago=2 * HOUR)
    assert taken.relay.look_round() is True
    path = store / "receivers" / taken.name
    path.write_text(f"{other.name}\n")  # a server that forgets locks gives that of a living one
    taken.relay.look_round()
    assert taken.relay.answered_for() == frozenset()
    assert other.relay.answered_for() == {other.name, taken.name, older.name}


def test_a_receiver_that_is_called_otherwise_now_answers_for_what_it_was(store: Path, tmp_path: Path) -> None:
    before = Pod(store, tmp_path / "a", called="old")
    before.relay.close()
    after = Pod(store, tmp_path / "a", called="new")
    assert after.name.startswith("new_")
    assert after.relay.answered_for() == {after.name, before.name}


def test_a_receiver_whose_file_somebody_removed_is_there_again_at_its_next_start(store: Path, tmp_path: Path) -> None:
    pod = Pod(store, tmp_path / "a")
    pod.relay.close()
    (store / "receivers" / pod.name).unlink()
    assert Pod(store, tmp_path / "a").name == pod.name
    assert [path.name for path in (store / "receivers").iterdir()] == [pod.name]


def test_a_store_that_is_not_mounted_is_not_begun_anew(store: Path, tmp_path: Path) -> None:
    data = tmp_path / "a"
    data.mkdir()
    open_store(store, data)
    stamp = check_store(store, data)[0]
    store.rename(tmp_path / "elsewhere")
    store.mkdir()  # the mount point
    with pytest.raises(CannotStart, match="mounted"):
        open_store(store, data)
    assert list(store.iterdir()) == []
    store.rmdir()
    with pytest.raises(CannotStart, match="mounted"):
        open_store(store, data)
    (tmp_path / "elsewhere").rename(store)
    open_store(store, data)
    assert check_store(store, data) == (stamp, stamp)


def test_another_store_in_its_place_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "b").mkdir()
    open_store(store, tmp_path / "a")
    open_store(tmp_path / "other", tmp_path / "b")
    with pytest.raises(CannotStart, match="not the one"):
        open_store(tmp_path / "other", tmp_path / "a")


def test_a_good_volume_passes_and_leaves_nothing(store: Path) -> None:
    assert try_volume(store) == ""
    assert list(store.iterdir()) == []
    assert try_volume(store / "absent") == "cannot be written: No such file or directory"


def test_a_volume_without_links_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    assert try_volume(store) == "cannot make hard links: Operation not supported"
    assert list(store.iterdir()) == []
