"""The DICOM server: associations, C-ECHO and C-STORE by pynetdicom. Thin: what a C-STORE means is `Reception`'s.

Connections wait in the `Lobby`, requests are judged by `Admission`; only what is admitted costs threads. Where the
self-test allows it, `fast_path` takes over C-STOREs of an association; what is here is the plain path and its oracle.
"""

from __future__ import annotations

import functools
import logging
import socket
import ssl
import struct
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, cast

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_RELEASE, UserIdentityNegotiation

from ichor import metrics
from ichor.clock import Clock
from ichor.config import ListenerSettings, SenderSettings
from ichor.errors import CannotStart, OutOfResources
from ichor.store.protocol import Spool
from ichor.store.receipts import Lane, ReceiptWriter
from ichor.types import Priority
from listener import fast_path
from listener.admission import Admission, Admitted
from listener.baton import Baton
from listener.commitment import handle_action, report_addresses
from listener.connection import Handler, Server, SharedContexts, UnboundServer
from listener.fairness import Turns
from listener.gate import Gate
from listener.handover import Crew, Door
from listener.library import (
    MAXIMUM_PDU,
    acknowledge_quickly,
    application_entity,
    complete,
    configure_library,
    is_readable,
    is_too_much,
    say_goodbye,
    socket_of,
)  # fmt: skip
from listener.lobby import ABORT, Lobby
from listener.log_limit import LogLimit
from listener.pressure import DiskPressure
from listener.reception import Origin, Reception, Refusals, StoreCommand
from listener.sessions import Session, Sessions
from listener.tls import Certificates
from listener.trial import is_fast_path_usable

_LOG = logging.getLogger(__name__)

_PDU_SLACK = 1024  # senders that count the PDV's head differently
_N_EVENT_REPORT_RQ = 0x0100
_P_DATA = b"\x04"  # PDU types, PS3.8 9.3.5 and 9.3.8
_A_ABORT = b"\x07"
_HIGH = 1  # Priority (0000,0700), PS3.7 9.1.1.1


