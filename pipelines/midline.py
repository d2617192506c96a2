"""The plane between left and right, from the shape of the space inside the skull. Knows no lesion.

In patient coordinates (LPS: x grows to the patient's left), so the order of rows, columns and slices never matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ichor.arrays import Float64Array, Volume
from pipelines.brain import Intracranial

MOST_TURN = 1.0  # dx/dy: 45 degrees. An outline that is longer the other way is told from no head turned by more
MOST_LEAN = 0.6  # a head bent aside by more than 31 degrees is rather a wrong fit
LEAST_ELONGATION = 1.1  # a head is longer than wide; else its direction cannot be told from its outline
TURNS = (-MOST_TURN, -0.5 * MOST_TURN, 0.0, 0.5 * MOST_TURN, MOST_TURN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Midline:
    """Plane x = centre_x + turn (y - centre_y) + lean (z - centre_z), in LPS mm."""

    centre: Float64Array
    turn: float
    lean: float

    def left_of(self, points_lps: Float64Array) -> Float64Array:
        """(n,) distance along x from the plane, mm: positive on the patient's left."""
        x, y, z = (points_lps - self.centre).T
        distance: Float64Array = x - self.turn * y - self.lean * z
        return distance

    def behind(self, points_lps: Float64Array) -> Float64Array:
        """(n,) how far back along the direction of the head, mm, from its middle."""
        x, y, _ = (points_lps - self.centre).T
        distance: Float64Array = (self.turn * x + y) / np.hypot(1.0, self.turn)
        return distance


def midlines(volume: Volume, space: Intracranial) -> tuple[Midline, ...]:
    """The plane, or all that it may be: of every turn where the outline is too round to tell, none where it is odd.

    The turn is that of the long axis of the outline, the lean where the middles of the cross-sections lie.
    """
    points = volume.to_lps(space.centres())
    centre: Float64Array = points.mean(axis=0)
    x, y, z = (points - centre).T
    height = float(z @ z)
    found = []
    for turn in _turns(x, y):
        lean = float((x - turn * y) @ z) / height if height > 0 else 0.0
        if abs(lean) > MOST_LEAN:
            return ()
        found.append(Midline(centre=centre, turn=turn, lean=lean))
    return tuple(found)


def _turns(x: Float64Array, y: Float64Array) -> tuple[float, ...]:
    """dx/dy of the long axis of centred points: the one, or all that are plausible, or none that is."""
    values, vectors = np.linalg.eigh(np.cov(np.stack([x, y])))
    if values[1] < LEAST_ELONGATION**2 * values[0]:
        return TURNS
    along_x, along_y = (float(v) for v in vectors[:, 1])
    return (along_x / along_y,) if abs(along_x) <= MOST_TURN * abs(along_y) else ()
