"""Digests of whose an object is and of what it shows: equal where later steps may take one for the other."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from enum import StrEnum
from functools import lru_cache
from typing import BinaryIO

from ichor.identity import DIGESTED, PERSON
from ichor.series.header import Header
from ichor.series.values import Values
from ichor.types import Frame, Geometry, Pixels, Slot, Tiling

_HASH_CHUNK = 1 << 20
_ARRANGING = tuple(f for f in fields(Slot) if f.name != "diffusion")

_IDENTITY_TAGS = tuple(dict.fromkeys((*PERSON, *DIGESTED)))


def identity_digest(values: Values) -> str:
    """Whose the study is: half a digest of the person (`ichor.identity.person_of`), half of all that is copied."""
    return _digests_of(tuple(map(values.kept.get, _IDENTITY_TAGS)))


@lru_cache(maxsize=64)
def _digests_of(stored: tuple[bytes | None, ...]) -> str:
    """As `_identity`; all headers of a study have the same values."""
    named = {tag: (raw or b"").strip(b" \0") for tag, raw in zip(_IDENTITY_TAGS, stored, strict=True)}
    halves = (
        hashlib.sha256(b"".join(_named(tag, named[tag]) for tag in tags)).hexdigest()[:32]
        for tags in (PERSON, DIGESTED)
    )
    return "".join(halves)


def _named(tag: int, value: bytes) -> bytes:
    """Length, tag and value, for a digest."""
    return b"%s%08x=%s" % ((len(value) + 9).to_bytes(4, "little"), tag, value)


@lru_cache(maxsize=64)
def half_digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:32] if value else "0" * 32


def content_digest(
    file: BinaryIO,
    header: Header,
    *,
    pixels: Pixels | None,
    geometry: Geometry | None,
    slot: Slot,
    tiling: Tiling | None,
    frames: tuple[Frame, ...],
    instance_number: int | None,
    has_axes: bool,
    sop_class_uid: str,
    transfer_syntax_uid: str,
) -> str:
    """sha256 of the pixel bytes and of all that a number computed from them depends on, hexadecimal.

    An object without pixels (a report) has only its class here: nothing is ever computed from it, and a corrected
    name in it must not look like another content.

    Parameters
    ----------
    slot, frames
        With kind and component.
    has_axes
        Whether the object is one of those that further axes than space are made of: MR, frames, tiles. Then whatever
        tells volumes apart and orders them is content: the same images in another order are another array. Of a plain
        CT the Temporal Position alone is: an archive that corrects times or numbers of a CT makes no other volume.
    """
    if pixels is None:
        parts = (b"no pixels", sop_class_uid.encode(), repr(geometry).encode())
        return hashlib.sha256(b"".join(len(part).to_bytes(4, "little") + part for part in parts)).hexdigest()
    about = (
        pixels.frames, pixels.samples_per_pixel, pixels.photometric, pixels.bits_allocated, pixels.bits_stored,
        pixels.signed, pixels.rescale_slope, pixels.rescale_intercept, pixels.encapsulated, geometry,
    )  # fmt: skip
    total = hashlib.sha256(repr(about).encode())
    # Digests that a site has stored were made before there were these: without them nothing is added.
    if has_axes:
        total.update(repr((_arranging(slot), instance_number)).encode())
    elif slot.temporal_position is not None:
        total.update(repr(("temporal position", slot.temporal_position)).encode())
    if slot.diffusion is not None:
        total.update(repr(_weighting(slot)).encode())
    if tiling is not None:
        total.update(repr(tiling).encode())
    for frame in frames:
        place = frame.geometry, frame.rescale_slope, frame.rescale_intercept
        total.update(repr((place, _weighting(frame.slot), _arranging(frame.slot))).encode())
    if pixels.encapsulated:
        total.update(transfer_syntax_uid.encode())
    swap = not header.little_endian and pixels.bits_allocated == 16
    left = pixels.length
    if not pixels.encapsulated and geometry is not None:
        # A pad byte is no pixel.
        bits = geometry.rows * geometry.columns * pixels.samples_per_pixel * pixels.frames * pixels.bits_allocated
        left = min(left, (bits + 7) // 8)
    file.seek(pixels.offset)
    while left > 0:
        chunk = file.read(min(left, _HASH_CHUNK))
        if not chunk:
            break
        left -= len(chunk)
        total.update(_swapped(chunk) if swap else chunk)
    return total.hexdigest()


def _arranging(slot: Slot) -> tuple[object, ...]:
    """All that tells images of one place apart and orders them, but for the diffusion weighting."""
    return tuple(
        str(value) if isinstance(value, StrEnum) else value for value in (getattr(slot, f.name) for f in _ARRANGING)
    )


def _weighting(slot: Slot) -> tuple[object, ...] | None:
    """What of a diffusion weighting numbers depend on: not the name of the attribute that states it."""
    diffusion = slot.diffusion
    if diffusion is None:
        return None
    return diffusion.b_value, diffusion.direction_lps, diffusion.isotropic, diffusion.problem


def _swapped(chunk: bytes) -> bytes:
    """16-bit words in the other byte order, so that the same pixels have one digest in both."""
    even = bytearray(chunk)
    count = len(even) // 2 * 2
    even[0:count:2], even[1:count:2] = even[1:count:2], even[0:count:2]
    return bytes(even)
