"""Is a series whole? A pure decision from counts, grid, associations and what its sender did before. No timer, no I/O.

Grades (docs/contract.md): ``counted`` when a count agrees with a gapless grid; ``regular`` when there is no count but every
association that brought the series was released, its grid has no gap and its sender is not known to split series;
``quiet`` when only silence speaks; ``short`` when images are known to be missing; else ``open``.

A count in a header is that of an *acquisition* ((0020,1002), PS3.3 C.7.6.1), which is mostly, not always, that of the
series: the first half of a series of two acquisitions looks like a whole one, and senders change. So no count makes a
series ``counted`` while more may well come by an association that brought it, whatever its sender did before. Meanwhile
a sender whose counts came true gets its job at once, one that is unknown after a while, as ``quiet``; the release, or a
long silence, makes it ``counted``. What speaks against a count (`_doubts`) delays that and withholds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ichor.series.counts import OF_OBJECTS, Claim, CountTally, Reading
from ichor.series.grid import Grid, missing_texts
from ichor.series.senders import DEFAULT_QUIET, KNOWN_AFTER, LONGEST_QUIET, SHORTEST_QUIET, Sender
from ichor.types import AxisName, Evidence, Grade

__all__ = [
    "DEFAULT_QUIET", "KNOWN_AFTER", "LONGEST_QUIET", "SHORTEST_QUIET", "Announced", "Claim", "CountTally",
    "Decision", "Reading", "Sender", "SeriesView", "decide",
]  # fmt: skip

SETTLE = 2.0  # seconds of silence until work starts on a count of a sender whose counts nobody has confirmed yet
GLANCE = 0.01  # seconds to see whether one more follows, at most, when its counts were confirmed
_FEW = 4  # images: too few for a count and a grid to confirm each other
_MOST_PLACES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What the sender asked to commit: ``here`` images of this series, ``absent`` objects that nobody has seen.

    An object that is not here may be of any series; ``alone`` says that the study has one only.
    """

    here: int
    absent: int
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesView:
    """What a decision looks at. ``grid`` is called only when the answer depends on it."""

    tally: CountTally
    grid: Callable[[], Grid]
    associations: int  # that brought it
    receiving: bool  # one of them is open
    released: bool  # all of them were, or one that brought every image was, and none is open
    last_at: float  # when the last new image was seen
    longest_pause: float  # between two images of this series
    split: bool  # over several released associations
    contradicted: bool = False  # its own count was the first of its sender to be proved wrong
    elsewhere: Callable[[], int] = lambda: 0  # images of the same acquisition in other series of the study
    announced: Announced | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """``look_at``: when silence alone would change the answer, or confirm it; None when only a message can."""

    grade: Grade
    evidence: tuple[Evidence, ...]
    look_at: float | None = None
    reason: str | None = None  # why it is open or short
    notes: tuple[str, ...] = field(default=())  # what a report on the series must name


def decide(view: SeriesView, sender: Sender, *, now: float) -> Decision:
    """Grade a series from what is known at ``now``."""
    claim = view.tally.claim()
    # Times are compared as sums, as `look_at` gives them: a difference of floats can fall short of them for ever.
    said = _Said(view, sender, claim)
    hollow = _hollow(view, sender, claim) if claim is not None else None
    if claim is not None and claim.met and not _void(view, sender, claim):
        doubts = _doubts(view) + ((hollow,) if hollow is not None else ())
        return _agreeing(view, sender, said, claim, doubts=doubts, now=now)
    if _lacks(view, sender, claim):
        assert claim is not None
        return _lacking(view, sender, said, claim, now=now)
    no_count = claim is None or (hollow is not None and not view.contradicted)
    if view.announced is None or not _names_all(view, view.announced) or sender.announced_wrong:
        return _by_silence(view, sender, said, no_count=no_count, now=now)
    # Some ask after each association for what it brought: at once only from one known to ask for all of a series.
    split = view.split or sender.splits > 0
    confirmed_at = view.last_at + (GLANCE if split and sender.announced_right else sender.quiet)
    if now >= confirmed_at:
        return _announced(view, sender, said, now=now)
    found = _by_silence(view, sender, said, no_count=no_count, now=now)
    soon = found.look_at is not None and confirmed_at < found.look_at
    return replace(found, look_at=confirmed_at) if soon else found


