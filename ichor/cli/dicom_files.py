"""DICOM objects in a folder, found by content: their facts, and what else lies there. Reads files, keeps nothing."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ichor.errors import Unreadable
from ichor.reasons import Reason
from ichor.series.elements import HeaderError, Window
from ichor.series.facts import FactsReader, without_header
from ichor.series.header import data_set_start
from ichor.store.journal import StoredObject
from ichor.types import Instance
from ichor.uids import is_valid_uid
from listener.identifiers import find_identifiers

_DIRECTORY = "1.2.840.10008.1.3.10"
_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_HEAD = 1 << 16
_LONG_HEAD = 1 << 26
_SYNTAX, _CLASS = 0x00020010, 0x00020002
ASSOCIATION = "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A file that is no object of a series, or a folder that cannot be read, and why."""

    path: Path
    reason: str
    noun: str = "file"
    unread: bool = False  # nobody knows what is in it


@dataclass(frozen=True, slots=True)
class FolderSpool:
    """A folder as the spool of what lies in it: locations are paths relative to it."""

    root: Path

    def open(self, location: str) -> BinaryIO:
        try:
            return (self.root / location).open("rb")
        except FileNotFoundError as error:
            raise KeyError(location) from error

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        with self.open(location) as file:
            data = os.pread(file.fileno(), length, offset)
        if len(data) != length:
            raise Unreadable(Reason.PIXELS_SHORT)
        return data


def instances_below(folder: Path) -> Iterator[Instance | LeftOut]:
    """The facts of every object below a folder (or of one file), in order of path; what is none, with its reason.

    Links are not followed out of the folder, and what is no regular file is not opened.
    """
    root = folder if folder.is_dir() else folder.parent
    reader = FactsReader()
    unread: list[OSError] = []
    for path in [folder] if folder.is_file() else _files(folder, unread):
        try:
            yield _read(path, location=str(path.relative_to(root)), reader=reader)
        except OSError as error:
            yield LeftOut(path=path, reason=_why(error), unread=not isinstance(error, FileNotFoundError))
    for closed in unread:
        yield LeftOut(path=Path(closed.filename), reason=_why(closed), noun="folder", unread=True)


def _why(error: OSError) -> str:
    return (error.strerror or "cannot be read").lower()


def _files(folder: Path, unread: list[OSError]) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=unread.append):
        folders.sort()
        yield from (Path(parent) / name for name in sorted(names))


def _read(path: Path, *, location: str, reader: FactsReader) -> Instance | LeftOut:
    if not stat.S_ISREG(path.stat().st_mode):
        return LeftOut(path=path, reason="no regular file")
    with path.open("rb") as file:
        head = file.read(_HEAD)
        meta = _meta(head)
        if meta is None:
            return LeftOut(path=path, reason="not DICOM")
        syntax, sop_class, start = meta
        if sop_class == _DIRECTORY:
            return LeftOut(path=path, reason="a DICOMDIR")
        if not is_valid_uid(syntax):
            return LeftOut(path=path, reason="File Meta Information lacks the transfer syntax")
        named = find_identifiers(memoryview(head)[start:], syntax)
        length = os.fstat(file.fileno()).st_size
        if not (named.study and named.series and named.sop_instance) and length > len(head):
            # They stand before the pixels; what comes before them is longer than this only in a header made to hurt.
            file.seek(start)
            named = find_identifiers(file.read(_LONG_HEAD), syntax)
        uids = named.study, named.series, named.sop_instance, named.sop_class or sop_class
        if named.study is None or named.series is None:
            return LeftOut(path=path, reason=Reason.NO_STUDY_OR_SERIES)
        if not all(is_valid_uid(uid or "") for uid in uids):
            return LeftOut(path=path, reason=Reason.INVALID_UID)
        file.seek(0)
        stored = StoredObject(
            sop_instance_uid=named.sop_instance or "",
            sop_class_uid=named.sop_class or sop_class,
            series_instance_uid=named.series,
            study_instance_uid=named.study,
            transfer_syntax_uid=syntax,
            location=location,
            length=length,
            file_sha256=hashlib.file_digest(file, "sha256").hexdigest(),
            association=ASSOCIATION,
            calling_ae=ASSOCIATION.upper(),
            called_ae="ICHOR",
            sender_priority=None,
            called_priority=None,
            command_priority_high=False,
            received_at=0.0,
        )
        file.seek(0)
        try:
            return reader.read(file, stored=stored)
        except Exception:  # noqa: BLE001 - the loop's edge: one file of a stranger never stops the others
            return without_header(stored, Reason.HEADER_UNREADABLE)


def _meta(head: bytes) -> tuple[str, str, int] | None:
    """(transfer syntax, SOP class, start of the data set) of a Part 10 file or a bare data set; None for neither."""
    if head[128:132] != b"DICM":
        # A data set without preamble, as old archives have them, begins with group 0008 in little endian.
        if head[:2] != b"\x08\x00" or len(head) < 16:
            return None
        explicit = head[4:6].isalpha() and head[4:6].isupper()
        # Group length, Image Type, SOP class: nothing else begins a data set of a stored object.
        if struct.unpack_from("<H", head, 2)[0] > 0x0060:
            return None
        return (_EXPLICIT if explicit else _IMPLICIT), "", 0
    found: dict[int, bytes] = {}
    try:
        start = data_set_start(Window.over(head), found)
    except HeaderError:
        return "", "", 0
    return _text(found.get(_SYNTAX)), _text(found.get(_CLASS)), start


def _text(value: bytes | None) -> str:
    return (value or b"").decode("ascii", "replace").rstrip("\0 ")
