"""A user's own labelled folder: which cases it holds, how they are split, and one case read. Reads no DICOM by itself.

Layout (docs/training.md)::

    DIR/CASE/image.nii.gz      or DIR/CASE/dicom/... (one CT series)
    DIR/CASE/mask.nii.gz       above 0: haematoma; same grid as the image
    DIR/cases.csv              optional: case,patient,split,expands

or the same below ``DIR/train``, ``DIR/val`` and ``DIR/test``.
"""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError

from engines.cases import TrainingCase
from engines.resampling import Axis, resample_hu, resample_probability
from ichor.arrays import Volume
from ichor.errors import ConfigError, Unreadable

SPLITS = ("train", "val", "test")
COLUMNS = {"case", "patient", "split", "expands"}
LEAST_UP = 0.7
MOST_OFF = 0.2
"""How far, in voxels, a mask's corner may lie from the image's."""
AIR_HU, LEAST_AIR = -500.0, 0.01
"""Around and in every head there is air: images stored without their offset, windowed or cut out to the brain have none."""

ReadDicom = Callable[[Path], Volume]
Inside = Callable[[Volume], npt.NDArray[np.bool_] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCase:
    """One labelled scan. `expands` is None where the table does not say."""

    name: str
    patient: str
    split: str
    folder: Path
    expands: bool | None

    @property
    def key(self) -> str:
        """Names the case as it lies on disk now: another image, mask or outcome gives another key."""
        told = [self.name, f"expands {self.expands}"]
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                facts = path.stat()
                told.append(f"{path.relative_to(self.folder)} {facts.st_size} {facts.st_mtime_ns}")
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def find_cases(folder: Path, *, needed: Collection[str] = ()) -> list[UserCase]:
    """Every case below a folder with its split: the table's, the folder's, or by a hash of the patient (8 : 1 : 1).

    Parameters
    ----------
    needed : splits that must not be empty.

    Raises
    ------
    ConfigError
        No case, or none in a split that is needed; one name twice; a table with other columns, an unknown case or value; a
        patient in two splits.
    """
    if not folder.is_dir():
        raise ConfigError(f"--data {folder}: no such folder")
    table = _table(folder / "cases.csv")
    found: dict[str, UserCase] = {}
    for parent, split in [(folder, ""), *((folder / name, name) for name in SPLITS)]:
        if not parent.is_dir():
            continue
        for path in sorted(parent.iterdir()):
            if not path.is_dir() or (parent == folder and path.name in SPLITS):
                continue
            if path.name in found:
                raise ConfigError(f"case {path.name}: two folders of this name, a table could not tell them apart")
            row = table.pop(path.name, {})
            found[path.name] = UserCase(
                name=path.name,
                patient=row.get("patient") or path.name,
                split=_split(row.get("split") or split, case=path.name),
                folder=path,
                expands=_expands(row.get("expands", ""), case=path.name),
            )
    if not found:
        raise ConfigError(f"--data {folder}: no case folder in it")
    if table:
        raise ConfigError(f"cases.csv: no folder for case {min(table)!r}")
    cases = list(found.values())
    if not any(case.split for case in cases):
        cases = [replace(case, split=_drawn(case.patient)) for case in cases]
    _check_split(cases)
    for split in needed:
        if not any(case.split == split for case in cases):
            raise ConfigError(f"no case has the split {split}: give cases.csv a column split")
    return cases


def _table(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns = set(reader.fieldnames or ())
        if "case" not in columns or not columns <= COLUMNS:
            raise ConfigError(f"cases.csv: columns {sorted(columns)}; allowed are {sorted(COLUMNS)}, case is needed")
        rows: dict[str, dict[str, str]] = {}
        for row in reader:
            if row["case"] in rows:
                raise ConfigError(f"cases.csv: case {row['case']!r} stands there twice")
            rows[row["case"]] = {name: (value or "").strip() for name, value in row.items() if isinstance(value, str)}
    return rows


def _split(value: str, *, case: str) -> str:
    if value and value not in SPLITS:
        raise ConfigError(f"case {case}: split {value!r}; allowed are {', '.join(SPLITS)}")
    return value


def _expands(value: str, *, case: str) -> bool | None:
    if value not in ("", "0", "1"):
        raise ConfigError(f"case {case}: expands {value!r}; allowed are 0, 1 and nothing")
    return None if value == "" else value == "1"


def _drawn(patient: str) -> str:
    """Hangs on the patient alone: a test patient is one in every training, whoever is added to the folder."""
    tenth = int.from_bytes(hashlib.sha256(patient.encode()).digest()) % 10
    return {0: "test", 1: "val"}.get(tenth, "train")


def _check_split(cases: Iterable[UserCase]) -> None:
    of_patient: dict[str, UserCase] = {}
    for case in cases:
        if not case.split:
            raise ConfigError(f"case {case.name}: no split, while others have one")
        first = of_patient.setdefault(case.patient, case)
        if first.split != case.split:
            raise ConfigError(
                f"cases {first.name} and {case.name} are of one patient, but in {first.split} and {case.split}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledVolume:
    """An image in HU and its mask on one grid: columns to the patient's left, rows to the back, slices headwards."""

    volume: Volume
    mask_zyx: npt.NDArray[np.bool_]


def read_case(case: UserCase, *, read_dicom: ReadDicom) -> LabelledVolume:
    """Image and mask of a case.

    Raises
    ------
    ConfigError
        Something is missing or cannot be read, the slices are not axial, the image is not a head in HU, or the mask's grid
        is not the image's.
    """
    image, mask = case.folder / "image.nii.gz", case.folder / "mask.nii.gz"
    dicom = case.folder / "dicom"
    if not mask.exists():
        raise ConfigError(f"case {case.name}: no mask.nii.gz")
    if image.exists() == dicom.is_dir():
        raise ConfigError(f"case {case.name}: image.nii.gz or a folder dicom, one of them")
    try:
        volume = _ordered(read_dicom(dicom) if dicom.is_dir() else _read_nifti(image))
        labels = _read_nifti(mask)
    except Unreadable as error:
        raise ConfigError(f"case {case.name}: {error.reason}") from error
    except (OSError, ValueError, EOFError, zlib.error, ImageFileError) as error:
        raise ConfigError(f"case {case.name}: cannot be read ({type(error).__name__})") from error
    _check_grid(volume, labels, case=case.name)
    _check_hu(volume, case=case.name)
    return LabelledVolume(volume=volume, mask_zyx=labels.array > 0)


def _read_nifti(path: Path) -> Volume:
    """A NIfTI image in our order."""
    image = nib.as_closest_canonical(nib.load(path))
    if len(image.shape) != 3:
        raise ValueError(f"{len(image.shape)} axes")
    # Canonical axes grow to the right, to the front, headwards: ours grow to the left and to the back.
    array = np.asarray(image.dataobj, np.float32)[::-1, ::-1].transpose(2, 1, 0)
    if not np.isfinite(array).all():
        raise ValueError("not a number everywhere")
    columns, rows, slices = image.shape
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    first = affine @ np.array([columns - 1, rows - 1, 0, 1])
    along = affine[:3, :3] * np.array([-1.0, -1.0, 1.0])
    dx, dy, _ = np.linalg.norm(along, axis=0)
    return Volume(
        array=array,
        origins_lps=first[:3] + np.arange(slices)[:, None] * along[:, 2],
        row_lps=along[:, 0] / dx,
        column_lps=along[:, 1] / dy,
        pixel_spacing=(float(dy), float(dx)),
        slice_thickness=None,
        frame_of_reference_uid=None,
        unit="HU",
        sources=(),
    )


def _ordered(volume: Volume) -> Volume:
    """The same voxels with columns growing to the left, rows to the back, slices headwards."""
    if abs(volume.normal_lps[2]) < LEAST_UP or abs(volume.row_lps[0]) < LEAST_UP:
        raise Unreadable("slices are not axial")
    array, origins = volume.array_zyx, volume.origins_lps
    row, column = volume.row_lps, volume.column_lps
    if row[0] < 0:
        origins = origins + row * volume.pixel_spacing[1] * (array.shape[2] - 1)
        array, row = array[:, :, ::-1], -row
    if column[1] < 0:
        origins = origins + column * volume.pixel_spacing[0] * (array.shape[1] - 1)
        array, column = array[:, ::-1], -column
    if origins[-1, 2] < origins[0, 2]:
        array, origins = array[::-1], origins[::-1]
    return replace(volume, array=np.ascontiguousarray(array), origins_lps=origins, row_lps=row, column_lps=column)


def _check_grid(volume: Volume, labels: Volume, *, case: str) -> None:
    shapes = volume.array_zyx.shape, labels.array_zyx.shape
    if shapes[0] != shapes[1]:
        raise ConfigError(
            f"case {case}: the mask has {shapes[1]} voxels (slices, rows, columns), the image {shapes[0]}"
        )
    slices, rows, columns = shapes[0]
    corners = np.array([(k, j, i) for k in (0, slices - 1) for j in (0, rows - 1) for i in (0, columns - 1)])
    away = np.linalg.norm(_places(volume, corners) - _places(labels, corners), axis=1).max()
    if away > MOST_OFF * min(volume.pixel_spacing):
        raise ConfigError(f"case {case}: the mask lies {away:.1f} mm away from the image's grid")


def _check_hu(volume: Volume, *, case: str) -> None:
    air = float(np.mean(volume.array_zyx < AIR_HU))
    if air < LEAST_AIR:
        low, high = (float(v) for v in np.percentile(volume.array_zyx, (1, 99)))
        raise ConfigError(
            f"case {case}: {air:.1%} of its voxels are air (below {AIR_HU:g} HU; values mostly {low:.0f} to {high:.0f}): "
            "not in HU, or the head was cut out"
        )


def _places(volume: Volume, corners: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    dy, dx = volume.pixel_spacing
    places: npt.NDArray[np.float64] = (
        volume.origins_lps[corners[:, 0]]
        + corners[:, 1:2] * dy * volume.column_lps
        + corners[:, 2:3] * dx * volume.row_lps
    )
    return places


def training_case(
    labelled: LabelledVolume,
    *,
    inside_zyx: npt.NDArray[np.bool_] | None = None,
    pixel_mm: float = 1.0,
    slice_mm: float | None = None,
) -> TrainingCase:
    """Resampled (linear) for training: in plane always, along z where `slice_mm` is given (the paper: 0.5, 0.5, 5).

    Slices are shifted onto one another, since a tilted gantry shears a stack.

    Parameters
    ----------
    inside_zyx : inside the skull, on the volume's grid; None where not known.
    """
    volume = labelled.volume
    hu_zyx, mask_zyx = volume.array_zyx, labelled.mask_zyx
    places = np.stack([volume.origins_lps @ volume.column_lps, volume.origins_lps @ volume.row_lps], axis=1)
    places = places - places[0]
    own = [Axis(0.0, mm, n) for mm, n in zip(volume.pixel_spacing, hu_zyx.shape[1:], strict=True)]
    target = [
        Axis(float(p.min()), pixel_mm, int((p.max() - p.min() + axis.step * (axis.count - 1)) / pixel_mm) + 1)
        for p, axis in zip(places.T, own, strict=True)
    ]
    arrays: list[list[npt.NDArray[np.float32]]] = [[], [], []]
    for k, (y, x) in enumerate(places):
        at = own[0].shifted(float(y)), own[1].shifted(float(x))
        grid = target[0], target[1]
        arrays[0].append(resample_hu(hu_zyx[k], at, grid))
        arrays[1].append(resample_probability(mask_zyx[k].astype(np.float32), at, grid))
        if inside_zyx is not None:
            arrays[2].append(resample_probability(inside_zyx[k].astype(np.float32), at, grid))
    z = volume.slice_positions
    hu, occupancy, inside = (np.stack(one) if one else None for one in arrays)
    assert hu is not None
    assert occupancy is not None
    dz = float(np.mean(volume.slice_extents))
    if slice_mm is not None:
        at_z = np.arange(z[0], z[-1] + 1e-6, slice_mm)
        hu, occupancy = _along_z(hu, z, at_z), _along_z(occupancy, z, at_z)
        inside = None if inside is None else _along_z(inside, z, at_z)
        dz = slice_mm
    return TrainingCase(
        hu_zyx=np.clip(np.rint(hu), -1024, 3071).astype(np.int16),
        occupancy_zyx=np.clip(occupancy, 0, 1),
        intracranial_zyx=None if inside is None else inside >= 0.5,
        spacing_mm=(dz, pixel_mm, pixel_mm),
    )


def _along_z(
    array: npt.NDArray[np.float32], z: npt.NDArray[np.float64], at: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    upper = np.clip(np.searchsorted(z, at, side="right"), 1, max(len(z) - 1, 1))
    if len(z) == 1:
        return array
    share = np.clip((at - z[upper - 1]) / (z[upper] - z[upper - 1]), 0, 1).astype(np.float32)[:, None, None]
    return (1 - share) * array[upper - 1] + share * array[upper]


def counts(cases: Iterable[UserCase]) -> Mapping[str, int]:
    """How many cases each split has."""
    cases = list(cases)
    return {split: sum(case.split == split for case in cases) for split in SPLITS}
