"""What a network is trained on: labelled heads, and a pool of them on disk. Does not know where they come from."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.headbox import head_box


@dataclass(frozen=True, slots=True)
class TrainingCase:
    """One labelled volume, ~1.0 mm in plane, native slices, ordered feet to head.

    Attributes
    ----------
    hu_zyx : int16, HU.
    occupancy_zyx : float in 0..1, how much of the voxel is haematoma.
    intracranial_zyx : bool, inside the skull.
    spacing_mm : (dz, dy, dx).
    """

    hu_zyx: npt.NDArray[np.int16]
    occupancy_zyx: npt.NDArray[np.floating]
    intracranial_zyx: npt.NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]


CaseSource = Callable[[int], TrainingCase]
"""Seed to case; always the same case for the same seed. Must be picklable (a module's function)."""


@dataclass(frozen=True, slots=True)
class PooledCase:
    """A case of a `CasePool`, its arrays mapped from disk: occupancy as uint8 0..255, intracranial as uint8 0/1."""

    seed: int
    hu_zyx: npt.NDArray[np.int16]
    occupancy_zyx: npt.NDArray[np.uint8]
    intracranial_zyx: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    bleeding_slices: npt.NDArray[np.intp]
    head_box_yx: tuple[slice, slice]


class CasePool:
    """Cases of given seeds, made once and kept in a folder.

    A case whose file is there is not made again, so an interrupted `fill` goes on where it stopped.
    """

    def __init__(self, folder: Path, source: CaseSource) -> None:
        self._folder = folder
        self._source = source
        folder.mkdir(parents=True, exist_ok=True)

    def fill(self, seeds: Sequence[int], *, processes: int, report: Callable[[str], None]) -> None:
        """Make what is missing of `seeds`, in `processes` processes (1: in this one); `report` gets a line now and then."""
        missing = [seed for seed in seeds if not self._path(seed).exists()]
        if not missing:
            return
        if processes <= 1:
            for seed in missing:
                _make(self._source, seed, self._path(seed))
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as executor:
            jobs = [executor.submit(_make, self._source, seed, self._path(seed)) for seed in missing]
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                if done % 20 == 0 or done == len(missing):
                    report(f"pool: {done} of {len(missing)} heads made")

    def load(self, seed: int) -> PooledCase:
        """The case of a seed that was filled before."""
        path = self._path(seed)
        packed = np.load(path, mmap_mode="r", allow_pickle=False)
        spacing = np.load(path.with_suffix(".spacing.npy"), allow_pickle=False)
        occupancy = (packed[1] & 0xFF).astype(np.uint8)
        return PooledCase(
            seed=seed,
            hu_zyx=packed[0],
            occupancy_zyx=occupancy,
            intracranial_zyx=((packed[1] >> 8) & 1).astype(np.uint8),
            spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
            bleeding_slices=np.flatnonzero(occupancy.max(axis=(1, 2)) >= 128),
            head_box_yx=head_box(packed[0]),
        )

    def _path(self, seed: int) -> Path:
        return self._folder / f"{seed:06d}.npy"


def _make(source: CaseSource, seed: int, path: Path) -> None:
    """Write a case under a temporary name, then rename: a file that is there is whole."""
    case = source(seed)
    occupancy = np.rint(np.clip(np.asarray(case.occupancy_zyx, np.float32), 0, 1) * 255).astype(np.int16)
    labels = occupancy | (case.intracranial_zyx.astype(np.int16) << 8)
    packed = np.stack([case.hu_zyx.astype(np.int16), labels])
    np.save(path.with_suffix(".spacing.npy"), np.asarray(case.spacing_mm, np.float64), allow_pickle=False)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, packed, allow_pickle=False)
    temporary.rename(path)
