"""Headers of every dialect, changed in every way: no crash, no hang, no invented value, each refusal with its reason.

The headers are synthetic ones of each form of `phantoms.series`, and real ones where they are here. Every element at
every depth gets other lengths, other value representations, other values and sequences put before it; files are cut and
bits flipped. The short form draws from all these changes, the long one (`make soak`) makes every one.
"""

from __future__ import annotations

import io
import math
import random
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from ichor.errors import Unreadable
from ichor.reasons import Reason
from ichor.series.facts import read_instance
from ichor.series.grid import build_grid
from ichor.series.manifest import build_manifest
from ichor.series.planes import planes_of
from ichor.series.volume import build_volume
from ichor.store.journal import StoredObject
from ichor.types import Grade, Instance
from phantoms.series import FORMS, Encoding, scenes
from phantoms.series.files import write_object

SHORT = 2_500  # changes that the short form draws
ENCODINGS = {
    "explicit": Encoding(),
    "undefined": Encoding(undefined_lengths=True),
    "implicit": Encoding(transfer_syntax=ImplicitVRLittleEndian),
    "big": Encoding(transfer_syntax=ExplicitVRBigEndian),
}
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_VRS = (
    *_LONG, b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL",
    b"SS", b"ST", b"TM", b"UI", b"UL", b"US", b"ZZ", b"??", b"\0\0", b"ds",
)  # fmt: skip
_TEXTS = (
    b"", b" ", b"\0", b"nan", b"inf", b"-inf", b"1e400", b"-1e308", b"1e-320", b"\\", b"\\\\\\\\\\", b"0", b"-0", b"-1",
    b"99999999999999999999", b"1_000", b"0x10", b"1,5", "\u0661".encode(), b"\xff\xfe", b"A" * 70, b"1\\2\\3\\4\\5\\6",
    b"1\\nan\\1", b"0\\0\\0\\0\\0\\0", b"240000.000000", b"120000.5",
)  # fmt: skip
_BINARY = tuple(
    struct.pack("<" + code, *[value] * len(code))
    for code, value in (("d", math.nan), ("d", math.inf), ("d", 1e300), ("d", -1.0), ("f", math.nan), ("f", 3e38),
                        ("H", 0), ("H", 65535), ("I", 0xFFFFFFFF), ("i", -1), ("d", 5e-324), ("ddd", 0.0))
)  # fmt: skip
# pydicom warns of every second header here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

_INSTANCE = TypeAdapter(Instance)
REASONS = tuple(reason.value for reason in Reason)


# --- the headers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """A stored object to change. ``elements``: those at every depth, up to the pixels, the first two of a kind each."""

    name: str
    data: bytes
    syntax: str
    sop_class: str

    @property
    def elements(self) -> tuple[Element, ...]:
        return _elements(self.data, self.syntax)


@dataclass(frozen=True)
class Element:
    """Offsets in the file; ``vr_at`` is None in Implicit VR and for items."""

    at: int
    vr_at: int | None
    length_at: int
    length_size: int
    value_at: int
    length: int
    depth: int


@cache
def headers() -> tuple[Header, ...]:
    made = []
    for number, (form, (encoding, how)) in enumerate(product(FORMS, ENCODINGS.items())):
        # A diffusion scan has most private attributes; of enhanced ones only few frames, to have many changes of each.
        scan = (
            scenes.plain() if form.startswith("enhanced") and number % 2 else scenes.diffusion(b_values=(0.0, 1000.0))
        )
        ds = FORMS[form].data_sets(scan, name=form)[-1]
        made.append(_written(f"{form} {encoding}", ds, how))
    return tuple(made)


def _written(name: str, ds: Dataset, how: Encoding) -> Header:
    with io.BytesIO() as sink:
        write_object(ds, sink, encoding=how)  # type: ignore[arg-type]
        return Header(name, sink.getvalue(), how.transfer_syntax, str(ds.SOPClassUID))


