"""A modality for tests: sends files as they lie, also broken ones, and says what status each got."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pydicom
from pynetdicom import AE, _config
from requestor import associate


def send(
    files: Sequence[Path], port: int, *, called: str = "ICHOR", calling: str = "CT1", priority: int = 2
) -> list[int]:
    """C-STORE each file's data set byte for byte over one association; the status of each (-1: no answer)."""
    _config.STORE_SEND_CHUNKED_DATASET = True
    entity = AE(ae_title=calling)
    for path in files:
        meta = pydicom.filereader.read_file_meta_info(path)
        entity.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    association = associate(entity, port, called=called)
    assert association.is_established
    statuses = []
    for path in files:
        status = association.send_c_store(path, priority=priority)
        statuses.append(int(status.Status) if "Status" in status else -1)
    association.release()
    return statuses
