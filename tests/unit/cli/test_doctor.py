"""`ichor doctor`: what it says of good and of broken installations. Peers are faked; ports and folders are real."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from pynetdicom import AE

from dicom_out import transport
from dicom_out.transport import RESULT_CLASSES
from ichor.bus.memory import MemoryBus
from ichor.cli import doctor as module
from ichor.cli.doctor import (
    check_bus,
    check_certificate,
    check_console,
    check_destinations,
    check_listener,
    check_model,
    check_roles,
    check_token,
    doctor,
    may_compile,
    port_taken,
)
from ichor.cli.folder import DataFolder
from ichor.cli.machine import (
    Level,
    available_memory,
    check_clock,
    check_files,
    check_folder,
    check_machine,
    check_memory,
    existing,
)
from ichor.cli.receiving import check_receiving, check_relay, check_watermarks
from ichor.clock import ManualClock
from ichor.config import Settings
from ichor.errors import CannotStart, TransientError
from ichor.messages import Envelope
from ichor.store.receipts import Lane, ReceiptWriter, Refused, Waiting
from ichor.types import Destination


@dataclass
class Peers:
    """Stands in for the network: who answers, and what they accept."""

    silent: str = ""
    accepted: tuple[str, ...] = tuple(RESULT_CLASSES)
    why: str = "no connection to the destination"
    asked: list[tuple[str, str, str, int]] = field(default_factory=list)  # calling, called, host, port

    def echo(self, destination: Destination, *, calling_ae: str) -> None:
        self.asked.append((calling_ae, destination.ae_title, destination.host, destination.port))
        if destination.name == self.silent:
            raise TransientError(self.why)

    def accepted_classes(self, destination: Destination, classes: Sequence[str], *, calling_ae: str) -> tuple[str, ...]:
        del destination, calling_ae
        return tuple(uid for uid in classes if uid in self.accepted)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    made = DataFolder(tmp_path / "data")
    made.prepare()
    return made


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        yield int(taken.getsockname()[1])


def settings(folder: DataFolder, **tables: object) -> Settings:
    return Settings.model_validate({"data": str(folder.root), **tables})


# --- machine ---------------------------------------------------------------------------------------------------------


def test_a_good_folder_is_ok_and_one_that_is_not_there_too_but_is_not_made(
    folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ichor.cli.machine._SLOW_SYNC_SECONDS", 60.0)  # other tests sync, too
    assert check_folder(folder).level is Level.OK
    absent = DataFolder(tmp_path / "a" / "b")
    assert check_folder(absent).level is Level.OK
    assert existing(absent.root) == tmp_path
    assert {f.level for f in check_machine(absent) if f.what in ("data folder", "fsync")} == {Level.OK}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_a_folder_of_a_newer_version_fails_naming_it(folder: DataFolder) -> None:
    (folder.root / "VERSION").write_text("999\n")
    finding = check_folder(folder)
    assert finding.level is Level.FAIL
    assert "999" in finding.text


@pytest.fixture
def closed_folder(folder: DataFolder) -> Iterator[DataFolder]:
    """One that nobody may write in, not even root."""
    if os.geteuid() != 0:
        folder.root.chmod(0o500)
        yield folder
        return
    if subprocess.run(["mount", "--bind", "-o", "ro", folder.root, folder.root], check=False).returncode != 0:
        pytest.skip("root may write everywhere, and mount nothing here")
    yield folder
    subprocess.run(["umount", "--lazy", folder.root], check=True)


def test_a_folder_that_cannot_be_written_fails(closed_folder: DataFolder) -> None:
    assert check_folder(closed_folder).level is Level.FAIL


def test_a_file_in_place_of_the_folder_fails(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert check_folder(DataFolder(tmp_path / "data")).level is Level.FAIL


@pytest.mark.parametrize("part", ["spool", "receipts", "run", "blobs"])
def test_a_part_of_the_folder_that_cannot_be_written_fails_naming_it(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    foreign = folder.root / part
    foreign.mkdir(exist_ok=True)
    real = os.access
    # Also root runs the tests, and may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != foreign and real(path, mode))
    finding = check_folder(folder)
    assert (finding.level, str(foreign) in finding.text) == (Level.FAIL, True)


def test_a_lock_that_cannot_be_opened_is_told_in_a_line(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(CannotStart, match="lock: Permission denied"):
        folder.lock(alone=True)


def test_a_disk_that_cannot_sync_fails(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    (finding,) = [f for f in check_machine(folder) if f.what == "fsync"]
    assert (finding.level, "Input/output error" in finding.text) == (Level.FAIL, True)


def test_clock_files_and_memory() -> None:
    now = 1_800_000_000.0
    assert [check_clock(now, synchronised=known).level for known in (True, None, False)] == ["OK", "OK", "WARN"]
    assert check_clock(0.0, synchronised=True).level is Level.FAIL
    assert [check_files(n).level for n in (resource.RLIM_INFINITY, 8192, 1024, 256)] == ["OK", "OK", "WARN", "FAIL"]
    assert [check_memory(n * 2**30).level for n in (8, 2, 0)] == ["OK", "WARN", "FAIL"]
    available = available_memory()
    assert available is None or 0 < available < 2**50


# --- listener and console --------------------------------------------------------------------------------------------


def test_a_free_port_is_ok_and_a_taken_one_fails(
    folder: DataFolder, free_port: Callable[[], int], busy_port: int
) -> None:
    assert port_taken("127.0.0.1", busy_port) == errno.EADDRINUSE
    free = settings(folder, listener={"port": free_port()}, console={"port": free_port()})
    assert check_listener(free, folder, Peers()).level is Level.OK
    assert check_console(free, folder).level is Level.OK
    taken = settings(folder, listener={"port": busy_port}, console={"port": busy_port})
    peers = Peers()
    assert check_listener(taken, folder, peers).level is Level.FAIL
    assert check_console(taken, folder).level is Level.FAIL
    assert peers.asked == []


def test_a_port_that_our_receiver_holds_is_asked_by_c_echo(folder: DataFolder, busy_port: int) -> None:
    (folder.run / "receive.ready").write_text(str(os.getpid()))
    ours = settings(folder, listener={"port": busy_port, "ae_title": "ICHOR1"})
    peers = Peers()
    assert check_listener(ours, folder, peers).level is Level.OK
    assert peers.asked == [("ICHOR-DOCTOR", "ICHOR1", "127.0.0.1", busy_port)]
    assert check_listener(ours, folder, Peers(silent="self")).level is Level.FAIL


def test_with_listed_senders_it_is_turned_away_under_its_own_name_as_expected(
    folder: DataFolder, busy_port: int
) -> None:
    (folder.run / "receive.ready").write_text(str(os.getpid()))
    ours = settings(folder, listener={"port": busy_port}, senders=[{"ae_title": "CT1", "host": "10.0.0.1"}])
    peers = Peers(silent="self", why="association rejected: calling ae title not recognised")
    assert check_listener(ours, folder, peers).level is Level.OK
    assert peers.asked[0][0] == "ICHOR-DOCTOR"
    assert check_listener(ours, folder, Peers(silent="self")).level is Level.FAIL
    assert check_listener(settings(folder, listener={"port": busy_port}), folder, peers).level is Level.FAIL


def test_a_listener_that_takes_listed_senders_alone_is_known_by_its_rejection(
    folder: DataFolder, free_port: Callable[[], int]
) -> None:
    (folder.run / "receive.ready").write_text(str(os.getpid()))
    ours = settings(folder, listener={"port": free_port()}, senders=[{"ae_title": "CT1", "host": "10.0.0.1"}])
    entity = AE(ae_title="ICHOR")
    entity.add_supported_context("1.2.840.10008.1.1")
    entity.require_calling_aet = ["CT1"]
    server = entity.start_server(("127.0.0.1", ours.listener.port), block=False)
    try:
        assert check_listener(ours, folder, transport).level is Level.OK
    finally:
        server.shutdown()


def test_a_receiver_that_runs_on_another_port_fails(folder: DataFolder, free_port: Callable[[], int]) -> None:
    (folder.run / "receive.ready").write_text(str(os.getpid()))
    finding = check_listener(settings(folder, listener={"port": free_port()}), folder, Peers())
    assert finding.level is Level.FAIL


def test_roles_that_are_missing_are_named(folder: DataFolder) -> None:
    ours = settings(folder, listener={"processes": 2})
    assert check_roles(ours, folder).level is Level.OK
    for role in ("receive", "relay", "assemble", "work", "send"):
        (folder.run / f"{role}.ready").write_text(str(os.getpid()))
    finding = check_roles(ours, folder)
    assert finding.level is Level.WARN
    assert finding.text.endswith(": receive-2, console")
    for role in ("receive-2", "console"):
        (folder.run / f"{role}.ready").write_text(str(os.getpid()))
    assert check_roles(ours, folder).level is Level.OK


def test_stow_is_missed_only_where_it_is_configured(folder: DataFolder) -> None:
    for role in ("receive", "relay", "assemble", "work", "send", "console"):
        (folder.run / f"{role}.ready").write_text(str(os.getpid()))
    assert check_roles(settings(folder, listener={"processes": 1}), folder).level is Level.OK
    finding = check_roles(settings(folder, listener={"processes": 1, "stow": {}}), folder)
    assert (finding.level, finding.text.rpartition(" ")[2]) == (Level.WARN, "stow")


def test_a_certificate_is_named_before_it_ends(
    folder: DataFolder, tmp_path: Path, peer: Callable[[str, str], str]
) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = [peer("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-keyout", str(key), "-out", str(cert), "-days", "100", "-subj", "/CN=ichor"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    tls = settings(folder, listener={"tls": {"cert": str(cert), "key": str(key)}})
    now = cert.stat().st_mtime
    levels = [next(check_certificate(tls, now=now + days * 86400)).level for days in (1, 80, 101)]
    assert levels == [Level.OK, Level.WARN, Level.FAIL]
    (absent,) = check_certificate(
        settings(folder, listener={"tls": {"cert": str(cert), "key": str(tmp_path / "absent")}}), now=now
    )
    assert absent.level is Level.FAIL
    assert list(check_certificate(settings(folder), now=now)) == []


def test_a_token_file_that_is_not_there_fails(folder: DataFolder) -> None:
    assert check_token(settings(folder)).level is Level.OK
    assert check_token(settings(folder, console={"token_file": "/nonexistent"})).level is Level.FAIL


# --- destinations ----------------------------------------------------------------------------------------------------


def two(folder: DataFolder) -> Settings:
    entries = [{"name": n, "ae_title": n.upper(), "host": "10.0.0.1", "port": 104} for n in ("pacs", "other")]
    return settings(folder, destinations=entries)


def test_every_destination_is_asked_by_our_own_title(folder: DataFolder) -> None:
    peers = Peers(silent="other")
    findings = list(check_destinations(two(folder), peers))
    assert [(f.what, f.level) for f in findings] == [
        ("destination pacs", "OK"), ("destination pacs", "OK"), ("destination other", "FAIL"),
    ]  # fmt: skip
    assert peers.asked == [("ICHOR", "PACS", "10.0.0.1", 104), ("ICHOR", "OTHER", "10.0.0.1", 104)]


def test_classes_that_are_not_accepted_are_named(folder: DataFolder) -> None:
    some = [
        f for f in check_destinations(two(folder), Peers(accepted=tuple(RESULT_CLASSES)[:2])) if f.level is not Level.OK
    ]
    assert [f.level for f in some] == [Level.WARN, Level.WARN]
    assert "Comprehensive 3D SR, Basic Text SR" in some[0].text
    assert "Segmentation" not in some[0].text
    none = [f for f in check_destinations(two(folder), Peers(accepted=())) if f.level is not Level.OK]
    assert [f.level for f in none] == [Level.FAIL, Level.FAIL]


def test_no_destination_is_worth_a_word(folder: DataFolder) -> None:
    assert [f.level for f in check_destinations(settings(folder), Peers())] == [Level.WARN]


# --- models ----------------------------------------------------------------------------------------------------------


@dataclass
class Loaded:
    fallback: str = ""


def test_a_model_with_the_right_file_and_a_passed_gate_is_ok() -> None:
    finding = check_model("m", read_sha256=lambda _: "0123456789abcdef", load=lambda _: Loaded())
    assert finding.level is Level.OK
    assert "0123456789ab" in finding.text


def test_a_wrong_file_fails_and_a_fallback_warns() -> None:
    def wrong(_: str) -> str:
        raise CannotStart("model m: file has sha256 ffff, its card says 0000")

    assert check_model("m", read_sha256=wrong, load=lambda _: Loaded()).level is Level.FAIL
    slow = check_model("m", read_sha256=lambda _: "0" * 64, load=lambda _: Loaded("differs"))
    assert (slow.level, "differs" in slow.text) == (Level.WARN, True)


def test_engines_are_compiled_into_the_data_folder_by_its_owner_while_there_is_room(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(folder.engines).free
    assert may_compile(folder.engines, keep_free=free // 2)
    assert not may_compile(folder.engines, keep_free=free * 2)
    assert not may_compile(folder.root / "absent", keep_free=0)
    monkeypatch.setattr(os, "geteuid", lambda: folder.engines.stat().st_uid + 1)
    assert not may_compile(folder.engines, keep_free=0)


def test_models_of_the_site_are_looked_at_as_the_worker_looks_at_them(
    folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = SimpleNamespace(models=("haematoma-phantom",), optional_models=("haematoma-none-phantom",))
    monkeypatch.setattr("ichor.pipeline.installed", lambda: [one])
    monkeypatch.setattr("ichor.cli.models.installed", lambda: [one])
    own = {"haematoma": tmp_path / "other.onnx", "haematoma-phantom": tmp_path / "own.onnx"}
    (tmp_path / "own.onnx").write_bytes(b"no model")
    card = {"name": "own", "version": "1", "sha256": hashlib.sha256(b"no model").hexdigest()}
    (tmp_path / "own.json").write_text(json.dumps(card))
    stranger, broken = module._check_installed_models(settings(folder, models=own), folder)
    assert (stranger.level, stranger.what) == (Level.FAIL, "model haematoma")
    assert "no pipeline has such a model (haematoma-phantom, haematoma-none-phantom)" in stranger.text
    assert (broken.level, broken.what) == (Level.FAIL, "model haematoma-phantom")
    assert "own.onnx: model own: not loaded by ONNX Runtime" in broken.text
    assert broken.todo == "see models in docs/contract.md"


# --- bus -------------------------------------------------------------------------------------------------------------


def test_old_messages_and_dead_letters_warn() -> None:
    clock = ManualClock()
    bus = MemoryBus(clock=clock)
    member = bus.subscribe(["jobs"], "work")
    assert [f.level for f in check_bus(bus)] == [Level.OK, Level.OK]
    bus.publish("jobs", [Envelope(id=i, source="", type="", time=0, subject=i) for i in ("1.2", "1.3")])
    clock.advance(3600.0)
    delivery = member.receive(0)
    assert delivery is not None
    delivery.reject("no")
    lag, letters = check_bus(bus)
    assert (lag.level, "60 min" in lag.text, "1 wait" in lag.text) == (Level.WARN, True, True)
    assert (letters.level, letters.text) == (Level.WARN, "1")


# --- the whole -------------------------------------------------------------------------------------------------------


def test_doctor_prints_a_line_each_and_fails_only_for_a_failure(
    folder: DataFolder, free_port: Callable[[], int], busy_port: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    # Loading networks takes seconds; check_model has its own tests.
    monkeypatch.setattr(module, "_check_installed_models", lambda *_: iter(()))
    well = settings(folder, listener={"port": free_port()}, console={"port": free_port()})
    assert doctor(well) == 0
    out = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("OK    ", "WARN  ")) for line in out[:-1])
    assert any(line.startswith("WARN  destinations") and "-> add" in line for line in out)
    assert "0 to be put right" in out[-1]
    ill = settings(
        folder, listener={"port": busy_port}, console={"port": free_port()},
        destinations=[{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": free_port()}],
    )  # fmt: skip
    assert doctor(ill) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out if line.startswith("FAIL")] == [
        "FAIL  listener 127.0.0.1", "FAIL  destination pacs",
    ]  # fmt: skip
    assert "2 to be put right" in out[-1]


def test_doctor_reads_the_bus_that_is_there(
    folder: DataFolder,
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ichor.bus.sqlite import SqliteBus

    monkeypatch.setattr(module, "_check_installed_models", lambda *_: iter(()))
    bus = SqliteBus(folder.bus)
    member = bus.subscribe(["jobs"], "work")
    bus.publish("jobs", [Envelope(id="a", source="", type="", time=0, subject="1.2")])
    delivery = member.receive(0)
    assert delivery is not None
    delivery.reject("no")
    bus.close()
    assert doctor(settings(folder, listener={"port": free_port()}, console={"port": free_port()})) == 0
    assert "WARN  dead letters: 1 -> `ichor dlq list`" in capsys.readouterr().out
    folder.bus.write_bytes(b"no database" * 1000)
    assert doctor(settings(folder, listener={"port": free_port()}, console={"port": free_port()})) == 1


# --- receive path ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "full", "level", "said"),
    [("1MB", "1MB", Level.OK, "free"), ("1000TB", "1MB", Level.FAIL, "no association"),
     ("1000TB", "999TB", Level.FAIL, "0xA700")],
)  # fmt: skip
def test_watermarks_that_are_reached_say_what_senders_hear(
    folder: DataFolder, low: str, full: str, level: Level, said: str
) -> None:
    listener = settings(folder, listener={"disk_low": low, "disk_full": full}).listener
    found = check_watermarks(listener, folder.spool)
    assert found.level is level
    assert said in found.text


def test_little_room_above_the_watermarks_warns(folder: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = list(os.statvfs(folder.root))
    numbers[4] = 3_000_000_000 // numbers[1]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(numbers))
    levels = [
        check_watermarks(settings(folder, listener={"disk_low": low}).listener, folder.spool).level
        for low in ("1GB", "2GB", "4GB")
    ]
    assert levels == [Level.OK, Level.WARN, Level.FAIL]


def exposed(*, fast: int, plain: int) -> str:
    registry = CollectorRegistry()
    path = Gauge("ichor_receive_path", "p", ["path"], registry=registry)
    path.labels("fast").set(fast)
    path.labels("plain").set(plain)
    return generate_latest(registry).decode()


def test_the_receive_path_is_told() -> None:
    (path,) = check_receiving(exposed(fast=2, plain=0))
    assert (path.level, path.text) == (Level.OK, "fast")
    for fast in (0, 1):  # one process that is slow is enough
        (path,) = check_receiving(exposed(fast=fast, plain=1))
        assert (path.level, path.text.startswith("plain")) == (Level.WARN, True)
    assert list(check_receiving("")) == list(check_receiving("ichor_receive_path{path=")) == []


@pytest.mark.parametrize(
    ("unread", "age", "receives", "relays", "level"),
    [
        (0, None, True, True, Level.OK), (3 << 20, 2.0, True, True, Level.OK), (30 << 20, 2.0, True, True, Level.WARN),
        (430, 60.0, True, True, Level.WARN), (430, 600.0, True, True, Level.FAIL), (430, 5.0, True, False, Level.OK),
        (430, 60.0, True, False, Level.FAIL), (430, 6000.0, False, False, Level.WARN),
    ],
)  # fmt: skip
def test_what_stays_untold_is_told_by_its_age(
    unread: int, age: float | None, receives: bool, relays: bool, level: Level
) -> None:
    waiting = Waiting({Lane.STAT: 0, Lane.ROUTINE: unread}, None if age is None else 1000.0 - age)
    finding = check_relay(waiting, on_disk=33 << 20, receives=receives, relays=relays, now=1000.0)
    assert finding.level is level
    assert "the log takes 33 MiB on disk" in finding.text
    assert (f"for {age:.0f} s" in finding.text) if age is not None else "all that was received" in finding.text


def test_a_relay_that_is_gone_shows_without_its_own_word(
    folder: DataFolder,
    free_port: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "_check_installed_models", lambda *_: iter(()))
    well = settings(folder, listener={"port": free_port()}, console={"port": free_port()})
    doctor(well)
    assert "OK    relay: all that was received is told" in capsys.readouterr().out
    (folder.run / "receive.ready").write_text(str(os.getpid()))
    writer = ReceiptWriter(folder.receipts)
    writer.append(Lane.ROUTINE, Refused("CT1", "0xA700", "reason", "", time.time() - 100.0))
    assert doctor(well) == 1
    assert "FAIL  relay: 0.0 MiB" in capsys.readouterr().out
    folder.journal.write_bytes(b"no database" * 1000)
    assert doctor(well) == 1
    assert "FAIL  relay: receipts log or journal cannot be read" in capsys.readouterr().out
    writer.close()


def test_a_full_disk_is_not_answered_by_a_restart(folder: DataFolder, busy_port: int) -> None:
    (folder.run / "receive.ready").write_text(str(os.getpid()))
    peers = Peers(silent="self", why="association rejected: temporary congestion")
    for senders in ([], [{"ae_title": "CT1", "host": "10.0.0.1"}]):
        finding = check_listener(settings(folder, listener={"port": busy_port}, senders=senders), folder, peers)
        assert (finding.level, finding.todo.startswith("make room")) == (Level.FAIL, True)
