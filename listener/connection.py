"""How an admitted connection becomes an association of pynetdicom. Adapts the library's socket; judges nothing."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import struct
from collections.abc import Callable
from socketserver import BaseServer
from typing import Any, cast

from pynetdicom.association import Association
from pynetdicom.fsm import StateMachine
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from ichor import metrics
from listener.admission import Admitted

_LOG = logging.getLogger(__name__)
# A-ABORT by the service-provider, unexpected PDU and invalid parameter value: PS3.8 section 9.3.8.
_ABORT = struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 2, 2)
_TOO_LONG = struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 2, 6)
_CLOSING = "Sta13"  # PS3.8 section 9.2.2: waits for the connection to close


class OversizedPDU(OSError):
    """A PDU is longer than was negotiated; to the library a lost connection, as its threads would die of another error."""


class AdmittedSocket(AssociationSocket):
    """The library's socket with its association request already read.

    Unlike the library's it works with descriptors above 1023, which `select` cannot take, bounds a PDU's length, reads in
    large pieces, and closes the descriptor also where the peer has gone first.
    """

    def __init__(self, association: Association, connection: socket.socket, *, request: bytes, longest: int) -> None:
        super().__init__(association, client_socket=connection)
        self._request = memoryview(request)
        self._longest = longest
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN | select.POLLPRI)

    @property
    def ready(self) -> bool:
        connection = self.socket
        if connection is None or not self._is_connected:
            return False
        if self._request:
            return True
        # A closed or failed connection is "ready", too: the read that follows tells.
        return (isinstance(connection, ssl.SSLSocket) and connection.pending() > 0) or bool(self._poll.poll(0))

    def recv(self, nr_bytes: int) -> bytearray:
        if self._request:
            first, self._request = self._request[:nr_bytes], self._request[nr_bytes:]
            return bytearray(first)
        connection = cast(socket.socket, self.socket)
        if nr_bytes > self._longest:
            with contextlib.suppress(OSError):
                connection.sendall(_TOO_LONG)
            raise OversizedPDU
        data = bytearray(nr_bytes)
        view, got = memoryview(data), 0
        while got < nr_bytes:
            count = connection.recv_into(view[got:])
            if not count:
                break
            got += count
        view.release()
        return data[:got]

    def _shutdown_socket(self) -> None:
        connection = self.socket
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


class _StateMachine(StateMachine):
    """The library's, whose thread would die of an event that has no place, or of a message that it cannot decode.

    It would print what it choked on, and the peer would see no A-ABORT.
    """

    def do_action(self, event: str) -> None:
        try:
            super().do_action(event)
        except Exception as error:  # noqa: BLE001 - the loop's edge
            if self.current_state != _CLOSING:  # there, what comes late has no place and does no harm
                metrics.LOOP_ERRORS.labels("receive").inc()
                _LOG.debug("a PDU has no place or cannot be decoded: %s", type(error).__name__)
                connection = self.dul.socket.socket if self.dul.socket is not None else None
                if connection is not None:
                    with contextlib.suppress(OSError):
                        connection.sendall(_ABORT)
            self.dul.kill_dul()


class Handler(RequestHandler):
    """Starts the association of one admitted connection."""

    def __init__(self, request: tuple[socket.socket, bytes, Admitted], client_address: Any, server: BaseServer) -> None:
        connection, self._first, self._admitted = request
        super().__init__(connection, client_address, server)

    def _create_association(self) -> Association:
        association = super()._create_association()
        # The library's own socket has announced the connection; ours does it again.
        association.dul.event_queue.get_nowait()
        association.dul.socket = AdmittedSocket(
            association, self.request, request=self._first, longest=cast(Server, self.server).longest_pdu
        )
        association.dul.state_machine = _StateMachine(association.dul)
        association.network_timeout_response = "A-RELEASE"
        cast(Server, self.server).on_association(association, self._admitted)
        return association


class SharedContexts(list[PresentationContext]):
    """Supported presentation contexts. The library only reads them, and copies them for each association: 11 ms of ours."""

    def __deepcopy__(self, _: object) -> SharedContexts:
        return self


class Server(ThreadedAssociationServer):
    """The library's server without its accept loop: `listener.lobby` accepts, ``finish_request`` begins an association."""

    request_queue_size = 1024
    longest_pdu = 0
    on_association: Callable[[Association, Admitted], None]  # told of each association before it starts


class UnboundServer(Server):
    """Of a process that is handed its connections."""

    def server_bind(self) -> None:
        """Another process is bound to the address."""

    def server_activate(self) -> None:
        """And listens there."""
