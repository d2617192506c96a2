"""Something that a loop needs is away: counted each time, said once, and once when it is back. Decides no pause."""

from __future__ import annotations

import logging

from ichor import metrics
from ichor.errors import TransientError


class Outage:
    """Of one loop; for one thread. ``role`` begins the line."""

    def __init__(self, log: logging.Logger, *, role: str) -> None:
        self._log, self._role = log, role
        self._said = False

    def away(self, error: TransientError) -> None:
        """The loop met this, and will ask again."""
        metrics.LOOP_ERRORS.labels(self._role).inc()
        if not self._said:
            self._log.warning("%s waits: %s", self._role, error)
        self._said = True

    def over(self) -> None:
        """The loop got through."""
        if self._said:
            self._log.info("%s goes on", self._role)
        self._said = False
