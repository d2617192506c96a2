"""What travels on the bus: one envelope (CloudEvents 1.0 attribute names) and the data of each type.

References only, never pixels. An older reader that meets a newer message raises `UnknownMessage` with a clear text.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ichor.errors import UnknownMessage
from ichor.types import Instance, Job, Priority, ResultObject, Scan, SeriesStatus

T = TypeVar("T")

INSTANCES = "instances"
RESULTS = "results"
COMMITMENTS = "commitments"
EVENTS = "events"


def jobs_topic(pipeline: str, priority: Priority) -> str:
    """``jobs.<pipeline>.<stat|routine>``."""
    return f"jobs.{pipeline}.{priority.lane}"


# --- topic `instances`, or one for each shard (`ichor.shards`): to the assembler, in order per association -------------


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancesReceived:
    """A batch of facts of one study (at most 500, 20,000 frames or 20 ms)."""

    study_instance_uid: str
    association: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociationClosed:
    """An association that brought images of this study has ended; follows all its `InstancesReceived`."""

    study_instance_uid: str
    association: str
    released: bool  # False: aborted, timed out, or cut off by a crash of the receiver
    calling_ae: str
    counts: Mapping[str, int]  # Series Instance UID -> objects stored by this association
    closed_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentAnnounced:
    """A sender asked to commit objects of this study (Storage Commitment Push Model): what it believes to have sent."""

    study_instance_uid: str
    association: str
    calling_ae: str
    sop_instance_uids: tuple[str, ...]  # of this study, as the journal knows them
    unknown: int  # objects of the same request that the journal does not know, of whatever study


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanChanged:
    """From the shard of a study to all others: what later studies of the patient may be compared with now."""

    study_instance_uid: str
    pipeline: str
    change: int  # counts those of this study and pipeline; an older one than is known says nothing
    scan: Scan | None  # None: nothing any more


# --- topic `results`: the outbox; one consumer group per destination -------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultReady:
    """Objects of one result set that wait for delivery to ``destinations``."""

    study_instance_uid: str
    job_id: str
    pipeline: str
    revision: int
    identity_sha256: str
    destinations: tuple[str, ...]
    objects: tuple[ResultObject, ...]
    ready_at: float


# --- topic `commitments`: what senders asked to commit, then what they are told; the transaction is the key -------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentAsked:
    """A request for storage commitment that is written down; everything that it may name was received before.

    Where several receivers share a store it goes from one to the next, each of which adds what it knows.
    """

    transaction_uid: str
    association: str
    calling_ae: str
    called_ae: str
    referenced: tuple[tuple[str, str], ...]  # SOP Class UID, SOP Instance UID
    at: float
    request: str = ""  # id of the first message of it; empty in that one
    looked: tuple[str, ...] = ()  # receivers for which somebody has looked
    # Of those that are here: place in ``referenced``, Study Instance UID, Failure Reason or 0: committed.
    found: tuple[tuple[int, str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitmentDecided:
    """What the sender is to be told; what is in ``committed`` is exempt from retention by now."""

    transaction_uid: str
    calling_ae: str
    called_ae: str
    committed: tuple[tuple[str, str], ...]  # SOP Class UID, SOP Instance UID
    failed: tuple[tuple[str, str, int], ...]  # the same, Failure Reason (0008,1197)
    at: float


# --- topic `events`: the log that console, metrics, why and audit read through `ichor.history` -----------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveRefused:
    """A C-STORE or association that was refused. ``study_instance_uid`` is empty where it was not readable."""

    study_instance_uid: str
    calling_ae: str
    status: str  # "0xA700", or "rejected" for an association
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyAssembled:
    """The assembler's whole view of a study after a change: the last one counts."""

    study_instance_uid: str
    revision: int
    priority: Priority
    received_at: float  # first image
    at: float
    receiving: bool  # an association that brought images of it is open
    open: bool  # a series is open, or a decision is due
    series: tuple[SeriesStatus, ...]
    jobs: tuple[Job, ...]  # every job ever published for it, newest revision last
    reason: str | None = None  # why no job, when there is none
    accession_sha256: str | None = None
    # Identity of the newest headers of what the last job uses, for readers that do not know ``identities``.
    identity_sha256: str | None = None
    # Job id -> identities that the headers of its main input name now, none where they contradict each other: a
    # result of another identity is held. None in views of earlier versions.
    identities: Mapping[str, tuple[str, ...]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted:
    study_instance_uid: str
    job_id: str
    attempt: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSuperseded:
    study_instance_uid: str
    job_id: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDone:
    """A job gave its result set; from here its deliveries are pending."""

    study_instance_uid: str
    job_id: str
    pipeline: str
    version: str
    at: float
    outcome: str
    reason: str | None
    summary: tuple[str, ...]
    seconds: Mapping[str, float]
    measurements: tuple[tuple[str, float, str], ...]
    input_series: tuple[str, ...]
    objects: tuple[ResultObject, ...]
    pictures: tuple[tuple[str, str], ...]  # (key, caption)
    destinations: tuple[str, ...]
    predecessor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFailed:
    """An attempt failed; ``final`` when the message went to the dead letters."""

    study_instance_uid: str
    job_id: str
    attempt: int
    final: bool
    reason: str
    at: float
    worker: str | None = None  # whose fault it was, where it was not the job's


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryChanged:
    """State of one object at one destination (a `DeliveryState` value)."""

    study_instance_uid: str
    job_id: str
    sop_instance_uid: str
    destination: str
    state: str
    attempts: int
    reason: str | None
    at: float
    seconds: float | None = None


Data = (
    InstancesReceived | AssociationClosed | ContentAnnounced | ScanChanged | ResultReady | CommitmentAsked | CommitmentDecided
    | ReceiveRefused | StudyAssembled | JobStarted | JobSuperseded | JobDone | JobFailed | DeliveryChanged | Job
)  # fmt: skip

_TYPES: dict[str, type] = {
    "ichor.instances.received.v1": InstancesReceived,
    "ichor.association.closed.v1": AssociationClosed,
    "ichor.content.announced.v1": ContentAnnounced,
    "ichor.scan.changed.v1": ScanChanged,
    "ichor.result.ready.v1": ResultReady,
    "ichor.commitment.asked.v1": CommitmentAsked,
    "ichor.commitment.decided.v1": CommitmentDecided,
    "ichor.receive.refused.v1": ReceiveRefused,
    "ichor.study.assembled.v1": StudyAssembled,
    "ichor.job.queued.v1": Job,
    "ichor.job.started.v1": JobStarted,
    "ichor.job.superseded.v1": JobSuperseded,
    "ichor.job.done.v1": JobDone,
    "ichor.job.failed.v1": JobFailed,
    "ichor.delivery.changed.v1": DeliveryChanged,
}
_NAMES = {cls: name for name, cls in _TYPES.items()}
_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # building one takes milliseconds


class Envelope(BaseModel):
    """Structured-mode CloudEvent. ``subject`` is the key: the Study Instance UID, or the Transaction UID of a commitment."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: str = "1.0"
    id: str
    source: str
    type: str
    time: float
    subject: str
    priority: Priority = Priority.ROUTINE
    data: dict[str, Any] = field(default_factory=dict)


def _adapter(cls: type) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def seal(data: Data, *, source: str, time: float, id: str | None = None, priority: Priority | None = None) -> Envelope:
    """Put ``data`` into an envelope. Give a stable ``id`` wherever a retry may publish the same thing again."""
    subject = data.transaction_uid if isinstance(data, CommitmentAsked | CommitmentDecided) else data.study_instance_uid
    urgent = priority or getattr(data, "priority", None) or Priority.ROUTINE
    return Envelope(
        id=id or str(uuid.uuid4()), source=source, type=_NAMES[type(data)], time=time,
        subject=subject, priority=urgent, data=_adapter(type(data)).dump_python(data, mode="json"),
    )  # fmt: skip


def open_envelope(envelope: Envelope) -> Data:
    """The typed data of an envelope.

    Raises
    ------
    UnknownMessage
        For a type, version or shape that this reader does not know.
    """
    cls = _TYPES.get(envelope.type)
    if cls is None:
        raise UnknownMessage(f"message type {envelope.type!r} is not known to this version of Ichor")
    try:
        return _adapter(cls).validate_python(envelope.data)  # type: ignore[no-any-return]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnknownMessage(f"message {envelope.type!r} does not fit: {where}: {first['type']}") from error


def to_json(data: Any) -> bytes:
    """JSON of any dataclass of `ichor.types` that holds no arrays (manifests, result sets)."""
    return _adapter(type(data)).dump_json(data)


def from_json(cls: type[T], text: bytes) -> T:
    """Inverse of `to_json`.

    Raises
    ------
    UnknownMessage
        When the text does not fit the class.
    """
    try:
        adapter: TypeAdapter[T] = _adapter(cls)
        return adapter.validate_json(text)
    except ValidationError as error:
        raise UnknownMessage(f"stored {cls.__name__} does not fit this version of Ichor") from error


def json_schema() -> dict[str, Any]:
    """JSON Schema of every message type, as committed in ``docs/messages.schema.json``."""
    inputs = [(name, "validation", _adapter(cls)) for name, cls in sorted(_TYPES.items())]
    schemas, definitions = TypeAdapter.json_schemas(inputs)  # type: ignore[arg-type]
    return {"messages": {name: schemas[name, "validation"] for name in sorted(_TYPES)}, **definitions}


if __name__ == "__main__":
    import json

    print(json.dumps(json_schema(), indent=1))
