"""What the headers of a series say of how many images it has. Says nothing about whether that is to be believed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from ichor.series.planes import acquisition_of, temporal_position_of
from ichor.types import Instance

_ACQUISITION = "ImagesInAcquisition"  # (0020,1002), PS3.3 C.7.6.1
_SERIES = "NumberOfSeriesRelatedInstances"  # (0020,1209)
_SLICES = "NumberOfSlices"  # (0054,0081), PS3.3 C.8.9.1
_TIME_SLICES = "NumberOfTimeSlices"  # (0054,0101)
_CONCATENATION = "InConcatenationTotalNumber"  # (0020,9163), PS3.3 C.7.6.16
_TEMPORAL = "NumberOfTemporalPositions"  # (0020,0105)
_CARDIAC = "CardiacNumberOfImages"  # (0018,1090)
_PER_VOLUME = ("PhilipsNumberOfSlices", "GELocationsInAcquisition")
_READ = frozenset((_ACQUISITION, _SERIES, _SLICES, _TIME_SLICES, _CONCATENATION, _TEMPORAL, _CARDIAC, *_PER_VOLUME))
_MOST_TIMES = 100_000
_MOST_NAMED = 10


class Reading(StrEnum):
    """What a claim rests on."""

    IMAGES = "images"  # a count of images
    SERIES = "series"  # of several acquisitions, each seems to state the images of the series
    PARTS = "parts"  # of several acquisitions, each has shown to state its own
    PRODUCT = "product"  # slices of a volume times volumes
    OBJECT = "object"  # the frames of one enhanced object that holds several volumes
    VOLUME = "volume"  # the frames of one enhanced object that holds one volume
    CONCATENATION = "concatenation"  # objects that one multi-frame image was cut into


OF_OBJECTS = frozenset((Reading.OBJECT, Reading.VOLUME, Reading.CONCATENATION))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """``expected`` images against those ``here``; None when the counts contradict each other. An object is an image."""

    expected: int | None
    here: int
    reading: Reading = Reading.IMAGES
    words: str = ""  # where the number comes from, when it is no plain count
    wanting: str = ""  # what has to come, when it has a name: continues a sentence

    @property
    def met(self) -> bool:
        return self.expected == self.here


class CountTally:
    """Counts that the headers of a series state, kept up image by image so that asking costs nothing."""

    def __init__(self) -> None:
        self.images = 0
        self.planes = 0  # two-dimensional images: tiles of a mosaic, frames of an enhanced object
        self.enhanced = 0  # objects
        self._several_volumes = 0  # enhanced objects that hold more than one
        self._disagree = 0  # objects whose Number of Frames is not that of the frames described
        self._frames = 0  # that are described
        self._stated_frames = 0
        self._per_acquisition: Counter[int | None] = Counter()
        self._temporal: Counter[int] = Counter()
        self._stated: dict[tuple[str, int | None], Counter[int]] = {}
        self._numbers: Counter[int] = Counter()

    def add(self, instance: Instance, by: int = 1) -> None:
        """Count an image in, or out with ``by=-1``."""
        self.images += by
        acquisition = acquisition_of(instance)
        self._per_acquisition[acquisition] += by
        if instance.instance_number is not None:
            self._numbers[instance.instance_number] += by
        position = temporal_position_of(instance)
        if position is not None:
            self._temporal[position] += by
        for keyword, value in instance.counts:
            if keyword in _READ:
                group = acquisition if keyword == _ACQUISITION else None
                self._stated.setdefault((keyword, group), Counter())[value] += by
        if instance.frames:
            self.enhanced += by
            self._frames += by * len(instance.frames)
            self._stated_frames += by * (instance.pixels.frames if instance.pixels is not None else 0)
            self._disagree += by * _frames_disagree(instance)
            self._several_volumes += by * _has_volumes(instance)
        self.planes += by * (len(instance.frames) or (instance.tiling.count if instance.tiling else 1))

    @property
    def acquisitions(self) -> frozenset[int | None]:
        return frozenset(number for number, images in self._per_acquisition.items() if images > 0)

    def images_of(self, acquisitions: frozenset[int | None], *, stating: int | None) -> int:
        """Images of these numbered acquisitions, where their headers state the number ``stating`` for it."""
        return sum(
            self._per_acquisition[number]
            for number in acquisitions
            if number is not None and self._stated.get((_ACQUISITION, number), Counter())[stating or 0] > 0
        )

    @property
    def numbers_speak_of_more(self) -> bool:
        """Instance numbers that do not run from 1 to the number of images."""
        numbers = [number for number, images in self._numbers.items() if images > 0]
        if not numbers:
            return False
        images = sum(self._numbers[number] for number in numbers)
        return len(numbers) != images or min(numbers) > 1 or max(numbers) > images

    @property
    def several_sets(self) -> bool:
        """Several enhanced objects that each hold several volumes."""
        return self._several_volumes > 1

    @property
    def says_one(self) -> bool:
        """A header says that its acquisition has one image, and there are more (diffusion sets do, for 500)."""
        ones = any(key[0] == _ACQUISITION and values[1] > 0 for key, values in self._stated.items())
        return ones and self.images > len(self.acquisitions)

    def claim(self) -> Claim | None:
        """What the counts say together; None when no header has one that is a count of the series."""
        stated = {key: sorted(v for v, n in values.items() if n > 0) for key, values in self._stated.items()}
        stated = {key: values for key, values in stated.items() if values}
        if not stated and not self.enhanced:
            return None
        if self._disagree:
            words = f"{self._stated_frames} frames are stated, {self._frames} described"
            return Claim(expected=None, here=self.images, words=words)
        counted = self._counted(stated)
        if counted is not None and counted.expected is None:
            return counted
        product = self._product(stated)
        if counted is not None and product is not None and product.expected is not None:
            product = product if self.images <= product.expected else None
        if counted is None:
            return product or self._of_objects(stated) or self._of_times(stated)
        if product is not None and product.expected != counted.expected:
            return Claim(expected=None, here=self.images, words=f"{counted.expected} and {product.words}")
        if counted.met and self._volumes_are_wanting(stated):
            # A whole volume of a time series that counts the images of each.
            return Claim(expected=None, here=self.images, words=f"{counted.expected}, and of more volumes than came")
        return counted

    def _counted(self, stated: dict[tuple[str, int | None], list[int]]) -> Claim | None:
        """By plain counts of images."""
        plain = {key: values for key, values in stated.items() if key[0] in (_ACQUISITION, _SERIES, _SLICES)}
        if any(len(values) > 1 for values in plain.values()):
            return Claim(expected=None, here=self.images)
        whole = set()
        if (_SERIES, None) in plain:
            whole.add(plain[_SERIES, None][0])
        if (_SLICES, None) in plain:
            times = stated.get((_TIME_SLICES, None), [1])
            if len(times) > 1:
                return Claim(expected=None, here=self.images)
            whole.add(plain[_SLICES, None][0] * times[0])
        reading = Reading.IMAGES
        parts = {group: v[0] for (keyword, group), v in plain.items() if keyword == _ACQUISITION}
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
            whole.add(stated_count if of_series else sum(parts.values()))
            if of_series:
                reading = Reading.SERIES
            elif len(parts) > 1 and self.images > max(parts.values()):
                reading = Reading.PARTS
        if not whole:
            return None
        if len(whole) > 1:
            return Claim(expected=None, here=self.images)
        return Claim(expected=whole.pop(), here=self.images, reading=reading)

    def _product(self, stated: dict[tuple[str, int | None], list[int]]) -> Claim | None:
        """Slices of a volume times volumes, where both are known, more than 1 and not contradicted."""
        slices = {v for keyword in _PER_VOLUME for v in stated.get((keyword, None), ())}
        volumes = {v for keyword in (_TEMPORAL, _CARDIAC) for v in stated.get((keyword, None), ())} - {1}
        if len(slices) != 1 or len(volumes) != 1:
            return None
        count, times = slices.pop(), volumes.pop()
        if count <= 1 or self.enhanced or self.planes > self.images:
            return None
        words = f"{count} slices of {times} volumes"
        return Claim(expected=count * times, here=self.images, reading=Reading.PRODUCT, words=words)

    def _of_times(self, stated: dict[tuple[str, int | None], list[int]]) -> Claim | None:
        """More temporal positions are stated than came. That all came says nothing of the images at each."""
        times = stated.get((_TEMPORAL, None), [])
        here = {position: images for position, images in self._temporal.items() if images > 0}
        if len(times) != 1 or not 1 < len(here) < times[0] or sum(here.values()) != self.images:
            return None
        if times[0] > _MOST_TIMES or min(here) < 1 or max(here) > times[0]:
            return None
        each = max(here.values())
        absent = [position for position in range(1, times[0] + 1) if position not in here]
        listed = ", ".join(map(str, absent[:_MOST_NAMED])) + (" and more" if len(absent) > _MOST_NAMED else "")
        return Claim(
            expected=each * times[0], here=self.images, reading=Reading.PRODUCT,
            words=f"{each} images at each of {times[0]} temporal positions",
            wanting=f", temporal position {listed} of {times[0]} is missing",
        )  # fmt: skip

    def _of_objects(self, stated: dict[tuple[str, int | None], list[int]]) -> Claim | None:
        """Of enhanced objects: the parts of a concatenation, or the frames of one."""
        if self.enhanced != self.images or not self.enhanced:
            return None
        total = stated.get((_CONCATENATION, None), [])
        if len(total) > 1:
            return Claim(expected=None, here=self.images)
        if total and total[0] > 1:
            words = f"{total[0]} objects of one concatenation"
            return Claim(expected=total[0], here=self.images, reading=Reading.CONCATENATION, words=words)
        if self.images > 1:
            return None
        reading = Reading.OBJECT if self._several_volumes else Reading.VOLUME
        words = f"{self._frames} frames in one object"
        return Claim(expected=1, here=1, reading=reading, words=words)

    def _volumes_are_wanting(self, stated: dict[tuple[str, int | None], list[int]]) -> bool:
        volumes = stated.get((_TEMPORAL, None), [])
        seen = sum(images > 0 for images in self._temporal.values())
        return len(volumes) == 1 and 0 < seen < volumes[0] and seen < self.images


def _frames_disagree(instance: Instance) -> bool:
    return instance.pixels is not None and instance.pixels.frames != len(instance.frames)


def _has_volumes(instance: Instance) -> bool:
    """Whether an enhanced object has several frames at one place."""
    places = {(frame.slot.stack, frame.geometry.position_lps) for frame in instance.frames}
    return len(places) < len(instance.frames)
