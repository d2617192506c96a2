"""b-values in the words of the field: which count as not weighted, which are one shell. Knows no direction and no image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    found = []
    left = [volume for volume, b in enumerate(b_values) if b > B0_LIMIT]
    while left:
        highest = float(max(b_values[volume] for volume in left))
        least = (1 - SHELL_TOLERANCE) * highest
        found.append(Shell(b_value=highest, volumes=tuple(volume for volume in left if b_values[volume] >= least)))
        left = [volume for volume in left if b_values[volume] < least]
    b0 = tuple(volume for volume, b in enumerate(b_values) if b <= B0_LIMIT)
    if b0:
        found.append(Shell(b_value=0.0, volumes=b0))
    return tuple(reversed(found))