def _agreeing(
    view: SeriesView, sender: Sender, said: _Said, claim: Claim, *, doubts: tuple[Evidence, ...], now: float
) -> Decision:
    """A count agrees: is the grid gapless, and can nothing more come?"""
    grid = view.grid()
    if not grid.gapless:
        return _holed(view, sender, said, grid, now=now)
    confirmed_at = _confirmed_at(view, sender, claim, doubts=bool(doubts))
    if now >= confirmed_at:
        return Decision(grade=Grade.COUNTED, evidence=said.all(grid))
    later = confirmed_at if confirmed_at < float("inf") else None
    if view.released:
        found = _by_silence(view, sender, said, no_count=True, now=now)
        look_at = min((at for at in (found.look_at, later) if at is not None), default=None)
        return replace(found, evidence=(*found.evidence, *doubts), look_at=look_at)
    believed_at = min(_believed_at(view, sender, claim, doubts=bool(doubts)), view.last_at + sender.quiet)
    evidence = said.all(grid, *doubts)
    if now < believed_at:
        return Decision(grade=Grade.OPEN, evidence=evidence, look_at=believed_at, reason="the count is not confirmed")
    awaited = Evidence(what="sender", detail="the count agrees, and more may come until its association is released")
    return Decision(grade=Grade.QUIET, evidence=(*evidence, awaited, said.quiet(now)), look_at=later)


def _holed(view: SeriesView, sender: Sender, said: _Said, grid: Grid, *, now: float) -> Decision:
    """By the count nothing is missing, and the grid says otherwise."""
    quiet_at = view.last_at + sender.quiet
    if now < quiet_at:
        return Decision(grade=Grade.OPEN, evidence=said.all(grid), look_at=quiet_at, reason="count and grid disagree")
    if (grid.cells < 0).any():
        reason = _places(grid).removeprefix(", ")
        return Decision(
            grade=Grade.SHORT, evidence=said.all(grid, said.quiet(now)), reason=reason, notes=_gap_notes(grid)
        )  # fmt: skip
    # The scanner left the hole, or put two images at one place.
    return Decision(grade=Grade.QUIET, evidence=said.all(grid, said.quiet(now), hole="gap"), notes=_gap_notes(grid))


def _announced(view: SeriesView, sender: Sender, said: _Said, *, now: float) -> Decision:
    """The sender asked to commit all that is here, and nothing followed."""
    grid = view.grid()
    if grid.gapless:
        return Decision(grade=Grade.COUNTED, evidence=said.all(grid))
    return _holed(view, sender, said, grid, now=now)


def _confirmed_at(view: SeriesView, sender: Sender, claim: Claim, *, doubts: bool) -> float:
    """When a count that agrees is that of the series, if nothing comes; minus infinity: now."""
    if view.receiving:
        # Some hold an association for hours: a count beside which nothing speaks is that of the series after a silence
        # that no series of this sender had.
        of_series = not doubts and claim.reading not in OF_OBJECTS and claim.reading is not Reading.PRODUCT
        return view.last_at + max(sender.quiet, DEFAULT_QUIET) if of_series else float("inf")
    late = view.last_at + LONGEST_QUIET
    alone = claim.reading not in OF_OBJECTS and view.tally.images == 1
    if not view.released or alone:
        # Cut off; or a count of 1, which some write whatever there is.
        return late
    splits = view.split or sender.splits > 0
    return late if splits and (doubts or claim.reading is Reading.OBJECT) else float("-inf")


def _believed_at(view: SeriesView, sender: Sender, claim: Claim, *, doubts: bool) -> float:
    """When work may start on a count that agrees while the association is open."""
    slow = view.last_at + max(SETTLE, 4 * view.longest_pause)
    if claim.reading in OF_OBJECTS:
        return slow if sender.lone_objects and not (doubts or sender.splits) else float("inf")
    if doubts:
        return float("inf")
    if claim.reading is Reading.PRODUCT or not sender.trusts_counts:
        return slow
    return view.last_at + min(GLANCE, 1.5 * view.longest_pause)


def _lacks(view: SeriesView, sender: Sender, claim: Claim | None) -> bool:
    """A count that means something says more than there is."""
    if claim is None or claim.expected is None or claim.here >= claim.expected:
        return False
    if claim.reading is Reading.PRODUCT:
        return not sender.doubts_products
    if claim.reading in OF_OBJECTS:
        return not sender.doubts_counts
    return not sender.doubts_counts and claim.here + view.elsewhere() != claim.expected


