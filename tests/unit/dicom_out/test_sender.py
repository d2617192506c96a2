"""Deliveries to a storage SCP on the loopback, and what the event log says of them."""

from __future__ import annotations

import errno
import io
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import BasicTextSRStorage, Comprehensive3DSRStorage, ExplicitVRLittleEndian, SegmentationStorage
from pynetdicom.association import Association
from unit.away import Away

from dicom_out.demo_pacs import DemoPacs
from dicom_out.outbox import Backoff, Outbox
from dicom_out.sender import port_open, run_sender
from dicom_out.transport import (
    RESULT_CLASSES,
    Answer,
    Unreachable,
    Verdict,
    accepted_classes,
    echo,
    judge,
    store_objects,
)
from ichor.bus import Delivery, Subscription
from ichor.bus.memory import MemoryBus
from ichor.clock import ManualClock, SystemClock
from ichor.errors import CannotStart, TransientError
from ichor.messages import EVENTS, RESULTS, DeliveryChanged, ResultReady, open_envelope, seal
from ichor.metrics import DELIVERY_RETRIES
from ichor.reasons import Reason
from ichor.types import Destination, ResultObject
from ichor.uids import uid_of

STUDY = uid_of("send-study")
IDENTITY = "1d" * 32


class MemoryBlobs:
    """`ichor.store.protocol.Blobs`, as far as the sender reads it."""

    def __init__(self, items: dict[str, bytes]) -> None:
        self.items = items

    def get(self, key: str) -> bytes:
        return self.items[key]

    def exists(self, key: str) -> bool:
        return key in self.items

    put = put_set = keys = delete = None  # type: ignore[assignment]


def make_object(number: int, sop_class: str) -> tuple[ResultObject, bytes]:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet, dataset.PatientName = "GB18030", "Wang=王^小东"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid_of("send-object", number)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, uid_of("send-series", number)
    sink = io.BytesIO()
    dataset.save_as(sink, enforce_file_format=True)
    data = sink.getvalue()
    listed = ResultObject(
        sop_instance_uid=dataset.SOPInstanceUID, sop_class_uid=sop_class, series_instance_uid=dataset.SeriesInstanceUID,
        kind="report", key=f"o{number}", sha256="", length=len(data),
    )  # fmt: skip
    return listed, data


MADE = [make_object(n, c) for n, c in enumerate((SegmentationStorage, Comprehensive3DSRStorage, BasicTextSRStorage))]
OBJECTS = tuple(o for o, _ in MADE)


def ready(*destinations: str, job: str = "j1") -> ResultReady:
    return ResultReady(
        study_instance_uid=STUDY, job_id=job, pipeline="haematoma", revision=1, identity_sha256=IDENTITY,
        destinations=destinations or ("pacs",), objects=OBJECTS, ready_at=0.0,
    )  # fmt: skip


@dataclass
class Running:
    """`run_sender` in a thread over a memory bus."""

    destinations: Sequence[Destination]
    identity: tuple[str, ...] | None = (IDENTITY,)
    withdrawn: dict[str, str] = field(default_factory=dict)
    bus: MemoryBus = field(default_factory=MemoryBus)
    blobs: MemoryBlobs = field(default_factory=lambda: MemoryBlobs({o.key: data for o, data in MADE}))
    stop: threading.Event = field(default_factory=threading.Event)
    seen: list[DeliveryChanged] = field(default_factory=list)
    cursor: int = 0

    def __enter__(self) -> Running:
        up = threading.Event()
        self.thread = threading.Thread(
            target=run_sender,
            kwargs={
                "destinations": self.destinations, "bus": self.bus, "blobs": self.blobs, "clock": SystemClock(),
                "stop": self.stop, "on_ready": up.set, "calling_ae": "ICHOR", "identity_of": self.identities,
                "withdrawn": lambda _, job: self.withdrawn.get(job),
            },
        )  # fmt: skip
        self.thread.start()
        assert up.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()

    def identities(self, _study: str, _job: str) -> tuple[str, ...] | None:
        return self.identity

    def publish(self, message: ResultReady) -> None:
        self.bus.publish(RESULTS, [seal(message, source="test", time=0.0)])

    def until(self, enough: Callable[[list[DeliveryChanged]], bool]) -> list[DeliveryChanged]:
        """All delivery events once ``enough`` holds for them."""
        while not enough(self.seen):
            entries = self.bus.read(EVENTS, after=self.cursor, wait=60.0)
            assert entries, f"in vain: {self.seen}"
            self.cursor = entries[-1][0]
            changes = (open_envelope(envelope) for _, envelope in entries)
            self.seen.extend(c for c in changes if isinstance(c, DeliveryChanged))
        return self.seen