@cache
def _elements(data: bytes, syntax: str) -> tuple[Element, ...]:
    found: list[Element] = []
    start = data.index(b"DICM") + 4
    meta = struct.unpack_from("<I", data, start + 8)[0]
    _walk(data, start + 12 + meta, len(data), syntax, found)
    kinds: Counter[tuple[bytes, int]] = Counter()
    kept = []
    for element in found:
        kind = data[element.at : element.at + 4], element.depth
        kinds[kind] += 1
        # The items of frames are alike.
        if kinds[kind] <= 2:
            kept.append(element)
    return tuple(kept)


def _walk(data: bytes, at: int, end: int, syntax: str, found: list[Element], depth: int = 0) -> int:
    """A plain reader of well-formed data sets; stops at Pixel Data and at the end of an item."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    while at + 8 <= end:
        group, number = struct.unpack_from(order + "HH", data, at)
        if group == 0xFFFE or syntax == ImplicitVRLittleEndian:
            element = Element(at, None, at + 4, 4, at + 8, struct.unpack_from(order + "I", data, at + 4)[0], depth)
            is_sequence = (
                syntax == ImplicitVRLittleEndian and group != 0xFFFE and _opens_items(data, element, order)
            )  # fmt: skip
        elif data[at + 4 : at + 6] in _LONG:
            element = Element(at, at + 4, at + 8, 4, at + 12, struct.unpack_from(order + "I", data, at + 8)[0], depth)
            is_sequence = data[at + 4 : at + 6] == b"SQ"
        else:
            element = Element(at, at + 4, at + 6, 2, at + 8, struct.unpack_from(order + "H", data, at + 6)[0], depth)
            is_sequence = False
        if (group, number) in ((0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)):
            return element.value_at
        if group == 0x7FE0:
            return end
        found.append(element)
        inner_end = end if element.length == 0xFFFFFFFF else element.value_at + element.length
        if is_sequence or group == 0xFFFE:
            at = _walk(data, element.value_at, inner_end, syntax, found, depth + 1)
            at = at if element.length == 0xFFFFFFFF else inner_end
        else:
            at = inner_end
    return at


def _opens_items(data: bytes, element: Element, order: str) -> bool:
    return element.length >= 8 and data[element.value_at : element.value_at + 4] == struct.pack(
        order + "HH", 0xFFFE, 0xE000
    )


# --- the changes ----------------------------------------------------------------------------------------------------

Change = tuple[str, Callable[[], bytes]]


def changes(header: Header) -> Iterator[Change]:
    """Every change of one header, as a name and what makes it."""
    data, order = header.data, ">" if header.syntax == ExplicitVRBigEndian else "<"
    for number, element in enumerate(header.elements):
        name = f"{header.name}, element {number} at {element.at}"
        for length in _lengths(element):
            yield f"{name}, length {length}", lambda e=element, n=length: _with_length(data, e, n, order)
        if element.vr_at is not None:
            for vr in _VRS:
                yield f"{name}, VR {vr!r}", lambda e=element, v=vr: data[: e.vr_at] + v + data[e.vr_at + 2 :]
        if (element.length != 0xFFFFFFFF and element.length_size == 2) or element.vr_at is None:
            for value in (*_TEXTS, *_BINARY):
                yield f"{name}, value {value!r}", lambda e=element, v=value: _with_value(data, e, v, order)
        for depth in (1, 13, 70, 3_000):
            for undefined in (True, False):
                yield (
                    f"{name}, a sequence of depth {depth} before it",
                    lambda e=element, d=depth, u=undefined: data[: e.at] + _nested(header.syntax, d, u) + data[e.at :],
                )
    for cut in range(0, len(data), 7):
        yield f"{header.name}, cut at {cut}", lambda c=cut: data[:c]


def _lengths(element: Element) -> set[int]:
    largest = 256**element.length_size - 1
    length = min(element.length, largest)
    asked = {0, 1, length - 1, length + 1, length + 2, length + 8, 2 * length, largest, largest - 1, largest // 2}
    return {n for n in asked if 0 <= n <= largest} - {element.length}


def _with_length(data: bytes, element: Element, length: int, order: str) -> bytes:
    code = order + {2: "H", 4: "I"}[element.length_size]
    return data[: element.length_at] + struct.pack(code, length) + data[element.length_at + element.length_size :]


def _with_value(data: bytes, element: Element, value: bytes, order: str) -> bytes:
    """Another value under its right length, padded as it must be."""
    value += b" " * (len(value) % 2)
    there = _with_length(data, element, len(value), order)
    return there[: element.value_at] + value + there[element.value_at + element.length :]


def _nested(syntax: str, depth: int, undefined: bool) -> bytes:
    """A private sequence in a sequence in ..., each with one item."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    implicit = syntax == ImplicitVRLittleEndian
    inner = b""
    for _ in range(depth):
        item = struct.pack(order + "HHI", 0xFFFE, 0xE000, 0xFFFFFFFF if undefined else len(inner)) + inner
        item += struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0) if undefined else b""
        head = struct.pack(order + "HH", 0x0009, 0x1001) + (b"" if implicit else b"SQ\0\0")
        inner = head + struct.pack(order + "I", 0xFFFFFFFF if undefined else len(item)) + item
        inner += struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0) if undefined else b""
    return inner


