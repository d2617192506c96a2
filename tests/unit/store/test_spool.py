"""The spool of files: bytes as received, named safely, whole or absent."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from pathlib import Path

import pydicom
import pytest

from ichor.errors import DataSetMismatch, NotBuilt, OutOfResources, Unreadable
from ichor.store import disk
from ichor.store.spool import Address, FileSpool

ADDRESS = Address(
    study_instance_uid="1.2.3", series_instance_uid="1.2.3.4", sop_instance_uid="1.2.3.4.5",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2", transfer_syntax_uid="1.2.840.10008.1.2.4.90",
)  # fmt: skip


def files(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if p.is_file() and p.name not in ("lock", "owner")]


def replace(**uids: str) -> Address:
    return Address(**{name: uids.get(name, getattr(ADDRESS, name)) for name in Address.__slots__})


def test_data_set_is_kept_byte_for_byte_behind_a_valid_file_meta(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    data_set = os.urandom(100_001)
    placed = spool.put(ADDRESS, [data_set[:70_000], memoryview(data_set)[70_000:]])
    with spool.open(placed.location) as file:
        stored = file.read()
    assert stored[-len(data_set) :] == data_set
    assert placed.length == len(stored)
    assert placed.file_sha256 == hashlib.sha256(stored).hexdigest()
    meta = pydicom.filereader.read_file_meta_info(tmp_path / placed.location)
    assert meta.MediaStorageSOPClassUID == ADDRESS.sop_class_uid
    assert meta.MediaStorageSOPInstanceUID == ADDRESS.sop_instance_uid
    assert meta.TransferSyntaxUID == ADDRESS.transfer_syntax_uid
    # Group length (PS3.10 7.1) is right: what follows it is exactly the data set.
    assert 128 + 4 + 12 + meta.FileMetaInformationGroupLength + len(data_set) == len(stored)
    assert placed.location.startswith("1.2.3/1.2.3.4/1.2.3.4.5.")


def test_stored_objects_are_not_for_everybody_on_the_machine(tmp_path: Path) -> None:
    placed = FileSpool(tmp_path).put(ADDRESS, [b"one"])
    mode = (tmp_path / placed.location).stat().st_mode
    assert mode & 0o137 == 0
    assert mode & 0o600 == 0o600


def test_same_bytes_are_one_file_and_other_bytes_another(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    first = spool.put(ADDRESS, [b"one"])
    assert spool.put(ADDRESS, [b"one"]) == first
    other = spool.put(ADDRESS, [b"two"])
    assert other.location != first.location
    assert len(files(tmp_path)) == 2
    with spool.open(first.location) as file:
        assert file.read().endswith(b"one")


@pytest.mark.parametrize("uid", ["../../x", "", "1", "1.2/3", "1.2\n", "1..2", "1.02", "1." + "2" * 63, "1.2.3\0"])
@pytest.mark.parametrize("which", list(Address.__slots__))
def test_invalid_uid_never_becomes_a_path(tmp_path: Path, uid: str, which: str) -> None:
    spool = FileSpool(tmp_path / "spool")
    with pytest.raises(DataSetMismatch):
        spool.put(replace(**{which: uid}), [b"x"])
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "location", ["../../etc/passwd", "1.2/1.3/passwd", "1.2/../1.3.0123456789abcdef.dcm", "", "/", "1.2"]
)
def test_location_that_is_none_is_absent(tmp_path: Path, location: str) -> None:
    with pytest.raises(KeyError):
        FileSpool(tmp_path).open(location)


def test_range_is_exact_or_unreadable(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    placed = spool.put(ADDRESS, [bytes(range(256))])
    assert spool.read_range(placed.location, placed.length - 256, 3) == b"\0\1\2"
    with pytest.raises(Unreadable):
        spool.read_range(placed.location, placed.length - 10, 11)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("where", ["write_all", "sync", "sync_directory"])
def test_disk_error_refuses_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, where: str
) -> None:
    spool = FileSpool(tmp_path)
    spool.put(replace(sop_instance_uid="1.2.3.4.6"), [b"neighbour"])

    def fail(descriptor: object, parts: object = None) -> None:
        if parts:
            os.write(descriptor, b"some of it")  # type: ignore[arg-type]
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(disk, where, fail)
        with pytest.raises(OutOfResources) as refused:
            spool.put(ADDRESS, [b"x" * 1000])
    assert refused.value.status == 0xA700
    assert errno.errorcode[code] in refused.value.reason
    assert len(files(tmp_path)) == 1
    placed = spool.put(ADDRESS, [b"x" * 1000])  # space again: it recovers alone
    assert spool.read_range(placed.location, placed.length - 1000, 1000) == b"x" * 1000


def test_disk_error_on_a_repetition_keeps_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = FileSpool(tmp_path)
    placed = spool.put(ADDRESS, [b"x"])

    def fail(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync_directory", fail)
        with pytest.raises(OutOfResources):
            spool.put(ADDRESS, [b"x"])
    with spool.open(placed.location) as file:
        assert file.read().endswith(b"x")


def test_short_writes_of_the_kernel_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(disk.os, "writev", lambda fd, parts: real(fd, [bytes(parts[0])[:7]]))
    target = tmp_path / "out"
    with target.open("wb") as file:
        disk.write_all(file.fileno(), [b"0123456789", b"", b"abcdefghij", bytearray(b"!")])
    assert target.read_bytes() == b"0123456789abcdefghij!"


def test_half_written_file_of_a_dead_receiver_is_swept(tmp_path: Path) -> None:
    dead = tmp_path / ".scratch" / "999999-0"
    dead.mkdir(parents=True)
    (dead / "0.part").write_bytes(b"half")
    FileSpool(tmp_path)
    assert files(tmp_path) == []


def test_level_that_is_not_built_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match=r"listener\.durability"):
        FileSpool(tmp_path, durability="association")


def test_level_none_syncs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: object) -> None:
        raise AssertionError("synced")

    monkeypatch.setattr(disk, "sync", forbidden)
    spool = FileSpool(tmp_path, durability="none")
    placed = spool.put(ADDRESS, [io.BytesIO(b"abc").getbuffer()])
    assert spool.read_range(placed.location, placed.length - 3, 3) == b"abc"
