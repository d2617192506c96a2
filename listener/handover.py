"""Connections from the process that accepts them to the one that serves them, by SCM_RIGHTS. Reads nothing of them.

The parent of the processes makes the inboxes and keeps both ends of each: what waits in one outlives either side.
See docs/decisions/0017-receiving-processes.md.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ichor import metrics
from listener.seats import Seats

_LOG = logging.getLogger(__name__)

_LONGEST_ADDRESS = 512  # bytes of a message
_HANDED_AT_ONCE = 64
_HANGS = 0.2  # seconds without progress


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
            return Inbox(self.inboxes[process - 1][1].dup(), seats)
        return Door(listening, seats, self.inboxes) if self.inboxes else listening


class Door:
    """A listening socket of which others are given what they should serve, before a byte is read.

    Who takes nothing of what it was given for `_HANGS` seconds is given no more; `look`, called now and then, brings back
    what lies in its inbox. A message without a connection stays there: who takes it is well again.
    """

    def __init__(
        self, listening: socket.socket, seats: Seats, inboxes: Sequence[tuple[socket.socket, socket.socket]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._listening = listening
        self._seats = seats
        self._inboxes = inboxes
        self._clock = clock
        self._progress = dict.fromkeys(range(1, len(inboxes) + 1), (-1, 0.0))  # last one taken, seen when
        self._hung: dict[int, bool] = {}  # to whether its inbox has been emptied
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._both = select.epoll()
        for descriptor in (listening.fileno(), self._bell):
            self._both.register(descriptor, select.EPOLLIN)
        self.fileno = self._both.fileno
        self.setblocking = listening.setblocking

    def look(self) -> None:
        """Have `accept` called if others have not taken all; by the thread that ends with `close`, or before it."""
        if self._bell >= 0 and any(handed > taken for handed, taken in map(self._seats.last_of, self._progress)):
            os.eventfd_write(self._bell, 1)

    def accept(self) -> tuple[socket.socket, Any]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        for _ in range(_HANDED_AT_ONCE):
            self._watch()
            if (brought_back := self._bring_back()) is not None:
                return brought_back
            connection, address = self._listening.accept()
            process = self._seats.least_loaded(but=self._hung)
            if not process or not self._hand(process, address, connection):
                return connection, address
            connection.close()
        raise BlockingIOError  # a flood for others must not keep our own waiting

    def close(self) -> None:
        bell, self._bell = self._bell, -1
        self._both.close()
        os.close(bell)
        self._listening.close()

    def _watch(self) -> None:
        now = self._clock()
        for process, (last, seen) in self._progress.items():
            handed, taken = self._seats.last_of(process)
            if taken != last or taken >= handed:
                self._progress[process] = taken, now
                if self._hung.pop(process, None) is not None:
                    _LOG.warning("receiving process %d takes its connections again", process + 1)
            elif now - seen > _HANGS and process not in self._hung:
                self._hung[process] = False
                metrics.RECEIVERS_HUNG.inc()
                _LOG.error("receiving process %d does not take its connections: the first one serves them", process + 1)

    def _bring_back(self) -> tuple[socket.socket, Any] | None:
        for process in [process for process, is_empty in self._hung.items() if not is_empty]:
            try:
                while True:
                    _, connection, address = _take(self._inboxes[process - 1][1])
                    if connection is not None:
                        return connection, address
            except BlockingIOError:
                self._hung[process] = self._hand(process)
        return None

    def _hand(self, process: int, address: Sequence[Any] = (), *connection: socket.socket) -> bool:
        number = self._seats.hand(process)
        try:
            socket.send_fds(
                self._inboxes[process - 1][0],
                [json.dumps([number, *address]).encode()],
                [one.fileno() for one in connection],
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
        self.fileno = end.fileno
        self.setblocking = end.setblocking

    def accept(self) -> tuple[socket.socket, Any]:
        while True:
            number, connection, address = _take(self._end)
            if connection is not None:
                self._seats.coming(number)
                return connection, address
            self._seats.took(number)
            if address:
                raise OSError(errno.EMFILE, "no descriptor for a connection that was handed over")

    def close(self) -> None:
        """What is still in it waits for the next process, or for the first one; it ends with all that have the inbox."""
        self._end.close()


def _take(end: socket.socket) -> tuple[int, socket.socket | None, tuple[Any, ...]]:
    """The next message: its number, the connection and its address. No connection: the system has closed it.

    No address either: there was none.

    Raises
    ------
    OSError
        EMFILE or ENFILE: there is no descriptor to spare; nothing was taken. BlockingIOError: there is no message.
    """
    # A message whose descriptor the system cannot give us is lost: better not to take it then.
    os.close(os.dup(end.fileno()))
    message, descriptors, _, _ = socket.recv_fds(end, _LONGEST_ADDRESS, 1, socket.MSG_CMSG_CLOEXEC)
    number, *address = json.loads(message)
    return number, socket.socket(fileno=descriptors[0]) if descriptors else None, tuple(address)
