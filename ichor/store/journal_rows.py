"""What the journal holds: its rows, its tables, and how an older one becomes this one. Asks and answers nothing."""

from __future__ import annotations

import hashlib
import operator
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ichor.errors import CannotStart
from ichor.types import Priority
from ichor.wal import set_wal

_VERSION = 3


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
    file_sha256: str  # empty while the object is in the receipts log only
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
    ``last_at`` is when the same bytes were acknowledged last. ``committed``: a sender was told that it may delete its own,
    or nobody knows whether one was (`ichor.store.journal.Journal`).
    """

    seq: int
    stored: StoredObject
    last_at: float
    batch: str | None
    published: bool
    committed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRow:
    """An association that stored objects and is not yet told as closed. ``ended_at`` is None while it is open."""

    association: str
    calling_ae: str
    ended_at: float | None
    released: bool
    priority: Priority  # of its messages: by sender or called AE title
    writer: str  # of the receipts log, that wrote of it


_COLUMNS = tuple(f.name for f in fields(StoredObject))
VALUES = operator.attrgetter(*_COLUMNS)
_LOG_SCHEMA = """
CREATE TABLE cursors (file TEXT PRIMARY KEY, offset INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
  segment TEXT PRIMARY KEY, study TEXT NOT NULL, end INTEGER NOT NULL,
  known INTEGER NOT NULL  -- bytes of the objects that were taken: less than its end where one was left out
) WITHOUT ROWID;
CREATE INDEX segments_study ON segments (study);
"""
_MADE_SCHEMA = "CREATE TABLE made (at REAL NOT NULL);"  # POSIX seconds; 0: by a version that did not write it down
_SCHEMA = f"""
CREATE TABLE objects (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  {", ".join(f"{name} NOT NULL" for name in _COLUMNS if name not in ("sender_priority", "called_priority"))},
  sender_priority, called_priority,
  last_at REAL NOT NULL, batch TEXT, published INTEGER NOT NULL DEFAULT 0, committed_at REAL,
  UNIQUE (sop_instance_uid, file_sha256));
CREATE INDEX objects_study ON objects (study_instance_uid);
CREATE INDEX objects_series ON objects (series_instance_uid);
CREATE INDEX objects_unpublished ON objects (seq) WHERE published = 0;
CREATE TABLE associations (
  association TEXT PRIMARY KEY, calling_ae TEXT NOT NULL, priority TEXT NOT NULL,
  ended_at REAL, released INTEGER NOT NULL DEFAULT 0, writer TEXT NOT NULL DEFAULT '');
CREATE TABLE receipts (
  association TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (association, study, series)) WITHOUT ROWID;
{_LOG_SCHEMA}
{_MADE_SCHEMA}
INSERT INTO made VALUES (CAST(strftime('%s', 'now') AS REAL));
PRAGMA user_version = {_VERSION};
"""
_FROM_2 = f"""
{_MADE_SCHEMA}
INSERT INTO made VALUES (0);
PRAGMA user_version = {_VERSION};
"""
_FROM_1 = f"""
ALTER TABLE objects ADD COLUMN committed_at REAL;
ALTER TABLE associations ADD COLUMN writer TEXT NOT NULL DEFAULT '';
{_LOG_SCHEMA}
INSERT INTO segments SELECT location, study_instance_uid, max(length), max(length) FROM objects GROUP BY location;
{_FROM_2}
"""
INSERT = f"INSERT INTO objects (seq, last_at, {', '.join(_COLUMNS)}) VALUES (?, ?, {', '.join('?' * len(_COLUMNS))})"
SELECT = f"SELECT seq, last_at, batch, published, committed_at, {', '.join(_COLUMNS)} FROM objects"
TAKE_ASSOCIATION = "INSERT OR IGNORE INTO associations (association, calling_ae, priority, writer) VALUES (?, ?, ?, ?)"
COUNT = (
    "INSERT INTO receipts VALUES (?, ?, ?, ?) "
    "ON CONFLICT (association, study, series) DO UPDATE SET count = count + excluded.count"
)
END = "UPDATE associations SET ended_at = ?, released = ? WHERE association = ? AND ended_at IS NULL"
SEGMENT = (
    "INSERT INTO segments VALUES (?, ?, ?, ?) "
    "ON CONFLICT (segment) DO UPDATE SET end = max(end, excluded.end), known = known + excluded.known"
)
CURSOR = "INSERT INTO cursors VALUES (?, ?) ON CONFLICT (file) DO UPDATE SET offset = max(offset, excluded.offset)"


def digest_of_unread(location: str) -> str:
    """Stands in a row for the SHA-256 of bytes that the medium never gave; of no two objects the same."""
    return hashlib.sha256(location.encode()).hexdigest()


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
    set_wal(connection)
    connection.execute("PRAGMA cache_size = -1024")  # KiB of 2,000 for each connection; the kernel has the pages, too
    return connection


def check_version(connection: sqlite3.Connection) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > _VERSION:
        raise CannotStart(f"the journal has version {version}, this version of Ichor knows {_VERSION} at most")
    return version


def row_of(values: Sequence[Any]) -> JournalRow:
    seq, last_at, batch, published, committed_at, *rest = values
    named = dict(zip(_COLUMNS, rest, strict=True))
    for key in ("sender_priority", "called_priority"):
        named[key] = Priority(named[key]) if named[key] else None
    named["command_priority_high"] = bool(named["command_priority_high"])
    return JournalRow(
        seq=seq, stored=StoredObject(**named), last_at=last_at, batch=batch, published=bool(published),
        committed=committed_at is not None,
    )  # fmt: skip


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Make the tables, or change those of an older version; durable when it returns."""
    script = {0: _SCHEMA, 1: _FROM_1, 2: _FROM_2}.get(check_version(connection))
    if script:
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN IMMEDIATE; {script} COMMIT;")