def finals(events: Iterable[DeliveryChanged]) -> dict[str, str]:
    return {e.sop_instance_uid: e.state for e in events if e.state != "pending"}


def to(pacs: DemoPacs, name: str = "pacs") -> Destination:
    return Destination(name=name, ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.port)


@pytest.fixture
def pacs() -> Iterator[DemoPacs]:
    with DemoPacs() as server:
        yield server


def test_every_object_arrives_with_the_stored_bytes(pacs: DemoPacs) -> None:
    with Running([to(pacs)]) as running:
        running.publish(ready())
        events = running.until(lambda seen: len(finals(seen)) == 3)
    assert set(finals(events).values()) == {"sent"}
    for listed, data in MADE:
        # The File Meta Information is 132 bytes, its own group, then the data set as it was stored.
        assert data.endswith(pacs.encoded[listed.sop_instance_uid])
        assert pydicom.dcmread(io.BytesIO(data)) == pacs.received[listed.sop_instance_uid]
    assert all(e.seconds is not None for e in events)


def test_each_destination_gets_its_own_messages_only(pacs: DemoPacs) -> None:
    with DemoPacs() as other, Running([to(pacs), to(other, "other")]) as running:
        running.publish(ready("other"))
        running.publish(ready("other", "pacs", job="j2"))
        events = running.until(lambda seen: len(seen) == 9)
    assert pacs.stores == 3
    assert other.stores == 6
    assert sorted({(e.destination, e.job_id) for e in events}) == [("other", "j1"), ("other", "j2"), ("pacs", "j2")]


def test_a_destination_that_is_away_is_tried_until_it_is_back(free_port: Callable[[], int]) -> None:
    port = free_port()
    away = Destination(name="pacs", ae_title="DEMOPACS", host="127.0.0.1", port=port)
    with Running([away]) as running:
        running.publish(ready())
        waiting = list(running.until(lambda seen: len(seen) >= 3))
        assert {(e.state, e.attempts, e.reason) for e in waiting} == {
            ("pending", 1, "no connection to the destination")
        }
        with DemoPacs(port=port) as pacs:
            running.until(lambda seen: len(finals(seen)) == 3)
            assert pacs.stores == 3
    assert set(finals(running.seen).values()) == {"sent"}
    assert running.bus.dead_letters() == []


def test_a_duplicate_counts_as_sent() -> None:
    with DemoPacs(say_duplicate=True) as pacs, Running([to(pacs)]) as running:
        running.publish(ready())
        running.publish(ready(job="j2"))
        events = running.until(lambda seen: len(seen) == 6)
        assert pacs.stores == 6
    assert [e.state for e in events] == ["sent"] * 6


def test_a_class_that_is_not_accepted_is_refused_and_stops_no_other() -> None:
    with DemoPacs(classes=(Comprehensive3DSRStorage, BasicTextSRStorage)) as pacs, Running([to(pacs)]) as running:
        running.publish(ready())
        events = running.until(lambda seen: len(finals(seen)) == 3)
        assert set(pacs.received) == {OBJECTS[1].sop_instance_uid, OBJECTS[2].sop_instance_uid}
    (refused,) = [e for e in events if e.state == "refused"]
    assert refused.sop_instance_uid == OBJECTS[0].sop_instance_uid
    assert refused.reason == "the destination does not accept Segmentation Storage"


