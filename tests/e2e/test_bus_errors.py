"""What a role says when its Kafka is not as it should be: one line that names what to change, and exit or retry."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from e2e.site import ICHOR
from kafka.admin import ConfigResource
from kafka_broker import PATIENCE, USER, Broker
from unit.listener.modality import Scu, encode, image

from ichor.bus.kafka import KafkaBus
from ichor.bus.kafka_client import Entry
from ichor.bus.kafka_replica import dump
from ichor.errors import TransientError
from ichor.messages import INSTANCES, RESULTS, Envelope, InstancesReceived, open_envelope

pytestmark = pytest.mark.xdist_group("kafka")
GROUP = "sender.pacs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """``said`` is the line; ``exits`` None: it is tried again, and once ``mended`` it goes on.

    ``seen_or_not``: whether kafka-python sees the refusal decides whether the role ends or tries again; it says it anyway.
    """

    bus: Callable[[Broker, Path], dict[str, str]]
    said: str
    exits: int | None = None
    seen_or_not: bool = False
    before: Callable[[KafkaBus], object] = lambda _: None
    mended: Callable[[KafkaBus], object] | None = None


def plain(broker: Broker, _: Path) -> dict[str, str]:
    return {"URL": f"kafka://{broker.servers}"}


def secure(broker: Broker, folder: Path) -> dict[str, str]:
    (folder / "password").write_text("not it")
    return {
        "URL": f"kafka://{broker.sasl}", "KAFKA__USERNAME": USER, "KAFKA__MECHANISM": "PLAIN",
        "KAFKA__PASSWORD_FILE": str(folder / "password"),
    }  # fmt: skip


def of_three_partitions(bus: KafkaBus) -> None:
    with bus.cluster.asked() as admin:
        admin.create_topics({f"{bus.cluster.settings.prefix}results": {"num_partitions": 3}}, wait_for_metadata=True)


def a_newer_ledger(bus: KafkaBus) -> None:
    newer = json.loads(dump({"do": "join", "topics": ["results"], "me": "x"})) | {"v": 99}
    bus.append(f"group.{GROUP}", [Entry(value=json.dumps(newer).encode(), at=1.0)])


WRONG = {
    "nobody there": Wrong(
        bus=lambda _broker, _folder: {"URL": "kafka://127.0.0.1:9"}, said=r"send waits: Kafka at 127\.0\.0\.1:9"
    ),
    "wrong password": Wrong(bus=secure, said=r"bus\.kafka\..*username.*password_file", seen_or_not=True),
    "no topic": Wrong(
        bus=lambda broker, folder: plain(broker, folder) | {"KAFKA__CREATE_TOPICS": "false"},
        said=r"Kafka has no topic \S+results, and bus\.kafka\.create_topics is false",
        mended=lambda bus: bus.cluster.ensure(["results", f"group.{GROUP}", "events"]),
    ),
    "several partitions": Wrong(
        bus=plain, before=of_three_partitions, said=r"results has 3 partitions: Ichor needs one", exits=1
    ),
    "no such authority": Wrong(
        bus=lambda broker, folder: {
            "URL": f"kafka://{broker.secure}", "KAFKA__TLS": "true", "KAFKA__CA": str(folder / "none.pem")
        },
        said=r"bus\.kafka\.ca cannot be used: No such file", exits=1,
    ),
    "newer ledger": Wrong(bus=plain, before=a_newer_ledger, said=r"written by a newer Ichor \(99; this one knows", exits=1),
    "no address": Wrong(bus=lambda _broker, _folder: {"URL": "kafka:broker"}, said=r"bus\.url = 'kafka:broker'", exits=2),
}  # fmt: skip


def run(bus: dict[str, str], prefix: str, folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start `send`, or ``command``; its log is in ``folder``."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ICHOR_", "PROMETHEUS_"))}
    settings = {
        "DATA": str(folder / "data"), "BUS__KAFKA__PREFIX": prefix, "DESTINATIONS__0__NAME": "pacs",
        "DESTINATIONS__0__AE_TITLE": "PACS", "DESTINATIONS__0__HOST": "127.0.0.1", "DESTINATIONS__0__PORT": "9",
        "BUS__KAFKA__TIMEOUT": "5s" if bus["URL"].endswith(":9") else "30s",
    } | {f"BUS__{key}": value for key, value in bus.items()}  # fmt: skip
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [*ICHOR, *(command or ("send",))],
            env=clean | {f"ICHOR_{k}": v for k, v in settings.items()},
            stdout=log,
            stderr=log,
        )


def wait_for(true: Callable[[], object], what: str, *, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, f"no {what}:\n{log.read_text()}"
        time.sleep(0.1)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line_and_ends_or_is_tried_again(
    name: str, broker: Broker, prefix: str, tmp_path: Path, kafka_bus: Callable[..., KafkaBus]
) -> None:
    wrong = WRONG[name]
    bus: Any = kafka_bus(prefix, servers=broker.servers)
    wrong.before(bus)
    role = run(wrong.bus(broker, tmp_path), prefix, tmp_path)
    log = tmp_path / "log"
    wait = partial(wait_for, log=log)
    try:
        if wrong.exits is not None:
            assert role.wait(PATIENCE) == wrong.exits, log.read_text()
        elif wrong.seen_or_not:
            wait(lambda: role.poll() is not None or re.search(f"send waits.*{wrong.said}", log.read_text()), wrong.said)
            assert role.poll() in (None, 1), log.read_text()
        else:
            wait(lambda: re.search(wrong.said, log.read_text()), wrong.said)
            assert role.poll() is None, log.read_text()
            if wrong.mended is not None:
                wrong.mended(bus)
                wait(lambda: any(lag.group == GROUP for lag in bus.lag()) or "goes on" in log.read_text(), "going on")
            role.terminate()
            assert role.wait(PATIENCE) == 0, log.read_text()
        told = log.read_text()
        assert re.search(wrong.said, told), told
        assert "Traceback" not in told
        # Joining, and waiting after it, may each say it once; nothing says it at every attempt.
        assert len(re.findall(wrong.said.rpartition(": ")[2], told)) <= 2, told
        assert "not it" not in told
    finally:
        role.kill()
        role.wait()
        bus.close()


def test_roles_start_without_a_broker_say_so_once_and_end_when_they_are_told_to(
    free_port: Callable[[], int], tmp_path: Path
) -> None:
    """Each loop of a role says it for itself: two groups answer requests for commitment, and retention asks alone."""
    loops = {"receive": ["commitment", "commitment", "retention"], "assemble": ["assemble"], "console": ["history"]}
    running = {}
    for role in loops:
        (tmp_path / role).mkdir()
        ports = [f"listener.port={free_port()}", "--set", f"console.port={free_port()}"]
        running[role] = run({"URL": "kafka://127.0.0.1:9"}, "ichor.", tmp_path / role, role, "--set", *ports)
    logs = {role: tmp_path / role / "log" for role in loops}
    try:
        for role, log in logs.items():
            waits = len(loops[role])
            wait_for(lambda log=log, waits=waits: log.read_text().count(" waits: ") >= waits, "line", log=log)  # type: ignore[misc]
        wait_for(lambda: "receiving on" in logs["receive"].read_text(), "listener", log=logs["receive"])
        for role, process in running.items():
            process.terminate()
            assert process.wait(PATIENCE) == 0, logs[role].read_text()
            said = re.findall(r"(\w+) waits: Kafka at 127\.0\.0\.1:9: ", logs[role].read_text())
            assert sorted(said) == loops[role], logs[role].read_text()
            assert logs[role].read_text().count("127.0.0.1:9:") == len(said)
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def test_what_is_too_large_for_its_topic_is_said_once_and_told_when_the_topic_takes_it_images_are_taken_meanwhile(
    broker: Broker, prefix: str, tmp_path: Path, kafka_bus: Callable[..., KafkaBus], free_port: Callable[[], int]
) -> None:
    bus, log, port, topic = (
        kafka_bus(prefix, servers=broker.servers),
        tmp_path / "log",
        free_port(),
        f"{prefix}{INSTANCES}",
    )
    with bus.cluster.asked() as admin:
        small = {"num_partitions": 1, "configs": {"max.message.bytes": "200"}}
        admin.create_topics({topic: small}, wait_for_metadata=True)
    role = run(plain(broker, tmp_path), prefix, tmp_path, "receive", "--set", f"listener.port={port}")
    wait, said = partial(wait_for, log=log), f"relay waits: a message for {topic} is larger than that topic takes"
    uids = ["1.2.3.1", "1.2.3.2"]

    def told() -> set[str]:
        try:
            contents = [open_envelope(envelope) for _, envelope in bus.read(INSTANCES)]
        except TransientError:
            return set()
        batches = [content for content in contents if isinstance(content, InstancesReceived)]
        return {one.sop_instance_uid for batch in batches for one in batch.instances}

    try:
        wait(lambda: "receiving on" in log.read_text(), "listener")
        for uid in uids:
            assert Scu(port).store(encode(image(uid)), sop_instance=uid) == 0
            wait(lambda: said in log.read_text(), said)
        assert told() == set()
        with bus.cluster.asked() as admin:
            admin.alter_configs([ConfigResource("TOPIC", topic, {"max.message.bytes": "1000000"})])
        wait(lambda: told() == set(uids), "message")
        wait(lambda: "relay goes on" in log.read_text(), "line")
        role.terminate()
        assert role.wait(PATIENCE) == 0, log.read_text()
        assert log.read_text().count(said) == 1
    finally:
        role.kill()
        role.wait()
        bus.close()


def test_a_message_of_a_newer_ichor_is_given_up_with_one_line_and_what_follows_is_read(
    broker: Broker, prefix: str, tmp_path: Path, kafka_bus: Callable[..., KafkaBus]
) -> None:
    bus, log = kafka_bus(prefix, servers=broker.servers), tmp_path / "log"
    names = ["ichor.result.ready.v99", "ichor.result.sung.v1"]
    bus.publish(RESULTS, [Envelope(id=name, source="later", type=name, time=1.0, subject="1.2.3") for name in names])
    role = run(plain(broker, tmp_path), prefix, tmp_path)
    try:
        wait_for(lambda: len(bus.dead_letters()) == 2, "dead letters", log=log)
        said = [f"message type {name!r} is not known to this version of Ichor" for name in names]
        assert [letter.reason for letter in bus.dead_letters()] == said
        assert role.poll() is None
        role.terminate()
        assert role.wait(PATIENCE) == 0, log.read_text()
        assert [log.read_text().count(f"a message is given up: {line}") for line in said] == [1, 1]
    finally:
        role.kill()
        role.wait()
        bus.close()