# --- what must hold -------------------------------------------------------------------------------------------------


class Counted(io.BytesIO):
    """Counts what is read of it: a reader that hangs or goes to and fro reads much more than there is."""

    total = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.total += len(data) + 1
        return data


def stored_as(header: Header, *, location: str = "a/b/c", number: int = 4) -> StoredObject:
    return StoredObject(
        sop_instance_uid=f"1.2.3.{number}", sop_class_uid=header.sop_class, series_instance_uid="1.2.3",
        study_instance_uid="1.2", transfer_syntax_uid=header.syntax, location=location, length=1,
        file_sha256="f" * 64, association="a1", calling_ae="CT1", called_ae="ICHOR", sender_priority=None,
        called_priority=None, command_priority_high=False, received_at=5.0,
    )  # fmt: skip


def is_reason(text: str | None) -> bool:
    return text is None or any(text == reason or text.startswith(reason + ":") for reason in REASONS)


def check(header: Header, data: bytes, *, name: str, compare: bool = True) -> Instance:
    """Read a changed object; everything that must hold of any."""
    file = Counted(data)
    found = read_instance(file, stored=stored_as(header))
    assert file.total <= 4 * len(data) + (1 << 20), f"{name}: {file.total} bytes read of {len(data)}"
    assert _INSTANCE.validate_json(_INSTANCE.dump_json(found)) == found, name
    assert is_reason(found.defect), f"{name}: {found.defect}"
    for value in leaves(found):
        assert not isinstance(value, float) or math.isfinite(value), f"{name}: {value}"
    for plane in planes_of(found):
        assert plane.slot.diffusion is None or is_reason(plane.slot.diffusion.problem), name
        if plane.slot.diffusion is not None and plane.slot.diffusion.direction_lps is not None:
            assert math.hypot(*plane.slot.diffusion.direction_lps) == pytest.approx(1.0, abs=1e-2), name
    if compare:
        nothing_invented(header, data, found, name=name)
    return found


def leaves(value: Any) -> Iterator[Any]:
    if is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from leaves(getattr(value, item.name))
    elif isinstance(value, tuple):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def _text(raw: bytes) -> str:
    return raw.strip(b" \0").decode("ascii", "replace")


def _decimals(raw: bytes) -> tuple[float, ...]:
    return tuple(float(part) for part in _text(raw).split("\\"))


