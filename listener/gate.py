"""Association requests before there is an association: judged in the lobby's thread, rejected or given a thread."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable

from ichor import metrics
from listener.admission import LIMIT, Admission, Admitted, Rejection, UnreadableRequest, printable
from listener.lobby import ABORT
from listener.log_limit import LogLimit
from listener.reception import Refusals

Opens = Callable[[socket.socket, tuple[object, ...], bytes, Admitted], None]
_UNREADABLE_REQUEST = "the association request cannot be read"
_MOST_REJECTED = 1000  # that wait to be written down


class Gate:
    """Between `Lobby` and library; nothing here waits.

    Parameters
    ----------
    opens
        Begins an association, in a thread of its own, with the place that it was admitted to.
    refusals
        Told of some of what is rejected, as ``log_limit`` allows; metrics count all.
    """

    def __init__(self, *, admission: Admission, refusals: Refusals, log_limit: LogLimit, opens: Opens) -> None:
        self._admission = admission
        self._refusals = refusals
        self._log_limit = log_limit
        self._of_address = LogLimit(at_once=100, every=1.0)
        self._opens = opens
        self._rejected: queue.Queue[tuple[str, str, str] | None] = queue.Queue(_MOST_REJECTED)
        self._telling = threading.Thread(target=self._tell_rejected, name="rejected", daemon=True)

    def start(self) -> None:
        self._telling.start()

    def close(self) -> None:
        """What was rejected has been told, or a second is over."""
        with contextlib.suppress(queue.Full):
            self._rejected.put(None, timeout=1.0)
        self._telling.join(1.0)

    def judge(self, connection: socket.socket, address: tuple[object, ...], request: bytes) -> bytes | None:
        """What to answer; None: it was handed over to a thread."""
        try:
            verdict = self._admission.judge(request, str(address[0]))
        except UnreadableRequest:
            self.unreadable(request, address)
            return ABORT
        if isinstance(verdict, Rejection):
            self._reject(request, address, verdict.words)
            return verdict.pdu()
        try:
            threading.Thread(
                target=self._opens, args=(connection, address, request, verdict), name="dicom-open", daemon=True
            ).start()
        except RuntimeError:  # no thread to be had
            self._admission.leave(verdict)
            self._reject(request, address, LIMIT.words)
            return LIMIT.pdu()
        return None

    def unreadable(self, request: bytes, address: tuple[object, ...]) -> None:
        """Tell that a request was aborted as no request at all."""
        self._reject(request, address, _UNREADABLE_REQUEST)

    def _reject(self, request: bytes, address: tuple[object, ...], words: str) -> None:
        metrics.ASSOCIATIONS_REJECTED.labels(words).inc()
        calling_ae, host = printable(request[26:42]), str(address[0])
        # Whoever connects decides how often this comes, and by which titles: the metric counts all, log and list take
        # some, and no sender's hide another's.
        if self._log_limit.allows(f"{words}\n{calling_ae}", of=host) and self._of_address.allows(host):
            with contextlib.suppress(queue.Full):
                self._rejected.put_nowait((calling_ae, host, words))

    def _tell_rejected(self) -> None:
        """In a thread of its own: the receipts log may wait for the disk, the lobby must not."""
        while (rejected := self._rejected.get()) is not None:
            calling_ae, address, words = rejected
            self._refusals.add(calling_ae=calling_ae, status="rejected", reason=words, address=address)
