"""What headers of one series have in common, so that a walk steps over it at once. Never changes what a walk finds.

The slices of a series repeat most of their header byte for byte. Elements that stand side by side and did not differ so
far are a run; where the bytes of a run stand at the border of an element, they are the same elements with the same
values, because nothing outside an element of the top level says how to read it (PS3.5 section 7.1).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from ichor.series.elements import (
    UN,
    UNDEFINED,
    HeaderError,
    Window,
    element_head,
    end_of_undefined,
    swapped,
)
from ichor.series.header import MAX_VALUE, Course, Header, Run

_MOST_SERIES = 64
_MOST_LESSONS = 8  # walks of a series that look for what differs, each as long as three others
_SHORTEST_RUN = 3  # elements: comparing fewer takes as long as reading them


@dataclass(slots=True)
class _Reference:
    """The first header of a series: ``elements`` are (tag with its halves swapped, bytes), ``breaks`` start a run."""

    elements: list[tuple[int, bytes]]
    values: Mapping[int, bytes]
    vrs: Mapping[int, int]
    differing: set[int]
    breaks: set[int]
    lessons: int = 0


class Likeness:
    """Runs of the headers of the series that were read last; one per reader, bounded."""

    def __init__(self) -> None:
        self._references: dict[tuple[str, str], _Reference] = {}
        self._runs: dict[tuple[str, str], dict[bytes, Run]] = {}

    def course(self, series: tuple[str, str]) -> Course:
        """For the next walk of a series (its UID and transfer syntax): the runs known of it, none at first."""
        return Course(runs=self._runs.get(series, {}))

    def learn(self, series: tuple[str, str], header: Header, *, course: Course) -> None:
        """Compare a walked header with the first of its series; one that is longer than a chunk is not learnt from."""
        reference = self._references.get(series)
        if reference is not None and reference.lessons >= (_MOST_LESSONS if course.missed else 1):
            return
        offset = header.pixel_offset
        if offset is None or offset > len(course.head) or header.cut:
            return
        try:
            elements = _elements(course.head[:offset], course.start, header=header)
        except (HeaderError, struct.error):
            return
        if reference is None:
            self._begin(series, header, elements)
            return
        reference.lessons += 1
        _compare(reference, elements)
        self._runs[series] = _runs_of(reference)

    def _begin(self, series: tuple[str, str], header: Header, elements: list[tuple[int, bytes]]) -> None:
        if len(self._references) >= _MOST_SERIES:
            self._references.clear()
            self._runs.clear()
        words = [word for word, _ in elements]
        # Of two elements with one tag only the last was kept.
        twice = {word for word in set(words) if words.count(word) > 1} if len(set(words)) < len(words) else set()
        self._references[series] = _Reference(
            elements=elements,
            values=dict(header.values),
            vrs=dict(header.vrs),
            differing=twice,
            breaks=set(),
        )


def _elements(data: bytes, at: int, *, header: Header) -> list[tuple[int, bytes]]:
    """Elements of the top level before Pixel Data, whole."""
    found: list[tuple[int, bytes]] = []
    explicit, little = header.explicit, header.little_endian
    window = Window.over(data)
    while True:
        word, vr, length, value_at = element_head(data, at, explicit=explicit, little_endian=little)
        if swapped(word) >= 0x7FE00008:
            return found
        if length == UNDEFINED:
            end = end_of_undefined(window, value_at, explicit=explicit and vr != UN, little_endian=little or vr == UN)
        else:
            end = value_at + length
        if end > len(data):
            raise HeaderError("ends inside an element", cut=True)
        found.append((word, data[at:end]))
        at = end


def _compare(reference: _Reference, elements: list[tuple[int, bytes]]) -> None:
    there = dict(elements)
    following = {word: after for (word, _), (after, _) in pairwise(elements)}
    previous = None
    for word, whole in reference.elements:
        if there.get(word) != whole:
            reference.differing.add(word)
        elif previous is not None and following.get(previous) != word:
            reference.breaks.add(word)
        previous = word


def _runs_of(reference: _Reference) -> dict[bytes, Run]:
    runs: dict[bytes, Run] = {}
    group: list[tuple[int, bytes]] = []
    for word, whole in [*reference.elements, (0, b"")]:
        ends = not whole or word in reference.differing or len(whole) > MAX_VALUE
        if (ends or word in reference.breaks) and group:
            if len(group) >= _SHORTEST_RUN:
                content = b"".join(part for _, part in group)
                tags = [swapped(member) for member, _ in group]
                values = {tag: reference.values[tag] for tag in tags if tag in reference.values}
                runs[content[:8]] = Run(content, len(content), values, {tag: reference.vrs[tag] for tag in values})
            group = []
        if not ends:
            group.append((word, whole))
    return runs
