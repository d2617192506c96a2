"""The projection follows the log: incremental, restartable, tolerant of what it cannot read."""

from __future__ import annotations

import threading
from dataclasses import replace

from unit.history.made import T0, assembled, delivery, done, job, new_bus, publish, started, uid, whole_way

from ichor.history import Projection, identity_of, study, withdrawn
from ichor.messages import EVENTS, Envelope, ReceiveRefused
from ichor.reasons import Reason
from ichor.types import StudyState
from ichor.uids import accession_digest


def refusal(n: int, study_uid: str = "") -> ReceiveRefused:
    return ReceiveRefused(
        study_instance_uid=study_uid, calling_ae="CT1", status="0xA900", reason=f"reason {n}", at=T0 + n
    )


def test_it_goes_on_from_where_it_was() -> None:
    bus = new_bus()
    projection = Projection(bus)
    way = whole_way(1)
    publish(bus, *way[:3])
    assert projection.step() == 3
    assert projection.step() == 0
    publish(bus, *way[3:])
    projection.catch_up()
    found = projection.study(uid(1))
    assert found is not None
    assert found.state is StudyState.DONE


def test_a_restart_folds_to_the_same() -> None:
    bus = new_bus()
    projection = Projection(bus)
    for n in range(1, 6):
        publish(bus, *whole_way(n, T0 + n))
        projection.catch_up()
    again = Projection(bus)
    again.catch_up()
    assert again.studies() == projection.studies()
    assert [s.study_instance_uid for s in again.studies()] == [uid(n) for n in (5, 4, 3, 2, 1)]
    assert study(bus, uid(3)) == again.study(uid(3))
    assert study(bus, uid(99)) is None


def test_state_since_and_accession_number_select() -> None:
    bus = new_bus()
    publish(bus, *whole_way(1), *whole_way(2, T0 + 100.0)[:2])
    projection = Projection(bus)
    projection.catch_up()
    assert [s.study_instance_uid for s in projection.studies(state=StudyState.QUEUED)] == [uid(2)]
    updated = projection.studies()[1].updated_at
    assert [s.study_instance_uid for s in projection.studies(since=updated)] == [uid(2), uid(1)]
    assert [s.study_instance_uid for s in projection.studies(since=updated + 0.001)] == [uid(2)]
    digest = accession_digest(" ACC2 ")
    assert digest is not None
    assert [s.study_instance_uid for s in projection.find(digest)] == [uid(2)]


def test_refusals_are_newest_first_and_bounded() -> None:
    bus = new_bus()
    publish(bus, *(refusal(n) for n in range(8)))
    projection = Projection(bus, refusals=5)
    projection.catch_up()
    assert [r.reason for r in projection.refusals()] == [f"reason {n}" for n in (7, 6, 5, 4, 3)]
    assert projection.studies() == []


def test_a_message_it_cannot_read_stops_nothing() -> None:
    bus = new_bus()
    strange = Envelope(id="x", source="future", type="ichor.study.dreamt.v9", time=T0, subject=uid(1), data={})
    broken = Envelope(id="y", source="future", type="ichor.job.done.v1", time=T0, subject=uid(1), data={"at": "soon"})
    bus.publish(EVENTS, [strange, broken])
    publish(bus, assembled(1), started(1), done(1), delivery(1, state="teleported"))
    projection = Projection(bus)
    projection.catch_up()
    found = projection.study(uid(1))
    assert found is not None
    assert found.state is StudyState.SENDING
    assert study(bus, uid(1)) == found


def test_it_finds_series_and_results_by_their_uids() -> None:
    bus = new_bus()
    publish(bus, *whole_way(1))
    projection = Projection(bus)
    projection.catch_up()
    assert projection.locate(uid(1)) == ("study", uid(1), None)
    assert projection.locate(uid(1, 1)) == ("series", uid(1), uid(1, 1))
    assert projection.locate(uid(1, 901, 2)) == ("instance", uid(1), uid(1, 801, 2))
    assert projection.locate(uid(7)) is None


def test_run_follows_until_it_is_stopped() -> None:
    bus = new_bus()
    projection = Projection(bus)
    stop = threading.Event()
    thread = threading.Thread(target=projection.run, args=(stop,), kwargs={"wait": 0.05})
    thread.start()
    try:
        publish(bus, *whole_way(1))
        seen = threading.Event()
        for _ in range(6000):
            found = projection.study(uid(1))
            if found is not None and found.state is StudyState.DONE:
                seen.set()
                break
            seen.wait(0.01)
        assert seen.is_set()
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_a_study_is_known_before_the_log_is_read() -> None:
    bus = new_bus()
    publish(bus, *whole_way(1))
    projection = Projection(bus)
    assert not projection.caught_up.is_set()
    found = projection.study(uid(1))
    projection.catch_up()
    assert projection.caught_up.is_set()
    assert found is not None
    assert found == projection.study(uid(1))


def test_skipping_what_a_later_view_replaces_changes_nothing() -> None:
    bus = new_bus()
    views = [assembled(1, T0 + at, revision=r, received_at=T0) for at, r in ((4, 1), (9, 2), (6, 1), (8, 2), (9.5, 1))]
    publish(bus, *whole_way(1), *views)
    batch = Projection(bus)
    batch.catch_up()
    assert batch.study(uid(1)) == study(bus, uid(1))


def test_two_patients_withdraw_what_came_before_and_not_the_report_that_says_so() -> None:
    bus, first, other = new_bus(), job(1), job(1, pipeline="other")
    publish(bus, assembled(1, jobs=(first, other)))
    assert withdrawn(bus)(uid(1), first.job_id) is None
    assert identity_of(bus)(uid(1), first.job_id) == ("1" * 64,)
    refused = job(1, 2, refusal=Reason.TWO_PATIENTS.value)
    publish(bus, assembled(1, T0 + 20, revision=2, jobs=(first, other, refused)))
    assert [withdrawn(bus)(uid(1), j.job_id) for j in (first, other)] == [Reason.TWO_PATIENTS.value] * 2
    assert withdrawn(bus)(uid(1), refused.job_id) is None
    assert identity_of(bus)(uid(1), refused.job_id) is None


def test_each_job_has_the_identity_of_its_own_series() -> None:
    bus, first, other = new_bus(), job(1), job(1, pipeline="other")
    view = replace(
        assembled(1, jobs=(first, other)), identities={first.job_id: ("2" * 64,), other.job_id: ()}
    )  # fmt: skip
    publish(bus, view)
    ask = identity_of(bus)
    assert (ask(uid(1), first.job_id), ask(uid(1), other.job_id)) == (("2" * 64,), ())
    assert ask(uid(1), "not told of yet") is None


def test_another_refusal_withdraws_nothing() -> None:
    bus, first = new_bus(), job(1)
    publish(bus, assembled(1, revision=2, jobs=(first, job(1, 2, refusal="the series lacks slices"))))
    assert withdrawn(bus)(uid(1), first.job_id) is None
    assert withdrawn(bus)(uid(1), "unheard-of") is None
