"""The worker and the scan before: compared by kept findings, cited, waited for, and never at the cost of the answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from unit.pipelines.heads import head
from unit.pipelines.test_worker import Place

from ichor.arrays import Volume
from ichor.errors import Unreadable, WorkerFault
from ichor.messages import EVENTS, JobDone, JobStarted, jobs_topic, seal
from ichor.reasons import Reason
from ichor.types import Earlier, Findings, Job, JobState, Priority
from ichor.uids import job_id_of
from pipelines import earlier
from pipelines.earlier import LONGEST_WAIT

FIRST, SECOND = "1.2.3", "1.2.4"
SMALL, LARGE = head(blood=[((35.0, -10.0, 20.0), 16.0)]), head(blood=[((35.0, -10.0, 20.0), 20.0)])


class Patient(Place):
    """Two studies; the second one's head has the larger haematoma."""

    def __init__(self) -> None:
        super().__init__()
        self.change = lambda volume: replace(
            volume, array=(LARGE if volume.sources[0].study_instance_uid == SECOND else SMALL).array
        )
        self.asked: list[Job] = []

    def ask(
        self, first: Job | None = None, *, revision: int = 1, refusal: str | None = None, hours: float = 6.0
    ) -> Job:  # fmt: skip
        """Order the second study's job, to be compared with the first one's."""
        job = self.order(revision, study=SECOND)
        # Its twin with the earlier scan is what the worker is to take.
        taken = self.subscription.receive(0)
        assert taken is not None
        while taken.envelope.id != job.job_id:
            taken.retry(0.0, reason="not yet", count=False)
            taken = self.subscription.receive(0)
            assert taken is not None
        taken.ack()
        inputs = first.inputs if first is not None else {}
        study = FIRST if first is not None else ""
        full = replace(job, earlier=Earlier(study_instance_uid=study, inputs=inputs, hours=hours, refusal=refusal))
        self.bus.publish(
            jobs_topic("haematoma", Priority.ROUTINE),
            [seal(full, source="test", time=self.clock.time(), id=f"{full.job_id}-compared")],
        )
        return full

    def findings(self) -> Findings:
        found = self.encoder.calls[-1]["findings"]
        assert isinstance(found, Findings)
        return found

    def numbers(self) -> dict[str, float]:
        return {m.name: m.value for m in self.findings().measurements}


@pytest.fixture
def patient() -> Patient:
    return Patient()


def test_the_scan_before_is_compared_by_its_kept_findings_and_cited(patient: Patient) -> None:
    first = patient.order(study=FIRST)
    patient.step()
    patient.ask(first)
    patient.step()
    assert patient.engine.calls == 2
    assert patient.numbers()["haematoma_growth"] > 6
    (done, later) = patient.told(JobDone)
    assert ("haematoma_growth", patient.numbers()["haematoma_growth"], "mL") in later.measurements
    cited = patient.findings().pertinent
    assert {study for study, *_ in cited} == {FIRST}
    assert [uid for *_, uid in cited[:2]] == [o.sop_instance_uid for o in reversed(done.objects)]
    assert any("h earlier" in caption for _, caption in later.pictures)


def test_the_same_pixels_compared_or_not_are_inferred_once(patient: Patient) -> None:
    patient.order(study=SECOND)
    patient.step()
    assert "haematoma_growth" not in patient.numbers()
    first = patient.order(study=FIRST)
    patient.step()
    patient.ask(first, revision=2)
    patient.step()
    assert patient.engine.calls == 2
    assert "haematoma_growth" in patient.numbers()
    patient.order(3, study=SECOND, identity="b" * 64)
    patient.step()
    assert patient.engine.calls == 2
    assert "haematoma_growth" not in patient.numbers(), "what is kept of a scan is of that scan alone"


def test_a_scan_that_was_not_done_yet_is_examined_and_kept_for_its_own_job(patient: Patient) -> None:
    first = patient.order(study=FIRST)
    own = patient.subscription.receive(0)
    assert own is not None
    patient.ask(first)
    patient.step()
    assert "haematoma_growth" in patient.numbers()
    assert patient.findings().summary[-1] == "The earlier CT had no report of its own yet that could be cited"
    assert {study for study, *_ in patient.findings().pertinent} == {FIRST}
    assert patient.engine.calls == 2
    patient.worker.handle(own)
    assert patient.engine.calls == 2


def test_results_with_and_without_a_comparison_have_other_parameters(patient: Patient) -> None:
    first = patient.order(study=FIRST)
    patient.step()
    alone = patient.findings().algorithm.parameters
    patient.ask(first)
    patient.step()
    assert set(patient.findings().algorithm.parameters) - set(alone) == {"compared_with"}


