"""One synthetic adult head as a continuous function: Hounsfield units at any point. No bleed, no scanner.

Nominal coordinates are millimetres in LPS with the origin near the third ventricle: x to the left, y to the back,
z upwards. A person's own size, skew and bumps are a map from the head's points to nominal ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from phantoms.fields import (
    F32,
    Point,
    Waves,
    both,
    capsule,
    ellipsoid,
    inside,
    near_capsule,
    near_ellipsoid,
    paint,
    ramp,
    union,
)

_FLOOR_Y = np.array([-110.0, -28, -15, 0, 22, 45])
_FLOOR_Z = np.array([-19.0, -23, -34, -45, -61, -80])


@dataclass(frozen=True, slots=True)
class Person:
    """What makes one head differ from the next. Lengths in mm, densities in HU."""

    scale: Point
    skew: float
    atrophy: float
    skull: float
    scalp: float
    grey: float
    white: float
    csf: float
    cortical: float
    diploe: float
    fat: float
    muscle: float
    falx: float
    sinus_blood: float
    cord: float
    rim_bright: float
    leuko: float
    air_cells: float
    frontal_sinus: float
    ventricle: tuple[float, float]
    bumps: tuple[Waves, Waves, Waves]
    thickness: Waves
    folds: Waves
    folia: Waves
    bundles: Waves
    septa: Waves
    patchy: Waves
    calcified: tuple[tuple[Point, Point, float], ...]
    infarct: tuple[Point, Point, float] | None
    scalp_blood: tuple[Point, Point, float] | None
    artery: tuple[float, float]


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a person; the same generator state gives the same person."""
    size = rng.normal(1.0, 0.04)
    atrophy = float(rng.beta(1.6, 1.8))
    calcified: list[tuple[Point, Point, float]] = []

    def calcify(
        chance: float, centre: Point, radius: tuple[float, float], hu: tuple[float, float], *, both_sides: bool
    ) -> None:
        if rng.random() >= chance:
            return
        for side in (1, -1) if both_sides else (rng.choice([-1, 1]),):
            if both_sides and rng.random() < 0.2:
                continue
            c = np.array([side * centre[0], centre[1], centre[2]]) + rng.normal(0, 1.2, 3)
            axes = rng.uniform(*radius) * rng.uniform(0.6, 1.5, 3)
            calcified.append((_point(c), _point(axes), float(rng.uniform(*hu))))

    calcify(0.65, (0, 32, 4), (1.2, 3.0), (80, 350), both_sides=False)
    calcify(0.60, (25, 36, 13), (1.5, 4.0), (60, 300), both_sides=True)
    calcify(0.25, (20, -2, 1), (2.0, 5.5), (50, 160), both_sides=True)
    calcify(0.10, (16, 52, -38), (2.0, 5.0), (50, 140), both_sides=True)
    calcify(0.12, (12, 14, -62), (1.5, 2.5), (100, 400), both_sides=True)
    for _ in range(rng.poisson(0.5)):
        y, z = rng.uniform(-60, 60), rng.uniform(30, 62)
        calcified.append(
            ((0.0, float(y), float(z)), _point(rng.uniform((1, 2, 2), (2.5, 8, 5))), float(rng.uniform(80, 600)))
        )
    infarct: tuple[Point, Point, float] | None = None
    if rng.random() < 0.18:
        side = rng.choice([-1, 1])
        centre = np.array([side * rng.uniform(20, 50), rng.uniform(-35, 60), rng.uniform(-5, 45)])
        infarct = (_point(centre), _point(rng.uniform(5, 26, 3)), float(rng.uniform(6, 22)))
    scalp_blood: tuple[Point, Point, float] | None = None
    if rng.random() < 0.12:
        turn, up = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 1.0)
        centre = np.array([79 * np.cos(turn) * np.cos(up), -2 + 97 * np.sin(turn) * np.cos(up), 3 + 84 * np.sin(up)])
        scalp_blood = (_point(centre), _point(rng.uniform((10, 10, 8), (26, 26, 22))), float(rng.uniform(45, 75)))
    artery = tuple(float(rng.uniform(60, 78) if rng.random() < 0.08 else rng.uniform(38, 56)) for _ in range(2))
    return Person(
        scale=_point(size * rng.normal(1.0, (0.035, 0.035, 0.03))),
        skew=float(rng.normal(0, 0.03)),
        atrophy=atrophy,
        skull=float(rng.uniform(4.5, 9.0)),
        scalp=float(rng.uniform(3.5, 8.0)),
        grey=float(rng.normal(37, 1.5)),
        white=float(rng.normal(28.5, 1.3)),
        csf=float(rng.uniform(2, 11)),
        cortical=float(rng.uniform(1100, 1800)),
        diploe=float(rng.uniform(350, 900)),
        fat=float(rng.uniform(-110, -75)),
        muscle=float(rng.uniform(48, 64)),
        falx=float(rng.uniform(44, 68)),
        sinus_blood=float(rng.uniform(44, 68)),
        cord=float(rng.uniform(35, 55)),
        rim_bright=float(rng.uniform(0, 9)),
        leuko=float(rng.uniform(0, 10) * atrophy),
        air_cells=float(rng.uniform(-0.8, 0.8)),
        frontal_sinus=float(rng.uniform(0.0, 1.3)),
        ventricle=(
            float((0.7 + 1.0 * atrophy) * rng.uniform(0.85, 1.15)),
            float((0.7 + 1.0 * atrophy) * rng.uniform(0.85, 1.15)),
        ),
        bumps=(
            Waves.draw(rng, 4, shortest_mm=80, longest_mm=170),
            Waves.draw(rng, 4, shortest_mm=80, longest_mm=170),
            Waves.draw(rng, 4, shortest_mm=80, longest_mm=170),
        ),
        thickness=Waves.draw(rng, 6, shortest_mm=15, longest_mm=70),
        folds=Waves.draw(rng, 11, shortest_mm=17, longest_mm=27),
        folia=Waves.draw(rng, 5, shortest_mm=5, longest_mm=9, stretch=(4, 1.6, 1)),
        bundles=Waves.draw(rng, 7, shortest_mm=16, longest_mm=34, stretch=(1, 1, 5)),
        septa=Waves.draw(rng, 6, shortest_mm=5, longest_mm=10),
        patchy=Waves.draw(rng, 6, shortest_mm=12, longest_mm=45),
        calcified=tuple(calcified),
        infarct=infarct,
        scalp_blood=scalp_blood,
        artery=(artery[0], artery[1]),
    )


