"""Growth of haematomas since an earlier CT of the same head. Registers by `registration`, finds and outlines nothing.

Expansion is growth by more than 6 mL or by more than 33 %, of all haematomas together, within 72 h
(doi:10.1038/s41746-025-02213-w). Volumes are those of each scan by itself, both by the same networks and parameters;
the registration makes sure that it is the same head, says which haematoma is which, and shows one beside the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ichor.arrays import Float32Array, Float64Array, MaskArray, Volume
from ichor.encoding import Overlay
from ichor.pipeline import Compared, Examined
from ichor.types import FindingGroup, Findings, Measurement, Statement
from pipelines.expansion import WITHIN_HOURS
from pipelines.growth import RULE, Growth, earlier_by, unsure_words
from pipelines.pair import side_by_side
from pipelines.regions import SEEN_NOT_CALLED
from pipelines.registration import Registration, register
from pipelines.sampling import index_of, sampled
from pipelines.terms import BRAIN, FINDING, GROWTH, GROWTH_PERCENT, INTRACRANIAL_HAEMORRHAGE

TRACKING_ID = "Change since the earlier CT"
LEAST_COVERED = 0.95  # of a haematoma's voxels that the other scan must show
AIR_HU = -1000.0
SAME_HAEMATOMA = 0.1  # of the smaller one's voxels that lie in the other


def compare(now: Examined, earlier: Examined, *, hours: float) -> Compared:
    """Say how the haematomas of ``earlier`` changed, ``hours`` later; or why that cannot be said.

    The findings returned are those of ``now`` with what was compared added: measurements ``haematoma_growth`` (mL) and
    ``haematoma_growth_percent`` (%; absent where there was none before), a group of statements, sentences. Without a
    haematoma in either scan, a sentence. Of one that goes on beyond this scan neither number, and never "no expansion".
    """
    growth = Growth(
        before=_volume(earlier.findings), now=_volume(now.findings),
        unsure_before=_volume(earlier.findings, SEEN_NOT_CALLED), unsure_now=_volume(now.findings, SEEN_NOT_CALLED),
    )  # fmt: skip
    this, that, when = _Side.of(now), _Side.of(earlier), earlier_by(hours)
    placed = register(now.volume, earlier.volume)
    refusal = placed.refusal or _outside(this, that, placed) or _not_measured(growth, this, that)
    if refusal is not None:
        return Compared(findings=not_compared(now.findings, when, reason=refusal))
    if not this.lesions and not that.lesions:
        return Compared(
            findings=_with(now.findings, sentences=[f"Nor was one found on the CT {when}{unsure_words(growth)}"])
        )
    statements = [
        f"expansion: {'yes' if growth.expansion else 'no'} (rule: growth by {RULE} within {WITHIN_HOURS:.0f} h)",
        f"compared with the CT {when}, {growth.seen_before:.1f} mL then{unsure_words(growth)}",
        *_each(this, that, placed, sure=not growth.unsure),
        f"rigid registration: overlap of the skulls {placed.overlap:.2f}, turned by {placed.turn_deg:.1f} degrees",
    ]
    picture = _picture(this, that, placed, captions=(f"{when}: {growth.before:.1f} mL", f"now: {growth.now:.1f} mL"))
    whole = not (now.volume.notes or earlier.volume.notes)
    sentences = _sentences(growth, when, whole=whole, cut=this.cut)
    measurements = () if this.cut else _measurements(growth)
    return Compared(
        findings=_with(now.findings, sentences=sentences, statements=statements, measurements=measurements),
        picture=picture,
    )


def _not_measured(growth: Growth, now: _Side, earlier: _Side) -> str | None:
    if earlier.cut:
        return "growth not measured, the earlier haematoma reaches the edge of its scan"
    if not growth.certain:
        return f"growth not measured{unsure_words(growth)}"
    if now.cut and not growth.expansion:
        return "growth not measured, the haematoma reaches the edge of this scan"
    return None


def not_compared(findings: Findings, which: str, *, reason: str) -> Findings:
    """The findings with a sentence that a CT (``which`` one) is not compared, and why."""
    said = f"Not comparable with the CT {which}: {reason}"
    algorithm = replace(findings.algorithm, parameters={**findings.algorithm.parameters, "not_compared": reason})
    return replace(
        findings, summary=(*findings.summary, said), algorithm=algorithm,
        not_assessed=(*findings.not_assessed, f"growth since the CT {which}"),
    )  # fmt: skip


# --- numbers --------------------------------------------------------------------------------------------------------


def _volume(findings: Findings, name: str = "haematoma_volume") -> float:
    return next((m.value for m in findings.measurements if m.name == name), 0.0)


def _measurements(growth: Growth) -> tuple[Measurement, ...]:
    method = (
        "Difference of meshes, with what was not called" if growth.unsure else "Difference of closed surface meshes"
    )
    rest = (("haematoma_growth_percent", growth.percent, "%", GROWTH_PERCENT),)
    return tuple(
        Measurement(name=name, value=value, unit=unit, code=code, method=method)
        for name, value, unit, code in (("haematoma_growth", growth.ml, "mL", GROWTH), *rest)
        if value is not None
    )


def _with(
    findings: Findings, *, sentences: Sequence[str], statements: Sequence[str] = (),
    measurements: tuple[Measurement, ...] = (),
) -> Findings:  # fmt: skip
    group = FindingGroup(
        tracking_id=TRACKING_ID, finding=INTRACRANIAL_HAEMORRHAGE, site=BRAIN, measurements=measurements,
        statements=tuple(Statement(code=FINDING, text=text) for text in statements),
    )  # fmt: skip
    first, *others = findings.summary
    return replace(
        findings,
        # Directly after the answer: that it grew is what a reader must not miss.
        summary=(first, *sentences, *others),
        groups=(*findings.groups, group) if statements else findings.groups,
        measurements=(*findings.measurements, *measurements),
    )


def _sentences(growth: Growth, when: str, *, whole: bool, cut: bool) -> list[str]:
    by = f"{growth.ml:+.1f} mL" + ("" if growth.percent is None else f" ({growth.percent:+.0f} %)")
    if cut:
        by = f"at least {growth.ml:+.1f} mL (the haematoma reaches the edge of this scan)"
    said = [
        f"{'Expansion' if growth.expansion else 'No expansion'} by the rule ({RULE}): "
        f"{by} since the CT {when}, {growth.seen_before:.1f} mL then{unsure_words(growth)}"
    ]
    if not whole:
        said.append("One of the two scans is not whole: the growth may be wrong")
    return said


# --- places ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesion:
    """One haematoma of one scan: ``points_lps`` are its voxels."""

    name: str
    mask_zyx: MaskArray
    ml: float
    points_lps: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One of the two scans."""

    volume: Volume
    lesions: list[_Lesion]
    window: tuple[float, float]

    @classmethod
    def of(cls, scan: Examined) -> _Side:
        return cls(volume=scan.volume, lesions=_lesions(scan), window=scan.findings.window)

    @property
    def cut(self) -> bool:
        """Does a haematoma go on beyond the first or last slice?"""
        return any(one.mask_zyx[0].any() or one.mask_zyx[-1].any() for one in self.lesions)


