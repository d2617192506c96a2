"""How Kafka has Ichor's topics, for `ichor doctor`. Says not whether that is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType

_KEYS = ("retention.ms", "retention.bytes", "cleanup.policy", "max.message.bytes", "min.insync.replicas")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic as Kafka has it.

    ``copies``: of each record; ``at_least``: of them in step, or nothing is taken; ``keeps_ms``, ``keeps_bytes``: -1 for
    ever, and all.
    """

    name: str
    partitions: int
    copies: int
    at_least: int
    keeps_ms: int
    keeps_bytes: int
    cleanup: str
    message_bytes: int


def topics_of(admin: Any, prefix: str) -> list[TopicState]:
    """All whose name begins with ``prefix``, named without it. ``admin``: kafka-python's client; its errors are raised.

    Raises
    ------
    errors.TopicAuthorizationFailedError
        When Kafka does not tell how a topic is kept (DescribeConfigs).
    """
    there = {
        one["name"]: one["partitions"]
        for one in admin.describe_topics()
        if not one["error_code"] and one["name"].startswith(prefix)
    }
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(_KEYS)) for name in there]
    answer = admin.describe_configs(asked, config_filter="all") if asked else {}
    values = {
        name: {key: told[key]["value"] for key in _KEYS if key in told}
        for by in answer.values()
        for name, told in by.items()
    }
    # kafka-python 3.0.12 gives a topic whose settings are refused without any, and raises nothing.
    refused = [name for name in there if len(values.get(name, ())) < len(_KEYS)]
    if refused:
        raise errors.TopicAuthorizationFailedError(refused[0])
    return [
        TopicState(
            name=name.removeprefix(prefix), partitions=len(parts), copies=min(len(p["replica_nodes"]) for p in parts),
            keeps_ms=int(values[name]["retention.ms"]), keeps_bytes=int(values[name]["retention.bytes"]),
            at_least=int(values[name]["min.insync.replicas"]), cleanup=values[name]["cleanup.policy"],
            message_bytes=int(values[name]["max.message.bytes"]),
        )
        for name, parts in sorted(there.items())
    ]  # fmt: skip
