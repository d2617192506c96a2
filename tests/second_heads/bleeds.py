"""Haematomas grown as random walks of blobs: where, how large, how dense. Knows points, not slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from second_heads.brain import Brain
from second_heads.fields import F32, Labyrinth, Point, Points, ellipsoid, inside

PUTAMEN, THALAMUS, CAUDATE, PONS, CEREBELLUM = (27, -4, 4), (13, 12, 8), (14, -22, 10), (0, 0, -28), (20, 44, -34)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to bleed. `centre` in head coordinates, mm; `deep` bleeds may break into the ventricles."""

    centre: Point
    volume_ml: float
    deep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Bleed:
    """How much of each point is blood, and the HU of that blood."""

    occupancy: F32
    hu: F32


def plans(rng: np.random.Generator, *, width: float, height: float) -> list[Plan]:
    """None in four of ten heads, else one, now and then two."""
    if rng.random() < 0.4:
        return []
    drawn: list[Plan] = []
    for _ in range(1 if rng.random() < 0.82 else 2):
        side = 1.0 if rng.random() < 0.5 else -1.0
        kind = rng.choice(
            ["putamen", "thalamus", "caudate", "lobe", "cerebellum", "pons"], p=[0.3, 0.18, 0.05, 0.33, 0.09, 0.05]
        )
        fixed = {"putamen": PUTAMEN, "thalamus": THALAMUS, "caudate": CAUDATE, "cerebellum": CEREBELLUM, "pons": PONS}
        most = {"putamen": 80, "thalamus": 35, "caudate": 18, "lobe": 80, "cerebellum": 35, "pons": 12}[kind]
        if kind == "lobe":
            around, up = rng.uniform(0, np.pi), rng.uniform(-0.1, 0.9)
            flat = np.sqrt(1 - up**2)
            place = (0.62 * width * flat * np.sin(around) + 4, -52 * flat * np.cos(around), 0.62 * height * up)
        else:
            place = tuple(np.asarray(fixed[str(kind)]) + rng.normal(0, 3, 3))
        volume = (
            float(np.exp(rng.uniform(np.log(0.3), np.log(most)))) if rng.random() < 0.5 else float(rng.uniform(3, most))
        )
        if drawn:
            side, volume = -np.sign(drawn[0].centre[0]), min(volume, 18.0)
        centre = (float(side * place[0]), float(place[1]), float(place[2]))
        drawn.append(Plan(centre=centre, volume_ml=volume, deep=str(kind) in ("putamen", "thalamus", "caudate")))
    return drawn


def pushed(p: Points, plan: Plan, depth: F32) -> Points:
    """Where tissue at these points lay before the bleed pushed it aside; the skull gives no way.

    Near the middle tissue is torn rather than pushed (stretched 2.5 times); far off the shift falls as one over the way.
    """
    q = [axis - np.float32(c) for axis, c in zip((p.x, p.y, p.z), plan.centre, strict=True)]
    core = np.float32((3 * plan.volume_ml * 1000 / (4 * np.pi)) ** (2 / 3))
    far = (q[0] ** 2 + q[1] ** 2 + q[2] ** 2) / core
    kept = 1 - np.float32(0.6) / (1 + far) * np.clip(depth / 15, 0, 1)
    moved = [c * kept + np.float32(m) for c, m in zip(q, plan.centre, strict=True)]
    return Points(moved[0], moved[1], moved[2])


def bleed(
    p: Points, depth: F32, brain: Brain, plan: Plan, folds: Labyrinth, rng: np.random.Generator, *, voxel_mm3: float
) -> Bleed:
    """Grow one: a walk of blobs cut at the level that gives the volume, its edge roughened, its density mixed."""
    cube = float(np.cbrt(plan.volume_ml * 1000))
    reach = 2.2 * cube + 12
    c = _in_tissue(p, brain, plan.centre, cube)
    near = (np.abs(p.x - c[0]) < reach) & (np.abs(p.y - c[1]) < reach) & (np.abs(p.z - c[2]) < reach)
    one = p.only(near)
    distance = _walk(one, c, cube, rng)
    # A ragged or a smooth edge.
    wave = folds.distance(one.x * 1.3 + 31, one.y * 1.3 - 17, one.z * 1.3 + 9)
    distance += np.float32(rng.choice([0.1, 0.35, 0.8])) * min(cube / 22, 1.2) * wave
    # Blood stays in its half and storey, and away from cortex and skull.
    infra = plan.centre[2] < -20
    other = (one.x * np.sign(c[0]) < 1.5) if abs(c[0]) > 4 else np.zeros(one.x.shape, np.bool_)
    other |= brain.below[near] != infra
    distance += 60 * other + 4 * np.maximum(2.5 - depth[near], 0) + 8 * brain.ventricle[near]
    distance += 10 * np.clip(0.5 - brain.tissue[near], 0, 1)
    count = int(np.clip(plan.volume_ml * 1000 / voxel_mm3, 2, distance.size - 1))
    level = np.partition(distance, count)[count]
    feather = float(rng.uniform(0.8, 2.2))
    occupancy = np.zeros(p.x.shape, np.float32)
    occupancy[near] = inside(distance - level, edge_mm=feather)
    if plan.deep and plan.volume_ml > 5 and rng.random() < 0.45:
        occupancy = np.maximum(occupancy, _into_ventricles(p, brain, c, cube, rng))
    return Bleed(occupancy=occupancy, hu=_density(p, c, cube, folds, rng))


