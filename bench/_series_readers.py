"""One reader of a series in a process of its own: seconds, peak memory and a digest of what it read. Judges nothing.

``python -m bench._series_readers NAME FOLDER RUNS`` prints one line of JSON. ``FOLDER`` holds ``files`` (one volume after
the other), ``spool``, ``blobs`` with the manifest, ``ref.json`` for it, and ``about.json``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Read = Callable[[Path, dict[str, Any]], npt.NDArray[Any]]


def ichor(folder: Path, about: dict[str, Any]) -> npt.NDArray[Any]:
    from ichor.messages import from_json
    from ichor.series.manifest import get_manifest
    from ichor.series.volume import build_volume
    from ichor.store.blobs import FileBlobs
    from ichor.store.spool import FileSpool
    from ichor.types import ManifestRef

    ref = from_json(ManifestRef, (folder / "ref.json").read_bytes())
    manifest = get_manifest(ref, FileBlobs(folder / "blobs"))
    volume = build_volume(manifest, spool=FileSpool(folder / "spool"))
    assert volume.gradients is not None
    assert list(volume.gradients.b_values) == about["b_values"]
    return volume.array


def pydicom(folder: Path, about: dict[str, Any]) -> npt.NDArray[Any]:
    import pydicom

    images = (pydicom.dcmread(path).pixel_array for path in _files(folder))
    result = np.stack(list(images))
    return result.reshape(about["shape"])


def highdicom(folder: Path, about: dict[str, Any]) -> npt.NDArray[Any]:
    import highdicom
    import pydicom

    files, slices = _files(folder), about["shape"][1]
    volumes = []
    for start in range(0, len(files), slices):
        data_sets = [pydicom.dcmread(path) for path in files[start : start + slices]]
        volumes.append(highdicom.get_volume_from_series(data_sets).array)
    return np.stack(volumes)


def simpleitk(folder: Path, about: dict[str, Any]) -> npt.NDArray[Any]:
    import SimpleITK

    files, slices = _files(folder), about["shape"][1]
    volumes = [
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage([str(path) for path in files[start : start + slices]]))
        for start in range(0, len(files), slices)
    ]
    return np.stack(volumes)


def dcm2niix(folder: Path, about: dict[str, Any]) -> npt.NDArray[Any]:
    import nibabel

    with tempfile.TemporaryDirectory(prefix="ichor-bench-") as out:
        subprocess.run(
            ["dcm2niix", "-z", "n", "-b", "n", "-p", "n", "-f", "x", "-o", out, str(folder / "files")],
            check=True, capture_output=True,
        )  # fmt: skip
        (path,) = Path(out).glob("*.nii")
        stored = np.asarray(nibabel.load(path).dataobj)
    # Its rows run the other way round.
    return stored[:, ::-1].T.reshape(about["shape"])


READERS: dict[str, Read] = {
    "ichor": ichor, "pydicom": pydicom, "dcm2niix": dcm2niix, "highdicom": highdicom, "SimpleITK": simpleitk,
}  # fmt: skip


def measure(name: str, folder: Path, runs: int) -> dict[str, Any]:
    """Median seconds and processor seconds of ``runs``, and growth of peak resident memory over the first of them."""
    about = json.loads((folder / "about.json").read_text())
    read = READERS[name]
    _warm_up(name, folder, read)
    # Resets the high-water mark (proc(5), /proc/pid/clear_refs); ru_maxrss would still be that of our parent.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    seconds: list[float] = []
    busy: list[float] = []
    growth, digest = 0, 0
    for run in range(runs):
        started, worked = time.perf_counter(), _processor()
        array = read(folder, about)
        seconds.append(time.perf_counter() - started)
        busy.append(_processor() - worked)
        if run == 0:
            children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
            growth = children if name == "dcm2niix" else _status("VmHWM") - before
            # Whatever the order of volumes: readers sort them differently.
            sums = array.reshape(-1, *array.shape[-2:]).sum(axis=(1, 2), dtype=np.int64)
            digest = zlib.crc32(np.sort(sums).tobytes())
        del array
    middle = len(seconds) // 2
    return {"seconds": sorted(seconds)[middle], "processor": sorted(busy)[middle], "growth": growth, "digest": digest}


def _warm_up(name: str, folder: Path, read: Read) -> None:
    """Imports are not reading: the small series beside is read first."""
    small = folder / "small"
    if name != "dcm2niix":
        read(small, json.loads((small / "about.json").read_text()))


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "files").glob("*.dcm"))


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _processor() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
