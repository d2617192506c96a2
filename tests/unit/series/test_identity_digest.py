"""The identity of a header says two things: which person, and all that a result copies."""

from __future__ import annotations

import pytest
from unit.series.test_facts import facts, slice_of_ct

from ichor.identity import person_of


def identity(**changes: str) -> str:
    ds = slice_of_ct()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return facts(ds).identity_sha256


@pytest.mark.parametrize("keyword", ["PatientName", "PatientID", "PatientBirthDate", "IssuerOfPatientID"])
def test_another_person_differs_in_both_halves(keyword: str) -> None:
    one, other = identity(), identity(**{keyword: "19511123"})
    assert one[:32] != other[:32]
    assert one[32:] != other[32:]


@pytest.mark.parametrize("keyword", ["StudyDescription", "PatientComments", "AccessionNumber", "PatientSex"])
def test_another_description_is_of_the_same_person(keyword: str) -> None:
    one, other = identity(), identity(**{keyword: "O"})
    assert person_of(one) == person_of(other)
    assert one != other
    assert len(one) == len(other) == 64
