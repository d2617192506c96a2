"""Intracerebral haematomas: where they lie, their shape, density and what they do to the brain around. No head."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from phantoms.anatomy import tissue
from phantoms.expansion import Signs, draw_signs
from phantoms.fields import F32, Point, Waves, as_point, both, ellipsoid, inside, paint, ramp, union
from phantoms.person import Person, nominal
from phantoms.walls import behind_tentorium_edge, notch, tentorium_height

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
    signs : those of the first haematoma, or None to draw them.
    ventricular : chance that blood breaks into the ventricles, on top of the wanted volume; None: by the site.
    """

    volumes_ml: tuple[float, ...]
    sites: tuple[str, ...] = ()
    hu: tuple[float, ...] = ()
    signs: Signs | None = None
    ventricular: float | None = 0.0

    def __post_init__(self) -> None:
        if any(not 0 < v <= 150 for v in self.volumes_ml):
            raise ValueError(f"haematoma volumes must be above 0 and at most 150 mL, not {self.volumes_ml}")
        if self.sites and (len(self.sites) != len(self.volumes_ml) or not set(self.sites) <= set(SITES)):
            raise ValueError(f"one site of {SITES} for each volume, not {self.sites}")
        if self.hu and len(self.hu) != len(self.volumes_ml):
            raise ValueError(f"one density for each volume, not {self.hu}")


@dataclass(frozen=True, slots=True)
class Haematoma:
    """One placed haematoma; `level` makes its volume the wanted one.

    Lengths in mm. `lobes` and `holes` are (offset, axes) in the haematoma's own frame, `islands` (offset, radius).
    `blend` is (direction, place along it, drop in HU), `layered` the drop in HU before the level (y) of the cells.
    `flood` is (HU, level of the layered blood, reach of the clot) in the ventricles.
    """

    centre: Point
    axes: Point
    turn: tuple[Point, Point, Point]
    lobes: tuple[tuple[Point, Point], ...]
    islands: tuple[tuple[Point, float], ...]
    hole: tuple[Point, Point, float] | None
    blend: tuple[Point, float, float] | None
    layered: tuple[float, float] | None
    flood: tuple[float, float, float] | None
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
    signs: Signs
    wanted_ml: float

    def distance(self, q: F32, cavity: F32) -> F32:
        """About the signed distance in mm at nominal points (3, n) that lie `cavity` (n,) mm below the envelope."""
        local = self._local(q)
        shape = ellipsoid(local, (0, 0, 0), self.axes)
        for offset, axes in self.lobes:
            shape = union(shape, ellipsoid(local, offset, axes), soft=0.35 * self.radius)
        shape = shape + np.float32(self.rough[0]) * self.coarse(q) + np.float32(self.rough[1]) * self.fine(q)
        shape -= np.float32(self.level)
        for offset, radius in self.islands:
            shape = union(shape, ellipsoid(local, offset, (radius, radius, 1.3 * radius)))
        shape = both(shape, np.float32(2.2) - cavity, soft=1)
        if self.side:
            across = np.float32(1.8) if not self.deep else np.float32(-6)
            shape = both(shape, across - np.float32(self.side) * q[0], soft=1)
        tent = q[2] - tentorium_height(q)
        if self.below:
            return both(shape, tent + np.float32(1.8), soft=1)
        free = union(union(np.float32(1.8) - tent, behind_tentorium_edge(q) + np.float32(3)), notch(q, radius_mm=17))
        return both(shape, free, soft=1)

    def _local(self, q: F32) -> F32:
        turned: F32 = np.asarray(self.turn, np.float32) @ (q - np.asarray(self.centre, np.float32)[:, None])
        return turned

    def reach(self) -> float:
        """Radius in mm beyond which nothing of this haematoma or its oedema is found, but in the ventricles."""
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
        if self.pocket:
            blood -= np.float32(self.pocket) * ramp(np.abs(swirl), 0.55, 0.25) * ramp(distance, -1, -3)
        blood -= np.float32(0.08 * self.hu) * ramp(distance, -3, 0)
        local = self._local(q)
        if self.blend is not None:
            direction, place, drop = self.blend
            along = np.asarray(direction, np.float32) @ local - np.float32(place)
            blood -= np.float32(drop) * inside(along + np.float32(0.1 * self.radius) * self.coarse(q), 1.5)
        if self.layered is not None:
            place, drop = self.layered
            blood -= np.float32(drop) * inside(q[1] - np.float32(self.centre[1] + place), 1.5)
        if self.hole is not None:
            offset, axes, drop = self.hole
            blood -= np.float32(drop) * inside(ellipsoid(local, offset, axes), 1.4)
        paint(hu, inside(distance, self.edge), blood)

    def flooded(self, hu: F32, q: F32, ventricle: F32) -> F32 | None:
        """Paint blood into the ventricles and say how much of each point it fills; None without any."""
        if self.flood is None:
            return None
        density, level, clot = self.flood
        far = np.sqrt(np.einsum("in,in->n", *(2 * [q - np.asarray(self.centre, np.float32)[:, None]])))
        settled = np.float32(level) - q[1]
        cast = far - np.float32(clot) + np.float32(3) * self.coarse(q)
        filled = inside(ventricle + np.float32(0.3), 1.6) * inside(np.minimum(settled, cast), 2.0)
        paint(hu, filled, np.float32(density) + np.float32(self.mottle) * self.swirl(q))
        return filled

    def grown(self, person: Person, volume_ml: float) -> Haematoma:
        """The same haematoma at another volume.

        Raises
        ------
        ValueError
            The place is too narrow.
        """
        factor = float(np.cbrt(volume_ml / self.wanted_ml))
        scaled = replace(
            self,
            axes=as_point(np.multiply(self.axes, factor)),
            lobes=tuple((as_point(np.multiply(o, factor)), as_point(np.multiply(a, factor))) for o, a in self.lobes),
            islands=tuple((as_point(np.multiply(o, factor)), r * factor) for o, r in self.islands),
            radius=self.radius * factor,
            oedema=(self.oedema[0] * factor + (1.0 if self.oedema[0] else 0.0), self.oedema[1]),
            hu=min(self.hu + 3, 85.0),
            wanted_ml=volume_ml,
        )
        found = _calibrate(person, scaled, volume_ml)
        if found is None:
            raise ValueError(f"no place for a haematoma of {volume_ml:.1f} mL")
        return found


