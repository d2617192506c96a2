"""A disk that fills, and routine senders that give way to an urgent one. The clock is moved by hand."""

from __future__ import annotations

import contextlib
import logging

import pytest

from ichor.clock import ManualClock
from ichor.errors import OutOfResources
from ichor.store.receipts import Lane
from listener.fairness import Turns
from listener.pressure import DiskPressure


class Volume:
    def __init__(self, free: int) -> None:
        self.free = free
        self.looks = 0
        self.broken = False

    def __call__(self) -> int:
        self.looks += 1
        if self.broken:
            raise OSError(5, "Input/output error")
        return self.free


def takes(pressure: DiskPressure) -> tuple[bool, bool]:
    """(an association, an object)"""
    try:
        pressure.check()
    except OutOfResources:
        return not pressure.is_low(), False
    return not pressure.is_low(), True


def test_associations_stop_before_objects_and_both_come_back(caplog: pytest.LogCaptureFixture) -> None:
    clock, volume = ManualClock(), Volume(300)
    pressure = DiskPressure(volume, low=200, full=100, clock=clock)
    seen = []
    with caplog.at_level(logging.INFO):
        for free in (300, 200, 199, 100, 99, 99, 150, 250):
            volume.free = free
            clock.advance(1)
            seen.append(takes(pressure))
    assert seen == [(True, True)] * 2 + [(False, True)] * 2 + [(False, False)] * 2 + [(False, True), (True, True)]
    assert len(caplog.messages) == 4  # one for each change: low, full, low, room again


def test_the_file_system_is_asked_twice_a_second_and_what_was_written_is_subtracted() -> None:
    clock, volume = ManualClock(), Volume(1000)
    pressure = DiskPressure(volume, low=500, full=300, clock=clock)
    for _ in range(100):
        assert takes(pressure) == (True, True)
        pressure.wrote(1)
    assert volume.looks == 1
    pressure.wrote(401)
    assert takes(pressure) == (False, True)
    pressure.wrote(200)
    assert takes(pressure) == (False, False)
    clock.advance(0.6)
    assert takes(pressure) == (True, True)
    assert volume.looks == 2


def test_a_file_system_that_does_not_answer_changes_nothing() -> None:
    clock, volume = ManualClock(), Volume(50)
    pressure = DiskPressure(volume, low=200, full=100, clock=clock)
    assert takes(pressure) == (False, False)
    volume.broken = True
    clock.advance(10)
    assert takes(pressure) == (False, False)


def turns() -> tuple[Turns, ManualClock, list[float]]:
    clock, waits = ManualClock(), []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    return Turns(clock, wait=wait), clock, waits


def test_routine_objects_do_not_wait_while_nothing_is_urgent() -> None:
    fair, clock, waits = turns()
    for _ in range(1000):
        fair.turn(Lane.ROUTINE)
    fair.turn(Lane.STAT)
    clock.advance(0.2)
    fair.turn(Lane.ROUTINE)
    assert waits == []


def test_routine_objects_share_a_slot_each_50_ms_while_a_stat_sender_sends() -> None:
    fair, clock, _ = turns()
    begun = clock.monotonic()
    done = 0
    while clock.monotonic() < begun + 10:
        fair.turn(Lane.STAT)
        fair.turn(Lane.ROUTINE)
        done += 1
    assert done == pytest.approx(10 / 0.05, abs=2)


def test_an_urgent_object_never_waits() -> None:
    fair, _, waits = turns()
    for _ in range(100):
        fair.turn(Lane.STAT)
    assert waits == []


def test_no_routine_object_waits_more_than_a_second_however_many_there_are() -> None:
    clock, asked = ManualClock(), []

    class Crowd(Exception):
        """Ends a wait at its beginning, so that the next one asks at the same moment."""

    def wait(seconds: float) -> None:
        asked.append(seconds)
        raise Crowd

    fair = Turns(clock, wait=wait)
    for _ in range(200):
        fair.turn(Lane.STAT)
        with contextlib.suppress(Crowd):
            fair.turn(Lane.ROUTINE)
    assert len(asked) == 199
    # The slots of all of them would take ten seconds; the STAT sender goes on for as long.
    begun, crowded = clock.monotonic(), fair

    def patiently(seconds: float) -> None:
        clock.advance(min(seconds, 0.05))
        crowded.turn(Lane.STAT)

    fair._wait = patiently
    fair.turn(Lane.ROUTINE)
    assert clock.monotonic() - begun == pytest.approx(1.0)


def test_the_wait_ends_when_the_urgent_sender_is_silent() -> None:
    fair, clock, waits = turns()
    fair.turn(Lane.STAT)
    for _ in range(5):
        fair.turn(Lane.ROUTINE)
    # At 0, 50 and 100 ms; then the STAT sender has been silent for 100 ms and nobody waits.
    assert sum(waits) == pytest.approx(0.1)
    assert clock.monotonic() == pytest.approx(1_700_000_000.1)
