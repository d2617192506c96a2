"""Which axes, other than space, arrange the images of a series, and where each image stands on them.

The rule, in order (n images at s places, a place being one slice position of one stack):

1. An exact label (component, echo time, diffusion, image type) matters when it tells images of one place apart. The
   smallest set of these that determines the others makes axes; where two sets are as small, the first in that order.
2. Where images still share place and labels (repeated b0, time series, averages), `ichor.series.repeats` gives ways to
   tell them apart. One that headers state goes before one worked out from an order; then the one with the fewest
   empty slots wins, the more trusted where equal. Beside a diffusion axis repeats are further volumes on it; else
   they make an axis of their own.
3. An arrangement stands when every slot holds at most one image, at least half of the slots are filled, and at most a
   tenth of the combinations of labels have no image at all: phase images of one echo only make no grid of echo and
   component. Of volumes that rule 2 tells apart only one may be a quarter there or less (it is still being sent);
   and where they make an axis of their own two must be six tenths there: else a few slices came twice.
4. What does not stand is named, and no arrangement is made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from ichor.reasons import Reason
from ichor.series.labels import Codes, Label, Labels, Numbers, Value
from ichor.series.repeats import Way, ways
from ichor.types import Axis, AxisName

_LABELS = (AxisName.COMPONENT, AxisName.ECHO, AxisName.DIFFUSION, AxisName.IMAGE_TYPE)
_THIN = 0.25
_HALF = 0.5
_THERE = 0.6
_ORDER = tuple(AxisName)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arrangement:
    """``indices[a]`` (n,): where each image stands on ``axes[a]``. With a ``finding`` there are no axes."""

    axes: tuple[Axis, ...] = ()
    indices: tuple[Codes, ...] = ()
    finding: Reason | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    images: int
    slots: int
    filled: int
    combinations: int
    absent: int

    @property
    def unique(self) -> bool:
        return self.filled == self.images

    @property
    def stands(self) -> bool:
        return self.unique and 2 * self.images >= self.slots and 10 * self.absent <= self.combinations

    @property
    def holes(self) -> int:
        return self.slots - self.filled


def arrange(labels: Labels, *, place: Codes) -> Arrangement:
    """Find the axes of images at ``place`` (n,), codes 0..s-1 in order of stack and position."""
    places = int(place.max()) + 1
    if len(place) == places and (np.bincount(place) == 1).all():
        return Arrangement()
    chosen = _exact_axes(labels, place)
    cell = _together(*(labels.exact[name].codes for name in chosen), count=len(labels))
    if _distinct(cell, place) == len(place):
        parts = [(name, labels.exact[name]) for name in chosen]
        if not _fit([label for _, label in parts], place, places).stands:
            return Arrangement(finding=Reason.NO_FULL_GRID)
        return _arranged(parts, labels, place, notes=())
    best: tuple[int, list[tuple[AxisName, Label]], Way] | None = None
    told_apart = False
    thin = False  # headers name volumes of which too little is there: an order of the rest would be made up
    lane = _together(
        place, *(labels.exact[name].codes for name in chosen if name is not AxisName.DIFFUSION), count=len(labels)
    )
    repeated = _repeated(labels.exact[AxisName.DIFFUSION].codes, _together(cell, place, count=len(labels)))
    for way in ways(labels, place=place, cell=cell, lane=lane):
        parts = _joined(chosen, labels, way, repeated)
        fit = _fit([label for _, label in parts], place, places)
        told_apart |= fit.unique
        if (best is not None or thin) and not way.stated:
            break
        if not fit.stands:
            continue
        if not _volumes_there(parts, way, cell, places=places):
            thin |= 2 * fit.images > fit.slots and way.labels[0][0] is not AxisName.TIME
            continue
        if best is None or fit.holes < best[0]:
            best = fit.holes, parts, way
        if fit.holes == 0:
            break
    if best is None:
        several = told_apart and 2 * len(place) >= 3 * places
        return Arrangement(finding=Reason.NO_FULL_GRID if several else Reason.SAME_PLACE)
    _, parts, way = best
    return _arranged(parts, labels, place, notes=(way.note,) if way.note else ())


def _exact_axes(labels: Labels, place: Codes) -> tuple[AxisName, ...]:
    """The smallest set of exact labels that tells apart what any of them tells apart."""
    places = len(np.unique(place))
    telling = [name for name in _LABELS if _distinct(labels.exact[name].codes, place) > places]
    for size in range(len(telling)):
        for names in combinations(telling, size):
            own = _together(*(labels.exact[name].codes for name in names), count=len(labels))
            count = len(np.unique(own))
            if all(_distinct(own, labels.exact[other].codes) == count for other in telling):
                return names
    return tuple(telling)


def _repeated(codes: Codes, column: Codes) -> npt.NDArray[np.bool_]:
    """(n,) whether an image's code occurs anywhere several times in one column."""
    several = np.bincount(column)[column] > 1
    found = np.zeros(int(codes.max()) + 1, dtype=np.bool_)
    found[codes[several]] = True
    result: npt.NDArray[np.bool_] = found[codes]
    return result


