"""What storing one object costs: appended to a segment, beside a file per object as the spool once made them.

On the disk of the temporary folder, fresh folders each run, everything deleted at the end; also soon after many files
were deleted. Goals: the spool is not slower than files, with and without syncs; 34 kB objects, synced, from 4 threads
>= 2,000 per second; Python's share of `begin` and `finish` <= 15 us.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ichor.store import disk
from ichor.store.filemeta import file_meta
from ichor.store.receipts import Lane, ReceiptWriter, Stored
from ichor.store.spool import Address, FileSpool

RUNS = 5
SIZES = {"MR": 34_344, "CT": 525_860}
COUNTS = {("MR", "none"): 2000, ("MR", "instance"): 600, ("CT", "none"): 300, ("CT", "instance"): 150}
DELETED = 6000
NOT_SLOWER = 0.9  # of files; large objects are all writing, and runs differ by that much
PYTHON_SECONDS = 15e-6
DURABLE_PER_SECOND = 2000.0

Put = Callable[[Address, bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    """Seconds per object: as it took, and the kernel's share of the processor."""

    wall: float
    system: float


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="ichor-bench-") as temporary:
        folder = Path(temporary)
        print(f"{folder.parent}: {_file_system(folder)}; microseconds per object, median of {RUNS} alternating runs")
        met = [_beside_files(folder), _after_deletes(folder), _threads(folder), _acknowledged(folder), _python(folder)]
    return 0 if all(met) else 1


def _beside_files(folder: Path) -> bool:
    print(f"{'':>14} {'':>9} {'segment':>9} {'file':>9} {'ratio':>6}   of which in the kernel")
    met = True
    for (kind, level), count in COUNTS.items():
        for threads in (1, 4):
            segment, file = _compare(folder / f"{kind}-{level}-{threads}", kind, level, count, threads=threads)
            name = f"{kind} {threads} thread{'s' if threads > 1 else ''}"
            met &= _line(name, level, segment, file)
    return met


def _after_deletes(folder: Path) -> bool:
    print(f"right after {DELETED} files of 34 kB in another folder were deleted:")

    def litter(place: Path) -> None:
        other = place.with_name("deleted")
        put = _files(other, "none")
        for n in range(DELETED):
            put(_address(n), b"x" * SIZES["MR"])
        shutil.rmtree(other)

    segment, file = _compare(folder / "deleted", "MR", "none", COUNTS["MR", "none"], threads=1, before=litter)
    return _line("MR 1 thread", "none", segment, file)


def _threads(folder: Path) -> bool:
    costs = [
        _run(_segments(folder / f"durable-{n}", "instance"), "MR", COUNTS["MR", "instance"], threads=4)
        for n in range(RUNS)
    ]
    return _goal("MR, synced, 4 threads", 1 / statistics.median(c.wall for c in costs), ">=", DURABLE_PER_SECOND, "/s")


def _acknowledged(folder: Path) -> bool:
    """Object and receipt, durable: what a C-STORE waits for."""
    for threads in (1, 4):
        costs = []
        for n in range(RUNS):
            place = folder / f"acknowledged-{threads}-{n}"
            receipts = ReceiptWriter(place / "receipts")
            spool = FileSpool(place / "spool", writer=receipts.name)
            costs.append(_run(_receiving(spool, receipts), "MR", COUNTS["MR", "instance"], threads=threads))
            spool.close()
            receipts.close()
        rate = 1 / statistics.median(c.wall for c in costs)
        print(f"{'MR and receipt':>24}: {1e6 / rate:8.1f} us, {threads} threads")
    return _goal("MR and receipt, 4 threads", rate, ">=", DURABLE_PER_SECOND, "/s")


def _python(folder: Path) -> bool:
    """Everything but the system calls of one object."""
    put, write_all = _segments(folder / "python", "none"), disk.write_all
    put(_address(0), b"x")
    disk.write_all = lambda *_, **__: None
    try:
        costs = [_run(put, "MR", 20_000, threads=1) for _ in range(RUNS)]
    finally:
        disk.write_all = write_all
    return _goal("Python per object", 1e6 * statistics.median(c.wall for c in costs), "<=", 1e6 * PYTHON_SECONDS, "us")


