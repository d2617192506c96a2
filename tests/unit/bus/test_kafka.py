"""What is special to the bus on Kafka, against a real broker: deaths, refusals, outages, what lies in the topics."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import ConfigResource
from kafka.errors import RetriableError
from kafka_broker import PATIENCE, USER, Broker, Quorum

from ichor.bus.kafka import KafkaBus
from ichor.bus.kafka_client import Entry
from ichor.bus.kafka_replica import dump
from ichor.bus.protocol import Delivery, Subscription
from ichor.cli.dlq import dlq
from ichor.clock import ManualClock
from ichor.errors import CannotStart, IchorError, TransientError
from ichor.messages import Envelope
from ichor.types import Priority

pytestmark = pytest.mark.xdist_group("kafka")
Open = Callable[..., KafkaBus]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_bus(kafka_bus: Open, prefix: str, clock: ManualClock) -> Iterator[Open]:
    """``open_bus(**settings)``: another bus on the same topics, closed at the end."""
    made: list[KafkaBus] = []

    def open_one(**settings: Any) -> KafkaBus:
        made.append(kafka_bus(settings.pop("prefix", prefix), **{"clock": clock, **settings}))
        return made[-1]

    yield open_one
    for bus in made:
        bus.close()


def message(id: str, subject: str | None = None, **data: Any) -> Envelope:
    return Envelope(id=id, source="test", type="ichor.test.v1", time=1.5, subject=subject or f"1.2.{id}", data=data)


def take(member: Subscription) -> Delivery:
    delivery = member.receive(PATIENCE)
    assert delivery is not None
    return delivery


def crash(bus: KafkaBus) -> None:
    """End as a killed process does: nothing more is said to anybody."""
    for member in list(bus._members):
        bus.forget(member)
    bus.close()


def eventually(true: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


# --- messages that cannot be done ------------------------------------------------------------------------------------


def test_a_message_that_kills_its_worker_is_given_up_after_five_with_its_cause(open_bus: Open) -> None:
    publisher = open_bus()
    publisher.publish("jobs", [message("a")])
    for attempt in range(1, 6):
        worker = open_bus(member="pod-0")
        assert take(worker.subscribe(["jobs"], "work", lease=3600.0)).attempt == attempt
        crash(worker)
    dead = take(open_bus(member="pod-0").subscribe(["jobs"], "work", lease=3600.0))
    assert (dead.dead, dead.attempt) == (True, 5)
    dead.ack()
    (letter,) = publisher.dead_letters()
    assert (letter.envelope, letter.attempts) == (message("a"), 5)
    assert "died or hung" in letter.reason


def test_who_joins_under_the_name_of_one_that_died_has_its_message(open_bus: Open) -> None:
    publisher = open_bus()
    publisher.publish("instances.3-of-8", [message("a")])
    for attempt in (1, 2):
        bus = open_bus(member=f"pod-{attempt}")
        member = bus.subscribe(["instances.3-of-8"], "assembler.3-of-8", lease=3600.0, member="assembler.3-of-8")
        assert take(member).attempt == attempt
        crash(bus)


def test_a_killed_process_without_a_name_loses_its_job_when_the_lease_ends(
    open_bus: Open, kafka_servers: str, prefix: str, clock: ManualClock, tmp_path: Path
) -> None:
    bus = open_bus()
    bus.publish("jobs", [message("a")])
    code = (
        "import sys, signal\nfrom pathlib import Path\nfrom ichor.bus.kafka import KafkaBus\n"
        "from ichor.clock import ManualClock\nfrom ichor.config import KafkaSettings\n"
        "bus = KafkaBus(sys.argv[1], KafkaSettings(prefix=sys.argv[2], timeout=60), Path(sys.argv[3]), clock=ManualClock())\n"
        "held = bus.subscribe(['jobs'], 'work', lease=30.0).receive(300)\nprint(held.attempt, flush=True)\nsignal.pause()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, f"kafka://{kafka_servers}", prefix, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "1"
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    member = bus.subscribe(["jobs"], "work")
    assert member.receive(0) is None
    clock.advance(31.0)
    assert take(member).attempt == 2


def test_what_fails_five_times_lies_in_the_dead_letter_topic_too_with_its_cause(
    open_bus: Open, clock: ManualClock
) -> None:
    bus = open_bus()
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a")])
    for attempt in range(5):
        take(member).retry(1.0, reason=f"broken {attempt}")
        clock.advance(2.0)
    take(member).ack()
    bus.cluster.ensure(["jobs.dlq"])
    eventually(lambda: bus.cluster.ends(["jobs.dlq"])["jobs.dlq"][1])
    copied = json.loads(bus.cluster.fetch("jobs.dlq", 0).value or b"")
    assert (copied["group"], copied["attempts"], copied["reason"]) == ("work", 5, "broken 4")
    assert copied["message"]["id"] == "a"
    assert copied["letter_id"] == bus.dead_letters()[0].letter_id


def test_what_is_no_message_goes_to_the_dead_letters_and_keeps_nobody_waiting(
    open_bus: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    bus = open_bus()
    bus.cluster.append("jobs", [Entry(value=b'{"id": 7', at=1.0)])
    bus.publish("jobs", [message("a")])
    member = bus.subscribe(["jobs"], "work")
    delivery = take(member)
    assert delivery.envelope.id == "a"
    delivery.ack()
    (letter,) = bus.dead_letters()
    assert letter.reason == "it is no message of Ichor"
    assert dlq("list", None, bus=bus) == 0
    assert letter.letter_id in capsys.readouterr().out
    assert dlq("replay", letter.letter_id, bus=bus) == 0
    again = take(member)
    assert again.envelope.type == "ichor.unreadable"
    again.reject("ichor.unreadable is not known")
    assert [entry.reason for entry in bus.dead_letters()] == ["ichor.unreadable is not known"]


def test_dlq_shows_and_replays_across_processes(open_bus: Open, capsys: pytest.CaptureFixture[str]) -> None:
    worker, person = open_bus(), open_bus()
    member = worker.subscribe(["jobs"], "work")
    worker.publish("jobs", [message("a")])
    take(member).reject("does not fit")
    (letter,) = person.dead_letters()
    assert dlq("show", letter.letter_id, bus=person) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["reason"], shown["message"]["id"]) == ("does not fit", "a")
    assert dlq("replay", letter.letter_id, bus=person) == 0
    assert take(member).attempt == 1
    assert person.dead_letters() == []


# --- members ---------------------------------------------------------------------------------------------------------


def test_a_job_of_an_hour_stays_with_its_worker_whoever_asks(open_bus: Open, clock: ManualClock) -> None:
    worker, other = open_bus().subscribe(["jobs"], "work", lease=3600.0), open_bus().subscribe(["jobs"], "work")
    open_bus().publish("jobs", [message("a")])
    job = take(worker)
    clock.advance(3500.0)  # nothing is asked of Kafka meanwhile
    assert other.receive(0.5) is None
    job.ack()
    clock.advance(200.0)
    assert other.receive(0.5) is None


def test_more_workers_than_partitions_work_at_once(open_bus: Open) -> None:
    open_bus().publish("jobs", [message(str(n)) for n in range(4)])
    workers = [open_bus().subscribe(["jobs"], "work") for _ in range(4)]
    assert sorted(take(worker).envelope.id for worker in workers) == ["0", "1", "2", "3"]


def test_a_ledger_is_cut_at_a_snapshot_and_who_comes_later_knows_the_same(
    open_bus: Open, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ichor.bus.kafka._SNAPSHOT_EVERY", 5)
    bus = open_bus()
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message(str(n)) for n in range(5)])
    take(member).reject("no")
    take(member).retry(60.0, reason="not yet")
    for _ in range(3):
        take(member).ack()
    ledger = "group.work"

    def cut() -> bool:
        member._tidy_at = 0.0
        assert member.receive(0) is None
        return bus.cluster.ends([ledger])[ledger][0] > 5

    eventually(cut)
    bus.publish("jobs", [message("2"), message("new")])  # the first one is known, also to who comes later
    later = open_bus()
    comer = later.subscribe(["jobs"], "work")
    fresh = take(comer)
    assert fresh.envelope.id == "new"
    fresh.ack()
    clock.advance(61.0)
    waiting = take(comer)
    assert (waiting.envelope.id, waiting.attempt) == ("1", 2)
    assert [(letter.envelope.id, letter.reason) for letter in later.dead_letters()] == [("0", "no")]
    assert [(lag.waiting, lag.leased) for lag in later.lag()] == [(0, 1)]


def test_kafkas_own_tools_see_how_far_a_group_is_behind(open_bus: Open, prefix: str) -> None:
    bus = open_bus()
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [message("a"), message("b")])
    take(member).ack()

    def committed() -> object:
        member._tidy_at = 0.0
        member._tidy()
        try:
            with bus.cluster.asked() as admin:
                offsets = admin.list_group_offsets([f"{prefix}work"])
        except RetriableError:  # a broker that has just started has no coordinator yet
            return False
        return "offset=1" in str(offsets) or "'offset': 1" in str(offsets)

    eventually(committed)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_topic_that_is_missing_is_named_and_made_by_nobody(open_bus: Open, prefix: str) -> None:
    bus = open_bus(create_topics=False)
    with pytest.raises(TransientError, match=rf"{prefix}jobs.*create_topics"):
        bus.publish("jobs", [message("a")])
    open_bus().publish("jobs", [])
    open_bus().cluster.ensure(["jobs"])  # an administrator
    bus.publish("jobs", [message("a")])
    assert [envelope.id for _, envelope in bus.read("jobs")] == ["a"]


def test_a_topic_that_is_made_keeps_all_whatever_the_brokers_do(open_bus: Open, prefix: str) -> None:
    bus = open_bus()
    bus.cluster.ensure(["jobs"])
    with bus.cluster.asked() as admin:
        asked = [ConfigResource("TOPIC", f"{prefix}jobs")]
        (told,) = admin.describe_configs(asked, config_filter="all").values()
    of_its_own = {
        name: value["value"]
        for name, value in told[f"{prefix}jobs"].items()
        if value["config_source"] == "DYNAMIC_TOPIC_CONFIG"
    }
    kept = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
    assert of_its_own == kept | {"max.message.bytes": "16000000"}


def test_a_topic_of_several_partitions_is_refused(open_bus: Open, prefix: str) -> None:
    bus = open_bus()
    with bus.cluster.asked() as admin:
        admin.create_topics({f"{prefix}jobs": {"num_partitions": 3}}, wait_for_metadata=True)
    with pytest.raises(CannotStart, match=rf"{prefix}jobs has 3 partitions"):
        bus.publish("jobs", [message("a")])


def test_a_message_that_is_too_large_is_named_and_the_next_one_goes(open_bus: Open) -> None:
    bus = open_bus(message_bytes=300_000)
    with pytest.raises(IchorError, match=r"message_bytes = 300000") as caught:
        bus.publish("jobs", [message("small"), message("large", text="x" * 400_000)])
    assert not isinstance(caught.value, TransientError)
    bus.publish("jobs", [message("next")])
    assert [envelope.id for _, envelope in bus.read("jobs")] == ["next"]


def test_a_topic_that_takes_less_than_the_setting_says_so(open_bus: Open, prefix: str) -> None:
    bus = open_bus()
    with bus.cluster.asked() as admin:
        made = {"num_partitions": 1, "configs": {"max.message.bytes": "1000"}}
        admin.create_topics({f"{prefix}jobs": made}, wait_for_metadata=True)
    with pytest.raises(IchorError, match=r"max\.message\.bytes"):
        bus.publish("jobs", [message("a", noise=[str(hash(str(n))) for n in range(1000)])])


def test_a_ledger_of_a_newer_ichor_stops_its_members(open_bus: Open, caplog: pytest.LogCaptureFixture) -> None:
    bus = open_bus()
    member = bus.subscribe(["jobs"], "work")
    newer = json.loads(dump({"do": "join", "topics": ["jobs"], "me": "x"})) | {"v": 99}
    with caplog.at_level(logging.WARNING, logger="ichor.bus"):
        bus.append("group.work", [Entry(value=json.dumps(newer).encode(), at=1.0)])
        for _ in range(3):
            with pytest.raises(CannotStart, match=r"newer Ichor \(99"):
                member.receive(1.0)
    assert caplog.records == []  # who receives says it


def test_what_is_asked_of_kafka_to_prune_does_not_grow_with_groups(
    open_bus: Open, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = open_bus()
    topics = [f"jobs{n}" for n in range(12)]
    for n, topic in enumerate(topics):
        bus.publish(topic, [message("a"), message("b")])
        member = bus.subscribe([topic], f"work{n}")
        take(member).ack()
    asked: list[Sequence[str]] = []
    ends = bus.cluster.ends

    def count(names: Sequence[str]) -> dict[str, tuple[int, int]]:
        asked.append(names)
        return ends(names)

    monkeypatch.setattr(bus.cluster, "ends", count)
    assert [bus.prune(topic, before=clock.time() + 60.0) for topic in topics] == [1] * 12
    assert len(asked) == 3 * 12
    assert [envelope.id for _, envelope in open_bus().read("jobs7")] == ["b"]


# --- who may talk to it, and when it does not answer -----------------------------------------------------------------


def credentials(broker: Broker, **others: Any) -> dict[str, Any]:
    return {
        "servers": broker.secure, "tls": True, "ca": str(broker.folder / "ca.pem"), "username": USER,
        "password_file": str(broker.folder / "password"), "mechanism": "PLAIN", **others,
    }  # fmt: skip


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_tls_and_sasl_are_spoken(open_bus: Open, broker: Broker, mechanism: str) -> None:
    bus = open_bus(**credentials(broker, mechanism=mechanism))
    bus.publish("jobs", [message("a")])
    take(bus.subscribe(["jobs"], "work")).ack()
    assert [envelope.id for _, envelope in bus.read("jobs")] == ["a"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
@pytest.mark.parametrize("tls", [False, True])
def test_wrong_credentials_are_told_in_one_line_that_names_the_settings(
    open_bus: Open, broker: Broker, tmp_path: Path, tls: bool, mechanism: str
) -> None:
    (tmp_path / "wrong").write_text("not it")
    wrong = credentials(broker, password_file=str(tmp_path / "wrong"), timeout=2.0, mechanism=mechanism)
    bus = open_bus(**(wrong if tls else {**wrong, "servers": broker.sasl, "tls": False, "ca": ""}))
    told: list[IchorError] = []

    def refused() -> bool:
        try:
            bus.publish("jobs", [message("a")])
        except IchorError as error:
            told.append(error)
        return "bus.kafka." in str(told[-1])  # not so at once on a machine that is too busy to be refused in time

    eventually(refused)
    assert re.search(r"username.*password_file", str(told[-1]))
    assert "not it" not in str(told[-1])
    assert "\n" not in str(told[-1])


def test_an_authority_that_cannot_be_read_names_its_setting(open_bus: Open, broker: Broker, tmp_path: Path) -> None:
    bus = open_bus(**credentials(broker, ca=str(tmp_path / "none.pem")))
    with pytest.raises(CannotStart, match=r"bus\.kafka\.ca"):
        bus.publish("jobs", [message("a")])


def test_who_wants_to_be_sure_is_told_what_others_published_before(open_bus: Open) -> None:
    member = open_bus().subscribe(["jobs"], "work")
    assert member.receive(0, sure=True) is None
    other = open_bus()
    for n in range(20):
        other.publish("jobs", [message(f"m{n}")])
        delivery = member.receive(0, sure=True)
        assert delivery is not None
        delivery.ack()
    assert member.receive(0, sure=True) is None


def test_away_at_the_start_and_again_later_loses_nothing_and_goes_on_by_itself(
    make_broker: Callable[[], Broker], open_bus: Open
) -> None:
    broker = make_broker()
    bus = open_bus(servers=broker.servers, timeout=2.0)
    with pytest.raises(TransientError, match=broker.servers) as caught:
        bus.publish("jobs", [message("a")])
    assert "\n" not in str(caught.value)
    member = bus.subscribe(["jobs"], "work")
    with pytest.raises(TransientError):
        member.receive(0)

    def published(id: str) -> bool:
        try:
            bus.publish("jobs", [message(id)])
        except TransientError:
            return False
        return True

    def received() -> Delivery | None:
        try:
            return member.receive(1.0)
        except TransientError:
            return None

    def get() -> Delivery:
        found: list[Delivery] = []
        eventually(lambda: found.append(one) if (one := received()) else found)
        return found[0]

    broker.start()
    eventually(lambda: published("a"))
    held = get()
    assert (held.envelope.id, held.attempt) == ("a", 1)
    broker.stop()
    with pytest.raises(TransientError):
        member.receive(0, sure=True)
    with pytest.raises(TransientError):
        held.ack()
    assert not published("b")
    broker.start()
    eventually(lambda: published("b"))

    def acknowledged() -> bool:
        try:
            held.ack()
        except TransientError:
            return False
        return True

    eventually(acknowledged)
    assert get().envelope.id == "b"
    assert {envelope.id for _, envelope in open_bus(servers=broker.servers).read("jobs")} == {"a", "b"}


@pytest.mark.soak
def test_the_leader_of_three_is_killed_and_nothing_is_lost_or_done_twice(
    quorum: Quorum, open_bus: Open, prefix: str
) -> None:
    publisher, worker = (open_bus(servers=quorum.servers, timeout=5.0) for _ in range(2))
    member = worker.subscribe(["jobs"], "work", lease=3600.0)
    done: list[str] = []

    def publish(id: str) -> bool:
        try:
            publisher.publish("jobs", [message(id)])
        except TransientError:
            return False
        return True

    def work() -> None:
        try:
            delivery = member.receive(0.2)
            if delivery is not None:
                delivery.ack()
                done.append(delivery.envelope.id)
        except TransientError:
            return

    for n in range(20):
        eventually(lambda id=f"a{n}": publish(id))
    work()
    killed = quorum.led_by(f"{prefix}jobs")
    killed.stop(signal.SIGKILL)
    for n in range(20):
        eventually(lambda id=f"b{n}": publish(id))  # again under the same id, until it is told that it is there
    assert quorum.led_by(f"{prefix}jobs") is not killed
    wanted = {f"{part}{n}" for part in "ab" for n in range(20)}

    def finished() -> bool:
        work()
        return not any(lag.waiting + lag.leased for lag in worker.lag())

    def asked() -> bool:
        try:
            return finished()
        except TransientError:
            return False

    eventually(asked)
    assert set(done) <= wanted
    assert len(done) == len(set(done))
    assert len(wanted) - len(done) <= 1  # of one that was being acknowledged it may not know
    killed.start()
    again = open_bus(servers=killed.servers, timeout=30.0)
    assert {envelope.id for _, envelope in again.read("jobs")} == wanted


# --- urgency -------------------------------------------------------------------------------------------------------------


def test_behind_a_thousand_routine_jobs_a_stat_job_is_the_next(open_bus: Open) -> None:
    publisher, worker = open_bus(), open_bus()
    publisher.publish("jobs.routine", [message(f"r{n}") for n in range(1000)])
    member = worker.subscribe(["jobs.stat", "jobs.routine"], "work")
    in_hand = take(member)
    assert in_hand.envelope.id == "r0"
    publisher.publish("jobs.stat", [message("s").model_copy(update={"priority": Priority.STAT})])
    other = open_bus().subscribe(["jobs.stat", "jobs.routine"], "work")
    assert take(other).envelope.id == "s"  # whoever is free has it at once
    publisher.publish("jobs.stat", [message("t").model_copy(update={"priority": Priority.STAT})])
    in_hand.ack()
    assert take(member).envelope.id == "t"  # and who was at work, after that job
    assert sum(lag.waiting for lag in publisher.lag()) == 999
