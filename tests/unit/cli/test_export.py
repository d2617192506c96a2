"""`ichor export` from a spool and a journal as the receiver leaves them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ichor.cli.export import export
from ichor.cli.folder import DataFolder
from ichor.errors import CannotStart, ConfigError, IchorError
from ichor.store.journal import Journal, StoredObject
from ichor.store.receipts import Lane, ReceiptWriter, Stored
from ichor.store.spool import Address, FileSpool

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    made = DataFolder(tmp_path / "data")
    made.prepare()
    return made


def receive(folder: DataFolder, *objects: tuple[str, str, bytes]) -> None:
    """Store (series, SOP Instance UID, data set) of study 1.2 in this order."""
    journal = Journal(folder.journal)
    spool = FileSpool(folder.spool)
    for series, sop, data_set in objects:
        placed = spool.put(
            Address(
                study_instance_uid="1.2", series_instance_uid=series, sop_instance_uid=sop, sop_class_uid=CT,
                transfer_syntax_uid=EXPLICIT,
            ),
            [data_set],
        )  # fmt: skip
        with spool.open(placed.location) as file:
            file_sha256 = hashlib.sha256(file.read()).hexdigest()
        stored = StoredObject(
            sop_instance_uid=sop, sop_class_uid=CT, series_instance_uid=series, study_instance_uid="1.2",
            transfer_syntax_uid=EXPLICIT, location=placed.location, length=placed.length,
            file_sha256=file_sha256, association="a", calling_ae="CT1", called_ae="ICHOR",
            sender_priority=None, called_priority=None, command_priority_high=False, received_at=1.0,
        )  # fmt: skip
        journal.take([(stored, "w")], cursors={})
    journal.close()
    spool.close()


def acknowledge(folder: DataFolder, sop: str, data_set: bytes) -> None:
    """What the receiver did before it was killed: bytes in the spool, a receipt, and no relay yet."""
    spool, receipts = FileSpool(folder.spool), ReceiptWriter(folder.root / "receipts")
    placed = spool.put(
        Address(
            study_instance_uid="1.2", series_instance_uid="1.2.3", sop_instance_uid=sop, sop_class_uid=CT,
            transfer_syntax_uid=EXPLICIT,
        ),
        [data_set],
    )  # fmt: skip
    stored = Stored(
        sop, CT, "1.2.3", "1.2", EXPLICIT, placed.location, placed.length, "a", "CT1", "ICHOR", None, None, False, 2.0
    )
    receipts.append(Lane.ROUTINE, stored)
    receipts.close()
    spool.close()


def exported(out: Path) -> dict[str, bytes]:
    """Relative path -> data set behind the File Meta Information."""
    found = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        assert whole[128:132] == b"DICM"
        found[str(path.relative_to(out))] = whole[144 + int.from_bytes(whole[140:144], "little") :]
    return found


def test_a_study_comes_out_byte_for_byte_with_every_version(folder: DataFolder, tmp_path: Path) -> None:
    receive(
        folder, ("1.2.3", "1.2.3.1", b"first"), ("1.2.3", "1.2.3.2", b"other"), ("1.2.4", "1.2.4.1", b"more"),
        ("1.2.3", "1.2.3.1", b"second"), ("1.2.3", "1.2.3.1", b"first"),
    )  # fmt: skip
    out = tmp_path / "out"
    assert export("1.2", out=out, folder=folder) == 0
    assert exported(out) == {
        "1.2/1.2.3/1.2.3.1.dcm": b"first",
        "1.2/1.2.3/1.2.3.1-2.dcm": b"second",
        "1.2/1.2.3/1.2.3.2.dcm": b"other",
        "1.2/1.2.4/1.2.4.1.dcm": b"more",
    }


def test_a_series_comes_out_alone_also_a_second_time(folder: DataFolder, tmp_path: Path) -> None:
    receive(folder, ("1.2.3", "1.2.3.1", b"first"), ("1.2.4", "1.2.4.1", b"more"))
    out = tmp_path / "out"
    for _ in range(2):
        assert export("1.2.4", out=out, folder=folder) == 0
        assert exported(out) == {"1.2/1.2.4/1.2.4.1.dcm": b"more"}


def test_a_file_of_somebody_else_is_never_overwritten(folder: DataFolder, tmp_path: Path) -> None:
    receive(folder, ("1.2.3", "1.2.3.1", b"first"))
    mine = tmp_path / "out" / "1.2" / "1.2.3" / "1.2.3.1.dcm"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(IchorError, match=r"1\.2\.3\.1\.dcm"):
        export("1.2", out=tmp_path / "out", folder=folder)
    assert mine.read_bytes() == b"mine"
    assert list(mine.parent.iterdir()) == [mine]


def test_what_retention_took_is_counted_with_exit_1(
    folder: DataFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receive(folder, ("1.2.3", "1.2.3.1", b"first"))
    (segment, _), *_ = FileSpool(folder.spool).segments()
    receive(folder, ("1.2.3", "1.2.3.2", b"second"))
    assert FileSpool(folder.spool).reclaim(segment) is True
    assert export("1.2", out=tmp_path / "out", folder=folder) == 1
    assert exported(tmp_path / "out") == {"1.2/1.2.3/1.2.3.2.dcm": b"second"}
    assert "1 objects are not in the spool any more" in capsys.readouterr().err


def test_unknown_and_wrong_uids(folder: DataFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CannotStart):
        export("1.2", out=tmp_path / "out", folder=folder)
    receive(folder, ("1.2.3", "1.2.3.1", b"first"))
    assert export("1.2.9", out=tmp_path / "out", folder=folder) == 1
    assert "1.2.9" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        export("../1.2", out=tmp_path / "out", folder=folder)
    assert not (tmp_path / "out").exists()


def test_what_was_acknowledged_comes_out_before_the_journal_has_it(folder: DataFolder, tmp_path: Path) -> None:
    acknowledge(folder, "1.2.3.1", b"first")
    assert export("1.2", out=tmp_path / "early", folder=folder) == 0
    assert exported(tmp_path / "early") == {"1.2/1.2.3/1.2.3.1.dcm": b"first"}
    receive(folder, ("1.2.3", "1.2.3.1", b"first"), ("1.2.3", "1.2.3.1", b"second"))
    acknowledge(folder, "1.2.3.2", b"other")
    assert export("1.2", out=tmp_path / "late", folder=folder) == 0
    assert exported(tmp_path / "late") == {
        "1.2/1.2.3/1.2.3.1.dcm": b"first",
        "1.2/1.2.3/1.2.3.1-2.dcm": b"second",
        "1.2/1.2.3/1.2.3.2.dcm": b"other",
    }