def _in_tissue(p: Points, brain: Brain, centre: Point, cube: float) -> Point:
    """The centre, or where it meant a ventricle or fissure a place in the tissue beside."""
    solid = brain.tissue > 0.95
    one = p.only(solid)
    square = (one.x - centre[0]) ** 2 + (one.y - centre[1]) ** 2 + (one.z - centre[2]) ** 2
    nearest = int(np.argmin(square))
    way = float(np.sqrt(square[nearest]))
    if way < 1.5:
        return centre
    on = 1 + 0.5 * cube / way
    return (
        centre[0] + on * (float(one.x[nearest]) - centre[0]),
        centre[1] + on * (float(one.y[nearest]) - centre[1]),
        centre[2] + on * (float(one.z[nearest]) - centre[2]),
    )


def _walk(p: Points, centre: Point, cube: float, rng: np.random.Generator) -> F32:
    """Distance-like field of a walk of Gaussian blobs, in mm; sometimes with islands beside."""
    steps = int(rng.integers(3, 13))
    size = cube * float(rng.uniform(0.26, 0.42))
    stretch = np.exp(rng.normal(0, 0.22, 3))
    at, heading = np.zeros(3), rng.standard_normal(3)
    places = []
    for _ in range(steps):
        places.append((at.copy(), size * float(rng.uniform(0.6, 1.25))))
        heading = 0.5 * heading + rng.standard_normal(3)
        at = 0.85 * at + heading / np.linalg.norm(heading) * size * 0.95 * stretch
    middle = np.mean([place for place, _ in places], axis=0)
    if cube > 15 and rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            away = rng.standard_normal(3)
            places.append(
                (middle + away / np.linalg.norm(away) * cube * rng.uniform(0.75, 1.0), float(rng.uniform(2, 4)))
            )
    total = np.zeros(p.x.shape, np.float32)
    for place, sigma in places:
        x, y, z = (np.asarray(centre) + place - middle).tolist()
        square = (p.x - np.float32(x)) ** 2 + (p.y - np.float32(y)) ** 2 + (p.z - np.float32(z)) ** 2
        total += np.exp(-square / np.float32(2 * sigma**2))
    far: F32 = (np.sqrt(-2 * np.log(np.maximum(total / (total.max() + 1e-6), 1e-30))) * size).astype(np.float32)
    return far


def _into_ventricles(p: Points, brain: Brain, centre: Point, cube: float, rng: np.random.Generator) -> F32:
    """A cast of the ventricle beside the bleed, and a level of blood in what lies lowest in a head on its back."""
    near = inside(ellipsoid(p, centre, (cube * 0.9 + 6,) * 3), edge_mm=4)
    level = float(rng.uniform(34, 54))
    lowest = ((p.y > level) & (p.z > -8)).astype(np.float32)
    filled: F32 = (brain.ventricle * np.maximum(near, lowest * float(rng.random() < 0.6))).astype(np.float32)
    return filled


def _density(p: Points, centre: Point, cube: float, folds: Labyrinth, rng: np.random.Generator) -> F32:
    """Even, or mixed as blend, swirl, black hole or fluid level."""
    base = float(np.clip(rng.normal(65, 6.5), 50, 84))
    fine = folds.distance(p.x * 1.9 - 11, p.y * 1.9 + 23, p.z * 1.9)
    hu = np.float32(base) + np.float32(rng.uniform(0.3, 1.3)) * fine
    kind = rng.choice(["even", "blend", "swirl", "hole", "level"], p=[0.42, 0.16, 0.18, 0.14, 0.10])
    if kind == "blend":
        slope = rng.standard_normal(3)
        slope /= np.linalg.norm(slope)
        along = (p.x - centre[0]) * slope[0] + (p.y - centre[1]) * slope[1] + (p.z - centre[2]) * slope[2] + fine
        hu -= np.float32(rng.uniform(14, 20)) * inside((along - cube * 0.15).astype(np.float32), edge_mm=3)
    elif kind == "swirl":
        band = folds.distance(p.x * 0.9 + 5, p.y * 0.9, p.z * 0.9 - 40)
        hu -= np.float32(rng.uniform(9, 18)) * inside(np.abs(band) - 0.9, edge_mm=2)
    elif kind == "hole" and cube > 14:
        away = rng.normal(0, cube * 0.12, 3)
        place = (centre[0] + away[0], centre[1] + away[1], centre[2] + away[2])
        hu += (38 - hu) * inside(ellipsoid(p, place, (cube * 0.16, cube * 0.2, cube * 0.16)), edge_mm=2)
    elif kind == "level":
        top = centre[1] + cube * float(rng.uniform(-0.15, 0.1))
        hu -= np.float32(rng.uniform(16, 24)) * (p.y < top)
    mixed: F32 = np.clip(hu, 30, 92).astype(np.float32)
    return mixed


def oedema(occupancy: F32, p: Points, plan: Plan, rng: np.random.Generator, weight: F32) -> F32:
    """HU that swelling takes away around a bleed (0 or more), in tissue only."""
    cube = float(np.cbrt(plan.volume_ml * 1000))
    wide = float(rng.uniform(2, 9)) * min(cube / 25, 1.3)
    ring = inside(ellipsoid(p, plan.centre, (0.6 * cube + wide,) * 3), edge_mm=max(wide, 2.0) * 1.5)
    taken: F32 = np.float32(rng.uniform(4, 14)) * ring * weight * (1 - occupancy)
    return taken
