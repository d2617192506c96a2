"""`ichor doctor`: is everything in place? One line each, for a person on call. Changes nothing but the cache of engines."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from dicom_out.transport import RESULT_CLASSES
from ichor.bus.protocol import Bus
from ichor.cli.folder import DataFolder
from ichor.cli.kafka_check import check_kafka
from ichor.cli.machine import Finding, Level, check_machine, existing
from ichor.cli.receiving import (
    check_assembly,
    check_receiving,
    check_relay,
    check_store,
    check_watermarks,
    least_room,
    size_on_disk,
)
from ichor.cli.supervisor import all_ready
from ichor.config import Settings
from ichor.errors import IchorError
from ichor.types import Destination

_OLD_SECONDS = 600.0
_SOON_DAYS = 30.0
_ANSWER_SECONDS = 5.0
_MOST_METRICS = 16 << 20
_OUR_TITLE = "ICHOR-DOCTOR"  # nobody's: what is turned away is listed under the title by which it called
_NOT_A_SENDER = "calling ae title not recognised"  # PS3.8 table 9-21, in `dicom_out.transport`'s words


class Dialogue(Protocol):
    """What is asked of a DICOM peer (`dicom_out.transport`)."""

    def echo(self, destination: Destination, *, calling_ae: str) -> None:
        """C-ECHO; `ichor.errors.TransientError` with the reason when it does not answer."""

    def accepted_classes(
        self, destination: Destination, classes: Sequence[str], *, calling_ae: str
    ) -> tuple[str, ...]: ...


class Model(Protocol):
    """What is known of a model that was loaded (`engines.catalogue`)."""

    @property
    def fallback(self) -> str:
        """Why the fast runtime does not serve it; empty when it does."""


def doctor(settings: Settings) -> int:
    """Check everything and print it; 1 when anything fails."""
    from dicom_out import transport

    # What the library would say of each association is in the findings.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    folder = DataFolder.of(settings)
    count = dict.fromkeys(Level, 0)
    for finding in _examine(settings, folder, transport):
        todo = f" -> {finding.todo}" if finding.todo and finding.level is not Level.OK else ""
        print(f"{finding.level:<4}  {finding.what}: {finding.text}{todo}", flush=True)
        count[finding.level] += 1
    print(f"{count[Level.OK]} in order, {count[Level.WARN]} to look at, {count[Level.FAIL]} to be put right")
    return 1 if count[Level.FAIL] else 0


def _examine(settings: Settings, folder: DataFolder, dialogue: Dialogue) -> Iterator[Finding]:
    yield from check_machine(folder)
    yield check_token(settings)
    yield check_roles(settings, folder)
    yield from check_certificate(settings, now=time.time())
    yield check_listener(settings, folder, dialogue)
    yield from check_store(folder)
    yield from check_assembly(folder)
    yield check_watermarks(settings.listener, least_room(existing(folder.spool), existing(folder.receipts)))
    yield _check_folder_relay(folder)
    yield check_console(settings, folder)
    if all_ready(folder.run, ["console"])[0]:
        yield from check_receiving(_exposition(settings))
    yield from check_destinations(settings, dialogue)
    yield from _check_installed_models(settings, folder)
    yield from _check_folder_bus(settings, folder)


def check_token(settings: Settings) -> Finding:
    try:
        settings.token()
    except IchorError as error:
        return Finding(Level.FAIL, "console token", str(error), "write a token into that file")
    return Finding(Level.OK, "console token", "set" if settings.console.token_file else "none (loopback only)")


def check_roles(settings: Settings, folder: DataFolder) -> Finding:
    from ichor.cli.supervisor import COMMANDS, roles_of

    roles = roles_of(*COMMANDS, stow=settings.listener.stow is not None, receivers=settings.listener.processes)
    missing = [name for name in roles if not all_ready(folder.run, [name])[0]]
    if len(missing) == len(roles):
        return Finding(Level.OK, "roles", "none runs: nothing serves")
    if missing:
        text = f"not running or not ready: {', '.join(missing)}"
        return Finding(Level.WARN, "roles", text, "right only where other machines run them; else look into the log")
    return Finding(Level.OK, "roles", "all run and are ready")


def check_certificate(settings: Settings, *, now: float) -> Iterator[Finding]:
    """Of the listener, where it speaks TLS. ``now``: POSIX seconds."""
    if settings.listener.tls is None:
        return
    from listener import tls

    try:
        tls.check(settings.listener.tls)
        days = (tls.expiry(settings.listener.tls) - now) / 86400.0
    except IchorError as error:
        yield Finding(Level.FAIL, "certificate", str(error), "correct [listener.tls]")
        return
    level = Level.FAIL if days < 0 else Level.WARN if days < _SOON_DAYS else Level.OK
    text = f"ends in {days:.0f} days" if days >= 0 else "has expired"
    yield Finding(level, "certificate", text, "put a new one at `listener.tls.cert`")


def check_listener(settings: Settings, folder: DataFolder, dialogue: Dialogue) -> Finding:
    """Free while nothing serves; ours, and answering C-ECHO, while something does."""
    listener = settings.listener
    what = f"listener {listener.host}:{listener.port}"
    serving, _ = all_ready(folder.run, ["receive"])
    taken = port_taken(listener.host, listener.port)
    if taken is None:
        if serving:
            return Finding(
                Level.FAIL, what, "the receiver runs, but not on this port", "restart it with these settings"
            )
        return Finding(Level.OK, what, "free; nothing serves")
    if taken != errno.EADDRINUSE:
        return Finding(Level.FAIL, what, f"cannot be used: {_name(taken)}", "set another address")
    if not serving:
        todo = "end that program or set `listener.port`"
        return Finding(Level.FAIL, what, "taken by a program that is not Ichor with this data folder", todo)
    if listener.tls is not None:
        return Finding(Level.OK, what, "serves TLS; not called, as we have no certificate of a client")
    own = Destination(name="self", ae_title=listener.ae_title, host=reachable(listener.host), port=listener.port)
    try:
        dialogue.echo(own, calling_ae=_OUR_TITLE)
    except IchorError as error:
        if "congestion" in str(error):  # PS3.8 table 9-21; `listener.disk_low`
            return Finding(Level.FAIL, what, f"serves, {error}", "make room: see the watermarks; it ends by itself")
        if settings.senders and str(error).endswith(_NOT_A_SENDER):
            return Finding(Level.OK, what, f"serves, and turns us away as it should: {_OUR_TITLE} is no sender")
        return Finding(Level.FAIL, what, f"does not answer C-ECHO: {error}", "look into the log; restart `ichor serve`")
    return Finding(Level.OK, what, "serves and answers C-ECHO")


def check_console(settings: Settings, folder: DataFolder) -> Finding:
    console = settings.console
    what = f"console {console.host}:{console.port}"
    serving, _ = all_ready(folder.run, ["console"])
    taken = port_taken(console.host, console.port)
    if taken is None:
        level = Level.FAIL if serving else Level.OK
        return Finding(level, what, "nothing serves there", "restart `ichor serve` with these settings")
    if taken != errno.EADDRINUSE or not serving:
        text = "taken by another program" if taken == errno.EADDRINUSE else f"cannot be used: {_name(taken)}"
        return Finding(Level.FAIL, what, text, "end that program or set `console.port`")
    try:
        with urllib.request.urlopen(_url(settings, "readyz"), timeout=_ANSWER_SECONDS):
            return Finding(Level.OK, what, "serves; all roles are ready")
    except urllib.error.HTTPError as error:
        detail = error.read(300).decode(errors="replace").strip()
        return Finding(Level.FAIL, what, f"not ready: {detail}", "look into the log of that role")
    except OSError as error:
        return Finding(Level.FAIL, what, f"does not answer: {error}", "look into the log; restart `ichor serve`")


def _url(settings: Settings, path: str) -> str:
    host = reachable(settings.console.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.console.port}/{path}"


def _exposition(settings: Settings) -> str:
    """The text of /metrics; empty when the console does not give it, which `check_console` tells."""
    try:
        with urllib.request.urlopen(_url(settings, "metrics"), timeout=_ANSWER_SECONDS) as answer:
            text: str = answer.read(_MOST_METRICS).decode(errors="replace")
            return text
    except OSError:
        return ""


def check_destinations(settings: Settings, dialogue: Dialogue) -> Iterator[Finding]:
    if not settings.destinations:
        yield Finding(Level.WARN, "destinations", "none: results stay here", "add [[destinations]]")
    for entry in settings.destinations:
        peer = Destination(name=entry.name, ae_title=entry.ae_title, host=entry.host, port=entry.port)
        what = f"destination {entry.name}"
        try:
            dialogue.echo(peer, calling_ae=settings.listener.ae_title)
            yield Finding(Level.OK, what, f"{entry.ae_title}@{entry.host}:{entry.port} answers C-ECHO")
            accepted = dialogue.accepted_classes(peer, list(RESULT_CLASSES), calling_ae=settings.listener.ae_title)
        except IchorError as error:
            todo = "results wait until it answers; check address, AE titles and that it knows ours"
            yield Finding(Level.FAIL, what, f"{entry.ae_title}@{entry.host}:{entry.port}: {error}", todo)
            continue
        refused = [name for uid, name in RESULT_CLASSES.items() if uid not in accepted]
        if not refused:
            yield Finding(Level.OK, what, f"accepts {', '.join(RESULT_CLASSES.values())}")
        else:
            level = Level.FAIL if len(refused) == len(RESULT_CLASSES) else Level.WARN
            todo = "have these SOP classes enabled there: such results are refused"
            yield Finding(level, what, f"does not accept {', '.join(refused)}", todo)


def _check_installed_models(settings: Settings, folder: DataFolder) -> Iterator[Finding]:
    from ichor.cli.models import Models, models_of_pipelines, stranger_words
    from ichor.pipeline import installed

    models = Models(settings.models)
    wanted = [(*p.models, *(model for model in p.optional_models if models.has(model))) for p in installed()]
    names = list(dict.fromkeys(model for models in wanted for model in models))
    for name in models.strangers(known := models_of_pipelines()):
        yield Finding(Level.FAIL, f"model {name}", stranger_words(name, known), "see models in docs/contract.md")
    try:
        with contextlib.ExitStack() as stack:
            place = folder.engines
            if not may_compile(place, keep_free=settings.listener.disk_low):
                place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ichor-doctor-")))
            for name in names:
                yield check_model(
                    name, read_sha256=lambda n: models.card(n).sha256, load=lambda n: models.load(n, folder=place),
                    todo="see models in docs/contract.md" if name in settings.models else "install Ichor anew",
                )  # fmt: skip
    except OSError as error:
        text = f"not all were tried: {error.strerror or 'no folder for temporary files'}"
        yield Finding(Level.WARN, "models", text, "make room for temporary files, or set TMPDIR")


def may_compile(engines: Path, *, keep_free: int) -> bool:
    """Whether the folder of engines is ours to fill: they take megabytes, and other users' files stop the worker."""
    if not os.access(engines, os.R_OK | os.W_OK | os.X_OK) or engines.stat().st_uid != os.geteuid():
        return False
    return shutil.disk_usage(engines).free >= keep_free


