"""The receipts log: the only channel from who receives to who tells, besides the bytes. Not an index, not the event log.

An append-only file per writing process and lane. The writer appends before a C-STORE is answered with Success; the
relay reads, makes the journal of it, and deletes what the journal has. See docs/decisions/0012-receipts.md.
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
