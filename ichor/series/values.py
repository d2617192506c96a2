"""Values of one level of a data set as Python objects; nothing is guessed, and nothing outside that level is read."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from functools import lru_cache

from ichor.series.elements import (
    ITEM,
    ITEM_END,
    SEQUENCE_END,
    SHORT_VRS,
    SQ,
    UN,
    UNDEFINED,
    HeaderError,
    Window,
    element_head,
    end_of_undefined,
    swapped,
    vr_code,
)
from ichor.series.header import Header

_MAX_DEPTH = 12  # of sequences in sequences
_MAX_ITEMS = 50_000
_MAX_ITEM_ELEMENTS = 20_000
_MAX_TEXT = 1024
_LARGEST = 1e7  # of a decimal: no length in mm, time in ms or b-value is larger

_CODES = {"d": 8, "f": 4, "h": 2, "H": 2, "i": 4, "I": 4, "b": 1, "B": 1}
_BINARY = {
    vr_code(vr): code
    for vr, code in ((b"FD", "d"), (b"FL", "f"), (b"SS", "h"), (b"US", "H"), (b"SL", "i"), (b"UL", "I"),
                     (b"OF", "f"), (b"OD", "d"))
}  # fmt: skip
_NO_TEXT = frozenset(_BINARY) | {vr_code(b"AT"), SQ}
_NO_BINARY = (SHORT_VRS - _NO_TEXT) | {SQ}  # the other VRs with a short form are text
_TEXT_NUMBER = re.compile(rb"[ ]*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?[ \0]*\Z")


class Values:
    """Values of a header, or of one item of a sequence; None or empty for what is missing or not what its VR says.

    Tags are ``0xGGGGEEEE``. Items are read when they are first asked for.
    """

    __slots__ = ("_blocks", "_data", "_depth", "_explicit", "_little", "_order", "_values", "_vrs")

    def __init__(
        self,
        values: Mapping[int, bytes] | None = None,
        *,
        vrs: Mapping[int, int] | None = None,
        explicit: bool = True,
        little_endian: bool = True,
    ) -> None:
        self._values: Mapping[int, bytes] | None = values or {}
        self._vrs: Mapping[int, int] = vrs or {}
        self._explicit, self._little = explicit, little_endian
        self._order = "<" if little_endian else ">"
        self._depth = 0
        self._data: tuple[bytes, int, int] | None = None
        self._blocks: _Reserved | None = None

    @classmethod
    def of(cls, header: Header) -> Values:
        """Those of a walked header."""
        return cls(header.values, vrs=header.vrs, explicit=header.explicit, little_endian=header.little_endian)

    @property
    def kept(self) -> Mapping[int, bytes]:
        """All values as stored, by tag."""
        return self._parsed() if self._values is None else self._values

    def raw(self, tag: int) -> bytes:
        """The value as stored; empty when it is absent."""
        values = self._values
        if values is None:
            values = self._parsed()
        return values.get(tag, b"")

    def stripped(self, tag: int) -> bytes:
        """The value without surrounding spaces and padding."""
        return self.raw(tag).strip(b" \0")

    def __contains__(self, tag: int) -> bool:
        return tag in self.kept

    def texts(self, tag: int) -> list[str]:
        """The values of a text, stripped, each cut at 64 characters; empty where there is none or it is too long."""
        raw = self.raw(tag).strip(b" \0")
        if not raw or len(raw) > _MAX_TEXT or self._vrs.get(tag) in _NO_TEXT:
            return []
        return [part.strip()[:64] for part in raw.decode("ascii", "replace").split("\\")]

    def text(self, tag: int, *, limit: int = 64) -> str | None:
        """The value as one text of at most ``limit`` characters, for single values."""
        raw = self.raw(tag).strip(b" \0")
        if self._vrs.get(tag) in _NO_TEXT:
            return None
        return raw[:limit].decode("ascii", "replace").strip() or None if raw else None

    def integer(self, tag: int) -> int | None:
        """The first value of an IS within 32 bits."""
        raw = self.raw(tag)
        if not raw or len(raw) > _MAX_TEXT or b"_" in raw or self._vrs.get(tag) in _NO_TEXT:
            return None
        try:
            number = int(raw.strip(b" \0").partition(b"\\")[0])
        except ValueError:
            return None
        return number if -(2**31) <= number < 2**31 else None

    def decimals(self, tag: int, count: int) -> tuple[float, ...] | None:
        """Exactly ``count`` finite values of a DS, none beyond 1e7, else None."""
        raw = self.raw(tag)
        # Python reads 1_0 as ten.
        if not raw or len(raw) > _MAX_TEXT or b"_" in raw or self._vrs.get(tag) in _NO_TEXT:
            return None
        parts = raw.strip(b" \0").split(b"\\")
        if len(parts) != count:
            return None
        try:
            numbers = tuple(map(float, parts))
        except ValueError:
            return None
        for number in numbers:
            if not -_LARGEST < number < _LARGEST:  # so is what is not a number
                return None
        return numbers

    def decimal(self, tag: int) -> float | None:
        """The one value of a DS, finite and not beyond 1e7."""
        numbers = self.decimals(tag, 1)
        return numbers[0] if numbers else None

    def unsigned(self, tag: int) -> int | None:
        """The one value of a US."""
        raw = self.raw(tag)
        if len(raw) != 2 or self._vrs.get(tag) in _NO_BINARY:
            return None
        return int.from_bytes(raw, "little" if self._little else "big")

    def numbers(self, tag: int, code: str, count: int | None = None) -> tuple[float | int, ...] | None:
        """All values of a binary VR: ``code`` is d f h H i I b B as in `struct`; None unless all are finite.

        ``count``: how many there must be, at least one where it is not given.
        """
        raw = self.raw(tag)
        size = _CODES[code]
        there = len(raw) // size
        if not there or len(raw) % size or self._vrs.get(tag) in _NO_BINARY or (count is not None and there != count):
            return None
        numbers: tuple[float | int, ...] = struct.unpack(f"{self._order}{there}{code}", raw)
        if code == "d":
            # Eight digits of a text read as one double are below 1e-32, letters are above 1e32.
            return numbers if all(n == 0 or 1e-32 < abs(n) < 1e32 for n in numbers) else None
        return numbers if code != "f" or all(map(math.isfinite, numbers)) else None

    def number(self, tag: int) -> float | None:
        """The one value of a DS, IS or binary number, by its VR where that is known, else by what it can only be."""
        raw = self.raw(tag)
        if not raw:
            return None
        code = _BINARY.get(self._vrs.get(tag, 0))
        if code is not None:
            numbers = self.numbers(tag, code, 1)
            return float(numbers[0]) if numbers else None
        if _TEXT_NUMBER.match(raw):
            return self.decimal(tag)
        if self._vrs.get(tag, 0) not in (0, UN):
            return None
        code = {2: "H", 4: "f", 8: "d"}.get(len(raw))
        numbers = self.numbers(tag, code, 1) if code else None
        if not numbers:
            return None
        number = float(numbers[0])
        # Text or an integer read as floating point is tiny or huge.
        return number if number == 0 or 1e-12 < abs(number) < 1e12 else None

    def private(self, group: int, creator: str, low: int) -> int | None:
        """Tag of private element ``low`` (0x00 to 0xFF) in the block that ``creator`` reserved (PS3.5 section 7.8.1).

        Creators are compared by their beginning, whatever their case: vendors add versions. None when ``group`` has no
        such block. Where there are several, the first that has the element.
        """
        reserved = self._blocks
        if reserved is None:
            creators = [(tag, raw) for tag, raw in self.kept.items() if tag & 0x1FF00 == 0x10000 and tag & 0xF0]
            reserved = self._blocks = _reserved(tuple(creators))
        blocks = reserved.get((group, creator))
        if blocks is None:
            blocks = reserved[group, creator] = _blocks_of(reserved, group, creator.upper())
        if not blocks:
            return None
        for block in blocks:
            if block | low in self:
                return block | low
        return blocks[0] | low

    def items(self, tag: int, *, most: int = _MAX_ITEMS) -> tuple[Values, ...]:
        """Items of a sequence, its first ``most``.

        Empty when it is absent or cannot be read, is nested too deeply, or has more than 50,000 items.
        """
        raw = self.raw(tag)
        if len(raw) < 8 or self._depth >= _MAX_DEPTH:
            return ()
        explicit, little = self._explicit, self._little
        vr = self._vrs.get(tag, 0)
        if vr == UN:
            explicit, little = _encoding_of_unknown(raw, explicit=explicit, little_endian=little)
        elif vr not in (0, SQ):
            return ()
        try:
            return self._items(raw, explicit=explicit, little_endian=little, most=most)
        except (HeaderError, struct.error):
            return ()

    def _items(self, raw: bytes, *, explicit: bool, little_endian: bool, most: int) -> tuple[Values, ...]:
        found: list[Values] = []
        at, size, window = 0, len(raw), Window.over(raw)
        while at + 8 <= size and (len(found) < most or most == _MAX_ITEMS):
            word, _, length, start = element_head(raw, at, explicit=False, little_endian=little_endian)
            if word == SEQUENCE_END:
                break
            if word != ITEM or len(found) >= _MAX_ITEMS:
                return ()
            if length == UNDEFINED:
                at = end_of_undefined(window, start, explicit=explicit, little_endian=little_endian, item=True)
                end = at - 8
            else:
                at = end = start + length
            if at > size:
                return ()
            item = Values.__new__(Values)
            item._values, item._vrs, item._blocks = None, {}, None
            item._explicit, item._little, item._order = explicit, little_endian, "<" if little_endian else ">"
            item._depth, item._data = self._depth + 1, (raw, start, end)
            found.append(item)
        return tuple(found)

    def _parsed(self) -> Mapping[int, bytes]:
        """Read the elements of an item; what cannot be read and all that follows it is not there."""
        values: dict[int, bytes] = {}
        vrs: dict[int, int] = {}
        self._values, self._vrs = values, vrs
        if self._data is None:
            return values
        data, at, stop = self._data
        self._data = None
        explicit, little = self._explicit, self._little
        try:
            for _ in range(_MAX_ITEM_ELEMENTS):
                if at + 8 > stop:
                    break
                word, vr, length, start = element_head(data, at, explicit=explicit, little_endian=little)
                if length == UNDEFINED:
                    unknown = vr == UN
                    at = end_of_undefined(
                        Window.over(data), start, explicit=explicit and not unknown, little_endian=little or unknown
                    )
                    vr = vr or SQ
                else:
                    at = start + length
                if at > stop or word in (ITEM, ITEM_END, SEQUENCE_END):
                    break
                tag = swapped(word)
                values[tag] = data[start:at]
                vrs[tag] = vr
        except (HeaderError, struct.error):
            pass
        return values


class _Reserved(dict[tuple[int, str], tuple[int, ...]]):
    """First tags of the blocks of a private creator, by (group, creator), filled as they are asked for."""

    def __init__(self, creators: tuple[tuple[int, bytes], ...]) -> None:
        super().__init__()
        self.names = [(tag, raw[:64].strip(b" \0").decode("ascii", "replace").upper()) for tag, raw in creators]


@lru_cache(maxsize=256)
def _reserved(creators: tuple[tuple[int, bytes], ...]) -> _Reserved:
    """One for all headers with the same creators: those of a series."""
    return _Reserved(creators)


def _blocks_of(reserved: _Reserved, group: int, creator: str) -> tuple[int, ...]:
    return tuple(
        group << 16 | (tag & 0xFF) << 8
        for tag, name in reserved.names
        if tag >> 16 == group and name.startswith(creator)
    )


def _encoding_of_unknown(raw: bytes, *, explicit: bool, little_endian: bool) -> tuple[bool, bool]:
    """(explicit, little endian) of the items of a sequence that has the VR UN.

    PS3.5 section 6.2.2 note 2 has them Implicit VR Little Endian; senders that only did not know the tag leave them as
    they were.
    """
    looks_explicit = explicit and raw[12:14].isalpha() and raw[12:14].isupper()
    return (True, little_endian) if looks_explicit else (False, True)
