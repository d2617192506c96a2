"""The walls of the cranial cavity in nominal coordinates: inner table, skull base, canal, tentorium. No densities."""

from __future__ import annotations

import numpy as np

from phantoms.fields import F32, both, capsule, ellipsoid, mirror, near_capsule, near_ellipsoid, union

_FLOOR_Y = np.array([-110.0, -28, -15, 0, 22, 45])
_FLOOR_Z = np.array([-19.0, -23, -34, -45, -61, -80])


def skull_inner(q: F32) -> F32:
    """Signed distance to the inner table (the cranial cavity without the spinal canal), before the petrous bones."""
    egg = q.copy()
    egg[0] /= np.float32(1) + np.float32(0.0014) * np.clip(q[1], -90, 60)
    vault = ellipsoid(egg, (0, -2, 3), (67, 84, 70))
    floor = np.interp(q[1], _FLOOR_Y, _FLOOR_Z).astype(np.float32) - q[2]
    floor += np.float32(3) * np.exp(-(((np.abs(q[0]) - 30) / 14) ** 2)) * (q[1] < -28)
    cavity = both(vault, floor * np.float32(0.9), soft=8)
    mirrored = mirror(q)
    temporal = ellipsoid(mirrored, (39, -12, -24), (24, 29, 21))
    return union(cavity, both(temporal, vault, soft=3), soft=5)


def base_bones(q: F32) -> F32:
    """Signed distance to petrous bones, clivus, sella and lesser wings: what stands up into the cavity."""
    m = mirror(q)
    petrous = union(
        near_capsule(m, (13, 8, -33), (38, 20, -36), (5, 9)),
        near_capsule(m, (38, 20, -36), (60, 30, -40), (9, 14)),
        soft=4,
    )
    clivus = near_capsule(m, (0, 5, -24), (0, 21, -64), (5, 6))
    clivus = union(clivus, near_capsule(m, (6, 7, -34), (7, 19, -60), (5, 5)), soft=3)
    body = near_ellipsoid(m, (0, -16, -38), (22, 20, 14))
    wing = near_capsule(m, (8, -22, -19), (52, -34, -12), (2.2, 3.2))
    clinoid = near_capsule(m, (7, 3, -22), (7, 4, -15), (2, 1.5))
    bones = union(union(petrous, clivus, soft=3), union(body, wing, soft=4), soft=3)
    return union(bones, clinoid)


def canal(q: F32) -> F32:
    """Signed distance to the foramen magnum and spinal canal."""
    return union(capsule(q, (0, 31, -56), (0, 34, -72), (16, 11)), capsule(q, (0, 34, -72), (0, 38, -200), (11, 10)))


def tentorium_height(q: F32) -> F32:
    """Height (z, mm) of the tentorium above the point (x, y)."""
    height: F32 = (
        np.float32(8) - np.float32(0.40) * np.abs(q[0]) - np.float32(0.27) * np.maximum(q[1] - np.float32(38), 0)
    )
    return height


def behind_tentorium_edge(q: F32) -> F32:
    """Positive (mm) where the tentorium may be: behind the petrous ridge."""
    edge: F32 = q[1] - (np.float32(9) + np.float32(0.38) * np.maximum(np.abs(q[0]) - 13, 0))
    return edge
