"""One HTTP/1.1 connection of the STOW door, served by blocking calls in one thread: `h11` and deadlines. No DICOM.

Every wait has an end: a request's head must come within a time, and a body must bring a number of bytes in each.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus

import h11

_RECEIVE = 1 << 18
# What a body brings at once to its reader, and at least within each patience.
_PIECE = 1 << 16
_LEAST_PROGRESS = 1 << 14
_LONGEST_HEAD = 16_384  # of a request, or of a chunk
# For the peer to read our answer and to end; an early close would take the answer back.
_LEAVING_SECONDS = 2.0
_LEAVING_BYTES = 64 << 20

CLOSED = "closed before its end"
TOO_SLOW = "too slow"
NOT_HTTP = "not HTTP/1.1 as RFC 9112 has it"
TOO_LONG = "a head of more than 16 KiB"


class PeerGone(Exception):
    """Nothing more can be heard or said: closed, or too slow. The text is one of few."""


class BadRequest(Exception):
    """What came is `NOT_HTTP` or `TOO_LONG`; to be answered with ``status``, then the connection is of no more use."""

    def __init__(self, text: str, *, status: int) -> None:
        super().__init__(text)
        self.status = status


class Connection:
    """Requests one after the other: `request`, then `body`, then `respond`. One thread.

    Parameters
    ----------
    raw
        Connected; plain or TLS. Closed by `leave`.
    """

    def __init__(self, raw: socket.socket, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._socket = raw
        self._monotonic = monotonic
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LONGEST_HEAD)
        self._ended = False
        self._is_over = False
        self._received = 0
        self._method = b""

    def secure(self, context: ssl.SSLContext) -> None:
        """Shake hands, within the time that the socket has; OSError when it fails."""
        secured = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
        self._socket = secured
        secured.do_handshake()

    def request(self, patience: float) -> h11.Request | None:
        """The next request's head; None when the peer wants no more.

        Raises
        ------
        PeerGone, BadRequest
        """
        deadline = self._monotonic() + patience
        before = self._read
        while True:
            event = self._next()
            if event is h11.NEED_DATA:
                self._receive(deadline)
            elif isinstance(event, h11.Request):
                self._method = event.method
                if self._read - before > _LONGEST_HEAD:  # h11 bounds what it keeps, not what is whole at once
                    raise self._no_more(TOO_LONG, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return event
            else:
                return None

    def body(self, patience: float) -> Iterator[bytes]:
        """The body in pieces that are not small, the last one apart.

        Raises
        ------
        PeerGone, BadRequest
        """
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=HTTPStatus.CONTINUE, headers=[])
            self._send(self._http.send(go_on) or b"", patience)
        deadline, goal = self._monotonic() + patience, self._received + _LEAST_PROGRESS
        pieces: list[bytes] = []
        size = 0
        while True:
            event = self._next()
            if event is h11.NEED_DATA:
                self._receive(deadline)
                if self._received >= goal:
                    deadline, goal = self._monotonic() + patience, self._received + _LEAST_PROGRESS
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
                size += len(event.data)
                if size >= _PIECE:
                    yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    pieces, size = [], 0
                    # Time that the reader took is not the peer's.
                    deadline, goal = self._monotonic() + patience, self._received + _LEAST_PROGRESS
            elif isinstance(event, h11.EndOfMessage):
                if pieces:
                    yield b"".join(pieces)
                return
            else:
                raise PeerGone(CLOSED)

    def respond(self, status: int, *, headers: dict[str, str], content: bytes, patience: float) -> bool:
        """Answer; True when another request may follow, else `leave` is next.

        Raises
        ------
        PeerGone
        """
        again = self._http.their_state is h11.DONE and not self._is_over
        content = content if self._method != b"HEAD" else b""
        fields = {**headers, "Content-Length": str(len(content))} | ({} if again else {"Connection": "close"})
        try:
            out = [
                self._http.send(h11.Response(status_code=status, headers=list(fields.items()))),
                self._http.send(h11.Data(data=content)),
                self._http.send(h11.EndOfMessage()),
            ]
        except h11.LocalProtocolError as error:
            raise PeerGone(CLOSED) from error
        self._send(b"".join(part for part in out if part), patience)
        if not again or self._http.our_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def leave(self) -> None:
        """Close, after what the peer still sends was swallowed for a while: else it would not see the answer."""
        deadline, swallowed = self._monotonic() + _LEAVING_SECONDS, 0
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_WR)  # of TLS too: it would forget how to decrypt
            while not self._ended and swallowed < _LEAVING_BYTES and (left := deadline - self._monotonic()) > 0:
                self._socket.settimeout(left)
                data = self._socket.recv(_RECEIVE)
                self._ended = not data
                swallowed += len(data)
        self.close()

    def interrupt(self) -> None:
        """From another thread: whatever is waited for ends now."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _next(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            if self._ended:
                raise PeerGone(CLOSED) from error
            # h11's own words quote what came.
            status = error.error_status_hint
            too_long = status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise self._no_more(TOO_LONG if too_long else NOT_HTTP, status) from error

    @property
    def _read(self) -> int:
        """Bytes that came and were taken for something."""
        return self._received - len(self._http.trailing_data[0])

    def _no_more(self, text: str, status: int) -> BadRequest:
        self._is_over = True
        return BadRequest(text, status=status)

    def _receive(self, deadline: float) -> None:
        left = deadline - self._monotonic()
        if left <= 0:
            raise PeerGone(TOO_SLOW)
        try:
            self._socket.settimeout(left)
            data = self._socket.recv(_RECEIVE)
        except TimeoutError as error:
            raise PeerGone(TOO_SLOW) from error
        except OSError as error:
            raise PeerGone(CLOSED) from error
        self._ended = not data
        self._received += len(data)
        self._http.receive_data(data)

    def _send(self, data: bytes, patience: float) -> None:
        try:
            self._socket.settimeout(patience)
            self._socket.sendall(data)
        except TimeoutError as error:
            raise PeerGone(TOO_SLOW) from error
        except OSError as error:
            raise PeerGone(CLOSED) from error
