"""What `ichor doctor` asks of the receive path: watermarks, which loop reads C-STOREs, how far the relay is behind.

Asks the file system and the text of /metrics; knows neither receipts nor journal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from ichor.cli.machine import Finding, Level
from ichor.config import ListenerSettings

_MIB = 2**20
# Some 24,000 objects, ten seconds of the relay's work: more is there after a burst only, or when it does not keep up.
_MUCH_UNREAD = 10 * _MIB


def check_watermarks(listener: ListenerSettings, place: Path) -> Finding:
    """Free space at ``place`` against ``disk_low`` and ``disk_full``."""
    space = os.statvfs(place)
    free = space.f_bavail * space.f_frsize
    known = f"{free // _MIB} MiB free; disk_low {listener.disk_low // _MIB}, disk_full {listener.disk_full // _MIB} MiB"
    todo = "make room or shorten `retention.spool`; it ends by itself"
    if free < listener.disk_full:
        return Finding(Level.FAIL, "watermarks", f"every object is answered 0xA700: {known}", todo)
    if free < listener.disk_low:
        return Finding(Level.FAIL, "watermarks", f"no association is taken: {known}", todo)
    return Finding(Level.OK, "watermarks", known)


def check_receiving(exposition: str) -> Iterator[Finding]:
    """Of a running receiver and relay, from what /metrics says; nothing of what it does not say."""
    try:
        families = list(text_string_to_metric_families(exposition))
    except ValueError:
        return
    values = {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}
    fast = values.get(("ichor_receive_path", "fast"))
    if fast == 1:
        yield Finding(Level.OK, "receive path", "fast")
    elif fast is not None:
        todo = "install the pynetdicom that the lock file names; nothing is lost meanwhile"
        yield Finding(Level.WARN, "receive path", "plain, several times slower: the fast one failed its trial", todo)
    unread = [value for (name, *_), value in values.items() if name == "ichor_receipts_unread_bytes"]
    if unread:
        level = Level.WARN if sum(unread) > _MUCH_UNREAD else Level.OK
        todo = "wait after a burst; if it grows without one, look for errors of the relay in the log"
        yield Finding(level, "relay", f"{sum(unread) / _MIB:.1f} MiB of the receipts log are not told yet", todo)
