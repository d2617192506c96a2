"""One series as the assembler sees it grow: its images, what brought them, and what was decided. Not the decision itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ichor.identity import person_of
from ichor.reasons import Reason
from ichor.series.evidence import Announced, CountTally, Decision, Sender, SeriesView, decide
from ichor.series.grid import Grid, build_grid
from ichor.series.roles import Verdict, facts_of, judge
from ichor.series.rules import RULES, Rule
from ichor.series.senders import Lesson
from ichor.types import Grade, Instance, SeriesStatus

_ENOUGH_TO_GUESS = 8  # images whose facts tell what a growing series is meant for


@dataclass(slots=True)
class Association:
    """An association that brought images of the study. ``stored``: series -> objects, known at its end."""

    calling_ae: str
    open: bool = True
    released: bool = False
    stored: dict[str, int] = field(default_factory=dict)


class Associations(dict[str, Association]):
    """Those of one study, by name. Some senders open one for each image: nothing here may walk over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.open: set[str] = set()
        self.cut_off: set[str] = set()
        self.changed: set[str] = set()  # names to be written

    def begin(self, name: str, calling_ae: str) -> None:
        if name not in self:
            self[name] = Association(calling_ae)
            self.open.add(name)
            self.changed.add(name)

    def end(self, name: str, *, released: bool, stored: dict[str, int]) -> None:
        association = self[name]
        association.open, association.released, association.stored = False, released, stored
        self.open.discard(name)
        self.changed.add(name)
        if not released:
            self.cut_off.add(name)

    def way_of(self, series: str, brought: dict[str, int], *, images: int) -> tuple[bool, bool]:
        """(still receiving, released): by those that brought the series; released despite a cut-off one when another
        one stored all its images."""
        receiving = any(name in brought for name in self.open)
        if receiving:
            return True, False
        if not any(name in brought for name in self.cut_off):
            return False, True
        whole = (a for name, a in self.items() if a.released and (name in brought or series in a.stored))
        return False, any(a.stored.get(series, 0) >= images for a in whole)


@dataclass(slots=True)
class Member:
    """One SOP Instance: its current facts, every file that came under its UID, the associations that brought it."""

    instance: Instance
    files: set[str]
    associations: set[str]
    conflict: bool = False  # other pixels came under the same UID
    corrected: bool = False  # its header was replaced by a newer one


