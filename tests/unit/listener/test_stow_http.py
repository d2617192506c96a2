"""One HTTP connection with a peer and a clock made up: how slow a body may come."""

from __future__ import annotations

import socket
from typing import cast

import pytest

from listener.stow_http import TOO_SLOW, Connection, PeerGone

PATIENCE = 10.0


class Drip:
    """A peer whose bytes come at so many a second, however often it is asked."""

    def __init__(self, sent: bytes, *, head: int, pace: int) -> None:
        self.now = 0.0
        self._sent, self._next, self._pace = sent, head, pace

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def recv(self, most: int) -> bytes:
        taken, self._sent = self._sent[: min(most, self._next)], self._sent[self._next :]
        self._next = self._pace
        self.now += 1.0
        return taken


def dripped(pace: int, length: int) -> tuple[Drip, Connection]:
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()
    peer = Drip(head + bytes(length), head=len(head), pace=pace)
    connection = Connection(cast(socket.socket, peer), monotonic=lambda: peer.now)
    assert connection.request(PATIENCE) is not None
    return peer, connection


def test_a_body_that_drips_is_ended_though_each_wait_was_short() -> None:
    peer, connection = dripped(1_000, 1_000_000)
    began = peer.now
    with pytest.raises(PeerGone, match=TOO_SLOW):
        list(connection.body(PATIENCE))
    assert peer.now - began <= PATIENCE + 1.0


def test_a_slow_body_that_goes_on_is_taken_whole() -> None:
    _, connection = dripped(2_000, 200_000)
    assert b"".join(connection.body(PATIENCE)) == bytes(200_000)
