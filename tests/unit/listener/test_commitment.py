"""What a sender that asks for storage commitment is answered, and what is written down before."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.dataset import FileMetaDataset
from pynetdicom import AE
from requestor import associate
from unit.listener.commitment_data import CT, encoded, request
from unit.listener.listening import Listening
from unit.listener.modality import EXPLICIT, image

from ichor.config import SenderSettings
from ichor.errors import OutOfResources
from ichor.metrics import COMMITMENT_REQUESTS
from ichor.store.receipts import CommitmentRequested, Lane, ReceiptReader, ReceiptWriter
from listener.commitment import SOP_CLASS, SOP_INSTANCE, ReportAddress, handle_action, report_addresses
from listener.reception import Origin

HERE = {"CT1": ReportAddress("127.0.0.1", 104)}


def event(information: bytes | None, *, action: int | None = 1) -> Any:
    stream = None if information is None else BytesIO(information)
    return SimpleNamespace(
        request=SimpleNamespace(ActionTypeID=action, ActionInformation=stream),
        timestamp=datetime.fromtimestamp(1_700_000_000.5),
    )


def origin(lane: Lane = Lane.ROUTINE) -> Origin:
    return Origin(association="a1", calling_ae="CT1", called_ae="ICHOR", lane=lane)


def written(folder: Path) -> list[tuple[Lane, Any]]:
    reader = ReceiptReader(folder)
    found = [(lane, receipt.record) for lane in Lane for receipt in reader.read(lane, limit=100)]
    reader.close()
    return found


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize(("addresses", "status"), [(HERE, 0x0000), ({}, 0x0110)])
def test_a_request_is_written_down_and_taken_on_only_where_a_report_can_go(
    tmp_path: Path, addresses: Mapping[str, ReportAddress], status: int, lane: Lane
) -> None:
    receipts = ReceiptWriter(tmp_path)
    data = encoded(request("1.2.3.1", "1.2.3.2"))
    assert handle_action(event(data), origin=origin(lane), receipts=receipts, addresses=addresses) == (status, None)
    referenced = ((CT, "1.2.3.1"), (CT, "1.2.3.2"))
    record = CommitmentRequested("a1", "CT1", "ICHOR", "1.2.9", referenced, 1_700_000_000.5)
    assert written(tmp_path) == [(lane, record)]
    receipts.close()


@pytest.mark.parametrize(
    ("information", "action", "status"),
    [
        (encoded(request("1.2.3.1")), 2, 0x0123),
        (encoded(request("1.2.3.1")), None, 0x0123),
        (None, 1, 0x0115),
        (b"", 1, 0x0115),
        (b"SECRET^NAME in no data set", 1, 0x0115),
        (encoded(request()), 1, 0x0115),
        (b"\x08\x00\x98\x11\0\0\0\0" * 500_001, 1, 0x0213),  # elements without end; of fewer than 8 MiB
    ],
)
def test_what_is_no_such_request_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, information: bytes | None, action: int | None, status: int
) -> None:
    receipts = ReceiptWriter(tmp_path)
    counted = COMMITMENT_REQUESTS.labels(f"0x{status:04X}")
    before = counted._value.get()
    with caplog.at_level(logging.INFO):
        answer = handle_action(event(information, action=action), origin=origin(), receipts=receipts, addresses=HERE)
    assert answer == (status, None)
    assert written(tmp_path) == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"0x{status:04X}" in line
    assert "SECRET" not in line
    assert counted._value.get() == before + 1
    receipts.close()


def test_a_request_that_cannot_be_written_down_is_not_taken_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipts = ReceiptWriter(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OutOfResources("the disk is full")

    monkeypatch.setattr(receipts, "append", full)
    data = encoded(request("1.2.3.1"))
    assert handle_action(event(data), origin=origin(), receipts=receipts, addresses=HERE) == (0x0213, None)
    receipts.close()


def test_the_largest_request_fits_into_the_receipts(tmp_path: Path) -> None:
    longest = "1." + "2" * 57  # and five digits
    data = encoded(request(*(f"{longest}{n}" for n in range(10_000, 30_000)), sop_class="1." + "3" * 62))
    receipts = ReceiptWriter(tmp_path)
    assert handle_action(event(data), origin=origin(), receipts=receipts, addresses=HERE) == (0x0000, None)
    ((_, record),) = written(tmp_path)
    assert len(record.referenced) == 20_000
    receipts.close()


def test_reports_go_only_to_a_port_that_was_set_and_is_the_only_one() -> None:
    senders = [
        SenderSettings(ae_title="CT1", host="10.1.2.3", port=104),
        SenderSettings(ae_title="CT2", host="10.1.2.4"),
        SenderSettings(ae_title="MR1", host="10.1.2.5", port=104),
        SenderSettings(ae_title="MR1", host="10.1.2.6", port=104),
        SenderSettings(ae_title="MR2", host="10.1.2.7", port=11112),
        SenderSettings(ae_title="MR2", host="10.1.2.7", port=11112, username="a"),
    ]
    assert report_addresses(senders) == {"CT1": ("10.1.2.3", 104), "MR2": ("10.1.2.7", 11112)}


# --- over the network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("port", "status"), [({"port": 104}, 0x0000), ({}, 0x0110)])
def test_a_request_between_objects_on_one_association_is_answered_in_its_place(
    monkeypatch: pytest.MonkeyPatch, fast: bool, port: dict[str, int], status: int
) -> None:
    monkeypatch.setattr(Listening, "fast", fast)
    with Listening(senders=[SenderSettings(ae_title="CT1", host="127.0.0.1", **port)]) as listening:
        entity = AE(ae_title="CT1")
        entity.add_requested_context(CT, EXPLICIT)
        entity.add_requested_context(SOP_CLASS, [EXPLICIT, "1.2.840.10008.1.2"])
        association = associate(entity, listening.port, called="ICHOR_STAT")
        assert association.is_established
        answers = []
        for number in (1, 2):
            data = image(f"1.2.3.{number}")
            data.file_meta = FileMetaDataset()
            data.file_meta.TransferSyntaxUID = EXPLICIT
            answers.append(association.send_c_store(data).Status)
            asked = request(f"1.2.3.{number}", transaction=f"1.2.9.{number}")
            answers.append(association.send_n_action(asked, 1, SOP_CLASS, SOP_INSTANCE)[0].Status)
        answers.append(association.send_n_action(asked, 2, SOP_CLASS, SOP_INSTANCE)[0].Status)
        association.release()
        assert answers == [0x0000, status, 0x0000, status, 0x0123]
        records = listening.receipts.wait_for(3)
        assert [lane for lane, _ in records] == [Lane.STAT] * 3
        asked_for = [(r.transaction_uid, r.called_ae, r.referenced) for _, r in records[:2]]
        assert asked_for == [(f"1.2.9.{n}", "ICHOR_STAT", ((CT, f"1.2.3.{n}"),)) for n in (1, 2)]


@pytest.mark.parametrize("fast", [True, False])
def test_a_request_of_more_bytes_than_any_needs_ends_its_association_only(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    monkeypatch.setattr(Listening, "fast", fast)
    with Listening(senders=[SenderSettings(ae_title="CT1", host="127.0.0.1", port=104)]) as listening:
        entity = AE(ae_title="CT1")
        entity.add_requested_context(SOP_CLASS, EXPLICIT)
        large = request("1.2.3.1")
        large.add_new(0x00091010, "OB", bytes(12 << 20))
        statuses = []
        for data in (large, request("1.2.3.1")):
            association = associate(entity, listening.port)
            answer, _ = association.send_n_action(data, 1, SOP_CLASS, SOP_INSTANCE)
            statuses.append(answer.get("Status"))
            if association.is_established:
                association.release()
        assert statuses == [None, 0x0000]
        kinds = [type(record) for _, record in listening.receipts.wait_for(3)]
        assert kinds.count(CommitmentRequested) == 1