def draw_bleed(rng: np.random.Generator) -> Bleed | None:
    """No haematoma in 4 of 10 heads; otherwise one, seldom two or three, of 0.3-80 mL."""
    if rng.random() < 0.4:
        return None
    count = int(rng.choice((1, 2, 3), p=(0.8, 0.14, 0.06)))
    volumes = np.exp(rng.uniform(np.log(0.3), np.log(80.0), count))
    volumes[1:] = np.minimum(volumes[1:], 25.0)
    return Bleed(tuple(float(v) for v in volumes), ventricular=None)


def place(person: Person, bleed: Bleed, rng: np.random.Generator) -> tuple[Haematoma, ...]:
    """Lay the haematomas into the head, apart from each other where possible, each scaled to its wanted volume."""
    placed: list[Haematoma] = []
    for i, volume in enumerate(bleed.volumes_ml):
        signs = draw_signs(rng, volume)
        if i == 0 and bleed.signs is not None:
            signs = bleed.signs
        best: Haematoma | None = None
        for _ in range(12):
            site = bleed.sites[i] if bleed.sites else _draw_site(rng, volume)
            hu = bleed.hu[i] if bleed.hu else None
            drawn = _draw(rng, site, volume, hu=hu, signs=signs, ventricular=bleed.ventricular)
            one = _calibrate(person, drawn, volume)
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


