"""The pages: what they say, that they escape, that they need nothing from outside."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from unit.console.conftest import Desk
from unit.history.made import T0, assembled, delivery, done, failed, job, series, started, uid, whole_way

from console import words
from ichor.messages import ReceiveRefused
from ichor.store.receipts import Lane, Waiting
from ichor.types import Earlier, Evidence, Grade, SeriesStatus

NASTY = "<script>alert(1)</script>&\"'"


def test_the_list_shows_flight_and_answers(desk: Desk) -> None:
    pictures = (("results/1/p.png", "Haematoma outlined"),)
    desk.tell(
        *whole_way(1, pictures=pictures), assembled(2), started(2), assembled(3), failed(3, attempt=5, final=True)
    )  # fmt: skip
    text = desk.client().get("/").text
    assert "RESEARCH" in text
    assert "Intracerebral haematoma, 23.4 mL." in text
    assert f"/api/v1/studies/{uid(1)}/images/1.png?v=1" in text
    assert "The pipeline haematoma is at work (attempt 1)" in text
    assert "The pipeline haematoma was given up: out of memory" in text
    flight, finished = text.split("<h2>Finished</h2>")
    assert uid(2) in flight
    assert uid(1) not in flight
    assert uid(1) in finished
    assert uid(3) in finished
    assert "STAT" in finished
    assert "1 min ago" in finished
    only_failed = desk.client().get("/?state=failed").text
    assert uid(1) not in only_failed
    assert uid(3) in only_failed


def test_one_study_shows_steps_evidence_results_and_history(desk: Desk) -> None:
    pictures = (("results/1/p.png", "Haematoma outlined"),)
    desk.tell(*whole_way(1, pictures=pictures), delivery(1, 1, state="refused", at=T0 + 20.0, reason="no such class"))
    text = desk.client().get(f"/studies/{uid(1)}").text
    for wanted in (
        "Delivery to pacs refused: no such class", "Haematoma outlined", "23.4 mL", "3.9 s", "counted", "ncct_head",
        "ImagesInAcquisition says 40, 40 are here", "pacs: sent", "pacs: refused", "pacs took 4 objects", "haematoma 0.1.0",
        uid(1, 901, 1), "report 3 of 4", "2 Jan 2026, 03:03:04 UTC",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_a_compared_study_leads_to_the_earlier_one(desk: Desk) -> None:
    pictures = (("k", "Haematoma outlined"), ("p", "6.2 h earlier: 20.1 mL; now: 28.4 mL; slice 9 of 40"))
    order = replace(job(1), earlier=Earlier(study_instance_uid=uid(2), hours=6.24))
    growth = (("haematoma_growth", 8.31, "mL"), ("haematoma_growth_percent", 41.3, "%"))
    desk.tell(assembled(1, jobs=(order,)), started(1), replace(done(1, pictures=pictures), measurements=growth))
    text = desk.client().get(f"/studies/{uid(1)}").text
    assert "6.2 h before this one" in text
    assert f'href="/studies/{uid(2)}"' in text
    assert "Growth since the earlier CT" in text
    assert ">+8.3 mL<" in text
    assert ">+41.3 %<" in text
    assert "6.2 h earlier: 20.1 mL; now: 28.4 mL" in text


def test_beside_an_earlier_scan_stands_why_it_was_not_compared(desk: Desk) -> None:
    order = replace(job(1), earlier=Earlier(study_instance_uid=uid(2), hours=6.24))
    said = "Not comparable with the CT 6.2 h earlier: the two skulls do not meet"
    desk.tell(assembled(1, jobs=(order,)), started(1), replace(done(1), summary=("Intracerebral haematoma", said)))
    assert f"<p>{said}</p>" in desk.client().get(f"/studies/{uid(1)}").text


def test_a_scan_that_is_not_compared_is_said_with_its_reason(desk: Desk) -> None:
    order = replace(job(1), earlier=Earlier(refusal="the patients' birth dates differ"))
    desk.tell(assembled(1, jobs=(order,)), started(1), done(1))
    text = desk.client().get(f"/studies/{uid(1)}").text
    assert "Another scan under this Patient ID is not compared: the patients" in text
    assert "before this one" not in text


def test_not_analysed_says_why(desk: Desk) -> None:
    desk.tell(assembled(1), started(1), done(1, outcome="not_analysed", reason="no brain found", kinds=2))
    assert "Not analysed: no brain found" in desk.client().get(f"/studies/{uid(1)}").text


def test_what_a_sender_wrote_is_escaped(desk: Desk) -> None:
    evil = SeriesStatus(
        series_instance_uid=uid(1, 1), modality=NASTY, instances=3, grade=Grade.SHORT, reason=NASTY,
        evidence=(Evidence(what="count", detail=NASTY),),
    )  # fmt: skip
    desk.tell(
        assembled(1, series=(evil,)), started(1),
        done(1, summary=(NASTY,), pictures=(("k", NASTY),)), delivery(1, state="refused", reason=NASTY),
        ReceiveRefused(study_instance_uid="", calling_ae=NASTY, status="rejected", reason=NASTY, at=T0),
    )  # fmt: skip
    for path in ("/", f"/studies/{uid(1)}", "/refusals"):
        text = desk.client().get(path).text
        assert "alert(1)" in text
        assert "<script>alert" not in text
        assert NASTY not in text


@pytest.mark.parametrize("path", ["/", f"/studies/{uid(1)}", "/refusals", "/sign-in", "/nothing"])
def test_pages_need_nothing_from_outside_and_nothing_inline(desk: Desk, path: str) -> None:
    desk.tell(*whole_way(1, pictures=(("k", "one"),)))
    text = desk.client().get(path).text
    assert not re.findall(r"""(?:src|href|action)=["'](?!/)""", text)
    assert not re.findall(r"<script(?![^>]*\bsrc=)|\sstyle=|\son[a-z]+=", text)
    assert "RESEARCH" in text


