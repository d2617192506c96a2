"""Where in the head a haematoma lies, by a coarse rule that says when it is not certain. Knows no atlas, reads no HU.

A point is placed by how far it lies from the midline plane, how far back between the front and the back of the space
inside the skull, and how far below its top, all over the length of that space. The limits were set on synthetic heads of
real anatomy (`docs/decisions`), with bands between them in which nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ichor.arrays import Float64Array, Volume
from pipelines.brain import Intracranial
from pipelines.midline import Midline

SLAB_MM = 5.0
HALF_HEIGHT = 0.47  # of the length: from the widest level to the top
# Depth below the top: above the first, and in front, it is above the tentorium; below the second, and behind, under it.
TENTORIUM = (0.49, 0.57)
FRONT_OF_TENTORIUM, BEHIND_ITS_EDGE = 0.47, 0.52
SIDE_OF_BRAINSTEM = 0.16
DEEP_ASIDE, DEEP_BACK, DEEP_DOWN = 0.21, (0.33, 0.62), (0.30, 0.57)
LOBAR_ASIDE, LOBAR_BACK, LOBAR_DOWN = 0.25, (0.30, 0.66), 0.27


class Location(StrEnum):
    """What can be told."""

    LOBAR = "lobar"
    DEEP = "deep"
    INFRATENTORIAL = "infratentorial"
    SUPRATENTORIAL = "supratentorial, lobar or deep not certain"
    UNCERTAIN = "not certain, near the tentorium"
    UNKNOWN = "not certain"

    @property
    def infratentorial(self) -> bool | None:
        """None where it is not certain."""
        return None if self in (Location.UNCERTAIN, Location.UNKNOWN) else self is Location.INFRATENTORIAL


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadFrame:
    """The extent of the space inside the skull, mm in patient coordinates.

    Attributes
    ----------
    front, back : its ends at and above its longest level, as `Midline.behind` counts.
    top : z of its top; where the scan ends below, as an ellipsoid would go on.
    """

    midline: Midline
    front: float
    back: float
    top: float

    @classmethod
    def of(cls, volume: Volume, space: Intracranial, midline: Midline) -> HeadFrame:
        points = volume.to_lps(space.centres())
        y, z = midline.behind(points), points[:, 2]
        slabs = np.floor((z - z.min()) / SLAB_MM).astype(np.intp)
        lengths = [float(np.ptp(y[slabs == k])) if np.any(slabs == k) else 0.0 for k in range(int(slabs.max()) + 1)]
        longest = z.min() + (int(np.argmax(lengths)) + 0.5) * SLAB_MM
        front, back = (float(v) for v in np.percentile(y[z > longest - 10], (0.5, 99.5)))
        areas = np.count_nonzero(space.blocks_zyx, axis=(1, 2))
        last = areas[-1] if volume.normal_lps[2] > 0 else areas[0]
        missing = HALF_HEIGHT * (1 - np.sqrt(1 - min(last / areas.max(), 1.0)))
        top = float(np.percentile(z, 99.5)) + missing * (back - front)
        return cls(midline=midline, front=front, back=back, top=top)

    def place(self, point_lps: tuple[float, float, float]) -> tuple[float, float, float]:
        """(aside of the midline, back from the front, down from the top), each over the length."""
        point: Float64Array = np.asarray([point_lps])
        length = self.back - self.front
        aside = abs(float(self.midline.left_of(point)[0]))
        behind = float(self.midline.behind(point)[0])
        return aside / length, (behind - self.front) / length, (self.top - point_lps[2]) / length

    def locate(self, point_lps: tuple[float, float, float]) -> Location:
        """Of the centre of a region."""
        aside, back, down = self.place(point_lps)
        if back >= FRONT_OF_TENTORIUM and down >= TENTORIUM[0]:
            beside_brainstem = back < 0.6 and aside > SIDE_OF_BRAINSTEM
            certain = down >= TENTORIUM[1] and back >= BEHIND_ITS_EDGE and not beside_brainstem
            return Location.INFRATENTORIAL if certain else Location.UNCERTAIN
        if back < LOBAR_BACK[0] or back > LOBAR_BACK[1] or aside > LOBAR_ASIDE or down < LOBAR_DOWN:
            return Location.LOBAR
        if aside <= DEEP_ASIDE and DEEP_BACK[0] <= back <= DEEP_BACK[1] and DEEP_DOWN[0] <= down <= DEEP_DOWN[1]:
            return Location.DEEP
        return Location.SUPRATENTORIAL
