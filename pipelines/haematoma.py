"""Intracerebral haematoma on a non-contrast head CT: found, outlined, measured, told. No network, no DICOM in here.

Subdural, epidural and subarachnoid blood, expansion and oedema are not looked for, and the findings say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ichor.arrays import Float32Array, Float64Array, MaskArray, Volume
from ichor.errors import Unreadable
from ichor.pipeline import Engine, PipelineSpec, Timing
from ichor.reasons import Reason
from ichor.types import (
    Algorithm,
    Code,
    FindingGroup,
    Findings,
    Measurement,
    ParametricMap,
    Segmentation,
    Stage,
    Statement,
)
from pipelines.brain import Intracranial, intracranial_space
from pipelines.midline import Midline
from pipelines.volumes import Sampling, abc2_volume_ml, mesh_volume_ml, voxel_volume_ml

NAME, VERSION = "haematoma", "1.0.0"
ROLE, MODEL = "ncct_head", "haematoma-phantom"

PROBABILITY = 0.5
# On 65 synthetic heads that were neither trained on nor in the acceptance set, one in five without a bleed had a dense
# speck that the network took for one; these two rules left 2 of 40, and lost no haematoma of 1 mL or more.
LEAST_ML = 1.0
LEAST_MEAN_PROBABILITY = 0.75
SPECK_ML = 0.2  # below: not even mentioned
LEAST_ENCLOSED = 0.5  # share of a region's voxels that must lie inside the skull
MAP_FLOOR = 0.01
ONE_SIDED = 2 / 3
MOST_SEGMENTS = 20  # each costs a mask of the whole volume; smaller ones share the last
TOLD_LEFT_OUT_ML = 1.0

NONE_FOUND = "No intracerebral haematoma found; subdural, epidural and subarachnoid blood not assessed"
NOT_ASSESSED = (
    "subdural, epidural and subarachnoid blood",
    "haematomas below 1 mL",
    "intraventricular blood apart from the haematoma",
    "oedema around the haematoma",
    "probability of expansion",
)

HAEMORRHAGE = Code(value="50960005", scheme="SCT", meaning="Hemorrhage")
INTRACRANIAL_HAEMORRHAGE = Code(value="1386000", scheme="SCT", meaning="Intracranial hemorrhage")
ABNORMAL = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
VOLUME = Code(value="118565006", scheme="SCT", meaning="Volume")
FINDING = Code(value="121071", scheme="DCM", meaning="Finding")
PROBABILITY_MAP = Code(value="110854", scheme="DCM", meaning="Fractional Probabilistic Segmentation")
BY_SEGMENTATION = Code(value="113076", scheme="DCM", meaning="Segmentation")
NO_UNITS = Code(value="1", scheme="UCUM", meaning="no units")
SIDES = {
    "left": Code(value="7771000", scheme="SCT", meaning="Left"),
    "right": Code(value="24028007", scheme="SCT", meaning="Right"),
    "across the midline": Code(value="51440002", scheme="SCT", meaning="Bilateral"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One region: its mask on the volume's grid, volumes in mL, centre (LPS, mm) and side."""

    mask_zyx: MaskArray
    mesh_ml: float
    voxel_ml: float
    abc2_ml: float
    centre_lps: tuple[float, float, float]
    side: str


def run(volumes: Mapping[str, Volume], engines: Mapping[str, Engine], timing: Timing) -> Findings:
    """Find and measure haematomas on the ``ncct_head`` volume (HU).

    Raises
    ------
    Unreadable
        ``NO_BRAIN`` when none is there; ``GAP`` when the scan lacks a slice and nothing was found in the others, since
        a haematoma may lie in what is missing.
    """
    volume, engine = volumes[ROLE], engines[MODEL]
    with timing(Stage.MEASURE):
        space = intracranial_space(volume)
    with timing(Stage.INFER):
        probability = engine.segment(volume)
    with timing(Stage.MEASURE):
        return describe(volume, probability, space, engine)