def nominal(person: Person, xyz: F32) -> F32:
    """Nominal coordinates of head points (3, n)."""
    q = xyz / np.asarray(person.scale, np.float32)[:, None]
    for axis in range(3):
        q[axis] += np.float32(1.4) * person.bumps[axis](xyz)
    q[0] += np.float32(person.skew) * q[1]
    return q


def skull_inner(q: F32) -> F32:
    """Signed distance to the inner table (the cranial cavity without the spinal canal), before the petrous bones."""
    egg = q.copy()
    egg[0] /= np.float32(1) + np.float32(0.0014) * np.clip(q[1], -90, 60)
    vault = ellipsoid(egg, (0, -2, 3), (67, 84, 70))
    floor = np.interp(q[1], _FLOOR_Y, _FLOOR_Z).astype(np.float32) - q[2]
    floor += np.float32(3) * np.exp(-(((np.abs(q[0]) - 30) / 14) ** 2)) * (q[1] < -28)
    cavity = both(vault, floor * np.float32(0.9), soft=8)
    mirrored = _mirror(q)
    temporal = ellipsoid(mirrored, (39, -12, -24), (24, 29, 21))
    return union(cavity, both(temporal, vault, soft=3), soft=5)


def base_bones(q: F32) -> F32:
    """Signed distance to petrous bones, clivus, sella and lesser wings: what stands up into the cavity."""
    m = _mirror(q)
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


@dataclass(frozen=True, slots=True)
class Tissue:
    """The head at n points: HU (n,), depth in mm below the brain's envelope (n,), negative outside the cavity."""

    hu: F32
    depth: F32


Displace = Callable[[F32, F32], F32]


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
    mirrored = _mirror(q)
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
        head = union(head, near_ellipsoid(q, centre, _point(np.multiply(axes, 0.75))), soft=6)
    keep = np.flatnonzero(head < 1.5)
    if keep.size == 0:
        return Tissue(hu, depth)
    q, mirrored = q[:, keep], mirrored[:, keep]
    skull, outer, head, thick = skull[keep], outer[keep], head[keep], bone_thickness[keep]
    value = np.full(keep.size, -1000, np.float32)
    _soft_tissue(person, value, q, head, outer, None if muscle_pad is None else muscle_pad[keep])
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
        _base(person, value, q, mirrored, bones, canal_distance, head)
        cavity = np.minimum(np.maximum(cavity, -canal_distance), bones)
    brain = np.flatnonzero(cavity > -1)
    if brain.size:
        hu_brain = _brain(person, np.ascontiguousarray(q[:, brain]), cavity[brain], displace)
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


