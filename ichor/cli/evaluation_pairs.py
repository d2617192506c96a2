"""Growth as the pipeline tells it, on phantoms scanned twice, against how they grew. Computes no figure of a set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count as counted
from itertools import islice

from engines.growth_evaluation import PairFigures
from ichor.cli.labelled import head_volume
from ichor.cli.training import say
from ichor.errors import Unreadable
from ichor.pipeline import Examined, SegmentationEngine
from ichor.types import Stage
from phantoms.ct_study import study_grid
from phantoms.follow_up import followed_up
from phantoms.head import Head, HeadModel, sample
from pipelines import haematoma
from pipelines.growth import Growth

PAIRS_FROM_SEED = 40_000
"""Beyond those of the heads that are measured by themselves; nobody trains on them either."""
LEAST_ML = 3.0
MATRIX = 256
SLICES = (33, 55)
"""First scan and follow-up: slices of 5 and of 3 mm."""
TILTS = (0.0, 12.0, -12.0)
"""Of the gantry, in turn, in the follow-up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    seed: int
    hours: float
    before: Head
    now: Head


def phantom_pairs(segmenter: SegmentationEngine, *, count: int) -> Iterator[PairFigures]:
    """Scan `count` heads with at least `LEAST_ML` of haematoma twice and have the pipeline compare the scans."""
    for pair in islice(_pairs(), count):
        figures = _compared(pair, segmenter)
        told = figures.refusal or f"told {figures.told_ml:+.1f} mL"
        say(f"pair {figures.key}: {figures.true_before_ml:.1f} mL, true growth {figures.true_ml:+.1f} mL, {told}")
        yield figures


def _pairs() -> Iterator[_Pair]:
    made = 0
    for seed in counted(PAIRS_FROM_SEED):
        first = HeadModel.draw(seed)
        if sum(one.wanted_ml for one in first.haematomas) < LEAST_ML:
            continue
        try:
            later, hours = followed_up(first, seed=1)
        except ValueError:
            continue  # no room to grow: another head
        before, now = (
            sample(model, study_grid(model, slices=slices, tilt=tilt, gaps="even", matrix=MATRIX))
            for model, slices, tilt in zip((first, later), SLICES, (0.0, TILTS[made % len(TILTS)]), strict=True)
        )
        made += 1
        yield _Pair(seed=seed, hours=hours, before=before, now=now)


def _compared(pair: _Pair, segmenter: SegmentationEngine) -> PairFigures:
    true = Growth(before=_true_ml(pair.before), now=_true_ml(pair.now))
    told: dict[str, float] = {}
    refusal: str | None
    try:
        then, now = (_examined(one, segmenter) for one in (pair.before, pair.now))
    except Unreadable as error:
        refusal = error.reason
    else:
        findings = haematoma.compare(now, then, hours=pair.hours).findings
        told = {m.name: m.value for m in findings.measurements}
        refusal = findings.algorithm.parameters.get("not_compared")
    growth = told.get("haematoma_growth")
    measured = (
        None if growth is None else Growth(before=told["haematoma_volume"] - growth, now=told["haematoma_volume"])
    )
    return PairFigures(
        key=str(pair.seed),
        patient=str(pair.seed),
        hours=pair.hours,
        true_before_ml=true.before,
        true_now_ml=true.now,
        told_ml=growth,
        expands=true.expansion,
        told_expands=None if measured is None else measured.expansion,
        refusal=refusal,
    )


def _examined(head: Head, segmenter: SegmentationEngine) -> Examined:
    volume = head_volume(head)
    findings = haematoma.PIPELINE.run({haematoma.ROLE: volume}, {haematoma.MODEL: segmenter}, _untimed)
    return Examined(findings=findings, volume=volume)


def _true_ml(head: Head) -> float:
    return sum(lesion.volume_ml for lesion in head.lesions)


def _untimed(stage: Stage) -> AbstractContextManager[None]:  # noqa: ARG001 - the name is part of Timing
    return nullcontext()