# Facts, where they stand in the header, and how the standard reads their bytes there. Those of an enhanced object's
# functional groups and of vendors' headers are checked by `nothing_invented` against all that pydicom finds.
_TOP: dict[str, tuple[int, Callable[[bytes, str], Any]]] = {
    "modality": (0x00080060, lambda raw, _: _text(raw)[:16].upper()),
    "image_type": (0x00080008, lambda raw, _: tuple(p.strip().upper()[:64] for p in _text(raw).split("\\")[:8])),
    "manufacturer": (0x00080070, lambda raw, _: _text(raw)[:64].strip()),
    "body_part": (0x00180015, lambda raw, _: _text(raw)[:64].strip().upper()),
    "series_number": (0x00200011, lambda raw, _: int(_text(raw).split("\\")[0])),
    "instance_number": (0x00200013, lambda raw, _: int(_text(raw).split("\\")[0])),
    "acquisition_number": (0x00200012, lambda raw, _: int(_text(raw).split("\\")[0])),
    "temporal_position": (0x00200100, lambda raw, _: int(_text(raw).split("\\")[0])),
    "geometry.rows": (0x00280010, lambda raw, order: struct.unpack(order + "H", raw)[0]),
    "geometry.columns": (0x00280011, lambda raw, order: struct.unpack(order + "H", raw)[0]),
    "geometry.orientation_lps": (0x00200037, lambda raw, _: _decimals(raw)),
    "geometry.position_lps": (0x00200032, lambda raw, _: _decimals(raw)),
    "geometry.pixel_spacing": (0x00280030, lambda raw, _: _decimals(raw)),
    "geometry.slice_thickness": (0x00180050, lambda raw, _: float(_text(raw))),
    "geometry.spacing_between_slices": (0x00180088, lambda raw, _: float(_text(raw))),
    "pixels.bits_allocated": (0x00280100, lambda raw, order: struct.unpack(order + "H", raw)[0]),
    "pixels.bits_stored": (0x00280101, lambda raw, order: struct.unpack(order + "H", raw)[0]),
    "pixels.samples_per_pixel": (0x00280002, lambda raw, order: struct.unpack(order + "H", raw)[0]),
}
_DEFAULTS = {"modality": "", "image_type": (), "pixels.bits_allocated": 16, "pixels.bits_stored": 16,
             "pixels.samples_per_pixel": 1, "geometry.rows": 0, "geometry.columns": 0}  # fmt: skip
# A mosaic's own place and an enhanced object's are put together from others.
_COMPUTED = ("geometry.position_lps", "geometry.orientation_lps", "geometry.pixel_spacing", "geometry.slice_thickness",
             "geometry.spacing_between_slices")  # fmt: skip


def nothing_invented(header: Header, data: bytes, found: Instance, *, name: str) -> None:
    """What the facts say is what pydicom finds in the same bytes, wherever pydicom can read them."""
    try:
        raw = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
    except Exception:  # noqa: BLE001 - it raises whatever it likes; then there is nothing to compare with
        return
    order = ">" if header.syntax == ExplicitVRBigEndian else "<"
    composed = found.tiling is not None or found.frames or "MOSAIC" in found.image_type or "VFRAME" in found.image_type
    # pydicom ends at a delimiter that closes nothing, and keeps it; we pass over it and read on.
    ended_early = any(tag.group == 0xFFFE for tag in raw.keys())  # noqa: SIM118 - iterating a Dataset converts elements
    for fact, (tag, read) in _TOP.items():
        value = found
        for part in fact.split("."):
            value = getattr(value, part) if value is not None else None
        if value is None or value == _DEFAULTS.get(fact) or (composed and fact in _COMPUTED):
            continue
        element = raw.get_item(tag)
        if fact == "modality" and found.defect in (Reason.CUT_SHORT, Reason.HEADER_UNREADABLE):
            continue  # told by the SOP Class
        if element is None and ended_early:
            continue
        assert element is not None, f"{name}: {fact} is {value}, and pydicom finds no ({tag:08X})"
        said = element.value if isinstance(element.value, bytes) else None
        if said is None:
            continue  # pydicom has converted it already: of a sequence, or of ambiguous representation
        try:
            expected = read(said, order)
        except (ValueError, struct.error):
            pytest.fail(f"{name}: {fact} is {value}, and ({tag:08X}) has {said[:80]!r}")
        assert value == expected, f"{name}: {fact} is {value}, and ({tag:08X}) has {said[:80]!r}"
    copied = slot_numbers(found)
    if all(any(math.isclose(number, n, rel_tol=1e-6) for n in known(header)) for number in copied):
        return
    try:
        pool = numbers_of(raw)
    except Exception:  # noqa: BLE001 - as above: a sequence is read when it is looked into
        return
    pool |= ge_weightings(raw)
    for number in copied:
        near = any(math.isclose(number, n, rel_tol=1e-5, abs_tol=1e-6) for n in pool)
        assert near, f"{name}: {number} stands nowhere in the header"


