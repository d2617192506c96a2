"""The wiring: from settings to the five roles. The only place that knows all rooms; no logic of its own.

Imports of a role's room happen when the role is built, so that a single role does not load the others.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from pathlib import Path

from ichor.bus import Bus
from ichor.bus.opening import open_bus
from ichor.cli.folder import DataFolder
from ichor.cli.supervisor import ROLES, Role, all_ready
from ichor.clock import SystemClock
from ichor.config import Settings
from ichor.history import Projection, identity_of, withdrawn
from ichor.messages import jobs_topic
from ichor.pipeline import installed
from ichor.retention import Ages, keep_tidy
from ichor.store.blobs import FileBlobs
from ichor.store.journal import Journal, JournalReader
from ichor.store.spool import FileSpool
from ichor.types import Destination, Priority

_PRELOADED = (
    "console.role",
    "dicom_out.encoder",
    "dicom_out.sender",
    "highdicom",
    "listener.assembler",
    "listener.role",
    "pipelines.haematoma",
    "pipelines.worker",
)


def build(name: str, settings: Settings, folder: DataFolder, *, together: bool) -> Role:
    """The role ``name`` as a function of (stop, on_ready). ``together``: part of serve, so readiness means all roles."""
    role = {"receive": _receive, "assemble": _assemble, "work": _work, "send": _send}.get(name)
    if role is not None:
        return role(settings, folder)
    return _console(settings, folder, ROLES if together else ("console",))


def preload() -> None:
    """Import what the roles need before they are forked: a role that died is then back in milliseconds.

    OpenVINO starts threads when imported and is left to the worker itself.
    """
    for module in _PRELOADED:
        importlib.import_module(module)


def open_folder_bus(settings: Settings, folder: DataFolder) -> Bus:
    return open_bus(settings.bus.url, folder.root, SystemClock())


def destinations(settings: Settings) -> tuple[Destination, ...]:
    return tuple(Destination(name=d.name, ae_title=d.ae_title, host=d.host, port=d.port) for d in settings.destinations)


class JournalWhenThere:
    """Looks UIDs up in a journal that the first image will make."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: JournalReader | None = None

    def locate(self, uid: str) -> tuple[str, str, str | None] | None:
        if self._reader is None:
            if not self._path.exists():
                return None
            self._reader = JournalReader(self._path)
        return self._reader.locate(uid)


def _receive(settings: Settings, folder: DataFolder) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        from listener.role import run_receiver

        spool, journal = FileSpool(folder.spool), Journal(folder.journal)
        # The journal has one writer, so retention lives where it is written.
        tidy = threading.Thread(target=_keep_tidy, args=(settings, folder, spool, journal, stop), daemon=True)
        tidy.start()
        run_receiver(
            ae_title=settings.listener.ae_title,
            host=settings.listener.host,
            port=settings.listener.port,
            stat_ae_titles=settings.listener.stat_ae_titles,
            senders=settings.senders,
            spool=spool,
            journal=journal,
            bus=open_folder_bus(settings, folder),
            clock=SystemClock(),
            stop=stop,
            on_ready=on_ready,
        )

    return run


def _keep_tidy(
    settings: Settings, folder: DataFolder, spool: FileSpool, journal: Journal, stop: threading.Event
) -> None:
    bus = open_folder_bus(settings, folder)
    keep_tidy(
        Projection(bus),
        journal=journal,
        spool=spool,
        blobs=FileBlobs(folder.blobs),
        bus=bus,
        ages=Ages(spool=settings.retention.spool, results=settings.retention.results),
        job_topics=tuple(jobs_topic(p.name, lane) for p in installed() for lane in (Priority.STAT, Priority.ROUTINE)),
        clock=SystemClock(),
        stop=stop,
    )


def _assemble(settings: Settings, folder: DataFolder) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        from listener.assembler import run_assembler

        run_assembler(
            bus=open_folder_bus(settings, folder),
            blobs=FileBlobs(folder.blobs),
            state_path=folder.assembly,
            pipelines=tuple(installed()),
            study_wait=settings.study.wait,
            rules=settings.routing(),
            clock=SystemClock(),
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

        pipelines = tuple(installed())
        spool = FileSpool(folder.spool)
        encoder = DicomEncoder(spool, software_version=__version__)
        encoder.warm()
        run_worker(
            bus=open_folder_bus(settings, folder),
            blobs=FileBlobs(folder.blobs),
            spool=spool,
            pipelines=pipelines,
            engines=load_engines([m for p in pipelines for m in p.models], folder.engines),
            encoder=encoder,
            destinations=[d.name for d in settings.destinations],
            not_analysed_report=settings.study.not_analysed_report,
            clock=SystemClock(),
            stop=stop,
            on_ready=on_ready,
        )

    return run


def _send(settings: Settings, folder: DataFolder) -> Role:
    def run(stop: threading.Event, on_ready: Callable[[], None]) -> None:
        from dicom_out.sender import run_sender

        bus = open_folder_bus(settings, folder)
        run_sender(
            destinations=destinations(settings),
            bus=bus,
            blobs=FileBlobs(folder.blobs),
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
            blobs=FileBlobs(folder.blobs),
            journal=JournalWhenThere(folder.journal),
            token=settings.token(),
            ready=lambda: all_ready(folder.run, list(needed)),
            clock=SystemClock(),
            stop=stop,
            on_ready=on_ready,
        )

    return run
