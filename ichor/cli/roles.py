"""The wiring: from settings to the roles. The only place that knows all rooms; no logic of its own.

Imports of a role's room happen when the role is built, so that a single role does not load the others.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

from ichor.bus import Bus
from ichor.bus.opening import open_bus
from ichor.cli.folder import DataFolder
from ichor.cli.stores import open_blobs, open_receivers, open_spool, write_spool
from ichor.cli.stores import register_receiver as register
from ichor.cli.supervisor import COMMANDS, Role, all_ready, roles_of
from ichor.clock import SystemClock
from ichor.config import Settings
from ichor.errors import CannotStart, IchorError
from ichor.history import identity_of, withdrawn
from ichor.messages import jobs_topic
from ichor.pipeline import installed, installed_names
from ichor.retention import Ages, keep_tidy
from ichor.store.journal import Journal, JournalReader
from ichor.store.protocol import Receivers, Spool
from ichor.store.receipts import Lane, ReceiptWriter, Waiting
from ichor.store.restore import restore_at_start
from ichor.types import Destination, Priority

if TYPE_CHECKING:
    from listener.handover import Crew

# Relay and worker alike, so that neither starves the other: on a machine that is all busy, senders are answered first.
_BEHIND_RECEIVING = 10
_RELAY_LOCK = "run/relay.lock"
# What each role needs that takes long to import.
_PRELOADED = {
    "receive": ("listener.role",),
    "relay": ("listener.role",),
    "stow": ("listener.stow",),
    "assemble": ("listener.assemblers", "listener.assembler"),
    "work": ("highdicom", "dicom_out.encoder", "pipelines.haematoma", "pipelines.worker"),
    "send": ("dicom_out.sender",),
    "console": ("console.role",),
}


# What pydicom imports where it finds it, numpy among it, to decode pixels and to download: `ichor receive` does neither.
# No module of ours that these roles need may import numpy either.
_UNUSED_BY_RECEIVE = ("PIL", "jpeg_ls", "libjpeg", "numpy", "openjpeg", "pylibjpeg", "requests", "rle")


def write_back(folder: DataFolder) -> None:
    """What the receipts log carries goes back into the spool before anybody reads it; not beside a relay that lives."""
    if folder.bucket is not None:
        return  # nothing is carried
    try:
        handle = folder.lock(_RELAY_LOCK, alone=True, patience=0.0)
    except CannotStart:
        return  # of this folder's relay, which does it itself; ours will say so
    try:
        restore_at_start(folder.receipts, folder.spool, folder.journal)
    finally:
        os.close(handle)


def register_receiver(settings: Settings, folder: DataFolder) -> None:
    """Before they are forked: where the store is shared, what receives here has a name there."""
    register(folder, site_name=settings.store.receiver)


def serving(settings: Settings, *commands: str) -> tuple[str, ...]:
    """The roles that ``commands`` run with these settings."""
    return roles_of(*commands, stow=settings.listener.stow is not None, receivers=settings.listener.processes)


def build_all(names: Sequence[str], settings: Settings, folder: DataFolder, *, together: bool) -> Mapping[str, Role]:
    """Roles that one supervisor runs; receiving processes among them share what they must."""
    receivers = [name for name in names if _kind(name) == "receive"]
    built = {name: build(name, settings, folder, together=together) for name in names if name not in receivers}
    if receivers:
        from listener.handover import Crew

        crew = Crew.of(len(receivers), senders=len(settings.senders))
        built |= {name: _receive(settings, folder, crew, number) for number, name in enumerate(receivers)}
    return {name: built[name] for name in names}


def build(name: str, settings: Settings, folder: DataFolder, *, together: bool) -> Role:
    """The role ``name`` as a function of (stop, on_ready). ``together``: part of serve, so readiness means all roles.

    Raises
    ------
    ValueError
        For a name that is none, and for a receiving process: what those share is made by `build_all`.
    """
    if name == "console":
        # Of several receiving processes the first counts: with it connections are taken.
        needed = roles_of(*COMMANDS, stow=settings.listener.stow is not None) if together else ("console",)
        return _console(settings, folder, needed)
    role = {"relay": _relay, "stow": _stow, "assemble": _assemble, "work": _work, "send": _send}.get(name)
    if role is None:
        raise ValueError(name)
    return role(settings, folder)


def _kind(name: str) -> str:
    """``receive`` for ``receive-2``."""
    return name.partition("-")[0]


def preload(names: Sequence[str]) -> None:
    """Import what the roles need before they are forked: one that died is back in milliseconds, and they share memory.

    OpenVINO starts threads when imported and is left to the worker itself.
    """
    names = list(dict.fromkeys(map(_kind, names)))
    if set(names) <= set(COMMANDS["receive"]):
        for module in _UNUSED_BY_RECEIVE:
            sys.modules.setdefault(module, None)  # type: ignore[arg-type]  # an ImportError for whoever tries
        # Names of private elements take 8 MiB: nothing that is received is read with pydicom but command and request.
        sys.modules.setdefault("pydicom._private_dict", SimpleNamespace(private_dictionaries={}))  # type: ignore[arg-type]
    for name in names:
        for module in _PRELOADED[name]:
            importlib.import_module(module)
    # A collection in a child would write to every object that it has from here, and so make a copy of its page.
    gc.collect()
    gc.freeze()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc keeps what the imports needed for a moment
        libc.malloc_trim(0)


def open_folder_bus(settings: Settings, folder: DataFolder) -> Bus:
    return open_bus(settings.bus.url, folder.root, SystemClock(), kafka=settings.bus.kafka)


def destinations(settings: Settings) -> tuple[Destination, ...]:
    return tuple(Destination(name=d.name, ae_title=d.ae_title, host=d.host, port=d.port) for d in settings.destinations)


class JournalWhenThere:
    """Looks UIDs up in a journal that the first image will make."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._reader: JournalReader | None = None

    def locate(self, uid: str) -> tuple[str, str, str | None] | None:
        reader = self._there()
        return reader.locate(uid) if reader is not None else None

    def waiting(self) -> Waiting | None:
        """What was received and is not told yet; None when that cannot be read now."""
        try:
            reader = self._there()
            return reader.waiting() if reader is not None else Waiting(dict.fromkeys(Lane, 0), None)
        except (IchorError, OSError):
            return None

    def is_all_told(self) -> bool:
        """Whether the bus has all that was received; False when that cannot be read now."""
        waiting = self.waiting()
        try:
            reader = self._there()
            return waiting is not None and waiting.since is None and (reader is None or reader.is_all_told())
        except (IchorError, OSError):
            return False

    def _there(self) -> JournalReader | None:
        if self._reader is None:
            try:
                self._reader = JournalReader(self._folder.journal, receipts=self._folder.receipts)
            except CannotStart:
                if self._folder.journal.exists():
                    raise
        return self._reader


