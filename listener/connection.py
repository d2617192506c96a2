"""How an admitted connection becomes an association of pynetdicom. Adapts the library's socket; judges nothing."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from socketserver import BaseServer
from typing import Any, cast

from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from listener.admission import Admitted


class OversizedPDU(Exception):
    """A PDU is longer than was negotiated; the library answers with A-ABORT and ends the association."""


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
        if nr_bytes > self._longest:
            raise OversizedPDU
        connection = cast(socket.socket, self.socket)
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
        association.network_timeout_response = "A-RELEASE"
        cast(Server, self.server).on_association(association, self._admitted)
        return association


class Server(ThreadedAssociationServer):
    """The library's server without its accept loop: `listener.lobby` accepts, ``finish_request`` begins an association."""

    request_queue_size = 1024
    longest_pdu = 0

    def on_association(self, association: Association, admitted: Admitted) -> None:
        """Told of each association before it starts; set by the receiver."""
