"""Whatever a peer does wrong: the right answer on the wire, one PHI-free log line, one metric, and the next one is served."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter
from pynetdicom.association import Association
from unit.listener.listening import Listening
from unit.listener.modality import CT, EXPLICIT, IMPLICIT, Rejected, Scu, encode, image
from unit.listener.requests import identity, item, request

from ichor import metrics
from ichor.config import SenderSettings
from ichor.errors import OutOfResources
from ichor.store.receipts import Ended, Lane
from ichor.types import Priority
from listener import fast_path, library, lobby

ECHO, COMMITMENT = "1.2.840.10008.1.1", "1.2.840.10008.1.20.1"
ABORTED_BY_SERVICE_USER = b"\x07\0\0\0\0\4\0\0\0\0"


@pytest.fixture(autouse=True, params=[True, False], ids=["fast", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here holds on either path."""
    monkeypatch.setattr(Listening, "fast", request.param)


def rejection(result: int, source: int, reason: int) -> bytes:
    return struct.pack(">BBIBBBB", 3, 0, 4, 0, result, source, reason)


def count(metric: Counter, label: str) -> float:
    return float(metric.labels(label)._value.get())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def say(port: int, data: bytes) -> bytes:
    """Everything that the receiver answers to these bytes until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65536):
            answer += more
        return answer


LISTED = (
    SenderSettings(ae_title="CT1", host="127.0.0.1"),
    SenderSettings(ae_title="CT2", host="10.1.2.3"),
    SenderSettings(ae_title="CT3", host="127.0.0.1", username="scanner"),
)
REJECTED, DROPPED = metrics.ASSOCIATIONS_REJECTED, metrics.CONNECTIONS_DROPPED


@pytest.mark.parametrize(
    ("sent", "answer", "metric", "label", "listed"),
    [
        (request(called=b"SECRET"), rejection(1, 1, 7), REJECTED, "called AE title not recognised", True),
        (request(calling=b"CT9"), rejection(1, 1, 3), REJECTED, "calling AE title not recognised", True),
        (request(calling=b"CT2"), rejection(1, 1, 3), REJECTED, "host not recognised for this calling AE title", True),
        (request(calling=b"CT3"), rejection(1, 1, 1), REJECTED, "user identity not recognised", True),
        (request(calling=b"CT3", user=identity(2, b"SECRET", b"SECRET")), rejection(1, 1, 1), REJECTED,
         "user identity not recognised", True),
        (request(version=2), rejection(1, 2, 2), REJECTED, "protocol version not supported", True),
        (request(context=b"1.2.SECRET"), rejection(1, 1, 2), REJECTED, "application context name not supported", True),
        (request(more=item(0x20, b"SECRET", length=999)), ABORTED_BY_SERVICE_USER, REJECTED,
         "the association request cannot be read", True),
        (request(more=item(0x20, b"\3\0\0\0" + item(0x30, CT.encode()))), ABORTED_BY_SERVICE_USER, REJECTED,
         "the association request cannot be read", True),  # no transfer syntax
        (request()[:40] + request()[40:60], None, DROPPED, lobby.CLOSED, False),
        (request(length=10)[:16], ABORTED_BY_SERVICE_USER, REJECTED, "the association request cannot be read", True),
        (struct.pack(">BBI", 1, 0, 1 << 30), ABORTED_BY_SERVICE_USER, DROPPED, lobby.TOO_LONG, False),
        (struct.pack(">BBI", 4, 0, 8) + b"SECRET!!", ABORTED_BY_SERVICE_USER, DROPPED, lobby.NO_REQUEST, False),
        (b"GET /SECRET HTTP/1.0\r\n\r\n", ABORTED_BY_SERVICE_USER, DROPPED, lobby.NO_REQUEST, False),
    ],
)  # fmt: skip
def test_who_does_not_get_in(
    caplog: pytest.LogCaptureFixture, sent: bytes, answer: bytes | None, metric: Counter, label: str, listed: bool
) -> None:
    with Listening(senders=LISTED) as listening, caplog.at_level(logging.INFO):
        before = count(metric, label)
        if answer is None:
            with socket.create_connection(("127.0.0.1", listening.port), timeout=60) as connection:
                connection.sendall(sent)
        else:
            assert say(listening.port, sent) == answer
        wait_until(lambda: count(metric, label) == before + 1)
        # The list writes the log line of what is listed.
        assert [reason for _, _, reason in listening.refusals.wait_for(int(listed))] == [label] * listed
        assert listening.refusals.addresses == ["127.0.0.1"] * listed
        assert len(caplog.messages) == (0 if listed or label == lobby.CLOSED else 1)
        assert "SECRET" not in caplog.text + str([r for _, _, r in listening.refusals.listed])
        Scu(listening.port).release()
        wait_until(lambda: listening.receiver.open_associations() == 0)


def test_of_a_flood_of_rejections_all_are_counted_and_some_listed() -> None:
    label = "called AE title not recognised"
    with Listening() as listening:
        before = count(REJECTED, label)
        for _ in range(100):
            assert say(listening.port, request(called=b"OTHER")) == rejection(1, 1, 7)
        assert count(REJECTED, label) == before + 100
        assert 10 <= len(listening.refusals.listed) < 20
        assert say(listening.port, request(version=2)) == rejection(1, 2, 2)
        # Written down by a thread of its own.
        deadline = time.monotonic() + 30.0
        while listening.refusals.listed[-1][2] != "protocol version not supported":
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_noisy_device_hides_no_other_senders_rejection() -> None:
    words = "calling AE title not recognised"
    with Listening(senders=LISTED) as listening:
        for _ in range(30):
            assert say(listening.port, request(calling=b"NOISY")) == rejection(1, 1, 3)
        assert say(listening.port, request(calling=b"CT1NEW")) == rejection(1, 1, 3)
        wait_until(lambda: ("CT1NEW", "rejected", words) in listening.refusals.listed)
        assert 10 <= listening.refusals.listed.count(("NOISY", "rejected", words)) < 30


def test_titles_without_end_from_one_address_are_listed_only_so_often() -> None:
    with Listening(senders=LISTED) as listening:
        for number in range(200):
            assert say(listening.port, request(calling=b"T%d" % number)) == rejection(1, 1, 3)
        listening.receiver._gate.close()  # all is told
        assert 100 <= len(listening.refusals.listed) < 200


def test_of_a_flood_of_aborts_all_are_counted_and_some_logged(caplog: pytest.LogCaptureFixture) -> None:
    cause = "connection lost or out of step"

    def logged() -> int:
        return sum(message.startswith("association aborted") for message in caplog.messages)

    before = count(metrics.ASSOCIATIONS_ABORTED, cause)
    with Listening() as listening:
        for number in range(1, 31):
            listening.scu().socket.close()
            wait_until(lambda: count(metrics.ASSOCIATIONS_ABORTED, cause) == before + number)  # noqa: B023 - called at once
        assert 10 <= logged() < 30
        noted = logged()
        listening.scu(calling="CT2").socket.close()
        wait_until(lambda: logged() == noted + 1)
    assert caplog.messages[-1] == f"association aborted ({cause}): calling_ae=CT2"


def data(body: bytes, *, context: int = 1, control: int = 3, length: int | None = None) -> bytes:
    """A P-DATA-TF PDU with one PDV."""
    value = struct.pack(">IBB", len(body) + 2 if length is None else length, context, control) + body
    return struct.pack(">BBI", 4, 0, len(value)) + value


def command(field: int, *more: bytes) -> bytes:
    elements = b"".join((struct.pack("<HHIH", 0, 0x100, 2, field), *more))
    return struct.pack("<HHII", 0, 0, 4, len(elements)) + elements


# Message ID, no data set
ELEMENTS = struct.pack("<HHIH", 0, 0x110, 2, 1), struct.pack("<HHIH", 0, 0x800, 2, 0x0101)
REPORT = command(0x0100, *ELEMENTS)


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack(">BBI", 9, 0, 6) + b"SECRET",  # no such PDU
        struct.pack(">BBI", 4, 0, 0xFFFFFFFF),
        struct.pack(">BBI", 4, 0, 140_000) + bytes(1000),
        data(b"SECRET", length=9999),  # a PDV that ends behind its PDU
        data(b"SECRET", length=1),
        data(b"SECRET", context=77),  # a context that nobody proposed
        data(b"SECRET" * 30),  # no command set
        data(command(0x0001) * 3, control=1) * 900,  # a command set without end
        data(REPORT) * 50,
        request(),  # a second request
        struct.pack(">BBI", 5, 0, 4) + bytes(3),  # cut short, then the end
    ],
    ids=["type", "4 GiB", "PDU", "PDV", "PDV of one", "context", "command", "long command", "report", "request", "cut"],
)
def test_what_breaks_an_association_ends_it_with_one_line_and_one_count(
    caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    with Listening() as listening, caplog.at_level(logging.INFO):
        before = sum(s.value for s in metrics.ASSOCIATIONS_ABORTED.collect()[0].samples if s.name.endswith("_total"))
        scu = listening.scu(contexts=[(ECHO, (IMPLICIT,))])
        try:
            scu.socket.sendall(sent)
            scu.socket.shutdown(socket.SHUT_WR)
            while scu.socket.recv(65536):
                pass
        except OSError:
            pass  # it may be gone while we write
        scu.socket.close()

        def swept() -> bool:
            listening.receiver.sweep()
            return listening.receiver.open_associations() == 0

        wait_until(swept)
        ((_, ended),) = listening.receipts.wait_for(1)
        assert ended == Ended(association="association-1", released=False, at=ended.at)  # type: ignore[union-attr]
        after = sum(s.value for s in metrics.ASSOCIATIONS_ABORTED.collect()[0].samples if s.name.endswith("_total"))
        assert after == before + 1
        (line,) = caplog.messages
        assert line.startswith("association aborted (")
        assert "SECRET" not in caplog.text
        Scu(listening.port).release()


def test_most_associations_at_once_and_of_one_sender() -> None:
    senders = (
        SenderSettings(ae_title="CT1", host="127.0.0.1", associations=2),
        SenderSettings(ae_title="CT2", host="127.0.0.1"),
    )
    with Listening(senders=senders, associations=3) as listening:
        held = [Scu(listening.port), Scu(listening.port)]
        for calling in ("CT1", "CT2", "CT2"):
            if calling == "CT2" and len(held) == 2:
                held.append(Scu(listening.port, calling="CT2"))
                continue
            with pytest.raises(Rejected) as rejected:
                Scu(listening.port, calling=calling)
            assert rejected.value.args[0] == (2, 3, 2)  # rejected for the moment, local limit exceeded
        for number in range(20):  # a place is free as soon as the release is answered
            held.pop(0).release()
            wait_until(lambda: listening.receiver._admission.open() < 3)
            held.append(Scu(listening.port, calling="CT2" if number % 2 else "CT1"))
            if number >= 2:
                break
        for scu in held:
            scu.abort()
        wait_until(lambda: listening.receiver.open_associations() == 0)
        Scu(listening.port).release()


def test_object_that_memory_should_not_hold_ends_the_association_on_the_plain_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "_MOST_OBJECT_BYTES", 1_000_000)
    monkeypatch.setattr(Listening, "fast", False)
    cause = "a message longer than allowed"
    before = count(metrics.ASSOCIATIONS_ABORTED, cause)
    with Listening() as listening:
        scu = Scu(listening.port)
        assert scu.store(encode(image(pixels=bytes(900_000))), sop_instance="1.2.3.4.1") == 0
        with contextlib.suppress(ConnectionError):
            scu.send_part_of_store(bytes(16_000_000), 16_000_000, sop_instance="1.2.3.4.2")
        wait_until(lambda: count(metrics.ASSOCIATIONS_ABORTED, cause) == before + 1)
        assert len(listening.reception.arrivals) == 1


def test_a_commitment_request_of_more_than_8_mib_ends_the_association() -> None:
    cause = "a message longer than allowed"
    before = count(metrics.ASSOCIATIONS_ABORTED, cause)
    asked = command(0x0130, ELEMENTS[0], struct.pack("<HHIH", 0, 0x800, 2, 0x0001))
    with Listening() as listening:
        scu = Scu(listening.port, contexts=[(COMMITMENT, (EXPLICIT,))])
        scu.socket.sendall(data(asked))
        with contextlib.suppress(ConnectionError):
            for _ in range(600):
                scu.socket.sendall(data(bytes(16_000), control=0))
        wait_until(lambda: count(metrics.ASSOCIATIONS_ABORTED, cause) == before + 1)
        scu.socket.close()


def test_a_sender_of_whose_classes_none_is_taken_is_told_of_by_that_reason() -> None:
    label, procedure_step = "no presentation context is taken", "1.2.840.10008.3.1.2.3.3"
    before = count(REJECTED, label)
    with Listening() as listening:
        scu = Scu(listening.port, contexts=[(procedure_step, (IMPLICIT,))])
        assert listening.refusals.wait_for(1) == [("CT1", "rejected", label)]
        assert listening.refusals.addresses == ["127.0.0.1"]
        assert count(REJECTED, label) == before + 1
        scu.abort()
        Scu(listening.port, contexts=[(procedure_step, (IMPLICIT,)), (ECHO, (IMPLICIT,))]).release()
        assert len(listening.refusals.listed) == 1


def test_lobby_waits_for_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, goes_on = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> int:
        stuck.set()
        assert goes_on.wait(60)
        return 1 << 50

    with Listening(senders=LISTED) as listening:
        monkeypatch.setattr("listener.pressure._LOOK_AGAIN", 0.0)
        monkeypatch.setattr(listening.reception.pressure, "_free_bytes", hang)
        monkeypatch.setattr(listening.refusals, "add", hang)
        try:
            threading.Thread(target=listening.receiver.sweep, daemon=True).start()
            assert stuck.wait(60)
            for _ in range(3):
                with pytest.raises(Rejected):
                    Scu(listening.port, calling="STRANGER")
            Scu(listening.port).release()
        finally:
            goes_on.set()


def test_what_a_sender_in_a_hurry_sends_before_the_fast_path_takes_over_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install = fast_path.install

    def late(*arguments: Any, **more: Any) -> bool:
        time.sleep(0.1)
        return install(*arguments, **more)

    monkeypatch.setattr(fast_path, "install", late)
    sent = [encode(image(f"1.2.3.4.{number}")) for number in range(3)]
    with Listening() as listening:
        scu = Scu(listening.port)
        assert [scu.store(one, sop_instance=f"1.2.3.4.{n}") for n, one in enumerate(sent)] == [0, 0, 0]
        scu.release()
        assert [bytes(arrival.data) for arrival in listening.reception.arrivals] == sent


def test_object_of_an_ended_association_is_refused_counted_and_told() -> None:
    with Listening() as listening:
        scu = listening.scu()
        (session,) = listening.receiver._sessions.all().values()
        session.ended(released=False)
        before = count(metrics.STORES_REFUSED, "0xA700")
        assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0xA700
        assert count(metrics.STORES_REFUSED, "0xA700") == before + 1
        assert listening.refusals.wait_for(1) == [("CT1", "0xA700", "the association has been ended")]
        scu.abort()


def test_a_full_disk_turns_away_associations_first_and_recovers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listener.pressure._LOOK_AGAIN", 0.0)
    with Listening(disk_low=1000, disk_full=100) as listening:
        scu = Scu(listening.port)
        listening.spool.free = 500
        listening.receiver.sweep()
        with pytest.raises(Rejected) as rejected:
            Scu(listening.port)
        assert rejected.value.args[0] == (2, 3, 1)  # rejected for the moment, temporary congestion
        listening.reception.pressure.check()  # objects of open associations are still taken
        listening.spool.free = 50
        with pytest.raises(OutOfResources):
            listening.reception.pressure.check()
        listening.spool.free = 5000
        listening.receiver.sweep()
        listening.reception.pressure.check()
        Scu(listening.port).release()
        scu.release()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["-usr", "scanner", "-pwd", "open sesame", "-rsp"], 0),
        (["-usr", "scanner", "-pwd", "open sesame"], 0),
        (["-usr", "scanner", "-pwd", "wrong", "-rsp"], 1),
        (["-usr", "scanner", "-epw"], 1),
        ([], 1),
    ],
)
def test_a_sender_that_must_say_who_it_is(
    tmp_path: Path, peer: Callable[[str, str], str], options: list[str], code: int
) -> None:
    from pydicom.dataset import FileMetaDataset

    passcode = tmp_path / "passcode"
    passcode.write_text("open sesame\n")
    dataset = image("1.2.3.4.1")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    dataset.save_as(tmp_path / "1.dcm", enforce_file_format=True)
    sender = SenderSettings(ae_title="CT1", host="127.0.0.1", username="scanner", passcode_file=str(passcode))
    with Listening(senders=[sender]) as listening:
        command = [peer("storescu", "dcmtk"), "-aet", "CT1", "-aec", "ICHOR", *options, "127.0.0.1",
                   str(listening.port), str(tmp_path / "1.dcm")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode != 0) == (code != 0), done.stderr
        assert len(listening.reception.arrivals) == (code == 0)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_an_identity_that_nobody_asked_for_is_ignored(kind: int) -> None:
    asked = request(user=identity(kind, b"a", b"b", wants_answer=True))
    with Listening() as listening, socket.create_connection(("127.0.0.1", listening.port), timeout=60) as connection:
        connection.sendall(asked)
        assert connection.recv(65536)[0] == 2  # A-ASSOCIATE-AC
        connection.sendall(struct.pack(">BBI", 5, 0, 4) + bytes(4))
        assert connection.recv(65536)[0] == 6


def test_a_silent_association_is_released_and_does_not_count_as_released_by_the_sender(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Listening(idle_timeout=10.0) as listening:
        scu = Scu(listening.port)
        assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0
        assert scu.read() == (5, bytes(4))  # A-RELEASE-RQ
        scu.pdu(6, bytes(4))
        ((_, ended),) = listening.receipts.wait_for(1)
        assert ended.released is False  # type: ignore[union-attr]
        wait_until(lambda: "association aborted (idle, released by us): calling_ae=CT1" in caplog.messages)


def test_a_silent_association_that_does_not_answer_the_release_is_aborted() -> None:
    with Listening() as listening:
        scu = listening.scu()
        (association,) = listening.receiver._sessions.all()
        assert association.acse_timeout == library._RELEASE_TIMEOUT
        association.acse_timeout = association.network_timeout = 0.3
        assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0  # wakes who waits for the next object
        assert [scu.read()[0], scu.read()[0]] == [5, 7]
        ((_, ended),) = listening.receipts.wait_for(1)
        assert ended.released is False  # type: ignore[union-attr]


def test_a_sender_that_stalls_within_a_pdu_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    with Listening(network_timeout=1.0) as listening:
        scu = Scu(listening.port)
        scu.socket.sendall(b"\4\0\0\0\x10\0SECRET")
        ((_, ended),) = listening.receipts.wait_for(1)
        assert ended.released is False  # type: ignore[union-attr]
        (line,) = caplog.messages
        assert line in {
            "association aborted (a sender fell silent within a message): calling_ae=CT1",
            "association aborted (connection lost or out of step): calling_ae=CT1",
        }


@pytest.mark.parametrize(("durability", "syncs"), [("instance", 0), ("association", 1), ("none", 0)])
def test_level_association_syncs_spool_and_receipts_before_the_release_is_answered(durability: str, syncs: int) -> None:
    with Listening(durability=durability) as listening:
        scu = Scu(listening.port)
        assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0
        assert listening.spool.syncs == 0
        scu.release()
        assert (listening.spool.syncs, len(listening.receipts.synced)) == (syncs, syncs)


def test_bytes_are_synced_before_the_receipts_that_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listening(durability="association") as listening:
        order: list[str] = []
        monkeypatch.setattr(listening.spool, "sync", lambda **_: order.append("spool"))
        monkeypatch.setattr(listening.receipts, "sync", lambda: order.append("receipts"))
        Scu(listening.port).release()
        assert order == ["spool", "receipts"]


def test_sync_that_failed_for_another_association_meanwhile_is_a_loss_for_this_one() -> None:
    with Listening(durability="association") as listening:
        listening.spool.losses = 1  # of before: not its concern
        scu = Scu(listening.port)
        listening.spool.losses = 2
        later = Scu(listening.port)
        scu.pdu(5, bytes(4))
        assert scu.read()[0] == 7  # A-ABORT
        later.release()
        assert listening.spool.syncs == 1


def test_what_cannot_be_synced_is_not_released(caplog: pytest.LogCaptureFixture) -> None:
    with Listening(durability="association") as listening:
        listening.receipts.failure = OutOfResources("the disk failed")
        scu = Scu(listening.port)
        assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0
        scu.pdu(5, bytes(4))
        assert scu.read()[0] == 7  # A-ABORT
        ((_, ended),) = listening.receipts.wait_for(1)
        assert ended.released is False  # type: ignore[union-attr]
        assert "association aborted (not on disk): calling_ae=CT1" in caplog.messages


@pytest.mark.parametrize(
    ("called", "priority", "lane"),
    [
        ("ICHOR", None, Lane.ROUTINE), ("ICHOR_STAT", None, Lane.STAT), ("ICHOR", Priority.STAT, Lane.STAT),
        ("ICHOR", Priority.HIGH, Lane.STAT), ("ICHOR_STAT", Priority.LOW, Lane.ROUTINE),
    ],
)  # fmt: skip
def test_lane_of_an_association(called: str, priority: Priority | None, lane: Lane) -> None:
    with Listening(senders=[SenderSettings(ae_title="CT1", host="127.0.0.1", priority=priority)]) as listening:
        scu = Scu(listening.port, called=called)
        assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0
        scu.release()
        ((where, _),) = listening.receipts.wait_for(1)
        assert [a.origin.lane for a in listening.reception.arrivals] == [where] == [lane]


def test_an_end_is_written_after_the_last_object_also_where_the_sender_is_gone_first() -> None:
    with Listening() as listening:
        scu = Scu(listening.port)
        order: list[str] = []

        def slow(_: Any) -> int:
            wait_until(lambda: listening.receiver.open_associations() == 0)  # the end was told meanwhile
            order.append(f"stored before {len(listening.receipts.records)} ends")
            return 0

        listening.reception.then = slow
        scu.send_store(encode(image()), sop_class="1.2.840.10008.5.1.4.1.1.2", sop_instance="1.2.3.4.1")
        wait_until(lambda: bool(listening.reception.arrivals))
        (association,) = listening.receiver._sessions.all()
        listening.receiver._sessions.end(association, released=False)
        listening.receipts.wait_for(1)
        assert order == ["stored before 0 ends"]
        scu.socket.close()


def test_a_thread_that_died_does_not_leave_its_peer_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("SECRET")

    with Listening() as listening:
        scu = Scu(listening.port)
        monkeypatch.setattr(Association, "_serve_request", die)
        scu.socket.sendall(data(command(0x0030, *ELEMENTS)))

        def swept() -> bool:
            listening.receiver.sweep()
            return listening.receiver.open_associations() == 0

        wait_until(swept)
        with pytest.raises(ConnectionError):
            scu.read()
        assert "a thread of an association died: RuntimeError" in caplog.messages
        assert "SECRET" not in caplog.text + "".join(capfd.readouterr())
        monkeypatch.undo()
        Scu(listening.port).release()


def test_descriptors_above_1023_are_served() -> None:
    with Listening() as listening:
        spare = [socket.socket() for _ in range(1100)]
        try:
            scu = Scu(listening.port)
            while scu.socket.fileno() <= 1023:  # one that another test's thread let go meanwhile
                spare.append(scu.socket)
                scu = Scu(listening.port)
            assert scu.store(encode(image(pixels=bytes(300_000))), sop_instance="1.2.3.4.1") == 0
            scu.release()
        finally:
            for one in spare:
                one.close()


def test_two_thousand_probes_slow_and_half_open_ones_leave_a_sender_alone(caplog: pytest.LogCaptureFixture) -> None:
    with Listening() as listening:
        scu = Scu(listening.port)
        held = []
        for number in range(2000):
            connection = socket.create_connection(("127.0.0.1", listening.port), timeout=60)
            if number % 3 == 0:
                connection.close()
                continue
            if number % 3 == 1:
                connection.sendall(request()[: 1 + number % 70])
            held.append(connection)
            if number % 200 == 0:
                assert scu.store(encode(image(f"1.2.3.4.{number}")), sop_instance=f"1.2.3.4.{number}") == 0
                Scu(listening.port).release()
        scu.release()
        assert len(caplog.messages) <= 20
        for connection in held:
            connection.close()
