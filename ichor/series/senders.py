"""What one calling AE title has taught: its pauses, what its counts mean, whether it splits series. Decides nothing.

Values, not identities: every event gives a new `Sender`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

DEFAULT_QUIET = 10.0  # seconds, until a sender is known
SHORTEST_QUIET = 3.0
LONGEST_QUIET = 30.0
KNOWN_AFTER = 20  # series of a sender, before its quiet time may fall below the default
_HIGH_COUNTS = 5  # series in a row that stayed below their count: the count means something else
_FORGIVE = 20  # right counts that make up for a wrong one
_FORGET = 0.98  # per series: an old long pause loses its weight
_UNSPLIT_PER_SPLIT = 100  # whole series in a row that make up for one that was split


class Lesson(StrEnum):
    """What a series teaches of its sender once, however many images follow."""

    COUNT = "count"  # whether its count of one acquisition was right
    SEVERAL = "several"  # it has several acquisitions
    ONE = "one"  # it says 1 and has more images
    PARTS = "parts"  # its counts are those of one acquisition each
    PRODUCT = "product"  # whether slices of a volume times volumes was right
    LONE = "lone"  # it is one enhanced object and stayed so
    OBJECTS = "objects"  # it has several enhanced objects
    SETS = "sets"  # it has several that each hold several volumes
    ANNOUNCED = "announced"  # whether a request to commit that named all of it was right


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """What one calling AE title has taught us."""

    series: int = 0  # decided
    splits: int = 0  # series that came over several released associations
    unsplit: int = 0  # series decided since the last of these
    several: int = 0  # series of several acquisitions
    parts: int = 0  # of these, such whose counts were those of one acquisition each
    ones: int = 0  # series that say 1 and have more images
    counts_right: int = 0  # counts of one acquisition that agreed and stayed right to the end
    counts_wrong: int = 0  # counts that more images contradicted
    counts_high: int = 0  # series in a row that never reached their count
    products_right: int = 0  # the same of slices per volume times volumes
    products_wrong: int = 0
    lone_objects: int = 0  # series of one enhanced object that stayed alone
    several_objects: int = 0  # series of several enhanced objects
    several_sets: int = 0  # of these, such whose objects each hold several volumes
    announced_right: int = 0  # series that were split and that its request to commit named as a whole
    announced_wrong: int = 0  # series that such a request named as a whole, and more images followed
    longest_pause: float = 0.0  # within one series, fading

    @property
    def trusts_counts(self) -> bool:
        return self.counts_right > 0 and not self.doubts_counts

    @property
    def doubts_counts(self) -> bool:
        forgiven = self.counts_right >= _FORGIVE * self.counts_wrong
        return not forgiven or self.counts_high >= _HIGH_COUNTS

    @property
    def doubts_products(self) -> bool:
        return self.products_right < _FORGIVE * self.products_wrong or self.counts_high >= _HIGH_COUNTS

    @property
    def splits_series(self) -> bool:
        """It did, and has not sent enough whole ones since: a release says little of whether more follows."""
        return self.splits > 0 and self.unsplit < _UNSPLIT_PER_SPLIT * self.splits

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
        return replace(
            self, series=self.series + 1, unsplit=self.unsplit + 1, longest_pause=self.longest_pause * _FORGET
        )

    def after_split(self) -> Sender:
        return replace(self, splits=self.splits + 1, unsplit=0)

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
        """All came that a count had announced, if late: it was not too high."""
        return replace(self, counts_high=0)

    def after_right_product(self) -> Sender:
        return replace(self, products_right=self.products_right + 1, counts_high=0)

    def after_wrong_product(self) -> Sender:
        return replace(self, products_wrong=self.products_wrong + 1)

    def after_lone_object(self) -> Sender:
        return replace(self, lone_objects=self.lone_objects + 1)

    def after_several_objects(self) -> Sender:
        return replace(self, several_objects=self.several_objects + 1)

    def after_several_sets(self) -> Sender:
        return replace(self, several_sets=self.several_sets + 1)

    def after_right_announcement(self) -> Sender:
        return replace(self, announced_right=self.announced_right + 1)

    def after_wrong_announcement(self) -> Sender:
        return replace(self, announced_wrong=self.announced_wrong + 1)
