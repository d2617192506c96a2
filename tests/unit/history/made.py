"""Events as the rooms publish them, made by hand for the tests of history and console. All UIDs are invented."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from ichor.bus.memory import MemoryBus
from ichor.clock import ManualClock
from ichor.messages import (
    EVENTS,
    INSTANCES,
    AssociationClosed,
    Data,
    DeliveryChanged,
    InstancesReceived,
    JobDone,
    JobFailed,
    JobStarted,
    StudyAssembled,
    seal,
)
from ichor.types import Evidence, Grade, Instance, Job, ManifestRef, Priority, ResultObject, SeriesStatus
from ichor.uids import accession_digest, job_id_of

T0 = 1_767_322_984.25  # 2026-01-02T03:03:04.250Z
KINDS = (
    ("segmentation", "1.2.840.10008.5.1.4.1.1.66.4"),
    ("parametric_map", "1.2.840.10008.5.1.4.1.1.30"),
    ("report", "1.2.840.10008.5.1.4.1.1.88.33"),
    ("text_report", "1.2.840.10008.5.1.4.1.1.88.11"),
)
_ids = itertools.count()


def uid(study: int, *more: int) -> str:
    return ".".join(["2.25.4711", str(study), *map(str, more)])


def series(
    study: int, number: int, grade: Grade = Grade.COUNTED, *, instances: int = 40, roles: tuple[str, ...] = ("ncct_head",),
    modality: str = "CT", reason: str | None = None,
) -> SeriesStatus:  # fmt: skip
    evidence = {
        Grade.COUNTED: (
            Evidence(what="count", detail=f"ImagesInAcquisition says {instances}, {instances} are here"),
            Evidence(what="grid", detail="slice positions have no gap"),
        ),
        Grade.REGULAR: (Evidence(what="release", detail="the sender released its association"),),
        Grade.QUIET: (Evidence(what="quiet", detail="nothing came for 4.2 s; this sender pauses 1.1 s at most"),),
        Grade.OPEN: (Evidence(what="association", detail="the sender's association is open"),),
        Grade.SHORT: (
            Evidence(what="count", detail=f"ImagesInAcquisition says {instances + 2}, {instances} are here"),
        ),
    }[grade]
    return SeriesStatus(
        series_instance_uid=uid(study, number), modality=modality, instances=instances, grade=grade,
        evidence=evidence, roles=roles if grade.complete else (), reason=reason,
    )  # fmt: skip


def job(
    study: int, revision: int = 1, *, at: float = T0, pipeline: str = "haematoma", refusal: str | None = None
) -> Job:
    ref = ManifestRef(key="manifests/x", sha256="0" * 64, series_instance_uid=uid(study, 1), instances=40)
    return Job(
        job_id=job_id_of(uid(study), pipeline, revision), study_instance_uid=uid(study), pipeline=pipeline,
        revision=revision, priority=Priority.STAT if study % 2 else Priority.ROUTINE,
        inputs={} if refusal else {"ncct_head": ref}, received_at=at + 4.0, queued_at=at + 4.03, refusal=refusal,
        sources=(ref,) if refusal else (),
    )  # fmt: skip


def assembled(study: int, at: float = T0 + 4.05, **changes: Any) -> StudyAssembled:
    base = StudyAssembled(
        study_instance_uid=uid(study), revision=1, priority=Priority.STAT if study % 2 else Priority.ROUTINE,
        received_at=at - 4.05, at=at, receiving=False, open=False, series=(series(study, 1),),
        jobs=(job(study, at=at - 4.05),), accession_sha256=accession_digest(f"ACC{study}"), identity_sha256="1" * 64,
    )  # fmt: skip
    return replace(base, **changes)


def objects(study: int, revision: int = 1, kinds: int = 4) -> tuple[ResultObject, ...]:
    return tuple(
        ResultObject(
            sop_instance_uid=uid(study, 900 + revision, n + 1), sop_class_uid=sop_class,
            series_instance_uid=uid(study, 800 + revision, n + 1), kind=kind, key=f"results/{study}/{revision}/{n}",
            sha256="2" * 64, length=1000, label=f"{kind} {n + 1} of {kinds}",
        )
        for n, (kind, sop_class) in enumerate(KINDS[:kinds])
    )  # fmt: skip


def done(
    study: int, revision: int = 1, *, at: float = T0 + 9.0, outcome: str = "found", reason: str | None = None,
    destinations: tuple[str, ...] = ("pacs",), pictures: tuple[tuple[str, str], ...] = (), kinds: int = 4,
    summary: tuple[str, ...] = ("Intracerebral haematoma, 23.4 mL.", "Left basal ganglia; 1 lesion."),
) -> JobDone:  # fmt: skip
    measurements = (("haematoma_volume", 23.4, "mL"), ("haematoma_volume_voxel", 23.6, "mL"))
    return JobDone(
        study_instance_uid=uid(study), job_id=job(study, revision).job_id, pipeline="haematoma", version="0.1.0", at=at,
        outcome=outcome, reason=reason, summary=summary if outcome == "found" else ("No intracerebral haematoma found.",) if outcome == "none" else (),
        seconds={"volume": 0.31, "infer": 3.92, "measure": 0.22, "encode": 0.18},
        measurements=measurements if outcome == "found" else (), input_series=(uid(study, 1),),
        objects=objects(study, revision, kinds), pictures=pictures, destinations=destinations,
        predecessor=job(study, revision - 1).job_id if revision > 1 else None,
    )  # fmt: skip


def started(study: int, revision: int = 1, *, attempt: int = 1, at: float = T0 + 4.2) -> JobStarted:
    return JobStarted(study_instance_uid=uid(study), job_id=job(study, revision).job_id, attempt=attempt, at=at)


def failed(
    study: int, *, attempt: int = 1, final: bool = False, at: float = T0 + 6.0, reason: str = "out of memory"
) -> JobFailed:
    return JobFailed(
        study_instance_uid=uid(study), job_id=job(study).job_id, attempt=attempt, final=final, reason=reason, at=at
    )


def delivery(
    study: int, index: int = 0, *, revision: int = 1, state: str = "sent", attempts: int = 1, at: float = T0 + 9.5,
    reason: str | None = None, destination: str = "pacs",
) -> DeliveryChanged:  # fmt: skip
    return DeliveryChanged(
        study_instance_uid=uid(study), job_id=job(study, revision).job_id,
        sop_instance_uid=objects(study, revision)[index].sop_instance_uid, destination=destination, state=state,
        attempts=attempts, reason=reason, at=at,
    )  # fmt: skip


def deliveries(study: int, *, revision: int = 1, at: float = T0 + 9.5, **changes: Any) -> list[Data]:
    return [delivery(study, n, revision=revision, at=at + 0.01 * n, **changes) for n in range(4)]


def whole_way(study: int, at: float = T0, **changes: Any) -> list[Data]:
    """From the first image to the answer in the PACS."""
    arriving = series(study, 1, Grade.OPEN, instances=12)
    return [
        assembled(study, at + 1.0, received_at=at, receiving=True, open=True, series=(arriving,), jobs=()),
        assembled(study, at + 4.05),
        started(study, at=at + 4.2),
        done(study, at=at + 9.0, **changes),
        *deliveries(study, at=at + 9.3),
    ]


def instance(study: int, number: int, *, at: float = T0, defect: str | None = None) -> Instance:
    return Instance(
        sop_instance_uid=uid(study, 1, number), sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=uid(study, 1), study_instance_uid=uid(study),
        transfer_syntax_uid="1.2.840.10008.1.2.1", modality="CT", location=f"{study}/{number}", file_sha256="3" * 64,
        content_sha256="4" * 64, identity_sha256="1" * 64, patient_sha256="5" * 64, accession_sha256=None,
        association="a1", calling_ae="CT1", called_ae="ICHOR", priority=None, received_at=at, defect=defect,
    )  # fmt: skip


def arrival(study: int, *, count: int = 40, at: float = T0, defect: str | None = None) -> list[Data]:
    """What the receiver tells the assembler: facts in two batches, then the release."""
    facts = [instance(study, n + 1, at=at + 0.1 * n, defect=defect if n == 0 else None) for n in range(count)]
    half = count // 2
    return [
        InstancesReceived(study_instance_uid=uid(study), association="a1", instances=tuple(facts[:half])),
        InstancesReceived(study_instance_uid=uid(study), association="a1", instances=tuple(facts[half:])),
        AssociationClosed(
            study_instance_uid=uid(study), association="a1", released=True, calling_ae="CT1",
            counts={uid(study, 1): count}, closed_at=at + 4.0,
        ),
    ]  # fmt: skip


def publish(bus: MemoryBus, *messages: Data) -> None:
    """Each where it belongs: facts on ``instances``, the rest on ``events``."""
    for message in messages:
        topic = INSTANCES if isinstance(message, InstancesReceived | AssociationClosed) else EVENTS
        bus.publish(topic, [seal(message, source="test", time=T0, id=f"test-{next(_ids)}")])


def new_bus() -> MemoryBus:
    return MemoryBus(clock=ManualClock(T0))
