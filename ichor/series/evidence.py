"""Is a series whole? A pure decision from counts, grid, associations and what its sender did before. No timer, no I/O.

Grades (docs/contract.md): ``counted`` when a count agrees with a gapless grid; ``regular`` when there is no count but every
association that brought the series was released, its grid has no gap and its sender never split a series; ``quiet``
when only silence speaks; ``short`` when images are known to be missing; else ``open``.

A count in a header is that of an *acquisition* ((0020,1002), PS3.3 C.7.6.1), which is mostly, not always, that of the
series: the first half of a series of two acquisitions looks like a whole one. So a count that agrees is believed at
once only from a sender whose counts have come true before; else when the association is released, or when nothing has
followed for a while. `Doubt` names what asks for more than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ichor.series.grid import Grid
from ichor.types import Evidence, Grade, Instance

DEFAULT_QUIET = 10.0  # seconds, until a sender is known
SHORTEST_QUIET = 3.0
LONGEST_QUIET = 30.0
KNOWN_AFTER = 20  # series of a sender, before its quiet time may fall below the default
SETTLE = 2.0  # seconds of silence that confirm a count of a sender whose counts nobody has confirmed yet
GLANCE = 0.01  # seconds to see whether one more follows, at most, when its counts were confirmed
_FEW = 4  # images: too few for a count and a grid to confirm each other
_HIGH_COUNTS = 5  # series in a row that stayed below their count: the count means something else
_FORGIVE = 20  # right counts that make up for a wrong one
_FORGET = 0.98  # per series: an old long pause loses its weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What one calling AE title has taught us. Values, not identities; updated by the functions below."""

    series: int = 0  # decided
    splits: int = 0  # series that came over several released associations
    several: int = 0  # series of several acquisitions
    parts: int = 0  # of these, such whose counts were those of one acquisition each
    ones: int = 0  # series that say 1 and have more images
    counts_right: int = 0  # counts of one acquisition that agreed and stayed right to the end
    counts_wrong: int = 0  # counts that more images contradicted
    counts_high: int = 0  # series in a row that never reached their count
    longest_pause: float = 0.0  # within one series, fading

    @property
    def trusts_counts(self) -> bool:
        return self.counts_right > 0 and not self.doubts_counts

    @property
    def doubts_counts(self) -> bool:
        forgiven = self.counts_right >= _FORGIVE * self.counts_wrong
        return not forgiven or self.counts_high >= _HIGH_COUNTS

    @property
    def quiet(self) -> float:
        """Seconds of silence after which a series of this sender is taken as it is."""
        least = SHORTEST_QUIET if self.series >= KNOWN_AFTER else DEFAULT_QUIET
        return min(max(least, 1.5 * self.longest_pause), LONGEST_QUIET)

    def after_pause(self, seconds: float) -> Sender:
        """A further image of a series came ``seconds`` after the one before. Hours teach nothing about waiting."""
        if seconds <= self.longest_pause or seconds > 2 * LONGEST_QUIET:
            return self
        return replace(self, longest_pause=seconds)

    def after_series(self) -> Sender:
        return replace(self, series=self.series + 1, longest_pause=self.longest_pause * _FORGET)

    def after_split(self) -> Sender:
        return replace(self, splits=self.splits + 1)

    def after_several(self) -> Sender:
        return replace(self, several=self.several + 1)

    def after_parts(self) -> Sender:
        return replace(self, parts=self.parts + 1)

    def after_one(self) -> Sender:
        return replace(self, ones=self.ones + 1)

    def after_right_count(self) -> Sender:
        return replace(self, counts_right=self.counts_right + 1, counts_high=0)

    def after_wrong_count(self) -> Sender:
        return replace(self, counts_wrong=self.counts_wrong + 1)

    def after_high_count(self) -> Sender:
        return replace(self, counts_high=self.counts_high + 1)

    def after_late_images(self) -> Sender:
        """Images came that a count had announced: it was not too high."""
        return replace(self, counts_high=0)


