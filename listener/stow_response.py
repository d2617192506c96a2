"""What a Store transaction is answered with (PS3.18 section 10.5.3 and annex I). Knows neither HTTP nor the spool."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import NamedTuple

JSON, XML = "application/dicom+json", "application/dicom+xml"
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000

_FAILED, _STORED, _OTHER = "00081198", "00081199", "0008119A"
_KEYWORDS = {
    "00081150": "ReferencedSOPClassUID",
    "00081155": "ReferencedSOPInstanceUID",
    "00081190": "RetrieveURL",
    "00081197": "FailureReason",
    _FAILED: "FailedSOPSequence",
    _STORED: "ReferencedSOPSequence",
    _OTHER: "OtherFailuresSequence",
}
_XML_START = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b'<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
)
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


def module(outcomes: Iterable[Outcome], media_type: str, *, whole: bool) -> bytes:
    """Store Instances Response Module (table I.1-1): DICOM JSON model (annex F), or Native DICOM Model (PS3.19 annex A).

    Retrieve URL is there and empty (type 2): nothing can be retrieved here. Encoded item by item: of 20,000 objects,
    a tree would take tens of megabytes.
    """
    form: _Json | _Xml = _Json() if media_type == JSON else _Xml()
    items: dict[str, list[bytes]] = {_FAILED: [], _STORED: [], _OTHER: []}

    def add(sequence: str, *attributes: bytes) -> None:
        items[sequence].append(form.item(len(items[sequence]) + 1, attributes))

    for outcome in outcomes:
        sop_class = form.attribute("00081150", "UI", [form.value(outcome.sop_class_uid)])
        sop_instance = form.attribute("00081155", "UI", [form.value(outcome.sop_instance_uid)])
        reason = form.attribute("00081197", "US", [form.value(outcome.status)])
        if outcome.status == SUCCESS:
            add(_STORED, sop_class, sop_instance, form.attribute("00081190", "UR", []))
        elif outcome.sop_class_uid and outcome.sop_instance_uid:
            add(_FAILED, sop_class, sop_instance, reason)
        else:
            add(_OTHER, reason)
    if not whole:
        add(_OTHER, form.attribute("00081197", "US", [form.value(CANNOT_UNDERSTAND)]))
    sequences = [form.attribute(tag, "SQ", found) for tag, found in items.items() if found]
    return form.document([form.attribute("00081190", "UR", []), *sequences])


def preferred(accept: str) -> str:
    """The media type to answer in: JSON unless XML is asked for and JSON is not, or less.

    Neither of them is answered in JSON (RFC 9110 section 12.5.1): what was stored is not to be hidden behind a 406.
    """
    return XML if _wanted(accept, XML) > _wanted(accept, JSON, "application/*", "*/*") else JSON


class _Json:
    # Values are valid UIDs and numbers: nothing to escape, here and in XML.
    def value(self, value: str | int) -> bytes:
        return f'"{value}"'.encode() if isinstance(value, str) else str(value).encode()

    def attribute(self, tag: str, vr: str, values: Sequence[bytes]) -> bytes:
        value = b', "Value": [' + b", ".join(values) + b"]" if values else b""
        return f'"{tag}": {{"vr": "{vr}"'.encode() + value + b"}"

    def item(self, number: int, attributes: Sequence[bytes]) -> bytes:  # noqa: ARG002 - as of XML
        return self.document(attributes)

    def document(self, attributes: Sequence[bytes]) -> bytes:
        return b"{" + b", ".join(attributes) + b"}"


class _Xml:
    def value(self, value: str | int) -> bytes:
        return f'<Value number="1">{value}</Value>'.encode()

    def attribute(self, tag: str, vr: str, values: Sequence[bytes]) -> bytes:
        start = f'<DicomAttribute tag="{tag}" vr="{vr}" keyword="{_KEYWORDS[tag]}">'.encode()
        return start + b"".join(values) + b"</DicomAttribute>"

    def item(self, number: int, attributes: Sequence[bytes]) -> bytes:
        return f'<Item number="{number}">'.encode() + b"".join(attributes) + b"</Item>"

    def document(self, attributes: Sequence[bytes]) -> bytes:
        return _XML_START + b"".join(attributes) + b"</NativeDicomModel>"


def _wanted(accept: str, *types: str) -> float:
    """Highest quality that an Accept header gives to one of ``types``; 0 when it names none."""
    best = 0.0
    for choice in accept.lower().split(","):
        if choice.partition(";")[0].strip() in types:
            quality = _QUALITY.search(choice)
            best = max(best, float(quality[1]) if quality else 1.0)
    return best
