"""The short form of `python -m tests.fuzz`: every target of it, with another share of the cases."""

from __future__ import annotations

import socket
import struct

import pytest
from fuzz import runner
from unit.listener.listening import Listening
from unit.listener.requests import request

SEED = 7
# 20,000 in all, most where a case costs least; the whole receiver has its own long form.
CASES = {
    "whole": 20, "facts": 300, "conversation": 800, "receipts": 280, "door": 600, "multipart": 600, "commitment": 1_000,
    "request": 1_400, "uids": 3_000, "lobby": 1_500, "segments": 3_500, "command": 7_000,
}  # fmt: skip


@pytest.mark.parametrize("target", sorted(runner.TARGETS))
def test_damaged_bytes_end_as_documented(target: str) -> None:
    report = runner.run_here(target, range(CASES[target]), seed=SEED)
    assert [finding.what for finding in report.findings] == []
    assert report.cases == CASES[target]
    # Else the damage would not have hurt, or nothing would have been read.
    assert len(report.ends) > 1


def test_a_case_that_breaks_what_is_promised_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def case(self, rng: object) -> str:  # noqa: ARG002
            raise RuntimeError("broken")

        def close(self) -> None:
            """Nothing is open."""

    monkeypatch.setitem(runner.TARGETS, "broken", (Broken, 1))
    report = runner.run_here("broken", range(3), seed=SEED)
    assert [(finding.number, "RuntimeError: broken" in finding.what) for finding in report.findings] == [
        (0, True), (1, True), (2, True),
    ]  # fmt: skip


def test_the_full_form_is_a_million_cases() -> None:
    assert sum(runner.share(1_000_000).values()) == 1_000_000


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
def test_too_long_a_pdu_right_behind_the_request_ends_the_association(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listening, "fast", fast)
    with Listening() as listening, socket.create_connection(("127.0.0.1", listening.port), timeout=10) as connection:
        connection.sendall(request() + struct.pack(">BBI", 4, 0, 0xFFFFFFFF))
        heard = b""
        while more := connection.recv(1000):
            heard += more
        # PS3.8 9.3.8: by the service-provider, invalid PDU parameter value.
        assert heard.endswith(struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 2, 6))
