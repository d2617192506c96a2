"""Storage commitment where several receivers share a store: who is asked need not be who has the objects."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.listener.commitment_data import CT
from unit.listener.commitment_desk import Desk

from ichor.bus import Bus
from ichor.bus.sqlite import SqliteBus
from ichor.clock import SystemClock
from ichor.messages import COMMITMENTS, CommitmentAsked, seal
from ichor.store.segments import segment_of
from listener.commitment_findings import Findings

MR = "1.2.840.10008.5.1.4.1.1.4"


@pytest.fixture
def open_bus(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Callable[[], Bus]:
    if getattr(request, "param", "sqlite") == "kafka":
        kafka_bus = request.getfixturevalue("kafka_bus")
        return lambda: kafka_bus(prefix)
    return lambda: SqliteBus(tmp_path / "bus.sqlite", clock=SystemClock())


@pytest.fixture
def two(tmp_path: Path, open_bus: Callable[[], Bus]) -> Iterator[tuple[Desk, Desk]]:
    """Two receivers with one bus and one store."""
    (tmp_path / "store").mkdir()
    desks = (
        Desk(tmp_path / "a", store=tmp_path / "store", bus=open_bus()),
        Desk(tmp_path / "b", store=tmp_path / "store", bus=open_bus()),
    )
    yield desks
    for desk in desks:
        desk.close()
        desk.bus.close()


@pytest.mark.parametrize(
    "open_bus", ["sqlite", pytest.param("kafka", marks=pytest.mark.xdist_group("kafka"))], indirect=True
)
def test_of_receivers_with_one_store_each_is_asked_whoever_has_the_request(two: tuple[Desk, Desk]) -> None:
    for sop, desk in zip(("1.2.3.4.1", "1.2.3.4.2"), two, strict=True):
        desk.store(sop)
        desk.store("1.2.3.4.3")
        desk.take()
        desk.start()
    pairs = ((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"), (CT, "1.2.3.4.3"), (CT, "1.2.3.4.99"))
    requests = [(desk, f"1.2.9.{number}.{n}") for number in range(5) for n, desk in enumerate(two)]
    for desk, transaction in requests:
        assert desk.running is not None
        desk.running.requested(desk.ask(*pairs, transaction=transaction))
    sent = two[0].sent, two[1].sent
    two[0].until(lambda: len(sent[0]) + len(sent[1]) == len(requests))
    two[0].until(lambda: two[0].asked(waiting=0))
    assert sorted(decided.transaction_uid for some in sent for decided in some) == sorted(t for _, t in requests)
    for decided in (*sent[0], *sent[1]):
        assert decided.committed == pairs[:3]
        assert decided.failed == ((CT, "1.2.3.4.99", 0x0112),)
    told = two[0].announced()
    assert len(told) == len(requests)  # one for the study, not one of each receiver
    assert all(set(one.sop_instance_uids) == {pair[1] for pair in pairs[:3]} and one.unknown == 1 for one in told)
    assert (two[0].committed("1.2.3.4.1"), two[1].committed("1.2.3.4.2")) == ([True], [True])


def test_evidence_is_of_all_receivers_where_nothing_is_committed(two: tuple[Desk, Desk]) -> None:
    for sop, desk in zip(("1.2.3.4.1", "1.2.3.4.2"), two, strict=True):
        desk.store(sop)
        desk.take()
        desk.start(enabled=False)
    assert two[0].running is not None
    two[0].running.requested(two[0].ask((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"), calling="NOBODY"))
    two[0].until(two[0].announced)
    (told,) = two[0].announced()
    assert (set(told.sop_instance_uids), told.unknown) == ({"1.2.3.4.1", "1.2.3.4.2"}, 0)


def test_a_receiver_that_is_away_is_waited_for_while_something_is_missing(two: tuple[Desk, Desk]) -> None:
    here, away = two
    for sop, desk in zip(("1.2.3.4.1", "1.2.3.4.2"), two, strict=True):
        desk.store(sop)
        desk.take()
    asked = here.start().requested
    asked(here.ask((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"), transaction="1.2.9.1"))
    asked(here.ask((CT, "1.2.3.4.1"), transaction="1.2.9.2"))
    here.until(lambda: here.sent)
    here.until(lambda: here.asked(waiting=1))
    assert [decided.transaction_uid for decided in here.sent] == ["1.2.9.2"]
    away.start()
    here.until(lambda: here.asked(waiting=0))
    here.until(lambda: here.sent[1:] or away.sent)
    (late,) = [*here.sent[1:], *away.sent]
    assert (late.transaction_uid, late.failed) == ("1.2.9.1", ())
    assert late.committed == ((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"))


def test_for_a_receiver_that_is_lost_who_took_it_over_looks_once_its_images_are_in(two: tuple[Desk, Desk]) -> None:
    here, lost = two
    assert lost.receivers is not None
    here.store("1.2.3.4.1")
    here.take()
    asked = here.start().requested
    asked(here.ask((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2")))
    here.until(lambda: len(here.bus.read(COMMITMENTS)) == 2)  # it was passed on, and nobody has it
    assert here.sent == []
    here.store("1.2.3.4.2")  # as it comes in from the spool
    here.answering.taken_in(frozenset({lost.receivers.name}))
    threading.Event().wait(0.3)
    assert here.sent == []  # it is in the log only
    here.take()
    here.until(lambda: here.sent)
    assert here.sent[0].committed == ((CT, "1.2.3.4.1"), (CT, "1.2.3.4.2"))


def test_what_one_receiver_has_and_cannot_keep_another_may(two: tuple[Desk, Desk]) -> None:
    here, other = two
    for desk in two:
        desk.store("1.2.3.4.1")
        desk.take()
    (row,) = here.journal.by_instance("1.2.3.4.1")
    (here.spool.root / segment_of(row.stored.location)).unlink()
    asked = here.start().requested
    asked(here.ask((CT, "1.2.3.4.1")))
    here.until(lambda: len(here.bus.read(COMMITMENTS)) == 2)  # it was passed on
    other.start()
    here.until(lambda: here.sent or other.sent)
    assert [*here.sent, *other.sent][0].committed == ((CT, "1.2.3.4.1"),)
    assert (here.committed("1.2.3.4.1"), other.committed("1.2.3.4.1")) == ([False], [True])


def test_a_request_that_goes_round_twice_is_decided_once(two: tuple[Desk, Desk]) -> None:
    """Who died between passing it on and letting go of it: another one may have had it first, the second time."""
    names = [desk.receivers.name for desk in two if desk.receivers is not None]
    asked = CommitmentAsked(
        transaction_uid="1.2.9", association="a1", calling_ae="CT1", called_ae="ICHOR", referenced=((CT, "1.2.3.4.1"),),
        at=time.time(), request="first",
    )  # fmt: skip
    for name in names:
        further = dataclasses.replace(asked, looked=(name,))
        two[0].bus.publish(COMMITMENTS, [seal(further, source="test", time=0.0, id=f"first-{name}")])
    for desk in two:
        desk.store("1.2.3.4.1")
        desk.take()
        desk.start()
    two[0].until(lambda: two[0].decided() and two[0].asked(waiting=0))
    assert len(two[0].decided()) == 1
    assert len(two[0].announced()) == 1


def test_the_reason_of_whoever_has_most_of_it_is_told() -> None:
    asked = CommitmentAsked(
        transaction_uid="1.2.9", association="a1", calling_ae="CT1", called_ae="ICHOR", referenced=((CT, "1.2.3.4.1"),),
        at=0.0,
    )  # fmt: skip
    findings = Findings(asked)
    for classes, reason in ((), 0x0112), ((MR,), 0x0119), ((CT,), 0x0110), ((MR,), 0x0110):
        if classes:
            findings.add(0, study="1.2.3", classes=classes)
        assert findings.failed() == ((CT, "1.2.3.4.1", reason),)


def test_a_store_that_is_away_makes_a_request_wait(two: tuple[Desk, Desk], tmp_path: Path) -> None:
    here, other = two
    other.start()
    (tmp_path / "store" / "receivers").rename(tmp_path / "store" / "elsewhere")
    asked = here.start().requested
    asked(here.ask((CT, "1.2.3.4.1")))
    threading.Event().wait(0.3)
    assert [*here.sent, *other.sent] == []
    (tmp_path / "store" / "elsewhere").rename(tmp_path / "store" / "receivers")
    here.until(lambda: here.sent or other.sent)
    assert [*here.sent, *other.sent][0].failed == ((CT, "1.2.3.4.1", 0x0112),)