class Receiver:
    """Serves C-STORE, C-ECHO and storage commitment on one address, between ``start`` and ``drain``.

    Parameters
    ----------
    settings
        Address, titles, limits, watermarks, timeouts, TLS, durability.
    senders
        Who may send, with host and priority; empty: anybody.
    reception, refusals
        Answer C-STOREs; are told of what is rejected.
    receipts
        Gets an `Ended` for each association that was accepted, after everything that it stored.
    spool
        Synced before a release at level ``association``.
    pressure
        Whether further associations are taken; looked at by `sweep`, so that the lobby never waits for a file system.
    new_id
        Gives each association its name.
    fast
        Whether `fast_path` takes C-STOREs; None: when it passes its trial at the start.
    crew, process
        The processes that receive together and which of them this is: the first listens, the others are handed their
        connections. None: this one alone.

    Raises
    ------
    ConfigError
        When a passcode, certificate or key cannot be used.
    """

    def __init__(
        self, *, settings: ListenerSettings, senders: Sequence[SenderSettings] = (), reception: Reception,
        refusals: Refusals, receipts: ReceiptWriter, spool: Spool, pressure: DiskPressure, clock: Clock,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex, fast: bool | None = None,
        crew: Crew | None = None, process: int = 0,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._crew = crew or Crew.of(1, senders=len(senders))
        self._process = process
        self._seats = self._crew.seats.at(process)
        self._reception = reception
        self._receipts = receipts
        self._spool = spool
        self._clock = clock
        self._new_id = new_id
        self._fast = fast
        self._pressure = pressure
        self._admission = Admission(
            titles={settings.ae_title: None} | dict.fromkeys(settings.stat_ae_titles, Priority.STAT),
            senders=senders, most=settings.associations, is_congested=functools.partial(pressure.is_low, look=False),
            seats=self._seats,
        )  # fmt: skip
        self._report_addresses = report_addresses(senders)
        self._baton = Baton()
        self._turns = Turns(clock, seats=self._seats, wait=self._baton.sleep)
        self._certificates = Certificates(settings.tls) if settings.tls is not None else None
        self._log_limit = LogLimit()
        self._gate = Gate(
            admission=self._admission, refusals=refusals, log_limit=self._log_limit, opens=self._open
        )  # fmt: skip
        self._sessions = Sessions(receipts=receipts, refusals=refusals, clock=clock, leave=self._admission.leave)
        self._server: Server | None = None
        self._lobby: Lobby | None = None
        self._door: Door | None = None

    @property
    def port(self) -> int:
        """The port that the first process serves (there: chosen by the system when 0 was asked for)."""
        if self._server is None:
            raise RuntimeError("not started")
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen and serve in threads.

        Raises
        ------
        CannotStart
            When the address cannot be had.
        """
        self._pressure.is_low()
        configure_library()
        if self._fast is None:
            self._fast = is_fast_path_usable()
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._connected),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_DATA_RECV, self._received),
            (evt.EVT_DATA_SENT, acknowledge_quickly),
            (evt.EVT_ACSE_RECV, self._acse_received),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_DIMSE_RECV, self._message_received),
            (evt.EVT_RELEASED, self._released),
            (evt.EVT_ABORTED, self._aborted),
            (evt.EVT_C_ECHO, lambda _: 0x0000),
            (evt.EVT_C_STORE, self._c_store),
            (evt.EVT_N_ACTION, self._n_action),
        ]
        address = (self._settings.host, self._settings.port)
        try:
            server = cast(
                Server,
                application_entity(self._settings).make_server(
                    address,
                    evt_handlers=handlers,
                    request_handler=Handler,
                    server_class=UnboundServer if self._process else Server,
                ),
            )
        except OSError as error:
            raise CannotStart(f"cannot listen on {address[0]}:{address[1]}: {error.strerror or error}") from error
        server.longest_pdu = MAXIMUM_PDU + _PDU_SLACK
        server.contexts = SharedContexts(server.contexts)
        server.on_association = self._begun
        self._server = server
        source = self._crew.source(self._seats, self._process, cast(socket.socket, server.socket))
        self._door = source if isinstance(source, Door) else None
        self._lobby = Lobby(
            source, on_request=self._gate.judge,
            tls=self._certificates.current if self._certificates is not None else None,
            patience=self._settings.request_timeout, log_limit=self._log_limit,
            on_waiting=self._seats.waits,
        )  # fmt: skip
        self._gate.start()
        self._lobby.start()
        self._seats.opens()

    def open_associations(self) -> int:
        return len(self._sessions)

    def sweep(self) -> None:
        """Once a second: look at the disk and at the other processes; end what the library let go without telling."""
        self._pressure.is_low()
        if self._door is not None:
            self._door.look()
        for association in [a for a in self._sessions.all() if not a.is_alive() and a.ident is not None]:
            association.dul.kill_dul()
            wrapper = association.dul.socket
            if wrapper is not None:
                wrapper._shutdown_socket()
            self._sessions.end(association, released=False)

    def drain(self, patience: float) -> None:
        """No new associations; open ones have ``patience`` seconds to end by themselves, then they are aborted."""
        if self._lobby is None:
            return
        self._seats.closes()
        self._lobby.close()
        self._gate.close()
        deadline = self._clock.monotonic() + patience
        while self.open_associations() and self._clock.monotonic() < deadline:
            time.sleep(0.02)
            self.sweep()
        for association in self._sessions.all():
            try:
                association.abort(block=False)
            except Exception as error:  # noqa: BLE001 - the loop's edge: it may be ending by itself just now
                metrics.LOOP_ERRORS.labels("receive").inc()
                _LOG.warning("an association could not be aborted: %s", type(error).__name__)
            self._sessions.end(association, released=False)

    def _open(self, connection: socket.socket, address: Any, request: bytes, admitted: Admitted) -> None:
        """In a thread of its own, shortly: what the library does to begin an association takes milliseconds."""
        try:
            if is_readable(request):
                cast(Server, self._server).finish_request(cast(Any, (connection, request, admitted)), address)
                return
            self._gate.unreadable(request, address)
            say_goodbye(connection, ABORT)
        except Exception as error:  # noqa: BLE001 - the loop's edge
            metrics.LOOP_ERRORS.labels("receive").inc()
            _LOG.error("an association could not be begun: %s", type(error).__name__)
            self._sessions.forget(admitted)
        self._admission.leave(admitted)
        connection.close()

    def _begun(self, association: Association, admitted: Admitted) -> None:
        self._sessions.begin(association, admitted, losses=self._spool.losses)

    def _connected(self, event: evt.Event) -> None:
        raw = socket_of(event.assoc)
        if raw is None:
            return
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The library reads a PDU in blocking calls: without this, a peer that stops within one holds a thread for ever.
        if isinstance(raw, ssl.SSLSocket):
            raw.settimeout(self._settings.network_timeout)  # where OpenSSL blocks, it starts again after SO_RCVTIMEO
        else:
            patience = struct.pack("ll", int(self._settings.network_timeout), 0)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        acknowledge_quickly(event)

    def _closed(self, event: evt.Event) -> None:
        session = self._sessions.get(event.assoc)
        if session is not None and session.origin is None:
            self._sessions.end(event.assoc, released=False)

    def _received(self, event: evt.Event) -> None:
        acknowledge_quickly(event)
        kind = event.data[:1]
        if kind == _P_DATA:
            message = event.assoc.dimse.message
            if message is not None and is_too_much(message):
                self._abort(event.assoc, "a message longer than allowed")
        elif kind == _A_ABORT:
            session = self._sessions.get(event.assoc)
            if session is not None:
                session.abort_received = True

    def _message_received(self, event: evt.Event) -> None:
        command = event.message.command_set
        if command.get("CommandField") == _N_EVENT_REPORT_RQ:
            # Nobody may send us one, and the library starts a thread for each.
            self._abort(event.assoc, "a message that has no place here")
        complete(command)

    def _acse_received(self, event: evt.Event) -> None:
        """In the association's thread, after its last object and before a release is answered."""
        primitive = cast(Any, event).primitive
        if not isinstance(primitive, A_RELEASE) or primitive.result is not None:
            return
        session = self._sessions.get(event.assoc)
        if session is None:
            return
        session.release_received = True
        try:
            self._sync_before_release(session)
        except OutOfResources as error:
            _LOG.error("what an association sent is not on disk: %s", error.reason)
            self._abort(event.assoc, "not on disk")

    def _sync_before_release(self, session: Session) -> None:
        """At level ``association``: all that it was answered Success for is on disk; else OutOfResources.

        Bytes first: an end that is on disk must not speak of objects that are not.
        """
        if self._settings.durability == "association":
            self._spool.sync(losses=session.losses)
            self._receipts.sync()

    def _requested(self, event: evt.Event) -> None:
        session = self._sessions.get(event.assoc)
        if session is not None and session.admitted.answers_identity:
            answer = UserIdentityNegotiation()
            answer.server_response = b""  # PS3.7 D.3.3.7.2: empty for a user name
            event.assoc.acceptor.add_negotiation_item(answer)

    def _accepted(self, event: evt.Event) -> None:
        session = self._sessions.get(event.assoc)
        if session is None:
            return
        admitted = session.admitted
        priority = admitted.sender_priority or admitted.called_priority
        session.origin = Origin(
            association=self._new_id(), calling_ae=admitted.calling_ae, called_ae=admitted.called_ae,
            sender_priority=admitted.sender_priority, called_priority=admitted.called_priority,
            lane=Lane(priority.lane) if priority is not None else Lane.ROUTINE,
        )  # fmt: skip
        if self._fast:
            fast_path.install(
                event.assoc, reception=self._reception, origin=session.origin,
                turn=functools.partial(self._turns.turn, session.origin.lane),
                finish=functools.partial(self._sessions.finish, session), tell=functools.partial(setattr, session, "cause"),
                network_timeout=self._settings.network_timeout,
                baton=None if self._settings.durability == "instance" else self._baton,
            )  # fmt: skip

    def _c_store(self, event: evt.Event) -> int:
        session = self._sessions.get(event.assoc)
        if session is None or session.origin is None:
            return self._sessions.refuse_late(str(event.assoc.requestor.ae_title))
        request = cast(C_STORE, event.request)
        command = StoreCommand(
            sop_class_uid=str(request.AffectedSOPClassUID or ""),
            sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            priority_high=request.Priority == _HIGH,
        )
        self._turns.turn(session.origin.lane)
        arrival = self._reception.begin(command, session.origin)
        arrival.feed(request.DataSet.getbuffer() if request.DataSet is not None else memoryview(b""))
        return self._sessions.finish(session, arrival)

    def _n_action(self, event: evt.Event) -> tuple[int, None]:
        session = self._sessions.get(event.assoc)
        if session is None or session.origin is None:
            return 0x0110, None  # processing failure, PS3.7 annex C
        return handle_action(event, origin=session.origin, receipts=self._receipts, addresses=self._report_addresses)

    def _released(self, event: evt.Event) -> None:
        self._sessions.end(event.assoc, released=True)

    def _aborted(self, event: evt.Event) -> None:
        self._sessions.end(event.assoc, released=False)

    def _abort(self, association: Association, cause: str) -> None:
        session = self._sessions.get(association)
        if session is not None:
            session.cause = cause
        association.abort(block=False)
