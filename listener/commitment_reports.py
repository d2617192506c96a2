"""Reports of storage commitment: an association to the sender, one N-EVENT-REPORT, again until it is taken.

Decides nothing of what is reported. PS3.4 J.3.3; always on an association of its own, as a sender may release the one
on which it asked before there is anything to report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role

from ichor import metrics
from ichor.bus.protocol import Delivery
from ichor.checkpoint import hold_while_sending
from ichor.clock import Clock
from ichor.messages import CommitmentDecided
from listener.commitment import SOP_CLASS, SOP_INSTANCE, ReportAddress

_LOG = logging.getLogger(__name__)
_COMPLETE, _FAILURES_EXIST = 1, 2  # event types, PS3.4 table J.3-2
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_SHORTEST_DELAY, _LONGEST_DELAY = 1.0, 600.0
# Seconds from the decision until it is given up: while it cannot be delivered; while the sender answers with a failure,
# as it does when it had the report already (PS3.4 J.3.3.1.2: the transaction ends with it).
_PATIENCE, _PATIENCE_REFUSED = 7 * 86400.0, 86400.0


class ReportFailed(Exception):
    """Not taken; the text names no value of the peer. ``reached``: the peer answered the report itself."""

    def __init__(self, reason: str, *, reached: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.reached = reached


Send = Callable[[ReportAddress, CommitmentDecided], None]


class Reporter:
    """Sends each decision until it is taken, for a week. One thread.

    A delay is as long as the decision is old (1 s to 10 min), so it doubles and needs no memory. While a sender cannot
    be reached, one of its reports at a time finds out whether it has returned.
    """

    def __init__(self, *, addresses: Mapping[str, ReportAddress], clock: Clock, send: Send) -> None:
        self._addresses = addresses
        self._clock = clock
        self._send = send
        self._not_before: dict[str, float] = {}  # calling AE -> monotonic seconds

    def handle(self, delivery: Delivery, decided: CommitmentDecided) -> None:
        """End ``delivery``: acknowledged when taken, else put back or given up."""
        address = self._addresses.get(decided.calling_ae)
        if delivery.dead:
            self._given_up(decided, "an unexpected error, whenever it is sent")
            delivery.ack()
            return
        if address is None:
            self._given_up(decided, "no address for a report")
            delivery.reject("no address for a report")
            return
        wait = self._not_before.get(decided.calling_ae, 0.0) - self._clock.monotonic()
        if wait > 0:
            delivery.retry(wait, reason="the sender cannot be reached", count=False)
            return
        try:
            self._send(address, decided)
        except ReportFailed as failure:
            self._put_back(delivery, decided, failure)
            return
        self._not_before.pop(decided.calling_ae, None)
        delivery.ack()
        metrics.COMMITMENT_REPORTS.labels("delivered").inc()
        _LOG.info(
            "storage commitment reported: calling_ae=%s committed=%d failed=%d",
            decided.calling_ae, len(decided.committed), len(decided.failed),
        )  # fmt: skip

    def _put_back(self, delivery: Delivery, decided: CommitmentDecided, failure: ReportFailed) -> None:
        age = self._clock.time() - decided.at
        if age > (_PATIENCE_REFUSED if failure.reached else _PATIENCE):
            self._given_up(decided, failure.reason)
            delivery.reject(failure.reason)
            return
        delay = min(max(age, _SHORTEST_DELAY), _LONGEST_DELAY)
        if not failure.reached:
            self._not_before[decided.calling_ae] = self._clock.monotonic() + delay
        delivery.retry(delay, reason=failure.reason, count=False)
        metrics.COMMITMENT_REPORTS.labels("to be repeated").inc()
        _LOG.warning(
            "storage commitment not reported, again in %.0f s: calling_ae=%s: %s", delay, decided.calling_ae, failure.reason
        )  # fmt: skip

    @staticmethod
    def _given_up(decided: CommitmentDecided, reason: str) -> None:
        metrics.COMMITMENT_REPORTS.labels("given up").inc()
        _LOG.error("storage commitment never reported: calling_ae=%s: %s", decided.calling_ae, reason)


def send_report(address: ReportAddress, decided: CommitmentDecided) -> None:
    """One attempt.

    Raises
    ------
    ReportFailed
    """
    # As the AE that was asked: the sender knows the transaction by it.
    entity = AE(ae_title=decided.called_ae)
    entity.connection_timeout = _CONNECT_SECONDS
    entity.acse_timeout = entity.network_timeout = entity.dimse_timeout = _ANSWER_SECONDS
    try:
        association = entity.associate(
            address.host, address.port, ae_title=decided.calling_ae,
            contexts=[build_context(SOP_CLASS, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])],
            ext_neg=[build_role(SOP_CLASS, scp_role=True)],
        )  # fmt: skip
    except OSError:  # a name that is not found now may be tomorrow
        raise ReportFailed("the sender's host is not found") from None
    hold_while_sending(association)
    try:
        if not association.is_established:
            raise ReportFailed(
                "the association was rejected" if association.is_rejected else "no association to the sender"
            )
        event = _FAILURES_EXIST if decided.failed else _COMPLETE
        response, _ = association.send_n_event_report(_information(decided), event, SOP_CLASS, SOP_INSTANCE)
    except RuntimeError:  # what pynetdicom says of an association that ended since it was looked at
        if association.is_established:
            raise
        raise ReportFailed("the association was lost before an answer") from None
    finally:
        if association.is_established:
            association.release()
    if "Status" not in response:
        raise ReportFailed("the association was lost before an answer")
    status = int(response.Status)
    if status != 0x0000 and status not in (0x0001, 0x0107, 0x0116) and status >> 12 != 0xB:
        raise ReportFailed(f"answered with 0x{status:04X}", reached=True)


def _information(decided: CommitmentDecided) -> Dataset:
    information = Dataset()
    information.TransactionUID = decided.transaction_uid
    if decided.committed:
        information.ReferencedSOPSequence = [_item(*pair) for pair in decided.committed]
    if decided.failed:
        information.FailedSOPSequence = [_item(c, i, reason=reason) for c, i, reason in decided.failed]
    return information


def _item(sop_class: str, instance: str, *, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = instance
    if reason is not None:
        item.FailureReason = reason
    return item
