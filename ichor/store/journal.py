"""The journal: an index of what was acknowledged, and what of it has been told to the bus. Not the event log.

It is made of the receipts log (`ichor.store.receipts`), by one process; how far the log is taken is written in the same
transaction as the rows. Other processes read through ``JournalReader``, which also sees what is not taken yet.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ichor.errors import OutOfResources
from ichor.store.journal_reader import JournalReader
from ichor.store.journal_rows import (
    COUNT,
    CURSOR,
    END,
    INSERT,
    SEGMENT,
    TAKE_ASSOCIATION,
    VALUES,
    AssociationRow,
    JournalRow,
    StoredObject,
    bring_up_to_date,
    connect,
    digest_of_unread,
)  # fmt: skip
from ichor.store.receipt_records import RECOVERED, Ended
from ichor.store.segments import end_of, parse, segment_of

__all__ = ["AssociationRow", "Journal", "JournalReader", "JournalRow", "StoredObject"]

_MOST_PER_QUERY = 500
# One statement however many there are: each number of marks would be one of its own, kept, up to 10 KB each.
_ANY_OF = "WHERE sop_instance_uid IN (SELECT value FROM json_each(?))"
_ALL_KNOWN = 1 << 62  # more bytes than any segment has


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
    keeps_unsure
        True (``listener.commitment``): an object that another journal may have held, and committed, counts as committed:
        what comes in from the spool without a receipt, and what was received before this journal was made.
    """

    def __init__(self, path: Path, *, durable: bool = True, keeps_unsure: bool = False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write = connect(path)
        self._durable = durable
        self._closed = False
        self._writing = threading.Lock()
        try:
            bring_up_to_date(self._write)
            (made_at,) = self._write.execute("SELECT at FROM made").fetchone()
        except BaseException:
            self._write.close()
            raise
        self._sure_from = made_at if keeps_unsure else None
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
                "UPDATE objects SET committed_at = coalesce(committed_at, ?) WHERE sop_instance_uid = ? AND file_sha256 = ?",
                [*promised, *self._unsure(told)],
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

        Never one whose bytes the medium did not give: its sender would delete the only ones that can be read.

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
                what = "seq, sop_class_uid, sop_instance_uid, location, file_sha256"
                found = connection.execute(f"SELECT {what} FROM objects {_ANY_OF}", (json.dumps(some),)).fetchall()
                for seq, sop_class, instance, location, digest in found:
                    if (sop_class, instance) in wanted and digest != digest_of_unread(location) and exists(location):
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
            statement = f"SELECT sop_instance_uid, file_sha256, location FROM objects {_ANY_OF}"
            for instance, file_sha256, location in connection.execute(statement, (json.dumps(some),)):
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

    def _unsure(self, objects: Sequence[StoredObject]) -> Iterator[tuple[float, str, str]]:
        """Of objects that may have been committed in a journal that is lost: as of when, SOP Instance UID, SHA-256."""
        if self._sure_from is not None:
            for one in objects:
                if one.calling_ae == RECOVERED or one.received_at < self._sure_from:
                    yield one.received_at, one.sop_instance_uid, one.file_sha256

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


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _MOST_PER_QUERY):
        yield values[start : start + _MOST_PER_QUERY]
