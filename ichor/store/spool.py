"""The spool: received objects, bytes as received, in append-only segments. What they are is the journal's business.

The form on disk is `ichor.store.segments`; which segment an object goes to, `ichor.store.pool`.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import io
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ichor.errors import DataSetMismatch, OutOfResources, Unreadable
from ichor.reasons import Reason
from ichor.store import segments
from ichor.store.disk import Bytes
from ichor.store.filemeta import file_meta
from ichor.store.pool import SEAL_IDLE, Key, Pool, Segment, remove_folders
from ichor.store.receipt_records import Carried
from ichor.uids import is_valid_uid

LEVELS = ("instance", "association", "none")
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,54}")
_READ_AHEAD = 1 << 16
MOST_CARRIED = 256 << 10  # bytes: a longer object costs more to write twice than its own sync takes


class Address(NamedTuple):
    """What a stored file is named by and what its File Meta Information says."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str


class Placed(NamedTuple):
    """Where an object lies: its location, and the bytes of the whole Part 10 file."""

    location: str
    length: int


class FileSpool:
    """Spool on a local file system: the receiver's writing side and everybody's `SpoolReader`. Thread-safe.

    Several processes may share ``root``. Nothing is made on disk before the first object is written.

    Parameters
    ----------
    durability
        ``instance``: an object, and the entries that lead to it, are synced before `Incoming.finish` returns, or its
        ``confirm`` is asked to keep it until they are.
        ``association``: when `sync` returns. ``none``: never; an object survives a crash of Ichor, not of the machine.
    writer
        What segments are named by: unique for ever, also after a restart. Made up when empty.
    receiver
        They are named by it, too, where several receivers share ``root`` (`ichor.store.shared`).
    carries
        Whether a ``confirm`` may be asked to keep an object until it is synced.
    """

    def __init__(
        self, root: Path, *, durability: str = "instance", writer: str = "", receiver: str = "", carries: bool = True
    ) -> None:
        if durability not in LEVELS:
            raise ValueError(f"durability {durability!r}: one of {', '.join(LEVELS)}")
        writer = author_of(writer, receiver)
        self.root = root
        self._carries = carries
        self._level = durability
        self._volume: int | None = None  # st_dev
        self._pool = Pool(root, writer=writer, deferred=durability == "association", synced=durability != "none")

    def begin(self, address: Address) -> Incoming:
        """Take an object in; touches the disk only when something is written.

        Raises
        ------
        DataSetMismatch
            When a UID of ``address`` is not valid.
        """
        head = head_of(address)
        settle = self._settle if self._level == "instance" else None
        return Incoming(self._pool, address[:2], head, settle=settle, carries=self._carries)

    def put(self, address: Address, data_set: Sequence[Bytes]) -> Placed:
        """`begin` and `Incoming.finish` in one."""
        return self.begin(address).finish(data_set)

    @property
    def losses(self) -> int:
        """How many syncs of finished objects failed so far. Level ``association``: take it when an association begins.

        At level ``instance`` these are objects that the receipts log carries, and goes on carrying then.
        """
        return self._pool.losses

    def sync(self, *, losses: int | None = None) -> None:
        """Level ``association``: everything finished so far, by any thread, is on the medium. Else nothing to do.

        At level ``instance`` `Carried.settle` does that for what the receipts log carries.

        Parameters
        ----------
        losses
            `losses` when the caller's first object began. A failed sync is told once, to whoever met it; this tells
            the others whose objects lay there too.

        Raises
        ------
        OutOfResources
            When something finished may not be on the medium. It never will be: the association must not be released.
        """
        if self._level == "association":
            self._settle(losses)

    def _settle(self, losses: int | None) -> None:
        try:
            self._pool.sync()
        except OSError as error:
            raise _refusal(error) from error
        if losses is not None and losses != self._pool.losses:
            raise OutOfResources("an object cannot be kept on disk: an earlier sync failed")

    def open(self, location: str) -> BinaryIO:
        """Exactly that Part 10 file, seekable and buffered, one thread at a time; KeyError when absent."""
        segment, offset, length = segments.parse(location)
        descriptor, size = self._open(segment, location)
        if length is None:
            length = size
        if offset + length > size:
            os.close(descriptor)
            raise KeyError(location)
        part = segments.Part(descriptor, start=offset, length=length)
        return io.BufferedReader(part, min(_READ_AHEAD, max(length, 1)))

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        segment, start, whole = segments.parse(location)
        descriptor, size = self._open(segment, location)
        try:
            end = size if whole is None else start + whole
            if end > size:
                raise KeyError(location)
            if offset < 0 or length < 0 or start + offset + length > end:
                raise Unreadable(Reason.CUT_SHORT)
            data = os.pread(descriptor, length, start + offset)
            while len(data) < length:
                more = os.pread(descriptor, length - len(data), start + offset + len(data))
                if not more:
                    raise Unreadable(Reason.CUT_SHORT)
                data += more
            return data
        finally:
            os.close(descriptor)

    def segments(self) -> Iterator[tuple[str, int]]:
        """(segment, size in bytes) of everything in the spool, in no order; also old files of one object."""
        for study in _names(self.root):
            for series in _names(self.root / study):
                for name in _names(self.root / study / series):
                    segment = f"{study}/{series}/{name}"
                    if segments.is_segment(segment):
                        try:
                            yield segment, (self.root / segment).stat().st_size
                        except FileNotFoundError:
                            continue

    def written_at(self, segment: str) -> float:
        """When a segment was written to last, POSIX seconds; KeyError when absent."""
        try:
            return (self.root / _segment(segment)).stat().st_mtime
        except FileNotFoundError:
            raise KeyError(segment) from None

    def objects(self, segment: str) -> Iterator[tuple[int, int]]:
        """(offset, length) of each whole Part 10 file in a segment, from the last to the first, by their footers.

        For when nothing else knows of them: what a writer that was killed had finished, acknowledged or not.
        KeyError when absent.
        """
        descriptor, size = self._open(_segment(segment), segment)
        try:
            if segment.endswith(".dcm"):
                yield 0, size
            else:
                yield from segments.objects(descriptor, segment)
        finally:
            os.close(descriptor)

    def reclaim(self, segment: str, *, keep_until: int | None = None, at_most: int | None = None) -> bool:
        """Remove a segment (``keep_until`` None or 0; its empty folders go too), or cut it to that many bytes.

        Parameters
        ----------
        at_most
            Leave it alone when it is longer: bytes that the caller does not know of may have been acknowledged since
            it looked. Nobody appends to a segment again that was once let go, so that this holds for good; only
            `ichor.store.restore` writes there, what the journal has a row for or the log has not told.

        Returns
        -------
        bool
            False when somebody, in whatever process, has it open for writing, or it is longer than ``at_most``.
            True when it is as wanted, also when it was before.
        """
        path = self.root / _segment(segment)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            remove_folders(path)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = os.fstat(descriptor).st_size
            if at_most is not None and size > at_most:
                return False
            if not keep_until:
                path.unlink(missing_ok=True)
            elif size > keep_until:
                os.ftruncate(descriptor, keep_until)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        if not keep_until:
            remove_folders(path)
        return True

    def seal(self, *, idle_for: float = SEAL_IDLE) -> None:
        """Seal segments that nobody has appended to for so many seconds; for a clock's thread."""
        self._pool.seal(idle_for=idle_for)

    def is_there(self) -> bool:
        """Can the spool be seen, on the volume on which it was first, with something in it? Not while that is unmounted."""
        try:
            volume = self.root.stat().st_dev
            filled = any(True for _ in os.scandir(self.root))
        except OSError:
            return False
        if self._volume is None and filled:
            self._volume = volume
        return filled and volume == self._volume

    def free_bytes(self) -> int:
        """Free bytes for us where the spool lies."""
        try:
            space = os.statvfs(self.root)
        except FileNotFoundError:
            space = os.statvfs(self.root.parent)
        return space.f_bavail * space.f_frsize

    def close(self) -> None:
        """Seal all (level ``association``: synced); what is under way is sealed when it ends."""
        self._pool.close()

    def _open(self, segment: str, location: str) -> tuple[int, int]:
        try:
            descriptor = os.open(f"{self.root}/{segment}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise KeyError(location) from None
        return descriptor, os.fstat(descriptor).st_size


class Incoming:
    """One object under way; one thread. After an error, or `discard`, nothing of it stays."""

    __slots__ = ("_carries", "_head", "_key", "_length", "_over", "_pool", "_segment", "_settle")

    def __init__(
        self, pool: Pool, key: Key, head: bytes, *, settle: Callable[[int], None] | None, carries: bool
    ) -> None:
        self._carries = carries
        self._pool = pool
        self._key = key
        self._head = head
        self._settle = settle  # level ``instance``
        self._segment: Segment | None = None
        self._length = 0
        self._over = False

    def write(self, parts: Sequence[Bytes]) -> None:
        """The next bytes of the data set, straight to the file; OutOfResources when they cannot be written."""
        self._check()
        try:
            segment = self._segment
            if segment is None:
                segment = self._segment = self._pool.check_out(self._key)
                parts = [self._head, *parts]
            segment.append(parts)
        except OSError as error:
            self._end(failed=True)
            raise _refusal(error) from error
        self._length += sum(map(len, parts))

    def finish(
        self, parts: Sequence[Bytes] = (), *, confirm: Callable[[Placed, Carried | None], None] | None = None
    ) -> Placed:
        """The last bytes. The object is readable when this returns; at level ``instance`` on the medium.

        Parameters
        ----------
        confirm
            Called when it is, while nobody else writes behind it; when it raises, the object is cut off again, and the
            error goes on. Where it gets a `Carried` the object is readable, and it has to make it durable elsewhere
            until that was settled: so a small one that came whole takes no sync of its own.

        Raises
        ------
        OutOfResources
            When it could not be written or synced.
        """
        self._check()
        try:
            segment = self._segment
            if segment is None:
                segment = self._segment = self._pool.check_out(self._key)
                parts = [self._head, *parts]
            length = self._length + sum(map(len, parts))
            location = f"{segment.name}@{segment.end}+{length}"
            end = segment.end + length + segments.FOOTER_SIZE
            carried: Carried | None = None
            small = self._carries and not self._length and length <= MOST_CARRIED
            if self._settle is not None and confirm is not None and small:
                carried = Carried(parts, self._pool.losses, self._settle)
            segment.append([*parts, segments.footer(location, length)])
            if self._settle is not None and carried is None:
                self._pool.commit(segment)
            self._pool.check(segment, owed=end if carried else 0)
        except OSError as error:
            self._end(failed=True)
            raise _refusal(error) from error
        placed = Placed(location, length)
        try:
            if confirm is not None:
                confirm(placed, carried)
        except BaseException:
            self._end(failed=True)  # the location was told to somebody: nothing else may ever lie there
            raise
        self._over = True
        self._segment = None
        self._pool.check_in(segment, end=end)
        return placed

    def discard(self) -> None:
        """Cut off what was written; never raises, and may be called after the end."""
        if not self._over:
            self._end(failed=False)

    def _check(self) -> None:
        if self._over:
            raise OutOfResources("the object was given up")

    def _end(self, *, failed: bool) -> None:
        self._over = True
        segment, self._segment = self._segment, None
        if segment is not None:
            self._pool.cut_off(segment, failed=failed)


def author_of(writer: str, receiver: str) -> str:
    """What segments are named by; a writer id is made up where there is none. ValueError for what is no name."""
    writer = writer or secrets.token_hex(8)
    if not _NAME.fullmatch(writer):
        raise ValueError(f"not a writer id: {writer!r}")
    if receiver and not _NAME.fullmatch(receiver):
        raise ValueError(f"not a receiver's name: {receiver!r}")
    return f"{writer}.{receiver}" if receiver else writer


def head_of(address: Address) -> bytes:
    """What stands before the data set in its file; DataSetMismatch when a UID of ``address`` is not valid."""
    study, series, sop_instance, sop_class, transfer_syntax = address
    if not (
        _known_valid(study) and _known_valid(series) and is_valid_uid(sop_instance) and _known_valid(sop_class)
        and _known_valid(transfer_syntax)
    ):  # fmt: skip
        raise DataSetMismatch(Reason.INVALID_UID)
    return file_meta(sop_class_uid=sop_class, sop_instance_uid=sop_instance, transfer_syntax_uid=transfer_syntax)


_known_valid = functools.lru_cache(maxsize=4096)(is_valid_uid)  # of what many objects share


def _refusal(error: OSError) -> OutOfResources:
    code = errno.errorcode.get(error.errno or 0, "unknown")
    return OutOfResources(f"the object cannot be written to disk ({code})")


def _segment(segment: str) -> str:
    if not segments.is_segment(segment):
        raise KeyError(segment)
    return segment


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