def _draw(
    rng: np.random.Generator, site: str, volume: float, *, hu: float | None, signs: Signs, ventricular: float | None
) -> Haematoma:
    radius = (volume * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    side = int(rng.choice((-1, 1)))
    axes = np.exp(rng.normal(0, 0.22, 3))
    below = site in ("cerebellum", "pons")
    if site == "putamen":
        centre = np.array([side * rng.normal(27, 2), rng.normal(0, 5), rng.normal(2, 3)])
        axes *= (0.8, 1.25, 1.0)
    elif site == "thalamus":
        centre = np.array([side * rng.normal(13, 1.5), rng.normal(17, 3), rng.normal(6, 2)])
    elif site == "cerebellum":
        centre = np.array([side * rng.normal(24, 6), rng.normal(60, 5), rng.normal(-38, 4)])
    elif site == "pons":
        centre = np.array([rng.normal(0, 2), rng.normal(26, 1), rng.normal(-32, 3)])
        side = 0
    else:
        direction = rng.normal(size=3) * (1.0, 1.1, 0.8)
        direction[0] = side * abs(direction[0])
        direction /= np.linalg.norm(direction)
        surface = 1 / np.linalg.norm(direction / np.array([65, 84, 66]))
        depth = rng.uniform(6, 16) + 0.8 * radius
        centre = np.array([0, 16, 8]) + direction * max(surface - depth, 12)
        centre[0] = side * max(abs(centre[0]), 9 + 0.4 * radius)
        centre[2] = max(
            centre[2],
            -24 if centre[1] < 10 else tentorium_height(centre[:, None].astype(np.float32))[0] + 5 + 0.5 * radius,
        )
    axes *= radius / np.cbrt(axes.prod())
    turn, _ = np.linalg.qr(np.eye(3) + rng.normal(0, 0.5 if site == "lobar" else 0.22, (3, 3)))
    count = int(rng.integers(2, 5)) if signs.irregular else int(rng.random() < 0.25)
    lobes = []
    for _ in range(count):
        offset = _direction(rng) * 0.9 * radius
        lobes.append((as_point(offset), as_point(axes * rng.uniform(0.35, 0.7))))
    # Fresh blood is less dense and has little oedema yet.
    ripe = 1 - float(np.exp(-signs.onset_hours / 8))
    density = float(np.clip(rng.normal(57 + 11 * ripe, 5), 45, 85)) if hu is None else hu
    if hu is None and (signs.blend or signs.black_hole or signs.swirl):
        density = max(density, 62.0 + 4.0 * signs.blend)
    rough = rng.uniform((0.12, 0.09), (0.2, 0.15)) if signs.irregular else rng.uniform((0.02, 0.005), (0.07, 0.02))
    return Haematoma(
        centre=as_point(centre),
        axes=as_point(axes),
        turn=(as_point(turn[0]), as_point(turn[1]), as_point(turn[2])),
        lobes=tuple(lobes),
        islands=_draw_islands(rng, axes, radius) if signs.island else (),
        hole=_draw_hole(rng, radius) if signs.black_hole else None,
        blend=(as_point(_direction(rng)), float(rng.uniform(-0.25, 0.25) * radius), float(rng.uniform(18, 24)))
        if signs.blend
        else None,
        layered=(float(rng.uniform(-0.3, 0.3) * radius), float(rng.uniform(12, 28)))
        if volume > 8 and rng.random() < 0.04
        else None,
        flood=_draw_flood(rng, site, volume, radius, ventricular),
        coarse=Waves.draw(rng, 6, shortest_mm=1.3 * radius + 3, longest_mm=2.6 * radius + 6),
        fine=Waves.draw(rng, 8, shortest_mm=0.5 * radius + 3, longest_mm=0.9 * radius + 5),
        swirl=Waves.draw(rng, 6, shortest_mm=9, longest_mm=0.8 * radius + 20),
        rough=(float(rough[0] * radius), float(rough[1] * radius)),
        side=side,
        below=below,
        deep=site != "lobar",
        hu=density,
        mottle=float(rng.uniform(0.5, 2.5)),
        pocket=float(rng.uniform(14, 24)) if signs.swirl else 0.0,
        edge=float(rng.uniform(1.4, 3.2)),
        oedema=(float(rng.uniform(1.0, 3.0) + (0.05 + 0.3 * ripe) * radius), float(rng.uniform(18, 25)))
        if rng.random() < 0.5 + 0.45 * ripe
        else (0.0, 0.0),
        push=float(rng.uniform(0.25, 0.8)),
        radius=float(radius),
        level=0.0,
        signs=signs,
        wanted_ml=volume,
    )


def _direction(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    v: npt.NDArray[np.float64] = rng.normal(size=3)
    return v / np.linalg.norm(v)


def _draw_islands(
    rng: np.random.Generator, axes: npt.NDArray[np.float64], radius: float
) -> tuple[tuple[Point, float], ...]:
    """Three to five small bleeds around the main one; flat fans of them are seen together on few slices."""
    islands = []
    turn = rng.uniform(0, 2 * np.pi)
    for _ in range(int(rng.integers(3, 6))):
        turn += rng.uniform(0.5, 1.3)
        size = float(np.clip(rng.uniform(0.2, 0.3) * radius, 3.0, 6.0))
        away = np.array([np.cos(turn), np.sin(turn), rng.uniform(-0.12, 0.12)])
        away *= (1.0 + rng.uniform(0.0, 0.12)) + (size + 2.0) / radius
        islands.append((as_point(away * axes), size))
    return tuple(islands)


def _draw_hole(rng: np.random.Generator, radius: float) -> tuple[Point, Point, float]:
    """A dark spot inside; at least 4 mm wide and 5 mm high so that a usual slice shows it."""
    size = max(rng.uniform(0.2, 0.3) * radius, 2.6)
    return (
        as_point(_direction(rng) * (0.35, 0.35, 0.1) * radius),
        as_point((size, size * rng.uniform(0.8, 1.3), 1.25 * size)),
        float(rng.uniform(30, 38)),
    )


def _draw_flood(
    rng: np.random.Generator, site: str, volume: float, radius: float, chance: float | None
) -> tuple[float, float, float] | None:
    """Blood in the ventricles: layered in the occipital horns, and clots near the haematoma."""
    drawn, level, clot, density = rng.random(), rng.uniform(40, 58), rng.uniform(0.6, 2.6), rng.uniform(50, 76)
    by_site = {"thalamus": 0.5, "putamen": 0.25, "cerebellum": 0.2, "pons": 0.2}.get(site, 0.12)
    if drawn >= (by_site * min(volume / 10, 1) if chance is None else chance):
        return None
    return float(density), float(level), float(clot * radius)


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
