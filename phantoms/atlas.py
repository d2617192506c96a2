"""The average adult brain, ICBM 152 2009a (symmetric), as fields at any point. Draws no density and no variation.

Made by `phantoms.atlas_build` from the tissue maps in nilearn's wheel; source and licence in `phantoms/data/NOTICE`.
Points are millimetres in LPS with the origin in the anterior commissure, which is the template's with x and y negated.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from phantoms.fields import F32

DATA = Path(__file__).parent / "data" / "icbm152.npz"
STEP_MM = 1.5
# z from the medulla up, y from the forehead to the back, x from the midline to the left.
FIRST_MM = (-72.0, -96.0, 0.0)
SHAPE_ZYX = (122, 160, 66)
CLIP_MM = 40.0
GREY, WHITE, CAVITY, VAULT, VENTRICLES = range(5)


def tissues(q: F32) -> tuple[F32, F32]:
    """Grey and white matter, fractions 0..1 each, at points (3, n); what is missing to 1 is fluid."""
    values = _look_up(q, (GREY, WHITE))
    return values[0] * np.float32(1 / 255), values[1] * np.float32(1 / 255)


def depths(q: F32, *fields: int) -> tuple[F32, ...]:
    """Depth in mm below the surfaces of `fields` (CAVITY, VAULT, VENTRICLES), negative outside, within 40 mm.

    CAVITY is the brain with its fluid and 2 mm more; VAULT the cavity with the hollows of the skull base filled.
    """
    return tuple(v * np.float32(2 * CLIP_MM / 255) - np.float32(CLIP_MM) for v in _look_up(q, fields))


@lru_cache(maxsize=1)
def _maps() -> npt.NDArray[np.float32]:
    with np.load(DATA) as kept:
        return np.ascontiguousarray(kept["maps"].astype(np.float32).reshape(5, -1))


def _look_up(q: F32, fields: tuple[int, ...]) -> list[F32]:
    """Linear between the template's points; the nearest value outside."""
    nz, ny, nx = SHAPE_ZYX
    u = (np.abs(q[0]) - np.float32(FIRST_MM[2])) * np.float32(1 / STEP_MM)
    v = (q[1] - np.float32(FIRST_MM[1])) * np.float32(1 / STEP_MM)
    w = (q[2] - np.float32(FIRST_MM[0])) * np.float32(1 / STEP_MM)
    u, v, w = (np.clip(t, 0, np.float32(n - 1.001)) for t, n in ((u, nx), (v, ny), (w, nz)))
    i, j, k = u.astype(np.int32), v.astype(np.int32), w.astype(np.int32)
    u -= i
    v -= j
    w -= k
    at = (k * ny + j) * nx + i
    out: list[F32] = []
    maps = _maps()
    for field in fields:
        plane = maps[field]
        levels = []
        for up in (0, ny * nx):
            rows = []
            for back in (up, up + nx):
                low = plane[at + back]
                rows.append(low + u * (plane[at + (back + 1)] - low))
            levels.append(rows[0] + v * (rows[1] - rows[0]))
        out.append(levels[0] + w * (levels[1] - levels[0]))
    return out
