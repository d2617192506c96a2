"""Associations of a lost receiver end, once, and nobody else's do."""

from __future__ import annotations

from dataclasses import replace

from unit.history.made import T0, instance, new_bus

from ichor.bus.memory import MemoryBus
from ichor.history.projection import log
from ichor.messages import INSTANCES, AssociationClosed, Data, InstancesReceived, open_envelope, seal
from ichor.succession import end_associations
from ichor.types import Instance

STUDY = "2.25.4711.1"


def image(number: int, *, association: str, receiver: str) -> Instance:
    return replace(
        instance(1, number), sop_instance_uid=f"{STUDY}.9.{number}", study_instance_uid=STUDY,
        series_instance_uid=f"{STUDY}.{number % 2}", association=association,
        location=f"{STUDY}/{STUDY}.{number % 2}/1234.{receiver}-1.seg@{number}+8",
    )  # fmt: skip


def tell(bus: MemoryBus, *messages: Data) -> None:
    bus.publish(INSTANCES, [seal(message, source="receiver", time=T0) for message in messages])


def received(association: str, receiver: str, *numbers: int) -> InstancesReceived:
    images = tuple(image(n, association=association, receiver=receiver) for n in numbers)
    return InstancesReceived(study_instance_uid=STUDY, association=association, instances=images)


def ends(bus: MemoryBus) -> list[AssociationClosed]:
    told = [open_envelope(envelope) for envelope in log(bus, INSTANCES)]
    return [one for one in told if isinstance(one, AssociationClosed)]


def test_what_a_lost_receiver_left_open_is_cut_off_once() -> None:
    bus = new_bus()
    closed = AssociationClosed(
        study_instance_uid=STUDY, association="b", released=True, calling_ae="CT1", counts={}, closed_at=T0
    )
    tell(
        bus, received("a", "ct-0_0000000a", 1, 2, 3), received("a", "ct-0_0000000a", 5), received("b", "ct-0_0000000a", 7),
        received("c", "ct-1_0000000b", 9), closed,
    )  # fmt: skip
    assert end_associations(bus, {"ct-0_0000000a"}, now=T0 + 60.0) == 1
    *_, last = ends(bus)
    assert (last.association, last.released, last.closed_at) == ("a", False, T0 + 60.0)
    assert last.counts == {f"{STUDY}.1": 3, f"{STUDY}.0": 1}
    assert last.calling_ae == image(1, association="a", receiver="x").calling_ae
    assert end_associations(bus, {"ct-0_0000000a"}, now=T0 + 90.0) == 0
    assert len(ends(bus)) == 2
