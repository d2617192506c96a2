"""All that is not brain: cavity and skull, scalp, face, neck, air. The cavity's contents are painted by `brain`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from second_heads.fields import F32, Point, Points, Real, blend, ellipsoid, inside, rough, tube, union
from second_heads.person import Person

Mask = npt.NDArray[np.bool_]
AIR, FAT, SKIN = -1000.0, -90.0, 45.0
LOWEST_BRAIN_MM = -60.0  # below: spinal canal


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """HU (z, y, x) of everything around the brain, and the distance to the inner table."""

    hu: F32
    cavity: F32


def shell(grid: Points, person: Person, rng: np.random.Generator, *, steps_mm: Point) -> Shell:
    """Paint the head without its brain."""
    shape = (grid.x.shape[0], grid.x.shape[1], grid.x.shape[2])
    around = (grid.x / 96) ** 2 + ((grid.y + 6) / 112) ** 2 < 1  # nothing of a head lies farther out
    p = grid.only(around)

    def field(wave_mm: float) -> F32:
        return rough(rng, shape, steps_mm, wave_mm=wave_mm)[around]

    cavity = _cavity(p, person) + np.float32(0.9) * field(80)
    # Bone is thicker behind and over the forehead than at the temple, and uneven everywhere.
    temple = np.exp(-(((np.abs(p.x) - 62) / 22) ** 2) - ((p.y + 22) / 28) ** 2 - ((p.z - 2) / 26) ** 2)
    thick = np.maximum(person.skull * (1 + np.float32(0.16) * field(45) - np.float32(0.45) * temple), 1.8)
    base = np.clip((-6 - p.z) / 10, 0, 1) * np.clip((12 - p.y) / 20, 0, 1)
    thick = (thick * (1 - np.float32(0.45) * base)).astype(np.float32)
    outer = cavity - thick
    skin = outer - np.float32(person.scalp) * (1 + np.float32(0.15) * field(60)) - 7 * temple
    low = p.z < 30
    face = union(skin[low], ellipsoid(p.only(low), (0, -48, -62), (60, 50, 72)), round_mm=14)
    face = union(face, ellipsoid(p.only(low), (0, -94, -45), (11, 14, 26)), round_mm=8)
    neck = tube(p.only(low), ((0, 32, -45), (0, 22, -150)), (58, 60), flat=(0.95, 1.05, 1))
    skin[low] = union(face, neck, round_mm=18)

    hu = np.full(p.x.shape, AIR, np.float32)

    def paint(where: Mask, value: F32, share: F32) -> None:
        part = hu[where]
        blend(part, value, share[where])
        hu[where] = part

    bundle, gap = field(24), field(13)
    scalp = (skin < 1) & (outer > -1)
    paint(scalp, _soft(p.only(scalp), person, skin[scalp], outer[scalp], bundle[scalp], gap[scalp]), inside(skin))
    _ears(hu, p)
    fine = field(7)
    low = (p.z < 6) & (skin < 2) & (cavity > -1)
    part = hu[low]
    _face(part, p.only(low), person, fine[low])
    hu[low] = part
    bone = (outer < 1) & (cavity > -1)
    paint(bone, _bone(p.only(bone), person, cavity[bone], thick[bone], fine[bone], bundle[bone]), inside(outer))
    low &= cavity < 50
    part = hu[low]
    _inside_base(part, p.only(low), person, cavity[low], fine[low], rng)
    hu[low] = part

    whole, distance = np.full(shape, AIR, np.float32), np.full(shape, np.float32(99))
    whole[around], distance[around] = hu, cavity
    return Shell(hu=whole, cavity=distance)


def _cavity(p: Points, person: Person) -> F32:
    """Vault, temporal and posterior fossae, sella and spinal canal, grown together."""
    vault = ellipsoid(
        p, (0, 0, 0), (person.width, person.front, 23), back=person.back, up=person.height
    )  # fmt: skip
    # Parietal bosses: the widest place is above and behind the middle.
    vault = union(vault, ellipsoid(p.mirrored(), (22, 18, 20), (person.width - 21, 50, 40)), round_mm=20)
    low = p.z < 25
    q = p.only(low)
    whole = union(vault[low], ellipsoid(q, (0, 40, -30), (54, 42, 30), back=person.back - 42), round_mm=12)
    whole = union(whole, ellipsoid(q.mirrored(), (37, -14, -19), (23, 31, 20)), round_mm=8)
    whole = union(whole, tube(q, ((0, -4, -14), (0, 3, -36), (0, 20, -62)), (17, 17, 13)), round_mm=8)
    vault[low] = np.minimum(whole, tube(q, ((0, 20, -55), (0, 21, -160)), (13, 10)))
    return vault


def _soft(p: Points, person: Person, skin: F32, outer: F32, bundle: F32, gap: F32) -> F32:
    """Skin, fat, and muscle in bundles with fat between them."""
    low = np.clip((-34 - p.z) / 8, 0, 1)
    temple = ((p.y > -48) & (p.y < 6) & (p.z < 30) & (np.abs(p.x) > 40)).astype(np.float32)
    fleshy = np.maximum(np.clip(0.9 * bundle + 1.6 * low + 0.3, 0, 1) * low, temple * inside(-skin - 3 - 2))
    fleshy = fleshy * inside(skin + 4.5, edge_mm=2) * (1 - inside(np.abs(gap) * 3 - 0.45, edge_mm=1.0))
    soft = np.full(p.x.shape, FAT, np.float32)
    soft += 12 * gap
    blend(soft, person.muscle + 4 * bundle, fleshy.astype(np.float32))
    # Between fat and bone lies the galea.
    blend(soft, 40.0, 0.8 * inside(outer - 1.8, edge_mm=1.0))
    blend(soft, SKIN, 1 - inside(skin + 2.4))
    return soft


def _bone(p: Points, person: Person, cavity: F32, thick: F32, fine: F32, slow: F32) -> F32:
    """Two tables with diploe between, thin dark sutures."""
    depth = np.clip(cavity / np.maximum(thick, 1), 0, 1)
    diploe = np.clip(1 - np.abs(depth - 0.5) / 0.27, 0, 1) * np.clip((thick - 2.5) / 3, 0, 1)
    bone: F32 = (person.bone * (1 - 0.62 * np.sqrt(diploe)) + 70 * fine + 50 * slow).astype(np.float32)
    jag = 2.2 * fine
    coronal = np.abs(p.y + 28 - 0.25 * np.abs(p.x) + 0.25 * p.z + jag)
    sagittal = np.where((p.y > -30) & (p.y < 62) & (p.z > 20), np.abs(p.x + jag), np.float32(99))
    lambdoid = np.where(p.y > 30, np.abs(p.y - 78 + 0.55 * np.abs(p.x) - 0.25 * p.z + jag), np.float32(99))
    line = np.minimum(np.where(p.z > 0, coronal, np.float32(99)), np.minimum(sagittal, lambdoid))
    blend(bone, 220.0, 0.75 * inside(line - 0.5))
    return bone


def _ears(hu: F32, p: Points) -> None:
    at = (np.abs(p.x) > 60) & (np.abs(p.x) < 100) & (p.z < 5) & (p.z > -60) & (p.y > -5) & (p.y < 45) & (hu < -900)
    q = p.only(at).mirrored()
    part = hu[at]
    blend(part, 10.0, inside(np.abs(ellipsoid(q, (76, 18, -28), (10, 15, 27))) - 1.6))
    hu[at] = part


def _face(hu: F32, p: Points, person: Person, cells: F32) -> None:
    """Orbits, sinuses, jaws, spine and airways in points below the vault."""
    q = p.mirrored()

    def paint(distance: Real, value: F32 | float) -> None:
        blend(hu, value, inside(distance))

    hard = person.bone * 0.85
    paint(ellipsoid(p, (0, -62, -38), (16, 34, 24)), hard * 0.3)
    paint(np.maximum(ellipsoid(p, (0, -62, -38), (14, 32, 22)), np.abs(cells) * 3 - 2.4), AIR + 60)
    paint(np.abs(ellipsoid(q, (27, -60, -68), (18, 17, 17))) - 0.8, hard * 0.6)
    paint(ellipsoid(q, (27, -60, -68), (17, 16, 16)), AIR)
    orbit = tube(q, ((31, -74, -36), (16, -38, -30)), (20, 6))
    paint(np.maximum(np.abs(orbit) - 1.1, p.y + 62), hard * 0.8)
    paint(orbit + 0.8, FAT)
    for sideways, upwards in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        end = (31 + 10 * sideways, -68, -36 + 10 * upwards)
        paint(tube(q, ((17, -40, -30), end), (1.2, 1.7)), 48.0)
    paint(tube(q, ((16, -38, -30), (31, -66, -36)), (1.9, 1.9)), 33.0)
    paint(ellipsoid(q, (31, -75, -36), (12.2, 12.2, 12.2)), 38.0)
    paint(ellipsoid(q, (31, -75, -36), (11, 11, 11)), 9.0)
    paint(ellipsoid(q, (31, -84, -36), (4.6, 2.0, 4.6)), 85.0)
    paint(tube(q, ((50, -62, -42), (66, -30, -44), (62, 2, -42)), (3.5, 2.4, 3)), hard)
    paint(tube(q, ((51, -4, -48), (47, -6, -80), (40, -30, -110)), (5, 5, 7)), hard)
    paint(np.maximum(np.abs(tube(p, ((0, 22, -68), (0, 22, -80)), (23, 22))) - 6, p.z + 66), hard * 0.7)
    paint(tube(p, ((0, -1, -70), (0, 1, -150)), (8, 10)), hard * 0.6)
    paint(tube(p, ((0, -22, -52), (0, -20, -150)), (8, 9), flat=(0.8, 1.2, 1)), AIR)
    paint(tube(p, ((0, -95, -90), (0, -30, -92)), (24, 18), flat=(1, 1, 1.6)), 60.0)
    teeth = np.abs(np.hypot(p.x / 26, (p.y + 62) / 38) - 1) * 28
    teeth = np.maximum(teeth - 4, np.maximum(np.abs(p.z + 88) - 9, p.y + 60))
    paint(teeth, 1900.0)


def _inside_base(
    hu: F32, p: Points, person: Person, cavity: F32, cells: F32, rng: np.random.Generator
) -> None:  # fmt: skip
    """Petrous pyramids, mastoid cells, sphenoid and frontal sinus: in the bone beside the cavity."""
    q = p.mirrored()

    def paint(distance: Real, value: F32 | float) -> None:
        blend(hu, value, inside(np.maximum(distance, -cavity)))

    petrous = tube(q, ((62, 24, -38), (40, 10, -36), (12, -6, -34)), (14, 9, 5))
    paint(petrous, person.bone * 1.05 + 160 * cells)
    mastoid = ellipsoid(q, (57, 26, -46), (13, 16, 20))
    paint(mastoid, person.bone * 0.7)
    if rng.random() < 0.85:
        paint(np.maximum(mastoid + 2, 1.1 - np.abs(cells) * 3), AIR + 150)
    paint(tube(q, ((48, 10, -40), (78, 8, -42)), (3, 3.5)), AIR)
    paint(tube(q, ((40, 6, -40), (48, 10, -40)), (3, 4)), AIR)
    paint(tube(p, ((0, -8, -36), (0, 10, -60)), (7, 6)), person.bone * 0.6)
    paint(ellipsoid(p, (0, -26, -36), (16, 14, 12)), person.bone * 0.7)
    sphenoid: Sequence[float] = rng.uniform((7, 8, 7), (13, 12, 10)).tolist()
    paint(ellipsoid(p, (float(rng.normal(0, 3)), -27, -35), (sphenoid[0], sphenoid[1], sphenoid[2])), AIR)
    if rng.random() < 0.8:
        wide = float(rng.uniform(5, 18))
        paint(np.maximum(ellipsoid(p, (0, -person.front - 3, -8), (wide, 4, 14)), 1.2 - cavity), AIR)
