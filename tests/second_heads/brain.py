"""What the cavity holds without a bleed: CSF, cortex in folds, white matter, deep nuclei, hindbrain, vessels, dura, chalk.

Works on flat arrays of points. Shapes are modelled by hand from textbook measures; no atlas is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from second_heads.fields import F32, Labyrinth, Points, Real, blend, ellipsoid, inside, tube, union
from second_heads.person import Person


@dataclass(frozen=True, slots=True, kw_only=True)
class Brain:
    """HU of flat points; how much of each is tissue and how much is ventricle; which lie below the tentorium."""

    hu: F32
    tissue: F32
    ventricle: F32
    below: npt.NDArray[np.bool_]


def brain(p: Points, depth: F32, person: Person, folds: Labyrinth, texture: F32, rng: np.random.Generator) -> Brain:
    """Paint the brain at points `depth` mm inside the inner table; `texture` is a slow random field there."""
    age = person.atrophy
    # Nobody's midline is straight, and no brain is the mirror of itself.
    bent = p.x + np.float32(rng.normal(0, 1.5)) * np.sin((p.y + rng.uniform(-40, 40)) / 45) + 0.8 * texture
    p = Points(bent.astype(np.float32), p.y, p.z)
    q = p.mirrored()
    tentorium, below = _tentorium(q)
    surface = _surface(p, q, depth, folds, below, tentorium, age, texture, rng)

    hu = np.full(depth.shape, person.white, np.float32) + 0.5 * texture
    grey = person.grey + np.float32(0.4) * texture
    blend(hu, grey, inside(surface - (3.1 + 0.5 * texture), edge_mm=1.4))
    ventricle, close = _ventricles(p, person, rng)
    blend(hu, person.white - person.small_vessel_disease, np.exp(-np.maximum(close, 0) / 5) * (surface > 6))
    _nuclei(hu, q, person, ventricle)
    tissue = inside(-surface)
    _hindbrain(hu, tissue, p, q, person, depth, below, tentorium, folds, texture)
    _cisterns(tissue, p, q, age, below)
    if person.old_infarct:
        _infarct(hu, tissue, p, texture, person, rng)
    tissue *= inside(-ventricle)
    fluid = np.float32(person.csf) + 0.3 * texture
    hu = (fluid + (hu - fluid) * tissue).astype(np.float32)
    _dura_and_vessels(hu, p, q, person, depth, tentorium, rng)
    _chalk(hu, p, person, texture, rng)
    _cord(hu, p, person)
    wet = inside(ventricle) * (~below | (np.abs(p.x) < 12))
    return Brain(hu=hu, tissue=tissue.astype(np.float32), ventricle=wet.astype(np.float32), below=below)


def _tentorium(q: Points) -> tuple[F32, npt.NDArray[np.bool_]]:
    """Height above the tentorium, and whether a point belongs to the posterior fossa."""
    ridge = np.float32(26) - np.maximum(58 - q.x, 0) * np.float32(0.62)
    sheet = 7 - 0.32 * (q.y - 30) - 0.48 * q.x + 0.0022 * q.x * q.x
    sheet = np.where(q.y < 30, 7 + 0.25 * (q.y - 30) - 0.48 * q.x + 0.0022 * q.x * q.x, sheet)
    height = (q.z - sheet).astype(np.float32)
    below = (height < 0) & (q.y > ridge) & (q.y > -7)
    return height, below


def _surface(
    p: Points, q: Points, depth: F32, folds: Labyrinth, below: npt.NDArray[np.bool_], tentorium: F32, age: float,
    texture: F32, rng: np.random.Generator,
) -> F32:  # fmt: skip
    """Distance into the cerebrum from its surface, folds and fissures; negative in CSF."""
    # The same direction from the middle has nearly the same value at every depth, so folds stand upright on the surface.
    radius = np.sqrt(p.x**2 + (p.y * 0.8) ** 2 + p.z**2) + 1
    shrink = (62 / radius) ** np.float32(0.75)
    wander = folds.distance(p.x * shrink, p.y * shrink, p.z * shrink)
    deep = np.float32(13) + 4 * texture
    width = np.float32(rng.uniform(0.3, 0.8) + 1.2 * age) * (1 + 0.3 * texture)
    gap = np.float32(0.7 + 2.0 * age) * (1 + 0.3 * texture) * np.where(p.y < 0, 1.2, 0.8)
    csf: F32 = np.minimum(depth - gap, np.hypot(wander, np.maximum(depth - deep, 0)) - width)
    # Interhemispheric fissure, around the corpus callosum.
    callosum = (np.hypot(p.y / 44, (p.z + 1) / 27) - 1) * 27
    wide = np.float32(0.3 + 0.9 * age)
    middle = np.where(p.z > -14, np.maximum(np.abs(p.x) - wide, -callosum), np.float32(30)).astype(np.float32)
    csf = np.minimum(csf, middle)
    # Sylvian fissure: a sheet from the side to the insula, and the insula's own plate.
    slit = np.float32(0.6 + 2.2 * age)
    sheet = np.maximum(np.abs(q.z + 3 - 0.28 * q.y) - slit, np.maximum(42 - q.x, np.abs(q.y + 2) - 26))
    plate = np.maximum(
        np.abs(q.x - 40 - 0.02 * q.y**2 * 0.3) - slit, (np.hypot((q.y + 4) / 21, (q.z - 1) / 14) - 1) * 14
    )
    csf = np.minimum(csf, np.minimum(sheet, plate))
    over = np.where((q.y > 8) & ~below, tentorium - 0.5, np.float32(30))
    surface: F32 = np.minimum(csf, over).astype(np.float32)
    return surface


def _ventricles(p: Points, person: Person, rng: np.random.Generator) -> tuple[F32, F32]:
    """Distance to the ventricles, and to the lateral ones alone."""
    size, lateral = person.ventricles, None
    for sign in (-1, 1):
        own = size * float(rng.normal(1, 0.1))
        out = float(1 + 0.3 * (size - 1))
        one = Points(sign * p.x, p.y, p.z)
        ways = (
            (((9 * out, -38, 4), (10 * out, -24, 12), (12 * out, 2, 19), (21 * out, 30, 12)), (4.2, 4.6, 4.4, 6)),
            (((21 * out, 30, 12), (22 * out, 48, 7), (20 * out, 62, 4)), (6, 4, 1.5)),
            (((23 * out, 30, 10), (33, 14, -10), (33, -8, -20)), (4, 2.2, 2)),
        )
        horns = None
        for path, radii in ways:
            way = tube(one, path, [r * own for r in radii], flat=(1.0, 1.0, 0.9))
            horns = way if horns is None else union(horns, way, round_mm=3)
        assert horns is not None
        horns = np.maximum(horns, 1.0 - one.x)
        lateral = horns if lateral is None else np.minimum(lateral, horns)
    assert lateral is not None
    third = ellipsoid(p, (0, 2, 0), (1.3 + 2.2 * (size - 0.6), 14, 11))
    duct = tube(p, ((0, 13, -6), (0, 19, -20)), (0.8, 0.8))
    fourth = ellipsoid(p, (0, 23, -29), (6.5 * size**0.5, 5.5 * size**0.5, 9))
    return np.minimum(np.minimum(lateral, third), np.minimum(duct, fourth)).astype(np.float32), lateral


def _nuclei(hu: F32, q: Points, person: Person, ventricle: F32) -> None:
    grey = person.grey + 0.6
    soft = 1.6
    for shape in (
        tube(q, ((12, -27, 4), (15, -12, 14), (19, 12, 19)), (6.2, 5.0, 2.2)),
        ellipsoid(q, (25, -5, 3), (7.5, 19, 10)),
        ellipsoid(q, (11, 12, 7), (9, 14, 10)),
        ellipsoid(q, (40.5, -4, 1), (1.3, 19, 12)),
    ):
        blend(hu, grey, 0.85 * inside(shape, edge_mm=soft) * (ventricle > 0))


def _hindbrain(
    hu: F32, tissue: F32, p: Points, q: Points, person: Person, depth: F32, below: npt.NDArray[np.bool_],
    tentorium: F32, folds: Labyrinth, texture: F32,
) -> None:  # fmt: skip
    stem = union(
        tube(p, ((0, 6, 2), (0, 3, -26)), (13, 14.5), flat=(1, 1.05, 1)),
        tube(p, ((0, 5, -28), (0, 15, -50), (0, 19, -64)), (13, 8, 6)),
        round_mm=4,
    )
    leaf = folds.distance(p.x * 0.8, p.y * 0.8, p.z * 3.2)
    # It fills the posterior fossa but for the cisterns: before it, beside the pons, and below the vermis.
    small = np.maximum(1.0 + 1.2 * person.atrophy - depth, tentorium + 0.8)
    front = np.maximum(np.float32(15), 28 - np.maximum(58 - q.x, 0) * np.float32(0.62)) - q.y
    small = np.maximum(small, front)
    small = np.maximum(small, -ellipsoid(p, (0, 66, -54), (13, 15, 9))).astype(np.float32)
    inner = ellipsoid(q, (20, 42, -34), (15, 15, 9)) + 1.5 * texture
    there = below
    leaves = person.grey - 2.5 - np.clip(1.3 - np.abs(leaf), 0, 1.3) * (2 + 6 * person.atrophy)
    part = np.where(there, leaves, hu)
    blend(part, person.white + 0.5, inside(inner, edge_mm=3) * there)
    joined = inside(tube(q, ((9, 12, -30), (16, 32, -34)), (7, 5)), edge_mm=2)
    blend(part, person.white + 0.5, joined * there)
    hu[:] = part
    solid = np.maximum(np.maximum(inside(small), inside(stem)), joined)
    tissue[:] = np.where(there, solid, np.maximum(tissue, inside(stem) * (p.z < 2)))
    blend(hu, person.white + 2.0, inside(stem, edge_mm=2) * (p.z < 2))


def _cisterns(tissue: F32, p: Points, q: Points, age: float, below: npt.NDArray[np.bool_]) -> None:
    wide = 1 + 0.25 * age
    star = tube(q, ((0, -16, -17), (9, -20, -17), (24, -17, -14)), (7 * wide, 4 * wide, 1.6 * wide))
    front = ellipsoid(p, (0, -12, -20), (10 * wide, 9 * wide, 7))
    around = np.abs(tube(p, ((0, 6, 0), (0, 4, -14)), (15.5, 15.5))) - 1.1 * wide
    around = np.maximum(around, np.maximum(np.where(p.y > -2, -p.z - 16, np.float32(9)), p.z - 1))
    quad = np.maximum(ellipsoid(p, (0, 23, 0), (9 * wide, 5 * wide, 6)), np.float32(-20))
    dry = np.minimum(np.minimum(star, front), np.minimum(around, quad)).astype(np.float32)
    tissue *= inside(-np.where(below & (p.z < -16), np.float32(9), dry))


def _infarct(hu: F32, tissue: F32, p: Points, texture: F32, person: Person, rng: np.random.Generator) -> None:
    """Old: a wedge of CSF with a rim of gliosis, or a lacune."""
    side = 1 if rng.random() < 0.5 else -1
    if rng.random() < 0.5:
        place, size = (side * rng.uniform(20, 28), rng.uniform(-15, 8), rng.uniform(0, 14)), rng.uniform(2, 5)
        shape = ellipsoid(p, place, (size, size * 1.4, size))
    else:
        place = (side * rng.uniform(42, 56), rng.uniform(-40, 55), rng.uniform(5, 40))
        shape = ellipsoid(p, place, tuple(rng.uniform(9, 22, 3).tolist())) + 4 * texture
    blend(hu, person.white - 8, inside(shape - 4, edge_mm=5))
    tissue *= 1 - 0.85 * inside(shape, edge_mm=2)


def _dura_and_vessels(
    hu: F32, p: Points, q: Points, person: Person, depth: F32, tentorium: F32, rng: np.random.Generator
) -> None:  # fmt: skip
    def paint(distance: Real, value: float) -> None:
        blend(hu, value, inside(distance))

    callosum = (np.hypot(p.y / 50, (p.z + 1) / 34) - 1) * 30
    falx = np.maximum(np.abs(p.x) - float(rng.uniform(0.4, 0.8)), np.maximum(-callosum, -8 - p.z))
    paint(falx, person.dura)
    if person.falx_bone:
        y = float(rng.uniform(-60, -20))
        paint(np.maximum(falx - 1.0, ellipsoid(p, (0, y, 40), (5, 9, 7))), float(rng.uniform(250, 700)))
    edge = np.where((q.y > 14) & (depth < 60) & ((q.x > 12) | (q.y > 32)), np.abs(tentorium), np.float32(9))
    paint(edge - 0.55, person.dura - 4)
    crown = np.maximum(np.abs(p.x) + 0.7 * depth - 5.5, -12 - p.z)
    paint(np.where(p.z > -18, crown, np.float32(9)), person.sinus)
    paint(tube(p, ((0, 32, 8), (0, 80, -14)), (1.6, 2.2)), person.sinus)
    across = np.maximum(
        np.hypot(depth - 2.5, tentorium + 1.5) - float(rng.uniform(2.2, 3.4)), np.maximum(26 - q.y, q.x - 54)
    )
    paint(across.astype(np.float32), person.sinus)
    sigmoid = tube(p, ((58, 30, -24), (46, 28, -48)), (4, 4.5))
    paint(sigmoid, person.sinus)
    paint(tube(Points(-p.x, p.y, p.z), ((58, 30, -24), (46, 28, -48)), (3.4, 4)), person.sinus)
    # The basilar artery, carotids and middle cerebral arteries; one side may be dense as with a clot.
    paint(tube(p, ((1, -10, -40), (0, -10, -16)), (1.7, 1.6)), person.vessel)
    for sign in (-1, 1):
        dense = person.vessel + (float(rng.uniform(8, 22)) if rng.random() < 0.12 else 0)
        course = ((10, -12, -22), (9, -14, -16), (26, -16, -13), (39, -10, -7))
        paint(tube(Points(sign * p.x, p.y, p.z), course, (2.1, 1.7, 1.3, 1.0)), dense)
        if rng.random() < 0.35:
            paint(tube(Points(sign * p.x, p.y, p.z), ((11, -6, -24), (10, -12, -19)), (1.2, 1.4)), 450.0)
    paint(tube(p, ((0, 25, 3), (0, 33, 8)), (1.6, 1.7)), person.sinus - 3)


def _chalk(hu: F32, p: Points, person: Person, texture: F32, rng: np.random.Generator) -> None:
    """Calcified pineal gland, plexus and pallidum: what looks like blood and is none."""

    def paint(distance: Real, value: float) -> None:
        blend(hu, value, inside(distance))

    def apart(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    if person.pineal:
        paint(ellipsoid(p, (apart(-1, 1), 20, 3), (person.pineal, person.pineal * 1.2, person.pineal)), apart(90, 320))
    for sign in (-1, 1):
        one = Points(sign * p.x, p.y, p.z)
        out = 1 + 0.3 * (person.ventricles - 1)
        paint(ellipsoid(one, (20.5 * out, 33, 10), (2.8, 5.5, 3)), 46.0)
        if person.plexus and rng.random() < 0.85:
            size = person.plexus * apart(0.6, 1.2)
            paint(ellipsoid(one, (20.5 * out, 34, 9), (size * 0.8, size, size)), apart(80, 380))
        if person.basal_ganglia and rng.random() < 0.9:
            size = person.basal_ganglia
            spots = ellipsoid(one, (18, -4, 1), (size * 0.7, size * 1.3, size)) + 1.5 * texture
            paint(spots, apart(55, 130))


def _cord(hu: F32, p: Points, person: Person) -> None:
    blend(hu, person.white + 4, inside(tube(p, ((0, 19, -60), (0, 21, -160)), (6, 5.5), flat=(0.85, 1, 1))))
