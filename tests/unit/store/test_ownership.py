"""Who owns which shard: one at a time, shared fairly, free at once when its process is gone."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ichor.errors import CannotStart
from ichor.store.ownership import Claim, Members, ShardLost, divide, divided_into, unowned


def taken(members: Members, count: int) -> list[Claim]:
    return [claim for number in range(count) if (claim := members.take(number)) is not None]


def test_a_shard_has_one_owner_until_it_is_released(tmp_path: Path) -> None:
    one, two = Members(tmp_path, count=3), Members(tmp_path, count=3)
    first = taken(one, 3)
    assert [claim.number for claim in first] == [0, 1, 2]
    assert taken(two, 3) == []
    first[1].release()
    assert unowned(tmp_path, 3) == [1]
    assert [claim.number for claim in taken(two, 3)] == [1]
    assert unowned(tmp_path, 3) == []


@pytest.mark.parametrize(("count", "members"), [(1, 1), (1, 3), (8, 1), (8, 3), (5, 4), (8, 8)])
def test_fair_shares_are_all_shards_and_differ_by_one_at_most(tmp_path: Path, count: int, members: int) -> None:
    every = [Members(tmp_path, count=count) for _ in range(members)]
    for one in every:
        one.share()
    shares = [one.share()[0] for one in every]
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1
    assert all(0 <= one.share()[1] < count for one in every)


def test_who_left_is_no_member_any_more(tmp_path: Path) -> None:
    one, two = Members(tmp_path, count=4), Members(tmp_path, count=4)
    two.share()
    assert one.share()[0] == 2
    two.close()
    assert one.share()[0] == 4


_OWNS = """
import sys, pathlib
from ichor.store.ownership import Members
members = Members(pathlib.Path(sys.argv[1]), count=2)
members.share()
claims = [members.take(0), members.take(1)]
print("owned", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_had_is_free(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        here = Members(tmp_path, count=2)
        assert here.share()[0] == 1
        assert (unowned(tmp_path, 2), taken(here, 2)) == ([], [])
    finally:
        process.kill()
        process.communicate()
    assert unowned(tmp_path, 2) == [0, 1]
    assert here.share()[0] == 2
    assert len(taken(here, 2)) == 2


def test_who_was_taken_for_dead_is_a_member_again(tmp_path: Path) -> None:
    one = Members(tmp_path, count=2)
    one.share()
    (mark,) = (tmp_path / "members").iterdir()
    mark.unlink()
    assert one.share()[0] == 2
    assert Members(tmp_path, count=2).share()[0] == 1


def test_who_lost_its_lock_is_told_once_another_has_it(tmp_path: Path) -> None:
    (old,) = taken(Members(tmp_path, count=1), 1)
    old.check()
    fcntl.flock(old._lock, fcntl.LOCK_UN)  # as a server does when a client was not heard of for a lease
    old.check()  # still nobody else's
    (new,) = taken(Members(tmp_path, count=1), 1)
    new.check()
    with pytest.raises(ShardLost, match="shard 0"):
        old.check()


def test_a_division_stays_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "assembly"
    assert divided_into(folder) is None
    divide(folder, 8)
    divide(folder, 8)
    assert divided_into(folder) == 8
    for other in (1, 4, 16):
        with pytest.raises(CannotStart, match=f"shards = {other}: .* divided into 8, and cannot be divided anew"):
            divide(folder, other)
    assert divided_into(folder) == 8


def test_state_of_before_there_were_shards_is_one(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="divided into 1"):
        divide(tmp_path / "assembly", 4, unstamped=1)
    divide(tmp_path / "assembly", 1, unstamped=1)
    assert divided_into(tmp_path / "assembly") == 1


def test_a_damaged_stamp_is_not_taken_for_a_division(tmp_path: Path) -> None:
    (tmp_path / "SHARDS").write_text("eight\n")
    with pytest.raises(CannotStart, match="does not say a number"):
        divide(tmp_path, 8)


def test_of_those_that_come_first_all_get_the_same_division(tmp_path: Path) -> None:
    together, said = threading.Barrier(8), dict[int, str]()

    def come(number: int) -> None:
        together.wait(60)
        try:
            divide(tmp_path / "assembly", 2 + number % 2)
            said[number] = "divided"
        except CannotStart:
            said[number] = "refused"

    threads = [threading.Thread(target=come, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    known = divided_into(tmp_path / "assembly")
    assert said == {number: "divided" if 2 + number % 2 == known else "refused" for number in range(8)}
    assert [path.name for path in (tmp_path / "assembly").iterdir()] == ["SHARDS"]
