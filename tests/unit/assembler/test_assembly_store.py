"""The assembler's mind written and read back: nothing is lost, and what an earlier version wrote still reads."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from contract.arrivals import make_slice

from ichor.messages import AssociationClosed, ContentAnnounced, Envelope
from ichor.pipeline import PipelineSpec
from ichor.series.senders import Lesson, Sender
from ichor.store.ownership import ShardLost
from ichor.types import Findings, Grade, Scan
from listener.assembly_store import AssemblyStore
from listener.study import StudyAssembly
from listener.view import view_of

# Of version 1 as it was first released.
_SERIES = {
    "last_at", "longest_pause", "split", "contradicted", "count_learned", "several_learned", "one_learned",
    "parts_learned", "undecided", "stale", "decided_at", "decision",
}  # fmt: skip
_FLAGS = ("count", "several", "one", "parts", "product", "lone", "objects", "announced")
_STUDY = {"revision", "settled", "jobs", "published", "series"}
_SENDER = {
    "series", "splits", "several", "parts", "ones", "counts_right", "counts_wrong", "counts_high", "longest_pause",
}  # fmt: skip


def _never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


def empty(senders: dict[str, Sender] | None = None) -> StudyAssembly:
    pipeline = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=_never)
    return StudyAssembly(
        uid="1.2.3", pipelines=(pipeline,), study_wait=10.0, senders={} if senders is None else senders
    )


def fill(study: StudyAssembly) -> None:
    slices = [make_slice(number=n + 1) for n in range(12)]
    study.receive(slices, association="a1", now=1000.0)
    study.announce(
        ContentAnnounced(
            study_instance_uid="1.2.3", association="c1", calling_ae="CT1",
            sop_instance_uids=tuple(s.sop_instance_uid for s in slices), unknown=2,
        )
    )  # fmt: skip
    study.close(
        AssociationClosed(
            study_instance_uid="1.2.3", association="a1", released=True, calling_ae="CT1", counts={"1.2.3.1": 12},
            closed_at=1000.0,
        )
    )  # fmt: skip
    study.look(1000.0, put_manifest=_never)  # type: ignore[arg-type]


def save(store: AssemblyStore, study: StudyAssembly) -> None:
    store.save(study, due=study.due, announcements=1, outgoing=(), senders=list(study.senders))


def test_what_was_announced_and_learned_is_read_back(tmp_path: Path) -> None:
    store = AssemblyStore(tmp_path / "state.sqlite")
    study = empty()
    fill(study)
    save(store, study)
    store.close()
    again = empty()
    store = AssemblyStore(tmp_path / "state.sqlite")
    assert store.load(again) == 1
    assert (again.announced.uids, again.announced.unknown) == (study.announced.uids, 2)
    assert len(again.announced.uids) == 12
    assert store.senders() == study.senders
    assert again.due == study.due
    assert view_of(again, now=1000.0) == view_of(study, now=1000.0)
    assert not again.announced.changed


def test_state_of_the_first_version_still_reads(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    study = empty()
    study.receive([make_slice(number=n + 1) for n in range(12)], association="a1", now=1000.0)
    study.look(1000.0, put_manifest=_never)  # type: ignore[arg-type]
    study.senders["CT1"] = Sender(series=30, splits=2, counts_right=5, longest_pause=4.0)
    study.series["1.2.3.1"].learned = {Lesson.COUNT, Lesson.ONE}
    store = AssemblyStore(path)
    save(store, study)
    store.close()
    _make_old(path)
    store = AssemblyStore(path)
    senders = store.senders()
    assert senders == {"CT1": Sender(series=30, splits=2, counts_right=5, longest_pause=4.0)}
    assert senders["CT1"].splits_series
    again = empty(senders)
    assert store.load(again) == 1
    assert (again.announced.uids, again.announced.unknown) == (set(), 0)
    assert again.series["1.2.3.1"].grade is Grade.OPEN
    assert len(again.series["1.2.3.1"].members) == 12
    assert again.series["1.2.3.1"].learned == {Lesson.COUNT, Lesson.ONE}
    assert again.due == study.due
    save(store, again)
    store.close()
    with sqlite3.connect(path) as db:
        # What was written now a first version would not understand: it must refuse, not guess.
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
    assert AssemblyStore(path).load(empty()) == 1


@pytest.mark.parametrize("lesson", [lesson for lesson in Lesson if lesson is not Lesson.SETS])  # newer than the flags
def test_every_lesson_that_was_a_flag_of_its_own_is_read(tmp_path: Path, lesson: Lesson) -> None:
    path = tmp_path / "state.sqlite"
    study = empty()
    fill(study)
    study.series["1.2.3.1"].learned = {lesson}
    store = AssemblyStore(path)
    save(store, study)
    store.close()
    _flags_for_lessons(path)
    again = empty()
    assert AssemblyStore(path).load(again) == 1
    assert again.series["1.2.3.1"].learned == {lesson}
    assert view_of(again, now=1000.0) == view_of(study, now=1000.0)


def _flags_for_lessons(path: Path) -> None:
    """As before lessons were one set."""
    db = sqlite3.connect(path)
    (text,) = db.execute("SELECT state FROM studies").fetchone()
    state = json.loads(text)
    for series in state["series"].values():
        learned = series.pop("learned")
        series |= {f"{name}_learned": name in learned for name in _FLAGS}
    db.execute("UPDATE studies SET state = ?", (json.dumps(state),))
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()


def _make_old(path: Path) -> None:
    _flags_for_lessons(path)
    db = sqlite3.connect(path)
    (text,) = db.execute("SELECT state FROM studies").fetchone()
    state = {key: value for key, value in json.loads(text).items() if key in _STUDY}
    state["series"] = {
        uid: {key: value for key, value in series.items() if key in _SERIES} for uid, series in state["series"].items()
    }
    (sender,) = db.execute("SELECT state FROM senders").fetchone()
    sender = {key: value for key, value in json.loads(sender).items() if key in _SENDER}
    db.execute("UPDATE studies SET state = ?", (json.dumps(state),))
    db.execute("UPDATE senders SET state = ?", (json.dumps(sender),))
    # What an instance says was less, too.
    new = ("dialect", "kind", "kind_reason", "slot", "tiling", "frames", "unit", "sequence")
    for rowid, text in db.execute("SELECT rowid, instance FROM members").fetchall():
        facts = {key: value for key, value in json.loads(text).items() if key not in new}
        db.execute("UPDATE members SET instance = ? WHERE rowid = ?", (json.dumps(facts), rowid))
    db.execute("DROP TABLE announced")
    db.commit()
    db.close()


def test_scans_of_a_patient_are_found_by_time_and_copies_hide_none(tmp_path: Path) -> None:
    store = AssemblyStore(tmp_path / "assembly.sqlite")
    wanted = Scan(
        study_instance_uid="1.2.100", pipeline="haematoma", patient="p" * 32, issuer="", birth_date=None,
        acquired_at=1e9, received_at=5.0, about="", inputs={},
    )  # fmt: skip

    def keep(number: int, *, hours: float | None, received_at: float = 5.0, patient: str = "p" * 32) -> None:
        study = empty()
        study.uid = f"1.2.{number}"
        at = None if hours is None else 1e9 + hours * 3600
        scan = replace(
            wanted, study_instance_uid=study.uid, acquired_at=at, received_at=received_at, patient=patient
        )  # fmt: skip
        study.scans["haematoma"], study.moved["haematoma"] = scan, (None, scan)
        store.save(study, due=None, announcements=0, outgoing=(), senders=())

    for number in range(1, 41):
        keep(number, hours=0)
    for number, hours in ((51, -1), (52, -71), (53, -73), (54, 1), (55, 73), (56, None)):
        keep(number, hours=hours)
    keep(57, hours=None, received_at=5.0 + 80 * 3600)
    keep(58, hours=-2, patient="q" * 32)
    keep(100, hours=0)
    before, after = store.scans_before(wanted, 72), store.scans_after(wanted, 72)
    assert [scan.study_instance_uid for scan in before] == ["1.2.51", "1.2.52", "1.2.56"]
    assert [scan.study_instance_uid for scan in after] == ["1.2.54", "1.2.56"]
    again = empty()
    again.uid = "1.2.51"
    assert store.load(again) is not None
    assert again.scans["haematoma"] == before[0]
    again.moved["haematoma"] = (again.scans.pop("haematoma"), None)
    store.save(again, due=None, announcements=0, outgoing=(), senders=())
    assert [scan.study_instance_uid for scan in store.scans_before(wanted, 72)] == ["1.2.52", "1.2.56"]
    store.close()


def test_who_lost_its_shard_writes_and_tells_nothing_more(tmp_path: Path) -> None:
    asked: list[None] = []
    lost_at = 10**9

    def check() -> None:
        asked.append(None)
        if len(asked) >= lost_at:
            raise ShardLost("shard 0")

    path = tmp_path / "0.sqlite"
    store = AssemblyStore(path, shared=True, check=check)
    study = empty()
    fill(study)
    event = Envelope(id="a", source="test", type="ichor.test.v1", time=0.0, subject="1.2.3")
    store.save(study, due=1.0, announcements=1, outgoing=[("events", event)], senders=())
    before, told = path.read_bytes(), list[str]()
    asked_for_one = len(asked)
    for more in range(1, 1 + asked_for_one):
        lost_at = asked_for_one + more
        study.announced.changed.add("1.2.3.1.99")
        with pytest.raises(ShardLost):
            store.save(study, due=2.0, announcements=2, outgoing=[("events", event)], senders=())
        assert path.read_bytes() == before
        asked[:] = asked[:asked_for_one]
    lost_at = 0
    with pytest.raises(ShardLost):
        store.publish_outbox(lambda topic, _: told.append(topic))
    store.close()
    assert (path.read_bytes(), told) == (before, [])
    with_it = AssemblyStore(path, shared=True)
    again = empty()
    assert (with_it.load(again), with_it.scan("1.2.3", "haematoma")) == (1, (0, None))
    with_it.publish_outbox(lambda topic, _: told.append(topic))
    assert told == ["events"]
    with_it.close()


def test_a_file_of_a_shared_volume_is_open_once_and_nothing_of_it_is_mapped(tmp_path: Path) -> None:
    store = AssemblyStore(tmp_path / "0.sqlite", shared=True)
    study = empty()
    fill(study)
    save(store, study)
    assert {path.name for path in tmp_path.iterdir()} <= {"0.sqlite", "0.sqlite-journal"}
    with (
        sqlite3.connect(tmp_path / "0.sqlite", timeout=0) as second,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        second.execute("SELECT count(*) FROM studies")
    second.close()
    store.close()
