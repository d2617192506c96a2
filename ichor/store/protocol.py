"""The store contracts. File forms: `ichor.store.spool`, `ichor.store.journal`, `ichor.store.blobs`.

Keys are relative POSIX paths made of validated UIDs and fixed words; never of anything else that a sender wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol


class Blobs(Protocol):
    """Immutable byte strings under keys. The first put wins for ever (put if absent), atomically and durably."""

    def put(self, key: str, data: bytes) -> bool:
        """Store ``data``; False when the key was there already (its first bytes stay)."""

    def put_set(self, prefix: str, items: dict[str, bytes]) -> bool:
        """Store several blobs below ``prefix`` all or none; False when the prefix was there already."""

    def get(self, key: str) -> bytes:
        """KeyError when absent."""

    def exists(self, key: str) -> bool: ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys below a prefix, sorted; nothing half-written."""

    def delete(self, prefix: str) -> None:
        """Remove a key or everything below a prefix (retention only)."""


class SpoolReader(Protocol):
    """Reading side of the spool: what volume building and encoding need."""

    def open(self, location: str) -> BinaryIO:
        """The stored file; KeyError when absent."""

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes or `ichor.errors.Unreadable`."""