def _lacking(view: SeriesView, sender: Sender, said: _Said, claim: Claim, *, now: float) -> Decision:
    # While it is being sent, a hurry would only make a short series of a slow one.
    patience = max(sender.quiet, DEFAULT_QUIET) if view.receiving else sender.quiet
    reason = f"{claim.here} of {claim.expected} images"
    if now < view.last_at + patience:
        return Decision(
            grade=Grade.OPEN, evidence=said.all(None), look_at=view.last_at + patience, reason=reason
        )  # fmt: skip
    grid = view.grid()
    return Decision(
        grade=Grade.SHORT, evidence=said.all(grid, said.quiet(now)), reason=reason + claim.wanting + _places(grid),
        notes=_gap_notes(grid),
    )  # fmt: skip


def _by_silence(view: SeriesView, sender: Sender, said: _Said, *, no_count: bool, now: float) -> Decision:
    """No count that means anything: the way it came, the grid and silence have to do."""
    quiet_at = view.last_at + sender.quiet
    quiet = now >= quiet_at
    absent = view.announced.absent if view.announced is not None else 0
    trusted_way = view.released and not view.split and not sender.splits_series and no_count and not absent
    if not trusted_way and not quiet:
        reason = (
            "its association is open"
            if view.receiving
            else f"waits {sender.quiet:.0f} s of silence, this sender's quiet time"
        )
        return Decision(grade=Grade.OPEN, evidence=said.all(None), look_at=quiet_at, reason=reason)
    grid = view.grid()
    if trusted_way and (not grid.exists or grid.gapless):
        word = "never split one" if not sender.splits else f"split none of its last {sender.unsplit} series"
        return Decision(grade=Grade.REGULAR, evidence=said.all(grid, Evidence(what="sender", detail=word)))
    if not quiet:
        return Decision(
            grade=Grade.OPEN, evidence=said.all(grid), look_at=quiet_at, reason="the grid is not regular"
        )  # fmt: skip
    evidence = said.all(grid, said.quiet(now))
    lack = None
    if grid.gaps or grid.missing:
        lack = f"a gap{_places(grid)}" if grid.gaps else _places(grid).removeprefix(", ")
    elif absent and view.announced is not None and view.announced.alone:
        lack = f"{absent} of the objects that the sender announced are not here{_places(grid)}"
    if lack is not None:
        return Decision(grade=Grade.SHORT, evidence=evidence, reason=lack, notes=_gap_notes(grid))
    notes = (f"{absent} objects that the sender announced are not here",) if absent else ()
    return Decision(grade=Grade.QUIET, evidence=evidence, notes=notes)


def _names_all(view: SeriesView, announced: Announced) -> bool:
    return announced.absent == 0 and announced.here == view.tally.images


def _void(view: SeriesView, sender: Sender, claim: Claim) -> bool:
    """What agrees is no count of the series at all."""
    if claim.reading is Reading.VOLUME:
        return bool(not sender.lone_objects or sender.several_objects or view.split or sender.splits)
    if claim.reading is Reading.OBJECT:
        return sender.several_sets > 0
    return claim.reading not in OF_OBJECTS and sender.ones > 0 and view.tally.images == 1


def _hollow(view: SeriesView, sender: Sender, claim: Claim) -> Evidence | None:
    """Why a count of this sender may say nothing about a series, even when it agrees."""
    doubt = None
    if claim.reading is Reading.PRODUCT:
        if sender.doubts_products:
            doubt = "slices times volumes was not the number of images of this sender before"
        elif claim.expected is not None and claim.here > claim.expected:
            doubt = "there are more images than slices times volumes"
    elif claim.reading in OF_OBJECTS:
        if sender.several_objects and claim.reading is not Reading.CONCATENATION:
            doubt = "this sender's series have several objects"
        elif claim.reading is Reading.VOLUME and (not sender.lone_objects or view.split or sender.splits):
            doubt = "a count is of one object, the series may have more"
    elif sender.doubts_counts:
        doubt = "this sender's counts were contradicted before"
    elif sender.ones and view.tally.images == 1:
        doubt = "this sender says 1 whatever there is"
    elif sender.parts and claim.reading is Reading.SERIES:
        doubt = "this sender counts the images of each acquisition"
    elif sender.several and len(view.tally.acquisitions) == 1:
        doubt = "a count is of one acquisition, this sender's series have several"
    return Evidence(what="doubt", detail=doubt) if doubt else None


