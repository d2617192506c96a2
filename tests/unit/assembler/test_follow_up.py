"""Studies of one patient: the later one's job names the earlier, whichever comes first, and is made again when it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from contract.arrivals import make_slice

from ichor.bus.memory import MemoryBus
from ichor.clock import ManualClock
from ichor.messages import AssociationClosed, InstancesReceived, open_envelope, seal
from ichor.pipeline import PipelineSpec
from ichor.reasons import Reason
from ichor.shards import shard_of, shards
from ichor.store.blobs import FileBlobs
from ichor.types import Findings, Instance, Job, Scan
from listener.assembler import Assembler
from listener.assembly_store import AssemblyStore

HOUR = 3600.0
EARLIER, LATER = "1.2.1", "1.2.2"


def _never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


PIPELINE = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=_never, follow_up_hours=72.0)


class Place:
    """An assembler for each shard on a folder; ``again`` is a second start of all."""

    def __init__(self, folder: Path, *, of: int) -> None:
        self.folder, self.clock, self.shards = folder, ManualClock(), shards(of)
        self.bus, self.blobs = MemoryBus(clock=self.clock), FileBlobs(folder / "blobs")
        self.taker = self.bus.subscribe(["jobs.haematoma.routine"], "worker")
        self.told = [self.bus.subscribe([shard.topic], shard.group) for shard in self.shards]
        self.stores: list[AssemblyStore] = []
        self.again()

    def again(self) -> None:
        for store in self.stores:
            store.close()
        self.stores = [AssemblyStore(self.folder / f"{shard.number}.sqlite") for shard in self.shards]
        self.assemblers = [
            Assembler(
                bus=self.bus, blobs=self.blobs, store=store, pipelines=(PIPELINE,), study_wait=10.0, clock=self.clock,
                shard=shard,
            )
            for shard, store in zip(self.shards, self.stores, strict=True)
        ]  # fmt: skip

    def bring(self, instances: list[Instance], *, association: str = "a1", settled: bool = True) -> None:
        study, series = instances[0].study_instance_uid, instances[0].series_instance_uid
        received = InstancesReceived(
            study_instance_uid=study, association=association, instances=tuple(instances)
        )  # fmt: skip
        closed = AssociationClosed(
            study_instance_uid=study, association=association, released=True, calling_ae="CT1",
            counts={series: len(instances)}, closed_at=self.clock.time(),
        )  # fmt: skip
        for message in (received, closed):
            self.clock.advance(1.0)
            number = shard_of(study, len(self.shards)).number
            self.assemblers[number].take(seal(message, source="test", time=self.clock.time()))
        if settled:
            self.settle()

    def settle(self) -> None:
        """Let pass whatever waits for silence."""
        for _ in range(60):
            for number in range(len(self.shards)):
                while self.step(number):
                    pass
            self.clock.advance(1.0)

    def step(self, number: int) -> bool:
        """One turn of a shard's loop; False when there was no message."""
        assembler = self.assemblers[number]
        delivery = self.told[number].receive(0)
        if delivery is not None:
            assembler.take(delivery.envelope)
            delivery.ack()
        assembler.heard(self.clock.time())
        assembler.run_due()
        assembler.publish()
        return delivery is not None

    def jobs(self) -> list[Job]:
        found = []
        while (delivery := self.taker.receive(0)) is not None:
            data = open_envelope(delivery.envelope)
            assert isinstance(data, Job)
            found.append(data)
            delivery.ack()
        return found


@pytest.fixture(params=[1, 4], ids="{} shards".format)
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """The same, however many shards the studies lie in."""
    return Place(tmp_path, of=request.param)


def head(study: str, *, hours: float | None, born: str | None = "b" * 32, **how: object) -> list[Instance]:
    at = None if hours is None else 1e9 + hours * HOUR
    return [
        make_slice(study=study, series=f"{study}.1", number=n + 1, acquired_at=at, birth_date_sha256=born, **how)  # type: ignore[arg-type]
        for n in range(10)
    ]


