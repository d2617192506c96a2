"""What `ichor doctor` asks of the receive path: store, watermarks, which loop reads C-STOREs, is all told (`ichor told`).

Asks the file system, the receipts log against the journal, and the text of /metrics. Changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ichor.cli.folder import DataFolder
from ichor.cli.machine import Finding, Level
from ichor.config import ListenerSettings, StoreSettings
from ichor.errors import CannotStart
from ichor.store.bucket import open_bucket
from ichor.store.ownership import divided_into, unowned
from ichor.store.receipts import Waiting
from ichor.store.shared import check_store as check_stamp
from ichor.store.shared import try_volume

_MIB = 2**20
_SOON = 2  # times `disk_low`: little is left
_LOOK_AGAIN = 0.5  # seconds
_LONG_UNTOLD, _TOO_LONG_UNTOLD = 30.0, 300.0  # seconds
# Some 24,000 objects, ten seconds of the relay's work: more is there after a burst only, or when it does not keep up.
_MUCH_UNREAD = 10 * _MIB


def check_watermarks(listener: ListenerSettings, place: Path) -> Finding:
    """Free space at ``place`` against ``disk_low`` and ``disk_full``."""
    free = _free(place)
    known = f"{free // _MIB} MiB free; disk_low {listener.disk_low // _MIB}, disk_full {listener.disk_full // _MIB} MiB"
    todo = "make room or shorten `retention.spool`; it ends by itself"
    if free < listener.disk_full:
        return Finding(Level.FAIL, "watermarks", f"every object is answered 0xA700: {known}", todo)
    if free < listener.disk_low:
        return Finding(Level.FAIL, "watermarks", f"no association is taken: {known}", todo)
    level = Level.WARN if free < _SOON * listener.disk_low else Level.OK
    return Finding(level, "watermarks", known, "make room before senders are rejected")


def check_store(folder: DataFolder) -> Iterator[Finding]:
    """Of a store that is shared: is it there, can it do what it must? Nothing of one below the data folder."""
    if folder.bucket is not None:
        yield _check_bucket(folder.bucket, folder.root)
    if folder.store is None:
        return
    try:
        check_stamp(folder.store, folder.root)
    except CannotStart as error:
        yield Finding(Level.FAIL, "shared store", str(error), "mount it: without it nothing starts")
        return
    if not os.access(folder.store, os.R_OK | os.W_OK | os.X_OK):
        todo = "give it, and what is in it, to the user that runs Ichor, on every machine"
        yield Finding(Level.FAIL, "shared store", f"{folder.store} cannot be written", todo)
    elif lack := try_volume(folder.store):
        todo = "use a volume with locks and hard links across machines: NFSv4, CephFS, EFS"
        yield Finding(Level.FAIL, "shared store", f"{folder.store} {lack}", todo)
    else:
        yield Finding(Level.OK, "shared store", f"{folder.store} syncs, locks and links, from here")


def check_assembly(folder: DataFolder) -> Iterator[Finding]:
    """Are studies divided as the settings say, and does every shard have an assembler? Nothing of one machine's own."""
    what = "shards of assembly"
    try:
        known = divided_into(folder.assembly)
        if known not in (None, folder.shards):
            todo = f"set `assemble.shards = {known}`, the same on every machine"
            yield Finding(Level.FAIL, what, f"{folder.shards} in the settings, {known} in {folder.assembly}", todo)
        elif known is not None and (known > 1 or folder.roams):
            free = unowned(folder.assembly, known)
            text = f"{known - len(free)} of {known} have an assembler"
            todo = "nothing is lost: their studies wait; start `ichor assemble`, or look into its log"
            yield Finding(Level.WARN if free else Level.OK, what, text, todo)
    except (CannotStart, OSError) as error:
        yield Finding(Level.FAIL, what, str(error), "mend or remount it; see docs/decisions/0026")