def test_a_destination_that_accepts_nothing_refuses_all() -> None:
    with DemoPacs(classes=()) as pacs, Running([to(pacs)]) as running:
        running.publish(ready())
        events = running.until(lambda seen: len(finals(seen)) == 3)
    assert set(finals(events).values()) == {"refused"}


def test_a_permanent_failure_of_one_object_stops_no_other() -> None:
    def status(dataset: Dataset) -> int:
        return 0xA900 if dataset.SOPClassUID == SegmentationStorage else 0

    with DemoPacs(status=status) as pacs, Running([to(pacs)]) as running:
        running.publish(ready())
        events = running.until(lambda seen: len(finals(seen)) == 3)
    assert finals(events)[OBJECTS[0].sop_instance_uid] == "refused"
    assert sorted(finals(events).values()) == ["refused", "sent", "sent"]
    assert "0xA900" in next(e.reason or "" for e in events if e.state == "refused")


def test_out_of_resources_is_tried_again_and_only_what_is_left() -> None:
    full = [True]

    def status(dataset: Dataset) -> int:
        return 0xA700 if dataset.SOPClassUID == SegmentationStorage and full.pop() is True else 0

    full.insert(0, False)
    with DemoPacs(status=status) as pacs, Running([to(pacs)]) as running:
        running.publish(ready())
        events = running.until(lambda seen: len(finals(seen)) == 3)
        assert pacs.stores == 4
    assert set(finals(events).values()) == {"sent"}
    (pending,) = [e for e in events if e.state == "pending"]
    assert "0xA700" in (pending.reason or "")


def test_a_result_of_another_identity_is_held(pacs: DemoPacs) -> None:
    with Running([to(pacs)], identity=("ff" * 32,)) as running:
        running.publish(ready())
        events = running.until(lambda seen: len(finals(seen)) == 3)
    assert {(e.state, e.reason) for e in events} == {("held", Reason.IDENTITY_MISMATCH.value)}
    assert pacs.stores == 0


def test_a_result_is_held_while_the_headers_contradict_each_other(pacs: DemoPacs) -> None:
    with Running([to(pacs)], identity=()) as running:
        running.publish(ready())
        events = running.until(lambda seen: len(finals(seen)) == 3)
    assert {(e.state, e.reason) for e in events} == {("held", Reason.IDENTITY_MISMATCH.value)}
    assert pacs.stores == 0


def test_a_withdrawn_result_is_held_and_the_report_that_withdrew_it_goes(pacs: DemoPacs) -> None:
    with Running([to(pacs)], withdrawn={"j1": Reason.TWO_PATIENTS.value}) as running:
        running.publish(ready())
        running.publish(ready(job="j2"))
        events = running.until(lambda seen: len(seen) == 6)
    assert {(e.job_id, e.state, e.reason) for e in events} == {
        ("j1", "held", Reason.TWO_PATIENTS.value), ("j2", "sent", None),
    }  # fmt: skip
    assert pacs.stores == 3


def test_an_unknown_identity_holds_nothing(pacs: DemoPacs) -> None:
    with Running([to(pacs)], identity=None) as running:
        running.publish(ready())
        assert set(finals(running.until(lambda seen: len(finals(seen)) == 3)).values()) == {"sent"}


def test_a_result_that_is_gone_fails_and_the_others_go(pacs: DemoPacs) -> None:
    with Running([to(pacs)], blobs=MemoryBlobs({o.key: d for o, d in MADE[1:]})) as running:
        running.publish(ready())
        events = running.until(lambda seen: len(finals(seen)) == 3)
    assert finals(events)[OBJECTS[0].sop_instance_uid] == "failed"
    assert sorted(finals(events).values()) == ["failed", "sent", "sent"]


@dataclass
class FakeDelivery:
    """A delivery whose ending is looked at."""

    message: ResultReady
    dead: bool = False
    attempt: int = 1
    ended: list[tuple[str, object]] = field(default_factory=list)
    topic: str = RESULTS

    def __post_init__(self) -> None:
        self.envelope = seal(self.message, source="test", time=0.0)

    def ack(self) -> None:
        self.ended.append(("ack", None))

    def retry(self, delay: float, *, reason: str, count: bool = True) -> None:
        self.ended.append(("retry" if count else f"not counted: {reason}", delay))

    def reject(self, reason: str) -> None:
        self.ended.append(("reject", reason))

    def extend(self, seconds: float) -> None:
        pass


