"""One diffusion weighting out of what several attributes state, checked. Knows no attribute of any vendor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ichor.reasons import Reason
from ichor.series.dialects.lps import Vector, dot, length, scaled
from ichor.series.shells import B0_LIMIT
from ichor.types import Diffusion

_LARGEST_B = 100_000.0  # s/mm2, beyond any gradient system
UNIT = 1e-2  # what the length of a unit vector may lack or have too much, as it is written
_SAME_B = 1.0  # s/mm2: integers beside floating point
_SAME_DIRECTION = 0.9995  # cosine, of 1.8 degrees: values rounded to two decimals
# Imaging gradients add to a b-matrix, the more the smaller b is; an axis swapped or mirrored goes far beyond.
_ALONG_MATRIX, _LEAST_B_OF_MATRIX = 0.8, 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What one attribute, or one vendor's attributes together, say. ``b_matrix``: xx, xy, xz, yy, yz, zz."""

    source: str
    b_value: float | None = None
    direction_lps: Vector | None = None
    isotropic: bool = False
    b_matrix: tuple[float, ...] | None = None


def settled(statements: Iterable[Stated]) -> Diffusion | None:
    """The one weighting that all statements agree on; None where none states a b-value.

    What the first statement leaves open the next ones fill. Directions stay as stated, not made exactly unit vectors. Statements that differ beyond rounding, a direction that
    is no unit vector or is not the b-matrix's, a b-value out of range: each is the result's ``problem``. A weighted
    image without direction is isotropic only where a statement says so.
    """
    there = [s for s in statements if s.b_value is not None or s.direction_lps is not None or s.isotropic]
    b_values = [s.b_value for s in there if s.b_value is not None]
    if not b_values:
        return None
    b = b_values[0]
    source = "+".join(dict.fromkeys(s.source for s in there))
    if not all(0 <= value <= _LARGEST_B for value in b_values):
        # Also false for what is not a number.
        return Diffusion(b_value=0.0, source=source, problem=Reason.DIFFUSION_INVALID)
    if any(abs(value - b) > _SAME_B for value in b_values):
        return Diffusion(b_value=b, source=source, problem=Reason.DIFFUSION_CONTRADICTS)
    if b <= B0_LIMIT:
        return Diffusion(b_value=b, source=source)
    directions = [s.direction_lps for s in there if s.direction_lps is not None and any(s.direction_lps)]
    isotropic = any(s.isotropic for s in there)
    problem = _problem(directions, [s.b_matrix for s in there if s.b_matrix is not None], isotropic=isotropic, b=b)
    if problem is not None:
        return Diffusion(b_value=b, source=source, problem=problem)
    direction = scaled(directions[0], 1.0) if directions else None
    return Diffusion(b_value=b, direction_lps=direction, isotropic=isotropic, source=source)


def _problem(directions: list[Vector], matrices: list[tuple[float, ...]], *, isotropic: bool, b: float) -> str | None:
    if any(not abs(length(d) - 1) <= UNIT for d in directions):
        return Reason.DIFFUSION_INVALID
    if not directions:
        return None
    first = directions[0]
    if isotropic or any(dot(first, d) < _SAME_DIRECTION * length(first) * length(d) for d in directions):
        return Reason.DIFFUSION_CONTRADICTS
    if b >= _LEAST_B_OF_MATRIX and not all(_along(first, m) for m in matrices):
        return Reason.DIFFUSION_CONTRADICTS
    return None


def _along(direction: Vector, matrix: tuple[float, ...]) -> bool:
    """Whether most of the weighting that the matrix has is along ``direction``. An empty matrix says nothing."""
    xx, xy, xz, yy, yz, zz = matrix
    x, y, z = direction
    trace = xx + yy + zz
    along = xx * x * x + yy * y * y + zz * z * z + 2 * (xy * x * y + xz * x * z + yz * y * z)
    return trace <= 0 or along >= _ALONG_MATRIX * trace
