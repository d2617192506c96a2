"""Connections from the process that accepts them to the one that serves them, by SCM_RIGHTS. Reads nothing of them.

The parent of the processes makes the inboxes and keeps both ends of each: what waits in one outlives either side.
See docs/decisions/0017-receiving-processes.md.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from listener.seats import Seats

_LONGEST_ADDRESS = 512  # bytes of a message
_HANDED_AT_ONCE = 64


class Source(Protocol):
    """What a lobby needs of a listening socket."""

    def fileno(self) -> int: ...

    def setblocking(self, flag: bool, /) -> None: ...

    def accept(self) -> tuple[socket.socket, Any]:
        """A connection and its address, or BlockingIOError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """What receiving processes share; `of` makes it before they are forked. By itself: one process alone."""

    seats: Seats
    inboxes: Sequence[tuple[socket.socket, socket.socket]] = ()  # ends to write and to read, of the second process on

    @classmethod
    def of(cls, processes: int, *, senders: int = 0) -> Crew:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(1, processes)]
        for end in (end for pair in pairs for end in pair):
            end.setblocking(False)
        return cls(seats=Seats(processes=processes, senders=senders), inboxes=pairs)

    def source(self, seats: Seats, process: int, listening: socket.socket) -> Source:
        """Where ``process`` has its connections from; ``seats`` is its view of them."""
        if process:
            listening.close()
            return Inbox(self.inboxes[process - 1][1], seats)
        return Door(listening, seats, [pair[0] for pair in self.inboxes]) if self.inboxes else listening


class Door:
    """A listening socket of which others are given what they should serve, before a byte is read."""

    def __init__(self, listening: socket.socket, seats: Seats, inboxes: Sequence[socket.socket]) -> None:
        self._listening = listening
        self._seats = seats
        self._inboxes = inboxes
        self.fileno = listening.fileno
        self.setblocking = listening.setblocking
        self.close = listening.close

    def accept(self) -> tuple[socket.socket, Any]:
        for _ in range(_HANDED_AT_ONCE):
            connection, address = self._listening.accept()
            process = self._seats.least_loaded()
            if not process or not self._hand(process, connection, address):
                return connection, address
            connection.close()
        raise BlockingIOError  # a flood for others must not keep our own waiting

    def _hand(self, process: int, connection: socket.socket, address: Any) -> bool:
        number = self._seats.hand(process)
        try:
            socket.send_fds(
                self._inboxes[process - 1], [json.dumps([number, *address]).encode()], [connection.fileno()]
            )
        except OSError:  # it is full: nobody takes them
            self._seats.keep(process)
            return False
        return True


class Inbox:
    """Connections that another process accepted, as if they were accepted here."""

    def __init__(self, end: socket.socket, seats: Seats) -> None:
        self._end = end
        self._seats = seats
        self._last = 0
        self.fileno = end.fileno
        self.setblocking = end.setblocking

    def accept(self) -> tuple[socket.socket, Any]:
        if self._last:  # by now it counts as one that waits
            self._seats.took(self._last)
            self._last = 0
        message, descriptors, _, _ = socket.recv_fds(self._end, _LONGEST_ADDRESS, 1, socket.MSG_CMSG_CLOEXEC)
        self._last, *address = json.loads(message)
        if not descriptors:  # the system has closed it
            raise OSError(errno.EMFILE, "no descriptor for a connection that was handed over")
        return socket.socket(fileno=descriptors[0]), tuple(address)

    def close(self) -> None:
        """What is still in it ends here."""
        with contextlib.suppress(OSError):  # BlockingIOError: it is empty
            while True:
                self.accept()[0].close()
        self._end.close()
