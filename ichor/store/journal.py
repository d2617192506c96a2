"""The journal: one row per acknowledged object, and what of it has been told to the bus. Not the event log.

A C-STORE is answered with Success only after ``Journal.store`` has returned. One writer thread commits for all
associations, so that many of them share one sync. Other processes read through ``JournalReader``.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ichor import metrics
from ichor.errors import CannotStart, OutOfResources
from ichor.types import Priority

_LOG = logging.getLogger(__name__)
_VERSION = 1
_MOST_PER_COMMIT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One object in the spool, as the receiver knows it; all UIDs are valid ones."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    location: str  # key in the spool
    length: int  # bytes of the stored file
    file_sha256: str
    association: str
    calling_ae: str
    called_ae: str
    sender_priority: Priority | None  # set for this sender
    called_priority: Priority | None  # STAT when the called AE title means it
    command_priority_high: bool  # C-STORE-RQ priority HIGH
    received_at: float  # POSIX seconds, just before Success was answered

    def priority(self, header: Priority | None) -> Priority | None:
        """Priority of the study by this object: sender, called AE title, ``header`` (0040,1003), C-STORE priority."""
        command = Priority.HIGH if self.command_priority_high else None
        return self.sender_priority or self.called_priority or header or command

    @property
    def association_priority(self) -> Priority:
        """What the association alone says: the same for all its objects."""
        return self.sender_priority or self.called_priority or Priority.ROUTINE


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRow:
    """A stored object with its place in the order of acknowledgement.

    ``batch`` is the message that carries it, None while none was assigned; ``published`` once the bus has it.
    ``last_at`` is when the same bytes were acknowledged last.
    """

    seq: int
    stored: StoredObject
    last_at: float
    batch: str | None
    published: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRow:
    """An association that stored objects and is not yet told as closed. ``ended_at`` is None while it is open."""

    association: str
    calling_ae: str
    ended_at: float | None
    released: bool
    priority: Priority  # of its messages: by sender or called AE title
    counts: dict[str, dict[str, int]]  # study -> series -> objects stored, duplicates counted too


_COLUMNS = tuple(f.name for f in fields(StoredObject))
_SCHEMA = f"""
CREATE TABLE objects (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  {", ".join(f"{name} NOT NULL" for name in _COLUMNS if name not in ("sender_priority", "called_priority"))},
  sender_priority, called_priority,
  last_at REAL NOT NULL, batch TEXT, published INTEGER NOT NULL DEFAULT 0,
  UNIQUE (sop_instance_uid, file_sha256));
CREATE INDEX objects_study ON objects (study_instance_uid);
CREATE INDEX objects_series ON objects (series_instance_uid);
CREATE INDEX objects_unpublished ON objects (seq) WHERE published = 0;
CREATE TABLE associations (
  association TEXT PRIMARY KEY, calling_ae TEXT NOT NULL, priority TEXT NOT NULL,
  ended_at REAL, released INTEGER NOT NULL DEFAULT 0);
CREATE TABLE receipts (
  association TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (association, study, series)) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""
_INSERT = f"INSERT OR IGNORE INTO objects (last_at, {', '.join(_COLUMNS)}) VALUES (?, {', '.join('?' * len(_COLUMNS))})"
_SELECT = f"SELECT seq, last_at, batch, published, {', '.join(_COLUMNS)} FROM objects"


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


def _check_version(connection: sqlite3.Connection) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > _VERSION:
        raise CannotStart(f"the journal has version {version}, this version of Ichor knows {_VERSION} at most")
    return version


def _row(values: Sequence[Any]) -> JournalRow:
    seq, last_at, batch, published, *rest = values
    named = dict(zip(_COLUMNS, rest, strict=True))
    for key in ("sender_priority", "called_priority"):
        named[key] = Priority(named[key]) if named[key] else None
    named["command_priority_high"] = bool(named["command_priority_high"])
    return JournalRow(seq=seq, stored=StoredObject(**named), last_at=last_at, batch=batch, published=bool(published))


