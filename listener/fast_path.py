"""C-STOREs from the socket to `Reception` in one thread, without pynetdicom; everything else stays pynetdicom's.

On an accepted association it stands in for the library's look at the socket. While the library has nothing to do, its
association thread is parked, and this reads P-DATA-TF PDUs by itself; any other message and any other PDU is handed to
the library, which acts as ever. See docs/decisions/0011-hot-path.md.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import mmap
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from pynetdicom.association import Association

from ichor import metrics
from listener import pdu
from listener.baton import Baton
from listener.commitment_request import MOST_BYTES
from listener.parking import Checkpoint
from listener.reception import Arrives, Origin, Receives, StoreCommand, place_of

_LOG = logging.getLogger(__name__)
_BUFFER = 1 << 19  # bytes; only what is used takes memory
_LITTLE_ROOM = 1 << 14
_SLACK = 1024  # senders count a PDU's length in different ways
_GOODBYE = 1.0  # seconds in which a peer can take our A-ABORT
_LEAST_PROGRESS = 1 << 14  # bytes that a sender brings within its time, or the whole of its message
_SILENT, _SLOW = "a sender fell silent within a message", "a sender was too slow within a message"
_DATA_TRANSFER = "Sta6"
_CLOSED, _INVALID = "Evt17", "Evt19"


def install(
    association: Association, *, reception: Receives, origin: Origin, turn: Callable[[], None] = lambda: None,
    finish: Callable[[Arrives], int] = lambda arrival: arrival.end(), tell: Callable[[str], None] = lambda _: None,
    network_timeout: float = 60.0, baton: Baton | None = None,
) -> bool:  # fmt: skip
    """Take over the C-STOREs of an association that is being accepted; call it from EVT_ACCEPTED's handler.

    Parameters
    ----------
    turn
        Called before each object, in its thread; may wait.
    finish
        Ends an arrival and gives the status to answer.
    tell
        Told why, before an association is aborted here; no PHI.
    network_timeout
        Seconds in which a sender must bring 16 KiB of a message, or the rest of it.
    baton
        Held while this works, never while it waits for the peer. What waits in ``turn`` should let go of it; where it
        is held for long all the same (``finish`` waits for a disk), others take it.

    Returns
    -------
    bool
        False where the plain path goes on to serve it: we announced longer PDUs than are held here, or the system has
        no descriptor left.
    """
    if not 0 < (association.acceptor.maximum_length or 0) <= _BUFFER // 2:
        return False
    try:
        _FastPath(association, reception, origin, turn, finish, tell, network_timeout, baton or Baton())
    except OSError as error:  # no descriptor or no memory to be had
        _LOG.warning("an association is served by the plain path: %s", error.strerror)
        return False
    return True


class _Lost(Exception):
    """The connection is gone."""


class _Ended(Exception):
    """The association is to be aborted; says why, and which reason an A-ABORT gives."""

    def __init__(self, cause: str, *, reason: int = pdu.INVALID_PARAMETER) -> None:
        super().__init__(cause)
        self.cause = cause
        self.reason = reason


class _FastPath:
    """One association's; all in the library's DUL thread, except where its `Checkpoint` is touched."""

    def __init__(
        self, association: Association, reception: Receives, origin: Origin, turn: Callable[[], None],
        finish: Callable[[Arrives], int], tell: Callable[[str], None], network_timeout: float, baton: Baton,
    ) -> None:  # fmt: skip
        self._association = association
        self._reception = reception
        self._origin = origin
        self._turn = turn
        self._finish = finish
        self._tell = tell
        self._patience = network_timeout
        self._baton = baton
        self._longest = (association.acceptor.maximum_length or 0) + _SLACK
        self._peer_longest = association.requestor.maximum_length or 0
        self._contexts = {
            number: str(context.transfer_syntax[0]) for number, context in association._accepted_cx.items()
        }
        dul: Any = association.dul
        self._dul = dul
        connection: socket.socket = dul.socket.socket
        self._socket = connection
        self._is_tls = isinstance(connection, ssl.SSLSocket)
        self._flags = 0 if self._is_tls else socket.MSG_DONTWAIT  # OpenSSL knows none: the socket does not block then
        self._receive: Callable[[memoryview], int] = functools.partial(connection.recv_into, flags=self._flags)
        self._is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6) and hasattr(socket, "TCP_QUICKACK")
        self._view = memoryview(mmap.mmap(-1, _BUFFER))
        self._at = 0  # the first byte not yet looked at
        self._filled = 0  # the end of what was received
        self._pdu_end = 0  # of the P-DATA-TF PDU that `_at` lies in, else not above it
        self._command_parts = b""
        self._command: pdu.Command | None = None
        self._context = 0  # of the message under way
        self._arrival: Arrives | None = None
        self._is_foreign = False  # a data set under way is the library's
        self._foreign_bytes = 0  # of it, so far
        self._received = 0  # bytes, in all
        self._goal = 0  # how many there must be by `_deadline`; 0: a message begins
        self._deadline = 0.0
        self._is_over = False
        self._checkpoint = association._reactor_checkpoint = Checkpoint()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._checkpoint.bell, select.POLLIN)
        self._descriptor = connection.fileno()
        self._library_event = dul._is_transport_event
        dul._is_transport_event = self._event

    def _event(self) -> bool:
        """In place of the library's look at the socket: True when it has an event to act on."""
        try:
            if self._is_over or self._checkpoint.is_asked or self._dul.state_machine.current_state != _DATA_TRANSFER:
                return self._leave()
            if self._is_library_busy():
                return False
            if self._is_tls:
                self._socket.settimeout(0.0)
            self._baton.acquire()
            try:
                acted = self._serve()
            finally:
                self._baton.release()
            if self._is_tls:
                self._socket.settimeout(self._patience)
            return acted
        except _Lost:
            return self._close()
        except _Ended as ended:
            self._tell(ended.cause)
            self._say_goodbye(pdu.abort(reason=ended.reason))
            return self._close()
        except Exception as error:  # noqa: BLE001 - the loop's edge: this association ends, the others go on
            metrics.LOOP_ERRORS.labels("receive").inc()
            _LOG.error("unexpected error while an association was served: %s", place_of(error))
            try:
                self._say_goodbye(pdu.abort(reason=0))
            except Exception as second:  # noqa: BLE001 - whatever it was: the library's thread must not stay parked
                metrics.LOOP_ERRORS.labels("receive").inc()
                _LOG.error("unexpected error while an association was aborted: %s", place_of(second))
            return self._close()

    def _is_library_busy(self) -> bool:
        association, dul = self._association, self._dul
        dimse = association.dimse
        if dimse.message is not None and not self._is_foreign:
            self._library_event()  # begun before we came
            return True
        if (
            dul.event_queue.queue or dul.to_provider_queue.queue or dul.to_user_queue.queue or dimse.msg_queue.queue
            or dul.idle_timer_expired()
        ):  # fmt: skip
            self._checkpoint.unpark()
            return True
        return not self._checkpoint.park()

    # --- the association is the library's again -----------------------------------------------------------------

    def _leave(self) -> bool:
        if not self._is_over:
            self._retire()
        return bool(self._library_event())

    def _close(self) -> bool:
        self._dul.event_queue.put(_CLOSED)
        self._retire()
        return True

    def _retire(self) -> None:
        """For good: nothing of this comes into play again."""
        self._is_over = True
        self._cut()
        self._view = memoryview(b"")  # the library's objects are cycles: they may stay for a while
        if self._is_tls:
            with contextlib.suppress(OSError):
                self._socket.settimeout(self._patience)
        self._checkpoint.close()
        self._checkpoint.unpark()

    def _cut(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.cut()

    def _say_goodbye(self, data: bytes) -> None:
        """Send, and wait shortly until the peer has read it: a connection closed on unread bytes takes it back."""
        deadline = time.monotonic() + _GOODBYE
        with contextlib.suppress(OSError, _Lost):
            self._send(data)
            socket.socket.shutdown(self._socket, socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0 and self._poll.poll(left * 1000):
                if self._checkpoint.is_asked or not socket.socket.recv_into(self._socket, self._view):
                    break

    def _hand_over(self, data: bytes | memoryview) -> bool:
        """Let the library act on a PDU."""
        dul = self._dul
        try:
            decoded, event = dul._decode_pdu(bytearray(data))
        except Exception:  # noqa: BLE001 - it raises anything on a malformed PDU
            dul.event_queue.put(_INVALID)
        else:
            dul.event_queue.put(event)
            dul._recv_pdu.put(decoded)
        self._checkpoint.unpark()
        return True

    # --- PDUs ---------------------------------------------------------------------------------------------------

    def _serve(self) -> bool:
        """Take what comes, until the library has to act: True when it has an event for that."""
        view = self._view
        while True:
            if self._at < self._pdu_end:
                if self._take_values():
                    return True
                continue
            have = self._filled - self._at
            if have < 6:
                if not self._fill(6):
                    return False
                continue
            kind, length = pdu.PDU_HEAD.unpack_from(view, self._at)
            if not 1 <= kind <= 7:
                raise _Ended("an unknown PDU", reason=1)
            if length > self._longest:
                raise _Ended("a PDU longer than allowed")
            if have < 6 + length:
                if not self._fill(6 + length):
                    return False
                continue
            if kind == pdu.P_DATA_TF:
                self._at += 6
                self._pdu_end = self._at + length
                self._baton.let_others()
            else:
                # A release, an abort, or what has no place here: in each case the end.
                self._retire()
                return self._hand_over(view[self._at : self._at + 6 + length])

    def _take_values(self) -> bool:
        """The presentation data values of a whole PDU; True when one of them was handed to the library."""
        view, end, at = self._view, self._pdu_end, self._at
        while at < end:
            if end - at < 6:
                raise _Ended("a PDU with wrong lengths")
            length, context, control = pdu.PDV_HEAD.unpack_from(view, at)
            begin, at = at + 6, at + 4 + length
            if at > end or at < begin:
                raise _Ended("a PDU with wrong lengths")
            self._at = at
            if control & pdu.COMMAND:
                if self._take_command(context, control, view[begin:at]):
                    return True
            elif context != self._context:
                raise _Ended("a data set without its command")
            elif self._arrival is not None:
                self._arrival.feed(view[begin:at])
                if control & pdu.LAST:
                    self._answer()
            elif self._is_foreign:
                self._foreign_bytes += at - begin
                if self._foreign_bytes > MOST_BYTES:  # the library gathers it in memory
                    raise _Ended("a message longer than allowed")
                self._is_foreign = not control & pdu.LAST
                if not self._is_foreign:
                    self._context = self._goal = 0
                return self._hand_over(pdu.pdata(context, control, view[begin:at]))
            else:
                raise _Ended("a data set without its command")
        return False

    def _take_command(self, context: int, control: int, part: memoryview) -> bool:
        """True when the message is the library's."""
        if self._arrival is not None or self._is_foreign:
            raise _Ended("a command within a data set")
        data: bytes | memoryview = part
        if self._command_parts or not control & pdu.LAST:
            if self._command_parts and context != self._context:
                raise _Ended("a command in two contexts")
            self._context = context
            data = self._command_parts = self._command_parts + part
            if len(data) > pdu.MOST_COMMAND_BYTES:
                raise _Ended("a command longer than allowed")
            if not control & pdu.LAST:
                return False
            self._command_parts = b""
        try:
            command = pdu.read_command(data)
        except pdu.Malformed as error:
            raise _Ended(str(error)) from error
        self._context = context
        if command.field == pdu.C_STORE_RQ:
            syntax = self._contexts.get(context)
            if syntax is None or command.message_id is None:
                raise _Ended("a request in no accepted context, or without a number")
            self._turn()
            self._command = command
            self._arrival = self._reception.begin(
                StoreCommand(
                    pdu.known_text_of(command.sop_class),
                    pdu.text_of(command.sop_instance),
                    syntax,
                    command.priority_high,
                ),
                self._origin,
            )
            if not command.has_data_set:
                self._answer()
            return False
        if command.field not in pdu.KNOWN_COMMANDS:
            raise _Ended("an unknown command")
        self._is_foreign = command.has_data_set
        self._foreign_bytes = self._goal = 0
        return self._hand_over(pdu.pdata(context, control, data))

    def _answer(self) -> None:
        arrival, command = self._arrival, self._command
        assert arrival is not None
        assert command is not None
        self._arrival = None
        status = self._finish(arrival)
        self._send(pdu.store_response(self._context, command, status, longest=self._peer_longest))
        self._context = self._goal = 0
        self._dul._idle_timer.restart()

    # --- bytes --------------------------------------------------------------------------------------------------

    def _fill(self, size: int) -> bool:
        """Receive until ``size`` bytes from `_at` on are there; False when the library has to act, or nothing comes."""
        if self._at == self._filled and (self._arrival is None or not self._arrival.is_held):
            self._at = self._filled = self._pdu_end = 0
        if _BUFFER - self._filled < _LITTLE_ROOM or _BUFFER - self._at < size:
            self._make_room()
        within = self._arrival is not None or self._is_foreign or bool(self._command_parts) or self._at < self._filled
        receives = within or self._is_tls
        while self._filled - self._at < size:
            if receives:
                try:
                    count = self._receive(self._view[self._filled :])
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
                except OSError as error:
                    raise _Lost from error
                else:
                    if not count:
                        raise _Lost
                    self._filled += count
                    self._received += count
                    within = True
                    continue
            receives = True
            if not self._wait(within):
                return False
        return True

    def _make_room(self) -> None:
        if self._arrival is not None:
            self._arrival.flush()
        have = self._filled - self._at
        self._view[:have] = self._view[self._at : self._filled]
        self._at, self._filled, self._pdu_end = 0, have, 0

    def _wait(self, within: bool) -> bool:
        """Until something can be received; False when the library has to act."""
        if self._is_tcp:
            # Not sticky. A sender with Nagle's algorithm waits for this ACK, which is else delayed by 40 ms.
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        timer = self._dul._idle_timer
        if within:
            now = time.monotonic()
            if self._received >= self._goal:
                self._goal, self._deadline = self._received + _LEAST_PROGRESS, now + self._patience
            seconds: float | None = max(self._deadline - now, 0.0)
        else:
            seconds = None if timer.timeout is None else max(timer.remaining, 0.0) + 0.001
        self._baton.release()
        try:
            events = self._poll.poll(None if seconds is None else seconds * 1000)
        finally:
            self._baton.acquire()
        if not events:
            if within:
                silent = self._received + _LEAST_PROGRESS == self._goal
                raise _Ended(_SILENT if silent else _SLOW, reason=0)
            return False
        return not self._checkpoint.is_asked

    def _send(self, data: bytes) -> None:
        left: Any = data
        deadline = 0.0
        while left:
            try:
                left = left[self._socket.send(left, self._flags) :]
                continue
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                pass
            except OSError as error:
                raise _Lost from error
            now = time.monotonic()
            deadline = deadline or now + self._patience
            writable = select.poll()
            writable.register(self._descriptor, select.POLLOUT)
            with self._baton.away():
                if now >= deadline or (not writable.poll(100) and self._checkpoint.is_asked):
                    raise _Lost