def _soft_tissue(person: Person, hu: F32, q: F32, head: F32, outer: F32, pad: F32 | None) -> None:
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
    gap = ramp(np.abs(bundle), 0.30, 0.16)
    here = flesh * (np.float32(1) - gap)
    where = below[deep]
    if pad is not None:
        where = np.maximum(where, inside(pad[deep]))
    part = hu[deep]
    paint(part, here * where, muscle_hu)
    hu[deep] = part


def _base(person: Person, hu: F32, q: F32, m: F32, bones: F32, canal_distance: F32, head: F32) -> None:
    """Skull base, sinuses, orbits, jaw, vertebrae and airway, painted over the soft tissue."""
    septa = person.septa(q)
    bone = np.float32(0.75 * person.cortical) + np.float32(180) * septa

    def solid(distance: F32, value: F32 | float, width: float = 1.2) -> None:
        paint(hu, inside(distance, width), value)

    solid(both(bones, head + np.float32(4)), bone)
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
        near_capsule(m, (66, -5, -42), (60, -42, -44), (3, 4)),
        near_capsule(m, (60, -42, -44), (42, -68, -48), (4, 6)),
        soft=3,
    )
    jaw = union(
        near_capsule(m, (52, 2, -46), (48, 6, -84), (6, 5)),
        near_capsule(m, (48, 6, -84), (10, -80, -108), (6, 7)),
        soft=3,
    )
    teeth = union(
        near_capsule(m, (26, -40, -84), (20, -70, -86), (5, 5)), near_capsule(m, (20, -70, -86), (0, -80, -86), (5, 5))
    )
    mastoid = near_ellipsoid(m, (56, 33, -45), (11, 14, 17))
    for part, value in ((zygoma, 900.0), (jaw, 1100.0), (teeth, 1500.0), (mastoid, 700.0)):
        solid(both(part, head + np.float32(3)), value)
    air = both(mastoid + np.float32(2), np.float32(4) * (np.float32(person.air_cells) - septa))
    ethmoid = near_ellipsoid(m, (0, -56, -33), (12, 23, 11))
    nose = near_ellipsoid(m, (0, -66, -58), (12, 28, 20))
    maxillary = near_ellipsoid(m, (28, -52, -57), (13, 17, 16))
    sphenoid = near_ellipsoid(m, (0, -18, -38), (13, 11, 9))
    frontal = near_ellipsoid(m, (8, -86, -6), (11 * person.frontal_sinus + 1, 4.5, 11 * person.frontal_sinus + 1))
    for cave in (ethmoid, nose, maxillary, sphenoid, frontal):
        solid(both(cave - np.float32(1.8), head + np.float32(3)), 500.0)
    solid(both(union(ethmoid, nose), np.float32(0.9) - np.abs(m[0])), 200.0)
    air = union(air, both(ethmoid, np.float32(3.5) * (np.abs(septa) * -1 + np.float32(0.35))))
    air = union(air, both(nose, np.float32(5) * (septa - np.float32(0.6))))
    air = union(union(air, maxillary), union(both(sphenoid, np.float32(1) - np.abs(m[0] - 3)), frontal))
    air = union(air, near_capsule(m, (0, -22, -60), (0, -14, -150), (9, 8)))
    air = union(air, near_capsule(m, (45, 14, -42), (82, 17, -40), (2.5, 3.5)))
    solid(air, -980.0)
    level = np.sin((q[2] + np.float32(78)) * np.float32(2 * np.pi / 20))
    ring = both(canal_distance - np.float32(5), q[2] + np.float32(70))
    solid(both(ring, np.float32(-8) * level - np.float32(2)), 650.0)
    body = near_capsule(q, (0, 15, -74), (0, 20, -200), (10, 10))
    solid(both(body, np.float32(-8) * level - np.float32(6)), 420.0)
    solid(near_capsule(m, (12, 17, -70), (14, 20, -200), (6, 6)), 480.0 + 250.0 * level)
    dens = near_capsule(q, (0, 16, -68), (0, 18, -90), (5, 6))
    solid(dens, 800.0)