def check_model(
    name: str, *, read_sha256: Callable[[str], str], load: Callable[[str], Model], todo: str = "install Ichor anew"
) -> Finding:
    """File hash against the card, then the gate: does the fast runtime say what the reference says?"""
    what = f"model {name}"
    try:
        sha256 = read_sha256(name)
        loaded = load(name)
    except IchorError as error:
        return Finding(Level.FAIL, what, str(error), todo)
    known = f"sha256 {sha256[:12]} as on its card"
    if loaded.fallback:
        todo = "it serves, slower, by the reference runtime; see `ichor engine verify`"
        return Finding(Level.WARN, what, f"{known}, gate not passed: {loaded.fallback}", todo)
    return Finding(Level.OK, what, f"{known}, gate passed")


def _check_folder_relay(folder: DataFolder) -> Finding:
    from ichor.cli.roles import JournalWhenThere

    receives, relays = (all_ready(folder.run, [name])[0] for name in ("receive", "relay"))
    waiting = JournalWhenThere(folder).waiting()
    on_disk = size_on_disk(folder.receipts)
    return check_relay(waiting, on_disk=on_disk, receives=receives, relays=relays, now=time.time())


def _check_folder_bus(settings: Settings, folder: DataFolder) -> Iterator[Finding]:
    from ichor.cli.roles import open_folder_bus

    embedded = settings.bus.url == "sqlite:"
    if embedded and not folder.bus.exists():
        yield Finding(Level.OK, "bus", "not there yet; the first start makes it")
        return
    try:
        bus = open_folder_bus(settings, folder)
        try:
            yield from check_bus(bus)
        finally:
            bus.close()
        if not embedded:
            yield from check_kafka(settings)
    except IchorError as error:
        todo = "restore bus.sqlite from a copy, or free its disk" if embedded else "see [bus.kafka]"
        yield Finding(Level.FAIL, "bus", str(error), todo)


def check_bus(bus: Bus) -> Iterator[Finding]:
    """How far each group is behind, and what was given up."""
    lags = bus.lag()
    for lag in lags:
        if lag.oldest_age > _OLD_SECONDS:
            text = f"{lag.waiting + lag.leased} wait on {lag.topic} for {lag.group}, the oldest {lag.oldest_age / 60:.0f} min"
            yield Finding(Level.WARN, "bus", text, "is that role running, that destination there?")
    if not any(lag.oldest_age > _OLD_SECONDS for lag in lags):
        yield Finding(Level.OK, "bus", f"{sum(lag.waiting + lag.leased for lag in lags)} messages in hand or waiting")
    letters = len(bus.dead_letters())
    level = Level.WARN if letters else Level.OK
    yield Finding(level, "dead letters", str(letters), "`ichor dlq list` says why; `ichor dlq replay ID` tries again")


def port_taken(host: str, port: int) -> int | None:
    """None when the address could be listened on, else the error number."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error.errno or errno.EINVAL
    return None


def _name(number: int) -> str:
    return errno.errorcode.get(number, "no such host")


def reachable(host: str) -> str:
    """Where to call what listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
