"""What is asked of the journal, by any process, also of its receipts not taken yet. Writes nothing."""

from __future__ import annotations

import errno
import sqlite3
import threading
from pathlib import Path
from typing import Any

from ichor.errors import CannotStart
from ichor.store.journal_rows import SELECT, AssociationRow, JournalRow, StoredObject, check_version, connect, row_of
from ichor.store.receipt_reader import Unread, Waiting
from ichor.store.receipt_records import Stored
from ichor.types import Priority


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
        return [
            AssociationRow(
                association=name, calling_ae=calling_ae, ended_at=ended_at, released=bool(released),
                priority=Priority(priority), writer=writer,
            )
            for name, calling_ae, ended_at, released, priority, writer in rows
        ]  # fmt: skip

    def stored_by(self, association: str) -> dict[str, dict[str, int]]:
        """Study -> series -> objects that such an association stored, duplicates counted too."""
        counts: dict[str, dict[str, int]] = {}
        rows = self._query("SELECT study, series, count FROM receipts WHERE association = ?", association)
        for study, series, count in rows:
            counts.setdefault(study, {})[series] = count
        return counts

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


def _cursors(connection: sqlite3.Connection) -> dict[str, int]:
    try:
        return dict(connection.execute("SELECT file, offset FROM cursors"))
    except sqlite3.OperationalError:
        return {}  # version 1, of which the receipts log knows nothing


def _untaken(stored: Stored) -> JournalRow:
    named = StoredObject(file_sha256="", **stored._asdict())
    return JournalRow(seq=0, stored=named, last_at=stored.received_at, batch=None, published=False)
