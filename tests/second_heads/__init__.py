"""A second generator of head CTs, for judging only: written apart from `phantoms`, and never trained on.

Other anatomy (modelled by hand, no atlas), other noise (from projections), other bleeds (walks of blobs). How a model
does here is the honest guess of what it would do on a stranger's data. Nothing in it is measured from a person.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.cases import TrainingCase
from second_heads import bleeds, scanner
from second_heads.brain import brain
from second_heads.fields import F32, Labyrinth, Points, blend, ellipsoid, inside, rough, tube
from second_heads.person import Person, Pose
from second_heads.scanner import PADDING_HU, Protocol
from second_heads.skull import LOWEST_BRAIN_MM, shell

SIZE = 240
TRAINING_PIXEL_MM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A head CT in slices from feet to head, rows to the back, columns to the left, with its truth.

    Attributes
    ----------
    hu_zyx : int16, HU.
    occupancy_zyx : float32 in 0..1, how much of a voxel is blood, blood in the ventricles from a bleed included.
    intracranial_zyx : bool.
    spacing_mm : (dz, dy, dx).
    bleeds_ml : volume of each bleed, mL, before slices were made of it.
    """

    hu_zyx: npt.NDArray[np.int16]
    occupancy_zyx: F32
    intracranial_zyx: npt.NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    bleeds_ml: tuple[float, ...]


def head(seed: int) -> TrainingCase:
    """The head of a seed on 1 mm pixels. Its truth is `scan(seed).bleeds_ml`."""
    one = scan(seed, pixel_mm=TRAINING_PIXEL_MM)
    return TrainingCase(
        hu_zyx=one.hu_zyx,
        occupancy_zyx=one.occupancy_zyx,
        intracranial_zyx=one.intracranial_zyx,
        spacing_mm=one.spacing_mm,
    )


def scan(seed: int, *, pixel_mm: float | None = None) -> Scan:
    """The head of a seed on the pixels that its scanner delivers, or on `pixel_mm`; same seed, same scan."""
    rng, person, protocol, pose = _drawn(seed)
    planned = bleeds.plans(rng, width=person.width, height=person.height)
    per_slice = scanner.planes_per_slice(protocol.slice_mm)
    count = int((pose.top - pose.bottom) / protocol.slice_mm)
    steps = (protocol.slice_mm / per_slice, protocol.pixel_mm, protocol.pixel_mm)
    p = _points(pose, count * per_slice, steps)

    around = shell(p, person, rng, steps_mm=steps)
    hu, cavity = around.hu, around.cavity
    within = cavity < 1
    points, depth = p.only(within), -cavity[within]
    texture = rough(rng, (p.x.shape[0], SIZE, SIZE), steps, wave_mm=32)[within]
    folds = Labyrinth(rng, wave_mm=float(rng.uniform(17, 23)))
    before = points
    for plan in planned:
        before = bleeds.pushed(before, plan, depth)
    content = brain(before, depth, person, folds, texture, rng)
    tissue = content.hu
    blood = np.zeros(tissue.shape, np.float32)
    volumes: list[float] = []
    voxel_mm3 = steps[0] * steps[1] * steps[2]
    for plan in planned:
        one = bleeds.bleed(points, depth, content, plan, folds, rng, voxel_mm3=voxel_mm3)
        own = one.occupancy * (1 - blood) * inside(-depth)
        tissue -= bleeds.oedema(own, points, plan, rng, content.tissue)
        blend(tissue, one.hu, own)
        blood += own
        volumes.append(float(own.sum(dtype=np.float64)) * voxel_mm3 / 1000)
    enclosed = inside(-depth)
    hu[within] += (tissue - hu[within]) * enclosed
    _metal(hu, p, person, rng)

    occupancy, intracranial = np.zeros(hu.shape, np.float32), np.zeros(hu.shape, np.float32)
    occupancy[within] = blood
    intracranial[within] = enclosed * (points.z > LOWEST_BRAIN_MM)
    slices = scanner.scan(hu, protocol, rng)
    out = protocol.pixel_mm * SIZE / protocol.matrix if pixel_mm is None else pixel_mm
    pixels = _sampling(protocol.pixel_mm, out)
    return Scan(
        hu_zyx=np.rint(np.clip(_on(pixels, slices, outside=PADDING_HU), -1024, 3071)).astype(np.int16),
        occupancy_zyx=np.clip(_on(pixels, scanner.averaged(occupancy, per_slice), outside=0), 0, 1),
        intracranial_zyx=_on(pixels, scanner.averaged(intracranial, per_slice), outside=0) >= 0.5,
        spacing_mm=(protocol.slice_mm, out, out),
        bleeds_ml=tuple(volumes),
    )


