"""The thread that feeds a replica, on a cluster of lists: full disks, topics made anew, descriptors that run out."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import errors

from ichor.bus import kafka_client
from ichor.bus.kafka_client import Cluster
from ichor.bus.kafka_replica import dump
from ichor.bus.kafka_tail import Tail
from ichor.config import KafkaSettings
from ichor.errors import CannotStart, TransientError
from ichor.messages import Envelope

LONG = 60.0  # seconds; never waited for when all is well
LEDGER = "group.work"


class Lists:
    """A cluster whose topics are lists."""

    ledger_prefix = "group."
    servers = "lists"
    settings = SimpleNamespace(prefix="ichor.")

    def __init__(self) -> None:
        join = dump({"do": "join", "topics": ["jobs"], "me": "m/0", "by": "m"})
        self.logs: dict[str, list[bytes]] = {LEDGER: [join], "jobs": []}

    def consumer(self) -> Any:
        return Reader(self)

    def ensure(self, topics: Sequence[str]) -> None:
        pass

    def ends(self, topics: Sequence[str]) -> dict[str, tuple[int, int]]:
        return {topic: (0, len(self.logs[topic])) for topic in topics}

    def places(self, positions: Mapping[str, int]) -> dict[Any, int]:
        return {Place(topic): offset for topic, offset in positions.items()}

    def topic_of(self, name: str) -> str:
        return name

    def told(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class Place(str):
    @property
    def topic(self) -> str:
        return str(self)


class Reader:
    def __init__(self, lists: Lists) -> None:
        self.logs = lists.logs
        self.next: dict[Any, int] = {}

    def assign(self, _places: list[Any]) -> None:
        self.next = {}

    def seek(self, place: Any, offset: int) -> None:
        self.next[place] = offset

    def poll(self, **_timeout: int) -> dict[Any, list[Any]]:
        found = {}
        for place, offset in self.next.items():
            values = list(self.logs[place])
            if offset > len(values):
                raise errors.OffsetOutOfRangeError({place: offset})
            if values[offset:]:
                found[place] = [
                    SimpleNamespace(offset=offset + i, value=value, timestamp=1000, headers=[])
                    for i, value in enumerate(values[offset:])
                ]
                self.next[place] = len(values)
        if not found:
            time.sleep(0.01)
        return found

    def close(self) -> None:
        pass


@pytest.fixture
def lists() -> Lists:
    return Lists()


@pytest.fixture
def follow(lists: Lists, tmp_path: Path) -> Iterator[Callable[[], Tail]]:
    made: list[Tail] = []

    def one() -> Tail:
        made.append(Tail(lists, tmp_path, me="m", group="work"))  # type: ignore[arg-type]
        return made[-1]

    yield one
    for tail in made:
        tail.close()


def body(id: str, **data: Any) -> bytes:
    made = Envelope(id=id, source="t", type="ichor.test.v1", time=1.0, subject=f"1.{id}", data=data)
    return made.model_dump_json().encode()


def wait_for(tail: Tail, true: Callable[[], object]) -> None:
    with tail.replica.changed:
        assert tail.replica.changed.wait_for(true, LONG)


def open_ones(tail: Tail) -> int:
    return int(tail.replica.db.execute("SELECT count(*) FROM delivery").fetchone()[0])


def test_what_came_while_the_disk_was_full_is_there_after_it(lists: Lists, follow: Callable[[], Tail]) -> None:
    tail = follow()
    replica = tail.replica
    lists.logs["jobs"] += [body(str(i)) for i in range(10)]
    wait_for(tail, lambda: open_ones(tail) == 10)
    with replica.changed:
        # As on a full disk what fails is the COMMIT, where the pages that were kept back are written.
        db = replica.db
        replica.db = FullAtCommit(db)  # type: ignore[assignment]
        lists.logs["jobs"] += [body(str(i)) for i in range(10, 20)]
        assert replica.changed.wait_for(lambda: replica.error is not None, LONG)
        assert not db.in_transaction
        snapshot = replica.snapshot()
        assert snapshot is not None
        assert snapshot["positions"].get("jobs", 0) <= len(snapshot["deliveries"])
        replica.db = db
    wait_for(tail, lambda: replica.error is None and open_ones(tail) == 20)
    tail.catch_up(LONG)


class FullAtCommit:
    def __init__(self, db: Any) -> None:
        self.db = db

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement == "COMMIT":
            raise TransientError("database or disk is full")
        return self.db.execute(statement, *values)


def test_a_topic_that_was_made_anew_stops_who_knew_more_and_who_comes(lists: Lists, follow: Callable[[], Tail]) -> None:
    tail = follow()
    lists.logs["jobs"] += [body(str(i)) for i in range(50)]
    wait_for(tail, lambda: tail.replica.positions.get("jobs") == 50)
    snapshot = tail.replica.snapshot()
    assert snapshot is not None
    lists.logs["jobs"] = [body(str(i)) for i in range(100, 105)]
    wait_for(tail, lambda: tail.replica.error is not None)
    with pytest.raises(CannotStart, match=r"ichor\.jobs is shorter than the ledger of group work knows"):
        tail.catch_up(LONG)
    lists.logs[LEDGER] = [b"{}", dump(snapshot)]
    fresh = follow()
    wait_for(fresh, lambda: fresh.replica.error is not None)
    with pytest.raises(CannotStart, match="shorter"):
        fresh.check()


def test_what_was_foreseen_is_told_to_who_waits_and_what_was_not_is_said_once_with_its_trace(
    lists: Lists, follow: Callable[[], Tail], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="ichor.bus.kafka_tail")
    said = iter([
        TransientError("Kafka at lists: KafkaConnectionError: 111"),
        CannotStart("Kafka refuses the credentials"),
        ZeroDivisionError("one"),
        ZeroDivisionError("another"),
    ])  # fmt: skip
    go_on = threading.Semaphore()

    def ends(topics: Sequence[str]) -> dict[str, tuple[int, int]]:
        assert go_on.acquire(timeout=LONG)
        for error in said:
            raise error
        return Lists.ends(lists, topics)

    lists.ends = ends  # type: ignore[method-assign]  # not `places`: that is called with the replica's lock held
    tail = follow()
    for error, text in ((TransientError, "111"), (CannotStart, "credentials"), (TransientError, "one")):
        wait_for(tail, lambda text=text: text in str(tail.replica.error))  # type: ignore[misc]
        with pytest.raises(error, match=text):
            tail.check()
        go_on.release()
    go_on.release(10)
    wait_for(tail, lambda: "bus goes on" in caplog.text)
    assert [record.getMessage() for record in caplog.records] == ["bus waits: one", "bus goes on"]
    assert "ZeroDivisionError" in caplog.text


def test_descriptors_that_run_out_are_no_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(**_settings: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(kafka_client.kafka, "KafkaAdminClient", no_more)
    with pytest.raises(TransientError, match="Too many open files"):
        Cluster("kafka://127.0.0.1:1", KafkaSettings()).ends(["jobs"])