def _receive(settings: Settings, folder: DataFolder, crew: Crew, process: int) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        crew.seats.at(process)  # at once: what the one before it held is free
        from listener.role import run_receiver

        receipts, spool = _taking_in(settings, folder, stop)
        run_receiver(
            settings=settings, spool=spool, receipts=receipts, clock=SystemClock(), stop=stop, on_ready=on_ready,
            crew=crew, process=process,
        )  # fmt: skip
        spool.close()
        receipts.close()

    return run


def _stow(settings: Settings, folder: DataFolder) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        from listener.stow import run_stow

        receipts, spool = _taking_in(settings, folder, stop)
        run_stow(settings=settings, spool=spool, receipts=receipts, clock=SystemClock(), stop=stop, on_ready=on_ready)
        spool.close()
        receipts.close()

    return run


def _taking_in(settings: Settings, folder: DataFolder, stop: threading.Event) -> tuple[ReceiptWriter, Spool]:
    """A process's own log of receipts and its spool; segments bear the name of the log (`ichor.store.recovery`)."""
    level = settings.listener.durability
    receipts = ReceiptWriter(folder.receipts, durable=level != "none")
    # What the log carries is on this machine's own volume alone until it is settled.
    apart = folder.is_shared or folder.spool.stat().st_dev != folder.receipts.stat().st_dev
    spool = write_spool(folder, durability=level, writer=receipts.name, carries=not apart)
    threading.Thread(target=_seal_idle, args=(spool, stop), daemon=True).start()
    return receipts, spool


def _seal_idle(spool: Spool, stop: threading.Event) -> None:
    """Segments that nobody appends to any more are let go, so that retention may have them."""
    while not stop.wait(60.0):
        spool.seal()