def describe(volume: Volume, probability: Float32Array, space: Intracranial, engine: Engine) -> Findings:
    """Findings of a probability (z, y, x) on the grid of ``volume``.

    Raises
    ------
    ValueError
        When the probability is not on the volume's grid or not a number somewhere.
    Unreadable
        See `run`.
    """
    if probability.shape != volume.array_zyx.shape:
        raise ValueError(f"probability of {probability.shape} for a volume of {volume.array_zyx.shape}")
    # One pass that also meets every NaN.
    if not np.isfinite(probability.sum(dtype=np.float64)):
        raise ValueError("the network's probability is not a number everywhere")
    regions = _regions(probability, volume, space)
    midline = Midline.of(volume, space)
    lesions = sorted((_lesion(mask, volume, midline) for mask in regions.masks), key=lambda one: -one.voxel_ml)
    algorithm = Algorithm(
        pipeline=NAME, version=VERSION, parameters=dict(PARAMETERS), model=engine.name, weights_sha256=engine.sha256,
        engine=engine.description,
    )  # fmt: skip
    aside = _left_out(regions)
    if not lesions:
        if volume.notes:
            raise Unreadable(f"{Reason.GAP}: {'; '.join(volume.notes)}")
        return Findings(
            outcome="none", summary=(NONE_FOUND, *aside), algorithm=algorithm, measurements=_volumes([], even=True),
            not_assessed=NOT_ASSESSED,
        )  # fmt: skip
    even = Sampling.of(volume).even
    groups = tuple(_group(number, lesion, even=even) for number, lesion in enumerate(lesions, start=1))
    return Findings(
        outcome="found",
        summary=(*_sentences(lesions), *_edge(lesions, volume), *_gap(volume), *aside),
        algorithm=algorithm,
        groups=groups,
        maps=(_map(probability),),
        measurements=_volumes(lesions, even=even),
        not_assessed=NOT_ASSESSED,
    )


# --- regions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """``masks`` are kept; millilitres left out because they lie outside the skull, or as small or faint specks."""

    masks: list[MaskArray]
    outside_ml: float = 0.0
    specks_ml: tuple[float, ...] = ()


def _regions(probability: Float32Array, volume: Volume, space: Intracranial) -> Regions:
    above = probability >= PROBABILITY
    slices = np.flatnonzero(above.any(axis=(1, 2)))
    if slices.size == 0:
        return Regions(masks=[])
    rows = np.flatnonzero(above[slices[0] : slices[-1] + 1].any(axis=(0, 2)))
    columns = np.flatnonzero(above[slices[0] : slices[-1] + 1].any(axis=(0, 1)))
    low = (int(slices[0]), int(rows[0]), int(columns[0]))
    box = tuple(slice(a[0], a[-1] + 1) for a in (slices, rows, columns))
    labels, _ = ndimage.label(above[box], structure=np.ones((3, 3, 3)))
    area = volume.pixel_spacing[0] * volume.pixel_spacing[1] / 1000
    extents = volume.slice_extents
    found: list[tuple[float, int, tuple[slice, ...]]] = []
    outside, specks = 0.0, []
    for label, part in enumerate(ndimage.find_objects(labels), start=1):
        voxels = np.asarray(np.nonzero(labels[part] == label))
        voxels += np.array([[p.start + first] for p, first in zip(part, low, strict=True)])
        size = float(extents[voxels[0]].sum()) * area
        if size < SPECK_ML:
            continue
        if float(space.contains(voxels).mean()) < LEAST_ENCLOSED:
            outside += size
            continue
        sure = float(probability[voxels[0], voxels[1], voxels[2]].mean()) >= LEAST_MEAN_PROBABILITY
        if size < LEAST_ML or not sure:
            specks.append(size)
            continue
        found.append((size, label, part))
    found.sort(key=lambda one: -one[0])
    masks: list[MaskArray] = []
    for _, label, part in found:
        if len(masks) < MOST_SEGMENTS:
            masks.append(np.zeros(above.shape, np.uint8))
        masks[-1][box][part] |= labels[part] == label
    return Regions(masks=masks, outside_ml=outside, specks_ml=tuple(sorted(specks, reverse=True)))


