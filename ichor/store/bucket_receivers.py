"""What receivers leave in an object store that they share: as `ichor.store.shared`, with signs and claims in place of locks.

``receivers/<name>`` is put again every 10 s: its time, of the store's clock, is the receiver's sign. ``taken/<name>``
is put once and for ever by who takes it over, and says who that is. Nobody can see whether a receiver that is silent
lives: one that cannot reach the store for `lost_after` counts as lost, and what it still tells is told twice.
"""

from __future__ import annotations

import logging
import secrets
import threading
from pathlib import Path

from ichor.errors import CannotStart, TransientError
from ichor.outage import Outage
from ichor.store.bucket import Bucket
from ichor.store.shared import (
    RECEIVER,
    STAMP,
    SUCCEEDS_AFTER,
    receiver_of_folder,
    remember_receiver,
    remember_store,
    site_name_of,
    store_of_folder,
)

_LOG = logging.getLogger(__name__)
_SIGNS, _TAKEN = "receivers/", "taken/"


def open_store(bucket: Bucket, data: Path) -> None:
    """`check_store`; one that is new to all gets its stamp, and this data folder remembers it.

    Raises
    ------
    CannotStart
        When it is not there, is another one, cannot be written, or lets what is there be written over.
    """
    stamp, seen = check_store(bucket, data)
    try:
        if not stamp:
            bucket.put_if_absent(STAMP, secrets.token_hex(16).encode())
            stamp = _read(bucket, STAMP)
        # With the same bytes, so that no harm is done where it is overwritten.
        if bucket.put_if_absent(STAMP, stamp.encode()):
            raise CannotStart(f"store {bucket.url}: it knows no PUT with If-None-Match, which is needed")
        if not seen:
            remember_store(data, stamp)
    except (TransientError, KeyError) as error:
        raise CannotStart(str(error)) from error


def check_store(bucket: Bucket, data: Path) -> tuple[str, str]:
    """Stamp of the store, and what this data folder remembers; each empty where it is new.

    Raises
    ------
    CannotStart
        When the store is not there, or is not what this data folder has seen there before.
    """
    seen = store_of_folder(data)
    try:
        stamp = _read(bucket, STAMP)
    except TransientError as error:
        raise CannotStart(str(error)) from error
    if seen and stamp != seen:
        raise CannotStart(f"store {bucket.url}: not the one that this data folder has used before")
    return stamp, seen


def register(bucket: Bucket, data: Path, *, site_name: str = "") -> str:
    """The name of the receiver of this data folder, as `ichor.store.shared.register`."""
    try:
        name = receiver_of_folder(data)
        taken = _read(bucket, _TAKEN + name) if name else ""
        if name and not taken and site_name in ("", site_name_of(name)):
            bucket.put(_SIGNS + name, b"")
            return name
        if taken:
            _LOG.warning("receiver %s was taken for lost by %s; it goes on under a new name", name, taken)
        fresh = f"{site_name}_{secrets.token_hex(4)}" if site_name else secrets.token_hex(4)
        bucket.put(_SIGNS + fresh, b"")
        remember_receiver(data, fresh)
        if name and not taken:
            bucket.put_if_absent(_TAKEN + name, fresh.encode())  # ours: it was called otherwise before
        return fresh
    except TransientError as error:
        raise CannotStart(str(error)) from error


