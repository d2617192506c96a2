"""One head has one volume, one side and one place, however it was scanned and however it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from scipy import ndimage

from engines.catalogue import load_model
from ichor.arrays import Volume
from ichor.cli.labelled import head_volume, read_dicom
from ichor.pipeline import Engine
from ichor.types import Findings, Stage
from phantoms.bleeds import Bleed
from phantoms.ct_study import study_grid, write_ct_head
from phantoms.head import Grid, HeadModel, sample
from pipelines.haematoma import MODEL, PIPELINE, ROLE
from pipelines.volumes import Sampling, mesh_volume_ml

KINDS = ("straight", "tilted", "uneven")
TILT_DEG, STEP_MM, OFFSETS = 18.0, 5.0, 12
SAME = 0.02


def tilt_of(kind: str) -> float:
    return TILT_DEG if kind == "tilted" else 0.0


# --- scanned otherwise ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outline:
    """How full of blood each cubic millimetre around one haematoma is, and where the first one lies (LPS, mm)."""

    occupancy_zyx: np.ndarray
    first_lps: np.ndarray

    @classmethod
    def of(cls, model: HeadModel) -> Outline:
        (one,) = model.haematomas
        nominal = np.asarray(one.centre) * np.asarray(model.person.scale)
        x, y, z = (float(v) for v in model.scanner.pose @ nominal + np.asarray(model.scanner.shift_mm))
        size = 2 * int(one.reach() + 4)
        at = tuple(z + k for k in range(-size // 2, size // 2))
        grid = Grid(size, size, 1.0, at, (1.0,) * size, centre_xy_mm=(x, y))
        return cls(sample(model, grid, clean=True).occupancy_zyx.astype(np.float32), grid.origins()[0])

    def scanned(self, kind: str, *, offset: int) -> Volume:
        """The mask on slices of 5 mm, pixels of 1 mm; uneven: of 2.5 mm in the lower half."""
        size = len(self.occupancy_zyx)
        centre = self.first_lps + (size - 1) / 2
        each_way = int(size / 2 * (1 + np.sin(np.deg2rad(TILT_DEG))) / STEP_MM) + 1
        below = np.full(2 * each_way, STEP_MM / 2) if kind == "uneven" else np.full(each_way, STEP_MM)
        distances = np.concatenate([below, np.full(each_way, STEP_MM)])
        at = np.concatenate([[0.0], np.cumsum(distances)]) - below.sum() + centre[2] + offset / OFFSETS * STEP_MM
        thickness = np.array([*distances, STEP_MM])
        x, y, _ = centre.tolist()
        grid = Grid(
            size, size, 1.0, tuple(at.tolist()), tuple(thickness.tolist()), tilt_deg=tilt_of(kind), centre_xy_mm=(x, y)
        )
        rows, columns = np.mgrid[:size, :size]
        plane = rows[..., None] * grid.column_direction + columns[..., None] * grid.row_direction
        through = (np.arange(5) - 2) / 5
        points = (
            grid.origins()[:, None, None, None]
            + (thickness[:, None] * through)[..., None, None, None] * grid.normal
            + plane
            - self.first_lps
        )
        filled = ndimage.map_coordinates(self.occupancy_zyx, np.moveaxis(points, -1, 0)[::-1], order=1)
        return Volume(
            array=(filled.mean(axis=1) >= 0.5).astype(np.uint8),
            origins_lps=grid.origins(),
            row_lps=grid.row_direction,
            column_lps=grid.column_direction,
            pixel_spacing=(1.0, 1.0),
            slice_thickness=STEP_MM,
            frame_of_reference_uid=None,
            unit="1",
            sources=(),
        )


def test_the_volume_of_a_true_outline_does_not_depend_on_how_the_slices_lie() -> None:
    outline = Outline.of(HeadModel.draw(20_001, bleed=Bleed((35.0,), ventricular=None)))
    found = {}
    for kind in KINDS:
        masks = [outline.scanned(kind, offset=k) for k in range(OFFSETS)]
        found[kind] = [mesh_volume_ml(mask.array_zyx, Sampling.of(mask)) for mask in masks]
    means = {kind: float(np.mean(volumes)) for kind, volumes in found.items()}
    assert max(means.values()) <= (1 + SAME) * min(means.values()), means
    assert means["straight"] == pytest.approx(35.0, rel=0.05)
    # Offsets do move the slices.
    assert all(np.ptp(volumes) > 0.01 for volumes in found.values())


@pytest.mark.soak
def test_the_pipeline_finds_the_same_volume_straight_tilted_and_uneven(tmp_path: Path) -> None:
    """With the weights that serve; about four minutes."""
    engine = load_model(MODEL, folder=tmp_path).segmenter
    model = HeadModel.draw(20_001, bleed=Bleed((35.0,), ventricular=None))
    means, true = {}, {}
    for kind in KINDS:
        slices, gaps = (40, "uneven") if kind == "uneven" else (33, "even")
        grid = study_grid(model, slices=slices, tilt=tilt_of(kind), gaps=gaps, matrix=256)
        found, drawn = [], []
        for k in range(OFFSETS):
            shift = k / OFFSETS * STEP_MM
            head = sample(model, replace(grid, z_mm=tuple(z + shift for z in grid.z_mm)))
            findings = PIPELINE.run({ROLE: head_volume(head)}, {MODEL: engine}, untimed)
            found.append(volume_ml(findings))
            drawn.append(sum(lesion.volume_ml for lesion in head.lesions))
        means[kind], true[kind] = float(np.mean(found)), float(np.mean(drawn))
        print(
            f"{kind}: found {means[kind]:.2f} mL ({min(found):.2f} to {max(found):.2f}), true {true[kind]:.2f} mL, "
            f"{100 * (means[kind] / means['straight'] - 1):+.2f} % of straight"
        )
    for kind in KINDS:
        assert true[kind] >= 30
        assert means[kind] == pytest.approx(means["straight"], rel=SAME), kind


# --- stored otherwise -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Storage:
    """How the pixels of a head first, supine scan are stored instead: rows and columns change places before any flip."""

    position: str
    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    last_slice_first: bool = False


# In HFP the patient's front is below, in FFS columns run to the right; decubitus, gravity points to the side.
STORED = {
    "slices reversed": Storage("HFS", last_slice_first=True),
    "rows reversed": Storage("HFS", flip_rows=True),
    "columns reversed": Storage("HFS", flip_columns=True),
    "HFP": Storage("HFP", flip_rows=True, flip_columns=True),
    "FFS": Storage("FFS", flip_columns=True, last_slice_first=True),
    "HFDL": Storage("HFDL", transpose=True, flip_columns=True),
    "FFDR": Storage("FFDR", transpose=True, flip_rows=True, flip_columns=True, last_slice_first=True),
}


def store(images: Sequence[Dataset], folder: Path, *, how: Storage, headers: bool = True) -> Path:
    """Write the images in another order of pixels, with headers that say so; or (`headers` False) that do not."""
    folder.mkdir()
    for k, image in enumerate(images):
        pixels = image.pixel_array
        origin = np.array(image.ImagePositionPatient, float)
        row, column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
        dy, dx = (float(v) for v in image.PixelSpacing)
        if how.transpose:
            pixels, row, column, dy, dx = pixels.T, column, row, dx, dy
        if how.flip_rows:
            origin, column = origin + (pixels.shape[0] - 1) * dy * column, -column
            pixels = pixels[::-1]
        if how.flip_columns:
            origin, row = origin + (pixels.shape[1] - 1) * dx * row, -row
            pixels = pixels[:, ::-1]
        out = pydicom.dcmread(image.filename)
        out.PixelData = pixels.tobytes()
        out.Rows, out.Columns = pixels.shape
        if headers:
            out.PatientPosition = how.position
            out.ImagePositionPatient = [f"{v:.6f}" for v in origin]
            out.ImageOrientationPatient = [f"{v:.9f}" for v in (*row, *column)]
            out.PixelSpacing = [dy, dx]
        out.InstanceNumber = len(images) - k if how.last_slice_first else k + 1
        out.save_as(folder / f"{out.InstanceNumber:04d}.dcm")
    return folder


@dataclass(frozen=True)
class Told:
    """What a reader is told of the largest haematoma."""

    volume_ml: float
    side: str
    location: str
    centre_lps: tuple[float, ...]


def told(folder: Path, engine: Engine) -> Told:
    findings = PIPELINE.run({ROLE: read_dicom(folder)}, {MODEL: engine}, untimed)
    (first, *_) = findings.groups
    assert first.laterality is not None
    texts = [statement.text for statement in first.statements]
    (location,) = (text for text in texts if text.startswith("location: "))
    (centre,) = (text for text in texts if text.startswith("centre "))
    x, y, z = (float(v) for v in centre.removeprefix("centre ").split(" mm")[0].split(", "))
    return Told(volume_ml(findings), first.laterality.meaning, location, (x, y, z))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The weights that serve, on the reference runtime: where numbers lie is all that is asked here."""

    def no_other(*arguments: object, **options: object) -> NoReturn:
        raise RuntimeError(f"not wanted: {len(arguments)}, {len(options)}")

    return load_model(MODEL, folder=tmp_path_factory.mktemp("engines"), candidate=no_other).segmenter


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Dataset], tuple[float, float, float]]:
    """The images of a tilted scan, feet first in order, and the centre of the one haematoma in it, on the left."""
    folder = tmp_path_factory.mktemp("scan")
    truth = write_ct_head(folder, seed=20_003, bleed=35.0, slices=20, matrix=128, tilt=10.0, series={"soft"})
    (lesion,) = truth.lesions
    assert lesion.centre_lps_mm[0] > 15
    images = [pydicom.dcmread(path) for path in truth.files("soft")]
    return sorted(images, key=lambda image: float(image.ImagePositionPatient[2])), lesion.centre_lps_mm


