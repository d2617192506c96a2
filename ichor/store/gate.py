"""Keeps retention and receipt of one study apart: what is being received again is not removed beneath it. One process."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator


class Gate:
    """Any number of receipts of a study at a time, or one removal; studies do not wait for each other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: Counter[str] = Counter()
        self._shut: set[str] = set()

    @contextlib.contextmanager
    def enter(self, study_instance_uid: str) -> Iterator[None]:
        """Hold while an object is put and acknowledged; waits for a removal of the same study."""
        with self._changed:
            self._changed.wait_for(lambda: study_instance_uid not in self._shut)
            self._inside[study_instance_uid] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[study_instance_uid] -= 1
                if not self._inside[study_instance_uid]:
                    del self._inside[study_instance_uid]
                self._changed.notify_all()

    @contextlib.contextmanager
    def shut(self, study_instance_uid: str) -> Iterator[None]:
        """Hold while objects of a study are removed; waits for receipts that are inside."""
        with self._changed:
            self._changed.wait_for(lambda: study_instance_uid not in self._shut)
            self._shut.add(study_instance_uid)
            self._changed.wait_for(lambda: not self._inside[study_instance_uid])
        try:
            yield
        finally:
            with self._changed:
                self._shut.discard(study_instance_uid)
                self._changed.notify_all()
