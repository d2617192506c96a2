"""Why: plain sentences with the evidence, for a study, a series and an object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from unit.history.made import (
    T0,
    arrival,
    assembled,
    deliveries,
    delivery,
    done,
    failed,
    job,
    new_bus,
    publish,
    series,
    started,
    uid,
    whole_way,
)

from ichor.history import why, why_text
from ichor.messages import Data, InstancesReceived, ReceiveRefused, seal
from ichor.shards import shard_of
from ichor.types import Earlier, Evidence, Grade


class Places:
    """A journal that knows the places it is told."""

    def __init__(self, places: dict[str, tuple[str, str, str | None]]) -> None:
        self._places = places

    def locate(self, uid: str) -> tuple[str, str, str | None] | None:
        return self._places.get(uid)


def asked(uid_: str, *messages: Data, journal: Places | None = None) -> dict[str, Any]:
    bus = new_bus()
    publish(bus, *messages)
    answer = why(uid_, bus=bus, journal=journal)
    assert answer is not None
    assert list(answer) == ["uid", "level", "state", "reason", "events"]
    assert all(list(e) == ["time", "stage", "text"] for e in answer["events"])
    return answer


def texts(answer: dict[str, Any]) -> list[str]:
    return [f"{e['stage']}: {e['text']}" for e in answer["events"]]


def test_a_study_that_went_the_whole_way_tells_its_story_in_order() -> None:
    answer = asked(uid(1), *arrival(1), *whole_way(1))
    assert (answer["level"], answer["state"]) == ("study", "done")
    assert answer["reason"] == "Intracerebral haematoma, 23.4 mL. Left basal ganglia; 1 lesion."
    told = texts(answer)
    assert told == [
        "receive: First seen; priority STAT",
        "assemble: CT series …4711.1.1 is open with 12 objects: the sender's association is open",
        "receive: CT1 sent 40 objects of CT series …4711.1.1 in 3.9 s; all were answered with Success",
        "receive: CT1 released its association after 40 objects",
        "assemble: CT series …4711.1.1 is complete (counted) with 40 objects: "
        "ImagesInAcquisition says 40, 40 are here; slice positions have no gap",
        "assemble: CT series …4711.1.1 can serve as ncct_head",
        "queue: The pipeline haematoma is queued (STAT) with series …4711.1.1 (40 objects) as ncct_head",
        "queue: A worker took the pipeline haematoma",
        "measure: The pipeline haematoma answered after 4.4 s: Intracerebral haematoma, 23.4 mL. Left basal ganglia; 1 lesion.",
        "encode: 4 objects written for pacs: segmentation, map, structured report, text report.",
        "send: pacs took 4 objects",
    ]
    times = [e["time"] for e in answer["events"]]
    assert times == sorted(times)


def test_arrival_order_of_the_events_does_not_change_the_story() -> None:
    messages = [*arrival(1), *whole_way(1)]
    assert asked(uid(1), *messages) == asked(uid(1), *reversed(messages))


def test_a_study_in_flight_says_what_it_waits_for() -> None:
    answer = asked(uid(1), assembled(1, open=True, series=(series(1, 1, Grade.OPEN, instances=7),), jobs=()))
    assert answer["state"] == "assembling"
    assert answer["reason"] == "CT series …4711.1.1 is open with 7 objects: the sender's association is open"


def test_a_destination_that_is_away_is_named_with_its_reason() -> None:
    waiting = deliveries(1, state="pending", attempts=4, reason="connection refused")
    answer = asked(uid(1), assembled(1), started(1), done(1), *waiting)
    assert answer["state"] == "sending"
    assert answer["reason"] == "4 objects wait for delivery to pacs (connection refused)"
    assert texts(answer)[-1] == "send: 4 objects wait for pacs (attempt 4): connection refused"


def test_failures_say_how_they_go_on() -> None:
    answer = asked(uid(1), assembled(1), started(1), failed(1), failed(1, attempt=5, final=True, at=T0 + 60.0))
    assert answer["state"] == "failed"
    assert answer["reason"] == "the pipeline haematoma was given up: out of memory"
    assert texts(answer)[-2:] == [
        "infer: Attempt 1 at the pipeline haematoma failed: out of memory; it will be tried again",
        "infer: Attempt 5 at the pipeline haematoma failed: out of memory; it was given up and waits in the dead letters",
    ]


def test_a_late_image_is_told() -> None:
    late = assembled(1, T0 + 20.0, revision=2, open=True, series=(series(1, 1, Grade.OPEN, instances=41),))
    told = texts(asked(uid(1), *whole_way(1), late))
    assert "assemble: New images: this is revision 2 of the study" in told
    assert any("is open again: an image came late, 41 objects now" in line for line in told)


def test_a_refusal_to_analyse_is_told_before_it_is_answered() -> None:
    refused = assembled(1, jobs=(job(1, refusal="the series lacks slices"),), series=(series(1, 1, Grade.SHORT),))
    told = texts(asked(uid(1), refused))
    assert told[-1] == "queue: The pipeline haematoma will answer ‘not analysed’: the series lacks slices"


def test_a_series_has_its_grade_and_evidence() -> None:
    other = series(1, 2, Grade.REGULAR, roles=(), modality="SR", instances=1, reason="a report")
    answer = asked(uid(1, 1), assembled(1, series=(series(1, 1), other)), started(1), done(1), *deliveries(1))
    assert (answer["level"], answer["state"]) == ("series", "counted")
    assert (
        answer["reason"]
        == "ImagesInAcquisition says 40, 40 are here; slice positions have no gap; can serve as ncct_head"
    )
    assert not any("SR series" in line for line in texts(answer))
    assert texts(answer)[-1] == "send: pacs took 4 objects"
    report = asked(uid(1, 2), assembled(1, series=(series(1, 1), other)))
    assert report["reason"] == "the sender released its association; not used: a report"


def test_which_rule_said_what_is_told_once_and_apart_from_the_proof() -> None:
    said = ("ncct_head: plays ncct_head", "not dwi, t1: not an MR")
    whole = series(1, 1)
    whole = replace(whole, evidence=(*whole.evidence, *(Evidence(what="rule", detail=text) for text in said)))
    answer = asked(
        uid(1), *arrival(1), assembled(1, series=(whole,)), assembled(1, T0 + 5, series=(whole,), revision=2)
    )
    rules = [line for line in texts(answer) if "rules of routing" in line]
    assert len(rules) == 1
    assert rules[0].endswith("by the rules of routing: ncct_head: plays ncct_head; not dwi, t1: not an MR")
    assert not any("not an MR" in line for line in texts(answer) if "is complete" in line)


def test_an_object_is_found_through_the_journal_with_its_defect() -> None:
    places = Places({uid(1, 1, n): ("instance", uid(1), uid(1, 1)) for n in (1, 2)})
    messages = [*arrival(1, defect="pixel data are shorter than the header says"), assembled(1)]
    bad = asked(uid(1, 1, 1), *messages, journal=places)
    assert (bad["level"], bad["state"]) == ("instance", "stored")
    assert bad["reason"] == "pixel data are shorter than the header says"
    good = asked(uid(1, 1, 2), *messages, journal=places)
    assert good["reason"].startswith("one of 40 objects of CT series …4711.1.1: ImagesInAcquisition")


def test_a_result_is_found_without_a_journal() -> None:
    answer = asked(uid(1, 901, 3), *whole_way(1))
    assert (answer["level"], answer["state"]) == ("instance", "sent")
    assert answer["reason"] == "a report that Ichor made (revision 1); pacs: sent"
    refused = delivery(1, 2, state="refused", at=T0 + 30.0, reason="SOP Class not supported")
    assert asked(uid(1, 901, 3), *whole_way(1), refused)["reason"].endswith("pacs: refused, SOP Class not supported")


def test_images_on_disk_whose_headers_are_unread_are_known() -> None:
    answer = asked(uid(1), journal=Places({uid(1): ("study", uid(1), None)}))
    assert answer["state"] == "receiving"
    assert answer["reason"] == "its objects were received; no assembler has looked at them yet"


def test_what_no_receipt_spoke_of_is_not_said_to_be_answered() -> None:
    first = arrival(1)[0]
    assert isinstance(first, InstancesReceived)
    first = replace(first, instances=tuple(replace(i, calling_ae="RECOVERED") for i in first.instances))
    answer = asked(uid(1), first, journal=Places({uid(1): ("study", uid(1), None)}))
    texts = [event["text"] for event in answer["events"]]
    assert any("came in from the spool, without a receipt" in text for text in texts)
    assert not any("Success" in text for text in texts)


def test_a_study_of_nothing_but_objects_of_ichor_is_done() -> None:
    ours, *more = arrival(1)
    assert isinstance(ours, InstancesReceived)
    ours = replace(ours, instances=tuple(replace(i, made_by_ichor=True) for i in ours.instances))
    places = Places(
        {
            uid(1): ("study", uid(1), None),
            uid(1, 1): ("series", uid(1), uid(1, 1)),
            uid(1, 1, 1): ("instance", uid(1), uid(1, 1)),
        }
    )
    answers = [asked(u, ours, journal=places) for u in (uid(1), uid(1, 1), uid(1, 1, 1))]
    assert [(a["state"], a["reason"]) for a in answers] == [
        ("done", "made by Ichor; starts nothing"),
        ("made by Ichor", "its objects start nothing"),
        ("stored", "made by Ichor; starts nothing"),
    ]
    assert asked(uid(1), ours, *more, journal=places)["state"] == "receiving"


def test_a_study_of_which_everything_was_refused_says_so() -> None:
    refusal = ReceiveRefused(study_instance_uid=uid(1), calling_ae="CT1", status="0xA700", reason="no space", at=T0)
    answer = asked(uid(1), refusal)
    assert (answer["state"], answer["reason"]) == ("refused", "no space")


def test_a_study_of_which_something_is_stored_is_not_said_to_be_refused() -> None:
    refusal = ReceiveRefused(study_instance_uid=uid(1), calling_ae="CT1", status="0xA700", reason="no space", at=T0)
    journal = Places({uid(1): ("study", uid(1), None)})
    for answer in (asked(uid(1), refusal, journal=journal), asked(uid(1), *arrival(1), refusal)):
        assert answer["state"] == "receiving"
        assert answer["reason"].endswith("no assembler has looked at them yet; some were refused: no space")
    assert asked(uid(1), refusal, journal=Places({}))["state"] == "refused"


def test_arrivals_are_found_in_the_topic_of_their_shard() -> None:
    bus, (received, *_) = new_bus(), arrival(1)
    bus.publish(shard_of(uid(1), 8).topic, [seal(received, source="test", time=0.0)])
    journal = Places({uid(1): ("study", uid(1), None)})
    answers = [why(uid(1), bus=bus, journal=journal, shards=shards) for shards in (1, 8)]
    assert [len(answer["events"]) if answer else None for answer in answers] == [0, 1]


def test_an_unknown_or_invalid_uid_is_none() -> None:
    bus = new_bus()
    publish(bus, *whole_way(1))
    assert why(uid(8), bus=bus, journal=None) is None
    assert why("../../etc/passwd", bus=bus, journal=None) is None


def test_the_text_names_the_day_once_and_says_research() -> None:
    text = why_text(asked(uid(1), *whole_way(1)))
    assert text.splitlines()[0] == f"study {uid(1)}"
    assert text.count("2026-01-02") == 1
    assert "  03:03:13.250  encode    4 objects written" in text
    assert text.endswith("RESEARCH: not for diagnosis or treatment.")


def test_what_a_job_is_compared_with_is_told_and_why_not() -> None:
    linked = replace(job(1), earlier=Earlier(study_instance_uid=uid(2), hours=6.24))
    refused = replace(job(1), earlier=Earlier(refusal="the patients' birth dates differ"))
    (said,) = [t for t in texts(asked(uid(1), assembled(1, jobs=(linked,)))) if "is queued" in t]
    assert said.endswith(", to be compared with the same patient's study …5.4711.2, 6.2 h earlier")
    (said,) = [t for t in texts(asked(uid(1), assembled(1, jobs=(refused,)))) if "is queued" in t]
    assert said.endswith("; another scan under its Patient ID is not compared: the patients' birth dates differ")
