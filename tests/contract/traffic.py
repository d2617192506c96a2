"""Seeded arrivals of synthetic series with known truth, as messages to the assembler. No pixels, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from contract.series_kinds import KINDS, Made, Place, Where

from ichor.messages import AssociationClosed, ContentAnnounced
from ichor.types import Instance

_APART = 6  # slices between holes, or a hole and the end
_FEW = 12
# What the clocks of receivers and senders are ahead, seconds: no decision may depend on it.
_SKEWS = (0.0, 0.0, 1.5, -40.0, 3600.0, -7200.0)


@dataclass(frozen=True, kw_only=True)
class Habit:
    """How one sender behaves.

    ``count``: none, right, high, low (of two acquisitions), one (always 1), product (slices and volumes), volume (that
    of each volume), concatenation.
    """

    ae: str
    kinds: tuple[str, ...] = ("ct",)
    count: str = "none"
    splits: float = 0.0  # probability that a series comes over several associations
    pause: float = 0.02  # typical seconds between images
    order: str = "forward"  # forward, backward, random, slices (all volumes of a place, then the next)
    late: float = 0.0  # probability that some images come long after the rest
    missing: float = 0.0  # probability that some images never come
    aborts: float = 0.0
    slow: float = 0.0  # probability that the scanner computes for a while in the middle
    parallel: float = 0.0  # probability that two associations, to two receivers, share the images
    announces: bool = False  # asks to commit what it sent, in the end
    also: tuple[str, ...] = ()  # other meanings of its counts, one series in three
    turns: int | None = None  # series until an update of its software: then
    later: str = ""  # what its counts mean from then on
    later_slow: float = 0.0


HABITS = (
    Habit(ae="CT1", count="right", pause=0.01),
    Habit(ae="CT2", count="right", splits=0.1, pause=0.05, order="random", late=0.05, missing=0.15),
    Habit(ae="CT3", pause=0.01),
    Habit(ae="CT4", pause=0.2, late=0.01, missing=0.06),
    Habit(ae="CT5", splits=0.4, pause=0.05, order="random", late=0.01),
    Habit(ae="CT6", count="low", pause=0.05, late=0.02),
    Habit(ae="CT7", count="high", order="backward", late=0.02),
    Habit(ae="CT8", count="one", splits=0.05, order="random", late=0.02),
    Habit(ae="CT9", count="right", splits=0.3, pause=0.5, order="backward", late=0.1, missing=0.3, aborts=0.1),
    Habit(ae="CT10", splits=0.05, pause=0.05, late=0.01, missing=0.06, aborts=0.1),
    Habit(ae="CT11", splits=0.5, slow=0.5, pause=0.05),
    Habit(ae="CT12", count="low", slow=0.4, pause=0.05),
    Habit(ae="CT13", count="one", slow=0.4, splits=0.2),
    Habit(ae="CT14", count="right", parallel=0.5, order="random", missing=0.09),
    Habit(ae="CT15", parallel=0.3, splits=0.1, slow=0.3),
    Habit(ae="CT16", announces=True, missing=0.3),
    Habit(ae="MR1", kinds=("dwi", "echoes", "phase", "dwi_trace", "dsc"), count="right", splits=0.05),
    Habit(ae="MR2", kinds=("dwi", "echoes", "phase", "dwi_trace"), order="random", late=0.01, missing=0.09),
    Habit(ae="MR3", kinds=("dwi",), count="one", order="slices", splits=0.1, missing=0.15),
    Habit(ae="MR4", kinds=("dsc",), count="product", order="slices", splits=0.1, missing=0.15),
    Habit(ae="MR5", kinds=("dsc", "dsc_echoes"), count="product", splits=0.05, aborts=0.05),
    Habit(ae="MR6", kinds=("dsc",), count="volume", slow=0.3, late=0.01, parallel=0.2),
    Habit(ae="MR7", kinds=("mosaic", "echoes", "phase"), pause=0.1, splits=0.1, slow=0.2),
    Habit(ae="MR8", kinds=("mosaic",), count="right", parallel=0.3, order="random", missing=0.15),
    Habit(ae="MR9", kinds=("stacks",), count="right", splits=0.05, missing=0.15),
    Habit(ae="MR10", kinds=("dwi", "dsc"), splits=0.3, announces=True, missing=0.15, order="random"),
    Habit(ae="XA1", kinds=("enhanced_several", "enhanced", "enhanced_one"), pause=0.3, splits=0.05, late=0.01),
    Habit(ae="XA2", kinds=("enhanced", "enhanced_one"), pause=0.3),
    Habit(ae="XA3", kinds=("enhanced_several",), count="concatenation", pause=0.2, splits=0.1, missing=0.3),
    Habit(ae="XA4", kinds=("enhanced_several",), pause=0.2, aborts=0.05, slow=0.2),
    Habit(ae="MIX1", count="right", also=("low",), pause=0.01, slow=0.1),
    Habit(ae="MIX2", count="right", pause=0.01, slow=0.3, turns=20, later="low", later_slow=1.0, missing=0.05),
    Habit(ae="MIX3", kinds=("dwi", "dsc", "echoes", "phase", "stacks", "mosaic"), count="right", slow=0.2, missing=0.1),
    Habit(ae="MIX4", kinds=("enhanced_several", "enhanced", "enhanced_one"), pause=0.3, slow=0.2),
    Habit(ae="MIX5", count="right", also=("none", "one"), splits=0.1, late=0.02, missing=0.1),
    Habit(ae="MIX6", kinds=("dsc", "dsc_echoes"), count="product", also=("none", "right"), slow=0.2),
    Habit(ae="MIX7", kinds=("ct", "dwi", "enhanced"), also=("right",), count="one", splits=0.05, slow=0.1, missing=0.1),
    Habit(ae="MIX8", count="low", turns=40, later="right", slow=0.3, later_slow=0.3, missing=0.05),
    Habit(ae="MIX9", kinds=("ct", "stacks"), count="right", order="random", parallel=0.2, missing=0.1),
)


@dataclass
class Truth:
    """What a series really is. ``sent`` will arrive sooner or later, ``never`` will not."""

    uid: str
    habit: Habit
    kind: str
    made: Made
    whole: frozenset[str]
    sent: frozenset[str] = frozenset()

    @property
    def arrives(self) -> bool:
        return self.sent == self.whole

    @property
    def counted(self) -> bool:
        """A right count is stated, whatever the sender's other series state."""
        return self.made.right

    @property
    def seen(self) -> bool:
        """Its holes are such that they can be seen: in one volume, each alone among slices evenly apart."""
        if self.kind not in ("ct", "stacks"):
            return True
        for v in {v for _, v in self.made.places.values()}:
            zs = sorted(z for z, w in self.made.places.values() if w == v)
            kept = {z for uid, (z, w) in self.made.places.items() if w == v and uid in self.sent}
            lost = [-_APART, *(k for k, z in enumerate(zs) if z not in kept), len(zs) - 1 + _APART]
            if len(kept) < _FEW or any(b - a < _APART for a, b in pairwise(lost)):
                return False
        return self.made.even

    def holes(self) -> frozenset[Place]:
        """Slots of what never comes, inside of what does: those at the ends are nobody's to know."""
        here = {place for uid, place in self.made.places.items() if uid in self.sent}
        lost = {place for uid, place in self.made.places.items() if uid not in self.sent}
        zs = {z for z, _ in here}
        ends = {v: (min(z for z, w in here if w == v), max(z for z, w in here if w == v)) for v in {v for _, v in here}}
        return frozenset((z, v) for z, v in lost if v in ends and (z in zs or ends[v][0] < z < ends[v][1]))