def _compare(
    folder: Path, kind: str, level: str, count: int, *, threads: int, before: Callable[[Path], None] | None = None
) -> tuple[_Cost, _Cost]:
    costs: dict[str, list[_Cost]] = {"segment": [], "file": []}
    for n in range(RUNS):
        for name, make in (("segment", _segments), ("file", _files)):
            place = folder / f"{name}-{n}"
            if before is not None:
                before(place)
            costs[name].append(_run(make(place, level), kind, count, threads=threads))
    segment, file = (
        _Cost(wall=statistics.median(c.wall for c in found), system=statistics.median(c.system for c in found))
        for found in costs.values()
    )
    return segment, file


def _run(put: Put, kind: str, count: int, *, threads: int) -> _Cost:
    data = os.urandom(SIZES[kind])

    def send(first: int) -> None:
        for n in range(first, count, threads):
            put(_address(n), data)

    started, system = time.perf_counter(), os.times().system
    senders = [threading.Thread(target=send, args=(n,)) for n in range(threads)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return _Cost(wall=(time.perf_counter() - started) / count, system=(os.times().system - system) / count)


def _address(number: int) -> Address:
    return Address(
        study_instance_uid="1.2.840.99.1", series_instance_uid=f"1.2.840.99.1.{number % 10}",
        sop_instance_uid=f"1.2.840.99.1.{number % 10}.{number}", sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )  # fmt: skip


def _receiving(spool: FileSpool, receipts: ReceiptWriter) -> Put:
    def put(address: Address, data: bytes) -> None:
        spool.begin(address).finish(
            [data],
            confirm=lambda placed, carried: receipts.append(
                Lane.ROUTINE,
                Stored(
                    address.sop_instance_uid, address.sop_class_uid, address.series_instance_uid,
                    address.study_instance_uid, address.transfer_syntax_uid, placed.location, placed.length, "A", "MR",
                    "ICHOR", None, None, False, time.time(),
                ),
                carried=carried,
            ),
        )  # fmt: skip

    return put


def _segments(folder: Path, level: str) -> Put:
    spool = FileSpool(folder, durability=level)
    return lambda address, data: spool.put(address, [data])


def _files(folder: Path, level: str) -> Put:
    """Written under another name, synced, renamed, the folder synced."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    folders = disk.Folders(folder)

    def put(address: Address, data: bytes) -> None:
        head = file_meta(
            sop_class_uid=address.sop_class_uid, sop_instance_uid=address.sop_instance_uid,
            transfer_syntax_uid=address.transfer_syntax_uid,
        )  # fmt: skip
        half = scratch / address.sop_instance_uid
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            disk.write_all(descriptor, [head, data])
            if level == "instance":
                disk.sync(descriptor)
        finally:
            os.close(descriptor)
        series = folders.ensure(f"{address.study_instance_uid}/{address.series_instance_uid}")
        half.rename(series / f"{address.sop_instance_uid}.dcm")
        if level == "instance":
            disk.sync_directory(series)

    return put


def _line(name: str, level: str, segment: _Cost, file: _Cost) -> bool:
    ratio = file.wall / segment.wall
    met = ratio >= NOT_SLOWER
    print(
        f"{name:>14} {'synced' if level == 'instance' else '':>9} {1e6 * segment.wall:9.0f} {1e6 * file.wall:9.0f} "
        f"{ratio:6.2f}   {1e6 * segment.system:5.0f} {1e6 * file.system:5.0f}{'' if met else '  SLOWER THAN FILES'}"
    )
    return met


def _goal(name: str, value: float, sign: str, goal: float, unit: str) -> bool:
    met = value >= goal if sign == ">=" else value <= goal
    print(f"{name:>24}: {value:8.1f} {unit}, goal {sign} {goal:.0f}{'' if met else '  MISSED'}")
    return met


def _file_system(folder: Path) -> str:
    """Type of the file system that holds ``folder``."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    inside = [(m[1], m[2]) for m in mounts if folder.is_relative_to(m[1])]
    return max(inside, key=lambda m: len(m[0]))[1]


if __name__ == "__main__":
    sys.exit(main())