class CountTally:
    """Counts that the headers of a series state, kept up image by image so that asking costs nothing."""

    def __init__(self) -> None:
        self.images = 0
        self._per_acquisition: Counter[int | None] = Counter()
        self._stated: dict[tuple[str, int | None], Counter[int]] = {}

    def add(self, instance: Instance, by: int = 1) -> None:
        """Count an image in, or out with ``by=-1``."""
        self.images += by
        acquisition = instance.acquisition_number
        self._per_acquisition[acquisition] += by
        stated = dict(instance.counts)
        slices = stated.pop("NumberOfSlices", None)
        if slices is not None:
            stated["NumberOfSlices"] = slices * stated.get("NumberOfTimeSlices", 1)
        for keyword in ("ImagesInAcquisition", "NumberOfSeriesRelatedInstances", "NumberOfSlices"):
            if keyword in stated:
                group = acquisition if keyword == "ImagesInAcquisition" else None
                self._stated.setdefault((keyword, group), Counter())[stated[keyword]] += by

    @property
    def acquisitions(self) -> frozenset[int | None]:
        return frozenset(number for number, images in self._per_acquisition.items() if images > 0)

    def images_of(self, acquisitions: frozenset[int | None]) -> int:
        """Images of these numbered acquisitions."""
        return sum(self._per_acquisition[number] for number in acquisitions if number is not None)

    @property
    def says_one(self) -> bool:
        """A header says that its acquisition has one image, and there are more (diffusion sets do, for 500)."""
        ones = any(key[0] == "ImagesInAcquisition" and values[1] > 0 for key, values in self._stated.items())
        return ones and self.images > len(self.acquisitions)

    def claim(self) -> Claim | None:
        """What the counts say together; None when no header has one."""
        stated = {key: sorted(v for v, n in values.items() if n > 0) for key, values in self._stated.items()}
        stated = {key: values for key, values in stated.items() if values}
        if not stated:
            return None
        if any(len(values) > 1 for values in stated.values()):
            return Claim(expected=None, here=self.images)
        whole = {values[0] for (keyword, _), values in stated.items() if keyword != "ImagesInAcquisition"}
        reading = ""
        parts = {group: v[0] for (keyword, group), v in stated.items() if keyword == "ImagesInAcquisition"}
        if set(parts.values()) == {1} and self.images > len(parts):
            parts = {}  # diffusion sets say 1 for 500 images: no count at all
        if parts:
            # One acquisition: its count. Several: each may state its own images or all of the series.
            stated_count = next(iter(parts.values()))
            of_series = (
                len(parts) > 1
                and set(parts.values()) == {stated_count}
                and self.images <= stated_count
                and all(self._per_acquisition[group] < stated_count for group in parts)
            )
            total = stated_count if of_series else sum(parts.values())
            whole.add(total)
            reading = "series" if of_series else "parts" if len(parts) > 1 and self.images > max(parts.values()) else ""
        if not whole:
            return None
        if len(whole) > 1:
            return Claim(expected=None, here=self.images)
        return Claim(expected=whole.pop(), here=self.images, reading=reading)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """``expected`` images against those ``here``; None when the counts contradict each other.

    ``reading``: of several acquisitions each states the images of the ``series``, or has shown to state its own
    (``parts``); empty for one acquisition.
    """

    expected: int | None
    here: int
    reading: str = ""

    @property
    def met(self) -> bool:
        return self.expected == self.here


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesView:
    """What a decision looks at. ``grid`` is called only when the answer depends on it."""

    tally: CountTally
    instances: Callable[[], Sequence[Instance]]
    grid: Callable[[], Grid]
    associations: int  # that brought it
    receiving: bool  # one of them is open
    released: bool  # all of them were, or one that brought every image was, and none is open
    last_at: float  # when the last new image was seen
    longest_pause: float  # between two images of this series
    split: bool  # over several released associations
    contradicted: bool = False  # its own count was the first of its sender to be proved wrong
    elsewhere: Callable[[], int] = lambda: 0  # images of the same acquisition in other series of the study


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """``look_at``: when silence alone would change the answer; None when only a message can."""

    grade: Grade
    evidence: tuple[Evidence, ...]
    look_at: float | None = None
    reason: str | None = None  # why it is open or short
    notes: tuple[str, ...] = field(default=())  # what a report on the series must name


def decide(view: SeriesView, sender: Sender, *, now: float) -> Decision:
    """Grade a series from what is known at ``now``."""
    claim = view.tally.claim()
    silence = now - view.last_at
    # Times are compared as sums, as `look_at` gives them: a difference of floats can fall short of them for ever.
    quiet_at = view.last_at + sender.quiet
    quiet = now >= quiet_at
    said = _Said(view, sender, claim)

    hollow = _hollow(view, sender, claim) if claim is not None else None
    if claim is not None and claim.met and hollow is None:
        grid = view.grid()
        if grid.gapless:
            doubts = _doubts(view)
            if sender.trusts_counts:
                settle_at = view.last_at + min(GLANCE, 1.5 * view.longest_pause)
            else:
                settle_at = view.last_at + max(SETTLE, 4 * view.longest_pause)
            sure = (
                (view.released and not (doubts and (sender.splits or view.split)))
                or (not doubts and now >= settle_at)
                or quiet
            )
            if sure:
                return Decision(grade=Grade.COUNTED, evidence=said.all(grid))
            look_at = quiet_at if doubts else min(settle_at, quiet_at)
            return Decision(
                grade=Grade.OPEN, evidence=said.all(grid, *doubts), look_at=look_at, reason="the count is not confirmed"
            )
        if quiet:
            # Nothing is missing by the count: the scanner left the hole, or put two images at one place.
            return Decision(
                grade=Grade.QUIET, evidence=said.all(grid, said.quiet(silence)), notes=_gap_notes(grid)
            )  # fmt: skip
        return Decision(
            grade=Grade.OPEN, evidence=said.all(grid), look_at=quiet_at, reason="count and grid disagree"
        )  # fmt: skip

    lacking = claim is not None and claim.expected is not None and claim.here < claim.expected
    explained = lacking and claim is not None and claim.here + view.elsewhere() == claim.expected
    if lacking and not explained and not sender.doubts_counts:
        assert claim is not None
        # While it is being sent, a hurry would only make a short series of a slow one.
        patience = max(sender.quiet, DEFAULT_QUIET) if view.receiving else sender.quiet
        if now >= view.last_at + patience:
            grid = view.grid()
            return Decision(
                grade=Grade.SHORT,
                evidence=said.all(grid, said.quiet(silence)),
                reason=f"{claim.here} of {claim.expected} images{_places(grid)}",
                notes=_gap_notes(grid),
            )
        return Decision(
            grade=Grade.OPEN,
            evidence=said.all(None),
            look_at=view.last_at + patience,
            reason=f"{claim.here} of {claim.expected} images",
        )

    # No count that means anything: the way it came, the grid and silence have to do.
    no_count = claim is None or (hollow is not None and not view.contradicted)
    trusted_way = view.released and not view.split and sender.splits == 0 and no_count
    if not trusted_way and not quiet:
        reason = (
            "its association is open"
            if view.receiving
            else f"waits {sender.quiet:.0f} s of silence, this sender's quiet time"
        )
        return Decision(grade=Grade.OPEN, evidence=said.all(None), look_at=quiet_at, reason=reason)
    grid = view.grid()
    whole = not grid.exists or (not grid.gaps and grid.even and not grid.placeless)
    if trusted_way and whole:
        return Decision(grade=Grade.REGULAR, evidence=said.all(grid, Evidence(what="sender", detail="never split one")))
    if not quiet:
        return Decision(
            grade=Grade.OPEN, evidence=said.all(grid), look_at=quiet_at, reason="the grid is not regular"
        )  # fmt: skip
    if grid.gaps:
        return Decision(
            grade=Grade.SHORT,
            evidence=said.all(grid, said.quiet(silence)),
            reason=f"a gap{_places(grid)}",
            notes=_gap_notes(grid),
        )
    return Decision(grade=Grade.QUIET, evidence=said.all(grid, said.quiet(silence)))