def _brain(person: Person, q: F32, cavity: F32, displace: Displace | None) -> F32:
    """HU inside the cavity."""
    tent = q[2] - tentorium_height(q)
    edge = behind_tentorium_edge(q)
    source = q if displace is None else displace(q, cavity)
    x, y, z = source
    m = _mirror(source)
    low = float(q[2].min())
    atrophy = person.atrophy
    folds = np.abs(person.folds(source)) * np.float32(0.85 / person.folds.slope)
    rim = np.float32(0.8 + 2.6 * atrophy)
    width = np.float32(0.3 + 1.5 * atrophy) * ramp(cavity, 22, 8) + np.float32(0.5)
    open_sulcus = ramp(cavity, 24, 17)
    to_cortex = np.minimum(cavity - rim, np.where(open_sulcus > 0, folds - width + (1 - open_sulcus) * 6, 99))
    grey_here = ramp(to_cortex, 4.6, 2.6)
    hu: F32 = np.float32(person.white) + np.float32(person.grey - person.white) * grey_here
    hu += np.float32(0.8) * person.patchy(source)
    central = np.flatnonzero(np.abs(z) < 45)
    if central.size:
        hu[central] = _deep(person, hu[central], np.ascontiguousarray(source[:, central]))
    if person.infarct is not None:
        centre, axes, drop = person.infarct
        hu -= np.float32(drop) * inside(near_ellipsoid(source, centre, axes), 6.0)
    sulcus = inside((folds - width), 1.4) * open_sulcus
    paint(hu, sulcus * np.float32(0.92), person.csf)
    callosum = ellipsoid(source, (0, 3, 4), (200, 46, 27))
    cleft = both(np.abs(x) - np.float32(0.9 + 1.3 * atrophy), -callosum)
    paint(hu, inside(cleft), person.csf)
    sylvian = np.abs(z - (np.float32(-6) + np.float32(0.4) * y)) * np.float32(0.93) - np.float32(0.5 + 1.5 * atrophy)
    sylvian = both(both(sylvian, np.float32(34) - m[0]), np.abs(y - np.float32(-2)) - np.float32(30))
    sylvian = union(sylvian, near_ellipsoid(m, (36.5, -4, -4), (0.9 + 1.6 * atrophy, 16, 10)), soft=2)
    paint(hu, inside(sylvian, 2.0), person.csf)
    if low < 14:
        _posterior(person, hu, source, m, tent, edge)
    paint(hu, inside(cavity - rim), person.csf)
    if central.size:
        part = hu[central]
        vent = _ventricles(person, np.ascontiguousarray(source[:, central]))
        part -= np.float32(person.leuko) * ramp(vent, 9, 1) * (part > 20)
        paint(part, inside(vent), person.csf)
        hu[central] = part
    falx = both(np.abs(x) - np.float32(0.8), -ellipsoid(source, (0, 3, 8), (200, 58, 33)))
    falx = both(falx, -tent + np.float32(-1)) if low < 14 else falx
    paint(hu, inside(falx, 1.6), person.falx)
    sagittal = both(
        np.abs(q[0]) + np.float32(0.7) * cavity - np.float32(6.5), np.float32(10) - np.maximum(q[2], q[1] - 50)
    )
    paint(hu, inside(sagittal), person.sinus_blood)
    if low < 14:
        notch = np.hypot(q[0], (q[1] - 17) * np.float32(0.72)) - np.float32(19)
        sheet = both(both(np.abs(tent) * np.float32(0.92) - np.float32(0.8), -edge), -notch.astype(np.float32))
        paint(hu, inside(sheet, 1.6), person.falx)
        transverse = both(
            np.hypot(tent, cavity - np.float32(2)).astype(np.float32) - np.float32(4.5), np.float32(30) - q[1]
        )
        paint(hu, inside(transverse), person.sinus_blood)
        paint(hu, ramp(q[2], -66, -72), person.csf)
        cord = near_capsule(q, (0, 29, -55), (0, 37, -200), (7.0, 5.2))
        paint(hu, inside(cord), person.cord)
    hu += np.float32(person.rim_bright) * np.exp(-np.maximum(cavity, 0) / np.float32(6)) * (q[2] > -60)
    return hu


def _deep(person: Person, hu: F32, q: F32) -> F32:
    """Basal ganglia and thalamus."""
    m = _mirror(q)
    nuclei = near_ellipsoid(m, (11, 12, 5), (8, 14, 9))
    nuclei = union(nuclei, near_ellipsoid(m, (24, -2, 1), (7, 17, 11)))
    nuclei = union(nuclei, near_capsule(m, (13, -20, 5), (17, 6, 22), (6, 3)))
    paint(hu, inside(nuclei, 2.5), person.grey + 0.5)
    return hu


