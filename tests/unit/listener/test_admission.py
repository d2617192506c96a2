"""Judging association requests: which reject reason of PS3.8 9.3.4 each gets, and who has a place."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.listener.requests import identity, item, request

from ichor.config import SenderSettings
from ichor.errors import ConfigError
from ichor.types import Priority
from listener.admission import Admission, Admitted, Hosts, Rejection, UnreadableRequest

HERE = "10.1.2.3"


def admission(senders: tuple[SenderSettings, ...] = (), *, most: int = 10, **more: Any) -> Admission:
    return Admission(titles={"ICHOR": None, "ICHOR_STAT": Priority.STAT}, senders=senders, most=most, **more)


def sender(**changes: Any) -> SenderSettings:
    return SenderSettings(**{"ae_title": "CT1", "host": HERE, **changes})


def rejected(verdict: Admitted | Rejection) -> tuple[int, int, int]:
    assert isinstance(verdict, Rejection), verdict
    return verdict[:3]


@pytest.mark.parametrize(
    ("asked", "senders", "answer"),
    [
        (request(version=2), (), (1, 2, 2)),
        (request(context=b"1.2.3"), (), (1, 1, 2)),
        (request(called=b"OTHER"), (), (1, 1, 7)),
        (request(called=b"ichor"), (), (1, 1, 7)),
        (request(calling=b"CT2"), (sender(),), (1, 1, 3)),
        (request(), (sender(host="10.1.2.4"),), (1, 1, 3)),
        (request(), (sender(host="no.such.host.invalid"),), (1, 1, 3)),
        (request(), (sender(username="scanner"),), (1, 1, 1)),
        (request(user=identity(1, b"other")), (sender(username="scanner"),), (1, 1, 1)),
        (request(user=identity(2, b"scanner", b"x")), (sender(username="scanner"),), (1, 1, 1)),
    ],
)
def test_what_is_wrong_has_its_reject_reason(
    asked: bytes, senders: tuple[SenderSettings, ...], answer: tuple[int, int, int]
) -> None:
    door = admission(senders)
    assert rejected(door.judge(asked, HERE)) == answer
    assert door.open() == 0


@pytest.mark.parametrize(
    "asked",
    [
        request()[:60],
        request(more=b"\x50\0\0"),
        request(more=item(0x20, b"abc", length=400)),
        request(user=item(0x51, b"", length=9000)),
        request(user=item(0x58, b"\1")),
        request(user=item(0x58, b"\1\0\0\x09ab\0\0")),
        request(user=item(0x58, b"\2\0\0\1a\0\x09b")),
    ],
)
def test_lengths_that_lead_outside_are_unreadable(asked: bytes) -> None:
    with pytest.raises(UnreadableRequest):
        admission((sender(username="scanner"),)).judge(asked, HERE)


@given(st.binary(max_size=300), st.integers(0, 200))
def test_any_bytes_are_judged_or_unreadable(noise: bytes, at: int) -> None:
    whole = request(user=identity(2, b"scanner", b"code"))
    try:
        verdict = admission((sender(host="10.9.9.9"),)).judge(whole[:at] + noise + whole[at + len(noise) :], HERE)
    except UnreadableRequest:
        return
    assert isinstance(verdict, Rejection)


def test_sender_and_called_title_give_the_priority() -> None:
    door = admission((sender(priority=Priority.LOW),))
    verdict = door.judge(request(called=b"ICHOR_STAT"), HERE)
    assert isinstance(verdict, Admitted)
    assert (verdict.calling_ae, verdict.called_ae) == ("CT1", "ICHOR_STAT")
    assert (verdict.sender_priority, verdict.called_priority) == (Priority.LOW, Priority.STAT)


def test_places_are_counted_in_all_and_for_each_sender_and_given_back_once() -> None:
    door = admission((sender(associations=2), sender(ae_title="CT2")), most=3)
    places = [door.judge(request(), HERE) for _ in range(2)]
    assert rejected(door.judge(request(), HERE)) == (2, 3, 2)
    other = door.judge(request(calling=b"CT2"), HERE)
    assert isinstance(other, Admitted)
    assert rejected(door.judge(request(calling=b"CT2"), HERE)) == (2, 3, 2)
    first = places[0]
    assert isinstance(first, Admitted)
    door.leave(first)
    door.leave(first)
    assert door.open() == 2
    assert isinstance(door.judge(request(), HERE), Admitted)
    assert rejected(door.judge(request(), HERE)) == (2, 3, 2)


@pytest.mark.parametrize("listed", [True, False])
def test_one_sender_cannot_take_all_places(listed: bool) -> None:
    door = admission((sender(), sender(ae_title="CT2"), sender(ae_title="CT3")) if listed else (), most=30)
    places = [door.judge(request(), HERE) for _ in range(30)]
    assert [isinstance(place, Admitted) for place in places] == [True] * 27 + [False] * 3
    assert rejected(places[-1]) == (2, 3, 2)
    assert isinstance(door.judge(request(calling=b"CT2"), HERE), Admitted)
    assert rejected(door.judge(request(calling=b"CT2"), HERE)) == (2, 3, 2)
    assert isinstance(door.judge(request(calling=b"CT3"), HERE), Admitted)
    assert door.open() == 29
    for place in places[:3]:
        assert isinstance(place, Admitted)
        door.leave(place)
    assert isinstance(door.judge(request(), HERE), Admitted)


def test_a_low_disk_is_congestion_and_passes() -> None:
    low = True
    door = admission(is_congested=lambda: low)
    assert rejected(door.judge(request(), HERE)) == (2, 3, 1)
    low = False
    assert isinstance(door.judge(request(), HERE), Admitted)


def test_an_identity_is_demanded_by_name_and_passcode(tmp_path: Path) -> None:
    file = tmp_path / "passcode"
    file.write_text("open sesame\n")
    door = admission((sender(username="scanner", passcode_file=str(file)), sender(ae_title="CT2")))
    for wrong in (identity(1, b"scanner"), identity(2, b"scanner", b"open"), identity(2, b"x", b"open sesame")):
        assert rejected(door.judge(request(user=wrong), HERE)) == (1, 1, 1)
    right = door.judge(request(user=identity(2, b"scanner", b"open sesame", wants_answer=True)), HERE)
    assert isinstance(right, Admitted)
    assert right.answers_identity
    quiet = door.judge(request(user=identity(2, b"scanner", b"open sesame")), HERE)
    assert isinstance(quiet, Admitted)
    assert not quiet.answers_identity


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 77])
def test_an_identity_that_nobody_demands_is_ignored(kind: int) -> None:
    verdict = admission((sender(),)).judge(request(user=identity(kind, b"a", b"b", wants_answer=True)), HERE)
    assert isinstance(verdict, Admitted)
    assert not verdict.answers_identity


@pytest.mark.parametrize("text", [None, " \n"])
def test_a_passcode_file_that_is_absent_or_empty_stops_the_start(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "passcode"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match="passcode_file"):
        admission((sender(username="a", passcode_file=str(file)),))


def test_hosts_by_name_are_looked_up_anew_and_keep_what_they_had() -> None:
    answers: list[set[str] | OSError] = [{"10.0.0.1", "fd00::1"}, OSError(), {"10.0.0.2"}]

    def look_up(name: str) -> set[str]:
        assert name == "ct.example"
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    hosts = Hosts(["ct.example", "10.0.0.9"], look_up=look_up)
    assert [hosts.has("ct.example", a) for a in ("10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "10.0.0.2", "junk")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    hosts.refresh()
    assert hosts.has("ct.example", "10.0.0.1")
    hosts.refresh()
    assert [hosts.has("ct.example", a) for a in ("10.0.0.1", "10.0.0.2")] == [False, True]
    assert hosts.has("10.0.0.9", "10.0.0.9")


def test_name_that_cannot_be_looked_up_stops_neither_the_start_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def look_up(name: str) -> set[str]:
        if name == "broken.example":
            raise UnicodeError("label too long")
        return {"10.0.0.1"}

    hosts = Hosts(["broken.example", "ct.example"], look_up=look_up)
    assert hosts.has("ct.example", "10.0.0.1")
    assert not hosts.has("broken.example", "10.0.0.1")
    assert "the address of a sender cannot be found: broken.example (UnicodeError)" in caplog.messages


def test_start_does_not_wait_for_a_server_of_names_that_is_silent() -> None:
    answers = threading.Event()

    def look_up(_: str) -> set[str]:
        assert answers.wait(60)
        return {"10.0.0.1"}

    hosts = Hosts(["ct.example"], look_up=look_up, patience=0.01)
    assert not hosts.has("ct.example", "10.0.0.1")
    answers.set()
    assert hosts._looked_up.wait(60)
    assert hosts.has("ct.example", "10.0.0.1")
