"""A checkpoint holds its thread for certain, and nobody waits at it for a thread that cannot come."""

from __future__ import annotations

import threading
import time

from ichor.checkpoint import Checkpoint


class Walker(threading.Thread):
    """Passes its checkpoint again and again, and is slow to go on."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._reactor_checkpoint: threading.Event = Checkpoint(self)
        self.steps = 0
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            self._reactor_checkpoint.wait()
            time.sleep(0.005)
            self.steps += 1


def test_a_thread_takes_no_step_while_it_is_held() -> None:
    walker = Walker()
    point = walker._reactor_checkpoint
    walker.start()
    for _ in range(20):
        point.clear()
        before = walker.steps
        time.sleep(0.01)
        assert walker.steps == before
        point.set()
        assert point.is_set()
    while walker.steps == before:
        time.sleep(0.001)
    walker.ended = True
    walker.join(60)
    assert not walker.is_alive()
    point.clear()  # and for a thread that has ended nobody waits


def test_a_thread_that_holds_itself_does_not_wait_for_itself() -> None:
    done = threading.Event()

    class Own(Walker):
        def run(self) -> None:
            self._reactor_checkpoint.clear()
            done.set()

    Own().start()
    assert done.wait(60)


def test_whoever_waits_for_a_busy_thread_goes_on_when_the_point_is_opened_again() -> None:
    busy = threading.Event()

    class Busy(Walker):
        def run(self) -> None:
            busy.wait(60)

    thread = Busy()
    thread.start()

    def open_again() -> None:
        while thread._reactor_checkpoint.is_set():  # not before somebody closes it
            time.sleep(0.001)
        thread._reactor_checkpoint.set()

    threading.Thread(target=open_again).start()
    thread._reactor_checkpoint.clear()
    assert thread._reactor_checkpoint.is_set()
    busy.set()
