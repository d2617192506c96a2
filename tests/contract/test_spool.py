"""What every form of the spool does: files, and objects in a bucket."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pydicom
import pydicom.data
import pytest

from ichor.errors import DataSetMismatch, OutOfResources, Unreadable
from ichor.store.bucket import Bucket
from ichor.store.bucket_spool import BucketSpool
from ichor.store.protocol import Spool
from ichor.store.segments import FOOTER_SIZE, end_of, receiver_of, segment_of, writer_of
from ichor.store.spool import Address, FileSpool, Placed

ADDRESS = Address(
    study_instance_uid="1.2.3", series_instance_uid="1.2.3.4", sop_instance_uid="1.2.3.4.5",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2", transfer_syntax_uid="1.2.840.10008.1.2.1",
)  # fmt: skip

Make = Callable[..., Spool]


@pytest.fixture(params=["file", "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A spool, as another process of the same store has it."""
    if request.param == "file":
        return lambda **names: FileSpool(tmp_path / "spool", **names)
    bucket: Bucket = request.getfixturevalue("new_bucket")
    return lambda **names: BucketSpool(bucket, staging=tmp_path, **names)


@pytest.fixture
def spool(make: Make) -> Spool:
    return make()


def put(spool: Spool, *pieces: bytes, **other: str) -> Placed:
    incoming = spool.begin(ADDRESS._replace(**other))
    for piece in pieces[:-1]:
        incoming.write([piece])
    return incoming.finish(pieces[-1:])


def data_set(spool: Spool, location: str) -> bytes:
    with spool.open(location) as file:
        whole = file.read()
    assert whole[128:132] == b"DICM"
    return whole[144 + int.from_bytes(whole[140:144], "little") :]


def found(spool: Spool) -> dict[str, list[tuple[int, int]]]:
    return {segment: list(spool.objects(segment)) for segment, _ in spool.segments()}


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("size", [0, 100_001, 5_000_000])
def test_data_set_is_kept_byte_for_byte(spool: Spool, make: Make, size: int, pieces: int) -> None:
    sent = os.urandom(size)
    step = size // pieces + 1
    placed = put(spool, *[sent[at : at + step] for at in range(0, pieces * step, step)])
    reader = make()
    assert data_set(reader, placed.location) == sent
    assert reader.read_range(placed.location, 0, placed.length)[placed.length - size :] == sent


def test_an_object_that_goes_in_parts_is_whole(spool: Spool) -> None:
    sent = os.urandom(35_000_000)
    assert data_set(spool, put(spool, sent, b"end").location) == sent + b"end"


def test_confirm_is_called_once_when_others_can_read_it(spool: Spool, make: Make) -> None:
    seen = []
    spool.begin(ADDRESS).finish([b"x" * 50], confirm=lambda placed, _: seen.append(data_set(make(), placed.location)))
    assert seen == [b"x" * 50]


def test_what_is_not_confirmed_does_not_stay(spool: Spool) -> None:
    def refuse(*_: object) -> None:
        raise OutOfResources("no receipt")

    for pieces in ([b"a"], [b"a", b"b"]):
        incoming = spool.begin(ADDRESS)
        for piece in pieces[:-1]:
            incoming.write([piece])
        with pytest.raises(OutOfResources, match="no receipt"):
            incoming.finish(pieces[-1:], confirm=refuse)
    kept = put(spool, b"kept")
    assert [place for places in found(spool).values() for place in places] == [(0, kept.length)]


