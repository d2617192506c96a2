"""The gate: what is listed of the rejected, when one address knocks under titles without end."""

from __future__ import annotations

import socket
from typing import Any, cast

from unit.listener.requests import request

from ichor.config import SenderSettings
from listener.admission import CALLING, Admission
from listener.gate import Gate
from listener.log_limit import LogLimit
from listener.reception import Refusals


class Listed:
    """In place of `Refusals`."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def add(self, *, calling_ae: str, **_: str) -> None:
        self.titles.append(calling_ae)


def test_titles_without_end_from_one_address_hide_no_rejection_at_another() -> None:
    def opens(*_: Any) -> None:
        raise AssertionError

    admission = Admission(titles={"ICHOR": None}, senders=(SenderSettings(ae_title="CT", host="10.0.0.1"),), most=10)
    listed = Listed()
    gate = Gate(admission=admission, refusals=cast(Refusals, listed), log_limit=LogLimit(), opens=opens)
    nobody = socket.socket()
    for number in range(2000):
        assert gate.judge(nobody, ("10.0.0.66", 1), request(calling=b"T%d" % number)) == CALLING.pdu()
    for _ in range(30):
        assert gate.judge(nobody, ("10.0.0.5", 1), request(calling=b"CT1NEW")) == CALLING.pdu()
    gate.start()
    gate.close()
    nobody.close()
    assert 100 <= len(listed.titles) - listed.titles.count("CT1NEW") < 1000
    assert 10 <= listed.titles.count("CT1NEW") < 30
