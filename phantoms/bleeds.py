"""Intracerebral haematomas: where they lie, their shape, density and what they do to the brain around. No head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from phantoms.anatomy import tissue
from phantoms.fields import F32, Point, Waves, as_point, both, ellipsoid, inside, paint, ramp, union
from phantoms.person import Person, nominal
from phantoms.walls import behind_tentorium_edge, tentorium_height

SITES = ("putamen", "thalamus", "lobar", "cerebellum", "pons")
_SITE_CHANCE = (0.34, 0.17, 0.35, 0.10, 0.04)
_LIMIT_ML = {"putamen": 80.0, "thalamus": 35.0, "lobar": 80.0, "cerebellum": 30.0, "pons": 9.0}


@dataclass(frozen=True, slots=True)
class Bleed:
    """What to put into a head: one haematoma per volume.

    Attributes
    ----------
    volumes_ml : wanted volumes in mL (above 0); the true ones are measured on the slices.
    sites : one of SITES for each volume, or empty to draw them.
    hu : density of each, or empty to draw them.
    """

    volumes_ml: tuple[float, ...]
    sites: tuple[str, ...] = ()
    hu: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if any(not 0 < v <= 150 for v in self.volumes_ml):
            raise ValueError(f"haematoma volumes must be above 0 and at most 150 mL, not {self.volumes_ml}")
        if self.sites and (len(self.sites) != len(self.volumes_ml) or not set(self.sites) <= set(SITES)):
            raise ValueError(f"one site of {SITES} for each volume, not {self.sites}")
        if self.hu and len(self.hu) != len(self.volumes_ml):
            raise ValueError(f"one density for each volume, not {self.hu}")


@dataclass(frozen=True, slots=True)
class Haematoma:
    """One placed haematoma; `level` makes its volume the wanted one."""

    centre: Point
    axes: Point
    turn: tuple[Point, Point, Point]
    lobe: tuple[Point, Point] | None
    coarse: Waves
    fine: Waves
    swirl: Waves
    rough: tuple[float, float]
    side: int
    below: bool
    deep: bool
    hu: float
    mottle: float
    pocket: float
    edge: float
    oedema: tuple[float, float]
    push: float
    radius: float
    level: float

    def distance(self, q: F32, cavity: F32) -> F32:
        """About the signed distance in mm at nominal points (3, n) that lie `cavity` (n,) mm below the envelope."""
        turn = np.asarray(self.turn, np.float32)
        local = turn @ (q - np.asarray(self.centre, np.float32)[:, None])
        shape = ellipsoid(local, (0, 0, 0), self.axes)
        if self.lobe is not None:
            shape = union(shape, ellipsoid(local, *self.lobe), soft=0.5 * self.radius)
        shape = shape + np.float32(self.rough[0]) * self.coarse(q) + np.float32(self.rough[1]) * self.fine(q)
        shape -= np.float32(self.level)
        shape = both(shape, np.float32(2.2) - cavity, soft=1)
        if self.side:
            across = np.float32(1.8) if not self.deep else np.float32(-6)
            shape = both(shape, across - np.float32(self.side) * q[0], soft=1)
        tent = q[2] - tentorium_height(q)
        if self.below:
            return both(shape, tent + np.float32(1.8), soft=1)
        notch = np.hypot(q[0], (q[1] - 17) * np.float32(0.72)) - np.float32(17)
        free = union(union(np.float32(1.8) - tent, behind_tentorium_edge(q) + np.float32(3)), notch)
        return both(shape, free, soft=1)

    def reach(self) -> float:
        """Radius in mm beyond which nothing of this haematoma or its oedema is found."""
        return 2.6 * self.radius + 14

    def source(self, q: F32, cavity: F32) -> F32:
        """Where the brain now at `q` came from: pushed away from the centre, not through the skull."""
        v = q - np.asarray(self.centre, np.float32)[:, None]
        r = np.sqrt(np.einsum("in,in->n", v, v)) + np.float32(1e-3)
        r0 = np.cbrt(np.maximum(r**3 - np.float32(self.push * self.radius**3), np.float32(0.02) * r**3))
        fade = np.exp(-((r / np.float32(4.5 * self.radius)) ** 2)) * ramp(cavity, 0, 22)
        moved: F32 = q - v * ((r - r0) / r * fade)
        return moved

    def paint(self, hu: F32, q: F32, distance: F32) -> None:
        """Blood and its oedema over the brain's HU."""
        width, oedema_hu = self.oedema
        if width > 0:
            around = ramp(distance, width + 1.5, max(width - 2.0, 0.2)) * (hu > 14) * (hu < 60)
            paint(hu, around, oedema_hu)
        swirl = self.swirl(q)
        blood = np.float32(self.hu) + np.float32(self.mottle) * swirl
        blood -= np.float32(self.pocket) * ramp(swirl, 0.9, 1.8)
        blood -= np.float32(0.08 * self.hu) * ramp(distance, -3, 0)
        paint(hu, inside(distance, self.edge), blood)


