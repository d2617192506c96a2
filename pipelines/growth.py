"""How much blood more, and whether the rule calls it expansion: numbers of two scans and their words. Compares no images.

Expansion is growth by more than 6 mL or by more than 33 % (doi:10.1038/s41746-025-02213-w).
"""

from __future__ import annotations

from dataclasses import dataclass

EXPANSION_ML, EXPANSION_PERCENT = 6.0, 33.0
RULE = "more than 6 mL or more than 33 %"


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Volumes in mL, all haematomas together; ``unsure_*``: seen in that scan, too small or faint to be called one."""

    before: float
    now: float
    unsure_before: float = 0.0
    unsure_now: float = 0.0

    @property
    def unsure(self) -> bool:
        return self.unsure_before > 0 or self.unsure_now > 0

    @property
    def seen_before(self) -> float:
        return self.before + self.unsure_before

    @property
    def seen_now(self) -> float:
        return self.now + self.unsure_now

    @property
    def ml(self) -> float:
        """Of all that was seen."""
        return self.seen_now - self.seen_before

    @property
    def percent(self) -> float | None:
        """Of what was there; None where nothing was."""
        return 100 * self.ml / self.seen_before if self.seen_before > 0 else None

    @property
    def expansion(self) -> bool:
        """By the rule, of all that was seen."""
        return _expanded(self.seen_before, self.seen_now)

    @property
    def certain(self) -> bool:
        """Is the answer of the rule the same whether what was seen but not called was blood or not?"""
        befores, nows = (self.before, self.seen_before), (self.now, self.seen_now)
        return len({_expanded(before, now) for before in befores for now in nows}) == 1


def _expanded(before: float, now: float) -> bool:
    more = now - before
    return more > EXPANSION_ML or (before > 0 and 100 * more / before > EXPANSION_PERCENT)


def earlier_by(hours: float) -> str:
    """In words."""
    return f"{hours:.1f} h earlier" if hours >= 1 else f"{60 * hours:.0f} min earlier"


def unsure_words(growth: Growth) -> str:
    parts = [
        f"{ml:.1f} mL {which}" for ml, which in ((growth.unsure_before, "then"), (growth.unsure_now, "now")) if ml > 0
    ]
    return f", {' and '.join(parts)} seen but not called a haematoma" if parts else ""
