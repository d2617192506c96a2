"""The store contracts. File forms: `ichor.store.spool`, `ichor.store.blobs`; in an object store: `ichor.store.bucket_spool`,
`ichor.store.bucket_blobs`.

Keys are relative POSIX paths made of validated UIDs and fixed words; never of anything else that a sender wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from ichor.store.disk import Bytes
    from ichor.store.receipt_records import Carried
    from ichor.store.spool import Address, Placed


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


class Incoming(Protocol):
    """An object under way; see `ichor.store.spool.Incoming`."""

    def write(self, parts: Sequence[Bytes]) -> None: ...

    def finish(
        self, parts: Sequence[Bytes] = (), *, confirm: Callable[[Placed, Carried | None], None] | None = None
    ) -> Placed: ...

    def discard(self) -> None: ...


class Spool(SpoolReader, Protocol):
    """All of a spool; what its methods promise is said at `ichor.store.spool.FileSpool`."""

    @property
    def root(self) -> Path | None:
        """The folder of its segments, into which `ichor.store.restore` writes; None where they are no files."""

    def begin(self, address: Address) -> Incoming: ...

    @property
    def losses(self) -> int: ...

    def sync(self, *, losses: int | None = None) -> None: ...

    def segments(self) -> Iterator[tuple[str, int]]: ...

    def written_at(self, segment: str) -> float: ...

    def objects(self, segment: str) -> Iterator[tuple[int, int]]: ...

    def reclaim(self, segment: str, *, keep_until: int | None = None, at_most: int | None = None) -> bool: ...

    def seal(self) -> None: ...

    def is_there(self) -> bool: ...

    def free_bytes(self) -> int: ...

    def close(self) -> None: ...


class Receivers(Protocol):
    """All receivers of a store, as the relay of one of them sees them; for one thread."""

    @property
    def name(self) -> str:
        """Its own."""

    def look_round(self) -> bool:
        """Give a sign; take over who is lost. True when somebody was taken over. An error when the store is away."""

    def answered_for(self) -> frozenset[str]:
        """Its own name, and those of all that it took over, or who it took over had; nobody once it was taken itself."""

    def everybody(self) -> frozenset[str]:
        """All receivers that there are or were. Safe from any thread; an error when the store is away."""
