"""A whole synthetic head CT study with known truth, written as DICOM files. No other modality, no sending."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from scipy import ndimage

from ichor.errors import ConfigError, NotBuilt
from phantoms.acquisition import Grid
from phantoms.bleeds import Bleed
from phantoms.ct_objects import BONE, SOFT, StudyHeader, axial_images, dose_report, localizer_image
from phantoms.ct_vendors import HABITS
from phantoms.follow_up import followed_up
from phantoms.head import Head, HeadModel, Lesion, sample

KINDS = ("localizer", "soft", "bone", "dose")
GAPS = ("even", "uneven")
FIELD_OF_VIEW_MM = 230.4
# At most 5 mm: thicker heads are not measured, so few slices cover less of the head instead.
_STEPS_MM = (5.0, 4.5, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.25, 1.0, 0.75, 0.625)
_LATER = ("dwi", "dsc")
_SLICES = 40
_MADE_BY = "phantom.json"


@dataclass(frozen=True, slots=True)
class SeriesTruth:
    """One written series: its UID, the roles it can play (none for localizer, bone and dose) and its files."""

    kind: str
    series_instance_uid: str
    roles: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """What was written. Lesion volumes and centres are those of `head.mask_zyx` (see `phantoms.head.Lesion`)."""

    study_instance_uid: str
    series: tuple[SeriesTruth, ...]
    lesions: tuple[Lesion, ...]
    head: Head

    def files(self, *kinds: str) -> tuple[Path, ...]:
        """The files of the series of these kinds, or of all."""
        return tuple(f for s in self.series if not kinds or s.kind in kinds for f in s.files)


def phantom_command(
    kind: str,
    *,
    seed: int,
    out: Path,
    bleed: str = "random",
    slices: int | None = None,
    tilt: float = 0.0,
    gaps: str = "even",
    vendor: str = "plain",
    followup_of: Path | None = None,
) -> Truth:
    """What `ichor phantom KIND` does; `slices` None: 40, and in a follow-up such that its slices are of other thickness.

    Raises
    ------
    NotBuilt
        A kind or option of the contract that this version does not have.
    ConfigError
        An argument that is not allowed.
    """
    if kind in _LATER:
        raise NotBuilt(f"phantom kind {kind!r} is not built yet; this version has ct-head")
    if kind != "ct-head":
        raise ConfigError(f"phantom kind {kind!r}: allowed is ct-head")
    if followup_of is not None and bleed != "random":
        raise ConfigError(f"--bleed {bleed}: a follow-up has the haematomas of its first study; leave it out")
    wanted: str | float = bleed
    if bleed not in ("none", "random"):
        try:
            wanted = float(bleed)
        except ValueError:
            raise ConfigError(f"--bleed {bleed!r}: allowed are none, random or a volume in mL") from None
    if followup_of is not None:
        return write_follow_up(out, first=followup_of, seed=seed, slices=slices, tilt=tilt, gaps=gaps, vendor=vendor)
    return write_ct_head(
        out, seed=seed, bleed=wanted, slices=_SLICES if slices is None else slices, tilt=tilt, gaps=gaps, vendor=vendor
    )


def write_ct_head(
    out_dir: Path,
    *,
    seed: int,
    bleed: str | float = "random",
    slices: int = 40,
    tilt: float = 0.0,
    gaps: str = "even",
    series: Collection[str] = KINDS,
    matrix: int = 512,
    count: bool = True,
    header: Mapping[str, str | None] | None = None,
    vendor: str = "plain",
) -> Truth:
    """Write `dicom/**.dcm`, `truth.json` and `truth.npz` below `out_dir`. The same arguments give the same bytes.

    `phantom.json` beside them says what was asked for, so that a follow-up can be made (`write_follow_up`).

    Parameters
    ----------
    out_dir : folder to make; `dicom/` must not exist in it.
    seed : which head; also the patient's ID.
    bleed : "none", "random" (0-3 haematomas) or the volume of one in mL, 0.1-120.
    slices : number of axial slices, 1-400; the distance follows so that the head is covered, at most 8 mm.
    tilt : gantry tilt in degrees, -30 to 30; the slices are turned about x, their positions run along the table.
    gaps : "even", or "uneven": half the distance below the skull base's middle, jittered distances above.
    series : which of KINDS to write; the UIDs do not depend on it.
    matrix : rows and columns over 230.4 mm.
    count : write Images in Acquisition (0020,1002) in the axial series.
    header : attribute keyword to value (None removes it), set on every object last; no UID depends on it.
    vendor : whose header habits, a key of `phantoms.ct_vendors.HABITS`; no UID depends on it.

    Raises
    ------
    ConfigError
        An argument that is not allowed, a volume that has no place in this head, or `dicom/` exists.
    """
    _check(bleed=bleed, slices=slices, tilt=tilt, gaps=gaps, series=series, matrix=matrix, vendor=vendor)
    model = _first_model(seed, bleed)
    asked: dict[str, object] = {"seed": seed, "bleed": bleed, "slices": slices, "gaps": gaps, "matrix": matrix}
    asked["followup"] = None
    asked["patient"] = {k: v for k, v in (header or {}).items() if k.startswith(("Patient", "IssuerOf"))}
    grid = study_grid(model, slices=slices, tilt=tilt, gaps=gaps, matrix=matrix)
    key = json.dumps([seed, bleed, slices, tilt, gaps, matrix])
    shared = StudyHeader(seed, key, dict(header or {}), HABITS[vendor])
    return _write_study(out_dir, shared, model, grid, series=series, count=count, asked=asked)


def write_follow_up(
    out_dir: Path,
    *,
    first: Path,
    seed: int,
    slices: int | None = None,
    tilt: float = 0.0,
    gaps: str = "even",
    series: Collection[str] = KINDS,
    vendor: str = "plain",
) -> Truth:
    """Write a later study of the patient of the study in `first` (see `phantoms.follow_up.followed_up`).

    Parameters are those of `write_ct_head`; `seed` draws the hours between, the growth and the new position, and
    `slices` None gives slices of another thickness than the first study's.

    Raises
    ------
    ConfigError
        An argument that is not allowed, `first` is no folder of a first synthetic study, or no room to grow.
    """
    try:
        asked = json.loads((first / _MADE_BY).read_text(encoding="ascii"))
        first_seed, bleed, matrix = int(asked["seed"]), asked["bleed"], int(asked["matrix"])
        before, patient = _step(int(asked["slices"]), str(asked["gaps"])), dict(asked["patient"])
        again = asked["followup"] is not None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--followup-of {first}: not a folder that `ichor phantom ct-head` wrote") from error
    if again:
        raise ConfigError(f"--followup-of {first}: is a follow-up itself; name the first study")
    count = slices if slices is not None else 55 if before == _STEPS_MM[0] else 33
    _check(bleed=bleed, slices=count, tilt=tilt, gaps=gaps, series=series, matrix=matrix, vendor=vendor)
    try:
        model, hours = followed_up(_first_model(first_seed, bleed), seed=seed)
    except ValueError as error:
        raise ConfigError(f"--followup-of {first}: {error}") from error
    grid = study_grid(model, slices=count, tilt=tilt, gaps=gaps, matrix=matrix)
    key = json.dumps([first_seed, bleed, count, tilt, gaps, matrix, "follow-up", seed])
    shared = StudyHeader(first_seed, key, patient, HABITS[vendor], hours_later=hours)
    return _write_study(out_dir, shared, model, grid, series=series, count=True, asked={**asked, "followup": seed})


def _first_model(seed: int, bleed: str | float) -> HeadModel:
    wanted: Bleed | Literal["random"] | None
    wanted = None if bleed == "none" else "random" if isinstance(bleed, str) else Bleed((float(bleed),))
    try:
        return HeadModel.draw(seed, bleed=wanted)
    except ValueError as error:
        raise ConfigError(f"--bleed {bleed}: {error}") from error


def _write_study(
    out_dir: Path,
    shared: StudyHeader,
    model: HeadModel,
    grid: Grid,
    *,
    series: Collection[str],
    count: bool,
    asked: Mapping[str, object],
) -> Truth:
    folder = out_dir / "dicom"
    if folder.exists():
        raise ConfigError(f"--out: {folder} exists already")
    head = sample(model, grid)
    written = tuple(
        _write(folder / k, _data_sets(k, shared, model, head, count=count), k) for k in KINDS if k in series
    )
    study_uid = shared.overrides.get("StudyInstanceUID") or shared.uid("study")
    truth = Truth(study_uid, written, head.lesions, head)
    _write_truth(out_dir, truth)
    (out_dir / _MADE_BY).write_text(json.dumps(asked, indent=2) + "\n", encoding="ascii")
    return truth


def study_grid(model: HeadModel, *, slices: int, tilt: float, gaps: str, matrix: int) -> Grid:
    """The axial slices of a study: from above the vertex down, or about the head's middle where they are too few."""
    step = _step(slices, gaps)
    x, y, z = model.scanner.shift_mm
    distances = np.full(max(slices - 1, 0), step)
    if gaps == "uneven":
        rng = np.random.default_rng([model.seed, 6])
        base = len(distances) // 3
        distances[:base] = step / 2
        distances[base:] = np.round(step * (1 + rng.uniform(-0.15, 0.15, len(distances) - base)), 2)
    positions = np.concatenate([[0.0], np.cumsum(distances)])
    top = z + 88 if positions[-1] > 120 else z + 12 + positions[-1] / 2
    thickness = np.concatenate([distances, distances[-1:]]) if len(distances) else np.array([step])
    if gaps == "uneven":
        thickness = np.where(thickness < 0.7 * step, step / 2, step)
    return Grid(
        rows=matrix,
        columns=matrix,
        pixel_mm=FIELD_OF_VIEW_MM / matrix,
        z_mm=tuple(round(float(v), 3) for v in positions - positions[-1] + top),
        thickness_mm=tuple(float(v) for v in thickness),
        tilt_deg=tilt,
        centre_xy_mm=(round(x, 3), round(y + 5, 3)),
    )