def test_what_is_given_up_leaves_nothing_and_cannot_go_on(spool: Spool, tmp_path: Path) -> None:
    incoming = spool.begin(ADDRESS)
    incoming.write([b"a" * 100_000])
    incoming.discard()
    incoming.discard()
    with pytest.raises(OutOfResources):
        incoming.write([b"b"])
    with pytest.raises(OutOfResources):
        incoming.finish()
    assert all(places == [] for places in found(spool).values())
    assert not any(b"aaaa" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("which", Address._fields)
@pytest.mark.parametrize("uid", ["", "1.2/../3", "1.2.x"])
def test_invalid_uid_never_becomes_a_key(spool: Spool, uid: str, which: str) -> None:
    with pytest.raises(DataSetMismatch):
        spool.begin(ADDRESS._replace(**{which: uid}))


@pytest.mark.parametrize(
    "location", ["", "1.2.3/1.2.3.4/none-0.seg@0+10", "../x.seg@0+1", "1.2.3/1.2.3.4/w-0.seg", "1.2.3/1.2.3.4/.set@0+1"]
)
def test_location_that_is_none_is_absent(spool: Spool, location: str) -> None:
    put(spool, b"x")
    for call in (lambda: spool.open(location), lambda: spool.read_range(location, 0, 1)):
        with pytest.raises(KeyError):
            call()


def test_range_is_exact_or_unreadable(spool: Spool) -> None:
    placed = put(spool, b"0123456789")
    at = placed.length - 10
    assert spool.read_range(placed.location, at + 2, 3) == b"234"
    assert spool.read_range(placed.location, placed.length, 0) == b""
    for offset, length in ((at, 11), (-1, 2), (0, -1), (placed.length, 1)):
        with pytest.raises(Unreadable):
            spool.read_range(placed.location, offset, length)
    longer = placed.location.replace(f"+{placed.length}", f"+{placed.length + FOOTER_SIZE + 1}")
    with pytest.raises(KeyError):
        spool.open(longer).close()
    with pytest.raises(KeyError):
        spool.read_range(longer, 0, placed.length + FOOTER_SIZE + 1)


def test_an_object_is_a_file_of_its_own_with_an_end(spool: Spool) -> None:
    sent = os.urandom(3_000_000)
    placed = put(spool, sent)
    with spool.open(placed.location) as file:
        assert file.seek(0, os.SEEK_END) == placed.length
        assert file.read() == b""
        for at in (2_900_000, 10, 1_048_570):
            file.seek(placed.length - len(sent) + at)
            assert file.read(20) == sent[at : at + 20]
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)


def test_pydicom_reads_it(spool: Spool) -> None:
    path = pydicom.data.get_testdata_file("CT_small.dcm")
    original = pydicom.dcmread(path)
    whole = Path(str(path)).read_bytes()
    body = whole[132 + 12 + original.file_meta.FileMetaInformationGroupLength :]
    placed = put(spool, body, sop_instance_uid=str(original.SOPInstanceUID))
    with spool.open(placed.location) as file:
        assert pydicom.dcmread(file, stop_before_pixels=True).PatientID == original.PatientID
        file.seek(0)
        assert pydicom.dcmread(file).PixelData == original.PixelData


def test_what_is_there_is_found_by_its_footers_alone(spool: Spool, make: Make) -> None:
    lengths = sorted(put(spool, b"x" * n, series_instance_uid=f"1.2.{n}").length for n in (1, 2, 3))
    places = found(make())
    assert sorted(length for some in places.values() for _, length in some) == lengths
    for segment, size in make().segments():
        ((offset, length),) = places[segment]
        assert end_of(f"{segment}@{offset}+{length}", length) == size


def test_segments_are_named_by_writer_and_receiver(make: Make) -> None:
    segment = segment_of(put(make(writer="w1", receiver="ct_0"), b"x").location)
    assert (writer_of(segment), receiver_of(segment)) == ("w1", "ct_0")
    for wrong in ({"writer": "a/b"}, {"receiver": "a.b"}):
        with pytest.raises(ValueError, match="not a"):
            make(**wrong)


def test_a_segment_goes_when_it_is_no_longer_than_what_is_known(make: Make) -> None:
    spool = make()
    placed = put(spool, b"x" * 100)
    spool.close()
    segment, end = segment_of(placed.location), end_of(placed.location, placed.length)
    keeper = make()
    assert keeper.written_at(segment) > 1e9
    assert keeper.reclaim(segment, at_most=end - 1) is False
    assert keeper.reclaim(segment, keep_until=end) is True
    assert data_set(keeper, placed.location) == b"x" * 100
    assert keeper.reclaim(segment, at_most=end) is True
    assert keeper.reclaim(segment, at_most=end) is True
    for call in (lambda: keeper.open(placed.location), lambda: keeper.written_at(segment)):
        with pytest.raises(KeyError):
            call()
    assert list(keeper.segments()) == []


def test_what_is_no_segment_is_never_removed(spool: Spool) -> None:
    for name in ("", "../STORE", "1.2.3", "1.2.3/1.2.3.4", "1.2.3/1.2.3.4/x.txt"):
        with pytest.raises(KeyError):
            spool.reclaim(name)


def test_many_threads_get_back_what_each_stored(spool: Spool) -> None:
    kept: dict[str, bytes] = {}

    def store(number: int) -> None:
        for n in range(5):
            sent = bytes([number, n]) * 700
            kept[put(spool, sent[:10], sent[10:], sop_instance_uid=f"1.2.{number}.{n}").location] = sent

    threads = [threading.Thread(target=store, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 30
    assert all(data_set(spool, location) == sent for location, sent in kept.items())
