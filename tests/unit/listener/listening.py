"""A `Receiver` alone: real sockets and library; what it stores and writes down is kept in lists."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from unit.listener.modality import Scu

from ichor.clock import SystemClock
from ichor.config import ListenerSettings, SenderSettings
from ichor.errors import OutOfResources
from ichor.store.receipts import Lane, Record
from listener.pressure import DiskPressure
from listener.receiver import Receiver


class ListedReceipts:
    """Records in order; a sync notes how many there were, or fails."""

    def __init__(self) -> None:
        self.records: list[tuple[Lane, Record]] = []
        self.synced: list[int] = []
        self.failure: Exception | None = None
        self._changed = threading.Condition()

    def append(self, lane: Lane, record: Record, *, wait: bool = True, carried: object = None) -> None:  # noqa: ARG002
        with self._changed:
            self.records.append((lane, record))
            self._changed.notify_all()

    def sync(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.synced.append(len(self.records))

    def wait_for(self, number: int) -> list[tuple[Lane, Record]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.records) >= number, timeout=60), self.records
            return list(self.records)


class ListedArrival:
    is_held = False  # what is fed is copied

    def __init__(self, reception: ListedReception, command: Any, origin: Any) -> None:
        self._reception, self.command, self.origin = reception, command, origin
        self.data = b""

    def feed(self, part: memoryview) -> None:
        self.data += part

    def flush(self) -> None:
        """Copied already."""

    def end(self) -> int:
        self._reception.arrivals.append(self)
        return self._reception.then(self)

    def cut(self) -> None:
        self._reception.cut += 1


class ListedReception:
    """Answers Success to everything, or what ``then`` says."""

    def __init__(self) -> None:
        self.arrivals: list[ListedArrival] = []
        self.cut = 0
        self.pressure: Any = None
        self.then: Callable[[ListedArrival], int] = lambda _: 0

    def begin(self, command: Any, origin: Any) -> ListedArrival:
        return ListedArrival(self, command, origin)


class ListedRefusals:
    def __init__(self) -> None:
        self.listed: list[tuple[str, str, str]] = []  # calling AE, status, reason
        self.addresses: list[str] = []
        self._changed = threading.Condition()

    def add(
        self, *, calling_ae: str, status: str, reason: str, study_instance_uid: str = "", address: str = ""  # noqa: ARG002
    ) -> None:  # fmt: skip
        with self._changed:
            self.addresses.append(address)
            self.listed.append((calling_ae, status, reason))
            self._changed.notify_all()

    def wait_for(self, number: int) -> list[tuple[str, str, str]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.listed) >= number, timeout=60), self.listed
            return list(self.listed)


class RoomySpool:
    """Only what a `Receiver` asks of a spool."""

    def __init__(self) -> None:
        self.free = 1 << 50
        self.losses = 0
        self.syncs = 0

    def free_bytes(self) -> int:
        return self.free

    def sync(self, *, losses: int) -> None:
        if losses != self.losses:
            raise OutOfResources("an earlier sync failed")
        self.syncs += 1


class Listening:
    """A receiver on a free port of the loopback; use as a context. ``fast``: the path that C-STOREs take."""

    fast = True

    def __init__(self, *, senders: Sequence[SenderSettings] = (), **settings: Any) -> None:
        self.receipts, self.reception, self.refusals = ListedReceipts(), ListedReception(), ListedRefusals()
        self.spool = RoomySpool()
        limits = ListenerSettings(port=0, stat_ae_titles=("ICHOR_STAT",), **settings)
        pressure = DiskPressure(self.spool.free_bytes, low=limits.disk_low, full=limits.disk_full, clock=SystemClock())
        self.reception.pressure = pressure
        names = iter(range(1, 1_000_000))
        self.receiver = Receiver(
            settings=limits, senders=senders, pressure=pressure,
            reception=self.reception, refusals=self.refusals, receipts=self.receipts, spool=self.spool,  # type: ignore[arg-type]
            clock=SystemClock(), new_id=lambda: f"association-{next(names)}", fast=Listening.fast,
        )  # fmt: skip

    def __enter__(self) -> Listening:
        self.receiver.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.receiver.drain(0.0)

    @property
    def port(self) -> int:
        return self.receiver.port

    def scu(self, **how: Any) -> Scu:
        """A sender whose association is in our hands on this side, too: the library accepts before it says so."""
        before = set(self.receiver._sessions.all())
        scu = Scu(self.port, **how)
        deadline = time.monotonic() + 60
        while not any(s.origin for a, s in self.receiver._sessions.all().items() if a not in before):
            assert time.monotonic() < deadline, "never accepted"
            time.sleep(0.005)
        return scu
