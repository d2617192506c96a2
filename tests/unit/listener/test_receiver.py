"""The receiver over the network: what senders see, what is on disk, what the bus is told."""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from unit.listener.modality import BIG_ENDIAN, CT, EXPLICIT, IMPLICIT, Rejected, Scu, encode, image
from unit.listener.site import Site

from ichor.clock import SystemClock
from ichor.config import SenderSettings
from ichor.errors import CannotStart
from ichor.store import disk
from ichor.store.journal import StoredObject
from ichor.store.receipts import ReceiptWriter
from ichor.store.spool import FileSpool
from ichor.types import Instance, Priority
from listener import relay, role

DICOMDIR = "1.2.840.10008.1.3.10"
REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
SYNTAXES = {
    "implicit": IMPLICIT,
    "explicit": EXPLICIT,
    "big endian": BIG_ENDIAN,
    "deflated": "1.2.840.10008.1.2.1.99",
    "JPEG lossy": "1.2.840.10008.1.2.4.51",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.91",
    "HTJ2K": "1.2.840.10008.1.2.4.203",
    "RLE": "1.2.840.10008.1.2.5",
    "MPEG-4": "1.2.840.10008.1.2.4.102",
    "private": "1.2.840.113619.5.2",
    "unknown": "1.2.840.10008.1.2.4.999",
}


def stored_bytes(site: Site, sop_instance_uid: str) -> list[bytes]:
    found = []
    for row in site.journal.by_instance(sop_instance_uid):
        with site.spool.open(row.stored.location) as file:
            found.append(file.read())
    return found


def test_every_transfer_syntax_is_accepted_and_kept_byte_for_byte(site: Site) -> None:
    scu = Scu(site.port, contexts=[(CT, (syntax,)) for syntax in SYNTAXES.values()])
    assert scu.accepted == {2 * n + 1: syntax for n, syntax in enumerate(SYNTAXES.values())}
    sent = {}
    for number, syntax in enumerate(SYNTAXES.values()):
        sop = f"1.2.3.4.{number + 1}"
        if syntax == SYNTAXES["deflated"]:
            squeeze = __import__("zlib").compressobj(wbits=-15)
            sent[sop] = squeeze.compress(encode(image(sop))) + squeeze.flush()
        else:
            sent[sop] = encode(image(sop), syntax)
        assert scu.store(sent[sop], sop_instance=sop, context=2 * number + 1) == 0x0000
    scu.release()
    for (sop, data_set), syntax in zip(sent.items(), SYNTAXES.values(), strict=True):
        (file,) = stored_bytes(site, sop)
        assert file.endswith(data_set)
        (row,) = site.journal.by_instance(sop)
        assert row.stored.transfer_syntax_uid == syntax
        (site.root / "one.dcm").write_bytes(file)
        meta = pydicom.filereader.read_file_meta_info(site.root / "one.dcm")
        assert len(file) == 132 + 12 + meta.FileMetaInformationGroupLength + len(data_set)


def test_first_syntax_that_the_sender_proposes_is_taken(site: Site) -> None:
    scu = Scu(site.port, contexts=[(CT, (SYNTAXES["JPEG 2000"], EXPLICIT, IMPLICIT))])
    assert scu.accepted == {1: SYNTAXES["JPEG 2000"]}
    scu.release()


def test_odd_objects_do_not_break_the_association(site: Site) -> None:
    private = "1.3.6.1.4.1.9590.1.9"
    echo, query = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
    scu = Scu(site.port, contexts=[(uid, (EXPLICIT,)) for uid in (CT, DICOMDIR, REPORT, private, echo, query)])
    assert [scu.results[n] for n in (1, 3, 5, 7, 9)] == [0] * 5
    assert scu.results[11] == 3  # abstract syntax not supported: not for storage
    directory = Dataset()
    directory.FileSetID = "DISC"
    assert scu.store(encode(directory), sop_class=DICOMDIR, sop_instance="1.2.9", context=3) == 0xC000
    report = image("1.2.3.4.8", sop_class=REPORT, pixels=None)
    assert scu.store(encode(report), sop_class=REPORT, sop_instance="1.2.3.4.8", context=5) == 0x0000
    other = image("1.2.3.4.9", sop_class=private)
    assert scu.store(encode(other), sop_class=private, sop_instance="1.2.3.4.9", context=7) == 0x0000
    assert scu.store(encode(image()), sop_class=echo, sop_instance="1.2.3.4.1") == 0x0122
    assert scu.echo(9) == 0x0000
    assert scu.store(encode(image())[:-100], sop_instance="1.2.3.4.1") == 0x0000  # cut short: named later
    assert scu.store(b"", sop_instance="1.2.3.4.7") == 0xC000
    scu.release()
    site.bus.wait_for(lambda bus: len(bus.refusals()) == 3 and bool(bus.closed()))
    assert [r.status for r in site.bus.refusals()] == ["0xC000", "0x0122", "0xC000"]
    assert {i.sop_instance_uid for i in site.bus.instances()} == {"1.2.3.4.8", "1.2.3.4.9", "1.2.3.4.1"}


