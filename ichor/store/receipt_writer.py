"""The writing side of the receipts log: what a process appends, and the thread that looks after its files. Reads nothing."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ichor import metrics
from ichor.errors import OutOfResources
from ichor.store import disk
from ichor.store.receipt_bell import Bell
from ichor.store.receipt_codec import encode_body
from ichor.store.receipt_files import refusal
from ichor.store.receipt_lane import LaneLog
from ichor.store.receipt_records import Carried, Lane, Record

_LOG = logging.getLogger(__name__)
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 60.0  # seconds


class ReceiptWriter:
    """One process's side of the receipts log. Any thread; at most one sync at a time per lane serves all who wait.

    Holds a lock (flock) on one file per lane as long as it lives: by that others know that more may come. After a
    failed sync a file is never written again, as a later sync that succeeds says nothing about what was lost.

    Parameters
    ----------
    folder
        Made when absent.
    durable
        False: written, but never synced (``listener.durability = "none"``).

    Raises
    ------
    OutOfResources
        When its files cannot be made.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.name = f"{time.time_ns():016x}{secrets.token_hex(4)}"  # names sort by start
        self._durable = durable
        self._folder = folder
        self._lanes: dict[Lane, LaneLog] = {}
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                if durable:
                    disk.sync_directory(folder.parent)
        except OSError as error:
            raise refusal(error) from error
        self._bell = Bell(folder)
        self._keeper = _Keeper(self._lanes)
        try:
            for lane in Lane:
                self._lanes[lane] = LaneLog(folder, self.name, lane, durable=durable, wake=self._keeper.wake)
        except BaseException:
            self.close()
            raise

    def append(self, lane: Lane, record: Record, *, wait: bool = True, carried: Carried | None = None) -> None:
        """Append ``record``; on the medium when it returns, unless ``wait`` is False or the writer is not durable.

        Records of one lane are read in the order in which they were appended.

        Parameters
        ----------
        carried
            The object that a `Stored` speaks of, when the spool has not synced it: the log keeps it until it has.

        Raises
        ------
        OutOfResources
            It could not be made durable: it must not be acknowledged. Nobody will read it, unless it was read before.
        """
        try:
            body = encode_body(record, carries=None if carried is None else _checksum(carried.parts))
        except ValueError as error:
            raise OutOfResources(f"the receipts log cannot hold a record: {error}") from None
        log = self._lanes[lane]
        assert carried is None or wait  # nobody else would make it durable
        wait = wait and self._durable
        file, end = log.write(body, carried, wait=wait)
        self._bell.ring()
        if wait:
            log.sync(file, end)

    def sync(self) -> None:
        """Everything appended so far is on the medium when it returns.

        Raises
        ------
        OutOfResources
            When that cannot be said.
        """
        if self._durable:
            for log in self._lanes.values():
                log.sync_all()

    def free_bytes(self) -> int:
        """Free bytes for us where the log lies."""
        space = os.statvfs(self._folder)
        return space.f_bavail * space.f_frsize

    def close(self) -> None:
        """Sync what was appended without waiting and let go. Safe to call twice; later appends are refused.

        Syncs what it carries in the spool, whether that is closed before or not.
        """
        self._keeper.stop()
        for log in self._lanes.values():
            log.close()
        self._bell.close()


class _Keeper:
    """A thread that does for the lanes what is not done in a sender's way; started when there is something."""

    def __init__(self, lanes: Mapping[Lane, LaneLog]) -> None:
        self._lanes = lanes
        self._event = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def wake(self) -> None:
        """Any thread; `LaneLog` calls it with its lock held."""
        self._event.set()
        with self._lock:
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="receipts", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            thread = self._thread
        self._event.set()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._stopped:
            now = time.monotonic()
            again = now + _LONGEST_PAUSE
            for log in self._lanes.values():
                try:
                    again = min(again, log.keep(now))
                except Exception:  # noqa: BLE001 - the edge of a loop: a lane must not stop the other
                    metrics.LOOP_ERRORS.labels("receipts").inc()
                    _LOG.exception("unexpected error while files of the receipts log were looked after")
            self._event.wait(max(_SHORTEST_PAUSE, again - time.monotonic()))
            self._event.clear()


def _checksum(parts: Sequence[disk.Bytes]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total
