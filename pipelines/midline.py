"""The plane between left and right: that by which the skull and what it encloses are most like their mirror image. Knows no lesion.

In patient coordinates (LPS: x grows to the patient's left), so the order of rows, columns and slices never matters.

The search stays near the long axis of the outline, since of an ellipsoid the plane across is as symmetric; where the
outline is too round for that, the plane must be far more symmetric than every other. Measured in
`docs/decisions/0021-heads-that-are-not-measured.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize

from ichor.arrays import Float32Array, Float64Array, Volume
from pipelines.brain import Intracranial
from pipelines.sampling import index_of

MOST_TURN = 1.0  # dx/dy: 45 degrees
MOST_LEAN = 0.6  # a head bent aside by more than 31 degrees is rather a wrong fit
LEAST_ELONGATION = 1.1  # else which of two axes goes from front to back cannot be told from the outline
TURNS = (-MOST_TURN, -0.5 * MOST_TURN, 0.0, 0.5 * MOST_TURN, MOST_TURN)
NEAR_AXIS_DEG, STEP_DEG = 30, 6
LEANS = (-0.2, 0.0, 0.2)
# Mean square of what differs from the mirror image, over that of the image.
MOST_UNLIKE = 0.25
CLEARLY_MORE_UNLIKE = 0.1
MARGIN_MM = 5.0

HALF_BOX_MM = (110.0, 130.0, 110.0)
GRID_MM, BLUR_MM = 5.0, 5.0
BEYOND_MM = 10.0  # above and below the space inside the skull
MOST_POINTS = 3000
LEAST_SEEN = 0.4  # of the points, whose mirror images were scanned
SCALE = np.array([0.05, 0.05, 2.0])  # angle (rad), lean, aside (mm): first steps of the last search
FINE, MOST_TRIES = 0.05, 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Midline:
    """Plane x = centre_x + turn (y - centre_y) + lean (z - centre_z), in LPS mm."""

    centre: Float64Array
    turn: float
    lean: float

    def left_of(self, points_lps: Float64Array) -> Float64Array:
        """(n,) distance from the plane, mm: positive on the patient's left."""
        x, y, z = (points_lps - self.centre).T
        distance: Float64Array = (x - self.turn * y - self.lean * z) / np.sqrt(1 + self.turn**2 + self.lean**2)
        return distance

    def behind(self, points_lps: Float64Array) -> Float64Array:
        """(n,) how far back along the direction of the head, mm, from its middle."""
        x, y, _ = (points_lps - self.centre).T
        distance: Float64Array = (self.turn * x + y) / np.hypot(1.0, self.turn)
        return distance


def midlines(volume: Volume, space: Intracranial) -> tuple[Midline, ...]:
    """The plane, or all that it may be: of every turn where no turn is clearly the best, none where the head is odd."""
    points = volume.to_lps(space.centres())
    centre: Float64Array = points.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(points[:, :2].T))
    axis = float(np.rad2deg(np.arctan2(vectors[0, 1], vectors[1, 1])))
    round_ = bool(values[1] < LEAST_ELONGATION**2 * values[0])
    reach = 90 - STEP_DEG if round_ else NEAR_AXIS_DEG
    mirror = _Mirror(volume, space, centre=centre, height=float(np.abs(points[:, 2] - centre[2]).max()) + BEYOND_MM)
    unlike = {
        angle: min(mirror.unlike(np.array([np.deg2rad(angle), lean, 0.0])) for lean in LEANS)
        for angle in np.arange(axis - reach, axis + reach + STEP_DEG, STEP_DEG)
    }
    first = min(unlike, key=unlike.__getitem__)
    plane, least = mirror.best_near(np.deg2rad(first))
    apart = {angle: abs((angle - first + 90) % 180 - 90) for angle in unlike}
    others = [unlike[angle] for angle in unlike if apart[angle] >= NEAR_AXIS_DEG]
    if round_ and min(others) < least + CLEARLY_MORE_UNLIKE:
        return tuple(
            Midline(centre=centre, turn=turn, lean=mirror.least_leaning(float(np.arctan(turn)))) for turn in TURNS
        )
    angle, lean, aside = plane
    off_axis = abs((np.rad2deg(angle) - axis + 90) % 180 - 90)
    turn = float(np.tan(angle))
    odd = least > MOST_UNLIKE or abs(turn) > MOST_TURN or abs(lean) > MOST_LEAN
    if odd or (not round_ and off_axis > NEAR_AXIS_DEG):
        return ()
    return (Midline(centre=centre + aside * _across(plane), turn=turn, lean=float(lean)),)


