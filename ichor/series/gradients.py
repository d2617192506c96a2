"""The gradient table of a diffusion series, in patient coordinates and in FSL's convention. Fits nothing.

Facts come from each image's header (`ichor.types.Diffusion`); here those of one volume are put together and checked.
What is absent or contradictory is named, nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ichor.arrays import Float64Array
from ichor.reasons import Reason
from ichor.series.planes import Plane
from ichor.series.shells import B0_LIMIT
from ichor.types import Axis, AxisName, Diffusion, GradientTable, unique

_AGREEMENT = 1e-3  # component by component; slices of one volume repeat one direction
_UNIT = 0.01
_SAME_B = 0.01  # s/mm2


def gradient_table(
    planes: Sequence[Plane], *, axes: Sequence[Axis], cells: npt.NDArray[np.int64]
) -> GradientTable | Reason | None:
    """b-values and directions along the diffusion axis of a grid, in its order.

    ``planes``, ``axes`` and ``cells`` are those of `ichor.series.grid.Grid`, whose ``gradients`` is this table.

    Returns
    -------
    None where there is no diffusion axis or no image has a direction (trace series: the axis says their b-values). A
    `Reason` where images of one volume disagree by more than 1e-3, where an image contradicts itself, or where a
    volume above b 5 has no direction, or one that is no unit vector, beside others that have.
    """
    axis = next((k for k, axis in enumerate(axes) if axis.name is AxisName.DIFFUSION), None)
    if axis is None:
        return None
    found = [
        unique([d for k in volume[volume >= 0].tolist() if (d := planes[k].slot.diffusion) is not None])
        for volume in np.moveaxis(cells, axis, 0)
    ]
    stated = [diffusion for volume in found for diffusion in volume]
    for diffusion in stated:
        if diffusion.problem is not None:
            return _reason(diffusion.problem)
    if not any(diffusion.direction_lps is not None for diffusion in stated):
        return None
    b_values: list[float] = []
    directions: list[tuple[float, float, float]] = []
    for volume in found:
        entry = _volume(volume)
        if isinstance(entry, Reason):
            return entry
        b_values.append(entry[0])
        directions.append(entry[1])
    return GradientTable(
        b_values=tuple(b_values),
        directions_lps=tuple(directions),
        source=", ".join(unique([diffusion.source for diffusion in stated if diffusion.source])),
    )


def fsl_bvecs(
    table: GradientTable, *, row_lps: npt.ArrayLike, column_lps: npt.ArrayLike, slice_step_lps: npt.ArrayLike
) -> Float64Array:
    """Directions (3, n) as FSL reads them from a ``.bvec`` file beside one particular NIfTI image.

    FSL takes directions along the axes of the voxel grid, and negates the first of them when the determinant of the
    image's affine is positive ("neurological" storage):
    https://fsl.fmrib.ox.ac.uk/fsl/docs/#/diffusion/index (FDT, "What conventions do the bvecs use?").

    Parameters
    ----------
    row_lps, column_lps, slice_step_lps
        Directions (3,), patient coordinates (LPS), in which the first, second and third voxel index *of the written
        image* grow; of any length. An image whose rows were flipped on writing needs its second direction negated.
        Going from LPS to the RAS of NIfTI keeps the determinant. Of a sheared image (tilted gantry), the third axis is
        the normal on the side of ``slice_step_lps``, as FSL knows no shear.

    Returns
    -------
    Components along the first, second and third axis, as long as those of the table; b0 is 0, 0, 0.
    """
    row = np.asarray(row_lps, dtype=np.float64)
    column = np.asarray(column_lps, dtype=np.float64)
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    normal = np.cross(row, column)
    right_handed = float(normal @ np.asarray(slice_step_lps, dtype=np.float64)) > 0
    axes = np.stack([-row if right_handed else row, column, normal if right_handed else -normal])
    vectors: Float64Array = axes @ np.asarray(table.directions_lps, dtype=np.float64).reshape(-1, 3).T
    return vectors + 0.0  # no minus zero


def _volume(stated: tuple[Diffusion, ...]) -> tuple[float, tuple[float, float, float]] | Reason:
    """b-value and direction that the images of one volume agree on."""
    if not stated:
        return Reason.NO_DIFFUSION
    first = stated[0]
    if any(abs(diffusion.b_value - first.b_value) > _SAME_B for diffusion in stated):
        return Reason.DIFFUSION_DIFFERS
    if first.b_value <= B0_LIMIT:
        return first.b_value, (0.0, 0.0, 0.0)
    if any(diffusion.direction_lps is None for diffusion in stated):
        return Reason.NO_DIRECTION
    directions = np.asarray([diffusion.direction_lps for diffusion in stated], dtype=np.float64)
    if float(np.ptp(directions, axis=0).max()) > _AGREEMENT:
        return Reason.DIFFUSION_DIFFERS
    if abs(float(np.linalg.norm(directions[0])) - 1.0) > _UNIT:
        return Reason.NO_DIRECTION
    x, y, z = directions[0].tolist()
    return first.b_value, (x, y, z)


def _reason(problem: str) -> Reason:
    """``problem`` is a reason, perhaps with a detail after a colon."""
    return next((reason for reason in Reason if problem.startswith(reason)), Reason.DIFFUSION_DIFFERS)
