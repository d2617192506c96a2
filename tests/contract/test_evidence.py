"""Thousands of arrivals with an injected clock: `counted` is never false and never withheld; what errs is amended.

The same arrivals are played with what is learned of each sender switched off beside: learning must at least halve
what errs.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from contract.series_kinds import Place
from contract.traffic import Arrival, Truth, draw_arrivals

from ichor.pipeline import PipelineSpec
from ichor.series.evidence import Sender
from ichor.series.grid import Grid
from ichor.types import Evidence, Findings, Grade, Job, Manifest, ManifestRef
from listener.study import StudyAssembly

SURE = (Grade.COUNTED, Grade.REGULAR)
SOON = 0.05  # seconds


def _never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


PIPELINE = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=_never)


def put_nowhere(manifest: Manifest) -> ManifestRef:
    return ManifestRef(
        key="k", sha256="s", series_instance_uid=manifest.series_instance_uid, instances=len(manifest.instances)
    )


@dataclass
class Outcome:
    """What became of one series: its decisions as (grade, images then here), and what was said in the end."""

    truth: Truth
    decisions: list[tuple[Grade, frozenset[str]]] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)  # seconds from the last image to each decision that starts work
    graded: float = 0.0  # seconds from the last image to the last grade
    final: Grade = Grade.OPEN
    reason: str = ""
    evidence: tuple[Evidence, ...] = ()
    named: frozenset[Place] = frozenset()
    waited: str = ""  # what the decision waited for

    @property
    def false(self) -> list[Grade]:
        return [grade for grade, here in self.decisions if grade.complete and here != self.truth.whole]


def play(
    arrival: Arrival, senders: MutableMapping[str, Sender], *, learns: bool = True
) -> tuple[list[Outcome], list[Job]]:
    """Let one study arrive; every decision on the way and all jobs."""
    study = StudyAssembly(uid=arrival.study, pipelines=(PIPELINE,), study_wait=10.0, senders=senders, learns=learns)
    outcomes = {uid: Outcome(truth) for uid, truth in arrival.truths.items()}
    jobs: list[Job] = []

    def look(now: float) -> None:
        before = {uid: (series.undecided, series.grade) for uid, series in study.series.items()}
        jobs.extend(study.look(now, put_manifest=put_nowhere).jobs)
        for uid, series in study.series.items():
            if not series.undecided and before.get(uid) != (False, series.grade):
                outcomes[uid].decisions.append((series.grade, frozenset(series.members)))
                if before[uid][0]:
                    outcomes[uid].delays.append(now - series.last_at)
                outcomes[uid].graded = now - series.last_at
            elif series.undecided:
                outcomes[uid].waited = series.decision.reason or ""

    for happening in arrival.happenings:
        while (due := study.due) is not None and due <= happening.at:
            look(due)
        study.receive(happening.instances, association=happening.association, now=happening.at)
        if happening.closed is not None:
            study.close(happening.closed)
        if happening.announced is not None:
            study.announce(happening.announced)
        look(happening.at)
    for _ in range(1000):
        if (due := study.due) is None:
            break
        look(due)
    assert study.due is None, "it waits for ever"
    assert not study.open
    for uid, outcome in outcomes.items():
        series = study.series[uid]
        assert frozenset(series.members) == outcome.truth.sent
        outcome.final, outcome.reason = series.grade, series.decision.reason or ""
        outcome.evidence = series.decision.evidence
        if series.grade is Grade.SHORT:
            outcome.named = named(series.grid)
    return list(outcomes.values()), jobs


def named(grid: Grid) -> frozenset[Place]:
    """Slots that are named as missing: place, and volume in order of the array."""
    sizes = [axis.size for axis in grid.axes]
    return frozenset(
        (slot.position, int(np.ravel_multi_index(slot.indices, sizes)) if sizes else slot.stack)
        for slot in grid.missing
    )


def alike(a: frozenset[Place], b: frozenset[Place]) -> bool:
    """The same slots; places that fill a gap are told to a tenth of a millimetre."""
    pairs = zip(sorted(a, key=lambda p: (p[1], p[0])), sorted(b, key=lambda p: (p[1], p[0])), strict=True)
    return len(a) == len(b) and all(v == w and abs(y - z) <= 0.1 for (y, v), (z, w) in pairs)


def judge(outcome: Outcome) -> None:
    """What must hold of every series, whatever was known of its sender."""
    truth = outcome.truth
    said = [(grade, len(here)) for grade, here in outcome.decisions]
    told = truth.uid, truth.habit.ae, truth.kind, len(truth.whole), said, outcome.reason, outcome.evidence
    assert Grade.COUNTED not in outcome.false, told
    if truth.counted and truth.arrives:
        assert outcome.final is Grade.COUNTED, told
    if truth.counted and not truth.arrives:
        assert outcome.final is Grade.SHORT, told
    holes = truth.holes()
    if truth.habit.count in ("none", "one") and truth.seen and holes:
        assert outcome.final is Grade.SHORT, told
    if outcome.final is Grade.SHORT and not truth.arrives:
        if truth.seen:
            assert alike(outcome.named, holes), (told, sorted(outcome.named), sorted(holes))
        if outcome.named:
            assert "missing" in outcome.reason, told
            assert any(e.what == "missing" for e in outcome.evidence), told
    if outcome.false and truth.arrives:
        # A complete that was none is put right by what came late: the last decision is about all of it.
        assert outcome.decisions[-1][1] == truth.whole


@dataclass
class Sums:
    given: Counter[Grade] = field(default_factory=Counter)
    false: Counter[Grade] = field(default_factory=Counter)
    delays: dict[Grade, list[float]] = field(default_factory=dict)
    graded: dict[Grade, list[float]] = field(default_factory=dict)
    of_sender: dict[str, dict[Grade, list[float]]] = field(default_factory=dict)
    waited: dict[str, Counter[str]] = field(default_factory=dict)  # why the slow ones of a sender were slow
    lacking: int = 0
    short: int = 0
    named: int = 0

    def add(self, outcome: Outcome) -> None:
        self.given.update(grade for grade, _ in outcome.decisions)
        self.false.update(outcome.false)
        ae = outcome.truth.habit.ae
        if outcome.delays:
            self.delays.setdefault(outcome.final, []).append(outcome.delays[-1])
            self.graded.setdefault(outcome.final, []).append(outcome.graded)
            self.of_sender.setdefault(ae, {}).setdefault(outcome.final, []).append(outcome.delays[-1])
            if outcome.final in SURE and outcome.delays[-1] > SOON:
                self.waited.setdefault(ae, Counter())[outcome.waited] += 1
        self.lacking += not outcome.truth.arrives
        self.short += outcome.final is Grade.SHORT
        self.named += outcome.final is Grade.SHORT and bool(outcome.named)

    def rate(self, grade: Grade) -> float:
        return self.false[grade] / max(1, self.given[grade])

    def lines(self) -> Iterator[str]:
        for grade in (Grade.COUNTED, Grade.REGULAR, Grade.QUIET, Grade.SHORT):
            wrong = f", {self.false[grade]} false ({100 * self.rate(grade):.2f} %)" if grade.complete else ""
            work, said = (statistics.median(d.get(grade) or [0.0]) for d in (self.delays, self.graded))
            yield (
                f"{grade.value}: {self.given[grade]} decisions{wrong}, median after the last image {work:.3f} s to the "
                f"decision, {said:.3f} s to the grade"
            )
        yield (
            f"{self.lacking} series lack images, {self.short} stay short, {self.named} of them with slots inside that "
            "are named"
        )

    def lines_of_senders(self) -> Iterator[str]:
        for ae, delays in sorted(self.of_sender.items()):
            said = [f"{g.value} {len(d)} x {statistics.median(d):.3f} s" for g, d in sorted(delays.items())]
            slow = [g for g in SURE if g in delays and statistics.median(delays[g]) > SOON]
            why = f"; slow: {'; '.join(w for w, _ in self.waited[ae].most_common(2))}" if slow else ""
            yield f"{ae}: {', '.join(said)}{why}"


def check(count: int, seed: int) -> None:
    known: dict[str, Sender] = {}
    learning, strange = Sums(), Sums()
    for arrival in draw_arrivals(seed, count):
        outcomes, jobs = play(arrival, known)
        revisions = [job.revision for job in jobs]
        assert revisions == sorted(set(revisions))
        for outcome in outcomes:
            judge(outcome)
            learning.add(outcome)
        for role in jobs[-1].inputs.values() if jobs else ():
            # The last job is about all that came.
            assert role.instances == len(arrival.truths[role.series_instance_uid].sent)
        for outcome in play(arrival, {}, learns=False)[0]:
            strange.add(outcome)
    print(f"\n{count} series, seed {seed}:")
    for title, sums in (("learning", learning), ("nothing learned", strange)):
        print(f"  {title}:")
        print(*(f"    {line}" for line in sums.lines()), sep="\n")
    print("  learning, per sender, medians to the decision:")
    print(*(f"    {line}" for line in learning.lines_of_senders()), sep="\n")
    for grade in (Grade.REGULAR, Grade.QUIET):
        assert learning.rate(grade) <= strange.rate(grade) / 2, grade
    for grade in SURE:
        assert statistics.median(learning.delays[grade]) <= SOON, grade


def test_a_tenth_of_the_arrivals() -> None:
    check(1_000, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_thousand_arrivals(seed: int) -> None:
    check(10_000, seed=seed)