def _step(slices: int, gaps: str) -> float:
    # Of uneven slices a third lies at half the distance.
    covered = slices * (5 / 6 if gaps == "uneven" else 1.0)
    return next((s for s in _STEPS_MM if s * covered <= 165), _STEPS_MM[-1])


def _check(
    *, bleed: str | float, slices: int, tilt: float, gaps: str, series: Collection[str], matrix: int, vendor: str
) -> None:
    if vendor not in HABITS:
        raise ConfigError(f"--vendor {vendor!r}: allowed are {', '.join(HABITS)}")
    if isinstance(bleed, str) and bleed not in ("none", "random"):
        raise ConfigError(f"--bleed {bleed!r}: allowed are none, random or a volume in mL")
    if not isinstance(bleed, str) and not 0.1 <= bleed <= 120:
        raise ConfigError(f"--bleed {bleed}: allowed are 0.1 to 120 mL")
    if not 1 <= slices <= 400:
        raise ConfigError(f"--slices {slices}: allowed are 1 to 400")
    if not -30 <= tilt <= 30:
        raise ConfigError(f"--tilt {tilt}: allowed are -30 to 30 degrees")
    if gaps not in GAPS:
        raise ConfigError(f"--gaps {gaps!r}: allowed are even, uneven")
    if not 32 <= matrix <= 1024:
        raise ConfigError(f"matrix {matrix}: allowed are 32 to 1024")
    if not series or not set(series) <= set(KINDS):
        raise ConfigError(f"series {sorted(series)}: allowed are {', '.join(KINDS)}")


