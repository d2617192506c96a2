"""Blobs in an object store: immutable, put if absent, whole or not there. Knows nothing of what they mean."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Iterator

from ichor.store.blobs import check_key
from ichor.store.bucket import Bucket

_FOLDER = "blobs/"
_SET = ".set"  # no key has a part that begins with a dot
_HEAD = struct.Struct(">4sI")  # magic, length of the index
_MAGIC = b"ISET"
_FIRST = 1 << 16  # bytes: more than most indices take, and small sets

_Index = dict[str, tuple[int, int]]  # name -> offset in the object (in the index: behind it), length


class BucketBlobs:
    """`ichor.store.protocol.Blobs` below ``blobs/`` in a bucket; several processes may share it.

    A set is one object, ``<prefix>/.set``: an index and the blobs, one behind the other. So one PUT makes it visible as a
    whole, and it goes as a whole: nothing is put into a set, or deleted from it, later. TransientError when the store is
    away; a put that ends so may have happened.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def put(self, key: str, data: bytes) -> bool:
        check_key(key)
        return self._bucket.put_if_absent(_FOLDER + key, data)

    def put_set(self, prefix: str, items: dict[str, bytes]) -> bool:
        check_key(prefix)
        if not items:
            raise ValueError("an empty set cannot be put")
        for name in items:
            check_key(name)
        if any(True for _ in self._bucket.names(f"{_FOLDER}{prefix}/", most=1)):
            return False
        return self._bucket.put_if_absent(f"{_FOLDER}{prefix}/{_SET}", _packed(items))

    def get(self, key: str) -> bytes:
        check_key(key)
        try:
            return self._bucket.get(_FOLDER + key)
        except KeyError:
            pass
        for holder, name in _places(key):
            found = self._index(holder)
            if found is not None and name in found[0]:
                index, first = found
                at, length = index[name]
                if at + length <= len(first):
                    return first[at : at + length]
                return self._bucket.get(holder, at, at + length)
        raise KeyError(key)

    def exists(self, key: str) -> bool:
        check_key(key)
        try:
            self._bucket.look(_FOLDER + key)
        except KeyError:
            found = ((self._index(holder), name) for holder, name in _places(key))
            return any(one is not None and name in one[0] for one, name in found)
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        if prefix:
            check_key(prefix)
        found: list[str] = []
        for holder, _ in _places(prefix):
            found += self._names_in(holder)
        for one in self._bucket.names(_FOLDER + prefix):
            if one.key.endswith(f"/{_SET}"):
                found += self._names_in(one.key)
            else:
                found.append(one.key.removeprefix(_FOLDER))
        yield from sorted(key for key in found if not prefix or key == prefix or key.startswith(f"{prefix}/"))

    def delete(self, prefix: str) -> None:
        check_key(prefix)
        self._bucket.delete(_FOLDER + prefix)
        for one in list(self._bucket.names(f"{_FOLDER}{prefix}/")):
            self._bucket.delete(one.key)

    def _names_in(self, holder: str) -> list[str]:
        found = self._index(holder)
        below = holder.removeprefix(_FOLDER).removesuffix(_SET)
        return [below + name for name in found[0]] if found is not None else []

    def _index(self, holder: str) -> tuple[_Index, bytes] | None:
        """What a set holds, and its first bytes; None when it is not there."""
        try:
            first = self._bucket.get(holder, 0, _FIRST)
            magic, length = _HEAD.unpack_from(first)
            if magic != _MAGIC:
                raise ValueError("not a set")
            end = _HEAD.size + length
            index = first[_HEAD.size : end] if end <= len(first) else self._bucket.get(holder, _HEAD.size, end)
        except KeyError:
            return None
        return {name: (end + at, size) for name, (at, size) in json.loads(index).items()}, first


def _places(key: str) -> Iterator[tuple[str, str]]:
    """Sets that may hold a key, the innermost first, and what it is called in each."""
    parts = key.split("/")
    for count in range(len(parts) - 1, 0, -1):
        yield f"{_FOLDER}{'/'.join(parts[:count])}/{_SET}", "/".join(parts[count:])


def _packed(items: dict[str, bytes]) -> bytes:
    starts = itertools.accumulate(map(len, items.values()), initial=0)
    index = json.dumps(
        {name: (at, len(data)) for (name, data), at in zip(items.items(), starts, strict=False)}
    ).encode()
    return b"".join([_HEAD.pack(_MAGIC, len(index)), index, *items.values()])
