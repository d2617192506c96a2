"""`ichor facts` and `ichor array`: any folder, seen as the assembler would see it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest

from ichor.cli import series_folder
from ichor.cli.commands import main
from ichor.reasons import Reason
from ichor.series.grid import build_grid
from ichor.series.summary import summary
from ichor.series.volume import build_volumes
from listener import series_state
from phantoms.ct_study import Truth, write_ct_head

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    """A synthetic head CT study of every kind of series, and its truth."""
    folder = tmp_path_factory.mktemp("study")
    return folder, write_ct_head(folder, seed=5, bleed=20.0, slices=12, matrix=64)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def series_of(out: str) -> dict[str, dict[str, Any]]:
    return {item["series_instance_uid"]: item for item in json.loads(out)}


def test_every_series_of_a_study_has_the_roles_that_it_was_made_for(study: tuple[Path, Truth], say: Say) -> None:
    folder, truth = study
    code, out, err = say("facts", folder, "--json")
    assert code == 0
    assert err.startswith("left out: 3 files, not DICOM: ")  # truth and recipe
    found = series_of(out)
    assert {uid: tuple(item["roles"]) for uid, item in found.items()} == {
        s.series_instance_uid: s.roles for s in truth.series
    }
    assert {item["study_instance_uid"] for item in found.values()} == {truth.study_instance_uid}
    plain = next(s for s in truth.series if s.roles)
    assert found[plain.series_instance_uid]["shape"] == [12, 64, 64]
    assert found[plain.series_instance_uid]["complete"] is True


def test_files_are_found_by_content_and_what_is_none_is_named(
    study: tuple[Path, Truth], say: Say, tmp_path: Path
) -> None:
    _, truth = study
    plain = next(s for s in truth.series if s.roles)
    for number, path in enumerate(plain.files):
        shutil.copy(path, tmp_path / (f"{number}.jpg" if number % 2 else f"{number:08X}"))
    (tmp_path / "notes.dcm").write_text("no DICOM here")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "cut.dcm").write_bytes(plain.files[0].read_bytes()[:400])
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    (tmp_path / "round").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    code, out, err = say("facts", tmp_path, "--json")
    assert code == 0
    assert [(i["instances"], i["shape"]) for i in json.loads(out)] == [(12, [12, 64, 64])]
    for name, reason in (
        ("notes.dcm", "not DICOM"), ("empty.dcm", "not DICOM"), ("cut.dcm", Reason.NO_STUDY_OR_SERIES),
        ("nowhere", "no such file"), ("pipe", "no regular file"),
    ):  # fmt: skip
        (line,) = [line for line in err.splitlines() if name in line]
        assert reason in line


def test_a_folder_that_cannot_be_read_is_named_and_makes_exit_1(
    study: tuple[Path, Truth], say: Say, tmp_path: Path, closed: Callable[[Path], Path]
) -> None:
    plain = next(s for s in study[1].series if s.roles)
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        for path in plain.files:
            shutil.copy(path, tmp_path / place)
    shut = closed(tmp_path / "b")
    code, out, err = say("facts", tmp_path, "--json")
    assert (code, [s["instances"] for s in json.loads(out)]) == (1, [12])
    assert err == f"left out: 1 folder, permission denied: {shut}\n"
    code, out, err = say("array", tmp_path, "--out", tmp_path / "out")
    assert (code, len(list((tmp_path / "out").glob("*.nii*")))) == (1, 1)
    code, _, err = say("facts", shut)
    assert (code, err.splitlines()[-1]) == (1, f"ichor: no DICOM object below {shut} that could be read")


def test_a_data_set_without_preamble_is_read(study: tuple[Path, Truth], say: Say, tmp_path: Path) -> None:
    plain = next(s for s in study[1].series if s.roles)
    for number, path in enumerate(plain.files):
        whole = path.read_bytes()
        (tmp_path / str(number)).write_bytes(whole[144 + int.from_bytes(whole[140:144], "little") :])
    _, out, _ = say("facts", tmp_path, "--json")
    assert [item["roles"] for item in json.loads(out)] == [["ncct_head"]]


def test_a_lost_slice_makes_the_series_short_and_is_named(study: tuple[Path, Truth], say: Say, tmp_path: Path) -> None:
    plain = next(s for s in study[1].series if s.roles)
    for path in plain.files:
        shutil.copy(path, tmp_path / path.name)
    whole = json.loads(say("facts", tmp_path, "--json")[1])[0]["axes"][0]["values"]
    lost = sorted(plain.files, key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))[5]
    (tmp_path / lost.name).unlink()
    (item,) = json.loads(say("facts", tmp_path, "--json")[1])
    assert (item["complete"], item["grade"], item["roles"], item["refused"]) == (False, "short", [], Reason.SHORT)
    assert [slot["position_mm"] for slot in item["missing"]] == [pytest.approx(whole[5], abs=0.02)]
    code, _, err = say("array", tmp_path, "--out", tmp_path / "out")
    assert code == 1
    assert f"{plain.series_instance_uid}: not written: {Reason.SHORT}" in err


def test_the_same_object_with_other_pixels_is_a_named_finding(
    study: tuple[Path, Truth], say: Say, tmp_path: Path
) -> None:
    plain = next(s for s in study[1].series if s.roles)
    for path in plain.files:
        shutil.copy(path, tmp_path / path.name)
    other = pydicom.dcmread(plain.files[3])
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "again")
    (item,) = json.loads(say("facts", tmp_path, "--json")[1])
    assert (item["roles"], item["refused"]) == ([], Reason.DUPLICATE_OTHER_BYTES)


def test_two_patients_in_one_study_are_refused_as_the_listener_does(
    study: tuple[Path, Truth], say: Say, tmp_path: Path
) -> None:
    folder, truth = study
    head = next(s for s in truth.series if s.roles)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for k, path in enumerate(sorted(folder.rglob("*.dcm"))):
        image = pydicom.dcmread(path)
        if image.SeriesInstanceUID == head.series_instance_uid:
            image.PatientID = "A" if image.InstanceNumber % 2 else "B"
            image.save_as(mixed / f"{k}.dcm")
    _, out, _ = say("facts", mixed, "--json")
    (found,) = series_of(out).values()
    assert (found["refused"], found["roles"]) == (Reason.TWO_PATIENTS, [])
    code, _, err = say("array", mixed, "--out", tmp_path / "out")
    assert code == 1
    assert Reason.TWO_PATIENTS in err


def test_an_array_has_the_values_and_places_of_its_slices(study: tuple[Path, Truth], say: Say, tmp_path: Path) -> None:
    folder, truth = study
    plain = next(s for s in truth.series if s.roles)
    uid = plain.series_instance_uid
    code, out, _ = say("array", folder, "--out", tmp_path, "--series", uid)
    assert code == 0
    assert out == f"{uid}: {uid}.nii.gz, {uid}.json\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{uid}.json", f"{uid}.nii.gz"]
    image: Any = nibabel.load(tmp_path / f"{uid}.nii.gz")
    values = np.asarray(image.dataobj)
    for path in plain.files:
        header = pydicom.dcmread(path)
        place = np.linalg.inv(image.affine) @ (
            *(-np.asarray(header.ImagePositionPatient[:2], float)),
            float(header.ImagePositionPatient[2]),
            1.0,
        )
        assert place[:2] == pytest.approx([0, 0], abs=1e-3)
        stored = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        assert np.array_equal(values[:, :, round(place[2])].T, stored)
    beside = json.loads((tmp_path / f"{uid}.json").read_text())
    assert beside == series_of(say("facts", folder, "--json")[1])[uid]


def test_all_whole_series_are_written_and_the_others_say_why(
    study: tuple[Path, Truth], say: Say, tmp_path: Path
) -> None:
    folder, truth = study
    code, out, err = say("array", folder, "--out", tmp_path)
    assert code == 0
    for series in truth.series:
        assert (f"{series.series_instance_uid}: " in out) != (f"{series.series_instance_uid}: not written" in err)
    dose = next(s for s in truth.series if s.kind == "dose")
    assert f"{dose.series_instance_uid}: not written" in err


def test_the_table_says_per_series_what_speaks_for_and_against(study: tuple[Path, Truth], say: Say) -> None:
    folder, truth = study
    code, out, _ = say("facts", folder)
    assert code == 0
    lines = out.splitlines()
    for series in truth.series:
        (line,) = [line for line in lines if line.endswith(series.series_instance_uid)]
        assert (series.roles[0] if series.roles else "no role") in line
    assert "ncct_head: plays ncct_head" in out
    assert Reason.LOCALIZER in out
    assert Reason.BONE_KERNEL in out
    assert max(map(len, lines)) < 170


def test_a_header_cannot_command_the_terminal(study: tuple[Path, Truth], say: Say, tmp_path: Path) -> None:
    plain = next(s for s in study[1].series if s.roles)
    hostile = pydicom.dcmread(plain.files[0])
    hostile["Modality"]._value = "CT\x1b[2J"
    hostile.save_as(tmp_path / "hostile")
    assert b"\x1b[2J" in (tmp_path / "hostile").read_bytes()
    code, out, _ = say("facts", tmp_path)
    assert (code, "\x1b" in out) == (0, False)


def test_a_rule_of_the_site_is_applied(study: tuple[Path, Truth], say: Say, tmp_path: Path) -> None:
    folder, truth = study
    settings = tmp_path / "ichor.toml"
    settings.write_text(
        '[[rules]]\nname = "ct_bone"\nrole = "bone"\n'
        'meant = [{ fact = "kernel", relation = "is", value = "sharp", reason = "no bone kernel" }]\n'
        '[[rules]]\nname = "ncct_head"\noff = true\n'
    )
    found = series_of(say("facts", folder, "--json", "--config", settings)[1])
    bone = [uid for uid, item in found.items() if item["roles"] == ["bone"]]
    assert bone == [s.series_instance_uid for s in truth.series if s.kind == "bone"]
    assert not any("ncct_head" in item["roles"] for item in found.values())


@pytest.mark.parametrize("arguments", [("facts",), ("array", "--out", "x")])
def test_no_such_folder_is_wrong_use_and_an_empty_one_is_exit_1(
    arguments: tuple[str, ...], say: Say, tmp_path: Path
) -> None:
    code, _, err = say(*arguments, tmp_path / "absent")
    assert (code, "absent" in err) == (2, True)
    code, _, err = say(*arguments, tmp_path)
    assert (code, "no DICOM object" in err) == (1, True)


def test_a_series_that_is_not_there_is_exit_1(study: tuple[Path, Truth], say: Say, tmp_path: Path) -> None:
    code, _, err = say("array", study[0], "--out", tmp_path, "--series", "1.2.3")
    assert (code, "1.2.3" in err, list(tmp_path.iterdir())) == (1, True, [])


# --- real scanners ----------------------------------------------------------------------------------------------------

DWI = {
    "dwi_canon_galan_classic_1b0_12b1500": ("classic", [13, 40, 80, 80]),
    "dwi_canon_galan_enhanced_1b0_12b1500": ("enhanced", [13, 40, 80, 80]),
    "dwi_philips_achieva_1b0_6b1000_and_trace": ("classic", [7, 60, 128, 128]),
    "dwi_siemens_prisma_mosaic_1b0_12b1000": ("siemens_mosaic", None),
    "dwi_siemens_trio_mosaic_2b0_40b1000": ("siemens_mosaic", None),
}


@pytest.mark.parametrize("name", DWI)
def test_real_diffusion_series_play_dwi_by_the_tensor_rule(
    name: str, real_data: Callable[[str], Path], say: Say
) -> None:
    dialect, shape = DWI[name]
    (item,) = json.loads(say("facts", real_data(name), "--json")[1])
    assert (item["dialect"], item["kind"], item["roles"], item["rule"]) == (dialect, "image", ["dwi"], "dwi_tensor")
    assert item["shape"] == (shape or item["shape"])
    assert item["complete"] is True
    assert len(item["bvals"]) == len(item["bvecs_lps"]) == item["shape"][0]
    assert item["refused"] is None


def test_the_trace_of_the_philips_set_is_left_out(real_data: Callable[[str], Path], say: Say) -> None:
    (item,) = json.loads(say("facts", real_data("dwi_philips_achieva_1b0_6b1000_and_trace"), "--json")[1])
    assert item["left_out"] == [{"kind": "trace", "images": 60}]


def test_two_slices_of_brain_are_an_array_and_play_nothing(real_data: Callable[[str], Path], say: Say) -> None:
    (item,) = json.loads(say("facts", real_data("dwi_ge_pioneer_1b0_6b1000"), "--json")[1])
    assert (item["shape"], item["roles"], item["rule"]) == ([7, 2, 256, 256], [], None)
    assert item["refused"] == Reason.TOO_LITTLE_BRAIN


def test_nine_transfer_syntaxes_of_one_image_are_arrays_alone_and_a_finding_together(
    real_data: Callable[[str], Path], say: Say, tmp_path: Path
) -> None:
    folder = real_data("mosaic_nine_transfer_syntaxes")
    arrays = []
    for path in sorted(folder.glob("*.dcm")):
        (item,) = json.loads(say("facts", path, "--json")[1])
        code, _, err = say("array", path, "--out", tmp_path / path.stem)
        assert (code, item["refused"]) == (0, None), err
        image: Any = nibabel.load(tmp_path / path.stem / f"{item['series_instance_uid']}.nii.gz")
        arrays.append(np.asarray(image.dataobj))
    assert len(arrays) == 9
    assert all(np.array_equal(arrays[0], other) for other in arrays)
    (item,) = json.loads(say("facts", folder, "--json")[1])
    assert (item["roles"], item["refused"]) == ([], Reason.SAME_PLACE)


@pytest.mark.parametrize("where", ["assembly", "summary"])
def test_a_series_that_fails_unexpectedly_is_named_and_the_others_are_told(
    where: str, study: tuple[Path, Truth], say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, truth = study
    bad = next(s for s in truth.series if s.roles).series_instance_uid
    whole = series_of(say("facts", folder, "--json")[1])
    series_of_images: Callable[[Any], str] = lambda images: images[0].series_instance_uid  # noqa: E731

    def grid(instances: Any) -> Any:
        if series_of_images(instances) == bad:
            raise OverflowError("SECRET")
        return build_grid(instances)

    def said(series: Any) -> Any:
        told = summary(series)
        return told | {"shape": [float("inf")]} if told["series_instance_uid"] == bad and told["shape"] else told

    if where == "assembly":
        monkeypatch.setattr(series_state, "build_grid", grid)
    else:
        monkeypatch.setattr(series_folder, "summary", said)
    kind = "OverflowError" if where == "assembly" else "ValueError"
    code, out, err = say("facts", folder, "--json")
    assert code == 0
    assert f"{bad}: {Reason.CANNOT_BE_JUDGED}: {kind}" in err
    assert "SECRET" not in err + out
    found = series_of(out)
    assert found.keys() == whole.keys()
    assert (found[bad]["refused"], found[bad]["complete"]) == (f"{Reason.CANNOT_BE_JUDGED}: {kind}", False)
    assert (found[bad]["instances"], found[bad]["roles"]) == (12, [])
    assert all(found[uid] == whole[uid] for uid in whole if uid != bad)
    assert say("facts", folder)[0] == 0
    code, out, err = say("array", folder, "--out", tmp_path / "out")
    assert code == 1
    assert f"{bad}: not written: {Reason.CANNOT_BE_JUDGED}: {kind}" in err
    assert not (tmp_path / "out" / f"{bad}.nii.gz").exists()
    writable = [uid for uid, item in whole.items() if uid != bad and item["shape"] and not item["refused"]]
    assert all((tmp_path / "out" / f"{uid}.nii.gz").exists() for uid in writable)


def test_an_array_that_cannot_be_built_keeps_no_other_from_being_written(
    study: tuple[Path, Truth], say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = next(s for s in study[1].series if s.roles).series_instance_uid

    def build(manifest: Any, **how: Any) -> Any:
        if manifest.series_instance_uid == bad:
            raise OverflowError("SECRET")
        return build_volumes(manifest, **how)

    assert say("array", study[0], "--out", tmp_path / "whole")[0] == 0
    monkeypatch.setattr(series_folder, "build_volumes", build)
    code, _, err = say("array", study[0], "--out", tmp_path / "out")
    assert code == 1
    assert f"{bad}: not written: {Reason.CANNOT_BE_JUDGED}: OverflowError" in err
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {p.name for p in (tmp_path / "whole").iterdir() if not p.name.startswith(f"{bad}.")}
    assert written
