"""Every rule of `ichor.bus.protocol`, on every backend. Time is moved by hand; only wake-ups take real time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ichor.bus.memory import MemoryBus
from ichor.bus.protocol import Bus, Delivery, Lag, Subscription
from ichor.bus.sqlite import SqliteBus
from ichor.clock import Clock, ManualClock
from ichor.messages import Envelope
from ichor.types import Priority

LONG = 60.0  # seconds of real time that a wake-up may take before a test fails; never waited for when all is well


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.xdist_group("kafka"))])
def bus(request: pytest.FixtureRequest, tmp_path: Path, prefix: str, clock: ManualClock) -> Iterator[Bus]:
    backends: dict[str, Callable[[Clock], Bus]] = {
        "memory": lambda c: MemoryBus(clock=c),
        "sqlite": lambda c: SqliteBus(tmp_path / "bus.sqlite", clock=c),
        "kafka": lambda c: request.getfixturevalue("kafka_bus")(prefix, clock=c),
    }
    made = backends[request.param](clock)
    yield made
    made.close()


def message(id: str, *, subject: str | None = None, priority: Priority = Priority.ROUTINE) -> Envelope:
    return Envelope(
        id=id, source="test", type="ichor.test.v1", time=1.5, subject=subject or f"1.2.{id}", priority=priority,
        data={"text": "Größe", "n": 3},
    )  # fmt: skip


def take(member: Subscription) -> Delivery:
    """What the member gets without waiting; fails the test when there is nothing."""
    delivery = member.receive(0)
    assert delivery is not None
    return delivery


def ids(member: Subscription) -> list[str]:
    """Receive and finish all there is."""
    found = []
    while (delivery := member.receive(0)) is not None:
        found.append(delivery.envelope.id)
        delivery.ack()
    return found


# --- publishing and groups -------------------------------------------------------------------------------------------


def test_an_envelope_comes_back_as_it_was_sent(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work")
    sent = message("a", priority=Priority.STAT)
    bus.publish("jobs", [sent])
    delivery = take(member)
    assert delivery.envelope == sent
    assert (delivery.topic, delivery.attempt, delivery.dead) == ("jobs", 1, False)


def test_every_group_gets_every_message_of_its_topics_and_only_those(bus: Bus) -> None:
    one, two = bus.subscribe(["jobs"], "one"), bus.subscribe(["jobs", "other"], "two")
    bus.publish("jobs", [message("a"), message("b")])
    bus.publish("other", [message("c")])
    bus.publish("unheard", [message("d")])
    assert ids(one) == ["a", "b"]
    assert ids(two) == ["a", "b", "c"]


def test_members_of_one_group_share_its_messages(bus: Bus) -> None:
    first, second = bus.subscribe(["jobs"], "work"), bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a"), message("b")])
    assert [take(first).envelope.id, take(second).envelope.id] == ["a", "b"]
    assert first.receive(0) is None
    assert second.receive(0) is None


def test_an_id_that_the_topic_has_had_is_ignored_also_after_it_was_finished(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a"), message("a")])
    assert ids(member) == ["a"]
    bus.publish("jobs", [message("a"), message("b")])
    assert ids(member) == ["b"]


def test_the_same_id_on_another_topic_is_another_message(bus: Bus) -> None:
    member = bus.subscribe(["jobs", "other"], "work")
    bus.publish("jobs", [message("a")])
    bus.publish("other", [message("a")])
    assert ids(member) == ["a", "a"]


def test_publishing_nothing_does_nothing(bus: Bus) -> None:
    bus.publish("jobs", [])
    assert bus.read("jobs") == []


def test_a_new_group_gets_what_the_topic_holds_oldest_first(bus: Bus) -> None:
    early = bus.subscribe(["jobs"], "early")
    bus.publish("jobs", [message("a"), message("b"), message("c")])
    assert ids(early) == ["a", "b", "c"]
    assert ids(bus.subscribe(["jobs"], "late")) == ["a", "b", "c"]


def test_a_group_that_comes_back_gets_what_it_missed_and_nothing_twice(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a")])
    assert ids(member) == ["a"]
    member.close()
    bus.publish("jobs", [message("b")])
    assert ids(bus.subscribe(["jobs"], "work")) == ["b"]


# --- order -----------------------------------------------------------------------------------------------------------


def test_urgent_ones_come_first_then_the_earliest(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work")
    urgencies = [Priority.LOW, Priority.ROUTINE, Priority.STAT, Priority.MEDIUM, Priority.HIGH, Priority.STAT]
    bus.publish("jobs", [message(f"{n}{p}", priority=p) for n, p in enumerate(urgencies)])
    assert ids(member) == ["2STAT", "5STAT", "4HIGH", "1ROUTINE", "3MEDIUM", "0LOW"]


def test_urgency_and_age_count_across_topics(bus: Bus) -> None:
    member = bus.subscribe(["jobs.routine", "jobs.stat"], "work")
    bus.publish("jobs.routine", [message("a")])
    bus.publish("jobs.stat", [message("b", priority=Priority.STAT)])
    bus.publish("jobs.stat", [message("c")])
    bus.publish("jobs.routine", [message("d")])
    assert ids(member) == ["b", "a", "c", "d"]


def test_one_subject_is_never_in_two_hands_of_a_group(bus: Bus) -> None:
    first, second = bus.subscribe(["jobs"], "work"), bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a", subject="1.2"), message("b", subject="1.2"), message("c", subject="1.3")])
    held = take(first)
    assert held.envelope.id == "a"
    assert take(second).envelope.id == "c"
    assert second.receive(0) is None
    held.ack()
    assert take(second).envelope.id == "b"


def test_one_subject_is_never_in_two_hands_also_across_urgencies_and_topics(bus: Bus) -> None:
    first, second = bus.subscribe(["jobs", "stat"], "work"), bus.subscribe(["jobs", "stat"], "work")
    bus.publish("jobs", [message("a", subject="1.2")])
    held = take(first)
    bus.publish("stat", [message("b", subject="1.2", priority=Priority.STAT)])
    assert second.receive(0) is None
    held.ack()
    assert take(second).envelope.id == "b"


def test_a_member_may_hold_several_of_one_subject(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a", subject="1.2"), message("b", subject="1.2")])
    assert [take(member).envelope.id, take(member).envelope.id] == ["a", "b"]


def test_groups_do_not_block_each_other(bus: Bus) -> None:
    one, two = bus.subscribe(["jobs"], "one"), bus.subscribe(["jobs"], "two")
    bus.publish("jobs", [message("a", subject="1.2")])
    assert take(one).envelope.id == "a"
    assert take(two).envelope.id == "a"


def test_none_of_a_subject_overtakes_an_earlier_one_that_waits_for_its_retry(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a", subject="1.2"), message("b", subject="1.2"), message("c", subject="1.3")])
    take(member).retry(5.0, reason="not yet")
    assert ids(member) == ["c"]
    clock.advance(4.9)
    assert member.receive(0) is None
    clock.advance(0.2)
    assert ids(member) == ["a", "b"]


def test_a_more_urgent_one_of_the_subject_may_overtake_a_waiting_one(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a", subject="1.2")])
    take(member).retry(5.0, reason="not yet")
    bus.publish("jobs", [message("b", subject="1.2", priority=Priority.STAT)])
    assert ids(member) == ["b"]


def test_a_retried_message_keeps_its_place_in_the_order(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a"), message("b")])
    take(member).retry(1.0, reason="not yet")
    clock.advance(2.0)
    assert ids(member) == ["a", "b"]


# --- leases and attempts ---------------------------------------------------------------------------------------------


def test_a_lease_that_ends_gives_the_message_to_another_and_the_attempt_counts(bus: Bus, clock: ManualClock) -> None:
    first, second = bus.subscribe(["jobs"], "work", lease=10.0), bus.subscribe(["jobs"], "work", lease=10.0)
    bus.publish("jobs", [message("a")])
    take(first)
    clock.advance(9.9)
    assert second.receive(0) is None
    clock.advance(0.2)
    assert take(second).attempt == 2


def test_extend_keeps_the_lease_from_now_on(bus: Bus, clock: ManualClock) -> None:
    first, second = bus.subscribe(["jobs"], "work", lease=10.0), bus.subscribe(["jobs"], "work", lease=10.0)
    bus.publish("jobs", [message("a")])
    held = take(first)
    clock.advance(9.0)
    held.extend(20.0)
    clock.advance(19.0)
    assert second.receive(0) is None
    clock.advance(2.0)
    assert take(second).attempt == 2


@pytest.mark.parametrize("verb", ["ack", "retry", "give_up", "reject", "extend"])
def test_who_lost_the_lease_ends_nothing(bus: Bus, clock: ManualClock, verb: str) -> None:
    first, second = bus.subscribe(["jobs"], "work", lease=10.0), bus.subscribe(["jobs"], "work", lease=10.0)
    bus.publish("jobs", [message("a")])
    lost = take(first)
    clock.advance(11.0)
    held = take(second)
    {
        "ack": lost.ack,
        "retry": lambda: lost.retry(0, reason="x"),
        "give_up": lambda: lost.give_up("x"),
        "reject": lambda: lost.reject("x"),
        "extend": lambda: lost.extend(100.0),
    }[verb]()
    assert bus.dead_letters() == []
    assert first.receive(0) is None
    clock.advance(11.0)
    assert take(first).attempt == 3
    held.ack()
    assert [(lag.waiting, lag.leased) for lag in bus.lag()] == [(0, 1)]


def test_a_member_that_lost_a_lease_to_itself_ends_nothing_with_the_old_delivery(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs"], "work", lease=10.0)
    bus.publish("jobs", [message("a")])
    lost = take(member)
    clock.advance(11.0)
    held = take(member)
    lost.ack()
    held.retry(0, reason="again")
    assert take(member).attempt == 3


def test_an_ack_counts_although_the_lease_is_over_when_nobody_took_it(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs"], "work", lease=10.0)
    bus.publish("jobs", [message("a")])
    held = take(member)
    clock.advance(11.0)
    held.ack()
    assert member.receive(0) is None


def test_retry_counts_the_attempt_or_takes_it_back(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a")])
    take(member).retry(0, reason="broken")
    second = take(member)
    assert second.attempt == 2
    second.retry(0, reason="peer away", count=False)
    assert take(member).attempt == 2


def test_without_counting_a_message_is_retried_for_ever(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work", max_attempts=2)
    bus.publish("jobs", [message("a")])
    for _ in range(10):
        take(member).retry(0, reason="peer away", count=False)
    assert take(member).attempt == 1
    assert bus.dead_letters() == []


@pytest.mark.parametrize("first", ["ack", "retry", "give_up", "reject"])
@pytest.mark.parametrize("second", ["ack", "retry", "give_up", "reject", "extend"])
def test_a_second_ending_is_an_error(bus: Bus, first: str, second: str) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a")])
    delivery = take(member)
    verbs: dict[str, Callable[[], None]] = {
        "ack": delivery.ack,
        "retry": lambda: delivery.retry(0, reason="x"),
        "give_up": lambda: delivery.give_up("x"),
        "reject": lambda: delivery.reject("x"),
        "extend": lambda: delivery.extend(1.0),
    }
    verbs[first]()
    with pytest.raises(RuntimeError):
        verbs[second]()


def test_closing_hands_back_what_is_in_hand_without_counting(bus: Bus) -> None:
    first, second = bus.subscribe(["jobs"], "work"), bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a"), message("b")])
    take(first)
    held = take(first)
    first.close()
    first.close()
    again = [take(second), take(second)]
    assert [(d.envelope.id, d.attempt) for d in again] == [("a", 1), ("b", 1)]
    held.ack()  # its worker ends late: too late
    assert [(lag.waiting, lag.leased) for lag in bus.lag()] == [(0, 2)]
    with pytest.raises(RuntimeError):
        first.receive(0)


# --- dead letters ----------------------------------------------------------------------------------------------------


def test_reject_makes_a_dead_letter_at_once(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs"], "work")
    sent = message("a")
    bus.publish("jobs", [sent])
    clock.advance(7.0)
    take(member).reject("does not fit")
    (letter,) = bus.dead_letters()
    assert (letter.topic, letter.group, letter.envelope) == ("jobs", "work", sent)
    assert (letter.attempts, letter.reason, letter.at) == (1, "does not fit", clock.time())
    assert member.receive(0) is None


def test_after_the_last_attempt_it_is_handed_out_dead_once_with_its_cause_in_the_letter(
    bus: Bus, clock: ManualClock
) -> None:
    member = bus.subscribe(["jobs"], "work", max_attempts=3)
    bus.publish("jobs", [message("a", subject="1.2"), message("b", subject="1.2")])
    for attempt in (1, 2, 3):
        delivery = take(member)
        assert (delivery.attempt, delivery.dead) == (attempt, False)
        delivery.retry(0, reason=f"cause {attempt}")
    dead = take(member)
    assert (dead.envelope.id, dead.dead, dead.attempt) == ("a", True, 3)
    assert [(letter.reason, letter.attempts) for letter in bus.dead_letters()] == [("cause 3", 3)]
    dead.ack()
    assert ids(member) == ["b"]
    clock.advance(1000.0)
    assert member.receive(0) is None


def test_what_is_given_up_early_is_handed_out_dead_with_one_letter_and_can_be_replayed(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work", max_attempts=5)
    bus.publish("jobs", [message("a", subject="1.2"), message("b", subject="1.2")])
    take(member).retry(0, reason="away", count=False)
    take(member).give_up("three workers broke")
    first = take(member)
    assert (first.envelope.id, first.dead, first.attempt) == ("a", True, 1)
    first.give_up("again")
    dead = take(member)
    assert (dead.envelope.id, dead.dead) == ("a", True)
    (letter,) = bus.dead_letters()
    assert (letter.reason, letter.attempts) == ("three workers broke", 1)
    dead.ack()
    assert ids(member) == ["b"]
    bus.replay(letter.letter_id)
    again = take(member)
    assert (again.attempt, again.dead) == (1, False)


def test_a_message_that_kills_its_workers_goes_to_the_dead_letters(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs"], "work", lease=10.0, max_attempts=2)
    bus.publish("jobs", [message("a")])
    take(member).retry(0, reason="out of memory")
    take(member)
    clock.advance(11.0)
    dead = take(member)
    assert (dead.dead, dead.attempt) == (True, 2)
    (letter,) = bus.dead_letters()
    assert "lease" in letter.reason
    assert "out of memory" in letter.reason


def test_a_dead_one_whose_consumer_could_not_say_so_comes_again_with_one_letter(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs"], "work", lease=10.0, max_attempts=1)
    bus.publish("jobs", [message("a")])
    take(member).retry(0, reason="broken")
    assert take(member).dead
    clock.advance(11.0)
    again = take(member)
    assert (again.dead, again.attempt) == (True, 1)
    again.retry(1.0, reason="not yet")
    clock.advance(2.0)
    take(member).reject("never mind")
    assert [letter.reason for letter in bus.dead_letters()] == ["broken"]
    clock.advance(11.0)
    assert member.receive(0) is None


def test_letters_of_two_groups_are_apart(bus: Bus) -> None:
    one, two = bus.subscribe(["jobs"], "one"), bus.subscribe(["jobs"], "two")
    bus.publish("jobs", [message("a")])
    take(one).reject("no")
    assert ids(two) == ["a"]
    assert [letter.group for letter in bus.dead_letters()] == ["one"]
    assert [letter.group for letter in bus.dead_letters(group="one")] == ["one"]
    assert bus.dead_letters(group="two") == []


def test_replay_delivers_again_to_its_group_only_with_attempts_from_zero(bus: Bus) -> None:
    one, two = bus.subscribe(["jobs"], "one", max_attempts=2), bus.subscribe(["jobs"], "two")
    bus.publish("jobs", [message("a")])
    assert ids(two) == ["a"]
    take(one).retry(0, reason="x")
    take(one).reject("no")
    bus.replay(bus.dead_letters()[0].letter_id)
    assert bus.dead_letters() == []
    again = take(one)
    assert (again.envelope.id, again.attempt, again.dead) == ("a", 1, False)
    assert two.receive(0) is None


def test_replay_while_the_dead_one_is_in_hand_makes_it_alive_again(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work", max_attempts=1)
    bus.publish("jobs", [message("a")])
    take(member).retry(0, reason="x")
    dead = take(member)
    assert dead.dead
    bus.replay(bus.dead_letters()[0].letter_id)
    dead.ack()
    again = take(member)
    assert (again.attempt, again.dead) == (1, False)


def test_replay_of_an_unknown_letter_is_a_key_error(bus: Bus) -> None:
    with pytest.raises(KeyError):
        bus.replay("nonesuch")


# --- the log ---------------------------------------------------------------------------------------------------------


def test_read_pages_through_the_log_of_a_topic_and_takes_nothing(bus: Bus) -> None:
    member = bus.subscribe(["events"], "work")
    bus.publish("events", [message("a"), message("b")])
    bus.publish("other", [message("x")])
    bus.publish("events", [message("c")])
    assert ids(member) == ["a", "b", "c"]
    first = bus.read("events", limit=2)
    assert [envelope.id for _, envelope in first] == ["a", "b"]
    rest = bus.read("events", after=first[-1][0])
    assert [envelope.id for _, envelope in rest] == ["c"]
    assert bus.read("events", after=rest[-1][0]) == []
    assert rest[0][1] == message("c")


def test_read_of_one_subject_keeps_cursors_of_the_whole_log(bus: Bus) -> None:
    bus.publish("events", [message("a", subject="1.2"), message("b", subject="1.3"), message("c", subject="1.2")])
    everything = {envelope.id: cursor for cursor, envelope in bus.read("events")}
    narrow = bus.read("events", subject="1.2")
    assert [(envelope.id, cursor) for cursor, envelope in narrow] == [("a", everything["a"]), ("c", everything["c"])]
    assert [e.id for _, e in bus.read("events", subject="1.2", after=everything["a"])] == ["c"]


def test_read_order_is_publication_whatever_the_urgency(bus: Bus) -> None:
    bus.publish("events", [message("a", priority=Priority.LOW), message("b", priority=Priority.STAT)])
    assert [envelope.id for _, envelope in bus.read("events")] == ["a", "b"]


# --- waiting ---------------------------------------------------------------------------------------------------------


def in_thread(call: Callable[[], object]) -> Callable[[], object]:
    """Start ``call`` in a thread; the function that is returned waits for its answer."""
    answer: list[object] = []
    thread = threading.Thread(target=lambda: answer.append(call()))
    thread.start()

    def join() -> object:
        thread.join(LONG)
        assert not thread.is_alive(), "still waiting"
        return answer[0]

    return join


def test_a_waiting_member_gets_what_is_published_meanwhile(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work")
    got = in_thread(lambda: member.receive(LONG))
    bus.publish("jobs", [message("a")])
    delivery = got()
    assert delivery is not None
    assert delivery.envelope.id == "a"  # type: ignore[attr-defined]


def test_a_waiting_member_gets_a_retry_that_becomes_due(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a")])
    take(member).retry(60.0, reason="not yet")
    got = in_thread(lambda: member.receive(LONG))
    clock.advance(61.0)
    delivery = got()
    assert delivery is not None
    assert delivery.attempt == 2  # type: ignore[attr-defined]


def test_a_waiting_member_gets_the_next_of_a_subject_when_another_finishes(bus: Bus) -> None:
    first, second = bus.subscribe(["jobs"], "work"), bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a", subject="1.2"), message("b", subject="1.2")])
    held = take(first)
    got = in_thread(lambda: second.receive(LONG))
    held.ack()
    delivery = got()
    assert delivery is not None
    assert delivery.envelope.id == "b"  # type: ignore[attr-defined]


def test_a_waiting_reader_gets_what_is_published_meanwhile(bus: Bus) -> None:
    bus.publish("events", [message("a", subject="1.2")])
    got = in_thread(lambda: bus.read("events", subject="1.3", wait=LONG))
    bus.publish("events", [message("b", subject="1.4"), message("c", subject="1.3")])
    assert [envelope.id for _, envelope in got()] == ["c"]  # type: ignore[attr-defined]


def test_waiting_ends_with_nothing_when_nothing_comes(bus: Bus) -> None:
    assert bus.subscribe(["jobs"], "work").receive(0.02) is None
    assert bus.read("events", wait=0.02) == []


def test_closing_ends_a_wait_in_another_thread(bus: Bus) -> None:
    member = bus.subscribe(["jobs"], "work")

    def wait() -> str:
        try:
            member.receive(LONG)
        except RuntimeError as error:
            return str(error)
        return "went on"

    got = in_thread(wait)
    member.close()
    assert "closed" in str(got())


def test_many_threads_share_one_bus_and_nothing_is_lost_or_doubled(bus: Bus) -> None:
    members = [bus.subscribe(["jobs"], "work") for _ in range(3)]
    expected = {f"{part}.{n}" for part in range(2) for n in range(15)}
    seen: list[str] = []
    done = threading.Event()

    def consume(member: Subscription) -> None:
        while not done.is_set():
            delivery = member.receive(0.05)
            if delivery is not None:
                seen.append(delivery.envelope.id)
                delivery.ack()
                if len(seen) >= len(expected):
                    done.set()

    def produce(part: int) -> None:
        for n in range(15):
            bus.publish("jobs", [message(f"{part}.{n}", subject=f"1.{n % 4}")])

    threads = [threading.Thread(target=consume, args=(m,)) for m in members]
    threads += [threading.Thread(target=produce, args=(part,)) for part in range(2)]
    for thread in threads:
        thread.start()
    assert done.wait(LONG)
    for thread in threads:
        thread.join(LONG)
    assert sorted(seen) == sorted(expected)
    assert [(lag.waiting, lag.leased) for lag in bus.lag()] == [(0, 0)]


# --- lag, pruning ----------------------------------------------------------------------------------------------------


def test_lag_tells_waiting_leased_and_the_oldest_age_per_topic_and_group(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs", "other"], "work")
    bus.subscribe(["jobs"], "audit")
    bus.publish("jobs", [message("a")])
    clock.advance(3.0)
    bus.publish("jobs", [message("b")])
    held = take(member)
    clock.advance(2.0)
    rows = {(lag.topic, lag.group): lag for lag in bus.lag()}
    assert rows == {
        ("jobs", "audit"): Lag(topic="jobs", group="audit", waiting=2, leased=0, oldest_age=5.0),
        ("jobs", "work"): Lag(topic="jobs", group="work", waiting=1, leased=1, oldest_age=5.0),
        ("other", "work"): Lag(topic="other", group="work", waiting=0, leased=0, oldest_age=0.0),
    }
    held.ack()
    assert [lag.oldest_age for lag in bus.lag() if lag.group == "work"] == [2.0, 0.0]


def test_prune_forgets_what_is_old_and_finished_by_all_and_nothing_else(bus: Bus, clock: ManualClock) -> None:
    one, two = bus.subscribe(["jobs"], "one"), bus.subscribe(["jobs"], "two")
    bus.publish("jobs", [message(name) for name in ("done", "letter", "open")])
    bus.publish("events", [message("told")])
    clock.advance(100.0)
    bus.publish("jobs", [message("young")])
    for member in (one, two):
        for _ in range(4):
            delivery = take(member)
            if delivery.envelope.id == "letter":
                delivery.reject("no")
            elif delivery.envelope.id != "open" or member is one:
                delivery.ack()
    cut = clock.time() - 50.0
    assert bus.prune("jobs", before=cut) == 1
    assert [envelope.id for _, envelope in bus.read("jobs")] == ["letter", "open", "young"]
    assert bus.prune("events", before=cut) == 0
    assert [envelope.id for _, envelope in bus.read("events")] == ["told"]
    assert {letter.envelope.id for letter in bus.dead_letters()} == {"letter"}


def test_cursors_go_on_after_pruning(bus: Bus, clock: ManualClock) -> None:
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a")])
    assert ids(member) == ["a"]
    ((last, _),) = bus.read("jobs")
    clock.advance(10.0)
    assert bus.prune("jobs", before=clock.time()) == 1
    bus.publish("jobs", [message("b")])
    assert [envelope.id for _, envelope in bus.read("jobs", after=last)] == ["b"]
    assert ids(member) == ["b"]


def test_a_closed_bus_hands_back_what_its_members_held(tmp_path: Path, clock: ManualClock) -> None:
    first = SqliteBus(tmp_path / "bus.sqlite", clock=clock)
    member = first.subscribe(["jobs"], "work")
    first.publish("jobs", [message("a")])
    take(member)
    first.close()
    second = SqliteBus(tmp_path / "bus.sqlite", clock=clock)
    assert take(second.subscribe(["jobs"], "work")).attempt == 1
    second.close()
