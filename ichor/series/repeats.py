"""Ways to tell apart images that share a place and every exact label: which volume is each of? Chooses no axis.

Every way gives volume codes (n,) for the images, or None where it says nothing. A way may be wrong: who asks checks
that the codes fill a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ichor.series.labels import Codes, Label, Labels, Numbers, number_codes
from ichor.types import AxisName

_MOST_CELLS = 4096  # that hold repeats: more is no series of images
_ALIGNMENTS_TRIED = 8  # places where an incomplete run of times may begin
_NEAR = 0.25  # of the least step between volumes: a time that fits
_STEADY = 0.75  # of that step: times that scatter more are not told to be of one volume
_FEW = 4  # below so many volumes, where none is lost, steps may differ by slice (a second pass in reverse order)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """``labels`` by the axis they would make; a pair where it takes two to tell images apart.

    ``stated``: headers name the volume; else it is worked out from an order, which lost images can shift.
    """

    labels: tuple[tuple[AxisName, Label], ...]
    stated: bool = True
    note: str | None = None


def ways(labels: Labels, *, place: Codes, cell: Codes, lane: Codes) -> Iterator[Way]:
    """Ways in order of trust.

    Parameters
    ----------
    place
        (n,) codes of slice positions.
    cell
        (n,) codes of the exact labels together: images of one cell at one place are to be told apart.
    lane
        (n,) codes of place and those of the labels that one excitation after the other does not change, diffusion.
    """
    temporal = _exact(labels.temporal_position)
    acquisition = _exact(labels.acquisition)
    if temporal:
        yield Way(labels=((AxisName.TEMPORAL_POSITION, temporal),))
    # Seconds of some images only are no axis: what lacks one would be a volume by not being another.
    time = None if np.isnan(labels.time).any() else _exact(labels.time)
    if time:
        yield Way(labels=((AxisName.TIME, time),))
    if acquisition:
        yield Way(labels=((AxisName.ACQUISITION, acquisition),))
    if temporal and acquisition:
        yield Way(labels=((AxisName.TEMPORAL_POSITION, temporal), (AxisName.ACQUISITION, acquisition)))
    if (labels.order >= 0).all() and (labels.order != labels.order[0]).any():
        codes = np.unique(labels.order, return_inverse=True)[1].reshape(-1).astype(np.int64)
        yield Way(labels=((AxisName.REPETITION, _counted(codes)),))
    if time:
        period = _period(labels.time, lane)
        ranked = _by_cell(partial(by_time, period=period), labels.time, place=place, cell=cell)
        if ranked is not None:
            yield Way(labels=((AxisName.TIME, _counted(ranked)),), stated=False)
    numbered = _by_cell(by_number, labels.number, place=place, cell=cell)
    if numbered is not None:
        yield Way(
            labels=((AxisName.REPETITION, _counted(numbered)),),
            stated=False,
            note="volumes told apart by instance number only",
        )


def _by_cell(tell: Callable[..., Codes | None], numbers: Numbers, *, place: Codes, cell: Codes) -> Codes | None:
    """``tell`` of each cell that has a place with several images; 0 in the others."""
    if np.isnan(numbers).any():
        return None
    codes = np.zeros(len(numbers), dtype=np.int64)
    order = np.lexsort((place, cell))
    start = np.flatnonzero(np.diff(cell[order], prepend=-1) != 0)
    shared = (np.diff(cell[order], prepend=-1) == 0) & (np.diff(place[order], prepend=-1) == 0)
    repeated = np.flatnonzero(np.add.reduceat(shared, start) > 0)
    if len(repeated) > _MOST_CELLS:
        return None
    stop = np.append(start[1:], len(order))
    for k in repeated.tolist():
        members = order[start[k] : stop[k]]
        told = tell(numbers[members], place=place[members])
        if told is None:
            return None
        codes[members] = told
    return codes


def by_time(times: Numbers, *, place: Codes, period: float = np.inf) -> Codes | None:
    """Rank of each image's time at its place, where slices of one volume have times of their own.

    Places that lack images are laid against the full ones. All slices of a volume are measured within ``period``, s.
    Where slices are measured in turn upwards and downwards no image may lack.
    """
    order, start, size = _columns(place, times)
    t = times[order]
    inner = np.ones(len(t), dtype=bool)
    inner[start] = False
    if (np.diff(t, prepend=-np.inf)[inner] <= 0).any():
        return None  # two images of one place at one time
    most = int(size.max())
    full = size == most
    matrix = t[start[full][:, None] + np.arange(most)]
    steps = matrix - matrix[:, :1]
    course = np.median(steps, axis=0)
    least = float(np.diff(course).min()) if most > 1 else 0.0
    uneven = float(np.abs(steps - course).max()) > _STEADY * least
    # Places that each lack another image are uneven; and so is a table that goes to and fro.
    if uneven and (not full.all() or (most >= _FEW and not _to_and_fro(matrix))):
        return None
    low, high = float(matrix[:, 0].min()), float(matrix[:, 0].max())
    if not full.all() and high - low >= min(period, least):
        return None  # and like this: some begin a volume later
    rank = np.arange(len(t)) - np.repeat(start, size)
    for k in np.flatnonzero(~full).tolist():
        here = slice(int(start[k]), int(start[k] + size[k]))
        fitted = _fit(t[here], course, low=low, high=high, period=min(period, least))
        if fitted is None:
            return None
        rank[here] = fitted
    codes = np.empty(len(t), dtype=np.int64)
    codes[order] = rank
    return codes


def _to_and_fro(matrix: Numbers) -> bool:
    """Whether volumes (columns) follow each other without overlap, and every other one has the same course.

    So is perfusion CT with a table that moves to and fro: an image that lacks at one place would shift its later ones
    from one direction to the other.
    """
    if not (matrix[:, :-1].max(axis=0) < matrix[:, 1:].min(axis=0)).all():
        return False
    least = float(np.diff(np.median(matrix, axis=0)).min())
    for direction in (matrix[:, 0::2], matrix[:, 1::2]):
        steps = direction - direction[:, :1]
        if float(np.abs(steps - np.median(steps, axis=0)).max()) > _NEAR * least:
            return False
    return True


def by_number(numbers: Numbers, *, place: Codes) -> Codes | None:
    """Volume of each image when its number is p * place + c[volume] throughout, for a step p and numbers c.

    Volumes of one label need not be numbered evenly: those without diffusion weighting stand between the others. The
    numbers c are read off a place that holds most images, the step off two such places.
    """
    order, start, size = _columns(place, numbers)
    n, at = numbers[order], place[order]
    most = int(size.max())
    full = np.flatnonzero(size == most)
    if most < 2:
        return None
    base = int(start[full[0]])
    course = n[base : base + most]
    # Either two full places give the step from place to place, or, where the end was lost, the first of all places.
    ends = {(int(start[full[0]]), int(start[full[-1]])), (int(start[0]), int(start[-1]))}
    steps = [float((n[b] - n[a]) / (at[b] - at[a])) for a, b in sorted(ends) if a != b] or [0.0]
    for p in steps if (np.diff(course) > 0).all() else ():
        expected = n - p * (at - at[base])
        volume = np.clip(np.searchsorted(course, expected), 0, most - 1)
        if (course[volume] == expected).all():
            codes = np.empty(len(n), dtype=np.int64)
            codes[order] = volume
            return codes
    return None


def _columns(place: Codes, within: Numbers) -> tuple[Codes, Codes, Codes]:
    """(order, start, size): images sorted by place and then by ``within``; where places start, how many they hold."""
    order = np.lexsort((within, place))
    start = np.flatnonzero(np.diff(place[order], prepend=-1) != 0)
    return order, start, np.diff(start, append=len(order))


def _period(times: Numbers, lane: Codes) -> float:
    """Least time between two images of one lane, s."""
    order = np.lexsort((times, lane))
    same = np.diff(lane[order]) == 0
    between = np.diff(times[order])[same]
    return float(between[between > 0].min(initial=np.inf))


def _exact(numbers: Numbers) -> Label | None:
    """None where all are alike or none is stated."""
    label = number_codes(numbers)
    return label if len(label.values) > 1 else None


def _counted(codes: Codes) -> Label:
    return Label(codes=codes, values=tuple(range(1, int(codes.max()) + 2)))


def _fit(times: Numbers, course: Numbers, *, low: float, high: float, period: float) -> Codes | None:
    """Volumes that ``times`` (m,) ascending belong to, given the ``course`` (v,) of full places from 0.

    Slices of one volume are measured within one ``period``, so all places begin within it; full ones do from ``low``
    to ``high``. Where several beginnings fit as well the earliest is taken: what lacks then is the end, as while
    images are still being sent.
    """
    begins = times[0] - course[: len(course) - len(times) + 1]
    step = float(np.diff(course).min())
    outside = np.maximum(np.maximum(high - period - begins, begins - low - period), 0.0)
    best: tuple[float, Codes] | None = None
    for k in np.argsort(outside, kind="stable")[:_ALIGNMENTS_TRIED].tolist():
        local = times - begins[k]
        right = np.clip(np.searchsorted(course, local), 1, len(course) - 1)
        nearest: Codes = np.where(local - course[right - 1] <= course[right] - local, right - 1, right).astype(np.int64)
        if (np.diff(nearest) <= 0).any():
            continue
        residual = np.abs(local - course[nearest])
        if outside[k] == 0 and residual.max() <= _NEAR * step:
            return nearest
        cost = float(residual.sum() + outside[k])
        if best is None or cost < best[0]:
            best = cost, nearest
    return best[1] if best is not None else None
