"""Who may open an association, judged by the bytes of an A-ASSOCIATE-RQ. Pure but for counting; sends nothing."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ichor.config import SenderSettings
from ichor.types import Priority
from listener.seats import UNLISTED, Seats

_LOG = logging.getLogger(__name__)
_HEAD = 74  # PDU head and fixed fields, PS3.8 table 9-11
_APPLICATION_CONTEXT, _USER_INFORMATION, _USER_IDENTITY = 0x10, 0x50, 0x58
_DICOM = b"1.2.840.10008.3.1.1.1"
_USERNAME, _USERNAME_AND_PASSCODE = 1, 2  # PS3.7 table D.3-14
_LONGEST_LOOK_UP_AGE = 60.0
_KEPT = 10  # of so many places one is kept for a sender that has none


class Rejection(NamedTuple):
    """A-ASSOCIATE-RJ: result, source and reason of PS3.8 section 9.3.4, and the same in words."""

    result: int
    source: int
    reason: int
    words: str

    def pdu(self) -> bytes:
        return struct.pack(">BBIBBBB", 3, 0, 4, 0, self.result, self.source, self.reason)


VERSION = Rejection(1, 2, 2, "protocol version not supported")
APPLICATION_CONTEXT = Rejection(1, 1, 2, "application context name not supported")
CALLED = Rejection(1, 1, 7, "called AE title not recognised")
CALLING = Rejection(1, 1, 3, "calling AE title not recognised")
HOST = Rejection(1, 1, 3, "host not recognised for this calling AE title")
IDENTITY = Rejection(1, 1, 1, "user identity not recognised")
CONGESTED = Rejection(2, 3, 1, "no space: the disk is low")
LIMIT = Rejection(2, 3, 2, "limit of associations reached")
SENDER_LIMIT = Rejection(2, 3, 2, "limit of this sender's associations reached")
KEPT = Rejection(2, 3, 2, "the last associations are kept for other senders")


class UnreadableRequest(Exception):
    """The A-ASSOCIATE-RQ has no structure that can be followed."""


@dataclass(slots=True, kw_only=True, eq=False)
class Admitted:
    """One association's place, from its admission until ``Admission.leave``."""

    calling_ae: str
    called_ae: str
    sender: SenderSettings | None
    called_priority: Priority | None
    answers_identity: bool = False  # the sender asked for a positive response to its user identity
    left: bool = False

    @property
    def sender_priority(self) -> Priority | None:
        return self.sender.priority if self.sender is not None else None


class Admission:
    """Titles, allow-list, identities, numbers and the disk. Safe from any thread; no look-up of names waits.

    Parameters
    ----------
    titles
        Called AE titles that are served, with the priority that each means.
    senders
        Who may send; empty: anybody.
    most
        Associations at once; the last tenth of them is for senders that have none.
    is_congested
        True while no further association should be taken.
    hosts
        Tells the addresses of senders that are given by name.
    seats
        Where places are counted, with those of other processes; made for as many senders.

    Raises
    ------
    ConfigError
        When a passcode file cannot be read or is empty.
    """

    def __init__(
        self, *, titles: Mapping[str, Priority | None], senders: Sequence[SenderSettings], most: int,
        is_congested: Callable[[], bool] = lambda: False, hosts: Hosts | None = None, seats: Seats | None = None,
    ) -> None:  # fmt: skip
        self._titles = dict(titles)
        self._senders = tuple(senders)
        self._passcodes = {s: (s.passcode() or "").encode() for s in senders if s.passcode_file}
        self._most = most
        self._is_congested = is_congested
        self._hosts = hosts or Hosts([s.host for s in senders])
        self._lock = threading.Lock()
        self._seats = seats or Seats(senders=len(senders))
        self._rows = {sender: row for row, sender in enumerate(senders)}

    def judge(self, request: bytes, address: str) -> Admitted | Rejection:
        """What becomes of an A-ASSOCIATE-RQ PDU from ``address``. An `Admitted` has its place until it leaves.

        Raises
        ------
        UnreadableRequest
            When its fields or items end outside of it.
        """
        if len(request) < _HEAD:
            raise UnreadableRequest
        if not struct.unpack_from(">H", request, 6)[0] & 1:
            return VERSION
        called, calling = printable(request[10:26]), printable(request[26:42])
        named: bytes | None = None
        identity: _Identity | None = None
        for kind, value in _items(memoryview(request)[_HEAD:]):
            if kind == _APPLICATION_CONTEXT and named is None:
                named = bytes(value).rstrip(b"\0 ")
            elif kind == _USER_INFORMATION:
                for item, content in _items(value):
                    if item == _USER_IDENTITY and identity is None:
                        identity = _identity(content)
        if named != _DICOM:
            return APPLICATION_CONTEXT
        if called not in self._titles:
            return CALLED
        sender = self._sender(calling, address)
        if self._senders and sender is None:
            return HOST if any(known.ae_title == calling for known in self._senders) else CALLING
        if sender is not None and sender.username and not self._is_known(sender, identity):
            return IDENTITY
        if self._is_congested():
            return CONGESTED
        with self._seats.alone():
            taken = self._seats.taken()
            if taken >= self._most:
                return LIMIT
            row = self._row(sender, calling)
            of_sender = self._seats.taken(row)
            most = sender.associations if sender is not None else None
            if most is not None and of_sender >= most:
                return SENDER_LIMIT
            if of_sender and taken >= self._most - self._most // _KEPT:
                return KEPT
            self._seats.take(row)
        return Admitted(
            calling_ae=calling, called_ae=called, sender=sender, called_priority=self._titles[called],
            answers_identity=bool(sender and sender.username and identity and identity.wants_answer),
        )  # fmt: skip

    def leave(self, admitted: Admitted) -> None:
        """Give the place back; once is enough, more does no harm."""
        with self._lock:
            left, admitted.left = admitted.left, True
        if not left:
            self._seats.give_back(self._row(admitted.sender, admitted.calling_ae))

    def open(self) -> int:
        """Places taken now, in all processes."""
        return self._seats.taken()

    def _row(self, sender: SenderSettings | None, calling: str) -> int:
        if sender is not None:
            return self._rows[sender]
        return len(self._senders) + zlib.crc32(calling.encode()) % UNLISTED

    def _sender(self, calling: str, address: str) -> SenderSettings | None:
        for sender in self._senders:
            if sender.ae_title == calling and self._hosts.has(sender.host, address):
                return sender
        return None

    def _is_known(self, sender: SenderSettings, identity: _Identity | None) -> bool:
        if identity is None:
            return False
        passcode = self._passcodes.get(sender)
        kind = _USERNAME if passcode is None else _USERNAME_AND_PASSCODE
        # Both are always compared, each in constant time.
        right_name = hmac.compare_digest(identity.primary, sender.username.encode())
        right_code = hmac.compare_digest(identity.secondary, passcode or b"") or passcode is None
        return identity.kind == kind and right_name and right_code


