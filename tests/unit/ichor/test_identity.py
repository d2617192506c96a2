"""The list of copied attributes against the data dictionary. What the digest covers is tests/unit/series/test_identity_digest.py."""

from __future__ import annotations

from pydicom.datadict import keyword_for_tag

from ichor.identity import COPIED, DIGESTED, PERSON


def test_tags_are_those_of_the_data_dictionary() -> None:
    assert {keyword: keyword_for_tag(tag) for keyword, tag in COPIED.items()} == {
        keyword: keyword for keyword in COPIED
    }


def test_the_digest_covers_the_study_and_what_is_copied_but_sequences() -> None:
    digested = {keyword_for_tag(tag) for tag in DIGESTED}
    assert digested == {keyword for keyword in COPIED if not keyword.endswith("Sequence")} | {"StudyInstanceUID"}
    assert list(DIGESTED) == sorted(DIGESTED)


def test_a_person_is_a_name_an_identifier_its_issuer_and_a_birth_date() -> None:
    assert [keyword_for_tag(tag) for tag in PERSON] == [
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
    ]
