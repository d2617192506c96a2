"""What receivers leave in a store that they share: which store it is, who they are, who answers for whom. Not the spool.

``STORE`` is a stamp, which each data folder remembers, so that a bare mount point is not taken for the store.
``receivers/<name>`` is a receiver: its relay holds flock(2) on the file and touches it now and then; the name of who took
it over is written into it, once and for ever. See docs/decisions/0023.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import time
from pathlib import Path

from ichor.errors import CannotStart
from ichor.store import disk

_LOG = logging.getLogger(__name__)
STAMP, _FOLDER = "STORE", "receivers"
_SEEN, _OWN = "store", "receiver"  # in the data folder
RECEIVER = re.compile(r"(?:([0-9A-Za-z][0-9A-Za-z_-]{0,39})_)?[0-9a-f]{8}")
SUCCEEDS_AFTER = 45.0  # seconds: several signs were missed


def open_store(store: Path, data: Path) -> None:
    """`check_store`; one that is new to all gets its stamp, and this data folder remembers it.

    Raises
    ------
    CannotStart
        When it is not there, is another one, or cannot be written.
    """
    stamp, seen = check_store(store, data)
    try:
        if not stamp:
            _put_if_absent(store / STAMP, secrets.token_hex(16))
            stamp = _read(store / STAMP)
        if not seen:
            remember_store(data, stamp)
    except OSError as error:
        raise CannotStart(f"store {store}: {error.strerror}") from error


def check_store(store: Path, data: Path) -> tuple[str, str]:
    """Stamp of the store, and what this data folder remembers; each empty where it is new.

    Raises
    ------
    CannotStart
        When the store is not there, or is not what this data folder has seen there before.
    """
    try:
        stamp, seen = _read(store / STAMP), store_of_folder(data)
        if not store.is_dir() or (seen and not stamp):
            raise CannotStart(f"store {store}: not there; is the volume mounted?")
    except OSError as error:
        raise CannotStart(f"store {store}: {error.strerror}") from error
    if seen and stamp != seen:
        raise CannotStart(f"store {store}: not the one that this data folder has used before")
    return stamp, seen


def register(store: Path, data: Path, *, site_name: str = "") -> str:
    """The name of the receiver of this data folder, ``<site_name>_<random>``; a new one where it has none that it may use.

    Before its relay and receiving processes start. A receiver that another one took over goes on under a new name.
    """
    try:
        (store / _FOLDER).mkdir(exist_ok=True)
        disk.sync_directory(store)
        name = receiver_of_folder(data)
        if name:
            _put_if_absent(store / _FOLDER / name, "")  # somebody may have removed it
            if not (taken := _read(store / _FOLDER / name)) and site_name in ("", site_name_of(name)):
                return name
            if taken:
                _LOG.warning("receiver %s was taken for lost by %s; it goes on under a new name", name, taken)
        fresh = f"{site_name}_{secrets.token_hex(4)}" if site_name else secrets.token_hex(4)
        _put_if_absent(store / _FOLDER / fresh, "")
        remember_receiver(data, fresh)
        if name:
            _take(store / _FOLDER / name, by=fresh)  # ours: it was called otherwise before
        return fresh
    except OSError as error:
        raise CannotStart(f"store {store}: {error.strerror}") from error


def receiver_of_folder(data: Path) -> str:
    """What `register` gave last; empty before."""
    name = _read(data / _OWN)
    return name if RECEIVER.fullmatch(name) else ""


def remember_receiver(data: Path, name: str) -> None:
    """What `receiver_of_folder` says from now on."""
    _replace(data / _OWN, name)


def store_of_folder(data: Path) -> str:
    """Stamp of the store that a data folder remembers; empty when it has seen none."""
    return _read(data / _SEEN)


def remember_store(data: Path, stamp: str) -> None:
    """What `store_of_folder` says from now on."""
    _replace(data / _SEEN, stamp)


class Receivers:
    """All receivers of a store, as the relay of one of them sees them; for one thread.

    Parameters
    ----------
    name
        Its own, from `register`.
    lost_after
        Seconds without a sign after which a receiver that nobody holds is lost.
    patience
        Seconds to wait for a relay of this name that is still dying, or for who looks whether it lives.

    Raises
    ------
    CannotStart
        When another relay of this name lives, or the store cannot be used.
    """

    def __init__(self, store: Path, name: str, *, lost_after: float, patience: float = 3.0) -> None:
        self._folder = store / _FOLDER
        self._name = name
        self._lost_after = lost_after
        self._was_taken = False
        try:
            self._own = os.open(self._folder / name, os.O_RDWR | os.O_CLOEXEC)
            deadline = time.monotonic() + patience
            while not _is_locked(self._own):
                if time.monotonic() > deadline:
                    os.close(self._own)
                    raise CannotStart(f"another relay of receiver {name} lives")
                time.sleep(0.05)
        except OSError as error:
            raise CannotStart(f"store {store}: receiver {name}: {error.strerror}") from error

    @property
    def name(self) -> str:
        """Its own."""
        return self._name

    def look_round(self) -> bool:
        """Give a sign; take over who is lost. True when somebody was taken over. OSError when the store is away."""
        os.utime(self._own)  # the server's clock, and so is what the others' signs are compared with
        now = os.fstat(self._own).st_mtime
        if not self._was_taken and (taken := os.pread(self._own, 200, 0).decode(errors="replace").strip()):
            self._was_taken = True
            _LOG.error(
                "this receiver was taken for lost by %s: what it stores is told by both until it starts anew", taken
            )
        lost = [name for name in self._names() if name != self._name and self._is_lost(name, now)]
        found = [name for name in lost if _take(self._folder / name, by=self._name)]
        for name in found:
            _LOG.warning("receiver %s is lost: what it stored and nobody has told comes in here", name)
        return bool(found)

    def answered_for(self) -> frozenset[str]:
        """Its own name, and those of all that it took over, or who it took over had; nobody once it was taken itself.

        OSError when the store is away.
        """
        takers = {name: _read(self._folder / name) for name in self._names()}
        if takers.get(self._name):
            return frozenset()  # who took it may have promised to keep what lies there
        found = {self._name}
        while more := {name for name, taker in takers.items() if taker in found} - found:
            found |= more
        return frozenset(found)

    def everybody(self) -> frozenset[str]:
        """All receivers that there are or were. Safe from any thread. OSError when the store is away."""
        return frozenset(self._names())

    def close(self) -> None:
        os.close(self._own)

    def _names(self) -> list[str]:
        return [name for name in os.listdir(self._folder) if RECEIVER.fullmatch(name)]

    def _is_lost(self, name: str, now: float) -> bool:
        path = self._folder / name
        succeeds = site_name_of(name) == site_name_of(self._name) != ""
        silence = now - path.stat().st_mtime
        return silence > (min(SUCCEEDS_AFTER, self._lost_after) if succeeds else self._lost_after) and not _read(path)


def site_name_of(name: str) -> str:
    return name.rpartition("_")[0]


def _take(path: Path, *, by: str) -> bool:
    """False when it lives, or somebody else was faster."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not _is_locked(descriptor) or os.pread(descriptor, 1, 0):
            return False
        disk.write_all(descriptor, [f"{by}\n".encode()], at=0)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    return True


