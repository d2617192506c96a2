"""One object without a network: which status, what is in the spool and the receipts then."""

from __future__ import annotations

import errno
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.listener.modality import CT, EXPLICIT, encode, image
from unit.listener.paths import MemoryReceipts, MemorySpool

from ichor import metrics
from ichor.clock import ManualClock
from ichor.errors import OutOfResources
from ichor.reasons import Reason
from ichor.store import disk
from ichor.store.receipts import Lane, Refused, Stored
from ichor.store.spool import FileSpool
from ichor.types import Priority
from listener.reception import Origin, Reception, Refusals, StoreCommand

ORIGIN = Origin(association="A", calling_ae="CT1", called_ae="ICHOR", called_priority=Priority.STAT, lane=Lane.STAT)
DEFLATED = "1.2.840.10008.1.2.1.99"
COMMAND = StoreCommand(CT, "1.2.3.4.1", EXPLICIT)


class Desk:
    def __init__(self, root: Path) -> None:
        self.clock = ManualClock()
        self.spool = FileSpool(root / "spool", durability="none")
        self.receipts = MemoryReceipts()
        self.reception = Reception(
            spool=self.spool, receipts=self.receipts, clock=self.clock, refusals=Refusals(self.clock, self.receipts)
        )

    def receive(
        self, data_set: bytes, *, sop_class: str = CT, sop_instance: str = "1.2.3.4.1", syntax: str = EXPLICIT,
        study: str = "",
    ) -> int:  # fmt: skip
        command = StoreCommand(sop_class, sop_instance, syntax, study_instance_uid=study)
        return send(self.reception, command, [data_set])

    def stored(self) -> list[Stored]:
        return [record for _, record, _ in self.receipts.records if isinstance(record, Stored)]

    def refused(self) -> list[Refused]:
        return [record for _, record, _ in self.receipts.records if isinstance(record, Refused)]


def send(reception: Reception, command: StoreCommand, parts: Sequence[bytes]) -> int:
    arrival = reception.begin(command, ORIGIN)
    for part in parts:
        arrival.feed(memoryview(part))
    return arrival.end()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_success_means_spool_and_receipts_have_it(desk: Desk) -> None:
    data_set = encode(image())
    assert desk.receive(data_set) == 0x0000
    ((lane, _, waited),) = desk.receipts.records
    (stored,) = desk.stored()
    with desk.spool.open(stored.location) as file:
        file_bytes = file.read()
    assert file_bytes.endswith(data_set)
    assert (lane, waited) == (Lane.STAT, True)
    assert stored == Stored(
        "1.2.3.4.1", CT, "1.2.3.4", "1.2.3", EXPLICIT, stored.location, len(file_bytes), "A", "CT1", "ICHOR", None,
        Priority.STAT, False, desk.clock.time(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"sop_class": "1.2.840.10008.1.1"}, 0x0122, "the SOP class is not for storage"),
        ({"sop_class": "1.2.840.10008.1.20.1"}, 0x0122, "the SOP class is not for storage"),  # Storage Commitment
        ({"sop_class": "1.2.840.10008.1.2.1"}, 0x0122, "the SOP class is not for storage"),  # a transfer syntax
        ({"sop_class": "nonsense"}, 0xA900, Reason.INVALID_UID),
        ({"sop_class": ""}, 0xA900, Reason.INVALID_UID),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.4"}, 0xA900, Reason.UID_MISMATCH),
        ({"sop_instance": "1.2.3.4.2"}, 0xA900, Reason.UID_MISMATCH),
        ({"sop_instance": "../../x"}, 0xA900, Reason.INVALID_UID),
        ({"sop_instance": ""}, 0xA900, Reason.INVALID_UID),
        ({"data_set": encode(image(study="../../x"))}, 0xA900, Reason.INVALID_UID),
        ({"data_set": encode(image(series="1.2.3.04"))}, 0xA900, Reason.INVALID_UID),
        ({"data_set": encode(image(study=None))}, 0xC000, Reason.NO_STUDY_OR_SERIES),
        ({"data_set": encode(image(series=""))}, 0xC000, Reason.NO_STUDY_OR_SERIES),
        ({"data_set": b""}, 0xC000, Reason.NO_STUDY_OR_SERIES),
        ({"data_set": b"\xff" * 1000}, 0xC000, Reason.NO_STUDY_OR_SERIES),
        ({"study": "1.2.4"}, 0xA900, Reason.OTHER_STUDY),
    ],
)
def test_refusal_has_its_status_and_reason_and_leaves_nothing(
    desk: Desk, tmp_path: Path, changes: dict[str, str | bytes], status: int, reason: str
) -> None:
    assert desk.receive(**({"data_set": encode(image())} | changes)) == status  # type: ignore[arg-type]
    (refused,) = desk.refused()
    assert (refused.status, refused.reason, refused.calling_ae) == (f"0x{status:04X}", reason, "CT1")
    unknown = {encode(image(study="../../x")), encode(image(study=None)), b"", b"\xff" * 1000}
    assert refused.study_instance_uid == ("" if changes.get("data_set") in unknown else "1.2.3")
    assert [path for path in (tmp_path / "spool").rglob("*") if path.is_file()] == []
    assert desk.stored() == []


