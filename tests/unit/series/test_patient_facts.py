"""What scans of one patient in different studies are linked by: birth date and acquisition time, as headers have them."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from unit.series.test_facts import bytes_of, slice_of_ct, stored_as

from ichor.series.facts import read_instance
from ichor.types import Instance

AT = datetime(2026, 1, 2, 23, 59, 30, 500_000, tzinfo=UTC).timestamp()


def facts(**attributes: Any) -> Instance:
    ds = slice_of_ct()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return read_instance(BytesIO(bytes_of(ds)), stored=stored_as(ExplicitVRLittleEndian))


@pytest.mark.parametrize(
    "attributes",
    [
        {"AcquisitionDateTime": "20260102235930.5"},
        {"AcquisitionDateTime": "20260102235930.5+0100"},
        {"AcquisitionDate": "20260102", "AcquisitionTime": "235930.5"},
        {"AcquisitionDateTime": "20260102235930.5", "AcquisitionDate": "20200101", "AcquisitionTime": "010101"},
    ],
)
def test_the_time_of_acquisition_is_that_on_the_scanners_clock(attributes: dict[str, str]) -> None:
    assert facts(**attributes).acquired_at == pytest.approx(AT)


@pytest.mark.parametrize(
    "attributes",
    [
        {}, {"AcquisitionDate": "20260102"}, {"AcquisitionTime": "235930"},
        {"AcquisitionDate": "20261399", "AcquisitionTime": "235930"},
        {"AcquisitionDate": "20260102", "AcquisitionTime": "late"}, {"AcquisitionDateTime": "2026"},
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_half_a_time_is_none(attributes: dict[str, str]) -> None:
    assert facts(**attributes).acquired_at is None


def test_birth_dates_agree_only_where_patients_do() -> None:
    same, other = facts().birth_date_sha256, facts(PatientBirthDate="19500103").birth_date_sha256
    assert same == facts(PatientName="Other^Name").birth_date_sha256
    assert len({same, other, facts(PatientID="P2").birth_date_sha256}) == 3
    assert same is not None
    assert "1950" not in same


@pytest.mark.parametrize("missing", ["PatientBirthDate", "PatientID"])
def test_without_a_birth_date_or_a_patient_there_is_none(missing: str) -> None:
    assert facts(**{missing: ""}).birth_date_sha256 is None