class JournalReader:
    """Questions to the journal; safe from any thread and from other processes while a receiver writes.

    Raises
    ------
    CannotStart
        When there is no journal yet, or a newer version of Ichor wrote it.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise CannotStart("there is no journal in this data folder: nothing has been received yet")
        self._lock = threading.Lock()
        self._read = _connect(path)
        self._read.execute("PRAGMA query_only = ON")
        _check_version(self._read)

    def by_study(self, study_instance_uid: str) -> list[JournalRow]:
        """Objects of a study in order of acknowledgement."""
        return self._rows("WHERE study_instance_uid = ? ORDER BY seq", study_instance_uid)

    def by_series(self, series_instance_uid: str) -> list[JournalRow]:
        return self._rows("WHERE series_instance_uid = ? ORDER BY seq", series_instance_uid)

    def by_instance(self, sop_instance_uid: str) -> list[JournalRow]:
        """More than one row when other bytes came under the same SOP Instance UID."""
        return self._rows("WHERE sop_instance_uid = ? ORDER BY seq", sop_instance_uid)

    def locate(self, uid: str) -> tuple[str, str, str | None] | None:
        """``(level, Study Instance UID, Series Instance UID)`` of what was stored, or None.

        ``level`` is ``study``, ``series`` or ``instance``; the series is None for a study.
        """
        for level, column in (("study", "study"), ("series", "series"), ("instance", "sop")):
            rows = self._rows(f"WHERE {column}_instance_uid = ? LIMIT 1", uid)
            if rows:
                stored = rows[0].stored
                return level, stored.study_instance_uid, None if level == "study" else stored.series_instance_uid
        return None

    def unassigned(self, *, after: int = 0, limit: int = 500) -> list[JournalRow]:
        """The first rows with ``seq`` > ``after`` that no message carries yet, in order of acknowledgement."""
        where = "WHERE published = 0 AND batch IS NULL AND seq > ? ORDER BY seq LIMIT ?"
        return self._rows(where, after, limit)

    def unpublished_batches(self) -> list[list[JournalRow]]:
        """Messages that were assigned and that the bus may not have, each with all its rows, in order."""
        with self._lock:
            names = self._read.execute(
                "SELECT batch FROM objects WHERE published = 0 AND batch IS NOT NULL GROUP BY batch ORDER BY min(seq)"
            ).fetchall()
        return [self._rows("WHERE published = 0 AND batch = ? ORDER BY seq", name) for (name,) in names]

    def open_associations(self) -> list[AssociationRow]:
        """Associations whose end has not been told to the bus, in the order in which they stored first."""
        with self._lock:
            rows = self._read.execute(
                "SELECT association, calling_ae, ended_at, released, priority FROM associations ORDER BY rowid"
            ).fetchall()
            receipts = self._read.execute("SELECT association, study, series, count FROM receipts").fetchall()
        counts: dict[str, dict[str, dict[str, int]]] = {}
        for association, study, series, count in receipts:
            counts.setdefault(association, {}).setdefault(study, {})[series] = count
        return [
            AssociationRow(
                association=name, calling_ae=calling_ae, ended_at=ended_at, released=bool(released),
                priority=Priority(priority),
                counts=counts.get(name, {}),
            )
            for name, calling_ae, ended_at, released, priority in rows
        ]  # fmt: skip

    def close(self) -> None:
        with self._lock:
            self._read.close()

    def _rows(self, where: str, *arguments: Any) -> list[JournalRow]:
        with self._lock:
            return [_row(values) for values in self._read.execute(f"{_SELECT} {where}", arguments)]


class Journal(JournalReader):
    """The receiver's journal: reads and writes. One process at a time may hold it.

    Parameters
    ----------
    path
        The SQLite file; made when absent.
    durable
        False: a commit is not synced (``listener.durability = "none"``): it survives a crash of Ichor, not of the
        machine.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write = _connect(path)
        self._write.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        if _check_version(self._write) == 0:
            self._write.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        super().__init__(path)
        self._queue: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Future[Any]] | None]
        self._queue = queue.SimpleQueue()
        self._closed = False
        self._writer = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._writer.start()

    def store(self, stored: StoredObject) -> bool:
        """Write a row durably and count it for its association; False when the same bytes were there already.

        Raises
        ------
        OutOfResources
            When it could not be made durable; the object must not be acknowledged.
        """
        inserted: bool = self._submit(lambda connection: _store(connection, stored)).result()
        return inserted

    def end_association(
        self, association: str, *, released: bool, at: float, then: Callable[[], None] = lambda: None
    ) -> None:
        """Note the end of an association, after everything it stored.

        Does not wait for the commit: ``then`` is called after it, by the writer's thread, and must not wait.
        """
        statement = "UPDATE associations SET ended_at = ?, released = ? WHERE association = ? AND ended_at IS NULL"
        future = self._submit(lambda connection: connection.execute(statement, (at, int(released), association)))
        future.add_done_callback(lambda _: then())

    def assign_batch(self, batch: str, rows: Sequence[JournalRow]) -> None:
        """Write down which message carries these rows, before it is published: a repetition is then the same message.

        Raises
        ------
        OutOfResources
            When it could not be written.
        """
        arguments = [(batch, row.seq) for row in rows]
        self._submit(lambda c: c.executemany("UPDATE objects SET batch = ? WHERE seq = ?", arguments)).result()

    def mark_published(self, rows: Sequence[JournalRow]) -> None:
        """The bus has these rows. Does not wait for the commit: a repetition after a crash is harmless."""
        arguments = [(row.seq,) for row in rows]
        self._submit(lambda c: c.executemany("UPDATE objects SET published = 1 WHERE seq = ?", arguments))

    def forget_association(self, association: str) -> None:
        """The bus knows the end of this association. Does not wait for the commit."""

        def forget(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM receipts WHERE association = ?", (association,))
            connection.execute("DELETE FROM associations WHERE association = ?", (association,))

        self._submit(forget)

    def forget(self, rows: Sequence[JournalRow]) -> None:
        """Drop rows whose objects retention has removed; durable when it returns."""
        arguments = [(row.seq,) for row in rows]
        self._submit(lambda c: c.executemany("DELETE FROM objects WHERE seq = ?", arguments)).result()

    def flush(self) -> None:
        """Return when everything submitted before is committed."""
        self._submit(lambda _: None).result()

    def close(self) -> None:
        """Commit what is queued and close. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._write.close()
        super().close()

    def _submit(self, write: Callable[[sqlite3.Connection], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        if self._closed:
            future.set_exception(OutOfResources("the journal is closed"))
        else:
            self._queue.put((write, future))
        return future

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            batch = [first]
            last = False
            while len(batch) < _MOST_PER_COMMIT and not last:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    last = True
                else:
                    batch.append(item)
            self._commit(batch)
            if last:
                return

    def _commit(self, batch: list[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]]) -> None:
        try:
            with _transaction(self._write):
                results = [write(self._write) for write, _ in batch]
        except Exception as error:  # noqa: BLE001 - the loop's edge: every waiter is told, the next commit is tried
            metrics.LOOP_ERRORS.labels("journal").inc()
            _LOG.error("journal commit failed: %s", error)
            for _, future in batch:
                future.set_exception(OutOfResources(f"the journal cannot be written: {type(error).__name__}"))
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _store(connection: sqlite3.Connection, stored: StoredObject) -> bool:
    connection.execute(
        "INSERT OR IGNORE INTO associations (association, calling_ae, priority) VALUES (?, ?, ?)",
        (stored.association, stored.calling_ae, stored.association_priority),
    )
    connection.execute(
        "INSERT INTO receipts VALUES (?, ?, ?, 1) "
        "ON CONFLICT (association, study, series) DO UPDATE SET count = count + 1",
        (stored.association, stored.study_instance_uid, stored.series_instance_uid),
    )
    values = [stored.received_at, *(getattr(stored, name) for name in _COLUMNS)]
    if connection.execute(_INSERT, values).rowcount == 1:
        return True
    connection.execute(
        "UPDATE objects SET last_at = ? WHERE sop_instance_uid = ? AND file_sha256 = ?",
        (stored.received_at, stored.sop_instance_uid, stored.file_sha256),
    )
    return False
