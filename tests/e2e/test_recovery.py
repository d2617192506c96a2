"""Journal, receipts log, or what the machine had not synced, is gone after a kill: what was acknowledged is back, whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.receive import Receive
from unit.listener.modality import Scu, encode, image

from ichor.store import segments
from ichor.store.receipt_codec import carried, decode, salt_of
from ichor.store.receipt_records import Stored
from ichor.store.receipt_tail import Tail, is_settled

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
    old = list((receive.data / "receipts").glob("*.log"))

    def log_files() -> list[Path]:
        return list((receive.data / "receipts").glob("*.log"))

    old = set(log_files())
    receive.start()  # what the first one received is in the journal, and its log goes
    receive.until(lambda: not old & set(log_files()), what="the end of the old log")
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


def lose_what_is_not_synced(data: Path) -> int:
    """As a crash of the machine may: zeros in the place of what only the log has for certain; how many objects."""
    lost = 0
    for log in (data / "receipts").glob("*.log"):
        with log.open("rb") as file:
            tail = Tail(file.fileno(), 0, salt=salt_of(log.name))
            while not is_settled(file.fileno(), log.name) and (bodies := tail.bodies(100, final=True)):
                for stored in (decode(body) for _, body in bodies if carried(body)):
                    assert isinstance(stored, Stored)
                    segment, offset, length = segments.parse(stored.location)
                    assert length == stored.length
                    with (data / "spool" / segment).open("r+b") as spoiled:
                        spoiled.seek(offset)
                        spoiled.write(bytes(length + segments.FOOTER_SIZE))
                    lost += 1
    return lost


def test_acknowledged_objects_are_back_when_the_machine_crashed(tmp_path: Path, free_port: Callable[[], int]) -> None:
    receive = Receive(tmp_path / "site", free_port())
    receive.start()
    sent = send(receive, range(20))
    receive.until(lambda: receive.journalled(STUDY) == 20, what="the journal")
    sent |= send(receive, range(20, 40))
    receive.kill()
    assert lose_what_is_not_synced(receive.data) > 0
    old = list((receive.data / "receipts").glob("*.log"))
    receive.start()
    try:
        receive.until(lambda: receive.journalled(STUDY) == 40, what="the journal")
        assert receive.export(STUDY, tmp_path / "out") == sent
        assert "written back from the receipts log" in receive.log()
        receive.until(lambda: not any(log.exists() for log in old), what="the end of the old log")
        receive.stop()
    finally:
        receive.kill()
