"""Sessions: what is logged of associations that end without a release."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from unit.listener.paths import MemoryReceipts

from ichor.clock import ManualClock
from ichor.store.receipts import Lane
from listener.admission import Admitted
from listener.reception import Origin, Refusals
from listener.sessions import Sessions


class Association:
    """In place of pynetdicom's."""

    _sent_abort = False

    def __init__(self, address: str) -> None:
        self.requestor = SimpleNamespace(address=address)


def test_titles_without_end_at_one_address_hide_no_abort_of_another(caplog: pytest.LogCaptureFixture) -> None:
    clock, receipts = ManualClock(), cast(Any, MemoryReceipts())
    sessions = Sessions(receipts=receipts, refusals=Refusals(clock, receipts), clock=clock, leave=lambda _: None)

    def abort(title: str, address: str) -> None:
        association = cast(Any, Association(address))
        admitted = Admitted(calling_ae=title, called_ae="ICHOR", sender=None, called_priority=None)
        sessions.begin(association, admitted, losses=0)
        session = sessions.get(association)
        assert session is not None
        session.origin = Origin(association=title, calling_ae=title, called_ae="ICHOR", lane=Lane.ROUTINE)
        sessions.end(association, released=False)

    for number in range(2000):
        abort(f"T{number}", "10.0.0.66")
    for _ in range(30):
        abort("CT1", "10.0.0.5")
    said = [message for message in caplog.messages if "association aborted" in message]
    assert sum("calling_ae=CT1" in message for message in said) == 10
    assert len(said) <= 130
