"""Acquisition times of images in seconds, from DICOM dates and times. Says nothing of when anything was sent."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

_TM = re.compile(r"([01]\d|2[0-3]):?(?:([0-5]\d):?(?:([0-5]\d|60)(\.\d{1,6})?)?)?\Z")
_DT = re.compile(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)(?:[+-]\d{4})?\Z")
_DAY = 86400.0
_LARGEST = 1e7


def plausible(value: float | None) -> float | None:
    """A time of an image, s or ms; None where nothing is measured so late or so long: a binary VR holds any number."""
    return value if value is not None and -_LARGEST < value < _LARGEST else None


def seconds_of_time(text: str | None) -> float | None:
    """Seconds since midnight of a TM (PS3.5 section 6.2), also of the older form with colons."""
    match = _TM.match(text) if text else None
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    return int(hours) * 3600.0 + int(minutes or 0) * 60 + int(seconds or 0) + float(fraction or 0)


def seconds_of_date_time(text: str | None, *, since: str | None = None) -> float | None:
    """Seconds of a DT since midnight of its day, or of the day ``since`` (a DA) when that is the day before."""
    match = _DT.match(text) if text else None
    if match is None:
        return None
    seconds = seconds_of_time(match[2])
    return None if seconds is None else seconds + days_after(match[1], since=since) * _DAY


def days_after(day: str | None, *, since: str | None) -> int:
    """1 when ``day`` is the one after ``since`` (both DA), else 0: a series may go past midnight."""
    if not day or not since or day == since:
        return 0
    try:
        return int((date.fromisoformat(day) - date.fromisoformat(since)).days == 1)
    except ValueError:
        return 0


def acquired_at(*, date_time: str | None, date: str | None, time: str | None) -> float | None:
    """Seconds since 1970 of Acquisition DateTime (0008,002A), else of Acquisition Date and Time; None where neither is whole.

    As if the scanner's clock showed UTC: most headers name no zone, and scans of one patient within days are compared,
    by clocks of one place.
    """
    match = _DT.match(date_time) if date_time else None
    day, seconds = (match[1], seconds_of_time(match[2])) if match else (date, seconds_of_time(time))
    if not day or seconds is None:
        return None
    try:
        return datetime.strptime(day.replace(".", ""), "%Y%m%d").replace(tzinfo=UTC).timestamp() + seconds
    except ValueError:
        return None
