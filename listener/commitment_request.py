"""Reads the data set of a request for storage commitment: which transaction, which objects. Not a DICOM parser.

Bounded in bytes, elements, depth and objects, because what it reads is whatever a sender wrote: a data set of a few
megabytes may hold a million empty items, each of which costs a general parser a kilobyte. The encoding is taken from
the first element rather than from the transfer syntax, as for objects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ichor.series.elements import LONG_VRS, UNDEFINED, vr_code
from ichor.uids import is_valid_uid

MOST_BYTES = 8 << 20
MOST_OBJECTS = 20_000
_MOST_ELEMENTS = 500_000
_MOST_DEPTH = 16

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_TRANSACTION, _REFERENCED = 0x00081195, 0x00081199
_CLASS, _INSTANCE = 0x00081150, 0x00081155
_HEAD = struct.Struct("<HHI")
_LONG = struct.Struct("<I")


class Asked(NamedTuple):
    """What one request names; all UIDs are valid ones. ``referenced``: (SOP Class UID, SOP Instance UID), each once."""

    transaction_uid: str
    referenced: tuple[tuple[str, str], ...]


class Malformed(Exception):
    """The data set is no such request; its text has no value of it."""


class TooLarge(Exception):
    """More than `MOST_BYTES` or `MOST_OBJECTS`."""


def read_request(data_set: bytes | memoryview) -> Asked:
    """The Transaction UID and the Referenced SOP Sequence (PS3.4 table J.3-1) of a data set in Little Endian.

    Raises
    ------
    Malformed
        When it ends early, makes no sense, or lacks a valid UID where one is required.
    TooLarge
    """
    if len(data_set) > MOST_BYTES:
        raise TooLarge
    return _Scan(memoryview(data_set)).request()


class _Element(NamedTuple):
    tag: int
    length: int
    at: int  # place of the value
    explicit: bool  # how what lies in it is encoded


class _Scan:
    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._left = _MOST_ELEMENTS
        self._ended = 0
        vr = bytes(data[4:6])
        self._explicit = vr.isalpha() and vr.isupper()

    def request(self) -> Asked:
        transaction = ""
        referenced: dict[tuple[str, str], None] = {}
        for element in self._elements(_Element(0, len(self._data), 0, self._explicit), depth=0):
            if element.tag == _TRANSACTION:
                transaction = self._uid(element)
            elif element.tag == _REFERENCED:
                for item in self._items(element, depth=1):
                    referenced[self._pair(item)] = None
                    if len(referenced) > MOST_OBJECTS:
                        raise TooLarge
        if not transaction:
            raise Malformed("no Transaction UID")
        if not referenced:
            raise Malformed("no object is named")
        return Asked(transaction, tuple(referenced))

    def _pair(self, item: _Element) -> tuple[str, str]:
        sop_class = sop_instance = ""
        for element in self._elements(item, depth=1):
            if element.tag == _CLASS:
                sop_class = self._uid(element)
            elif element.tag == _INSTANCE:
                sop_instance = self._uid(element)
        if not (sop_class and sop_instance):
            raise Malformed("an item without a SOP Class or Instance UID")
        return sop_class, sop_instance

    def _uid(self, element: _Element) -> str:
        if element.length > 66:
            raise Malformed("a UID is not valid")
        value = bytes(self._data[element.at : element.at + element.length]).decode("ascii", "replace").rstrip("\0 ")
        if not is_valid_uid(value):
            raise Malformed("a UID is not valid")
        return value

    def _elements(self, within: _Element, *, depth: int) -> Iterator[_Element]:
        """Elements of a data set or item; when it is exhausted, ``_ended`` is the place behind."""
        at, end = within.at, self._limit(within)
        while at < end:
            element = self._head(at, explicit=within.explicit)
            if element.tag == _ITEM_END and within.length == UNDEFINED:
                self._ended = element.at
                return
            yield element
            at = self._behind(element, depth=depth)
        if within.length == UNDEFINED or at != end:
            raise Malformed("an item is cut short")
        self._ended = at

    def _items(self, sequence: _Element, *, depth: int) -> Iterator[_Element]:
        """Items of a sequence; when it is exhausted, ``_ended`` is the place behind."""
        at, end = sequence.at, self._limit(sequence)
        while at < end:
            item = self._head(at, explicit=sequence.explicit)
            if item.tag == _SEQUENCE_END and sequence.length == UNDEFINED:
                self._ended = item.at
                return
            if item.tag != _ITEM:
                raise Malformed("a sequence without items")
            item = item._replace(explicit=sequence.explicit)
            yield item
            at = self._behind(item, depth=depth)
        if sequence.length == UNDEFINED or at != end:
            raise Malformed("a sequence is cut short")
        self._ended = at

    def _limit(self, within: _Element) -> int:
        return len(self._data) if within.length == UNDEFINED else within.at + within.length

    def _behind(self, element: _Element, *, depth: int) -> int:
        """The place behind a value; of undefined length, what lies in it is walked through."""
        if element.length != UNDEFINED:
            return element.at + element.length
        if depth >= _MOST_DEPTH:
            raise Malformed("sequences lie too deep")
        walk = self._elements if element.tag == _ITEM else self._items
        for _ in walk(element, depth=depth + 1):
            pass
        return self._ended

    def _head(self, at: int, *, explicit: bool) -> _Element:
        self._left -= 1
        if self._left < 0:
            raise TooLarge
        if at + 8 > len(self._data):
            raise Malformed("the data set is cut short")
        group, element, length = _HEAD.unpack_from(self._data, at)
        tag, value = group << 16 | element, at + 8
        if explicit and group != 0xFFFE:
            vr = bytes(self._data[at + 4 : at + 6])
            if vr_code(vr) in LONG_VRS:
                if at + 12 > len(self._data):
                    raise Malformed("the data set is cut short")
                length, value = _LONG.unpack_from(self._data, value)[0], at + 12
                # What lies in a UN of undefined length is in Implicit VR (PS3.5 6.2.2).
                explicit = vr != b"UN"
            elif vr.isalpha() and vr.isupper():
                length >>= 16
            else:
                raise Malformed("an element without a VR")
        if length != UNDEFINED and value + length > len(self._data):
            raise Malformed("the data set is cut short")
        return _Element(tag, length, value, explicit)
