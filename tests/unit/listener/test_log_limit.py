"""How often the same thing is said: lines of a kind, kinds at a time, and what is forgotten."""

from __future__ import annotations

from listener.log_limit import LogLimit


def test_a_flood_of_one_kind_is_logged_a_few_times_and_again_later() -> None:
    now = 0.0
    limit = LogLimit(monotonic=lambda: now)
    assert sum(limit.allows("probe") for _ in range(10_000)) == 10
    assert limit.allows("other")
    now = 100.0
    assert sum(limit.allows("probe") for _ in range(10_000)) == 10
    now = 111.0
    assert sum(limit.allows("probe") for _ in range(10_000)) == 1


def test_kinds_beyond_a_thousand_are_one() -> None:
    limit = LogLimit(monotonic=lambda: 0.0)
    assert sum(limit.allows(f"kind {number}") for number in range(50_000)) == 1010


def test_kinds_that_are_over_make_room_for_new_ones() -> None:
    now = 0.0
    limit = LogLimit(monotonic=lambda: now)
    for number in range(1000):
        assert limit.allows(f"kind {number}")
    now = 99.0
    assert sum(limit.allows("CT1") for _ in range(20)) == 10  # as one with others that have no room
    assert sum(limit.allows("CT2") for _ in range(20)) == 0
    now = 100.0
    assert sum(limit.allows("CT2") for _ in range(20)) == 10
    assert sum(limit.allows("CT3") for _ in range(20)) == 10


def test_a_kind_that_goes_on_does_not_begin_anew_and_memory_is_bounded() -> None:
    now = 0.0
    limit = LogLimit(monotonic=lambda: now)
    said = 0
    for second in range(2000):
        now = float(second)
        said += limit.allows("goes on")
        for number in range(20):
            limit.allows(f"{second} {number}")
        assert len(limit._kinds) <= 1001
    assert 200 <= said <= 210


def test_lines_at_once_and_their_pace_can_be_chosen() -> None:
    now = 0.0
    limit = LogLimit(at_once=2, every=5.0, monotonic=lambda: now)
    assert sum(limit.allows("kind") for _ in range(10)) == 2
    now = 5.0
    assert sum(limit.allows("kind") for _ in range(10)) == 1


def test_one_who_brings_kinds_without_end_leaves_room_for_those_of_others() -> None:
    now = 0.0
    limit = LogLimit(monotonic=lambda: now)
    said = sum(limit.allows(f"title {number}", of="10.0.0.66") for number in range(5_000))
    assert 100 <= said <= 110
    assert sum(limit.allows("CT1", of="10.0.0.5") for _ in range(20)) == 10
    now = 100.0
    assert limit.allows("title 7000", of="10.0.0.66")
    assert len(limit._kinds) == len(limit._of) == 1
