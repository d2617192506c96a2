"""The items of the ICH score that imaging gives (Hemphill et al. 2001, doi:10.1161/01.STR.32.4.891). Adds up no score.

The score also needs the Glasgow Coma Scale and the age, and blood in the ventricles, which is not assessed: neither how far
a haematoma borders on the dark ventricle nor how much of its mirror image lies in it told the synthetic heads with such
blood from those without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ichor.types import Statement
from pipelines.regions import Lesion
from pipelines.terms import FINDING

LARGE_ML = 30.0


def items(lesions: Sequence[Lesion], *, whole: bool) -> tuple[str, ...]:
    """In words, of all haematomas together; ``whole``: nothing of them was missed by the scan."""
    total = sum(one.mesh_ml for one in lesions)
    # Not rounded up to what it is said not to reach.
    large, shown = total >= LARGE_ML, math.floor(10 * total) / 10
    below = [one.location.infratentorial for one in lesions]
    return (
        f"volume of {LARGE_ML:.0f} mL or more: {'yes' if large else 'no' if whole else 'not certain, part is missing'} "
        f"({shown:.1f} mL, mesh)",
        f"infratentorial: {_infratentorial(below)}",
        "intraventricular: not assessed",
    )


def _infratentorial(below: Sequence[bool | None]) -> str:
    if True in below:
        which = [n for n, one in enumerate(below, start=1) if one]
        named = f" (haematoma {', '.join(map(str, which))})" if len(below) > 1 else ""
        return f"yes, by a coarse rule{named}"
    return "not certain" if None in below else "no, by a coarse rule"


def statements(lesions: Sequence[Lesion], *, whole: bool) -> tuple[Statement, ...]:
    """One for each item."""
    return tuple(Statement(code=FINDING, text=f"item of the ICH score, {item}") for item in items(lesions, whole=whole))
