"""One works at a time, whoever asked first is next, and whoever waits for something else is not in the way."""

from __future__ import annotations

import threading
from collections.abc import Callable

from listener.baton import Baton

_PATIENCE = 30.0


def start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until_waiting(baton: Baton, count: int) -> None:
    tick = threading.Event()
    for _ in range(3000):
        if len(baton._waiting) == count:
            return
        tick.wait(0.01)
    raise AssertionError(f"{len(baton._waiting)} wait, not {count}")


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
    baton = Baton()
    done: list[str] = []
    baton.acquire()
    threads = queue(baton, "abcde", done)
    assert done == []
    baton.release()
    for thread in threads:
        thread.join(_PATIENCE)
    assert "".join(done) == "abcde"


def test_who_lets_others_go_first_comes_behind_all_who_wait() -> None:
    baton = Baton()
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
    baton = Baton()
    done: list[str] = []
    baton.acquire()
    baton.let_others()
    thread = queue(baton, "a", done)[0]
    assert done == []
    baton.release()
    thread.join(_PATIENCE)
    assert done == ["a"]


def test_one_who_is_away_is_in_nobodys_way_and_has_it_again_behind_them() -> None:
    baton = Baton()
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
    baton = Baton()
    done: list[str] = []
    baton.acquire()
    start(lambda: baton.sleep(0.0)).join(_PATIENCE)
    thread = queue(baton, "a", done)[0]
    assert done == []
    baton.release()
    thread.join(_PATIENCE)


def test_never_two_at_a_time() -> None:
    baton = Baton()
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
