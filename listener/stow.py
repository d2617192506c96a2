"""The STOW-RS door: ``POST /dicom-web/studies[/{study}]`` (PS3.18 section 10.5) into the receiver's spool and receipts.

One request is one association. Whole objects as ``application/dicom`` only; no retrieval, no search.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus

import h11

from ichor import metrics
from ichor.clock import Clock
from ichor.config import SenderSettings, Settings
from ichor.errors import CannotStart, OutOfResources
from ichor.store.protocol import Spool
from ichor.store.receipts import Ended, Lane, ReceiptWriter
from listener.lobby import CLOSED, CROWDED_OUT, TOO_LATE
from listener.log_limit import LogLimit
from listener.multipart import Malformed, MultipartReader
from listener.pressure import DiskPressure
from listener.reception import Origin, Reception, Refusals
from listener.stow_http import TOO_SLOW, BadRequest, Connection, PeerGone
from listener.stow_request import RETRY_AFTER, Asked, Desk, Refusal
from listener.stow_response import http_status, module, preferred
from listener.stow_transaction import StoreTransaction, TooManyParts
from listener.tls import Certificates, failure

_LOG = logging.getLogger(__name__)

# The sender of a request that no [[senders]] entry names; HTTP has no AE titles.
CALLING_AE = "STOW-RS"
_MOST_CONNECTIONS = 64
_QUIET = frozenset({CLOSED})
_SENDERS_PATIENCE = 4.0
_LEAVING_PATIENCE = 1.0
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def run_stow(
    *, settings: Settings, spool: Spool, receipts: ReceiptWriter, clock: Clock, stop: threading.Event,
    on_ready: Callable[[], None],
) -> None:  # fmt: skip
    """Take Store transactions in until ``stop``, then let those under way finish for 4 s, cut the rest, and return.

    Parameters
    ----------
    settings
        With ``[listener.stow]``; TLS, senders, watermarks and timeouts are the listener's.
    receipts
        This process's own writer. Neither it nor ``spool`` is closed here.

    Raises
    ------
    CannotStart
        When the address cannot be had.
    ConfigError
        When the token's file, certificate or key cannot be used.
    """
    server = StowServer(settings=settings, spool=spool, receipts=receipts, clock=clock)
    server.start()
    on_ready()
    stop.wait()
    server.drain(_SENDERS_PATIENCE)


class StowServer:
    """Serves one address between ``start`` and ``drain``; a thread for each connection, of which there are few."""

    def __init__(self, *, settings: Settings, spool: Spool, receipts: ReceiptWriter, clock: Clock) -> None:
        listener = settings.listener
        if listener.stow is None:
            raise ValueError("no [listener.stow]")
        self._settings = listener
        self._address = (listener.stow.host, listener.stow.port)
        self._certificates = Certificates(listener.tls) if listener.tls is not None else None
        self._spool = spool
        self._receipts = receipts
        self._clock = clock
        self._refusals = Refusals(clock, receipts)
        self._pressure = DiskPressure(
            lambda: min(spool.free_bytes(), receipts.free_bytes()), low=listener.disk_low, full=listener.disk_full,
            clock=clock,
        )  # fmt: skip
        self._reception = Reception(
            spool=spool, receipts=receipts, clock=clock, refusals=self._refusals, pressure=self._pressure,
            waits=listener.durability == "instance",
        )  # fmt: skip
        self._desk = Desk(
            token=settings.stow_token(), senders=settings.senders, is_congested=self._pressure.is_low,
            room=lambda: spool.free_bytes() - listener.disk_full,
        )  # fmt: skip
        self._log_limit = LogLimit(monotonic=clock.monotonic)
        self._lock = threading.Lock()
        self._waiting: dict[Connection, None] = {}  # between requests, in the order of their coming
        self._busy: dict[Connection, None] = {}
        self._of_sender: Counter[SenderSettings | None] = Counter()
        self._draining = False
        self._listening: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port that is served (chosen by the system when 0 was asked for)."""
        if self._listening is None:
            raise RuntimeError("not started")
        return int(self._listening.getsockname()[1])

    def start(self) -> None:
        """Listen and serve in threads; CannotStart when the address cannot be had."""
        host, port = self._address
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listening = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            raise CannotStart(f"STOW-RS on {host}:{port}: {error.strerror or error}") from error
        _LOG.info("STOW-RS on %s:%d", host, self.port)
        threading.Thread(target=self._accept, args=(self._listening,), name="stow", daemon=True).start()

    def drain(self, patience: float) -> None:
        """No new requests; those under way have ``patience`` seconds, then they are cut off."""
        if self._listening is None:
            return
        with self._lock:
            self._draining = True
            idle = list(self._waiting)
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listening.close()
        for connection in idle:
            connection.interrupt()
        self._wait_for_busy(patience)
        with self._lock:
            left = list(self._busy)
        for connection in left:
            connection.interrupt()
        self._wait_for_busy(_LEAVING_PATIENCE)

    def _wait_for_busy(self, patience: float) -> None:
        deadline = self._clock.monotonic() + patience
        while self._busy and self._clock.monotonic() < deadline:
            time.sleep(0.02)

    # --- connections ----------------------------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        while not self._draining:
            try:
                raw, peer = listening.accept()
            except OSError as error:
                if not self._draining:
                    metrics.LOOP_ERRORS.labels("stow").inc()
                    _LOG.error("no connection could be accepted: %s", error.strerror)
                    time.sleep(0.1)
                continue
            try:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                tls = self._certificates.current() if self._certificates is not None else None
                threading.Thread(target=self.converse, args=(raw, str(peer[0]), tls), name="stow", daemon=True).start()
            except (RuntimeError, OSError):  # no thread to be had, or gone already
                raw.close()
                self._drop(CROWDED_OUT, str(peer[0]))

    def converse(self, raw: socket.socket, address: str, tls: ssl.SSLContext | None) -> None:
        """Serve a connection until it is over; closes it. One thread; never raises."""
        connection = Connection(raw, monotonic=self._clock.monotonic)
        try:
            raw.settimeout(self._settings.request_timeout)
            if not self._enter(connection, address):
                if tls is None:
                    self._say(connection, HTTPStatus.SERVICE_UNAVAILABLE, "too many requests", headers=RETRY_AFTER)
                return
            if tls is not None:
                try:
                    connection.secure(tls)
                except OSError as error:
                    self._drop(TOO_LATE if isinstance(error, TimeoutError) else failure(error), address)
                    return
            first = True
            while self._one(connection, address, first=first):
                first = False
        except Exception as error:  # noqa: BLE001 - the edge of one connection: the others go on
            metrics.LOOP_ERRORS.labels("stow").inc()
            _LOG.error("unexpected error on a connection: %s", type(error).__name__)
        finally:
            with self._lock:
                self._waiting.pop(connection, None)
                self._busy.pop(connection, None)
            connection.close()

    def _enter(self, connection: Connection, address: str) -> bool:
        """Take a place; when there is none, that of the oldest without a request. False: all are busy."""
        oldest: Connection | None = None
        with self._lock:
            full = len(self._waiting) + len(self._busy) >= _MOST_CONNECTIONS
            if full and self._waiting:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
            if not full or oldest is not None:
                self._waiting[connection] = None
        if oldest is not None:
            oldest.interrupt()
        if full:
            self._drop(CROWDED_OUT, address if oldest is None else "another")
        return not full or oldest is not None

    def _one(self, connection: Connection, address: str, *, first: bool) -> bool:
        """Serve one request; False when the connection is over."""
        try:
            request = connection.request(self._settings.request_timeout)
        except PeerGone as gone:
            if first and connection in self._waiting:
                self._drop(TOO_LATE if str(gone) == TOO_SLOW else CLOSED, address)
            return False
        except BadRequest as error:
            self._drop(str(error), address)
            self._say(connection, error.status, str(error))
            connection.leave()
            return False
        if request is None:
            if first:
                self._drop(CLOSED, address)
            return False
        with self._lock:
            if self._draining or connection not in self._waiting:
                return False
            del self._waiting[connection]
            self._busy[connection] = None
            metrics.ASSOCIATIONS_OPEN.set(len(self._busy))
        again = self._answer(connection, request, address)
        with self._lock:
            self._busy.pop(connection, None)
            metrics.ASSOCIATIONS_OPEN.set(len(self._busy))
            self._waiting[connection] = None  # also while it leaves: who comes may have its place
            if again and not self._draining:
                return True
        connection.leave()
        return False

    def _drop(self, reason: str, address: str) -> None:
        metrics.CONNECTIONS_DROPPED.labels(reason).inc()
        if reason not in _QUIET and self._log_limit.allows(reason):
            _LOG.warning("connection refused: %s address=%s", reason, address)

    # --- requests -------------------------------------------------------------------------------------------------

    def _answer(self, connection: Connection, request: h11.Request, address: str) -> bool:
        sender = self._desk.sender(address)
        calling = sender.ae_title if sender is not None else CALLING_AE
        try:
            asked = self._desk.judge(request, sender)
            self._begin(sender)
        except Refusal as refusal:
            reason = str(refusal)
            metrics.STOW_REQUESTS.labels(str(refusal.status.value)).inc()
            if self._log_limit.allows(f"{reason}\n{calling}\n{address}"):
                self._refusals.add(calling_ae=calling, status="rejected", reason=reason, address=address)
            return self._say(connection, refusal.status, reason, headers=refusal.headers)
        priority = sender.priority if sender is not None else None
        origin = Origin(
            association=uuid.uuid4().hex, calling_ae=calling, called_ae=self._settings.ae_title,
            sender_priority=priority, lane=Lane(priority.lane) if priority is not None else Lane.ROUTINE,
        )  # fmt: skip
        try:
            return self._store(connection, asked, origin)
        finally:
            with self._lock:
                self._of_sender[sender] -= 1

    def _begin(self, sender: SenderSettings | None) -> None:
        """Count a request of ``sender``; Refusal when it has as many as it may have associations."""
        with self._lock:
            if (
                sender is not None
                and sender.associations is not None
                and self._of_sender[sender] >= sender.associations
            ):
                raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "too many requests of this sender", headers=RETRY_AFTER)
            self._of_sender[sender] += 1

    def _store(self, connection: Connection, asked: Asked, origin: Origin) -> bool:
        losses = self._spool.losses
        transaction = StoreTransaction(reception=self._reception, origin=origin, study=asked.study)
        wrong: Malformed | BadRequest | None = None
        lost = ""
        released = False
        try:
            wrong = self._take(connection, asked.boundary, transaction)
            if self._settings.durability == "association" and transaction.stored:
                self._spool.sync(losses=losses)
                self._receipts.sync()
            released = wrong is None
        except PeerGone as gone:
            metrics.STOW_REQUESTS.labels("cut off").inc()
            _LOG.warning("request cut off (%s): calling_ae=%s", gone, origin.calling_ae)
            return False
        except OutOfResources as error:
            lost = error.reason
        finally:
            self._end(transaction, origin, released=released)
        if lost or wrong is not None:
            self._refusals.add(calling_ae=origin.calling_ae, status="rejected", reason=lost or str(wrong))
        if lost:
            metrics.STOW_REQUESTS.labels(str(HTTPStatus.SERVICE_UNAVAILABLE.value)).inc()
            text = "what came may not be safe: send it again"
            return self._say(connection, HTTPStatus.SERVICE_UNAVAILABLE, text, headers=RETRY_AFTER)
        status = http_status(transaction.outcomes, whole=wrong is None)
        if isinstance(wrong, TooManyParts):
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        metrics.STOW_REQUESTS.labels(str(status.value)).inc()
        if not transaction.outcomes:
            return self._say(connection, status, str(wrong))
        kind = preferred(asked.accept)
        headers = _HEADERS | {"Content-Type": kind}
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers |= RETRY_AFTER
        content = module(transaction.outcomes, kind, whole=wrong is None)
        return self._send(connection, status, headers, content)

    def _take(
        self, connection: Connection, boundary: str, transaction: StoreTransaction
    ) -> Malformed | BadRequest | None:
        """Read the body; what was wrong with it when it could not be read to its end."""
        reader = MultipartReader(boundary, parts=transaction)
        try:
            for piece in connection.body(self._settings.network_timeout):
                reader.feed(piece)
            reader.close()
        except (Malformed, BadRequest) as wrong:
            return wrong
        finally:
            transaction.cut()
        return None if transaction.outcomes else Malformed("no parts")

    def _end(self, transaction: StoreTransaction, origin: Origin, *, released: bool) -> None:
        if not transaction.stored:
            return
        end = Ended(origin.association, released, self._clock.time())
        try:
            self._receipts.append(origin.lane, end, wait=self._settings.durability != "none")
        except OutOfResources as error:
            # Its reader ends the association once this writer is gone.
            _LOG.error("the end of a request could not be written: %s", error.reason)

    def _say(self, connection: Connection, status: int, text: str, *, headers: dict[str, str] | None = None) -> bool:
        fields = _HEADERS | {"Content-Type": "text/plain; charset=utf-8"} | (headers or {})
        return self._send(connection, status, fields, f"{text}\n".encode())

    def _send(self, connection: Connection, status: int, headers: dict[str, str], content: bytes) -> bool:
        try:
            return connection.respond(
                status, headers=headers, content=content, patience=self._settings.network_timeout
            )  # fmt: skip
        except PeerGone as gone:
            _LOG.warning("an answer could not be given: %s", gone)
            return False