class BucketReceivers:
    """`ichor.store.protocol.Receivers` of a bucket. Gives its sign in a thread of its own until `close`.

    Parameters
    ----------
    name
        Its own, from `register`.
    lost_after
        Seconds without a sign after which a receiver is lost.
    every
        Seconds between two signs.
    """

    def __init__(self, bucket: Bucket, name: str, *, lost_after: float, every: float = 10.0) -> None:
        self._bucket = bucket
        self._name = name
        self._lost_after = lost_after
        self._takers: dict[str, str] = {}  # for ever
        self._was_taken = False
        self._every = every
        self._closed = threading.Event()
        # Who calls `look_round` may be minutes at work between two calls, in a store with much to remove.
        self._signing = threading.Thread(target=self._keep_signing, name="sign", daemon=True)
        self._signing.start()

    @property
    def name(self) -> str:
        return self._name

    def look_round(self) -> bool:
        """Give a sign; take over who is lost. True when somebody was taken over. TransientError when the store is away."""
        self._bucket.put(_SIGNS + self._name, b"")
        signs = {one.key.removeprefix(_SIGNS): one.modified_at for one in self._bucket.names(_SIGNS)}
        now = signs.get(self._name, 0.0)  # the store's clock
        takers = self._known_takers()
        if self._name in takers and not self._was_taken:
            self._was_taken = True
            _LOG.error(
                "this receiver was taken for lost by %s: what it stores is told by both until it starts anew",
                takers[self._name],
            )
        lost = [
            name
            for name, at in signs.items()
            if name not in takers and name != self._name and RECEIVER.fullmatch(name) and self._is_lost(name, now - at)
        ]
        found = [name for name in lost if self._take(name)]
        for name in found:
            _LOG.warning("receiver %s is lost: what it stored and nobody has told comes in here", name)
        return bool(found)

    def answered_for(self) -> frozenset[str]:
        """Its own name, and those of all that it took over, or who it took over had; nobody once it was taken itself.

        TransientError when the store is away.
        """
        takers = self._known_takers()
        if self._name in takers:
            return frozenset()  # who took it may have promised to keep what lies there
        found = {self._name}
        while more := {name for name, taker in takers.items() if taker in found} - found:
            found |= more
        return frozenset(found)

    def everybody(self) -> frozenset[str]:
        """All receivers that there are or were. Safe from any thread. TransientError when the store is away."""
        names = (one.key.removeprefix(_SIGNS) for one in self._bucket.names(_SIGNS))
        return frozenset(name for name in names if RECEIVER.fullmatch(name))

    def close(self) -> None:
        self._closed.set()
        self._signing.join()

    def _keep_signing(self) -> None:
        outage = Outage(_LOG, role="receivers")
        while not self._closed.wait(self._every):
            try:
                self._bucket.put(_SIGNS + self._name, b"")
                outage.over()
            except TransientError as error:
                outage.away(error)
            except Exception as error:  # noqa: BLE001 - the loop's edge: without signs it would be taken for lost
                outage.away(TransientError(type(error).__name__))

    def _known_takers(self) -> dict[str, str]:
        for one in self._bucket.names(_TAKEN):
            if (name := one.key.removeprefix(_TAKEN)) not in self._takers:
                self._takers[name] = _read(self._bucket, one.key)
        return self._takers

    def _is_lost(self, name: str, silence: float) -> bool:
        succeeds = site_name_of(name) == site_name_of(self._name) != ""
        return silence > (min(SUCCEEDS_AFTER, self._lost_after) if succeeds else self._lost_after)

    def _take(self, name: str) -> bool:
        """False when somebody else was faster."""
        return (
            self._bucket.put_if_absent(_TAKEN + name, self._name.encode())
            or _read(self._bucket, _TAKEN + name) == self._name  # the answer to our first try was lost
        )


def _read(bucket: Bucket, key: str) -> str:
    """One word; empty when there is none."""
    try:
        return bucket.get(key).decode(errors="replace").strip()
    except KeyError:
        return ""


def try_bucket(bucket: Bucket) -> str:
    """What a store must be able to do and this one cannot; empty when it can all of it. Leaves nothing."""
    key, data = f"doctor/{secrets.token_hex(8)}", b"RESEARCH"
    tried = "put an object"
    try:
        bucket.put(key, data)
        try:
            tried = "read a part of an object"
            if bucket.get(key, 2, 5) != data[2:5]:
                return f"cannot {tried}"
            tried = "list objects"
            if [one.key for one in bucket.names("doctor/") if one.key == key] != [key]:
                return f"cannot {tried} that were put just now"
            tried = "refuse to write over an object (PUT with If-None-Match)"
            if bucket.put_if_absent(key, data):
                return f"cannot {tried}"
        finally:
            bucket.delete(key)
    except (TransientError, KeyError) as error:
        return f"cannot {tried}: {error}"
    return ""
