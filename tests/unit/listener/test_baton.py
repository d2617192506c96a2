"""One works at a time, whoever asked first is next, and whoever waits or hangs is in nobody's way."""

from __future__ import annotations

import threading
from collections.abc import Callable

from listener.baton import Baton

_PATIENCE = 30.0


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(state: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(3000):
        if state():
            return
        tick.wait(0.01)
    raise AssertionError


def until_waiting(baton: Baton, count: int) -> None:
    until(lambda: len(baton._waiting) == count)


def queue(baton: Baton, names: str, done: list[str]) -> list[threading.Thread]:
    """A thread per name, waiting in this order; each writes its name when it has the baton."""
    threads = []
    for number, name in enumerate(names):

        def work(name: str = name) -> None:
            baton.acquire()
            done.append(name)
            baton.release()

        threads.append(start(work))
        until_waiting(baton, number + 1)
    return threads


def test_the_one_who_asked_first_is_next() -> None:
    baton = Baton(longest=_PATIENCE, turn=0.0)
    done: list[str] = []
    baton.acquire()
    threads = queue(baton, "abcde", done)
    assert done == []
    baton.release()
    for thread in threads:
        thread.join(_PATIENCE)
    assert "".join(done) == "abcde"


def test_who_lets_others_go_first_comes_behind_all_who_wait() -> None:
    baton = Baton(longest=_PATIENCE, turn=0.0)
    done: list[str] = []
    baton.acquire()
    threads = queue(baton, "ab", done)
    baton.let_others()
    done.append("me")
    baton.release()
    for thread in threads:
        thread.join(_PATIENCE)
    assert done == ["a", "b", "me"]


def test_letting_others_go_first_where_nobody_waits_keeps_it() -> None:
    baton = Baton(longest=_PATIENCE, turn=0.0)
    done: list[str] = []
    baton.acquire()
    baton.let_others()
    thread = queue(baton, "a", done)[0]
    assert done == []
    baton.release()
    thread.join(_PATIENCE)
    assert done == ["a"]


def test_one_who_is_away_is_in_nobodys_way_and_has_it_again_behind_them() -> None:
    baton = Baton(longest=_PATIENCE, turn=0.0)
    done: list[str] = []
    baton.acquire()
    threads = queue(baton, "ab", done)
    with baton.away():
        for thread in threads:
            thread.join(_PATIENCE)
        assert done == ["a", "b"]
    last = queue(baton, "c", done)[0]
    assert done == ["a", "b"]
    baton.release()
    last.join(_PATIENCE)
    assert done[-1] == "c"


def test_sleep_of_one_who_does_not_hold_it_takes_it_from_nobody() -> None:
    baton = Baton(longest=_PATIENCE, turn=0.0)
    done: list[str] = []
    baton.acquire()
    start(lambda: baton.sleep(0.0)).join(_PATIENCE)
    thread = queue(baton, "a", done)[0]
    assert done == []
    baton.release()
    thread.join(_PATIENCE)


def test_never_two_at_a_time() -> None:
    baton = Baton(longest=_PATIENCE, turn=0.0)
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        for number in range(300):
            baton.acquire()
            inside += 1
            most = max(most, inside)
            if number % 3 == 0:
                inside -= 1
                baton.let_others()
                inside += 1
            if number % 7 == 0:
                inside -= 1
                with baton.away():
                    pass
                inside += 1
            most = max(most, inside)
            inside -= 1
            baton.release()

    threads = [start(work) for _ in range(6)]
    for thread in threads:
        thread.join(_PATIENCE)
    assert (inside, most) == (0, 1)


def test_it_is_taken_from_who_holds_it_for_long_and_goes_to_the_others_in_order() -> None:
    baton = Baton()
    baton.acquire()
    done: list[str] = []
    gate = threading.Event()

    def work(name: str) -> None:
        baton.acquire()
        done.append(name)
        gate.wait(_PATIENCE)
        baton.release()

    first, second = threading.Thread(target=work, args=["a"]), threading.Thread(target=work, args=["b"])
    first.start()
    until(lambda: done == ["a"])
    second.start()
    until(lambda: done == ["a", "b"])  # also the one who took it is slow
    gate.set()
    first.join(_PATIENCE)
    second.join(_PATIENCE)
    baton.acquire()
    baton.release()


def test_who_lost_it_gives_nothing_away_and_has_it_again_in_its_turn() -> None:
    baton = Baton(longest=0.01, turn=0.0)
    baton.acquire()
    taken, over = threading.Event(), threading.Event()

    def work() -> None:
        baton.acquire()
        baton._longest = _PATIENCE
        taken.set()
        over.wait(_PATIENCE)
        baton.release()

    holder = start(work)
    assert taken.wait(_PATIENCE)
    baton.release()
    with baton.away():
        pass
    baton.let_others()
    done: list[str] = []
    others = queue(baton, "ab", done)  # it is still held
    assert done == []
    asks = start(baton.let_others)
    until_waiting(baton, 3)
    over.set()
    for thread in [holder, asks, *others]:
        thread.join(_PATIENCE)
    assert done == ["a", "b"]


def test_a_turn_that_lasts_is_over_where_others_wait() -> None:
    baton = Baton(longest=_PATIENCE)
    done: list[str] = []
    baton.acquire()
    threads = queue(baton, "a", done)
    while not done:
        baton.let_others()
    for thread in threads:
        thread.join(_PATIENCE)
    baton.release()
    assert done == ["a"]


def test_a_turn_that_has_only_begun_goes_on() -> None:
    baton = Baton(longest=_PATIENCE, turn=_PATIENCE)
    done: list[str] = []
    baton.acquire()
    thread = queue(baton, "a", done)[0]
    baton.let_others()
    assert done == []
    baton.release()
    thread.join(_PATIENCE)
    assert done == ["a"]
