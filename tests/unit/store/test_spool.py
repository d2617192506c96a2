"""The spool: bytes as received, named safely, whole or absent; what readers, retention and recovery see of it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pydicom
import pydicom.data
import pytest
from descriptors import descriptors

from ichor.errors import DataSetMismatch, OutOfResources, Unreadable
from ichor.store import disk, pool
from ichor.store.segments import end_of, receiver_of, segment_of, writer_of
from ichor.store.spool import Address, FileSpool, Placed

ADDRESS = Address(
    study_instance_uid="1.2.3", series_instance_uid="1.2.3.4", sop_instance_uid="1.2.3.4.5",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2", transfer_syntax_uid="1.2.840.10008.1.2.4.90",
)  # fmt: skip
SERIES = "1.2.3/1.2.3.4"


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def data_set(spool: FileSpool, location: str) -> bytes:
    with spool.open(location) as file:
        whole = file.read()
    assert whole[128:132] == b"DICM"
    return whole[144 + int.from_bytes(whole[140:144], "little") :]


def file_meta_of(folder: Path, stored: bytes) -> pydicom.dataset.FileMetaDataset:
    (folder / "alone.dcm").write_bytes(stored)
    return pydicom.filereader.read_file_meta_info(folder / "alone.dcm")


def finished(root: Path) -> list[bytes]:
    """Data sets of all whole objects, found by their footers alone, in the order of their bytes."""
    spool = FileSpool(root)
    found = []
    for segment, _ in spool.segments():
        for offset, length in sorted(spool.objects(segment)):
            found.append(data_set(spool, f"{segment}@{offset}+{length}"))
    return sorted(found)


def test_data_set_is_kept_byte_for_byte_behind_a_valid_file_meta(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    sent = os.urandom(100_001)
    placed = spool.put(ADDRESS, [sent[:70_000], memoryview(sent)[70_000:]])
    with spool.open(placed.location) as file:
        stored = file.read()
    assert stored[-len(sent) :] == sent
    assert placed.length == len(stored)
    meta = file_meta_of(tmp_path, stored)
    assert meta.MediaStorageSOPClassUID == ADDRESS.sop_class_uid
    assert meta.MediaStorageSOPInstanceUID == ADDRESS.sop_instance_uid
    assert meta.TransferSyntaxUID == ADDRESS.transfer_syntax_uid
    # Group length (PS3.10 7.1) is right: what follows it is exactly the data set.
    assert 128 + 4 + 12 + meta.FileMetaInformationGroupLength + len(sent) == len(stored)
    assert placed.location.startswith(f"{SERIES}/")


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34", "1." + "2" * 62])
def test_file_meta_is_right_for_uids_of_every_length(tmp_path: Path, uid: str) -> None:
    spool = FileSpool(tmp_path)
    placed = spool.put(ADDRESS._replace(sop_instance_uid=uid, sop_class_uid=uid, transfer_syntax_uid=uid), [b"data"])
    with spool.open(placed.location) as file:
        stored = file.read()
    meta = file_meta_of(tmp_path, stored)
    assert 128 + 4 + 12 + meta.FileMetaInformationGroupLength + 4 == len(stored)
    assert meta.MediaStorageSOPClassUID == meta.MediaStorageSOPInstanceUID == meta.TransferSyntaxUID == uid


def test_an_object_in_pieces_is_the_same_as_in_one(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    one = spool.put(ADDRESS, [b"abc", b"def"])
    incoming = spool.begin(ADDRESS)
    incoming.write([b"a"])
    incoming.write([])
    incoming.write([b"bc", b"", bytearray(b"d")])
    two = incoming.finish([b"ef"])
    with spool.open(one.location) as first, spool.open(two.location) as second:
        assert first.read() == second.read()
    assert one.length == two.length
    empty = spool.begin(ADDRESS).finish()
    assert data_set(spool, empty.location) == b""


def test_thousands_of_fragments_are_written_in_order(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    parts = [bytes([n % 251]) * (n % 3) for n in range(5000)]
    assert data_set(spool, spool.put(ADDRESS, parts).location) == b"".join(parts)


def test_a_small_object_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = FileSpool(tmp_path)
    spool.put(ADDRESS, [b"first"])
    calls = []
    real = os.writev
    monkeypatch.setattr(disk.os, "writev", lambda fd, parts: calls.append(len(parts)) or real(fd, parts))
    spool.begin(ADDRESS).finish([b"x" * 30_000, b"y" * 4_000])
    assert len(calls) == 1


def test_short_writes_of_the_kernel_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(disk.os, "writev", lambda fd, parts: real(fd, [bytes(parts[0])[:7]]))
    target = tmp_path / "out"
    with target.open("wb") as file:
        disk.write_all(file.fileno(), [b"0123456789", b"", b"abcdefghij", bytearray(b"!")])
    assert target.read_bytes() == b"0123456789abcdefghij!"


def test_stored_objects_are_not_for_everybody_on_the_machine(tmp_path: Path) -> None:
    placed = FileSpool(tmp_path).put(ADDRESS, [b"one"])
    mode = (tmp_path / segment_of(placed.location)).stat().st_mode
    assert mode & 0o137 == 0
    assert mode & 0o600 == 0o600


def test_objects_of_a_series_share_a_segment_and_series_do_not(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    places = [spool.put(ADDRESS, [bytes([n])]) for n in range(100)]
    assert len({segment_of(p.location) for p in places}) == 1
    assert [data_set(spool, p.location) for p in places] == [bytes([n]) for n in range(100)]
    other = spool.put(ADDRESS._replace(series_instance_uid="1.2.3.5"), [b"other"])
    assert segment_of(other.location) != segment_of(places[0].location)
    segment = segment_of(places[0].location)
    assert dict(spool.segments())[segment] == end_of(places[-1].location, places[-1].length)


def test_objects_of_one_series_under_way_at_once_do_not_mix(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    first, second = spool.begin(ADDRESS), spool.begin(ADDRESS)
    for n in range(10):
        first.write([b"1" * n])
        second.write([b"2" * n])
    one, two = first.finish(), second.finish()
    assert data_set(spool, one.location) == b"1" * 45
    assert data_set(spool, two.location) == b"2" * 45
    later = [spool.put(ADDRESS, [b"x"]) for _ in range(10)]
    assert {segment_of(p.location) for p in later} <= {segment_of(one.location), segment_of(two.location)}


def test_many_threads_get_back_what_each_stored(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    placed: dict[bytes, Placed] = {}

    def send(thread: int) -> None:
        for n in range(60):
            address = ADDRESS._replace(series_instance_uid=f"1.2.3.{n % 3}", sop_instance_uid=f"1.2.{thread}.{n}")
            incoming = spool.begin(address)
            incoming.write([f"{thread}-{n} ".encode()])
            if n % 5 == 0:
                incoming.discard()
                continue
            sent = f"{thread}-{n} ".encode() + b"." * (n * 100)
            placed[sent] = incoming.finish([b"." * (n * 100)])

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(placed) == 8 * 48
    assert all(data_set(spool, p.location) == sent for sent, p in placed.items())
    assert finished(tmp_path) == sorted(placed)
    assert len(list(spool.segments())) <= 3 * 8


def test_an_object_given_up_leaves_nothing_and_its_neighbours_stay(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    placed = spool.put(ADDRESS, [b"before"])
    size = dict(spool.segments())
    incoming = spool.begin(ADDRESS)
    incoming.write([b"half" * 100_000])
    assert dict(spool.segments()) != size
    incoming.discard()
    incoming.discard()
    assert dict(spool.segments()) == size
    with pytest.raises(OutOfResources):
        incoming.finish()
    after = spool.put(ADDRESS, [b"after"])
    assert segment_of(after.location) == segment_of(placed.location)
    assert [data_set(spool, p.location) for p in (placed, after)] == [b"before", b"after"]


def test_giving_up_after_the_end_takes_nothing_away(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    incoming = spool.begin(ADDRESS)
    placed = incoming.finish([b"kept"])
    incoming.discard()
    assert data_set(spool, placed.location) == b"kept"


def test_nothing_is_made_for_an_object_without_bytes_or_a_reader(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path / "spool")
    spool.begin(ADDRESS).discard()
    assert list(spool.segments()) == []
    assert spool.free_bytes() > 0
    with pytest.raises(KeyError):
        spool.open(f"{SERIES}/a-1.seg@0+1")
    assert files(tmp_path) == []


def test_a_series_of_which_all_was_given_up_leaves_no_folder(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    incoming = spool.begin(ADDRESS)
    incoming.write([b"half"])
    incoming.discard()
    spool.close()
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "uid", ["../../x", "", "1", "1.2/3", "1.2\n", "1..2", "1.02", "1." + "2" * 63, "1.2.3\0", "1.²"]
)
@pytest.mark.parametrize("which", Address._fields)
def test_invalid_uid_never_becomes_a_path(tmp_path: Path, uid: str, which: str) -> None:
    spool = FileSpool(tmp_path / "spool")
    with pytest.raises(DataSetMismatch):
        spool.begin(ADDRESS._replace(**{which: uid}))
    assert files(tmp_path) == []


WRONG = [
    "../../etc/passwd", "1.2/1.3/passwd", "1.2/../1.3.0123456789abcdef.dcm", "", "/", "1.2", "1.2/1.3/a-1.seg",
    "1.2/1.3/a-1.seg@1", "1.2/1.3/a-1.seg@1+-1", "1.2/1.3/a-1.seg@-1+1", "1.2/1.3/a-1.seg@1+1@1+1", "1.2/1.3/.seg@0+1",
    "1.2/../a-1.seg@0+1", "1.2/1.3/../a-1.seg@0+1", "1.2/1.3/a\n.seg@0+1", "1.2/1.3/a-1.seg@0+1\n", "1.2/1.3/a-1.seg@٣+1",
    "1.2/1.3/1.4.0123456789abcdef.dcm@0+1", "1.2/1.3/a-1.seg@" + "9" * 40 + "+1",
]  # fmt: skip


@pytest.mark.parametrize("location", WRONG)
def test_location_that_is_none_is_absent(tmp_path: Path, location: str) -> None:
    spool = FileSpool(tmp_path)
    with pytest.raises(KeyError):
        spool.open(location)
    with pytest.raises(KeyError):
        spool.read_range(location, 0, 1)


@pytest.mark.parametrize("segment", ["../../etc/passwd", "1.2/1.3/passwd", "1.2", "", "1.2/1.3/a-1.seg@0+1"])
def test_what_is_no_segment_is_never_removed(tmp_path: Path, segment: str) -> None:
    with pytest.raises(KeyError):
        FileSpool(tmp_path).reclaim(segment)
    with pytest.raises(KeyError):
        list(FileSpool(tmp_path).objects(segment))


def test_a_link_in_the_place_of_a_segment_is_not_followed(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path / "spool")
    (tmp_path / "secret").write_bytes(b"x" * 100)
    (tmp_path / "spool" / SERIES).mkdir(parents=True)
    (tmp_path / "spool" / SERIES / "a-1.seg").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):  # noqa: PT011
        spool.open(f"{SERIES}/a-1.seg@0+1")


def test_range_is_exact_or_unreadable(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    placed = spool.put(ADDRESS, [bytes(range(256))])
    spool.put(ADDRESS, [b"neighbour"])
    assert spool.read_range(placed.location, placed.length - 256, 3) == b"\0\1\2"
    assert spool.read_range(placed.location, placed.length, 0) == b""
    for offset, length in ((placed.length - 10, 11), (-1, 1), (0, -1), (placed.length + 1, 0), (0, 1 << 60)):
        with pytest.raises(Unreadable):
            spool.read_range(placed.location, offset, length)


def test_an_object_is_a_file_of_its_own_with_an_end(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    spool.put(ADDRESS, [b"before"])
    sent = os.urandom(200_000)
    placed = spool.put(ADDRESS, [sent])
    spool.put(ADDRESS, [b"after"])
    with spool.open(placed.location) as file:
        whole = file.read()
        assert whole.endswith(sent)
        assert file.read() == b""
        assert file.seek(0, os.SEEK_END) == placed.length
        assert file.seek(-10, os.SEEK_CUR) == placed.length - 10
        assert file.read(100) == sent[-10:]
        assert file.seek(placed.length + 5) == placed.length + 5
        assert file.read(1) == b""
        for at in (0, 70_000, 3, 150_000):
            file.seek(at)
            assert file.read(20_000) == whole[at : at + 20_000]
        with pytest.raises((OSError, ValueError)):
            file.seek(-1)
        with pytest.raises(OSError):  # the whole segment would be behind it  # noqa: PT011
            file.fileno()
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_pydicom_reads_an_object_in_the_midst_of_a_segment(tmp_path: Path) -> None:
    sample = pydicom.data.get_testdata_file("CT_small.dcm")
    raw, expected = Path(sample).read_bytes(), pydicom.dcmread(sample)
    spool = FileSpool(tmp_path)
    address = Address(
        study_instance_uid=expected.StudyInstanceUID, series_instance_uid=expected.SeriesInstanceUID,
        sop_instance_uid=expected.SOPInstanceUID, sop_class_uid=expected.SOPClassUID,
        transfer_syntax_uid=expected.file_meta.TransferSyntaxUID,
    )  # fmt: skip
    for _ in range(3):
        placed = spool.put(address, [raw[144 + int.from_bytes(raw[140:144], "little") :]])
    with spool.open(placed.location) as file:
        read = pydicom.dcmread(file)
        assert read == expected
        assert (read.pixel_array == expected.pixel_array).all()
    with spool.open(placed.location) as file:
        assert pydicom.dcmread(file, stop_before_pixels=True).Rows == expected.Rows


def test_files_of_older_data_folders_are_read(tmp_path: Path) -> None:
    location = f"{SERIES}/1.2.3.4.5.0123456789abcdef.dcm"
    (tmp_path / SERIES).mkdir(parents=True)
    (tmp_path / location).write_bytes(b"0123456789")
    spool = FileSpool(tmp_path)
    with spool.open(location) as file:
        assert file.read() == b"0123456789"
    assert spool.read_range(location, 3, 4) == b"3456"
    with pytest.raises(Unreadable):
        spool.read_range(location, 8, 3)
    assert list(spool.segments()) == [(location, 10)]
    assert list(spool.objects(location)) == [(0, 10)]
    assert (segment_of(location), end_of(location, 10)) == (location, 10)
    assert spool.reclaim(location, at_most=10) is True
    assert files(tmp_path) == []


def test_segments_lists_nothing_else(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    placed = spool.put(ADDRESS, [b"x"])
    for other in (".scratch/1/x-1.seg", "notes.txt", f"{SERIES}/notes.txt", "1.2.3/x.seg", f"{SERIES}/deep/a-1.seg"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_bytes(b"x")
    assert [segment for segment, _ in spool.segments()] == [segment_of(placed.location)]


def test_segments_are_named_by_their_writer(tmp_path: Path) -> None:
    placed = FileSpool(tmp_path, writer="receive-5a-77").put(ADDRESS, [b"x"])
    assert writer_of(segment_of(placed.location)) == "receive-5a-77"
    for wrong in ("../x", "a/b", ".x", "a b", "x" * 101):
        with pytest.raises(ValueError, match="writer"):
            FileSpool(tmp_path, writer=wrong)


def test_segments_of_a_shared_spool_are_named_by_their_receiver_too(tmp_path: Path) -> None:
    placed = FileSpool(tmp_path, writer="5a77", receiver="ct-0_0123abcd").put(ADDRESS, [b"x"])
    segment = segment_of(placed.location)
    assert (writer_of(segment), receiver_of(segment)) == ("5a77", "ct-0_0123abcd")
    assert FileSpool(tmp_path).read_range(placed.location, placed.length - 1, 1) == b"x"
    assert receiver_of(segment_of(FileSpool(tmp_path).put(ADDRESS, [b"x"]).location)) == ""
    with pytest.raises(ValueError, match="receiver"):
        FileSpool(tmp_path, receiver="a.b")


def test_a_small_object_is_synced_and_not_carried_where_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = disk.sync
    monkeypatch.setattr(disk, "sync", lambda fd: (real(fd), synced.append(os.readlink(f"/proc/self/fd/{fd}"))))
    seen: list[tuple[int, object]] = []
    for carries in (True, False):
        spool = FileSpool(tmp_path, carries=carries)
        synced.clear()
        spool.begin(ADDRESS).finish([b"x"], confirm=lambda _, carried: seen.append((len(synced), carried)))
    (first, carried), (then, nothing) = seen
    assert (first, nothing) == (0, None)
    assert carried is not None
    assert then >= 4  # the segment, and the folders that lead to it


def test_a_level_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="instance, association, none"):
        FileSpool(tmp_path, durability="maybe")


# --- sealing ----------------------------------------------------------------------------------------------------------


def test_a_large_segment_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SEAL_SIZE", 10_000)
    spool = FileSpool(tmp_path)
    names = [segment_of(spool.put(ADDRESS, [b"x" * 4_000]).location) for _ in range(9)]
    assert len(set(names)) == 3
    assert [spool.reclaim(name) for name in dict.fromkeys(names)] == [True, True, True]


def test_descriptors_are_bounded_and_the_longest_idle_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MOST_OPEN", 4)
    spool = FileSpool(tmp_path)

    def put(series: int) -> str:
        return segment_of(spool.put(ADDRESS._replace(series_instance_uid=f"1.2.3.{series}"), [b"x"]).location)

    first = [put(n) for n in range(4)]
    assert put(0) == first[0]
    for n in range(10, 13):
        put(n)
    assert 1 <= len(descriptors(tmp_path)) <= 4
    assert put(0) == first[0]
    assert put(1) != first[1]


def test_more_under_way_than_may_be_open_are_all_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MOST_OPEN", 2)
    spool = FileSpool(tmp_path)
    under_way = [spool.begin(ADDRESS) for _ in range(6)]
    for n, incoming in enumerate(under_way):
        incoming.write([bytes([n])])
    places = [incoming.finish() for incoming in under_way]
    assert [data_set(spool, p.location) for p in places] == [bytes([n]) for n in range(6)]


def test_segments_that_were_idle_for_so_long_are_sealed(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    idle = segment_of(spool.put(ADDRESS, [b"x"]).location)
    spool.seal()
    assert spool.reclaim(idle) is False
    spool.seal(idle_for=-1.0)
    assert spool.reclaim(idle) is True


def test_a_sealed_segment_never_changes_again(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    placed = spool.put(ADDRESS, [b"x"])
    spool.seal(idle_for=0.0)
    segment = tmp_path / segment_of(placed.location)
    before = segment.read_bytes()
    assert segment_of(spool.put(ADDRESS, [b"y"]).location) != segment_of(placed.location)
    assert segment.read_bytes() == before


def test_closing_lets_what_is_under_way_end(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    incoming = spool.begin(ADDRESS)
    incoming.write([b"a"])
    spool.close()
    placed = incoming.finish([b"b"])
    assert data_set(spool, placed.location) == b"ab"
    assert spool.reclaim(segment_of(placed.location)) is True


# --- retention, another process ---------------------------------------------------------------------------------------


def test_a_segment_in_use_is_left_alone_and_a_sealed_one_goes_with_its_folders(tmp_path: Path) -> None:
    writer, retention = FileSpool(tmp_path), FileSpool(tmp_path)
    placed = writer.put(ADDRESS, [b"x"])
    segment = segment_of(placed.location)
    assert retention.reclaim(segment) is False
    assert retention.reclaim(segment, keep_until=1) is False
    assert data_set(retention, placed.location) == b"x"
    writer.close()
    assert retention.reclaim(segment) is True
    assert files(tmp_path) == []
    assert retention.reclaim(segment) is True  # as wanted already
    with pytest.raises(KeyError):
        retention.open(placed.location)
    with pytest.raises(KeyError):
        retention.read_range(placed.location, 0, 1)


def test_what_came_since_retention_looked_keeps_the_segment(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    first = spool.put(ADDRESS, [b"first"])
    known = end_of(first.location, first.length)
    second = spool.put(ADDRESS, [b"second"])
    spool.close()
    segment = segment_of(first.location)
    assert spool.reclaim(segment, at_most=known) is False
    assert data_set(spool, second.location) == b"second"
    assert spool.reclaim(segment, at_most=end_of(second.location, second.length)) is True


@pytest.mark.parametrize("still_there", [False, True])
def test_a_new_segment_that_retention_meets_before_it_is_locked_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still_there: bool
) -> None:
    spool, retention = FileSpool(tmp_path), FileSpool(tmp_path)
    real = fcntl.flock
    met: list[str] = []
    holding: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        if not met:
            met.extend(segment for segment, _ in retention.segments())
            if still_there:
                holding.append(os.open(tmp_path / met[0], os.O_RDWR))
                real(holding[0], fcntl.LOCK_EX)
            else:
                assert retention.reclaim(met[0], at_most=0) is True
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    placed = spool.put(ADDRESS, [b"x"])
    assert len(met) == 1
    assert segment_of(placed.location) != met[0]
    assert data_set(spool, placed.location) == b"x"
    for descriptor in holding:
        assert os.fstat(descriptor).st_size == 0
        os.close(descriptor)


def test_a_torn_tail_is_cut_to_what_is_known(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    first = spool.put(ADDRESS, [b"first"])
    second = spool.put(ADDRESS, [b"second"])
    spool.close()
    segment, known = segment_of(first.location), end_of(first.location, first.length)
    assert spool.reclaim(segment, keep_until=known) is True
    assert dict(spool.segments()) == {segment: known}
    assert data_set(spool, first.location) == b"first"
    with pytest.raises(KeyError):
        spool.open(second.location)
    with pytest.raises(KeyError):
        spool.read_range(second.location, 0, 1)
    assert spool.reclaim(segment, keep_until=0) is True
    assert files(tmp_path) == []


def test_receipt_goes_on_while_retention_removes_what_is_empty(tmp_path: Path) -> None:
    """Retention in another process takes every segment it can get, at once, with its folders."""
    code = """