@dataclass(frozen=True)
class Happening:
    """At ``at``: instances of one association, or its end, or a request to commit."""

    at: float
    association: str
    instances: tuple[Instance, ...] = ()
    closed: AssociationClosed | None = None
    announced: ContentAnnounced | None = None


@dataclass
class Arrival:
    """One study's arrival: happenings in order of time, and the truth about its series."""

    study: str
    truths: dict[str, Truth] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)


def draw_arrivals(seed: int, count: int, *, start: float = 1_700_000_000.0) -> Iterator[Arrival]:
    """``count`` series over as many studies as that takes, one study after the other."""
    rng = np.random.default_rng(seed)
    made, at, n = 0, start, 0
    sent: Counter[str] = Counter()
    while made < count:
        n += 1
        series = min(int(rng.integers(1, 4)), count - made)
        habit = HABITS[int(rng.integers(len(HABITS)))]
        arrival = _draw_study(rng, f"1.2.826.0.{n}", series, at, habit=_now(habit, sent[habit.ae]))
        sent[habit.ae] += series
        made += series
        at = max(h.at for h in arrival.happenings) + 300.0
        yield arrival


def _now(habit: Habit, sent: int) -> Habit:
    """The habit after so many series."""
    turned = habit.turns is not None and sent >= habit.turns
    return replace(habit, count=habit.later, slow=habit.later_slow) if turned else habit


