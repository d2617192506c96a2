"""Rigid registration of two head CTs of one patient by their skulls, and how well they meet. Compares no findings.

The skull is what stays the same while a haematoma grows. Both heads are laid on an even grid of patient coordinates
(so tilt and uneven slices do not matter), everything below bone is cut off, and SimpleITK turns and shifts one until
the correlation of the two is highest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from ichor.arrays import Float64Array, Volume
from pipelines.sampling import sampled

STEP_MM = 2.5
BONE_HU = (150.0, 1000.0)
SKULL_HU = 250.0
SHRINK = (4, 2, 1)
# Of the grid's points, per level: fewer give the same answer in a third of the time (docs/decisions/0020).
SAMPLED = (1.0, 0.1, 0.05)
SEED = 1
MOST_STEPS, LONGEST_STEP_MM, SHORTEST_STEP_MM = 60, 2.0, 0.01
LEAST_OVERLAP = 0.8
LEAST_COMMON = 0.5
LEAST_SKULL_ML = 30.0
MOST_POINTS = 8_000_000  # 2 m of a field of view of 25 cm


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """Where the points of one head lie in the scan of another.

    Attributes
    ----------
    matrix_lps : (4, 4), from patient coordinates (mm) of the fixed scan to those of the moving one.
    overlap : Dice coefficient of the two skulls, of what both scans cover; 0..1.
    common : share of the fixed scan's skull that the moving one covers; 0..1.
    """

    matrix_lps: Float64Array
    overlap: float
    common: float

    @property
    def refusal(self) -> str | None:
        """Why nothing may be compared; None when the heads meet."""
        if self.common < LEAST_COMMON:
            return f"the two scans share only {100 * self.common:.0f} % of the skull"
        if self.overlap < LEAST_OVERLAP:
            return f"the two skulls do not meet (overlap {self.overlap:.2f}, at least {LEAST_OVERLAP:.2f} is needed)"
        return None

    @property
    def shift_mm(self) -> float:
        """How far the middle of the moving scan's coordinates was moved."""
        return float(np.linalg.norm(self.matrix_lps[:3, 3]))

    @property
    def turn_deg(self) -> float:
        """The angle of the rotation."""
        cosine = (np.trace(self.matrix_lps[:3, :3]) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    def apply(self, points_lps: Float64Array) -> Float64Array:
        """Points (m, 3) of the fixed scan in the moving one, mm."""
        moved: Float64Array = points_lps @ self.matrix_lps[:3, :3].T + self.matrix_lps[:3, 3]
        return moved

    def inverse(self) -> Registration:
        """The same the other way round."""
        return replace(self, matrix_lps=np.asarray(np.linalg.inv(self.matrix_lps), dtype=np.float64))


def register(fixed: Volume, moving: Volume) -> Registration:
    """Find where the head of ``fixed`` lies in ``moving`` (both HU). One thread; equal volumes give equal answers.

    Whether the answer holds is said by `Registration.refusal`.
    """
    skulls = _skull(fixed), _skull(moving)
    if skulls[0] is None or skulls[1] is None:
        return _NOT_FOUND
    transform = sitk.CenteredTransformInitializer(
        *skulls, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentagePerLevel(SAMPLED, seed=SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        LONGEST_STEP_MM, SHORTEST_STEP_MM, MOST_STEPS, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(SHRINK)
    method.SetSmoothingSigmasPerLevel([float(s) if s > 1 else 0.0 for s in SHRINK])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(*skulls)
    except RuntimeError:  # the library's one exception: the two came to lie apart
        return _NOT_FOUND
    return _judged(*skulls, transform)


_NOT_FOUND = Registration(matrix_lps=np.eye(4), overlap=0.0, common=0.0)


def _skull(volume: Volume) -> sitk.Image | None:
    """What is denser than soft tissue, on an even grid along the patient's axes; -1 where nothing was scanned.

    None where there is hardly any, or where no head is so large.
    """
    coarse = _coarse(volume)
    slices, rows, columns = (size - 1 for size in coarse.array_zyx.shape)
    corners = coarse.to_lps([(z, y, x) for z in (0, slices) for y in (0, rows) for x in (0, columns)])
    low = corners.min(axis=0)
    extent = corners.max(axis=0) - low
    if not np.prod(extent / STEP_MM + 1) <= MOST_POINTS:
        return None
    size = np.ceil(extent / STEP_MM).astype(int) + 1
    z, y, x = np.meshgrid(*(low[a] + STEP_MM * np.arange(size[a]) for a in (2, 1, 0)), indexing="ij")
    hu = sampled(coarse, np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1), coarse.array_zyx, outside=np.nan)
    image = sitk.GetImageFromArray(np.nan_to_num(np.clip(hu, *BONE_HU) - BONE_HU[0], nan=-1.0).reshape(z.shape))
    image.SetSpacing((STEP_MM,) * 3)
    image.SetOrigin(low.tolist())
    return image if np.count_nonzero(_bone(image)) * STEP_MM**3 / 1000 >= LEAST_SKULL_ML else None


def _coarse(volume: Volume) -> Volume:
    """Rows and columns averaged to about `STEP_MM`, so that noise of fine pixels is not sampled."""
    dy, dx = volume.pixel_spacing
    by, bx = max(1, round(STEP_MM / dy)), max(1, round(STEP_MM / dx))
    slices, rows, columns = volume.array_zyx.shape
    down, across = rows // by, columns // bx
    whole = volume.array_zyx[:, : down * by, : across * bx].reshape(slices, down, by, across, bx)
    middle = (by - 1) / 2 * dy * volume.column_lps + (bx - 1) / 2 * dx * volume.row_lps
    return replace(
        volume, array=whole.mean(axis=(2, 4), dtype=np.float32), origins_lps=volume.origins_lps + middle,
        pixel_spacing=(dy * by, dx * bx),
    )  # fmt: skip


def _bone(skull: sitk.Image) -> npt.NDArray[np.bool_]:
    bone: npt.NDArray[np.bool_] = sitk.GetArrayViewFromImage(skull) > SKULL_HU - BONE_HU[0]
    return bone


def _judged(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> Registration:
    found = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, -1.0))
    # Between what was scanned and what was not, -1 and 0 are mixed.
    known = (found >= 0) & (sitk.GetArrayViewFromImage(fixed) >= 0)
    one, other = _bone(fixed), (found > SKULL_HU - BONE_HU[0]) & known
    covered = one & known
    size, both = int(np.count_nonzero(one)), int(np.count_nonzero(covered) + np.count_nonzero(other))
    return Registration(
        matrix_lps=_matrix(transform),
        overlap=2 * float(np.count_nonzero(covered & other)) / both if both else 0.0,
        common=float(np.count_nonzero(covered)) / size if size else 0.0,
    )


def _matrix(transform: sitk.Transform) -> Float64Array:
    zero = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = zero
    for axis in range(3):
        unit = [0.0, 0.0, 0.0]
        unit[axis] = 1.0
        matrix[:3, axis] = np.array(transform.TransformPoint(unit)) - zero
    return matrix
