"""A bus that a loop asks in vain. Publishes nothing."""

from __future__ import annotations

from ichor.errors import CannotStart, TransientError


class Away:
    """A subscription of a bus that is away twice, and then says that this version must not use it."""

    def __init__(self) -> None:
        self.answers: list[Exception] = [TransientError("Kafka hangs up"), TransientError("Kafka is silent")]

    def receive(self, _timeout: float, **_: bool) -> None:
        raise self.answers.pop(0) if self.answers else CannotStart("written by a newer Ichor")

    def close(self) -> None:
        self.answers = []
