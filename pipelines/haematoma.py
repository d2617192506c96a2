"""Intracerebral haematoma on a non-contrast head CT: found, outlined, measured, told. No network, no DICOM in here.

Subdural, epidural and subarachnoid blood and oedema are not looked for, and the findings say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ichor.arrays import Float32Array, Volume
from ichor.errors import Unreadable
from ichor.pipeline import Compared, Engine, Examined, PipelineSpec, SegmentationEngine, Timing
from ichor.reasons import Reason
from ichor.types import Algorithm, FindingGroup, Findings, Measurement, ParametricMap, Segmentation, Stage, Statement
from pipelines import expansion, ich_score
from pipelines.expansion import Expansion
from pipelines.fitness import fit_space
from pipelines.location import HeadFrame, Location
from pipelines.midline import midlines
from pipelines.regions import (
    BESIDE_ML,
    FAINT_BELOW_ML,
    ISLANDS_MM,
    LEAST_ENCLOSED,
    LEAST_MEAN_PROBABILITY,
    LEAST_ML,
    NOT_CERTAIN,
    PROBABILITY,
    SEEN_NOT_CALLED,
    Lesion,
    Regions,
    find_regions,
    measured,
    with_islands,
    without_islands,
)
from pipelines.terms import (
    ABNORMAL,
    BRAIN,
    BY_SEGMENTATION,
    FINDING,
    HAEMORRHAGE,
    INTRACRANIAL_HAEMORRHAGE,
    NO_UNITS,
    NOT_CALLED,
    PROBABILITY_MAP,
    SIDES,
    VOLUME,
)
from pipelines.volumes import Sampling

NAME, VERSION = "haematoma", "1.3.0"
ROLE, MODEL = "ncct_head", "haematoma-phantom"

MAP_FLOOR = 0.01
TOLD_LEFT_OUT_ML = 1.0

NONE_FOUND = "No intracerebral haematoma found; subdural, epidural and subarachnoid blood not assessed"


def run(volumes: Mapping[str, Volume], engines: Mapping[str, Engine], timing: Timing) -> Findings:
    """Find and measure haematomas on the ``ncct_head`` volume (HU).

    Raises
    ------
    Unreadable
        ``NO_BRAIN`` or what else `pipelines.fitness` finds wrong; ``GAP`` when nothing was found and a slice is missing.
    ValueError
        A probability that is not on the volume's grid or not a number somewhere.
    """
    volume, engine = volumes[ROLE], engines[MODEL]
    if not isinstance(engine, SegmentationEngine):
        raise TypeError(f"{MODEL} does not outline")
    with timing(Stage.MEASURE):
        space = fit_space(volume)
    with timing(Stage.INFER):
        probability = engine.segment(volume)
    with timing(Stage.MEASURE):
        _check(probability, volume)
        regions = find_regions(probability, volume, space)
        frames = [HeadFrame.of(volume, space, midline) for midline in midlines(volume, space)]
        counts = [*[1] * (len(regions.masks) - 1), regions.last]
        lesions = sorted(
            (measured(mask, volume, frames, regions=n) for mask, n in zip(regions.masks, counts, strict=False)),
            key=lambda one: (one.regions > 1, -one.voxel_ml),
        )
    if not lesions:
        return _none(volume, regions, engine)
    with timing(Stage.INFER):
        # As the classifier was trained: with the islands of the haematoma, not with theirs.
        alone = without_islands(lesions[0].mask_zyx, volume.slice_extents)
        asked = with_islands(alone, probability >= PROBABILITY, volume)
        judged = expansion.judge(asked, volume, engines)
    with timing(Stage.MEASURE):
        return _found(volume, lesions, regions, judged, engine=engine, probability=probability)


def _check(probability: Float32Array, volume: Volume) -> None:
    if probability.shape != volume.array_zyx.shape:
        raise ValueError(f"probability of {probability.shape} for a volume of {volume.array_zyx.shape}")
    # One pass that also meets every NaN.
    if not np.isfinite(probability.sum(dtype=np.float64)):
        raise ValueError("the network's probability is not a number everywhere")


def _not_assessed(least_ml: float) -> tuple[str, ...]:
    return (
        "subdural, epidural and subarachnoid blood", f"haematomas below {least_ml:g} mL", "blood in the ventricles",
        "oedema around the haematoma",
    )  # fmt: skip


def _none(volume: Volume, regions: Regions, engine: Engine) -> Findings:
    if volume.notes:
        raise Unreadable(f"{Reason.GAP}: {'; '.join(volume.notes)}")
    return Findings(
        outcome="none", summary=(NONE_FOUND, *_left_out(regions)), algorithm=_algorithm(engine),
        measurements=(*_volumes([], even=True), *_seen(regions)), not_assessed=_not_assessed(LEAST_ML),
    )  # fmt: skip


def _found(
    volume: Volume, lesions: list[Lesion], regions: Regions, judged: Expansion, *, engine: Engine,
    probability: Float32Array,
) -> Findings:  # fmt: skip
    even = Sampling.of(volume).even
    whole = not volume.notes and not any(one.cut for one in lesions)
    first, *others = (_group(number, lesion, even=even) for number, lesion in enumerate(lesions, start=1))
    first = replace(
        first,
        measurements=(*first.measurements, *judged.measurements),
        statements=(*first.statements, *ich_score.statements(lesions, whole=whole)),
    )
    which = "the haematoma" if len(lesions) == 1 else "haematoma 1"
    unjudged = () if judged.reason is None else (f"probability of expansion: {judged.reason}",)
    return Findings(
        outcome="found",
        summary=(
            *_sentences(lesions), *judged.sentences(which=which),
            *_side_words(lesions), f"Items of the ICH score: {'; '.join(ich_score.items(lesions, whole=whole))}", *_edge(lesions), *_gap(volume),
            *_left_out(regions),
        ),
        algorithm=_algorithm(engine, judged.parameters),
        groups=(first, *others),
        maps=(_map(probability), *judged.maps),
        measurements=(*_volumes(lesions, even=even), *_seen(regions), *judged.measurements),
        not_assessed=(*_not_assessed(BESIDE_ML), *unjudged),
    )  # fmt: skip


def _algorithm(engine: Engine, more: Mapping[str, str] | None = None) -> Algorithm:
    return Algorithm(
        pipeline=NAME, version=VERSION, parameters={**PARAMETERS, **(more or {})}, model=engine.name,
        weights_sha256=engine.sha256, engine=engine.description,
    )  # fmt: skip


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
    tracking_id = _named(number, lesion)
    x, y, z = lesion.centre_lps
    return FindingGroup(
        tracking_id=tracking_id,
        finding=INTRACRANIAL_HAEMORRHAGE,
        site=BRAIN,
        laterality=SIDES.get(lesion.side),
        segmentation=Segmentation(
            label=f"Intracerebral {tracking_id[0].lower()}{tracking_id[1:]}", mask_zyx=lesion.mask_zyx, category=ABNORMAL, type=HAEMORRHAGE,
            site=BRAIN, tracking_id=tracking_id,
        ),
        measurements=_volumes([lesion], even=even),
        statements=(
            Statement(code=FINDING, text=f"side: {lesion.side}"),
            Statement(code=FINDING, text=f"location: {lesion.location} (coarse rule, not an atlas)"),
            Statement(code=FINDING, text=f"centre {x:.1f}, {y:.1f}, {z:.1f} mm (patient coordinates, LPS)"),
        ),
    )  # fmt: skip


def _named(number: int, lesion: Lesion) -> str:
    return f"Haematoma {number}" if lesion.regions == 1 else f"Haematoma: {lesion.regions} small regions together"


def _volumes(lesions: Sequence[Lesion], *, even: bool) -> tuple[Measurement, ...]:
    """Sums over lesions. On uneven slices no reader of the segmentation gets the voxel sum from one spacing: said so.

    ABC/2 of small regions together is none, nor then is that of all.
    """
    by_voxels = "Sum of voxels" if even else "Sum of voxels, uneven slices"
    abc2 = [one.abc2_ml for one in lesions if one.abc2_ml is not None]
    return tuple(
        Measurement(name=name, value=float(sum(parts)), unit="mL", code=VOLUME, method=method)
        for name, parts, method in (
            ("haematoma_volume", [one.mesh_ml for one in lesions], "Closed surface mesh"),
            ("haematoma_volume_voxel", [one.voxel_ml for one in lesions], by_voxels),
            ("haematoma_volume_abc2", abc2, "ABC/2"),
        )
        if len(parts) == len(lesions)
    )


def _seen(regions: Regions) -> tuple[Measurement, ...]:
    """What a later comparison must not take for nothing."""
    if not regions.specks_ml:
        return ()
    return (
        Measurement(
            name=SEEN_NOT_CALLED, value=float(sum(regions.specks_ml)), unit="mL", code=NOT_CALLED,
            method="Sum of voxels",
        ),
    )  # fmt: skip


def _sentences(lesions: list[Lesion]) -> list[str]:
    if len(lesions) == 1:
        (one,) = lesions
        first = f"Intracerebral haematoma: {one.mesh_ml:.1f} mL (mesh), {_where(one)}"
        return [first, f"By voxels {one.voxel_ml:.1f} mL, by ABC/2 {one.abc2_ml:.1f} mL"]
    total = sum(one.mesh_ml for one in lesions)
    count = sum(one.regions for one in lesions)
    return [f"{count} intracerebral haematomas: {total:.1f} mL together (mesh)"] + [
        f"{n}: {one.mesh_ml:.1f} mL (mesh), {_where(one)}; voxels {one.voxel_ml:.1f} mL, ABC/2 {one.abc2_ml:.1f} mL"
        if one.abc2_ml is not None
        else f"The other {one.regions} together: {one.mesh_ml:.1f} mL (mesh); voxels {one.voxel_ml:.1f} mL"
        for n, one in enumerate(lesions, start=1)
    ]


def _where(lesion: Lesion) -> str:
    side = "side not certain" if lesion.side == NOT_CERTAIN else lesion.side
    certain = lesion.location not in (Location.SUPRATENTORIAL, Location.UNCERTAIN, Location.UNKNOWN)
    return f"{side}, {lesion.location}" if certain else side


def _side_words(lesions: list[Lesion]) -> list[str]:
    if not any(one.side == NOT_CERTAIN and one.regions == 1 for one in lesions):
        return []
    return ["Side not certain: too near the plane between the sides, or that plane cannot be told from the skull"]


def _edge(lesions: list[Lesion]) -> list[str]:
    cut = [str(n) for n, one in enumerate(lesions, start=1) if one.cut]
    if not cut:
        return []
    which = "The haematoma" if len(lesions) == 1 else f"Haematoma {', '.join(cut)}"
    return [f"{which} reaches the edge of the scan: its volume is of the part that was scanned"]


def _gap(volume: Volume) -> list[str]:
    return [f"The scan is not whole: {note}. Volumes bridge the gap and may be wrong" for note in volume.notes]


def _left_out(regions: Regions) -> list[str]:
    """What was not called, and what was although the network is unsure of it."""
    said = []
    if regions.unsure_ml:
        said.append(
            f"The network is unsure of {_sizes(regions.unsure_ml)} of what it outlined: mean probability below "
            f"{LEAST_MEAN_PROBABILITY}"
        )
    if regions.specks_ml:
        said.append(
            f"Dense specks too small or too faint to call a haematoma were left out: {_sizes(regions.specks_ml)}"
        )
    if regions.outside_ml >= TOLD_LEFT_OUT_ML:
        said.append(f"{regions.outside_ml:.1f} mL outside the skull looked like blood to the network and were left out")
    return said


def _sizes(largest_first: Sequence[float]) -> str:
    more = f" and {len(largest_first) - 5} smaller" if len(largest_first) > 5 else ""
    return f"{', '.join(f'{size:.1f}' for size in largest_first[:5])} mL{more}"


def compare(now: Examined, earlier: Examined, *, hours: float) -> Compared:
    """See `pipelines.follow_up.compare`: loaded when it is needed, since who only orders jobs needs no registration."""
    from pipelines import follow_up

    return follow_up.compare(now, earlier, hours=hours)


PARAMETERS: Mapping[str, float] = {
    "probability_threshold": PROBABILITY,
    "least_volume_ml": LEAST_ML,
    "least_mean_probability": LEAST_MEAN_PROBABILITY,
    "faint_below_ml": FAINT_BELOW_ML,
    "least_enclosed_share": LEAST_ENCLOSED,
    "islands_mm": ISLANDS_MM,
    "least_beside_ml": BESIDE_ML,
    "map_floor": MAP_FLOOR,
}

PIPELINE = PipelineSpec(
    name=NAME, version=VERSION, requires=(ROLE,), models=(MODEL,), optional_models=(expansion.MODEL,),
    parameters=PARAMETERS, run=run, follow_up_hours=expansion.WITHIN_HOURS, compare=compare,
)  # fmt: skip
