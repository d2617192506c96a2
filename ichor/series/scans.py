"""Whether the slices of one stack are of two scans that lie between each other. Looks at no pixels, decides no array."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ichor.series.grid import Grid
from ichor.series.planes import acquisition_of

_FEWEST = 3  # slices of a scan: fewer have no spacing to be even in
_UNEVEN = 0.1  # of the median spacing
_SHARED = 0.5  # of the shorter range: contiguous ranges of one examination share a slice at most


def two_scans(grid: Grid) -> bool:
    """Slices of two reconstruction kernels, or of two acquisitions that together are uneven, each an even stack alone.

    An interleaved acquisition puts its second half exactly between the slices of the first; a second scan of one place
    with the same kernel and that offset looks the same and is not told.
    """
    if not grid.arranged or grid.axes or len(grid.stacks) != 1:
        return False
    order = [grid.planes[k] for k in grid.cells.ravel().tolist() if k >= 0]
    positions = grid.stacks[0].positions
    if len(order) != len(positions):
        return False
    if _lie_within_each_other(positions, [plane.instance.kernel for plane in order]):
        return True
    acquisitions = [acquisition_of(plane.instance, plane.slot) for plane in order]
    return not _even(positions) and _lie_within_each_other(positions, acquisitions)


def _lie_within_each_other(positions: Sequence[float], scans: Sequence[str | int | None]) -> bool:
    """Whether groups of slices are each even and share a range."""
    groups: defaultdict[str | int, list[float]] = defaultdict(list)
    for position, scan in zip(positions, scans, strict=True):
        if scan is not None:
            groups[scan].append(position)
    whole = [group for group in groups.values() if len(group) >= _FEWEST and _even(group)]
    if len(whole) < 2 or sum(map(len, whole)) < len(positions):
        return False
    whole.sort(key=lambda group: group[0])
    for k, a in enumerate(whole):
        for b in whole[k + 1 :]:
            shared = min(a[-1], b[-1]) - max(a[0], b[0])
            if shared > _SHARED * min(a[-1] - a[0], b[-1] - b[0]):
                return True
    return False


def _even(positions: Sequence[float]) -> bool:
    steps = np.diff(np.asarray(positions))
    return bool(len(steps)) and bool(np.ptp(steps) <= _UNEVEN * np.median(steps))
