"""How a scanner looks at a head: the sampling grid, the head's pose, blur, noise and streaks. No anatomy, no DICOM."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from phantoms.fields import F32

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the voxels of an axial series lie, in patient coordinates (LPS, mm).

    The slices are stacked along the table (z), also when the gantry is tilted, as scanners store them.

    Attributes
    ----------
    rows, columns : matrix of a slice.
    pixel_mm : distance between neighbouring pixels, the same along rows and columns.
    z_mm : centres of the slices along the table at the middle of the image, ascending.
    thickness_mm : thickness of each slice.
    tilt_deg : rotation of the slices about the x axis; positive lifts the rear edge (larger y) towards the head.
    centre_xy_mm : x and y of the image's middle.
    """

    rows: int
    columns: int
    pixel_mm: float
    z_mm: tuple[float, ...]
    thickness_mm: tuple[float, ...]
    tilt_deg: float = 0.0
    centre_xy_mm: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if len(self.z_mm) != len(self.thickness_mm) or not self.z_mm:
            raise ValueError("one thickness for each of at least one slice")
        if any(b <= a for a, b in pairwise(self.z_mm)):
            raise ValueError("slice positions must ascend")

    @property
    def row_direction(self) -> F64:
        """Unit vector along which the column index grows."""
        return np.array([1.0, 0.0, 0.0])

    @property
    def column_direction(self) -> F64:
        """Unit vector along which the row index grows."""
        t = np.deg2rad(self.tilt_deg)
        return np.array([0.0, np.cos(t), np.sin(t)])

    @property
    def normal(self) -> F64:
        """Unit normal of the slices, headwards."""
        return np.cross(self.row_direction, self.column_direction)

    def origins(self) -> F64:
        """Patient coordinates of the first pixel's centre of every slice, (slices, 3)."""
        middle = np.array([[*self.centre_xy_mm, z] for z in self.z_mm])
        half_row = 0.5 * (self.columns - 1) * self.pixel_mm * self.row_direction
        half_column = 0.5 * (self.rows - 1) * self.pixel_mm * self.column_direction
        return middle - half_row - half_column

    def affine_lps(self) -> F64:
        """(column, row, slice) to patient mm, 4 x 4; with uneven gaps the mean step (see `slice_positions_lps`)."""
        origins = self.origins()
        affine = np.eye(4)
        affine[:3, 0] = self.row_direction * self.pixel_mm
        affine[:3, 1] = self.column_direction * self.pixel_mm
        steps = len(self.z_mm) - 1
        affine[:3, 2] = (origins[-1] - origins[0]) / steps if steps else self.normal * self.thickness_mm[0]
        affine[:3, 3] = origins[0]
        return affine

    def extents_mm(self) -> F64:
        """What each slice stands for along the normal: half the way to each neighbour; at the ends the inner half twice."""
        if len(self.z_mm) == 1:
            return np.array(self.thickness_mm)
        along = np.asarray(self.z_mm) * self.normal[2]
        gaps = np.diff(along)
        before = np.concatenate([gaps[:1], gaps])
        after = np.concatenate([gaps, gaps[-1:]])
        extents: F64 = 0.5 * (before + after)
        return extents


@dataclass(frozen=True, slots=True)
class Scanner:
    """One scan's imperfections.

    Attributes
    ----------
    pose : (3, 3) rotation from head to patient; shift_mm : where the head's origin lies in the patient.
    noise_hu : standard deviation in the middle of a head at 5 mm; kernel_mm : its correlation length.
    streaks : strength of the bands between the petrous bones in HU; offset_hu, gain : calibration.
    holder : whether a head rest is in the picture.
    bandpass : 0..1, how much of the noise's low frequencies the kernel takes away.
    fillings : metal in teeth, clips, electrodes: head coordinates and strength in HU of the streaks it throws.
    motion : first and last slice as fractions of the scan, and the shift (columns, rows in mm) of the ghost; or None.
    """

    pose: F64
    shift_mm: tuple[float, float, float]
    noise_hu: float
    kernel_mm: float
    streaks: float
    offset_hu: float
    gain: float
    holder: bool
    fillings: tuple[tuple[float, float, float, float], ...]
    bandpass: float
    motion: tuple[float, float, float, float] | None


