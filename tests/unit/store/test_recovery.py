"""What stands whole in the spool comes in, whatever of journal and receipts log was lost; only what is torn is cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ichor.store.bucket import Bucket
from ichor.store.bucket_spool import BucketSpool
from ichor.store.journal import Journal, JournalRow, StoredObject
from ichor.store.protocol import Spool
from ichor.store.receipts import Ended, Lane, Receipt, ReceiptReader, ReceiptWriter, Stored
from ichor.store.recovery import Recovered, recover
from ichor.store.segments import FOOTER_SIZE, footer, segment_of
from ichor.store.spool import Address, FileSpool, Placed

STUDY, SERIES = "1.2.3", "1.2.3.4"
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


class Site:
    """A receiver, and a relay that takes all when it is told to."""

    def __init__(self, folder: Path, bucket: Bucket | None = None) -> None:
        self.folder, self.bucket = folder, bucket
        self.journal = Journal(folder / "journal.sqlite", durable=False)
        self.ended: list[Ended] = []
        self.start()

    def start(self) -> None:
        self.receipts = ReceiptWriter(self.folder / "receipts", durable=False)
        self.spool: Spool
        if self.bucket is not None:
            self.spool = BucketSpool(self.bucket, staging=self.folder, writer=self.receipts.name)
        else:
            self.spool = FileSpool(self.folder / "spool", durability="none", writer=self.receipts.name)

    def end(self) -> None:
        self.receipts.close()
        self.spool.close()

    def put(self, number: int, *, series: str = SERIES) -> Placed:
        return self.spool.put(Address(STUDY, series, f"1.2.9.{number}", CT, EXPLICIT), [b"%d" % number * 64])

    def acknowledge(self, number: int, placed: Placed) -> None:
        self.receipts.append(
            Lane.ROUTINE,
            Stored(
                sop_instance_uid=f"1.2.9.{number}", sop_class_uid=CT, series_instance_uid=SERIES,
                study_instance_uid=STUDY, transfer_syntax_uid=EXPLICIT, location=placed.location,
                length=placed.length, association="A", calling_ae="CT1", called_ae="ICHOR", sender_priority=None,
                called_priority=None, command_priority_high=False, received_at=1000.0 + number,
            ),
        )  # fmt: skip

    def receive(self, *numbers: int) -> list[Placed]:
        placed = [self.put(number) for number in numbers]
        for number, one in zip(numbers, placed, strict=True):
            self.acknowledge(number, one)
        return placed

    def relay(self) -> None:
        """Take all that the log holds, and forget what is done."""
        reader = ReceiptReader(self.folder / "receipts", cursors=self.journal.cursors())
        while some := [one for lane in Lane for one in reader.read(lane, limit=100)]:
            self._take(some)
        self.journal.forget_files(reader.forget(self.journal.cursors()))
        reader.close()

    def _take(self, receipts: list[Receipt]) -> None:
        entries: list[tuple[StoredObject | Ended, str]] = []
        for receipt in receipts:
            record = receipt.record
            if isinstance(record, Stored):
                data = self.spool.read_range(record.location, 0, record.length)
                digest = hashlib.sha256(data).hexdigest()
                entries.append((StoredObject(file_sha256=digest, **record._asdict()), receipt.writer))
            elif isinstance(record, Ended):
                entries.append((record, receipt.writer))
                self.ended.append(record)
        self.journal.take(entries, cursors={receipt.file: receipt.end for receipt in receipts})

    def recover(self) -> Recovered:
        return recover(journal=self.journal, spool=self.spool, receipts=self.folder / "receipts")

    def settle(self) -> None:
        """A new receiver, and the relay's time to read what the last one wrote."""
        self.end()
        self.start()
        self.relay()

    def lose_journal(self) -> None:
        self.journal.close()
        for file in self.folder.glob("journal.sqlite*"):
            file.unlink()
        self.journal = Journal(self.folder / "journal.sqlite", durable=False, keeps_unsure=True)

    def lose_receipts(self) -> None:
        for file in (self.folder / "receipts").glob("*.log"):
            file.unlink()

    def rows(self) -> list[JournalRow]:
        return self.journal.by_study(STUDY)

    def uids(self) -> set[str]:
        return {row.stored.sop_instance_uid for row in self.rows()}

    def sizes(self) -> dict[str, int]:
        return dict(self.spool.segments())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(params=["file", "s3"])
def any_site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(tmp_path, request.getfixturevalue("new_bucket") if request.param == "s3" else None)


def uids(*numbers: int) -> set[str]:
    return {f"1.2.9.{number}" for number in numbers}