def left_of_middle(seed: int, points_mm: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n,) how far left of the middle of the head of a seed points (n, 3) lie: x, y from the picture's middle, z from its first slice."""
    _, _, protocol, pose = _drawn(seed)
    first = pose.bottom + protocol.slice_mm / 2 - pose.middle[2]
    away: npt.NDArray[np.float64] = (points_mm - (*pose.middle[:2], -first)) @ pose.turn[0]
    return away


def _drawn(seed: int) -> tuple[np.random.Generator, Person, Protocol, Pose]:
    rng = np.random.default_rng((20_117, seed))
    person, protocol = Person.of(rng), Protocol.of(rng)
    return rng, person, protocol, Pose.of(rng, height=person.height)


def _points(pose: Pose, planes: int, steps_mm: tuple[float, float, float]) -> Points:
    """Head coordinates of every voxel."""
    half = (SIZE - 1) / 2
    across = ((np.arange(SIZE) - half) * steps_mm[1]).astype(np.float32)
    z = (pose.bottom + (np.arange(planes) + 0.5) * steps_mm[0] - pose.middle[2]).astype(np.float32)
    y, x = across - np.float32(pose.middle[1]), across - np.float32(pose.middle[0])
    turn = pose.turn.astype(np.float32)
    axes = [row[0] * x[None, None, :] + row[1] * y[None, :, None] + row[2] * z[:, None, None] for row in turn]
    return Points(axes[0], axes[1], axes[2])


def _metal(hu: F32, p: Points, person: Person, rng: np.random.Generator) -> None:
    """A filling, or a clip at the skull base."""
    if not person.metal:
        return
    side = float(rng.choice([-1, 1]))
    place = (side * 24.0, -50.0, -84.0) if rng.random() < 0.5 else (side * 16.0, -14.0, -15.0)
    size = float(rng.uniform(1.5, 3))
    blend(hu, 9000.0, inside(ellipsoid(p, place, (size, size * 1.8, size))))
    drain = float(rng.uniform(-35, -20))
    if rng.random() < 0.3:
        blend(hu, 260.0, inside(tube(p, ((side * 25, drain, 90), (side * 9, -24, 12)), (1.1, 1.1))))


def _sampling(source_mm: float, target_mm: float) -> F32:
    """(target pixels, SIZE): linear interpolation, or means where the target is coarser; rows sum to 1 inside."""
    count = round(SIZE * source_mm / target_mm)
    at = ((np.arange(count) - (count - 1) / 2) * target_mm) / source_mm + (SIZE - 1) / 2
    width = max(target_mm / source_mm, 1.0)
    weight = np.maximum(1 - np.abs(at[:, None] - np.arange(SIZE)[None, :]) / width, 0)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-6)
    pixels: F32 = weight.astype(np.float32)
    return pixels


def _on(pixels: F32, slices: F32, *, outside: float) -> F32:
    """Slices on other pixels; beyond their edge `outside` (the edge itself already is)."""
    value: F32 = np.matmul(np.matmul(pixels, slices - np.float32(outside)), pixels.T) + np.float32(outside)
    return value