def _lesion(mask_zyx: MaskArray, volume: Volume, midline: Midline) -> Lesion:
    sampling = Sampling.of(volume)
    rows, columns = np.flatnonzero(mask_zyx.any(axis=(0, 2))), np.flatnonzero(mask_zyx.any(axis=(0, 1)))
    part = mask_zyx[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    voxels = np.argwhere(part) + np.array([0, rows[0], columns[0]])
    weights = volume.slice_extents[voxels[:, 0]]
    points: Float64Array = volume.to_lps(voxels)
    x, y, z = (float(v) for v in np.average(points, axis=0, weights=weights))
    left = float(np.average(midline.left_of(points) > 0, weights=weights))
    side = "left" if left >= ONE_SIDED else "right" if left <= 1 - ONE_SIDED else "across the midline"
    return Lesion(
        mask_zyx=mask_zyx,
        mesh_ml=mesh_volume_ml(part, sampling),
        voxel_ml=voxel_volume_ml(part, sampling),
        abc2_ml=abc2_volume_ml(part, sampling),
        centre_lps=(x, y, z),
        side=side,
    )


def _map(probability: Float32Array) -> ParametricMap:
    # Slice by slice: most hold nothing, and pages of zeros that nobody touches cost nothing.
    values: npt.NDArray[np.float32] = np.zeros(probability.shape, np.float32)
    for k in np.flatnonzero(probability.max(axis=(1, 2)) >= MAP_FLOOR):
        np.clip(probability[k], 0, 1, out=values[k])
        values[k][values[k] < MAP_FLOOR] = 0
    return ParametricMap(
        label="Haematoma probability", values_zyx=values, quantity=PROBABILITY_MAP, unit=NO_UNITS,
        derivation=BY_SEGMENTATION,
    )  # fmt: skip


# --- words ----------------------------------------------------------------------------------------------------------


def _group(number: int, lesion: Lesion, *, even: bool) -> FindingGroup:
    tracking_id = f"Haematoma {number}"
    x, y, z = lesion.centre_lps
    return FindingGroup(
        tracking_id=tracking_id,
        finding=INTRACRANIAL_HAEMORRHAGE,
        site=BRAIN,
        laterality=SIDES[lesion.side],
        segmentation=Segmentation(
            label=f"Intracerebral haematoma {number}", mask_zyx=lesion.mask_zyx, category=ABNORMAL, type=HAEMORRHAGE,
            site=BRAIN, tracking_id=tracking_id,
        ),
        measurements=_volumes([lesion], even=even),
        statements=(
            Statement(code=FINDING, text=f"side: {lesion.side}"),
            Statement(code=FINDING, text=f"centre {x:.1f}, {y:.1f}, {z:.1f} mm (patient coordinates, LPS)"),
        ),
    )  # fmt: skip


def _volumes(lesions: Sequence[Lesion], *, even: bool) -> tuple[Measurement, ...]:
    """Sums over lesions. On uneven slices no reader of the segmentation gets the voxel sum from one spacing: said so."""
    by_voxels = "Sum of voxels" if even else "Sum of voxels, uneven slices"
    return tuple(
        Measurement(name=name, value=float(sum(parts)), unit="mL", code=VOLUME, method=method)
        for name, parts, method in (
            ("haematoma_volume", [one.mesh_ml for one in lesions], "Closed surface mesh"),
            ("haematoma_volume_voxel", [one.voxel_ml for one in lesions], by_voxels),
            ("haematoma_volume_abc2", [one.abc2_ml for one in lesions], "ABC/2"),
        )
    )


def _sentences(lesions: list[Lesion]) -> list[str]:
    if len(lesions) == 1:
        (one,) = lesions
        first = f"Intracerebral haematoma: {one.mesh_ml:.1f} mL (mesh), {one.side}"
        return [first, f"By voxels {one.voxel_ml:.1f} mL, by ABC/2 {one.abc2_ml:.1f} mL"]
    total = sum(one.mesh_ml for one in lesions)
    return [f"{len(lesions)} intracerebral haematomas: {total:.1f} mL together (mesh)"] + [
        f"{n}: {one.mesh_ml:.1f} mL (mesh), {one.side}; voxels {one.voxel_ml:.1f} mL, ABC/2 {one.abc2_ml:.1f} mL"
        for n, one in enumerate(lesions, start=1)
    ]


def _edge(lesions: list[Lesion], volume: Volume) -> list[str]:
    """A haematoma on the first or last slice goes on where nothing was scanned."""
    last = volume.array_zyx.shape[0] - 1
    cut = [n for n, one in enumerate(lesions, start=1) if one.mask_zyx[0].any() or one.mask_zyx[last].any()]
    if not cut:
        return []
    which = "The haematoma" if len(lesions) == 1 else f"Haematoma {', '.join(map(str, cut))}"
    return [f"{which} reaches the edge of the scan: its volume is of the part that was scanned"]


def _gap(volume: Volume) -> list[str]:
    return [f"The scan is not whole: {note}. Volumes bridge the gap and may be wrong" for note in volume.notes]


def _left_out(regions: Regions) -> list[str]:
    said = []
    if regions.specks_ml:
        sizes = ", ".join(f"{size:.1f}" for size in regions.specks_ml[:5])
        said.append(f"Dense specks too small or too faint to call a haematoma were left out: {sizes} mL")
    if regions.outside_ml >= TOLD_LEFT_OUT_ML:
        said.append(f"{regions.outside_ml:.1f} mL outside the skull looked like blood to the network and were left out")
    return said


PARAMETERS: Mapping[str, float] = {
    "probability_threshold": PROBABILITY,
    "least_volume_ml": LEAST_ML,
    "least_mean_probability": LEAST_MEAN_PROBABILITY,
    "least_enclosed_share": LEAST_ENCLOSED,
    "map_floor": MAP_FLOOR,
}

PIPELINE = PipelineSpec(
    name=NAME, version=VERSION, requires=(ROLE,), models=(MODEL,), parameters=PARAMETERS, run=run
)  # fmt: skip
