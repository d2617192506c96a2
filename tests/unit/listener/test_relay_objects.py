"""Objects that a disk does not give: which errors pass, which one is given up, and when."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from unit.listener.test_relay import facts, stored

from ichor.clock import ManualClock
from ichor.errors import TransientError
from ichor.store.journal import Journal, StoredObject
from ichor.types import Instance
from listener.relay_objects import Objects

UNREADABLE = "the header cannot be read"


def bytes_of(location: str) -> bytes:
    return f"o{location}".encode()


class SickSpool:
    """``errors``: by location, what is answered as long as it stands there."""

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}

    def open(self, location: str) -> BinaryIO:
        return io.BytesIO(self.read_range(location, 0, 1_000))

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        if code := self.errors.get(location):
            raise OSError(code, os.strerror(code))
        return bytes_of(location)[offset : offset + length]

    def is_there(self) -> bool:
        return True


class Desk:
    """Asks for objects by their numbers, as the relay does."""

    def __init__(self) -> None:
        self.spool, self.clock = SickSpool(), ManualClock()
        self.objects = Objects(self.spool, facts, clock=self.clock)

    def look_into(self, number: int) -> Instance:
        found = self.objects.look_into(stored(number))
        assert found is not None
        assert (found[1].defect is None) == (found[0].file_sha256 == hashlib.sha256(bytes_of(str(number))).hexdigest())
        return found[1]

    def facts_of(self, number: int) -> Instance:
        return self.objects.facts_of(StoredObject(file_sha256="f", **stored(number)._asdict()))

    def tries(
        self, ask: Callable[[int], Instance], number: int, *, seconds: float, pause: float = 5.0
    ) -> Instance | None:
        """Ask again and again, for so long; None when it was not given up."""
        for _ in range(int(seconds / pause) + 1):
            try:
                return ask(number)
            except OSError:
                self.clock.advance(pause)
        return None


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(params=["look_into", "facts_of"])
def ask(request: pytest.FixtureRequest, desk: Desk) -> Callable[[int], Instance]:
    return getattr(desk, request.param)  # type: ignore[no-any-return]


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOTCONN, errno.EACCES])
def test_who_is_away_is_waited_for_however_long(desk: Desk, ask: Callable[[int], Instance], code: int) -> None:
    desk.spool.errors["1"] = code
    assert desk.tries(ask, 1, seconds=100_000) is None
    desk.spool.errors.clear()
    assert ask(1).defect is None


def test_one_error_at_each_of_many_objects_costs_none_of_them(desk: Desk, ask: Callable[[int], Instance]) -> None:
    for number in range(20):
        desk.spool.errors[str(number)] = errno.EIO
        with pytest.raises(OSError, match="Input/output"):
            ask(number)
        desk.spool.errors.clear()
        assert ask(number).defect is None
        for other in range(100, 110):
            assert ask(other).defect is None
        desk.clock.advance(60)


def test_an_error_of_the_medium_that_passes_within_two_minutes_costs_nothing(
    desk: Desk, ask: Callable[[int], Instance]
) -> None:
    for number in range(5):
        desk.spool.errors[str(number)] = errno.EIO
        assert desk.tries(ask, number, seconds=115, pause=0.2) is None
        desk.spool.errors.clear()
        assert ask(number).defect is None


def test_what_the_medium_does_not_give_for_minutes_is_given_up_and_what_follows_it_soon(
    desk: Desk, ask: Callable[[int], Instance]
) -> None:
    desk.spool.errors = dict.fromkeys(map(str, range(1, 9)), errno.EIO)
    given_up = desk.tries(ask, 1, seconds=130)
    assert given_up is not None
    assert given_up.defect == UNREADABLE
    assert ask(20).defect is None  # beside the damage
    for number in (2, 3):
        assert desk.tries(ask, number, seconds=0.35, pause=0.1) is None
        told = ask(number)
        assert told.defect == UNREADABLE
    del desk.spool.errors["4"]
    assert ask(4).defect is None  # and it never failed
    assert desk.tries(ask, 5, seconds=0.35, pause=0.1) is None
    del desk.spool.errors["5"]
    assert ask(5).defect is None  # so such errors pass
    assert desk.tries(ask, 6, seconds=110) is None
    desk.clock.advance(10)
    assert ask(6).defect == UNREADABLE
    desk.clock.advance(3_600)
    assert desk.tries(ask, 7, seconds=110) is None


def test_objects_that_are_told_together_cost_a_few_tries_and_one_line_each(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """The relay asks for all objects of a message anew when one of them is not given."""
    desk.spool.errors = dict.fromkeys(map(str, range(6)), errno.EIO)
    assert desk.tries(desk.facts_of, 0, seconds=130) is not None
    tries = 0
    while True:
        tries += 1
        assert tries < 50
        try:
            told = [desk.facts_of(number) for number in range(8)]
            break
        except OSError:
            desk.clock.advance(1.0)
    assert [one.defect for one in told] == [UNREADABLE] * 6 + [None] * 2
    assert sum("cannot be read" in message for message in caplog.messages) == 6


def test_what_is_remembered_of_a_broken_disk_is_bounded(desk: Desk) -> None:
    for number in range(3000):
        desk.spool.errors[str(number)] = errno.EIO
        with pytest.raises(OSError, match="Input/output"):
            desk.look_into(number)
    assert len(desk.objects._tries) <= 1000


def test_what_was_given_up_is_kept_and_never_promised(desk: Desk, tmp_path: Path) -> None:
    """Its sender, told that it is committed, would delete the only bytes that can be read."""
    desk.spool.errors["1"] = errno.EIO
    found = []

    def look_into(number: int) -> Instance:
        found.append(desk.objects.look_into(stored(number)))
        assert found[-1] is not None
        return found[-1][1]

    assert [desk.tries(look_into, number, seconds=130) is not None for number in (1, 2)] == [True, True]
    with contextlib.closing(Journal(tmp_path / "journal.sqlite")) as journal:
        journal.take([(one[0], "w") for one in found if one is not None], cursors={})
        rows = journal.by_study(stored(1).study_instance_uid)
        pairs = [(row.stored.sop_class_uid, row.stored.sop_instance_uid) for row in rows]
        assert len(pairs) == 2
        assert journal.commit_objects(pairs, 70.0, exists=lambda _: True) == pairs[1:]


def test_bytes_that_come_again_count_as_lost_for_what_the_medium_does_not_give_only(desk: Desk) -> None:
    digest = hashlib.sha256(bytes_of("1")).hexdigest()
    assert desk.objects.holds("1", digest)
    desk.spool.errors["1"] = errno.ESTALE
    with pytest.raises(OSError, match="Stale"):
        desk.objects.holds("1", digest)
    desk.spool.errors["1"] = errno.EIO
    assert not desk.objects.holds("1", digest)


def test_a_store_that_is_away_is_no_damage(desk: Desk) -> None:
    def away(_file: BinaryIO, _one: StoredObject) -> Instance:
        raise TransientError("away")

    objects = Objects(desk.spool, away, clock=desk.clock)
    for _ in range(50):
        with pytest.raises(TransientError):
            objects.look_into(stored(1))
        desk.clock.advance(10)
