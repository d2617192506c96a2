"""kill -9 at random moments while four senders push: what was acknowledged is there, byte for byte, and nothing else.

The long form (200 kills, 100,000 instances): ``pytest -m soak tests/e2e/test_kill.py`` or ``make soak``.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.receive import Receive
from unit.listener.modality import Rejected, Scu, encode, image

SENDERS = 4
PER_ASSOCIATION, PER_SERIES = 50, 200
_NUMBER = b"1777777777"


class Plan:
    """How much is sent before the sending ends, and what was acknowledged so far."""

    def __init__(self, instances: int) -> None:
        self.instances = instances
        self.acknowledged = 0
        self.enough_kills = False
        self._changed = threading.Condition()

    def over(self) -> bool:
        return self.enough_kills and self.acknowledged >= self.instances

    def count(self) -> None:
        with self._changed:
            self.acknowledged += 1
            self._changed.notify_all()

    def wait_for(self, acknowledged: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.acknowledged >= acknowledged, timeout=120), "nothing arrives"


class Sender(threading.Thread):
    """Sends small instances one after the other, and each one again until it is acknowledged."""

    def __init__(self, number: int, port: int, plan: Plan) -> None:
        super().__init__(daemon=True)
        self.study = f"1.2.826.{number + 1}"
        self.acknowledged: dict[str, bytes] = {}  # SOP Instance UID -> digest of its data set
        self.refused: list[int] = []
        self.broken = 0  # associations that did not end by a release
        self._number, self._port, self._plan = number, port, plan
        self._template = encode(
            image(f"{self.study}.{_NUMBER.decode()}", study=self.study, series=f"{self.study}.{_NUMBER.decode()}")
        )

    def run(self) -> None:
        sent, answered = 0, True
        while not (self._plan.over() and answered):  # one that is cut off may be stored: it is sent again
            try:
                scu = Scu(self._port, calling=f"CT{self._number}")
                for _ in range(PER_ASSOCIATION):
                    uid, data = self._instance(sent)
                    answered = False
                    status = scu.store(data, sop_instance=uid)
                    answered = True
                    if status != 0:
                        self.refused.append(status)
                        continue
                    self.acknowledged[uid] = hashlib.sha256(data).digest()
                    self._plan.count()
                    sent += 1
                scu.release()
            except (OSError, AssertionError, Rejected):
                self.broken += 1
                time.sleep(0.02)  # as a modality would: not at once

    def _instance(self, n: int) -> tuple[str, bytes]:
        instance, series = b"1%09d" % n, b"1%09d" % (n // PER_SERIES)
        first, second, third = self._template.split(_NUMBER, 2)
        noise = hashlib.sha256(b"%d %d" % (self._number, n)).digest() * 25
        return f"{self.study}.{instance.decode()}", first + instance + second + series + third[: -len(noise)] + noise


def kill_many(receiver: Receive, *, kills: int, instances: int, seed: int, out: Path) -> None:
    chance, plan = random.Random(seed), Plan(instances)
    receiver.start()
    senders = [Sender(number, receiver.port, plan) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    for number in range(kills):
        # The moment is this test's random variable: after so many more objects, and then somewhere within one.
        plan.wait_for(plan.acknowledged + int(instances / kills * chance.uniform(0.2, 1.6)))
        time.sleep(chance.uniform(0.0, 0.01))
        if number % 2:
            receiver.kill()
            receiver.start()
        else:
            receiver.kill_receiving(("receive", "receive-2")[number // 2 % 2])
    plan.enough_kills = True
    for sender in senders:
        sender.join(timeout=600)
        assert not sender.is_alive()
    assert sum(sender.broken for sender in senders) >= kills / 2, "the kills met nobody"
    assert not any(sender.refused for sender in senders)
    # Once more, and nothing is started: what is acknowledged is found by whoever looks, whatever was told to the bus.
    receiver.kill()
    for sender in senders:
        check(receiver.export(sender.study, out / "killed" / sender.study), sender)
    receiver.start()
    total = sum(len(sender.acknowledged) for sender in senders)
    receiver.until(
        lambda: receiver.journalled(*(s.study for s in senders)) >= total, what="everything in the journal", timeout=600
    )
    receiver.stop()
    assert receiver.journalled(*(s.study for s in senders)) == total
    for sender in senders:
        kept = receiver.export(sender.study, out / "served" / sender.study)
        check(kept, sender)
        assert all(len(versions) == 1 for versions in kept.values())


def check(kept: dict[str, list[bytes]], sender: Sender) -> None:
    """What is stored is what was acknowledged, byte for byte."""
    missing = sender.acknowledged.keys() - kept.keys()
    assert not missing, f"{len(missing)} of {len(sender.acknowledged)} acknowledged objects are missing"
    assert kept.keys() == sender.acknowledged.keys()
    for uid, versions in kept.items():
        assert {hashlib.sha256(data).digest() for data in versions} == {sender.acknowledged[uid]}, uid


@pytest.fixture
def receiver(tmp_path: Path, free_port: Callable[[], int]) -> Receive:
    return Receive(tmp_path / "site", free_port(), listener={"processes": 2})


@pytest.mark.parametrize("seed", [1])
def test_nothing_acknowledged_is_lost_under_kill(receiver: Receive, tmp_path: Path, seed: int) -> None:
    try:
        kill_many(receiver, kills=8, instances=3_000, seed=seed, out=tmp_path / "out")
    finally:
        receiver.kill()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_under_two_hundred_kills(receiver: Receive, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", "2"))
    try:
        kill_many(receiver, kills=200, instances=100_000, seed=seed, out=tmp_path / "out")
    finally:
        receiver.kill()
