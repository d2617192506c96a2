"""What lies outside the cranial cavity: scalp, muscle, skull base, sinuses, orbits, jaw, neck. No brain."""

from __future__ import annotations

import numpy as np

from phantoms.fields import F32, both, inside, near_capsule, near_ellipsoid, paint, ramp, union
from phantoms.person import Person
from phantoms.walls import base_bones


def soft_tissue(person: Person, hu: F32, q: F32, head: F32, outer: F32, pad: F32 | None) -> None:
    """Skin, fat and muscle; the muscles of the neck and jaw are bundles with fat between them."""
    paint(hu, inside(head), 25.0)
    fat_from = np.float32(-1.8)
    paint(hu, inside(head - fat_from), person.fat)
    below = ramp(q[2], 0, -45)
    deep = np.flatnonzero((head < -3) & ((below > 0) | ((pad is not None) & (outer > -1))))
    if deep.size == 0:
        return
    points = q[:, deep]
    bundle = person.bundles(points)
    layer = np.float32(3) + np.float32(3) * below[deep]
    flesh = inside(head[deep] + layer)
    muscle_hu = (
        np.float32(person.muscle) + np.float32(9) * np.sin(bundle * 3 + 1) + np.float32(3) * person.septa(points)
    )
    width = np.float32(0.2) + np.float32(0.13) * person.patchy(points)
    gap = np.clip((width - np.abs(bundle)) * np.float32(8), 0, 1)
    here = flesh * (np.float32(1) - gap)
    where = below[deep]
    if pad is not None:
        where = np.maximum(where, inside(pad[deep]))
    part = hu[deep]
    paint(part, here * where, muscle_hu)
    hu[deep] = part


def skull_base(
    person: Person, hu: F32, q: F32, m: F32, cavity: F32, vault: F32, canal_distance: F32, head: F32
) -> None:
    """Skull base, sinuses, orbits, jaw, vertebrae and airway, painted over the soft tissue."""
    septa = person.septa(q)
    # A plate of bone stays everywhere between what is hollow outside and the brain.
    plate = cavity + np.float32(1.8)

    def solid(distance: F32, value: F32 | float, width: float = 1.2) -> None:
        paint(hu, inside(both(distance, plate), width), value)

    bones = base_bones(q, cavity, vault)
    petrous = both(bones, np.float32(-4) - q[1])
    spongy = np.float32(0.45 * person.cortical) + np.float32(160) * septa
    shell_of_base = ramp(cavity, -4, -1)
    solid(both(bones, head + np.float32(4)), spongy + (np.float32(0.8 * person.cortical) - spongy) * shell_of_base)
    solid(petrous, np.float32(0.7 * person.cortical) + np.float32(200) * septa)
    orbit = near_ellipsoid(m, (31, -57, -33), (17, 25, 16))
    solid(both(orbit - np.float32(2.2), head + np.float32(6)), 0.7 * person.cortical)
    solid(both(orbit, head + np.float32(2)), person.fat)
    for start, end in (
        ((24, -72, -33), (14, -32, -30)),
        ((40, -70, -33), (17, -33, -30)),
        ((31, -66, -22), (16, -33, -27)),
        ((31, -66, -44), (16, -33, -33)),
    ):
        solid(near_capsule(m, start, end, (2.0, 2.0)), person.muscle)
    solid(near_capsule(m, (31, -62, -33), (12, -28, -27), (2.2, 2.2)), 35.0)
    solid(near_ellipsoid(m, (32, -72, -33), (12, 12, 12)), 42.0)
    solid(near_ellipsoid(m, (32, -72, -33), (10.8, 10.8, 10.8)), 10.0)
    solid(near_ellipsoid(m, (32, -80.5, -33), (4.2, 2.0, 4.2)), 75.0)
    zygoma = union(
        near_capsule(m, (70, -2, -42), (63, -42, -44), (3, 4)),
        near_capsule(m, (63, -42, -44), (42, -70, -48), (4, 6)),
        soft=3,
    )
    jaw = union(
        near_capsule(m, (54, 6, -48), (50, 10, -86), (6, 5)),
        near_capsule(m, (50, 10, -86), (10, -80, -110), (6, 7)),
        soft=3,
    )
    teeth = union(
        near_capsule(m, (26, -40, -84), (20, -70, -86), (5, 5)), near_capsule(m, (20, -70, -86), (0, -80, -86), (5, 5))
    )
    mastoid = near_ellipsoid(m, (62, 38, -46), (12, 15, 18))
    for part, value in ((zygoma, 900.0), (jaw, 1100.0), (teeth, 1500.0), (mastoid, 700.0)):
        solid(both(part, head + np.float32(3)), value)
    air = both(mastoid + np.float32(2), np.float32(4) * (np.float32(person.air_cells) - septa))
    ethmoid = near_ellipsoid(m, (0, -56, -33), (12, 23, 11))
    nose = near_ellipsoid(m, (0, -66, -58), (12, 28, 20))
    maxillary = near_ellipsoid(m, (28, -52, -57), (13, 17, 16))
    sphenoid = near_ellipsoid(m, (0, -18, -38), (13, 11, 9))
    frontal = near_ellipsoid(m, (8, -79, -10), (11 * person.frontal_sinus + 1, 4.5, 11 * person.frontal_sinus + 1))
    for cave in (ethmoid, nose, maxillary, sphenoid, frontal):
        solid(both(cave - np.float32(1.8), head + np.float32(3)), 500.0)
    solid(both(union(ethmoid, nose), np.float32(0.9) - np.abs(m[0])), 200.0)
    air = union(air, both(ethmoid, np.float32(3.5) * (np.abs(septa) * -1 + np.float32(0.35))))
    air = union(air, both(nose, np.float32(5) * (septa - np.float32(0.6))))
    air = union(union(air, maxillary), union(both(sphenoid, np.float32(1) - np.abs(m[0] - 3)), frontal))
    air = union(air, near_capsule(m, (0, -22, -60), (0, -14, -150), (9, 8)))
    air = union(air, near_capsule(m, (48, 22, -38), (90, 22, -34), (2.5, 3.5)))
    solid(air, -980.0)
    level = np.sin((q[2] + np.float32(78)) * np.float32(2 * np.pi / 20))
    ring = both(canal_distance - np.float32(5), q[2] + np.float32(76))
    solid(both(ring, np.float32(-8) * level - np.float32(2)), 650.0)
    body = near_capsule(q, (0, 26, -84), (0, 32, -200), (10, 10))
    solid(both(body, np.float32(-8) * level - np.float32(6)), 420.0)
    solid(near_capsule(m, (13, 32, -76), (14, 34, -200), (6, 6)), 480.0 + 250.0 * level)
    dens = near_capsule(q, (0, 25, -70), (0, 27, -92), (5, 6))
    solid(dens, 800.0)
