"""The data folder: made, checked for its version, and locked against a second supervisor. Nothing else is in here."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from ichor.config import Settings, StoreSettings
from ichor.errors import CannotStart
from ichor.store.bucket import open_bucket
from ichor.store.disk import sync_directory
from ichor.store.ownership import divide
from ichor.store.shared import open_store

VERSION = 1


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where everything durable lies; spool and blobs, when shared with others, in ``store`` or in ``bucket``.

    ``roams``: assemblers of several machines share a bus, so open series lie in ``store``, too.
    """

    root: Path
    store: Path | None = None
    bucket: StoreSettings | None = None
    shards: int = 1
    roams: bool = False

    @classmethod
    def of(cls, settings: Settings) -> DataFolder:
        store = settings.store
        return cls(
            settings.data, store.folder, store if store.is_bucket else None, settings.assemble.shards,
            roams=store.folder is not None and settings.bus.url.startswith("kafka:"),
        )  # fmt: skip

    @property
    def bus(self) -> Path:
        return self.root / "bus.sqlite"

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite"

    @property
    def assembly(self) -> Path:
        """Which assembler owns which shard, and their state but that of a single shard of one machine."""
        return (self.store if self.roams and self.store else self.root) / "assembly"

    def assembly_state(self, shard: int) -> Path:
        if not self.roams and self.shards == 1:
            return self.root / "assembly.sqlite"
        return self.assembly / f"{shard}.sqlite"

    @property
    def is_shared(self) -> bool:
        return self.store is not None or self.bucket is not None

    @property
    def spool(self) -> Path:
        """Of a bucket: where objects wait until they are whole."""
        return self.root / "staging" if self.bucket is not None else (self.store or self.root) / "spool"

    @property
    def receipts(self) -> Path:
        return self.root / "receipts"

    @property
    def blobs(self) -> Path:
        return (self.store or self.root) / "blobs"

    @property
    def engines(self) -> Path:
        """Gate reports and compiled engines: may be deleted at any time."""
        return self.root / "engines"

    @property
    def run(self) -> Path:
        """Ready files of the roles that are up."""
        return self.root / "run"

    @property
    def metrics(self) -> Path:
        """Where processes count when they cannot in memory (`ichor.cli.metrics_folder`)."""
        return self.root / "run" / "metrics"

    def prepare(self) -> None:
        """Make the folder, or check that this version may use it.

        Raises
        ------
        CannotStart
            When it cannot be made or written, or a newer version of Ichor wrote it; when the shared store is not there;
            when studies are divided into another number of shards.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.store is not None:
                self._refuse_own_images("a folder that all roles share", but=(self.root / "store").exists())
                open_store(self.store, self.root)
            if self.bucket is not None:
                self._open_bucket(self.bucket)
            used = not self.roams and (self.journal.exists() or (self.root / "assembly.sqlite").exists())
            divide(self.assembly, self.shards, unstamped=1 if used else None)
            for part in (self.spool, *self._own_blobs, self.engines, self.run, self.metrics):
                part.mkdir(parents=True, exist_ok=True)
            stamp = self.root / "VERSION"
            if not stamp.exists():
                # Whole or not at all: a power cut must not leave an empty stamp.
                fresh = self.root / f"VERSION.{os.getpid()}"  # roles that start together each write their own
                with fresh.open("w") as file:
                    file.write(f"{VERSION}\n")
                    file.flush()
                    os.fsync(file.fileno())
                # The way here first, so that a stamp means that it was synced: nothing here outlives a power cut without.
                for parent in self.root.absolute().parents:
                    with contextlib.suppress(PermissionError):  # not made by us
                        sync_directory(parent)
                fresh.rename(stamp)
                sync_directory(self.root)
            text = stamp.read_text().strip()
        except OSError as error:
            raise CannotStart(f"data folder {self.root}: {error.strerror}") from error
        if not text.isdigit() or int(text) > VERSION:
            raise CannotStart(f"data folder {self.root} is of version {text!r}; this Ichor knows up to {VERSION}")

    @property
    def _own_blobs(self) -> tuple[Path, ...]:
        return (self.blobs,) if self.bucket is None else ()

    def _refuse_own_images(self, url: str, *, but: bool = False) -> None:
        if not but and any((self.root / "spool").glob("*")):
            text = (
                f"data folder {self.root} has received images of its own: begin with another where store.url is {url}"
            )
            raise CannotStart(text)

    def _open_bucket(self, settings: StoreSettings) -> None:
        from ichor.store.bucket_receivers import open_store as open_in_bucket

        self._refuse_own_images("s3:")
        open_in_bucket(open_bucket(settings), self.root)

    def lock(self, name: str = "lock", *, alone: bool, patience: float = 3.0) -> int:
        """Hold the folder: alone (serve), or beside other single roles. The lock ends with the process.

        ``patience`` covers the moment in which children of a killed supervisor are still dying. Another ``name`` is
        another lock: ``run/relay.lock`` is held by the one process that may write the journal.

        Raises
        ------
        CannotStart
            When another process holds it, or its file is another user's.
        """
        try:
            handle = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotStart(f"data folder {self.root}: {name}: {error.strerror}") from error
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                return handle
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(handle)
                    raise CannotStart(f"data folder {self.root} is in use by another ichor process") from None
                time.sleep(0.05)