def _across(plane: Float64Array) -> Float64Array:
    """Unit vector from the plane to the left."""
    across = np.array([1.0, -np.tan(plane[0]), -plane[1]])
    unit: Float64Array = across / np.linalg.norm(across)
    return unit


class _Mirror:
    """A head as +1 inside the skull and -1 where bone is, blurred, on an even grid about ``centre``.

    A plane is (angle of its turn, lean, distance of the centre from it in mm).
    """

    def __init__(self, volume: Volume, space: Intracranial, *, centre: Float64Array, height: float) -> None:
        half = np.minimum(HALF_BOX_MM, (np.inf, np.inf, height))
        size = 2 * np.ceil(half / GRID_MM).astype(int) + 1
        self._low: Float64Array = -(size // 2) * GRID_MM
        grid = np.indices(tuple(size.tolist())).reshape(3, -1).T * GRID_MM + self._low
        index = index_of(volume, grid + centre).T
        scanned = (index[0] > -0.5) & (index[0] < len(volume.origins_lps) - 0.5)
        blocks = space.blocks_zyx.astype(np.float32) - space.bone_zyx
        at = (index + 0.5) / np.array(space.block)[:, None] - 0.5
        value = ndimage.map_coordinates(blocks, at, order=1, output=np.float32) * scanned
        blur = BLUR_MM / GRID_MM
        share = ndimage.gaussian_filter(scanned.reshape(size).astype(np.float32), blur)
        self._image: Float32Array = ndimage.gaussian_filter(value.reshape(size), blur) / np.maximum(share, 1e-3)
        self._scanned = scanned.reshape(size)
        chosen = np.flatnonzero((np.abs(self._image.ravel()) > 0.05) & scanned)
        chosen = chosen[:: max(1, len(chosen) // MOST_POINTS)]
        self._points: Float64Array = grid[chosen]
        self._values = self._image.ravel()[chosen]

    def unlike(self, plane: Float64Array) -> float:
        """Mean square difference from the mirror image, over the mean square; infinite where too little of it was scanned."""
        across = _across(plane)
        mirrored = self._points - 2 * np.outer(self._points @ across - plane[2], across)
        index = ((mirrored - self._low) / GRID_MM).T
        seen = ndimage.map_coordinates(self._scanned, index, order=0, mode="nearest")
        if not np.count_nonzero(seen) > LEAST_SEEN * len(seen):
            return np.inf
        there = ndimage.map_coordinates(self._image, index[:, seen], order=1)
        here = self._values[seen]
        return float(np.mean((there - here) ** 2) / np.mean(here**2))

    def least_leaning(self, angle: float) -> float:
        """Of `LEANS` that by which a turn is the most symmetric."""
        return min(LEANS, key=lambda lean: self.unlike(np.array([angle, lean, 0.0])))

    def best_near(self, angle: float) -> tuple[Float64Array, float]:
        """The plane from which no small step leads to a better one, and how unlike the mirror image is."""
        start = np.array([angle, self.least_leaning(angle), 0.0]) / SCALE
        found = optimize.minimize(
            lambda scaled: self.unlike(scaled * SCALE), start, method="Nelder-Mead",
            options={
                "initial_simplex": [start, *(start + np.eye(3))], "xatol": FINE, "fatol": 1e-4, "maxfev": MOST_TRIES,
            },
        )  # fmt: skip
        return found.x * SCALE, float(found.fun)