def told(jobs: list[Job]) -> list[tuple[str, int, str | None]]:
    """(study, revision, earlier study or refusal)."""
    return [
        (j.study_instance_uid, j.revision, (j.earlier.refusal or j.earlier.study_instance_uid) if j.earlier else None)
        for j in jobs
    ]


def test_the_later_study_names_the_earlier_and_its_series(place: Place) -> None:
    place.bring(head(EARLIER, hours=0))
    place.bring(head(LATER, hours=6))
    first, second = place.jobs()
    assert told([first, second]) == [(EARLIER, 1, None), (LATER, 1, EARLIER)]
    assert second.earlier is not None
    assert second.earlier.inputs == first.inputs
    assert second.earlier.hours == 6.0


@pytest.mark.parametrize("restart", [False, True])
def test_the_later_study_is_done_again_when_the_earlier_comes_after_it(place: Place, restart: bool) -> None:
    place.bring(head(LATER, hours=6))
    if restart:
        place.again()
    place.bring(head(EARLIER, hours=0))
    assert told(place.jobs()) == [(LATER, 1, None), (EARLIER, 1, None), (LATER, 2, EARLIER)]


def test_the_order_survives_a_stop_between_the_two(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.bring(head(LATER, hours=6))
    monkeypatch.setattr(place, "settle", lambda: None)
    place.bring(head(EARLIER, hours=0))
    monkeypatch.undo()
    place.again()
    place.settle()
    assert told(place.jobs())[-1] == (LATER, 2, EARLIER)


def test_beyond_three_days_nothing_is_said(place: Place) -> None:
    place.bring(head(EARLIER, hours=0))
    place.bring(head(LATER, hours=72.5))
    assert told(place.jobs()) == [(EARLIER, 1, None), (LATER, 1, None)]


def test_another_birth_date_is_not_linked_and_said(place: Place) -> None:
    place.bring(head(EARLIER, hours=0))
    place.bring(head(LATER, hours=6, born="c" * 32))
    assert told(place.jobs())[-1] == (LATER, 1, Reason.EARLIER_OTHER_BIRTH_DATE)


def test_a_missing_time_is_said_by_both(place: Place) -> None:
    place.bring(head(EARLIER, hours=None))
    place.bring(head(LATER, hours=6))
    assert told(place.jobs()) == [
        (EARLIER, 1, None),
        (LATER, 1, Reason.EARLIER_NO_TIME),
        (EARLIER, 2, Reason.EARLIER_NO_TIME),
    ]


def test_a_late_slice_of_the_earlier_study_makes_the_comparison_anew_and_then_there_is_rest(place: Place) -> None:
    place.bring(head(EARLIER, hours=0))
    place.bring(head(LATER, hours=6))
    place.jobs()
    more = make_slice(
        study=EARLIER, series=f"{EARLIER}.1", number=11, acquired_at=1e9, birth_date_sha256="b" * 32
    )  # fmt: skip
    place.bring([more], association="a2")
    assert told(place.jobs()) == [(EARLIER, 2, None), (LATER, 2, EARLIER)]
    place.settle()
    assert place.jobs() == []


def test_a_scan_between_the_two_takes_the_place_of_the_first(place: Place) -> None:
    place.bring(head(EARLIER, hours=0))
    place.bring(head(LATER, hours=20))
    place.bring(head("1.2.3", hours=10))
    assert told(place.jobs())[-2:] == [("1.2.3", 1, EARLIER), (LATER, 2, "1.2.3")]


def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Studies whose jobs are planned anew from now on because of another one."""
    seen: list[str] = []
    ask = Assembler._to_compare

    def asked(self: Assembler, moved: Mapping[str, tuple[Scan | None, Scan | None]]) -> set[str]:
        found = ask(self, moved)
        seen.extend(found)
        return found

    monkeypatch.setattr(Assembler, "_to_compare", asked)
    return seen


def test_of_fifty_scans_only_the_next_one_is_looked_at_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in reversed(range(0, 100, 2)):
        place.bring(head(f"1.2.{100 + n}", hours=n / 2))
    place.jobs()
    seen = looks(monkeypatch)
    place.bring(head("1.2.105", hours=2.5))
    assert told(place.jobs()) == [("1.2.105", 1, "1.2.104"), ("1.2.106", 3, "1.2.105")]
    assert seen == ["1.2.106"]


def test_copies_are_never_compared_but_each_with_the_scan_before_in_whatever_order_they_come(place: Place) -> None:
    copies = [f"1.2.{n}" for n in range(100, 120)]
    for study in copies:
        place.bring(head(study, hours=6))
    assert told(place.jobs()) == [(study, 1, None) for study in copies]
    place.bring(head(EARLIER, hours=0))
    first, *rest = told(place.jobs())
    assert first == (EARLIER, 1, None)
    assert sorted(rest) == [(study, 2, EARLIER) for study in copies]


def test_a_corrected_name_costs_the_next_scan_one_job_and_the_others_none(place: Place) -> None:
    for n in range(6):
        place.bring(head(f"1.2.{n + 1}", hours=6 * n))
    place.jobs()
    corrected = [
        replace(image, identity_sha256=image.identity_sha256[:32] + "f" * 32, file_sha256=f"new {n}", received_at=2e9)
        for n, image in enumerate(head("1.2.3", hours=12))
    ]
    place.bring(corrected, association="a2")
    assert told(place.jobs()) == [("1.2.3", 2, "1.2.2"), ("1.2.4", 2, "1.2.3")]


def test_an_earlier_study_that_turns_out_to_be_of_two_patients_is_taken_back(place: Place) -> None:
    place.bring(head(EARLIER, hours=0))
    place.bring(head(LATER, hours=6))
    place.jobs()
    other = make_slice(study=EARLIER, series=f"{EARLIER}.2", number=1, patient="q", acquired_at=1e9)
    place.bring([other], association="a2")
    assert told(place.jobs())[-1] == (LATER, 2, None)


def test_messages_and_index_hold_no_identity(place: Place) -> None:
    place.bring(head(EARLIER, hours=0, patient="DOE^JANE 4711"))
    place.bring(head(LATER, hours=6, patient="DOE^JANE 4711"))
    kept = b"".join(path.read_bytes() for path in place.folder.rglob("*") if path.is_file())
    sent = "".join(e.model_dump_json() for _, e in place.bus.read("events"))
    assert b"4711" not in kept
    assert "4711" not in sent


@pytest.mark.parametrize("seed", range(3))
def test_in_whatever_order_studies_and_news_of_them_come_the_last_reports_compare_the_same(
    tmp_path: Path, seed: int
) -> None:
    """Images of seven scans of two patients, some in parts, among news of scans that wait for any time."""
    scans = {f"1.2.{n}": ("pq"[n % 3 == 0], 6.0 * (n // 2)) for n in range(1, 8)}
    parts = [(study, part) for study in scans for part in (slice(0, 7), slice(7, 10))]

    def last(of: int) -> dict[str, tuple[str | None, float]]:
        chance = Random(seed)
        chance.shuffle(parts)
        place = Place(tmp_path / f"{of}", of=of)
        for number, (study, part) in enumerate(parts):
            patient, hours = scans[study]
            place.bring(head(study, hours=hours, patient=patient)[part], association=f"a{number}", settled=False)
            for _ in range(chance.randrange(12)):
                place.step(chance.randrange(of))
        place.settle()
        found = {job.study_instance_uid: job for job in place.jobs()}
        assert {uid: job.inputs["ncct_head"].instances for uid, job in found.items()} == dict.fromkeys(scans, 10)
        return {
            uid: (job.earlier.refusal or job.earlier.study_instance_uid, job.earlier.hours) if job.earlier else (None, 0.0)
            for uid, job in found.items()
        }  # fmt: skip

    one = last(1)
    assert one == last(4) == last(16)
    assert one["1.2.4"] == ("1.2.2", 6.0)
    assert one["1.2.1"] == (None, 0.0)
