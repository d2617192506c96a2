"""States, reasons and results of a study: the table of docs/contract.md."""

from __future__ import annotations

from typing import Any

import pytest
from unit.history.made import T0, assembled, deliveries, delivery, done, failed, job, series, started, uid, whole_way
from unit.history.test_fold import folded

from ichor.history import Study, as_json
from ichor.messages import Data, JobSuperseded
from ichor.reasons import Reason
from ichor.types import Grade, JobState, StudyState


def study_of(*events: Data) -> Study:
    return Study.of(folded(list(events)))


def test_each_step_has_its_state() -> None:
    way = whole_way(1)
    states = [study_of(*way[: n + 1]).state.value for n in range(len(way))]
    assert states == ["receiving", "queued", "running", "sending", "sending", "sending", "sending", "done"]


def test_an_open_series_after_the_release_is_assembling_and_says_what_it_waits_for() -> None:
    study = study_of(assembled(1, open=True, series=(series(1, 1, Grade.OPEN, instances=7),), jobs=()))
    assert study.state is StudyState.ASSEMBLING
    assert study.waits_for == "CT series …4711.1.1 is open with 7 objects: the sender's association is open"


def test_an_association_that_stays_open_does_not_keep_an_answered_study_from_done() -> None:
    assert study_of(assembled(1, receiving=True), started(1), done(1), *deliveries(1)).state is StudyState.DONE


def test_no_pipeline_is_done_with_the_reason() -> None:
    study = study_of(assembled(1, jobs=(), reason=Reason.NO_PIPELINE.value))
    assert (study.state, study.reason) == (StudyState.DONE, "no pipeline applies")


def test_results_without_a_destination_are_done() -> None:
    study = study_of(assembled(1), started(1), done(1, destinations=()))
    assert study.state is StudyState.DONE
    assert [r.deliveries for r in study.results] == [(), (), (), ()]


def test_every_destination_has_its_pending_delivery_from_the_start() -> None:
    study = study_of(assembled(1), started(1), done(1, destinations=("pacs", "archive")), delivery(1, 0))
    states = {(r.object.kind, d.destination): (d.state.value, d.attempts) for r in study.results for d in r.deliveries}
    assert len(states) == 8
    assert states["segmentation", "pacs"] == ("sent", 1)
    assert states["segmentation", "archive"] == ("pending", 0)
    assert study.state is StudyState.SENDING
    assert study.waits_for == "4 objects wait for delivery to archive; 3 objects wait for delivery to pacs"


@pytest.mark.parametrize("state", ["refused", "held", "failed"])
def test_a_delivery_that_ended_badly_fails_the_study(state: str) -> None:
    bad = delivery(1, 2, state=state, attempts=2, at=T0 + 20.0, reason="SOP Class not supported")
    study = study_of(*whole_way(1), bad)
    assert study.state is StudyState.FAILED
    assert study.reason == f"delivery to pacs {state}: SOP Class not supported"


def test_a_held_delivery_that_was_let_go_is_done() -> None:
    held = delivery(1, 0, state="held", at=T0 + 9.2, reason=Reason.IDENTITY_MISMATCH.value)
    assert study_of(*whole_way(1), held).state is StudyState.DONE


def test_a_dead_letter_fails_the_study_also_when_its_report_was_sent() -> None:
    report = done(1, at=T0 + 7.0, outcome="not_analysed", reason="the worker died on this job", kinds=2)
    study = study_of(
        assembled(1), started(1), failed(1, final=True, reason="the worker died on this job"), report,
        *deliveries(1)[:2],
    )  # fmt: skip
    assert study.state is StudyState.FAILED
    assert study.reason == "the pipeline haematoma was given up: the worker died on this job"
    assert [j.state for j in study.jobs] == [JobState.FAILED]
    assert len(study.results) == 2


def test_a_replayed_dead_letter_runs_again_and_can_be_done() -> None:
    given_up: list[Data] = [assembled(1), started(1), failed(1, attempt=5, final=True)]
    again = started(1, attempt=1, at=T0 + 100.0)
    assert study_of(*given_up, again).state is StudyState.RUNNING
    assert study_of(*given_up, again, done(1, at=T0 + 105.0), *deliveries(1, at=T0 + 106.0)).state is StudyState.DONE


def test_a_failed_attempt_that_will_be_repeated_is_queued() -> None:
    study = study_of(assembled(1), started(1), failed(1, attempt=1))
    assert study.state is StudyState.QUEUED
    assert study.jobs[0].reason == "attempt 1 failed and will be repeated: out of memory"


def test_not_analysed_is_a_done_job_with_reason_and_no_measurements() -> None:
    answer = done(1, outcome="not_analysed", reason="no brain found", kinds=2)
    study = study_of(assembled(1), started(1), answer, *deliveries(1)[:2])
    shown = as_json(study)
    assert (shown["state"], shown["reason"]) == ("done", "no brain found")
    assert (shown["jobs"][0]["state"], shown["jobs"][0]["reason"]) == ("done", "no brain found")
    assert shown["jobs"][0]["measurements"] == []
    assert study.answers == ("Not analysed: no brain found",)


