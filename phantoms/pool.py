"""A pool of synthetic heads on disk, one file a head, for training. Trains nothing, draws no patches."""

from __future__ import annotations

import json
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from phantoms.head import training_head

# Part of every file: a pool that another generator wrote is made again, not mixed with this one's heads.
GENERATOR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledHead:
    """A head as kept in a pool; arrays are (z, y, x), see `phantoms.head.Head`.

    Attributes
    ----------
    hu_zyx : int16. occupancy_zyx : uint8, 255 is a voxel full of blood. brain_zyx : bool. mask_zyx : uint8 labels.
    spacing_mm : (z, y, x). slice_positions_mm : (slices, 3), LPS. extents_mm : (slices,), what each slice stands for.
    """

    hu_zyx: npt.NDArray[np.int16]
    occupancy_zyx: npt.NDArray[np.uint8]
    brain_zyx: npt.NDArray[np.bool_]
    mask_zyx: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    slice_positions_mm: npt.NDArray[np.float64]
    extents_mm: npt.NDArray[np.float64]
    seed: int
    expands: bool | None
    expansion_probability: float
    signs: Mapping[str, bool | float]


def path_of(folder: Path, seed: int) -> Path:
    """Where the head of a seed lies in a pool."""
    return folder / f"{seed:06d}.npz"


def write_pool(
    folder: Path,
    seeds: Iterable[int],
    *,
    processes: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write the heads that are not there yet; a second call goes on where the first was cut off.

    Parameters
    ----------
    folder : is made; one ``<seed>.npz`` a head.
    seeds : which heads.
    processes : how many draw at once; None: one a core.
    report : is told a line now and then.

    Returns
    -------
    The files of all the seeds, in their order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = list(dict.fromkeys(seeds))
    missing = [seed for seed in wanted if not _is_whole(path_of(folder, seed))]
    if missing:
        report(f"{len(wanted) - len(missing)} of {len(wanted)} heads are there; drawing {len(missing)}")
        # Not fork: the caller may have threads (torch, OpenVINO), which a forked child would not.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes or os.cpu_count() or 1, mp_context=context) as pool:
            jobs = [pool.submit(_write, folder, seed) for seed in missing]
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                if done % 25 == 0 or done == len(jobs):
                    report(f"{done} of {len(jobs)} heads drawn")
    return [path_of(folder, seed) for seed in wanted]


def read(path: Path) -> PooledHead:
    """A head of a pool.

    Raises
    ------
    ValueError
        Another generator wrote it.
    """
    with np.load(path) as kept:
        about = json.loads(str(kept["about"]))
        if about["generator"] != GENERATOR:
            raise ValueError(f"{path}: written by generator {about['generator']}, this is {GENERATOR}")
        shape = kept["hu_zyx"].shape
        brain = np.unpackbits(kept["brain_bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        z, y, x = about["spacing_mm"]
        return PooledHead(
            hu_zyx=kept["hu_zyx"],
            occupancy_zyx=kept["occupancy_zyx"],
            brain_zyx=brain,
            mask_zyx=kept["mask_zyx"],
            spacing_mm=(z, y, x),
            slice_positions_mm=kept["slice_positions_mm"],
            extents_mm=kept["extents_mm"],
            seed=about["seed"],
            expands=about["expands"],
            expansion_probability=about["expansion_probability"],
            signs=about["signs"],
        )


def _write(folder: Path, seed: int) -> None:
    head = training_head(seed)
    about = {
        "generator": GENERATOR,
        "seed": seed,
        "spacing_mm": head.spacing_mm,
        "expands": head.expands,
        "expansion_probability": head.expansion_probability,
        "signs": dict(head.signs),
    }
    path = path_of(folder, seed)
    partial = path.with_suffix(f".{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            hu_zyx=head.hu_zyx,
            occupancy_zyx=np.rint(head.occupancy_zyx.astype(np.float32) * 255).astype(np.uint8),
            brain_bits=np.packbits(head.brain_zyx),
            mask_zyx=head.mask_zyx,
            slice_positions_mm=head.slice_positions_mm,
            extents_mm=head.grid.extents_mm(),
            about=np.array(json.dumps(about)),
        )
    partial.replace(path)


def _is_whole(path: Path) -> bool:
    """Whether this generator wrote the file to its end; files appear whole, so only what it says is looked at."""
    try:
        with np.load(path) as kept:
            return bool(json.loads(str(kept["about"]))["generator"] == GENERATOR)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return False
