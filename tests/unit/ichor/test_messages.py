"""Messages: round trips, a committed schema, and a clear error for what a newer version sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ichor import messages, metrics
from ichor.errors import UnknownMessage
from ichor.types import Grade, Job, ManifestRef, Priority, SeriesStatus

DOCS = Path(__file__).resolve().parents[3] / "docs"
REF = ManifestRef(key="manifests/1/2/a.json", sha256="ab", series_instance_uid="1.2", instances=3)
JOB = Job(
    job_id="h-1-x", study_instance_uid="1.2", pipeline="haematoma", revision=1, priority=Priority.STAT,
    inputs={"ncct_head": REF}, received_at=1.0, queued_at=2.0,
)  # fmt: skip


def test_a_nested_message_survives_the_wire() -> None:
    status = SeriesStatus(series_instance_uid="1.2", modality="CT", instances=3, grade=Grade.COUNTED)
    data = messages.StudyAssembled(
        study_instance_uid="1.2", revision=2, priority=Priority.HIGH, received_at=1.5, at=2.5, receiving=False,
        open=False, series=(status,), jobs=(JOB,),
    )  # fmt: skip
    wire = messages.seal(data, source="assembler", time=3.0).model_dump_json()
    envelope = messages.Envelope.model_validate_json(wire)
    assert messages.open_envelope(envelope) == data
    assert (envelope.subject, envelope.priority, envelope.type) == ("1.2", Priority.HIGH, "ichor.study.assembled.v1")


def test_a_job_travels_at_its_own_priority() -> None:
    assert messages.seal(JOB, source="a", time=1.0).priority is Priority.STAT
    assert messages.jobs_topic("haematoma", Priority.HIGH) == "jobs.haematoma.stat"
    assert messages.jobs_topic("haematoma", Priority.MEDIUM) == "jobs.haematoma.routine"


def test_a_newer_message_is_a_clear_error() -> None:
    envelope = messages.seal(JOB, source="a", time=1.0)
    newer = envelope.model_copy(update={"type": "ichor.job.queued.v2"})
    with pytest.raises(UnknownMessage, match=r"ichor\.job\.queued\.v2.*not known"):
        messages.open_envelope(newer)
    broken = envelope.model_copy(update={"data": envelope.data | {"revision": "many"}})
    with pytest.raises(UnknownMessage, match="revision"):
        messages.open_envelope(broken)


def test_an_older_reader_ignores_what_a_newer_writer_added() -> None:
    envelope = messages.seal(JOB, source="a", time=1.0)
    wider = envelope.model_copy(update={"data": envelope.data | {"new_field": 1}})
    assert messages.open_envelope(wider) == JOB


def test_the_committed_schema_is_the_code() -> None:
    """After a wanted change: python -m ichor.messages > docs/messages.schema.json."""
    assert json.loads((DOCS / "messages.schema.json").read_text()) == messages.json_schema()


def test_the_documented_metrics_are_the_code() -> None:
    """After a wanted change: python -m ichor.metrics > docs/metrics.md."""
    assert (DOCS / "metrics.md").read_text() == metrics.table()