def outbox(
    store: object,
    *,
    clock: ManualClock,
    bus: MemoryBus,
    reachable: Callable[[], bool] = lambda: True,
    blobs: MemoryBlobs | None = None,
) -> Outbox:
    return Outbox(
        Destination(name="pacs", ae_title="X", host="127.0.0.1", port=1), bus=bus, clock=clock, calling_ae="ICHOR",
        blobs=blobs or MemoryBlobs({o.key: d for o, d in MADE}), identity_of=lambda _study, _job: None, store=store,  # type: ignore[arg-type]
        withdrawn=lambda _study, _job: None,
        reachable=lambda _: reachable(), stopping=lambda: False, rng=random.Random(1),
    )  # fmt: skip


def test_while_away_no_message_is_tried_before_the_port_answers() -> None:
    clock, bus, tried, answers = ManualClock(), MemoryBus(), [], [False, False, True]

    def store(*_: object, **__: object) -> Iterator[tuple[ResultObject, Answer]]:
        tried.append(clock.monotonic())
        raise Unreachable("no connection to the destination", no_listener=True)

    box = outbox(store, clock=clock, bus=bus, reachable=lambda: answers.pop(0))
    messages = [FakeDelivery(ready(job=f"j{n}")) for n in range(4)]
    for message in messages:
        box.handle(message)  # type: ignore[arg-type]
        clock.advance(1.5)
    assert len(tried) == 2  # the first, and the one after the port answered
    assert {m.ended[0][0] for m in messages} == {"not counted: no connection to the destination"}
    told = [open_envelope(e) for _, e in bus.read(EVENTS)]
    assert {(e.job_id, e.reason) for e in told if isinstance(e, DeliveryChanged)} == {
        (f"j{n}", "no connection to the destination") for n in range(4)
    }


@pytest.mark.parametrize("verb", ["exists", "get"])
@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TransientError("store s3://images: the endpoint cannot be reached"),) * 2,
        (OSError(errno.ESTALE, "Stale file handle"), "the store of results: Stale file handle"),
    ],
)
def test_while_the_store_of_results_is_away_a_message_waits_and_is_not_counted(
    verb: str, error: Exception, why: object
) -> None:
    class Away(MemoryBlobs):
        def exists(self, key: str) -> bool:
            return self._absent() if verb == "exists" else super().exists(key)

        def get(self, key: str) -> bytes:
            return self._absent() if verb == "get" else super().get(key)

        def _absent(self) -> Any:
            raise error

    def store(
        _: object, objects: Sequence[ResultObject], *, read: Callable[[ResultObject], bytes], **__: object
    ) -> Iterator[tuple[ResultObject, Answer]]:
        for item in objects:
            read(item)
            yield item, Answer(Verdict.SENT)

    bus, message = MemoryBus(), FakeDelivery(ready())
    blobs = Away({o.key: d for o, d in MADE})
    outbox(store, clock=ManualClock(), bus=bus, blobs=blobs).handle(message)  # type: ignore[arg-type]
    ((how, delay),) = message.ended
    assert how == f"not counted: {why}"
    assert delay
    assert {(e.data["state"], e.data["reason"]) for _, e in bus.read(EVENTS)} == {("pending", str(why))}


def test_a_rejected_association_is_tried_ever_more_rarely() -> None:
    clock, tried = ManualClock(), []

    def store(*_: object, **__: object) -> Iterator[tuple[ResultObject, Answer]]:
        tried.append(clock.monotonic())
        raise Unreachable("association rejected: called ae title not recognised")

    bus = MemoryBus()
    box = outbox(store, clock=clock, bus=bus)
    delivery = FakeDelivery(ready())
    for _ in range(600):
        box.handle(delivery)  # type: ignore[arg-type]
        clock.advance(1.0)
    gaps = [b - a for a, b in itertools.pairwise(tried)]
    assert 10 <= len(tried) <= 30
    assert max(gaps) <= 61
    assert gaps[0] <= 2
    told = [e for _, m in bus.read(EVENTS) if isinstance(e := open_envelope(m), DeliveryChanged)]
    times = [e.at for e in told if e.sop_instance_uid == OBJECTS[0].sop_instance_uid]
    assert len(told) == 3 * len(times)
    assert 3 <= len(times) <= 5
    assert min(b - a for a, b in itertools.pairwise(times)) >= 60


