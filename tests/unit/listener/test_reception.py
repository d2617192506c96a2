"""One C-STORE without a network: which status, and what is on disk then."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.listener.modality import CT, EXPLICIT, encode, image

from ichor.clock import ManualClock
from ichor.errors import OutOfResources
from ichor.reasons import Reason
from ichor.store import disk
from ichor.store.journal import Journal, StoredObject
from ichor.store.spool import FileSpool
from ichor.types import Priority
from listener.reception import Origin, Reception, Refusals, StoreRequest

ORIGIN = Origin(association="A", calling_ae="CT1", called_ae="ICHOR", called_priority=Priority.STAT)


class Desk:
    def __init__(self, root: Path) -> None:
        self.clock = ManualClock()
        self.spool = FileSpool(root / "spool")
        self.journal = Journal(root / "journal.sqlite")
        self.refusals = Refusals(self.clock)
        self.told = 0
        self.reception = Reception(
            spool=self.spool, journal=self.journal, clock=self.clock, refusals=self.refusals, on_stored=self._count
        )

    def _count(self) -> None:
        self.told += 1

    def receive(
        self, data_set: bytes, *, sop_class: str = CT, sop_instance: str = "1.2.3.4.1", syntax: str = EXPLICIT
    ) -> int:
        request = StoreRequest(
            sop_class_uid=sop_class, sop_instance_uid=sop_instance, transfer_syntax_uid=syntax, data_set=data_set
        )
        return self.reception.receive(request, ORIGIN)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.journal.close()


def test_success_means_spool_and_journal_have_it(desk: Desk) -> None:
    data_set = encode(image())
    assert desk.receive(data_set) == 0x0000
    (row,) = desk.journal.by_study("1.2.3")
    with desk.spool.open(row.stored.location) as file:
        assert file.read().endswith(data_set)
    assert row.stored.received_at == desk.clock.time()
    assert (row.stored.association, row.stored.called_priority) == ("A", Priority.STAT)
    assert desk.told == 1


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
    ],
)
def test_refusal_has_its_status_and_reason_and_leaves_nothing(
    desk: Desk, tmp_path: Path, changes: dict[str, str | bytes], status: int, reason: str
) -> None:
    assert desk.receive(**({"data_set": encode(image())} | changes)) == status  # type: ignore[arg-type]
    (refused,) = desk.refusals.take()
    assert (refused.status, refused.reason, refused.calling_ae) == (f"0x{status:04X}", reason, "CT1")
    assert list((tmp_path / "spool").rglob("*.dcm")) == []
    assert desk.journal.unassigned() == []
    assert desk.told == 0


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


def test_full_disk_is_a700_and_recovers_alone(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write_all", full)
        assert desk.receive(encode(image())) == 0xA700
    assert [p for p in (tmp_path / "spool").rglob("*") if p.suffix in (".dcm", ".part")] == []
    assert desk.journal.unassigned() == []
    assert desk.receive(encode(image())) == 0x0000


def test_journal_that_cannot_be_written_is_a700(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: StoredObject) -> bool:
        raise OutOfResources("the journal cannot be written: OperationalError")

    with monkeypatch.context() as patch:
        patch.setattr(desk.journal, "store", fail)
        assert desk.receive(encode(image())) == 0xA700
    assert desk.told == 0


def test_unexpected_error_is_an_answer_not_the_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(desk.spool, "put", fail)
        assert desk.receive(encode(image())) == 0xA700
    assert desk.receive(encode(image())) == 0x0000


def test_log_of_a_refusal_names_no_patient(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    data_set = encode(image(study="../Secret^Name"))
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        desk.receive(data_set)
    (record,) = caplog.records
    assert record.getMessage() == "refused: status=0xA900 calling_ae=CT1 reason=a UID is not valid"


def test_refusals_are_bounded_and_keep_order_when_put_back() -> None:
    refusals = Refusals(ManualClock())
    for number in range(10_010):
        refusals.add(calling_ae=str(number), status="0xA900", reason="r")
    taken = refusals.take()
    assert (len(taken), taken[0].calling_ae) == (10_000, "10")
    refusals.put_back(taken[:2])
    refusals.add(calling_ae="new", status="0xA900", reason="r")
    assert [r.calling_ae for r in refusals.take()] == ["10", "11", "new"]