def _draw_study(rng: np.random.Generator, study: str, series: int, start: float, *, habit: Habit) -> Arrival:
    arrival = Arrival(study)
    # Series of a study go over the same associations, interleaved or one after the other.
    parts: list[list[Instance]] = [[]]
    late: list[Instance] = []
    for k in range(series):
        other = bool(habit.also) and rng.random() < 1 / 3
        means = replace(habit, count=str(rng.choice(habit.also))) if other else habit
        truth, images = _draw_series(rng, study, f"{study}.{k + 1}", means)
        arrival.truths[truth.uid] = truth
        if rng.random() < habit.missing and len(images) > 2:
            images = _without(images, _some(rng, images))
        truth.sent = frozenset(s.sop_instance_uid for s in images)
        if rng.random() < habit.late and len(images) > 2:
            away = _some(rng, images)
            images = _without(images, away)
            late += away
        if rng.random() < habit.splits and len(images) > 1:
            cut = int(rng.integers(1, len(images)))
            while len(parts) < 2:
                parts.append([])
            parts[0] += images[:cut]
            parts[1] += images[cut:]
        else:
            parts[0] += images
    if rng.random() < 0.3:
        for part in parts:
            rng.shuffle(part)  # series interleaved
    at = start
    for p, part in enumerate(parts):
        at += 0.0 if p == 0 else float(rng.exponential(4.0))
        if rng.random() < habit.parallel and len(part) > 3:
            ends = [_send(rng, arrival, part[i::2], habit, f"{study}-a{p}-{i}", at) for i in range(2)]
            at = max(ends)
        else:
            at = _send(rng, arrival, part, habit, f"{study}-a{p}", at)
    if late:
        at = _send(rng, arrival, late, habit, f"{study}-late", at + float(rng.uniform(15, 120)))
    if habit.announces:
        _announce(arrival, habit, at + float(rng.uniform(0.01, 1.0)))
    arrival.happenings.sort(key=lambda h: h.at)
    return arrival


def _draw_series(rng: np.random.Generator, study: str, uid: str, habit: Habit) -> tuple[Truth, list[Instance]]:
    kind = habit.kinds[int(rng.integers(len(habit.kinds)))]
    made = KINDS[kind](rng, Where(study, uid, habit.ae), habit.count)
    images = list(made.images)
    if habit.order == "backward":
        images.reverse()
    elif habit.order == "random":
        images = [images[i] for i in rng.permutation(len(images))]
    elif habit.order == "slices":
        images.sort(key=lambda i: made.places.get(i.sop_instance_uid, (1e9, 0)))
    return Truth(uid, habit, kind, made, frozenset(s.sop_instance_uid for s in images)), images


def _some(rng: np.random.Generator, images: Sequence[Instance]) -> list[Instance]:
    """A few images, at least two stay where there are more."""
    most = max(1, min(4, len(images) - 2))
    return [images[i] for i in rng.choice(len(images), size=int(rng.integers(1, most + 1)), replace=False)]


def _without(images: Sequence[Instance], away: Sequence[Instance]) -> list[Instance]:
    uids = {image.sop_instance_uid for image in away}
    return [image for image in images if image.sop_instance_uid not in uids]


def _announce(arrival: Arrival, habit: Habit, at: float) -> None:
    """The sender believes to have sent everything; what was lost nobody knows."""
    known = [uid for truth in arrival.truths.values() for uid in truth.sent]
    lost = sum(len(truth.whole - truth.sent) for truth in arrival.truths.values())
    message = ContentAnnounced(
        study_instance_uid=arrival.study, association=f"{arrival.study}-commit", calling_ae=habit.ae,
        sop_instance_uids=tuple(known), unknown=lost,
    )  # fmt: skip
    arrival.happenings.append(Happening(at, message.association, announced=message))


def _send(
    rng: np.random.Generator, arrival: Arrival, images: list[Instance], habit: Habit, name: str, at: float
) -> float:
    """Happenings of one association, perhaps aborted and taken up again; the time when it ended."""
    abort = int(rng.integers(1, len(images))) if len(images) > 2 and rng.random() < habit.aborts else len(images)
    stop = int(rng.integers(1, len(images))) if len(images) > 2 and rng.random() < habit.slow else None
    skew = float(rng.choice(_SKEWS))
    most = max(6, len(images) // 20)
    for turn, part in enumerate((images[:abort], images[abort:])):
        if not part:
            continue
        association = f"{name}{'' if turn == 0 else '-again'}"
        i = 0
        while i < len(part):
            size = int(rng.integers(1, most))
            at += float(rng.exponential(habit.pause)) * size
            if stop is not None and i >= stop:
                stop = None
                at += float(rng.uniform(8.0, 18.0))  # the scanner reconstructs
            elif rng.random() < 0.01:
                at += float(rng.exponential(2.0))
            batch = tuple(replace(s, association=association, received_at=at + skew) for s in part[i : i + size])
            arrival.happenings.append(Happening(at, association, batch))
            if rng.random() < 0.05:
                arrival.happenings.append(Happening(at + 0.001, association, batch))  # delivered twice
            i += size
        counts: dict[str, int] = {}
        for s in part:
            counts[s.series_instance_uid] = counts.get(s.series_instance_uid, 0) + 1
        at += 0.01
        released = turn == 1 or abort == len(images)
        closed = AssociationClosed(
            study_instance_uid=arrival.study, association=association, released=released, calling_ae=habit.ae,
            counts=counts, closed_at=at + skew,
        )  # fmt: skip
        arrival.happenings.append(Happening(at, association, closed=closed))
        if not released:
            at += float(rng.exponential(3.0))
    return at
