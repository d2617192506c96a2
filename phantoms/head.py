"""Synthetic adult head CTs in HU with known haematomas. Writes no files; `ct_study` makes DICOM of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from phantoms.acquisition import Grid, Scanner, draw_scanner, spoil
from phantoms.anatomy import tissue
from phantoms.bleeds import Bleed, Haematoma, draw_bleed, place
from phantoms.expansion import expansion_probability
from phantoms.fields import F32, inside
from phantoms.person import Person, draw_person, nominal

__all__ = ["Bleed", "Grid", "Head", "HeadModel", "Lesion", "make_head", "sample", "training_grid", "training_head"]


@dataclass(frozen=True, slots=True)
class Lesion:
    """One haematoma as the slices show it.

    Attributes
    ----------
    volume_ml : sum over the mask's voxels of pixel area x slice extent (`Grid.extents_mm`), in mL.
    centre_lps_mm : centre of those voxels, in patient coordinates.
    label : its value in `Head.mask_zyx`.
    """

    volume_ml: float
    centre_lps_mm: tuple[float, float, float]
    label: int


@dataclass(frozen=True, slots=True)
class Head:
    """A rendered head.

    Attributes
    ----------
    hu_zyx : (slices, rows, columns) int16 HU. Columns grow to the patient's left, rows to the back, slices headwards.
    mask_zyx : uint8, the label of the haematoma that fills at least half of the voxel, else 0.
    occupancy_zyx : float16, how much of the voxel is haematoma, 0..1.
    brain_zyx : bool, inside the skull.
    spacing_mm : (dz, dy, dx); dz is the mean distance of neighbouring slices along their normal.
    slice_positions_mm : (slices, 3) patient coordinates of each slice's first pixel.
    affine_lps : 4 x 4, (column, row, slice) to patient mm; with uneven gaps use `slice_positions_mm`.
    grid : what was sampled.
    expands : whether the largest haematoma will expand (`phantoms.expansion`), None without a haematoma.
    expansion_probability : what `expands` was drawn with; 0 without a haematoma.
    signs : `phantoms.expansion.Signs.told` of the largest haematoma, empty without one.
    """

    hu_zyx: npt.NDArray[np.int16]
    mask_zyx: npt.NDArray[np.uint8]
    occupancy_zyx: npt.NDArray[np.float16]
    brain_zyx: npt.NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]
    slice_positions_mm: npt.NDArray[np.float64]
    affine_lps: npt.NDArray[np.float64]
    lesions: tuple[Lesion, ...]
    seed: int
    grid: Grid
    expands: bool | None
    expansion_probability: float
    signs: Mapping[str, bool | float]


@dataclass(frozen=True, slots=True)
class HeadModel:
    """One continuous head with its haematomas, lying in a scanner. The same for every grid it is sampled on.

    `scan` is 0 for a first scan; follow-ups have other numbers and so other noise.
    """

    seed: int
    person: Person
    scanner: Scanner
    haematomas: tuple[Haematoma, ...]
    expands: bool | None = None
    expansion_probability: float = 0.0
    scan: int = 0

    @property
    def largest(self) -> Haematoma | None:
        """The haematoma that the law of expansion is about."""
        return max(self.haematomas, key=lambda one: one.wanted_ml, default=None)

    @classmethod
    def draw(cls, seed: int, *, bleed: Bleed | Literal["random"] | None = "random") -> HeadModel:
        """Draw the head of a seed. `bleed` None: without a haematoma; the head is otherwise the same person."""
        person_rng, scanner_rng, bleed_rng = (np.random.default_rng([seed, part]) for part in (1, 2, 3))
        person, scanner = draw_person(person_rng), draw_scanner(scanner_rng)
        wanted = draw_bleed(bleed_rng) if bleed == "random" else bleed
        haematomas = () if wanted is None else place(person, wanted, bleed_rng)
        model = cls(seed, person, scanner, haematomas)
        largest = model.largest
        if largest is None:
            return model
        p = expansion_probability(largest.signs, largest.wanted_ml)
        fate = bool(np.random.default_rng([seed, 7]).random() < p)
        return replace(model, expands=fate, expansion_probability=p)


def make_head(
    seed: int, *, bleed: Bleed | Literal["random"] | None = "random", grid: Grid | None = None, clean: bool = False
) -> Head:
    """Render the head of a seed on `grid` (default: `training_grid(seed)`); `clean` leaves out noise and streaks."""
    return sample(HeadModel.draw(seed, bleed=bleed), training_grid(seed) if grid is None else grid, clean=clean)


def training_head(seed: int) -> Head:
    """A head as networks are trained on: 1.0 mm in plane, native slices of 1-8.5 mm, everything else drawn."""
    return make_head(seed)


def training_grid(seed: int) -> Grid:
    """1.0 mm, 240 x 208; thickness, gaps, tilt, start and end of the scan drawn from the seed; at most 48 slices."""
    rng = np.random.default_rng([seed, 4])
    thick = float(
        rng.choice(
            (1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.5), p=(0.03, 0.04, 0.08, 0.1, 0.12, 0.42, 0.09, 0.06, 0.06)
        )
    )
    start = rng.uniform(-125, -85) if rng.random() < 0.3 else rng.uniform(-85, -55)
    end = rng.uniform(66, 100)
    if thick < 4:
        span = min(end - start, 47 * thick)
        start = rng.uniform(start, max(end - span, start))
        end = start + span
    z = np.arange(start, end, thick)[:48]
    thickness = np.full(len(z), thick)
    if rng.random() < 0.15 and thick >= 4:
        base = np.arange(start, -25, thick / 2)
        z = np.concatenate([base, np.arange(base[-1] + 0.75 * thick, end, thick)])[:48]
        thickness = np.where(np.arange(len(z)) < len(base), thick / 2, thick)
    elif rng.random() < 0.12:
        z = start + np.concatenate([[0.0], np.cumsum(thick * rng.uniform(0.85, 1.15, len(z) - 1))])
    tilt = float(rng.uniform(-22, 22)) if rng.random() < 0.25 else 0.0
    # Now and then part of the head lies outside the picture.
    aside, back = rng.normal(0, 3), rng.normal(4, 4)
    if rng.random() < 0.06:
        aside, back = aside + rng.normal(0, 22), back + rng.normal(0, 22)
    return Grid(
        rows=240,
        columns=208,
        pixel_mm=1.0,
        z_mm=tuple(float(v) for v in z),
        thickness_mm=tuple(float(v) for v in thickness),
        tilt_deg=tilt,
        centre_xy_mm=(float(aside), float(back)),
    )


def sample(model: HeadModel, grid: Grid, *, clean: bool = False) -> Head:
    """Render a model on a grid: thick slices are means over thin ones, then noise and streaks are added."""
    shape = (len(grid.z_mm), grid.rows, grid.columns)
    hu_zyx = np.empty(shape, np.int16)
    occupancy_zyx = np.zeros(shape, np.float16)
    mask_zyx = np.zeros(shape, np.uint8)
    brain_zyx = np.zeros(shape, np.bool_)
    rng = np.random.default_rng([model.seed, 5, grid.rows, len(grid.z_mm), *([model.scan] if model.scan else [])])
    to_head = model.scanner.pose.T
    shift = np.asarray(model.scanner.shift_mm)
    column = (to_head @ grid.row_direction) * grid.pixel_mm
    row = (to_head @ grid.column_direction) * grid.pixel_mm
    # Fine pictures are computed on every second pixel: the scanner's blur is wider than that.
    stride = 2 if grid.pixel_mm <= 0.6 else 1
    across, down = np.arange(0, grid.columns + stride - 1, stride), np.arange(0, grid.rows + stride - 1, stride)
    plane = np.stack([(column[a] * across[None] + row[a] * down[:, None]).ravel() for a in range(3)]).astype(np.float32)

    def picture(values: F32, *, sharp: bool = False) -> F32:
        lattice = values.reshape(len(down), len(across))
        full = lattice if stride == 1 else _twice(_twice(lattice, sharp=sharp).T, sharp=sharp).T
        return np.ascontiguousarray(full[: grid.rows, : grid.columns])

    for k, (origin, thickness) in enumerate(zip(grid.origins(), grid.thickness_mm, strict=True)):
        count = int(np.clip(np.ceil(thickness / 1.8), 1, 4))
        hu = np.zeros(plane.shape[1], np.float32)
        filled = np.zeros((len(model.haematomas), plane.shape[1]), np.float32)
        inside_skull = np.zeros(plane.shape[1], np.float32)
        for step in (np.arange(count) + 0.5) / count - 0.5:
            start = to_head @ (origin + grid.normal * step * thickness - shift)
            thin, depth, blood = _thin(model, plane + start.astype(np.float32)[:, None])
            hu += thin
            inside_skull += depth > 0
            for i, part in enumerate(blood):
                filled[i] += part
        hu /= count
        image = picture(hu, sharp=True)
        if not clean:
            spoil(model.scanner, image, grid, k, rng)
        hu_zyx[k] = np.clip(np.rint(image), -1024, 3071)
        brain_zyx[k] = picture(inside_skull) >= 0.5 * count
        if len(filled) and filled.any():
            parts = np.stack([picture(part / np.float32(count)) for part in filled])
            total = np.minimum(parts.sum(axis=0), 1)
            occupancy_zyx[k] = total
            mask_zyx[k] = np.where(total >= 0.5, parts.argmax(axis=0) + 1, 0)
    return Head(
        hu_zyx=hu_zyx,
        mask_zyx=mask_zyx,
        occupancy_zyx=occupancy_zyx,
        brain_zyx=brain_zyx,
        spacing_mm=(float(np.mean(grid.extents_mm())), grid.pixel_mm, grid.pixel_mm),
        slice_positions_mm=grid.origins(),
        affine_lps=grid.affine_lps(),
        lesions=_lesions(mask_zyx, grid),
        seed=model.seed,
        grid=grid,
        expands=model.expands,
        expansion_probability=model.expansion_probability,
        signs={} if model.largest is None else model.largest.signs.told(),
    )


def _twice(rows: F32, *, sharp: bool) -> F32:
    """Rows at half the distance: the old ones and midpoints between them (cubic where `sharp`, else linear)."""
    between = np.float32(0.5) * (rows[:-1] + rows[1:])
    if sharp:
        between[1:-1] = np.float32(1.125) * between[1:-1] - np.float32(0.0625) * (rows[:-3] + rows[3:])
    out = np.empty((2 * len(rows) - 1, *rows.shape[1:]), np.float32)
    out[::2], out[1::2] = rows, between
    return out


def _thin(model: HeadModel, xyz: F32) -> tuple[F32, F32, list[F32]]:
    """HU, depth below the envelope and the occupancy of each haematoma at head points (3, n)."""
    haematomas = model.haematomas

    def displace(q: F32, cavity: F32) -> F32:
        for one in haematomas:
            q = one.source(q, cavity)
        return q

    found = tissue(model.person, xyz, displace=displace if haematomas else None)
    filled: list[F32] = []
    for one in haematomas:
        occupancy = np.zeros(xyz.shape[1], np.float32)
        if one.flood is not None and found.ventricle is not None:
            wet = np.flatnonzero(found.ventricle < 2)
            if wet.size:
                part = found.hu[wet]
                q = nominal(model.person, np.ascontiguousarray(xyz[:, wet]))
                flooded = one.flooded(part, q, found.ventricle[wet])
                if flooded is not None:
                    found.hu[wet], occupancy[wet] = part, flooded
        centre = np.asarray(one.centre) * np.asarray(model.person.scale)
        square = sum((xyz[a] - np.float32(centre[a])) ** 2 for a in range(3))
        near = np.flatnonzero((square < (one.reach() * 1.15 + 6) ** 2) & (found.depth > 0))
        if near.size:
            q = nominal(model.person, np.ascontiguousarray(xyz[:, near]))
            distance = one.distance(q, found.depth[near])
            part = found.hu[near]
            one.paint(part, q, distance)
            found.hu[near] = part
            occupancy[near] = np.maximum(occupancy[near], inside(distance, 0.8))
        filled.append(occupancy)
    return found.hu, found.depth, filled


def _lesions(mask_zyx: npt.NDArray[np.uint8], grid: Grid) -> tuple[Lesion, ...]:
    """Volume and centre of every label that has a voxel."""
    extents = grid.extents_mm()
    origins = grid.origins()
    found: list[Lesion] = []
    for label in range(1, int(mask_zyx.max()) + 1):
        z, y, x = np.nonzero(mask_zyx == label)
        if z.size == 0:
            continue
        weight = extents[z]
        where = (
            origins[z]
            + x[:, None] * grid.pixel_mm * grid.row_direction
            + y[:, None] * grid.pixel_mm * grid.column_direction
        )
        cx, cy, cz = (float(v) for v in np.average(where, axis=0, weights=weight))
        found.append(Lesion(float(weight.sum()) * grid.pixel_mm**2 / 1000, (cx, cy, cz), label))
    return tuple(found)
