"""A storage SCP in memory that plays the PACS in the demo and in tests. Not an archive: it forgets everything."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from dicom_out.transport import RESULT_CLASSES, VERIFICATION

_DUPLICATE = 0x0111


class DemoPacs:
    """Use as a context manager; listens on 127.0.0.1.

    Parameters
    ----------
    port
        0 picks a free one; see ``port`` afterwards.
    classes
        SOP Class UIDs it accepts; all result classes by default.
    status
        Called with each data set; a status other than 0 is answered and nothing is kept.
    say_duplicate
        Answer 0x0111 to an instance that it has already.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        ae_title: str = "DEMOPACS",
        classes: tuple[str, ...] = tuple(RESULT_CLASSES),
        status: Callable[[Dataset], int] = lambda _: 0,
        say_duplicate: bool = False,
    ) -> None:
        self.ae_title, self.port = ae_title, port
        self.received: dict[str, Dataset] = {}
        self.encoded: dict[str, bytes] = {}  # data sets as they arrived, without file meta
        self.stores = 0
        self._classes, self._status, self._say_duplicate = classes, status, say_duplicate
        self._changed = threading.Condition()
        self._server: Any = None

    def __enter__(self) -> DemoPacs:
        entity = AE(ae_title=self.ae_title)
        for uid in (*self._classes, VERIFICATION):
            entity.add_supported_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        handlers: Any = [(evt.EVT_C_STORE, self._on_store), (evt.EVT_C_ECHO, lambda _: 0x0000)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def hang_up(self) -> None:
        """Abort the associations that are open now, as a PACS that dies does."""
        for association in self._server.ae.active_associations:
            association.abort()

    def wait_for(self, count: int, *, timeout: float = 30.0) -> bool:
        """True once ``count`` different instances are here; False when ``timeout`` seconds passed before."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.received) >= count, timeout)

    def _on_store(self, event: Any) -> int:
        dataset: Dataset = event.dataset
        dataset.file_meta = event.file_meta
        with self._changed:
            self.stores += 1
            status = self._status(dataset)
            uid = str(UID(dataset.SOPInstanceUID))
            if status == 0 and uid in self.received and self._say_duplicate:
                status = _DUPLICATE
            elif status == 0:
                self.received.setdefault(uid, dataset)
                self.encoded.setdefault(uid, event.request.DataSet.getvalue())
            self._changed.notify_all()
        return status