def _is_locked(descriptor: int) -> bool:
    """True when the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> str:
    """One word; empty when there is none."""
    try:
        return path.read_text(errors="replace").strip()
    except FileNotFoundError:
        return ""


def _put_if_absent(path: Path, text: str) -> None:
    """Whole and durable, or as it was."""
    draft = _draft(path, text)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    disk.sync_directory(path.parent)


def _replace(path: Path, text: str) -> None:
    _draft(path, text).rename(path)
    disk.sync_directory(path.parent)


def _draft(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        disk.write_all(descriptor, [f"{text}\n".encode() if text else b""])
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    return draft


def try_volume(store: Path) -> str:
    """What a volume that is shared must be able to do and this one cannot, from here; empty when it can all of it."""
    tried = "be written"
    try:
        draft = _draft(store / "doctor", "x")
        other = draft.with_suffix(".other")
        try:
            tried = "lock files (flock)"
            with draft.open("r+b") as held, draft.open("r+b") as second:
                if not _is_locked(held.fileno()) or _is_locked(second.fileno()):
                    raise OSError(errno.ENOLCK, "it gives one twice, or none")
            tried = "make hard links"
            os.link(draft, other)
            tried = "sync a folder"
            disk.sync_directory(store)
        finally:
            draft.unlink()
            other.unlink(missing_ok=True)
    except OSError as error:
        return f"cannot {tried}: {error.strerror}"
    return ""