def test_all_that_was_acknowledged_is_back_after_the_journal_was_lost(any_site: Site) -> None:
    placed = any_site.receive(1, 2, 3)
    any_site.settle()
    any_site.lose_journal()
    sizes = any_site.sizes()
    assert any_site.recover() == Recovered(objects=3)
    any_site.relay()
    rows = any_site.rows()
    assert [row.stored.location for row in rows] == [one.location for one in placed]
    assert [row.stored.sop_instance_uid for row in rows] == ["1.2.9.1", "1.2.9.2", "1.2.9.3"]
    first = rows[0].stored
    assert (first.sop_class_uid, first.series_instance_uid, first.transfer_syntax_uid) == (CT, SERIES, EXPLICIT)
    assert first.calling_ae == "RECOVERED"
    assert [(one.association, one.released) for one in any_site.ended] == [(first.association, False)]
    assert any_site.sizes() == sizes
    assert any_site.recover() == Recovered()


def test_all_is_back_after_the_journal_and_the_log_were_lost(any_site: Site) -> None:
    any_site.receive(1, 2)
    any_site.end()
    any_site.lose_receipts()
    any_site.lose_journal()
    any_site.start()
    assert any_site.recover() == Recovered(objects=2)
    any_site.relay()
    assert any_site.uids() == uids(1, 2)


def test_what_came_since_an_older_journal_comes_in(site: Site) -> None:
    site.receive(1)
    site.relay()
    site.journal.close()
    older = (site.folder / "journal.sqlite").read_bytes()
    site.journal = Journal(site.folder / "journal.sqlite", durable=False)
    site.receive(2)
    site.settle()
    site.lose_journal()
    site.journal.close()
    (site.folder / "journal.sqlite").write_bytes(older)
    site.journal = Journal(site.folder / "journal.sqlite", durable=False)
    assert site.uids() == uids(1)
    assert site.recover() == Recovered(objects=1)
    site.relay()
    assert site.uids() == uids(1, 2)


@pytest.mark.parametrize("damaged", [1, 2, 3])
def test_an_object_whose_receipt_is_damaged_comes_in(site: Site, damaged: int) -> None:
    placed = site.receive(1, 2, 3)
    (log,) = (site.folder / "receipts").glob(f"{site.receipts.name}*.routine.log")
    site.end()
    data = bytearray(log.read_bytes())
    data[data.index(b"1.2.9.%d" % damaged)] ^= 1
    log.write_bytes(data)
    site.start()
    site.relay()
    assert site.uids() == uids(1, 2, 3) - uids(damaged)
    assert site.recover() == Recovered(objects=1)
    site.relay()
    assert site.uids() == uids(1, 2, 3)
    assert {row.stored.location for row in site.rows()} == {one.location for one in placed}
    assert site.recover() == Recovered()


def test_only_what_is_torn_is_cut(site: Site) -> None:
    (placed,) = site.receive(1)
    whole = site.put(2)  # killed before its receipt
    torn = site.spool.begin(Address(STUDY, SERIES, "1.2.9.3", CT, EXPLICIT))
    torn.write([b"half"])
    alone = site.spool.begin(Address(STUDY, f"{SERIES}.1", "1.2.9.4", CT, EXPLICIT))
    alone.write([b"half"])
    site.relay()
    assert site.recover() == Recovered()  # its writer lives
    path = site.folder / "spool" / segment_of(placed.location)
    data, half = path.read_bytes(), next(path.parent.parent.glob(f"{SERIES}.1/*.seg"))
    torn.discard()
    alone.discard()
    site.settle()
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b"half")
    path.write_bytes(data)
    assert path.stat().st_size > whole.length + placed.length + 2 * FOOTER_SIZE
    assert site.recover() == Recovered(objects=1, torn=2)
    assert path.stat().st_size == whole.length + placed.length + 2 * FOOTER_SIZE
    assert not half.parent.exists()
    site.relay()
    assert site.uids() == uids(1, 2)


def test_what_a_dead_writer_acknowledged_is_waited_for(any_site: Site) -> None:
    any_site.receive(1)
    any_site.end()
    any_site.start()
    assert any_site.recover() == Recovered(waits=True)
    any_site.relay()
    assert any_site.recover() == Recovered()
    assert [row.stored.calling_ae for row in any_site.rows()] == ["CT1"]


def test_what_retention_let_go_of_does_not_come_again(any_site: Site) -> None:
    any_site.receive(1, 2)
    any_site.settle()
    any_site.journal.forget(any_site.rows()[:1])
    assert any_site.recover() == Recovered()
    any_site.journal.forget(any_site.rows())
    assert any_site.recover() == Recovered()
    assert any_site.rows() == []


def test_nothing_of_a_living_writer_is_cut_when_its_log_was_deleted(site: Site) -> None:
    site.receive(1)
    site.lose_receipts()
    under_way = site.spool.begin(Address(STUDY, f"{SERIES}.2", "1.2.9.8", CT, EXPLICIT))
    under_way.write([b"half"])
    assert site.recover().objects == 0  # both segments are open
    site.spool.seal(idle_for=0.0)
    assert site.recover() == Recovered(objects=1)
    site.relay()
    assert site.uids() == uids(1)
    placed = under_way.finish([b"whole"])
    assert site.spool.read_range(placed.location, 0, placed.length).endswith(b"halfwhole")