@pytest.mark.parametrize("uid", ["../../x", "1.2..3", "1." + "9" * 70, "..\\..\\x", "1.2.3\x1b[2J"])
def test_uid_that_is_none_is_refused_and_listed(site: Site, tmp_path: Path, uid: str) -> None:
    scu = Scu(site.port)
    assert scu.store(encode(image(uid)), sop_instance=uid) == 0xA900
    assert scu.store(encode(image("1.2.3.4.1", study=uid)), sop_instance="1.2.3.4.1") == 0xA900
    assert scu.store(encode(image("1.2.3.4.2")), sop_instance="1.2.3.4.2") == 0x0000
    scu.release()
    site.bus.wait_for(lambda bus: len(bus.refusals()) == 2)
    assert {(r.status, r.reason, r.calling_ae) for r in site.bus.refusals()} == {
        ("0xA900", "a UID is not valid", "CT1")
    }
    assert [p.parent.relative_to(site.root / "spool") for p in site.stored_files()] == [Path("1.2.3/1.2.3.4")]
    assert not list(tmp_path.rglob("x"))


def test_missing_uid_in_the_command_is_answered(site: Site) -> None:
    scu = Scu(site.port)
    assert scu.store(encode(image()), sop_instance=None) == 0xA900
    assert scu.store(encode(image()), sop_instance="") == 0xA900
    assert scu.store(encode(image()), sop_class=None, sop_instance="1.2.3.4.1") == 0xA900
    assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0x0000
    scu.release()


def test_same_bytes_once_and_other_bytes_beside(site: Site) -> None:
    scu = Scu(site.port)
    first, other = encode(image()), encode(image(PatientName="Other^Name"))
    assert [scu.store(d, sop_instance="1.2.3.4.1") for d in (first, first, other)] == [0, 0, 0]
    scu.release()
    again = Scu(site.port)
    assert again.store(first, sop_instance="1.2.3.4.1") == 0
    again.release()
    site.bus.wait_for(lambda bus: len(bus.closed()) == 2)
    assert [f.endswith(d) for f, d in zip(stored_bytes(site, "1.2.3.4.1"), (first, other), strict=True)] == [True, True]
    assert len(site.bus.instances()) == 2
    # What an association brought is counted with its repetitions.
    assert [c.counts for c in site.bus.closed()] == [{"1.2.3.4": 3}, {"1.2.3.4": 1}]


@pytest.mark.parametrize(("calling", "shown"), [("BAD\\X", "BAD?X"), ("BÄD", "B??D")])
def test_a_request_that_cannot_be_read_leaves_a_trace(site: Site, calling: str, shown: str) -> None:
    with pytest.raises((AssertionError, OSError, EOFError)):
        Scu(site.port, calling=calling)
    Scu(site.port).release()
    site.bus.wait_for(lambda bus: bool(bus.refusals()))
    (refused,) = site.bus.refusals()
    assert (refused.status, refused.calling_ae) == ("rejected", shown)
    assert refused.reason == "the association request cannot be read"


def test_called_ae_title_decides(site: Site) -> None:
    with pytest.raises(Rejected) as rejected:
        Scu(site.port, called="OTHER")
    assert rejected.value.args[0] == (1, 1, 7)  # called AE title not recognised
    Scu(site.port, called="ICHOR").release()
    site.bus.wait_for(lambda bus: bool(bus.refusals()))
    (refused,) = site.bus.refusals()
    assert (refused.status, refused.calling_ae, refused.reason) == ("rejected", "CT1", "called AE title not recognised")


