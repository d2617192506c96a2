"""The journal, or journal and receipts log, are deleted after a kill: what was acknowledged is back, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.receive import Receive
from unit.listener.modality import Scu, encode, image

STUDY = "1.2.826.7"


def send(receive: Receive, numbers: range) -> dict[str, list[bytes]]:
    """Store images of two series; by SOP Instance UID, what an export is to give."""
    scu = Scu(receive.port, calling="CT1")
    sent: dict[str, list[bytes]] = {}
    for number in numbers:
        uid = f"{STUDY}.9.{number}"
        data = encode(image(uid, study=STUDY, series=f"{STUDY}.{number % 2}"))
        assert scu.store(data, sop_instance=uid) == 0
        sent[uid] = [data]
    scu.release()
    return sent


@pytest.mark.parametrize("receipts_too", [False, True])
def test_acknowledged_objects_are_back_when_the_journal_was_deleted(
    tmp_path: Path, free_port: Callable[[], int], receipts_too: bool
) -> None:
    receive = Receive(tmp_path / "site", free_port())
    receive.start()
    sent = send(receive, range(6))
    receive.until(lambda: receive.journalled(STUDY) == 6, what="the journal")
    receive.stop()
    receive.start()  # what the first one received is in the journal, and its log goes

    def log_files() -> list[Path]:
        return list((receive.data / "receipts").glob("*.log"))

    receive.until(lambda: len({one.name.partition("-")[0] for one in log_files()}) == 1, what="the end of the old log")
    sent |= send(receive, range(6, 10))
    receive.kill()
    for file in [*receive.data.glob("journal.sqlite*"), *(log_files() if receipts_too else [])]:
        file.unlink()
    receive.start()
    try:
        receive.until(lambda: receive.journalled(STUDY) == 10, what="the journal")
        assert receive.export(STUDY, tmp_path / "out") == sent
        assert receive.torn() == {}
        receive.stop()
        assert receive.objects() == 10
    finally:
        receive.kill()