def slot_numbers(found: Instance) -> set[float]:
    """b-values, echo times, temporal positions and rescale of an object and its frames: those that are copied."""
    told: set[float] = set()
    for plane in planes_of(found):
        slot = plane.slot
        told.update(n for n in (slot.echo_time, slot.temporal_position, slot.acquisition) if n is not None)
        if slot.diffusion is not None:
            told.add(slot.diffusion.b_value)
    return told


@cache
def known(header: Header) -> frozenset[float]:
    """Those of the unchanged header."""
    return frozenset(slot_numbers(read_instance(io.BytesIO(header.data), stored=stored_as(header))))


def numbers_of(ds: Dataset) -> set[float]:
    """Every number that pydicom finds at any depth, as text or binary, also in private bytes."""
    told = {0.0}
    for tag in list(ds.keys()):
        item = ds.get_item(tag)
        assert item is not None
        implicit = item.VR is None and dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ"
        if implicit or item.VR == "SQ" or isinstance(item.value, pydicom.Sequence):
            for inner in ds[tag].value:
                told |= numbers_of(inner)
        else:
            told |= _numbers_in(item.value if isinstance(item.value, bytes) else str(item.value).encode())
    return told


def ge_weightings(ds: Dataset) -> set[float]:
    """GE's b-value of a vector shorter than 1: the nominal one by the square of the length, to 5 s/mm2."""
    try:
        parts = [_decimals(ds.get_item((0x0019, low)).value) for low in (0x10BB, 0x10BC, 0x10BD)]
        nominal = _decimals(ds.get_item((0x0043, 0x1039)).value)[0] % 1e9
    except (AttributeError, IndexError, TypeError, ValueError):
        return set()
    squared = sum(part[0] ** 2 for part in parts if len(part) == 1)
    return {round(nominal * squared / 5) * 5.0} if len(parts) == 3 and squared < 1 else set()


def _numbers_in(raw: bytes) -> set[float]:
    texts = [float(match[0]) for match in re.finditer(rb"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", raw)]
    for order, code in product("<>", "dfHIhi"):
        width = struct.calcsize(code)
        if len(raw) <= 64 * width and len(raw) % width == 0:
            texts += struct.unpack(f"{order}{len(raw) // width}{code}", raw)
    finite = [n for n in texts if math.isfinite(n)]
    # GE adds 1e9 to a b-value.
    return {*finite, *(n % 1e9 for n in finite if n > 1e9)}


# --- the tests ------------------------------------------------------------------------------------------------------


def every_change() -> list[Change]:
    return [change for header in headers() for change in changes(header)]


def by_name(name: str) -> Header:
    return next(header for header in headers() if name.startswith(f"{header.name},"))


@pytest.mark.parametrize("header", headers(), ids=lambda header: header.name.replace(" ", "-"))
def test_an_unchanged_header_is_read_and_has_no_defect(header: Header) -> None:
    found = check(header, header.data, name=header.name)
    assert found.defect is None
    assert found.pixels is not None
    assert found.geometry is not None
    assert found.dialect is FORMS[header.name.split()[0]].dialect
    slots = [plane.slot for plane in planes_of(found)]
    assert {slot.echo_time for slot in slots} == {30.0}
    assert {slot.diffusion.b_value for slot in slots if slot.diffusion} in (set(), {1000.0}, {0.0, 1000.0})
    assert len(header.elements) > 50