def draw_scanner(rng: np.random.Generator) -> Scanner:
    """Draw a pose and a scanner."""
    askew = 2.2 if rng.random() < 0.12 else 1.0
    yaw, roll, pitch = np.deg2rad(np.clip(rng.normal(0, (5, 4, 7)) * askew, -28, 28))
    cz, sz, cy, sy, cx, sx = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch)
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    x, y, z = (float(v) for v in rng.normal(0, (4, 5, 3)))
    fillings = tuple(
        (
            float(rng.choice((-1, 1)) * rng.uniform(18, 27)),
            float(rng.uniform(-66, -40)),
            -85.0,
            float(rng.uniform(30, 220)),
        )
        for _ in range(rng.poisson(0.8))
    )
    if rng.random() < 0.03:  # an aneurysm clip
        fillings += ((float(rng.uniform(-25, 25)), float(rng.uniform(-15, 5)), -15.0, float(rng.uniform(60, 250))),)
    if rng.random() < 0.05:  # electrodes on the scalp
        turn, up = rng.uniform(0, 2 * np.pi, 2), rng.uniform(10, 50, 2)
        fillings += tuple(
            (80 * float(np.cos(t)), 14 + 100 * float(np.sin(t)), float(u), float(rng.uniform(20, 60)))
            for t, u in zip(turn, up, strict=True)
        )
    motion: tuple[float, float, float, float] | None = None
    if rng.random() < 0.06:
        first = float(rng.uniform(0, 0.9))
        motion = (first, first + float(rng.uniform(0.05, 0.25)), float(rng.normal(0, 2.5)), float(rng.normal(0, 2.5)))
    return Scanner(
        pose=about_z @ about_y @ about_x,
        shift_mm=(x, y, z),
        noise_hu=float(rng.uniform(1.8, 5.5)),
        kernel_mm=float(rng.uniform(0.4, 1.05)),
        streaks=float(rng.uniform(0, 9)),
        offset_hu=float(rng.normal(0, 1.5)),
        gain=float(rng.normal(1.0, 0.02)),
        holder=bool(rng.random() < 0.7),
        fillings=fillings,
        bandpass=float(rng.uniform(0.2, 0.75)),
        motion=motion,
    )


def spoil(scanner: Scanner, image: F32, grid: Grid, index: int, rng: np.random.Generator) -> None:
    """Add a head rest, streaks, calibration and noise in place."""
    thickness = grid.thickness_mm[index]
    rows = (np.arange(grid.rows, dtype=np.float32)[:, None] - 0.5 * (grid.rows - 1)) * np.float32(grid.pixel_mm)
    columns = (np.arange(grid.columns, dtype=np.float32)[None] - 0.5 * (grid.columns - 1)) * np.float32(grid.pixel_mm)
    x, y = columns + np.float32(grid.centre_xy_mm[0]), rows + np.float32(grid.centre_xy_mm[1])
    if scanner.holder:
        bowl = np.abs(np.hypot(x * np.float32(0.9), y - 6) - np.float32(118)) - np.float32(2.5)
        shell = (bowl < 0) & (y > 45) & (image < -500)
        image[shell] = np.where(np.abs(bowl[shell]) < 1, -850, 20)
    soft = (image > -200) & (image < 300)
    dense = image > 300
    if scanner.streaks > 0:
        # Dark bands join dense bones along a row: the more bone a ray along x meets, the harder the beam.
        load = np.minimum(dense.sum(axis=1) * grid.pixel_mm / 50.0, 2.0).astype(np.float32)
        # The bar between the petrous bones (Hounsfield's) is dark, with finer streaks in it.
        band = (np.sin(rows[:, 0] * np.float32(0.55) + np.float32(index)) - np.float32(0.7)) * load * load
        between = np.exp(-((x / 38) ** 2))
        image += soft * band[:, None] * between * np.float32(0.45 * scanner.streaks)
    for fx, fy, fz, strength in scanner.fillings:
        px, py, pz = scanner.pose @ (fx, fy, fz) + scanner.shift_mm
        off = grid.normal @ (px - grid.centre_xy_mm[0], py - grid.centre_xy_mm[1], pz - grid.z_mm[index])
        if abs(off) > 0.5 * thickness + 5:
            continue
        along = float(grid.column_direction @ (0, py - grid.centre_xy_mm[1], pz - grid.z_mm[index]))
        dx, dy = columns - np.float32(px - grid.centre_xy_mm[0]), rows - np.float32(along)
        distance, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
        star = np.sin(angle * 17 + np.sin(angle * 6) * 4) * np.exp(-distance / np.float32(45))
        image += soft * star * np.float32(strength)
        image[distance < 4] = 3000
    at = index / max(len(grid.z_mm) - 1, 1)
    if scanner.motion is not None and scanner.motion[0] <= at <= scanner.motion[1]:
        shift = (scanner.motion[3] / grid.pixel_mm, scanner.motion[2] / grid.pixel_mm)
        image *= np.float32(0.65)
        image += np.float32(0.35) * ndimage.shift(image / np.float32(0.65), shift, order=1, cval=-1000)
        soft = (image > -200) & (image < 300)
    image[soft] = image[soft] * np.float32(scanner.gain) + np.float32(scanner.offset_hu)
    bone_load = np.float32(1 + 1.2 * min(float(dense.mean()) / 0.25, 1.0))
    level = scanner.noise_hu * np.sqrt(5.0 / max(thickness, 1.5)) * (0.7 + 0.3 * bone_load)
    profile = np.float32(0.75) + np.float32(0.35) * np.exp(-((x / 70) ** 2 + ((y - 6) / 88) ** 2))
    image += np.float32(min(level, 9.0)) * profile * _noise(rng, grid, scanner)


def _noise(rng: np.random.Generator, grid: Grid, scanner: Scanner) -> F32:
    """Noise of unit variance for one slice (rows, columns), correlated by the kernel, with a band-pass like CT's."""
    sigma = scanner.kernel_mm / grid.pixel_mm
    white = rng.standard_normal((grid.rows, grid.columns), dtype=np.float32)
    fine = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3)
    fine -= np.float32(scanner.bandpass) * ndimage.gaussian_filter(fine, 1.6 * sigma, mode="wrap", truncate=3)
    out: F32 = fine / np.float32(fine.std() + 1e-9)
    return out
