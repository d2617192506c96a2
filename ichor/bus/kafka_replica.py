"""What one process knows of one group (or of one topic's log): a fold of Kafka's records into tables. Asks no Kafka.

The topics hold the messages, the group's ledger what its members did with them: joins, claims, ends. All members fold
the same ledger in the same order, so all agree on which claim came first; a claim or an end that came too late changes
nothing. What a message says counts when its record is folded, whoever folds it: time, too, is the writer's, written
in the record. Replicas that began at different places agree on all that is unfinished; they may disagree on whether a
message is a repetition of one that was finished long ago (`ichor.bus.kafka_tail` says how long).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ichor.bus import kafka_schema as schema
from ichor.errors import CannotStart
from ichor.messages import Envelope

log = logging.getLogger(__name__)

VERSION = 1
# Unfinished messages that a snapshot may list: some 150 bytes each, and a message must hold it.
_MOST_IN_SNAPSHOT = 5000
_DIED = "its worker died or hung: the lease ended without an answer"
_UNREADABLE = "ichor.unreadable"


def envelope_of(topic: str, offset: int, value: bytes | None) -> Envelope:
    """The message in a record; where it is none, one of type ``ichor.unreadable`` that stands for it."""
    try:
        return Envelope.model_validate_json(value or b"")
    except ValidationError:
        size, digest = len(value or b""), hashlib.sha256(value or b"").hexdigest()
        return Envelope(
            id=f"{topic}-{offset}", source="kafka", type=_UNREADABLE, time=0.0, subject=f"{topic}-{offset}",
            data={"bytes": size, "sha256": digest},
        )  # fmt: skip


class Replica:
    """Tables of a group, or (``group`` None) of a log. Hold ``changed`` around everything that belongs together.

    ``positions``: of each topic the offset that is read next. ``at``: the same of the ledger. ``error``: why it does
    not go on now.
    """

    def __init__(self, folder: Path, *, group: str | None = None) -> None:
        self.group = group
        self.changed = threading.Condition(threading.RLock())
        self.positions: dict[str, int] = {}
        self.at = 0
        self.entries = 0  # of the ledger since the last snapshot of this process
        self.error: Exception | None = None
        # Letters that a record of this process made: to be copied.
        self.buried: list[str] = []
        path = folder / f"kafka-{os.getpid()}-{uuid.uuid4().hex}.tmp"
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # No other process ever opens it, and nothing of it outlives this one.
        self.db.execute("PRAGMA journal_mode = MEMORY")
        self.db.execute("PRAGMA synchronous = OFF")
        self.db.execute("PRAGMA cache_size = -2048")  # KiB
        path.unlink()
        self._stamps: dict[str, int] = {}
        self._settled: dict[str, int] = {}  # what a snapshot has said of all before
        self._make_tables()

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """All that is done to the tables inside, or nothing."""
        self.db.execute("BEGIN")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:  # a full disk may have rolled back already
                self.db.execute("ROLLBACK")
            raise

    def reset(self) -> None:
        """Forget everything."""
        with self.changed:
            with self.whole():
                for table in ("message", "delivery", "letter", "subscription"):
                    self.db.execute(f"DROP TABLE {table}")
                self._make_tables()
            self.at = 0
            for known in (self.positions, self._stamps, self._settled):
                known.clear()

    def _make_tables(self) -> None:
        for statement in schema.TABLES:
            self.db.execute(statement)

    # --- the log ----------------------------------------------------------------------------------------------------

    def take_message(self, topic: str, offset: int, value: bytes | None, *, published: float, order: int) -> None:
        """A record of a topic. An id that the topic has had, as far as this replica knows, is ignored."""
        self.positions[topic] = offset + 1
        seq = offset + 1
        envelope = envelope_of(topic, offset, value)
        stamp = self._stamps[topic] = max(order, self._stamps.get(topic, 0) + 1)
        settled = seq < self._settled.get(topic, 0)
        keep = self.group is None or not settled or self._is_open(topic, seq)
        body = value if keep else None
        made = self.db.execute(schema.MESSAGE, (topic, seq, envelope.id, envelope.subject, body))
        if self.group is None or settled or not made.rowcount:
            return
        row = (topic, envelope.priority.rank, stamp, seq, envelope.subject, published)
        self.db.execute(schema.NEW, row)
        if envelope.type == _UNREADABLE:
            log.error("%s %d is no message of Ichor: to the dead letters of %s", topic, seq, self.group)
            key = {"topic": topic, "seq": seq, "now": published, "cause": "it is no message of Ichor"}
            self.db.execute(schema.BURY, key | {"letter": self._letter(f"{topic}/{seq}")})
            self.db.execute("DELETE FROM delivery WHERE topic = :topic AND seq = :seq", key)

    def _is_open(self, topic: str, seq: int) -> bool:
        row = self.db.execute("SELECT 1 FROM delivery WHERE topic = ? AND seq = ?", (topic, seq)).fetchone()
        return row is not None

    def forget(self, topic: str, before: int) -> None:
        """The topic does not hold what is before this offset any more."""
        with self.changed:
            self.db.execute("DELETE FROM message WHERE topic = ? AND seq <= ?", (topic, before))

    # --- the ledger -------------------------------------------------------------------------------------------------

    def waits_for(self, entry: Mapping[str, Any]) -> bool:
        """Whether a record speaks of a message that has not been folded yet."""
        return entry.get("do") == "claim" and self.positions.get(entry["topic"], 0) < entry["seq"]

    def take_entry(self, offset: int, entry: Mapping[str, Any], *, ours: bool) -> None:
        """A record of the ledger.

        Raises
        ------
        CannotStart
            When a newer version of Ichor wrote it.
        """
        if entry["v"] > VERSION:
            raise CannotStart(
                f"the ledger of group {self.group} was written by a newer Ichor ({entry['v']}; this one knows {VERSION})"
            )
        self.at = offset + 1
        self.entries += 1
        verb, letter = entry["do"], self._letter(f"#{offset}")
        if verb == "join":
            for topic in entry["topics"]:
                if self.db.execute("INSERT OR IGNORE INTO subscription VALUES (?)", (topic,)).rowcount:
                    self.positions.setdefault(topic, 0)
            self.db.execute(schema.ORPHAN, {"me": entry["me"]})
        elif verb == "claim":
            self._claim(entry, letter=letter, ours=ours)
        elif verb == "finish":
            self._bury(entry, letter=letter, ours=ours)
            if self.db.execute(schema.FINISH, entry).rowcount:
                self.db.execute(schema.EMPTY, entry)
        elif verb == "wait":
            self.db.execute(schema.WAIT, entry)
        elif verb == "die":
            self._bury(entry, letter=letter, ours=ours)
            self.db.execute(schema.DIE, entry)
        elif verb in ("extend", "give_back", "leave"):
            statement = {"extend": schema.EXTEND, "give_back": schema.GIVE_BACK, "leave": schema.LEAVE}[verb]
            self.db.execute(statement, entry)
        elif verb == "replay":
            self.db.execute(schema.REPLAY, entry)
            self.db.execute("DELETE FROM letter WHERE letter_id = :letter", entry)

    def _claim(self, entry: Mapping[str, Any], *, letter: str, ours: bool) -> None:
        row = self.db.execute(schema.CLAIMED, entry).fetchone()
        if row is None:
            return
        attempts, dead, reason = row
        if not dead and attempts >= entry["most"]:
            cause = _DIED if reason is None else f"{_DIED}; before that: {reason}"
            self.db.execute(schema.BURY, {**entry, "letter": letter, "cause": cause})
            if ours:
                self.buried.append(letter)
            dead = 1
        self.db.execute(schema.CLAIM, {**entry, "attempts": attempts + (not dead), "dead": dead})

    def _bury(self, entry: Mapping[str, Any], *, letter: str, ours: bool) -> None:
        held = self.db.execute("SELECT dead FROM delivery WHERE hand = :hand", entry).fetchone()
        if entry.get("cause") is None or held is None or held[0]:
            return
        self.db.execute(schema.BURY, {**entry, "letter": letter})
        if ours:
            self.buried.append(letter)

    def _letter(self, made_of: str) -> str:
        """The same in every replica."""
        return hashlib.sha256(f"{self.group} {made_of}".encode()).hexdigest()[:12]

    # --- snapshots: a ledger is as long as what was done since the last one -------------------------------------------

    def snapshot(self) -> dict[str, Any] | None:
        """All that the ledger has said until now; None while too much is unfinished."""
        with self.changed:
            if self.db.execute("SELECT count(*) FROM delivery").fetchone()[0] > _MOST_IN_SNAPSHOT:
                return None
            return {
                "do": "snapshot",
                "after": self.at,
                "positions": self.reached(),
                "deliveries": self.db.execute(f"SELECT {schema.DELIVERY} FROM delivery").fetchall(),
                "letters": self.db.execute(f"SELECT {schema.LETTER} FROM letter").fetchall(),
            }

    def reached(self) -> dict[str, int]:
        """Offset of each topic before which the ledger has said all."""
        return {topic: max(position, self._settled.get(topic, 0) - 1) for topic, position in self.positions.items()}

    def begin_with(self, offset: int, entry: Mapping[str, Any]) -> None:
        """Take a snapshot that nothing came in between, instead of what was before it."""
        with self.changed:
            for table, columns in (("delivery", schema.DELIVERY), ("letter", schema.LETTER)):
                rows = entry["deliveries" if table == "delivery" else "letters"]
                marks = ", ".join("?" * len(columns.split(",")))
                self.db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
            self.db.executemany("INSERT INTO subscription VALUES (?)", [(topic,) for topic in entry["positions"]])
            self.positions = dict(entry["positions"])
            self._settled = {topic: position + 1 for topic, position in self.positions.items()}
            self._stamps = dict(self.db.execute("SELECT topic, max(stamp) FROM delivery GROUP BY topic"))
            self.at = offset + 1

    # --- questions: the caller holds ``changed`` -----------------------------------------------------------------------

    def candidate(self, topics: tuple[str, ...], me: str, now: float) -> dict[str, Any] | None:
        """What the member may claim next."""
        best: tuple[int, int, str, int] | None = None
        for topic in topics:
            row = self.db.execute(schema.CANDIDATE, {"topic": topic, "now": now, "me": me}).fetchone()
            if row is not None and (best is None or (row[0], row[1], topic) < best[:3]):
                best = (row[0], row[1], topic, row[2])
        return None if best is None else {"topic": best[2], "seq": best[3]}

    def in_hand(self, hand: str) -> tuple[int, bool, bytes | None] | None:
        """Attempts, dead and content of what was handed out so; None when the claim came too late or it has ended."""
        row = self.db.execute(schema.IN_HAND, (hand,)).fetchone()
        return None if row is None else (row[0], bool(row[1]), row[2])

    def next_due(self, now: float) -> float | None:
        due: float | None = self.db.execute(schema.NEXT_DUE, {"now": now}).fetchone()[0]
        return due

    def unfinished_from(self, topic: str, *, letters: bool) -> int:
        """Offset before which all is finished; ``letters``: and given up by nobody."""
        statement = schema.LOWEST if letters else schema.LOWEST_OPEN
        lowest = self.db.execute(statement, {"topic": topic}).fetchone()[0]
        return self.positions.get(topic, 0) if lowest is None else lowest - 1

    def read(self, topic: str, *, after: int, limit: int, subject: str | None) -> list[tuple[int, bytes]]:
        narrow = "" if subject is None else " AND subject = :subject"
        return self.db.execute(
            f"SELECT seq, body FROM message WHERE topic = :topic{narrow} AND seq > :after ORDER BY seq LIMIT :limit",
            {"topic": topic, "subject": subject, "after": after, "limit": limit},
        ).fetchall()


def dump(entry: Mapping[str, Any]) -> bytes:
    """A record of the ledger as it is written."""
    return json.dumps({"v": VERSION, **entry}, ensure_ascii=False, separators=(",", ":")).encode()


def load(value: bytes | None) -> dict[str, Any] | None:
    """A record of the ledger; None for what is none."""
    try:
        entry = json.loads(value or b"")
    except ValueError:
        return None
    known = isinstance(entry, dict) and isinstance(entry.get("v"), int) and isinstance(entry.get("do"), str)
    return entry if known else None
