"""Thousands of simulated corrections of one study's identity: what would be delivered, and how often a network would run.

No pixels, no network, no bus: the assembler's decisions with a worker and a sender that only keep time. The identity
that is sent last is right.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from contract.arrivals import make_slice

from ichor.identity import identity_of_sources, person_of
from ichor.messages import AssociationClosed
from ichor.pipeline import PipelineSpec
from ichor.series.evidence import LONGEST_QUIET, Sender
from ichor.types import Findings, Instance, Job, Manifest, ManifestRef
from ichor.uids import content_digest
from listener.study import StudyAssembly
from listener.view import identities_of

STUDY = "1.2.3"
CASES, SOAK_CASES = 1_500, 20_000
TURNS = ("a1 b1", "a1 b1", "a1 b1", "a1 a2", "a1 b1 c1", "a1 b1 a1", "a1 a2 a1", "a1 a2 b2")


def _never(*_: object) -> Findings:
    raise AssertionError("nothing runs here")


PIPELINE = PipelineSpec(name="haematoma", version="1", requires=("ncct_head",), run=_never)


@dataclass(frozen=True)
class Send:
    """At ``at``: images of one association, or its end."""

    at: float
    association: str
    instances: tuple[Instance, ...] = ()
    released: bool | None = None


@dataclass(frozen=True)
class Result:
    job: Job
    identity: str
    named: frozenset[str]  # by all headers


@dataclass(frozen=True)
class Sent:
    """What went out, what all headers of its series said at that moment, and what none of them may say any more."""

    result: Result
    headers: frozenset[str]
    outdated: frozenset[str]


@dataclass
class Site:
    """One study's assembler, a worker that needs time and runs a network once per content, a sender that looks first."""

    seconds: float  # a run of the network
    now: float = 0.0
    study: StudyAssembly = field(init=False)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    queue: list[Job] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    busy: tuple[float, Job] | None = None
    known: set[str] = field(default_factory=set)  # contents that have findings
    runs: int = 0
    sent: list[Sent] = field(default_factory=list)
    held: list[Result] = field(default_factory=list)
    said: dict[str, Instance] = field(default_factory=dict)  # SOP Instance UID -> its newest header
    outdated: dict[str, set[str]] = field(default_factory=dict)  # Series Instance UID -> what its headers said once

    def __post_init__(self) -> None:
        senders: dict[str, Sender] = {}
        self.study = StudyAssembly(uid=STUDY, pipelines=(PIPELINE,), study_wait=10.0, senders=senders)

    def play(self, sends: list[Send]) -> None:
        for send in sends:
            self.pass_time(send.at)
            if send.released is None:
                self.study.receive(send.instances, association=send.association, now=self.now)
                self.note(send.instances)
            else:
                counts: dict[str, int] = {}
                for instance in send.instances:
                    counts[instance.series_instance_uid] = counts.get(instance.series_instance_uid, 0) + 1
                self.study.close(
                    AssociationClosed(
                        study_instance_uid=STUDY, association=send.association, released=send.released,
                        calling_ae="CT1", counts=counts, closed_at=self.now,
                    )
                )  # fmt: skip
            self.look()
        self.pass_time(self.now + 20 * LONGEST_QUIET)

    def note(self, instances: Sequence[Instance]) -> None:
        for instance in instances:
            before = self.said.get(instance.sop_instance_uid, instance)
            if before.received_at <= instance.received_at:
                self.said[instance.sop_instance_uid] = instance
                for series in (before.series_instance_uid, instance.series_instance_uid):
                    self.outdated.setdefault(series, set()).add(before.identity_sha256)
                    self.outdated[series].discard(instance.identity_sha256)

    def pass_time(self, until: float) -> None:
        while True:
            due = self.study.due
            ends = self.busy[0] if self.busy else None
            first = min((t for t in (due, ends) if t is not None), default=None)
            if first is None or first > until:
                break
            self.now = max(self.now, first)
            if ends is not None and ends <= self.now:
                self.finish()
            else:
                self.look()
        self.now = max(self.now, until)

    def look(self) -> None:
        if not self.study.series:
            return
        step = self.study.look(self.now, put_manifest=self.put)
        self.jobs += step.jobs
        self.queue += step.jobs
        self.work()

    def put(self, manifest: Manifest) -> ManifestRef:
        key = str(len(self.manifests))
        self.manifests[key] = manifest
        return ManifestRef(
            key=key, sha256=key, series_instance_uid=manifest.series_instance_uid, instances=len(manifest.instances)
        )

    def work(self) -> None:
        while self.busy is None and self.queue:
            job = self.queue.pop(0)
            if any(other.revision > job.revision for other in self.jobs):
                continue  # superseded
            fresh = job.refusal is None and self.content(job) not in self.known
            self.runs += fresh
            self.busy = self.now + (self.seconds if fresh else 0.05), job

    def finish(self) -> None:
        assert self.busy is not None
        _, job = self.busy
        self.busy = None
        if job.refusal is None:
            self.known.add(self.content(job))
        instances = self.instances(job)
        named = [instance.identity_sha256 for instance in instances]
        result = Result(job, identity_of_sources(named), frozenset(named))
        if result.identity in identities_of(self.study)[job.job_id]:
            used = {instance.series_instance_uid for instance in instances}
            headers = frozenset(i.identity_sha256 for uid in used for i in self.study.series[uid].instances)
            outdated = frozenset(identity for uid in used for identity in self.outdated.get(uid, ()))
            self.sent.append(Sent(result, headers, outdated))
        else:
            self.held.append(result)
        self.work()

    def content(self, job: Job) -> str:
        return content_digest(self.instances(job))

    def instances(self, job: Job) -> tuple[Instance, ...]:
        refs = (*job.inputs.values(), *job.sources)
        return tuple(instance for ref in refs for instance in self.manifests[ref.key].instances)