def _doubts(view: SeriesView) -> tuple[Evidence, ...]:
    """What speaks against believing a count that agrees, before all has been sent."""
    found = []
    if len(view.tally.acquisitions) > 1:
        found.append("the series has several acquisitions")
    if view.tally.planes < _FEW:
        found.append("too few images for a grid")
    if view.tally.numbers_speak_of_more:
        found.append("instance numbers speak of more images")
    return tuple(Evidence(what="doubt", detail=text) for text in found)


def _places(grid: Grid) -> str:
    """What is missing, bounded."""
    if not grid.missing:
        return ", none missing inside the grid" if grid.exists else ""
    if grid.axes:
        return f", missing {'; '.join(missing_texts(grid))}"
    places = [slot.position for slot in grid.missing]
    listed = ", ".join(f"{place:.1f}" for place in places[:_MOST_PLACES])
    return f", missing at {listed} mm along the normal" + (" and more" if len(places) > _MOST_PLACES else "")


def _gap_notes(grid: Grid) -> tuple[str, ...]:
    gaps = tuple(
        f"gap of {gap.after - gap.before:.1f} mm between the slices at {gap.before:.1f} and {gap.after:.1f} mm"
        for gap in grid.gaps
    )
    return gaps + (tuple(f"missing: {text}" for text in missing_texts(grid)) if grid.axes else ())


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


class _Said:
    """Puts what was looked at into words."""

    def __init__(self, view: SeriesView, sender: Sender, claim: Claim | None) -> None:
        self._view, self._sender, self._claim = view, sender, claim

    def all(self, grid: Grid | None, *more: Evidence, hole: str = "missing") -> tuple[Evidence, ...]:
        parts = [self._count(), self._association()]
        if self._view.announced is not None:
            parts.append(self._announced(self._view.announced))
        if grid is not None:
            parts.append(self._grid(grid))
            parts += [Evidence(what="array", detail=note) for note in grid.notes]
            if grid.missing:
                parts.append(Evidence(what=hole, detail=_places(grid).removeprefix(", missing ")))
        return (*parts, *more)

    def quiet(self, now: float) -> Evidence:
        silence = max(now - self._view.last_at, 0.0)  # images may be younger than what is heard so far
        return Evidence(what="quiet", detail=f"nothing for {silence:.1f} s, this sender's quiet time is {self._sender.quiet:.1f} s")  # fmt: skip

    def _count(self) -> Evidence:
        claim = self._claim
        if claim is None:
            text = f"no count in the headers, {_images(self._view.tally.images)} here"
        elif claim.expected is None:
            of = f" ({claim.words})" if claim.words else ""
            text = f"counts in the headers contradict each other{of}, {_images(claim.here)} here"
        elif claim.reading in (Reading.OBJECT, Reading.VOLUME):
            text = f"the header says {claim.words}, and so many are described"
        else:
            of = f" ({claim.words})" if claim.words else ""
            text = f"the headers say {claim.expected}{of}, {_images(claim.here)} here"
        return Evidence(what="count", detail=text)

    def _announced(self, announced: Announced) -> Evidence:
        images = self._view.tally.images
        text = f"the sender asked to commit {announced.here} of {_images(images)} here"
        if announced.absent:
            text += f" and {announced.absent} objects that are not"
        return Evidence(what="announced", detail=text)

    def _association(self) -> Evidence:
        view = self._view
        state = "open" if view.receiving else "released" if view.released else "not all released"
        one = view.associations == 1
        subject = "its association is" if one else f"its {view.associations} associations are"
        return Evidence(what="association", detail=f"{subject} {state}")

    def _grid(self, grid: Grid) -> Evidence:
        if not grid.exists:
            return Evidence(what="grid", detail="no slice positions")
        first = grid.stacks[0]
        text = "1 position" if grid.positions == 1 else f"{grid.positions} positions"
        if len(grid.stacks) > 1:
            text += f" in {len(grid.stacks)} stacks"
        if first.spacing is not None:
            text += f", {first.spacing:.2f} mm apart"
        text += "".join(f", {axis.size} on axis {axis.name}" for axis in grid.axes if axis.name is not AxisName.STACK)
        text += f", gaps: {len(grid.gaps)}" if grid.gaps else ", no gap"
        if not grid.even:
            text += ", some hold more images than others"
        if grid.placeless:
            text += f", {len(grid.placeless)} images without a place"
        return Evidence(what="grid", detail=text)