def _lesions(scan: Examined) -> list[_Lesion]:
    return [
        _Lesion(
            name=group.tracking_id,
            mask_zyx=group.segmentation.mask_zyx,
            ml=next((m.value for m in group.measurements if m.name == "haematoma_volume"), 0.0),
            points_lps=scan.volume.to_lps(np.argwhere(group.segmentation.mask_zyx)),
        )
        for group in scan.findings.groups
        if group.segmentation is not None
    ]


def _outside(now: _Side, earlier: _Side, placed: Registration) -> str | None:
    """Does either scan end where the other has a haematoma?"""
    for one, other, way, words in (
        (earlier, now, placed.inverse(), "the earlier haematoma lies partly outside this scan"),
        (now, earlier, placed, "the haematoma lies partly outside the earlier scan"),
    ):
        size = np.asarray(other.volume.array_zyx.shape)
        for lesion in one.lesions:
            index = index_of(other.volume, way.apply(lesion.points_lps))
            if float(((index > -1) & (index < size)).all(axis=1).mean()) < LEAST_COVERED:
                return words
    return None


def _each(now: _Side, earlier: _Side, placed: Registration, *, sure: bool) -> list[str]:
    """Which haematoma is which, where there are several; nothing where one is one.

    Without ``sure``, something was seen that was not called: none is said to be new or gone.
    """
    back = placed.inverse()
    meets = np.array(
        [
            [
                _share(ours, now.volume, back.apply(theirs.points_lps)) >= SAME_HAEMATOMA
                or _share(theirs, earlier.volume, placed.apply(ours.points_lps)) >= SAME_HAEMATOMA
                for theirs in earlier.lesions
            ]
            for ours in now.lesions
        ],
        dtype=bool,
    ).reshape(len(now.lesions), len(earlier.lesions))
    several = max(meets.shape) > 1
    said = []
    for ours, row in zip(now.lesions, meets, strict=True):
        before = [theirs.ml for theirs, met in zip(earlier.lesions, row, strict=True) if met]
        if not before:
            said.append(f"{ours.name} is new" if sure else f"{ours.name} was not called then")
        elif several:
            said.append(f"{ours.name}: {' + '.join(f'{ml:.1f}' for ml in before)} mL then, {ours.ml:.1f} mL now")
    gone = [theirs.ml for j, theirs in enumerate(earlier.lesions) if not meets[:, j].any()]
    return said + [f"a haematoma of {ml:.1f} mL is no longer {'seen' if sure else 'called one'}" for ml in gone]


