"""Blobs in memory: the form of `ichor.store.protocol.Blobs` for tests. Nothing outlives the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ichor.store.blobs import check_key


class MemoryBlobs:
    """Same rules as `ichor.store.blobs.FileBlobs`."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes) -> bool:
        check_key(key)
        with self._lock:
            if key in self._blobs:
                return False
            self._blobs[key] = bytes(data)
            return True

    def put_set(self, prefix: str, items: dict[str, bytes]) -> bool:
        check_key(prefix)
        if not items:
            raise ValueError("an empty set cannot be put")
        for name in items:
            check_key(name)
        with self._lock:
            if any(key == prefix or key.startswith(f"{prefix}/") for key in self._blobs):
                return False
            self._blobs.update({f"{prefix}/{name}": bytes(data) for name, data in items.items()})
            return True

    def get(self, key: str) -> bytes:
        check_key(key)
        return self._blobs[key]

    def exists(self, key: str) -> bool:
        check_key(key)
        return key in self._blobs

    def keys(self, prefix: str) -> Iterator[str]:
        if prefix:
            check_key(prefix)
        with self._lock:
            found = [key for key in self._blobs if not prefix or key == prefix or key.startswith(f"{prefix}/")]
        yield from sorted(found)

    def delete(self, prefix: str) -> None:
        for key in list(self.keys(prefix)):
            self._blobs.pop(key, None)