def _data_sets(kind: str, shared: StudyHeader, model: HeadModel, head: Head, *, count: bool) -> list[Dataset]:
    if kind == "soft":
        return axial_images(shared, head.hu_zyx, grid=head.grid, kind=SOFT, count=count)
    if kind == "bone":
        return axial_images(shared, _sharpened(head), grid=head.grid, kind=BONE, count=count)
    if kind == "localizer":
        picture, origin, pixel = _scout(model, head.grid)
        return [localizer_image(shared, picture, origin=origin, pixel_mm=pixel)]
    return [dose_report(shared, scan_length_mm=head.grid.z_mm[-1] - head.grid.z_mm[0] + head.grid.thickness_mm[-1])]


def _sharpened(head: Head) -> npt.NDArray[np.int16]:
    """The slices as a bone kernel shows them: edges and noise lifted."""
    out = np.empty_like(head.hu_zyx)
    for k, plane in enumerate(head.hu_zyx.astype(np.float32)):
        sharp = plane + 1.4 * (plane - ndimage.gaussian_filter(plane, 0.6 / head.grid.pixel_mm))
        out[k] = np.clip(np.rint(sharp), -1024, 3071)
    return out


def _scout(model: HeadModel, grid: Grid) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float64], float]:
    """A lateral projection (rows from the top down, columns to the back), its first pixel's place and pixel size."""
    pixel, size = 3.6, 64
    bottom = grid.z_mm[0] - 20
    z = tuple(bottom + pixel * k for k in range(size))
    volume = sample(model, Grid(size, size, pixel, z, (1.0,) * size, centre_xy_mm=grid.centre_xy_mm), clean=True)
    picture = ndimage.zoom(
        volume.hu_zyx.mean(axis=2, dtype=np.float32)[::-1], 4, order=1, grid_mode=True, mode="nearest"
    )
    fine = pixel / 4
    # grid_mode keeps the picture's edges: its first pixel lies 1.5 fine pixels before the first coarse one.
    top = z[-1] + 1.5 * fine
    front = grid.centre_xy_mm[1] - 0.5 * (size - 1) * pixel - 1.5 * fine
    return np.rint(picture).astype(np.int16), np.array([grid.centre_xy_mm[0], front, top]), fine


def _write(folder: Path, data_sets: list[Dataset], kind: str) -> SeriesTruth:
    folder.mkdir(parents=True)
    files: list[Path] = []
    for number, ds in enumerate(data_sets, start=1):
        path = folder / f"{number:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        files.append(path)
    roles = ("ncct_head",) if kind == "soft" else ()
    return SeriesTruth(kind, str(data_sets[0].SeriesInstanceUID), roles, tuple(files))


def _write_truth(out_dir: Path, truth: Truth) -> None:
    """`truth.json` and `truth.npz`. `expands` is null without a haematoma and in a follow-up."""
    told = {
        "study_instance_uid": truth.study_instance_uid,
        "series": [{"series_instance_uid": s.series_instance_uid, "roles": list(s.roles)} for s in truth.series],
        "lesions": [
            {"volume_ml": round(v.volume_ml, 4), "centre_lps_mm": [round(c, 3) for c in v.centre_lps_mm]}
            for v in truth.lesions
        ],
        "expands": truth.head.expands,
    }
    (out_dir / "truth.json").write_text(json.dumps(told, indent=2) + "\n", encoding="ascii")
    np.savez_compressed(
        out_dir / "truth.npz",
        mask_zyx=truth.head.mask_zyx,
        affine_lps=truth.head.affine_lps,
        slice_positions_lps=truth.head.slice_positions_mm,
    )
