"""What a network is trained on: labelled heads, and a pool of them on disk. Does not know where they come from."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.headbox import head_box

UNKNOWN = 2
"""In a pool's intracranial labels: nobody said whether this voxel lies inside the skull."""


@dataclass(frozen=True, slots=True)
class TrainingCase:
    """One labelled volume, ~1.0 mm in plane, native slices, ordered feet to head.

    Attributes
    ----------
    hu_zyx : int16, HU.
    occupancy_zyx : float in 0..1, how much of the voxel is haematoma.
    intracranial_zyx : bool, inside the skull; None where that is not known.
    spacing_mm : (dz, dy, dx).
    """

    hu_zyx: npt.NDArray[np.int16]
    occupancy_zyx: npt.NDArray[np.floating]
    intracranial_zyx: npt.NDArray[np.bool_] | None
    spacing_mm: tuple[float, float, float]


CaseSource = Callable[[str], TrainingCase]
"""Key to case; always the same case for the same key. Must be picklable (a module's function, or a partial of one)."""


@dataclass(frozen=True, slots=True)
class PooledCase:
    """A case of a `CasePool`, its voxels mapped from disk.

    Attributes
    ----------
    hu_zyx : int16.
    labels_zyx : int16; low byte occupancy 0..255, high byte inside the skull: 0, 1 or `UNKNOWN`.
    bleeding_slices : those in which a voxel is at least half full.
    head_box_yx : rows and columns that hold the head.
    """

    key: str
    hu_zyx: npt.NDArray[np.int16]
    labels_zyx: npt.NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    bleeding_slices: npt.NDArray[np.intp]
    head_box_yx: tuple[slice, slice]

    @property
    def occupancy_zyx(self) -> npt.NDArray[np.uint8]:
        """How much of each voxel is haematoma, 0..255."""
        return (self.labels_zyx & 0xFF).astype(np.uint8)

    @property
    def intracranial_zyx(self) -> npt.NDArray[np.uint8]:
        """0, 1 or `UNKNOWN`."""
        return (self.labels_zyx >> 8).astype(np.uint8)


class CasePool:
    """Cases of given keys, made once and kept in a folder.

    A case whose file is there is not made again, so an interrupted `fill` goes on where it stopped. One process at a
    time fills a folder; any number read it.
    """

    def __init__(self, folder: Path, source: CaseSource) -> None:
        self._folder = folder
        self._source = source
        folder.mkdir(parents=True, exist_ok=True)

    def fill(self, keys: Sequence[str], *, processes: int, report: Callable[[str], None]) -> None:
        """Make what is missing of `keys`, in `processes` processes (1: in this one); `report` gets a line now and then."""
        make_missing(partial(_make, self._source), {key: self._path(key) for key in keys}, processes, report)

    def load(self, key: str) -> PooledCase:
        """The case of a key that was filled before; voxels are read when they are looked at."""
        path = self._path(key)
        packed = np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as facts:
            dz, dy, dx = (float(mm) for mm in facts["spacing_mm"])
            (y0, y1), (x0, x1) = facts["head_box_yx"].tolist()
            bleeding = facts["bleeding_slices"]
        return PooledCase(
            key=key,
            hu_zyx=packed[0],
            labels_zyx=packed[1],
            spacing_mm=(dz, dy, dx),
            bleeding_slices=bleeding,
            head_box_yx=(slice(y0, y1), slice(x0, x1)),
        )

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.npy"


def make_missing(
    make: Callable[[str, Path], None], paths: Mapping[str, Path], processes: int, report: Callable[[str], None]
) -> None:
    """Call ``make(key, path)`` for every path that is not there, in `processes` processes (1: in this one)."""
    missing = {key: path for key, path in paths.items() if not path.exists()}
    if not missing:
        return
    if processes <= 1:
        for key, path in missing.items():
            make(key, path)
        return
    # Spawned, since torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as executor:
        jobs = [executor.submit(make, key, path) for key, path in missing.items()]
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                job.result()
                if done % 20 == 0 or done == len(missing):
                    report(f"pool: {done} of {len(missing)} made")
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _make(source: CaseSource, key: str, path: Path) -> None:
    """Write a case under a temporary name, then rename, its facts first: a case that is there is whole."""
    case = source(key)
    occupancy = np.rint(np.clip(np.asarray(case.occupancy_zyx, np.float32), 0, 1) * 255).astype(np.int16)
    inside = np.full(occupancy.shape, UNKNOWN) if case.intracranial_zyx is None else case.intracranial_zyx
    packed = np.stack([case.hu_zyx.astype(np.int16), occupancy | (inside.astype(np.int16) << 8)])
    facts = path.with_suffix(".npz")
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez(
            stream,
            spacing_mm=np.asarray(case.spacing_mm, np.float64),
            bleeding_slices=np.flatnonzero(occupancy.max(axis=(1, 2)) >= 128),
            head_box_yx=np.array([(span.start, span.stop) for span in head_box(case.hu_zyx)]),
        )
    temporary.rename(facts)
    with temporary.open("wb") as stream:
        np.save(stream, packed, allow_pickle=False)
    temporary.rename(path)
