"""Who may ask, and what every answer carries."""

from __future__ import annotations

import pytest
from unit.console.conftest import Desk
from unit.history.made import uid, whole_way

TOKEN = "correct horse battery staple"
CLOSED = ["/api/v1/studies", f"/api/v1/why/{uid(1)}", "/api/v1/refusals", "/", f"/studies/{uid(1)}", "/nothing"]


@pytest.mark.parametrize("path", CLOSED)
def test_with_a_token_everything_needs_it(desk: Desk, path: str) -> None:
    desk.token = TOKEN
    client = desk.client()
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "ichor=wrong"},
    ):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code in (200, 404)


def test_probes_and_metrics_need_no_token(desk: Desk) -> None:
    desk.token = TOKEN
    for path in ("/healthz", "/readyz", "/metrics"):
        assert desk.client().get(path).status_code == 200


def test_find_needs_the_token_itself_also_from_a_signed_in_browser(desk: Desk) -> None:
    desk.token = TOKEN
    client = desk.client()
    body = {"accession_number": "ACC1"}
    assert client.post("/api/v1/find", json=body).status_code == 401
    assert client.post("/sign-in", data={"token": TOKEN}).status_code == 303
    assert client.get("/api/v1/studies").status_code == 200
    assert client.post("/api/v1/find", json=body).status_code == 401
    assert client.post("/api/v1/find", json=body, headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


def test_signing_in_gives_a_cookie_that_does_not_hold_the_token(desk: Desk) -> None:
    desk.token = TOKEN
    desk.tell(*whole_way(1))
    client = desk.client()
    shown = client.get("/")
    assert shown.status_code == 401
    assert 'action="/sign-in"' in shown.text
    assert client.post("/sign-in", data={"token": "wrong"}).status_code == 401
    answer = client.post("/sign-in", data={"token": TOKEN})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert uid(1) in client.get("/").text


def test_without_a_token_only_loopback_names_reach_it(desk: Desk) -> None:
    client = desk.client()
    for host in ("127.0.0.1:8080", "localhost", "[::1]:8080", "127.0.0.5"):
        assert client.get("/api/v1/studies", headers={"Host": host}).status_code == 200, host
    answer = client.get("/api/v1/studies", headers={"Host": "evil.example"})
    assert (answer.status_code, list(answer.json())) == (403, ["error"])
    assert client.get("/healthz", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/v1/studies", "/healthz", "/nothing", "/api/v1/studies?state=x"])
def test_every_answer_forbids_foreign_content(desk: Desk, path: str) -> None:
    headers = desk.client().get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "app.py", "", "style.css/.."])
def test_only_named_files_are_served(desk: Desk, name: str) -> None:
    assert desk.client().get(f"/static/{name}").status_code == 404
    assert desk.client().get("/static/style.css").headers["content-type"].startswith("text/css")
