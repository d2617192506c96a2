"""Is a raw value of a source one that its attribute may hold? Corrects nothing, and is not asked about identity."""

from __future__ import annotations

import re
from datetime import datetime

# Whatever the PACS matched the source by stays as it is; so does the claim about the character set.
_KEPT = frozenset((
    "SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientIDs", "OtherPatientNames",
    "AccessionNumber", "StudyID",
))  # fmt: skip
# PS3.5 table 6.2-1.
_PATTERNS = {
    "AS": re.compile(r"[0-9]{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9_ ]{1,16}"),
    "DA": re.compile(r"[0-9]{8}"),
    "DS": re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([Ee][+-]?[0-9]+)? *"),
    "TM": re.compile(
        r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9]|60)?)?|([01][0-9]|2[0-3])[0-5][0-9]([0-5][0-9]|60)\.[0-9]{1,6}"
    ),
}
_LONGEST = {"SH": 16, "LO": 64, "DS": 16}
_SEXES = ("F", "M", "O")
_ESCAPE = 0x1B


def is_valid(keyword: str, vr: str, value: bytes, *, single: bool) -> bool:
    """True when ``value`` may be written for the attribute: an empty one, one of identity, or one that its VR allows.

    Text that is not ASCII is not judged: its bytes are no characters. ``single``: the attribute holds one value.
    """
    if keyword in _KEPT or not value.strip(b" \0"):
        return True
    if not value.isascii() or _ESCAPE in value:
        return vr not in _PATTERNS
    text = value.decode("ascii").rstrip(" \0")
    if vr in ("LT", "ST", "UT"):
        return True
    parts = text.split("\\")
    return (len(parts) == 1 or not single) and all(_is_valid(keyword, vr, part) for part in parts)


def _is_valid(keyword: str, vr: str, text: str) -> bool:
    if keyword == "PatientSex":
        return text in _SEXES
    if keyword == "TimezoneOffsetFromUTC":
        return re.fullmatch(r"[+-](0[0-9]|1[0-4])[0-5][0-9]", text) is not None
    if len(text) > _LONGEST.get(vr, len(text)):
        return False
    pattern = _PATTERNS.get(vr)
    if pattern is not None and pattern.fullmatch(text) is None:
        return False
    return vr != "DA" or _is_day(text)


def _is_day(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y%m%d")
    except ValueError:
        return False
    return True