import os, sys
from pathlib import Path
from ichor.store.spool import FileSpool
spool, taken = FileSpool(Path(sys.argv[1])), 0
print("ready", flush=True)
while not Path(sys.argv[2]).exists():
    for segment, size in spool.segments():
        taken += size == 0 and spool.reclaim(segment, at_most=0)
    for folder, _, _ in os.walk(sys.argv[1], topdown=False):
        if folder != sys.argv[1]:
            try:
                os.rmdir(folder)
                taken += 1
            except OSError:
                pass
print(taken)
"""
    root, stop = tmp_path / "spool", tmp_path / "stop"
    root.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(stop)], stdout=subprocess.PIPE, text=True
    ) as retention:
        try:
            assert retention.stdout is not None
            assert retention.stdout.readline() == "ready\n"
            spool = FileSpool(root, durability="none")
            placed = []
            for n in range(400):
                address = ADDRESS._replace(study_instance_uid=f"1.2.{n % 3}", sop_instance_uid=f"1.2.3.{n}")
                incoming = spool.begin(address)
                incoming.write([b"x"])
                if n % 2:
                    incoming.discard()
                else:
                    placed.append((bytes([n % 256]), incoming.finish([bytes([n % 256])])))
                spool.close()
        finally:
            stop.touch()
        assert retention.wait(60) == 0
    assert all(data_set(spool, p.location) == b"x" + sent for sent, p in placed)


def test_a_reader_in_another_process_sees_what_is_finished_at_once(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    placed = spool.put(ADDRESS, [b"finished"])
    half = spool.begin(ADDRESS)
    half.write([b"not yet"])
    code = (
        "import sys; from pathlib import Path; from ichor.store.spool import FileSpool; "
        "s = FileSpool(Path(sys.argv[1])); print(s.open(sys.argv[2]).read()[-8:].decode(), "
        "[len(list(s.objects(n))) for n, _ in s.segments()], [s.reclaim(n) for n, _ in s.segments()])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), placed.location], check=True, capture_output=True, text=True
    )
    assert seen.stdout.split("\n")[0] == "finished [1] [False]"
    half.finish()


def test_a_spool_is_there_while_its_volume_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "spool"
    spool = FileSpool(root)
    assert not spool.is_there()
    root.mkdir()
    assert not spool.is_there()  # where a volume is to be mounted
    (root / "1.2").mkdir()
    assert spool.is_there()
    monkeypatch.setattr(spool, "_volume", root.stat().st_dev + 1)
    assert not spool.is_there()