def test_a_message_that_crashed_the_sender_fails() -> None:
    bus = MemoryBus()
    delivery = FakeDelivery(ready(), dead=True)
    outbox(None, clock=ManualClock(), bus=bus).handle(delivery)  # type: ignore[arg-type]
    told = [open_envelope(e) for _, e in bus.read(EVENTS)]
    assert {(e.state, e.reason) for e in told if isinstance(e, DeliveryChanged)} == {
        ("failed", "given up after repeated crashes of the sender")
    }
    assert delivery.ended == [("ack", None)]


def test_an_unclear_failure_is_refused_after_five_attempts() -> None:
    bus, clock = MemoryBus(), ManualClock()

    def store(_: Destination, objects: Sequence[ResultObject], **__: object) -> Iterator[tuple[ResultObject, Answer]]:
        for item in objects:
            yield item, Answer(Verdict.UNCLEAR, "0x0110")

    box = outbox(store, clock=clock, bus=bus)
    delivery = FakeDelivery(ready())
    for _ in range(5):
        assert not any(ended == "ack" for ended, _ in delivery.ended)
        box.handle(delivery)  # type: ignore[arg-type]
    assert delivery.ended[-1] == ("ack", None)
    told = [open_envelope(e) for _, e in bus.read(EVENTS)]
    assert {e.attempts for e in told if isinstance(e, DeliveryChanged) and e.state == "refused"} == {5}


def test_rejected_associations_are_no_unclear_answers() -> None:
    bus, clock, tries = MemoryBus(), ManualClock(), itertools.count()

    def store(_: Destination, objects: Sequence[ResultObject], **__: object) -> Iterator[tuple[ResultObject, Answer]]:
        if next(tries) < 5:
            raise Unreachable("association rejected")
        for item in objects:
            yield item, Answer(Verdict.UNCLEAR, "0xC000")

    box = outbox(store, clock=clock, bus=bus)
    delivery = FakeDelivery(ready())
    for _ in range(6):
        box.handle(delivery)  # type: ignore[arg-type]
        clock.advance(61.0)
    told = [e for _, m in bus.read(EVENTS) if isinstance(e := open_envelope(m), DeliveryChanged)]
    assert {e.state for e in told} == {"pending"}
    assert (told[-1].reason, told[-1].attempts) == ("0xC000", 6)


def test_what_was_sent_before_a_crash_stays_sent() -> None:
    bus, clock = MemoryBus(), ManualClock()

    def store(_: Destination, objects: Sequence[ResultObject], **__: object) -> Iterator[tuple[ResultObject, Answer]]:
        yield objects[0], Answer(Verdict.SENT)
        raise RuntimeError("crash")

    delivery = FakeDelivery(ready())
    with pytest.raises(RuntimeError):
        outbox(store, clock=clock, bus=bus).handle(delivery)  # type: ignore[arg-type]
    asked: list[str] = []

    def again(_: Destination, objects: Sequence[ResultObject], **__: object) -> Iterator[tuple[ResultObject, Answer]]:
        asked.extend(o.sop_instance_uid for o in objects)
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        outbox(again, clock=clock, bus=bus).handle(delivery)  # type: ignore[arg-type]
    assert asked == [o.sop_instance_uid for o in OBJECTS[1:]]
    delivery.dead = True
    outbox(None, clock=clock, bus=bus).handle(delivery)  # type: ignore[arg-type]
    told = [e for _, m in bus.read(EVENTS) if isinstance(e := open_envelope(m), DeliveryChanged)]
    assert [(e.sop_instance_uid, e.state) for e in told] == [
        (o.sop_instance_uid, state) for o, state in zip(OBJECTS, ("sent", "failed", "failed"), strict=True)
    ]