def _joined(
    chosen: tuple[AxisName, ...], labels: Labels, way: Way, repeated: npt.NDArray[np.bool_]
) -> list[tuple[AxisName, Label]]:
    """The exact labels and the way's; volumes of a diffusion axis take what tells repeats apart into themselves."""
    parts = [(name, labels.exact[name]) for name in chosen]
    if AxisName.DIFFUSION not in chosen:
        return [*parts, *way.labels]
    weighting = labels.exact[AxisName.DIFFUSION]
    told = (np.where(repeated, label.codes, 0) for _, label in way.labels)
    codes = _together(weighting.codes, *told, count=len(labels))
    first = np.unique(codes, return_index=True)[1]
    values: tuple[Value, ...] = tuple(weighting.values[k] for k in weighting.codes[first].tolist())
    volumes = Label(codes=codes, values=values)
    return [(name, volumes if name is AxisName.DIFFUSION else label) for name, label in parts]


def _fit(parts: list[Label], place: Codes, places: int) -> _Fit:
    """How well the product of places and labels describes the images."""
    cell = _together(*(label.codes for label in parts), count=len(place))
    product = 1
    for label in parts:
        product *= len(label.values)
    return _Fit(
        images=len(place),
        slots=product * places,
        filled=_distinct(cell, place),
        combinations=product,
        absent=product - (int(cell.max()) + 1),
    )


def _volumes_there(parts: list[tuple[AxisName, Label]], way: Way, cell: Codes, *, places: int) -> bool:
    """Whether what a way tells apart are volumes, not a few images that came twice."""
    # Two or three slices with times of their own would look like volumes with holes.
    thin = _HALF if way.labels[0][0] is AxisName.TIME else _THIN
    diffusion = next((label for name, label in parts if name is AxisName.DIFFUSION), None)
    if diffusion is not None:
        others = [len(label.values) for name, label in parts if name is not AxisName.DIFFUSION]
        share = np.bincount(diffusion.codes) / (places * np.prod(others, dtype=np.float64))
        return int((share <= thin).sum()) <= 1
    codes = _together(*(label.codes for _, label in way.labels), count=len(cell))
    share = np.bincount(codes) / (places * (int(cell.max()) + 1))
    return int((share <= thin).sum()) <= 1 and int((share >= _THERE).sum()) >= 2


def _arranged(
    parts: list[tuple[AxisName, Label]], labels: Labels, place: Codes, *, notes: tuple[str, ...]
) -> Arrangement:
    """Axes in their order, each with its values in theirs."""
    axes: list[Axis] = []
    indices: list[Codes] = []
    for name, label in sorted(parts, key=lambda part: _ORDER.index(part[0])):
        others = [other.codes for part, other in parts if part is not name]
        column = _together(place, *others, count=len(place))
        if name is AxisName.DIFFUSION:
            order = _volume_order(label, labels, column)
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            axes.append(Axis(name=name, values=tuple(label.values[k] for k in order.tolist())))
            indices.append(back[label.codes])
            continue
        seconds = None
        if name in (AxisName.TIME, AxisName.TEMPORAL_POSITION, AxisName.ACQUISITION, AxisName.REPETITION):
            seconds = _seconds(label, labels.time, column) if not _paired(parts) else None
        if seconds is not None:
            axes.append(Axis(name=AxisName.TIME, values=seconds))
        elif name is AxisName.TIME:  # seconds since midnight are no values of that axis
            axes.append(Axis(name=AxisName.REPETITION, values=tuple(range(1, len(label.values) + 1))))
        else:
            axes.append(Axis(name=name, values=label.values))
        indices.append(label.codes)
    return Arrangement(axes=tuple(axes), indices=tuple(indices), notes=notes)