def draw(seed: int) -> tuple[Site, list[Send], str]:
    """A site, what is sent to it, and the identity that is right in the end."""
    rng = random.Random(seed)
    count = rng.randint(5, 30)
    says = rng.random() < 0.5
    # Another person, another description of the same one, two corrections, one that is taken back.
    identities = [letter * 32 + rest for letter, rest in rng.choice(TURNS).split()]
    moved = rng.random() < 0.15  # the correction comes under another Series UID
    site = Site(seconds=rng.choice([0.5, 3.0, 20.0]))
    sends: list[Send] = []
    at = 1000.0
    for turn, identity in enumerate(identities):
        series = f"{STUDY}.{turn + 1}" if moved else f"{STUDY}.1"
        slices = [
            make_slice(study=STUDY, number=n + 1, count=count if says else None, identity=identity)
            for n in range(count)
        ]  # fmt: skip
        slices = [replace(s, series_instance_uid=series, file_sha256=f"{turn} {s.file_sha256}") for s in slices]
        last = turn == len(identities) - 1
        if not last and rng.random() < 0.3:
            slices = slices[: rng.randint(1, count)]  # not all of it was sent before the next correction
        for _ in range(rng.randrange(3)):
            rng.choice([list.reverse, rng.shuffle])(slices)
        sends += _send(rng, slices, at, f"turn {turn} ")
        # Before, during or after the analysis.
        at = rng.choice([at, sends[-1].at]) + rng.choice([0.0, 0.05, 2.0, 25.0, 90.0])
    sends.sort(key=lambda send: send.at)
    return site, _in_order(sends), identities[-1]


def _send(rng: random.Random, slices: list[Instance], at: float, name: str) -> Iterator[Send]:
    """Over one association or many, with pauses, sometimes one longer than any quiet time, sometimes delivered twice."""
    parts = rng.choice([1, 1, 2, 3, len(slices)])
    stop = rng.randrange(len(slices)) if rng.random() < 0.4 else None
    pause = rng.choice([0.01, 0.1, 2.0])
    per = -(-len(slices) // parts)
    for part, start in enumerate(range(0, len(slices), per)):
        association = f"{name}{part}"
        of_it = slices[start : start + per]
        brought: list[Instance] = []
        for number, instance in enumerate(of_it, start=start):
            at += rng.expovariate(1 / pause) + (60.0 if number == stop else 0.0)
            brought.append(replace(instance, association=association, received_at=at))
            yield Send(at + (40.0 if rng.random() < 0.02 else 0.0), association, (brought[-1],))
            if rng.random() < 0.1:
                yield Send(at + rng.choice([0.001, 5.0]), association, (rng.choice(brought),))
        at += 0.01
        yield Send(at + 10.0, association, tuple(brought), released=rng.random() > 0.1)
        at += rng.choice([0.0, 3.0])


def _in_order(sends: list[Send]) -> list[Send]:
    """Where two turns overlap, nobody stores an older header after a newer one; its message may still come late."""
    newest: dict[str, tuple[float, float]] = {}  # SOP Instance UID -> (turn, when it was stored)
    for send in sends:
        for instance in send.instances:
            uid, stored = instance.sop_instance_uid, (float(instance.file_sha256[0]), instance.received_at)
            newest[uid] = max(newest.get(uid, stored), stored)
    return [
        replace(send, instances=tuple(i for i in send.instances if i.received_at <= newest[i.sop_instance_uid][1]))
        for send in sends
    ]


def check(seed: int) -> tuple[int, int]:
    site, sends, right = draw(seed)
    site.play(sends)
    told = f"seed {seed}"
    assert not site.study.open, told
    assert site.busy is None, told
    assert not site.queue, told
    assert site.sent, told
    # In the end it is right.
    assert site.sent[-1].result.identity == right, told
    assert site.sent[-1].result.named == {right} == site.sent[-1].headers, told
    assert site.sent[-1].result.job.revision == max(job.revision for job in site.jobs), told
    for sent in site.sent:
        # Nothing goes out that is of two persons, or under an identity that some header was corrected away from.
        for named in (sent.result.named, sent.headers):
            assert {person_of(identity) for identity in named} == {person_of(sent.result.identity)}, told
        assert sent.result.identity in sent.headers, told
        assert sent.headers.isdisjoint(sent.outdated), told
    # The same pixels are computed once.
    contents = {site.content(job) for job in site.jobs}
    assert site.runs <= len(contents), told
    whole = [s.result for s in site.sent if len(site.instances(s.result.job)) == len(site.study.home)]
    assert len({content for r in whole if (content := site.content(r.job))}) <= 1, told
    return len(site.sent), len(site.held)


def test_a_corrected_identity_is_delivered_alone_and_computed_once() -> None:
    ends = [check(seed) for seed in range(CASES)]
    # Otherwise the cases above would not have shown much.
    assert sum(sent > 1 for sent, _ in ends) > CASES // 20
    assert sum(held > 0 for _, held in ends) > CASES // 20


@pytest.mark.soak
def test_a_corrected_identity_is_delivered_alone_and_computed_once_in_many_cases() -> None:
    for seed in range(CASES, CASES + SOAK_CASES):
        check(seed)