def test_a_result_sent_before_is_sent_again_when_it_is_asked_for_again() -> None:
    bus, sent = MemoryBus(), []

    def store(_: Destination, objects: Sequence[ResultObject], **__: object) -> Iterator[tuple[ResultObject, Answer]]:
        for item in objects:
            sent.append(item)
            yield item, Answer(Verdict.SENT)

    for _ in range(2):
        outbox(store, clock=ManualClock(), bus=bus).handle(FakeDelivery(ready()))  # type: ignore[arg-type]
    assert len(sent) == 6


def test_messages_not_tried_yet_say_why_they_wait_and_are_no_retries() -> None:
    bus, clock = MemoryBus(), ManualClock()

    def store(*_: object, **__: object) -> Iterator[tuple[ResultObject, Answer]]:
        raise Unreachable("no connection to the destination", no_listener=True)

    def slow_probe() -> bool:
        probes.append(clock.monotonic())
        clock.advance(5.0)
        return False

    probes: list[float] = []
    box = outbox(store, clock=clock, bus=bus, reachable=slow_probe)
    counter = DELIVERY_RETRIES.labels(destination="pacs")
    before = counter._value.get()
    messages = [FakeDelivery(ready(job=f"j{n}")) for n in range(20)]
    box.handle(messages[0])  # type: ignore[arg-type]
    clock.advance(1.5)
    for message in messages[1:]:
        box.handle(message)  # type: ignore[arg-type]
    assert len(probes) == 1
    assert counter._value.get() == before
    told = [e for _, m in bus.read(EVENTS) if isinstance(e := open_envelope(m), DeliveryChanged)]
    assert len(told) == 60
    assert {e.reason for e in told} == {"no connection to the destination"}


def test_backoff_doubles_to_a_minute() -> None:
    backoff = Backoff(random.Random(3))
    delays = [backoff.next() for _ in range(12)]
    assert 0.5 <= delays[0] <= 1.0
    assert all(30.0 <= d <= 60.0 for d in delays[6:])


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.SENT), (0xB000, Verdict.SENT), (0xB007, Verdict.SENT), (0x0111, Verdict.SENT),
        (0xA700, Verdict.LATER), (0xA7FF, Verdict.LATER), (0x0110, Verdict.UNCLEAR), (0xC123, Verdict.UNCLEAR),
        (0xA900, Verdict.REFUSED), (0x0122, Verdict.REFUSED), (0x0124, Verdict.REFUSED), (0x0106, Verdict.REFUSED),
    ],
)  # fmt: skip
def test_statuses(status: int, verdict: Verdict) -> None:
    assert judge(status).verdict is verdict
    assert (judge(status).reason is None) == (verdict is Verdict.SENT)


def test_an_aborted_association_leaves_what_was_answered(pacs: DemoPacs) -> None:
    """The peer goes away between two objects: the first stays sent, the rest is Unreachable."""
    answered: list[str] = []

    def going() -> None:
        if answered:
            pacs.hang_up()

    stored = {o.key: data for o, data in MADE}
    sending = store_objects(to(pacs), OBJECTS, calling_ae="ICHOR", read=lambda o: stored[o.key], before_each=going)
    with pytest.raises(Unreachable):  # noqa: PT012
        for item, answer in sending:
            assert answer.verdict is Verdict.SENT
            answered.append(item.sop_instance_uid)
    assert answered == [OBJECTS[0].sop_instance_uid]


