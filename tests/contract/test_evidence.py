"""Thousands of arrivals with an injected clock: `counted` is never false and never withheld; what errs is amended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from contract.arrivals import Arrival, Truth, draw_arrivals

from ichor.pipeline import PipelineSpec
from ichor.series.evidence import Sender
from ichor.types import Findings, Grade, Job, Manifest, ManifestRef
from listener.study import StudyAssembly


def _never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


PIPELINE = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=_never)


def put_nowhere(manifest: Manifest) -> ManifestRef:
    return ManifestRef(
        key="k", sha256="s", series_instance_uid=manifest.series_instance_uid, instances=len(manifest.instances)
    )


@dataclass
class Outcome:
    """What became of one series: its decisions as (grade, images then here)."""

    truth: Truth
    decisions: list[tuple[Grade, frozenset[str]]] = field(default_factory=list)
    final: Grade = Grade.OPEN

    @property
    def false(self) -> list[Grade]:
        return [grade for grade, here in self.decisions if grade.complete and here != self.truth.whole]


def play(arrival: Arrival, senders: dict[str, Sender]) -> tuple[list[Outcome], list[Job]]:
    """Let one study arrive; every decision on the way and all jobs."""
    study = StudyAssembly(uid=arrival.study, pipelines=(PIPELINE,), study_wait=10.0, senders=senders)
    outcomes = {uid: Outcome(truth) for uid, truth in arrival.truths.items()}
    jobs: list[Job] = []

    def look(now: float) -> None:
        before = {uid: series.undecided for uid, series in study.series.items()}
        jobs.extend(study.look(now, put_manifest=put_nowhere).jobs)
        for uid, series in study.series.items():
            if before.get(uid) and not series.undecided:
                outcomes[uid].decisions.append((series.grade, frozenset(series.members)))

    for happening in arrival.happenings:
        while (due := study.due) is not None and due <= happening.at:
            look(due)
        study.receive(happening.instances, association=happening.association, now=happening.at)
        if happening.closed is not None:
            study.close(happening.closed)
        look(happening.at)
    for _ in range(1000):
        if (due := study.due) is None:
            break
        look(due)
    assert study.due is None, "it waits for ever"
    assert not study.open
    for uid, outcome in outcomes.items():
        outcome.final = study.series[uid].grade
        assert frozenset(study.series[uid].members) == outcome.truth.sent
    return list(outcomes.values()), jobs


def check(count: int, seed: int) -> None:
    senders: dict[str, Sender] = {}
    given: Counter[Grade] = Counter()
    false: Counter[Grade] = Counter()
    late = short = 0
    for arrival in draw_arrivals(seed, count):
        outcomes, jobs = play(arrival, senders)
        revisions = [job.revision for job in jobs]
        assert revisions == sorted(set(revisions))
        for outcome in outcomes:
            truth = outcome.truth
            given.update(grade for grade, _ in outcome.decisions)
            false.update(outcome.false)
            arrived = truth.sent == truth.whole
            assert Grade.COUNTED not in outcome.false, (truth.uid, truth.habit.ae)
            if truth.habit.count == "right" and arrived:
                assert outcome.final is Grade.COUNTED, (truth.uid, truth.habit.ae, outcome.decisions)
            if truth.habit.count == "right" and not arrived:
                assert outcome.final is Grade.SHORT
            if truth.habit.count == "none" and truth.gap:
                short += outcome.final is Grade.SHORT
            if outcome.false and arrived:
                # A complete that was none is put right by what came late: the last decision is about all of it.
                late += 1
                assert outcome.decisions[-1][1] == truth.whole
        for role in jobs[-1].inputs.values() if jobs else ():
            # The last job is about all that came.
            assert role.instances == len(arrival.truths[role.series_instance_uid].sent)
    print(f"\n{count} series, seed {seed}:")
    for grade in (Grade.COUNTED, Grade.REGULAR, Grade.QUIET, Grade.SHORT):
        wrong = f", {false[grade]} false ({100 * false[grade] / max(1, given[grade]):.2f} %)" if grade.complete else ""
        print(f"  {grade.value}: {given[grade]} decisions{wrong}")
    print(f"  {late} false completes amended by their late slices")


def test_a_tenth_of_the_arrivals() -> None:
    check(1_000, seed=3)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_thousand_arrivals(seed: int) -> None:
    check(10_000, seed=seed)
