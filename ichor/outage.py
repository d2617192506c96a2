"""Something that a loop needs is away or refuses it: counted and said once, and once when it is back. Decides no pause."""

from __future__ import annotations

import logging

from ichor import metrics
from ichor.errors import IchorError, TransientError


class Outage:
    """Of one loop; for one thread. ``role`` begins the line."""

    def __init__(self, log: logging.Logger, *, role: str) -> None:
        self._log, self._role = log, role
        self._said = ""

    def away(self, error: IchorError, *, cause: Exception | None = None) -> None:
        """The loop met this, and will ask again.

        Said anew only when what a person must do is another: wait, or mend what an error that is not transient names. One
        outage has many texts. ``cause``: what nobody foresaw, for its traceback; it counts each time as an error of the loop.
        """
        if cause is not None:
            metrics.LOOP_ERRORS.labels(self._role).inc()
        said = "away" if isinstance(error, TransientError) else str(error)
        if said != self._said:
            metrics.OUTAGES.labels(self._role).inc()
            self._log.warning("%s waits: %s", self._role, error, exc_info=cause)
        self._said = said

    def over(self) -> None:
        """The loop got through."""
        if self._said:
            self._log.info("%s goes on", self._role)
        self._said = ""