def _hollow(view: SeriesView, sender: Sender, claim: Claim) -> Evidence | None:
    """Why a count of this sender says nothing about a series, even when it agrees."""
    if sender.doubts_counts:
        return Evidence(what="doubt", detail="this sender's counts were contradicted before")
    if sender.ones and view.tally.images == 1:
        return Evidence(what="doubt", detail="this sender says 1 whatever there is")
    if sender.parts and claim.reading == "series":
        return Evidence(what="doubt", detail="this sender counts the images of each acquisition")
    if sender.several and len(view.tally.acquisitions) == 1:
        return Evidence(what="doubt", detail="a count is of one acquisition, this sender's series have several")
    return None


def _doubts(view: SeriesView) -> tuple[Evidence, ...]:
    """What speaks against believing a count that agrees, before all has been sent."""
    found = []
    if len(view.tally.acquisitions) > 1:
        found.append("the series has several acquisitions")
    if view.tally.images < _FEW:
        found.append("too few images for a grid")
    numbers = [i.instance_number for i in view.instances() if i.instance_number is not None]
    if numbers and (len(set(numbers)) != len(numbers) or min(numbers) > 1 or max(numbers) > len(numbers)):
        found.append("instance numbers speak of more images")
    return tuple(Evidence(what="doubt", detail=text) for text in found)


def _places(grid: Grid) -> str:
    missing = [place for gap in grid.gaps for place in gap.missing]
    if not missing:
        return "" if not grid.exists else ", none missing inside the grid"
    listed = ", ".join(f"{place:.1f}" for place in missing[:20])
    return f", missing at {listed} mm along the normal" + (" and more" if len(missing) > 20 else "")


def _gap_notes(grid: Grid) -> tuple[str, ...]:
    return tuple(
        f"gap of {gap.after - gap.before:.1f} mm between the slices at {gap.before:.1f} and {gap.after:.1f} mm"
        for gap in grid.gaps
    )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


class _Said:
    """Puts what was looked at into words."""

    def __init__(self, view: SeriesView, sender: Sender, claim: Claim | None) -> None:
        self._view, self._sender, self._claim = view, sender, claim

    def all(self, grid: Grid | None, *more: Evidence) -> tuple[Evidence, ...]:
        parts = [self._count(), self._association()]
        if grid is not None:
            parts.append(self._grid(grid))
        return (*parts, *more)

    def quiet(self, silence: float) -> Evidence:
        return Evidence(what="quiet", detail=f"nothing for {silence:.1f} s, this sender's quiet time is {self._sender.quiet:.1f} s")  # fmt: skip

    def _count(self) -> Evidence:
        claim = self._claim
        if claim is None:
            text = f"no count in the headers, {_images(self._view.tally.images)} here"
        elif claim.expected is None:
            text = f"counts in the headers contradict each other, {_images(claim.here)} here"
        else:
            text = f"the headers say {claim.expected}, {_images(claim.here)} here"
        return Evidence(what="count", detail=text)

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
        text += f", gaps: {len(grid.gaps)}" if grid.gaps else ", no gap"
        if not grid.even:
            text += ", some hold more images than others"
        if grid.placeless:
            text += f", {len(grid.placeless)} images without a place"
        return Evidence(what="grid", detail=text)