def test_an_association_that_ends_as_an_object_is_about_to_go_is_unreachable(
    pacs: DemoPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Association.send_c_store

    def ended(association: Association, *args: Any, **kwargs: Any) -> Dataset:
        pacs.hang_up()
        for _ in range(60_000):
            if not association.is_established:
                break
            threading.Event().wait(0.001)
        return send(association, *args, **kwargs)

    monkeypatch.setattr(Association, "send_c_store", ended)
    stored = {o.key: data for o, data in MADE}
    with pytest.raises(Unreachable, match="aborted"):
        list(store_objects(to(pacs), OBJECTS, calling_ae="ICHOR", read=lambda o: stored[o.key]))


def test_another_error_of_the_library_is_not_taken_for_a_lost_association(
    pacs: DemoPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Dataset:
        raise RuntimeError("another")

    monkeypatch.setattr(Association, "send_c_store", fails)
    stored = {o.key: data for o, data in MADE}
    with pytest.raises(RuntimeError, match="another"):
        list(store_objects(to(pacs), OBJECTS, calling_ae="ICHOR", read=lambda o: stored[o.key]))


def test_a_destination_says_what_it_accepts(free_port: Callable[[], int]) -> None:
    with DemoPacs(classes=(SegmentationStorage,)) as pacs:
        echo(to(pacs), calling_ae="ICHOR")
        assert set(accepted_classes(to(pacs), list(RESULT_CLASSES), calling_ae="ICHOR")) == {SegmentationStorage}
    nobody = Destination(name="x", ae_title="X", host="127.0.0.1", port=free_port())
    assert not port_open(nobody)
    with pytest.raises(Unreachable, match="no connection to the destination"):
        echo(nobody, calling_ae="ICHOR")


@pytest.mark.usefixtures("late_pause")
def test_a_thread_of_the_library_that_pauses_late_takes_no_answer(
    pacs: DemoPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_out.transport.ANSWER_SECONDS", 20.0)
    stored = {o.key: data for o, data in MADE}
    echo(to(pacs), calling_ae="ICHOR")
    answers = [a for _, a in store_objects(to(pacs), OBJECTS, calling_ae="ICHOR", read=lambda o: stored[o.key])]
    assert [answer.verdict for answer in answers] == [Verdict.SENT] * len(OBJECTS)


def test_a_host_that_is_not_found_is_unreachable() -> None:
    away = Destination(name="x", ae_title="X", host="no-such-host.invalid", port=104)
    assert not port_open(away)
    with pytest.raises(Unreachable, match="host is not found") as caught:
        echo(away, calling_ae="ICHOR")
    assert caught.value.no_listener


def test_an_outage_is_said_once_and_a_bus_not_to_be_used_ends_the_sender(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = MemoryBus(clock=ManualClock())
    monkeypatch.setattr(bus, "subscribe", lambda *_, **__: Away())
    with pytest.raises(CannotStart, match="newer Ichor"):
        run_sender(
            destinations=[Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=9)], bus=bus,
            blobs=MemoryBlobs({}), clock=ManualClock(), stop=threading.Event(), on_ready=lambda: None, calling_ae="ICHOR",
        )  # fmt: skip
    assert [said for r in caplog.records if "waits" in (said := r.message)] == ["send waits: Kafka hangs up"]


class _AwayOnce(MemoryBus):
    """Cannot be told of the first end."""

    met = False

    def subscribe(self, *args: Any, **options: Any) -> Subscription:
        joined = super().subscribe(*args, **options)
        receive = joined.receive

        def first(timeout: float) -> Delivery | None:
            delivery = receive(timeout)
            if delivery is None or self.met:
                return delivery
            self.met = True
            return cast("Delivery", _Untold(delivery))

        joined.receive = first  # type: ignore[method-assign]
        return joined


class _Untold:
    """A delivery whose acknowledgement does not get through."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    def ack(self) -> None:
        raise TransientError("the bus is away")


def test_a_result_in_hand_when_the_bus_goes_away_ends_when_it_is_back_not_when_its_lease_does(pacs: DemoPacs) -> None:
    with Running([to(pacs)], bus=_AwayOnce()) as sender:
        sender.publish(ready())
        sender.until(lambda seen: len(finals(seen)) == len(OBJECTS))
        deadline = time.monotonic() + 60
        while any(lag.waiting + lag.leased for lag in sender.bus.lag()):
            assert time.monotonic() < deadline, "it waits for the end of its lease"
            time.sleep(0.05)
    assert sender.bus.met
