"""What is special to the bus on SQLite: processes, kill -9, durability, versions, speed that does not fade."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from ichor.bus import schema
from ichor.bus.sqlite import SqliteBus
from ichor.clock import ManualClock
from ichor.errors import CannotStart, TransientError
from ichor.messages import Envelope

LONG = 30.0  # seconds; never waited for when all is well


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus.sqlite"


@pytest.fixture
def bus(path: Path) -> Iterator[SqliteBus]:
    made = SqliteBus(path)
    yield made
    made.close()


def message(id: str, subject: str | None = None) -> Envelope:
    return Envelope(id=id, source="test", type="ichor.test.v1", time=1.5, subject=subject or f"1.2.{id}", data={})


def test_who_wants_to_be_sure_gets_what_a_dead_member_held(bus: SqliteBus, path: Path) -> None:
    bus.publish("jobs", [message("a")])
    member = bus.subscribe(["jobs"], "work")
    dead = other_process(
        "one = bus.subscribe(['jobs'], 'work').receive(30)\nprint(one.envelope.id, flush=True)\nimport time; time.sleep(600)\n",
        str(path),
    )
    assert line(dead) == "a"
    assert member.receive(0, sure=True) is None
    kill(dead)
    again = member.receive(0, sure=True)
    assert again is not None
    assert (again.envelope.id, again.attempt) == ("a", 2)


def test_a_group_that_joins_while_messages_are_forgotten_has_what_it_was_given(
    bus: SqliteBus, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.publish("jobs", [message("old")])
    done = bus.subscribe(["jobs"], "one").receive(LONG)
    assert done is not None
    done.ack()
    other, joined, real = SqliteBus(path), [], SqliteBus._transaction

    def transaction(self: SqliteBus) -> AbstractContextManager[sqlite3.Connection]:
        if self is bus and not joined:
            joined.append(other.subscribe(["jobs"], "two"))
        return real(self)

    monkeypatch.setattr(SqliteBus, "_transaction", transaction)
    assert bus.prune("jobs", before=time.time() + 1.0) == 0
    late = joined[0].receive(LONG)
    assert late is not None
    assert late.envelope.id == "old"
    late.ack()
    assert bus.prune("jobs", before=time.time() + 1.0) == 1
    other.close()


def other_process(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs ``code`` with the bus at ``sys.argv[1]``; it is ready when it printed a line."""
    head = (
        "import sys, signal\nfrom ichor.bus.sqlite import SqliteBus\nfrom ichor.messages import Envelope\n"
        "bus = SqliteBus(sys.argv[1])\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


# --- processes -------------------------------------------------------------------------------------------------------


def test_what_a_killed_process_held_comes_back_long_before_its_lease_ends(bus: SqliteBus, path: Path) -> None:
    member = bus.subscribe(["jobs"], "work", lease=3600.0)
    bus.publish("jobs", [message("a"), message("b", subject="1.2.a")])
    holder = other_process(
        "held = bus.subscribe(['jobs'], 'work', lease=3600.0).receive(30)\nprint(held.attempt, flush=True)\nsignal.pause()",
        str(path),
    )
    assert line(holder) == "1"
    assert member.receive(0) is None
    holder.send_signal(signal.SIGKILL)
    delivery = member.receive(LONG)
    holder.communicate()
    assert delivery is not None
    assert (delivery.envelope.id, delivery.attempt) == ("a", 2)


def test_a_process_that_dies_of_every_attempt_makes_a_dead_letter(bus: SqliteBus, path: Path) -> None:
    member = bus.subscribe(["jobs"], "work", max_attempts=2)
    bus.publish("jobs", [message("a")])
    for attempt in ("1", "2"):
        victim = other_process(
            "import os\nheld = bus.subscribe(['jobs'], 'work', max_attempts=2).receive(30)\n"
            "print(held.attempt, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)",
            str(path),
        )
        assert line(victim) == attempt
        victim.communicate()
    delivery = member.receive(LONG)
    assert delivery is not None
    assert (delivery.dead, delivery.attempt) == (True, 2)
    assert [letter.attempts for letter in bus.dead_letters()] == [2]


def test_a_killed_publisher_leaves_all_or_none_of_a_batch_and_loses_nothing_it_was_told_of(
    bus: SqliteBus, path: Path
) -> None:
    publisher = other_process(
        "for n in range(10**6):\n"
        "    bus.publish('jobs', [Envelope(id=f'{n}.{k}', source='', type='', time=0, subject='1.2') for k in range(3)])\n"
        "    print(n, flush=True)\n",
        str(path),
    )
    assert [line(publisher) for _ in range(5)] == ["0", "1", "2", "3", "4"]
    publisher.send_signal(signal.SIGKILL)
    assert publisher.stdout is not None
    rest = publisher.stdout.read()  # communicate() would leave out what readline() had read ahead
    publisher.communicate()
    told = [0, 1, 2, 3, 4, *(int(n) for n in rest.split("\n")[:-1])]
    found = [envelope.id for _, envelope in bus.read("jobs", limit=10**6)]
    whole = len(found) // 3
    assert found == [f"{n}.{k}" for n in range(whole) for k in range(3)]
    assert whole in (len(told), len(told) + 1)  # the last one may have been killed before it could print


def test_two_processes_compete_and_every_message_is_done_once(bus: SqliteBus, path: Path) -> None:
    names = [f"{n}" for n in range(30)]
    bus.publish("jobs", [message(name, subject=f"1.2.{int(name) % 7}") for name in names])
    code = (
        "member = bus.subscribe(['jobs'], 'work')\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "while (held := member.receive(0.3)) is not None:\n"
        "    print(held.envelope.id, held.attempt, flush=True)\n    held.ack()\n"
        "bus.close()"
    )
    both = [other_process(code, str(path)) for _ in range(2)]
    assert [line(process) for process in both] == ["ready", "ready"]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    done = [entry for process in both for entry in process.communicate()[0].split("\n") if entry]
    assert sorted(done) == sorted(f"{name} 1" for name in names)


def test_a_publish_wakes_a_member_of_another_process(bus: SqliteBus, path: Path) -> None:
    sleeper = other_process(
        "member = bus.subscribe(['jobs'], 'work')\nprint('ready', flush=True)\nprint(member.receive(30).envelope.id)",
        str(path),
    )
    assert line(sleeper) == "ready"
    bus.publish("jobs", [message("a")])
    assert sleeper.communicate()[0].strip() == "a"


def test_a_disk_that_is_full_at_the_start_is_waited_for(small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("1m")
    with (disk / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize)
    with pytest.raises(TransientError, match="full"):
        SqliteBus(disk / "bus.sqlite")
    (disk / "ballast").unlink()
    bus = SqliteBus(disk / "bus.sqlite")
    bus.publish("jobs", [message("a")])
    assert [envelope.id for _, envelope in bus.read("jobs")] == ["a"]
    bus.close()


def test_many_processes_may_make_the_file_at_the_same_time(path: Path) -> None:
    code = "bus.publish('jobs', [Envelope(id=sys.argv[2], source='', type='', time=0, subject='1.2')])"
    processes = [other_process(code, str(path), str(n)) for n in range(4)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    bus = SqliteBus(path)
    assert sorted(envelope.id for _, envelope in bus.read("jobs")) == ["0", "1", "2", "3"]
    bus.close()


def test_a_bus_from_before_a_fork_says_so(bus: SqliteBus) -> None:
    def child() -> None:
        try:
            bus.lag()
        except RuntimeError as error:
            os._exit(7 if "fork" in str(error) else 1)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(LONG)
    assert process.exitcode == 7


def test_a_bus_that_closes_hands_back_what_its_members_held(path: Path) -> None:
    first = SqliteBus(path)
    member = first.subscribe(["jobs"], "work")
    first.publish("jobs", [message("a")])
    assert member.receive(0) is not None
    first.close()
    second = SqliteBus(path)
    again = second.subscribe(["jobs"], "work").receive(0)
    assert again is not None
    assert again.attempt == 1
    second.close()
    assert list(path.with_name("bus.sqlite.wake").iterdir()) == []


def test_a_release_that_fails_leaves_no_wake_and_no_member_behind(path: Path) -> None:
    bus = SqliteBus(path)
    for _ in range(2):
        bus.subscribe(["jobs"], "work")
    with bus._connection() as db:
        db.execute("DROP TABLE delivery")
    with pytest.raises(TransientError, match="delivery"):
        bus._members[0].close()
    assert len(bus._members) == 1
    with pytest.raises(TransientError, match="delivery"):
        bus.close()
    assert list(path.with_name("bus.sqlite.wake").iterdir()) == []
    with pytest.raises(RuntimeError, match="closed"):
        bus.lag()


# --- durability ------------------------------------------------------------------------------------------------------


def test_commits_are_synced_and_logged_ahead(bus: SqliteBus) -> None:
    with bus._connection() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA busy_timeout").fetchone() == (30000,)


def test_everything_is_there_after_a_restart(path: Path) -> None:
    clock = ManualClock()
    first = SqliteBus(path, clock=clock)
    member = first.subscribe(["jobs"], "work")
    first.publish("jobs", [message("a"), message("b"), message("c")])
    for verb in ("retry", "reject"):
        held = member.receive(0)
        assert held is not None
        if verb == "retry":
            held.retry(60.0, reason="not yet")
        else:
            held.reject("no")
    first.close()
    second = SqliteBus(path, clock=clock)
    member = second.subscribe(["jobs"], "work")
    held = member.receive(0)
    assert held is not None
    assert held.envelope.id == "c"
    assert member.receive(0) is None
    clock.advance(61.0)
    again = member.receive(0)
    assert again is not None
    assert (again.envelope.id, again.attempt) == ("a", 2)
    assert [letter.envelope.id for letter in second.dead_letters()] == ["b"]
    second.close()


def test_a_full_disk_is_a_transient_error_and_the_bus_goes_on_after_it(bus: SqliteBus) -> None:
    bus.publish("jobs", [message("a")])
    with bus._connection() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite answers is SQLITE_FULL, as when the disk is
    huge = Envelope(id="huge", source="", type="", time=0, subject="1.2", data={"x": "y" * 100_000})
    with pytest.raises(TransientError, match="full"):
        bus.publish("jobs", [message("b"), huge])
    bus.publish("jobs", [message("c"), huge])
    assert [envelope.id for _, envelope in bus.read("jobs")] == ["a", "c", "huge"]


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_newer_file_is_refused_with_both_versions(path: Path) -> None:
    SqliteBus(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(CannotStart, match=f"99.*{schema.VERSION}"):
        SqliteBus(path)


def test_a_file_that_is_no_bus_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no database at all, but long enough to look like one to somebody who reads its header only" * 20)
    with pytest.raises(CannotStart, match="text"):
        SqliteBus(text)
    other = tmp_path / "other.sqlite"
    db = sqlite3.connect(other)
    db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(CannotStart, match="other"):
        SqliteBus(other)


# --- speed -----------------------------------------------------------------------------------------------------------


def test_a_claim_searches_indices_and_never_touches_finished_messages(bus: SqliteBus) -> None:
    key = {"team": "work", "topic": "jobs", "now": 0.0, "me": "x"}
    with bus._connection() as db:
        plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + schema.CANDIDATE, key)]
    assert any("SEARCH d USING PRIMARY KEY (team=? AND topic=?)" in step for step in plan), plan
    assert any("delivery_subject (team=? AND subject=? AND due>?)" in step for step in plan), plan
    assert not any("SCAN" in step or "TEMP B-TREE" in step or "message" in step for step in plan), plan


def test_reading_the_log_searches_an_index(bus: SqliteBus) -> None:
    statements = {
        "message_topic": "SELECT seq, body FROM message WHERE topic = ? AND seq > ? ORDER BY seq LIMIT 5",
        "message_subject": "SELECT seq, body FROM message WHERE topic = ? AND subject = ? AND seq > ? ORDER BY seq",
    }
    for index, statement in statements.items():
        with bus._connection() as db:
            rows = db.execute("EXPLAIN QUERY PLAN " + statement, ["1"] * statement.count("?"))
            plan = [row[3] for row in rows]
        assert len(plan) == 1
        assert index in plan[0]
        assert "rowid>?" in plan[0]


def test_threads_that_come_and_go_leave_no_connections_behind(bus: SqliteBus) -> None:
    def publish(n: int) -> None:
        bus.publish("jobs", [message(str(n))])

    for n in range(20):
        thread = threading.Thread(target=publish, args=(n,))
        thread.start()
        thread.join()
    assert len(bus._idle) == 1
