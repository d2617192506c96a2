"""What lies inside the cranial cavity: brain, ventricles, cisterns, falx, tentorium, vessels. No bleed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from phantoms.fields import (
    F32,
    Point,
    both,
    ellipsoid,
    inside,
    mirror,
    near_capsule,
    near_ellipsoid,
    paint,
    ramp,
    union,
)
from phantoms.person import Person
from phantoms.walls import behind_tentorium_edge, tentorium_height

Displace = Callable[[F32, F32], F32]


def brain_hu(person: Person, q: F32, cavity: F32, displace: Displace | None) -> F32:
    """HU (n,) at nominal points (3, n) of the cavity, `cavity` (n,) mm below its envelope; `displace` as in `tissue`."""
    tent = q[2] - tentorium_height(q)
    edge = behind_tentorium_edge(q)
    source = q if displace is None else displace(q, cavity)
    x, y, z = source
    m = mirror(source)
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
    m = mirror(q)
    nuclei = near_ellipsoid(m, (11, 12, 5), (8, 14, 9))
    nuclei = union(nuclei, near_ellipsoid(m, (24, -2, 1), (7, 17, 11)))
    nuclei = union(nuclei, near_capsule(m, (13, -20, 5), (17, 6, 22), (6, 3)))
    paint(hu, inside(nuclei, 2.5), person.grey + 0.5)
    return hu


def _ventricles(person: Person, q: F32) -> F32:
    """Signed distance to the ventricles."""
    m = mirror(q)
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
