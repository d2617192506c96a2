"""Arithmetic on single vectors in patient coordinates (LPS), for headers. Not for arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

Vector: TypeAlias = tuple[float, float, float]


def vector(values: Sequence[float] | None) -> Vector | None:
    """Three finite numbers, else None."""
    if values is None or len(values) != 3 or not all(map(math.isfinite, values)):
        return None
    return float(values[0]), float(values[1]), float(values[2])


def dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def length(a: Vector) -> float:
    return math.sqrt(dot(a, a))


def scaled(a: Vector, factor: float) -> Vector:
    # Nothing is minus zero.
    return a[0] * factor + 0.0, a[1] * factor + 0.0, a[2] * factor + 0.0


def plus(a: Vector, b: Vector) -> Vector:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def axes(orientation: Sequence[float]) -> tuple[Vector, Vector, Vector]:
    """Unit vectors along a row, along a column, and along their normal, of Image Orientation (Patient)."""
    row = (orientation[0], orientation[1], orientation[2])
    column = (orientation[3], orientation[4], orientation[5])
    return row, column, cross(row, column)


def from_axes(components: Vector, orientation: Sequence[float]) -> Vector:
    """A vector given by its components along row, column and normal."""
    row, column, normal = axes(orientation)
    return plus(plus(scaled(row, components[0]), scaled(column, components[1])), scaled(normal, components[2]))
