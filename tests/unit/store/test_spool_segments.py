"""The footer walk: whatever happens to the end of a segment, the whole objects before it are found, and nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichor.store import segments
from ichor.store.segments import FOOTER_SIZE, footer, location_of, objects

NAME = "1.2.3/1.2.3.4/writer-1.seg"


def written(bodies: Sequence[bytes], *, name: str = NAME) -> bytes:
    data = b""
    for body in bodies:
        data += body + footer(location_of(name, len(data), len(body)), len(body))
    return data


def walk(data: bytes, *, name: str = NAME) -> list[tuple[int, int]]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return list(objects(file.fileno(), name))


def places(bodies: Sequence[bytes]) -> list[tuple[int, int]]:
    """What is there, from the last to the first."""
    found, at = [], 0
    for body in bodies:
        found.append((at, len(body)))
        at += len(body) + FOOTER_SIZE
    return found[::-1]


# Bytes in which footers and pieces of them are frequent, also such as are whole but of another place.
FOREIGN = footer(location_of("1.2.3/1.2.3.4/writer-2.seg", 0, 3), 3)
PIECES = st.one_of(
    st.binary(max_size=40), st.just(FOREIGN), st.integers(1, FOOTER_SIZE - 1).map(lambda n: FOREIGN[:n]),
    st.integers(1, FOOTER_SIZE - 1).map(lambda n: FOREIGN[n:]),
)  # fmt: skip
BYTES = st.lists(PIECES, max_size=5).map(b"".join)
BODIES = st.lists(BYTES.filter(len), max_size=6)


@given(BODIES, BYTES)
def test_what_is_whole_is_found_behind_any_torn_end(bodies: list[bytes], torn: bytes) -> None:
    assert walk(written(bodies) + torn) == places(bodies)


@given(BODIES, st.data())
def test_a_segment_cut_anywhere_has_the_objects_before_the_cut(bodies: list[bytes], data: st.DataObject) -> None:
    whole = written(bodies)
    cut = data.draw(st.integers(0, len(whole)))
    assert walk(whole[:cut]) == [(at, size) for at, size in places(bodies) if at + size + FOOTER_SIZE <= cut]


@given(BODIES.filter(len), st.data())
def test_a_damaged_footer_costs_its_own_object_only(bodies: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(written(bodies))
    at, size = data.draw(st.sampled_from(places(bodies)))
    whole[at + size + data.draw(st.integers(0, FOOTER_SIZE - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert walk(bytes(whole)) == [place for place in places(bodies) if place != (at, size)]


@given(BODIES.filter(len))
def test_objects_of_another_segment_are_none_here(bodies: list[bytes]) -> None:
    assert walk(written(bodies), name="1.2.3/1.2.3.5/writer-1.seg") == []


@given(st.integers(1, 200), BODIES.filter(len), st.binary(max_size=600))
def test_the_search_crosses_the_borders_of_its_chunks(chunk: int, bodies: list[bytes], torn: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_CHUNK", chunk)
        assert walk(written(bodies) + torn) == places(bodies)


def test_a_torn_end_of_nothing_but_magics_ends() -> None:
    bodies = [b"first", b"second"]
    assert walk(written(bodies) + FOREIGN[:8] * 200_000) == places(bodies)


def test_a_reader_of_a_part_never_leaves_it() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"before0123456789after")
        file.flush()
        with segments.Part(os.dup(file.fileno()), start=6, length=10) as part:
            assert part.read(4) == b"0123"
            assert part.read() == b"456789"
            assert part.read(1) == b""
            assert part.seek(-3, os.SEEK_END) == 7
            assert part.readall() == b"789"