class Hosts:
    """Addresses of hosts that are configured, by address or by name. Names are looked up in a thread of their own.

    Parameters
    ----------
    patience
        Seconds that the start waits for the first answers: until they come, a sender given by name is unknown.
    """

    def __init__(
        self, hosts: Sequence[str], *, look_up: Callable[[str], set[str]] | None = None, patience: float = 2.0
    ) -> None:
        self._look_up = look_up or _look_up
        self._known: dict[str, frozenset[str]] = {}
        self._names = []
        for host in dict.fromkeys(hosts):
            try:
                self._known[host] = frozenset({str(ipaddress.ip_address(host))})
            except ValueError:
                self._names.append(host)
        self._looked_up = threading.Event()
        if self._names:
            threading.Thread(target=self._keep, name="sender-names", daemon=True).start()
            if not self._looked_up.wait(patience):
                _LOG.warning("the addresses of senders are not found yet: those given by name are unknown until then")

    def has(self, host: str, address: str) -> bool:
        """True when ``address`` is one of ``host``."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
        return str(mapped or parsed) in self._known.get(host, frozenset())

    def refresh(self) -> None:
        """Look the names up now; one that cannot be found keeps the addresses that it had."""
        for name in self._names:
            try:
                self._known[name] = frozenset(self._look_up(name))
            except Exception as error:  # noqa: BLE001 - the loop's edge: UnicodeError, for one, is no OSError
                _LOG.warning("the address of a sender cannot be found: %s (%s)", name, type(error).__name__)

    def _keep(self) -> None:
        while True:
            self.refresh()
            self._looked_up.set()
            time.sleep(_LONGEST_LOOK_UP_AGE)


class _Identity(NamedTuple):
    kind: int
    wants_answer: bool
    primary: bytes
    secondary: bytes


def printable(title: bytes) -> str:
    """An AE title fit for a log line, whatever a sender wrote."""
    text = title.decode("ascii", "replace")
    return "".join(c if c.isascii() and c.isprintable() and c != "\\" else "?" for c in text).strip()


def _items(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(type, value) of PS3.8 9.3.2 items and sub-items."""
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise UnreadableRequest
        kind, length = data[position], struct.unpack_from(">H", data, position + 2)[0]
        position += 4
        if position + length > len(data):
            raise UnreadableRequest
        yield kind, data[position : position + length]
        position += length


def _identity(item: memoryview) -> _Identity:
    """PS3.7 D.3.3.7.1."""
    try:
        kind, wants_answer, length = struct.unpack_from(">BBH", item)
        primary = bytes(item[4 : 4 + length])
        (more,) = struct.unpack_from(">H", item, 4 + length)
    except struct.error as error:
        raise UnreadableRequest from error
    secondary = bytes(item[6 + length : 6 + length + more])
    if len(secondary) != more:
        raise UnreadableRequest
    return _Identity(kind, bool(wants_answer), primary, secondary)


def _look_up(name: str) -> set[str]:
    return {str(ipaddress.ip_address(str(info[4][0]).split("%")[0])) for info in socket.getaddrinfo(name, None)}