def _paired(parts: list[tuple[AxisName, Label]]) -> bool:
    names = {name for name, _ in parts}
    return AxisName.TEMPORAL_POSITION in names and AxisName.ACQUISITION in names


def _seconds(label: Label, times: Numbers, column: Codes) -> tuple[float, ...] | None:
    """Seconds of the volumes after the first, the median over their slices; None where times do not ascend with them."""
    if np.isnan(times).any():
        return None
    matrix = _matrix(times, label, column)
    latest = np.fmax.accumulate(matrix, axis=0)
    if (matrix[1:] <= latest[:-1]).any():
        return None
    both = ~np.isnan(matrix) & ~np.isnan(matrix[0])
    seconds = []
    for volume, here in zip(matrix, both, strict=True):
        if here.any():
            seconds.append(float(np.median(volume[here] - matrix[0][here])))
        else:
            seconds.append(float(np.nanmedian(volume) - np.nanmedian(matrix[0])))
    if any(b <= a for a, b in pairwise(seconds)):
        return None
    return tuple(round(s, 6) for s in seconds)


def _volume_order(label: Label, labels: Labels, column: Codes) -> Codes:
    """Order of the volumes of a diffusion axis: by temporal position, vendor order, time, acquisition, then number.

    Each fact is ranked among the images of one place, as slices of one volume may have times of their own; a volume's
    rank is the median over its places.
    """
    order = labels.order.astype(np.float64)
    order[labels.order < 0] = np.nan
    facts: tuple[Numbers, ...] = (
        labels.temporal_position,
        order,
        labels.time,
        labels.acquisition,
        labels.number,
        labels.rank.astype(np.float64),
    )
    keys = []
    for fact in facts:
        if np.isnan(fact).any():
            continue
        matrix = _matrix(_rank_within(fact, column), label, column)
        keys.append(np.nanmedian(matrix, axis=1) if np.isnan(matrix).any() else np.median(matrix, axis=1))
    return np.lexsort(keys[::-1]).astype(np.int64)


def _rank_within(fact: Numbers, column: Codes) -> Numbers:
    """Dense rank of each image's ``fact`` among those of its column, from 0."""
    order = np.lexsort((fact, column))
    new_column = np.diff(column[order], prepend=-1) != 0
    step = new_column | (np.diff(fact[order], prepend=np.nan) != 0)
    count = np.cumsum(step)
    base = count[new_column][np.cumsum(new_column) - 1]
    rank = np.empty(len(fact))
    rank[order] = count - base
    return rank


def _matrix(fact: Numbers, label: Label, column: Codes) -> Numbers:
    """(volumes, columns) of ``fact``, NaN where there is no image."""
    matrix = np.full((len(label.values), int(column.max()) + 1), np.nan)
    matrix[label.codes, column] = fact
    return matrix


def _together(*codes: Codes, count: int) -> Codes:
    """One dense code (n,) per combination that occurs, in order of the combinations."""
    joined = np.zeros(count, dtype=np.int64)
    for code in codes:
        joined = np.unique(joined * (int(code.max()) + 1) + code, return_inverse=True)[1].reshape(-1)
    return joined.astype(np.int64)


def _distinct(a: Codes, b: Codes) -> int:
    """How many pairs of codes occur."""
    width = int(b.max()) + 1
    size = (int(a.max()) + 1) * width
    pairs = a * width + b
    if size <= 4 * len(a) + 1024:
        return int(np.count_nonzero(np.bincount(pairs, minlength=1)))
    return len(np.unique(pairs))
