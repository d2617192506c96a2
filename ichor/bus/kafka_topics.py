"""How Kafka has Ichor's topics, for `ichor doctor`. Says not whether that is right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType

_KEYS = ("retention.ms", "cleanup.policy", "max.message.bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic as Kafka has it. ``copies``: of each record; ``keeps_ms``: -1 for ever."""

    name: str
    partitions: int
    copies: int
    keeps_ms: int
    cleanup: str
    message_bytes: int


def topics_of(admin: Any, prefix: str) -> list[TopicState]:
    """All whose name begins with ``prefix``, named without it. ``admin``: kafka-python's client; its errors are raised."""
    there = {
        one["name"]: one["partitions"]
        for one in admin.describe_topics()
        if not one["error_code"] and one["name"].startswith(prefix)
    }
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(_KEYS)) for name in there]
    answer = admin.describe_configs(asked, config_filter="all") if asked else {}
    values = {name: {key: told[key]["value"] for key in _KEYS} for by in answer.values() for name, told in by.items()}
    return [
        TopicState(
            name=name.removeprefix(prefix), partitions=len(parts), copies=min(len(p["replica_nodes"]) for p in parts),
            keeps_ms=int(values[name]["retention.ms"]), cleanup=values[name]["cleanup.policy"],
            message_bytes=int(values[name]["max.message.bytes"]),
        )
        for name, parts in sorted(there.items())
    ]  # fmt: skip
