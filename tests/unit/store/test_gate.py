"""Receipt and removal of one study exclude each other; studies do not wait for each other."""

from __future__ import annotations

import threading

from ichor.store.gate import Gate


def test_removal_waits_for_receipts_and_holds_new_ones_back() -> None:
    gate, order = Gate(), []
    first_inside, may_leave = threading.Event(), threading.Event()

    def receive_first() -> None:
        with gate.enter("1.2.3"):
            first_inside.set()
            may_leave.wait(60)
            order.append("first received")

    def remove() -> None:
        with gate.shut("1.2.3"):
            order.append("removed")
            second.start()
            with gate.enter("1.2.4"):  # another study goes on
                order.append("other received")

    def receive_second() -> None:
        with gate.enter("1.2.3"):
            order.append("second received")

    first, remover, second = (threading.Thread(target=t) for t in (receive_first, remove, receive_second))
    first.start()
    assert first_inside.wait(60)
    remover.start()
    may_leave.set()
    for thread in (first, remover, second):
        thread.join(60)
    assert order == ["first received", "removed", "other received", "second received"]


def test_many_receipts_of_one_study_at_a_time() -> None:
    gate, together = Gate(), threading.Barrier(4, timeout=60)

    def receive() -> None:
        with gate.enter("1.2.3"):
            together.wait()

    threads = [threading.Thread(target=receive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together.broken
    with gate.shut("1.2.3"):
        pass
