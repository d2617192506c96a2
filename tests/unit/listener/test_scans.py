"""Which scan of the same patient comes before another, and when the two may be compared."""

from __future__ import annotations

import pytest
from contract.arrivals import make_slice

from ichor.reasons import Reason
from ichor.types import Scan
from listener.scans import NOBODY, before, changes, scan_of

HOUR = 3600.0
NOON = 1_700_000_000.0


def scan(study: str = "1.2.1", *, hours: float | None = 0.0, **changes: object) -> Scan:
    made = Scan(
        study_instance_uid=study, pipeline="haematoma", patient="p" * 32, issuer="i" * 32, birth_date="b" * 32,
        acquired_at=None if hours is None else NOON + hours * HOUR, received_at=NOON, about=f"content of {study}",
        inputs={},
    )  # fmt: skip
    return made if not changes else Scan(**{**{f: getattr(made, f) for f in made.__slots__}, **changes})


def link(later: Scan, *others: Scan) -> tuple[str, str | None] | None:
    found = before(later, others, hours=72)
    return None if found is None else (found[0].study_instance_uid, found[0].refusal)


def test_the_same_patient_within_three_days_is_compared() -> None:
    found = before(scan("1.2.9", hours=6.5), [scan()], hours=72)
    assert found is not None
    assert (found[0].study_instance_uid, found[0].hours, found[0].refusal) == ("1.2.1", 6.5, None)


def test_the_nearest_one_before_is_taken() -> None:
    others = [scan("1.2.1", hours=0), scan("1.2.2", hours=10), scan("1.2.3", hours=30)]
    assert link(scan("1.2.9", hours=24), *others) == ("1.2.2", None)


@pytest.mark.parametrize(("hours", "linked"), [(72.0, True), (72.01, False), (0.0, False), (-1.0, False)])
def test_only_an_earlier_scan_within_the_window_counts(hours: float, linked: bool) -> None:
    assert (link(scan("1.2.9", hours=hours), scan()) is not None) is linked


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issuer": "j" * 32}, Reason.EARLIER_OTHER_ISSUER),
        ({"issuer": NOBODY}, Reason.EARLIER_OTHER_ISSUER),
        ({"birth_date": "c" * 32}, Reason.EARLIER_OTHER_BIRTH_DATE),
        ({"birth_date": None}, Reason.EARLIER_NO_BIRTH_DATE),
        ({"acquired_at": None}, Reason.EARLIER_NO_TIME),
    ],
)
def test_a_disagreement_is_not_linked_and_said(changes: dict[str, object], reason: Reason) -> None:
    assert link(scan("1.2.9", hours=6), scan(**changes)) == ("", reason)


def test_two_without_an_issuer_agree() -> None:
    assert link(scan("1.2.9", hours=6, issuer=NOBODY), scan(issuer=NOBODY)) == ("1.2.1", None)


def test_another_patient_is_not_spoken_of() -> None:
    assert link(scan("1.2.9", hours=6), scan(patient="q" * 32)) is None


def test_one_that_agrees_goes_before_a_nearer_one_that_does_not() -> None:
    others = [scan("1.2.1"), scan("1.2.2", hours=5, birth_date="c" * 32)]
    assert link(scan("1.2.9", hours=6), *others) == ("1.2.1", None)


def test_a_missing_time_matters_only_for_scans_that_came_within_the_window() -> None:
    old = scan(hours=None, received_at=NOON - 100 * HOUR)
    assert link(scan("1.2.9", hours=6), old) is None


def test_a_copy_that_is_not_whole_is_no_earlier_scan() -> None:
    whole = scan("1.2.1", acquired_until=NOON + 30.0)
    half = scan("1.2.2", acquired_at=NOON + 15.0, acquired_until=NOON + 30.0)
    assert link(half, whole) is None
    assert link(scan("1.2.9", hours=6), whole, half) == ("1.2.2", None)
    assert link(scan("1.2.9", acquired_at=NOON + 31.0), whole) == ("1.2.1", None)


@pytest.mark.parametrize(
    ("was", "now", "changed"),
    [
        (None, scan("1.2.3", hours=5), True),  # becomes the newest
        (scan("1.2.3", hours=5), None, True),  # was it
        (scan("1.2.3", hours=5), scan("1.2.3", hours=5, about="other content"), True),  # is it
        (scan("1.2.3", hours=5), scan("1.2.3", hours=5, received_at=NOON + 1, inputs={"a": "b"}), False),
        (None, scan("1.2.3", hours=3), False),  # another one is nearer
        (None, scan("1.2.3", hours=5, birth_date="c" * 32), False),  # does not agree, another one does
        (None, scan("1.2.3", hours=6), False),  # a copy
        (None, None, False),
    ],
)
def test_a_scan_changes_only_what_it_is_or_was_the_newest_before(
    was: Scan | None, now: Scan | None, changed: bool
) -> None:
    beside = [scan("1.2.1"), scan("1.2.2", hours=4), *([was] if was else [])]
    assert changes(scan("1.2.9", hours=6), beside, was=was, now=now, hours=72) is changed


def test_what_is_compared_tells_a_changed_scan_from_the_one_before() -> None:
    later = scan("1.2.9", hours=6)
    keys = {(before(later, [scan(about=about)], hours=72) or (None, ""))[1] for about in ("one", "one", "two")}
    assert len(keys) == 2


def scan_from(*slices: dict[str, object]) -> Scan | None:
    images = [make_slice(number=n + 1, **{"patient_sha256": "p" * 64, **how}) for n, how in enumerate(slices)]  # type: ignore[arg-type]
    return scan_of(images, study_instance_uid="1.2", pipeline="haematoma", about="", inputs={})


def test_the_scan_begins_with_its_first_image() -> None:
    found = scan_from({"acquired_at": NOON + 2}, {"acquired_at": NOON}, {})
    assert found is not None
    assert (found.acquired_at, found.acquired_until) == (NOON, NOON + 2)
    assert (found.patient, found.issuer) == ("p" * 32, "p" * 32)


def test_images_of_nobody_or_of_several_are_no_scan_of_a_patient() -> None:
    assert scan_from({"patient_sha256": NOBODY * 2}) is None
    assert scan_from({"patient_sha256": NOBODY + "i" * 32}) is None
    assert scan_from({}, {"patient_sha256": "q" * 64}) is None
    assert scan_from({"birth_date_sha256": "b"}, {"birth_date_sha256": "c"}) is None


def test_a_birth_date_that_some_images_lack_is_missing_and_said() -> None:
    found = scan_from({"birth_date_sha256": "b", "acquired_at": NOON}, {"birth_date_sha256": None})
    assert found is not None
    assert found.birth_date is None
    later = scan("1.2.9", hours=6, patient="p" * 32, issuer="p" * 32)
    assert link(later, found) == ("", Reason.EARLIER_NO_BIRTH_DATE)