@dataclass(slots=True, kw_only=True)
class SeriesState:
    uid: str
    rules: Sequence[Rule] = RULES
    members: dict[str, Member] = field(default_factory=dict)
    tally: CountTally = field(default_factory=CountTally)
    brought: dict[str, int] = field(default_factory=dict)  # association -> images it was the first to bring
    last_at: float = 0.0
    longest_pause: float = 0.0
    split: bool = False
    contradicted: bool = False
    learned: set[Lesson] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)  # identities that headers were corrected away from
    undecided: bool = True
    stale: bool = True  # something happened that a decision may depend on
    decided_at: float = 0.0
    confirm_at: float | None = None  # when silence would make what was decided ``counted``
    decision: Decision = field(default_factory=lambda: Decision(grade=Grade.OPEN, evidence=()))
    verdict: Verdict | None = None
    _grid: Grid | None = None

    @property
    def grade(self) -> Grade:
        return self.decision.grade

    @property
    def instances(self) -> list[Instance]:
        return [member.instance for member in self.members.values()]

    @property
    def sender_ae(self) -> str:
        """Calling AE title of the newest image."""
        return next(reversed(self.members.values())).instance.calling_ae

    @property
    def identities(self) -> tuple[str, ...]:
        """Those that its headers name; an object whose header cannot be read names none."""
        named = {member.instance.identity_sha256 for member in self.members.values()}
        return tuple(sorted(named - {""}))

    @property
    def mixed(self) -> bool:
        """Its headers contradict each other on whose it is."""
        return contradict([self])

    @property
    def conflict(self) -> bool:
        return any(member.conflict for member in self.members.values())

    @property
    def grid(self) -> Grid:
        if self._grid is None:
            self._grid = build_grid(self.instances)
        return self._grid

    def put(self, member: Member) -> None:
        """Add an image, or replace its facts by newer ones."""
        uid = member.instance.sop_instance_uid
        before = self.members.get(uid)
        if before is not None:
            self.tally.add(before.instance, by=-1)
        self.members[uid] = member
        self.tally.add(member.instance)
        self._grid = None

    def replace_identity(self, old: str, new: str) -> None:
        """A header was corrected; one that was corrected back is right again."""
        if old and old != new:
            self.replaced.add(old)
        self.replaced.discard(new)

    def remove(self, sop_instance_uid: str) -> Member:
        member = self.members.pop(sop_instance_uid)
        self.tally.add(member.instance, by=-1)
        self._grid = None
        return member

    def due(self) -> float | None:
        return self.decision.look_at if self.undecided else self.confirm_at

    def decide(
        self, associations: Associations, sender: Sender, *, elsewhere: Callable[[], int], now: float,
        announced: Announced | None = None,
    ) -> bool:  # fmt: skip
        """Look again; True when the grade or what it is meant for changed."""
        before = self.grade, self.verdict
        self.decision = self._look(associations, sender, elsewhere=elsewhere, now=now, announced=announced)
        self.stale = False
        if self.grade is not Grade.OPEN:
            self.undecided = False
            self.decided_at = now
            self.confirm_at = self.decision.look_at
            self.judge()
        elif self.verdict is None or len(self.members) <= _ENOUGH_TO_GUESS:
            self.guess()
        return before != (self.grade, self.verdict)

    def confirm(self, associations: Associations, sender: Sender, *, now: float, announced: Announced | None) -> None:
        """A release, or what its sender asked to commit, speaks for a series that was decided without."""
        claim = self.tally.claim()
        if announced is None and (claim is None or not claim.met):
            return
        found = self._look(associations, sender, elsewhere=lambda: 0, now=now, announced=announced)
        if found.grade is Grade.COUNTED:
            self.decision = found
            return
        times = [found.look_at, self.last_at + sender.quiet if announced is not None else None]
        self.confirm_at = min((at for at in times if at is not None and at > now), default=None)

    def _look(
        self, associations: Associations, sender: Sender, *, elsewhere: Callable[[], int], now: float,
        announced: Announced | None,
    ) -> Decision:  # fmt: skip
        receiving, released = associations.way_of(self.uid, self.brought, images=len(self.members))
        view = SeriesView(
            tally=self.tally,
            grid=lambda: self.grid,
            associations=len(self.brought),
            receiving=receiving,
            released=released,
            last_at=self.last_at,
            longest_pause=self.longest_pause,
            split=self.split,
            contradicted=self.contradicted,
            elsewhere=elsewhere,
            announced=announced,
        )
        return decide(view, sender, now=now)

    def judge(self) -> None:
        """What it is, now that it is decided."""
        self.verdict = judge(facts_of(self.instances, self.grid, conflict=self.conflict), rules=self.rules)

    def guess(self) -> None:
        """What it is meant for, by its first images: enough to know whether anything should wait for it."""
        first = [m.instance for _, m in zip(range(_ENOUGH_TO_GUESS), self.members.values(), strict=False)]
        self.verdict = judge(facts_of(first, None), rules=self.rules)

    def reopen(self) -> None:
        """More came: what was decided no longer stands."""
        self.undecided = True
        self.stale = True
        self.confirm_at = None
        if self.grade is not Grade.OPEN:
            self.decision = Decision(grade=Grade.OPEN, evidence=(), reason="more images came")
            self.guess()

    def refusal(self, role: str) -> str | None:
        """Why it cannot play a role that it is meant for; None when it can, or is not meant for it."""
        if self.verdict is None or role not in self.verdict.meant or not self.members:
            return None
        if self.grade is Grade.SHORT:
            return f"{Reason.SHORT}: {self.decision.reason}"
        return self.verdict.refused.get(role)

    def status(self) -> SeriesStatus:
        verdict = self.verdict
        reason = verdict.reason if verdict else None
        if self.grade is Grade.OPEN:
            reason = self.decision.reason
        elif self.grade is Grade.SHORT:
            reason = f"{Reason.SHORT}: {self.decision.reason}"
        roles = verdict.roles if verdict and self.grade is not Grade.SHORT else ()
        return SeriesStatus(
            series_instance_uid=self.uid,
            modality=next(iter(self.members.values())).instance.modality,
            instances=len(self.members),
            grade=self.grade,
            evidence=self.decision.evidence + (verdict.evidence() if verdict and self.grade.complete else ()),
            roles=roles,
            reason=reason,
        )


def contradict(used: Sequence[SeriesState]) -> bool:
    """Headers of what is used together name two persons, or an identity that others of them were corrected away from."""
    named = {identity for series in used for identity in series.identities}
    replaced = {identity for series in used for identity in series.replaced}
    return len({person_of(identity) for identity in named}) > 1 or not replaced.isdisjoint(named)
