"""The DICOM server: associations, C-ECHO and C-STORE by pynetdicom. Thin: what a C-STORE means is `Reception`'s.

A faster receive path may take its place: all it needs is to make a `StoreRequest` and send the status.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import struct
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from socketserver import BaseServer
from typing import Any, cast

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE, N_ACTION
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import ThreadedAssociationServer

from ichor import metrics
from ichor.clock import Clock
from ichor.config import SenderSettings
from ichor.errors import CannotStart
from ichor.store.filemeta import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from ichor.store.journal import Journal
from ichor.types import Priority
from listener.classes import storage_classes
from listener.commitment import INVALID_ARGUMENT, PROCESSING_FAILURE, Announcements, Request, read_request
from listener.reception import Origin, Reception, Refusals, StoreRequest

_LOG = logging.getLogger(__name__)

# DCMTK senders cap at 131072; larger ones were measured slower.
_MAXIMUM_PDU = 131_072
_MOST_ASSOCIATIONS = 200
_ACSE_TIMEOUT = 30.0  # from connection to A-ASSOCIATE-RQ, and for a release
_NETWORK_TIMEOUT = 60.0  # a peer that stops in the middle of a PDU, or does not take our response
_IDLE_TIMEOUT = 600.0  # an association on which nothing is said
_VERIFICATION = "1.2.840.10008.1.1"
_COMMITMENT = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model
_C_STORE_RQ = 0x0001
_A_ASSOCIATE_RQ = b"\x01"  # PDU type, PS3.8 9.3.2
_A_ABORT = b"\x07"  # PDU type, PS3.8 9.3.8
_UNREADABLE_REQUEST = "the association request cannot be read"
_HIGH = 1  # Priority (0000,0700), PS3.7 9.1.1.1

# A-ASSOCIATE-RJ (result, source, reason), PS3.8 9.3.4.
_CALLING_NOT_RECOGNISED = (0x01, 0x01, 0x03)
_CALLED_NOT_RECOGNISED = (0x01, 0x01, 0x07)


class _Server(ThreadedAssociationServer):
    """The library's server, with a backlog for many senders and errors in our log."""

    request_queue_size = 128
    daemon_threads = True

    def shutdown(self) -> None:
        BaseServer.shutdown(self)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        metrics.LOOP_ERRORS.labels("receive").inc()
        _LOG.exception("a connection could not be served")


