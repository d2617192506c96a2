"""b-values in the words of the field: which count as not weighted, which are one shell. Knows no direction and no image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

B0_LIMIT = 5.0  # s/mm2: up to here an image counts as not diffusion weighted, and a direction means nothing
SHELL_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """Volumes of one b-value: ``volumes`` index the b-values. ``b_value`` is the highest of them, 0 for b0, s/mm2."""

    b_value: float
    volumes: tuple[int, ...]


def shells(b_values: Sequence[float]) -> tuple[Shell, ...]:
    """Volumes by b-value, ascending: b0 (up to 5 s/mm2), then those within 5 % of the highest of their shell.

    Volumes are given to the shell of the highest b-value first, then to that of the highest left, and so on.
    """
    b = np.asarray(b_values, dtype=np.float64)
    found = []
    left = b > B0_LIMIT
    while left.any():
        highest = float(b[left].max())
        shell = left & (b >= (1 - SHELL_TOLERANCE) * highest)
        found.append(Shell(b_value=highest, volumes=tuple(np.flatnonzero(shell).tolist())))
        left &= ~shell
    if (b <= B0_LIMIT).any():
        found.append(Shell(b_value=0.0, volumes=tuple(np.flatnonzero(b <= B0_LIMIT).tolist())))
    return tuple(reversed(found))
