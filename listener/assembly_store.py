"""The assembler's mind on disk: one SQLite file, one transaction per message. Decides nothing.

What a step wants to publish is written in the same transaction (the outbox), so that a crash between deciding and
telling repeats the telling, never the deciding.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter

from ichor.errors import CannotStart
from ichor.messages import Envelope, ScanChanged
from ichor.series.evidence import Decision
from ichor.series.senders import Lesson, Sender
from ichor.types import Grade, Instance, Job, Scan
from ichor.wal import set_wal
from listener.series_state import Member, SeriesState
from listener.study import StudyAssembly

_VERSION = 2
_SCHEMA = f"""
CREATE TABLE studies (
  uid TEXT PRIMARY KEY, due REAL, announcements INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX studies_due ON studies (due) WHERE due IS NOT NULL;
CREATE TABLE members (
  study TEXT NOT NULL, sop TEXT NOT NULL, instance TEXT NOT NULL, files TEXT NOT NULL, associations TEXT NOT NULL,
  conflict INTEGER NOT NULL, corrected INTEGER NOT NULL, UNIQUE (study, sop));
CREATE TABLE associations (
  study TEXT NOT NULL, name TEXT NOT NULL, calling_ae TEXT NOT NULL, open INTEGER NOT NULL, released INTEGER NOT NULL,
  stored TEXT NOT NULL, UNIQUE (study, name));
CREATE TABLE senders (ae TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, envelope TEXT NOT NULL);
PRAGMA user_version = {_VERSION};
"""
# Came later; a version that does not know it loses evidence, nothing else.
_ADDED = """
CREATE TABLE IF NOT EXISTS announced (study TEXT NOT NULL, sop TEXT NOT NULL, UNIQUE (study, sop));
CREATE TABLE IF NOT EXISTS scans (
  study TEXT NOT NULL, pipeline TEXT NOT NULL, patient TEXT NOT NULL, acquired REAL, received REAL NOT NULL,
  scan TEXT NOT NULL, PRIMARY KEY (study, pipeline)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS scans_acquired ON scans (patient, pipeline, acquired);
CREATE INDEX IF NOT EXISTS scans_received ON scans (patient, pipeline, received);
CREATE TABLE IF NOT EXISTS scan_changes (
  study TEXT NOT NULL, pipeline TEXT NOT NULL, change INTEGER NOT NULL, PRIMARY KEY (study, pipeline)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _SeriesRecord:
    last_at: float
    longest_pause: float
    split: bool
    contradicted: bool
    undecided: bool
    stale: bool
    decided_at: float
    decision: Decision
    replaced: frozenset[str] = frozenset()
    learned: frozenset[Lesson] = frozenset()
    confirm_at: float | None = None


def _lessons_as_a_set(kept: Any) -> Any:
    """Version 1 had a flag for each lesson."""
    if not isinstance(kept, dict) or "learned" in kept:
        return kept
    return kept | {"learned": [lesson for lesson in Lesson if kept.get(f"{lesson}_learned")]}


@dataclass(frozen=True, slots=True, kw_only=True)
class _StudyRecord:
    revision: int
    settled: bool
    jobs: list[Job]
    published: dict[str, str]
    series: dict[str, Annotated[_SeriesRecord, BeforeValidator(_lessons_as_a_set)]]
    unknown: int = 0


_INSTANCE: TypeAdapter[Instance] = TypeAdapter(Instance)
_STUDY: TypeAdapter[_StudyRecord] = TypeAdapter(_StudyRecord)
_SENDER: TypeAdapter[Sender] = TypeAdapter(Sender)
_SCAN: TypeAdapter[Scan] = TypeAdapter(Scan)
_MOST_BEFORE = 16  # of one patient within three days; the nearest ones
_MOST_AFTER = 256  # more than any patient has; whoever sends more must not stop the others


class AssemblyStore:
    """State of all studies of a shard. One process at a time uses it.

    Parameters
    ----------
    shared
        The file lies on a volume of several machines: no memory is mapped, and its lock is kept.
    check
        Raises when somebody else may have the file by now. Asked before every commit and before anything is told.

    Raises
    ------
    CannotStart
        When a newer version of Ichor wrote the file.
    """

    def __init__(self, path: Path, *, shared: bool = False, check: Callable[[], None] = lambda: None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._check = check
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30.0)
        try:
            self._prepare(shared)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, shared: bool) -> None:
        if shared:
            # docs/decisions/0026: an index of a WAL in shared memory is one machine's.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = PERSIST")
            self._db.execute("PRAGMA cache_spill = OFF")  # nothing of a transaction reaches the file before its check
        else:
            set_wal(self._db)
        # Without a WAL NORMAL may leave a damaged file after a power cut.
        self._relaxed = "FULL" if shared else "NORMAL"
        self._db.execute("PRAGMA synchronous = FULL")
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > _VERSION:
            raise CannotStart(f"the assembler's state has version {version}, this version knows {_VERSION} at most")
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        self._db.executescript(_ADDED)
        if 0 < version < _VERSION:
            # Every state of it still reads; what is written from now on an earlier Ichor could not read.
            self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def senders(self) -> dict[str, Sender]:
        """What was learned of every sender."""
        rows = self._db.execute("SELECT ae, state FROM senders")
        return {ae: _SENDER.validate_json(state) for ae, state in rows}

    def due(self) -> Iterator[tuple[float, str]]:
        """(time, study) of everything that waits for a time."""
        yield from self._db.execute("SELECT due, uid FROM studies WHERE due IS NOT NULL").fetchall()

    def scans_before(self, scan: Scan, hours: float) -> list[Scan]:
        """Scans in other studies of the patient at most ``hours`` before this one, the nearest first.

        After them, where one of two does not say when it was acquired, those received within so many hours.
        """
        return self._scans(scan, low=-hours, high=0.0, order="DESC", most=_MOST_BEFORE)

    def scans_after(self, scan: Scan, hours: float) -> list[Scan]:
        """As `scans_before`, the other way round."""
        return self._scans(scan, low=0.0, high=hours, order="ASC", most=_MOST_AFTER)

    def _scans(self, scan: Scan, *, low: float, high: float, order: str, most: int) -> list[Scan]:
        about = {
            "patient": scan.patient, "pipeline": scan.pipeline, "study": scan.study_instance_uid, "most": most,
            "at": scan.acquired_at, "low": low * 3600, "high": high * 3600,
            "received": scan.received_at, "within": max(-low, high) * 3600,
        }  # fmt: skip
        same = "SELECT scan FROM scans WHERE patient = :patient AND pipeline = :pipeline AND study != :study AND "
        timed = self._db.execute(
            f"{same} acquired BETWEEN :at + :low AND :at + :high AND acquired != :at "
            f"ORDER BY acquired {order} LIMIT :most",
            about,
        )
        untimed = self._db.execute(
            f"{same} (acquired IS NULL OR :at IS NULL) AND received BETWEEN :received - :within AND :received + :within "
            "ORDER BY received LIMIT :most",
            about,
        )
        return [_SCAN.validate_json(text) for (text,) in (*timed, *untimed)]

    def scan(self, study_instance_uid: str, pipeline: str) -> tuple[int, Scan | None]:
        """How often the scan of any shard's study has changed, and what it is now."""
        key = (study_instance_uid, pipeline)
        changed = self._db.execute("SELECT change FROM scan_changes WHERE study = ? AND pipeline = ?", key).fetchone()
        row = self._db.execute("SELECT scan FROM scans WHERE study = ? AND pipeline = ?", key).fetchone()
        return changed[0] if changed else 0, _SCAN.validate_json(row[0]) if row else None

    def keep_scan(self, told: ScanChanged, *, again: tuple[float, Collection[str]]) -> None:
        """Write what another shard said of a scan; ``again`` as in `save`."""
        with self._transaction():
            self._keep_scan(told.study_instance_uid, told.pipeline, told.scan, change=told.change)
            self._due_again(*again)

    def load(self, study: StudyAssembly) -> int | None:
        """Fill a new `StudyAssembly` from disk; how many announcements it had, None when the study is not known."""
        row = self._db.execute("SELECT announcements, state FROM studies WHERE uid = ?", (study.uid,)).fetchone()
        if row is None:
            return None
        record = _STUDY.validate_json(row[1])
        study.revision, study.settled = record.revision, record.settled
        study.jobs, study.published = list(record.jobs), dict(record.published)
        announced = self._db.execute("SELECT sop FROM announced WHERE study = ?", (study.uid,))
        study.announced.restore({sop for (sop,) in announced}, unknown=record.unknown)
        for name, calling_ae, still_open, released, stored in self._db.execute(
            "SELECT name, calling_ae, open, released, stored FROM associations WHERE study = ? ORDER BY rowid",
            (study.uid,),
        ):
            study.associations.begin(name, calling_ae)
            if not still_open:
                study.associations.end(name, released=bool(released), stored=json.loads(stored))
        study.associations.changed.clear()
        for text, files, associations, conflict, corrected in self._db.execute(
            "SELECT instance, files, associations, conflict, corrected FROM members WHERE study = ? ORDER BY rowid",
            (study.uid,),
        ):
            instance = _INSTANCE.validate_json(text)
            member = Member(
                instance, set(json.loads(files)), set(json.loads(associations)), bool(conflict), bool(corrected)
            )
            study.restore(member)
        for pipeline, text in self._db.execute("SELECT pipeline, scan FROM scans WHERE study = ?", (study.uid,)):
            study.scans[pipeline] = _SCAN.validate_json(text)
        for uid, kept in record.series.items():
            _restore(study.series[uid], kept)
        return int(row[0])

    def save(
        self,
        study: StudyAssembly,
        *,
        due: float | None,
        announcements: int,
        outgoing: Sequence[tuple[str, Envelope]],
        senders: Collection[str],
        again: tuple[float, Collection[str]] = (0.0, ()),
        changes: Mapping[str, int] | None = None,
    ) -> None:
        """Write what changed of a study, what was learned of ``senders``, and what is to be published, as one.

        ``again``: a time at which these other studies are due. ``changes``: by pipeline, how often its scan has changed
        with this time, where other shards are told.
        """
        db = self._db
        with self._transaction():
            db.execute(
                "INSERT INTO studies VALUES (?, ?, ?, ?) ON CONFLICT (uid) DO UPDATE SET due = excluded.due, "
                "announcements = excluded.announcements, state = excluded.state",
                (study.uid, due, announcements, _STUDY.dump_json(_record(study)).decode()),
            )
            db.executemany(
                "INSERT INTO members VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (study, sop) DO UPDATE SET "
                "instance = excluded.instance, files = excluded.files, associations = excluded.associations, "
                "conflict = excluded.conflict, corrected = excluded.corrected",
                [self._member(study, uid) for uid in study.changed],
            )
            db.executemany(
                "INSERT INTO associations VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (study, name) DO UPDATE SET "
                "open = excluded.open, released = excluded.released, stored = excluded.stored",
                [
                    (study.uid, name, a.calling_ae, int(a.open), int(a.released), json.dumps(a.stored))
                    for name in study.associations.changed
                    if (a := study.associations[name]) is not None
                ],
            )
            db.executemany(
                "INSERT OR IGNORE INTO announced VALUES (?, ?)", [(study.uid, sop) for sop in study.announced.changed]
            )
            db.executemany(
                "INSERT INTO senders VALUES (?, ?) ON CONFLICT (ae) DO UPDATE SET state = excluded.state",
                [(ae, _SENDER.dump_json(study.senders[ae]).decode()) for ae in senders],
            )
            for pipeline in study.moved:
                change = (changes or {}).get(pipeline)
                self._keep_scan(study.uid, pipeline, study.scans.get(pipeline), change=change)
            self._due_again(*again)
            db.executemany(
                "INSERT INTO outbox (topic, envelope) VALUES (?, ?)",
                [(topic, envelope.model_dump_json()) for topic, envelope in outgoing],
            )
        study.changed.clear()
        study.moved.clear()
        study.announced.changed.clear()
        study.associations.changed.clear()

    def publish_outbox(self, publish: Callable[[str, list[Envelope]], None]) -> None:
        """Hand everything that waits to ``publish``, in order; what it raises leaves the rest waiting."""
        rows = self._db.execute("SELECT seq, topic, envelope FROM outbox ORDER BY seq").fetchall()
        if rows:
            self._check()
        told = None
        try:
            for seq, topic, text in rows:
                publish(topic, [Envelope.model_validate_json(text)])
                told = seq
        finally:
            if told is not None:
                # No sync of its own: a repetition has the same id and is ignored.
                self._db.execute(f"PRAGMA synchronous = {self._relaxed}")
                self._db.execute("DELETE FROM outbox WHERE seq <= ?", (told,))
                self._db.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._check()
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _keep_scan(self, study: str, pipeline: str, scan: Scan | None, *, change: int | None) -> None:
        if scan is None:
            self._db.execute("DELETE FROM scans WHERE study = ? AND pipeline = ?", (study, pipeline))
        else:
            row = (study, pipeline, scan.patient, scan.acquired_at, scan.received_at, _SCAN.dump_json(scan).decode())
            self._db.execute("INSERT OR REPLACE INTO scans VALUES (?, ?, ?, ?, ?, ?)", row)
        if change is not None:
            self._db.execute("INSERT OR REPLACE INTO scan_changes VALUES (?, ?, ?)", (study, pipeline, change))

    def _due_again(self, at: float, studies: Collection[str]) -> None:
        self._db.executemany(
            "UPDATE studies SET due = min(coalesce(due, ?), ?) WHERE uid = ?", [(at, at, uid) for uid in studies]
        )

    @staticmethod
    def _member(study: StudyAssembly, sop: str) -> tuple[str, str, str, str, str, int, int]:
        member = study.series[study.home[sop]].members[sop]
        return (
            study.uid,
            sop,
            _INSTANCE.dump_json(member.instance).decode(),
            json.dumps(sorted(member.files)),
            json.dumps(sorted(member.associations)),
            int(member.conflict),
            int(member.corrected),
        )


def _record(study: StudyAssembly) -> _StudyRecord:
    return _StudyRecord(
        revision=study.revision,
        settled=study.settled,
        jobs=study.jobs,
        published=study.published,
        series={
            uid: _SeriesRecord(
                last_at=s.last_at,
                longest_pause=s.longest_pause,
                split=s.split,
                contradicted=s.contradicted,
                undecided=s.undecided,
                stale=s.stale,
                decided_at=s.decided_at,
                decision=s.decision,
                replaced=frozenset(s.replaced),
                learned=frozenset(s.learned),
                confirm_at=s.confirm_at,
            )
            for uid, s in study.series.items()
        },
        unknown=study.announced.unknown,
    )


def _restore(series: SeriesState, kept: _SeriesRecord) -> None:
    series.last_at, series.longest_pause = kept.last_at, kept.longest_pause
    series.split, series.contradicted = kept.split, kept.contradicted
    series.learned, series.confirm_at = set(kept.learned), kept.confirm_at
    series.undecided, series.stale, series.decided_at = kept.undecided, kept.stale, kept.decided_at
    series.decision, series.replaced = kept.decision, set(kept.replaced)
    if series.grade is Grade.OPEN:
        series.guess()
    else:
        series.judge()
