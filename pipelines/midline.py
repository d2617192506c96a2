"""The plane between left and right, from the shape of the space inside the skull. Knows no lesion.

In patient coordinates (LPS: x grows to the patient's left), so the order of rows, columns and slices never matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ichor.arrays import Float64Array, Volume
from pipelines.brain import Intracranial

MOST_SLOPE = 0.6  # a head turned or bent by more than 31 degrees is rather a wrong fit
LEAST_ELONGATION = 1.1  # a head is longer than wide; else its direction cannot be told from its outline


@dataclass(frozen=True, slots=True, kw_only=True)
class Midline:
    """Plane x = centre_x + turn (y - centre_y) + lean (z - centre_z), in LPS mm."""

    centre: Float64Array
    turn: float
    lean: float

    @classmethod
    def of(cls, volume: Volume, space: Intracranial) -> Midline:
        """Turn from the long axis of the outline, lean from where the middles of the cross-sections lie."""
        points = volume.to_lps(space.centres())
        centre: Float64Array = points.mean(axis=0)
        x, y, z = (points - centre).T
        turn = _long_axis_slope(x, y)
        rest = x - turn * y
        height = float(z @ z)
        lean = float(rest @ z) / height if height > 0 else 0.0
        return cls(centre=centre, turn=turn, lean=lean if abs(lean) <= MOST_SLOPE else 0.0)

    def left_of(self, points_lps: Float64Array) -> Float64Array:
        """(n,) distance along x from the plane, mm: positive on the patient's left."""
        x, y, z = (points_lps - self.centre).T
        distance: Float64Array = x - self.turn * y - self.lean * z
        return distance


def _long_axis_slope(x: Float64Array, y: Float64Array) -> float:
    """dx/dy of the long axis of centred points; 0 where it cannot be told."""
    values, vectors = np.linalg.eigh(np.cov(np.stack([x, y])))
    along = vectors[:, 1]
    if values[1] < LEAST_ELONGATION**2 * values[0] or abs(along[1]) < 1e-6:
        return 0.0
    slope = float(along[0] / along[1])
    return slope if abs(slope) <= MOST_SLOPE else 0.0