def _relay(settings: Settings, folder: DataFolder) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        from listener.commitment_findings import Answering
        from listener.role import run_relay

        os.nice(_BEHIND_RECEIVING)
        folder.lock(_RELAY_LOCK, alone=True)
        if folder.bucket is None:
            # Before retention begins: an object must not come back when its row has just gone.
            restore_at_start(folder.receipts, folder.spool, folder.journal)
        journal = Journal(
            folder.journal,
            durable=settings.listener.durability != "none",
            keeps_unsure=settings.listener.commitment,
        )
        spool = open_spool(folder)
        receivers = open_receivers(folder, lost_after=settings.store.lost_after)
        answering = Answering(receivers)
        # The journal has one writing process, so retention lives where it is written.
        tidying = (settings, folder, spool, journal, receivers, answering.taken_in, stop)
        threading.Thread(target=_keep_tidy, args=tidying, daemon=True).start()
        run_relay(
            settings=settings,
            receipts=folder.receipts,
            journal=journal,
            spool=spool,
            bus=open_folder_bus(settings, folder),
            clock=SystemClock(),
            stop=stop,
            on_ready=on_ready,
            answering=answering,
        )

    return run


def _keep_tidy(
    settings: Settings, folder: DataFolder, spool: Spool, journal: Journal, receivers: Receivers | None,
    taken_in: Callable[[frozenset[str]], object], stop: threading.Event,
) -> None:  # fmt: skip
    keep_tidy(
        lambda: open_folder_bus(settings, folder),
        journal=journal,
        spool=spool,
        receipts=folder.receipts,
        blobs=open_blobs(folder),
        ages=Ages(spool=settings.retention.spool, results=settings.retention.results),
        job_topics=tuple(
            jobs_topic(name, lane) for name in installed_names() for lane in (Priority.STAT, Priority.ROUTINE)
        ),
        clock=SystemClock(),
        stop=stop,
        receivers=receivers,
        shards=settings.assemble.shards,
        taken_in=taken_in,
    )


def _assemble(settings: Settings, folder: DataFolder) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        from listener.assembler import run_assembler
        from listener.assemblers import run_assemblers

        assemble = partial(
            run_assembler,
            bus=open_folder_bus(settings, folder),
            blobs=open_blobs(folder),
            pipelines=tuple(installed()),
            study_wait=settings.study.wait,
            rules=settings.routing(),
            clock=SystemClock(),
            shared=folder.roams,
        )
        run_assemblers(
            assemble,
            folder=folder.assembly,
            state_path=folder.assembly_state,
            shards=folder.shards,
            stop=stop,
            on_ready=on_ready,
        )

    return run


def _work(settings: Settings, folder: DataFolder) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        from dicom_out.encoder import DicomEncoder
        from ichor import __version__
        from ichor.cli.models import load_engines
        from pipelines.worker import run_worker

        os.nice(_BEHIND_RECEIVING)
        pipelines = tuple(installed())
        spool = open_spool(folder)
        encoder = DicomEncoder(spool, software_version=__version__)
        encoder.warm()
        run_worker(
            bus=open_folder_bus(settings, folder),
            blobs=open_blobs(folder),
            spool=spool,
            pipelines=pipelines,
            engines=load_engines(
                [m for p in pipelines for m in p.models],
                folder.engines,
                optional=[m for p in pipelines for m in p.optional_models],
                own=settings.models,
            ),
            encoder=encoder,
            destinations=[d.name for d in settings.destinations],
            not_analysed_report=settings.study.not_analysed_report,
            clock=SystemClock(),
            stop=stop,
            on_ready=on_ready,
            # There are others where the bus is of several machines; a pod's container that is back has its name again.
            name=(settings.bus.kafka.member or socket.gethostname()) if settings.bus.url.startswith("kafka:") else "",
        )

    return run


def _send(settings: Settings, folder: DataFolder) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        from dicom_out.sender import run_sender

        bus = open_folder_bus(settings, folder)
        run_sender(
            destinations=destinations(settings),
            bus=bus,
            blobs=open_blobs(folder),
            identity_of=identity_of(bus),
            withdrawn=withdrawn(bus),
            calling_ae=settings.listener.ae_title,
            clock=SystemClock(),
            stop=stop,
            on_ready=on_ready,
        )

    return run


def _console(settings: Settings, folder: DataFolder, needed: tuple[str, ...]) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        from console.role import run_console

        run_console(
            host=settings.console.host,
            port=settings.console.port,
            bus=open_folder_bus(settings, folder),
            blobs=open_blobs(folder),
            journal=(journal := JournalWhenThere(folder)),
            waiting=journal.waiting,
            token=settings.token(),
            ready=lambda: all_ready(folder.run, list(needed)),
            clock=SystemClock(),
            stop=stop,
            on_ready=on_ready,
            shards=settings.assemble.shards,
        )

    return run
