"""What receiving processes share: places over all of them, a lock that dies with its holder, load, turns."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
from unit.listener.requests import request

from ichor.clock import ManualClock
from ichor.config import SenderSettings
from ichor.store.receipts import Lane
from listener.admission import LIMIT, SENDER_LIMIT, Admission, Admitted
from listener.fairness import Turns
from listener.seats import Seats

HERE = "10.1.2.3"


def in_child(act: Callable[[], None], *, killed: bool = False) -> None:
    """``act`` in a forked process, which then exits, or is killed in the middle of it."""
    pid = os.fork()
    if not pid:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == (-signal.SIGKILL if killed else 0)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def two_doors(*senders: SenderSettings, most: int) -> tuple[Seats, list[Admission]]:
    seats = Seats(processes=2, senders=len(senders))
    doors = [
        Admission(titles={"ICHOR": None}, senders=senders, most=most, seats=seats.at(process)) for process in (0, 1)
    ]
    return seats, doors


def admitted(door: Admission, calling: bytes = b"CT1") -> Admitted:
    verdict = door.judge(request(calling=calling), HERE)
    assert isinstance(verdict, Admitted), verdict
    return verdict


def test_limits_count_the_associations_of_all_processes() -> None:
    ct, mr = SenderSettings(ae_title="CT1", host=HERE, associations=2), SenderSettings(ae_title="MR1", host=HERE)
    _, (first, second) = two_doors(ct, mr, most=3)
    places = [admitted(first), admitted(second)]
    for door in (first, second):
        assert door.judge(request(), HERE) == SENDER_LIMIT
    admitted(second, b"MR1")
    for door in (first, second):
        assert door.judge(request(calling=b"MR1"), HERE) == LIMIT
        assert door.open() == 3
    second.leave(places[1])
    assert first.open() == 2
    admitted(first)
    assert second.judge(request(), HERE) == LIMIT


def test_places_of_a_killed_process_come_back_with_its_start_and_no_others() -> None:
    seats, (first, _) = two_doors(most=2)
    admitted(first)

    def take_and_die() -> None:
        view = seats.at(1)
        with view.alone():
            view.take(0)
        view.waits(7)
        die()

    in_child(take_and_die, killed=True)
    assert first.judge(request(), HERE) == LIMIT
    assert seats.load(1) == 8
    seats.at(1)
    assert (seats.load(0), seats.load(1)) == (1, 0)
    admitted(first)


def test_the_lock_of_a_process_that_dies_holding_it_is_free() -> None:
    seats = Seats(processes=2)

    def die_alone() -> None:
        with seats.at(1).alone():
            die()

    in_child(die_alone, killed=True)
    view = seats.at(0)
    with view.alone():
        view.take(0)
    assert seats.taken() == 1


def test_processes_that_take_places_at_once_get_each_place_once() -> None:
    seats, most = Seats(processes=3, patience=600.0), 50
    start, go = os.pipe()
    pids = []
    for process in (1, 2):
        pid = os.fork()
        if not pid:
            try:
                view, got = seats.at(process), 0
                os.read(start, 1)
                for _ in range(5000):
                    with view.alone():
                        if view.taken() < most:
                            view.take(0)
                            got += 1
                    if got and view.taken() == most:
                        view.give_back(0)
                        got -= 1
                    if view.taken() > most:
                        os._exit(2)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    os.write(go, b"..")
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    assert 0 < seats.taken() <= most
    os.close(start)
    os.close(go)


def test_the_least_loaded_process_is_next_and_of_equal_ones_the_first() -> None:
    seats = Seats(processes=3)
    views = [seats.at(process) for process in range(3)]
    assert seats.least_loaded() == 0
    views[0].take(0)
    assert seats.least_loaded() == 0  # the others take none yet
    for view in views:
        view.opens()
    assert seats.least_loaded() == 1
    assert seats.least_loaded(but={1}) == 2
    assert seats.least_loaded(but={1, 2}) == 0
    assert seats.hand(1) == 1
    assert seats.least_loaded() == 2
    views[2].waits(1)
    assert [seats.load(process) for process in range(3)] == [1, 1, 1]
    assert seats.least_loaded() == 0
    views[1].took(1)
    assert seats.load(1) == 0
    seats.hand(1)
    seats.keep(1)
    assert seats.load(1) == 0
    views[1].closes()
    assert seats.least_loaded() == 0  # of 1, 0 and 1
    views[1].opens()
    assert seats.least_loaded() == 1
    seats.at(1)  # it has been started anew
    assert seats.least_loaded() == 0


def test_a_connection_on_its_way_counts_until_it_waits() -> None:
    seats = Seats(processes=2)
    view = seats.at(1)
    number = seats.hand(1)
    view.coming(number)
    assert seats.load(1) == 1
    assert seats.last_of(1) == (number, 0)
    view.waits(1)
    assert seats.load(1) == 1
    assert seats.last_of(1) == (number, number)
    seats.at(1).waits(0)  # its successor knows
    assert seats.last_of(1) == (number, number)


def test_a_process_that_hangs_in_the_lock_stops_no_other() -> None:
    seats = Seats(processes=2)
    inside, said = os.pipe()
    pid = os.fork()
    if not pid:
        with seats.at(1).alone():
            os.write(said, b".")
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.read(inside, 1)
        view = seats.at(0)
        with view.alone():
            view.take(0)
        assert seats.taken() == 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(inside)
        os.close(said)


def test_places_are_given_back_while_another_process_is_waited_for() -> None:
    seats = Seats(processes=2, patience=600.0)
    inside, said = os.pipe()
    pid = os.fork()
    if not pid:
        with seats.at(1).alone():
            os.write(said, b".")
            signal.pause()
        os._exit(0)
    os.read(inside, 1)
    view = seats.at(0)
    view.take(0)

    def judge() -> None:
        with view.alone():
            view.take(0)

    judging = threading.Thread(target=judge, daemon=True)
    judging.start()
    while not view._judging.locked():
        judging.join(0.01)
    giving = threading.Thread(target=view.give_back, args=[0], daemon=True)
    giving.start()
    giving.join(60.0)
    given = not giving.is_alive()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    judging.join(60.0)
    assert given
    assert seats.taken() == 1
    os.close(inside)
    os.close(said)


def test_threads_that_take_and_give_back_at_once_lose_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    view = Seats(processes=2).at(0)
    plain = view._rows[0]

    class Slow:
        """Lets another thread in between the reading and the writing of a word."""

        def __getitem__(self, at: int) -> int:
            word = plain[at]
            time.sleep(0)
            return word

        def __setitem__(self, at: int, word: int) -> None:
            plain[at] = word

    monkeypatch.setattr(view, "_rows", [Slow()])

    def work() -> None:
        for _ in range(500):
            with view.alone():
                view.take(0)
            view.give_back(0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert plain[3] == 0


def test_connections_on_their_way_outlive_the_taker_and_one_lost_with_it_is_made_good() -> None:
    seats = Seats(processes=2)
    numbers = [seats.hand(1) for _ in range(3)]
    view = seats.at(1)
    assert seats.load(1) == 3
    view.took(numbers[1])  # it was killed between taking the first one and saying so
    assert seats.load(1) == 1


def test_stat_on_one_process_slows_routine_on_the_other() -> None:
    clock, waits = ManualClock(), list[float]()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.advance(seconds)

    seats = Seats(processes=2)
    first, second = (Turns(clock, seats=seats.at(process), wait=wait) for process in (0, 1))
    second.turn(Lane.ROUTINE)
    assert waits == []
    first.turn(Lane.STAT)
    second.turn(Lane.ROUTINE)
    second.turn(Lane.ROUTINE)
    assert sum(waits) == pytest.approx(0.1)


def test_two_processes_share_the_slots_of_one() -> None:
    clock = ManualClock()
    seats = Seats(processes=2)
    first, second = (Turns(clock, seats=seats.at(process), wait=clock.advance) for process in (0, 1))
    begun, done = clock.monotonic(), 0
    while clock.monotonic() < begun + 10:
        for one in (first, second):
            one.turn(Lane.STAT)
            one.turn(Lane.ROUTINE)
        done += 2
    # Each wait here ends the slot of the other process, too: their waits do not add up.
    assert done == pytest.approx(10 / 0.05, rel=0.1)