def test_every_view_of_the_page_without_a_script_reloads_itself(desk: Desk) -> None:
    assert '<noscript><meta http-equiv="refresh"' in desk.client().get("/").text
    assert "http-equiv" not in desk.client().get("/sign-in").text


def test_an_unknown_study_is_a_page_with_404(desk: Desk) -> None:
    answer = desk.client().get(f"/studies/{uid(9)}")
    assert answer.status_code == 404
    assert "No study with this UID" in answer.text


def test_finding_leads_to_the_study(desk: Desk) -> None:
    desk.tell(*whole_way(1), *whole_way(2))
    client = desk.client()
    for what in ("ACC2", f" {uid(2)} ", uid(2, 1), uid(2, 901, 1)):
        answer = client.post("/find", data={"what": what})
        assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{uid(2)}"), what
    desk.tell(assembled(3, accession_sha256=assembled(2).accession_sha256))
    both = client.post("/find", data={"what": "ACC2"}).text
    assert uid(2) in both
    assert uid(3) in both
    assert client.post("/find", data={"what": "ACC9"}).status_code == 404
    assert client.post("/find", data={"what": ""}).status_code == 404


def test_finished_studies_come_page_by_page(desk: Desk) -> None:
    for n in range(1, 61):
        desk.tell(assembled(n, T0 + n, jobs=(), reason="no pipeline applies"))
    client = desk.client()
    first, second = client.get("/").text, client.get("/?page=2").text
    assert f"{uid(60)}<" in first
    assert f"{uid(10)}<" not in first
    assert f"{uid(10)}<" in second
    assert client.get("/?page=-4").status_code == client.get("/?page=x").status_code == 200


def test_a_short_series_is_shown_with_its_reason(desk: Desk) -> None:
    item = series(1, 1, Grade.SHORT, reason="the series lacks slices")
    desk.tell(assembled(1, series=(item,), jobs=(), reason="the series lacks slices"))
    text = desk.client().get(f"/studies/{uid(1)}").text
    assert "short" in text
    assert "The series lacks slices" in text


@pytest.mark.parametrize(
    ("age", "text"), [(0.4, "0 s ago"), (59.4, "59 s ago"), (61, "1 min ago"), (7300, "2 h ago"), (90000, "1 Jan 2026")]
)
def test_ages(age: float, text: str) -> None:
    now = T0 + (0 if age < 86400 else 3600 * 20)
    assert words.ago(now - age, now) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.034, "0.03 s"), (3.14, "3.1 s"), (125.2, "2 min 05 s"), (7260.0, "2 h 01 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


def test_a_probability_is_percent_and_a_volume_has_its_unit() -> None:
    assert words.number(0.312, "1") == "31 %"
    assert words.number(23.44, "mL") == "23.4 mL"


def test_what_stays_untold_shows_though_all_roles_run(desk: Desk) -> None:
    desk.waiting = Waiting({Lane.STAT: 0, Lane.ROUTINE: 430}, desk.clock.time() - 10.0)
    assert "all roles work" in desk.client().get("/").text
    assert 'ichor_receipts_unread_bytes{lane="routine"} 430.0' in desk.client().get("/metrics").text
    desk.waiting = Waiting({Lane.STAT: 0, Lane.ROUTINE: 430}, desk.clock.time() - 90.0)
    text = desk.client().get("/").text
    assert "all roles work" not in text
    assert "received 90 s ago and not told yet" in text
    assert desk.client().get("/readyz").status_code == 200  # the roles are up: restarting them is no cure