class _Session:
    """What is kept of one association while it lives."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.lock = threading.Lock()
        self.storing = False
        self.stored_any = False
        self.abort_received = False
        self.end: bool | None = None  # how it ended, while the last object is still being stored


class Receiver:
    """Serves C-STORE and C-ECHO on one address, between ``start`` and ``drain``.

    Parameters
    ----------
    ae_title, stat_ae_titles
        Called AE titles that are served; the latter mean STAT. Any other is rejected.
    senders
        Who may send, with host and priority; empty: anybody.
    on_ended
        Called when an association's end is in the journal; must not wait.
    new_id
        Gives each association its name.
    announcements
        Told of what senders ask to commit.
    """

    def __init__(
        self, *, ae_title: str, host: str, port: int, stat_ae_titles: Sequence[str] = (),
        senders: Sequence[SenderSettings] = (), reception: Reception, refusals: Refusals, journal: Journal,
        clock: Clock, on_ended: Callable[[], None] = lambda: None,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex, announcements: Announcements | None = None,
    ) -> None:  # fmt: skip
        self._titles = {ae_title.strip(): None} | {title.strip(): Priority.STAT for title in stat_ae_titles}
        self._senders = tuple(senders)
        self._address = (host, port)
        self._reception = reception
        self._refusals = refusals
        self._journal = journal
        self._clock = clock
        self._on_ended = on_ended
        self._new_id = new_id
        self._announcements = announcements or Announcements()
        self._sessions: dict[Association, _Session] = {}
        self._lock = threading.Lock()
        self._ae = _application_entity(ae_title)
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port that is served (chosen by the system when 0 was asked for)."""
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
        _configure_library()
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._connected),
            (evt.EVT_DATA_RECV, self._received),
            (evt.EVT_DATA_SENT, _acknowledge_quickly),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ACCEPTED, self._accepted),
            (evt.EVT_DIMSE_RECV, _complete),
            (evt.EVT_RELEASED, self._released),
            (evt.EVT_ABORTED, self._aborted),
            (evt.EVT_C_ECHO, lambda _: 0x0000),
            (evt.EVT_C_STORE, self._c_store),
            (evt.EVT_N_ACTION, self._n_action),
        ]
        try:
            server = self._ae.make_server(self._address, evt_handlers=handlers, server_class=_Server)
        except OSError as error:
            host, port = self._address
            raise CannotStart(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._server = cast(_Server, server)
        threading.Thread(target=server.serve_forever, args=(0.1,), name="dicom-server", daemon=True).start()

    def open_associations(self) -> int:
        with self._lock:
            return len(self._sessions)

    def sweep(self) -> None:
        """End what the library let go without telling (a thread that died)."""
        with self._lock:
            gone = [a for a in self._sessions if not a.is_alive() and a.ident is not None]
        for association in gone:
            self._end(association, released=False)

    def drain(self, patience: float) -> None:
        """No new associations; open ones have ``patience`` seconds to end by themselves, then they are aborted."""
        if self._server is None:
            return
        self._server.shutdown()
        deadline = self._clock.monotonic() + patience
        while self.open_associations() and self._clock.monotonic() < deadline:
            time.sleep(0.02)
            self.sweep()
        with self._lock:
            left = list(self._sessions)
        for association in left:
            try:
                association.abort(block=False)
            except Exception as error:  # noqa: BLE001 - the loop's edge: it may be ending by itself just now
                metrics.LOOP_ERRORS.labels("receive").inc()
                _LOG.warning("an association could not be aborted: %s", type(error).__name__)
            self._end(association, released=False)

    # --- what the library tells ---------------------------------------------------------------------------------

    def _connected(self, event: evt.Event) -> None:
        raw = _socket_of(event.assoc)
        if raw is None:
            return
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The library reads a PDU in blocking calls: without this, a peer that stops within one holds a thread for ever.
        patience = struct.pack("ll", int(_NETWORK_TIMEOUT), 0)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        _acknowledge_quickly(event)

    def _received(self, event: evt.Event) -> None:
        _acknowledge_quickly(event)
        if event.data[:1] == _A_ASSOCIATE_RQ and not _readable(event.data):
            # The library aborts without telling anybody: a sender with a bad AE title would leave no trace.
            metrics.ASSOCIATIONS_REJECTED.labels("unreadable request").inc()
            calling = _printable(event.data[26:42].decode("ascii", "replace").replace("\\", "?"))
            self._refusals.add(calling_ae=calling, status="rejected", reason=_UNREADABLE_REQUEST)
        elif event.data[:1] == _A_ABORT:
            with self._lock:
                session = self._sessions.get(event.assoc)
            if session is not None:
                session.abort_received = True

    def _requested(self, event: evt.Event) -> None:
        """Before negotiation: is the called AE title one of ours, may this sender send?"""
        calling, called = _titles(event.assoc)
        if called not in self._titles:
            self._reject(event.assoc, calling, _CALLED_NOT_RECOGNISED, "called AE title not recognised")
        elif self._senders and self._sender(calling, event.assoc.requestor.address) is None:
            self._reject(event.assoc, calling, _CALLING_NOT_RECOGNISED, "calling AE title or host not recognised")

    def _reject(self, association: Association, calling: str, answer: tuple[int, int, int], reason: str) -> None:
        metrics.ASSOCIATIONS_REJECTED.labels(reason).inc()
        self._refusals.add(calling_ae=calling, status="rejected", reason=reason)
        association.acse.send_reject(*answer)
        association.kill()  # returns when the answer is out and the connection closed

    def _sender(self, calling: str, address: str | None) -> SenderSettings | None:
        for sender in self._senders:
            if sender.ae_title.strip() == calling and _same_host(sender.host, address or ""):
                return sender
        return None

    def _accepted(self, event: evt.Event) -> None:
        calling, called = _titles(event.assoc)
        sender = self._sender(calling, event.assoc.requestor.address)
        origin = Origin(
            association=self._new_id(), calling_ae=calling, called_ae=called,
            sender_priority=sender.priority if sender else None, called_priority=self._titles.get(called),
        )  # fmt: skip
        with self._lock:
            self._sessions[event.assoc] = _Session(origin)
            metrics.ASSOCIATIONS_OPEN.set(len(self._sessions))

    def _c_store(self, event: evt.Event) -> int:
        with self._lock:
            session = self._sessions.get(event.assoc)
        if session is None:
            return 0xA700  # it is being drained: nobody would tell of this object's association
        request = cast(C_STORE, event.request)
        with session.lock:
            session.storing = True
        try:
            status = self._reception.receive(
                StoreRequest(
                    sop_class_uid=str(request.AffectedSOPClassUID or ""),
                    sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
                    transfer_syntax_uid=str(event.context.transfer_syntax),
                    data_set=request.DataSet.getbuffer() if request.DataSet is not None else b"",
                    priority_high=request.Priority == _HIGH,
                ),
                session.origin,
            )
        finally:
            with session.lock:
                session.storing = False
                session.stored_any = True
                end = session.end
            if end is not None:
                self._write_end(session, released=end)
        return status

    def _n_action(self, event: evt.Event) -> tuple[int, None]:
        with self._lock:
            session = self._sessions.get(event.assoc)
        request = cast(N_ACTION, event.request)
        uids = read_request(
            request.ActionInformation, action_type=request.ActionTypeID,
            transfer_syntax_uid=str(event.context.transfer_syntax),
        )  # fmt: skip
        if uids is None:
            return INVALID_ARGUMENT, None
        if session is not None:
            origin = session.origin
            self._announcements.add(
                Request(association=origin.association, calling_ae=origin.calling_ae, sop_instance_uids=uids)
            )
        return PROCESSING_FAILURE, None

    def _released(self, event: evt.Event) -> None:
        self._end(event.assoc, released=True)

    def _aborted(self, event: evt.Event) -> None:
        self._end(event.assoc, released=False)

    def _end(self, association: Association, *, released: bool) -> None:
        with self._lock:
            session = self._sessions.pop(association, None)
            metrics.ASSOCIATIONS_OPEN.set(len(self._sessions))
        if session is None:
            return
        if not released:
            if session.abort_received:
                cause = "by the peer"
            else:
                cause = "by us" if association._sent_abort else "connection lost or out of step"
            _LOG.warning("association aborted (%s): calling_ae=%s", cause, session.origin.calling_ae)
        with session.lock:
            session.end = released
            if session.storing:
                return  # the storing thread writes it, after its object
        self._write_end(session, released=released)

    def _write_end(self, session: _Session, *, released: bool) -> None:
        self._journal.end_association(
            session.origin.association, released=released, at=self._clock.time(), then=self._on_ended
        )


def _configure_library() -> None:
    # The library's own switch for what we need: any storage class, private and unknown ones, any transfer syntax.
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    # Logs and warnings of the libraries show messages and, on errors, values of senders.
    _config.LOG_HANDLER_LEVEL = "none"
    for library in ("pynetdicom", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module="pydicom")
    # A UID that is no UID is answered with a status; the library would abort the association.
    _config.VALIDATORS["UI"] = lambda _: (True, "")


def _readable(request: bytes) -> bool:
    """The library will understand this A-ASSOCIATE-RQ PDU."""
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(request)
        pdu.to_primitive()
    except Exception:  # noqa: BLE001 - it raises anything on a malformed request
        return False
    return True


def _complete(event: evt.Event) -> None:
    """Give a C-STORE-RQ without a UID one that is none: the library would leave it without an answer, ours is 0xA900."""
    command = event.message.command_set
    if command.get("CommandField") == _C_STORE_RQ:
        for keyword in ("AffectedSOPClassUID", "AffectedSOPInstanceUID"):
            if not command.get(keyword):
                setattr(command, keyword, "0")


def _application_entity(ae_title: str) -> AE:
    ae = AE(ae_title=ae_title)
    ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = _MAXIMUM_PDU
    ae.maximum_associations = _MOST_ASSOCIATIONS
    ae.acse_timeout = _ACSE_TIMEOUT
    ae.dimse_timeout = _NETWORK_TIMEOUT
    ae.network_timeout = _IDLE_TIMEOUT
    ae.add_supported_context(_VERIFICATION)
    ae.add_supported_context(_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    # Storage classes that the library counts to other services (Media Storage Directory, Hanging Protocol, ...).
    mine = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    for uid in storage_classes():
        if uid not in mine:
            ae.add_supported_context(uid, ALL_TRANSFER_SYNTAXES)
    return ae


def _socket_of(association: Association) -> socket.socket | None:
    wrapper = association.dul.socket
    return wrapper.socket if wrapper is not None else None


def _acknowledge_quickly(event: evt.Event) -> None:
    """Re-arm TCP_QUICKACK, which does not stick: a sender with Nagle's algorithm waits for this ACK, 40 ms each time."""
    raw = _socket_of(event.assoc)
    if raw is not None and hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):  # closed meanwhile
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _titles(association: Association) -> tuple[str, str]:
    """Calling and called AE title, fit for a log line, whatever a sender wrote."""
    primitive = cast(A_ASSOCIATE, association.requestor.primitive)
    return _printable(primitive.calling_ae_title), _printable(primitive.called_ae_title)


def _printable(title: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in title).strip()


def _same_host(configured: str, peer: str) -> bool:
    try:
        known = {ipaddress.ip_address(configured)}
    except ValueError:
        try:
            known = {ipaddress.ip_address(str(info[4][0])) for info in socket.getaddrinfo(configured, None)}
        except OSError:
            return False
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address) in known
