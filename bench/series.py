"""A series from its manifest to its array, facts of one instance, compressed frames, and cost against size; beside peers.

One core for all, files in the page cache. Goals: a diffusion series of 2,040 images of 128 x 128 from manifest (bytes) to
array <= 0.3 s and <= 1.2 times its bytes of memory (growth of the peak resident set); facts of one instance <= 150 us;
cost per instance of 100,000 at most twice that of 1,000.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from bench._series_readers import READERS
from ichor.messages import to_json
from ichor.series.decoding import decode_frame, frame_format, read_frames
from ichor.series.facts import FactsReader, read_instance
from ichor.series.grid import build_grid
from ichor.series.manifest import build_manifest, put_manifest
from ichor.series.volume import build_volume
from ichor.store.blobs import FileBlobs
from ichor.store.spool import Address, FileSpool
from ichor.types import Grade, Instance, Manifest
from phantoms.ct_study import write_ct_head
from phantoms.series import scenes, write_series

ARRAY_SECONDS, ARRAY_MEMORY = 0.3, 1.2
FACTS_SECONDS = 150e-6
LINEAR = 2.0
VOLUMES, SLICES, MATRIX = 34, 60, 128
FORM = "classic-philips"
COUNTS = (100, 1_000, 10_000, 100_000)
MOST_ARRAY = 10_000
_REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "dwi_philips_achieva_1b0_6b1000_and_trace.zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What the receiver would have written down of an object."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    location: str
    file_sha256: str
    association: str = "bench"
    calling_ae: str = "BENCH"
    called_ae: str = "ICHOR"
    received_at: float = 0.0

    def priority(self, header: Any) -> Any:
        return header


def main() -> int:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="ichor-bench-") as temporary:
        folder = Path(temporary)
        met = [_array(folder / "dwi"), _facts(folder / "dwi"), _decoding(folder / "head"), _growth(folder / "growth")]
    return 0 if all(met) else 1


# --- from manifest to array -------------------------------------------------------------------------------------------


def _array(folder: Path) -> bool:
    _diffusion(folder, volumes=VOLUMES, slices=SLICES)
    _diffusion(folder / "small", volumes=2, slices=3)
    size = VOLUMES * SLICES * MATRIX * MATRIX * 2
    manifest = sum(path.stat().st_size for path in (folder / "blobs").rglob("*.jsonl"))
    print(
        f"{VOLUMES * SLICES:,} images of {MATRIX} x {MATRIX}, array {size / 1e6:.1f} MB, manifest {manifest / 1e6:.1f} MB"
        f"; median of 3, one core; peers read and sort headers too, Ichor has read them on arrival (facts, below)"
    )
    print(f"{'':>12} {'seconds':>8} {'ratio':>6} {'processor':>10} {'peak memory / array':>20}")
    figures = {name: _reader(name, folder) for name in READERS}
    ours = figures["ichor"]
    assert ours is not None
    for name, figure in figures.items():
        if figure is None:
            print(f"{name:>12} not installed")
            continue
        same = "" if figure["digest"] == ours["digest"] else "  OTHER VALUES"
        print(
            f"{name:>12} {figure['seconds']:8.3f} {figure['seconds'] / ours['seconds']:6.1f} "
            f"{figure['processor']:10.3f} {figure['growth'] / size:20.2f}{same}"
        )
    memory = ours["growth"] / size
    return all(
        [
            _goal("manifest to array", ours["seconds"], ARRAY_SECONDS, "s"),
            _goal("its memory", memory, ARRAY_MEMORY, "times the array"),
        ]
    )


def _reader(name: str, folder: Path) -> dict[str, Any] | None:
    run = subprocess.run(
        [sys.executable, "-m", "bench._series_readers", name, str(folder), "3"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode != 0:
        last = run.stderr.strip().splitlines()[-1:]
        if "No module named" in run.stderr or "FileNotFoundError" in run.stderr:
            return None
        raise SystemExit(f"{name}: {last}")
    figure: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return figure


def _diffusion(folder: Path, *, volumes: int, slices: int) -> None:
    scan = scenes.diffusion(
        b_values=[0.0, 0.0, *[1000.0] * (volumes - 2)] if volumes > 2 else [0.0, 1000.0],
        stack=scenes.oblique_stack(slices), matrix=(MATRIX, MATRIX),
    )  # fmt: skip
    paths = write_series(scan, folder / "files", form=FORM)
    spool = FileSpool(folder / "spool", durability="none")
    instances = [_receive(path.read_bytes(), spool) for path in paths]
    ref = put_manifest(_manifest(instances), FileBlobs(folder / "blobs"))
    (folder / "ref.json").write_bytes(to_json(ref))
    shape = (len(scan.b_values or ()), slices, MATRIX, MATRIX)
    (folder / "about.json").write_text(json.dumps({"shape": shape, "b_values": scan.b_values}))


def _manifest(instances: Sequence[Instance]) -> Manifest:
    return build_manifest(instances, revision=1, grade=Grade.REGULAR)


def _receive(raw: bytes, spool: FileSpool) -> Instance:
    header = pydicom.dcmread(io.BytesIO(raw), stop_before_pixels=True)
    address = Address(
        study_instance_uid=header.StudyInstanceUID, series_instance_uid=header.SeriesInstanceUID,
        sop_instance_uid=header.SOPInstanceUID, sop_class_uid=header.SOPClassUID,
        transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
    )  # fmt: skip
    # Behind preamble and File Meta Information, whose length its first element gives (PS3.10 section 7.1).
    placed = spool.put(address, [raw[144 + int.from_bytes(raw[140:144], "little") :]])
    with spool.open(placed.location) as file:
        return read_instance(file, stored=_stored(header, location=placed.location))


def _stored(header: pydicom.FileDataset, *, location: str) -> _Stored:
    return _Stored(
        sop_instance_uid=header.SOPInstanceUID, sop_class_uid=header.SOPClassUID,
        series_instance_uid=header.SeriesInstanceUID, study_instance_uid=header.StudyInstanceUID,
        transfer_syntax_uid=header.file_meta.TransferSyntaxUID, location=location, file_sha256="",
    )  # fmt: skip


# --- facts ------------------------------------------------------------------------------------------------------------


def _facts(folder: Path) -> bool:
    print("\nfacts of one instance (pixel digest and all) beside pydicom.dcmread(stop_before_pixels=True)")
    cases = {"synthetic": sorted((folder / "files").glob("*.dcm"))[100]}
    if _REAL.exists():
        import zipfile

        with zipfile.ZipFile(_REAL) as packed:
            name = next(n for n in packed.namelist() if n.endswith("00002.dcm"))
            cases["Philips Achieva"] = Path(packed.extract(name, folder))
    else:
        print(f"{'':>16} no real data: ../shared/data/{_REAL.name}")
    met = True
    for name, path in cases.items():
        header = pydicom.dcmread(path, stop_before_pixels=True)
        stored = _stored(header, location="x")

        def facts(path: Path = path, stored: _Stored = stored, reader: FactsReader = FactsReader()) -> None:  # noqa: B008
            with path.open("rb") as file:
                reader.read(file, stored=stored)

        ours = _median(facts, 400)
        theirs = _median(lambda path=path: pydicom.dcmread(path, stop_before_pixels=True), 200)  # type: ignore[misc]
        every = _median(lambda path=path: list(pydicom.dcmread(path, stop_before_pixels=True)), 100)  # type: ignore[misc]
        print(
            f"{name:>16} {len(list(header)):4d} elements, {path.stat().st_size / 1e3:.0f} kB: {1e6 * ours:6.0f} us; pydicom "
            f"{1e6 * theirs:6.0f} us ({theirs / ours:.1f} x), with every value converted {1e6 * every:6.0f} us "
            f"({every / ours:.1f} x)"
        )
        met &= _goal(f"facts, {name}", 1e6 * ours, 1e6 * FACTS_SECONDS, "us")
    return met


# --- compressed frames ------------------------------------------------------------------------------------------------


def _decoding(folder: Path) -> bool:
    truth = write_ct_head(folder, seed=20_041, bleed=40.0, slices=28, series={"soft"})
    images = [pydicom.dcmread(path) for path in truth.files("soft")]
    print("\n28 x 512 x 512 head CT, ms per image, manifest to array beside pydicom's pixel_array; none is a goal")
    print(f"{'':>16} {'ichor':>8} {'pydicom':>8} {'ratio':>6} {'two threads':>12}")
    for name, syntax in (("JPEG-LS", JPEGLSLossless), ("JPEG 2000", JPEG2000Lossless), ("RLE", RLELossless)):
        spool = FileSpool(folder / name, durability="none")
        packed = [_compressed(image, syntax) for image in images]
        instances = [_receive(raw, spool) for raw in packed]
        manifest = _manifest(instances)
        build = partial(build_volume, manifest, spool=spool)
        ours = _median(build, 3)
        theirs = _median(
            lambda packed=packed: [pydicom.dcmread(io.BytesIO(raw)).pixel_array for raw in packed],  # type: ignore[misc]
            3,
        )
        print(
            f"{name:>16} {1e3 * ours / len(images):8.2f} {1e3 * theirs / len(images):8.2f} {theirs / ours:6.2f} "
            f"{_thread_speed_up(instances[0], spool):11.2f}x"
        )
    print(f"{'':>16} two threads: speed against one, 1 where the plug-in keeps the interpreter's lock")
    return True


def _compressed(image: pydicom.FileDataset, syntax: str) -> bytes:
    # A copy: compressing changes the data set.
    plain = io.BytesIO()
    pydicom.dcmwrite(plain, image, enforce_file_format=True)
    plain.seek(0)
    copy = pydicom.dcmread(plain)
    copy.compress(UID(syntax), generate_instance_uid=False)
    packed = io.BytesIO()
    pydicom.dcmwrite(packed, copy, enforce_file_format=True)
    return packed.getvalue()


def _on_all_cores(call: Callable[[], object]) -> float:
    one = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    seconds = _median(call, 3)
    os.sched_setaffinity(0, one)
    return seconds


def _thread_speed_up(instance: Instance, spool: FileSpool) -> float:
    """Time of eight frames in one thread over that in two, on all cores."""
    form = frame_format(instance)
    (data,) = read_frames(instance, [0], spool=spool)

    def work(count: int) -> None:
        for _ in range(count):
            decode_frame(data, form)

    def both() -> None:
        threads = [threading.Thread(target=work, args=(4,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return _on_all_cores(lambda: work(8)) / _on_all_cores(both)


# --- cost against size ------------------------------------------------------------------------------------------------


def _growth(folder: Path) -> bool:
    """Time series of 20 slices; the files of one volume are read again for every further one."""
    slices = 20
    scan = scenes.perfusion(times=2, slices=slices, matrix=(MATRIX, MATRIX))
    spool = FileSpool(folder / "spool", durability="none")
    paths = write_series(scan, folder / "files", form=FORM)[:slices]
    first = [_receive(path.read_bytes(), spool) for path in paths]
    headers = [_stored(pydicom.dcmread(path, stop_before_pixels=True), location="x") for path in paths]
    print(f"\ncost of a time series of {slices} slices of {MATRIX} x {MATRIX}, us per instance (s in all)")
    print(f"{'instances':>12} {'facts':>18} {'grid':>18} {'manifest to array':>18}")
    each: dict[str, dict[int, float]] = {"facts": {}, "grid": {}}
    for count in COUNTS:
        row = {"facts": _facts_of(paths, headers, count=count)}
        instances = [_repeated(first[n % slices], n // slices) for n in range(count)]
        started = time.perf_counter()
        grid = build_grid(instances)
        row["grid"] = time.perf_counter() - started
        assert grid.shape == (count // slices, slices, MATRIX, MATRIX)
        assert grid.gapless
        if count <= MOST_ARRAY:
            manifest = build_manifest(instances, revision=1, grade=Grade.REGULAR, grid=grid)
            started = time.perf_counter()
            build_volume(manifest, spool=spool)
            row["array"] = time.perf_counter() - started
        texts = [f"{1e6 * s / count:7.1f} ({s:7.3f})" for s in row.values()]
        print(
            f"{count:12,} "
            + " ".join(f"{text:>18}" for text in texts)
            + ("" if "array" in row else "  (array left out)")
        )
        for name, seconds in each.items():
            seconds[count] = row[name] / count
    met = True
    for name, seconds in each.items():
        ratio = seconds[COUNTS[-1]] / seconds[COUNTS[1]]
        met &= _goal(f"{name} of {COUNTS[-1]:,} against {COUNTS[1]:,}", ratio, LINEAR, "times an instance's cost")
    return met


def _facts_of(paths: Sequence[Path], headers: Sequence[_Stored], *, count: int) -> float:
    started, reader = time.perf_counter(), FactsReader()
    for n in range(count):
        with paths[n % len(paths)].open("rb") as file:
            reader.read(file, stored=headers[n % len(paths)])
    return time.perf_counter() - started


def _repeated(instance: Instance, volume: int) -> Instance:
    slot = replace(instance.slot, temporal_position=volume + 1, time=1.8 * volume)
    return replace(
        instance, sop_instance_uid=str(generate_uid(None)) if volume else instance.sop_instance_uid, slot=slot,
        temporal_position=volume + 1, instance_number=None, acquisition_number=None,
    )  # fmt: skip


# --- figures ----------------------------------------------------------------------------------------------------------


def _median(call: Callable[[], object], runs: int) -> float:
    call()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _goal(what: str, figure: float, goal: float, unit: str) -> bool:
    met = figure <= goal
    print(f"{'':>4} goal: {what} {figure:.3g}, at most {goal:.3g} {unit}: {'met' if met else 'MISSED'}")
    return met


if __name__ == "__main__":
    sys.exit(main())