def draw_bleed(rng: np.random.Generator) -> Bleed | None:
    """No haematoma in 4 of 10 heads; otherwise one, seldom two or three, of 0.5-80 mL."""
    if rng.random() < 0.4:
        return None
    count = int(rng.choice((1, 2, 3), p=(0.8, 0.14, 0.06)))
    volumes = np.exp(rng.uniform(np.log(0.5), np.log(80.0), count))
    volumes[1:] = np.minimum(volumes[1:], 25.0)
    return Bleed(tuple(float(v) for v in volumes))


def place(person: Person, bleed: Bleed, rng: np.random.Generator) -> tuple[Haematoma, ...]:
    """Lay the haematomas into the head, apart from each other where possible, each scaled to its wanted volume."""
    placed: list[Haematoma] = []
    for i, volume in enumerate(bleed.volumes_ml):
        best: Haematoma | None = None
        for _ in range(12):
            site = bleed.sites[i] if bleed.sites else _draw_site(rng, volume)
            one = _calibrate(person, _draw(rng, site, volume, bleed.hu[i] if bleed.hu else None), volume)
            if one is None:
                continue
            best = one
            if all(_apart(one, other) for other in placed):
                break
        if best is None:
            raise ValueError(f"no place for a haematoma of {volume} mL")
        placed.append(best)
    return tuple(placed)


def _apart(one: Haematoma, other: Haematoma) -> bool:
    gap = np.linalg.norm(np.subtract(one.centre, other.centre))
    return bool(gap > 1.3 * (one.radius + other.radius) + 6)


def _draw_site(rng: np.random.Generator, volume: float) -> str:
    chance = np.array([p if volume <= _LIMIT_ML[s] else 0.0 for s, p in zip(SITES, _SITE_CHANCE, strict=True)])
    if not chance.any():
        return "lobar"
    return str(rng.choice(SITES, p=chance / chance.sum()))


