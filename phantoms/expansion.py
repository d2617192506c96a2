"""Which haematomas expand: signs on the first scan, and the law that links them to growth. Draws no picture.

The signs are defined as published; how often they occur and how much they weigh is ours, set so that there is
something to learn: the best reader possible, who knows this law and sees every sign, reaches an area under the ROC
curve of 0.874 (`ceiling_auc`; `docs/phantoms.md`). Nothing about real patients can be concluded from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Change of the log odds by each sign. Published odds ratios are about 2-6, so most of these are at their upper end:
# they stand for several clinical predictors that a picture does not show.
WEIGHTS: Mapping[str, float] = {
    "irregular": 1.5,  # margin: Barras et al., Stroke 2009
    "black_hole": 1.8,  # Li et al., Stroke 2016
    "blend": 1.8,  # Li et al., Stroke 2015
    "island": 2.0,  # Li et al., Stroke 2017
    "swirl": 1.2,  # Selariu et al., Stroke 2012
    "early": 1.3,  # scanned at most 3 h after onset: Al-Shahi Salman et al., Lancet Neurol 2018
}
INTERCEPT = -2.9
PER_LOG_VOLUME = 0.45  # per e-fold of the volume beyond 15 mL, within 1-60 mL
EARLY_HOURS = 3.0
# A smaller haematoma has no room for a hole, two halves or islands that a slice of 5 mm would show.
ROOM_ML = 4.0
EXPANSION_ML, EXPANSION_FRACTION = 6.0, 0.33


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What the first scan shows of a haematoma.

    Attributes
    ----------
    irregular : lobulated, jagged margin instead of a smooth one.
    black_hole : a dark spot inside, enclosed by blood, at least 28 HU darker.
    blend : two parts with a sharp border, at least 18 HU apart.
    island : at least three small bleeds beside the main one.
    swirl : dark streaks of fresh blood within.
    onset_hours : from onset to scan; late blood is denser and has more oedema around it.
    """

    irregular: bool = False
    black_hole: bool = False
    blend: bool = False
    island: bool = False
    swirl: bool = False
    onset_hours: float = 8.0

    def told(self) -> dict[str, bool | float]:
        """By name."""
        names = ("irregular", "black_hole", "blend", "island", "swirl")
        return {**{name: bool(getattr(self, name)) for name in names}, "onset_hours": self.onset_hours}


def draw_signs(rng: np.random.Generator, volume_ml: float) -> Signs:
    """Signs of a haematoma of this volume."""
    chance = rng.random(5)
    hours = float(np.clip(np.exp(rng.normal(np.log(4.5), 0.9)), 0.5, 48.0))
    room = volume_ml >= ROOM_ML
    return Signs(
        irregular=bool(chance[0] < 0.40),
        black_hole=bool(room and chance[1] < 0.18),
        blend=bool(room and chance[2] < 0.18),
        island=bool(room and chance[3] < 0.18),
        swirl=bool(room and chance[4] < 0.25),
        onset_hours=round(hours, 2),
    )


def expansion_probability(signs: Signs, volume_ml: float) -> float:
    """The law: a logistic function of the signs and the logarithm of the volume."""
    z = INTERCEPT + PER_LOG_VOLUME * float(np.log(np.clip(volume_ml, 1.0, 60.0) / 15.0))
    z += sum(WEIGHTS[name] for name in WEIGHTS if name != "early" and getattr(signs, name))
    z += WEIGHTS["early"] if signs.onset_hours <= EARLY_HOURS else 0.0
    return float(1 / (1 + np.exp(-z)))


def draw_growth(rng: np.random.Generator, volume_ml: float, *, expands: bool) -> float:
    """Volume on a follow-up scan; expansion is more than 6 mL or more than 33 %."""
    if not expands:
        most = min(EXPANSION_ML, EXPANSION_FRACTION * volume_ml)
        return volume_ml + float(rng.uniform(-0.3, 0.6)) * most
    least = max(0.45 * volume_ml, 1.0)
    return volume_ml + least + float(rng.exponential(0.35)) * volume_ml


def ceiling_auc(*, seed: int = 0, cases: int = 200_000) -> tuple[float, float]:
    """Area under the ROC curve of the law itself over volumes as drawn for heads, and how many expand: (AUC, fraction)."""
    rng = np.random.default_rng([seed, 12])
    volumes = np.exp(rng.uniform(np.log(0.3), np.log(80.0), cases))
    p = np.array([expansion_probability(draw_signs(rng, float(v)), float(v)) for v in volumes])
    expands = rng.random(cases) < p
    order = np.argsort(p, kind="stable")
    _, group, sizes = np.unique(p[order], return_inverse=True, return_counts=True)
    middle_rank = (np.cumsum(sizes) - 0.5 * (sizes - 1))[group]
    positive = int(expands.sum())
    above = float(middle_rank[expands[order]].sum()) - positive * (positive + 1) / 2
    return above / (positive * (cases - positive)), positive / cases
