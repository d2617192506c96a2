"""The walls of the cranial cavity in nominal coordinates: skull, canal, tentorium. No densities."""

from __future__ import annotations

import numpy as np

from phantoms.atlas import CAVITY, VAULT, depths
from phantoms.fields import F32, both, capsule, near_ellipsoid, union

# Below this the template's brain is the medulla, and the cavity is the spinal canal.
_FORAMEN_Z = -66.0


def skull_depths(q: F32) -> tuple[F32, F32]:
    """Depth in mm below the cavity's wall, without the canal, and below the vault whose base has no hollows."""
    cavity, vault = depths(q, CAVITY, VAULT)
    # The template's brain leaves out the suprasellar cistern, which is fluid and not bone.
    cavity = np.maximum(cavity, -near_ellipsoid(q, (0, -3, -16), (19, 18, 13)))
    above = q[2] - np.float32(_FORAMEN_Z)
    return np.minimum(cavity, above), np.minimum(vault, above + np.float32(3))


def canal(q: F32) -> F32:
    """Signed distance to the foramen magnum and spinal canal."""
    return union(capsule(q, (0, 43, -60), (0, 46, -78), (15, 11)), capsule(q, (0, 46, -78), (0, 52, -200), (11, 10)))


def tentorium_height(q: F32) -> F32:
    """Height (z, mm) of the tentorium above the point (x, y); follows the template's cerebellum."""
    aside = np.minimum(np.abs(q[0]), np.float32(34))
    behind = np.maximum(q[1] - np.float32(50), 0)
    height: F32 = np.float32(7) - np.float32(0.72) * aside - behind * (np.float32(0.7) - np.float32(0.012) * aside)
    return height


def behind_tentorium_edge(q: F32) -> F32:
    """Positive (mm) where the tentorium may be: behind the petrous ridge."""
    edge: F32 = q[1] - (np.float32(14) + np.float32(0.38) * np.maximum(np.abs(q[0]) - 13, 0))
    return edge


def notch(q: F32, *, radius_mm: float) -> F32:
    """Signed distance to the gap in the tentorium through which the midbrain passes."""
    gap: F32 = np.hypot(q[0], (q[1] - 24) * np.float32(0.72)) - np.float32(radius_mm)
    return gap


def base_bones(q: F32, cavity: F32, vault: F32) -> F32:
    """Signed distance to petrous bones, sphenoid and clivus: what fills the hollows of the skull base."""
    return both(both(cavity + np.float32(0.2), -vault - np.float32(3)), q[2] + np.float32(4))