def _draw(rng: np.random.Generator, site: str, volume: float, hu: float | None) -> Haematoma:
    radius = (volume * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    side = int(rng.choice((-1, 1)))
    axes = np.exp(rng.normal(0, 0.22, 3))
    below = site in ("cerebellum", "pons")
    if site == "putamen":
        centre = np.array([side * rng.normal(27, 2), rng.normal(-2, 5), rng.normal(3, 3)])
        axes *= (0.8, 1.25, 1.0)
    elif site == "thalamus":
        centre = np.array([side * rng.normal(14, 1.5), rng.normal(11, 3), rng.normal(6, 2)])
    elif site == "cerebellum":
        centre = np.array([side * rng.normal(21, 6), rng.normal(48, 5), rng.normal(-38, 4)])
    elif site == "pons":
        centre = np.array([rng.normal(0, 2), rng.normal(21, 1), rng.normal(-31, 3)])
        side = 0
    else:
        direction = rng.normal(size=3) * (1.0, 1.1, 0.8)
        direction[0] = side * abs(direction[0])
        direction /= np.linalg.norm(direction)
        surface = 1 / np.linalg.norm(direction / np.array([62, 78, 66]))
        depth = rng.uniform(6, 16) + 0.8 * radius
        centre = np.array([0, -2, 4]) + direction * max(surface - depth, 12)
        centre[0] = side * max(abs(centre[0]), 9 + 0.4 * radius)
        centre[2] = max(
            centre[2],
            -20 if centre[1] < 5 else tentorium_height(centre[:, None].astype(np.float32))[0] + 5 + 0.5 * radius,
        )
    axes *= radius / np.cbrt(axes.prod())
    turn, _ = np.linalg.qr(np.eye(3) + rng.normal(0, 0.5 if site == "lobar" else 0.22, (3, 3)))
    lobe: tuple[Point, Point] | None = None
    if rng.random() < 0.4:
        offset = rng.normal(size=3)
        offset *= 0.9 * radius / np.linalg.norm(offset)
        lobe = (as_point(offset), as_point(axes * rng.uniform(0.4, 0.75)))
    return Haematoma(
        centre=as_point(centre),
        axes=as_point(axes),
        turn=(as_point(turn[0]), as_point(turn[1]), as_point(turn[2])),
        lobe=lobe,
        coarse=Waves.draw(rng, 6, shortest_mm=1.3 * radius + 3, longest_mm=2.6 * radius + 6),
        fine=Waves.draw(rng, 8, shortest_mm=0.5 * radius + 3, longest_mm=0.9 * radius + 5),
        swirl=Waves.draw(rng, 6, shortest_mm=6, longest_mm=0.8 * radius + 14),
        rough=(float(rng.uniform(0.04, 0.17) * radius), float(rng.uniform(0.01, 0.08) * radius)),
        side=side,
        below=below,
        deep=site != "lobar",
        hu=float(np.clip(rng.normal(64, 7), 50, 80)) if hu is None else hu,
        mottle=float(rng.uniform(0.5, 3.0)),
        pocket=float(rng.uniform(8, 22)) if rng.random() < 0.2 else 0.0,
        edge=float(rng.uniform(1.4, 3.2)),
        oedema=(float(rng.uniform(1.5, 4.0) + 0.22 * radius), float(rng.uniform(19, 25)))
        if rng.random() < 0.8
        else (0.0, 0.0),
        push=float(rng.uniform(0.25, 0.8)),
        radius=float(radius),
        level=0.0,
    )


def _calibrate(person: Person, one: Haematoma, volume: float) -> Haematoma | None:
    """Choose the level so that the volume inside the brain is the wanted one; None where the place is too narrow."""
    step = max(one.radius / 8, 0.5)
    reach = 2.3 * one.radius + 2
    ticks = np.arange(-reach, reach + step / 2, step)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij")).reshape(3, -1).astype(np.float32)
    centre = np.asarray(one.centre, np.float32) * np.asarray(person.scale, np.float32)
    xyz = grid + centre[:, None]
    depth = envelope_depth(person, xyz)
    q = nominal(person, xyz)
    low, high = -0.6 * one.radius, 0.9 * one.radius
    voxel = step**3 / 1000
    for _ in range(9):
        level = 0.5 * (low + high)
        got = np.count_nonzero(replace(one, level=level).distance(q, depth) < 0) * voxel
        low, high = (level, high) if got < volume else (low, level)
    final = replace(one, level=0.5 * (low + high))
    got = np.count_nonzero(final.distance(q, depth) < 0) * voxel
    return final if abs(got - volume) <= 0.1 * volume + 0.05 else None


def envelope_depth(person: Person, xyz: F32) -> F32:
    """Depth in mm below the brain's envelope at head points (3, n), negative outside."""
    return tissue(person, xyz).depth
