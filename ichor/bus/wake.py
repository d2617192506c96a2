"""Wake-up and sign of life between processes on one machine, by FIFOs in a folder. Carries no data and no order.

Every waiting member owns a FIFO and holds its reading end. Who changed something writes one byte into it: the member
wakes within a fraction of a millisecond and costs nothing while it sleeps. The same file tells whether its owner
lives, however it died and in whatever pid namespace: opening it for writing fails with ENXIO when nobody reads.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import time
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

# Where a filesystem knows no FIFOs, members poll; their life cannot be told, so that only their leases count.
_POLL_SECONDS = 0.01
_BLIND = "blind"


class Wake:
    """One member's FIFO. ``channel`` is what it wants to be woken for (a group or a topic)."""

    def __init__(self, folder: Path, channel: str) -> None:
        name = f"{_digest(channel)}.{uuid.uuid4().hex}"
        draft = folder / f".{name}"
        self._ends: tuple[int, ...] = ()
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            os.mkfifo(draft, 0o600)
            # A writing end of our own: without one, poll() reports a hang-up for ever after the first writer left.
            self._ends = (os.open(draft, os.O_RDONLY | os.O_NONBLOCK), os.open(draft, os.O_WRONLY | os.O_NONBLOCK))
            # Only now under its final name: a FIFO that others can see always has its reader.
            os.rename(draft, folder / name)
        except OSError as error:
            log.warning("no FIFO in %s (%s): polling instead", folder, error.strerror)
            self._close_ends()
            draft.unlink(missing_ok=True)
            name = f"{_BLIND}.{name}"
        self.path = folder / name
        self.name = name

    def wait(self, seconds: float) -> None:
        """Sleep until woken, at most ``seconds``; may return early for no reason."""
        if not self._ends:
            time.sleep(min(seconds, _POLL_SECONDS))
            return
        poll = select.poll()  # not select(): a listener may have more than 1024 descriptors
        poll.register(self._ends[0], select.POLLIN)
        if poll.poll(max(0.0, seconds) * 1000):
            # Another thread with the same member may have read it already.
            with contextlib.suppress(BlockingIOError):
                os.read(self._ends[0], 65536)

    def close(self) -> None:
        if self._ends:
            self.path.unlink(missing_ok=True)
            self._close_ends()

    def _close_ends(self) -> None:
        for end in self._ends:
            os.close(end)
        self._ends = ()


def notify(folder: Path, channels: Iterable[str]) -> None:
    """Wake every member that waits for one of ``channels``; removes what dead members left."""
    wanted = {_digest(channel) for channel in channels}
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        if name.partition(".")[0] in wanted and not _open(folder / name, write=True):
            (folder / name).unlink(missing_ok=True)


def lives(folder: Path, name: str) -> bool:
    """False only when the member is known to be gone."""
    return name.startswith(_BLIND) or _open(folder / name, write=False)


def _open(path: Path, *, write: bool) -> bool:
    """Does anyone hold the reading end? With ``write``: wake it."""
    try:
        end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.ENOENT)
    try:
        if write:
            os.write(end, b"\0")
    except BlockingIOError:
        return True  # full: it has been woken often enough
    except BrokenPipeError:
        return False
    finally:
        os.close(end)
    return True


def _digest(channel: str) -> str:
    # A collision costs one needless wake-up.
    return f"{zlib.crc32(channel.encode()):08x}"
