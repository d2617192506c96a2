"""A store that is shared: what `ichor doctor` says of it, what is asked before scale-in, and that nothing is carried."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from s3 import S3

from ichor.cli import roles, stores
from ichor.cli.folder import DataFolder
from ichor.cli.machine import Level
from ichor.cli.receiving import check_assembly, check_store, least_room, wait_until_told
from ichor.config import Settings
from ichor.errors import CannotStart
from ichor.store.bucket import Bucket
from ichor.store.journal import Journal, StoredObject
from ichor.store.ownership import Members
from ichor.store.receipts import Carried, Ended, Lane, ReceiptWriter
from ichor.store.segments import receiver_of, segment_of
from ichor.store.spool import Address, Placed

ADDRESS = Address("1.2.200", "1.2.100", "1.2.1", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "store").mkdir()
    return Settings.model_validate({"data": str(tmp_path / "data"), "store": {"url": f"file:{tmp_path / 'store'}"}})


@pytest.fixture
def folder(settings: Settings) -> DataFolder:
    return DataFolder.of(settings)


def test_images_and_results_lie_in_the_store_and_all_else_in_the_data_folder(folder: DataFolder) -> None:
    folder.prepare()
    assert folder.store is not None
    assert {folder.spool.parent, folder.blobs.parent} == {folder.store}
    assert {path.parent for path in (folder.journal, folder.receipts, folder.run, folder.assembly)} == {folder.root}
    assert not (folder.root / "spool").exists()


def carried_by(settings: Settings, folder: DataFolder) -> tuple[Placed, Carried | None]:
    """What a receiving process would ask its log to keep of a small object."""
    seen: list[Carried | None] = []
    stop = threading.Event()
    receipts, spool = roles._taking_in(settings, folder, stop)
    placed = spool.begin(ADDRESS).finish([b"x"], confirm=lambda _, carried: seen.append(carried))
    stop.set()
    spool.close()
    receipts.close()
    return placed, seen[0]


def test_nothing_is_carried_where_the_store_is_shared(settings: Settings, folder: DataFolder) -> None:
    folder.prepare()
    roles.register_receiver(settings, folder)
    placed, carried = carried_by(settings, folder)
    assert carried is None
    (file,) = (folder.spool.parent / "receivers").iterdir()
    assert receiver_of(segment_of(placed.location)) == file.name


def test_small_objects_are_carried_where_spool_and_log_lie_side_by_side(tmp_path: Path) -> None:
    alone = Settings.model_validate({"data": str(tmp_path / "data")})
    folder = DataFolder.of(alone)
    folder.prepare()
    placed, carried = carried_by(alone, folder)
    assert carried is not None
    assert receiver_of(segment_of(placed.location)) == ""


def test_a_store_that_is_there_is_ok_and_one_that_is_not_fails(folder: DataFolder) -> None:
    folder.prepare()
    assert folder.store is not None
    (good,) = check_store(folder)
    assert good.level is Level.OK
    folder.store.rename(folder.store.with_name("elsewhere"))
    for _ in range(2):  # gone, then the bare mount point
        (bad,) = check_store(folder)
        assert (bad.level, "mounted" in bad.text) == (Level.FAIL, True)
        with pytest.raises(CannotStart, match="mounted"):
            folder.prepare()
        folder.store.mkdir(exist_ok=True)


def test_a_volume_that_cannot_lock_fails_by_name(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.prepare()

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("ichor.store.shared.fcntl.flock", flock)
    (finding,) = check_store(folder)
    assert finding.level is Level.FAIL
    assert "cannot lock files (flock): No locks available" in finding.text


@pytest.fixture
def in_bucket(tmp_path: Path, s3: S3, new_bucket: Bucket) -> Settings:
    store = {"url": new_bucket.url, "s3": {"endpoint": s3.endpoint}, "receiver": "ct-0"}
    return Settings.model_validate({"data": str(tmp_path / "data"), "store": store})


def test_what_is_put_into_a_bucket_is_of_this_receiver_and_not_carried(
    in_bucket: Settings, new_bucket: Bucket, tmp_path: Path
) -> None:
    folder = DataFolder.of(in_bucket)
    folder.prepare()
    roles.register_receiver(in_bucket, folder)
    placed, carried = carried_by(in_bucket, folder)
    assert carried is None
    (sign,) = new_bucket.names("receivers/")
    assert sign.key == f"receivers/{receiver_of(segment_of(placed.location))}"
    with stores.open_spool(folder).open(placed.location) as file:
        assert file.read().endswith(b"x")
    assert not (tmp_path / "data" / "spool").exists()
    (finding,) = check_store(folder)
    assert finding.level is Level.OK
    roles.write_back(folder)  # nothing to do: no error
    folder.prepare()


def test_a_data_folder_with_images_of_its_own_is_not_begun_with_a_bucket(in_bucket: Settings, tmp_path: Path) -> None:
    (tmp_path / "data" / "spool" / "1.2.3").mkdir(parents=True)
    with pytest.raises(CannotStart, match="images of its own"):
        DataFolder.of(in_bucket).prepare()


def test_nothing_is_said_of_a_store_where_there_is_none(tmp_path: Path) -> None:
    assert list(check_store(DataFolder(tmp_path))) == []


def test_state_lies_with_the_store_where_assemblers_share_a_bus_and_as_before_where_they_do_not(
    settings: Settings, folder: DataFolder, tmp_path: Path
) -> None:
    kafka = {"bus": {"url": "kafka://127.0.0.1:9092"}}
    roaming = DataFolder.of(Settings.model_validate(settings.model_dump(mode="json") | kafka))
    assert roaming.store is not None
    assert roaming.assembly_state(0) == roaming.store / "assembly" / "0.sqlite"
    assert folder.assembly_state(0) == folder.root / "assembly.sqlite"  # nobody else hears of its studies
    alone = DataFolder(tmp_path / "alone")
    assert alone.assembly_state(0) == tmp_path / "alone" / "assembly.sqlite"
    assert DataFolder(alone.root, shards=4).assembly_state(3) == tmp_path / "alone" / "assembly" / "3.sqlite"


def test_no_role_starts_with_another_number_of_shards_than_there_is_state_of(tmp_path: Path) -> None:
    def settings(shards: int) -> Settings:
        return Settings.model_validate({"data": str(tmp_path / "data"), "assemble": {"shards": shards}})

    DataFolder.of(settings(4)).prepare()
    DataFolder.of(settings(4)).prepare()
    with pytest.raises(CannotStart, match=r"shards = 1: .* divided into 4"):
        DataFolder.of(settings(1)).prepare()
    (finding,) = check_assembly(DataFolder.of(settings(1)))
    assert (finding.level, finding.todo) == (
        Level.FAIL, "set `assemble.shards = 4`, the same on every machine"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["assembly.sqlite", "journal.sqlite"])
def test_a_folder_of_before_there_were_shards_has_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CannotStart, match="divided into 1"):
        DataFolder(tmp_path, shards=4).prepare()
    DataFolder(tmp_path).prepare()


def test_a_full_disk_keeps_no_folder_of_before_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DataFolder(tmp_path).prepare()
    (tmp_path / "journal.sqlite").touch()
    (tmp_path / "assembly" / "SHARDS").unlink()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ichor.store.ownership.disk.sync", full)
    DataFolder(tmp_path).prepare()
    assert list((tmp_path / "assembly").iterdir()) == []
    with pytest.raises(CannotStart, match=r"divided into 1|No space"):
        DataFolder(tmp_path, shards=4).prepare()


def test_a_folder_with_images_of_its_own_is_not_put_on_a_shared_store(tmp_path: Path, settings: Settings) -> None:
    alone = DataFolder(tmp_path / "data")
    alone.prepare()
    (alone.spool / "1.2.3").mkdir()
    with pytest.raises(CannotStart, match="images of its own"):
        DataFolder.of(settings).prepare()


def test_shards_without_an_assembler_are_counted(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path, shards=4)
    assert list(check_assembly(folder)) == []
    folder.prepare()
    members = Members(folder.assembly, count=4)
    claims = [members.take(number) for number in range(3)]
    (finding,) = check_assembly(folder)
    assert (finding.level, finding.text) == (Level.WARN, "3 of 4 have an assembler")
    claims.append(members.take(3))
    (finding,) = check_assembly(folder)
    assert (finding.level, finding.text) == (Level.OK, "4 of 4 have an assembler")


def test_the_fuller_volume_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    rooms = {tmp_path / "a": 5, tmp_path / "b": 3}
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real[:4], rooms[path], *real[5:])))
    assert least_room(*rooms) == tmp_path / "b"


def test_told_is_what_the_bus_has(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.prepare()
    assert wait_until_told(folder, patience=0.0) == 0  # nothing was received
    receipts = ReceiptWriter(folder.receipts)
    receipts.append(Lane.ROUTINE, Ended("a", True, 1.0))
    assert wait_until_told(folder, patience=0.0) == 1  # in the log
    (file,) = folder.receipts.glob("*.routine.log")
    stored = StoredObject(
        sop_instance_uid="1.2.1", sop_class_uid="1.2", series_instance_uid="1.2.100", study_instance_uid="1.2.200",
        transfer_syntax_uid="1.2", location="1.2.200/1.2.100/w-0.seg@0+10", length=10, file_sha256="f",
        association="a", calling_ae="CT1", called_ae="ICHOR", sender_priority=None, called_priority=None,
        command_priority_high=False, received_at=1.0,
    )  # fmt: skip
    journal = Journal(folder.journal)
    end = {file.name: file.stat().st_size}
    rows = journal.take([(stored, "w")], cursors=end)
    assert wait_until_told(folder, patience=0.0) == 1  # in the journal
    journal.mark_published(rows)
    assert wait_until_told(folder, patience=0.0) == 0
    journal.take([(Ended("a", True, 2.0), "w")], cursors=end)
    assert wait_until_told(folder, patience=0.0) == 1  # the association's end
    journal.forget_association("a")
    assert wait_until_told(folder, patience=0.0) == 0
    journal.close()
    receipts.close()


@pytest.mark.usefixtures("s3_credentials")
def test_a_bucket_that_is_not_there_fails_by_name(tmp_path: Path, s3: S3) -> None:
    store = {"url": "s3://nobodys-bucket", "s3": {"endpoint": s3.endpoint}}
    folder = DataFolder.of(Settings.model_validate({"data": str(tmp_path), "store": store}))
    (finding,) = check_store(folder)
    assert (finding.level, "the bucket is not there" in finding.text) == (Level.FAIL, True)
