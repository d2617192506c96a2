"""What doctor says of a Kafka: its topics against what they must be, the bus, and a Kafka that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kafka
import pytest
from kafka_broker import Broker

from ichor.bus.kafka import KafkaBus
from ichor.bus.kafka_topics import TopicState
from ichor.cli import doctor as module
from ichor.cli.doctor import doctor
from ichor.cli.folder import DataFolder
from ichor.cli.kafka_check import check_kafka, check_topics, dead_letter_topics, needed
from ichor.cli.machine import Level
from ichor.config import Settings
from ichor.messages import RESULTS, Envelope

pytestmark = pytest.mark.xdist_group("kafka")


def topic(name: str, **changed: Any) -> TopicState:
    right = {"copies": 3, "at_least": 2, "keeps_ms": -1, "keeps_bytes": -1, "cleanup": "delete", "message_bytes": 100}
    return TopicState(name=name, partitions=1, **(right | changed))


def test_topics_as_they_must_be_are_one_line() -> None:
    (finding,) = check_topics([topic("a"), topic("b")], message_bytes=100, needed=["a"])
    assert (finding.level, finding.text.partition(",")[0]) == (Level.OK, "2")


def test_each_fault_names_the_first_topics_that_have_it() -> None:
    topics = [topic(name, keeps_ms=604_800_000) for name in "abcd"]
    topics += [topic("e", keeps_bytes=1_000_000_000), topic("f", cleanup="compact")]
    topics += [topic("g", copies=1, at_least=1), topic("h", message_bytes=99), topic("i", at_least=1)]
    found = check_topics(topics, message_bytes=100, needed=["a", "z"], dead_letters=["b", "z.dlq"])
    assert [(f.level, f.text) for f in found] == [
        (Level.FAIL, "z: not there"),
        (Level.WARN, "z.dlq: not there"),
        (Level.FAIL, "a, b, c and 3 more: whose messages end by themselves"),
        (Level.WARN, "h: that take less than bus.kafka.message_bytes"),
        (Level.WARN, "g: on one disk"),
        (Level.WARN, "i: acknowledged by one broker alone"),
    ]


@pytest.mark.parametrize("fault", [{"keeps_ms": 1}, {"keeps_bytes": 1}, {"cleanup": "compact"}])
def test_each_way_in_which_messages_end_by_themselves_is_a_fault(fault: dict[str, Any]) -> None:
    (finding,) = check_topics([topic("a", **fault)], message_bytes=100, needed=[])
    assert (finding.level, finding.text) == (Level.FAIL, "a: whose messages end by themselves")


def test_what_is_received_has_a_topic_for_its_dead_letters(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data": str(tmp_path), "assemble": {"shards": 2}})
    there, letters = set(needed(settings)), dead_letter_topics(settings)
    assert {"instances.0-of-2.dlq", "results.dlq", "jobs.haematoma.stat.dlq"} <= set(letters)
    assert there.issuperset(name.removesuffix(".dlq") for name in letters)
    assert "events.dlq" not in letters


class Refuses:
    """An admin client as kafka-python's, for who may describe topics but not their settings."""

    def describe_topics(self) -> list[dict[str, Any]]:
        return [{"name": "ichor.results", "error_code": 0, "partitions": [{"replica_nodes": [1]}]}]

    def describe_configs(self, *_: object, **__: object) -> dict[str, dict[str, dict[str, Any]]]:
        return {"topic": {"ichor.results": {}}}

    def close(self) -> None:
        pass


def test_who_may_not_see_how_topics_are_kept_is_told_what_doctor_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "KafkaAdminClient", lambda **_: Refuses())
    settings = Settings.model_validate({"data": str(tmp_path), "bus": {"url": "kafka://127.0.0.1:9"}})
    (finding,) = check_kafka(settings)
    assert finding.level is Level.WARN
    assert "does not let an unnamed user do this with ichor." in finding.text
    assert finding.todo == "let doctor see them: DescribeConfigs"


@pytest.fixture
def ask(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """``ask(url, prefix=...)``: doctor's lines on the bus and its topics."""
    monkeypatch.setattr(module, "_check_installed_models", lambda *_: iter(()))

    def lines(url: str, **kafka: object) -> list[str]:
        DataFolder(tmp_path / "data").prepare()
        tables = {
            "listener": {"port": free_port()},
            "console": {"port": free_port()},
            "bus": {"url": url, "kafka": kafka},
        }
        doctor(Settings.model_validate({"data": str(tmp_path / "data"), **tables}))
        words = ("bus", "dead letters", "topics")
        return [line for line in capsys.readouterr().out.splitlines() if line[6:].startswith(words)]

    return lines


def test_doctor_asks_the_bus_and_the_topics_of_a_real_kafka(
    ask: Callable[..., list[str]], broker: Broker, prefix: str, kafka_bus: Callable[..., KafkaBus]
) -> None:
    bus = kafka_bus(prefix, servers=broker.servers)
    member = bus.subscribe([RESULTS], "work")
    bus.publish(RESULTS, [Envelope(id=i, source="", type="", time=0, subject=i) for i in ("1.2", "1.3")])
    delivery = member.receive(60)
    assert delivery is not None
    delivery.reject("no")
    with bus.cluster.asked() as admin:
        admin.create_topics({f"{prefix}events": {"num_partitions": 2}}, wait_for_metadata=True)
    url = f"kafka://{broker.servers}"
    said = ask(url, prefix=prefix, timeout="60s")
    assert said[0] == "OK    bus: 1 messages in hand or waiting"
    assert said[1].startswith("WARN  dead letters: 1 ->")
    assert said[2].startswith("FAIL  topics: events: of several partitions ->")
    assert said[3].startswith("FAIL  topics: events: whose messages end by themselves ->")
    assert [line.partition(":")[0] for line in said[4:]] == ["WARN  topics"] * 2
    strict = ask(url, prefix=prefix, create_topics=False, timeout="60s")
    assert [line[:4] for line in strict if "not there" in line] == ["FAIL", "WARN"]
    bus.close()


def test_doctor_says_in_one_line_that_kafka_is_away(ask: Callable[..., list[str]]) -> None:
    (said,) = ask("kafka://127.0.0.1:9", timeout="2s")
    assert said.startswith("FAIL  bus: Kafka at 127.0.0.1:9: ")
    assert said.endswith("-> see [bus.kafka]")