def _ventricles(person: Person, q: F32) -> F32:
    """Signed distance to the ventricles."""
    m = _mirror(q)
    left = q[0] > 0
    widen = np.where(left, person.ventricle[0], person.ventricle[1]).astype(np.float32)
    path: tuple[tuple[Point, float], ...] = (
        ((12, -30, 6), 3.2),
        ((6, -8, 12), 3.0),
        ((12, 14, 21), 3.6),
        ((24, 37, 13), 4.6),
    )
    horns: tuple[tuple[Point, Point, float, float], ...] = (
        ((24, 37, 13), (25, 58, 9), 4.0, 1.8),
        ((24, 37, 13), (34, 16, -15), 3.6, 1.2),
        ((34, 16, -15), (30, -4, -20), 1.2, 1.0),
    )
    distance = np.full(q.shape[1], 99, np.float32)
    for (a, ra), (b, rb) in pairwise(path):
        distance = union(distance, near_capsule(m, a, b, (ra, rb)), soft=2)
    for start, end, ra, rb in horns:
        distance = union(distance, near_capsule(m, start, end, (ra, rb)), soft=2)
    distance = distance - np.float32(3.2) * (widen - np.float32(1))
    third = near_ellipsoid(q, (0, 5, -2), (0.8 + 2.2 * person.atrophy, 12, 10))
    fourth = near_ellipsoid(q, (0, 40, -38), (6.5, 5.5, 9))
    return union(union(distance, third), fourth)


def _posterior(person: Person, hu: F32, q: F32, m: F32, tent: F32, edge: F32) -> None:
    """Cerebellum, brainstem and the basal cisterns."""
    below = inside(tent, 1.5) * ramp(edge, -3, 1)
    folia = np.float32(0.5 * (person.grey + person.white)) + np.float32(2.8) * person.folia(q)
    white = inside(near_ellipsoid(m, (17, 48, -38), (15, 14, 9)), 6)
    folia += (np.float32(person.white) - folia) * white * np.float32(0.8)
    paint(hu, below, folia)
    paint(hu, below * inside(np.abs(tent) - np.float32(1.5 + 2 * person.atrophy), 2), person.csf)
    grow = 1.0 + 0.5 * person.atrophy
    cisterns = near_ellipsoid(q, (0, -5, -15), (12 * grow, 10 * grow, 6))
    cisterns = union(cisterns, near_ellipsoid(q, (0, 12, -24), (17 * grow, 8, 13)), soft=4)
    cisterns = union(cisterns, near_ellipsoid(m, (16, 20, -7), (3 * grow, 15, 6)), soft=2)
    cisterns = union(cisterns, near_ellipsoid(q, (0, 35, 0), (12 * grow, 4.5 * grow, 7)), soft=3)
    cisterns = union(cisterns, near_ellipsoid(q, (0, 18, -52), (17, 9, 16)), soft=3)
    cisterns = union(cisterns, near_ellipsoid(q, (0, 62, -55), (8 * grow, 8 * grow, 8)))
    paint(hu, inside(cisterns, 1.6), person.csf)
    stem = union(
        near_capsule(q, (0, 20, -5), (0, 20, -18), (12, 12)),
        near_capsule(q, (0, 21, -26), (0, 25, -36), (14, 12)),
        soft=5,
    )
    stem = union(stem, near_capsule(q, (0, 26, -40), (0, 30, -72), (9, 7)), soft=4)
    paint(hu, inside(stem, 1.5), 0.5 * (person.white + person.grey) - 1)
    peduncle = near_capsule(m, (6, 26, -34), (24, 42, -36), (6, 6))
    paint(hu, inside(peduncle, 2), person.white + 1)
    paint(hu, inside(near_capsule(q, (0, 9, -14), (0, 12, -46), (1.8, 1.8))), person.sinus_blood - 4)
    middle_cerebral = union(
        near_capsule(m, (7, -4, -16), (20, -9, -13), (1.7, 1.5)),
        near_capsule(m, (20, -9, -13), (38, -9, -9), (1.5, 1.1)),
    )
    paint(hu, inside(middle_cerebral), np.where(q[0] > 0, np.float32(person.artery[0]), np.float32(person.artery[1])))


def _mirror(q: F32) -> F32:
    m = q.copy()
    np.abs(m[0], out=m[0])
    return m


def _point(values: npt.ArrayLike) -> Point:
    x, y, z = np.asarray(values, np.float64).tolist()
    return (x, y, z)