@pytest.mark.parametrize(
    "sop_class", ["1.2.840.113619.4.2", "1.2.840.10008.5.1.4.1.1.99999", "1.2.840.10008.5.1.4.1.1.3"]
)
def test_private_unknown_and_retired_storage_classes_are_stored(desk: Desk, sop_class: str) -> None:
    assert desk.receive(encode(image(sop_class=sop_class)), sop_class=sop_class) == 0x0000


def test_data_set_without_sop_uids_is_stored_under_the_commands(desk: Desk) -> None:
    dataset = image()
    del dataset.SOPClassUID, dataset.SOPInstanceUID
    assert desk.receive(encode(dataset)) == 0x0000


def test_cut_short_data_set_is_stored(desk: Desk) -> None:
    assert desk.receive(encode(image())[:-300]) == 0x0000


def test_full_disk_is_a700_and_recovers_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_all", full)
        assert desk.receive(encode(image())) == 0xA700
    assert [refused.study_instance_uid for refused in desk.refused()] == ["1.2.3"]
    assert desk.stored() == []
    assert desk.receive(encode(image())) == 0x0000


def test_disk_pressure_is_a700_and_counts_what_was_stored(desk: Desk) -> None:
    class Pressure:
        is_full = True
        written = 0

        def check(self) -> None:
            if self.is_full:
                raise OutOfResources("the disk is nearly full")

        def wrote(self, length: int) -> None:
            self.written += length

    pressure = desk.reception.pressure = Pressure()
    assert desk.receive(encode(image())) == 0xA700
    assert desk.receive(encode(image(study="../../x"))) == 0xA700
    assert desk.receive(b"\xff" * 100) == 0xA700
    assert [refused.study_instance_uid for refused in desk.refused()] == ["1.2.3", "", ""]
    pressure.is_full = False
    assert desk.receive(encode(image())) == 0x0000
    assert pressure.written == desk.stored()[0].length


