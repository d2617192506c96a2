"""The journal: an index of what was acknowledged, and what of it has been told to the bus. Not the event log.

It is made of the receipts log (`ichor.store.receipts`), by one process; how far the log is taken is written in the same
transaction as the rows. Other processes read through ``JournalReader``, which also sees what is not taken yet.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ichor.errors import CannotStart, OutOfResources
from ichor.store.journal_rows import (
    COUNT,
    CURSOR,
    END,
    INSERT,
    SEGMENT,
    SELECT,
    TAKE_ASSOCIATION,
    VALUES,
    AssociationRow,
    JournalRow,
    StoredObject,
    bring_up_to_date,
    check_version,
    connect,
    row_of,
)  # fmt: skip
from ichor.store.receipt_reader import Unread, Waiting
from ichor.store.receipt_records import Ended, Stored
from ichor.store.segments import end_of, parse, segment_of
from ichor.types import Priority

__all__ = ["AssociationRow", "Journal", "JournalReader", "JournalRow", "StoredObject"]

_MOST_PER_QUERY = 500
_ALL_KNOWN = 1 << 62  # more bytes than any segment has


class JournalReader:
    """Questions to the journal; safe from any thread and from other processes while a receiver writes.

    Parameters
    ----------
    path
        The SQLite file.
    receipts
        Folder of the receipts log. With it, objects that the log holds and the journal has not taken yet are found too,
        after the others: rows with ``seq`` 0 and without ``file_sha256``.

    Raises
    ------
    CannotStart
        When nothing has been received yet, or a newer version of Ichor wrote it.
    """

    def __init__(self, path: Path, *, receipts: Path | None = None) -> None:
        self.path = path
        self._receipts = receipts
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._select = SELECT
        if self._reading() is None and not self._receives():
            raise CannotStart("there is no journal in this data folder: nothing has been received yet")

    def by_study(self, study_instance_uid: str) -> list[JournalRow]:
        """Objects of a study in order of acknowledgement."""
        return self._about(study_instance_uid, "study_instance_uid")

    def by_series(self, series_instance_uid: str) -> list[JournalRow]:
        return self._about(series_instance_uid, "series_instance_uid")

    def by_instance(self, sop_instance_uid: str) -> list[JournalRow]:
        """More than one row when other bytes came under the same SOP Instance UID."""
        return self._about(sop_instance_uid, "sop_instance_uid")

    def locate(self, uid: str) -> tuple[str, str, str | None] | None:
        """``(level, Study Instance UID, Series Instance UID)`` of what was stored, or None.

        ``level`` is ``study``, ``series`` or ``instance``; the series is None for a study.
        """
        rows = self._about(uid, "study_instance_uid", "series_instance_uid", "sop_instance_uid", most=1)
        if not rows:
            return None
        stored = rows[0].stored
        if uid == stored.study_instance_uid:
            return "study", uid, None
        return (
            "series" if uid == stored.series_instance_uid else "instance",
            stored.study_instance_uid,
            stored.series_instance_uid,
        )

    def waiting(self) -> Waiting:
        """What the receipts log holds that is not taken yet; where there is no relay, it grows and grows old.

        Raises
        ------
        OSError
            When log or journal cannot be read now.
        """
        if self._receipts is None:
            raise ValueError("the reader was not told where the receipts log lies")
        unread = Unread(self._receipts)
        try:
            with self._lock:
                connection = self._reading()
                return unread.waiting(_cursors(connection) if connection is not None else {})
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"the journal cannot be read ({error})") from error
        finally:
            unread.close()

    def cursors(self) -> dict[str, int]:
        """File of the receipts log -> offset up to which it is taken."""
        with self._lock:
            connection = self._reading()
            return _cursors(connection) if connection is not None else {}

    def count(self) -> int:
        """How many objects are kept, of those that were taken."""
        rows = self._query("SELECT count(*) FROM objects")
        return int(rows[0][0]) if rows else 0

    def locations(self, *, limit: int) -> list[str]:
        """Where the first objects lie of those that are kept, in order of acknowledgement."""
        return [location for (location,) in self._query("SELECT location FROM objects ORDER BY seq LIMIT ?", limit)]

    def unassigned(self, *, limit: int = 500) -> list[JournalRow]:
        """The first rows that no message carries yet, in order of acknowledgement."""
        return self._rows("WHERE published = 0 AND batch IS NULL ORDER BY seq LIMIT ?", limit)

    def unpublished_batches(self) -> list[list[JournalRow]]:
        """Messages that were assigned and that the bus may not have, each with all its rows, in order."""
        names = self._query(
            "SELECT batch FROM objects WHERE published = 0 AND batch IS NOT NULL GROUP BY batch ORDER BY min(seq)"
        )
        return [self._rows("WHERE published = 0 AND batch = ? ORDER BY seq", name) for (name,) in names]

    def is_all_told(self) -> bool:
        """Whether the bus has all that was taken, ends of associations too; one that is open has none yet.

        Raises
        ------
        OSError
            When it cannot be read now.
        """
        untold = "EXISTS (SELECT 1 FROM objects WHERE published = 0) OR EXISTS (SELECT 1 FROM associations WHERE ended_at > 0)"
        try:
            return not any(value for (value,) in self._query(f"SELECT {untold}"))
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"the journal cannot be read ({error})") from error

    def open_associations(self) -> list[AssociationRow]:
        """Associations whose end has not been told to the bus, in the order in which they stored first."""
        rows = self._query(
            "SELECT association, calling_ae, ended_at, released, priority, writer FROM associations ORDER BY rowid"
        )
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for association, study, series, count in self._query("SELECT association, study, series, count FROM receipts"):
            counts.setdefault(association, {}).setdefault(study, {})[series] = count
        return [
            AssociationRow(
                association=name, calling_ae=calling_ae, ended_at=ended_at, released=bool(released),
                priority=Priority(priority), writer=writer, counts=counts.get(name, {}),
            )
            for name, calling_ae, ended_at, released, priority, writer in rows
        ]  # fmt: skip

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _reading(self) -> sqlite3.Connection | None:
        """The connection; None while there is no journal."""
        if self._connection is None and self.path.exists():
            try:
                connection = connect(self.path)
            except sqlite3.Error as error:
                raise OSError(errno.EIO, f"the journal cannot be read ({error})") from error
            try:
                version = check_version(connection)
            except CannotStart:
                connection.close()
                raise
            if version == 0:  # being made just now
                connection.close()
                return None
            if version == 1:
                self._select = SELECT.replace("committed_at", "NULL")
            connection.execute("PRAGMA query_only = ON")
            self._connection = connection
        return self._connection

    def _receives(self) -> bool:
        if self._receipts is None:
            return False
        unread = Unread(self._receipts)
        try:
            return bool(unread)
        finally:
            unread.close()

    def _query(self, statement: str, *arguments: Any) -> list[Any]:
        with self._lock:
            connection = self._reading()
            return connection.execute(statement, arguments).fetchall() if connection else []

    def _rows(self, where: str, *arguments: Any) -> list[JournalRow]:
        return [row_of(values) for values in self._query(f"{self._select} {where}", *arguments)]

    def _about(self, uid: str, *columns: str, most: int = -1) -> list[JournalRow]:
        """Rows that have ``uid`` in one of ``columns``, then what the receipts log holds beyond its cursors."""
        where = f"WHERE {' OR '.join(f'{column} = ?' for column in columns)} ORDER BY seq LIMIT ?"
        arguments = (*(uid for _ in columns), most)
        if self._receipts is None:
            return self._rows(where, *arguments)
        unread = Unread(self._receipts)
        try:
            rows, cursors = [], {}
            with self._lock:
                connection = self._reading()
                if connection is not None:
                    # Rows and cursors of one moment: nothing is in both, nothing in neither.
                    connection.execute("BEGIN")
                    try:
                        rows = [row_of(v) for v in connection.execute(f"{self._select} {where}", arguments)]
                        cursors = _cursors(connection)
                    finally:
                        connection.execute("COMMIT")
            if most < 0 or len(rows) < most:
                found = (s for s in unread.about(uid, cursors) if any(getattr(s, column) == uid for column in columns))
                rows += [_untaken(stored) for stored in sorted(found, key=lambda s: s.received_at)]
            return rows
        finally:
            unread.close()


class Journal(JournalReader):
    """The journal as its one writing process holds it: reads and writes. Safe from any thread.

    Every write is committed when it returns, and synced unless it says otherwise.

    Parameters
    ----------
    path
        The SQLite file; made when absent, brought to this version when an older one wrote it.
    durable
        False: a commit is not synced (``listener.durability = "none"``): it survives a crash of Ichor, not of the
        machine.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write = connect(path)
        self._durable = durable
        self._closed = False
        self._writing = threading.Lock()
        try:
            bring_up_to_date(self._write)
        except BaseException:
            self._write.close()
            raise
        super().__init__(path)

    def take(
        self, entries: Sequence[tuple[StoredObject | Ended, str]], *, cursors: Mapping[str, int],
        holds: Callable[[str, str], bool] = lambda *_: True,
    ) -> list[JournalRow]:  # fmt: skip
        """Take what was read from the receipts log, all of it or nothing; the fresh rows, in order.

        The same bytes of an instance are one row, however often they come. Each of them counts for its association,
        but the receipt that made the row does not count twice. Where the bytes of the row are not there any more, those
        that came now take their place: a fresh row, committed if the old one was.

        Parameters
        ----------
        entries
            In the order of the log, each with the name of its writer.
        cursors
            File -> offset behind the last of ``entries`` that came from it; no cursor ever goes back.
        holds
            Whether the bytes of that SHA-256 lie whole at a location; asked for those that come again.

        Raises
        ------
        OutOfResources
            When it could not be made durable.
        """
        objects = [(entry, writer) for entry, writer in entries if isinstance(entry, StoredObject)]
        ended = [(e.at, int(e.released), e.association) for e, _ in entries if isinstance(e, Ended)]
        associations = {
            s.association: (s.association, s.calling_ae, s.association_priority.value, writer) for s, writer in objects
        }
        lost = self._lost([stored for stored, _ in objects], holds)  # reads files, so while no writer waits for it
        with self._transaction() as connection:
            promised = self._drop_lost(connection, lost)
            rows, again = self._sorted_out(connection, [stored for stored, _ in objects])
            told = [*(row.stored for row in rows), *again]
            counts = Counter((s.association, s.study_instance_uid, s.series_instance_uid) for s in told)
            connection.executemany(INSERT, [(row.seq, row.last_at, *VALUES(row.stored)) for row in rows])
            connection.executemany(
                "UPDATE objects SET committed_at = ? WHERE sop_instance_uid = ? AND file_sha256 = ?", promised
            )
            connection.executemany(
                "UPDATE objects SET last_at = max(last_at, ?) WHERE sop_instance_uid = ? AND file_sha256 = ?",
                [(s.received_at, s.sop_instance_uid, s.file_sha256) for s in again],
            )
            connection.executemany(TAKE_ASSOCIATION, associations.values())
            connection.executemany(COUNT, [(*key, count) for key, count in counts.items()])
            connection.executemany(SEGMENT, _segments(told))
            connection.executemany(END, ended)
            connection.executemany(CURSOR, cursors.items())
        return rows

    def assign_batches(self, batches: Mapping[str, Sequence[JournalRow]]) -> None:
        """Write down which message carries which rows, before they are published: a repetition is then the same message.

        Raises
        ------
        OutOfResources
            When it could not be written.
        """
        arguments = [(batch, row.seq) for batch, rows in batches.items() for row in rows]
        with self._transaction() as connection:
            connection.executemany("UPDATE objects SET batch = ? WHERE seq = ?", arguments)

    def mark_published(self, rows: Sequence[JournalRow]) -> None:
        """The bus has these rows. Not synced: a repetition after a crash is harmless."""
        with self._transaction(synced=False) as connection:
            connection.executemany("UPDATE objects SET published = 1 WHERE seq = ?", [(row.seq,) for row in rows])

    def forget_association(self, association: str) -> None:
        """The bus knows the end of this association. Not synced."""
        with self._transaction(synced=False) as connection:
            connection.execute("DELETE FROM receipts WHERE association = ?", (association,))
            connection.execute("DELETE FROM associations WHERE association = ?", (association,))

    def forget(self, rows: Sequence[JournalRow]) -> list[JournalRow]:
        """Drop rows for retention; those that were dropped.

        A row stays when it is committed, or when the same bytes were acknowledged again since it was read.
        """
        dropped = []
        statement = "DELETE FROM objects WHERE seq = ? AND last_at = ? AND committed_at IS NULL"
        with self._transaction() as connection:
            for row in rows:
                if connection.execute(statement, (row.seq, row.last_at)).rowcount:
                    dropped.append(row)
        return dropped

    def commit_objects(
        self, pairs: Sequence[tuple[str, str]], at: float, *, exists: Callable[[str], bool]
    ) -> list[tuple[str, str]]:
        """Promise to keep those that are there, and give them; durable when it returns.

        Parameters
        ----------
        pairs
            SOP Class UID and SOP Instance UID of each.
        at
            POSIX seconds.
        exists
            Whether the bytes of a location are there.
        """
        wanted = set(pairs)
        kept: dict[int, tuple[str, str]] = {}
        with self._transaction() as connection:
            for some in _parts([instance for _, instance in pairs]):
                marks = ", ".join("?" * len(some))
                statement = f"SELECT seq, sop_class_uid, sop_instance_uid, location FROM objects WHERE sop_instance_uid IN ({marks})"
                for seq, sop_class, instance, location in connection.execute(statement, some).fetchall():
                    if (sop_class, instance) in wanted and exists(location):
                        kept[seq] = sop_class, instance
            connection.executemany(
                "UPDATE objects SET committed_at = coalesce(committed_at, ?) WHERE seq = ?", [(at, seq) for seq in kept]
            )
        there = set(kept.values())
        return [pair for pair in pairs if pair in there]

    def segment_ends(self, study_instance_uid: str | None = None) -> dict[str, int]:
        """Segment of the spool -> highest end of an object in it that was ever taken, duplicates too; of all studies or one."""
        if study_instance_uid is None:
            return dict(self._query("SELECT segment, end FROM segments"))
        return dict(self._query("SELECT segment, end FROM segments WHERE study = ?", study_instance_uid))

    def gaps(self) -> set[str]:
        """Segments of which an object before their end was never taken; `ichor.store.recovery` fills them."""
        return {segment for (segment,) in self._query("SELECT segment FROM segments WHERE known < end")}

    def fill_gap(self, segment: str) -> None:
        """Whatever is whole in a segment is in the journal, or in the receipts log on its way there."""
        with self._transaction() as connection:
            connection.execute("UPDATE segments SET known = ? WHERE segment = ?", (_ALL_KNOWN, segment))

    def forget_segments(self, segments: Sequence[str]) -> None:
        """These are not in the spool any more. Not synced."""
        with self._transaction(synced=False) as connection:
            connection.executemany("DELETE FROM segments WHERE segment = ?", [(name,) for name in segments])

    def forget_files(self, files: Sequence[str]) -> None:
        """These are not in the receipts log any more (`ichor.store.receipts.ReceiptReader.forget`). Not synced."""
        with self._transaction(synced=False) as connection:
            connection.executemany("DELETE FROM cursors WHERE file = ?", [(name,) for name in files])

    def close(self) -> None:
        """Safe to call twice; later writes raise OutOfResources."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
            self._write.close()
        super().close()

    @contextlib.contextmanager
    def _transaction(self, *, synced: bool = True) -> Iterator[sqlite3.Connection]:
        with self._writing:
            if self._closed:
                raise OutOfResources("the journal is closed")
            connection = self._write
            try:
                # In WAL mode NORMAL does not sync a commit; the next FULL one syncs it with its own.
                connection.execute(f"PRAGMA synchronous = {'FULL' if synced and self._durable else 'NORMAL'}")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise OutOfResources(f"the journal cannot be written: {type(error).__name__}") from error

    def _places(self, connection: sqlite3.Connection, objects: Sequence[StoredObject]) -> dict[tuple[str, str], str]:
        """SOP Instance UID and SHA-256 -> location, of the rows that these instances have."""
        known: dict[tuple[str, str], str] = {}
        for some in _parts([stored.sop_instance_uid for stored in objects]):
            marks = ", ".join("?" * len(some))
            statement = (
                f"SELECT sop_instance_uid, file_sha256, location FROM objects WHERE sop_instance_uid IN ({marks})"
            )
            for instance, file_sha256, location in connection.execute(statement, some):
                known[instance, file_sha256] = location
        return known

    def _lost(self, objects: Sequence[StoredObject], holds: Callable[[str, str], bool]) -> list[tuple[str, str, str]]:
        """SOP Instance UID, SHA-256 and location of rows whose bytes come again and are not there any more."""
        try:
            with self._lock:
                connection = self._reading()
                known = self._places(connection, objects) if connection else {}
        except sqlite3.Error as error:
            raise OutOfResources(f"the journal cannot be read: {type(error).__name__}") from error
        again = {
            (stored.sop_instance_uid, stored.file_sha256)
            for stored in objects
            if known.get((stored.sop_instance_uid, stored.file_sha256), stored.location) != stored.location
        }
        return [(*key, known[key]) for key in again if not holds(known[key], key[1])]

    @staticmethod
    def _drop_lost(
        connection: sqlite3.Connection, lost: Sequence[tuple[str, str, str]]
    ) -> list[tuple[float, str, str]]:
        """Remove these rows; of those that were committed: when, SOP Instance UID, SHA-256."""
        which = "FROM objects WHERE sop_instance_uid = ? AND file_sha256 = ? AND location = ?"
        promised = []
        for row in lost:
            for (committed_at,) in connection.execute(f"SELECT committed_at {which}", row).fetchall():
                if committed_at is not None:
                    promised.append((committed_at, row[0], row[1]))
            connection.execute(f"DELETE {which}", row)
        return promised

    def _sorted_out(
        self, connection: sqlite3.Connection, objects: Sequence[StoredObject]
    ) -> tuple[list[JournalRow], list[StoredObject]]:
        """``(fresh rows, objects whose bytes are there already)``; a receipt that comes twice is in neither again."""
        known = self._places(connection, objects)
        newest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'objects'").fetchone()
        seq = newest[0] if newest else 0
        rows: list[JournalRow] = []
        again: list[StoredObject] = []
        for stored in objects:
            key = stored.sop_instance_uid, stored.file_sha256
            if key in known:
                if known[key] != stored.location:
                    again.append(stored)
                continue
            known[key] = stored.location
            seq += 1
            rows.append(JournalRow(seq=seq, stored=stored, last_at=stored.received_at, batch=None, published=False))
        return rows, again


def _cursors(connection: sqlite3.Connection) -> dict[str, int]:
    try:
        return dict(connection.execute("SELECT file, offset FROM cursors"))
    except sqlite3.OperationalError:
        return {}  # version 1, of which the receipts log knows nothing


def _segments(objects: Iterable[StoredObject]) -> list[tuple[str, str, int, int]]:
    found: dict[str, tuple[str, str, int, int]] = {}
    for stored in objects:
        try:
            segment, end = segment_of(stored.location), end_of(stored.location, stored.length)
            size = end - parse(stored.location).offset
        except KeyError:  # no location of the spool: nothing that retention could remove
            continue
        _, study, highest, known = found.get(segment, (segment, stored.study_instance_uid, 0, 0))
        found[segment] = segment, study, max(highest, end), known + size
    return list(found.values())


def _untaken(stored: Stored) -> JournalRow:
    named = StoredObject(file_sha256="", **stored._asdict())
    return JournalRow(seq=0, stored=named, last_at=stored.received_at, batch=None, published=False)


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _MOST_PER_QUERY):
        yield values[start : start + _MOST_PER_QUERY]
