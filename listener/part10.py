"""The head of a DICOM file as it comes, in any pieces (PS3.10 section 7.1). Not a parser of data sets.

Bounded: whatever is sent, no more than the longest head is kept.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ichor.errors import CannotUnderstand
from ichor.reasons import Reason
from ichor.series.elements import LONG_VRS, vr_code

_PREAMBLE = 132
_LONGEST = 65_536
_META = 0x0002
# Of File Meta Information Group Length, Version and Media Storage SOP Class UID.
_FIRST_VRS = (b"UL", b"OB", b"UI")
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x0002, 0x0003, 0x0010


class FileMeta(NamedTuple):
    """What File Meta Information says of the object; empty where it says nothing, not validated."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class FileHead:
    """Reads preamble and File Meta Information from the start of a file. One thread."""

    def __init__(self) -> None:
        self._seen = bytearray()

    def feed(self, data: memoryview) -> tuple[FileMeta, memoryview] | None:
        """Take the next bytes of the file.

        Returns
        -------
        tuple or None
            What the head says and the first bytes of the data set, once the head has come.

        Raises
        ------
        CannotUnderstand
            When it is no DICOM file.
        """
        before = len(self._seen)
        self._seen += data[: _LONGEST - before]
        read = _read(memoryview(self._seen))
        if read is not None:
            meta, end = read
            if end < before:  # one byte of the data set had come
                return meta, memoryview(bytes(self._seen[end:before]) + bytes(data))
            return meta, data[end - before :]
        if len(self._seen) >= _LONGEST:
            raise CannotUnderstand(Reason.HEADER_UNREADABLE)
        return None


def _read(seen: memoryview) -> tuple[FileMeta, int] | None:
    if len(seen) < _PREAMBLE:
        return None
    start = _PREAMBLE
    if bytes(seen[128:132]) != b"DICM":
        # Libraries write data sets that were never a file without preamble and prefix.
        if bytes(seen[:2]) != b"\x02\0" or bytes(seen[4:6]) not in _FIRST_VRS:
            raise CannotUnderstand(Reason.HEADER_UNREADABLE)
        start = 0
    values = {_SOP_CLASS: "", _SOP_INSTANCE: "", _TRANSFER_SYNTAX: ""}
    position = start
    while len(seen) >= position + 2:
        if int.from_bytes(seen[position : position + 2], "little") != _META:
            return FileMeta(values[_SOP_CLASS], values[_SOP_INSTANCE], values[_TRANSFER_SYNTAX]), position
        if len(seen) < position + 12:
            return None
        element, vr, length = struct.unpack_from("<H2sH", seen, position + 2)
        if not (vr.isalpha() and vr.isupper()):
            raise CannotUnderstand(Reason.HEADER_UNREADABLE)
        value = position + 8
        if vr_code(vr) in LONG_VRS:
            (length,) = struct.unpack_from("<I", seen, value)
            value += 4
        position = value + length
        if position > _LONGEST:
            raise CannotUnderstand(Reason.HEADER_UNREADABLE)
        if len(seen) < position:
            return None
        if element in values:
            values[element] = bytes(seen[value:position]).decode("ascii", "replace").rstrip("\0 ")
    return None
