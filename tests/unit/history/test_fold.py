"""The fold: any order and any repetition of the same events is the same study."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.history.made import T0, assembled, deliveries, delivery, done, failed, job, series, started, uid, whole_way

from ichor.errors import UnknownMessage
from ichor.history import Study, StudyView, as_json, fold
from ichor.messages import Data, JobSuperseded, ReceiveRefused
from ichor.types import DeliveryState, Grade, StudyState


def folded(events: list[Data]) -> StudyView:
    view: StudyView | None = None
    for event in events:
        view = fold(view, event)
    assert view is not None
    return view


AMENDED: list[Data] = [
    *whole_way(1),
    started(1, attempt=2, at=T0 + 5.0),
    failed(1, attempt=1, at=T0 + 4.9),
    delivery(1, 0, state="pending", attempts=3, at=T0 + 9.4, reason="cannot be reached"),
    assembled(1, T0 + 60.0, received_at=T0, revision=2, jobs=(job(1), job(1, 2, at=T0 + 55.0))),
    started(1, 2, at=T0 + 61.0),
    JobSuperseded(study_instance_uid=uid(1), job_id=job(1).job_id, at=T0 + 60.5),
    done(1, 2, at=T0 + 66.0),
    *deliveries(1, revision=2, at=T0 + 66.3),
]


@settings(max_examples=150, deadline=None)
@given(st.permutations(AMENDED), st.lists(st.sampled_from(AMENDED), max_size=6))
def test_any_order_and_repetition_gives_the_same_study(order: list[Data], again: list[Data]) -> None:
    expected = Study.of(folded(AMENDED))
    assert expected.state is StudyState.DONE
    assert expected.revision == 2
    found = Study.of(folded([*order, *again]))
    assert found == expected
    assert as_json(found) == as_json(expected)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_events_of_one_moment_do_not_depend_on_their_order(data: st.DataObject) -> None:
    moments = st.sampled_from([T0, T0 + 1.0])
    states = st.sampled_from(list(DeliveryState))
    several = st.lists(
        st.one_of(
            st.builds(lambda at, s, n: delivery(1, at=at, state=s.value, attempts=n), moments, states, st.integers(1, 2)),
            st.builds(lambda at, n: started(1, attempt=n, at=at), moments, st.integers(1, 2)),
            st.builds(lambda at, n, f: failed(1, attempt=n, at=at, final=f), moments, st.integers(1, 2), st.booleans()),
            st.builds(lambda at, r: assembled(1, at, reason=r), moments, st.sampled_from([None, "one", "two"])),
        ),
        min_size=1, max_size=8,
    )  # fmt: skip
    events = data.draw(several)
    assert folded(events) == folded(data.draw(st.permutations(events)))


def test_an_event_that_tells_nothing_new_gives_the_same_object() -> None:
    view = folded(AMENDED)
    for event in AMENDED:
        assert fold(view, event) is view


def test_a_refusal_and_another_study_change_nothing() -> None:
    refusal = ReceiveRefused(study_instance_uid=uid(1), calling_ae="CT1", status="0xA700", reason="no space", at=T0)
    assert fold(None, refusal) is None
    view = folded(whole_way(1))
    assert fold(view, refusal) is view
    assert fold(view, started(2)) is view


def test_an_unknown_delivery_state_is_refused_by_name() -> None:
    with pytest.raises(UnknownMessage, match="teleported"):
        fold(None, delivery(1, state="teleported"))


def test_a_delivery_before_its_job_was_done_is_not_forgotten() -> None:
    early: list[Data] = [*deliveries(1), started(1)]
    before = Study.of(folded([*early, assembled(1)]))
    assert (before.state, before.results) == (StudyState.RUNNING, ())
    after = Study.of(folded([*early, assembled(1), done(1)]))
    assert after.state is StudyState.DONE
    assert {d.state for r in after.results for d in r.deliveries} == {DeliveryState.SENT}


def test_the_newest_image_of_a_study_wins_over_one_that_comes_late() -> None:
    newer = assembled(1, T0 + 10.0, series=(series(1, 1, Grade.OPEN, instances=41),), open=True)
    older = assembled(1, T0 + 4.05)
    assert folded([newer, older]).assembled == newer
    assert folded([newer, older]).updated_at == T0 + 10.0
