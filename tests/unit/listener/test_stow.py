"""The STOW-RS door over real sockets: what is stored, what is answered, and that nobody can hurt it."""

from __future__ import annotations

import json
import logging
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from pydicom.dataset import Dataset
from unit.listener.modality import CT, EXPLICIT, encode, image

from ichor import config
from ichor.clock import SystemClock
from ichor.errors import CannotStart, OutOfResources
from ichor.reasons import Reason
from ichor.store.filemeta import file_meta
from ichor.store.receipts import Ended, Lane, ReceiptReader, ReceiptWriter, Record, Refused, Stored
from ichor.store.spool import FileSpool
from listener import stow, stow_transaction
from listener.stow import StowServer, run_stow

NOT_HTTP, LONG_HEAD = "not HTTP/1.1 as RFC 9112 has it", "a head of more than 16 KiB"
TYPE = 'multipart/related; type="application/dicom"; boundary=b'


def part10(sop: str = "1.2.3.4.1", *, said: str | None = None, sop_class: str = CT, **changes: Any) -> bytes:
    """A DICOM file; ``said``: the SOP Instance UID of its data set, when not that of its head."""
    head = file_meta(sop_class_uid=sop_class, sop_instance_uid=sop, transfer_syntax_uid=EXPLICIT)
    return head + encode(image(said or sop, sop_class=sop_class, **changes))


