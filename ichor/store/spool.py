"""The spool: received objects as files, one each, bytes as received. What they are is the journal's business.

``<study>/<series>/<sop>.<16 hex of sha256>.dcm`` below the root; UIDs are checked before they become a path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ichor.errors import DataSetMismatch, NotBuilt, OutOfResources, Unreadable
from ichor.reasons import Reason
from ichor.store import disk
from ichor.store.filemeta import file_meta
from ichor.store.gate import Gate
from ichor.uids import is_valid_uid

_FILE = re.compile(r"([0-9.]{1,64})\.[0-9a-f]{16}\.dcm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a stored file is named by and what its File Meta Information says."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where an object lies: key, bytes of the whole file, sha256 of the whole file."""

    location: str
    length: int
    file_sha256: str


class FileSpool:
    """Spool on a local file system: the receiver's writing side and everybody's `SpoolReader`.

    Parameters
    ----------
    root
        Made when absent. What a killed receiver left half-written is removed at open.
    durability
        ``instance``: file and directory entries are synced before ``put`` returns. ``none``: nothing is synced; an
        object survives a crash of Ichor, not of the machine.

    Raises
    ------
    NotBuilt
        For ``association``: the protocol library tells of a release only after it was answered, so nothing could be
        synced before the sender is told.
    """

    def __init__(self, root: Path, *, durability: str = "instance") -> None:
        if durability not in ("instance", "none"):
            raise NotBuilt(f'listener.durability = "{durability}" is not built yet; allowed: "instance", "none"')
        root.mkdir(parents=True, exist_ok=True)
        self.gate = Gate()
        self._root = root
        self._durable = durability == "instance"
        self._scratch = disk.Scratch(root)
        self._folders = disk.Folders(root, durable=self._durable)

    def put(self, address: Address, data_set: Sequence[disk.Bytes]) -> Placed:
        """Store a data set behind a new File Meta Information; on disk when this returns.

        The same data set under the same address gives the same file again, not a second one.

        Raises
        ------
        DataSetMismatch
            When a UID of ``address`` is not valid.
        OutOfResources
            When it could not be written or synced; nothing of it stays.
        """
        for uid in (
            address.study_instance_uid, address.series_instance_uid, address.sop_instance_uid,
            address.sop_class_uid, address.transfer_syntax_uid,
        ):  # fmt: skip
            if not is_valid_uid(uid):
                raise DataSetMismatch(Reason.INVALID_UID)
        head = file_meta(
            sop_class_uid=address.sop_class_uid, sop_instance_uid=address.sop_instance_uid,
            transfer_syntax_uid=address.transfer_syntax_uid,
        )  # fmt: skip
        parts: list[disk.Bytes] = [head, *data_set]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        sha256 = digest.hexdigest()
        folder = f"{address.study_instance_uid}/{address.series_instance_uid}"
        location = f"{folder}/{address.sop_instance_uid}.{sha256[:16]}.dcm"
        try:
            self._write(folder, location, parts)
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "unknown")
            raise OutOfResources(f"the object cannot be written to disk ({code})") from error
        return Placed(location=location, length=sum(len(part) for part in parts), file_sha256=sha256)

    def open(self, location: str) -> BinaryIO:
        try:
            return self._path(location).open("rb")
        except FileNotFoundError:
            raise KeyError(location) from None

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        with self.open(location) as file:
            data = os.pread(file.fileno(), length, offset)
            while len(data) < length:
                more = os.pread(file.fileno(), length - len(data), offset + len(data))
                if not more:
                    raise Unreadable(Reason.CUT_SHORT)
                data += more
        return data

    def remove(self, location: str) -> None:
        """Delete one object (retention only, its study's gate shut); its empty folders go too.

        No error when it was gone already.
        """
        path = self._path(location)
        path.unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent):
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or gone already

    def free_bytes(self) -> int:
        """Free bytes for us where the spool lies."""
        space = os.statvfs(self._root)
        return space.f_bavail * space.f_frsize

    def _path(self, location: str) -> Path:
        parts = location.split("/")
        named = _FILE.fullmatch(parts[2]) if len(parts) == 3 else None
        if named is None or not all(is_valid_uid(uid) for uid in (parts[0], parts[1], named[1])):
            raise KeyError(location)
        return self._root / location

    def _write(self, folder: str, location: str, parts: Sequence[disk.Bytes]) -> None:
        scratch = self._scratch.path()
        target = self._root / location
        try:
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            try:
                disk.write_all(descriptor, parts)
                if self._durable:
                    disk.sync(descriptor)
            finally:
                os.close(descriptor)
            directory = self._folders.ensure(folder)
            existed = target.exists()
            # Replaces an equal file where one is: its name says its digest.
            scratch.replace(target)
        except OSError:
            with contextlib.suppress(OSError):
                self._scratch.discard(scratch)
            raise
        if self._durable:
            try:
                disk.sync_directory(directory)
            except OSError:
                # An equal file that was there before may have been acknowledged: it stays.
                if not existed:
                    with contextlib.suppress(OSError):
                        target.unlink()
                raise
