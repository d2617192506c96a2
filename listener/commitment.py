"""Requests for storage commitment as they arrive: written down durably, then answered. Decides nothing.

Storage Commitment Push Model, PS3.4 annex J. What becomes of a request is `listener.commitment_decisions`'s business,
in another process; it is evidence of what a sender believes to have sent, whether or not anything is committed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from pynetdicom import evt
from pynetdicom.dimse_primitives import N_ACTION

from ichor import metrics
from ichor.config import SenderSettings
from ichor.errors import OutOfResources
from ichor.store.receipts import CommitmentRequested, ReceiptWriter
from listener.commitment_request import Malformed, TooLarge, read_request
from listener.reception import Origin

_LOG = logging.getLogger(__name__)
SOP_CLASS = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model
SOP_INSTANCE = "1.2.840.10008.1.20.1.1"  # the well-known one, PS3.4 J.3.5

# Statuses of an N-ACTION, PS3.7 10.1.4.1.10.
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
INVALID_ARGUMENT = 0x0115
NO_SUCH_ACTION = 0x0123
RESOURCE_LIMITATION = 0x0213
_REQUEST = 1  # action type, PS3.4 table J.3-1


class ReportAddress(NamedTuple):
    """Where an application entity listens for reports."""

    host: str
    port: int


def report_addresses(senders: Sequence[SenderSettings]) -> dict[str, ReportAddress]:
    """By calling AE title, where a report may go: only where the port was set, and the same for all of that title.

    A request does not say from which of several hosts of one title it came; a report sent to the wrong one would
    leave the right one waiting.
    """
    found: dict[str, set[ReportAddress]] = {}
    for sender in senders:
        if sender.port is not None:
            found.setdefault(sender.ae_title.strip(), set()).add(ReportAddress(sender.host, sender.port))
    return {title: next(iter(places)) for title, places in found.items() if len(places) == 1}


def handle_action(
    event: evt.Event, *, origin: Origin, receipts: ReceiptWriter, addresses: Mapping[str, ReportAddress]
) -> tuple[int, None]:
    """Answer an N-ACTION on the Storage Commitment Push Model; never raises, safe from any thread.

    Success (a report will come) only where the sender's address is known and the request is on the medium. Without an
    address it is written down as evidence and answered with "processing failure": nobody took responsibility, and no
    report will come (PS3.4 J.3.2.1.3).
    """
    request = cast(N_ACTION, event.request)
    if request.ActionTypeID != _REQUEST:
        return _refused(origin, NO_SUCH_ACTION, "no such action")
    try:
        information = request.ActionInformation
        asked = read_request(information.getbuffer() if information is not None else b"")
    except Malformed as error:
        return _refused(origin, INVALID_ARGUMENT, str(error))
    except TooLarge:
        return _refused(origin, RESOURCE_LIMITATION, "too large")
    record = CommitmentRequested(
        association=origin.association, calling_ae=origin.calling_ae, called_ae=origin.called_ae,
        transaction_uid=asked.transaction_uid, referenced=asked.referenced, at=event.timestamp.timestamp(),
    )  # fmt: skip
    try:
        receipts.append(origin.lane, record)
    except OutOfResources as error:
        return _refused(origin, RESOURCE_LIMITATION, error.reason)
    if origin.calling_ae not in addresses:
        return _refused(origin, PROCESSING_FAILURE, "no address for a report")
    metrics.COMMITMENT_REQUESTS.labels("0x0000").inc()
    return SUCCESS, None


def _refused(origin: Origin, status: int, reason: str) -> tuple[int, None]:
    metrics.COMMITMENT_REQUESTS.labels(f"0x{status:04X}").inc()
    _LOG.warning("storage commitment not taken on: calling_ae=%s status=0x%04X: %s", origin.calling_ae, status, reason)
    return status, None
