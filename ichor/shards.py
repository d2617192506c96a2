"""Into which shard a study falls, and the topic and group of each. Pure; who owns a shard is `ichor.store.ownership`'s."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from ichor.messages import INSTANCES, Envelope

_GROUP = "assembler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of ``of`` equal parts of all studies; with the defaults it is all of them."""

    number: int = 0
    of: int = 1

    @property
    def topic(self) -> str:
        return f"{INSTANCES}{self._suffix}"

    @property
    def group(self) -> str:
        """The consumer group, one for each shard: its members need not follow the others' topics."""
        return f"{_GROUP}{self._suffix}"

    @property
    def others(self) -> tuple[Shard, ...]:
        return tuple(shard for shard in shards(self.of) if shard != self)

    def has(self, study_instance_uid: str) -> bool:
        return shard_of(study_instance_uid, self.of) == self

    @property
    def _suffix(self) -> str:
        # Both numbers, so that what was told to another division is never read as if it were of this one.
        return "" if self.of == 1 else f".{self.number}-of-{self.of}"


WHOLE = Shard()


def shards(count: int) -> tuple[Shard, ...]:
    """All shards of a division into ``count``."""
    return tuple(Shard(number=number, of=count) for number in range(count))


def shard_of(study_instance_uid: str, count: int) -> Shard:
    """The shard of a study, the same on every machine, in every version."""
    digest = hashlib.sha256(study_instance_uid.encode()).digest()
    return Shard(number=int.from_bytes(digest[:8], "big") % count, of=count)


def by_topic(envelopes: Iterable[Envelope], count: int) -> dict[str, list[Envelope]]:
    """Envelopes about studies by the topics of their shards, each in the order given."""
    found: dict[str, list[Envelope]] = {}
    for envelope in envelopes:
        found.setdefault(shard_of(envelope.subject, count).topic, []).append(envelope)
    return found
