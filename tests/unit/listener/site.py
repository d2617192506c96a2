"""A receiver in a thread, with its spool, its journal and a bus that can be away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ichor.clock import SystemClock
from ichor.errors import TransientError
from ichor.messages import AssociationClosed, Envelope, InstancesReceived, ReceiveRefused, open_envelope
from ichor.store.journal import Journal
from ichor.store.spool import FileSpool
from ichor.types import Instance
from listener import role


class RecordingBus:
    """Publishes into a list, each id once; may be ``away``."""

    def __init__(self) -> None:
        self.away = False
        self.refused = 0  # publications while away
        self.log: list[tuple[str, Envelope]] = []
        self._changed = threading.Condition()

    def publish(self, topic: str, envelopes: Sequence[Envelope]) -> None:
        with self._changed:
            if self.away:
                self.refused += 1
                self._changed.notify_all()
                raise TransientError("away")
            known = {(t, e.id) for t, e in self.log}
            self.log += [(topic, e) for e in envelopes if (topic, e.id) not in known]
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[RecordingBus], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), timeout=60), "it never came"

    def data(self) -> list[Any]:
        return [open_envelope(envelope) for _, envelope in self.log]

    def instances(self) -> list[Instance]:
        return [i for data in self.data() if isinstance(data, InstancesReceived) for i in data.instances]

    def closed(self) -> list[AssociationClosed]:
        return [data for data in self.data() if isinstance(data, AssociationClosed)]

    def refusals(self) -> list[ReceiveRefused]:
        return [data for data in self.data() if isinstance(data, ReceiveRefused)]


class Site:
    """A receiver in a thread, with its spool, journal and bus."""

    def __init__(self, root: Path, port: int, **changes: Any) -> None:
        self.root, self.port, self.bus = root, port, RecordingBus()
        self.spool = FileSpool(root / "spool")
        self.journal = Journal(root / "journal.sqlite")
        self.stop = threading.Event()
        ready = threading.Event()
        arguments: dict[str, Any] = {
            "ae_title": "ICHOR", "host": "127.0.0.1", "port": port, "stat_ae_titles": ("ICHOR_STAT",), "senders": (),
            "spool": self.spool, "journal": self.journal, "bus": self.bus, "clock": SystemClock(),
        } | changes  # fmt: skip
        self.thread = threading.Thread(
            target=lambda: role.run_receiver(**arguments, stop=self.stop, on_ready=ready.set), daemon=True
        )
        self.thread.start()
        assert ready.wait(60)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.journal.close()

    def stored_files(self) -> list[Path]:
        return sorted(p for p in (self.root / "spool").rglob("*") if p.is_file() and p.name not in ("lock", "owner"))