def test_a_file_of_an_older_version_comes_in(site: Site) -> None:
    (placed,) = site.receive(1)
    site.settle()
    data = site.spool.read_range(placed.location, 0, placed.length)
    old = site.folder / "spool" / STUDY / SERIES / "1.2.9.1.0123456789abcdef.dcm"
    old.write_bytes(data.replace(b"1.2.9.1", b"1.2.9.7"))
    assert site.recover() == Recovered(objects=1)
    site.relay()
    assert site.uids() == uids(1, 7)
    assert site.recover() == Recovered()


def test_bytes_that_say_nothing_stay_and_bring_nothing(site: Site) -> None:
    (placed,) = site.receive(1)
    site.settle()
    path = site.folder / "spool" / segment_of(placed.location)
    data = bytearray(path.read_bytes())
    data[128:200] = bytes(72)
    path.write_bytes(data)
    site.lose_journal()
    assert site.recover() == Recovered()
    assert path.read_bytes() == data


def test_what_grows_while_it_is_looked_at_is_not_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that was not known of when the look began may have finished an object since."""
    (first,) = site.receive(1)
    site.settle()
    segment = site.folder / "spool" / segment_of(first.location)
    whole = segment.read_bytes()
    offset = len(whole)
    later = f"{segment_of(first.location)}@{offset}+{first.length}"
    with segment.open("ab") as file:
        file.write(b"torn")
    written_at = site.spool.written_at

    def grows(name: str) -> float:
        with segment.open("r+b") as file:
            file.seek(offset)
            file.write(whole[: first.length] + footer(later, first.length))
        return written_at(name)

    with monkeypatch.context() as patch:
        patch.setattr(site.spool, "written_at", grows)
        site.recover()
    size = offset + first.length + FOOTER_SIZE
    assert site.sizes() == {segment_of(first.location): size}
    site.recover()
    assert site.sizes() == {segment_of(first.location): size}


def test_what_a_living_writer_may_still_acknowledge_is_left_alone(any_site: Site) -> None:
    placed = any_site.put(1)
    any_site.spool.seal(idle_for=0.0)
    assert any_site.recover() == Recovered()
    any_site.acknowledge(1, placed)
    any_site.relay()
    assert [row.stored.calling_ae for row in any_site.rows()] == ["CT1"]


def test_a_gap_is_filled_once_also_with_what_retention_let_go_of(site: Site) -> None:
    first = site.put(1)
    site.receive(2)
    site.settle()
    site.journal.forget(site.rows())
    assert site.recover() == Recovered(objects=2)
    assert site.journal.gaps() == set()
    site.relay()
    assert {row.stored.location for row in site.rows()} > {first.location}
    site.journal.forget(site.rows())
    assert site.recover() == Recovered()


def test_of_a_spool_that_several_share_only_those_segments_are_looked_at_that_one_answers_for(site: Site) -> None:
    spools = {
        name: FileSpool(site.spool.root, durability="none", receiver=name) for name in ("b_00000001", "c_00000002")
    }
    placed = {
        name: spool.put(Address(STUDY, SERIES, f"1.2.9.{number}", CT, EXPLICIT), [b"x" * 64])
        for number, (name, spool) in enumerate(spools.items())
    }
    for spool in spools.values():
        spool.close()
    torn = site.spool.root / segment_of(placed["c_00000002"].location)
    with torn.open("ab") as file:
        file.write(b"torn")

    def recover_for(*names: str) -> Recovered:
        return recover(journal=site.journal, spool=site.spool, receipts=site.folder / "receipts", receivers=names)

    assert recover_for("a_00000000") == Recovered()
    assert recover_for("a_00000000", "b_00000001") == Recovered(objects=1)
    site.relay()
    assert [row.stored.location for row in site.rows()] == [placed["b_00000001"].location]
    assert torn.read_bytes().endswith(b"torn")
    assert recover_for("c_00000002") == Recovered(objects=1, torn=1)


def test_what_was_committed_is_kept_after_the_journal_was_lost(any_site: Site) -> None:
    site = any_site
    site.receive(1, 2)
    site.relay()
    site.settle()  # these are in the spool alone
    site.receive(3)
    site.relay()  # and this one is in the log as well
    pairs = [(CT, f"1.2.9.{number}") for number in (1, 2, 3)]
    assert site.journal.commit_objects(pairs, 70.0, exists=lambda _: True) == pairs
    assert site.journal.forget(site.rows()) == []
    site.lose_journal()
    site.relay()
    assert site.uids() == uids(3)
    assert site.recover() == Recovered(objects=2)
    site.relay()
    assert site.uids() == uids(1, 2, 3)
    assert site.journal.forget(site.rows()) == []
    assert site.uids() == uids(1, 2, 3)
