"""Simple heads for tests: a function of patient coordinates, sampled on any grid, with blood where it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ichor.arrays import Volume
from ichor.pipeline import Classification
from ichor.types import Geometry, Instance, Stage

BLOOD_HU = 66.0
Ball = tuple[tuple[float, float, float], float]  # centre in LPS mm, radius


def tissue(
    points: npt.NDArray[np.float64], *, blood: Sequence[Ball] = (), turn_deg: float = 0.0
) -> npt.NDArray[np.float32]:
    """HU at points (..., 3): scalp, skull, grey and white matter, ventricles; the head turned about z."""
    angle = np.deg2rad(turn_deg)
    x = points[..., 0] * np.cos(angle) + points[..., 1] * np.sin(angle)
    y = -points[..., 0] * np.sin(angle) + points[..., 1] * np.cos(angle)
    z = points[..., 2]
    radius = np.sqrt((x / 68) ** 2 + (y / 86) ** 2 + (z / 72) ** 2)
    hu = np.full(radius.shape, -1000.0, np.float32)
    hu[radius < 1.17] = 20
    hu[radius < 1.10] = 1200
    hu[radius < 1.0] = 38
    hu[radius < 0.88] = 28
    hu[((np.abs(x) - 14) / 8) ** 2 + (y / 30) ** 2 + ((z - 10) / 14) ** 2 < 1] = 6
    for centre, size in blood:
        hu[np.linalg.norm(points - np.asarray(centre), axis=-1) < size] = BLOOD_HU
    return hu


@dataclass(frozen=True)
class Layout:
    """How a scanner stores the same head: direction cosines of rows and columns, and the order follows the normal."""

    row: tuple[float, float, float] = (1.0, 0.0, 0.0)
    column: tuple[float, float, float] = (0.0, 1.0, 0.0)
    rows: int = 112
    columns: int = 96
    spacing: tuple[float, float] = (2.0, 2.0)
    z: tuple[float, ...] = tuple(np.arange(-65.0, 90.0, 5.0))


HEAD_FIRST = Layout()
PRONE = Layout(row=(-1.0, 0.0, 0.0), column=(0.0, -1.0, 0.0))
FEET_FIRST = Layout(row=(-1.0, 0.0, 0.0), column=(0.0, 1.0, 0.0))
TRANSPOSED = Layout(row=(0.0, 1.0, 0.0), column=(1.0, 0.0, 0.0), rows=96, columns=112)
TILTED = Layout(column=(0.0, float(np.cos(0.3)), float(np.sin(0.3))))
UNEVEN = Layout(z=(*np.arange(-65.0, -20.0, 2.5), *np.arange(-20.0, 90.0, 5.0)))


def head(
    layout: Layout = HEAD_FIRST, *, blood: Sequence[Ball] = (), turn_deg: float = 0.0, noise: float = 2.0,
    notes: tuple[str, ...] = (), fill: float | None = None,
) -> Volume:  # fmt: skip
    """A volume of the head; ``fill`` replaces everything inside the skull, as a phantom would."""
    row, column = np.asarray(layout.row), np.asarray(layout.column)
    normal = np.cross(row, column)
    middle = (layout.columns - 1) / 2 * layout.spacing[1] * row + (layout.rows - 1) / 2 * layout.spacing[0] * column
    table = np.array([0.0, 0.0, 1.0])
    centres = np.array([z * table for z in sorted(layout.z, key=lambda z: z * normal[2])])
    origins = centres - middle
    grid = (
        origins[:, None, None]
        + np.arange(layout.rows)[None, :, None, None] * layout.spacing[0] * column
        + np.arange(layout.columns)[None, None, :, None] * layout.spacing[1] * row
    )
    hu = tissue(grid, blood=blood, turn_deg=turn_deg)
    inside = (hu > -100) & (hu < 100)
    if fill is not None:
        hu[inside] = fill
    rng = np.random.default_rng(7)
    hu[inside] += rng.normal(0, noise, np.count_nonzero(inside)).astype(np.float32)
    return Volume(
        array=np.rint(hu).astype(np.int16),
        origins_lps=origins,
        row_lps=row,
        column_lps=column,
        pixel_spacing=layout.spacing,
        slice_thickness=5.0,
        frame_of_reference_uid="1.2.3.4",
        unit="[hnsf'U]",
        sources=tuple(instance(k, layout, tuple(float(v) for v in o)) for k, o in enumerate(origins)),
        notes=notes,
    )


def instance(
    k: int, layout: Layout = HEAD_FIRST, position: tuple[float, float, float] = (0.0, 0.0, 0.0), *, study: str = "1.2.3",
    identity: str = "a" * 64,
) -> Instance:  # fmt: skip
    return Instance(
        sop_instance_uid=f"{study}.1.{k + 1}", sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=f"{study}.1", study_instance_uid=study, transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT", location=f"{study}/{study}.1/{k}", file_sha256="f" * 64, content_sha256=f"{k:064x}",
        identity_sha256=identity, patient_sha256="p" * 64, accession_sha256=None, association="a", calling_ae="CT1",
        called_ae="ICHOR", priority=None, received_at=1000.0,
        geometry=Geometry(
            rows=layout.rows, columns=layout.columns, position_lps=position,
            orientation_lps=(*layout.row, *layout.column), pixel_spacing=layout.spacing, slice_thickness=5.0,
        ),
    )  # fmt: skip


@dataclass
class ThresholdEngine:
    """Calls everything of the density of blood a bleed, in and outside the head; counts its calls."""

    name: str = "haematoma-phantom"
    sha256: str = "0" * 64
    description: str = "a threshold, for tests"
    calls: int = field(default=0)

    def segment(self, volume: Volume) -> npt.NDArray[np.float32]:
        self.calls += 1
        near = np.abs(volume.array_zyx.astype(np.float32) - BLOOD_HU) < 12
        return np.where(near, 0.9, 0.0).astype(np.float32)


@dataclass
class Judge:
    """Says 0.2, 0.3 and 0.4 of every lesion of three slices or more, and looks at its front half."""

    name: str = "haematoma-expansion-phantom"
    sha256: str = "1" * 64
    description: str = "a constant, for tests"
    blind: bool = False
    asked: list[npt.NDArray[np.uint8]] = field(default_factory=list)

    def classify(self, volume: Volume, mask_zyx: npt.NDArray[np.uint8]) -> Classification | None:
        self.asked.append(mask_zyx)
        areas = np.count_nonzero(mask_zyx, axis=(1, 2))
        middle = int(areas.argmax())
        if np.count_nonzero(areas) < 3:
            return None
        attention = np.zeros(volume.array_zyx.shape, np.float32)
        slices = (middle - 1, middle, middle + 1)
        for k in slices:
            attention[k] = 0 if self.blind else mask_zyx[k] * np.float32(0.8)
        return Classification(probability=0.3, each=(0.2, 0.3, 0.4), slices=slices, attention_zyx=attention)


def no_timing(stage: Stage) -> AbstractContextManager[None]:
    assert isinstance(stage, Stage)
    return nullcontext()
