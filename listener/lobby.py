"""Where connections wait until they have asked for an association. One thread for all; knows PDU heads, no DICOM beyond.

A connection costs a descriptor and what it has sent until then, and a thread only when a whole A-ASSOCIATE-RQ is there:
probes, half-open connections and slow senders cost next to nothing. When there are too many, the oldest goes, first
among those of the same address, so a sender that speaks at once always gets in.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ichor import metrics
from listener.handover import Source
from listener.log_limit import LogLimit
from listener.tls import failure

_LOG = logging.getLogger(__name__)

_MOST_WAITING = 1024
_MOST_OF_ONE_ADDRESS = 256
_MOST_WAITING_BYTES = 16 << 20
_LONGEST_REQUEST = 256 << 10  # 128 presentation contexts with every transfer syntax each are about 160 KB
_LEAVING_SECONDS = 2.0  # for the peer to read our answer and close; an early close would take the answer back
_LEAVING_BYTES = 1 << 20
_ACCEPTS_AT_ONCE = 64
_SHORT_PAUSE = 0.05
_A_ASSOCIATE_RQ, _TLS_HANDSHAKE = 0x01, 0x16
# Sta2, any other PDU: AA-1, A-ABORT from the service-user (PS3.8 table 9-10).
ABORT = struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 0, 0)

CLOSED = "closed before a request"
TOO_LATE = "no request in time"
TOO_LONG = "request too long"
NO_REQUEST = "not an association request"
TLS_ON_PLAIN = "TLS on a port without TLS"
CROWDED_OUT = "too many connections without a request"
# Port scans and health checks of load balancers: counted, not logged.
_QUIET = frozenset({CLOSED})


@dataclass(slots=True, kw_only=True, eq=False)
class _Guest:
    socket: socket.socket
    address: str
    port: tuple[object, ...]
    deadline: float
    shaking_hands: bool
    request: bytearray = field(default_factory=bytearray)
    leaving: bool = False
    discarded: int = 0


class Lobby:
    """Accepts from a listening socket, or what stands in for one, between ``start`` and ``close``.

    Parameters
    ----------
    listening
        Bound and listening; closed with the lobby.
    on_request
        ``(socket, address, request)`` with a blocking socket and a whole PDU of type 1: returns None when it took the
        socket over, else the answer to send before the connection is closed. Called in the lobby's thread: must not
        wait.
    tls
        The context for a new connection; None: no TLS.
    patience
        Seconds from the connection to a whole request.
    on_waiting
        Told how many wait, of each change at once and after each connection.
    """

    def __init__(
        self, listening: Source, *,
        on_request: Callable[[socket.socket, tuple[object, ...], bytes], bytes | None],
        tls: Callable[[], ssl.SSLContext] | None = None, patience: float = 30.0, log_limit: LogLimit | None = None,
        on_waiting: Callable[[int], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._listening = listening
        self._on_request = on_request
        self._tls = tls
        self._patience = patience
        self._log_limit = log_limit or LogLimit()
        self._on_waiting = on_waiting
        self._selector = selectors.DefaultSelector()
        self._waiting: dict[_Guest, None] = {}  # in the order of their coming
        self._leaving: dict[_Guest, None] = {}
        self._of_address: Counter[str] = Counter()
        self._bytes = 0
        self._accept_again = 0.0
        self._woken, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="dicom-lobby", daemon=True)

    def start(self) -> None:
        self._listening.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._listening, selectors.EVENT_READ, None)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread.start()

    def close(self) -> None:
        """No further connections; those without a request are closed. Waits for the thread."""
        self._waker.close()
        self._thread.join()

    # --- the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                if not self._turn():
                    break
            except Exception as error:  # noqa: BLE001 - the loop's edge
                metrics.LOOP_ERRORS.labels("receive").inc()
                _LOG.error("unexpected error in the lobby: %s", type(error).__name__)
                time.sleep(_SHORT_PAUSE)
        for guest in [*self._waiting, *self._leaving]:
            self._forget(guest)
            guest.socket.close()
        self._selector.close()
        self._listening.close()
        self._woken.close()

    def _turn(self) -> bool:
        for key, _ in self._selector.select(self._until_next()):
            if key.fileobj is self._woken:
                return False
            if key.fileobj is self._listening:
                self._accept()
                continue
            guest: _Guest = key.data
            if guest in self._waiting or guest in self._leaving:  # not crowded out in this turn
                self._serve(guest)
        self._end_late_ones()
        metrics.CONNECTIONS_WAITING.set(len(self._waiting))
        return True

    def _until_next(self) -> float | None:
        ends = [next(iter(guests)).deadline for guests in (self._waiting, self._leaving) if guests]
        if self._accept_again:
            ends.append(self._accept_again)
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        while self._waiting and (guest := next(iter(self._waiting))).deadline <= now:
            self._drop(guest, TOO_LATE)
        while self._leaving and (guest := next(iter(self._leaving))).deadline <= now:
            self._forget(guest)
            guest.socket.close()
        if self._accept_again and self._accept_again <= now:
            self._accept_again = 0.0
            self._selector.register(self._listening, selectors.EVENT_READ, None)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._cannot_accept(error)
                return
            self._welcome(connection, address)

    def _cannot_accept(self, error: OSError) -> None:
        """No descriptors or memory: the oldest that waits makes room, and the listener pauses for a moment."""
        if self._log_limit.allows("accept"):
            _LOG.warning("a connection cannot be accepted: %s", errno.errorcode.get(error.errno or 0, "error"))
        if self._waiting:
            self._drop(next(iter(self._waiting)), CROWDED_OUT)
        self._selector.unregister(self._listening)
        self._accept_again = time.monotonic() + _SHORT_PAUSE

    def _welcome(self, connection: socket.socket, address: tuple[object, ...]) -> None:
        connection.setblocking(False)
        if self._tls is not None:
            try:
                connection = self._tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            except OSError:  # it is closed already
                connection.close()
                self._count(CLOSED, str(address[0]))
                self._on_waiting(len(self._waiting))
                return
        guest = _Guest(
            socket=connection, address=str(address[0]), port=address, deadline=time.monotonic() + self._patience,
            shaking_hands=self._tls is not None,
        )  # fmt: skip
        self._waiting[guest] = None
        self._on_waiting(len(self._waiting))
        self._of_address[guest.address] += 1
        self._selector.register(connection, selectors.EVENT_READ, guest)
        if self._of_address[guest.address] > _MOST_OF_ONE_ADDRESS:
            self._drop(next(g for g in self._waiting if g.address == guest.address), CROWDED_OUT)
        elif len(self._waiting) > _MOST_WAITING:
            self._drop(next(iter(self._waiting)), CROWDED_OUT)
        if guest in self._waiting:
            self._serve(guest)  # a sender that speaks at once does not wait for another turn

    def _serve(self, guest: _Guest) -> None:
        try:
            if guest.leaving:
                self._discard(guest)
            elif not guest.shaking_hands or self._shake_hands(guest):
                self._read(guest)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._selector.modify(guest.socket, selectors.EVENT_READ, guest)
        except ssl.SSLWantWriteError:
            self._selector.modify(guest.socket, selectors.EVENT_WRITE, guest)
        except OSError as error:
            self._drop(guest, failure(error) if guest.shaking_hands and isinstance(error, ssl.SSLError) else CLOSED)

    def _shake_hands(self, guest: _Guest) -> bool:
        if not isinstance(guest.socket, ssl.SSLSocket):
            raise TypeError(type(guest.socket))
        guest.socket.do_handshake()
        guest.shaking_hands = False
        return True

    def _read(self, guest: _Guest) -> None:
        request = guest.request
        while True:
            needed = 6
            if len(request) >= 6:
                needed += struct.unpack_from(">I", request, 2)[0]
            if len(request) == needed and needed > 6:
                break
            more = guest.socket.recv(min(needed - len(request), 65536))
            if not more:
                self._drop(guest, CLOSED)
                return
            request += more
            self._bytes += len(more)
            if request[0] != _A_ASSOCIATE_RQ:
                self._answer(guest, ABORT, TLS_ON_PLAIN if request[0] == _TLS_HANDSHAKE else NO_REQUEST)
                return
            if len(request) >= 6 and not 0 < struct.unpack_from(">I", request, 2)[0] <= _LONGEST_REQUEST:
                self._answer(guest, ABORT, TOO_LONG if any(request[2:6]) else NO_REQUEST)
                return
            while self._bytes > _MOST_WAITING_BYTES:
                self._drop(next(iter(self._waiting)), CROWDED_OUT)
            if guest not in self._waiting:
                return
        self._selector.unregister(guest.socket)
        self._leave_waiting(guest)
        guest.socket.setblocking(True)
        answer = self._on_request(guest.socket, guest.port, bytes(request))
        if answer is not None:
            guest.socket.setblocking(False)
            self._selector.register(guest.socket, selectors.EVENT_READ, guest)
            self._say_goodbye(guest, answer)

    def _answer(self, guest: _Guest, answer: bytes, reason: str) -> None:
        self._leave_waiting(guest)
        self._count(reason, guest.address)
        self._say_goodbye(guest, answer)

    def _say_goodbye(self, guest: _Guest, answer: bytes) -> None:
        guest.leaving, guest.deadline = True, time.monotonic() + _LEAVING_SECONDS
        self._leaving[guest] = None
        if len(self._leaving) > _MOST_WAITING:
            oldest = next(iter(self._leaving))
            self._forget(oldest)
            oldest.socket.close()
        with contextlib.suppress(OSError):
            guest.socket.send(answer)
            if not isinstance(guest.socket, ssl.SSLSocket):
                guest.socket.shutdown(socket.SHUT_WR)

    def _discard(self, guest: _Guest) -> None:
        while guest.discarded < _LEAVING_BYTES:
            more = guest.socket.recv(65536)
            if not more:
                break
            guest.discarded += len(more)
        self._forget(guest)
        guest.socket.close()

    def _drop(self, guest: _Guest, reason: str) -> None:
        if not guest.leaving:
            self._count(reason, guest.address)
        self._forget(guest)
        guest.socket.close()

    def _forget(self, guest: _Guest) -> None:
        self._leave_waiting(guest)
        self._leaving.pop(guest, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(guest.socket)

    def _leave_waiting(self, guest: _Guest) -> None:
        if guest in self._waiting:
            del self._waiting[guest]
            self._on_waiting(len(self._waiting))
            self._bytes -= len(guest.request)
            self._of_address[guest.address] -= 1
            if not self._of_address[guest.address]:
                del self._of_address[guest.address]

    def _count(self, reason: str, address: str) -> None:
        if reason not in _QUIET and self._log_limit.allows(reason):
            _LOG.warning("connection refused: %s address=%s", reason, address)
        metrics.CONNECTIONS_DROPPED.labels(reason).inc()
