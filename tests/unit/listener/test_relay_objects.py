"""Objects that a disk does not give: which errors pass, which one is given up, and when."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable
from typing import BinaryIO

import pytest
from unit.listener.test_relay import facts, stored

from ichor.clock import ManualClock
from ichor.errors import TransientError
from ichor.store.journal import StoredObject
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
