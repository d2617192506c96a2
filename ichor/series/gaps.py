"""Spacings between slice positions that are too wide. Not a judgement whether the series is short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAME_PLACE_MM = 0.01  # nearer than this is the same slice position: decimals of a DS round by less
_GAP_FACTOR = 1.5
_GAP_NEIGHBOURS = 4
_MOST_MISSING = 10_000  # positions named in one stack: a hostile header can put a slice a light year away


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A spacing that is too wide: ``missing`` are the positions (mm along the normal) that would fill it evenly.

    Where they are too many to be named, those nearest to ``before`` at the usual spacing; ``unnamed`` says how many
    more there would be.
    """

    before: float
    after: float
    missing: tuple[float, ...]
    unnamed: int = 0


def slice_gaps(positions: Sequence[float], thickness: Sequence[float | None]) -> tuple[Gap, ...]:
    """Gaps of ascending ``positions`` (n,), mm, of slices as thick as ``thickness`` (n,).

    A gap is a spacing over 1.5 times the median of the four spacings nearest to it, unless slice thickness changes
    alike (docs/contract.md): a spacing measured in thicknesses of the slices beside it must be too wide as well.
    At most 10,000 missing positions are named; each gap names at least one.
    """
    spacings = np.diff(np.asarray(positions, dtype=np.float64))
    # Fast way for the usual case: no spacing can be a gap when the widest is not 1.5 times the narrowest.
    if len(spacings) < 2 or spacings.max() <= _GAP_FACTOR * spacings.min():
        return ()
    usual = _usual(spacings)
    wide = spacings > _GAP_FACTOR * usual + SAME_PLACE_MM
    if all(value is not None and value > 0 for value in thickness):
        thick = np.asarray(thickness, dtype=np.float64)
        scaled = spacings / np.maximum(thick[:-1], thick[1:])
        wide &= scaled > _GAP_FACTOR * _usual(scaled)
    gaps = []
    budget = _MOST_MISSING
    for i in np.flatnonzero(wide).tolist():
        # No spacing is narrower than what tells two places apart.
        absent = max(1, round(float(spacings[i] / max(usual[i], SAME_PLACE_MM))) - 1)
        named = max(1, min(absent, budget))
        budget -= named
        step = float(spacings[i]) / (absent + 1)
        start = float(positions[i])
        missing = tuple(round(start + step * (k + 1), 2) for k in range(named))
        gaps.append(Gap(before=start, after=float(positions[i + 1]), missing=missing, unnamed=absent - named))
    return tuple(gaps)


def _usual(spacings: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Median of the four spacings nearest to each, itself excluded; the lower index first where two are as near."""
    count = len(spacings)
    near = min(_GAP_NEIGHBOURS, count - 1)
    # Every window of near + 1 neighbours that holds i and is as central as the ends allow.
    start = np.clip(np.arange(count) - near // 2, 0, count - near - 1)
    window = start[:, None] + np.arange(near + 1)
    others = window[window != np.arange(count)[:, None]].reshape(count, near)
    usual: npt.NDArray[np.float64] = np.median(spacings[others], axis=1)
    return usual
