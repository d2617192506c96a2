"""Takes in what stands whole in the spool and that the journal does not know; cuts off what is torn. Reads no data set.

Why that may be: the journal was lost or is an older one, a file of the receipts log was deleted or damaged, or the
receiver died between an object's last byte and its receipt. Nobody can tell these apart any more, so that all of it comes
in: what was never acknowledged comes again at worst. An object that comes in is a receipt like any other, of an
association of its own that was not released; the relay makes its row and tells it.

It looks only at segments whose writer has no file in the receipts log any more, and only once all that dead writers wrote
there is in the journal: what is unknown then stays unknown. Such a segment is as it should be when it ends where the
journal's last object in it ends, and has no gap before. Retention forgets rows, not ends: what it let go does not come
again. With a lost journal that is forgotten, too: what retention let go of, but had no segment to remove for, comes back.

The spool knows more than log and journal here; where the log knows more than the spool, that is `ichor.store.restore`'s.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ichor import metrics
from ichor.store.filemeta import names_in
from ichor.store.journal import Journal
from ichor.store.protocol import Spool
from ichor.store.receipt_tail import NAME, is_held
from ichor.store.receipts import RECOVERED, Ended, Lane, ReceiptWriter, Stored
from ichor.store.segments import end_of, location_of, receiver_of, writer_of

_LOG = logging.getLogger(__name__)
_HEAD = 1024  # bytes: more than preamble and File Meta Information take


class Recovered(NamedTuple):
    """What one look found. ``waits``: nothing was looked at yet, as a dead writer's log is not in the journal."""

    objects: int = 0
    torn: int = 0  # segments that were cut or removed
    waits: bool = False


def recover(*, journal: Journal, spool: Spool, receipts: Path, receivers: Collection[str] | None = None) -> Recovered:
    """Bring in what is whole and unknown, cut what is torn; next to nothing to do when all is known.

    Only for the process that holds the journal; other threads of it may write meanwhile.

    Parameters
    ----------
    receipts
        Folder of the receipts log.
    receivers
        Whose segments this journal answers for, where several receivers share the spool (`ichor.store.shared`).

    Raises
    ------
    OutOfResources
        When receipts cannot be written. The next call does the rest.
    """
    if not all(_writers(receipts).values()):
        return Recovered(waits=True)
    there = list(spool.segments())
    writers = _writers(receipts)  # after the spool: a writer makes its log before its first segment
    ends, gaps = journal.segment_ends(), journal.gaps()
    unknown = [
        (segment, size)
        for segment, size in there
        if (size > ends.get(segment, 0) or segment in gaps)
        and writer_of(segment) not in writers
        and (receivers is None or receiver_of(segment) in receivers)
    ]
    if not unknown:
        return Recovered()
    objects = torn = 0
    log: ReceiptWriter | None = None
    try:
        filled = []
        for segment, size in unknown:
            end = ends.get(segment, 0)
            try:
                found = [(_location(segment, *place), place[1]) for place in spool.objects(segment)][::-1]
                written_at = spool.written_at(segment)
            except KeyError:
                continue
            keep = max([min(end, size), *(end_of(*one) for one in found)])
            if not spool.reclaim(segment, keep_until=keep, at_most=size):
                continue  # somebody writes to it
            torn += keep < size
            for record in _unknown(found, journal=journal, spool=spool, end=end, segment=segment):
                log = log or ReceiptWriter(receipts)
                record = record._replace(association=f"recovered-{log.name}", received_at=written_at)
                log.append(Lane.ROUTINE, record, wait=False)
                objects += 1
            if segment in gaps:
                filled.append(segment)
        if log:
            log.append(Lane.ROUTINE, Ended(f"recovered-{log.name}", False, time.time()))
            log.sync()
        for segment in filled:
            journal.fill_gap(segment)
    finally:
        if log:
            log.close()
    if objects:
        metrics.OBJECTS_RECOVERED.inc(objects)
        _LOG.warning("%d objects come in from the spool that the journal did not know", objects)
    return Recovered(objects=objects, torn=torn)


def _unknown(
    found: list[tuple[str, int]], *, journal: Journal, spool: Spool, end: int, segment: str
) -> Iterator[Stored]:
    """Receipts of the objects ``(location, length)`` of a segment that the journal does not know."""
    study, series, _ = segment.split("/")
    known: set[str] | None = None
    for location, length in found:
        if end_of(location, length) <= end:
            if known is None:
                known = {row.stored.location for row in journal.by_study(study)}
            if location in known:
                continue
        names = names_in(spool.read_range(location, 0, min(_HEAD, length)))
        if names is None:
            _LOG.error("a whole object of the spool has no File Meta Information that can be read; it is left there")
            continue
        sop_class, sop_instance, transfer_syntax = names
        yield Stored(
            sop_instance_uid=sop_instance, sop_class_uid=sop_class, series_instance_uid=series,
            study_instance_uid=study, transfer_syntax_uid=transfer_syntax, location=location, length=length,
            association="", calling_ae=RECOVERED, called_ae=RECOVERED, sender_priority=None, called_priority=None,
            command_priority_high=False, received_at=0.0,
        )  # fmt: skip


def _location(segment: str, offset: int, length: int) -> str:
    return segment if segment.endswith(".dcm") else location_of(segment, offset, length)


def _writers(receipts: Path) -> dict[str, bool]:
    """Writers that have a file in the receipts log -> whether they live: they hold one of their files then."""
    found: dict[str, bool] = {}
    try:
        names = os.listdir(receipts)
    except FileNotFoundError:
        return found
    for name in names:
        if match := NAME.fullmatch(name):
            found[match[1]] = found.get(match[1], False) or is_held(receipts / name)
    return found
