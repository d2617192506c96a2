"""What lies inside the cranial cavity: brain, ventricles, falx, tentorium, vessels. No bleed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from phantoms.atlas import VENTRICLES, depths, tissues
from phantoms.fields import F32, both, ellipsoid, inside, mirror, near_capsule, near_ellipsoid, paint, ramp, union
from phantoms.person import Person
from phantoms.walls import behind_tentorium_edge, notch, tentorium_height

Displace = Callable[[F32, F32], F32]
_CENTRE = np.array([[0.0], [14.0], [4.0]], np.float32)


def brain_hu(person: Person, q: F32, cavity: F32, displace: Displace | None) -> tuple[F32, F32]:
    """Brain at nominal points (3, n) of the cavity, `cavity` (n,) mm below its envelope; `displace` as in `tissue`.

    Returns
    -------
    hu : (n,).
    ventricle : (n,) signed distance in mm to the ventricles, negative inside.
    """
    source = q if displace is None else displace(q, cavity)
    p = _template_points(person, source)
    grey, white = tissues(p)
    patchy = person.patchy(source)
    # The template is a mean of 152 heads, so its sulci are grey veils: one person's are open or shut.
    shut = np.float32(person.shut) + np.float32(0.05) * patchy
    fluid = np.clip((np.float32(1) - grey - white - shut) * np.float32(2.2), 0, 1)
    share = white / np.maximum(grey + white, np.float32(0.05))
    share = ramp(share, 0.25, 0.75)
    hu: F32 = np.float32(person.grey) + np.float32(person.white - person.grey) * share
    hu += np.float32(0.8) * patchy
    ventricle = _ventricles(person, p, source)
    hu -= np.float32(person.leuko) * ramp(ventricle, 10, 1) * share
    for centre, axes, left in person.infarcts:
        old = near_ellipsoid(source, centre, axes) + np.float32(0.12 * max(axes)) * patchy
        paint(hu, inside(old, 4.0) * np.float32(0.9), left)
    paint(hu, fluid, person.csf)
    paint(hu, inside(ventricle, 1.6), person.csf)
    _sheets_and_sinuses(person, hu, q, source, cavity)
    _arteries(person, hu, q)
    hu += np.float32(person.rim_bright) * np.exp(-np.maximum(cavity, 0) / np.float32(6)) * (q[2] > -60)
    return hu, ventricle


def _template_points(person: Person, source: F32) -> F32:
    """Where the template shows what is at `source`: this person's brain is smaller, and its gyri lie elsewhere."""
    p = _CENTRE + (source - _CENTRE) * np.float32(person.shrink)
    for axis in range(3):
        p[axis] += np.float32(person.warp) * person.gyri[axis](source)
    return p


def _ventricles(person: Person, p: F32, source: F32) -> F32:
    """Signed distance to the ventricles, widened on each side by its own amount."""
    (depth,) = depths(p, VENTRICLES)
    near = np.where(source[0] > 0, np.float32(person.ventricle[0]), np.float32(person.ventricle[1]))
    behind = ramp(p[1], -38, -34)
    return -depth * behind + (np.float32(1) - behind) * np.float32(20) - near * ramp(np.abs(source[0]), 0, 12)


def _sheets_and_sinuses(person: Person, hu: F32, q: F32, source: F32, cavity: F32) -> None:
    tent = q[2] - tentorium_height(q)
    low = float(q[2].min())
    falx = both(np.abs(source[0]) - np.float32(0.8), -ellipsoid(source, (0, 8, 2), (200, 62, 34)))
    if low < 14:
        falx = both(falx, np.float32(-1) - tent)
    paint(hu, inside(falx, 1.6), person.falx)
    sagittal = both(
        np.abs(q[0]) + np.float32(0.7) * cavity - np.float32(6.5), np.float32(10) - np.maximum(q[2], q[1] - 60)
    )
    paint(hu, inside(sagittal), person.sinus_blood)
    if low >= 18:
        return
    edge = behind_tentorium_edge(q)
    gap = notch(q, radius_mm=19)
    sheet = both(both(np.abs(tent) * np.float32(0.85) - np.float32(0.8), -edge), -gap)
    paint(hu, inside(sheet, 1.6), person.falx)
    transverse = both(
        np.hypot(tent, cavity - np.float32(2)).astype(np.float32) - np.float32(4.5), np.float32(44) - q[1]
    )
    paint(hu, inside(transverse), person.sinus_blood)
    sigmoid = near_capsule(mirror(q), (58, 46, -28), (36, 34, -58), (4.0, 3.5))
    paint(hu, inside(both(sigmoid, np.float32(0.5) - cavity)), person.sinus_blood)
    paint(hu, inside(near_capsule(q, (0, 44, 10), (0, 86, -18), (1.8, 2.6))), person.sinus_blood)
    if low < -60:
        paint(hu, ramp(q[2], -66, -70), person.csf)
        paint(hu, inside(near_capsule(q, (0, 44, -64), (0, 51, -200), (7.0, 5.2))) * ramp(q[2], -62, -68), person.cord)


def _arteries(person: Person, hu: F32, q: F32) -> None:
    if not -60 < float(q[2].mean()) < 20:
        return
    m = mirror(q)
    paint(hu, inside(near_capsule(q, (0, 8, -14), (1, 12, -48), (1.7, 1.7))), person.sinus_blood - 4)
    carotid = union(
        near_capsule(m, (11, -2, -30), (9, -4, -18), (2.2, 1.9)),
        near_capsule(m, (9, -4, -18), (2, -16, -12), (1.6, 1.0)),
    )
    middle_cerebral = union(
        near_capsule(m, (8, -4, -18), (22, -7, -17), (1.7, 1.5)),
        near_capsule(m, (22, -7, -17), (40, -3, -10), (1.5, 1.1)),
    )
    side = np.where(q[0] > 0, np.float32(person.artery[0]), np.float32(person.artery[1]))
    paint(hu, inside(union(carotid, middle_cerebral)), side)
