"""What a Store transaction is answered with (PS3.18 section 10.5.3 and annex I). Knows neither HTTP nor the spool."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple
from xml.etree import ElementTree

JSON, XML = "application/dicom+json", "application/dicom+xml"
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000

_KEYWORDS = {
    "00081150": "ReferencedSOPClassUID",
    "00081155": "ReferencedSOPInstanceUID",
    "00081190": "RetrieveURL",
    "00081197": "FailureReason",
    "00081198": "FailedSOPSequence",
    "00081199": "ReferencedSOPSequence",
    "0008119A": "OtherFailuresSequence",
}
_QUALITY = re.compile(r";\s*q=([01](?:\.[0-9]{0,3})?)\s*(?:;|$)", re.IGNORECASE)


class Outcome(NamedTuple):
    """What became of one part: its UIDs where they are valid ones (else empty), and a status as of C-STORE."""

    sop_class_uid: str
    sop_instance_uid: str
    status: int


def http_status(outcomes: Sequence[Outcome], *, whole: bool) -> HTTPStatus:
    """Table 10.5.3-1. ``whole``: the body was read to its end."""
    stored = sum(o.status == SUCCESS for o in outcomes)
    if stored:
        return HTTPStatus.OK if whole and stored == len(outcomes) else HTTPStatus.ACCEPTED
    if not whole or not outcomes:
        return HTTPStatus.BAD_REQUEST
    if all(o.status == OUT_OF_RESOURCES for o in outcomes):
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.CONFLICT


def module(outcomes: Sequence[Outcome], *, whole: bool) -> dict[str, object]:
    """Store Instances Response Module (table I.1-1) in the DICOM JSON model (annex F).

    Retrieve URL is there and empty (type 2): nothing can be retrieved here.
    """
    stored: list[object] = []
    failed: list[object] = []
    other: list[object] = []
    for outcome in outcomes:
        reference: dict[str, object] = {
            "00081150": {"vr": "UI", "Value": [outcome.sop_class_uid]},
            "00081155": {"vr": "UI", "Value": [outcome.sop_instance_uid]},
        }
        reason = {"00081197": {"vr": "US", "Value": [outcome.status]}}
        if outcome.status == SUCCESS:
            stored.append(reference | {"00081190": {"vr": "UR"}})
        elif outcome.sop_class_uid and outcome.sop_instance_uid:
            failed.append(reference | reason)
        else:
            other.append(reason)
    if not whole:
        other.append({"00081197": {"vr": "US", "Value": [CANNOT_UNDERSTAND]}})
    sequences = (("00081198", failed), ("00081199", stored), ("0008119A", other))
    return {"00081190": {"vr": "UR"}} | {tag: {"vr": "SQ", "Value": items} for tag, items in sequences if items}


def preferred(accept: str) -> str:
    """The media type to answer in: JSON unless XML is asked for and JSON is not, or less.

    Neither of them is answered in JSON (RFC 9110 section 12.5.1): what was stored is not to be hidden behind a 406.
    """
    return XML if _wanted(accept, XML) > _wanted(accept, JSON, "application/*", "*/*") else JSON


def encoded(answer: dict[str, object], media_type: str) -> bytes:
    """The module in one of the two media types; XML as the Native DICOM Model (PS3.19 annex A)."""
    if media_type == JSON:
        return json.dumps(answer).encode()
    root = ElementTree.Element("NativeDicomModel", {"xmlns": "http://dicom.nema.org/PS3.19/models/NativeDICOM"})
    _add_attributes(root, answer)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode").encode()


def _add_attributes(parent: ElementTree.Element, attributes: dict[str, object]) -> None:
    for tag, attribute in attributes.items():
        assert isinstance(attribute, dict)
        names = {"tag": tag, "vr": attribute["vr"], "keyword": _KEYWORDS[tag]}
        element = ElementTree.SubElement(parent, "DicomAttribute", names)
        for number, value in enumerate(attribute.get("Value", ()), start=1):
            if isinstance(value, dict):
                _add_attributes(ElementTree.SubElement(element, "Item", number=str(number)), value)
            else:
                ElementTree.SubElement(element, "Value", number=str(number)).text = str(value)


def _wanted(accept: str, *types: str) -> float:
    """Highest quality that an Accept header gives to one of ``types``; 0 when it names none."""
    best = 0.0
    for choice in accept.lower().split(","):
        if choice.partition(";")[0].strip() in types:
            quality = _QUALITY.search(choice)
            best = max(best, float(quality[1]) if quality else 1.0)
    return best