def test_a_changed_header_is_read_or_refused_with_a_reason() -> None:
    drawn = random.Random(20_260_001).sample(every_change(), SHORT)
    ends = [check(by_name(name), change(), name=name).defect for name, change in drawn]
    # Otherwise the changes would not have hurt, or nothing would have been read.
    assert 0.1 < sum(end is not None for end in ends) / len(ends) < 0.9


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("header", headers(), ids=lambda header: header.name.replace(" ", "-"))
def test_every_changed_header_is_read_or_refused_with_a_reason(header: Header) -> None:
    for name, change in changes(header):
        check(header, change(), name=name)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_flipped_bits_are_read_or_refused_with_a_reason(data: st.DataObject) -> None:
    header = data.draw(st.sampled_from(headers()), label="header")
    end = header.elements[-1].value_at
    flips = data.draw(st.lists(st.integers(0, end * 8 - 1), min_size=1, max_size=8), label="bits")
    changed = bytearray(header.data)
    for bit in flips:
        changed[bit // 8] ^= 1 << bit % 8
    # The receiver writes what stands before the data set: there is no reading of a wrong one to compare with.
    compare = min(flips) >= header.elements[0].at * 8
    check(header, bytes(changed), name=f"{header.name}, bits {flips}", compare=compare)


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=4_000), syntax=st.sampled_from([e.transfer_syntax for e in ENCODINGS.values()]))
def test_any_bytes_are_read_or_refused_with_a_reason(body: bytes, syntax: str) -> None:
    header = Header("bytes", body, syntax, "1.2.840.10008.5.1.4.1.1.4")
    check(header, body, name="any bytes")


class Files:
    """A spool of some bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def open(self, location: str) -> io.BytesIO:
        return io.BytesIO(self.files[location])

    def read_range(self, location: str, offset: int, length: int) -> bytes:
        return self.files[location][offset : offset + length]


@cache
def series(form: str) -> tuple[Header, ...]:
    objects = FORMS[form].data_sets(scenes.diffusion(b_values=(0.0, 1000.0)), name=form)
    return tuple(_written(f"{form} {n}", ds, Encoding()) for n, ds in enumerate(objects))


def put_together(form: str, chance: random.Random) -> Reason | None:
    """A series with one or two changed headers as an array; why not when it is none."""
    stored, spool, instances = series(form), Files(), []
    hurt = set(chance.sample(range(len(stored)), min(len(stored), chance.randint(1, 2))))
    for number, header in enumerate(stored):
        data = header.data
        if number in hurt:
            _, change = chance.choice(list(changes(header)))
            data = change()
        location = f"a/b/{number}"
        spool.files[location] = data
        instances.append(
            read_instance(io.BytesIO(data), stored=stored_as(header, location=location, number=number + 1))
        )  # fmt: skip
    grid = build_grid(instances)
    assert all(is_reason(finding) for finding in grid.findings), grid.findings
    manifest = build_manifest(instances, revision=1, grade=Grade.COUNTED, notes=(), grid=grid)
    try:
        volume = build_volume(manifest, spool=spool)
    except Unreadable as error:
        return next(r for r in Reason if error.reason == r or error.reason.startswith(f"{r}:"))
    assert volume.array.size > 0
    return None


def test_a_series_with_changed_headers_is_an_array_or_has_a_reason() -> None:
    chance = random.Random(7)
    ends = [put_together(form, chance) for form in FORMS for _ in range(4)]
    assert None in ends
    assert len(set(ends)) > 2


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", FORMS)
def test_many_series_with_changed_headers_are_arrays_or_have_reasons(form: str) -> None:
    chance = random.Random(8)
    for _ in range(500):
        put_together(form, chance)


REAL = (
    "ct_head_phantom_philips_28x5mm",
    "dwi_canon_galan_classic_1b0_12b1500",
    "dwi_canon_galan_enhanced_1b0_12b1500",
    "dwi_ge_pioneer_1b0_6b1000",
    "dwi_philips_achieva_1b0_6b1000_and_trace",
    "dwi_siemens_prisma_mosaic_1b0_12b1000",
    "dwi_siemens_trio_mosaic_2b0_40b1000",
)


@pytest.mark.parametrize("name", REAL)
def test_a_changed_real_header_is_read_or_refused_with_a_reason(name: str, real_data: Callable[[str], Path]) -> None:
    path = min(p for p in real_data(name).rglob("*") if p.is_file() and b"DICM" in p.read_bytes()[:132])
    meta = pydicom.dcmread(path, stop_before_pixels=True)
    data = path.read_bytes()
    header = Header(name, data, str(meta.file_meta.TransferSyntaxUID), str(meta.file_meta.MediaStorageSOPClassUID))
    check(header, data, name=name)
    for what, change in random.Random(3).sample(list(changes(header)), 40):
        check(header, change(), name=what)
