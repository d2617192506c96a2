"""Reads a Siemens CSA image header, formats SV10 and CSA1, into texts by name. Gives them no meaning."""

from __future__ import annotations

import struct
from collections.abc import Collection

# Layout: nibabel's "Siemens CSA header" page (nipy.org/nibabel/dicom/siemens_csa.html).
_SV10 = b"SV10"
_ELEMENT = struct.Struct("<64si4siii")
_ITEM = struct.Struct("<4i")
_MARKS = (77, 205)
_MOST_ELEMENTS = 1000
_MOST_ITEMS = 4096  # of one element
_MOST_ITEMS_TOGETHER = 100_000


def read_csa(data: bytes, *, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Values of the elements of these names, as texts without padding; an element without values is left out.

    Whatever is cut short or senseless ends the reading; what was read before it stays only where it is whole. The
    work is bounded by the length of ``data``.
    """
    sv10 = data[:4] == _SV10
    at = 8 if sv10 else 0
    if len(data) < at + 8:
        return {}
    count, mark = struct.unpack_from("<2I", data, at)
    if mark not in _MARKS or not 0 < count <= _MOST_ELEMENTS:
        return {}
    at += 8
    # In CSA1 lengths are counted from the number of items of the first element on (same page).
    base: int | None = None
    found: dict[str, tuple[str, ...]] = {}
    size_of_all, unpack_item = len(data), _ITEM.unpack_from
    items_left = _MOST_ITEMS_TOGETHER
    for _ in range(count):
        if at + _ELEMENT.size > len(data):
            break
        field, multiplicity, _, _, items, mark = _ELEMENT.unpack_from(data, at)
        if mark not in _MARKS or not 0 <= items <= min(_MOST_ITEMS, items_left):
            break
        items_left -= items
        base = items if base is None else base
        at += _ELEMENT.size
        name = field[: field.find(b"\0")].decode("ascii", "replace") if items else ""
        wanted = name in names and name not in found
        texts: list[str] = []
        for _ in range(items):
            if at + _ITEM.size > size_of_all:
                return found
            first, second, _, _ = unpack_item(data, at)
            at += _ITEM.size
            size = second if sv10 else first - base
            if size < 0 or at + size > size_of_all:
                return found
            if wanted:
                texts.append(data[at : at + size].split(b"\0")[0].strip().decode("ascii", "replace"))
            at += (size + 3) // 4 * 4
        # Six items are reserved even for one value; multiplicity 0 says that all that are filled count.
        kept = texts[:multiplicity] if 0 < multiplicity <= len(texts) else texts
        values = tuple(text for text in kept if text)
        if values:
            found[name] = values
            if len(found) == len(names):
                break
    return found
