"""One synthetic adult head as a continuous function: Hounsfield units at any point. No bleed, no scanner.

Nominal coordinates are those of `phantoms.atlas`: millimetres in LPS, origin in the anterior commissure, x to the
left, y to the back, z upwards. A person's own size, skew and bumps are a map from the head's points to nominal ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms.brain import Displace, brain_hu
from phantoms.fields import (
    F32,
    FAR_MM,
    as_point,
    both,
    ellipsoid,
    inside,
    mirror,
    near_ellipsoid,
    paint,
    ramp,
    union,
)
from phantoms.outside import skull_base, soft_tissue
from phantoms.person import Person, nominal
from phantoms.walls import canal, skull_depths


@dataclass(frozen=True, slots=True)
class Tissue:
    """The head at n points.

    Attributes
    ----------
    hu : (n,).
    depth : (n,) mm below the brain's envelope, negative outside the cavity.
    ventricle : (n,) signed distance in mm to the ventricles, negative inside; None where no point is in the head.
    """

    hu: F32
    depth: F32
    ventricle: F32 | None


def tissue(person: Person, xyz: F32, *, displace: Displace | None = None) -> Tissue:
    """Evaluate the head at points.

    Parameters
    ----------
    person : who.
    xyz : (3, n) float32 points of the head frame, mm.
    displace : maps nominal points (3, n) and depth (n,) to the points whose brain has come to lie there (mass effect).
    """
    n = xyz.shape[1]
    hu = np.full(n, -1000, np.float32)
    depth = np.full(n, -1000, np.float32)
    x, y, z = xyz
    near = np.flatnonzero((x * x / 100**2 + (y - 4) ** 2 / 126**2 < 1) & (z < 108))
    if near.size == 0:
        return Tissue(hu, depth, None)
    q = nominal(person, np.ascontiguousarray(xyz[:, near]))
    low = float(q[2].min())
    cavity, vault = skull_depths(q)
    waves = person.thickness(q)
    thick = np.float32(person.skull) * (
        np.float32(0.8) + np.float32(0.45) * ((q[1] - 6) / 98) ** 2 + np.float32(0.12) * waves
    )
    # The roofs of the orbits are the thinnest bone of the skull.
    thick = thick * (np.float32(1) - np.float32(0.5) * ramp(q[2], -10, -24) * ramp(q[1], -10, -24))
    thick = np.maximum(thick, np.float32(2.2))
    outer = -vault - thick
    head = outer - np.float32(person.scalp) * (np.float32(1) + np.float32(0.1) * waves)
    mirrored = mirror(q)
    muscle_pad = ellipsoid(mirrored, (65, -18, -16), (17, 36, 42)) if low < 40 else None
    if muscle_pad is not None:
        head = union(head, muscle_pad - np.float32(5), soft=6)
    if low < 20:
        head = union(head, ellipsoid(q, (0, -45, -66), (66, 50, 70)), soft=12)
        head = union(head, near_ellipsoid(q, (0, -96, -56), (11, 16, 20)), soft=6)
        neck = np.hypot(q[0] / 60, (q[1] - 32) / 66) * 60 - np.float32(60)
        head = union(head, both(neck.astype(np.float32), q[2] + np.float32(44), soft=20), soft=14)
        head = union(head, near_ellipsoid(mirrored, (87, 22, -28), (5, 13, 26)), soft=3)
    if person.scalp_blood is not None:
        centre, axes, _ = person.scalp_blood
        head = union(head, near_ellipsoid(q, centre, as_point(np.multiply(axes, 0.75))), soft=6)
    keep = np.flatnonzero(head < 1.5)
    if keep.size == 0:
        return Tissue(hu, depth, None)
    q, mirrored = q[:, keep], mirrored[:, keep]
    cavity, vault, outer, head, thick = cavity[keep], vault[keep], outer[keep], head[keep], thick[keep]
    value = np.full(keep.size, -1000, np.float32)
    soft_tissue(person, value, q, head, outer, None if muscle_pad is None else muscle_pad[keep])
    if person.scalp_blood is not None:
        centre, axes, blood_hu = person.scalp_blood
        bruise = both(near_ellipsoid(q, centre, axes), both(head + np.float32(1.5), -outer))
        paint(value, inside(bruise, 2), np.float32(blood_hu) + np.float32(4) * person.patchy(q))
    _skull(person, value, q, cavity, vault, outer, thick)
    if low < 5:
        canal_distance = canal(q)
        skull_base(person, value, q, mirrored, cavity, vault, canal_distance, head)
        cavity = np.maximum(cavity, -canal_distance)
    ventricle = np.full(n, FAR_MM, np.float32)
    brain = np.flatnonzero(cavity > -1)
    if brain.size:
        hu_brain, hollow = brain_hu(person, np.ascontiguousarray(q[:, brain]), cavity[brain], displace)
        part = value[brain]
        paint(part, inside(-cavity[brain]), hu_brain)
        value[brain] = part
        ventricle[near[keep[brain]]] = hollow
    for centre, axes, hu_calcified in person.calcified:
        spot = np.flatnonzero(np.abs(q[2] - centre[2]) < axes[2] + 3)
        if spot.size:
            part = value[spot]
            lump = near_ellipsoid(q[:, spot], centre, axes)
            paint(part, inside(lump, 2.0), np.maximum(part, np.float32(hu_calcified)))
            value[spot] = part
    at = near[keep]
    hu[at] = value
    depth[at] = cavity
    return Tissue(hu, depth, ventricle)


def _skull(person: Person, hu: F32, q: F32, cavity: F32, vault: F32, outer: F32, thick: F32) -> None:
    """Two tables with diploe between; sutures cross them."""
    shell = both(outer, cavity)
    bone = np.flatnonzero(shell < 1)
    if bone.size == 0:
        return
    points = q[:, bone]
    table = np.clip(-vault[bone] / thick[bone], 0, 1)
    table_hu = person.diploe + (person.cortical - person.diploe) * np.abs(2 * table - 1) ** 1.5
    wiggle = np.float32(1.2) * person.septa(points)
    coronal = np.abs(points[1] + np.float32(0.45) * (points[2] - 70) + 12 + wiggle) * np.float32(0.9)
    sagittal = np.abs(points[0] + wiggle) + np.float32(99) * (points[2] < 30) * (points[1] < 0)
    lambdoid = np.abs(points[2] - np.float32(42) + np.float32(0.9) * np.abs(points[0]) + wiggle) * np.float32(0.75)
    sagittal += np.float32(99) * (points[1] + np.float32(0.45) * (points[2] - 70) + 12 < 0)
    lambdoid += np.float32(99) * (points[1] < 50)
    suture = np.minimum(np.minimum(coronal + np.float32(99) * (points[2] < 0), sagittal), lambdoid)
    table_hu -= (table_hu - np.float32(person.suture)) * inside(suture - np.float32(0.6), 1.0)
    part = hu[bone]
    paint(part, inside(shell[bone]), table_hu.astype(np.float32))
    hu[bone] = part
