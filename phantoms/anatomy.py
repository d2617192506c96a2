"""One synthetic adult head as a continuous function: Hounsfield units at any point. No bleed, no scanner.

Nominal coordinates are millimetres in LPS with the origin near the third ventricle: x to the left, y to the back,
z upwards. A person's own size, skew and bumps are a map from the head's points to nominal ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantoms.brain import Displace, brain_hu
from phantoms.fields import F32, as_point, both, ellipsoid, inside, mirror, near_ellipsoid, paint, union
from phantoms.outside import skull_base, soft_tissue
from phantoms.person import Person, nominal
from phantoms.walls import base_bones, canal, skull_inner


@dataclass(frozen=True, slots=True)
class Tissue:
    """The head at n points: HU (n,), depth in mm below the brain's envelope (n,), negative outside the cavity."""

    hu: F32
    depth: F32


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
    near = np.flatnonzero((x * x / 105**2 + (y + 8) ** 2 / 130**2 < 1) & (z < 100))
    if near.size == 0:
        return Tissue(hu, depth)
    q = nominal(person, np.ascontiguousarray(xyz[:, near]))
    low = float(q[2].min())
    skull = skull_inner(q)
    waves = person.thickness(q)
    bone_thickness = np.float32(person.skull) * (
        np.float32(0.8) + np.float32(0.45) * (q[1] / 84) ** 2 + np.float32(0.12) * waves
    )
    bone_thickness = np.maximum(bone_thickness, np.float32(2.0))
    outer = skull - bone_thickness
    head = outer - np.float32(person.scalp) * (np.float32(1) + np.float32(0.1) * waves)
    mirrored = mirror(q)
    muscle_pad = ellipsoid(mirrored, (58, -22, -12), (17, 34, 40)) if low < 40 else None
    if muscle_pad is not None:
        head = union(head, muscle_pad - np.float32(5), soft=6)
    if low < 20:
        head = union(head, ellipsoid(q, (0, -48, -62), (60, 48, 66)), soft=12)
        head = union(head, near_ellipsoid(q, (0, -98, -52), (11, 16, 20)), soft=6)
        neck = np.hypot(q[0] / 57, (q[1] - 22) / 62) * 58 - np.float32(58)
        head = union(head, both(neck.astype(np.float32), q[2] + np.float32(40), soft=20), soft=14)
        head = union(head, near_ellipsoid(mirrored, (78, 16, -26), (5, 13, 26)), soft=3)
    if person.scalp_blood is not None:
        centre, axes, _ = person.scalp_blood
        head = union(head, near_ellipsoid(q, centre, as_point(np.multiply(axes, 0.75))), soft=6)
    keep = np.flatnonzero(head < 1.5)
    if keep.size == 0:
        return Tissue(hu, depth)
    q, mirrored = q[:, keep], mirrored[:, keep]
    skull, outer, head, thick = skull[keep], outer[keep], head[keep], bone_thickness[keep]
    value = np.full(keep.size, -1000, np.float32)
    soft_tissue(person, value, q, head, outer, None if muscle_pad is None else muscle_pad[keep])
    if person.scalp_blood is not None:
        centre, axes, blood_hu = person.scalp_blood
        bruise = both(near_ellipsoid(q, centre, axes), both(head + np.float32(1.5), -outer))
        paint(value, inside(bruise, 2), np.float32(blood_hu) + np.float32(4) * person.patchy(q))
    table = np.clip(skull / thick, 0, 1)
    table_hu = person.diploe + (person.cortical - person.diploe) * np.abs(2 * table - 1) ** 1.5
    shell = both(outer, -skull)
    paint(value, inside(shell), table_hu.astype(np.float32))
    cavity = -skull
    if low < 5:
        bones = base_bones(q)
        canal_distance = canal(q)
        skull_base(person, value, q, mirrored, bones, canal_distance, head)
        cavity = np.minimum(np.maximum(cavity, -canal_distance), bones)
    brain = np.flatnonzero(cavity > -1)
    if brain.size:
        hu_brain = brain_hu(person, np.ascontiguousarray(q[:, brain]), cavity[brain], displace)
        part = value[brain]
        paint(part, inside(-cavity[brain]), hu_brain)
        value[brain] = part
    for centre, axes, hu_calcified in person.calcified:
        spot = np.flatnonzero(np.abs(q[2] - centre[2]) < axes[2] + 3)
        if spot.size:
            part = value[spot]
            paint(
                part, inside(near_ellipsoid(q[:, spot], centre, axes), 2.0), np.maximum(part, np.float32(hu_calcified))
            )
            value[spot] = part
    at = near[keep]
    hu[at] = value
    depth[at] = cavity
    return Tissue(hu, depth)
