"""The receipts log: the only channel from who receives to who tells; carries small objects. Not an index, not the event log.

Append-only files of each writing process and lane. The writer appends before a C-STORE is answered with Success; the
relay reads, makes the journal of it, and deletes what the journal has. See docs/decisions/0012-receipts.md and 0018-carried-objects.md.
"""

from ichor.store.receipt_reader import ReceiptReader, Waiting
from ichor.store.receipt_records import (
    RECOVERED,
    Carried,
    CommitmentRequested,
    Ended,
    Lane,
    Receipt,
    Record,
    Refused,
    Stored,
)
from ichor.store.receipt_writer import ReceiptWriter

__all__ = [
    "RECOVERED",
    "Carried",
    "CommitmentRequested",
    "Ended",
    "Lane",
    "Receipt",
    "ReceiptReader",
    "ReceiptWriter",
    "Record",
    "Refused",
    "Stored",
    "Waiting",
]