def test_only_listed_senders_may_send(start_site: Callable[..., Site]) -> None:
    site = start_site(
        senders=(
            SenderSettings(ae_title="CT1", host="127.0.0.1", priority=Priority.LOW),
            SenderSettings(ae_title="CT2", host="10.1.2.3"),
            SenderSettings(ae_title="CT3", host="localhost"),
        )
    )
    for calling in ("CT2", "NOBODY"):
        with pytest.raises(Rejected) as rejected:
            Scu(site.port, calling=calling)
        assert rejected.value.args[0] == (1, 1, 3)  # calling AE title not recognised
    Scu(site.port, calling="CT3").release()
    scu = Scu(site.port, calling="CT1", called="ICHOR_STAT")
    assert scu.store(encode(image()), sop_instance="1.2.3.4.1", priority=1) == 0
    scu.release()
    site.bus.wait_for(lambda bus: bool(bus.instances()))
    assert site.bus.instances()[0].priority is Priority.LOW  # the sender's setting goes first


@pytest.mark.parametrize(
    ("called", "header", "command", "expected"),
    [
        ("ICHOR_STAT", "LOW", 1, Priority.STAT),
        ("ICHOR", "STAT", 1, Priority.STAT),
        ("ICHOR", None, 1, Priority.HIGH),
        ("ICHOR", None, 2, None),
    ],
)
def test_priority_by_the_first_that_applies(
    site: Site, called: str, header: str | None, command: int, expected: Priority | None
) -> None:
    request = Dataset()
    request.RequestedProcedurePriority = header
    more = {} if header is None else {"RequestAttributesSequence": [request], "RequestedProcedurePriority": header}
    scu = Scu(site.port, called=called)
    assert scu.store(encode(image(**more)), sop_instance="1.2.3.4.1", priority=command) == 0
    scu.release()
    site.bus.wait_for(lambda bus: bool(bus.instances()))
    assert site.bus.instances()[0].priority is expected


def test_full_disk_is_refused_cleanly_and_recovers_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    scu = Scu(site.port)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_all", full)
        assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0xA700
        assert site.stored_files() == []
    assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0
    scu.release()


def test_facts_then_the_release_for_each_study_in_order(site: Site) -> None:
    scu = Scu(site.port)
    for number in range(12):
        study = "1.2.3" if number % 2 else "1.2.5"
        data_set = encode(image(f"1.2.3.4.{number}", study=study, series=f"{study}.1"))
        assert scu.store(data_set, sop_instance=f"1.2.3.4.{number}") == 0
    scu.release()
    site.bus.wait_for(lambda bus: len(bus.closed()) == 2)
    for study, parity in (("1.2.3", 1), ("1.2.5", 0)):
        told = [d for d in site.bus.data() if d.study_instance_uid == study]
        assert [i.sop_instance_uid for d in told[:-1] for i in d.instances] == [
            f"1.2.3.4.{n}" for n in range(12) if n % 2 == parity
        ]
        closed = told[-1]
        assert (closed.released, closed.counts, closed.calling_ae) == (True, {f"{study}.1": 6}, "CT1")
        assert {d.association for d in told} == {closed.association}
    assert site.journal.unassigned() == []


