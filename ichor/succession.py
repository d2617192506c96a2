"""Ends of associations that a lost receiver can tell no more, told by who took it over. Takes no image in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from itertools import chain

from ichor.bus import Bus
from ichor.errors import UnknownMessage
from ichor.history.projection import log
from ichor.messages import AssociationClosed, InstancesReceived, open_envelope, seal
from ichor.shards import by_topic
from ichor.shards import shards as all_shards
from ichor.store.segments import receiver_of, segment_of

_SOURCE = "receiver"


def end_associations(bus: Bus, lost: Collection[str], *, now: float, shards: int = 1) -> int:
    """Tell that the associations of lost receivers were cut off, of which the log holds images and no end.

    Without it a study would be received for ever. Reads the whole log; again is harmless.

    Parameters
    ----------
    lost
        Names of receivers (`ichor.store.shared`) that nobody goes by any more.
    shards
        Into how many studies are divided.

    Returns
    -------
    int
        How many, counted for each study.
    """
    stored: dict[tuple[str, str], Counter[str]] = {}  # by study and association
    called: dict[tuple[str, str], str] = {}
    ended = set()
    for envelope in chain.from_iterable(log(bus, shard.topic) for shard in all_shards(shards)):
        try:
            told = open_envelope(envelope)
        except UnknownMessage:
            continue  # who reads the topic for its own work says so
        if isinstance(told, InstancesReceived):
            key = told.study_instance_uid, told.association
            for instance in told.instances:
                if receiver_of(segment_of(instance.location)) in lost:
                    stored.setdefault(key, Counter())[instance.series_instance_uid] += 1
                    called[key] = instance.calling_ae
        elif isinstance(told, AssociationClosed):
            ended.add((told.study_instance_uid, told.association))
    left = [key for key in stored if key not in ended]
    ends = [
        seal(
            AssociationClosed(
                study_instance_uid=study, association=association, released=False,
                calling_ae=called[study, association], counts=dict(stored[study, association]), closed_at=now,
            ),
            source=_SOURCE, time=now, id=f"closed-{association}-{study}",
        )
        for study, association in left
    ]  # fmt: skip
    for topic, some in by_topic(ends, shards).items():
        bus.publish(topic, some)
    return len(left)