def _check_bucket(settings: StoreSettings, data: Path) -> Finding:
    from ichor.store.bucket_receivers import check_store, try_bucket

    try:
        bucket = open_bucket(settings)
        check_store(bucket, data)
    except CannotStart as error:
        return Finding(
            Level.FAIL, "shared store", str(error), "without it nothing starts, and 0xA700 answers all objects"
        )
    if lack := try_bucket(bucket):
        todo = "each role needs to get, put, delete and list, and the store must know PUT with If-None-Match"
        return Finding(Level.FAIL, "shared store", f"{settings.url} {lack}", todo)
    return Finding(Level.OK, "shared store", f"{settings.url} puts, gets, lists, deletes and does not write over")


def least_room(*places: Path) -> Path:
    """Where watermarks are met first: of spool and receipts log, which may lie on two volumes."""
    return min(places, key=_free)


def _free(place: Path) -> int:
    space = os.statvfs(place)
    return space.f_bavail * space.f_frsize


def size_on_disk(folder: Path) -> int:
    """Bytes that the files of a folder take, also what was filled ahead."""
    size = 0
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # deleted just now
                size += entry.stat(follow_symlinks=False).st_blocks * 512
    return size


def check_relay(waiting: Waiting | None, *, on_disk: int, receives: bool, relays: bool, now: float) -> Finding:
    """Is what was received told?

    Parameters
    ----------
    on_disk
        `size_on_disk` of the receipts log.
    receives, relays
        These roles are ready here.
    now
        POSIX seconds.
    """
    takes = f"the log takes {on_disk / _MIB:.0f} MiB on disk"
    if waiting is None:
        return Finding(
            Level.FAIL, "relay", "receipts log or journal cannot be read", "look for errors of the relay in the log"
        )
    unread = sum(waiting.bytes.values())
    if waiting.since is None:
        return Finding(Level.OK, "relay", f"all that was received is told; {takes}")
    age = max(0.0, now - waiting.since)
    text = f"{unread / _MIB:.1f} MiB ({unread} bytes) of the receipts log are not told yet, the oldest for {age:.0f} s; {takes}"
    if not (receives or relays):
        return Finding(Level.WARN, "relay", text, "nothing is lost: the next start of `ichor serve` tells it")
    if age > _LONG_UNTOLD and (not relays or age > _TOO_LONG_UNTOLD):
        todo = "nothing is lost, but nothing is analysed: look for errors of the relay in the log; restart it"
        return Finding(Level.FAIL, "relay", text, todo)
    level = Level.WARN if age > _LONG_UNTOLD or unread > _MUCH_UNREAD else Level.OK
    todo = "wait after a burst; if it grows without one, look for errors of the relay in the log"
    return Finding(level, "relay", text, todo)


def wait_until_told(folder: DataFolder, *, patience: float) -> int:
    """0 once the bus has all that was received, 1 when that did not come within ``patience`` seconds. For scale-in."""
    from ichor.cli.roles import JournalWhenThere

    journal, deadline = JournalWhenThere(folder), time.monotonic() + patience
    while True:
        if journal.is_all_told():
            print("all that was received is told")
            return 0
        if time.monotonic() >= deadline:
            print("ichor told: not yet; `ichor doctor` says how much waits", file=sys.stderr)
            return 1
        time.sleep(_LOOK_AGAIN)


def check_receiving(exposition: str) -> Iterator[Finding]:
    """Of a running receiver, from what /metrics says; nothing of what it does not say."""
    try:
        families = list(text_string_to_metric_families(exposition))
    except ValueError:
        return
    values = {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
    fast, plain = (values.get(("ichor_receive_path", path)) for path in ("fast", "plain"))
    if fast and not plain:
        yield Finding(Level.OK, "receive path", "fast")
    elif plain:
        todo = "install the pynetdicom that the lock file names; nothing is lost meanwhile"
        yield Finding(Level.WARN, "receive path", "plain, several times slower: the fast one failed its trial", todo)
