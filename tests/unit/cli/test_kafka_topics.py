"""What doctor says of a Kafka: its topics against what they must be, the bus, and a Kafka that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kafka_broker import Broker

from ichor.bus.kafka import KafkaBus
from ichor.bus.kafka_topics import TopicState
from ichor.cli import doctor as module
from ichor.cli.doctor import doctor
from ichor.cli.folder import DataFolder
from ichor.cli.kafka_topics import check_topics
from ichor.cli.machine import Level
from ichor.config import Settings
from ichor.messages import RESULTS, Envelope

pytestmark = pytest.mark.xdist_group("kafka")


def topic(name: str, *, copies: int = 3, keeps_ms: int = -1, cleanup: str = "delete", size: int = 100) -> TopicState:
    return TopicState(name=name, partitions=1, copies=copies, keeps_ms=keeps_ms, cleanup=cleanup, message_bytes=size)


def test_topics_as_they_must_be_are_one_line() -> None:
    (finding,) = check_topics([topic("a"), topic("b")], message_bytes=100, needed=["a"])
    assert (finding.level, finding.text.partition(",")[0]) == (Level.OK, "2")


def test_each_fault_names_the_first_topics_that_have_it() -> None:
    topics = [topic(name, keeps_ms=604_800_000) for name in "abcde"]
    topics += [topic("f", cleanup="compact"), topic("g", copies=1), topic("h", size=99)]
    found = [(f.level, f.text) for f in check_topics(topics, message_bytes=100, needed=["a", "z"])]
    assert found == [
        (Level.FAIL, "z: not there"),
        (Level.FAIL, "a, b, c and 3 more: whose messages end by themselves"),
        (Level.WARN, "h: that take less than bus.kafka.message_bytes"),
        (Level.WARN, "g: on one disk"),
    ]


@pytest.fixture
def ask(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """``ask(url, prefix=...)``: doctor's lines on the bus and its topics."""
    monkeypatch.setattr(module, "_check_installed_models", lambda _: iter(()))

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
    with bus.cluster._ask() as admin:
        admin.create_topics({f"{prefix}events": {"num_partitions": 2}}, wait_for_metadata=True)
    url = f"kafka://{broker.servers}"
    said = ask(url, prefix=prefix)
    assert said[0] == "OK    bus: 1 messages in hand or waiting"
    assert said[1].startswith("WARN  dead letters: 1 ->")
    assert said[2].startswith("FAIL  topics: events: of several partitions ->")
    assert said[3].startswith("FAIL  topics: events: whose messages end by themselves ->")
    assert [line.partition(":")[0] for line in said[4:]] == ["WARN  topics"] * 2
    strict = ask(url, prefix=prefix, create_topics=False)
    assert next(line for line in strict if "not there" in line).endswith("make them: docs/cluster.md")
    bus.close()


def test_doctor_says_in_one_line_that_kafka_is_away(ask: Callable[..., list[str]]) -> None:
    (said,) = ask("kafka://127.0.0.1:9", timeout="2s")
    assert said.startswith("FAIL  bus: Kafka at 127.0.0.1:9: ")
    assert said.endswith("-> see [bus.kafka]")
