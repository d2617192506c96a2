"""Where the processes of one `ichor serve` count: files that prometheus_client maps, in memory. Declares no metric."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOG = logging.getLogger(__name__)
_MEMORY = Path("/dev/shm")
_PREFIX = "ichor-metrics-"
_ROLES: dict[int, str] = {}  # of this process alone: a fork of it is somebody else
_ROOM = 16 << 20  # many times what a `serve` was seen to need


@contextlib.contextmanager
def shared_metrics(otherwise: Path, *, memory: Path = _MEMORY) -> Iterator[Path]:
    """Several processes, one /metrics: prometheus_client's multiprocess mode, in a folder that is empty.

    That library looks at the environment once, when it is imported: enter this before anything imports it. It maps files
    without blocks, and on a full disk the first touch of such a page ends the process (SIGBUS): so they lie in memory, and
    in ``otherwise``, with a warning, only where ``memory`` is not there or has no room. They are gone at the end; those
    of a killed process are deleted by the next one.
    """
    lock = _locked_folder(memory)
    if lock is None:
        _LOG.warning("no room in %s: processes count on disk, and may be killed when that is full", memory)
        for old in otherwise.glob("*.db"):
            old.unlink()
    place, handle = lock or (otherwise.resolve(), None)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(place)
    try:
        yield place
    finally:
        if handle is not None:
            shutil.rmtree(place, ignore_errors=True)
            os.close(handle)


def count_by_role() -> None:
    """Let forked roles count in files of their own name, where processes share a folder; before `ichor.metrics` is imported.

    By process id, as the library would have it, a role that dies again and again fills the folder.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import values

        values.ValueClass = values.MultiProcessValue(_counts_as)  # type: ignore[no-untyped-call]


def count_as(role: str) -> None:
    """This process is ``role``, of which there is no other; what the one before it counted goes on."""
    _ROLES[os.getpid()] = role


def forget_live(role: str) -> None:
    """What a dead role last said of the moment, as how many associations are open, is true no longer."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(role)  # type: ignore[no-untyped-call]


def _counts_as() -> str:
    pid = os.getpid()
    return _ROLES.get(pid, str(pid))


def _locked_folder(memory: Path) -> tuple[Path, int] | None:
    """A new folder of this user's own, and its lock: forked children hold it, too; None where there can be none."""
    try:
        for old in memory.glob(f"{_PREFIX}*"):
            _delete_if_left(old)
        if shutil.disk_usage(memory).free < _ROOM:
            return None
        # Locked before it has the name by which another start looks for what was left.
        fresh = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=memory))
        handle = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(handle, fcntl.LOCK_SH)
        return fresh.rename(memory / fresh.name.removeprefix(".")), handle
    except OSError:
        return None


def _delete_if_left(old: Path) -> None:
    with contextlib.suppress(OSError):  # of another user, in use, or gone
        handle = os.open(old, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            os.close(handle)