def _share(lesion: _Lesion, volume: Volume, points_lps: Float64Array) -> float:
    """Share of the points that lie in a haematoma of ``volume``."""
    near = np.rint(index_of(volume, points_lps)).astype(np.intp)
    hit = near[((near >= 0) & (near < np.asarray(lesion.mask_zyx.shape))).all(axis=1)]
    return float(np.count_nonzero(lesion.mask_zyx[hit[:, 0], hit[:, 1], hit[:, 2]])) / len(near)


# --- picture --------------------------------------------------------------------------------------------------------


def _picture(now: _Side, earlier: _Side, placed: Registration, *, captions: tuple[str, str]) -> Overlay:
    """Both heads on the slice of this scan that holds most blood, now or, where none is left, then."""
    volume = now.volume
    if now.lesions:
        k = int(np.sum([np.count_nonzero(one.mask_zyx, axis=(1, 2)) for one in now.lesions], axis=0).argmax())
    else:
        there = np.concatenate([placed.inverse().apply(one.points_lps) for one in earlier.lesions])
        k = int(np.clip(np.rint(np.median(index_of(volume, there)[:, 0])), 0, len(volume.array_zyx) - 1))
    rows, columns = volume.array_zyx.shape[1:]
    y, x = np.mgrid[:rows, :columns]
    points = placed.apply(volume.to_lps(np.stack([np.full(x.size, k), y.ravel(), x.ravel()], axis=1)))
    through = index_of(earlier.volume, points)[:, 0]
    first, last = max(0, int(np.floor(through.min()))), max(0, int(np.ceil(through.max())))

    def seen(array_zyx: npt.NDArray[Any], outside: float) -> Float32Array:
        return sampled(earlier.volume, points, array_zyx, outside=outside).reshape(rows, columns)

    both = side_by_side(
        volume, k, [one.mask_zyx[k] for one in now.lesions],
        earlier_yx=seen(earlier.volume.array_zyx, AIR_HU),
        earlier_masks_yx=[(seen(one.mask_zyx, 0.0) >= 0.5).astype(np.uint8) for one in earlier.lesions],
        window=now.window, captions=captions,
    )  # fmt: skip
    return replace(both, beside=tuple(earlier.volume.sources[first : last + 1]))