def two_revisions() -> list[Data]:
    both = (job(1), job(1, 2, at=T0 + 55.0))
    return [*whole_way(1), assembled(1, T0 + 60.0, received_at=T0, revision=2, jobs=both)]


def test_new_images_reopen_and_raise_the_revision() -> None:
    reopened = assembled(1, T0 + 50.0, revision=2, open=True, series=(series(1, 1, Grade.OPEN, instances=41),))
    study = study_of(*whole_way(1), reopened)
    assert (study.state, study.revision) == (StudyState.ASSEMBLING, 2)
    assert study_of(*two_revisions()).state is StudyState.QUEUED


def test_current_results_come_first_and_older_ones_stay_listed() -> None:
    study = study_of(
        *two_revisions(), started(1, 2, at=T0 + 61.0), done(1, 2, at=T0 + 66.0), *deliveries(1, revision=2)
    )
    assert [j.state.value for j in study.jobs] == ["done", "done"]
    assert [(r.revision, r.current) for r in study.results] == [(2, True)] * 4 + [(1, False)] * 4
    assert study.state is StudyState.DONE


def test_an_older_revisions_refused_delivery_does_not_fail_the_amended_study() -> None:
    refused = delivery(1, 0, state="refused", at=T0 + 12.0, reason="no space")
    events = [
        *two_revisions(),
        refused,
        started(1, 2, at=T0 + 61.0),
        done(1, 2, at=T0 + 66.0),
        *deliveries(1, revision=2),
    ]
    assert study_of(*events).state is StudyState.DONE


def test_an_object_that_two_revisions_share_is_listed_once() -> None:
    same = done(1, 2, at=T0 + 66.0)
    shared = done(1, 1).objects[:2]
    from dataclasses import replace

    study = study_of(*two_revisions(), replace(same, objects=(*shared, *same.objects[2:])))
    uids = [r.object.sop_instance_uid for r in study.results]
    assert len(uids) == len(set(uids)) == 6
    assert [r.revision for r in study.results] == [2, 2, 2, 2, 1, 1]


def test_an_unfinished_job_of_an_older_revision_is_superseded() -> None:
    both = (job(1), job(1, 2, at=T0 + 55.0))
    study = study_of(assembled(1), started(1), assembled(1, T0 + 60.0, revision=2, jobs=both))
    assert [j.state.value for j in study.jobs] == ["superseded", "queued"]


def test_superseded_before_the_next_order_is_told_is_not_done() -> None:
    superseded = JobSuperseded(study_instance_uid=uid(1), job_id=job(1).job_id, at=T0 + 6.0)
    assert study_of(assembled(1), started(1), superseded).state is StudyState.QUEUED


def test_a_job_known_only_by_its_events_has_pipeline_and_revision() -> None:
    study = study_of(done(1, 3))
    assert [(j.pipeline, j.revision, j.state.value) for j in study.jobs] == [("haematoma", 3, "done")]
    assert study.revision == 3


def test_seconds_cover_the_way_from_the_first_image_to_the_last_delivery() -> None:
    seconds = study_of(*whole_way(1)).jobs[0].seconds
    assert list(seconds) == ["receive", "assemble", "queue", "volume", "infer", "measure", "encode", "send"]
    assert seconds["queue"] == pytest.approx(0.17, abs=1e-3)
    assert seconds["send"] == pytest.approx(0.33, abs=1e-3)
    assert seconds["infer"] == 3.92


SHAPE: dict[str, Any] = {
    "study_instance_uid": str, "state": str, "reason": (str, type(None)), "revision": int, "priority": str,
    "received_at": str, "updated_at": str,
    "images": {"n": int, "caption": str},
    "series": {
        "series_instance_uid": str, "modality": str, "instances": int, "complete": bool, "grade": str,
        "evidence": {"what": str, "detail": str}, "roles": list, "reason": (str, type(None)),
    },
    "jobs": {
        "pipeline": str, "version": (str, type(None)), "state": str, "reason": (str, type(None)), "input_series": list,
        "seconds": dict, "measurements": {"name": str, "value": float, "unit": str},
    },
    "results": {
        "sop_instance_uid": str, "sop_class_uid": str, "series_instance_uid": str, "kind": str,
        "deliveries": {"destination": str, "state": str, "attempts": int, "reason": (str, type(None))},
    },
}  # fmt: skip


def fits(value: Any, shape: Any) -> None:
    if isinstance(shape, dict):
        items = value if isinstance(value, list) else [value]
        assert items, "an empty list shows no shape"
        for item in items:
            assert list(item) == list(shape)
            for name, inner in shape.items():
                fits(item[name], inner)
    else:
        assert isinstance(value, shape), (value, shape)


def test_json_has_exactly_the_names_and_types_of_the_contract() -> None:
    shown = as_json(study_of(*whole_way(1, pictures=(("results/1/p1.png", "Haematoma outlined"),))))
    fits(shown, SHAPE)
    assert shown["received_at"] == "2026-01-02T03:03:04.250Z"
    assert shown["images"] == [{"n": 1, "caption": "Haematoma outlined"}]
