"""Receiver and relay in threads of one process, with their spool, receipts, journal and a bus that can be away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ichor.bus.memory import MemoryBus
from ichor.clock import SystemClock
from ichor.config import Settings
from ichor.errors import CannotStart, TransientError
from ichor.messages import AssociationClosed, Envelope, InstancesReceived, ReceiveRefused, open_envelope
from ichor.store.journal import Journal, JournalReader
from ichor.store.receipts import ReceiptWriter
from ichor.store.spool import FileSpool
from ichor.types import Instance
from listener import role


class RecordingBus(MemoryBus):
    """Keeps a list of what was published, each id once; may be ``away``."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.error: type[TransientError | CannotStart] = TransientError  # while away
        self.refused = 0  # publications while away
        self.log: list[tuple[str, Envelope]] = []
        self.published = threading.Condition()

    def publish(self, topic: str, envelopes: Sequence[Envelope]) -> None:
        with self.published:
            if self.away:
                self.refused += 1
                self.published.notify_all()
                raise self.error("away")
            known = {(t, e.id) for t, e in self.log}
            self.log += [(topic, e) for e in envelopes if (topic, e.id) not in known]
            super().publish(topic, envelopes)
            self.published.notify_all()

    def wait_for(self, condition: Callable[[RecordingBus], bool]) -> None:
        with self.published:
            assert self.published.wait_for(lambda: condition(self), timeout=60), "it never came"

    def data(self) -> list[Any]:
        return [open_envelope(envelope) for _, envelope in self.log]

    def instances(self) -> list[Instance]:
        return [i for data in self.data() if isinstance(data, InstancesReceived) for i in data.instances]

    def closed(self) -> list[AssociationClosed]:
        return [data for data in self.data() if isinstance(data, AssociationClosed)]

    def refusals(self) -> list[ReceiveRefused]:
        return [data for data in self.data() if isinstance(data, ReceiveRefused)]


class Site:
    """``root`` with a receiver and a relay. Changes are of the settings of the listener, but for ``senders``."""

    def __init__(self, root: Path, port: int, *, senders: Sequence[Any] = (), **listener: Any) -> None:
        self.root, self.port, self.bus = root, port, RecordingBus()
        self.settings = Settings.model_validate(
            {
                "data": root,
                "senders": tuple(senders),
                "listener": {"port": port, "stat_ae_titles": ("ICHOR_STAT",), **listener},
            }
        )
        level = self.settings.listener.durability
        self._receipts = ReceiptWriter(root / "receipts", durable=level != "none")
        self.spool = FileSpool(root / "spool", durability=level, writer=self._receipts.name)
        self._journal = Journal(root / "journal.sqlite")
        self.journal = JournalReader(root / "journal.sqlite", receipts=root / "receipts")
        self.stop = threading.Event()
        ready = threading.Semaphore(0)
        self._relay = threading.Thread(target=self._run_relay, args=(ready.release,), name="relay", daemon=True)
        self.thread = threading.Thread(target=self._run, args=(ready.release,), name="receive", daemon=True)
        self._relay.start()
        self.thread.start()
        assert all(ready.acquire(timeout=60) for _ in range(2))

    def _run(self, on_ready: Callable[[], None]) -> None:
        try:
            role.run_receiver(
                settings=self.settings, spool=self.spool, receipts=self._receipts, clock=SystemClock(), stop=self.stop,
                on_ready=on_ready,
            )  # fmt: skip
        finally:
            # As at the end of a process.
            self.spool.close()
            self._receipts.close()
        self._relay.join()

    def _run_relay(self, on_ready: Callable[[], None]) -> None:
        role.run_relay(
            settings=self.settings, receipts=self.root / "receipts", journal=self._journal,
            spool=FileSpool(self.root / "spool"), bus=self.bus, clock=SystemClock(), stop=self.stop, on_ready=on_ready,
        )  # fmt: skip

    def end(self) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.journal.close()
        self._journal.close()

    def stored_files(self) -> list[Path]:
        """Segments of the spool."""
        return sorted(p for p in (self.root / "spool").rglob("*") if p.is_file())