def test_another_time_of_the_earlier_scan_makes_another_report(patient: Patient) -> None:
    first = patient.order(study=FIRST)
    patient.step()
    told = []
    for revision, hours in ((1, 6.0), (2, 4.0)):
        patient.ask(first, revision=revision, hours=hours)
        patient.step()
        assert f"{hours} h earlier" in patient.findings().summary[1]
        told.append(patient.findings().algorithm.parameters["compared_with"])
    assert told[0] != told[1]


def test_of_another_head_under_the_same_patient_id_nothing_is_cited(patient: Patient) -> None:
    first = patient.order(study=FIRST)
    patient.step()
    keep = patient.change

    def change(volume: Volume) -> Volume:
        kept = keep(volume)
        other = volume.sources[0].study_instance_uid == FIRST
        return replace(kept, pixel_spacing=(1.75, 2.4)) if other else kept

    patient.change = change
    patient.ask(first)
    patient.step()
    assert any(line.startswith("Not comparable") for line in patient.findings().summary)
    assert patient.findings().pertinent == ()
    assert "compared_with" in patient.findings().algorithm.parameters


def test_a_disagreement_is_said_and_nothing_is_compared(patient: Patient) -> None:
    patient.ask(refusal=Reason.EARLIER_OTHER_BIRTH_DATE)
    patient.step()
    assert patient.findings().summary[-1].endswith(f"is not compared: {Reason.EARLIER_OTHER_BIRTH_DATE}")
    assert "haematoma_growth" not in patient.numbers()
    assert patient.findings().pertinent == ()


def test_images_that_are_gone_are_said(patient: Patient) -> None:
    first = patient.order(study=FIRST)
    patient.step()
    patient.ask(first)
    del patient.manifests[first.inputs["ncct_head"].key]
    patient.step()
    assert patient.findings().summary[-1].endswith(Reason.EARLIER_GONE)


def test_a_scan_that_cannot_be_analysed_is_said(patient: Patient) -> None:
    first = patient.order(study=FIRST)
    patient.step()
    keep = patient.change

    def change(volume: Volume) -> Volume:
        if volume.sources[0].study_instance_uid == FIRST:
            raise Unreadable(Reason.LOSSY)
        return keep(volume)

    patient.change = change
    patient.ask(first)
    patient.step()
    assert Reason.LOSSY in patient.findings().summary[-1]
    assert patient.told(JobDone)[-1].outcome == "found"


@pytest.mark.parametrize("error", [ArithmeticError("of another study"), MemoryError()])
def test_a_comparison_that_fails_costs_two_attempts_and_no_answer(patient: Patient, error: Exception) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    first = patient.order(study=FIRST)
    patient.step()
    patient.spec = replace(patient.spec, compare=fails)
    patient.ask(first)
    for _ in range(3):
        patient.clock.advance(10.0)
        patient.begin()
        with suppress(WorkerFault):
            patient.step()
    assert patient.findings().summary[-1].endswith(Reason.EARLIER_GIVEN_UP)
    assert patient.told(JobDone)[-1].study_instance_uid == SECOND


def started(patient: Patient, job: Job) -> None:
    told = JobStarted(study_instance_uid=FIRST, job_id=job.job_id, attempt=1, at=patient.clock.time())
    patient.bus.publish(EVENTS, [seal(told, source="test", time=patient.clock.time())])


def test_a_scan_at_work_is_waited_for_but_not_for_ever(patient: Patient) -> None:
    first = patient.order(study=FIRST)
    own = patient.subscription.receive(0)
    assert own is not None
    own.extend(10 * LONGEST_WAIT)
    started(patient, first)
    patient.ask(first)
    patient.step()
    assert patient.encoder.calls == []
    patient.clock.advance(LONGEST_WAIT)
    patient.step()
    assert "haematoma_growth" in patient.numbers()


def test_who_has_no_answer_yet_does_not_wait_for_a_job_in_the_queue(patient: Patient) -> None:
    first = patient.order(study=FIRST)
    assert patient.subscription.receive(0) is not None
    patient.ask(first)
    patient.step()
    assert "haematoma_growth" in patient.numbers()


def test_a_job_that_was_given_up_is_not_tried_again_here(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    first = patient.order(study=FIRST)
    assert patient.subscription.receive(0) is not None
    patient.ask(first)
    known: Callable[..., Any] = earlier.status_of
    monkeypatch.setattr(earlier, "status_of", lambda job, bus: replace(known(job, bus), state=JobState.FAILED))
    patient.step()
    assert patient.engine.calls == 1
    assert patient.findings().summary[-1].endswith(Reason.EARLIER_FAILED)
    assert job_id_of(FIRST, "haematoma", 1) == first.job_id
