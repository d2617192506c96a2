"""Follow-up studies: the same person later, grown as the first study's truth says."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import numpy as np
import pydicom
import pytest

from ichor.errors import ConfigError
from phantoms.ct_study import Truth, phantom_command, write_ct_head, write_follow_up
from phantoms.head import HeadModel

SOFT = frozenset({"soft"})
VOLUME = 22.0


def seed_that(*, expands: bool) -> int:
    from phantoms.bleeds import Bleed

    return next(s for s in count(70) if HeadModel.draw(s, bleed=Bleed((VOLUME,))).expands is expands)


def pair(folder: Path, *, expands: bool) -> tuple[Truth, Truth]:
    seed = seed_that(expands=expands)
    first = write_ct_head(folder / "a", seed=seed, bleed=VOLUME, slices=33, matrix=128, series=SOFT)
    later = write_follow_up(folder / "b", first=folder / "a", seed=5, series=SOFT, vendor="ge")
    return first, later


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, Truth, Path]:
    folder = tmp_path_factory.mktemp("grown")
    return *pair(folder, expands=True), folder


def total(truth: Truth) -> float:
    return sum(lesion.volume_ml for lesion in truth.lesions)


def test_a_haematoma_that_expands_has_grown_by_more_than_a_third(grown: tuple[Truth, Truth, Path]) -> None:
    first, later, folder = grown
    assert json.loads((folder / "a" / "truth.json").read_text())["expands"] is True
    assert json.loads((folder / "b" / "truth.json").read_text())["expands"] is None
    assert total(later) > 1.33 * total(first)


def test_one_that_does_not_has_hardly_grown(tmp_path: Path) -> None:
    first, later = pair(tmp_path, expands=False)
    assert first.head.expands is False
    assert total(later) == pytest.approx(total(first), rel=0.3)


def test_it_is_the_same_patient_later_in_another_position_and_thickness(grown: tuple[Truth, Truth, Path]) -> None:
    a, b = (pydicom.dcmread(truth.files()[0]) for truth in grown[:2])
    for keyword in ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientName"):
        assert a[keyword].value == b[keyword].value
    assert a.PatientBirthDate
    assert a.StudyDate + a.StudyTime < b.StudyDate + b.StudyTime
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "AccessionNumber"):
        assert a[keyword].value != b[keyword].value
    assert float(a.SliceThickness) == 5.0
    assert float(b.SliceThickness) == 3.0
    moved = np.subtract(grown[0].lesions[0].centre_lps_mm, grown[1].lesions[0].centre_lps_mm)
    assert np.linalg.norm(moved) > 1


def test_same_arguments_give_the_same_follow_up(grown: tuple[Truth, Truth, Path], tmp_path: Path) -> None:
    again = write_follow_up(tmp_path, first=grown[2] / "a", seed=5, slices=6, series=SOFT)
    twice = write_follow_up(tmp_path / "b", first=grown[2] / "a", seed=5, slices=6, series=SOFT)
    assert [f.read_bytes() for f in again.files()] == [f.read_bytes() for f in twice.files()]


def test_wrong_first_studies_are_named(grown: tuple[Truth, Truth, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--followup-of"):
        phantom_command("ct-head", seed=1, out=tmp_path / "x", followup_of=tmp_path)
    with pytest.raises(ConfigError, match="follow-up itself"):
        phantom_command("ct-head", seed=1, out=tmp_path / "x", followup_of=grown[2] / "b")
    with pytest.raises(ConfigError, match="--bleed"):
        phantom_command("ct-head", seed=1, out=tmp_path / "x", bleed="30", followup_of=grown[2] / "a")
