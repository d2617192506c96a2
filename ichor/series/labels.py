"""What the images of a series say of their place on axes other than space, as arrays. Arranges nothing.

Exact labels (component, echo time, diffusion, image type) become integer codes, one per distinct value, ascending with
the value. Ordering facts (temporal position, time, acquisition, vendor order, instance number) stay numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ichor.series.dialects.clock import plausible
from ichor.series.planes import Plane, acquisition_of, temporal_position_of
from ichor.types import AxisName, Component, Diffusion

Codes: TypeAlias = npt.NDArray[np.int64]
Numbers: TypeAlias = npt.NDArray[np.float64]
Value: TypeAlias = float | int | str

NOT_STATED = "not stated"  # value of an axis where some images lack the attribute that others have
_SAME_ECHO_MS = 0.01
_SAME_DIRECTION = 1e-4
_SAME_B = 0.01
_DAY = 86_400.0
_MOST_ROUNDS = 32  # real series settle in two; a hostile one could be made to split one by one
_COMPONENTS = tuple(Component)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Label:
    """``codes`` (n,) index ``values``."""

    codes: Codes
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """Of n images. Numbers are NaN where a header does not say; ``order`` is -1 there.

    ``number`` is the Instance Number, or the frame number of a lone multi-frame object. ``rank`` is a last, arbitrary,
    but fixed order.
    """

    exact: dict[AxisName, Label]
    temporal_position: Numbers
    time: Numbers
    acquisition: Numbers
    number: Numbers
    order: Codes
    rank: Codes

    def __len__(self) -> int:
        return len(self.rank)


def labels_of(planes: Sequence[Plane]) -> Labels:
    """Read them off ``planes``."""
    slots = [plane.slot for plane in planes]
    instances = [plane.instance for plane in planes]
    tuples = [slot.order for slot in slots]
    places = sorted(set(tuples) - {()})
    place = {order: k for k, order in enumerate(places)} | {(): -1}
    alone = len({id(instance) for instance in instances}) == 1 and bool(instances[0].frames)
    numbers = [p.index + 1 for p in planes] if alone else [i.instance_number for i in instances]
    indices = np.fromiter((p.index for p in planes), dtype=np.int64, count=len(planes))
    uids = _coded([i.sop_instance_uid for i in instances], key=str)[0]
    number = _numbers(numbers)
    rank = np.empty(len(planes), dtype=np.int64)
    rank[np.lexsort((indices, uids, np.nan_to_num(number, nan=0.0)))] = np.arange(len(planes))
    return Labels(
        exact={
            AxisName.COMPONENT: _words([slot.component for slot in slots], key=_COMPONENTS.index),
            AxisName.ECHO: _near([plausible(slot.echo_time) for slot in slots], tolerance=_SAME_ECHO_MS),
            AxisName.DIFFUSION: _diffusion([slot.diffusion for slot in slots]),
            AxisName.IMAGE_TYPE: _words([slot.image_type for slot in slots], key=str),
        },
        temporal_position=_numbers([temporal_position_of(i, s) for i, s in zip(instances, slots, strict=True)]),
        time=_over_midnight(_numbers([plausible(slot.time) for slot in slots])),
        acquisition=_numbers([acquisition_of(i, s) for i, s in zip(instances, slots, strict=True)]),
        number=number,
        order=np.fromiter((place[order] for order in tuples), dtype=np.int64, count=len(tuples)),
        rank=rank,
    )


def number_codes(numbers: Numbers, *, decimals: int = 3) -> Label:
    """Distinct numbers as codes, ascending; NaN last."""
    values, codes = np.unique(np.round(numbers, decimals), return_inverse=True)  # NaN is one value, the greatest
    whole = [NOT_STATED if np.isnan(v) else int(v) if v.is_integer() else v for v in values.tolist()]
    return Label(codes=codes.reshape(-1).astype(np.int64), values=tuple(whole))


def chained(values: Numbers, *, tolerance: float) -> Codes:
    """Codes (n,) of groups of ``values`` (n,): a new group wherever neighbours in order are further apart."""
    order = np.argsort(values, kind="stable")
    codes = np.empty(len(values), dtype=np.int64)
    codes[order] = np.concatenate([[0], np.cumsum(np.diff(values[order]) > tolerance)]) if len(values) else 0
    return codes


def _numbers(items: Sequence[float | int | None]) -> Numbers:
    return np.fromiter((np.nan if v is None else v for v in items), dtype=np.float64, count=len(items))


def _coded(items: Sequence[Hashable], *, key: Callable[[Any], Any]) -> tuple[Codes, list[Any]]:
    """Codes and distinct values; values ascend by ``key``, None is last."""
    distinct = set(items)
    values: list[Any] = sorted((v for v in distinct if v is not None), key=key)
    if None in distinct:
        values.append(None)
    code = {value: k for k, value in enumerate(values)}
    return np.fromiter((code[v] for v in items), dtype=np.int64, count=len(items)), values


def _words(items: Sequence[Hashable], *, key: Callable[[Any], Any]) -> Label:
    codes, values = _coded(items, key=key)
    return Label(codes=codes, values=tuple(NOT_STATED if v is None else str(v) for v in values))


def _near(items: Sequence[float | None], *, tolerance: float) -> Label:
    """Numbers nearer than ``tolerance`` are one value: the least of them."""
    codes, values = _coded(items, key=float)
    stated = [v for v in values if v is not None]
    groups = chained(np.asarray(stated, dtype=np.float64), tolerance=tolerance)
    found: list[Value] = [stated[int(k)] for k in np.unique(groups, return_index=True)[1]]
    if len(stated) < len(values):
        groups = np.append(groups, len(found))
        found.append(NOT_STATED)
    return Label(codes=groups[codes], values=tuple(found))


def _diffusion(items: Sequence[Diffusion | None]) -> Label:
    """One value per b-value and direction; a contradictory statement says neither."""
    keys = [_weighting(d) for d in items]
    codes, values = _coded(keys, key=lambda v: v)
    stated = np.asarray([v for v in values if v is not None and len(v) == 5], dtype=np.float64).reshape(-1, 5)
    # Columns: isotropic or not, b-value, direction; split column by column until nothing splits any more.
    groups = split_by_columns(stated, tolerance=(0.5, _SAME_B, *[_SAME_DIRECTION] * 3))
    found: list[Value] = [float(stated[k][1]) for k in np.unique(groups, return_index=True)[1]]
    rest = len(values) - len(stated)
    if rest:
        groups = np.append(groups, [len(found)] * rest)
        found.append(NOT_STATED)
    return Label(codes=groups[codes], values=tuple(found))


def _weighting(diffusion: Diffusion | None) -> tuple[float, ...] | None:
    if diffusion is None or diffusion.problem is not None or plausible(diffusion.b_value) is None:
        return None
    direction = diffusion.direction_lps
    if direction is None or diffusion.b_value == 0:
        direction = (0.0, 0.0, 0.0)
    return (float(diffusion.isotropic), diffusion.b_value, *direction)


def split_by_columns(table: Numbers, *, tolerance: Sequence[float]) -> Codes:
    """Groups of the rows (n, m): apart where, among their like, a column leaves a space wider than its tolerance.

    Codes are given in order of the rows' first appearance in lexicographic order, so that row order does not matter.
    """
    count = len(table)
    groups = np.zeros(count, dtype=np.int64)
    for _ in range(_MOST_ROUNDS if count > 1 else 0):
        before = int(groups.max()) + 1
        for column, width in enumerate(tolerance):
            order = np.lexsort((table[:, column], groups))
            new = (np.diff(groups[order]) != 0) | (np.diff(table[order, column]) > width)
            groups[order] = np.concatenate([[0], np.cumsum(new)])
        if int(groups.max()) + 1 == before:
            break
    return groups


def _over_midnight(times: Numbers) -> Numbers:
    """Seconds since midnight made ascending where a series runs past it: no acquisition lasts twelve hours."""
    if len(times) and np.isfinite(times).any() and np.nanmax(times) - np.nanmin(times) > _DAY / 2:
        return np.where(times < _DAY / 2, times + _DAY, times)
    return times
