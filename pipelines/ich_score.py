"""The items of the ICH score that imaging gives (Hemphill et al. 2001, doi:10.1161/01.STR.32.4.891). Adds up no score.

The score also needs the Glasgow Coma Scale and the age, and blood in the ventricles, which is not assessed: neither how far
a haematoma borders on the dark ventricle nor how much of its mirror image lies in it told the synthetic heads with such
blood from those without.
"""

from __future__ import annotations

from collections.abc import Sequence

from ichor.types import Statement
from pipelines.regions import Lesion
from pipelines.terms import FINDING

LARGE_ML = 30.0


def items(lesions: Sequence[Lesion]) -> tuple[str, ...]:
    """In words, of all haematomas together, the largest first; their place is that of the largest."""
    total = sum(one.mesh_ml for one in lesions)
    below = lesions[0].location.infratentorial
    return (
        f"volume of {LARGE_ML:.0f} mL or more: {'yes' if total >= LARGE_ML else 'no'} ({total:.1f} mL, mesh)",
        f"infratentorial: {'not certain' if below is None else 'yes, by a coarse rule' if below else 'no, by a coarse rule'}",
        "intraventricular: not assessed",
    )


def statements(lesions: Sequence[Lesion]) -> tuple[Statement, ...]:
    """One for each item."""
    return tuple(Statement(code=FINDING, text=f"item of the ICH score, {item}") for item in items(lesions))
