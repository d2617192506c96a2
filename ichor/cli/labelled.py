"""Labelled heads and haematomas for training and evaluation: from `phantoms`, or read for `engines.user_data`. Trains nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.cases import TrainingCase
from engines.expansion_pool import SIGNS, LabelledBleed, around_largest
from engines.user_data import LabelledVolume, UserCase, read_case, training_case
from ichor.arrays import Volume
from ichor.errors import IchorError, Unreadable
from phantoms.bleeds import Bleed
from phantoms.expansion import EARLY_HOURS
from phantoms.head import Grid, Head, HeadModel, sample, training_head
from pipelines.brain import intracranial_space
from pipelines.regions import with_islands, without_islands


def phantom_case(key: str, *, paper: bool = False) -> TrainingCase:
    """The synthetic head of a seed as a training case; for the paper's protocol at 0.5 x 0.5 x 5 mm."""
    head = training_head(int(key))
    if paper:
        labelled = LabelledVolume(volume=head_volume(head), mask_zyx=head.mask_zyx > 0)
        return training_case(labelled, inside_zyx=head.brain_zyx, pixel_mm=0.5, slice_mm=5.0)
    return TrainingCase(
        hu_zyx=head.hu_zyx,
        occupancy_zyx=head.occupancy_zyx,
        intracranial_zyx=head.brain_zyx,
        spacing_mm=head.spacing_mm,
    )


def head_volume(head: Head) -> Volume:
    """A synthetic head as what a pipeline is given."""
    return Volume(
        array=head.hu_zyx,
        origins_lps=head.slice_positions_mm,
        row_lps=head.grid.row_direction,
        column_lps=head.grid.column_direction,
        pixel_spacing=(head.grid.pixel_mm, head.grid.pixel_mm),
        slice_thickness=float(np.median(head.grid.thickness_mm)),
        frame_of_reference_uid=None,
        unit="HU",
        sources=(),
    )


def phantom_bleed(key: str) -> LabelledBleed | None:
    """The one haematoma (1-80 mL) of a seed, sampled only around itself, which takes a tenth of a head's time."""
    seed = int(key)
    rng = np.random.default_rng([seed, 21])
    volume_ml = float(np.exp(rng.uniform(np.log(1.0), np.log(80.0))))
    model = HeadModel.draw(seed, bleed=Bleed((volume_ml,), ventricular=None))
    return labelled_bleed(sample(model, _field_of_view(model, rng)))


def labelled_bleed(head: Head) -> LabelledBleed | None:
    """The largest area of a synthetic head's haematomas with the outcome that its law drew; None where there is none."""
    spacing = (head.grid.pixel_mm, head.grid.pixel_mm)
    part = around_largest(head.hu_zyx, head.mask_zyx > 0, spacing_yx_mm=spacing)
    if part is None or head.expands is None:
        return None
    told = {**head.signs, "early": float(head.signs["onset_hours"]) <= EARLY_HOURS}
    return LabelledBleed(
        hu_zyx=part[0],
        mask_zyx=part[1],
        spacing_yx_mm=spacing,
        expands=head.expands,
        probability=head.expansion_probability,
        signs=np.array([float(told[name]) for name in SIGNS], np.float32),
    )


def _field_of_view(model: HeadModel, rng: np.random.Generator) -> Grid:
    """Seven slices of 2.5-5 mm through the middle of the haematoma, with what its crops need around it."""
    (one,) = model.haematomas
    centre = model.scanner.pose @ (np.asarray(one.centre) * np.asarray(model.person.scale))
    x, y, z = (float(c + s) for c, s in zip(centre, model.scanner.shift_mm, strict=True))
    half = 70.0 if one.flood is not None else 1.7 * one.radius + 20.0
    thick = float(rng.choice((2.5, 3.0, 4.0, 5.0), p=(0.1, 0.1, 0.15, 0.65)))
    pixel = float(rng.choice((0.5, 1.0)))
    at = z + thick * (np.arange(7) - 3 + rng.uniform(-0.5, 0.5))
    size = int(2 * half / pixel)
    return Grid(
        rows=size,
        columns=size,
        pixel_mm=pixel,
        z_mm=tuple(float(v) for v in at),
        thickness_mm=(thick,) * len(at),
        centre_xy_mm=(x, y),
    )


def user_bleed(cases: Mapping[str, UserCase], key: str) -> LabelledBleed | None:
    """The largest area of the largest region of a user's labelled scan with its islands, as a judge that serves is asked."""
    case = cases[key]
    labelled = read_case(case, read_dicom=read_dicom)
    if case.expands is None or not labelled.mask_zyx.any():
        return None
    spacing = labelled.volume.pixel_spacing
    hu = np.clip(np.rint(labelled.volume.array_zyx), -1024, 3071).astype(np.int16)
    largest = without_islands(labelled.mask_zyx.astype(np.uint8), labelled.volume.slice_extents)
    asked = with_islands(largest, labelled.mask_zyx, labelled.volume) > 0
    part = around_largest(hu, asked, spacing_yx_mm=spacing)
    if part is None:
        return None
    return LabelledBleed(
        hu_zyx=part[0],
        mask_zyx=part[1],
        spacing_yx_mm=spacing,
        expands=case.expands,
        probability=float(case.expands),
        signs=np.full(len(SIGNS), np.nan, np.float32),
    )


def inside_skull(volume: Volume) -> npt.NDArray[np.bool_] | None:
    """(z, y, x), what the pipeline's rule takes for the inside of the skull (blocks of 4 mm); None where it finds no brain."""
    try:
        space = intracranial_space(volume)
    except Unreadable:
        return None
    inside = space.blocks_zyx
    for axis, size in enumerate(space.block):
        inside = np.repeat(inside, size, axis=axis)
    slices, rows, columns = volume.array_zyx.shape
    return inside[:slices, :rows, :columns]


def read_dicom(folder: Path) -> Volume:
    """The one image series below a folder.

    Raises
    ------
    Unreadable
        There is none, or more than one, or it is no plain volume.
    """
    from ichor.cli.dicom_files import FolderSpool
    from ichor.cli.series_folder import look_at
    from ichor.series.manifest import build_manifest
    from ichor.series.volume import build_volume

    try:
        series = [one for one in look_at(folder, rules=()).series if one.has_images]
    except IchorError as error:
        raise Unreadable(str(error)) from error
    if len(series) != 1:
        raise Unreadable(f"{len(series)} image series in its folder dicom, not one")
    (one,) = series
    if one.array_refusal is not None:
        raise Unreadable(one.array_refusal)
    manifest = build_manifest(one.instances, revision=1, grade=one.grade, notes=one.notes, grid=one.grid)
    return build_volume(manifest, spool=FolderSpool(folder))
