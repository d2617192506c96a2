"""Blobs as files: immutable, put if absent, whole or not there. Knows nothing of what they mean."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ichor.errors import TransientError
from ichor.store import disk

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}")
_MOST_PARTS = 16


class FileBlobs:
    """`ichor.store.protocol.Blobs` below a folder; several processes may share it.

    A key is ``/``-separated parts of letters, digits, ``.``, ``_`` and ``-``, none beginning with a dot;
    anything else is a ValueError. ``OSError`` of the disk goes to the caller: nothing half-written stays. While the volume
    is unmounted nothing is absent: TransientError.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root
        self._scratch = disk.Scratch(root)
        self._folders = disk.Folders(root)

    def put(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        directory = self._folders.ensure(os.path.dirname(key))
        scratch = self._scratch.path()
        try:
            _write(scratch, data)
            try:
                os.link(scratch, target)
                fresh = True
            except FileExistsError:
                fresh = False
        finally:
            self._scratch.discard(scratch)
        # Also for a blob that was there: whoever put it may not have come to its sync.
        disk.sync_directory(directory)
        return fresh

    def put_set(self, prefix: str, items: dict[str, bytes]) -> bool:
        target = self._path(prefix)
        if not items:
            raise ValueError("an empty set cannot be put")
        for name in items:
            self._path(name)
        parent = self._folders.ensure(os.path.dirname(prefix))
        scratch = self._scratch.path()
        try:
            scratch.mkdir()
            inside = disk.Folders(scratch)
            folders = {inside.ensure(os.path.dirname(name)) for name in items}
            for name, data in items.items():
                _write(scratch / name, data)
            for folder in folders | {scratch}:
                disk.sync_directory(folder)
            try:
                # rename(2) replaces an empty directory only: a set that is there wins.
                scratch.rename(target)
                fresh = True
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                fresh = False
        finally:
            self._scratch.discard(scratch)
        disk.sync_directory(parent)
        return fresh

    def get(self, key: str) -> bytes:
        path = self._path(key)
        for _ in range(2):
            try:
                return path.read_bytes()
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                self._check_volume()  # and once more: it may have come back since
        raise KeyError(key)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        if path.is_file():
            return True
        self._check_volume()
        return path.is_file()

    def keys(self, prefix: str) -> Iterator[str]:
        start = self._path(prefix) if prefix else self._root
        if start.is_file():
            yield prefix
            return
        found = []
        for folder, folders, names in os.walk(start):
            folders[:] = [name for name in folders if not name.startswith(".")]
            relative = Path(folder).relative_to(self._root)
            found += [(relative / name).as_posix() for name in names]
        yield from sorted(found)

    def delete(self, prefix: str) -> None:
        target = self._path(prefix)
        if target.is_dir():
            # Renamed first, so that no reader meets half a set.
            scratch = self._scratch.path()
            with contextlib.suppress(FileNotFoundError):
                target.rename(scratch)
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)

    def _check_volume(self) -> None:
        if not self._scratch.is_there():
            raise TransientError("the folder of results is not there")

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key


def check_key(key: str) -> None:
    """ValueError unless ``key`` is one: see `FileBlobs`."""
    parts = key.split("/")
    if len(parts) > _MOST_PARTS or not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"not a key: {key!r}")


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        disk.write_all(descriptor, [data])
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
