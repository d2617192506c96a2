"""Reports of storage commitment: what a sender's association gets, and what becomes of those that it does not take."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from unit.listener.commitment_data import CT

from ichor.bus.memory import MemoryBus
from ichor.bus.protocol import Subscription
from ichor.clock import ManualClock
from ichor.messages import COMMITMENTS, CommitmentDecided, open_envelope, seal
from listener.commitment import SOP_CLASS, SOP_INSTANCE, ReportAddress
from listener.commitment_reports import Reporter, ReportFailed, send_report

START = 1_700_000_000.0
PLACE = ReportAddress("10.1.2.3", 104)


def decided(*, transaction: str = "1.2.9", calling: str = "CT1", failed: int = 1) -> CommitmentDecided:
    return CommitmentDecided(
        transaction_uid=transaction, calling_ae=calling, called_ae="ICHOR", at=START,
        committed=((CT, "1.2.3.1"), (CT, "1.2.3.2")), failed=((CT, "1.2.3.9", 0x0112),) * failed,
    )  # fmt: skip


# --- over the network -------------------------------------------------------------------------------------------------


@dataclass
class Modality:
    """A sender that listens for reports; ``status`` is its answer."""

    port: int
    status: int = 0x0000
    syntax: str = str(ExplicitVRLittleEndian)
    roles: bool = True
    title: str = "CT1"
    reports: list[Dataset] = field(default_factory=list)
    server: Any = None

    def start(self) -> None:
        entity = AE(ae_title=self.title)
        entity.require_called_aet = True
        role: dict[str, bool] = {"scu_role": True, "scp_role": True} if self.roles else {}
        entity.add_supported_context(SOP_CLASS, [self.syntax], **role)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._report)]
        self.server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def _report(self, event: evt.Event) -> tuple[int, None]:
        context = event.assoc.accepted_contexts[0]
        information = event.event_information
        information.told = (
            str(event.assoc.requestor.primitive.calling_ae_title), int(event.event_type), str(context.transfer_syntax[0]),
            str(event.request.AffectedSOPInstanceUID), context.as_scu, context.as_scp,
        )  # fmt: skip
        self.reports.append(information)
        return self.status, None


@pytest.fixture
def modality(free_port: Callable[[], int]) -> Iterator[Modality]:
    made = Modality(free_port())
    yield made
    if made.server is not None:
        made.server.shutdown()


def named(sequence: Any) -> list[tuple[str, str]]:
    return [(str(i.ReferencedSOPClassUID), str(i.ReferencedSOPInstanceUID)) for i in sequence]


@pytest.mark.parametrize("syntax", [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)])
@pytest.mark.parametrize("roles", [True, False])
@pytest.mark.parametrize(("failed", "event_type"), [(0, 1), (1, 2)])
def test_a_report_names_the_transaction_and_every_instance(
    modality: Modality, syntax: str, roles: bool, failed: int, event_type: int
) -> None:
    modality.syntax, modality.roles = syntax, roles
    modality.start()
    send_report(ReportAddress("127.0.0.1", modality.port), decided(failed=failed))
    (report,) = modality.reports
    calling, told, used, instance, *negotiated = report.told
    assert (calling, told, used, instance) == ("ICHOR", event_type, syntax, SOP_INSTANCE)
    if roles:
        assert negotiated == [True, False]  # of the acceptor: it is the user, we are the provider
    assert report.TransactionUID == "1.2.9"
    assert named(report.ReferencedSOPSequence) == [(CT, "1.2.3.1"), (CT, "1.2.3.2")]
    if failed:
        assert named(report.FailedSOPSequence) == [(CT, "1.2.3.9")]
        assert report.FailedSOPSequence[0].FailureReason == 0x0112
    else:
        assert "FailedSOPSequence" not in report


def test_a_report_of_failures_only_has_no_sequence_of_successes(modality: Modality) -> None:
    modality.start()
    only = CommitmentDecided(
        transaction_uid="1.2.9", calling_ae="CT1", called_ae="ICHOR", at=START, committed=(),
        failed=((CT, "1.2.3.9", 0x0110),),
    )  # fmt: skip
    send_report(ReportAddress("127.0.0.1", modality.port), only)
    (report,) = modality.reports
    assert "ReferencedSOPSequence" not in report
    assert report.told[1] == 2


@pytest.mark.parametrize(
    ("changes", "reason", "reached"),
    [
        (None, "no association", False),
        ({"title": "OTHER"}, "rejected", False),
        ({"status": 0x0110}, "0x0110", True),
        ({"status": 0x0211}, "0x0211", True),
    ],
)
def test_a_report_that_is_not_taken_says_why(
    modality: Modality, changes: dict[str, Any] | None, reason: str, reached: bool
) -> None:
    if changes is not None:
        for name, value in changes.items():
            setattr(modality, name, value)
        modality.start()
    with pytest.raises(ReportFailed) as caught:
        send_report(ReportAddress("127.0.0.1", modality.port), decided())
    assert reason in caught.value.reason
    assert caught.value.reached is reached


@pytest.mark.usefixtures("late_pause")
def test_a_thread_of_the_library_that_pauses_late_takes_no_answer(
    modality: Modality, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("listener.commitment_reports._ANSWER_SECONDS", 20.0)
    modality.start()
    for _ in range(3):
        send_report(ReportAddress("127.0.0.1", modality.port), decided())
    assert len(modality.reports) == 3


def test_a_host_that_is_not_found_is_unreachable() -> None:
    with pytest.raises(ReportFailed, match="not found") as caught:
        send_report(ReportAddress("no-such-host.invalid", 104), decided())
    assert not caught.value.reached


def test_a_peer_that_leaves_without_an_answer_is_tried_again(free_port: Callable[[], int]) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(100)
            connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(ReportFailed) as caught:
            send_report(ReportAddress("127.0.0.1", server.getsockname()[1]), decided())
        assert not caught.value.reached


# --- attempts ---------------------------------------------------------------------------------------------------------


class Desk:
    """A reporter, its messages and its time."""

    def __init__(self) -> None:
        self.clock = ManualClock(START)
        self.bus = MemoryBus(clock=self.clock)
        self.failure: ReportFailed | None = None
        self.tried: list[str] = []
        self.reporter = Reporter(addresses={"CT1": PLACE, "MR1": PLACE}, clock=self.clock, send=self._send)
        self.subscription: Subscription = self.bus.subscribe([COMMITMENTS], "report", max_attempts=3)

    def _send(self, address: ReportAddress, decision: CommitmentDecided) -> None:
        assert address == PLACE
        self.tried.append(decision.transaction_uid)
        if self.failure is not None and decision.calling_ae == "CT1":
            raise self.failure

    def publish(self, *decisions: CommitmentDecided) -> None:
        self.bus.publish(COMMITMENTS, [seal(one, source="test", time=START) for one in decisions])

    def step(self, seconds: float = 0.0) -> None:
        """Let time pass, then handle what is due, each message once."""
        self.clock.advance(seconds)
        while (delivery := self.subscription.receive(0.0)) is not None:
            data = open_envelope(delivery.envelope)
            assert isinstance(data, CommitmentDecided)
            self.reporter.handle(delivery, data)

    def waiting(self) -> int:
        return self.bus.lag()[0].waiting


def test_an_unreachable_sender_is_tried_at_growing_intervals_by_one_report_and_gets_all_at_last() -> None:
    desk = Desk()
    desk.failure = ReportFailed("no association to the sender")
    desk.publish(decided(), decided(transaction="1.2.10"), decided(transaction="1.2.11", calling="MR1"))
    desk.step()
    assert desk.tried == [
        "1.2.9",
        "1.2.11",
    ]  # the second one waits for what becomes of the first; the other sender's not
    tries = []
    for second in range(1, 3601):
        before = len(desk.tried)
        desk.step(1.0)
        if len(desk.tried) > before:
            tries.append(second)
    assert tries[:6] == [1, 2, 4, 8, 16, 32]
    assert all(later - earlier <= 601 for earlier, later in itertools.pairwise(tries))
    assert set(desk.tried[2:]) == {"1.2.9"}
    desk.failure = None
    desk.step(600.0)
    assert sorted(desk.tried[-2:]) == ["1.2.10", "1.2.9"]
    assert desk.waiting() == 0
    assert desk.bus.dead_letters() == []


@pytest.mark.parametrize(("reached", "days"), [(False, 7), (True, 1)])
def test_a_report_that_is_never_taken_becomes_a_dead_letter(
    reached: bool, days: int, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    desk.failure = ReportFailed("answered with 0x0110", reached=reached)
    desk.publish(decided())
    desk.step()
    desk.step(days * 86400.0 - 10)
    assert desk.bus.dead_letters() == []
    caplog.clear()
    desk.step(700.0)
    (letter,) = desk.bus.dead_letters()
    assert letter.reason == "answered with 0x0110"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert desk.waiting() == 0


def test_a_report_that_is_refused_keeps_no_other_waiting() -> None:
    desk = Desk()
    desk.failure = ReportFailed("answered with 0x0110", reached=True)
    desk.publish(decided(), decided(transaction="1.2.10"))
    desk.step()
    assert desk.tried == ["1.2.9", "1.2.10"]


def test_a_sender_that_is_configured_no_longer_leaves_a_dead_letter() -> None:
    desk = Desk()
    desk.publish(decided(calling="GONE"))
    desk.step()
    (letter,) = desk.bus.dead_letters()
    assert (letter.reason, desk.tried) == ("no address for a report", [])
