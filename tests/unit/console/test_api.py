"""The REST API as docs/contract.md promises it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from unit.console.conftest import PNG, Desk
from unit.history.made import T0, done, publish, uid, whole_way

from console.exposition import Exposition
from ichor.bus.memory import MemoryBus
from ichor.bus.protocol import Lag
from ichor.clock import ManualClock
from ichor.errors import TransientError
from ichor.history import Projection, as_json
from ichor.messages import ReceiveRefused, seal

PICTURES = (("results/1/outline.png", "Haematoma outlined"), ("results/1/gone.png", "Probability"))


def test_studies_are_an_array_newest_first(desk: Desk) -> None:
    desk.tell(*whole_way(1), *whole_way(2, T0 + 10.0)[:3])
    answer = desk.client().get("/api/v1/studies")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert [s["study_instance_uid"] for s in answer.json()] == [uid(2), uid(1)]
    assert answer.json() == [as_json(s) for s in desk.projection.studies()]


def test_state_and_since_select(desk: Desk) -> None:
    desk.tell(*whole_way(1), *whole_way(2, T0 + 100.0)[:3])
    client = desk.client()

    def uids(query: str) -> list[str]:
        return [s["study_instance_uid"] for s in client.get(f"/api/v1/studies?{query}").json()]

    assert uids("state=done") == [uid(1)]
    assert uids("state=failed") == []
    assert uids("state=&since=") == [uid(2), uid(1)]
    updated = client.get(f"/api/v1/studies/{uid(1)}").json()["updated_at"]
    assert uids(f"since={updated}") == [uid(2), uid(1)]
    assert uids("since=2026-01-02T03:04:00Z") == [uid(2)]
    assert uids("since=2026-01-02T04:04:00+01:00") == [uid(2)]
    assert uids("since=2026-01-02T03:04:00Z&state=done") == []


@pytest.mark.parametrize(
    "query",
    ["state=finished", "state=DONE", "since=yesterday", "since=2026-01-02T03:04:00", "since=1", "since=9999-99-99"],
)
def test_a_bad_query_is_400_with_what_is_allowed(desk: Desk, query: str) -> None:
    answer = desk.client().get(f"/api/v1/studies?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(query.partition("=")[0] + ": ")


@pytest.mark.parametrize(
    "path",
    [
        f"/api/v1/studies/{uid(9)}",
        "/api/v1/studies/..%2f..%2fetc%2fpasswd",
        "/api/v1/studies/" + "1." * 40 + "1",
        f"/api/v1/studies/{uid(9)}/images/1.png",
        f"/api/v1/why/{uid(9)}",
        "/api/v1/why/x",
        "/api/v1/nothing",
        "/api/v2/studies",
    ],
)
def test_an_unknown_uid_or_path_is_404_in_json(desk: Desk, path: str) -> None:
    desk.tell(*whole_way(1))
    answer = desk.client().get(path)
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


def test_one_study_and_why_answer(desk: Desk) -> None:
    desk.tell(*whole_way(1))
    client = desk.client()
    assert client.get(f"/api/v1/studies/{uid(1)}").json()["state"] == "done"
    for level, asked in (("study", uid(1)), ("series", uid(1, 1)), ("instance", uid(1, 901, 1))):
        answer = client.get(f"/api/v1/why/{asked}").json()
        assert (answer["uid"], answer["level"]) == (asked, level)
        assert answer["events"]


def test_pictures_are_the_stored_bytes(desk: Desk) -> None:
    desk.blobs.kept[PICTURES[0][0]] = PNG
    desk.tell(*whole_way(1, pictures=PICTURES))
    client = desk.client()
    assert client.get(f"/api/v1/studies/{uid(1)}").json()["images"] == [
        {"n": 1, "caption": "Haematoma outlined"},
        {"n": 2, "caption": "Probability"},
    ]
    answer = client.get(f"/api/v1/studies/{uid(1)}/images/1.png")
    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["content-type"] == "image/png"
    for other in ("0", "2", "3", "-1", "x", "1.jpg"):
        assert client.get(f"/api/v1/studies/{uid(1)}/images/{other}.png").status_code == 404, other


def test_refusals_have_the_contracts_names(desk: Desk) -> None:
    desk.tell(
        ReceiveRefused(study_instance_uid="", calling_ae="CT1", status="0xA900", reason="a UID is not valid", at=T0)
    )
    assert desk.client().get("/api/v1/refusals").json() == [
        {"time": "2026-01-02T03:03:04.250Z", "calling_ae": "CT1", "status": "0xA900", "reason": "a UID is not valid"}
    ]


def test_find_by_accession_number(desk: Desk) -> None:
    desk.tell(*whole_way(1), *whole_way(2))
    client = desk.client()
    answer = client.post("/api/v1/find", json={"accession_number": "ACC2 "})
    assert [s["study_instance_uid"] for s in answer.json()] == [uid(2)]
    assert client.post("/api/v1/find", json={"accession_number": "ACC9"}).json() == []
    assert client.post("/api/v1/find", json={"accession_number": " "}).json() == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"accession_number": 5}', b"\xff", b"[" * 4000, b'{"accession_number": null}']
)
def test_find_with_a_bad_body_is_400(desk: Desk, body: bytes) -> None:
    answer = desk.client().post("/api/v1/find", content=body)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_a_long_body_is_413_and_a_wrong_method_405(desk: Desk) -> None:
    client = desk.client()
    assert client.post("/api/v1/find", content=b"x" * 5000).status_code == 413
    wrong = client.get("/api/v1/find")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert client.delete(f"/api/v1/studies/{uid(1)}").status_code == 405


def test_probes_say_whether_the_roles_work(desk: Desk) -> None:
    assert desk.client().get("/healthz").status_code == 200
    assert desk.client().get("/readyz").status_code == 200
    desk.ready = (False, "waiting for: work")
    answer = desk.client().get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "detail": "waiting for: work"})


def test_metrics_tell_how_far_the_bus_is_behind(desk: Desk) -> None:
    member = desk.bus.subscribe(["events"], "auditor")
    desk.tell(*whole_way(1))
    text = desk.client().get("/metrics").text
    count = len(whole_way(1))
    assert f'ichor_bus_waiting{{group="auditor",topic="events"}} {float(count)}' in text
    first = member.receive(0.0)
    assert first is not None
    first.reject("unreadable")
    text = desk.client().get("/metrics").text
    assert f'ichor_bus_waiting{{group="auditor",topic="events"}} {float(count - 1)}' in text
    assert 'ichor_dead_letters{topic="events"} 1.0' in text
    assert "ichor_stage_seconds" in text


class AwayBus(MemoryBus):
    """Answers when it is told to: with an error while ``away``, not at all while ``silent``."""

    away = False
    silent: threading.Event | None = None

    def lag(self) -> list[Lag]:
        if self.silent is not None:
            self.silent.wait()
        if self.away:
            raise TransientError("Kafka at 127.0.0.1:1: nobody is there")
        return super().lag()


def test_metrics_tell_what_they_know_while_the_bus_is_away(caplog: pytest.LogCaptureFixture) -> None:
    bus = AwayBus(clock=ManualClock())
    bus.subscribe(["events"], "watcher")
    bus.publish("events", [seal(whole_way(1)[0], source="test", time=T0)])
    exposition = Exposition(bus, lambda: None, patience=60.0)
    assert 'ichor_bus_waiting{group="watcher",topic="events"} 1.0' in exposition.text().decode()
    assert "ichor_bus_away 0.0" in exposition.text().decode()
    bus.away = True
    for _ in range(2):
        text = exposition.text().decode()
        assert "ichor_bus_away 1.0" in text
        assert 'ichor_bus_waiting{group="watcher",topic="events"} 1.0' in text
    assert caplog.text.count("nobody is there") == 1
    exposition._patience = 0.05
    bus.away, bus.silent = False, threading.Event()
    for _ in range(2):
        assert "ichor_bus_away 1.0" in exposition.text().decode()
    assert [thread.name for thread in threading.enumerate()].count("metrics-bus") == 1
    bus.silent.set()
    exposition = Exposition(bus, lambda: None, patience=60.0)
    assert "ichor_bus_away 0.0" in exposition.text().decode()


def test_a_bus_that_is_away_is_503_and_asked_again_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise TransientError("Kafka at 127.0.0.1:1: nobody is there")

    desk.projection = Projection(desk.bus)  # single studies are asked from the log until it was read
    monkeypatch.setattr(desk.bus, "read", away)
    answer = desk.client().get(f"/api/v1/studies/{uid(1)}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json() == {"error": "the bus is away: ask again"}


def test_an_unexpected_error_is_500_without_its_text(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Projection, "studies", fail)
    answer = desk.client().get("/api/v1/studies")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"]


def test_the_newest_revisions_pictures_are_shown(desk: Desk) -> None:
    first = (("results/1/a.png", "first"),)
    desk.tell(*whole_way(1, pictures=first), done(1, 2, at=T0 + 90.0, pictures=(("results/2/a.png", "second"),)))
    assert desk.client().get(f"/api/v1/studies/{uid(1)}").json()["images"] == [{"n": 1, "caption": "second"}]


def test_a_list_is_whole_or_not_given(desk: Desk) -> None:
    publish(desk.bus, *whole_way(1))
    desk.projection = Projection(desk.bus)
    client = desk.client()
    answer = client.get("/api/v1/studies")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.post("/api/v1/find", json={"accession_number": "ACC1"}).status_code == 503
    assert client.get(f"/api/v1/studies/{uid(1)}").json()["state"] == "done"
    assert "still being read" in client.get("/").text
    desk.projection.catch_up()
    assert len(client.get("/api/v1/studies").json()) == 1


def test_the_command_line_leaves_metrics_unimported_until_they_can_be_shared() -> None:
    code = "import sys, ichor.cli.commands; print('prometheus_client' in sys.modules)"
    done_ = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done_.stdout.strip() == "False"


def test_metrics_of_several_processes_are_added_up(tmp_path: Path) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    count = "from ichor import metrics; metrics.BYTES_STORED.inc(20)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", count], env=environ, check=True)
    tell = (
        "from console.exposition import Exposition; from ichor.bus.memory import MemoryBus;"
        "print(Exposition(MemoryBus(), lambda: None).text().decode())"
    )
    out = subprocess.run([sys.executable, "-c", tell], env=environ, capture_output=True, text=True, check=True).stdout
    assert "ichor_bytes_stored_total 40.0" in out
