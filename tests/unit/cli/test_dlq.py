"""`ichor dlq` and `ichor replay`."""

from __future__ import annotations

import json

import pytest

from ichor.bus.memory import MemoryBus
from ichor.cli.dlq import dlq, replay_study
from ichor.clock import ManualClock
from ichor.errors import ConfigError
from ichor.messages import Envelope


@pytest.fixture
def bus() -> MemoryBus:
    """Two letters of study 1.2.1 and one of 1.2.2, from one group."""
    made = MemoryBus(clock=ManualClock(1_700_000_000.0))
    member = made.subscribe(["jobs.x.routine"], "work")
    subjects = {"a": "1.2.1", "b": "1.2.1", "c": "1.2.2"}
    made.publish(
        "jobs.x.routine",
        [Envelope(id=i, source="s", type="t", time=0, subject=s, data={"k": 1}) for i, s in subjects.items()],
    )
    while (delivery := member.receive(0)) is not None:
        delivery.reject(f"no {delivery.envelope.id}")
    member.close()
    return made


def again(bus: MemoryBus) -> list[str]:
    """Ids of what is delivered to the group now."""
    member = bus.subscribe(["jobs.x.routine"], "work")
    found = []
    while (delivery := member.receive(0)) is not None:
        found.append(delivery.envelope.id)
        delivery.ack()
    return found


def test_list_names_every_letter_with_its_study_and_cause(bus: MemoryBus, capsys: pytest.CaptureFixture[str]) -> None:
    assert dlq("list", None, bus=bus) == 0
    out = capsys.readouterr().out
    for letter in bus.dead_letters():
        assert letter.letter_id in out
    assert "1.2.2\n    2023-11-14T22:13:20.000Z  no c" in out
    assert "3 dead letters" in out


def test_list_of_none_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert dlq("list", None, bus=MemoryBus()) == 0
    assert capsys.readouterr().out == "0 dead letters\n"


def test_show_prints_the_whole_message_as_json(bus: MemoryBus, capsys: pytest.CaptureFixture[str]) -> None:
    letter = bus.dead_letters()[0]
    assert dlq("show", letter.letter_id, bus=bus) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["id"], shown["reason"], shown["attempts"]) == (letter.letter_id, "no a", 1)
    assert Envelope.model_validate(shown["message"]) == letter.envelope


def test_replay_delivers_that_one_again(bus: MemoryBus) -> None:
    letter = bus.dead_letters()[1]
    assert dlq("replay", letter.letter_id, bus=bus) == 0
    assert again(bus) == ["b"]
    assert [entry.reason for entry in bus.dead_letters()] == ["no a", "no c"]


@pytest.mark.parametrize("verb", ["show", "replay"])
def test_an_unknown_letter_is_exit_1(bus: MemoryBus, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dlq(verb, "nonesuch", bus=bus) == 1
    assert "nonesuch" in capsys.readouterr().err


@pytest.mark.parametrize(("verb", "letter"), [("show", None), ("replay", None), ("list", "x")])
def test_a_missing_or_needless_id_is_wrong_use(bus: MemoryBus, verb: str, letter: str | None) -> None:
    with pytest.raises(ConfigError, match="ID"):
        dlq(verb, letter, bus=bus)


def test_replay_of_a_study_delivers_all_its_letters_and_no_others(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay_study("1.2.1", bus=bus) == 0
    assert capsys.readouterr().out.count("replayed") == 2
    assert again(bus) == ["a", "b"]
    assert [entry.envelope.id for entry in bus.dead_letters()] == ["c"]


def test_replay_of_a_study_without_letters_says_so_with_exit_1(
    bus: MemoryBus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay_study("1.2.3", bus=bus) == 1
    assert "1.2.3" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        replay_study("nonsense", bus=bus)
