"""The same head hours later: grown haematomas, another position, another scan. Writes no file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from phantoms.acquisition import draw_scanner
from phantoms.bleeds import Haematoma
from phantoms.expansion import EXPANSION_FRACTION, draw_growth
from phantoms.head import HeadModel
from phantoms.person import Person


def followed_up(model: HeadModel, *, seed: int) -> tuple[HeadModel, float]:
    """The head at a follow-up scan and the hours between the scans.

    The largest haematoma grows by more than a third where `model.expands`, and by at most a fifth otherwise; the
    others change by at most a tenth. Pose, noise and everything else of the scan are drawn anew from `seed`.

    Raises
    ------
    ValueError
        A haematoma that must expand has no room to.
    """
    rng = np.random.default_rng([model.seed, seed, 8])
    hours = float(np.round(rng.uniform(6, 48), 2))
    scanner = draw_scanner(rng)
    later = []
    for one in model.haematomas:
        if one is model.largest:
            wanted = draw_growth(rng, one.wanted_ml, expands=bool(model.expands))
            least = one.wanted_ml * (1 + EXPANSION_FRACTION + 0.05) if model.expands else one.wanted_ml
        else:
            wanted = one.wanted_ml * float(rng.uniform(0.95, 1.1))
            least = one.wanted_ml
        later.append(_grown(model.person, one, wanted_ml=wanted, least_ml=least))
    return replace(model, scanner=scanner, haematomas=tuple(later), expands=None, scan=seed + 1), hours


def _grown(person: Person, one: Haematoma, *, wanted_ml: float, least_ml: float) -> Haematoma:
    """At the wanted volume, or as near to it as there is room, but not below the least."""
    for share in (1.0, 0.6, 0.3):
        try:
            return one.grown(person, least_ml + share * (wanted_ml - least_ml))
        except ValueError:
            continue
    return one.grown(person, least_ml)
