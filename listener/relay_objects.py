"""What one acknowledged object is: its digest and its facts, by one look at its bytes. Tells nobody."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, Protocol

from ichor import metrics
from ichor.clock import Clock
from ichor.errors import TransientError, Unreadable
from ichor.reasons import Reason
from ichor.series.facts import without_header
from ichor.store import disk
from ichor.store.journal import StoredObject
from ichor.store.journal_rows import digest_of_unread
from ichor.store.protocol import SpoolReader
from ichor.store.receipts import Stored
from ichor.types import Instance

_LOG = logging.getLogger(__name__)
_WHOLE = 1 << 20  # bytes: longer files are digested in pieces
# Also a network volume's soft mount answers EIO: only who has met it for so long, and so often at this object, gives up.
_PATIENCE = 120.0  # seconds
_TRIES = 5
_MOST_COUNTED = 1000  # objects; twice what is told at once, which is asked for anew while one of it is not given

ReadFacts = Callable[[BinaryIO, StoredObject], Instance]


class RelaySpool(SpoolReader, Protocol):
    """A spool that may be away for a while."""

    def is_there(self) -> bool:
        """False while its volume is not mounted: then nothing can be said of what is absent."""


class Objects:
    """Reads objects of a spool; one thread. TransientError while something is absent because the spool is.

    An OSError is to be met again: what an object is, is never decided because a disk or a network was away for a while.
    Only one that the medium itself does not give, for minutes, is given up: it is told as unreadable, for good. Those
    behind it that are not given either, with no object between that came back after all, take a few tries each.

    Parameters
    ----------
    read_facts
        ``(open file, stored object) -> Instance``; an error becomes an Instance with a defect.
    """

    def __init__(self, spool: RelaySpool, read_facts: ReadFacts, *, clock: Clock) -> None:
        self._spool = spool
        self._read_facts = read_facts
        self._clock = clock
        self._tries: Counter[str] = Counter()  # by location, of those that are not given
        self._given_up: dict[str, None] = {}  # locations
        self._damaged_since = self._damaged_at = float("-inf")
        self._seen = False

    def look_into(self, record: Stored) -> tuple[StoredObject, Instance] | None:
        """Digest and facts of an object that is new; None when it is lost.

        Raises
        ------
        OSError
            When the disk does not give it now.
        TransientError
            When the spool is not there.
        """
        if not self._seen:
            self._seen = self._spool.is_there()
        try:
            found = self._read(record)
        except (KeyError, Unreadable):
            self._check_spool()
            # A crash of the machine at the levels "association" and "none" can do that, or somebody's hand: what the log
            # carries is written back before it is read. No row: the same object, sent again, is then not taken for
            # another version of it.
            metrics.OBJECTS_LOST.inc()
            _LOG.error("an acknowledged object is not in the spool: %s", record.sop_instance_uid)
            return None
        except OSError as error:
            if not self._is_given_up(record.location, error):
                raise
            _LOG.error("object %s cannot be read: %s", record.sop_instance_uid, error.strerror)
            # A row all the same, so that its bytes are kept; nobody can say what they are.
            stored = _named(record, digest_of_unread(record.location))
            return stored, _counted(without_header(stored, Reason.HEADER_UNREADABLE))
        self._is_given(record.location)
        return found

    def _read(self, record: Stored) -> tuple[StoredObject, Instance]:
        if record.length <= _WHOLE:
            data = self._spool.read_range(record.location, 0, record.length)
            stored = _named(record, hashlib.sha256(data).hexdigest())
            return stored, self._facts(BytesIO(data), stored)
        with self._spool.open(record.location) as file:
            stored = _named(record, _digest(file))
            return stored, self._facts(file, stored)

    def holds(self, location: str, file_sha256: str) -> bool:
        """Do these bytes lie there whole? Asked when they come again: a crash of the machine may have taken the first.

        The digest, not the length: at the level "association" a crash can leave zeros in their place. What the medium
        does not give counts as gone, as the bytes that came now are given. Raises OSError while the disk is away.
        """
        try:
            with self._spool.open(location) as file:
                if _digest(file) == file_sha256:
                    return True
        except (KeyError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in disk.DAMAGE:
                raise
            self._check_spool()
        metrics.OBJECTS_LOST.inc()
        _LOG.error("an acknowledged object is not in the spool any more; it came again, and is taken anew")
        return False

    def facts_of(self, stored: StoredObject) -> Instance:
        """Facts of an object that the journal has. Raises as `look_into`."""
        if stored.location in self._given_up:
            # Asked for again, as another one of its message is not given: that one would else take 5, 25, 125 tries.
            return without_header(stored, Reason.HEADER_UNREADABLE)
        try:
            with self._spool.open(stored.location) as file:
                instance = self._facts(file, stored)
        except (KeyError, OSError) as error:
            if isinstance(error, OSError) and not self._is_given_up(stored.location, error):
                raise
            self._check_spool()
            reason = error.strerror if isinstance(error, OSError) else "it is not there"
            _LOG.error("object %s cannot be read: %s", stored.sop_instance_uid, reason)
            return _counted(without_header(stored, Reason.HEADER_UNREADABLE))
        self._is_given(stored.location)
        return instance

    def _is_given_up(self, location: str, error: OSError) -> bool:
        if error.errno not in disk.DAMAGE:
            return False
        now = self._clock.monotonic()
        if now > self._damaged_at + _PATIENCE:
            self._damaged_since = now
        self._damaged_at = now
        self._tries[location] += 1
        if len(self._tries) > _MOST_COUNTED:
            del self._tries[next(iter(self._tries))]
        if self._tries[location] < _TRIES or now < self._damaged_since + _PATIENCE:
            return False
        del self._tries[location]
        self._given_up[location] = None
        if len(self._given_up) > _MOST_COUNTED:
            del self._given_up[next(iter(self._given_up))]
        return True

    def _is_given(self, location: str) -> None:
        if self._tries and self._tries.pop(location, 0):
            self._damaged_at = float("-inf")  # such errors pass here: the next one begins anew

    def _check_spool(self) -> None:
        if not self._spool.is_there():
            raise TransientError("the spool is not there")

    def _facts(self, file: BinaryIO, stored: StoredObject) -> Instance:
        try:
            return _counted(self._read_facts(file, stored))
        except Unreadable as error:
            return _counted(without_header(stored, error.reason))
        except (OSError, TransientError):
            raise  # the disk's or the store's fault, which may pass, and not the object's
        except Exception as error:  # noqa: BLE001 - one object must not stop the relay; the text may hold header values
            metrics.LOOP_ERRORS.labels("relay").inc()
            _LOG.error("no facts of %s: %s", stored.sop_instance_uid, type(error).__name__)
            return _counted(without_header(stored, Reason.HEADER_UNREADABLE))


def _digest(file: BinaryIO) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _named(record: Stored, file_sha256: str) -> StoredObject:
    return StoredObject(file_sha256=file_sha256, **record._asdict())


def _counted(instance: Instance) -> Instance:
    if instance.defect is not None:
        metrics.INSTANCE_DEFECTS.labels(instance.defect.split(":")[0]).inc()
    return instance
