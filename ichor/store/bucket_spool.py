"""The spool in an object store: each received object is a segment of one, PUT before it is confirmed. Nothing is appended.

Names, locations and footers are those of files (`ichor.store.segments`), so that journal, recovery and retention are the
same. An object that came whole goes from memory; a longer one waits in a file without a name on the receiver's own
volume until it is complete, which a receiver that dies leaves no trace of. See docs/decisions/0027.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from ichor.errors import OutOfResources, TransientError, Unreadable
from ichor.reasons import Reason
from ichor.store import segments
from ichor.store.bucket import Bucket
from ichor.store.disk import Bytes
from ichor.store.receipt_records import Carried
from ichor.store.shared import STAMP
from ichor.store.spool import Address, Placed, author_of, head_of

log = logging.getLogger(__name__)

FOLDER = "spool/"
_PIECE = 1 << 20  # bytes that opening reads: all of most objects
_READ_AHEAD = 8 << 20


class BucketSpool:
    """What `ichor.store.spool.FileSpool` is, below ``spool/`` in a bucket; always at level ``instance``. Thread-safe.

    Parameters
    ----------
    staging
        A folder on the receiver's own volume, for objects that come in pieces; its free space is the spool's.
    writer, receiver
        As of `FileSpool`.
    """

    root = None
    losses = 0  # nothing is finished before it is durable

    def __init__(self, bucket: Bucket, *, staging: Path, writer: str = "", receiver: str = "") -> None:
        self._staging = staging
        self._bucket = bucket
        self._author = author_of(writer, receiver)
        self._numbers = itertools.count()

    def begin(self, address: Address) -> Incoming:
        """Take an object in; asks nobody before it is finished. DataSetMismatch when a UID is not valid."""
        head = head_of(address)
        study, series = address.study_instance_uid, address.series_instance_uid
        segment = f"{study}/{series}/{self._author}-{next(self._numbers):x}.seg"
        return Incoming(self._bucket, segment, head, staging=self._staging)

    def put(self, address: Address, data_set: Sequence[Bytes]) -> Placed:
        """`begin` and `Incoming.finish` in one."""
        return self.begin(address).finish(data_set)

    def sync(self, *, losses: int | None = None) -> None:
        """Nothing to do."""

    def open(self, location: str) -> BinaryIO:
        """Exactly that Part 10 file, seekable and buffered, one thread at a time; KeyError when absent.

        One request for a small one. TransientError, here or when it is read, while the store is away.
        """
        segment, offset, length = segments.parse(location)
        key = FOLDER + segment
        if length is None:
            length = self._bucket.look(key).size
        first = self._bucket.get(key, offset, offset + min(length, _PIECE))
        if len(first) < min(length, _PIECE):
            raise KeyError(location)
        return io.BufferedReader(_Remote(self._bucket, key, offset, length, first), min(1 << 16, max(length, 1)))

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        segment, start, whole = segments.parse(location)
        if whole is None:
            whole = self._bucket.look(FOLDER + segment).size
        if offset < 0 or length < 0 or offset + length > whole:
            raise Unreadable(Reason.CUT_SHORT)
        data = self._bucket.get(FOLDER + segment, start + offset, start + offset + length)
        if len(data) < length:
            raise KeyError(location)  # as where a segment ends before an object does
        return data

    def segments(self) -> Iterator[tuple[str, int]]:
        """(segment, size in bytes) of everything in the spool, a request for each 1,000."""
        for found in self._bucket.names(FOLDER):
            if segments.is_segment(segment := found.key.removeprefix(FOLDER)):
                yield segment, found.size

    def written_at(self, segment: str) -> float:
        """When it was put, POSIX seconds; KeyError when absent."""
        return self._bucket.look(_key(segment)).modified_at

    def objects(self, segment: str) -> Iterator[tuple[int, int]]:
        """(offset, length) of its Part 10 file; nothing where it is no object of ours. KeyError when absent."""
        size = self._bucket.look(_key(segment)).size
        length = size - segments.FOOTER_SIZE
        if segment.endswith(".dcm"):
            yield 0, size
        elif length > 0:
            location = segments.location_of(segment, 0, length)
            if self._bucket.get(_key(segment), length, size) == segments.footer(location, length):
                yield 0, length

    def reclaim(self, segment: str, *, keep_until: int | None = None, at_most: int | None = None) -> bool:
        """Remove a segment (``keep_until`` None or 0). False when it is longer than ``at_most``, or would have to be cut.

        Nobody appends to an object, so that no lock is needed: what a name has once, it has for good.
        """
        key = _key(segment)
        try:
            size = self._bucket.look(key).size
        except KeyError:
            return True
        if (at_most is not None and size > at_most) or (keep_until and size > keep_until):
            return False
        if not keep_until:
            self._bucket.delete(key)
        return True

    def seal(self, *, idle_for: float = 0.0) -> None:
        """Nothing to do."""

    def is_there(self) -> bool:
        """Does the store answer, and is it the one with our stamp?"""
        try:
            self._bucket.look(STAMP)
        except (KeyError, TransientError):
            return False
        return True

    def free_bytes(self) -> int:
        """Of the staging folder; that of the store is not known."""
        space = os.statvfs(self._staging)
        return space.f_bavail * space.f_frsize

    def close(self) -> None:
        """Nothing to do."""


class Incoming:
    """One object under way; one thread. After an error, or `discard`, nothing of it was confirmed.

    A PUT that failed may have come through: what lies there then comes in again when its writer is dead, as does what was
    put by a receiver that died before its receipt (`ichor.store.recovery`).
    """

    __slots__ = ("_bucket", "_file", "_head", "_length", "_over", "_segment", "_staging")

    def __init__(self, bucket: Bucket, segment: str, head: bytes, *, staging: Path) -> None:
        self._bucket = bucket
        self._segment = segment
        self._head = head
        self._staging = staging
        self._file: IO[bytes] | None = None
        self._length = 0
        self._over = False

    def write(self, parts: Sequence[Bytes]) -> None:
        """The next bytes of the data set, into the staging file; OutOfResources when they cannot be written."""
        self._check()
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._staging)  # noqa: SIM115 - closed at the end
                parts = [self._head, *parts]
            self._file.writelines(parts)
        except OSError as error:
            self.discard()
            raise _refusal(error) from error
        self._length += sum(map(len, parts))

    def finish(
        self, parts: Sequence[Bytes] = (), *, confirm: Callable[[Placed, Carried | None], None] | None = None
    ) -> Placed:
        """The last bytes. The PUT is acknowledged, then ``confirm`` is called; where it raises, it is deleted again.

        Raises
        ------
        OutOfResources
            When the store has not acknowledged it.
        """
        self._check()
        if self._file is None:
            parts = [self._head, *parts]
        length = self._length + sum(map(len, parts))
        placed = Placed(segments.location_of(self._segment, 0, length), length)
        parts = [*parts, segments.footer(placed.location, length)]
        key = FOLDER + self._segment
        try:
            if self._file is None:
                self._bucket.put(key, b"".join(parts))
            else:
                self._file.writelines(parts)
                self._file.flush()
                self._bucket.put_file(key, self._file)
        except TransientError as error:
            raise OutOfResources(str(error)) from error
        except OSError as error:
            raise _refusal(error) from error
        finally:
            self.discard()
        if confirm is not None:
            try:
                confirm(placed, None)
            except BaseException:
                try:
                    self._bucket.delete(key)
                except TransientError as error:
                    # Nothing was acknowledged; what is whole in the spool and in no journal comes in by `recovery`.
                    log.warning("an object that was not acknowledged stays in the store: %s", error)
                raise
        return placed

    def discard(self) -> None:
        """Forget what was written; never raises, and may be called after the end."""
        self._over = True
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _check(self) -> None:
        if self._over:
            raise OutOfResources("the object was given up")


class _Remote(io.RawIOBase):
    """An object's part as a seekable file, read in pieces; one thread at a time."""

    # As `ichor.store.segments.Part`: pydicom would open what it names.
    name = ""

    def __init__(self, bucket: Bucket, key: str, start: int, length: int, first: bytes) -> None:
        super().__init__()
        self._bucket = bucket
        self._key = key
        self._start = start
        self._length = length
        self._piece, self._piece_at = first, 0
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._length - self._at)
        if wanted <= 0:
            return 0
        if not self._piece_at <= self._at < self._piece_at + len(self._piece):
            end = min(self._length, self._at + max(wanted, _READ_AHEAD))
            try:
                self._piece = self._bucket.get(self._key, self._start + self._at, self._start + end)
            except KeyError:
                raise OSError(errno.ENOENT, "removed while it was read") from None
            self._piece_at = self._at
        data = self._piece[self._at - self._piece_at :][:wanted]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if at < 0:
            raise ValueError("negative position")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at


def _key(segment: str) -> str:
    if not segments.is_segment(segment):
        raise KeyError(segment)
    return FOLDER + segment


def _refusal(error: OSError) -> OutOfResources:
    code = errno.errorcode.get(error.errno or 0, "unknown")
    return OutOfResources(f"the object cannot be written to the staging folder ({code})")
