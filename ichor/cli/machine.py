"""What `ichor doctor` asks of the machine: folder, fsync, clock, limits, memory. Knows nothing of DICOM or the bus."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ichor.cli.folder import VERSION, DataFolder

_GIB = 2**30
# Limits are judgement.
_SLOW_SYNC_SECONDS = 0.1
# 200 associations, each with a socket and a file, beside databases and models.
_FEW_FILES, _NO_FILES = 4096, 1024
_LITTLE_MEMORY, _NO_MEMORY = 3 * _GIB, 1 * _GIB
_FIRST_PLAUSIBLE = 1_735_689_600.0  # 2025-01-01: before this program was written
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


class Level(StrEnum):
    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``todo`` says what to do unless all is well."""

    level: Level
    what: str
    text: str
    todo: str = ""


def grade(value: float, *, few: float, none: float) -> Level:
    """OK from ``few`` on, FAIL below ``none``."""
    return Level.OK if value >= few else Level.WARN if value >= none else Level.FAIL


def check_machine(folder: DataFolder) -> Iterator[Finding]:
    """Every check of this module in reading order."""
    yield check_folder(folder)
    place = existing(folder.root)
    if os.access(place, os.W_OK):
        yield check_sync(place)
    yield check_clock(time.time(), synchronised=clock_synchronised())
    yield check_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    available = available_memory()
    if available is not None:
        yield check_memory(available)


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def check_folder(folder: DataFolder) -> Finding:
    place = existing(folder.root)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return Finding(
            Level.FAIL, "data folder", f"{place} cannot be written", "give this user the right, or set `data`"
        )
    if place != folder.root.absolute():
        return Finding(Level.OK, "data folder", f"{folder.root} is not there yet; the first start makes it")
    try:
        text = (folder.root / "VERSION").read_text().strip()
    except FileNotFoundError:
        return Finding(Level.OK, "data folder", f"{folder.root} is writable; the first start fills it")
    except OSError as error:
        return Finding(Level.FAIL, "data folder", f"VERSION cannot be read: {error.strerror}", "restore the folder")
    if not text.isdigit() or int(text) > VERSION:
        found = f"{folder.root} is of version {text[:20]!r}, this Ichor knows up to {VERSION}"
        return Finding(Level.FAIL, "data folder", found, "install the Ichor that wrote it, or a newer one")
    for part in (folder.spool, folder.receipts, folder.run, folder.blobs):
        if part.exists() and not os.access(part, os.R_OK | os.W_OK | os.X_OK):
            todo = "give it, and what is in it, to the user that runs Ichor"
            return Finding(Level.FAIL, "data folder", f"{part} cannot be written", todo)
    return Finding(Level.OK, "data folder", f"{folder.root} is writable, version {text}")


def check_sync(place: Path) -> Finding:
    started = time.perf_counter()
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".ichor-doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
    except OSError as error:
        todo = "put the data folder on a local disk that can sync"
        return Finding(Level.FAIL, "fsync", f"fails: {error.strerror}", todo)
    seconds = time.perf_counter() - started
    level = Level.OK if seconds < _SLOW_SYNC_SECONDS else Level.WARN
    todo = "every image waits this long: use a faster disk, or find out what keeps it busy"
    return Finding(level, "fsync", f"file and folder in {1000 * seconds:.1f} ms", todo)


def check_clock(now: float, *, synchronised: bool | None) -> Finding:
    if now < _FIRST_PLAUSIBLE:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
        return Finding(Level.FAIL, "clock", f"says {when}", "set the clock: results carry its date")
    if synchronised is False:
        return Finding(Level.WARN, "clock", "is not synchronised", "start chrony or systemd-timesyncd")
    return Finding(Level.OK, "clock", "synchronised" if synchronised else "plausible")


def clock_synchronised() -> bool | None:
    """What the kernel knows (adjtimex, read only); None where it cannot be asked."""
    if sys.platform != "linux":
        return None
    # struct timex with modes = 0 only asks; the buffer is larger than any of its versions.
    state = int(ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(1024)))
    return None if state < 0 else state != _TIME_ERROR


def check_files(limit: int) -> Finding:
    level = Level.OK if limit == resource.RLIM_INFINITY else grade(limit, few=_FEW_FILES, none=_NO_FILES)
    return Finding(
        level, "open files", f"limit {limit}", "raise the hard limit: ulimit -Hn 8192, or LimitNOFILE= in the unit"
    )


def check_memory(available: int) -> Finding:
    level = grade(available, few=_LITTLE_MEMORY, none=_NO_MEMORY)
    return Finding(
        level,
        "memory",
        f"{available / _GIB:.1f} GiB available",
        "add some: a worker without memory is killed in the middle of a job",
    )


def available_memory() -> int | None:
    """Bytes that a new process could have, within its control group; None where it cannot be told."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        found.append(max(0, limit - int((group / "memory.current").read_text())))
    return min(found, default=None)
