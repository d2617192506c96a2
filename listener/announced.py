"""What senders asked to commit of one study, against what is here of it. Not what that is worth: evidence decides.

Some senders open an association for each image and ask after each: what a look needs is kept up image by image, and
nothing here walks over all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from ichor.series.evidence import Announced


class AnnouncedObjects:
    """By SOP Instance UID; ``unknown`` further ones nobody has seen. ``changed``: those to be written."""

    def __init__(self) -> None:
        self.uids: set[str] = set()
        self.changed: set[str] = set()
        self.unknown = 0
        self._here: Counter[str] = Counter()  # Series Instance UID -> its images that are announced
        self._arrived = 0  # announced ones that are here, of whatever series

    def announce(self, uids: Collection[str], *, unknown: int, home: Mapping[str, str]) -> None:
        """A request named ``uids``; ``home`` gives the series of every image that is here."""
        named = set(uids)
        self.unknown = unknown if named >= self.uids else max(self.unknown, unknown)
        new = named - self.uids
        self.uids |= new
        self.changed |= new
        for uid in new:
            series = home.get(uid)
            if series is not None:
                self._arrived += 1
                self._here[series] += 1

    def place(self, uid: str, series: str, *, before: str | None) -> None:
        """An image is here, or went to another series than the one ``before``."""
        if uid not in self.uids:
            return
        if before is None:
            self._arrived += 1
        else:
            self._here[before] -= 1
        self._here[series] += 1

    def restore(self, uids: Collection[str], *, unknown: int) -> None:
        """Put back what was kept, before any image is."""
        self.uids, self.unknown = set(uids), unknown

    def names_all(self, series: str, *, images: int) -> bool:
        """Whether all images of a series were named, and nothing that nobody has seen."""
        return images > 0 and not self.unknown and self._here[series] == images

    def of(self, series: str, *, images_of_study: int, alone: bool) -> Announced | None:
        """Evidence for one series; None when nothing was asked."""
        if not self.uids and not self.unknown:
            return None
        # What came after the request may be what was unknown then.
        unnamed = images_of_study - self._arrived
        absent = len(self.uids) - self._arrived + max(0, self.unknown - unnamed)
        return Announced(here=self._here[series], absent=absent, alone=alone)
