"""The fold of ledgers and logs, without Kafka: what every member of a group must agree on."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ichor.bus.kafka_replica import Replica, dump, load
from ichor.errors import CannotStart
from ichor.messages import Envelope

JOIN = {"do": "join", "topics": ["jobs"], "me": "m/0"}


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    made = Replica(tmp_path, group="work")
    yield made
    made.db.close()


def body(id: str, subject: str | None = None) -> bytes:
    made = Envelope(id=id, source="t", type="ichor.test.v1", time=1.0, subject=subject or f"1.{id}", data={})
    return made.model_dump_json().encode()


def publish(replica: Replica, *ids: str, subject: str | None = None) -> None:
    for id in ids:
        offset = replica.positions.get("jobs", 0)
        replica.take_message("jobs", offset, body(id, subject), published=1.0, order=offset)


def tell(replica: Replica, *entries: Mapping[str, Any]) -> None:
    for entry in entries:
        found = load(dump(entry))
        assert found is not None
        replica.take_entry(replica.at, found, ours=False)


def claim(hand: str, *, seq: int = 1, me: str = "a/0", now: float = 10.0, lease: float = 30.0, most: int = 5) -> Any:
    return {
        "do": "claim", "topic": "jobs", "seq": seq, "hand": hand, "me": me, "now": now, "until": now + lease, "most": most,
    }  # fmt: skip


def state(replica: Replica) -> Any:
    """All that members must agree on; which stamps they gave is their own business."""
    columns = "topic, rank, seq, subject, due, owner, hand, attempts, dead, reason"
    deliveries = replica.db.execute(f"SELECT {columns} FROM delivery ORDER BY topic, seq").fetchall()
    letters = replica.db.execute("SELECT letter_id, topic, seq, attempts, reason, at FROM letter ORDER BY 1").fetchall()
    return deliveries, letters


def test_of_two_claims_the_first_in_the_ledger_counts(replica: Replica) -> None:
    tell(replica, JOIN)
    publish(replica, "a")
    tell(replica, claim("early", me="a/0"), claim("late", me="b/0"))
    assert replica.in_hand("early") is not None
    assert replica.in_hand("late") is None
    assert state(replica)[0][0][7] == 1


def test_two_claims_of_one_subject_at_once_give_it_to_one_member(replica: Replica) -> None:
    tell(replica, JOIN)
    publish(replica, "a", "b", subject="1.2")
    tell(replica, claim("one", seq=1, me="a/0"), claim("two", seq=2, me="b/0"))
    assert replica.in_hand("one") is not None
    assert replica.in_hand("two") is None


def test_a_member_that_is_back_under_its_name_ends_its_own_leases_and_the_attempt_counts(replica: Replica) -> None:
    tell(replica, JOIN)
    publish(replica, "a")
    tell(replica, claim("before", me="pod-3/0", lease=3600.0), {**JOIN, "me": "pod-3/0"}, claim("after", now=11.0))
    held = replica.in_hand("after")
    assert held is not None
    assert held[0] == 2


def test_what_kills_every_worker_is_given_up_with_its_cause(replica: Replica) -> None:
    tell(replica, JOIN)
    publish(replica, "a")
    for attempt in range(5):
        tell(replica, claim(f"hand{attempt}", now=100.0 * attempt + 10.0))
    tell(replica, claim("last", now=1000.0))
    assert replica.in_hand("last") == (5, True, body("a"))
    ((_, topic, seq, attempts, reason, at),) = state(replica)[1]
    assert (topic, seq, attempts, at) == ("jobs", 1, 5, 1000.0)
    assert "died or hung" in reason


def test_a_record_that_is_no_message_becomes_a_letter_and_the_next_ones_go_on(replica: Replica) -> None:
    tell(replica, JOIN)
    replica.take_message("jobs", 0, b"\xff{", published=5.0, order=0)
    replica.take_message("jobs", 1, None, published=5.0, order=1)
    publish(replica, "a")
    assert [row[2] for row in state(replica)[0]] == [3]
    assert sorted((row[2], row[4]) for row in state(replica)[1]) == [
        (1, "it is no message of Ichor"),
        (2, "it is no message of Ichor"),
    ]


def test_a_ledger_of_a_newer_version_stops_the_member(replica: Replica) -> None:
    with pytest.raises(CannotStart, match=r"work.*newer.*99"):
        replica.take_entry(0, {**JOIN, "v": 99}, ours=False)
    assert replica.at == 0


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"[]", b"7", b'{"do": "join"}', b'{"v": 1, "do": 3}'])
def test_what_is_no_record_is_none(value: bytes | None) -> None:
    assert load(value) is None


def test_a_claim_waits_for_its_message(replica: Replica) -> None:
    tell(replica, JOIN)
    assert replica.waits_for(claim("h"))
    publish(replica, "a")
    assert not replica.waits_for(claim("h"))


@pytest.mark.parametrize("seed", range(5))
def test_whoever_begins_with_a_snapshot_agrees_with_who_folded_all(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    old, new = Replica(tmp_path, group="work"), Replica(tmp_path, group="work")
    ledger: list[Mapping[str, Any]] = [JOIN]
    tell(old, JOIN)
    published, hands, now = 0, 0, 10.0

    def step() -> Mapping[str, Any]:
        nonlocal hands, now
        now += chance.random() * 20
        hand = f"hand{chance.randrange(hands + 1)}"
        key = {"topic": "jobs", "seq": chance.randrange(1, published + 1), "hand": hand, "now": now}
        kind = chance.choice(["claim"] * 4 + ["ack", "reject", "wait", "die", "extend", "give_back", "leave", "replay"])
        if kind == "claim":
            hands += 1
            return claim(f"hand{hands}", seq=key["seq"], me=chance.choice("abc"), now=now, most=3)
        letters = [row[0] for row in state(old)[1]]
        return {
            "ack": {**key, "do": "finish"},
            "reject": {**key, "do": "finish", "cause": "no"},
            "wait": {**key, "do": "wait", "due": now + 5, "left": 1, "reason": "not yet"},
            "die": {**key, "do": "die", "cause": "broken"},
            "extend": {"do": "extend", "hand": hand, "until": now + 50},
            "give_back": {"do": "give_back", "hand": hand},
            "leave": {"do": "leave", "me": chance.choice("abc")},
            "replay": {"do": "replay", "letter": chance.choice(letters) if letters else "none"},
        }[kind]

    for n in range(300):
        if n % 7 == 0:
            publish(old, f"{published}", subject=f"1.{published % 5}")
            published += 1
        ledger.append(step())
        tell(old, ledger[-1])
    taken = old.snapshot()
    assert taken is not None
    assert state(old)[0], "nothing unfinished: the test shows nothing"
    entry = json.loads(dump(taken))
    new.begin_with(entry["after"], entry)
    new.positions["jobs"] = 0
    for offset in range(published):  # what it reads again to know ids makes nothing new
        new.take_message("jobs", offset, body(f"{offset}", f"1.{offset % 5}"), published=1.0, order=offset)
    old.at = new.at
    for _ in range(200):
        more = step()
        tell(old, more)
        tell(new, more)
    assert state(new) == state(old)
    for made in (old, new):
        made.db.close()


def test_no_file_of_a_replica_stays(replica: Replica, tmp_path: Path) -> None:
    tell(replica, JOIN)
    publish(replica, *map(str, range(50)))
    assert list(tmp_path.iterdir()) == []
