"""What the relay says: objects in messages per association and study, and ends of associations. Publishes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ichor.messages import AssociationClosed, Envelope, InstancesReceived, seal
from ichor.store.journal import AssociationRow, JournalRow
from ichor.types import Instance

SOURCE = "receiver"
MOST_FRAMES = 20_000  # in one message: facts of an enhanced object take some 700 bytes for each of its frames

Told = tuple[JournalRow, Instance]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An envelope of the topic ``instances`` and the rows that it carries."""

    envelope: Envelope
    rows: tuple[JournalRow, ...]


def messages(told: Sequence[Told], *, now: float) -> list[Message]:
    """As few messages as there are associations and studies, in order, of at most `MOST_FRAMES` frames each."""
    groups: dict[tuple[str, str], list[Told]] = {}
    for row, instance in told:
        groups.setdefault((row.stored.association, row.stored.study_instance_uid), []).append((row, instance))
    return [message(part, now=now) for group in groups.values() for part in _parts(group)]


def message(told: Sequence[Told], *, now: float) -> Message:
    """One message of objects of one association and study, under the name that their rows have, if any."""
    rows = tuple(row for row, _ in told)
    first = rows[0].stored
    received = InstancesReceived(
        study_instance_uid=first.study_instance_uid, association=first.association,
        instances=tuple(instance for _, instance in told),
    )  # fmt: skip
    # A row is in one message only and its number is never used again.
    name = rows[0].batch or f"instances-{first.association}-{rows[0].seq}"
    # What the association says, not what a header says: messages of one association must keep their order.
    priority = first.association_priority
    return Message(envelope=seal(received, source=SOURCE, time=now, id=name, priority=priority), rows=rows)


def closing(row: AssociationRow, counts: Mapping[str, Mapping[str, int]], *, now: float) -> Iterator[Envelope]:
    """The end of an association, told to each study that it brought something for; none while it is open.

    ``counts``: study -> series -> objects that it stored.
    """
    if row.ended_at is None:
        return
    for study, series in counts.items():
        closed = AssociationClosed(
            study_instance_uid=study, association=row.association, released=row.released, calling_ae=row.calling_ae,
            counts=series, closed_at=row.ended_at,
        )  # fmt: skip
        yield seal(closed, source=SOURCE, time=now, id=f"closed-{row.association}-{study}", priority=row.priority)


def weight(instance: Instance) -> int:
    """What an instance counts for in `MOST_FRAMES`."""
    return max(1, len(instance.frames))


def _parts(group: Sequence[Told]) -> Iterator[list[Told]]:
    """As few parts as hold `MOST_FRAMES` each, in order; an object that holds more is one of its own."""
    part: list[Told] = []
    frames = 0
    for row, instance in group:
        more = weight(instance)
        if part and frames + more > MOST_FRAMES:
            yield part
            part, frames = [], 0
        part.append((row, instance))
        frames += more
    if part:
        yield part
