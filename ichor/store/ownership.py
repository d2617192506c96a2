"""Who owns which shard of the assemblers' state: a stamp, a lock for each shard, signs of life. Not the state itself.

In one folder, of one machine or of a store that several share: ``SHARDS`` says into how many it is divided;
``<number>.lock`` is held with flock(2) by the shard's owner, who writes a token into ``<number>.owner``; and
``members/<token>`` is held by every process that may own some. See docs/decisions/0026.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from pathlib import Path

from ichor.errors import CannotStart, TransientError
from ichor.store import disk

_STAMP, _MEMBERS = "SHARDS", "members"


class ShardLost(TransientError):
    """Another process owns the shard by now: nothing more may be written or told of it."""


def divide(folder: Path, count: int, *, unstamped: int | None = None) -> None:
    """Say, once and for ever, that the state in ``folder`` is divided into ``count``.

    ``unstamped``: what a folder without a stamp is divided into, if it has state.

    Raises
    ------
    CannotStart
        When it is divided otherwise.
    """
    known = divided_into(folder) or unstamped
    if known is None or not (folder / _STAMP).exists():
        try:
            _put_stamp(folder, known or count)
            known = divided_into(folder)
        except OSError as error:
            # A full disk must not keep an older folder from starting, which alone can make room; the next start stamps.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or known != count:
                raise
    if known != count:
        raise CannotStart(
            f"assemble.shards = {count}: the assemblers' state in {folder} is divided into {known}, and cannot be "
            "divided anew; see docs/decisions/0026"
        )


def _put_stamp(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    draft = folder / f".{_STAMP}.{secrets.token_hex(8)}"
    try:
        with draft.open("w") as file:
            file.write(f"{count}\n")
            file.flush()
            disk.sync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, folder / _STAMP)
    finally:
        draft.unlink(missing_ok=True)
    disk.sync_directory(folder)


def divided_into(folder: Path) -> int | None:
    """What the stamp says; None where there is none.

    Raises
    ------
    CannotStart
        When it is no number.
    """
    try:
        text = (folder / _STAMP).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    if not text.isdigit():
        raise CannotStart(f"{folder / _STAMP} does not say a number")
    return int(text)


def unowned(folder: Path, count: int) -> list[int]:
    """Shards whose lock nobody holds at this moment."""
    return [number for number in range(count) if not _held(folder / f"{number}.lock")]


class Claim:
    """A shard that is ours: its lock, until `release` or the end of the process."""

    def __init__(self, folder: Path, number: int, lock: int) -> None:
        self.number = number
        self._lock = lock
        self._owner = folder / f"{number}.owner"
        self._token = secrets.token_hex(16)
        self._owner.write_text(self._token)

    def check(self) -> None:
        """Raise `ShardLost` when another process has taken the shard since.

        On one machine that cannot be: a lock falls with its process only. On a network file system it falls when its
        client was not heard of for a lease. The owner's file is opened anew: that alone shows what others wrote.
        """
        if self._owner.read_text(errors="replace") != self._token:
            raise ShardLost(f"shard {self.number} is another assembler's by now")

    def release(self) -> None:
        os.close(self._lock)


class Members:
    """The processes that share the shards of a folder, as one of them sees them; for one thread.

    Raises
    ------
    OSError
        From every method, when the folder cannot be used.
    """

    def __init__(self, folder: Path, *, count: int) -> None:
        self._folder = folder
        self._count = count
        self._name = secrets.token_hex(8)
        self._own: int | None = None
        (folder / _MEMBERS).mkdir(exist_ok=True)

    def share(self) -> tuple[int, int]:
        """How many shards are this one's fair share now, and the first that it should try to take.

        All shares together are all shards, where all see the same members.
        """
        names = self._alive()
        rank, each = names.index(self._name), self._count // len(names)
        return each + (rank < self._count % len(names)), rank * self._count // len(names)

    def take(self, number: int) -> Claim | None:
        """The shard, if nobody else has it. Not to be asked for one that this process has."""
        lock = _locked(self._folder / f"{number}.lock")
        if lock is None:
            return None
        try:
            return Claim(self._folder, number, lock)
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """No more a member."""
        if self._own is not None:
            (self._folder / _MEMBERS / self._name).unlink(missing_ok=True)
            os.close(self._own)
            self._own = None

    def _alive(self) -> list[str]:
        members = self._folder / _MEMBERS
        if not (members / self._name).exists():  # at first, or another machine took us for dead
            self._join()
        found = []
        for name in sorted(os.listdir(members)):
            if name == self._name or _held(members / name):
                found.append(name)
            else:
                (members / name).unlink(missing_ok=True)
        return found if self._name in found else sorted([*found, self._name])

    def _join(self) -> None:
        if self._own is not None:
            os.close(self._own)
        # Locked before others see it under its name: none is ever unlocked there and alive.
        draft = self._folder / f".{self._name}"
        self._own = _locked(draft)
        draft.rename(self._folder / _MEMBERS / self._name)


def _locked(path: Path) -> int | None:
    """An open file that only we hold; None when another does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def _held(path: Path) -> bool:
    """Whether somebody holds it; tried by a lock that two who ask may have at once."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
