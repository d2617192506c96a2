"""One reception behind pynetdicom alone or behind the fast path, its spool and receipts in memory: for comparisons."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from socketserver import BaseServer
from typing import Any

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, evt
from pynetdicom.transport import ThreadedAssociationServer
from unit.listener.modality import Scu

from ichor.clock import SystemClock
from ichor.errors import DataSetMismatch, OutOfResources
from ichor.reasons import Reason
from ichor.store.receipts import Carried, Lane, Record, Stored
from ichor.store.spool import Address, Placed
from ichor.uids import is_valid_uid
from listener import fast_path
from listener.baton import Baton
from listener.reception import Arrives, Origin, Reception, Refusals, StoreCommand

CLASSES = ("1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4")


class MemoryIncoming:
    def __init__(self, spool: MemorySpool, address: Address) -> None:
        self._spool, self._address, self._data = spool, address, bytearray()
        spool.begun += 1

    def write(self, parts: Sequence[Any]) -> None:
        self._spool.writes += 1
        if self._spool.is_full:
            raise OutOfResources("the object cannot be written to disk (ENOSPC)")
        for part in parts:
            self._data += part

    def finish(self, parts: Sequence[Any] = (), *, confirm: Callable[[Placed, Carried | None], None]) -> Placed:
        self.write(parts)
        location = f"{len(self._spool.objects)}"
        self._spool.objects[location] = (self._address, bytes(self._data))
        placed = Placed(location, len(self._data))
        confirm(placed, None)
        return placed

    def discard(self) -> None:
        self._spool.discarded += 1


class MemorySpool:
    def __init__(self) -> None:
        self.objects: dict[str, tuple[Address, bytes]] = {}
        self.is_full = False
        self.begun = self.writes = self.discarded = 0

    def begin(self, address: Address) -> MemoryIncoming:
        if not all(map(is_valid_uid, address)):
            raise DataSetMismatch(Reason.INVALID_UID)
        return MemoryIncoming(self, address)


class MemoryReceipts:
    def __init__(self) -> None:
        self.records: list[tuple[Lane, Record, bool]] = []

    def append(self, lane: Lane, record: Record, *, wait: bool = True, carried: Carried | None = None) -> None:
        assert carried is None  # what is in memory syncs itself
        self.records.append((lane, record, wait))


class Server:
    """pynetdicom on a free port; use as a context. ``fast``: with the fast path installed."""

    def __init__(
        self, *, fast: bool, turn: Callable[[], None] = lambda: None, network_timeout: float = 60.0,
        idle_timeout: float = 600.0, idle_response: str = "A-ABORT", tls: ssl.SSLContext | None = None,
        finish: Callable[[Arrives], int] = lambda arrival: arrival.end(), baton: Baton | None = None,
    ) -> None:  # fmt: skip
        self.spool, self.receipts = MemorySpool(), MemoryReceipts()
        self.refusals = Refusals(SystemClock(), self.receipts)
        self.reception = Reception(
            spool=self.spool, receipts=self.receipts, clock=SystemClock(), refusals=self.refusals
        )
        self.fates: list[str] = []
        self.causes: list[str] = []
        self.associations: list[Any] = []
        self._plain: set[Any] = set()  # associations of which the plain path took an object
        self._changed = threading.Condition()
        self._fast = fast
        self._turn = turn
        self._finish = finish
        self._baton = baton
        self._tls = tls
        self._network_timeout = network_timeout
        self._idle_response = idle_response
        self._origin = Origin(association="A", calling_ae="CT1", called_ae="ICHOR")
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        _config.LOG_HANDLER_LEVEL = "none"
        _config.VALIDATORS["UI"] = lambda _: (True, "")
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        self._ae = AE("ICHOR")
        self._ae.maximum_pdu_size = 131_072
        self._ae.network_timeout = idle_timeout
        for uid in CLASSES:
            self._ae.add_supported_context(uid, ALL_TRANSFER_SYNTAXES)

    def __enter__(self) -> Server:
        self._server = self._ae.make_server(
            ("127.0.0.1", 0), server_class=ThreadedAssociationServer, ssl_context=self._tls,
            evt_handlers=[
                (evt.EVT_ACCEPTED, self._accepted), (evt.EVT_C_ECHO, lambda _: 0), (evt.EVT_C_STORE, self._store),
                (evt.EVT_RELEASED, self._ended, ["released"]), (evt.EVT_ABORTED, self._ended, ["aborted"]),
            ],
        )  # fmt: skip
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        BaseServer.shutdown(self._server)
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def scu(self, **how: Any) -> Scu:
        """A sender whose association is in our hands on this side, too: the library accepts before it says so."""
        before = len(self.associations)
        scu = Scu(self.port, **how)
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.associations) > before, timeout=60), "never accepted"
        return scu

    def forget(self) -> None:
        """Begin anew with no memory of what was."""
        self.spool.objects.clear()
        self.receipts.records.clear()
        self.fates.clear()

    def stored(self) -> list[tuple[Address, bytes]]:
        """What was acknowledged, in order."""
        return [self.spool.objects[r.location] for _, r, _ in self.receipts.records if isinstance(r, Stored)]

    def fate(self, number: int = 0) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.fates) > number, timeout=60), "the association never ended"
            return self.fates[number]

    def _accepted(self, event: evt.Event) -> None:
        event.assoc.network_timeout_response = self._idle_response
        if self._fast:
            assert fast_path.install(
                event.assoc, reception=self.reception, origin=self._origin, turn=self._turn, tell=self.causes.append,
                network_timeout=self._network_timeout, finish=self._finish, baton=self._baton,
            )  # fmt: skip
        with self._changed:
            self.associations.append(event.assoc)
            self._changed.notify_all()

    def _store(self, event: evt.Event) -> int:
        # A sender in a hurry may be read by the library before EVT_ACCEPTED, where the fast path is installed.
        assert not self._fast or event.assoc not in self._plain, "a further C-STORE came to the plain path"
        self._plain.add(event.assoc)
        request: Any = event.request
        arrival = self.reception.begin(
            StoreCommand(
                str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID),
                str(event.context.transfer_syntax), request.Priority == 1,
            ),
            self._origin,
        )  # fmt: skip
        arrival.feed(request.DataSet.getbuffer())
        return arrival.end()

    def _ended(self, _: evt.Event, fate: str) -> None:
        with self._changed:
            self.fates.append(fate)
            self._changed.notify_all()