@pytest.fixture(scope="module")
def as_scanned(
    scan: tuple[list[Dataset], tuple[float, float, float]], engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Told:
    images, centre = scan
    found = told(store(images, tmp_path_factory.mktemp("told") / "a", how=Storage("HFS")), engine)
    assert found.side == "Left"
    assert found.centre_lps == pytest.approx(centre, abs=3.0)
    return found


@pytest.mark.parametrize("how", STORED)
def test_a_head_that_is_stored_otherwise_gets_the_same_answer(
    how: str,
    scan: tuple[list[Dataset], tuple[float, float, float]],
    as_scanned: Told,
    engine: Engine,
    tmp_path: Path,
) -> None:
    found = told(store(scan[0], tmp_path / "b", how=STORED[how]), engine)
    assert (found.side, found.location) == (as_scanned.side, as_scanned.location)
    assert found.centre_lps == pytest.approx(as_scanned.centre_lps, abs=0.2)
    assert found.volume_ml == pytest.approx(as_scanned.volume_ml, rel=0.005)


def test_a_header_that_is_wrong_does_swap_the_sides(
    scan: tuple[list[Dataset], tuple[float, float, float]], as_scanned: Told, engine: Engine, tmp_path: Path
) -> None:
    """Nothing in the pixels can tell: the test above would see a reader that takes no notice of the headers."""
    found = told(store(scan[0], tmp_path / "b", how=STORED["columns reversed"], headers=False), engine)
    assert (as_scanned.side, found.side) == ("Left", "Right")
    assert found.volume_ml == pytest.approx(as_scanned.volume_ml, rel=0.1)


def volume_ml(findings: Findings) -> float:
    (value,) = (m.value for m in findings.measurements if m.name == "haematoma_volume")
    return value


def untimed(stage: Stage) -> AbstractContextManager[None]:
    assert isinstance(stage, Stage)
    return nullcontext()