def test_abort_is_told_as_such(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    scu = Scu(site.port)
    assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0
    scu.abort()
    site.bus.wait_for(lambda bus: bool(bus.closed()))
    assert site.bus.closed()[0].released is False
    assert "association aborted (by the peer): calling_ae=CT1" in caplog.messages


def test_sender_that_vanishes_in_the_middle_leaves_nothing_of_it(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    scu = Scu(site.port)
    assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0
    whole = encode(image("1.2.3.4.2", pixels=bytes(200_000)))
    (before,) = stored_bytes(site, "1.2.3.4.1")
    scu.send_part_of_store(whole, 100_000, sop_instance="1.2.3.4.2")
    scu.socket.close()
    site.bus.wait_for(lambda bus: bool(bus.closed()))
    assert "association aborted (connection lost or out of step): calling_ae=CT1" in caplog.messages
    assert site.bus.closed()[0].released is False
    assert stored_bytes(site, "1.2.3.4.1") == [before]
    assert stored_bytes(site, "1.2.3.4.2") == []
    assert sum(file.read_bytes().count(whole[100:1000]) for file in site.stored_files()) == 0


def test_absent_bus_refuses_nothing_and_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(relay, "_LONGEST_PAUSE", 0.02)
    site.bus.away = True
    scu = Scu(site.port)
    assert scu.store(encode(image()), sop_instance="../x") == 0xA900
    for number in range(5):
        assert scu.store(encode(image(f"1.2.3.4.{number}")), sop_instance=f"1.2.3.4.{number}") == 0
    scu.release()
    site.bus.wait_for(lambda bus: bus.refused >= 3)
    assert site.bus.log == []
    site.bus.away = False
    site.bus.wait_for(lambda bus: bool(bus.closed()) and bool(bus.refusals()))
    assert [i.sop_instance_uid for i in site.bus.instances()] == [f"1.2.3.4.{n}" for n in range(5)]
    assert site.bus.closed()[0].counts == {"1.2.3.4": 5}


def test_object_whose_facts_cannot_be_read_is_told_with_a_defect(
    start_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = role.FactsReader.read

    def sometimes(reader: object, file: object, *, stored: StoredObject) -> Instance:
        if stored.sop_instance_uid == "1.2.3.4.1":
            raise KeyError("Secret^Name")
        return real(reader, file, stored=stored)  # type: ignore[arg-type]

    monkeypatch.setattr(role.FactsReader, "read", sometimes)
    site = start_site()
    scu = Scu(site.port)
    with caplog.at_level(logging.INFO):
        for number in (1, 2):
            assert scu.store(encode(image(f"1.2.3.4.{number}")), sop_instance=f"1.2.3.4.{number}") == 0
        scu.release()
        site.bus.wait_for(lambda bus: bool(bus.closed()))
    first, second = site.bus.instances()
    assert (first.defect, first.location) == ("the header cannot be read", first.location)
    assert second.modality == "CT"
    assert "Secret" not in caplog.text


def test_nothing_of_a_patient_is_logged_or_told(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = encode(image()), encode(image(study="../SECRET"))
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        scu = Scu(site.port)
        assert scu.store(good, sop_instance="1.2.3.4.1") == 0
        assert scu.store(bad, sop_instance="1.2.3.4.1") == 0xA900
        assert scu.store(good, sop_instance="SECRET") == 0xA900
        scu.pdu(9, b"SECRET")  # no such PDU
        site.bus.wait_for(lambda bus: bool(bus.closed()))
    assert "secret" not in caplog.text.lower()
    assert "secret" not in "".join(envelope.model_dump_json() for _, envelope in site.bus.log).lower()


def test_stop_lets_a_sender_finish(start_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(role, "_SENDERS_PATIENCE", 30.0)
    monkeypatch.setattr(role, "_BUS_PATIENCE", 60.0)
    site = start_site()
    scu = Scu(site.port)
    site.stop.set()
    for number in range(3):
        assert scu.store(encode(image(f"1.2.3.4.{number}")), sop_instance=f"1.2.3.4.{number}") == 0
    scu.release()
    site.thread.join(90)
    assert not site.thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        Scu(site.port)
    assert len(site.bus.instances()) == 3
    assert site.bus.closed()[0].released is True


def test_stop_ends_a_sender_that_does_not_finish(
    start_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role, "_BUS_PATIENCE", 60.0)
    site = start_site()
    scu = Scu(site.port)
    assert scu.store(encode(image()), sop_instance="1.2.3.4.1") == 0
    site.stop.set()
    kind, _ = scu.read()
    assert kind == 7  # A-ABORT
    site.thread.join(90)
    assert not site.thread.is_alive()
    assert site.bus.closed()[0].released is False


def test_taken_port_cannot_start(site: Site, tmp_path: Path) -> None:
    receipts = ReceiptWriter(tmp_path / "receipts")
    with pytest.raises(CannotStart, match=str(site.port)):
        role.run_receiver(
            settings=site.settings, spool=FileSpool(tmp_path / "spool", writer=receipts.name), receipts=receipts,
            clock=SystemClock(), stop=threading.Event(), on_ready=lambda: None,
        )  # fmt: skip
    receipts.close()


def test_storescu_as_packaged_is_served(site: Site, tmp_path: Path, peer: Callable[[str, str], str]) -> None:
    storescu = peer("storescu", "dcmtk")
    sent = {}
    for number in range(20):
        sop = f"1.2.3.4.{number + 1}"
        dataset = image(sop)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = EXPLICIT
        dataset.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
        sent[sop] = encode(dataset)
    command = [storescu, "-R", "-aec", "ICHOR", "127.0.0.1", str(site.port), *map(str, tmp_path.glob("*.dcm"))]
    subprocess.run(command, check=True, timeout=60)
    site.bus.wait_for(lambda bus: bool(bus.closed()))
    assert site.bus.closed()[0].counts == {"1.2.3.4": 20}
    for sop, data_set in sent.items():
        (file,) = stored_bytes(site, sop)
        assert file.endswith(data_set)
