"""One file of the receipts log as its reader follows it: opened when needed, read on, counted, done. Deletes nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

from ichor import metrics
from ichor.errors import CannotStart
from ichor.store.receipt_codec import carried, decode, salt_of
from ichor.store.receipt_records import Lane, Receipt
from ichor.store.receipt_tail import Tail, carries, count, is_held, is_settled

_LOG = logging.getLogger(__name__)
_MOST_OPEN = 64  # files; of dead writers there may be more than a process may open


class Followed:
    """One file as the reader follows it.

    Parameters
    ----------
    opened
        Those of all that are open, the one used last at the end; at most `_MOST_OPEN`.
    """

    def __init__(
        self, folder: Path, name: str, match: re.Match[str], *, start: int, opened: dict[str, Followed]
    ) -> None:  # fmt: skip
        self.name = name
        self.writer = match[1]
        self.number = int(match[2])
        self.lane = Lane(match[3])
        self.done = False  # read to the end, and nothing more will come
        self.stuck = False  # what is next could not be read
        self.waits = False  # what is next carries an object that the spool may lack
        self.passed = False  # later files of the writer are read all the same
        self.last_end = start
        self._path = folder / name
        self._opened = opened
        self._offset = start
        self._tail: Tail | None = None
        self._descriptor = -1
        self._unsettled: bool | None = None  # when it was opened first: so, and nobody held it
        self._begun = False
        self._goes = False
        self._given = 0  # bytes of records, before it was closed last
        self._counted_to = self._counted = 0

    def read(self, found: list[Receipt], limit: int, *, after: Followed | None) -> None:
        """Append its next records to ``found``, up to ``limit`` in all; what is raised comes behind these.

        ``after``: the file that its writer makes next. Once something is in it, nothing more comes to this one, which
        may be held for long all the same, until the spool has what it carries.
        """
        self.stuck, self.waits = True, False
        tail = self._open()
        if tail is None:
            self.done, self.stuck = True, False  # somebody removed it
            return
        self._unsettled = bool(self._unsettled) and not is_settled(self._descriptor, self.name)
        final = False
        while len(found) < limit:
            lost = tail.lost
            bodies = tail.bodies(limit - len(found), final=final)
            for number, (end, body) in enumerate(bodies):
                if self._unsettled and carried(body):
                    tail.back(bodies[number:])
                    self.waits = True
                    return
                try:
                    record = decode(body)
                except CannotStart:
                    tail.back(bodies[number:])
                    raise
                found.append(Receipt(record, self.name, end, self.writer))
                self.last_end = end
            if tail.lost > lost:
                metrics.RECEIPTS_DAMAGED.inc()
                _LOG.error(
                    "the receipts log %s has no record in %d bytes before %d", self.name, tail.lost - lost, tail.offset
                )
            if bodies:
                continue
            if final:
                self.done = True
                self.close()
                break
            # Its writer may have written and let go, or gone on elsewhere, since we read: look once more.
            final = (after is not None and after.begun()) or not self.held()
            if not final:
                break
        self.stuck = False

    def begun(self) -> bool:
        """Is something in it?"""
        if not self._begun:
            with contextlib.suppress(FileNotFoundError):
                tail = self._open()
                self._begun = self.done or self.last_end > 0 or (tail is not None and tail.is_record(0))
        return self._begun

    def has_more(self) -> bool:
        """Is there a whole record that was not read, and that can be?"""
        if self.done or self.stuck:
            return False
        with contextlib.suppress(OSError):
            tail = self._open()
            return tail is not None and tail.is_record(tail.offset)
        return False

    def unread(self) -> int:
        """Bytes of records, without what they carry. Walks what it has not walked before."""
        with contextlib.suppress(OSError):
            tail = self._open()
            if tail is not None:
                given = self._given + tail.given
                if self._counted_to < tail.offset:
                    self._counted_to, self._counted = tail.offset, given
                self._counted_to, more = count(self._descriptor, self._counted_to, tail.salt)
                self._counted += more
                return self._counted - given
        return 0

    def may_go(self) -> bool:
        """Let go, and nothing has to be restored from it any more (`ichor.store.restore`)."""
        if not self._goes and not self.held():
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return True
            try:
                self._goes = is_settled(descriptor, self.name) or not carries(descriptor, self.name)
            finally:
                os.close(descriptor)
        return self._goes

    def held(self) -> bool:
        """Does its writer hold it still?"""
        return is_held(self._path)

    def close(self) -> None:
        self._opened.pop(self.name, None)
        if self._tail is not None:
            self._offset = self._tail.offset
            self._given += self._tail.given
            os.close(self._descriptor)
            self._descriptor, self._tail = -1, None

    def _open(self) -> Tail | None:
        if self._tail is None:
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                if self._unsettled is None:
                    self._unsettled = not self.held() and not is_settled(descriptor, self.name)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor, self._tail = descriptor, Tail(descriptor, self._offset, salt=salt_of(self.name))
        self._opened[self.name] = self._opened.pop(self.name, self)
        if len(self._opened) > _MOST_OPEN:
            next(iter(self._opened.values())).close()
        return self._tail