def test_refusals_of_a_kind_are_told_ten_times_then_now_and_then_and_all_counted(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    def counted() -> float:
        return float(metrics.STORES_REFUSED.labels("0xA900")._value.get())

    before = counted()
    for _ in range(200):
        desk.receive(b"", sop_instance="not a UID")
    assert (counted() - before, len(desk.refused()), len(caplog.messages)) == (200, 10, 10)
    desk.receive(encode(image()), sop_class="1.2.3")  # of another kind
    assert len(desk.refused()) == 11
    desk.clock.advance(25)
    for _ in range(10):
        desk.receive(b"", sop_instance="not a UID")
    assert len(desk.refused()) == 13


def test_each_study_that_is_refused_image_by_image_is_named(desk: Desk) -> None:
    class Full:
        def check(self) -> None:
            raise OutOfResources("the disk is nearly full")

        def wrote(self, length: int) -> None:
            raise AssertionError(length)

    desk.reception.pressure = Full()
    for study in ("1.2.3", "1.2.4", "1.2.5"):
        for _ in range(15):
            assert desk.receive(encode(image(study=study))) == 0xA700
    named = [refused.study_instance_uid for refused in desk.refused()]
    assert (named.count("1.2.3"), named.count("1.2.4"), named.count("1.2.5")) == (10, 1, 1)


def test_refusals_at_one_address_hide_none_at_another(desk: Desk) -> None:
    refusals = Refusals(desk.clock, desk.receipts)
    for address in ("10.0.0.1", "10.0.0.2"):
        for _ in range(30):
            refusals.add(calling_ae="CT1", status="rejected", reason="host not recognised", address=address)
    assert len(desk.refused()) == 20


def test_a_refusal_names_the_study_of_the_header_whatever_comes_behind_it(desk: Desk) -> None:
    arrival = desk.reception.begin(StoreCommand(CT, "1.2.3.4.99", EXPLICIT), ORIGIN)
    arrival.feed(memoryview(encode(image(study="1.2.3"))))
    arrival.flush()  # it is another instance than the command says
    arrival.feed(memoryview(encode(image(study="1.2.66"))))
    assert arrival.end() != 0
    assert [refused.study_instance_uid for refused in desk.refused()] == ["1.2.3"]


def test_titles_without_end_at_one_address_hide_no_refusal_at_another(desk: Desk) -> None:
    refusals = Refusals(desk.clock, desk.receipts)
    for number in range(2000):
        refusals.add(calling_ae=f"T{number}", status="rejected", reason="no context is taken", address="10.0.0.66")
    assert len(desk.refused()) <= 120
    for _ in range(30):
        refusals.add(calling_ae="CT1", status="rejected", reason="no context is taken", address="10.0.0.5")
    assert [refused.calling_ae for refused in desk.refused()].count("CT1") == 10


def test_object_without_end_is_cut_where_the_disk_is_nearly_full(desk: Desk) -> None:
    class Pressure:
        room = 30_000_000

        def check(self) -> None:
            if self.room <= 0:
                raise OutOfResources("the disk is nearly full")

        def wrote(self, length: int) -> None:
            self.room -= length

    pressure = desk.reception.pressure = Pressure()
    fits = encode(image(pixels=bytes(20_000_000)))
    pieces = [fits[at : at + 1_000_000] for at in range(0, len(fits), 1_000_000)]
    assert send(desk.reception, COMMAND, pieces) == 0x0000
    assert pressure.room == 30_000_000 - desk.stored()[0].length
    arrival = desk.reception.begin(COMMAND, ORIGIN)
    for piece in pieces + [bytes(1_000_000)] * 80:
        arrival.feed(memoryview(piece))
        assert sum(size for _, size in desk.spool.segments()) < 50_000_000
    assert arrival.end() == 0xA700
    assert [len(list(desk.spool.objects(name))) for name, _ in desk.spool.segments()] == [1]


def test_receipt_that_cannot_be_written_is_a700(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OutOfResources("a receipt cannot be written (EIO)")

    with monkeypatch.context() as patch:
        patch.setattr(desk.receipts, "append", fail)
        assert desk.receive(encode(image())) == 0xA700
    assert desk.receive(encode(image())) == 0x0000


def test_object_whose_receipt_failed_is_cut_off_and_nothing_else_ever_lies_there(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def fail(_: object, record: Any, **__: object) -> None:
        if isinstance(record, Stored):
            told.append(record.location)
        raise OutOfResources("a receipt cannot be written (EIO)")

    with monkeypatch.context() as patch:
        patch.setattr(desk.receipts, "append", fail)
        assert desk.receive(encode(image())) == 0xA700
    assert [list(desk.spool.objects(name)) for name, _ in desk.spool.segments()] == []
    assert desk.receive(encode(image())) == 0x0000
    (refused,) = told
    with pytest.raises(KeyError):
        desk.spool.open(refused)


def test_unexpected_error_is_an_answer_not_the_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(desk.spool, "begin", fail)
        assert desk.receive(encode(image())) == 0xA700
    assert desk.receive(encode(image())) == 0x0000


def test_level_association_does_not_wait_for_the_receipt(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.reception.waits = False
    assert desk.receive(encode(image())) == 0x0000
    assert desk.receipts.records[0][2] is False


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_fragmentation_and_any_flush_stores_the_same(data: st.DataObject) -> None:
    spool, receipts, clock = MemorySpool(), MemoryReceipts(), ManualClock()
    reception = Reception(spool=spool, receipts=receipts, clock=clock, refusals=Refusals(clock, receipts))
    whole = encode(image(pixels=bytes(range(256)) * data.draw(st.sampled_from([0, 20, 8_000]))))
    arrival = reception.begin(COMMAND, ORIGIN)
    at = 0
    while at < len(whole):
        size = data.draw(st.sampled_from([1, 2, 50, 300, 1_000_000]))
        for _ in range(data.draw(st.sampled_from([1, 700]))):  # more than are kept in hand
            piece = bytearray(whole[at : at + size])
            arrival.feed(memoryview(piece))
            at += size
        if data.draw(st.booleans()):
            arrival.flush()
            piece[:] = bytes(len(piece))  # its memory is used again
    assert arrival.end() == 0
    assert spool.objects["0"][1] == whole


def test_uids_are_looked_for_in_the_first_mebibyte_however_it_comes(tmp_path: Path) -> None:
    private = b"\x09\x00\x01\x10OB\x00\x00"
    after = encode(image())
    at = after.index(b"\x10\x00\x10\x00")  # Patient's Name: what is before it stays there
    for size, status in ((900_000, 0x0000), (1 << 20, 0xC000)):
        whole = after[:at] + private + size.to_bytes(4, "little") + bytes(size) + after[at:]
        for step in (len(whole), 16_000):
            desk = Desk(tmp_path / f"{size}-{step}")
            parts = [whole[n : n + step] for n in range(0, len(whole), step)]
            assert send(desk.reception, COMMAND, parts) == status


def test_long_object_goes_to_the_spool_as_it_comes() -> None:
    spool, receipts, clock = MemorySpool(), MemoryReceipts(), ManualClock()
    reception = Reception(spool=spool, receipts=receipts, clock=clock, refusals=Refusals(clock, receipts))
    arrival = reception.begin(COMMAND, ORIGIN)
    arrival.feed(memoryview(encode(image())))
    for n in range(1, 41):
        arrival.feed(memoryview(bytes(100_000)))
        assert len(arrival._parts) <= 3, n
    assert (spool.begun, spool.writes) == (1, 13)
    arrival.cut()
    assert (spool.discarded, receipts.records) == (1, [])


def test_deflated_data_set_is_kept_deflated(desk: Desk) -> None:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = squeeze.compress(encode(image())) + squeeze.flush()
    command = StoreCommand(CT, "1.2.3.4.1", DEFLATED)
    assert send(desk.reception, command, [data[:40], data[40:]]) == 0x0000
    with desk.spool.open(desk.stored()[0].location) as file:
        assert file.read().endswith(data)


def test_log_of_a_refusal_names_no_patient(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    data_set = encode(image(study="../Secret^Name"))
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        desk.receive(data_set)
    (record,) = caplog.records
    assert record.getMessage() == "refused: status=0xA900 calling_ae=CT1 reason=a UID is not valid"


def test_refusal_that_cannot_be_written_down_is_an_answer_all_the_same(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OutOfResources("a receipt cannot be written (ENOSPC)")

    monkeypatch.setattr(desk.receipts, "append", fail)
    assert desk.receive(b"") == 0xC000
    assert "a refusal could not be written down: a receipt cannot be written (ENOSPC)" in caplog.messages


def test_log_of_a_refusal_names_the_peer_and_the_record_does_not(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    Refusals(desk.clock, desk.receipts).add(calling_ae="CT1", status="rejected", reason="why", address="10.1.2.3")
    assert caplog.messages == ["refused: status=rejected calling_ae=CT1 address=10.1.2.3 reason=why"]
    assert "10.1.2.3" not in str(desk.refused())
