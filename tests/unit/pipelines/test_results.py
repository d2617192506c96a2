"""Result sets: the first one stored is the one that every later attempt tells of."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from unit.pipelines.heads import instance

from ichor.encoding import EncodedObject
from ichor.identity import SEVERAL_PERSONS
from ichor.store.memory import MemoryBlobs
from ichor.types import Algorithm, Findings, Job, Priority
from pipelines.picture import Drawn
from pipelines.results import Made, place, put_result_set, stored_set

JOB = Job(
    job_id="haematoma-1-00", study_instance_uid="1.2.3", pipeline="haematoma", revision=1, priority=Priority.STAT,
    inputs={}, received_at=0.0, queued_at=0.0,
)  # fmt: skip


def made(word: str, *kinds: str) -> Made:
    objects = tuple(
        EncodedObject(
            sop_instance_uid=f"1.{n}", sop_class_uid="1.2", series_instance_uid="1.3", kind=kind,
            data=f"{word} {n}".encode(), label=f"{kind} {n}",
        )
        for n, kind in enumerate(kinds)
    )  # fmt: skip
    findings = Findings(
        outcome="none", summary=(word,), algorithm=Algorithm(pipeline="haematoma", version="1", parameters={})
    )  # fmt: skip
    return Made(
        findings=findings, sources=(instance(0),), objects=objects, pictures=(Drawn(png=b"png", caption=word),),
        seconds={"encode": 0.5},
    )  # fmt: skip


def test_a_second_set_is_dropped_for_the_first() -> None:
    blobs, prefix = MemoryBlobs(), place(JOB.job_id)
    first = put_result_set(blobs, made("first", "report"), job=JOB, prefix=prefix, predecessor=None)
    second = put_result_set(blobs, made("second", "report"), job=JOB, prefix=prefix, predecessor=None)
    assert second == first == stored_set(blobs, prefix)
    assert blobs.get(first.objects[0].key) == b"first 0"
    assert first.objects[0].sha256 == hashlib.sha256(b"first 0").hexdigest()
    assert first.identity_sha256 == "a" * 64


def test_a_result_made_of_two_persons_is_nobodys() -> None:
    blobs, one = MemoryBlobs(), instance(0)
    corrected = replace(one, identity_sha256="b" * 64)
    described_otherwise = replace(one, identity_sha256="a" * 32 + "c" * 32)
    whose = [
        put_result_set(
            blobs, replace(made("r", "report"), sources=(one, other)), job=JOB, prefix=place(f"j{n}"), predecessor=None
        ).identity_sha256
        for n, other in enumerate((corrected, described_otherwise))
    ]  # fmt: skip
    assert whose == [SEVERAL_PERSONS, "a" * 64]


def test_objects_of_one_kind_have_their_own_places() -> None:
    blobs = MemoryBlobs()
    stored = put_result_set(
        blobs, made("x", "parametric_map", "parametric_map", "report"), job=JOB, prefix="results/j", predecessor=None
    )
    assert [o.key for o in stored.objects] == [
        "results/j/objects/parametric_map.dcm", "results/j/objects/parametric_map-2.dcm", "results/j/objects/report.dcm",
    ]  # fmt: skip
    assert [o.label for o in stored.objects] == ["parametric_map 0", "parametric_map 1", "report 2"]
    assert [blobs.get(o.key) for o in stored.objects] == [b"x 0", b"x 1", b"x 2"]


def test_the_report_of_a_job_given_up_stands_beside_its_result() -> None:
    assert place("haematoma-1-00", failed=True) != place("haematoma-1-00")
    assert stored_set(MemoryBlobs(), place("haematoma-1-00")) is None
