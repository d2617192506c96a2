"""What the series of a study teach of their sender, each lesson once per series. Decides nothing about a series."""

from __future__ import annotations

from ichor.series.counts import OF_OBJECTS, Claim, Reading
from ichor.series.evidence import LONGEST_QUIET, Announced
from ichor.series.senders import Lesson, Sender
from listener.announced import AnnouncedObjects
from listener.series_state import Associations, SeriesState


def of_way(series: SeriesState, sender: Sender, associations: Associations, *, association: str, now: float) -> Sender:
    """One more image is about to be put to ``series``: how long after the last, and over which association."""
    pause = now - series.last_at
    series.longest_pause = max(series.longest_pause, min(pause, LONGEST_QUIET))
    if not any(name in series.brought for name in associations.cut_off):
        # After an abort the sender's pause is that of its retry: it says nothing of how it sends.
        sender = sender.after_pause(pause)
    if not series.split and association not in series.brought:
        series.split = any(associations[name].released for name in series.brought)
        sender = sender.after_split() if series.split else sender
    return sender


def of_stranger_to_announcement(
    series: SeriesState, sender: Sender, announced: AnnouncedObjects, *, sop_instance_uid: str
) -> Sender:
    """An image is about to follow of a series that its sender had asked to commit as if it were whole."""
    named = sop_instance_uid in announced.uids or not announced.names_all(series.uid, images=len(series.members))
    return sender if named or not _first(series, Lesson.ANNOUNCED) else sender.after_wrong_announcement()


def of_more(series: SeriesState, sender: Sender) -> Sender:
    """One more image is here: what it says of the meaning of its sender's counts."""
    tally = series.tally
    claim = tally.claim()
    if tally.enhanced > 1 and _first(series, Lesson.OBJECTS):
        sender = sender.after_several_objects()
    if tally.several_sets and _first(series, Lesson.SETS):
        sender = sender.after_several_sets()
    if Lesson.ONE not in series.learned and tally.says_one:
        series.learned.add(Lesson.ONE)
        sender = sender.after_one()
    if claim is None:
        return sender
    more = claim.expected is not None and claim.here > claim.expected
    if claim.reading is Reading.PRODUCT:
        return sender.after_wrong_product() if more and _first(series, Lesson.PRODUCT) else sender
    if more and _first(series, Lesson.COUNT):
        series.contradicted = not sender.doubts_counts
        sender = sender.after_wrong_count()
    if claim.reading is Reading.PARTS and _first(series, Lesson.PARTS):
        sender = sender.after_parts()
    if len(tally.acquisitions) > 1 and _first(series, Lesson.SEVERAL):
        sender = sender.after_several()
    return sender


def of_end(series: SeriesState, sender: Sender, *, announced: Announced | None) -> Sender:
    """All of a complete series has been sent: a count that agreed and still does is a right one."""
    tally = series.tally
    claim = tally.claim()
    if claim is not None and claim.met:
        sender = _of_right_count(series, sender, claim)
    if tally.enhanced == 1 == tally.images and _first(series, Lesson.LONE):
        sender = sender.after_lone_object()
    right = announced is not None and announced.absent == 0 and announced.here == tally.images
    if right and series.split and _first(series, Lesson.ANNOUNCED):
        sender = sender.after_right_announcement()
    return sender


def _of_right_count(series: SeriesState, sender: Sender, claim: Claim) -> Sender:
    if claim.reading is Reading.PRODUCT:
        return sender.after_right_product() if _first(series, Lesson.PRODUCT) else sender
    if claim.reading is Reading.CONCATENATION:
        return sender.after_late_images()
    if claim.reading in OF_OBJECTS or Lesson.SEVERAL in series.learned or not _first(series, Lesson.COUNT):
        return sender
    return sender.after_right_count()


def _first(series: SeriesState, lesson: Lesson) -> bool:
    """Whether the series has not taught this before; now it has."""
    new = lesson not in series.learned
    series.learned.add(lesson)
    return new