def body(*files: bytes, kind: str = "application/dicom") -> bytes:
    return (
        b"".join(b"--b\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + file + b"\r\n" for file in files) + b"--b--"
    )


class Door:
    def __init__(self, root: Path, flags: dict[str, Any]) -> None:
        tree = {"listener.stow.port": 0, "listener.disk_low": 0, "listener.disk_full": 0, **flags}
        self.settings = config.load(environ={}, flags=tree)
        self.spool = FileSpool(root / "spool", durability=self.settings.listener.durability)
        self.writer = ReceiptWriter(root / "receipts", durable=False)
        self.server = StowServer(settings=self.settings, spool=self.spool, receipts=self.writer, clock=SystemClock())
        self.server.start()
        self.port = self.server.port
        self.reader = ReceiptReader(root / "receipts")
        self.seen: dict[Lane, list[Record]] = {lane: [] for lane in Lane}

    def close(self) -> None:
        self.server.drain(0.0)
        self.writer.close()
        self.spool.close()

    def post(self, content: Any, *, study: str = "", **headers: str) -> httpx.Response:
        fields = {"Content-Type": TYPE} | {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(self.url(study), content=content, headers=fields, timeout=60)

    def url(self, study: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web/studies" + (f"/{study}" if study else "")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def records(self, lane: Lane = Lane.ROUTINE) -> list[Record]:
        self.seen[lane] += [receipt.record for receipt in self.reader.read(lane, limit=1000)]
        return self.seen[lane]

    def stored(self, lane: Lane = Lane.ROUTINE) -> list[Stored]:
        return [record for record in self.records(lane) if isinstance(record, Stored)]

    def ended(self, lane: Lane = Lane.ROUTINE) -> list[Ended]:
        return [record for record in self.records(lane) if isinstance(record, Ended)]

    def refused(self) -> list[Refused]:
        return [record for record in self.records() if isinstance(record, Refused)]

    def wait(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def object_of(self, stored: Stored) -> bytes:
        with self.spool.open(stored.location) as file:
            return file.read()


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[Callable[..., Door]]:
    doors: list[Door] = []

    def build(flags: dict[str, Any] | None = None) -> Door:
        doors.append(Door(tmp_path / str(len(doors)), flags or {}))
        return doors[-1]

    yield build
    for door in doors:
        door.close()


@pytest.fixture
def door(open_door: Callable[..., Door]) -> Door:
    return open_door()


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def answer_of(response: httpx.Response) -> Dataset:
    assert response.headers["content-type"] == "application/dicom+json"
    return Dataset.from_json(response.text)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Send, then read until the other side closes."""
    connection.sendall(data)
    answer = b""
    while more := connection.recv(65_536):
        answer += more
    return answer


# --- what is stored -------------------------------------------------------------------------------------------------


def test_objects_of_one_request_are_stored_unchanged_as_one_association(door: Door) -> None:
    files = [part10(f"1.2.3.4.{n}") for n in range(1, 4)]
    response = door.post(body(*files))
    assert response.status_code == 200
    answer = answer_of(response)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [
        "1.2.3.4.1",
        "1.2.3.4.2",
        "1.2.3.4.3",
    ]
    stored = door.stored()
    assert [door.object_of(record) for record in stored] == files
    (association,) = {record.association for record in stored}
    assert {(record.calling_ae, record.called_ae) for record in stored} == {("STOW-RS", "ICHOR")}
    assert [(end.association, end.released) for end in door.ended()] == [(association, True)]
    assert isinstance(door.records()[-1], Ended)


def test_requests_on_one_connection_are_associations_of_their_own(door: Door) -> None:
    with httpx.Client(timeout=60) as client:
        for n in (1, 2):
            response = client.post(door.url(), content=body(part10(f"1.2.3.4.{n}")), headers={"Content-Type": TYPE})
            assert response.status_code == 200
    assert len({record.association for record in door.stored()}) == 2
    assert [end.released for end in door.ended()] == [True, True]


def test_a_chunked_body_is_read_as_any_other(door: Door) -> None:
    file = part10()
    whole = body(file)
    pieces = (whole[start : start + 7] for start in range(0, len(whole), 7))
    assert door.post(pieces).status_code == 200
    assert [door.object_of(record) for record in door.stored()] == [file]


def test_a_client_that_asks_whether_to_go_on_is_told_before_it_sends(door: Door) -> None:
    content = body(part10())
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\nExpect: 100-continue\r\n"
    with door.connect() as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode())
        assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(content)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert len(door.stored()) == 1
    with door.connect() as connection:
        refused = exchange(connection, f"{head.replace('related', 'mixed')}Content-Length: 5\r\n\r\n".encode())
    assert refused.startswith(b"HTTP/1.1 415 ")
    assert b" 100 " not in refused


def test_an_object_that_cannot_be_stored_does_not_stop_the_others(door: Door) -> None:
    good, other = part10("1.2.3.4.1"), part10("1.2.3.4.2", said="1.2.3.4.9")
    response = door.post(body(good, other, b"no DICOM file" * 20))
    assert response.status_code == 202
    answer = answer_of(response)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == ["1.2.3.4.1"]
    (failed,) = answer.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2.3.4.2", 0xA900)
    assert [item.FailureReason for item in answer.OtherFailuresSequence] == [0xC000]
    assert [record.sop_instance_uid for record in door.stored()] == ["1.2.3.4.1"]
    assert [(record.status, record.reason) for record in door.refused()] == [
        ("0xA900", Reason.UID_MISMATCH), ("0xC000", Reason.HEADER_UNREADABLE),
    ]  # fmt: skip
    assert [end.released for end in door.ended()] == [True]


def test_objects_of_another_study_than_the_path_names_are_refused(door: Door) -> None:
    mine, others = part10("1.2.3.4.1"), part10("1.2.3.4.2", study="1.2.9")
    response = door.post(body(mine, others), study="1.2.3")
    assert response.status_code == 202
    assert [item.ReferencedSOPInstanceUID for item in answer_of(response).FailedSOPSequence] == ["1.2.3.4.2"]
    assert [record.study_instance_uid for record in door.stored()] == ["1.2.3"]
    assert [record.reason for record in door.refused()] == [Reason.OTHER_STUDY]
    assert door.post(body(others), study="1.2.3").status_code == 409
    assert len(door.stored()) == 1


@pytest.mark.parametrize(
    ("file", "status", "failure"),
    [
        (part10(sop_class="1.2.840.10008.1.1"), 409, 0x0122),
        (part10(study=None), 409, 0xC000),
        (part10(study="../../x"), 409, 0xA900),
        (part10()[:400], 409, 0xC000),
        (part10()[:100], 409, None),
        (b"", 409, None),
    ],
)
def test_why_an_object_failed_is_told(door: Door, file: bytes, status: int, failure: int | None) -> None:
    response = door.post(body(file))
    assert response.status_code == status
    answer = answer_of(response)
    if failure is None:
        assert [item.FailureReason for item in answer.OtherFailuresSequence] == [0xC000]
    else:
        assert [item.FailureReason for item in answer.FailedSOPSequence] == [failure]
    assert "ReferencedSOPSequence" not in answer
    assert door.stored() == []
    assert len(door.refused()) == 1


def test_a_part_of_another_type_fails_by_itself(door: Door) -> None:
    untyped = body(part10("1.2.3.4.2"), kind="application/octet-stream")  # as curl's -F sends a file
    response = door.post(body(part10("1.2.3.4.1")).removesuffix(b"--b--") + untyped)
    assert response.status_code == 202
    assert [record.sop_instance_uid for record in door.stored()] == ["1.2.3.4.1"]
    reasons = [(record.status, record.reason) for record in door.refused()]
    assert reasons == [("0xC000", "a part's Content-Type is not application/dicom")]


def test_the_answer_is_xml_where_that_is_asked_for(door: Door) -> None:
    response = door.post(body(part10()), Accept="application/dicom+xml")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/dicom+xml")
    assert b"1.2.3.4.1" in response.content


def test_an_unexpected_number_of_objects_ends_the_request_and_what_was_stored_is_named(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow_transaction, "MOST_PARTS", 2)
    response = door.post(body(*[part10(f"1.2.3.4.{n}") for n in (1, 2, 3)]))
    assert response.status_code == 413
    assert len(answer_of(response).ReferencedSOPSequence) == len(door.stored()) == 2
    assert [end.released for end in door.ended()] == [False]


# --- who may send ---------------------------------------------------------------------------------------------------


def test_with_a_token_only_who_bears_it_may_send(open_door: Callable[..., Door], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    door = open_door({"listener.stow.token_file": str(tmp_path / "token")})
    for wrong in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic secret"}):
        response = door.post(body(part10()), **wrong)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert door.stored() == []
    assert door.post(body(part10()), Authorization="Bearer secret", Host="any.example").status_code == 200


def test_without_a_token_a_name_that_is_not_loopback_is_refused(door: Door) -> None:
    response = door.post(body(part10()), Host="evil.example")
    assert response.status_code == 403
    assert door.stored() == []
    assert door.post(body(part10()), Host="[::1]:8042").status_code == 200


def test_only_addresses_of_senders_may_send_where_they_are_listed(open_door: Callable[..., Door]) -> None:
    foreign = open_door({"senders": [{"ae_title": "CT1", "host": "192.0.2.1"}]})
    assert foreign.post(body(part10())).status_code == 403
    assert foreign.stored() == []
    assert [record.reason for record in foreign.refused()] == ["address not recognised"]
    known = open_door({"senders": [{"ae_title": "CT1", "host": "127.0.0.1", "priority": "STAT"}]})
    assert known.post(body(part10())).status_code == 200
    (stored,) = known.stored(Lane.STAT)
    assert (stored.calling_ae, stored.sender_priority) == ("CT1", "STAT")
    assert [end.released for end in known.ended(Lane.STAT)] == [True]


def test_a_sender_that_must_show_who_it_is_needs_the_token(open_door: Callable[..., Door], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    senders = [{"ae_title": "CT1", "host": "127.0.0.1", "username": "ct"}]
    assert open_door({"senders": senders}).post(body(part10())).status_code == 403
    door = open_door({"senders": senders, "listener.stow.token_file": str(tmp_path / "token")})
    assert door.post(body(part10()), Authorization="Bearer secret").status_code == 200


# --- what is refused whole ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/dicom-web/studies", {}, 405),
        ("PUT", "/dicom-web/studies/1.2.3", {}, 405),
        ("HEAD", "/dicom-web/studies", {}, 405),
        ("POST", "/", {}, 404),
        ("POST", "/dicom-web/studies/1.2.3/series", {}, 404),
        ("POST", "//[", {}, 404),
        ("POST", "/dicom-web/studies/..%2Fx", {}, 400),
        ("POST", "/dicom-web/studies", {"Content-Type": "application/dicom"}, 415),
        ("POST", "/dicom-web/studies", {"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=b'}, 415),
        ("POST", "/dicom-web/studies", {"Content-Type": 'multipart/related; type="application/dicom+xml"; boundary=b'}, 415),
        ("POST", "/dicom-web/studies", {"Content-Type": ""}, 415),
        ("POST", "/dicom-web/studies", {"Content-Type": TYPE, "Content-Encoding": "gzip"}, 415),
        ("POST", "/dicom-web/studies", {"Content-Type": 'multipart/related; type="application/dicom"'}, 400),
        ("POST", "/dicom-web/studies", {"Content-Type": TYPE + "x" * 71}, 400),
        ("POST", "/dicom-web/studies", {"Content-Type": TYPE}, 400),  # a body that is no multipart
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_taken_has_its_status_one_log_line_and_one_metric(
    door: Door, caplog: pytest.LogCaptureFixture, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    before = count("ichor_stow_requests_total", status=str(status))
    caplog.set_level(logging.INFO)
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with door.connect() as connection:
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}Content-Length: 6\r\n\r\nSecret"
        answer = exchange(connection, request.encode())
    assert int(answer.split()[1]) == status
    door.wait(lambda: len(door.refused()) == 1)
    assert count("ichor_stow_requests_total", status=str(status)) == before + 1
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "Secret" not in lines[0]
    assert door.stored() == []


def test_a_body_without_parts_is_refused_and_listed(door: Door) -> None:
    response = door.post(b"--b--")
    assert (response.status_code, response.text) == (400, "no parts\n")
    assert [(record.status, record.reason) for record in door.refused()] == [("rejected", "no parts")]


def test_metadata_and_bulk_data_apart_are_told_what_is_taken_instead(door: Door) -> None:
    headers = {"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=b'}
    response = httpx.post(door.url(), content=b"--b--", headers=headers, timeout=60)
    assert response.status_code == 415
    assert 'type="application/dicom"' in response.text


def test_a_refusal_reaches_a_client_that_is_still_sending(door: Door) -> None:
    response = httpx.post(
        door.url(), content=bytes(8_000_000), headers={"Content-Type": "application/octet-stream"}, timeout=60
    )
    assert response.status_code == 415


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (body(part10()).removesuffix(b"--"), 0),  # the delimiter may go on otherwise
        (body(part10(), part10("1.2.3.4.2"))[:-300], 1),
        (body(part10()).replace(b"--b", b"--c"), 0),
        (b"--b\r\n" + b"x: y\r\n" * 4000, 0),
    ],
)
def test_a_body_that_does_not_end_as_it_should_is_told_and_what_was_whole_stays(
    door: Door, content: bytes, stored: int
) -> None:
    response = door.post(content)
    assert response.status_code == (202 if stored else 400)
    assert len(door.stored()) == stored
    assert [record.status for record in door.refused()] == ["rejected"]
    assert [end.released for end in door.ended()] == [False] * stored


def test_a_content_length_that_is_too_short_ends_the_connection(door: Door) -> None:
    content = body(part10())
    with door.connect() as connection:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\nContent-Length: 500\r\n\r\n"
        answer = exchange(connection, head.encode() + content)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert door.stored() == []


def test_a_client_that_vanishes_leaves_nothing_of_the_object_under_way(door: Door) -> None:
    before = count("ichor_stow_requests_total", status="cut off")
    big = part10("1.2.3.4.2", pixels=bytes(3_000_000))
    content = body(part10("1.2.3.4.1"), big)
    with door.connect() as connection:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[:-1000])
    door.wait(lambda: len(door.ended()) == 1)
    assert [record.sop_instance_uid for record in door.stored()] == ["1.2.3.4.1"]
    assert [end.released for end in door.ended()] == [False]
    assert count("ichor_stow_requests_total", status="cut off") == before + 1
    kept = sum(size for _, size in door.spool.segments())
    assert kept < 10_000


def test_a_body_that_stops_coming_is_cut_off(open_door: Callable[..., Door]) -> None:
    door = open_door({"listener.network_timeout": 1})
    content = body(part10("1.2.3.4.1"), part10("1.2.3.4.2"))
    with door.connect() as connection:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\nContent-Length: {len(content) + 5}\r\n\r\n"
        assert exchange(connection, head.encode() + content[:1200]) == b""
    assert door.stored() == []


# --- connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "reason", "answer"),
    [
        (b"", "closed before a request", b""),
        (b"POST /dicom-web/studies HTTP/1.1\r\nHost: lo", "no request in time", b""),
        (b"\x01\x00\x00\x00\x00\xcd" + bytes(300), NOT_HTTP, b"HTTP/1.1 400 "),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\r\n\r\n", NOT_HTTP, b"HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000, LONG_HEAD, b"HTTP/1.1 431 "),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 3000 + b"\r\n", LONG_HEAD, b"HTTP/1.1 431 "),  # whole
        (b"GET / HTTP/1.1\r\n\r\n", NOT_HTTP, b"HTTP/1.1 400 "),  # no Host
    ],
)
def test_a_connection_that_brings_no_request_is_dropped_and_counted(
    open_door: Callable[..., Door], sent: bytes, reason: str, answer: bytes
) -> None:
    door = open_door({"listener.request_timeout": 0.5 if reason == "no request in time" else 60.0})
    before = count("ichor_connections_dropped_total", reason=reason)
    with door.connect() as connection:
        if sent:
            said = exchange(connection, sent)
            assert said.startswith(answer)
            assert (LONG_HEAD.encode() in said) == (reason == LONG_HEAD)
            assert not said or b"Connection: close" in said
    door.wait(lambda: count("ichor_connections_dropped_total", reason=reason) == before + 1)


def test_a_head_that_is_long_and_not_too_long_is_read_behind_another_request_too(door: Door) -> None:
    content = body(part10())
    head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\nContent-Length: {len(content)}\r\n"
    request = head.encode() + b"A: b\r\n" * 2500 + b"\r\n" + content
    assert 15_000 < len(request) - len(content) <= 16_384
    too_long = request.replace(b"A: b", b"A: bcd", 1000)
    with door.connect() as connection:
        said = exchange(connection, request + request + too_long)
    assert re.findall(rb"HTTP/1\.1 ([0-9]{3})", said) == [b"200", b"200", b"431"]
    assert len(door.stored()) == 2


def test_connections_without_a_request_do_not_keep_a_sender_out(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "_MOST_CONNECTIONS", 4)
    silent = [door.connect() for _ in range(8)]
    assert door.post(body(part10())).status_code == 200
    for connection in silent:
        connection.close()


def test_more_requests_at_once_than_there_are_places_are_told_to_come_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "_MOST_CONNECTIONS", 1)
    with door.connect() as busy:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\nContent-Length: 99999\r\n\r\n"
        busy.sendall(head.encode())
        door.wait(lambda: len(door.server._busy) == 1)
        with door.connect() as second:
            answer = exchange(second, b"")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After" in answer
    door.wait(lambda: not door.server._busy)
    assert door.post(body(part10())).status_code == 200


def test_a_sender_has_no_more_requests_at_once_than_it_may_have_associations(open_door: Callable[..., Door]) -> None:
    door = open_door({"senders": [{"ae_title": "CT1", "host": "127.0.0.1", "associations": 1}]})
    with door.connect() as busy:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\nContent-Length: 99999\r\n\r\n"
        busy.sendall(head.encode())
        door.wait(lambda: door.server._of_sender.total() == 1)
        response = door.post(body(part10()))
        assert (response.status_code, response.headers["retry-after"]) == (503, "60")
        assert [record.calling_ae for record in door.refused()] == ["CT1"]
    door.wait(lambda: not door.server._busy)
    assert door.post(body(part10())).status_code == 200


def test_a_noisy_client_hides_no_refusal_at_another_address(open_door: Callable[..., Door]) -> None:
    door = open_door({"senders": [{"ae_title": "CT1", "host": "10.1.2.3"}]})
    for _ in range(30):
        assert door.post(b"").status_code == 403
    noted = len(door.refused())
    assert 10 <= noted < 30
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=60) as client:
        assert client.post(door.url(), content=b"", headers={"Content-Type": TYPE}).status_code == 403
    assert len(door.refused()) == noted + 1


def test_many_senders_at_once_lose_nothing(door: Door) -> None:
    statuses = []

    def send(sender: int) -> None:
        for n in range(5):
            files = [part10(f"1.2.{sender}.{n}.{k}", series=f"1.2.3.{sender}") for k in range(4)]
            statuses.append(door.post(body(*files)).status_code)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 40
    stored = door.stored()
    assert len({record.sop_instance_uid for record in stored}) == len(stored) == 160
    for record in stored:
        expected = part10(record.sop_instance_uid, series=record.series_instance_uid)
        assert door.object_of(record) == expected


# --- disk, durability, end ------------------------------------------------------------------------------------------


def test_a_request_that_cannot_fit_and_a_disk_that_is_low_are_told_before_the_body(
    open_door: Callable[..., Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"listener.disk_low": 50_000, "listener.disk_full": 10_000}
    monkeypatch.setattr(FileSpool, "free_bytes", lambda _: 60_000)
    door = open_door(flags)
    assert door.post(bytes(50_001)).status_code == 413
    assert door.post(body(part10())).status_code == 200
    monkeypatch.setattr(FileSpool, "free_bytes", lambda _: 49_999)
    door = open_door(flags)
    response = door.post(body(part10()))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "60"
    assert door.stored() == []


def test_when_nothing_can_be_written_all_are_told_to_come_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OutOfResources("no space")

    monkeypatch.setattr(door.writer, "append", full)
    response = door.post(body(part10("1.2.3.4.1"), part10("1.2.3.4.2")))
    assert response.status_code == 503
    assert [item.FailureReason for item in answer_of(response).FailedSOPSequence] == [0xA700, 0xA700]


def test_at_level_association_all_is_synced_before_the_answer_or_nothing_is_promised(
    open_door: Callable[..., Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    door = open_door({"listener.durability": "association"})
    done: list[str] = []
    sync_spool, sync_receipts = door.spool.sync, door.writer.sync

    def spool(**options: Any) -> None:
        done.append(f"spool after {len(door.stored())}")
        sync_spool(**options)

    def receipts() -> None:
        done.append("receipts")
        sync_receipts()

    monkeypatch.setattr(door.spool, "sync", spool)
    monkeypatch.setattr(door.writer, "sync", receipts)
    assert door.post(body(part10("1.2.3.4.1"), part10("1.2.3.4.2"))).status_code == 200
    assert done == ["spool after 2", "receipts"]

    def fails(**_: Any) -> None:
        raise OutOfResources("an earlier sync failed")

    monkeypatch.setattr(door.spool, "sync", fails)
    response = door.post(body(part10("1.2.3.4.3")))
    assert response.status_code == 503
    assert [end.released for end in door.ended()] == [True, False]


def test_what_is_under_way_is_cut_off_when_the_end_cannot_wait(door: Door) -> None:
    content = body(part10("1.2.3.4.1"), part10("1.2.3.4.2"))
    with door.connect() as busy, door.connect() as idle:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: {TYPE}\r\nContent-Length: {len(content)}\r\n\r\n"
        busy.sendall(head.encode() + content[:-100])
        door.wait(lambda: len(door.server._busy) == len(door.server._waiting) == 1)
        door.server.drain(0.2)
        assert idle.recv(10) == b""
        assert busy.recv(10) == b""
    door.wait(lambda: not door.server._busy)
    with pytest.raises(OSError):  # noqa: PT011 - refused, or the port is gone
        door.connect()


def test_the_role_serves_from_ready_until_stop(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "_SENDERS_PATIENCE", 0.2)
    port = free_port()
    settings = config.load(
        environ={}, flags={"listener.stow.port": port, "listener.disk_low": 0, "listener.disk_full": 0}
    )
    writer = ReceiptWriter(tmp_path / "receipts", durable=False)
    stop, ready = threading.Event(), threading.Event()
    arguments: dict[str, Any] = {
        "settings": settings, "spool": FileSpool(tmp_path / "spool"), "receipts": writer, "clock": SystemClock(),
        "stop": stop, "on_ready": ready.set,
    }  # fmt: skip
    role = threading.Thread(target=run_stow, kwargs=arguments)
    role.start()
    assert ready.wait(60)
    url = f"http://127.0.0.1:{port}/dicom-web/studies"
    assert httpx.post(url, content=body(part10()), headers={"Content-Type": TYPE}, timeout=60).status_code == 200
    with pytest.raises(CannotStart, match=str(port)):
        run_stow(**arguments)
    stop.set()
    role.join(60)
    assert not role.is_alive()
    writer.close()


def test_the_certificate_of_the_listener_makes_it_https(open_door: Callable[..., Door], tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    door = open_door({"listener.tls": {"cert": str(cert), "key": str(key)}})
    before = count("ichor_connections_dropped_total", reason="not TLS")
    content = body(part10(pixels=bytes(300_000)))
    with httpx.Client(verify=ssl.create_default_context(cafile=str(cert)), timeout=60) as client:
        response = client.post(door.url().replace("http:", "https:"), content=content, headers={"Content-Type": TYPE})
        assert response.status_code == 200
    with pytest.raises(httpx.HTTPError):
        door.post(body(part10()))
    door.wait(lambda: count("ichor_connections_dropped_total", reason="not TLS") == before + 1)
    assert len(door.stored()) == 1


def test_answers_are_json_objects_as_the_json_model_has_them(door: Door) -> None:
    answer = json.loads(door.post(body(part10())).text)
    assert answer["00081199"]["Value"][0]["00081155"] == {"vr": "UI", "Value": ["1.2.3.4.1"]}
