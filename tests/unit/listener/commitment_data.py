"""Data sets of requests for storage commitment, as senders write them. No tests."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

CT = "1.2.840.10008.5.1.4.1.1.2"


def request(*uids: str, sop_class: str = CT, transaction: str = "1.2.9") -> Dataset:
    data = Dataset()
    data.TransactionUID = transaction
    items = []
    for uid in uids:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    data.ReferencedSOPSequence = items
    return data


def encoded(data: Dataset, *, implicit: bool = False) -> bytes:
    found = encode(data, implicit, True)
    assert found is not None
    return found
