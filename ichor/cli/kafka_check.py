"""What `ichor doctor` asks of Kafka's topics: are they as docs/cluster.md has them? Asks no more, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from ichor.cli.machine import Finding, Level
from ichor.config import Settings
from ichor.errors import CannotStart
from ichor.messages import COMMITMENTS, EVENTS, RESULTS, jobs_topic
from ichor.pipeline import installed_names
from ichor.shards import shards
from ichor.types import Priority

if TYPE_CHECKING:
    from ichor.bus.kafka_topics import TopicState

_WHAT, _NAMED = "topics", 3


def check_kafka(settings: Settings) -> Iterator[Finding]:
    """Every topic with the prefix. TransientError when Kafka is away."""
    from ichor.bus.kafka_client import Cluster

    with closing(Cluster(settings.bus.url, settings.bus.kafka)) as cluster:
        try:
            topics = cluster.topics()
        except CannotStart as error:
            yield Finding(Level.WARN, _WHAT, str(error), "let doctor see them: DescribeConfigs")
            return
    made = settings.bus.kafka.create_topics
    yield from check_topics(
        topics, message_bytes=settings.bus.kafka.message_bytes, needed=() if made else needed(settings),
        dead_letters=() if made else dead_letter_topics(settings),
    )  # fmt: skip


def needed(settings: Settings) -> tuple[str, ...]:
    """What roles write or read, without the copies of dead letters."""
    divided = shards(settings.assemble.shards)
    groups = [shard.group for shard in divided] + ["work", "commitment.decide", "commitment.report"]
    groups += [f"sender.{destination.name}" for destination in settings.destinations]
    return (*_received(settings), EVENTS, *(f"group.{group}" for group in groups))


def dead_letter_topics(settings: Settings) -> tuple[str, ...]:
    """Where copies of dead letters go."""
    return tuple(f"{topic}.dlq" for topic in _received(settings))


def _received(settings: Settings) -> tuple[str, ...]:
    jobs = [jobs_topic(name, lane) for name in installed_names() for lane in (Priority.STAT, Priority.ROUTINE)]
    return (*(shard.topic for shard in shards(settings.assemble.shards)), *jobs, RESULTS, COMMITMENTS)


def check_topics(
    topics: Sequence[TopicState], *, message_bytes: int, needed: Sequence[str], dead_letters: Sequence[str] = ()
) -> Iterator[Finding]:
    """``needed``, ``dead_letters``: what must and should be there already, because Ichor makes none."""
    known = {topic.name for topic in topics}
    faults = (
        (Level.FAIL, "not there", [name for name in needed if name not in known], "make them: docs/cluster.md"),
        (
            Level.WARN, "not there", [name for name in dead_letters if name not in known],
            "what is given up is not copied there for other tools; `ichor dlq` has it: docs/cluster.md",
        ),
        (Level.FAIL, "of several partitions", [t.name for t in topics if t.partitions != 1], "Ichor needs one"),
        (
            Level.FAIL, "whose messages end by themselves",
            [t.name for t in topics if (t.keeps_ms, t.keeps_bytes, t.cleanup) != (-1, -1, "delete")],
            "set retention.ms=-1, retention.bytes=-1 and cleanup.policy=delete: Ichor deletes what is done",
        ),
        (
            Level.WARN, "that take less than bus.kafka.message_bytes",
            [t.name for t in topics if t.message_bytes < message_bytes], f"set max.message.bytes={message_bytes}",
        ),
        (
            Level.WARN, "on one disk", [t.name for t in topics if t.copies == 1],
            "what Kafka acknowledged goes with that disk: three copies, min.insync.replicas=2",
        ),
        (
            Level.WARN, "acknowledged by one broker alone", [t.name for t in topics if t.copies >= 3 and t.at_least < 2],
            "what it acknowledged may go with it: set min.insync.replicas=2",
        ),
    )  # fmt: skip
    there = [(level, fault, names, todo) for level, fault, names, todo in faults if names]
    for level, fault, names, todo in there:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield Finding(level, _WHAT, f"{', '.join(names[:_NAMED])}{more}: {fault}", todo)
    if not there:
        yield Finding(
            Level.OK, _WHAT, f"{len(topics)}, each with one partition and several copies; nothing ends by itself"
        )
